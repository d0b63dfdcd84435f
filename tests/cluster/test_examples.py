"""The examples on a cluster, as they stand: real training in restricted pods, with the real SDK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hpo_algorithms.samplers.population import unpacked

from tests.cluster.building import (
    NO_REQUEST,
    PATIENCE,
    RESTRICTED_CONTAINER,
    RESTRICTED_POD,
    container_of,
    example,
    observed,
    pods,
    running,
    study,
)
from tests.cluster.conftest import Begin
from tests.cluster.images import TRIAL
from tests.control_plane.building import VERSION, condition, end_of, has_ended, reason, trials, wait_for_condition
from tests.testbed import Cluster, Object, wait_until

pytestmark = pytest.mark.cluster


class Example(NamedTuple):
    """An example, the metric that it is about, whether more of it is better, and in what else than Trials it is smaller."""

    name: str
    metric: str
    best: Any
    smaller: Mapping[str, Any] = MappingProxyType({})


EXAMPLES = [
    Example("digits-svm", "accuracy", max),
    # So few particles move within so few Trials; by this seed none comes to a bound and rests there, whichever is the better one.
    Example("pso-svm", "accuracy", max, {"algorithm": {"pso": {"swarm": 2}}, "parallelism": 2, "seed": 3}),
    Example("digits-mlp", "val_loss", min),
    Example("command-line-program", "loss", min),
]
TRIALS = 4

# Two in each generation, one after the other, for a place that becomes free before is filled with more of the same.
GENETIC = {
    "parameters": [{"name": name, "float": {"min": 0, "max": 1}} for name in ("x", "y", "z", "w")],
    "algorithm": {"ga": {"mode": "generational", "population": 2, "mutation": 0}},
    "limits": {"maxTrials": 6},
}
DISTANCE = "import hpo; hpo.report(step=1, loss=sum(each * each for each in hpo.parameters().values()))"

GPUS = "digits-mlp-gpus"
EPOCHS = 120
COLLEAGUE = "colleague"


@pytest.fixture(scope="module")
def begun(cluster: Cluster, namespace: str, begin: Begin) -> dict[str, Object]:
    """All examples, few Trials of each; a genetic algorithm's generations; and Trials with GPUs, which somebody else holds yet."""
    found = {
        each.name: begin(example(cluster, each.name, namespace, **{"limits": {"maxTrials": TRIALS}, **each.smaller}))
        for each in EXAMPLES
    }
    found["genetic"] = begin(study("genetic", namespace, DISTANCE, **GENETIC))
    cluster.api.create(a_pod_with_gpus(COLLEAGUE, namespace, cluster.gpus))
    found[GPUS] = begin(on_gpus(cluster, namespace))
    return found


