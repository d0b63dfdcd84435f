"""Where results and learning curves come from, and what is decided by them."""

from __future__ import annotations

import pytest

from tests.cluster.building import PATIENCE, REPORTING, observed, pods, study
from tests.cluster.conftest import Begin
from tests.cluster.images import tag
from tests.control_plane.building import condition, end_of, reason, trials
from tests.testbed import Cluster, Object, wait_until

pytestmark = pytest.mark.cluster

# The last loss of those that end is worse than that of the hopeless one, which would never end by itself.
ONE_IS_HOPELESS = """
import time, hpo

hopeless = hpo.parameters().x > 0.5
for step in range(1, hpo.budget() + 1):
    last = step == hpo.budget()
    hpo.report(step=step, loss=1.0 if hopeless else 2.0 if last else 0.1)
    time.sleep(1)
    while hopeless and step == hpo.budget() - 1:
        time.sleep(60)
"""

EXPORTING = """
import os, time
from prometheus_client import Gauge, start_http_server

val_loss, epoch = Gauge("val_loss", "of the epoch"), Gauge("epoch", "that was trained last")
start_http_server(int(os.environ["HPO_METRICS_PORT"]))
for number in range(1, 9):
    val_loss.set(1 / number)
    epoch.set(number)
    time.sleep(1)
time.sleep(10)  # to be scraped once more
"""


TOO_BIG = """
import hpo

hpo.infeasible("this batch does not fit the GPU")
"""


@pytest.fixture(scope="module")
def begun(namespace: str, begin: Begin) -> dict[str, Object]:
    """Studies whose results come from different places."""
    given = [{"parameters": [{"name": "x", "value": value}]} for value in ("0.1", "0.2", "0.3", "0.9")]
    studies = [
        study(
            "median",
            namespace,
            ONE_IS_HOPELESS,
            schedule={"median": {"startupTrials": 1}},
            budget={"max": 20},
            parallelism=3,
            limits={"maxTrials": 4},
            warmStart={"configurations": given},
        ),
        study(
            "exporting",
            namespace,
            EXPORTING,
            objectives=[{"metric": "val_loss", "goal": "Minimize"}],
            metrics={"intervalSeconds": 1, "step": "epoch"},
        ),
        study(
            "wordless",
            namespace,
            REPORTING,
            container={"env": [{"name": "HPO_TERMINATION_FILE", "value": "/tmp/where-nobody-looks"}]},
            budget={"max": 20},
        ),
        study("infeasible", namespace, TOO_BIG, limits={"maxTrials": 1, "maxFailedTrials": 0}),
        study(
            "printing",
            namespace,
            "python",
            "program.py",
            "--lr=$(HPO_PARAM_X)",
            "--epochs=3",
            container={"image": tag("command-line-program")},
            metrics={"logs": {"pattern": r"epoch (?P<step>\d+) loss (?P<loss>\S+)"}},
        ),
    ]
    return {each["metadata"]["name"]: begin(each) for each in studies}


def test_the_result_of_a_program_that_only_prints_is_found_in_its_log(cluster: Cluster, begun: dict[str, Object]) -> None:
    ended = end_of(cluster, begun["printing"], PATIENCE)

    (trial,) = trials(cluster, ended)
    (pod,) = pods(cluster, ended)
    log = cluster.kubectl("logs", "--namespace", pod["metadata"]["namespace"], pod["metadata"]["name"])
    assert (reason(trial), observed(trial)["source"], observed(trial)["step"]) == ("Completed", "Log", 3)
    assert float(observed(trial)["metrics"]["loss"]) == float(log.split()[-1])


def test_the_result_of_a_program_that_exports_its_own_metrics_is_their_last_sample(
    cluster: Cluster, begun: dict[str, Object]
) -> None:
    (trial,) = trials(cluster, end_of(cluster, begun["exporting"], PATIENCE))

    seen = observed(trial)
    assert (reason(trial), seen["source"], seen["step"]) == ("Completed", "Prometheus", 8)
    assert seen["metrics"] == {"val_loss": "0.125"}
    assert seen["curve"][-1] == {"step": 8, "value": "0.125"}


def test_a_program_without_a_last_word_has_its_last_sample_as_its_result(cluster: Cluster, begun: dict[str, Object]) -> None:
    (trial,) = trials(cluster, end_of(cluster, begun["wordless"], PATIENCE))

    seen = observed(trial)
    assert (reason(trial), seen["source"]) == ("Completed", "Prometheus")
    assert float(seen["metrics"]["loss"]) == 1 / seen["step"]
    assert seen["curve"][-1] == {"step": seen["step"], "value": seen["metrics"]["loss"]}


def test_a_program_that_says_that_its_parameters_cannot_be_run_has_not_failed(cluster: Cluster, begun: dict[str, Object]) -> None:
    ended = end_of(cluster, begun["infeasible"], PATIENCE)

    (trial,) = trials(cluster, ended)
    assert (reason(trial), condition(trial, "Succeeded")["message"]) == ("Infeasible", "this batch does not fit the GPU")
    assert (ended["status"]["trials"]["infeasible"], ended["status"]["trials"]["failed"]) == (1, 0)
    assert reason(ended) == "NoResult"


def test_a_hopeless_trial_is_stopped_by_its_live_curve_and_its_pod_is_killed(cluster: Cluster, begun: dict[str, Object]) -> None:
    ended = end_of(cluster, begun["median"], PATIENCE)

    assert reason(ended) == "MaxTrialsReached"
    *good, hopeless = trials(cluster, ended)
    assert {reason(trial) for trial in good} == {"Completed"}
    assert reason(hopeless) == "EarlyStopped"
    stop, curve = hopeless["status"]["stop"], hopeless["status"]["observation"]["curve"]
    assert (stop["rule"], stop["step"]) == ("median", curve[-1]["step"])
    name = hopeless["metadata"]["name"]
    wait_until("the end of its pod", lambda: not pods_of(cluster, hopeless), seconds=PATIENCE)
    assert cluster.api.find("batch/v1", "Job", name, ended["metadata"]["namespace"]) is None


def test_a_trial_that_was_stopped_is_never_best_even_with_the_lowest_loss(cluster: Cluster, begun: dict[str, Object]) -> None:
    ended = end_of(cluster, begun["median"], PATIENCE)

    *good, hopeless = trials(cluster, ended)
    assert [observed(trial)["metrics"]["loss"] for trial in good] == ["2.0"] * 3
    assert observed(hopeless)["metrics"]["loss"] == "1.0"
    assert hopeless["metadata"]["name"] not in [each["trialName"] for each in ended["status"]["best"]]
    assert (ended["status"]["trials"]["completed"], ended["status"]["trials"]["earlyStopped"]) == (3, 1)
    assert ended["status"]["best"][0]["metrics"] == [{"name": "loss", "value": "2.0"}]


def pods_of(cluster: Cluster, trial: Object) -> list[Object]:
    name, namespace = trial["metadata"]["name"], trial["metadata"]["namespace"]
    return cluster.api.objects("v1", "Pod", namespace, labelSelector=f"hpo.dev/trial={name}")
