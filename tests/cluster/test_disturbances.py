"""What a cluster does to Trials: nodes are drained, memory ends, images are missing, pods are forbidden, Prometheus is away."""

from __future__ import annotations

import re

import pytest

from tests.cluster.building import PATIENCE, REPORTING, observed, pods, running, study
from tests.cluster.conftest import Begin
from tests.control_plane.building import VERSION, condition, end_of, reason, trials, wait_for_condition, wait_for_trials
from tests.testbed import Cluster, Object, prometheus, wait_until
from tests.testbed.node import NODE

pytestmark = pytest.mark.cluster

GREEDY = "memory = bytearray(512 << 20)"
HIDDEN = "registry.invalid/team/hidden:1"


@pytest.fixture(scope="module")
def begun(namespace: str, begin: Begin) -> dict[str, Object]:
    """Studies that something happens to. Of the two whose pods are evicted, one leaves it to the Job to replace them."""
    no_failure = {"maxTrials": 2, "maxFailedTrials": 0}
    unrestricted = {"securityContext": {"allowPrivilegeEscalation": True}}
    studies = [
        study("replaced", namespace, REPORTING, budget={"max": 20}),
        study("restarted", namespace, REPORTING, budget={"max": 20}, job={"podFailurePolicy": {"rules": []}}),
        study("greedy", namespace, GREEDY, container={"resources": {"limits": {"memory": "64Mi"}}}, limits=no_failure),
        study("hidden", namespace, REPORTING, container={"image": HIDDEN}, budget={"max": 1}),
        study("forbidden", namespace, REPORTING, container=unrestricted, budget={"max": 1}),
    ]
    return {each["metadata"]["name"]: begin(each) for each in studies}


@pytest.fixture(scope="module")
def drained(cluster: Cluster, begun: dict[str, Object]) -> dict[str, Object]:
    """The pods that ran on the node when it was drained of two of the Studies. As it is the only one, it takes pods again."""
    names = ("replaced", "restarted")
    first = {}
    for name in names:
        wait_until(f"a running pod of {name}", lambda name=name: running(pods(cluster, begun[name])), seconds=PATIENCE)
        (first[name],) = pods(cluster, begun[name])
    selector = f"--pod-selector=hpo.dev/study in ({','.join(names)})"
    try:
        cluster.kubectl("drain", NODE, "--ignore-daemonsets", selector, "--timeout=60s")
    finally:
        cluster.kubectl("uncordon", NODE)
    return first


@pytest.mark.parametrize("name", ["replaced", "restarted"])
def test_a_trial_whose_node_is_drained_runs_again_under_its_name_and_has_not_failed(
    cluster: Cluster, begun: dict[str, Object], drained: dict[str, Object], name: str
) -> None:
    ended = end_of(cluster, begun[name], PATIENCE)

    (trial,) = trials(cluster, ended)
    assert (trial["metadata"]["name"], reason(trial), observed(trial)["step"]) == (f"{name}-0", "Completed", 20)
    assert trial["status"]["attempts"] == 2
    assert (reason(ended), ended["status"]["trials"]["failed"]) == ("MaxTrialsReached", 0)
    uids = {pod["metadata"]["uid"] for pod in pods(cluster, ended) if pod["status"]["phase"] == "Succeeded"}
    assert len(uids) == 1
    assert drained[name]["metadata"]["uid"] not in uids


def test_a_study_that_is_suspended_ends_its_pods_and_goes_on_when_it_is_resumed(
    cluster: Cluster, namespace: str, begin: Begin
) -> None:
    suspended = begin(study("suspended", namespace, REPORTING, budget={"max": 10}))
    wait_until("a running pod", lambda: running(pods(cluster, suspended)), seconds=PATIENCE)

    cluster.api.patch(VERSION, "Study", "suspended", {"spec": {"suspend": True}}, namespace)
    wait_for_condition(cluster, suspended, "Progressing", "Suspended", seconds=PATIENCE)
    wait_until("the end of its pods", lambda: not pods(cluster, suspended), seconds=PATIENCE)
    (trial,) = trials(cluster, suspended)
    assert reason(trial, "Running") == "StudySuspended"
    cluster.api.patch(VERSION, "Study", "suspended", {"spec": {"suspend": False}}, namespace)

    ended = end_of(cluster, suspended, PATIENCE)
    (trial,) = trials(cluster, ended)
    assert (reason(trial), observed(trial)["step"], trial["status"]["attempts"]) == ("Completed", 10, 1)


