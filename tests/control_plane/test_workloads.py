"""What the operator and the controllers of workloads do together: the Job controller, queues that suspend, and other kinds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest

from tests.control_plane.building import (
    BEST,
    DEFINITION,
    PATIENCE,
    VERSION,
    define,
    has_ended,
    no_workloads,
    number,
    reason,
    wait_for_condition,
)
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.crowd import JOB, Crowd, message_of, metrics_of, runs, status_of
from tests.control_plane.operator_process import grant, write_settings
from tests.testbed import ControlPlane, Object, wait_until
from tests.testbed.fixtures import Bed
from tests.testbed.simulation import DELAY, EXIT_CODE, MESSAGE, NEVER, OPTIMUM, SimulatedNode, of_trial

pytestmark = pytest.mark.control_plane

INDEX = "batch.kubernetes.io/job-completion-index"
JOBSETS = ("jobset.x-k8s.io/v1alpha2", "JobSet")
TRAININGS = ("example.com/v1", "Training")
FOR_EVER = {DELAY: NEVER}
SPOT = {"pool": "spot"}


def pod(says: dict[str, str] | None = None, **spec: Any) -> Object:
    """A pod template that says what its simulated pods do."""
    containers = [{"name": "main", "image": "none"}]
    return {
        "metadata": {"annotations": {DELAY: "200ms", OPTIMUM: BEST, **(says or {})}},
        "spec": {"containers": containers, **spec},
    }


def job(says: dict[str, str] | None = None, **spec: Any) -> Object:
    """A template whose Job has fields of its own."""
    return {"job": {"spec": {"template": pod(says), **spec}}}


def jobset(says: dict[str, str] | None = None) -> Object:
    """A template whose workload is a JobSet of one Job."""
    jobs = [
        {"name": "lead", "replicas": 1, "template": {"spec": {"backoffLimit": 0, "template": pod(says, restartPolicy="Never")}}}
    ]
    return {"object": {"apiVersion": JOBSETS[0], "kind": JOBSETS[1], "spec": {"replicatedJobs": jobs}}}


class Scene(NamedTuple):
    """What is there before the first test looks, since it takes half a minute to be said, or ten seconds to be tried again."""

    crowd: Crowd
    suspended: Object
    retried: Object
    evicted: Object
    bereft: Object


@pytest.fixture(scope="module")
def scene(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("operator")
    plane = bed(ControlPlane, ControlPlane)
    allow_jobsets(plane)
    grant(plane, "example.com", "trainings")
    kinds = [dict(zip(("apiVersion", "kind"), each, strict=True)) for each in (JOBSETS, TRAININGS)]
    kinds[1]["failed"] = [{"path": "status.phase", "in": ["Broken"]}]
    settings = write_settings(folder / "settings.yaml", workloadKinds=kinds)
    with Crowd(plane, "workloads", folder, "--config", str(settings)) as crowd:
        suspended = crowd.apply("suspended", trials=1, parallelism=1, template=job(suspend=True))
        retried = crowd.apply("retried", trials=1, parallelism=1, template=job(FOR_EVER, backoffLimit=2))
        evicted = crowd.apply("evicted", trials=1, parallelism=1, template=job(FOR_EVER))
        play_the_kubelet(crowd, retried, 0, exit_code=1)
        crowd.wait_for_running(evicted, 0)
        evict(crowd, evicted, 0)
        plane.api.create(SimulatedNode("spot-1", labels=SPOT).manifest())
        bereft = crowd.apply(
            "bereft", trials=1, parallelism=1, template={"job": {"spec": {"template": pod(FOR_EVER, nodeSelector=SPOT)}}}
        )
        crowd.wait_for_running(bereft, 0)
        plane.api.delete("v1", "Node", "spot-1", namespace="")  # as a cloud takes it away
        plane.api.create(SimulatedNode("spot-2", labels=SPOT).manifest())
        yield Scene(crowd, suspended, retried, evicted, bereft)
        plane.api.delete("v1", "Node", "spot-2", namespace="")


@pytest.fixture
def crowd(scene: Scene) -> Iterator[Crowd]:
    with scene.crowd.watched():
        yield scene.crowd


def allow_jobsets(plane: ControlPlane) -> None:
    """Defines JobSets, which nothing runs, and gives the operator the right to make them, as whoever allows a kind must."""
    define(plane, "jobsets.jobset.x-k8s.io")
    grant(plane, "jobset.x-k8s.io", "jobsets")


def report(loss: float) -> str:
    """What a program that ends well says last."""
    return f'{{"hpo":1,"step":1,"metrics":{{"loss":["{loss}","{loss}","{loss}"]}}}}'


def running(crowd: Crowd, of: Object, trial: int, **labels: str) -> Object:
    """Waits for a pod of a Trial that runs and has some labels."""

    def fits(each: Object) -> bool:
        return (
            runs(each)
            and {key.replace("_", "-"): value for key, value in labels.items()}.items() <= each["metadata"]["labels"].items()
        )

    found = crowd.wait_for_pods(of, trial, "a pod that runs", lambda all_: any(map(fits, all_)))
    return next(filter(fits, found))


def play_the_kubelet(
    crowd: Crowd, of: Object, trial: int, *, exit_code: int = 0, says: str = "", which: Object | None = None
) -> Object:
    """Ends a pod that would run for ever, as its kubelet would when its program ends; gives it as it then stands."""
    found = which or running(crowd, of, trial)
    metadata, now = found["metadata"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed", "finishedAt": now, "message": says}
    statuses = [
        {**each, "ready": False, "state": {"terminated": {**ended, "startedAt": each["state"]["running"]["startedAt"]}}}
        for each in found["status"]["containerStatuses"]
    ]
    status = {"phase": "Failed" if exit_code else "Succeeded", "containerStatuses": statuses}
    return crowd.api.patch("v1", "Pod", metadata["name"], {"status": status}, metadata["namespace"], "status")


def evict(crowd: Crowd, of: Object, trial: int) -> None:
    """Evicts the pod of a Trial; the kubelet, which is simulated and only lets go, is played to its end."""
    found = running(crowd, of, trial)
    metadata = found["metadata"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {k: metadata[k] for k in ("name", "namespace")}}
    path = crowd.api.path("v1", "Pod", metadata["name"], metadata["namespace"], "eviction")
    crowd.api.request("POST", path, body=eviction)
    play_the_kubelet(crowd, of, trial, exit_code=143, says=report(0.0), which=found)


# Jobs and their pods


def test_a_Job_that_tries_again_by_itself_is_one_Trial_with_the_result_of_the_pod_that_succeeded(
    scene: Scene, crowd: Crowd
) -> None:
    wanted = scene.retried
    crowd.wait_for_pods(wanted, 0, "another pod", lambda found: len(found) == 2)
    (trial,) = crowd.trials(wanted)
    assert not has_ended(trial)
    play_the_kubelet(crowd, wanted, 0, says=report(0.25))
    ended = crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(ended), reason(trial), trial["status"]["attempts"]) == ("MaxTrialsReached", "Completed", 1)
    assert metrics_of(trial) == {"loss": "0.25"}


def test_the_infeasible_exit_code_ends_a_Job_at_once_however_often_it_would_try_again(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    with Chronicle(crowd.plane, namespace) as chronicle:
        wanted = crowd.apply("infeasible", namespace, trials=2, template=job({of_trial(EXIT_CODE, 0): "86"}, backoffLimit=6))
        ended = crowd.end_of(wanted)
        chronicle.catch_up()
    assert [reason(each) for each in crowd.trials(wanted)] == ["Infeasible", "Completed"]
    assert chronicle.created("Pod") == {0: 1, 1: 1}
    assert ended["status"]["trials"]["infeasible"] == 1


def test_the_workload_of_an_infeasible_Trial_is_kept_for_its_time_as_any_other(crowd: Crowd) -> None:
    wanted = crowd.apply("evidence", trials=3, template=job({EXIT_CODE: "86", of_trial(EXIT_CODE, 2): "3"}))
    crowd.end_of(wanted)
    crowd.end_of(crowd.apply("meanwhile", trials=2))
    assert [reason(each) for each in crowd.trials(wanted)] == ["Infeasible", "Infeasible", "ProgramFailed"]
    assert crowd.jobs(wanted) == [0, 1, 2]


def test_a_failed_Job_says_in_its_Trial_what_its_program_said_last(crowd: Crowd) -> None:
    words = "RuntimeError: CUDA error"
    wanted = crowd.apply("crash", parallelism=1, template=job({EXIT_CODE: "1", MESSAGE: words}), limits={"maxFailedTrials": 0})
    crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert message_of(trial, "Succeeded") == f"The program ended with exit code 1; its last words: {words}."


@pytest.mark.parametrize(("selector", "loss"), [({}, "0.0"), ({INDEX: "1"}, "1.0")], ids=["the first", "the one selected"])
def test_of_a_Job_of_several_pods_one_reports(selector: dict[str, str], loss: str, crowd: Crowd) -> None:
    template = job(FOR_EVER, parallelism=2, completions=2, completionMode="Indexed")
    reporter = {"reporter": {"podSelector": selector}} if selector else {}
    wanted = crowd.apply("several", trials=1, parallelism=1, template={**template, **reporter})
    for index in ("1", "0"):
        found = running_index(crowd, wanted, index)
        play_the_kubelet(crowd, wanted, 0, says=report(float(index)), which=found)
    crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(trial), metrics_of(trial)) == ("Completed", {"loss": loss})


def running_index(crowd: Crowd, of: Object, index: str) -> Object:
    """Waits for the pod of an index to run."""

    def fits(each: Object) -> bool:
        return runs(each) and each["metadata"]["labels"].get(INDEX) == index

    return next(filter(fits, crowd.wait_for_pods(of, 0, f"pod {index}", lambda found: any(map(fits, found)))))


def test_a_container_beside_the_program_does_not_report(crowd: Crowd) -> None:
    containers = [{"name": "aside", "image": "none"}, {"name": "main", "image": "none"}]
    says = {DELAY: "200ms", "testbed.hpo.dev/reporter": "main"}
    template = {"job": {"spec": {"template": {"metadata": {"annotations": says}, "spec": {"containers": containers}}}}}
    wanted = crowd.apply("beside", trials=1, template={**template, "reporter": {"container": "main"}})
    silent = crowd.apply("silent", trials=1, template=template)
    crowd.end_of(wanted)
    crowd.end_of(silent)
    assert [reason(each) for each in crowd.trials(wanted)] == ["Completed"]
    assert [reason(each) for each in crowd.trials(silent)] == ["ObjectiveMissing"]


def test_the_GPU_seconds_of_a_Trial_are_those_that_its_pods_have_held_GPUs(crowd: Crowd) -> None:
    template = job({DELAY: "1s"}, parallelism=2, completions=2, completionMode="Indexed")
    template["job"]["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "2"}}
    wanted = crowd.apply("counted", trials=2, parallelism=1, template=template)
    ended = crowd.end_of(wanted)
    for trial in crowd.trials(wanted):
        held = [each["status"]["containerStatuses"][0]["state"]["terminated"] for each in crowd.pods(wanted, number(trial))]
        spans = [datetime.fromisoformat(each["finishedAt"]) - datetime.fromisoformat(each["startedAt"]) for each in held]
        assert len(spans) == 2
        assert trial["status"]["gpuSeconds"] == round(sum(span.total_seconds() for span in spans) * 2) > 0
    assert ended["status"]["gpuSeconds"] == sum(each["status"]["gpuSeconds"] for each in crowd.trials(wanted))


# Disruptions


def test_a_Job_replaces_a_pod_that_was_evicted_and_its_Trial_goes_on_with_it(scene: Scene, crowd: Crowd) -> None:
    wanted = scene.evicted
    crowd.wait_for_pods(wanted, 0, "another pod that runs", lambda found: any(map(runs, found)))
    play_the_kubelet(crowd, wanted, 0, says=report(0.25))
    crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(trial), metrics_of(trial)) == ("Completed", {"loss": "0.25"})
    assert trial["status"]["workload"]["uid"] == crowd.job(wanted, 0)["metadata"]["uid"]  # type: ignore[index]


def test_a_Trial_whose_node_is_lost_for_good_goes_on_on_another_and_has_not_failed(scene: Scene, crowd: Crowd) -> None:
    wanted = scene.bereft  # the pods of a node that is no more are collected after forty seconds

    def elsewhere(found: list[Object]) -> bool:
        return any(runs(each) and each["spec"]["nodeName"] == "spot-2" for each in found)

    found = crowd.wait_for_pods(wanted, 0, "a pod on the other node", elsewhere)
    (there,) = filter(runs, found)
    play_the_kubelet(crowd, wanted, 0, says=report(0.25), which=there)
    ended = crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(trial), metrics_of(trial), trial["status"]["attempts"]) == ("Completed", {"loss": "0.25"}, 2)
    assert trial["status"]["pod"] == there["metadata"]["name"]
    assert ended["status"]["trials"]["failed"] == 0


def test_a_Trial_whose_pod_somebody_deletes_starts_again_and_has_not_failed(crowd: Crowd) -> None:
    wanted = crowd.apply("deleted", trials=1, parallelism=1, template=job(FOR_EVER))
    crowd.wait_for_running(wanted, 0)
    (pod,) = crowd.pods(wanted)
    crowd.api.delete("v1", "Pod", pod["metadata"]["name"], wanted["metadata"]["namespace"])
    crowd.wait_for_trial(wanted, 0, "another attempt", lambda seen: seen.get("status", {}).get("attempts") == 2)
    found = running(crowd, wanted, 0)
    play_the_kubelet(crowd, wanted, 0, says=report(0.25), which=found)
    ended = crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(trial), metrics_of(trial), trial["status"]["attempts"]) == ("Completed", {"loss": "0.25"}, 2)
    assert ended["status"]["trials"]["failed"] == 0


def test_a_Trial_whose_Job_fails_by_a_disruption_starts_again_and_counts_it(crowd: Crowd) -> None:
    wanted = crowd.apply("preempted", trials=1, parallelism=1, template=job(FOR_EVER, podFailurePolicy={"rules": []}))
    crowd.wait_for_running(wanted, 0)
    before = crowd.trials(wanted)[0]
    evict(crowd, wanted, 0)
    crowd.wait_for_trial(wanted, 0, "another attempt", lambda seen: seen.get("status", {}).get("attempts") == 2)
    crowd.wait_for_running(wanted, 0)
    play_the_kubelet(crowd, wanted, 0, says=report(0.25))
    ended = crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(trial), metrics_of(trial), trial["status"]["attempts"]) == ("Completed", {"loss": "0.25"}, 2)
    assert trial["metadata"]["uid"] == before["metadata"]["uid"]
    assert trial["status"]["workload"]["uid"] != before["status"]["workload"]["uid"]
    assert ended["status"]["trials"]["failed"] == 0
    wait_until("an Event that says so", lambda: events(crowd, wanted, "Preempted"), seconds=PATIENCE)


def events(crowd: Crowd, of: Object, why: str) -> list[Object]:
    found = crowd.api.objects("v1", "Event", of["metadata"]["namespace"], fieldSelector="involvedObject.kind=Study")
    return [each for each in found if each["reason"] == why]


# Queues


def test_a_Job_that_its_queue_has_not_admitted_waits_and_goes_on_when_it_has(scene: Scene, crowd: Crowd) -> None:
    wanted = scene.suspended
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "TrialsPending")
    (trial,) = crowd.trials(wanted)
    assert status_of(trial, "Running") == ("False", "QuotaPending")
    assert message_of(trial, "Running") == "The Job is suspended: its queue has not admitted it yet."
    assert "QuotaPending" in message_of(found, "Progressing")
    assert crowd.pods(wanted) == []
    crowd.api.patch(*JOB, "suspended-0", {"spec": {"suspend": False}}, wanted["metadata"]["namespace"])
    ended = crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(ended), reason(trial), trial["status"]["attempts"]) == ("MaxTrialsReached", "Completed", 1)


def test_a_Job_that_its_queue_suspends_again_is_neither_lost_nor_failed(crowd: Crowd) -> None:
    wanted = crowd.apply("requeued", trials=1, parallelism=1, template=job(FOR_EVER))
    namespace = wanted["metadata"]["namespace"]
    crowd.wait_for_running(wanted, 0)
    (first,) = crowd.pods(wanted)
    crowd.api.patch(*JOB, "requeued-0", {"spec": {"suspend": True}}, namespace)
    wait_until("the end of its pods", lambda: not crowd.pods(wanted), seconds=PATIENCE)
    crowd.wait_for_trial(wanted, 0, "an eviction", lambda each: each["status"].get("evictions"))
    crowd.api.patch(*JOB, "requeued-0", {"spec": {"suspend": False}}, namespace)
    found = running(crowd, wanted, 0)
    assert found["metadata"]["uid"] != first["metadata"]["uid"]
    play_the_kubelet(crowd, wanted, 0, says=report(0.25), which=found)
    crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(trial), metrics_of(trial)) == ("Completed", {"loss": "0.25"})
    assert (trial["status"]["attempts"], trial["status"]["evictions"]) == (2, 1)


# Another kind


def run_jobset(crowd: Crowd, of: Object, trial: int, *, condition: str) -> Object:
    """Does what the controller of JobSets does: makes the Job of the template, and says how it has ended."""
    name, namespace = f"{of['metadata']['name']}-{trial}", of["metadata"]["namespace"]
    found = wait_until(f"JobSet {name}", lambda: crowd.api.find(*JOBSETS, name, namespace), seconds=PATIENCE)
    template, uid = found["spec"]["replicatedJobs"][0]["template"], found["metadata"]["uid"]
    owner = {"apiVersion": JOBSETS[0], "kind": JOBSETS[1], "name": name, "uid": uid, "controller": True, "blockOwnerDeletion": True}
    made = template["spec"]["template"]["metadata"]["labels"]
    made["jobset.sigs.k8s.io/jobset-uid"] = uid
    metadata = {
        "name": f"{name}-lead-0",
        "namespace": namespace,
        "ownerReferences": [owner],
        "labels": dict(found["metadata"]["labels"]),
    }
    crowd.api.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})

    def ended() -> bool:
        status = crowd.api.get(*JOB, metadata["name"], namespace).get("status", {})
        return any(each["type"] in ("Complete", "Failed") and each["status"] == "True" for each in status.get("conditions") or ())

    wait_until("the end of its Job", ended, seconds=PATIENCE)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = {"type": condition, "status": "True", "reason": "Played", "message": "as its Job has", "lastTransitionTime": now}
    status = {"conditions": [said], "terminalState": condition, "restarts": 0}
    return crowd.api.patch(*JOBSETS, name, {"status": status}, namespace, "status")


def test_a_kind_that_the_installer_has_allowed_runs_as_a_Job_does(crowd: Crowd) -> None:
    wanted = crowd.apply("sets", trials=3, template=jobset({of_trial(EXIT_CODE, 1): "3", of_trial(EXIT_CODE, 2): "86"}))
    namespace = wanted["metadata"]["namespace"]
    for trial, condition in ((0, "Completed"), (1, "Failed"), (2, "Failed")):
        run_jobset(crowd, wanted, trial, condition=condition)
        crowd.wait_for_trial(wanted, trial, "its end", has_ended)
    ended = crowd.end_of(wanted)
    found = crowd.trials(wanted)
    assert [reason(each) for each in found] == ["Completed", "ProgramFailed", "Infeasible"]
    assert reason(ended) == "MaxTrialsReached"
    assert {each["status"]["workload"]["kind"] for each in found} == {"JobSet"}
    assert [each["status"]["attempts"] for each in found] == [1, 1, 1]
    assert "exit code 3" in message_of(found[1], "Succeeded")
    crowd.edit(wanted, workloadTTLSeconds=0)
    wait_until("the end of its JobSets", lambda: not crowd.api.objects(*JOBSETS, namespace), seconds=PATIENCE)
    no_workloads(crowd.plane, namespace)


def test_a_workload_of_another_kind_is_stopped_as_a_Job_is(crowd: Crowd) -> None:
    wanted = crowd.apply("stopped", trials=1, template=jobset())
    namespace = wanted["metadata"]["namespace"]
    wait_until("its JobSet", lambda: crowd.api.objects(*JOBSETS, namespace), seconds=PATIENCE)
    crowd.edit(wanted, suspend=True)
    wait_until("the end of its JobSet", lambda: not crowd.api.objects(*JOBSETS, namespace), seconds=PATIENCE)
    crowd.edit(wanted, suspend=False)
    run_jobset(crowd, wanted, 0, condition="Completed")
    crowd.end_of(wanted)
    (trial,) = crowd.trials(wanted)
    assert (reason(trial), trial["status"]["attempts"]) == ("Completed", 1)
    crowd.api.delete(VERSION, "Study", "stopped", namespace)
    wait_until("the end of its JobSets", lambda: not crowd.api.objects(*JOBSETS, namespace), seconds=PATIENCE)


def test_an_invalid_workload_of_another_kind_is_refused_with_its_Study(crowd: Crowd) -> None:
    broken = jobset()
    broken["object"]["spec"]["replicatedJobs"][0]["replicas"] = "two"
    wanted = crowd.apply("broken", template=broken)
    found = wait_for_condition(crowd.plane, wanted, "Accepted", "TemplateRejected")
    assert "replicas" in message_of(found, "Accepted")


def define_trainings(plane: ControlPlane) -> None:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    names = {"plural": "trainings", "singular": "training", "kind": TRAININGS[1], "listKind": "TrainingList"}
    spec = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    api_version, kind = DEFINITION
    plane.apply([{"apiVersion": api_version, "kind": kind, "metadata": {"name": "trainings.example.com"}, "spec": spec}])
    plane.wait_until_served("trainings.example.com")


def test_a_kind_that_is_installed_later_runs_without_a_restart_of_the_operator(crowd: Crowd) -> None:
    template = {"object": {"apiVersion": TRAININGS[0], "kind": TRAININGS[1], "spec": {"template": pod()}}}
    wanted = crowd.apply("later", trials=1, template=template)
    namespace = wanted["metadata"]["namespace"]
    refused = wait_for_condition(crowd.plane, wanted, "Progressing", "CreationRefused")
    assert "serves no Training of example.com/v1. Install it" in message_of(refused, "Progressing")
    define_trainings(crowd.plane)
    crowd.edit(wanted, suspend=False)
    made = wait_until("its Training", lambda: crowd.api.find(*TRAININGS, "later-0", namespace), seconds=PATIENCE)
    crowd.api.patch(*TRAININGS, made["metadata"]["name"], {"status": {"phase": "Broken"}}, namespace)
    crowd.wait_for_trial(wanted, 0, "its end", has_ended)
