"""What is rendered is taken by a real API server, and what a real API server stores is read again."""

from __future__ import annotations

from typing import Any

import pytest
from hpo_operator import conditions as c
from hpo_operator.cluster.kinds import JOB, WorkloadKind
from hpo_operator.cluster.observing import observe
from hpo_operator.cluster.rendering import pod_templates, workload_manifest
from hpo_operator.resources import Study, Template
from hpo_operator.validation import problem_of
from hpo_operator.workloads import Phase, Workload

from tests.control_plane.building import FOREIGN, define
from tests.testbed import ApiError, ControlPlane, Object, wait_until
from tests.testbed.simulation import DELAY, EXIT_CODE, NEVER
from tests.unit.operator.builders import a_study, a_trial
from tests.unit.operator.cluster.objects import said
from tests.unit.operator.test_examples import WORKLOADS

pytestmark = pytest.mark.control_plane

JOBSET = WorkloadKind(api_version="jobset.x-k8s.io/v1alpha2", kind="JobSet")
TRAIN_JOB = WorkloadKind(api_version="trainer.kubeflow.org/v1alpha1", kind="TrainJob")
RAY_JOB = WorkloadKind(api_version="ray.io/v1", kind="RayJob")
NOW = "2026-11-23T12:00:00Z"

POD: Object = {
    "metadata": {"labels": {"role": "lead"}},
    "spec": {
        "restartPolicy": "Never",
        "containers": [
            {"name": "main", "image": "none", "env": [{"name": "LR", "value": "$(HPO_PARAM_X)"}], "ports": [{"containerPort": 80}]},
            {"name": "aside", "image": "none"},
        ],
    },
}
JOBS: Object = {
    "name": "lead",
    "replicas": 2,
    "template": {"spec": {"parallelism": 2, "completions": 2, "backoffLimit": 0, "template": POD}},
}
A_JOBSET: Object = {
    "apiVersion": JOBSET.api_version,
    "kind": JOBSET.kind,
    "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
    "spec": {"replicatedJobs": [JOBS]},
}


A_TRAIN_JOB: Object = {
    "apiVersion": TRAIN_JOB.api_version,
    "kind": TRAIN_JOB.kind,
    "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}},
    "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": {"image": "none", "numNodes": 2}},
}
RAY_POD: Object = {"spec": {"containers": [{"name": "ray", "image": "none"}]}}
A_RAY_JOB: Object = {
    "apiVersion": RAY_JOB.api_version,
    "kind": RAY_JOB.kind,
    "spec": {
        "entrypoint": "python train.py",
        "submitterPodTemplate": {"spec": {**RAY_POD["spec"], "restartPolicy": "Never"}},
        "rayClusterSpec": {
            "headGroupSpec": {"rayStartParams": {}, "template": RAY_POD},
            "workerGroupSpecs": [{"groupName": "w", "replicas": 2, "rayStartParams": {}, "template": RAY_POD}],
        },
    },
}


