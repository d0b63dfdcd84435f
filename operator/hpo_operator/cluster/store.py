"""What the watches have shown, by Study: the Study, its Trials, their workloads and pods.

Events only update this memory and name the Study to look at; nothing is decided here. An object replaces an older state of itself
and never a newer one, so that a late event cannot undo what this process has just written.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import hpo_algorithms as algorithms
from hpo_algorithms.registry import stops_early

from hpo_operator import conditions as c
from hpo_operator.cluster.claims import claimed_by
from hpo_operator.cluster.cleanup import CLEANUP_LABEL, is_cleanup, seen_cleanup
from hpo_operator.cluster.client import JOBS, PODS, TRIALS, Client, Kind
from hpo_operator.cluster.kinds import JOB, WorkloadKind, conditions_of
from hpo_operator.cluster.observing import CLAIMED, GONE, observe
from hpo_operator.cluster.rendering import NUMBER_LABEL, STUDY_UID_LABEL, reporting_container
from hpo_operator.cluster.sources import UNCONFIGURED, Source
from hpo_operator.consultant import Consultant
from hpo_operator.ledger import Ledger
from hpo_operator.outcomes import is_complete, metrics_wanted
from hpo_operator.places import count_waiting
from hpo_operator.planner import Cleanup, Consultation, MaxPending, Refusal, View
from hpo_operator.reports import Report
from hpo_operator.resources import Metadata, Study, StudyStatus, Trial
from hpo_operator.study_lifecycle import is_over
from hpo_operator.workloads import Phase, Workload

Object = dict[str, Any]

STUDY_WRITE_SECONDS = 1.0
NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"
NUMBERS_AT_ONCE = 200  # of Trials whose pods are asked for by one request, which has a limited length
CREATION = "creation"  # the key of the request that creates Trials, which is about none that there is
CONCURRENCY = 16  # requests of one Study at a time; more only queue up in the API server


@dataclass(frozen=True, slots=True)
class Live:
    """What Prometheus last said of a running Trial."""

    curve: tuple[tuple[int, float], ...] = ()
    report: Report | None = None


NOT_MEASURED = Live()


@dataclass(slots=True)
class StudyState:
    """All that is known of one Study.

    `ledger` is None until the Study has been accepted and its Trials have been listed. `missed` collects the events that come in
    while they are listed, anew too; None at other times. `absent` are the workloads that were looked for and are not there,
    with what is remembered of them, and `deleted` the uids of those that this process has deleted last; `rejected` those that
    the API server refused to create, with its words. `own` are Trials that this process has made and not started yet. `seen` is
    what the workloads come to, made again when one or a pod of it has changed; `pods_listed` are those whose pods were asked
    for. `pods_each` is how many pods one of its workloads has, as far as the template says. `claims` are the GPUs that a pod gets
    by each ResourceClaimTemplate that it names. `timer` ends the wait for the worker process: for its answer, or else for another
    question. `cleanup` is the Job that removes checkpoints, `uncleanable` one that the API server has refused.

    `earlier` is what the Studies that it names have found, None until they were looked for. `gone` says that it was looked for
    itself, and is not there any more.

    `requests` are under way: by the number of the Trial that they are about, or by what else. `wanted` are the Trials to be created
    next. `failure` is what went wrong with one since the Study was last looked at, and with which Trial; that was last so at
    `failed_at`.
    """

    namespace: str
    name: str
    uid: str
    raw: Object
    study: Study | None = None
    kind: WorkloadKind = JOB
    pods_each: int = 1
    invalid: str = ""
    edited: bool = True
    gone: bool = False
    ledger: Ledger | None = None
    versions: dict[int, int] = field(default_factory=dict)
    resync: bool = False
    missed: list[tuple[str, str | None, Object]] | None = None
    workloads: dict[int, Object] = field(default_factory=dict)
    absent: dict[int, Object | None] = field(default_factory=dict)
    deleted: dict[int, str] = field(default_factory=dict)
    own: set[int] = field(default_factory=set)
    rejected: dict[int, str] = field(default_factory=dict)
    claims: dict[str, int | None] = field(default_factory=dict)
    pods: dict[int, dict[str, Object]] = field(default_factory=dict)
    pods_listed: set[int] = field(default_factory=set)
    seen: dict[int, Workload] = field(default_factory=dict)
    live: dict[int, Live] = field(default_factory=dict)
    earlier: list[list[algorithms.Trial]] | None = None
    consultant: Consultant | None = None
    consultation: Consultation | None = None
    refusal: Refusal | None = None
    refusals: int = 0
    written: float = 0.0
    timer: asyncio.TimerHandle | None = None
    asked_at: float = 0.0
    source: Source = UNCONFIGURED
    cleanup: Object | None = None
    uncleanable: Cleanup | None = None
    logged: dict[int, Report] = field(default_factory=dict)
    logs_read: set[int] = field(default_factory=set)
    requests: dict[int | str, asyncio.Task[None]] = field(default_factory=dict)
    limit: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENCY))
    wanted: list[Trial] = field(default_factory=list)
    failure: tuple[Exception, int | None] | None = None
    failed_at: float = 0.0

    def keys(self, number: int | None = None) -> dict[str, str]:
        """The keys of a line of the log about the Study, or about one of its Trials."""
        study = f"{self.namespace}/{self.name}"
        return {"study": study} if number is None else {"study": study, "trial": f"{study}-{number}"}

    def view(self, now: datetime, max_pending: MaxPending | None = None) -> View:
        """What the planner gets to see."""
        assert self.study is not None and self.ledger is not None
        seen: dict[int, Workload] = {}
        for number in (*self.ledger.active, *self.ledger.uncleaned, *self.ledger.removed):
            if self.is_known(number):
                seen[number] = self.workload(number)
        stopping = stops_early(self.study.spec.schedule)
        standing = c.condition(self.study.status.conditions, c.METRICS_AVAILABLE)
        metrics = self.source.availability(timedelta(seconds=self.study.spec.metrics.interval_seconds), standing)
        wait = self.written + STUDY_WRITE_SECONDS - time.monotonic()
        due = now + timedelta(seconds=wait) if wait > 0 else None
        cleanup = seen_cleanup(self.cleanup) if self.cleanup is not None else self.uncleanable
        return View(
            study=self.study,
            ledger=self.ledger,
            workloads=seen,
            now=now,
            consultation=self.consultation,
            stopping=stopping,
            refusal=self.refusal,
            metrics=metrics,
            status_due=due,
            cleanup=cleanup,
            max_pending=max_pending,
        )

    def pods_waiting(self) -> int:
        """How many of its pods wait to run, those of workloads included that are being created, or follow the Trials that are."""
        if self.study is None or self.ledger is None:
            return 0
        waiting = count_waiting(self.workload(number) for number in self.ledger.active if number in self.workloads)
        starting = self.requests.keys() & self.ledger.active.keys() - self.workloads.keys() | self.following
        wanted = len(self.wanted) if CREATION in self.requests else 0
        return (waiting + len(starting) + wanted) * self.pods_each

    @property
    def following(self) -> set[int]:
        """The Trials that are being created, and those whose workloads follow when they all have been."""
        return self.own if CREATION in self.requests else set()

    @property
    def is_history(self) -> bool:
        """Whether the Study is over and nothing is left to be cleaned up."""
        if self.study is None or self.ledger is None or not is_over(self.study.status):
            return False
        ledger = self.ledger
        return not (ledger.active or ledger.uncleaned or ledger.removed or ledger.kept or ledger.collecting or self.cleanup)

    def is_known(self, number: int) -> bool:
        """Whether a Trial's workload has been seen, or is known not to be there."""
        return number in self.workloads or number in self.absent or number in self.rejected

    def workload(self, number: int) -> Workload:
        """A Trial's workload as it was last seen."""
        assert self.study is not None
        if number in self.rejected:
            return Workload(Phase.FAILED, ended=True, reason=c.WORKLOAD_REJECTED, message=self.rejected[number])
        found = self._observed(number)
        if found.phase in (Phase.PENDING, Phase.ABSENT):
            return found
        return with_results(self, number, found)

    def _observed(self, number: int) -> Workload:
        found = self.seen.get(number)
        if found is None:
            assert self.study is not None
            known, pods = self.workloads.get(number), self.pods.get(number, {}).values()
            listed = number in self.pods_listed
            found = observe(self.study.spec, self.kind, known, pods, self.absent.get(number), pods_listed=listed)
            self.seen[number] = found
        return found

    def is_news(self, number: int, before: Workload | None) -> bool:
        """Whether what has come in of a workload changes what it comes to: half of what is told of a pod does not."""
        return before is None or self.study is None or self._observed(number) != before

    def reporter(self, pod: Object) -> str:
        """The name of the container that reports."""
        assert self.study is not None
        name: str = reporting_container(pod["spec"], self.study.spec.template)["name"]
        return name

    def have(self, number: int, workload: Object) -> None:
        """Take in a workload. What was known of an earlier one of the same Trial is not this one's."""
        last = self.workloads.get(number) or self.absent.get(number)
        if last is not None and last["metadata"]["uid"] != workload["metadata"]["uid"]:
            pods = self.pods.get(number, {})  # those of the new one may be among them already
            self.forget(number)
            self.pods[number] = pods
        self.workloads[number] = slim_workload(workload)
        self.absent.pop(number, None)
        self.seen.pop(number, None)

    def lose(self, number: int) -> None:
        """Take in that a workload is not there; what it was is remembered."""
        known = self.workloads.pop(number, None)
        self.absent[number] = known if known is not None else self.absent.get(number)
        self.seen.pop(number, None)

    def is_being_listed(self, kind: str, event: str | None, raw: Object) -> bool:
        """Whether all that belongs to the Study is being listed; an event then waits until that is done."""
        if self.missed is None:
            return False
        self.missed.append((kind, event, raw))
        return True

    def forget(self, number: int) -> None:
        """Drop what is known of a workload that is gone for good."""
        for known in (self.workloads, self.pods, self.seen, self.live, self.logged, self.absent, self.rejected):
            known.pop(number, None)
        self.logs_read.discard(number)
        self.pods_listed.discard(number)

    def settle(self, number: int) -> None:
        """Drop what is known of an ended Trial's workload, but what is needed to delete it later."""
        kept = {name: self.workloads[number][name] for name in ("apiVersion", "kind", "metadata")}
        self.forget(number)
        self.workloads[number] = kept

    def is_stray(self, number: int, workload: Object) -> bool:
        """Whether a workload of a Trial that has ended is none that is known: a dead operator's request may be carried out late."""
        assert self.ledger is not None
        metadata, known = workload["metadata"], self.workloads.get(number)
        mine = {self.deleted.get(number), known["metadata"]["uid"] if known is not None else None}
        if metadata.get("deletionTimestamp") or metadata["uid"] in mine:
            return False
        self.ledger.reopen(number)
        return True

    def is_at_rest(self, number: int) -> bool:
        """Whether a Trial has ended, and so has its workload."""
        ledger = self.ledger
        return ledger is not None and number in ledger.trials and number not in ledger.active and number not in ledger.uncleaned

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
            self.invalid, self.edited = "", True  # to be read again; who works on what was read goes on with that
        elif self.study is not None and not self.edited:
            self.study = with_status(self.study, raw)
        return True

    def end(self) -> None:
        """The Study is gone: what is under way for it is of no use any more, and who works on it plans no more."""
        self.close()
        self.edited = True
        for request in self.requests.values():
            request.cancel()

    def close(self) -> None:
        """End the Study's worker process."""
        if self.timer is not None:
            self.timer.cancel()
        if self.consultant is not None:
            asyncio.get_running_loop().remove_reader(self.consultant.fileno())
            self.consultant.close()
            self.consultant = None


