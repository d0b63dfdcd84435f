"""What the watches have shown, by Study: the Study, its Trials, their workloads and pods.

Events only update this memory and name the Study to look at; nothing is decided here. An object replaces an older state of itself
and never a newer one, so that a late event cannot undo what this process has just written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from hpo_operator.cluster.client import PODS, TRIALS, Client
from hpo_operator.cluster.observing import observe_job
from hpo_operator.cluster.rendering import NUMBER_LABEL, STUDY_UID_LABEL, reporting_container
from hpo_operator.consultant import Consultant
from hpo_operator.ledger import Ledger
from hpo_operator.outcomes import metrics_wanted
from hpo_operator.planner import Consultation, Refusal, View
from hpo_operator.reports import Report
from hpo_operator.resources import Metadata, Study, StudyStatus, Trial
from hpo_operator.workloads import Phase, Workload

Object = dict[str, Any]

AWAITED_INTERVALS = 2  # how long a last sample may take to arrive after its program has ended


@dataclass(frozen=True, slots=True)
class Live:
    """What Prometheus last said of a running Trial."""

    curve: tuple[tuple[int, float], ...] = ()
    report: Report | None = None


@dataclass(slots=True)
class StudyState:
    """All that is known of one Study. `ledger` is None until the Study has been accepted and its Trials have been listed."""

    namespace: str
    name: str
    uid: str
    raw: Object
    study: Study | None = None
    invalid: str = ""
    ledger: Ledger | None = None
    versions: dict[int, int] = field(default_factory=dict)
    workloads: dict[int, Object] = field(default_factory=dict)
    absent: set[int] = field(default_factory=set)
    pods: dict[int, dict[str, Object]] = field(default_factory=dict)
    live: dict[int, Live] = field(default_factory=dict)
    consultant: Consultant | None = None
    consultation: Consultation | None = None
    refusal: Refusal | None = None
    written: float = 0.0
    consulted: float = 0.0
    asked_at: float = 0.0
    measuring: bool = False
    source_error: str = ""
    measured_at: datetime | None = None
    logged: dict[int, Report] = field(default_factory=dict)
    logs_read: set[int] = field(default_factory=set)

    def view(self, now: datetime) -> View:
        """What the planner gets to see."""
        assert self.study is not None and self.ledger is not None
        seen: dict[int, Workload] = {}
        for number in (*self.ledger.active, *self.ledger.uncleaned, *self.ledger.removed):
            if number in self.workloads or number in self.absent:
                seen[number] = self.workload(number)
        stopping = self.study.spec.schedule is not None
        return View(self.study, self.ledger, seen, now, self.consultation, stopping, self.refusal)

    def workload(self, number: int) -> Workload:
        """A Trial's workload as it was last seen."""
        assert self.study is not None
        live = self.live.get(number, Live())
        found = observe_job(self.study.spec, self.workloads.get(number), self.pods.get(number, {}).values())
        return with_results(self, found, live, self.logged.get(number))

    def may_still_come(self, workload: Workload) -> bool:
        """Whether a last sample of an ended program may still be found: for two intervals after it."""
        assert self.study is not None
        if not self.measuring or workload.finished is None:
            return False
        enough = workload.finished + AWAITED_INTERVALS * timedelta(seconds=self.study.spec.metrics.interval_seconds)
        return self.measured_at is None or self.measured_at < enough

    def reporter(self, pod: Object) -> str:
        """The name of the container that reports."""
        assert self.study is not None
        name: str = reporting_container(pod["spec"], self.study.spec.template)["name"]
        return name

    def forget(self, number: int) -> None:
        """Drop what is known of a workload that is gone for good."""
        for known in (self.workloads, self.pods, self.live, self.logged):
            known.pop(number, None)
        self.absent.discard(number)
        self.logs_read.discard(number)

    def put_trial(self, raw: Object) -> bool:
        """Take in a Trial; whether it was news."""
        number, version = raw["spec"]["number"], version_of(raw)
        if self.ledger is None or self.versions.get(number, -1) >= version:
            return False
        self.versions[number] = version
        self.ledger.put(read_trial(raw))
        return True

    def put_study(self, raw: Object) -> bool:
        """Take in the Study; whether it was news."""
        if raw is not self.raw and version_of(raw) <= version_of(self.raw):
            return False
        changed = raw["metadata"].get("generation") != self.raw["metadata"].get("generation")
        self.raw = raw
        if changed:
            self.invalid, self.study = "", None  # to be read again
        elif self.study is not None:
            self.study = with_status(self.study, raw)
        return True

    def close(self) -> None:
        """End the Study's worker process."""
        if self.consultant is not None:
            self.consultant.close()
            self.consultant = None