@pytest.fixture
def jobsets(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows JobSets, TrainJobs and RayJobs, though nothing runs them."""
    for name in FOREIGN:
        define(control_plane, name)
    return control_plane


def a_study_in(namespace: str, template: Object) -> Study:
    study = a_study().build()
    spec = study.spec.model_copy(update={"template": Template.model_validate(template)})
    return study.model_copy(update={"spec": spec, "metadata": study.metadata.model_copy(update={"namespace": namespace})})


def rendered(study: Study) -> Object:
    return workload_manifest(study, a_trial(3).build(), problem_of(study.spec, 0).space)


def post(plane: ControlPlane, manifest: Object, **query: str) -> Object:
    """Creates an object, refusing what the API server would otherwise drop without a word.

    One that is to stay has no owner: its Trial is not there, and garbage collection would take it away.
    """
    if "dryRun" not in query:
        kept = {field: value for field, value in manifest["metadata"].items() if field != "ownerReferences"}
        manifest = {**manifest, "metadata": kept}
    path = plane.api.path(manifest["apiVersion"], manifest["kind"], namespace=manifest["metadata"]["namespace"])
    return plane.api.request("POST", path, body=manifest, query={"fieldValidation": "Strict", **query})


def containers(workload: Object) -> list[Object]:
    """The programs that get variables; a TrainJob has one, and no pod template."""
    found = [each for pod in pod_templates(workload) for each in pod["spec"]["containers"]]
    return sorted(found, key=lambda each: str(each["env"])) or [workload["spec"]["trainer"]]  # the server sorts fields


def ports(container: Object) -> list[int]:
    return [each["containerPort"] for each in container.get("ports", [])]


TEMPLATES = {
    "a Job as in a CronJob": {"job": {"spec": {"template": POD}}},
    "a Job of several pods": {"job": {"spec": {"completionMode": "Indexed", "completions": 2, "parallelism": 2, "template": POD}}},
    "a Job as an object": {"object": {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": POD}}},
    "a Job that restarts in place": {"job": {"spec": {"template": {**POD, "spec": {**POD["spec"], "restartPolicy": "OnFailure"}}}}},
    "a Job that keeps its own ways": {"job": {"spec": {"backoffLimit": 4, "podReplacementPolicy": "Failed", "template": POD}}},
    "a JobSet": {"object": A_JOBSET},
    "a TrainJob": {"object": A_TRAIN_JOB},
    "a RayJob": {"object": A_RAY_JOB},
    **{f"the {each['object']['kind']} of the page": each for each in WORKLOADS if each["object"]["kind"] in ("JobSet", "RayJob")},
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_what_is_rendered_is_taken_whole(jobsets: ControlPlane, namespace: str, template: Object) -> None:
    manifest = rendered(a_study_in(namespace, template))
    stored = post(jobsets, manifest, dryRun="All")
    assert stored["metadata"]["labels"].items() >= manifest["metadata"]["labels"].items()
    for sent, kept in zip(containers(manifest), containers(stored), strict=True):
        assert kept["env"] == sent["env"]
        assert [each["containerPort"] for each in kept.get("ports", [])] == [
            each["containerPort"] for each in sent.get("ports", [])
        ]


def test_what_makes_no_sense_is_refused_by_the_API_server(jobsets: ControlPlane, namespace: str) -> None:
    broken = {**A_JOBSET, "spec": {"replicatedJobs": [{**JOBS, "replicas": "two"}]}}
    with pytest.raises(ApiError) as refusal:
        post(jobsets, rendered(a_study_in(namespace, {"object": broken})), dryRun="All")
    assert "replicas" in refusal.value.message


@pytest.mark.parametrize(
    ("type_", "phase", "reason"),
    [("Completed", Phase.SUCCEEDED, c.RESULT_LOST), ("Failed", Phase.FAILED, c.PROGRAM_FAILED)],
)
def test_a_JobSet_ends_by_its_conditions(jobsets: ControlPlane, namespace: str, type_: str, phase: Phase, reason: str) -> None:
    study = a_study_in(namespace, {"object": A_JOBSET})
    stored = post(jobsets, rendered(study))
    assert observe(study.spec, JOBSET, stored, []).phase is Phase.PENDING
    status: dict[str, Any] = {
        "conditions": [{"type": type_, "status": "True", "reason": "Test", "message": "so it is", "lastTransitionTime": NOW}],
        "terminalState": type_,
        "restarts": 0,
    }
    metadata = stored["metadata"]
    patched = jobsets.api.patch(
        JOBSET.api_version, JOBSET.kind, metadata["name"], {"status": status}, metadata["namespace"], "status"
    )
    found = observe(study.spec, JOBSET, patched, [], pods_listed=True)
    assert (found.phase, found.reason, found.ref and found.ref.uid) == (phase, reason, metadata["uid"])


ENDS: dict[str, tuple[WorkloadKind, Object, Object, Phase, str]] = {
    "a TrainJob is Complete": (TRAIN_JOB, A_TRAIN_JOB, {"conditions": [("Complete", "True")]}, Phase.SUCCEEDED, c.RESULT_LOST),
    "a TrainJob is Failed": (TRAIN_JOB, A_TRAIN_JOB, {"conditions": [("Failed", "True")]}, Phase.FAILED, c.PROGRAM_FAILED),
    "a TrainJob goes on": (TRAIN_JOB, A_TRAIN_JOB, {"conditions": [("Suspended", "False")]}, Phase.PENDING, c.CREATING),
    "a RayJob is Complete": (
        RAY_JOB,
        A_RAY_JOB,
        {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"},
        Phase.SUCCEEDED,
        c.RESULT_LOST,
    ),
    "a RayJob is Failed": (
        RAY_JOB,
        A_RAY_JOB,
        {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "so it is"},
        Phase.FAILED,
        c.PROGRAM_FAILED,
    ),
    "a RayJob ran out of time": (
        RAY_JOB,
        A_RAY_JOB,
        {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"},
        Phase.FAILED,
        c.TIMED_OUT,
    ),
    "a RayJob is about to be tried again": (
        RAY_JOB,
        A_RAY_JOB,
        {"jobStatus": "FAILED", "jobDeploymentStatus": "Retrying"},
        Phase.PENDING,
        c.CREATING,
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_kind_is_read_from_a_status_that_its_own_definition_takes(
    jobsets: ControlPlane, namespace: str, end: str
) -> None:
    kind, template, status, phase, reason = ENDS[end]
    study = a_study_in(namespace, {"object": template})
    metadata = post(jobsets, rendered(study))["metadata"]
    conditions = [
        {"type": type_, "status": truth, "reason": "Test", "message": "so it is", "lastTransitionTime": NOW}
        for type_, truth in status.get("conditions", ())
    ]
    wanted = {**status, **({"conditions": conditions} if conditions else {})}
    path = jobsets.api.path(kind.api_version, kind.kind, metadata["name"], metadata["namespace"], "status")
    strict = {"fieldValidation": "Strict"}
    patched = jobsets.api.request("PATCH", path, body={"status": wanted}, query=strict, content_type="application/merge-patch+json")
    found = observe(study.spec, kind, patched, [], pods_listed=True)
    assert (found.phase, found.reason) == (phase, reason)


def test_the_path_of_a_kind_is_that_of_the_API_server(jobsets: ControlPlane) -> None:
    assert JOBSET.served.path("a", "b", "status") == jobsets.api.path(JOBSET.api_version, JOBSET.kind, "b", "a", "status")


# A real Job controller


def start(plane: ControlPlane, namespace: str, annotations: dict[str, str] | None = None, **spec: Any) -> Study:
    """Creates the Job of Trial 3, whose pods do what the annotations say."""
    pod = {**POD, "metadata": {"annotations": annotations or {}}}
    study = a_study_in(namespace, {"job": {"spec": {**spec, "template": pod}}})
    post(plane, rendered(study))
    return study


def look(plane: ControlPlane, study: Study) -> Workload:
    """The Job and its pods as they stand on the API server."""
    namespace = study.metadata.namespace
    job = plane.api.get("batch/v1", "Job", "digits-3", namespace)
    pods = plane.api.objects("v1", "Pod", namespace, labelSelector="hpo.dev/trial=digits-3")
    return observe(study.spec, JOB, job, pods, pods_listed=True)


def seen(plane: ControlPlane, study: Study, phase: Phase) -> Workload:
    """The Job once it has come to a phase."""
    return wait_until(f"a Job that is {phase.value}", lambda: found if (found := look(plane, study)).phase is phase else None)


def condition_of(plane: ControlPlane, study: Study, type_: str) -> Object:
    def shown() -> Object | None:
        status = plane.api.get("batch/v1", "Job", "digits-3", study.metadata.namespace).get("status", {})
        return next((each for each in status.get("conditions", []) if each["type"] == type_ and each["status"] == "True"), None)

    return wait_until(f"condition {type_}", shown)


def test_a_Job_that_has_succeeded_has_the_report_of_its_pod(control_plane: ControlPlane, namespace: str) -> None:
    study = start(control_plane, namespace)
    condition_of(control_plane, study, "Complete")
    found = look(control_plane, study)
    assert (found.phase, found.at_rest, found.awaiting) == (Phase.SUCCEEDED, True, False)
    assert found.report is not None
    assert "loss" in found.report.metrics


def test_a_Job_fails_at_once_on_the_infeasible_exit_code_and_says_so_itself(control_plane: ControlPlane, namespace: str) -> None:
    study = start(control_plane, namespace, {EXIT_CODE: "86"}, backoffLimit=5)
    condition_of(control_plane, study, "Failed")
    found = look(control_plane, study)
    job = control_plane.api.get("batch/v1", "Job", "digits-3", namespace)
    without_its_pod = observe(study.spec, JOB, job, [], pods_listed=True)
    for each in (found, without_its_pod):
        assert (each.phase, each.reason, each.exit_code) == (Phase.FAILED, c.INFEASIBLE, 86)


def test_a_Job_that_runs_longer_than_it_may_has_timed_out(control_plane: ControlPlane, namespace: str) -> None:
    study = start(control_plane, namespace, {DELAY: NEVER}, activeDeadlineSeconds=2)
    condition_of(control_plane, study, "Failed")
    assert look(control_plane, study).reason == c.TIMED_OUT


def evict(plane: ControlPlane, pod: Object) -> Object:
    """Evicts a pod, and ends it as its kubelet would: the simulated one only lets it go. Gives the last that is seen of it."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace}}
    plane.api.request("POST", plane.api.path("v1", "Pod", name, namespace, "eviction"), body=eviction)
    killed = {"exitCode": 143, "reason": "Error", "startedAt": NOW, "finishedAt": NOW, "message": said(loss=0.5)}
    statuses = [{**each, "state": {"terminated": killed}} for each in pod["status"]["containerStatuses"]]
    status = {"phase": "Failed", "containerStatuses": statuses}
    return plane.api.patch("v1", "Pod", name, {"status": status}, namespace, "status")


def test_a_Job_whose_pod_is_evicted_goes_on_with_another(control_plane: ControlPlane, namespace: str) -> None:
    study = start(control_plane, namespace, {DELAY: NEVER})
    before = seen(control_plane, study, Phase.RUNNING)
    (pod,) = control_plane.api.objects("v1", "Pod", namespace)
    evict(control_plane, pod)

    def replaced() -> bool:
        found = look(control_plane, study)
        assert (found.phase in (Phase.PENDING, Phase.RUNNING), found.report) == (True, None)
        pods = control_plane.api.objects("v1", "Pod", namespace)
        return found.phase is Phase.RUNNING and any(each["metadata"]["uid"] != pod["metadata"]["uid"] for each in pods)

    wait_until("another pod", replaced)
    assert look(control_plane, study).ref == before.ref
    control_plane.api.delete("batch/v1", "Job", "digits-3", namespace)  # or else it would keep its pod from going


def test_a_Job_that_may_not_go_on_after_an_eviction_is_disrupted(control_plane: ControlPlane, namespace: str) -> None:
    study = start(control_plane, namespace, {DELAY: NEVER}, podFailurePolicy={"rules": []})
    seen(control_plane, study, Phase.RUNNING)
    (pod,) = control_plane.api.objects("v1", "Pod", namespace)
    last = evict(control_plane, pod)
    condition_of(control_plane, study, "Failed")
    job = control_plane.api.get("batch/v1", "Job", "digits-3", namespace)
    found = observe(study.spec, JOB, job, [{**last, "gone": True}], pods_listed=True)
    assert (found.phase, found.disrupted, found.reason) == (Phase.FAILED, True, "")
    assert found.message.startswith("EvictionByEvictionAPI")
