"""GPUs in all forms that a scheduler knows, who gets them first, and how many Trials may wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.control_plane.building import BEST, condition, reason
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.crowd import Crowd
from tests.control_plane.operator_process import write_settings
from tests.testbed import ControlPlane, Object, SimulatedNode
from tests.testbed.fixtures import Bed
from tests.testbed.simulation import DELAY, OPTIMUM

pytestmark = pytest.mark.control_plane

MAX_PENDING = 2
GPU, SLICE = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"
NODE, DRIVER = "simulated-slices", "gpu.nvidia.com"
RESERVED = "simulated-reserved"
TAINT = {"key": GPU, "value": "present", "effect": "NoSchedule"}  # as the nodes with GPUs have it in many clusters
CLASSES = {"tried": 100, "promoted": 1000}


@pytest.fixture(scope="module")
def crowd(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    folder = tmp_path_factory.mktemp("operator")
    plane = bed(ControlPlane, ControlPlane)
    node = SimulatedNode(NODE, gpus=0).manifest()
    for field in ("capacity", "allocatable"):
        node["status"][field] = {**node["status"][field], SLICE: "2"}
    plane.api.create(node)
    plane.api.create(SimulatedNode(RESERVED, labels={"pool": "reserved"}, taints=(TAINT,)).manifest())
    prepare_devices(plane)
    for name, value in CLASSES.items():
        plane.apply([{"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value}])
    settings = write_settings(folder / "settings.yaml", maxPending=MAX_PENDING)
    with Crowd(plane, "gpus", folder, "--config", str(settings)) as running:
        yield running
    for name in (NODE, RESERVED):
        plane.api.delete("v1", "Node", name, namespace="")
    plane.api.delete("resource.k8s.io/v1", "ResourceSlice", NODE, namespace="")


def prepare_devices(plane: ControlPlane) -> None:
    """What NVIDIA's driver for dynamic resource allocation tells of a node with four GPUs, and the class that it installs."""
    version, pool = "resource.k8s.io/v1", {"name": NODE, "generation": 1, "resourceSliceCount": 1}
    devices = [{"name": f"gpu-{number}"} for number in range(4)]
    spec = {"driver": DRIVER, "nodeName": NODE, "pool": pool, "devices": devices}
    selectors = [{"cel": {"expression": f"device.driver == '{DRIVER}'"}}]
    plane.apply(
        [
            {"apiVersion": version, "kind": "DeviceClass", "metadata": {"name": DRIVER}, "spec": {"selectors": selectors}},
            {"apiVersion": version, "kind": "ResourceSlice", "metadata": {"name": NODE}, "spec": spec},
        ]
    )


def template(limits: Object, delay: str = "3s", claims: tuple[str, ...] = (), **more: Any) -> Object:
    """A template of one pod with limits, and with resource claims made from templates."""
    container: Object = {"name": "main", "image": "none", "resources": {"limits": limits}}
    spec: Object = {"containers": [container]}
    if claims:
        container["resources"]["claims"] = [{"name": each} for each in claims]
        spec["resourceClaims"] = [{"name": each, "resourceClaimTemplateName": each} for each in claims]
    pod = {"metadata": {"annotations": {DELAY: delay, OPTIMUM: BEST}}, "spec": spec}
    return {"job": {"spec": {"template": pod}}, **more}


def most_pending(chronicle: Chronicle) -> int:
    """The most pods that were there and neither ran nor had ended, at any moment."""
    pending, most = set[str](), 0
    for event in chronicle.events("Pod"):
        phase = event.object.get("status", {}).get("phase", "Pending")
        change = pending.add if event.type != "DELETED" and phase == "Pending" else pending.discard
        change(event.object["metadata"]["uid"])
        most = max(most, len(pending))
    return most


