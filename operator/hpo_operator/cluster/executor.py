"""Carrying out the planner's actions: the one place that writes.

Nothing waits here: an action becomes a request that is under way while the Study is planned on, and its answer wakes the Study. A
Trial has at most one request under way, so that what follows from it is decided when it stands; Trials are created in ascending
number, each acknowledged before the next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from hpo_operator import conditions as c
from hpo_operator.cluster.cleanup import cleanup_manifest
from hpo_operator.cluster.client import JOBS, STUDIES, TRIALS, Client, Object, RequestFailed
from hpo_operator.cluster.events import Recorder
from hpo_operator.cluster.queue import WorkQueue
from hpo_operator.cluster.rendering import trial_manifest, workload_manifest
from hpo_operator.cluster.store import CREATION, StudyState, version_of
from hpo_operator.planner import (
    Action,
    Ask,
    Cleanup,
    Collect,
    CreateTrial,
    EndCleanup,
    LookForWorkload,
    StartWorkload,
    StopWorkload,
    WriteCheckpoint,
    WriteStudy,
    WriteTrial,
)
from hpo_operator.resources import CheckpointRecord, Condition, StudyStatus, Trial, TrialStatus

log = logging.getLogger("hpo_operator")

REFUSED_FOR_GOOD = (400, 422)  # the object itself is refused; a quota or a missing right (403) may be mended
# For so long at most a Trial's workload waits for the Trials that are created together with it: while none of the Study's runs, and
# while some do, whose places it is to take when they end.
TOGETHER_SECONDS, REFILL_SECONDS = 5.0, 0.3
STATUS, CLEANUP = "status", "cleanup"  # requests that are not about one Trial that there is, as CREATION

TOLD = c.FAILURES | c.INFEASIBILITIES | c.LOSSES | {c.EARLY_STOPPED, c.DONOR_UNAVAILABLE, c.UNSCHEDULABLE, c.IMAGE_PULL}
LOGGED = TOLD | {c.COMPLETED, c.CANCELED}


class NameConflict(Exception):
    """An object of the wanted name belongs to somebody else."""


class Executor:
    """Writes to the API server for all Studies, and keeps the store at what it has written.

    A Study is looked at again whenever a request of it was answered. One that failed in a way that a new plan on fresh knowledge
    does not mend stands in the Study's `failure` then: a RequestFailed, or a NameConflict when a name is taken.
    """

    def __init__(
        self,
        client: Client,
        recorder: Recorder,
        queue: WorkQueue[str],
        cleanup_image: str | None = None,
        sdk_image: str | None = None,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._queue = queue
        self._cleanup_image, self._sdk_image = cleanup_image, sdk_image

    def execute(self, state: StudyState, actions: Sequence[Action]) -> None:
        """Begin to carry out actions, but those about what waits for an answer already."""
        assert state.ledger is not None
        state.wanted = [each.trial for each in actions if isinstance(each, CreateTrial)]
        for action in actions:
            match action:
                case CreateTrial():
                    self._begin(state, CREATION, self._create_trials)
                case StartWorkload(number) if number in state.ledger.trials and number not in state.following:
                    self._begin(state, number, self._start, number)
                case WriteTrial(number, status):
                    self._begin(state, number, self._write_trial, number, status, state.versions[number])
                case StopWorkload(number):
                    self._begin(state, number, self._stop, number)
                case LookForWorkload(number):
                    self._begin(state, number, self._look, number)
                case WriteCheckpoint(number, record):
                    self._begin(state, number, self._write_checkpoint, number, record, state.versions[number])
                case Collect(numbers):
                    self._begin(state, CLEANUP, self._collect, numbers)
                case EndCleanup():
                    self._begin(state, CLEANUP, self._end_cleanup)
                case WriteStudy(status) if status.completion_time is None or CREATION not in state.requests:
                    self._begin(state, STATUS, self._write_study, status, version_of(state.raw))
                case StartWorkload() | WriteStudy() | Ask():
                    # Of a Trial that is being created, or about to be; an end that does not know of one that is being created; the
                    # caller's, who owns the worker processes.
                    pass

    def _begin(self, state: StudyState, key: int | str, work: Callable[..., Coroutine[Any, Any, None]], *about: Any) -> None:
        if key not in state.requests:
            state.requests[key] = asyncio.create_task(self._carry_out(state, key, partial(work, state, *about)))

    async def _carry_out(self, state: StudyState, key: int | str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        since = time.monotonic()
        try:
            if key == CREATION:  # there is one, on which those wait whose places are free
                await work()
            else:
                async with state.limit:
                    await work()
            self._queue.forgive(state.uid)
        except Exception as failure:
            if state.failure is None and since > state.failed_at:  # those under way with it are part of the same trouble
                about = state.ledger.created if key == CREATION and state.ledger is not None else key
                state.failure = failure, about if isinstance(about, int) else None
        finally:
            del state.requests[key]
        self._queue.add(state.uid)

    async def _create_trials(self, state: StudyState) -> None:
        """Create what is wanted, one after the other, for as long as nothing has come up that calls for another plan first.

        Their workloads follow together: controllers and scheduler at work on the first would slow down the creation of the rest,
        for which places that are free again would have to wait.
        Where that fails, the next plan starts those that there are.
        """
        assert state.ledger is not None
        created, since = list[int](), time.monotonic()
        while state.wanted and state.failure is None and not (state.edited or state.resync):
            trial = state.wanted.pop(0)
            if trial.spec.number == state.ledger.created:
                await self._create_trial(state, trial)
                created.append(trial.spec.number)
            runs = any(number in state.workloads for number in state.ledger.active)
            if not state.wanted or time.monotonic() > since + (REFILL_SECONDS if runs else TOGETHER_SECONDS):
                for number in created:
                    self._begin(state, number, self._start, number)
                created, since = [], time.monotonic()

    async def _create_trial(self, state: StudyState, trial: Trial) -> None:
        assert state.study is not None and state.ledger is not None
        number = trial.spec.number
        state.own.add(number)  # the watch may tell of it before its creation is answered
        try:
            stored = await self._client.create(TRIALS, state.namespace, trial_manifest(state.study, trial))
        except RequestFailed as failure:
            state.own.discard(number)
            if failure.status != 409:
                raise
            found = await self._client.get(TRIALS, state.namespace, trial.metadata.name)
            if found is None:
                raise
            if not _owned_by(found, state.uid):
                raise NameConflict(f"Trial {trial.metadata.name} belongs to another Study.") from None
            stored = found
        state.put_trial(stored)

    async def _start(self, state: StudyState, number: int) -> None:
        assert state.study is not None and state.ledger is not None
        trial = state.ledger.trials.get(number)
        if trial is None:
            return  # deleted by hand meanwhile
        if number not in state.own:  # another operator may have run it to its end, and what is known here be older
            await self._refresh_trial(state, number, trial.metadata.name)
        state.own.discard(number)
        if number not in state.ledger.active:
            return
        kind = state.kind.served
        manifest = workload_manifest(state.study, trial, state.ledger.space, self._sdk_image)
        try:
            stored = await self._client.create(kind, state.namespace, manifest)
        except RequestFailed as failure:
            if failure.status in REFUSED_FOR_GOOD:
                state.rejected[number] = f"The API server refuses the workload: {failure.message}"
                return
            if failure.status != 409:
                raise
            found = await self._client.get(kind, state.namespace, trial.metadata.name)
            if found is None:
                raise
            if not _owned_by(found, trial.metadata.uid):
                raise NameConflict(f"{kind.kind} {trial.metadata.name} belongs to somebody else.") from None
            stored = found
        state.refusal, state.refusals = None, 0
        known = state.workloads.get(number)
        if known is None or version_of(known) < version_of(stored):
            state.have(number, stored)

    async def _stop(self, state: StudyState, number: int) -> None:
        known = state.workloads.get(number)
        assert state.study is not None and state.ledger is not None
        if known is not None:
            metadata = known["metadata"]
            await self._client.delete(state.kind.served, state.namespace, metadata["name"], metadata["uid"])
            state.deleted[number] = metadata["uid"]
        if state.is_at_rest(number):
            state.ledger.cleaned(number)  # its pods ended long ago
            state.forget(number)
        else:
            state.lose(number)

    async def _look(self, state: StudyState, number: int) -> None:
        assert state.study is not None and state.ledger is not None
        found = await self._client.get(state.kind.served, state.namespace, f"{state.name}-{number}")
        if number in state.workloads:
            return  # the watch has told of it meanwhile, and knows better
        trial = state.ledger.trials.get(number)
        if found is None or trial is None or not _owned_by(found, trial.metadata.uid):
            state.lose(number)
        else:
            state.have(number, found)

    async def _write_trial(self, state: StudyState, number: int, status: TrialStatus, version: int) -> None:
        assert state.ledger is not None
        known = state.ledger.trials.get(number)
        if await self._patch_trial(state, number, _replacing(known.status.manifest() if known else {}, status), version):
            self._tell_trial(state, number, status)

    async def _write_checkpoint(self, state: StudyState, number: int, record: CheckpointRecord, version: int) -> None:
        await self._patch_trial(state, number, {"checkpoint": record.manifest()}, version)

    async def _patch_trial(self, state: StudyState, number: int, status: Object, version: int) -> bool:
        """Write fields of a Trial's status that rest on a version of it, and only on that.

        Whether they stand: somebody else may have changed or deleted it meanwhile.
        """
        assert state.ledger is not None
        if number not in state.ledger.trials:
            return False
        name = state.ledger.trials[number].metadata.name
        try:
            stored = await self._client.patch_status(TRIALS, state.namespace, name, str(version), status)
        except RequestFailed as failure:
            if failure.status not in (404, 409):
                raise
            await self._refresh_trial(state, number, name)
            return False
        state.put_trial(stored)
        return True

    async def _collect(self, state: StudyState, numbers: Sequence[int]) -> None:
        """Start the removal of checkpoints, or adopt the one that is at work. That it is refused keeps no Trial from running."""
        assert state.study is not None
        manifest = cleanup_manifest(state.study, numbers, self._cleanup_image, self._sdk_image)
        name = manifest["metadata"]["name"]
        try:
            state.cleanup = await self._client.create(JOBS, state.namespace, manifest)
        except RequestFailed as failure:
            if failure.transient:
                raise
            found = await self._client.get(JOBS, state.namespace, name) if failure.status == 409 else None
            if found is not None and _owned_by(found, state.uid):
                state.cleanup = found
            else:
                state.uncleanable = Cleanup(tuple(numbers), ended=datetime.now(UTC), message=failure.message)

    async def _end_cleanup(self, state: StudyState) -> None:
        assert state.study is not None
        seen = state.view(datetime.now(UTC)).cleanup
        if seen is not None and not seen.succeeded:
            self._recorder.record(state.raw, "Warning", "CleanupFailed", f"Checkpoints could not be removed: {seen.message}")
        if state.cleanup is not None:
            metadata = state.cleanup["metadata"]
            await self._client.delete(JOBS, state.namespace, metadata["name"], metadata["uid"])
        state.cleanup = state.uncleanable = None

    async def _refresh_trial(self, state: StudyState, number: int, name: str) -> None:
        """Somebody else has written, or deleted, a Trial: take in what is there, and let the next plan decide on it."""
        assert state.ledger is not None
        found = await self._client.get(TRIALS, state.namespace, name)
        if found is None or not _owned_by(found, state.uid):
            state.ledger.remove(number)
        else:
            state.put_trial(found)

    async def _write_study(self, state: StudyState, status: StudyStatus, version: int) -> None:
        """Write the Study's status, which rests on a version of it."""
        assert state.study is not None
        if state.edited:
            return  # this status is about what the Study asked before
        before = state.study.status  # the watch may tell of the next one before its write is answered
        try:
            stored = await self._client.patch_status(
                STUDIES, state.namespace, state.name, str(version), _replacing(state.raw.get("status") or {}, status)
            )
        except RequestFailed as failure:
            if failure.status not in (404, 409):
                raise
            found = await self._client.get(STUDIES, state.namespace, state.name)
            if found is not None and found["metadata"]["uid"] == state.uid:
                state.put_study(found)
            else:
                state.gone = True
            return
        state.written = time.monotonic()
        state.put_study(stored)
        self._tell_study(state, before, status)

    # The log, and Events, all about the Study: an undisturbed Trial costs a line and no Event

    def _tell_trial(self, state: StudyState, number: int, status: TrialStatus) -> None:
        for type_ in (c.SUCCEEDED, c.RUNNING):
            found = c.condition(status.conditions, type_)
            if found is None or found.reason not in LOGGED:
                continue
            log.info("%s", _said(found), extra=state.keys(number))
            if found.reason in TOLD:
                kind: Any = "Normal" if found.reason == c.EARLY_STOPPED else "Warning"
                self._recorder.record(state.raw, kind, found.reason, f"{state.name}-{number}: {found.message or found.reason}")
            return

    def _tell_study(self, state: StudyState, before: StudyStatus, after: StudyStatus) -> None:
        for type_ in (c.PROGRESSING, c.METRICS_AVAILABLE, c.SUCCEEDED):
            old, new = c.condition(before.conditions, type_), c.condition(after.conditions, type_)
            if new is None or (old.reason if old else c.IN_PROGRESS) == new.reason or new.reason in (c.FINISHED, c.TRIALS_ACTIVE):
                continue
            if type_ == c.METRICS_AVAILABLE and new.status != "False" and (old is None or old.status != "False"):
                continue  # only that it is away, or back
            bad = new.status == "False" and new.reason not in (c.SUSPENDED, c.TRIALS_PENDING)
            self._recorder.record(state.raw, "Warning" if bad else "Normal", new.reason, new.message or new.reason)
            log.log(logging.WARNING if bad else logging.INFO, "%s", _said(new), extra=state.keys())


def _replacing(known: Object, status: StudyStatus | TrialStatus) -> Object:
    """A merge patch that makes a status equal to this one: fields that it does not have any more are nulled."""
    wanted = status.manifest()
    gone = {name: None for name in known if name not in wanted}
    return {**wanted, **gone}


def _said(condition: Condition) -> str:
    return f"{condition.reason}: {condition.message}" if condition.message else condition.reason


def _owned_by(found: Object, uid: str) -> bool:
    return any(each.get("uid") == uid for each in found["metadata"].get("ownerReferences") or ())