class Store:
    """All Studies by uid."""

    def __init__(self, source: Source = UNCONFIGURED) -> None:
        self.studies: dict[str, StudyState] = {}
        self._source = source

    def study(self, event: str | None, raw: Object) -> str:
        """Take in an event of a Study; gives its uid."""
        metadata = raw["metadata"]
        uid: str = metadata["uid"]
        if event == "DELETED":
            if uid in self.studies:
                self.studies.pop(uid).end()
            return uid
        if uid not in self.studies:
            self.studies[uid] = StudyState(metadata["namespace"], metadata["name"], uid, raw, source=self._source)
        self.studies[uid].put_study(raw)
        return uid

    def trial(self, event: str | None, raw: Object) -> str | None:
        """Take in an event of a Trial; gives the uid of the Study to look at."""
        state = self.studies.get(raw["spec"]["studyRef"]["uid"])
        if state is None or state.is_being_listed("trial", event, raw) or state.ledger is None:
            return None  # its Trials are listed before it is first looked at
        if event == "DELETED":
            number = raw["spec"]["number"]
            state.versions[number] = version_of(raw)  # the answer to a write before that may come later
            state.ledger.remove(number)
            return state.uid
        return state.uid if state.put_trial(raw) else None

    def workload(self, event: str | None, raw: Object) -> str | None:
        """Take in an event of a workload."""
        if is_cleanup(raw):
            return self._cleanup(event, raw)
        state, number = self._place(raw)
        if state is None or number is None or not _is_of_trial(raw) or state.is_being_listed("workload", event, raw):
            return None
        known = state.workloads.get(number)
        if event != "DELETED" and state.is_at_rest(number) and not state.is_stray(number, raw):
            return None
        if event == "DELETED":
            if known is not None and known["metadata"]["uid"] == raw["metadata"]["uid"]:
                state.lose(number)
            return state.uid
        if known is not None and version_of(known) >= version_of(raw):
            return None
        before = state.seen.get(number)
        state.have(number, raw)
        return state.uid if state.is_news(number, before) else None

    def pod(self, event: str | None, raw: Object) -> str | None:
        """Take in an event of a pod."""
        state, number = self._place(raw)
        if state is None or number is None or state.is_being_listed("pod", event, raw):
            return None
        if state.is_at_rest(number):
            return None
        pods, uid = state.pods.setdefault(number, {}), raw["metadata"]["uid"]
        known = pods.get(uid)
        if known is not None and version_of(known) >= version_of(raw):
            return None
        pods[uid] = slim_pod(raw, gone=event == "DELETED", claimed=claimed_by(raw, state.claims))
        before = state.seen.pop(number, None)
        return state.uid if state.is_news(number, before) else None

    def _cleanup(self, event: str | None, raw: Object) -> str | None:
        state, _ = self._place(raw)
        if state is None or state.is_being_listed("workload", event, raw):
            return None
        known = state.cleanup
        if event == "DELETED":
            if known is not None and known["metadata"]["uid"] == raw["metadata"]["uid"]:
                state.cleanup = None
        elif known is None or version_of(known) < version_of(raw):
            state.cleanup = raw
        return state.uid

    def _place(self, raw: Object) -> tuple[StudyState | None, int | None]:
        metadata = raw["metadata"]
        labels = metadata.get("labels") or {}
        number, state = labels.get(NUMBER_LABEL, ""), self.studies.get(labels.get(STUDY_UID_LABEL, ""))
        if state is None or metadata.get("namespace", state.namespace) != state.namespace:
            return None, None  # labels are anybody's to write; a namespace is not
        return state, int(number) if number.isdigit() else None