def test_a_trial_that_uses_more_memory_than_its_limit_has_failed_and_says_so(cluster: Cluster, begun: dict[str, Object]) -> None:
    ended = end_of(cluster, begun["greedy"], PATIENCE)

    (trial,) = trials(cluster, ended)
    assert reason(trial) == "ProgramFailed"
    assert "OOMKilled" in condition(trial, "Succeeded")["message"]
    assert reason(ended) == "TooManyFailures"
    assert "OOMKilled" in condition(ended, "Succeeded")["message"]


def test_a_trial_whose_image_cannot_be_had_waits_and_says_why_and_its_study_can_be_deleted(
    cluster: Cluster, namespace: str, begun: dict[str, Object]
) -> None:
    waiting = wait_for_condition(cluster, begun["hidden"], "Progressing", "TrialsPending", seconds=PATIENCE)

    (trial,) = trials(cluster, waiting)
    assert (condition(trial, "Running")["status"], reason(trial, "Running")) == ("False", "ImagePull")
    assert HIDDEN in condition(trial, "Running")["message"]
    assert HIDDEN in condition(waiting, "Progressing")["message"]

    cluster.api.delete(VERSION, "Study", "hidden", namespace)

    def left() -> list[Object]:
        api, selector = cluster.api, "hpo.dev/study=hidden"
        kinds = ((VERSION, "Trial"), ("batch/v1", "Job"), ("v1", "Pod"))
        return [found for kind in kinds for found in api.objects(*kind, namespace, labelSelector=selector)]

    wait_until("the end of all that was the Study's", lambda: not left(), seconds=PATIENCE)


def test_a_trial_whose_pods_are_forbidden_says_where_the_reason_stands(cluster: Cluster, begun: dict[str, Object]) -> None:
    waiting = wait_for_condition(cluster, begun["forbidden"], "Progressing", "TrialsPending", seconds=PATIENCE)

    (trial,) = trials(cluster, waiting)
    assert reason(trial, "Running") == "Creating"
    assert re.search(r"kubectl describe job forbidden-0|PodSecurity", condition(trial, "Running")["message"])


def test_a_study_goes_on_while_prometheus_is_away_and_says_so(cluster: Cluster, namespace: str, begin: Begin) -> None:
    alone = begin(study("alone", namespace, REPORTING, budget={"max": 20}, limits={"maxTrials": 2}))
    wait_for_condition(cluster, alone, "MetricsAvailable", "SourceAnswers", seconds=PATIENCE)
    server = cluster.component("prometheus")
    server.stop()
    try:
        away = wait_for_condition(cluster, alone, "MetricsAvailable", "SourceUnreachable", seconds=PATIENCE)
        (first, *_) = wait_for_trials(cluster, alone, "the end of a Trial", lambda found: found and reason(found[0]) == "Completed")
    finally:
        server.start()
        wait_until("Prometheus", prometheus.ready, seconds=PATIENCE)

    assert condition(away, "MetricsAvailable")["status"] == "False"
    assert cluster.prometheus_url in condition(away, "MetricsAvailable")["message"]
    assert (observed(first)["source"], observed(first)["step"]) == ("TerminationMessage", 20)
    ended = end_of(cluster, alone, PATIENCE)
    assert (condition(ended, "MetricsAvailable")["status"], reason(ended, "MetricsAvailable")) == ("True", "SourceAnswers")
    last = trials(cluster, ended)[-1]
    assert observed(last)["source"] == "TerminationMessage"
    assert observed(last)["curve"]