def test_no_more_pods_of_all_Studies_wait_for_GPUs_than_the_installer_allows_and_all_run_in_the_end(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    with Chronicle(crowd.plane, namespace) as chronicle:
        many = {"trials": 4, "parallelism": 4, "template": template({GPU: 4}, "1s")}
        wanted = [crowd.apply(name, namespace, **many) for name in ("many", "others")]
        ended = [crowd.end_of(each) for each in wanted]
        chronicle.catch_up()
    assert [(reason(each), each["status"]["trials"]["completed"]) for each in ended] == [("MaxTrialsReached", 4)] * 2
    assert most_pending(chronicle) <= MAX_PENDING
    assert chronicle.most_running() >= MAX_PENDING, "those that run do not count"


def test_what_was_promoted_goes_before_what_is_only_tried(crowd: Crowd) -> None:
    rungs = {"schedule": {"asha": {"eta": 2}}, "budget": {"min": 1, "max": 4, "unit": "epochs"}}
    classes = {"priorityClasses": [*CLASSES]}
    wanted = crowd.apply("rungs", trials=8, template=template({}, "100ms", **classes), **rungs)
    crowd.end_of(wanted)
    seen = {(each["metadata"]["labels"]["hpo.dev/rung"], each["spec"]["priority"]) for each in crowd.pods(wanted)}
    assert seen >= {("0", CLASSES["tried"]), ("1", CLASSES["promoted"])}
    assert seen <= {("0", CLASSES["tried"]), ("1", CLASSES["promoted"]), ("2", CLASSES["promoted"])}


def test_a_slice_of_a_GPU_is_asked_for_by_its_name_and_counts_as_one(crowd: Crowd) -> None:
    wanted = crowd.apply("slices", trials=1, template=template({SLICE: 1}))
    crowd.end_of(wanted)
    (trial,), (pod,) = crowd.trials(wanted), crowd.pods(wanted)
    assert (reason(trial), pod["spec"]["nodeName"]) == ("Completed", NODE)
    assert 2 <= trial["status"]["gpuSeconds"] <= 5


def test_a_node_with_GPUs_that_is_tainted_is_for_those_Trials_whose_template_tolerates_it(crowd: Crowd) -> None:
    def on_reserved(**spec: Any) -> Object:
        found = template({GPU: 1}, "1s")
        found["job"]["spec"]["template"]["spec"] |= {"nodeSelector": {"pool": "reserved"}, **spec}
        return found

    shy = crowd.apply("shy", trials=1, template=on_reserved())
    tolerant = crowd.apply("tolerant", trials=1, template=on_reserved(tolerations=[{"key": GPU, "operator": "Exists"}]))
    crowd.end_of(tolerant)
    (trial,), (pod,) = crowd.trials(tolerant), crowd.pods(tolerant)
    assert (reason(trial), pod["spec"]["nodeName"]) == ("Completed", RESERVED)
    crowd.wait_for_pods(shy, 0, "that no node is for it", lambda found: "untolerated taint" in str(found[0]["status"]))
    assert crowd.now(shy)["status"]["trials"].get("running", 0) == 0


def test_GPUs_that_a_pod_gets_by_a_resource_claim_count_as_those_of_its_limits_do(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    request = {"name": "gpus", "exactly": {"deviceClassName": DRIVER, "count": 2}}
    claim: Object = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate", "metadata": {"name": "two-gpus"}}
    claim["metadata"]["namespace"], claim["spec"] = namespace, {"spec": {"devices": {"requests": [request]}}}
    crowd.plane.apply([claim])
    wanted = crowd.apply("claims", namespace, trials=1, template=template({}, claims=("two-gpus",)))
    crowd.end_of(wanted)
    (trial,), (pod,) = crowd.trials(wanted), crowd.pods(wanted)
    assert (reason(trial), pod["spec"]["nodeName"]) == ("Completed", NODE)
    assert len(pod["status"]["resourceClaimStatuses"]) == 1
    assert 4 <= trial["status"]["gpuSeconds"] <= 10


def test_a_Study_whose_claim_there_is_not_is_refused_with_the_remedy(crowd: Crowd) -> None:
    wanted = crowd.apply("unclaimed", trials=1, template=template({}, claims=("absent",)))
    found = crowd.wait_for(wanted, "a refusal", lambda each: reason(each, "Accepted") == "TemplateRejected")
    assert "no ResourceClaimTemplate absent" in condition(found, "Accepted")["message"]
    assert crowd.trials(wanted) == []
