"""Kinds of workloads: which ones a Study may ask for, and by which signs each says that it has ended.

batch/v1 Job is always allowed. Any other kind is allowed by the installer, who names it and, where it is not among those known
here, says how to tell its end:

    workloadKinds:
      - {apiVersion: jobset.x-k8s.io/v1alpha2, kind: JobSet}
      - apiVersion: example.com/v1
        kind: Training
        succeeded: [{path: status.phase, in: [Done]}]
        failed: [{path: status.phase, in: [Broken, Aborted]}, {condition: Failed}]

A Trial's pods are found by labels on the pod templates inside its workload. A TrainJob has none: Trainer 2.0 makes them from a
runtime and labels them by no field of the TrainJob, so that its end is seen, but no result that its pods report.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from hpo_algorithms import Fault, InvalidInput
from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hpo_operator.cluster.client import JOBS, Kind
from hpo_operator.resources import Resource, Template

Object = Mapping[str, Any]


class KindNotAllowed(InvalidInput):
    """A Study asks for a workload of a kind that the installer has not allowed."""


@dataclass(frozen=True, slots=True)
class End:
    """How a workload has ended, in its own words."""

    succeeded: bool
    reason: str = ""
    message: str = ""
    time: datetime | None = None


class Sign(Resource):
    """What an object shows of itself: exactly one of a condition that is True, and a field that has one of some values."""

    condition: str | None = Field(None, min_length=1, max_length=316, description="Type of a condition that has status True.")
    path: str | None = Field(None, max_length=256, description="Fields from the root of the object, with dots between them.")
    values: tuple[str | bool | int, ...] = Field((), alias="in", max_length=64, description="Values of the field at `path`.")

    @field_validator("path")
    @classmethod
    def _names_fields(cls, path: str | None) -> str | None:
        if path is not None and not all(path.split(".")):
            raise PydanticCustomError("path", "must be names of fields with dots between them, for example status.phase")
        return path

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.condition is None) == (self.path is None):
            remedy = "For example {condition: Complete}, or {path: status.phase, in: [Succeeded]}"
            raise PydanticCustomError("union", "needs exactly one of condition, path. {remedy}", {"remedy": remedy})
        if (self.path is None) == bool(self.values):
            raise PydanticCustomError("in", "needs `in` together with path, and only then. For example in: [Succeeded]")
        return self

    def in_words_of(self, workload: Object) -> Object | None:
        """What stands beside the sign (reason, message), where an object shows it; None where it does not."""
        if self.condition is not None:
            return next((each for each in conditions_of(workload) if each.get("type") == self.condition and _holds(each)), None)
        assert self.path is not None
        *parents, last = self.path.split(".")
        around: Any = workload
        for name in parents:
            around = around.get(name) if isinstance(around, Mapping) else None
        if not isinstance(around, Mapping) or last not in around:
            return None
        return around if _text(around[last]) in map(_text, self.values) else None


class WorkloadKind(Resource):
    """A kind of workload that Studies may ask for."""

    api_version: str = Field(max_length=317, description="Its group and version, as in the object.")
    kind: str = Field(max_length=63, description="Its kind, as in the object.")
    plural: str | None = Field(None, max_length=63, description="Its name in the API's paths; made from the kind when left out.")
    succeeded: tuple[Sign, ...] = Field((), max_length=16, description="Any of these says that it has ended well.")
    failed: tuple[Sign, ...] = Field((), max_length=16, description="Any of these, which are looked at first, that it has failed.")
    suspended: tuple[Sign, ...] = Field((), max_length=16, description="Any of these says that it waits to be admitted.")

    @field_validator("api_version")
    @classmethod
    def _is_a_version(cls, given: str) -> str:
        return _matching(given, r"([a-z0-9][-a-z0-9.]*/)?[a-z][a-z0-9]*", "a group and a version, for example ray.io/v1")

    @field_validator("kind")
    @classmethod
    def _is_a_kind(cls, given: str) -> str:
        return _matching(given, r"[A-Z][A-Za-z0-9]*", "a kind as it stands in an object, for example RayJob")

    @field_validator("plural")
    @classmethod
    def _is_a_plural(cls, given: str | None) -> str | None:
        return given and _matching(given, r"[a-z][-a-z0-9]*", "a name as in the paths of the API, for example rayjobs")

    @property
    def served(self) -> Kind:
        """Where it is found on the API server."""
        return Kind(self.api_version, self.kind, self.plural or _plural(self.kind))

    @property
    def key(self) -> tuple[str, str]:
        """Its group and kind: what it is called in any version."""
        return self.api_version.rpartition("/")[0], self.kind

    def end_of(self, workload: Object) -> End | None:
        """How a workload of this kind has ended; None while it has not."""
        known = _KNOWN.get(self.key, _CONVENTION)
        for signs, succeeded in ((self.failed or known.failed, False), (self.succeeded or known.succeeded, True)):
            for sign in signs:
                if (words := sign.in_words_of(workload)) is not None:
                    said = {field: str(words.get(field) or "") for field in ("reason", "message")}
                    return End(succeeded, said["reason"], said["message"], _time_in(words))
        return None

    def is_suspended(self, workload: Object) -> bool:
        """Whether a workload waits for a queue to admit it."""
        signs = self.suspended or _KNOWN.get(self.key, _CONVENTION).suspended
        return any(sign.in_words_of(workload) is not None for sign in signs)


def kind_of(template: Template, allowed: Iterable[WorkloadKind]) -> WorkloadKind:
    """The kind of a Study's workloads. Raises KindNotAllowed where the installer has not allowed it."""
    if template.object is None:
        return JOB
    wanted = (template.object.get("apiVersion"), template.object.get("kind"))
    kinds = [JOB, *allowed]
    for kind in kinds:
        if (kind.api_version, kind.kind) == wanted:
            return kind
    known = ", ".join(f"{kind.api_version} {kind.kind}" for kind in kinds)
    remedy = f"Allowed: {known}. Whoever has installed the operator can allow more (workloadKinds)."
    fault = Fault("spec.template.object", " ".join(map(str, wanted)), "is of a kind that this installation does not allow", remedy)
    raise KindNotAllowed([fault])


