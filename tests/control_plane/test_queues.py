"""Studies beside the real controllers of Kueue and JobSet: admitted by quota, evicted and requeued, of several pods."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane.building import (
    BEST,
    PATIENCE,
    condition,
    end_of,
    no_workloads,
    reason,
    study,
    trials,
    wait_for_condition,
    wait_for_trials,
)
from tests.control_plane.conftest import Operators
from tests.control_plane.operator_process import USER, grant, write_settings
from tests.testbed import ControlPlane, Object, wait_until
from tests.testbed.controllers import QueuedControlPlane
from tests.testbed.fixtures import Bed
from tests.testbed.simulation import DELAY, EXIT_CODE, OPTIMUM

pytestmark = pytest.mark.control_plane

KUEUE = "kueue.x-k8s.io/v1beta1"
JOBSETS = ("jobset.x-k8s.io/v1alpha2", "JobSet")
QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
GPU = "nvidia.com/gpu"


@pytest.fixture
def control_plane(bed: Bed) -> ControlPlane:
    """A control plane in which Kueue and JobSet run."""
    return bed(QueuedControlPlane, QueuedControlPlane)


Queue = Callable[[int], str]


@pytest.fixture
def queue(studies: ControlPlane, namespace: str) -> Queue:
    """Makes a queue in the test's namespace with a quota of GPUs, or changes its quota."""
    studies.apply([{"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": "default"}}])
    for name, value in (("low", 10), ("high", 1000)):
        studies.apply([{"apiVersion": KUEUE, "kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": value}])

    def have(gpus: int) -> str:
        flavors = [{"name": "default", "resources": [{"name": GPU, "nominalQuota": gpus}]}]
        spec = {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [{"coveredResources": [GPU], "flavors": flavors}],
        }
        studies.apply([{"apiVersion": KUEUE, "kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": spec}])
        local: Object = {"apiVersion": KUEUE, "kind": "LocalQueue", "metadata": {"name": "team", "namespace": namespace}}
        studies.apply([{**local, "spec": {"clusterQueue": namespace}}])
        return "team"

    return have


def pod(says: dict[str, str], gpus: int = 1, **more: Any) -> Object:
    container = {"name": "main", "image": "none", "resources": {"limits": {GPU: gpus}} if gpus else {}}
    return {
        "metadata": {"annotations": {OPTIMUM: BEST, **says}, **more},
        "spec": {"containers": [container], "restartPolicy": "Never"},
    }


def queued(queue: str, says: dict[str, str], **labels: str) -> Object:
    """A template whose Jobs go through a queue, one GPU each."""
    return {"job": {"metadata": {"labels": {QUEUE_LABEL: queue, **labels}}, "spec": {"template": pod(says)}}}


def jobs(plane: ControlPlane, namespace: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in plane.api.objects("batch/v1", "Job", namespace)}


def only(plane: ControlPlane, of: Object) -> Object:
    """The one Trial of a Study."""
    found = trials(plane, of)
    return found[0] if found else {}


def wait_for_trial(plane: ControlPlane, of: Object, what: str, seen: Callable[[Object], object]) -> Object:
    return wait_for_trials(plane, of, what, lambda found: found and seen(found[0]))[0]


def runs(trial: Object) -> bool:
    return reason(trial, "Running") == "PodsActive"


def writes(plane: ControlPlane, resource: str, namespace: str) -> set[str]:
    """What the operator has done to objects of a resource."""
    by_it = [each for each in plane.requests() if each.user == USER and each.namespace == namespace]
    return {each.verb for each in by_it if each.is_write and each.resource == resource}


def test_Trials_are_admitted_within_the_quota_and_those_that_wait_say_so_and_hold_nothing(
    studies: ControlPlane, namespace: str, queue: Queue, operators: Operators
) -> None:
    wanted = study("queued", namespace, trials=3, parallelism=3, template=queued(queue(0), {DELAY: "3s"}))
    operators(namespace).start()
    studies.apply([wanted])
    waiting = wait_for_trials(
        studies, wanted, "that all wait", lambda all_: [reason(each, "Running") for each in all_] == ["QuotaPending"] * 3
    )
    assert all("queue has not admitted it" in condition(each, "Running")["message"] for each in waiting)
    found = wait_for_condition(studies, wanted, "Progressing", "TrialsPending")
    assert (found["status"]["trials"]["active"], found["status"]["trials"].get("running", 0)) == (3, 0)
    assert studies.api.objects("v1", "Pod", namespace) == []
    assert [each["spec"]["suspend"] for each in jobs(studies, namespace).values()] == [True] * 3

    queue(1)
    ended = end_of(studies, wanted)
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 3)
    times = sorted((each["status"]["startTime"], each["status"]["completionTime"]) for each in trials(studies, wanted))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(times)), "one at a time"
    held = [each["status"]["gpuSeconds"] for each in trials(studies, wanted)]
    assert 2 <= min(held) <= max(held) < 20, "none of them counts the time for which it waited"
    assert {each["status"]["attempts"] for each in trials(studies, wanted)} == {1}
    assert writes(studies, "jobs", namespace) <= {"create", "delete"}, "only Kueue suspends and admits"