def a_pod_with_gpus(name: str, namespace: str, gpus: int) -> Object:
    container = {
        "name": "main",
        "image": TRIAL,
        "command": ["sleep", "infinity"],
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
        "securityContext": RESTRICTED_CONTAINER,
    }
    spec = {"restartPolicy": "Never", "securityContext": RESTRICTED_POD, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def on_gpus(cluster: Cluster, namespace: str) -> Object:
    """The example's program with a GPU for each Trial, all epochs at once, and so slowly that each can be measured many times."""
    study = example(
        cluster,
        "digits-mlp",
        namespace,
        schedule=None,
        budget={"max": EPOCHS, "min": None},
        parallelism=3,
        limits={"maxTrials": 3},
        metrics={"intervalSeconds": 1},
    )
    study["metadata"]["name"] = GPUS
    study["spec"]["parameters"] = [
        {"name": "learning_rate", "float": {"min": 1e-3, "max": 1e-2, "scale": "Log"}},
        {"name": "alpha", "float": {"min": 1e-6, "max": 1e-1, "scale": "Log"}},
        {"name": "hidden", "ordinal": {"values": [256]}},
        {"name": "batch", "ordinal": {"values": [16]}},
    ]
    limits = {"cpu": "300m", "memory": "1Gi", "nvidia.com/gpu": "1"}
    container_of(study)["resources"] = {**NO_REQUEST, "limits": limits}
    return study


@pytest.mark.parametrize("each", EXAMPLES, ids=lambda each: each.name)
def test_an_example_runs_to_its_end_in_restricted_pods(cluster: Cluster, begun: dict[str, Object], each: Example) -> None:
    study = end_of(cluster, begun[each.name], PATIENCE)

    assert reason(study) == "MaxTrialsReached"
    assert study["status"]["trials"]["completed"] == TRIALS
    ended = trials(cluster, study)
    assert {reason(trial) for trial in ended} == {"Completed"}
    assert {observed(trial)["source"] for trial in ended} == {"TerminationMessage"}
    best = each.best(float(observed(trial)["metrics"][each.metric]) for trial in ended)
    assert best == float(study["status"]["best"][0]["metrics"][0]["value"])
    name, namespace = study["metadata"]["name"], study["metadata"]["namespace"]
    shown = cluster.kubectl("get", "studies", name, "--namespace", namespace, "--no-headers").split()
    assert shown[:4] == [name, "MaxTrialsReached", "Valid", f"{TRIALS}/{TRIALS}"]
    assert str(best) in shown


def test_particles_move_from_where_their_trials_say_that_they_are(cluster: Cluster, begun: dict[str, Object]) -> None:
    """Two particles in two generations: a place that is followed by another, which lies its velocity further."""
    study = end_of(cluster, begun["pso-svm"], PATIENCE)
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for trial in trials(cluster, study):
        _, particle, generation, packed = trial["spec"]["memo"].split(" ")
        place, _, velocity, _ = unpacked(packed)  # of C; the kernel is a name, which has none
        found[int(particle), int(generation)] = (place, velocity)
    assert found.keys() == {(0, 0), (1, 0), (0, 1), (1, 1)}
    for particle in range(2):
        before, (after, velocity) = found[particle, 0][0], found[particle, 1]
        assert velocity != 0.0
        assert after == pytest.approx(before + velocity, abs=1e-6)


def test_children_have_their_parents_genes_and_their_trials_say_of_which_generation_they_are(
    cluster: Cluster, begun: dict[str, Object]
) -> None:
    study = end_of(cluster, begun["genetic"], PATIENCE)
    assert (reason(study), study["status"]["trials"]["completed"]) == ("MaxTrialsReached", 6)
    found = trials(cluster, study)
    assert [trial["spec"]["memo"] for trial in found] == [f"generation {each // 2}" for each in range(6)]
    genes = [{(each["name"], each["value"]) for each in trial["spec"]["parameters"]} for trial in found]
    for number in range(2, 6):
        forefathers = set().union(*genes[: number - number % 2])
        assert len(genes[number] - forefathers) <= 1, "a child that is like a parent is changed in one place"


@pytest.fixture(scope="module")
def waited(cluster: Cluster, namespace: str, begun: dict[str, Object]) -> list[Object]:
    """The Study and its Trials as they were while no GPU was free. From then on all of them are."""
    study = wait_for_condition(cluster, begun[GPUS], "Progressing", "TrialsPending", seconds=PATIENCE)
    found = [study, *trials(cluster, study)]
    cluster.api.delete("v1", "Pod", COLLEAGUE, namespace, gracePeriodSeconds=0)
    return found


def test_trials_wait_for_gpus_that_somebody_else_holds_and_say_so(waited: list[Object]) -> None:
    study, *found = waited
    of_trials = [condition(trial, "Running") for trial in found]

    assert study["status"]["trials"]["running"] == 0
    assert [(each["status"], each["reason"]) for each in of_trials] == [("False", "Unschedulable")] * 3
    assert all("Insufficient nvidia.com/gpu" in each["message"] for each in of_trials)
    assert re.search(r"Unschedulable\. .*Insufficient nvidia\.com/gpu", condition(study, "Progressing")["message"])


def test_never_more_trials_run_than_there_are_gpus(
    cluster: Cluster, namespace: str, begun: dict[str, Object], waited: list[Object]
) -> None:
    most = 0

    def ended() -> Object | None:
        nonlocal most
        most = max(most, len(running(pods(cluster, begun[GPUS]))))
        seen = cluster.api.get(VERSION, "Study", GPUS, namespace)
        return seen if has_ended(seen) else None

    study = wait_until(f"the end of {GPUS}", ended, seconds=PATIENCE, every=0.2)

    assert most == cluster.gpus == 2
    assert study["status"]["trials"]["completed"] == 3
    assert study["status"]["gpuSeconds"] > 0


def test_learning_curves_come_from_prometheus_and_results_from_the_program(
    cluster: Cluster, begun: dict[str, Object], waited: list[Object]
) -> None:
    study = end_of(cluster, begun[GPUS], PATIENCE)

    assert (condition(study, "MetricsAvailable")["status"], reason(study, "MetricsAvailable")) == ("True", "SourceAnswers")
    for trial in trials(cluster, study):
        seen = observed(trial)
        steps = [each["step"] for each in seen["curve"]]
        assert len(steps) >= 3
        assert steps == sorted({*steps})
        assert steps[-1] <= EPOCHS
        assert len({float(each["value"]) for each in seen["curve"]}) > 1
        assert (seen["source"], seen["step"]) == ("TerminationMessage", EPOCHS)
