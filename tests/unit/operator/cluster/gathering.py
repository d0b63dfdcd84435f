"""A Study with one Trial, as the watches of a cluster would show it, for tests of how results are gathered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hpo_operator.cluster.client import RequestFailed
from hpo_operator.cluster.kinds import WorkloadKind
from hpo_operator.cluster.rendering import NUMBER_LABEL, STUDY_UID_LABEL, owner
from hpo_operator.cluster.sources import Source
from hpo_operator.cluster.store import Store, StudyState
from hpo_operator.resources import LogMetrics, Metrics
from hpo_operator.workloads import Workload

from tests.unit.operator.builders import StudyBuilder, a_ledger, a_study, a_trial

UID = "study-uid"


class Cluster:
    """One running Trial, number 0, in pod `digits-0-a`; it is measured each second."""

    def __init__(self, started: datetime, study: StudyBuilder | None = None, *, pattern: str = "") -> None:
        metrics = Metrics(interval_seconds=1, logs=LogMetrics(pattern=pattern) if pattern else None)
        built = (study or a_study()).build()
        built = built.model_copy(update={"spec": built.spec.model_copy(update={"metrics": metrics})})
        self.store = Store(Source(configured=True))
        self.store.study(None, {"metadata": {"namespace": "team-a", "name": "digits", "uid": UID, "resourceVersion": "1"}})
        self.state.study, self.state.ledger = built, a_ledger(built, a_trial(0).running().build())
        self._version = 1
        self._created = self._started = started
        self._show_job({"active": 1})
        self.show_pod({"running": {"startedAt": started.isoformat()}}, "Running")

    @property
    def state(self) -> StudyState:
        return self.store.studies[UID]

    @property
    def workload(self) -> Workload:
        return self.state.workload(0)

    def replace_pod(self, name: str, started: datetime) -> None:
        """The pod was lost, and the Job makes another one."""
        self.show_pod({"terminated": {"exitCode": 137}}, "Failed")
        self._started = started
        self.show_pod({"running": {"startedAt": started.isoformat()}}, "Running", name)

    def succeed(self, when: datetime, message: str = "", name: str = "digits-0-a") -> None:
        """The program ends well."""
        times = {"startedAt": self._started.isoformat(), "finishedAt": when.isoformat()}
        self.show_pod({"terminated": {"exitCode": 0, "message": message, **times}}, "Succeeded", name)
        self._show_job({"conditions": [{"type": "Complete", "status": "True"}], "completionTime": when.isoformat()})

    def complete_as_RayJob(self, when: datetime) -> None:
        """The program ends well, while the pod that reports, the head of its cluster, runs on."""
        self.state.kind = WorkloadKind(api_version="ray.io/v1", kind="RayJob")
        self.state.pods_listed.add(0)
        self._show_job({"jobDeploymentStatus": "Complete", "endTime": when.isoformat()})

    def show_pod(self, state: dict[str, Any], phase: str, name: str = "digits-0-a") -> None:
        status = {"phase": phase, "containerStatuses": [{"name": "main", "state": state}]}
        metadata = {**self._metadata(name), "creationTimestamp": self._started.isoformat()}
        self.store.pod(None, {"metadata": metadata, "spec": {"containers": [{"name": "main"}]}, "status": status})

    def _show_job(self, status: dict[str, Any]) -> None:
        metadata = {**self._metadata("digits-0"), "creationTimestamp": self._created.isoformat()}
        metadata["ownerReferences"] = [owner("Trial", "digits-0", "t0")]
        self.store.workload(None, {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {}, "status": status})

    def _metadata(self, name: str) -> dict[str, Any]:
        self._version += 1
        labels = {STUDY_UID_LABEL: UID, NUMBER_LABEL: "0"}
        return {"name": name, "uid": name, "labels": labels, "resourceVersion": str(self._version)}


class Logs:
    """A client of the API server that knows nothing but logs: texts, or failures, one a request."""

    def __init__(self, *answers: str | RequestFailed) -> None:
        self.answers: Sequence[str | RequestFailed] = answers
        self.asked: list[tuple[object, ...]] = []

    async def log(self, *asked: object) -> str:
        self.asked.append(asked)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, RequestFailed):
            raise answer
        return answer
