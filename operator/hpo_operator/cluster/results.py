"""Gathering results: live ones at each interval, and what is still missing when a workload has ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from hpo_operator.cluster import logs
from hpo_operator.cluster.client import Client, RequestFailed
from hpo_operator.cluster.observing import completion_index
from hpo_operator.cluster.prometheus import Answer, Prometheus, Run, SourceFailed
from hpo_operator.cluster.sources import is_scraped
from hpo_operator.cluster.store import Live, Store, StudyState
from hpo_operator.outcomes import metrics_wanted
from hpo_operator.workloads import Phase

log = logging.getLogger("hpo_operator")

TICK_SECONDS = 1.0
QUESTIONS = 8  # to the source at the same time
LOG_LINES = 10_000  # the end of a log that is searched for a pattern
LOGS = 2  # searched at the same time
LOG_TRIES = 5
LOG_RETRY_SECONDS = 2.0  # doubled with each try


class Gatherer:
    """Measures each Study at its interval, and seeks the final reports that programs have not left themselves.

    `changed` is called with the uid of a Study that has news. `run` must run for anything to happen.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        source: Prometheus | None,
        changed: Callable[[str], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client, self._store, self._source, self._changed, self._clock = client, store, source, changed, clock
        self._due: dict[str, datetime] = {}
        self._sought: set[tuple[object, ...]] = set()  # ended runs whose Studies were measured out of turn
        self._reading: set[tuple[str, int]] = set()
        self._measuring: set[str] = set()
        self._pods: dict[tuple[str, int], frozenset[str]] = {}  # whose samples stand in `live`
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions, self._logs = asyncio.Semaphore(QUESTIONS), asyncio.Semaphore(LOGS)

    async def run(self) -> None:
        """Gather until canceled."""
        try:
            while True:
                self.tick()
                await asyncio.sleep(TICK_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()

    def tick(self) -> None:
        """Begin to measure the Studies whose time has come. One that is slow to answer delays no other."""
        now = self._clock()
        self._forget_the_deleted()
        for uid, state in self._store.studies.items():
            if state.study is None or state.ledger is None or uid in self._measuring or self._due.get(uid, now) > now:
                continue
            self._due[uid] = now + timedelta(seconds=state.study.spec.metrics.interval_seconds)
            self._start(state, self.measure(state))

    def seek(self, state: StudyState, number: int) -> None:
        """Seek what an ended program's own last words lack: in its log, where a pattern is given, and at the source.

        To be called whenever the Trial is looked at and that is so; begins once and does not wait.
        """
        key = (state.uid, number)
        assert state.study is not None
        if state.study.spec.metrics.logs is not None and number not in state.logs_read and key not in self._reading:
            self._reading.add(key)
            self._start(state, self.read_log(state, number))
        run = (*key, *_names(state, number))
        if run not in self._sought:
            self._sought.add(run)
            self._due.pop(state.uid, None)  # not to wait for the next interval

    async def measure(self, state: StudyState) -> None:
        """Ask the source for all Trials of a Study that run, or whose last sample may still come."""
        runs = self._runs(state)
        if self._source is None or not runs or state.uid in self._measuring:
            return
        assert state.study is not None
        spec = state.study.spec
        self._measuring.add(state.uid)
        try:
            async with self._questions:
                now = self._clock()
                answer = await self._source.measure(spec, state.uid, runs, now)
        except SourceFailed as failure:
            before, state.source = state.source, state.source.failed(now, str(failure), failure.refused)
            if before.error != state.source.error:
                log.warning("%s", failure, extra=state.keys())
        else:
            if state.source.away_since is not None:
                log.info("Prometheus answers again", extra=state.keys())
            self._take(state, runs, answer)
            interval = timedelta(seconds=spec.metrics.interval_seconds)
            since = min((run.started for run in runs.values() if run.finished is None), default=None)
            state.source = state.source.answered(now, is_scraped(since, answer.newest, interval, now))
        finally:
            self._measuring.discard(state.uid)
        self._changed(state.uid)

    async def read_log(self, state: StudyState, number: int) -> None:
        """Search an ended program's log for the Study's pattern; `logs_read` says that there is nothing more to expect of it."""
        assert state.study is not None
        pod, wanted = next(iter(reporting_pods(state, number)), None), metrics_wanted(state.study.spec)
        pattern = state.study.spec.metrics.logs
        try:
            if pod is not None and pattern is not None:
                async with self._logs:
                    text = await self._log(state, pod)
                    found = await logs.search(text, pattern.pattern, wanted)
                if found.metrics:
                    state.logged[number] = found
        except (RequestFailed, logs.SearchFailed) as failure:
            log.warning("the log cannot be searched: %s", failure, extra=state.keys(number))
        finally:
            self._reading.discard((state.uid, number))
        state.logs_read.add(number)
        self._changed(state.uid)

    async def _log(self, state: StudyState, pod: dict[str, Any]) -> str:
        """The end of the reporting container's log; tried a few times, since a node may be slow to answer."""
        delay = LOG_RETRY_SECONDS
        for _ in range(LOG_TRIES - 1):
            try:
                return await self._client.log(state.namespace, pod["metadata"]["name"], state.reporter(pod), LOG_LINES)
            except RequestFailed as failure:
                if not failure.transient:
                    raise
                await asyncio.sleep(max(delay, failure.retry_after))
                delay *= 2
        return await self._client.log(state.namespace, pod["metadata"]["name"], state.reporter(pod), LOG_LINES)

    def _runs(self, state: StudyState) -> dict[int, Run]:
        """What there is to measure: active Trials whose programs run, or have ended without all that is wanted."""
        assert state.ledger is not None
        found = {}
        for number in state.ledger.active:
            if number not in state.workloads:
                continue
            workload = state.workload(number)
            if workload.started is None or not (workload.phase is Phase.RUNNING or workload.awaiting):
                continue
            found[number] = Run(workload.started, workload.finished, frozenset(_names(state, number)), state.namespace)
        return found

    def _take(self, state: StudyState, runs: dict[int, Run], answer: Answer) -> None:
        """Samples of a Trial that are not there any more stay known, but what an earlier run has reported is not this one's."""
        assert state.ledger is not None
        for number, run in runs.items():
            if number not in state.ledger.active:
                continue
            key = (state.uid, number)
            if run.pods.isdisjoint(self._pods.get(key, run.pods)) and run.pods:
                state.live.pop(number, None)
            self._pods[key] = run.pods or self._pods.get(key, run.pods)
            if (found := answer.trials.get(number)) is not None:
                state.live[number] = Live(found.curve, found.report)
        for warning in answer.warnings:
            log.warning("Prometheus warns: %s", warning, extra=state.keys())

    def _forget_the_deleted(self) -> None:
        studies = self._store.studies
        for uid in self._due.keys() - studies.keys():
            del self._due[uid]
        self._pods = {key: pod for key, pod in self._pods.items() if _is_active(studies.get(key[0]), key[1])}
        self._sought = {run for run in self._sought if _is_active(studies.get(str(run[0])), run[1])}

    def _start(self, state: StudyState, work: Coroutine[Any, Any, None]) -> None:
        async def guarded() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                try:
                    await work
                except Exception:
                    log.exception("unexpected error while results were gathered", extra=state.keys())

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def reporting_pods(state: StudyState, number: int) -> list[dict[str, Any]]:
    """The pods that may report for a Trial, the likeliest first: they have the reporter's labels, and have not been replaced."""
    assert state.study is not None
    reporter = state.study.spec.template.reporter
    selector = (reporter.pod_selector if reporter else None) or {}
    pods = [p for p in state.pods.get(number, {}).values() if selector.items() <= (p["metadata"].get("labels") or {}).items()]
    pods.sort(key=lambda each: (completion_index(each) == "0", str(each["metadata"].get("creationTimestamp"))), reverse=True)
    return [each for each in pods if each["status"].get("phase") != "Failed" and not each.get("gone")] or pods[:1]


def _names(state: StudyState, number: int) -> list[str]:
    return [each["metadata"]["name"] for each in reporting_pods(state, number)]


def _is_active(state: StudyState | None, number: object) -> bool:
    return state is not None and state.ledger is not None and number in state.ledger.active
