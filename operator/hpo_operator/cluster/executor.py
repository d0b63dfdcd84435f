"""Carrying out the planner's actions: the one place that writes.

Trials are created in ascending number, each acknowledged before the next; what does not depend on one another is done at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hpo_operator import conditions as c
from hpo_operator.cluster.cleanup import cleanup_manifest
from hpo_operator.cluster.client import JOBS, STUDIES, TRIALS, Client, Object, RequestFailed
from hpo_operator.cluster.events import Recorder
from hpo_operator.cluster.rendering import trial_manifest, workload_manifest
from hpo_operator.cluster.store import StudyState, version_of
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
from hpo_operator.resources import CheckpointRecord, StudyStatus, Trial, TrialStatus

CREATIONS = 8  # Trials created before the next look: what has ended meanwhile must not wait for a hundred of them
CONCURRENCY = 16  # requests of one Study at a time; more only queue up in the API server
STUDY_WRITE_SECONDS = 1.0
REFUSED_FOR_GOOD = (400, 422)  # the object itself is refused; a quota or a missing right (403) may be mended


TOLD = c.FAILURES | c.INFEASIBILITIES | c.LOSSES | {c.EARLY_STOPPED, c.DONOR_UNAVAILABLE, c.UNSCHEDULABLE, c.IMAGE_PULL}


class NameConflict(Exception):
    """An object of the wanted name belongs to somebody else."""


class Executor:
    """Writes to the API server for all Studies, and keeps the store at what it has written."""

    def __init__(self, client: Client, recorder: Recorder, cleanup_image: str | None = None) -> None:
        self._client = client
        self._recorder = recorder
        self._cleanup_image = cleanup_image

    async def execute(self, state: StudyState, actions: Sequence[Action]) -> tuple[bool, float | None]:
        """Carry out actions; gives whether anything has changed that calls for another plan, and when to come back.

        Raises RequestFailed when a request fails in a way that a new plan on fresh knowledge does not mend, NameConflict when a
        name is taken. What was done before that stands in the store.
        """
        try:
            return await self._execute(state, actions)
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _execute(self, state: StudyState, actions: Sequence[Action]) -> tuple[bool, float | None]:
        changed, later, created = False, None, 0
        limit = asyncio.Semaphore(CONCURRENCY)
        async with asyncio.TaskGroup() as group:
            for action in actions:
                match action:
                    case CreateTrial() | WriteStudy() if created == CREATIONS:
                        break  # planned again, on what is then known
                    case CreateTrial(trial):
                        await self._create_trial(state, trial)
                        changed, created = True, created + 1
                    case StartWorkload(number):
                        group.create_task(self._limited(limit, self._start(state, number)))
                        changed = True
                    case WriteTrial(number, status):
                        group.create_task(self._limited(limit, self._write_trial(state, number, status)))
                        changed = True
                    case StopWorkload(number):
                        group.create_task(self._limited(limit, self._stop(state, number)))
                    case LookForWorkload(number):
                        group.create_task(self._limited(limit, self._look(state, number)))
                        changed = True
                    case WriteCheckpoint(number, record):
                        group.create_task(self._limited(limit, self._write_checkpoint(state, number, record)))
                        changed = True
                    case Collect(numbers):
                        await self._collect(state, numbers)
                        changed = True
                    case EndCleanup():
                        await self._end_cleanup(state)
                        changed = True
                    case WriteStudy(status):
                        later = await self._write_study(state, status)
                    case Ask():
                        pass  # the caller's, who owns the worker processes
        return changed, later

    @staticmethod
    async def _limited(limit: asyncio.Semaphore, work: Any) -> None:
        async with limit:
            await work

    async def _create_trial(self, state: StudyState, trial: Trial) -> None:
        assert state.study is not None and state.ledger is not None
        try:
            stored = await self._client.create(TRIALS, state.namespace, trial_manifest(state.study, trial))
            state.own.add(trial.spec.number)
        except RequestFailed as failure:
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
            if number not in state.ledger.active:
                return
        state.own.discard(number)
        kind = state.kind.served
        manifest = workload_manifest(state.study, trial, state.ledger.space)
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
        trial = state.ledger.trials.get(number)
        if found is None or trial is None or not _owned_by(found, trial.metadata.uid):
            state.lose(number)
        else:
            state.have(number, found)

    async def _write_trial(self, state: StudyState, number: int, status: TrialStatus) -> None:
        assert state.ledger is not None
        name = state.ledger.trials[number].metadata.name
        try:
            stored = await self._client.patch_status(TRIALS, state.namespace, name, str(state.versions[number]), status.manifest())
        except RequestFailed as failure:
            if failure.status not in (404, 409):
                raise
            await self._refresh_trial(state, number, name)
            return
        state.put_trial(stored)
        self._tell_trial(state, name, status)

    async def _write_checkpoint(self, state: StudyState, number: int, record: CheckpointRecord) -> None:
        assert state.ledger is not None
        name, status = state.ledger.trials[number].metadata.name, {"checkpoint": record.manifest()}
        try:
            stored = await self._client.patch_status(TRIALS, state.namespace, name, str(state.versions[number]), status)
        except RequestFailed as failure:
            if failure.status not in (404, 409):
                raise
            await self._refresh_trial(state, number, name)
            return
        state.put_trial(stored)

    async def _collect(self, state: StudyState, numbers: Sequence[int]) -> None:
        """Start the removal of checkpoints, or adopt the one that is at work. That it is refused keeps no Trial from running."""
        assert state.study is not None
        manifest = cleanup_manifest(state.study, numbers, self._cleanup_image)
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

    async def _write_study(self, state: StudyState, status: StudyStatus) -> float | None:
        """Write the Study's status, at most once a second; gives the seconds to wait when it is too early."""
        assert state.study is not None
        if state.edited:
            return 0.0  # this status is about what the Study asked before
        before = state.study.status  # the watch may tell of the next one before its write is answered
        wait = state.written + STUDY_WRITE_SECONDS - time.monotonic()
        if wait > 0 and status.completion_time is None:
            return wait
        try:
            stored = await self._client.patch_status(
                STUDIES, state.namespace, state.name, str(version_of(state.raw)), _replacing(state.raw, status)
            )
        except RequestFailed as failure:
            if failure.status not in (404, 409):
                raise
            found = await self._client.get(STUDIES, state.namespace, state.name)
            if found is not None and found["metadata"]["uid"] == state.uid:
                state.put_study(found)
            return 0.0
        state.written = time.monotonic()
        state.put_study(stored)
        self._tell_study(state, before, status)
        return None

    # Events, all about the Study: an undisturbed Trial costs none

    def _tell_trial(self, state: StudyState, name: str, status: TrialStatus) -> None:
        for type_ in (c.SUCCEEDED, c.RUNNING):
            found = c.condition(status.conditions, type_)
            if found is not None and found.reason in TOLD:
                kind: Any = "Normal" if found.reason == c.EARLY_STOPPED else "Warning"
                self._recorder.record(state.raw, kind, found.reason, f"{name}: {found.message or found.reason}")
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


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of several: one is enough to know that a new look is needed."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _replacing(raw: Object, status: StudyStatus) -> Object:
    """A merge patch that makes the status equal to this one: fields that it does not have any more are nulled."""
    wanted = status.manifest()
    gone = {name: None for name in raw.get("status") or {} if name not in wanted}
    return {**wanted, **gone}


def _owned_by(found: Object, uid: str) -> bool:
    return any(each.get("uid") == uid for each in found["metadata"].get("ownerReferences") or ())
