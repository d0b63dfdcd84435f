"""What a test may rely on when it runs on a control plane with simulated nodes."""

import json
import time
from typing import Any

import pytest

from tests.testbed import CommandFailed, ControlPlane, Object, wait_until
from tests.testbed.api import Api
from tests.testbed.simulation import DELAY, EXIT_CODE, GAP, MESSAGE, NEVER, OPTIMUM, PREFIX, WAITING, of_trial

pytestmark = pytest.mark.control_plane


def make_job(name: str, namespace: str, *, annotations: dict[str, str], pods: int = 1, env: dict[str, str] | None = None) -> Object:
    container = {
        "name": "main",
        "image": "none",
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "backoffLimit": 0,
            "parallelism": pods,
            "completions": pods,
            "template": {
                "metadata": {"annotations": annotations},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }


def finished(control_plane: ControlPlane, job: Object, condition: str = "Complete") -> Object:
    def seen(obj: Object) -> bool:
        return any(each["type"] == condition and each["status"] == "True" for each in obj["status"].get("conditions", []))

    metadata = job["metadata"]
    return control_plane.wait_for(
        f"job {metadata['name']}", "batch/v1", "Job", metadata["name"], seen, namespace=metadata["namespace"]
    )


def pods_by_phase(api: Api, namespace: str) -> dict[str, list[Object]]:
    phases: dict[str, list[Object]] = {}
    for pod in api.objects("v1", "Pod", namespace):
        phases.setdefault(pod["status"]["phase"], []).append(pod)
    return phases


def terminated(pod: Object) -> dict[str, Any]:
    state: dict[str, Any] = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def test_a_simulated_trial_reports_the_objective_of_its_parameters_as_the_sdk_does(
    control_plane: ControlPlane, namespace: str
) -> None:
    parameters = json.dumps({"lr": 1e-1, "layers": 2, "optimizer": "adam"})
    env = {"HPO_PARAMETERS": parameters, "HPO_PARAM_LR": "0.1", "HPO_BUDGET": "4", "HPO_OBJECTIVES": "val_loss,flops"}
    job = make_job("trial", namespace, annotations={OPTIMUM: '{"lr": 0.25}', GAP: "1"}, env=env)
    control_plane.apply([job])
    finished(control_plane, job)
    (pod,) = pods_by_phase(control_plane.api, namespace)["Succeeded"]
    report = json.loads(terminated(pod)["message"])
    assert (report["hpo"], report["step"], set(report["metrics"])) == (1, 4, {"val_loss", "flops"})
    wanted = (0.1 - 0.25) ** 2 + 2**2 + 1 / 4
    assert [float(value) for value in report["metrics"]["val_loss"]] == pytest.approx([wanted] * 3)


def test_a_simulated_trial_says_the_message_that_it_was_given(control_plane: ControlPlane, namespace: str) -> None:
    annotations = {MESSAGE: 'epoch 1\n{"lr": {lr}, "name": "a \\"quoted\\" word"}'}
    job = make_job("trial", namespace, annotations=annotations, env={"HPO_PARAMETERS": '{"lr": 0.5}'})
    control_plane.apply([job])
    finished(control_plane, job)
    (pod,) = pods_by_phase(control_plane.api, namespace)["Succeeded"]
    assert terminated(pod)["message"] == 'epoch 1\n{"lr": 0.5, "name": "a \\"quoted\\" word"}'


def test_a_simulated_trial_fails_with_the_exit_code_that_it_was_given(control_plane: ControlPlane, namespace: str) -> None:
    job = make_job("trial", namespace, annotations={EXIT_CODE: "3", MESSAGE: "out of luck"})
    control_plane.apply([job])
    finished(control_plane, job, "Failed")
    (pod,) = pods_by_phase(control_plane.api, namespace)["Failed"]
    assert (terminated(pod)["exitCode"], terminated(pod)["message"]) == (3, "out of luck")


def test_an_annotation_with_a_number_is_for_that_trial_alone(control_plane: ControlPlane, namespace: str) -> None:
    said = {of_trial(EXIT_CODE, 1): "86", of_trial(MESSAGE, 1): "too large", of_trial(DELAY, 2): NEVER, DELAY: "100ms"}
    jobs = []
    for number in range(4):
        job = make_job(f"trial-{number}", namespace, annotations=said)
        job["spec"]["template"]["metadata"]["labels"] = {"hpo.dev/trial-number": str(number)}
        jobs.append(job)
    control_plane.apply(jobs)
    finished(control_plane, jobs[0])
    finished(control_plane, jobs[1], "Failed")
    finished(control_plane, jobs[3])
    (pod,) = pods_by_phase(control_plane.api, namespace)["Failed"]
    assert (terminated(pod)["exitCode"], terminated(pod)["message"]) == (86, "too large")
    (pod,) = pods_by_phase(control_plane.api, namespace)["Running"]
    assert pod["metadata"]["labels"]["hpo.dev/trial-number"] == "2"


def test_a_simulated_trial_runs_until_it_is_deleted(control_plane: ControlPlane, namespace: str) -> None:
    job = make_job("trial", namespace, annotations={DELAY: NEVER})
    control_plane.apply([job])
    api = control_plane.api
    wait_until("a running pod", lambda: pods_by_phase(api, namespace).get("Running"))
    time.sleep(1.5)  # three times the delay of a pod that ends
    assert set(pods_by_phase(api, namespace)) == {"Running"}
    api.delete("batch/v1", "Job", "trial", namespace)
    wait_until("no pods", lambda: not pods_by_phase(api, namespace))


def test_a_pod_that_cannot_pull_its_image_says_so_and_waits(control_plane: ControlPlane, namespace: str) -> None:
    job = make_job("trial", namespace, annotations={WAITING: "ImagePullBackOff"})
    control_plane.apply([job])

    def reasons() -> list[str]:
        pods = pods_by_phase(control_plane.api, namespace).get("Pending", [])
        return [status["state"]["waiting"]["reason"] for pod in pods for status in pod["status"].get("containerStatuses", [])]

    assert wait_until("a waiting container", reasons) == ["ImagePullBackOff"]


def test_twelve_pods_of_one_gpu_run_on_eight_gpus_as_eight_and_then_four(control_plane: ControlPlane, namespace: str) -> None:
    job = make_job("trials", namespace, annotations={DELAY: "2s"}, pods=12)
    control_plane.apply([job])
    api = control_plane.api

    def eight_run() -> bool:
        phases = pods_by_phase(api, namespace)
        return len(phases.get("Running", [])) == 8 and len(phases.get("Pending", [])) == 4

    wait_until("eight running pods", eight_run)
    refused = [
        condition["reason"]
        for pod in pods_by_phase(api, namespace)["Pending"]
        for condition in pod["status"].get("conditions", [])
        if condition["type"] == "PodScheduled"
    ]
    assert set(refused) == {"Unschedulable"}
    most = 0
    while (phases := pods_by_phase(api, namespace)) and len(phases.get("Succeeded", [])) < 12:
        most = max(most, len(phases.get("Running", [])))
    assert most == 8


def test_a_service_account_may_do_what_its_role_says_and_no_more(control_plane: ControlPlane, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]
    kubeconfig = control_plane.service_account("writer", rules, namespace=namespace)
    control_plane.kubectl("create", "configmap", "mine", kubeconfig=kubeconfig)
    with pytest.raises(CommandFailed, match=r"cannot list resource"):
        control_plane.kubectl("get", "configmaps", kubeconfig=kubeconfig)


def test_requests_are_counted_by_user(control_plane: ControlPlane, namespace: str) -> None:
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]
    control_plane.service_account("counted", rules, namespace=namespace)
    api = control_plane.api_as(control_plane.token_of_service_account("counted", namespace=namespace))
    api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": namespace}})
    api.get("v1", "ConfigMap", "a", namespace)
    user = f"system:serviceaccount:{namespace}:counted"

    def seen() -> list[tuple[str, bool, int]]:
        mine = [request for request in control_plane.requests() if request.user == user and request.resource]
        return [(request.verb, request.is_write, request.code) for request in mine] if len(mine) >= 2 else []

    assert wait_until("the requests in the log", seen) == [("create", True, 201), ("get", False, 200)]


@pytest.mark.parametrize("component", ["kube-apiserver", "kube-controller-manager"])
def test_trials_go_on_after_a_crash_of(component: str, control_plane: ControlPlane, namespace: str) -> None:
    before = make_job("before", namespace, annotations={DELAY: "1s"})
    control_plane.apply([before])
    control_plane.restart(component)
    after = make_job("after", namespace, annotations={})
    control_plane.apply([after])
    finished(control_plane, before)
    finished(control_plane, after)


def test_the_annotations_are_those_that_the_stages_read() -> None:
    from tests.testbed.simulation import STAGES

    text = "".join(stage.read_text() for stage in STAGES.glob("*.yaml"))
    for annotation in (DELAY, EXIT_CODE, MESSAGE, OPTIMUM, GAP, WAITING):
        assert annotation.startswith(PREFIX)
        assert annotation in text