def test_a_Trial_that_is_preempted_in_its_queue_goes_on_under_its_name_and_has_not_failed(
    studies: ControlPlane, namespace: str, queue: Queue, operators: Operators
) -> None:
    wanted = study("preempted", namespace, trials=1, template=queued(queue(1), {DELAY: "8s"}, **{PRIORITY_LABEL: "low"}))
    operators(namespace).start()
    studies.apply([wanted])
    before = wait_for_trial(studies, wanted, "it runs", runs)
    urgent: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "urgent", "namespace": namespace, "labels": {QUEUE_LABEL: "team", PRIORITY_LABEL: "high"}},
        "spec": {"template": pod({DELAY: "3s"})},
    }
    studies.api.create(urgent)
    evicted = wait_for_trial(studies, wanted, "its eviction", lambda each: each["status"].get("evictions"))
    assert (reason(evicted, "Running"), reason(evicted)) == ("QuotaPending", "Pending")
    assert evicted["status"]["attempts"] == 2
    ended = end_of(studies, wanted)
    (trial,) = trials(studies, ended)
    assert (reason(ended), reason(trial), ended["status"]["trials"]["failed"]) == ("MaxTrialsReached", "Completed", 0)
    assert trial["status"]["workload"] == before["status"]["workload"], "it is the same Job"
    assert (trial["status"]["attempts"], trial["status"]["evictions"]) == (2, 1)
    assert trial["status"]["gpuSeconds"] > evicted["status"]["gpuSeconds"] > 0
    assert writes(studies, "jobs", namespace) <= {"create", "delete"}


def test_a_Trial_whose_workload_is_deactivated_waits_until_it_is_active_again_also_over_a_restart_of_the_operator(
    studies: ControlPlane, namespace: str, queue: Queue, operators: Operators
) -> None:
    wanted = study("held", namespace, trials=1, template=queued(queue(1), {DELAY: "8s"}))
    operator = operators(namespace)
    operator.start()
    studies.apply([wanted])
    wait_for_trial(studies, wanted, "it runs", runs)
    (workload,) = studies.api.objects(KUEUE, "Workload", namespace)
    name = workload["metadata"]["name"]
    studies.api.patch(KUEUE, "Workload", name, {"spec": {"active": False}}, namespace)
    evicted = wait_for_trial(studies, wanted, "its eviction", lambda each: each["status"].get("evictions"))
    operator.kill()
    operator.start()
    studies.api.patch(KUEUE, "Workload", name, {"spec": {"active": True}}, namespace)
    (trial,) = trials(studies, end_of(studies, wanted))
    assert (reason(trial), trial["status"]["attempts"], trial["status"]["evictions"]) == ("Completed", 2, 1)
    assert evicted["status"]["gpuSeconds"] < trial["status"]["gpuSeconds"] <= evicted["status"]["gpuSeconds"] + 12


def test_the_queue_goes_by_the_priority_of_a_Trials_rung(
    studies: ControlPlane, namespace: str, queue: Queue, operators: Operators
) -> None:
    for name, value in (("tried", 100), ("promoted", 1000)):
        made: Object = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value}
        studies.apply([made])
    template = {**queued(queue(2), {DELAY: "100ms"}), "priorityClasses": ["tried", "promoted"]}
    rungs = {"schedule": {"asha": {"eta": 2}}, "budget": {"min": 1, "max": 4, "unit": "epochs"}}
    wanted = study("ranked", namespace, trials=8, template=template, **rungs)
    operators(namespace).start()
    studies.apply([wanted])
    assert end_of(studies, wanted)["status"]["trials"]["completed"] == 8
    given = {each["metadata"]["name"]: each["spec"]["priority"] for each in studies.api.objects(KUEUE, "Workload", namespace)}
    ranks = {(each["spec"]["slot"]["rung"], _priority(given, each)) for each in trials(studies, wanted)}
    assert {(0, 100), (1, 1000)} <= ranks <= {(0, 100), (1, 1000), (2, 1000)}


def _priority(given: dict[str, int], trial: Object) -> int:
    """Of the Trial's Kueue Workload, whose name begins with that of its Job."""
    name = f"job-{trial['metadata']['name']}-"
    return next(value for workload, value in given.items() if workload.startswith(name))


def test_Trials_that_wait_in_a_queue_are_suspended_and_resumed_with_their_Study(
    studies: ControlPlane, namespace: str, queue: Queue, operators: Operators
) -> None:
    wanted = study("paused", namespace, trials=2, template=queued(queue(0), {DELAY: "200ms"}))
    operators(namespace).start()
    studies.apply([wanted])
    wait_until("two Jobs", lambda: len(jobs(studies, namespace)) == 2, seconds=PATIENCE)
    studies.api.patch("hpo.dev/v1alpha1", "Study", "paused", {"spec": {"suspend": True}}, namespace)
    no_workloads(studies, namespace)
    studies.api.patch("hpo.dev/v1alpha1", "Study", "paused", {"spec": {"suspend": False}}, namespace)
    queue(2)
    assert end_of(studies, wanted)["status"]["trials"]["completed"] == 2


