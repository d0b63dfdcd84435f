"""Gathering results: live ones at each interval, and what is still missing when a workload has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hpo_operator.cluster.client import Client, RequestFailed
from hpo_operator.cluster.prometheus import Prometheus, SourceFailed
from hpo_operator.cluster.store import Live, Store, StudyState
from hpo_operator.outcomes import metrics_wanted
from hpo_operator.reports import Report, log_reports
from hpo_operator.workloads import Phase, Workload

log = logging.getLogger("hpo_operator")

TICK_SECONDS = 1.0
LOG_BYTES = 4 << 20  # the end of a log that is searched for a pattern


class Gatherer:
    """Measures all Studies at their intervals; `changed` is called with the uid of a Study that has news."""

    def __init__(self, client: Client, store: Store, source: Prometheus | None, changed: Callable[[str], None]) -> None:
        self._client, self._store, self._source, self._changed = client, store, source, changed
        self._due: dict[str, datetime] = {}

    async def run(self) -> None:
        """Measure until canceled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = datetime.now(UTC)
            due = [s for uid, s in self._store.studies.items() if s.ledger is not None and self._due.get(uid, now) <= now]
            for uid in self._due.keys() - self._store.studies.keys():
                del self._due[uid]
            for state in due:
                assert state.study is not None
                self._due[state.uid] = now + timedelta(seconds=state.study.spec.metrics.interval_seconds)
            await asyncio.gather(*(self._measure(state, now) for state in due))

    async def _measure(self, state: StudyState, now: datetime) -> None:
        assert state.study is not None and state.ledger is not None
        started = [
            w.started for n in state.ledger.active if n in state.workloads and (w := state.workload(n)).started and _waits(state, w)
        ]
        if self._source is None or not started:
            return
        try:
            found = await self._source.measure(state.study.spec, state.uid, min(started), now)
        except SourceFailed as failure:
            if state.source_error != str(failure):
                log.warning("%s", failure, extra={"study": f"{state.namespace}/{state.name}"})
            state.source_error = str(failure)
        else:
            state.source_error, state.measured_at = "", now
            for number, measured in found.items():
                if number in state.ledger.active:
                    state.live[number] = Live(measured.curve, measured.report)
        self._changed(state.uid)

    async def read_log(self, state: StudyState, number: int) -> None:
        """Search an ended program's log for the Study's pattern, once."""
        assert state.study is not None
        logs, pods = state.study.spec.metrics.logs, list(state.pods.get(number, {}).values())
        if logs is None or not pods or number in state.logs_read:
            return
        state.logs_read.add(number)
        pod = max(pods, key=lambda each: str(each["metadata"].get("creationTimestamp")))
        container = state.reporter(pod)
        try:
            text = await self._client.log(state.namespace, pod["metadata"]["name"], container, LOG_BYTES)
        except RequestFailed as failure:
            log.warning("the log of %s could not be read: %s", pod["metadata"]["name"], failure)
            return
        report = Report()
        for step, metrics in log_reports(text.splitlines(), logs.pattern):
            report = report.followed_by(step, metrics)
        if report.metrics:
            state.logged[number] = report


def _waits(state: StudyState, workload: Workload) -> bool:
    """Whether a Trial still has something to be measured."""
    assert state.study is not None
    if workload.phase is Phase.RUNNING:
        return True
    known = workload.report.metrics if workload.report else {}
    return workload.phase is Phase.SUCCEEDED and any(name not in known for name in metrics_wanted(state.study.spec))