def with_results(state: StudyState, number: int, workload: Workload) -> Workload:
    """A workload with what is known of its results: its last words, else its log, else the last samples before its end.

    Samples count for an ended one only when none may still come, for those that there are may not be the last.
    """
    live = state.live.get(number, NOT_MEASURED)
    if workload.phase is Phase.RUNNING and live is NOT_MEASURED:
        return workload
    assert state.study is not None
    spec = state.study.spec
    if workload.awaiting:
        return replace(workload, curve=live.curve)  # its last words may still come, and go first
    wanted, report, source = metrics_wanted(spec), workload.report, workload.source
    if not is_complete(report, wanted) and number in state.logged:
        report, source = state.logged[number], "Log"
    awaiting = False
    if not is_complete(report, wanted) and workload.phase is Phase.SUCCEEDED and not workload.disrupted:
        interval = timedelta(seconds=spec.metrics.interval_seconds)
        log_due = spec.metrics.logs is not None and number not in state.logs_read
        awaiting = log_due or state.source.has_more(workload.finished, interval)
    if not awaiting and not is_complete(report, wanted) and live.report is not None:
        report, source = live.report, "Prometheus"
    if workload.phase is Phase.SUCCEEDED and not awaiting and not is_complete(report, wanted):
        workload = replace(workload, message=state.source.excuse())
    if is_complete(report, wanted) and workload.disrupted and workload.reason == c.RESULT_LOST:
        workload = replace(workload, disrupted=False, reason="", message="")  # it is lost with the pod, but not to us
    return replace(workload, report=report, source=source, curve=live.curve, awaiting=awaiting)


