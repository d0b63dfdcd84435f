"""Small Studies for simulated nodes, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.testbed import ControlPlane, Object, binaries, wait_until
from tests.testbed.control_plane import DEFINITION
from tests.testbed.errors import BuildFailed, MissingTool
from tests.testbed.lacking import lacking
from tests.testbed.simulation import DELAY, OPTIMUM

VERSION = "hpo.dev/v1alpha1"
BEST = '{"lr": 0.01, "layers": 2}'  # where the simulated objective is 0

PATIENCE = 90.0
"""Seconds that anything may take before a test gives up. A machine of two cores that builds something else besides is slow."""


def study(
    name: str,
    namespace: str,
    *,
    trials: int = 4,
    says: Mapping[str, str] | None = None,
    metadata: Object | None = None,
    **spec: Any,
) -> Object:
    """A Study of quick Trials of one pod each, two at once, random by a fixed seed.

    `says` are annotations of the pods, by which they are told what to do (tests/testbed/simulation.py).
    """
    pod = {
        "metadata": {"annotations": {DELAY: "200ms", OPTIMUM: BEST, **(says or {})}},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    return {
        "apiVersion": VERSION,
        "kind": "Study",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "objectives": [{"metric": "loss", "goal": "Minimize"}],
            "parameters": [
                {"name": "lr", "float": {"min": 0.001, "max": 1.0, "scale": "Log"}},
                {"name": "layers", "int": {"min": 1, "max": 6}},
                {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
            ],
            "algorithm": {"random": {}},
            "seed": 7,
            "parallelism": 2,
            "limits": {"maxTrials": trials},
            "template": {"job": {"spec": {"template": pod}}},
            **spec,
        },
    }


POPULATION: dict[str, Any] = {
    "algorithm": {"pbt": {"population": 2}},
    "budget": {"min": 1, "max": 2},
    "limits": {"maxTrials": 20},
    "checkpoints": {"volumeClaim": {"name": "weights"}},
}
"""What makes of a Study a population of two members and two generations, which needs a `claim`."""


def claim(plane: ControlPlane, namespace: str, mode: str = "ReadWriteMany") -> None:
    """Makes a claim `weights` that is bound to a volume of its own."""
    size = {"storage": "1Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"weights-of-{namespace}"},
        "spec": {
            "capacity": size,
            "accessModes": [mode],
            "hostPath": {"path": "/nowhere"},
            "storageClassName": "",
            "claimRef": {"namespace": namespace, "name": "weights"},
        },
    }
    wanted = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "weights", "namespace": namespace},
        "spec": {
            "accessModes": [mode],
            "resources": {"requests": size},
            "storageClassName": "",
            "volumeName": volume["metadata"]["name"],
        },
    }
    plane.apply([volume, wanted])


def condition(obj: Object, type_: str) -> Object:
    """A condition of an object, empty when it has none of the type."""
    found = (each for each in obj.get("status", {}).get("conditions") or () if each["type"] == type_)
    return next(found, {})


def reason(obj: Object, type_: str = "Succeeded") -> str:
    """The reason of a condition."""
    found: str = condition(obj, type_).get("reason", "")
    return found


def has_ended(obj: Object) -> bool:
    """Whether a Study or a Trial is over, well or not."""
    return condition(obj, "Succeeded").get("status") in ("True", "False")


def wait_for_condition(plane: ControlPlane, wanted: Object, type_: str, *reasons: str, seconds: float = PATIENCE) -> Object:
    """Waits until a condition of a Study has one of the reasons, and returns the Study."""
    return wait_for_study(plane, wanted, f"{type_} {' or '.join(reasons)}", lambda seen: reason(seen, type_) in reasons, seconds)


def end_of(plane: ControlPlane, wanted: Object, seconds: float = PATIENCE) -> Object:
    """Waits for the end of a Study, and returns it."""
    return wait_for_study(plane, wanted, "its end", has_ended, seconds)


def wait_for_study(
    plane: ControlPlane, wanted: Object, what: str, seen: Callable[[Object], object], seconds: float = PATIENCE
) -> Object:
    """Waits until something is true of a Study, and returns it."""
    name, namespace = wanted["metadata"]["name"], wanted["metadata"]["namespace"]
    return plane.wait_for(f"{what} of {name}", VERSION, "Study", name, seen, namespace=namespace, seconds=seconds)


def trials(plane: ControlPlane, of: Object) -> list[Object]:
    """The Trials of a Study, by number."""
    name, namespace = of["metadata"]["name"], of["metadata"]["namespace"]
    found = plane.api.objects(VERSION, "Trial", namespace)
    return sorted((each for each in found if each["spec"]["studyRef"]["name"] == name), key=number)


def wait_for_trials(plane: ControlPlane, of: Object, what: str, seen: Callable[[list[Object]], object]) -> list[Object]:
    """Waits until something is true of a Study's Trials, and returns them."""

    def look() -> list[Object]:
        found = trials(plane, of)
        return found if seen(found) else []

    return wait_until(what, look, seconds=PATIENCE)


def number(trial: Object) -> int:
    """A Trial's number."""
    found: int = trial["spec"]["number"]
    return found


def no_workloads(plane: ControlPlane, namespace: str) -> None:
    """Waits until nothing is left of a Study's workloads."""
    api = plane.api
    wait_until(
        f"the end of all Jobs and pods in {namespace}",
        lambda: not api.objects("batch/v1", "Job", namespace) and not api.objects("v1", "Pod", namespace),
        seconds=PATIENCE,
    )


@dataclass(frozen=True, slots=True)
class Result:
    """What a Study has found, without names, uids and times: equal for two runs of one Study."""

    reason: str
    trials: tuple[tuple[Any, ...], ...]
    counts: tuple[tuple[str, int], ...]
    best: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, plane: ControlPlane, ended: Object) -> Result:
        """The result of a Study as it stands."""
        status = ended["status"]
        return cls(
            reason=reason(ended),
            trials=tuple(_found(each) for each in trials(plane, ended)),
            counts=tuple(sorted((status.get("trials") or {}).items())),
            best=tuple((each["number"], _pairs(each.get("metrics") or ())) for each in status.get("best") or ()),
        )


def _found(trial: Object) -> tuple[Any, ...]:
    spec, status = trial["spec"], trial.get("status", {})
    metrics = _pairs(status.get("observation", {}).get("metrics") or ())
    donor = spec.get("restoreFrom", {}).get("number")
    return (spec["number"], _pairs(spec["parameters"]), spec.get("budget"), spec.get("origin"), reason(trial), metrics, donor)


def _pairs(named: Any) -> tuple[tuple[str, str], ...]:
    return tuple((each["name"], each["value"]) for each in named)


FOREIGN = {
    "jobsets.jobset.x-k8s.io": ("jobset", "config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml"),
    "trainjobs.trainer.kubeflow.org": ("trainer", "manifests/base/crds/trainer.kubeflow.org_trainjobs.yaml"),
    "rayjobs.ray.io": ("kuberay", "config/crd/bases/ray.io_rayjobs.yaml"),
}
"""Kinds of other projects: in which module their definition lies, and where in it."""


def define(plane: ControlPlane, name: str) -> None:
    """Defines a kind that nothing runs. The test is skipped where its definition cannot be had; in CI that is a failure."""
    if plane.api.find(*DEFINITION, name, namespace="") is not None:
        return
    module, path = FOREIGN[name]
    try:
        file = binaries.sources(module) / path
    except (MissingTool, BuildFailed) as error:
        lacking(f"the module of {name} is not there: {error}")
    plane.kubectl("apply", "--server-side", "--filename", str(file))
    plane.wait_until_served(name)
