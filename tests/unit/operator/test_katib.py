"""Katib's Experiments as Studies: nothing is lost without a word, and what comes out is a valid Study."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hpo_operator import cli
from hpo_operator.cluster import kinds
from hpo_operator.katib import ENDS_KNOWN, PRINTED, Converted, converted, with_names
from hpo_operator.validation import InvalidStudy, read_study

from tests.unit.operator.test_examples import ROOT, shown_in

Object = dict[str, Any]

EXPERIMENT, STUDY = (yaml.safe_load(each) for each in shown_in("docs/katib.md"))


def with_(changes: Object, **fields: Any) -> Object:
    """The Experiment of the documentation with other fields, by their paths with dots."""
    found = copy.deepcopy(EXPERIMENT)
    for path, value in {**changes, **fields}.items():
        at, *rest = found["spec"], *path.split(".")
        for part in rest[:-1]:
            at = at[part]
        at[rest[-1]] = value
    return found


def spec_of(changes: Object, **fields: Any) -> Object:
    found = converted(with_(changes, **fields))
    assert found.faults == []
    read_study(found.study)
    return dict(found.study["spec"])


def said(found: Converted) -> str:
    return "\n".join(map(str, [*found.notes, *found.faults]))


def parameter(kind: str, **space: Any) -> Object:
    return {"name": "lr", "parameterType": kind, "feasibleSpace": space}


def job(*command: str, **fields: Any) -> Object:
    container = {"name": "main", "image": "none", "command": list(command), **fields}
    pod = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": pod}}


def test_the_Experiment_of_the_documentation_becomes_its_Study() -> None:
    found = converted(EXPERIMENT)
    assert found.faults == []
    assert found.study["metadata"] == STUDY["metadata"]
    by_hand, made = STUDY["spec"], found.study["spec"]
    for field in ("objectives", "parameters", "algorithm", "schedule", "parallelism", "limits"):
        assert made[field] == by_hand[field], field
    (container,) = made["template"]["job"]["spec"]["template"]["spec"]["containers"]
    (ours,) = by_hand["template"]["job"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ours["args"], "as it was, but for the placeholders"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (parameter("double", min="0.00", max="1E0"), {"float": {"min": 0.0, "max": 1.0}}),
        (parameter("double", min="0.1", max="0.9", step="0.1"), {"float": {"min": 0.1, "max": 0.9, "step": 0.1}}),
        (
            parameter("double", min="1e-4", max="0.1", distribution="logUniform"),
            {"float": {"min": 1e-4, "max": 0.1, "scale": "Log"}},
        ),
        (parameter("int", min="1", max="64", distribution="uniform"), {"int": {"min": 1, "max": 64}}),
        (parameter("int", min="10", max="50", step="10"), {"int": {"min": 10, "max": 50, "step": 10}}),
        (parameter("discrete", list=["64", "0.5", "128"]), {"ordinal": {"values": [0.5, 64, 128]}}),
        (parameter("categorical", list=["sgd", "true", "1"]), {"categorical": {"choices": ["sgd", "true", "1"]}}),
        (parameter("categorical", list=[1, 2]), {"categorical": {"choices": ["1", "2"]}}),
    ],
)
def test_numbers_that_were_texts_are_numbers(asked: Object, expected: Object) -> None:
    template = {"trialSpec": job("train", "${trialParameters.lr}"), "trialParameters": [{"name": "lr", "reference": "lr"}]}
    spec = spec_of({"parameters": [asked], "trialTemplate": template})
    assert spec["parameters"] == [{"name": "lr", **expected}]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (parameter("double", min="low", max="1"), "spec.parameters[0].feasibleSpace.min: 'low': must be a number."),
        (parameter("double", max="1"), "spec.parameters[0].feasibleSpace.min: must be a number."),
        (parameter("discrete", list=["1", "many"]), "spec.parameters[0].feasibleSpace.list[1]: 'many': must be a number."),
        (parameter("int", min="1", max="inf"), "spec.parameters[0].feasibleSpace.max: 'inf': must be a number."),
        (
            parameter("double", min="1", max="2", distribution="normal"),
            "distribution: 'normal': all between the bounds is as likely",
        ),
        (
            parameter("int", min="1", max="9", step="2", distribution="logNormal"),
            "feasibleSpace.step: '2': there are no steps on a log",
        ),
    ],
)
def test_what_a_range_cannot_be_is_said_with_its_place(asked: Object, words: str) -> None:
    assert words in said(converted(with_({"parameters": [asked, *EXPERIMENT["spec"]["parameters"][1:]]})))


@pytest.mark.parametrize(
    ("strategies", "objective"),
    [
        ([], {"aggregate": "Best"}),
        ([{"name": "Train-accuracy", "value": "latest"}], {"aggregate": "Best"}),
        ([{"name": "Validation-accuracy", "value": "max"}], {"aggregate": "Best"}),
        ([{"name": "Validation-accuracy", "value": "latest"}], {}),
    ],
)
def test_which_value_of_a_Trial_counts_is_kept(strategies: list[Object], objective: Object) -> None:
    spec = spec_of({"objective.metricStrategies": strategies})
    assert spec["objectives"] == [{"metric": "Validation-accuracy", "goal": "Maximize", "target": 0.99, **objective}]


def test_the_worst_value_of_a_Trial_cannot_count_and_that_is_said() -> None:
    worst = [{"name": "Validation-accuracy", "value": "min"}]
    found = converted(with_({"objective.metricStrategies": worst}))
    assert "spec.objective.metricStrategies: 'min': the worst of a Trial's values" in said(found)


@pytest.mark.parametrize(
    ("name", "settings", "algorithm"),
    [
        ("random", {}, {"random": {}}),
        ("sobol", {}, {"sobol": {}}),
        ("multivariate-tpe", {"n_ei_candidates": "24", "n_startup_trials": "5"}, {"tpe": {"candidates": 24, "startupTrials": 5}}),
        ("bayesianoptimization", {"base_estimator": "GP", "acq_func": "LCB", "n_initial_points": "9"},
         {"gp": {"acquisition": "UCB", "startupTrials": 9}}),
        ("bayesianoptimization", {"base_estimator": "RF"}, {"smac": {}}),
        ("cmaes", {"restart_strategy": "ipop"}, {"cmaes": {"restarts": True}}),
        ("cmaes", {"restart_strategy": "none"}, {"cmaes": {"restarts": False}}),
    ],
)  # fmt: skip
def test_an_algorithm_keeps_its_settings(name: str, settings: dict[str, str], algorithm: Object) -> None:
    pairs = [{"name": key, "value": value} for key, value in settings.items()]
    spec = spec_of({"algorithm": {"algorithmName": name, "algorithmSettings": [*pairs, {"name": "random_state", "value": "10"}]}})
    assert (spec["algorithm"], spec["seed"]) == (algorithm, 10)


def test_a_setting_without_a_counterpart_is_named() -> None:
    algorithm = {"algorithmName": "tpe", "algorithmSettings": [{"name": "prior_weight", "value": "1.0"}]}
    found = converted(with_({"algorithm": algorithm}))
    assert "spec.algorithm.algorithmSettings[0]: 'prior_weight': has no counterpart; the default of tpe is taken." in said(found)
    boosted = {"algorithmName": "bayesianoptimization", "algorithmSettings": [{"name": "base_estimator", "value": "GBRT"}]}
    found = converted(with_({"algorithm": boosted}))
    assert "spec.algorithm.algorithmSettings[0]: 'GBRT': is a random forest here." in said(found)


def test_an_algorithm_of_somebody_s_own_is_named_with_those_that_are_known() -> None:
    found = converted(with_({"algorithm": {"algorithmName": "ours"}}))
    assert "spec.algorithm.algorithmName: 'ours': is not known. Known: random, grid," in str(found.faults[0])


def test_the_resource_of_hyperband_is_the_budget_and_no_parameter() -> None:
    settings = [{"name": "resource_name", "value": "epochs"}, {"name": "eta", "value": "3"}, {"name": "r_l", "value": "27"}]
    epochs = {"name": "epochs", "parameterType": "int", "feasibleSpace": {"min": "1", "max": "27"}}
    template = {
        "trialSpec": job("train", "--epochs=${trialParameters.e}", "--lr=${trialParameters.lr}"),
        "trialParameters": [{"name": "e", "reference": "epochs"}, {"name": "lr", "reference": "lr"}],
    }
    asked = with_(
        {
            "algorithm": {"algorithmName": "hyperband", "algorithmSettings": settings},
            "parameters": [parameter("double", min="0.01", max="0.1"), epochs],
            "trialTemplate": template,
        }
    )
    del asked["spec"]["earlyStopping"]
    spec = converted(asked).study["spec"]
    assert (spec["schedule"], spec["budget"]) == ({"hyperband": {"eta": 3}}, {"min": 1, "max": 27})
    assert [each["name"] for each in spec["parameters"]] == ["lr"]
    (container,) = spec["template"]["job"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["train", "--epochs=$(HPO_BUDGET)", "--lr=$(HPO_PARAM_LR)"]


def test_what_pbt_needs_and_an_Experiment_does_not_say_is_asked_for() -> None:
    settings = [{"name": "n_population", "value": "40"}, {"name": "truncation_threshold", "value": "0.2"}]
    asked = with_({"algorithm": {"algorithmName": "pbt", "algorithmSettings": settings}})
    del asked["spec"]["earlyStopping"]
    found = converted(asked)
    assert found.study["spec"]["algorithm"] == {"pbt": {"population": 40, "truncation": 0.2}}
    assert {each.path for each in found.faults} == {"spec.algorithm.pbt"}
    assert "needs a budget" in said(found)
    assert "needs a store of checkpoints" in said(found)


METADATA_REFERENCES = {
    "${trialSpec.Name}": "$(HPO_TRIAL)",
    "${trialSpec.Namespace}": "team-a",
    "${trialSpec.Kind}": "Job",
    "${trialSpec.APIVersion}": "batch/v1",
    "${trialSpec.Labels[tier]}": "gold",
    "${trialSpec.Annotations[example.com/a]}": "b",
}


@pytest.mark.parametrize("reference", METADATA_REFERENCES)
def test_what_a_template_says_of_itself_is_filled_in(reference: str) -> None:
    workload = job("train", env=[{"name": "IT", "value": "<${trialParameters.it}>"}])
    workload["metadata"] = {"name": "x", "labels": {"tier": "gold"}, "annotations": {"example.com/a": "b"}}
    spec = spec_of({"trialTemplate": {"trialSpec": workload, "trialParameters": [{"name": "it", "reference": reference}]}})
    made = spec["template"]["job"]
    assert made["metadata"] == {"labels": {"tier": "gold"}, "annotations": {"example.com/a": "b"}}
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "IT", "value": f"<{METADATA_REFERENCES[reference]}>"}]


@pytest.mark.parametrize(
    ("workload", "reference", "words"),
    [
        (job("train", "${trialParameters.other}"), "lr",
         "containers[0].command[1]: '${trialParameters.other}': is not among trialTemplate.trialParameters"),
        (job("train", "${trialParameters.it}"), "gone", "refers to 'gone', which is no parameter"),
        (job("train", image="train:${trialParameters.it}"), "lr",
         "containers[0].image: '${trialParameters.it}': stands where Kubernetes fills in no variable"),
        (job("train", "${trialParameters.it}"), "${trialSpec.Labels[gone]}", "is not in trialTemplate.trialSpec.metadata"),
    ],
)  # fmt: skip
def test_a_placeholder_that_nothing_fills_in_is_a_fault_with_its_place(workload: Object, reference: str, words: str) -> None:
    template = {"trialSpec": workload, "trialParameters": [{"name": "it", "reference": reference}]}
    found = converted(with_({"trialTemplate": template}))
    assert any(words in str(each) for each in found.faults), said(found)


def test_the_master_of_a_training_job_reports_by_a_label_of_its_template() -> None:
    pod = {"spec": {"containers": [{"name": "pytorch", "image": "none", "args": ["${trialParameters.lr}"]}]}}
    replicas = {"Master": {"replicas": 1, "template": pod}, "Worker": {"replicas": 2, "template": pod}}
    workload = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "spec": {"pytorchReplicaSpecs": replicas}}
    asked = with_({"trialTemplate": {"trialSpec": workload, "trialParameters": [{"name": "lr", "reference": "lr"}]}})
    found = converted(asked)
    template = found.study["spec"]["template"]
    assert template["reporter"] == {"podSelector": {"role": "master"}}
    made = template["object"]["spec"]["pytorchReplicaSpecs"]
    assert made["Master"]["template"]["metadata"] == {"labels": {"role": "master"}}
    assert "metadata" not in made["Worker"]["template"]
    assert "workloadKinds: [{apiVersion: kubeflow.org/v1, kind: PyTorchJob}]" in said(found)


def test_the_step_of_a_workflow_that_has_the_primary_labels_reports() -> None:
    step = {"name": "train", "metadata": {"labels": {"primary": "yes"}}, "container": {"args": ["${trialParameters.lr}"]}}
    workload = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {"entrypoint": "train", "templates": [step]}}
    template = {
        "trialSpec": workload,
        "trialParameters": [{"name": "lr", "reference": "lr"}],
        "primaryPodLabels": {"primary": "yes"},
        "primaryContainerName": "main",
    }
    found = spec_of({"trialTemplate": template})["template"]
    assert found["reporter"] == {"podSelector": {"primary": "yes"}}
    assert found["object"]["spec"]["templates"][0]["container"]["args"] == ["$(HPO_PARAM_LR)"]


def test_of_several_containers_the_primary_one_reports() -> None:
    workload = job("train")
    workload["spec"]["template"]["spec"]["containers"].append({"name": "aside", "image": "none"})
    template = spec_of({"trialTemplate": {"trialSpec": workload, "primaryContainerName": "main"}})["template"]
    assert template["reporter"] == {"container": "main"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("accuracy=0.98, loss = 1e-3", [("accuracy", "0.98"), ("loss", "1e-3")]),
        ("{val-loss=.5}", [("val-loss", ".5")]),
        ("loss=nan", [("loss", "nan")]),
        ("epoch 3 of 5", []),
    ],
)
def test_what_Katib_finds_in_a_line_is_found(line: str, found: list[tuple[str, str]]) -> None:
    assert [(each["metric"], each["value"]) for each in re.finditer(PRINTED, line)] == found


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (r"([\w|-]+)\s*=\s*((-?\d+)(\.\d+)?)", r"(?P<metric>[\w|-]+)\s*=\s*(?P<value>(-?\d+)(\.\d+)?)"),
        (r"\((\w+)\): (?:about )?[(]?(\S+)", r"\((?P<metric>\w+)\): (?:about )?[(]?(?P<value>\S+)"),
        (r"(\w+)", None),
        (r"(\w+)=([", None),
    ],
)
def test_the_groups_of_a_filter_get_names(given: str, named: str | None) -> None:
    assert with_names(given) == named


def test_a_filter_is_read_from_the_log_and_other_collectors_are_named() -> None:
    source = {"filter": {"metricsFormat": [r"(\w+ \w+) : (\S+)"]}}
    assert spec_of({"metricsCollectorSpec": {"source": source}})["metrics"] == {
        "logs": {"pattern": r"(?P<metric>\w+ \w+) : (?P<value>\S+)"}
    }
    for kind in ("File", "TensorFlowEvent", "Push", "PrometheusMetric", "Custom", "None"):
        found = converted(with_({"metricsCollectorSpec": {"collector": {"kind": kind}}}))
        assert f"spec.metricsCollectorSpec.collector.kind: '{kind}': " in said(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nasConfig": {"graphConfig": {}}}, "spec.nasConfig: a search over architectures has no counterpart"),
        ({"trialTemplate": {"configMap": {"configMapName": "templates"}}}, "kubectl get configmap templates -o yaml"),
        ({"trialTemplate": {}}, "spec.trialTemplate.trialSpec: is required"),
        ({"trialTemplate": {"trialSpec": {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun"}}}, "has no pod templates"),
        ({"objective": {"type": "lower"}}, "spec.objective.type: 'lower': must be one of minimize, maximize"),
        ({"parameters": [{"name": "x"}]}, "spec.parameters[0].parameterType: is required"),
        ({"parallelTrialCount": "many"}, "spec.parallelTrialCount: 'many'"),
    ],
)
def test_what_cannot_be_a_Study_is_refused_with_its_place(changes: Object, words: str) -> None:
    with pytest.raises(InvalidStudy) as caught:
        converted(with_(changes))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "workload",
    [
        {"apiVersion": "batch/v1", "kind": ["Job"], "metadata": "m", "spec": 3},
        {"apiVersion": "kubeflow.org/v1", "kind": "TFJob", "spec": {"tfReplicaSpecs": {"Chief": 1, "Worker": None}}},
        {
            "apiVersion": "kubeflow.org/v1",
            "kind": "TFJob",
            "spec": {"tfReplicaSpecs": {"Chief": {"template": {"metadata": []}}, "W": {}}},
        },
    ],
)
def test_a_template_that_is_none_is_read_without_an_accident(workload: Object) -> None:
    asked = with_({"trialTemplate": {"trialSpec": workload, "primaryPodLabels": {"a": "b"}, "successCondition": "x"}})
    for metadata in (None, "m", ["m"], {"name": 3}):
        assert converted({**asked, "metadata": metadata}).faults != []


def test_the_kinds_whose_end_the_operator_knows_are_those_of_which_no_condition_is_asked_for() -> None:
    assert {kind for _, kind in kinds._KNOWN} == ENDS_KNOWN


def test_a_workload_whose_pods_cannot_be_found_is_a_fault() -> None:
    workload = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "spec": {"trainer": {"command": ["train"]}}}
    found = converted(with_({"trialTemplate": {"trialSpec": workload}}))
    assert "'TrainJob': gives its pods no label" in str(found.faults[0])


# hpo convert


def test_the_command_prints_a_Study_that_runs_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printing = job("sh", "-c", "echo loss=${trialParameters.lr}; echo loss=9")
    asked = with_(
        {
            "objective": {"type": "minimize", "objectiveMetricName": "loss"},
            "parameters": [parameter("double", min="0", max="1")],
            "trialTemplate": {"trialSpec": printing, "trialParameters": [{"name": "lr", "reference": "lr"}]},
            "maxTrialCount": 3,
            "parallelTrialCount": 1,
        }
    )
    del asked["spec"]["earlyStopping"]
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(asked))
    assert cli.main(["convert", str(tmp_path / "experiment.yaml")]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (tmp_path / "study.yaml").write_text(printed.out)
    assert cli.main(["run", str(tmp_path / "study.yaml"), "--results", str(tmp_path / "results"), "-o", "json"]) == 0
    best = json.loads(capsys.readouterr().out)["best"][0]
    (loss,), (lr,) = ([each["value"] for each in best[field]] for field in ("metrics", "parameters"))
    assert float(loss) == float(lr), "the best of the two lines that each program prints"


def test_what_is_to_be_mended_is_said_beside_the_Study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(with_({"algorithm": {"algorithmName": "ours"}})))
    assert cli.main(["convert", str(path), "-o", "json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["kind"] == "Study"
    assert "error: spec.algorithm.algorithmName: 'ours': is not known." in printed.err
    assert "note: spec.earlyStopping: 'medianstop': " in printed.err


def test_what_kubectl_prints_is_read_from_standard_input() -> None:
    stored = {**EXPERIMENT, "status": {"trials": 3}}
    stored["metadata"] = {**EXPERIMENT["metadata"], "uid": "1", "generation": 1, "managedFields": [{"manager": "kubectl"}]}
    command = [sys.executable, "-m", "hpo", "convert", "-"]
    done = subprocess.run(command, input=yaml.safe_dump(stored), capture_output=True, text=True, check=True)
    assert yaml.safe_load(done.stdout) == converted(EXPERIMENT).study
    nothing = subprocess.run(command, input="kind: Study\n", capture_output=True, text=True, check=False)
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "standard input: holds 0 Experiments" in nothing.stderr


def test_a_file_holds_one_Experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", str(ROOT / "examples" / "digits-mlp" / "study.yaml")]) == 2
    assert "holds 0 Experiments of kubeflow.org; exactly one is needed" in capsys.readouterr().err
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump_all([EXPERIMENT, EXPERIMENT]))
    assert cli.main(["convert", str(path)]) == 2
    assert "holds 2 Experiments" in capsys.readouterr().err