async def list_everything(client: Client, store: Store, state: StudyState, kind: Kind, ledger: Ledger) -> None:
    """Take in a Study's Trials, workload and pods as the API server has them: what is not among them is absent.

    Events that come in meanwhile are older than some parts of the lists and newer than others; they are taken in afterwards.
    """
    selector, state.missed = f"{STUDY_UID_LABEL}={state.uid}", []
    try:
        wanted = [(TRIALS, selector), (kind, selector)]
        if kind != JOBS and ledger.spec.checkpoints is not None:
            wanted.append((JOBS, f"{selector},{CLEANUP_LABEL}"))
        # At once: the API server prepares the one while the other is read.
        found, *others = await asyncio.gather(*(_whole_list(client, each, state.namespace, these) for each, these in wanted))
        trials = {each["spec"]["number"]: each for each in found}
        workloads = [each for those in others for each in those]
        running = [number for number, trial in trials.items() if not _has_result(trial)]
        pods = [each async for each in _pods_that_matter(client, state.namespace, selector, running)]
    finally:
        missed, state.missed = state.missed, None
    state.ledger = ledger
    for number in sorted(trials):
        state.put_trial(trials[number])
    for number in ledger.trials.keys() - trials.keys():
        ledger.remove(number)
    known, state.workloads = state.workloads, {}
    heard_of, state.pods = state.pods, {}
    state.seen.clear()
    state.cleanup = None
    for each in workloads:
        store.workload(None, each)
    for each in pods:
        store.pod(None, each)
    for number in running:  # a pod that is not there any more keeps its evidence, as after its deletion
        here = state.pods.setdefault(number, {})
        here |= {uid: {**pod, GONE: True} for uid, pod in heard_of.get(number, {}).items() if uid not in here}
    for number in (known.keys() | ledger.trials.keys()) - state.workloads.keys():
        state.absent[number] = known.get(number, state.absent.get(number))
    for number in state.workloads.keys() - trials.keys():
        ledger.remove(number)  # deleted by hand, and its workload is still to follow
    for what, event, raw in missed:
        getattr(store, what)(event, raw)