@dataclass(frozen=True, slots=True)
class _Signs:
    succeeded: tuple[Sign, ...]
    failed: tuple[Sign, ...]
    suspended: tuple[Sign, ...]


def _when(*types: str) -> tuple[Sign, ...]:
    return tuple(Sign(condition=each) for each in types)


def _where(path: str, *values: str | bool) -> tuple[Sign, ...]:
    return (Sign(path=path, values=values),)


_SUSPENDED = _where("spec.suspend", True)
_CONVENTION = _Signs(_when("Complete", "Completed", "Succeeded"), _when("Failed"), _SUSPENDED)
_KUBEFLOW = _Signs(_when("Succeeded"), _when("Failed"), _where("spec.runPolicy.suspend", True))

_KNOWN: Mapping[tuple[str, str], _Signs] = {
    ("batch", "Job"): _Signs(_when("Complete"), _when("Failed"), _SUSPENDED),
    ("jobset.x-k8s.io", "JobSet"): _Signs(_when("Completed"), _when("Failed"), _SUSPENDED),
    ("trainer.kubeflow.org", "TrainJob"): _Signs(_when("Complete"), _when("Failed"), _SUSPENDED),
    # jobStatus says FAILED also while another attempt is about to begin; a stopped one is Complete.
    ("ray.io", "RayJob"): _Signs(
        _where("status.jobDeploymentStatus", "Complete"),
        (*_where("status.jobDeploymentStatus", "Failed", "ValidationFailed"), *_where("status.jobStatus", "STOPPED")),
        _SUSPENDED,
    ),
    ("argoproj.io", "Workflow"): _Signs(_where("status.phase", "Succeeded"), _where("status.phase", "Failed", "Error"), _SUSPENDED),
    ("batch.volcano.sh", "Job"): _Signs(
        _where("status.state.phase", "Completed"),
        _where("status.state.phase", "Failed", "Aborted", "Terminated"),
        _where("status.state.phase", "Pending"),
    ),
    **{("kubeflow.org", kind): _KUBEFLOW for kind in ("MPIJob", "PyTorchJob", "TFJob", "XGBoostJob")},
}


def _plural(kind: str) -> str:
    """As Kubernetes guesses it."""
    name = kind.lower()
    if name.endswith("s"):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") else f"{name}s"


def _matching(given: str, pattern: str, what: str) -> str:
    if not re.fullmatch(pattern, given):
        raise PydanticCustomError("name", "must be {what}", {"what": what})
    return given


def conditions_of(workload: Object) -> list[Object]:
    """The conditions of an object of any kind; none where it has something else in their place."""
    status = workload.get("status")
    found = status.get("conditions") if isinstance(status, Mapping) else None
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def time_of(value: object) -> datetime | None:
    """A time in an object of any kind, whose status anybody may have written; None for what is none."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo else None


def _holds(condition: Object) -> bool:
    return bool(condition.get("status") == "True")


def _time_in(words: Object) -> datetime | None:
    """When it came to its end: as a condition and Volcano say it, a RayJob, and a Workflow."""
    return next(filter(None, (time_of(words.get(field)) for field in ("lastTransitionTime", "endTime", "finishedAt"))), None)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


JOB = WorkloadKind(api_version=JOBS.api_version, kind=JOBS.kind)
