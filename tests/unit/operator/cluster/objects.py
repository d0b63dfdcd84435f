"""Workloads and pods as the API server shows them, said as a person would say them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from hpo_operator.outcomes import format_number
from hpo_operator.resources import Study, Template

from tests.unit.operator.builders import StudyBuilder, at

Object = dict[str, Any]


def stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def said(step: int = 3, **metrics: float) -> str:
    """A termination message of the SDK."""
    return json.dumps({"hpo": 1, "step": step, "metrics": {name: format_number(value) for name, value in metrics.items()}})


def running_object(study: StudyBuilder, wanted: Mapping[str, Any] | None = None, **reporter: Any) -> Study:
    """The Study with another template: an object, or its Job where none is given, and a reporter."""
    built = study.build()
    fields = {"object": dict(wanted)} if wanted is not None else {"job": built.spec.template.job}
    template = Template.model_validate({**fields, "reporter": reporter or None})
    return built.model_copy(update={"spec": built.spec.model_copy(update={"template": template})})


class ObjectBuilder:
    """Changed copies of one object."""

    def __init__(self, raw: Object) -> None:
        self._raw = raw

    def having(self, *path: str | int, value: Any) -> Self:
        changed = copy.copy(self)
        changed._raw = copy.deepcopy(self._raw)
        place: Any = changed._raw
        for step in path[:-1]:
            place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
        place[path[-1]] = value
        return changed

    def adding(self, *path: str | int, value: Any) -> Self:
        place: Any = self._raw
        for step in path:
            place = place.get(step, {}) if isinstance(place, dict) else place[step]
        return self.having(*path, value=[*(place or []), value])

    def condition(
        self, type_: str, reason: str = "", message: str = "", when: datetime | None = None, status: str = "True"
    ) -> Self:
        found = {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": stamp(when or at(60))}
        return self.adding("status", "conditions", value=found)

    def deleting(self, when: datetime | None = None) -> Self:
        return self.having("metadata", "deletionTimestamp", value=stamp(when or at(50)))

    def build(self) -> Object:
        return copy.deepcopy(self._raw)


class WorkloadObjectBuilder(ObjectBuilder):
    """A workload that has just been created, at time 0."""

    def complete(self, when: datetime | None = None) -> Self:
        return self.condition("Complete", "CompletionsReached", "Reached expected number of succeeded pods", when)

    def failed(self, reason: str = "BackoffLimitExceeded", message: str = "Job has reached the specified backoff limit") -> Self:
        return self.condition("Failed", reason, message)

    def suspended(self) -> Self:
        return self.having("spec", "suspend", value=True)

    def indexed(self, pods: int) -> Self:
        return self.having("spec", "completionMode", value="Indexed").parallel(pods)

    def parallel(self, pods: int) -> Self:
        return self.having("spec", "completions", value=pods).having("spec", "parallelism", value=pods)


class PodBuilder(ObjectBuilder):
    """A pod of the workload `w0`, created one second after it, on which nothing has looked yet."""

    def of(self, uid: str) -> Self:
        return self.labelled(**{"batch.kubernetes.io/controller-uid": uid})

    def labelled(self, **labels: str) -> Self:
        return self.having("metadata", "labels", value={**self._raw["metadata"]["labels"], **labels})

    def created(self, when: datetime) -> Self:
        return self.having("metadata", "creationTimestamp", value=stamp(when))

    def index(self, index: int) -> Self:
        return self.labelled(**{"batch.kubernetes.io/job-completion-index": str(index), "batch.kubernetes.io/job-name": "digits-0"})

    def gpus(self, count: int, resource: str = "nvidia.com/gpu") -> Self:
        return self.having("spec", "containers", 0, "resources", value={"limits": {resource: str(count), "cpu": "2"}})

    def preparing(self, gpus: int, *, beside: bool = False) -> Self:
        container = {"name": f"init-{gpus}", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
        return self.adding("spec", "initContainers", value={**container, **({"restartPolicy": "Always"} if beside else {})})

    def waiting(self, reason: str, message: str = "", container: str = "main") -> Self:
        return self._state({"waiting": {"reason": reason, "message": message}}, container)

    def unscheduled(self, reason: str, message: str) -> Self:
        return self.condition("PodScheduled", reason, message, status="False")

    def running(self, since: datetime | None = None, container: str = "main") -> Self:
        return self._phase("Running")._state({"running": {"startedAt": stamp(since or at(10))}}, container)

    def succeeded(self, message: str = "", since: datetime | None = None, until: datetime | None = None) -> Self:
        return self._phase("Succeeded")._ended(0, message, "Completed", since, until)

    def failed(
        self,
        code: int = 1,
        message: str = "",
        reason: str = "Error",
        since: datetime | None = None,
        until: datetime | None = None,
        container: str = "main",
    ) -> Self:
        return self._phase("Failed")._ended(code, message, reason, since, until, container)

    def disrupted(self, reason: str = "PreemptionByScheduler", message: str = "preempted", when: datetime | None = None) -> Self:
        return self.condition("DisruptionTarget", reason, message, when or at(40))

    def turned_away(self, reason: str, message: str) -> Self:
        return self._phase("Failed").having("status", "reason", value=reason).having("status", "message", value=message)

    def gone(self) -> Self:
        """As the store keeps it after its deletion."""
        return self.having("gone", value=True)

    def _phase(self, phase: str) -> Self:
        return self.having("status", "phase", value=phase)

    def _ended(
        self, code: int, message: str, reason: str, since: datetime | None, until: datetime | None, container: str = "main"
    ) -> Self:
        times = {"startedAt": stamp(since or at(10)), "finishedAt": stamp(until or at(55))}
        return self._state({"terminated": {"exitCode": code, "reason": reason, "message": message, **times}}, container)

    def _state(self, state: Object, container: str) -> Self:
        known = [each for each in self._raw["status"].get("containerStatuses", []) if each["name"] != container]
        return self.having("status", "containerStatuses", value=[*known, {"name": container, "state": state}])


def a_job() -> WorkloadObjectBuilder:
    return an_object("batch/v1", "Job")


def an_object(api_version: str, kind: str, **spec: Any) -> WorkloadObjectBuilder:
    metadata = {"name": "digits-0", "namespace": "team-a", "uid": "w0", "creationTimestamp": stamp(at(0))}
    return WorkloadObjectBuilder({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})


def a_pod(name: str = "digits-0-abcde", *containers: str) -> PodBuilder:
    metadata = {"name": name, "uid": f"uid-of-{name}", "creationTimestamp": stamp(at(1)), "labels": {}}
    spec = {"containers": [{"name": each} for each in containers or ("main",)]}
    return PodBuilder({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})
