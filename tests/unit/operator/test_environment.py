"""What a Trial's program finds in its environment: the contract that the SDK reads, the same in a pod and on a laptop."""

import json
import os

import pytest
from hpo import _environment as contract
from hpo_operator.environment import expanded, is_ours, parameter_variable, trial_environment
from hpo_operator.validation import problem_of

from tests.unit.operator.builders import a_study, a_trial

VARIABLES = {"A": "1", "HPO_PARAM_LR": "0.1", "a.b-c": "dotted", "EMPTY": ""}


@pytest.fixture
def study():
    return a_study().over(
        {"name": "lr", "float": {"min": 1e-5, "max": 0.1, "scale": "Log"}},
        {"name": "layers", "int": {"min": 1, "max": 6}},
        {"name": "kind", "categorical": {"choices": ["1", "no"]}},
        {"name": "drop", "float": {"min": 0, "max": 1}, "when": [{"parameter": "kind", "in": ["1"]}]},
    )


def environment(study, trial):
    made = study.build()
    return trial_environment(made, trial.build(), problem_of(made.spec, 0).space)


def test_the_sdk_reads_what_is_written_here(study, monkeypatch):
    trial = a_trial(7).with_parameters(lr="0.001", layers="3", kind="1", drop="0.5").budget(27).restoring(2)
    for name, value in environment(study.budget(1, 27).constrained("size", "LessOrEqual", 9), trial).items():
        monkeypatch.setenv(name, value)
    read = contract.Environment(os.environ)
    assert read.parameters == {"lr": 0.001, "layers": 3, "kind": "1", "drop": 0.5}
    assert (read.trial.name, read.trial.number, read.trial.study, read.trial.study_uid) == ("digits-7", 7, "digits", "study-uid")
    assert (read.budget, read.start_step, read.objectives) == (27, 3, ("loss", "size"))


def test_each_parameter_is_a_variable_too_and_inactive_ones_are_none(study):
    found = environment(study, a_trial(0).with_parameters(lr="1e-05", layers="3", kind="no"))
    assert {name: value for name, value in found.items() if name.startswith("HPO_PARAM_")} == {
        "HPO_PARAM_LR": "1e-05",
        "HPO_PARAM_LAYERS": "3",
        "HPO_PARAM_KIND": "no",
    }
    assert json.loads(found["HPO_PARAMETERS"]) == {"lr": 1e-05, "layers": 3, "kind": "no"}
    assert "HPO_BUDGET" not in found
    assert found["HPO_START_STEP"] == "0"


@pytest.mark.parametrize(
    ("name", "variable"), [("lr", "HPO_PARAM_LR"), ("Weight-Decay", "HPO_PARAM_WEIGHT_DECAY"), ("net.depth", "HPO_PARAM_NET_DEPTH")]
)
def test_a_variable_is_named_after_its_parameter_in_capitals(name, variable):
    assert parameter_variable(name) == variable


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("--lr=$(HPO_PARAM_LR)", "--lr=0.1"),
        ("$(A)$(A)", "11"),
        ("$(a.b-c)", "dotted"),
        ("[$(EMPTY)]", "[]"),
        ("$(UNKNOWN) stays", "$(UNKNOWN) stays"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("cost: 5$", "cost: 5$"),
        ("$A ${A} $(A", "$A ${A} $(A"),
        ("$()", "$()"),
        ("$($(A))", "$($(A))"),
        ("$(not\na name)", "$(not\na name)"),
    ],
)
def test_references_are_replaced_as_the_kubelet_does(text, result):
    assert expanded(text, VARIABLES) == result


def test_the_contract_s_variables_are_told_from_the_user_s_own(study):
    assert all(map(is_ours, environment(study.budget(1, 9), a_trial(0).with_parameters(lr="0.1", layers="1", kind="no").budget(3))))
    assert all(map(is_ours, ("HPO_METRICS_FILE", "HPO_METRICS_PORT", "HPO_TERMINATION_FILE", "HPO_PARAMETERS_FILE")))
    assert not any(map(is_ours, ("HPO_CACHE", "HPO", "PATH", "MY_HPO_TRIAL")))
