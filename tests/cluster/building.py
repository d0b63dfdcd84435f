"""Studies of real programs for a real node, as a namespace takes them that enforces restricted pods."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.cluster.images import TRIAL
from tests.control_plane.building import VERSION
from tests.testbed import Cluster, Object
from tests.testbed.namespaces import ROOT

PATIENCE = 240.0
"""Seconds that anything may take before a test gives up: several Studies share two cores."""

RESTRICTED_POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}

NO_REQUEST = {"requests": {"cpu": "0"}}
"""What is left of the node's two cores is shared, not counted: no Trial waits for another one's."""

REPORTING = """
import time, hpo

for step in range(1, hpo.budget() + 1):
    hpo.report(step=step, loss=1 / step)
    time.sleep(1)
"""
"""A program that reports once a second, as far as its budget."""


def example(cluster: Cluster, name: str, namespace: str, **spec: Any) -> Object:
    """The Study of an example as it stands in its file and as kubectl reads it, but for some fields of its spec."""
    path = ROOT / "examples" / name / "study.yaml"
    patch = json.dumps({"metadata": {"namespace": namespace}, "spec": spec})
    read = cluster.kubectl("patch", "--local", "--filename", str(path), "--type", "merge", "--patch", patch, "--output", "json")
    study: Object = json.loads(read)
    return study


def container_of(study: Object) -> Object:
    """The one container of a Study's template."""
    (container,) = study["spec"]["template"]["job"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def with_scratch(study: Object) -> Object:
    """The Study, whose programs may write to /tmp: torch needs that, and so do checkpoints in an object store."""
    container_of(study)["volumeMounts"] = [{"name": "scratch", "mountPath": "/tmp"}]
    study["spec"]["template"]["job"]["spec"]["template"]["spec"]["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    return study


def study(
    name: str,
    namespace: str,
    *command: str,
    container: Mapping[str, Any] | None = None,
    job: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Object:
    """A Study of one Trial that runs a command, or a Python program where it is a single text.

    `container` and `job` have fields of the container and of the Job that differ. The container asks next to nothing of the node,
    and ends as soon as it is told to.
    """
    main = {
        "name": "main",
        "image": TRIAL,
        "command": [*command] if len(command) > 1 else ["python", "-c", *command],
        "resources": NO_REQUEST,
        "securityContext": RESTRICTED_CONTAINER,
        **(container or {}),
    }
    pod = {"terminationGracePeriodSeconds": 1, "securityContext": RESTRICTED_POD, "containers": [main]}
    return {
        "apiVersion": VERSION,
        "kind": "Study",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "objectives": [{"metric": "loss", "goal": "Minimize"}],
            "parameters": [{"name": "x", "float": {"min": 0, "max": 1}}],
            "algorithm": {"random": {}},
            "seed": 7,
            "parallelism": 1,
            "limits": {"maxTrials": 1},
            "metrics": {"intervalSeconds": 1},
            "template": {"job": {"spec": {"template": {"spec": pod}, **(job or {})}}},
            **spec,
        },
    }


def make_volume(cluster: Cluster, namespace: str) -> Path:
    """A folder that every pod may write to, as a ReadWriteMany volume behind the claim `weights`."""
    folder = cluster.state / f"weights-of-{namespace}"
    folder.mkdir()
    folder.chmod(0o777)
    size, name = {"storage": "1Gi"}, folder.name
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    claimed = {"namespace": namespace, "name": "weights"}
    place = {"capacity": size, "hostPath": {"path": str(folder)}, "claimRef": claimed, **common}
    cluster.apply(
        [
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": place},
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": claimed,
                "spec": {"resources": {"requests": size}, "volumeName": name, **common},
            },
        ]
    )
    return folder


def pods(cluster: Cluster, study: Object) -> list[Object]:
    """The pods of a Study that there are now."""
    name, namespace = study["metadata"]["name"], study["metadata"]["namespace"]
    return cluster.api.objects("v1", "Pod", namespace, labelSelector=f"hpo.dev/study={name}")


def running(found: list[Object]) -> list[str]:
    """The names of those pods that run."""
    return [pod["metadata"]["name"] for pod in found if pod["status"].get("phase") == "Running"]


def observed(trial: Object) -> Object:
    """What a Trial was seen to report: its observation, with the metrics as a mapping."""
    observation: Object = trial["status"]["observation"]
    return {**observation, "metrics": {each["name"]: each["value"] for each in observation["metrics"]}}