class Store:
    """All Studies by uid."""

    def __init__(self) -> None:
        self.studies: dict[str, StudyState] = {}

    def study(self, event: str | None, raw: Object) -> str:
        """Take in an event of a Study; gives its uid."""
        metadata = raw["metadata"]
        uid: str = metadata["uid"]
        if event == "DELETED":
            if uid in self.studies:
                self.studies.pop(uid).close()
            return uid
        if uid not in self.studies:
            self.studies[uid] = StudyState(metadata["namespace"], metadata["name"], uid, raw)
        self.studies[uid].put_study(raw)
        return uid

    def trial(self, event: str | None, raw: Object) -> str | None:
        """Take in an event of a Trial; gives the uid of the Study to look at."""
        state = self.studies.get(raw["spec"]["studyRef"]["uid"])
        if state is None or state.ledger is None:
            return None  # its Trials are listed before it is first looked at
        if event == "DELETED":
            state.ledger.remove(raw["spec"]["number"])
            return state.uid
        return state.uid if state.put_trial(raw) else None

    def workload(self, event: str | None, raw: Object) -> str | None:
        """Take in an event of a workload."""
        state, number = self._place(raw)
        if state is None or number is None:
            return None
        known = state.workloads.get(number)
        if event == "DELETED":
            if known is not None and known["metadata"]["uid"] == raw["metadata"]["uid"]:
                del state.workloads[number]
                state.absent.add(number)
            return state.uid
        if known is not None and version_of(known) >= version_of(raw):
            return None
        state.workloads[number] = raw
        state.absent.discard(number)
        return state.uid

    def pod(self, event: str | None, raw: Object) -> str | None:
        """Take in an event of a pod."""
        state, number = self._place(raw)
        if state is None or number is None:
            return None
        pods = state.pods.setdefault(number, {})
        uid = raw["metadata"]["uid"]
        if event == "DELETED":
            pods.pop(uid, None)
        elif uid in pods and version_of(pods[uid]) >= version_of(raw):
            return None
        else:
            pods[uid] = slim(raw)
        return state.uid

    def _place(self, raw: Object) -> tuple[StudyState | None, int | None]:
        labels = raw["metadata"].get("labels") or {}
        number = labels.get(NUMBER_LABEL, "")
        return self.studies.get(labels.get(STUDY_UID_LABEL, "")), int(number) if number.isdigit() else None


def with_results(state: StudyState, workload: Workload, live: Live, logged: Report | None) -> Workload:
    """A workload with what is known of its results: its last words, else its log, else the last samples before its end."""
    assert state.study is not None
    wanted = metrics_wanted(state.study.spec)
    report, source = workload.report, workload.source
    if report is None or (not all(name in report.metrics for name in wanted) and report.infeasible is None):
        if logged is not None:
            report, source = logged, "Log"
        elif live.report is not None:
            report, source = live.report, "Prometheus"
    missing = report is None or not all(name in report.metrics for name in wanted)
    waits = missing and workload.phase is Phase.SUCCEEDED and state.may_still_come(workload)
    return replace(workload, report=report, source=source, curve=live.curve, awaiting=waits)


async def list_everything(
    client: Client, state: StudyState, kinds: Iterable[Any]
) -> tuple[list[Object], list[Object], list[Object]]:
    """A Study's Trials, workloads and pods as the API server has them: what a decision may rest on after a restart."""
    selector = f"{STUDY_UID_LABEL}={state.uid}"
    trials = [each async for each in client.list(TRIALS, state.namespace, selector)]
    workloads = [each for kind in kinds async for each in client.list(kind, state.namespace, selector)]
    pods = [each async for each in client.list(PODS, state.namespace, selector)]
    return trials, workloads, pods


def read_study_object(raw: Object) -> Study:
    """A Study from the API server, which has checked and defaulted it."""
    return Study.model_validate_json(json.dumps(raw))


def with_status(study: Study, raw: Object) -> Study:
    """A known Study with the status and metadata of a newer state of it; its spec has not changed."""
    return study.model_copy(
        update={
            "metadata": Metadata.model_validate(raw["metadata"]),
            "status": StudyStatus.model_validate(raw.get("status") or {}),
        }
    )


def read_trial(raw: Object) -> Trial:
    """A Trial from the API server."""
    return Trial.model_validate(raw)


def version_of(raw: Mapping[str, Any]) -> int:
    """The resourceVersion, which orders the states of one object."""
    return int(raw["metadata"].get("resourceVersion") or 0)


def slim(pod: Object) -> Object:
    """The parts of a pod that are looked at: a thousand whole ones would fill the memory."""
    containers = [{k: v for k, v in each.items() if k in ("name", "resources")} for each in pod["spec"]["containers"]]
    metadata = {k: v for k, v in pod["metadata"].items() if k not in ("managedFields", "ownerReferences")}
    return {"metadata": metadata, "spec": {"containers": containers}, "status": pod.get("status") or {}}