async def _whole_list(client: Client, kind: Kind, namespace: str, selector: str) -> list[Object]:
    return [each async for each in client.list(kind, namespace, selector)]


async def _pods_that_matter(client: Client, namespace: str, selector: str, running: Sequence[int]) -> AsyncIterator[Object]:
    """A Study's pods that have not ended, whatever they are of, and all those of the Trials that have no result yet.

    What ended pods of other Trials have said stands in results that never change, and there may be thousands of them.
    """
    async for pod in client.list(PODS, namespace, selector, NOT_ENDED):
        yield pod
    for start in range(0, len(running), NUMBERS_AT_ONCE):
        numbers = ",".join(map(str, running[start : start + NUMBERS_AT_ONCE]))
        async for pod in client.list(PODS, namespace, f"{selector},{NUMBER_LABEL} in ({numbers})"):
            yield pod


def _has_result(trial: Object) -> bool:
    return any(each["type"] == c.SUCCEEDED and each["status"] != "Unknown" for each in conditions_of(trial))


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


def _is_of_trial(raw: Object) -> bool:
    """Whether a Trial controls an object: controllers may copy our labels to what they make themselves."""
    owners = raw["metadata"].get("ownerReferences") or ()
    return any(each.get("controller") and each.get("kind") == "Trial" for each in owners)


def slim_pod(pod: Object, *, gone: bool = False, claimed: int = 0) -> Object:
    """The parts of a pod that are looked at: a thousand whole ones would fill the memory. One that is gone keeps its evidence."""
    spec = {
        field: [{k: v for k, v in each.items() if k in ("name", "resources", "restartPolicy")} for each in pod["spec"][field]]
        for field in ("initContainers", "containers")
        if field in pod["spec"]
    }
    known = {GONE: gone, CLAIMED: claimed}
    return {
        "metadata": _slim_metadata(pod),
        "spec": spec,
        "status": pod.get("status") or {},
        **{field: value for field, value in known.items() if value},
    }


def slim_workload(workload: Object) -> Object:
    """A workload without its template, which nobody looks at any more."""
    spec = {field: value for field, value in (workload.get("spec") or {}).items() if field != "template"}
    return {**workload, "metadata": _slim_metadata(workload), "spec": spec}


def _slim_metadata(raw: Object) -> Object:
    return {field: value for field, value in raw["metadata"].items() if field != "managedFields"}