# JobSet


def sets(worker: dict[str, str], queue: str = "", gpus: int = 0) -> Object:
    """A template of two pods in two Jobs, of which the leader reports."""

    def one(name: str, says: dict[str, str]) -> Object:
        spec = {"backoffLimit": 0, "template": pod(says, gpus, labels={"role": name})}
        return {"name": name, "replicas": 1, "template": {"spec": spec}}

    leader = {DELAY: "6s" if queue else "1s"}
    found: Object = {
        "apiVersion": JOBSETS[0],
        "kind": JOBSETS[1],
        "spec": {"replicatedJobs": [one("leader", leader), one("worker", worker)]},
    }
    if queue:
        found["metadata"] = {"labels": {QUEUE_LABEL: queue}}
    return {"object": found, "reporter": {"podSelector": {"role": "leader"}}}


@pytest.fixture
def allowing(studies: ControlPlane, namespace: str, operators: Operators, account: Any, tmp_path: Path) -> None:
    """An operator that is allowed JobSets."""
    grant(studies, "jobset.x-k8s.io", "jobsets")
    kinds = [dict(zip(("apiVersion", "kind"), JOBSETS, strict=True))]
    operators(namespace, "--config", str(write_settings(tmp_path / "settings.yaml", workloadKinds=kinds))).start()


@pytest.mark.usefixtures("allowing")
def test_a_Trial_of_two_pods_runs_to_its_end_and_one_of_them_reports(studies: ControlPlane, namespace: str) -> None:
    wanted = study("pairs", namespace, trials=2, template=sets({DELAY: "500ms", OPTIMUM: "{}"}))
    studies.apply([wanted])
    pods = wait_until(
        "all pods", lambda: len(found := studies.api.objects("v1", "Pod", namespace)) == 4 and found, seconds=PATIENCE
    )
    assert {each["metadata"]["labels"]["role"] for each in pods} == {"leader", "worker"}
    ended = end_of(studies, wanted)
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 2)
    for each in trials(studies, wanted):
        assert each["status"]["workload"]["kind"] == "JobSet"
        assert each["status"]["observation"]["source"] == "TerminationMessage"


@pytest.mark.usefixtures("allowing")
def test_a_Trial_of_which_one_pod_fails_has_failed_by_that_pod(studies: ControlPlane, namespace: str) -> None:
    wanted = study("broken", namespace, trials=1, template=sets({DELAY: "500ms", EXIT_CODE: "3"}))
    studies.apply([wanted])
    ended = end_of(studies, wanted)
    (trial,) = trials(studies, ended)
    assert (reason(trial), ended["status"]["trials"]["failed"]) == ("ProgramFailed", 1)
    assert "exit code 3" in condition(trial, "Succeeded")["message"]


@pytest.mark.usefixtures("allowing")
def test_a_Trial_of_two_pods_is_admitted_as_a_whole_and_evicted_as_a_whole(
    studies: ControlPlane, namespace: str, queue: Queue
) -> None:
    wanted = study("whole", namespace, trials=1, template=sets({DELAY: "6s"}, queue(1), gpus=1))
    studies.apply([wanted])
    wait_until("its JobSet", lambda: studies.api.find(*JOBSETS, "whole-0", namespace), seconds=PATIENCE)
    waiting = wait_until("its workload", lambda: studies.api.objects(KUEUE, "Workload", namespace), seconds=PATIENCE)
    wait_until(
        "that it does not fit",
        lambda: condition(studies.api.get(KUEUE, "Workload", waiting[0]["metadata"]["name"], namespace), "QuotaReserved"),
    )
    assert studies.api.objects("v1", "Pod", namespace) == [], "half of it would fit"
    queue(2)
    wait_for_trial(studies, wanted, "it runs", runs)
    name = waiting[0]["metadata"]["name"]
    studies.api.patch(KUEUE, "Workload", name, {"spec": {"active": False}}, namespace)
    evicted = wait_for_trial(studies, wanted, "its eviction", lambda each: each["status"].get("evictions"))
    wait_until("the end of both pods", lambda: not studies.api.objects("v1", "Pod", namespace), seconds=PATIENCE)
    studies.api.patch(KUEUE, "Workload", name, {"spec": {"active": True}}, namespace)
    (trial,) = trials(studies, end_of(studies, wanted))
    assert (reason(trial), trial["status"]["attempts"], trial["status"]["evictions"]) == ("Completed", 2, 1)
    assert trial["status"]["gpuSeconds"] > evicted["status"]["gpuSeconds"] > 0
