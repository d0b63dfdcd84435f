"""When results are asked for, and what of them is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import cast

import pytest
from hpo_operator.cluster import results as module
from hpo_operator.cluster.client import Client, RequestFailed
from hpo_operator.cluster.prometheus import Answer, Measured, Prometheus, Run, SourceFailed
from hpo_operator.cluster.results import Gatherer
from hpo_operator.resources import StudySpec

from tests.unit.operator.builders import START, at, measured
from tests.unit.operator.cluster.gathering import UID, Cluster, Logs

MESSAGE = '{"hpo":1,"step":3,"metrics":{"loss":"0.5"}}'
UNREACHABLE = RequestFailed("get", 500, "InternalError", "dial tcp: i/o timeout")
FORBIDDEN = RequestFailed("get", 403, "Forbidden", "pods/log is forbidden")
NOTHING = Answer({})


def answering(step: int, loss: float) -> Answer:
    return Answer({0: Measured(((step, loss),), measured(step, loss=loss))}, at(0))


class Source:
    """A source that answers as it is told."""

    def __init__(self) -> None:
        self.answer: Answer | SourceFailed = NOTHING
        self.asked: list[Mapping[int, Run]] = []
        self.held: asyncio.Event | None = None

    async def measure(self, spec: StudySpec, uid: str, runs: Mapping[int, Run], now: datetime) -> Answer:
        assert uid == UID
        self.asked.append(runs)
        if self.held is not None:
            await self.held.wait()
        if isinstance(self.answer, SourceFailed):
            raise self.answer
        return self.answer


class Bench:
    """A gatherer over one Study, at a time that the test sets."""

    def __init__(self, cluster: Cluster, *logs: str | RequestFailed) -> None:
        self.cluster, self.source, self.logs = cluster, Source(), Logs(*(logs or ("",)))
        self.now = START
        self.changed: list[str] = []
        client, source = cast(Client, self.logs), cast(Prometheus, self.source)
        self.gatherer = Gatherer(client, cluster.store, source, self.changed.append, lambda: self.now)

    async def tick(self, seconds: float) -> None:
        """The gatherer looks what there is to do, and all that can be done is done."""
        self.now = at(seconds)
        self.gatherer.tick()
        await self.settle()

    async def settle(self) -> None:
        while (tasks := [each for each in self.gatherer._tasks if not each.done()]) and self.source.held is None:
            await asyncio.wait(tasks)


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


# At each interval


@in_loop
async def test_a_study_is_measured_at_its_interval_and_says_that_there_is_news() -> None:
    bench = Bench(Cluster(START))
    bench.source.answer = answering(1, 0.9)

    for seconds in (0, 0.5, 0.9, 1, 1.5, 2.1):
        await bench.tick(seconds)

    assert bench.source.asked == [{0: Run(START, None, frozenset({"digits-0-a"}), "team-a")}] * 3
    assert bench.changed == [UID] * 3
    assert bench.cluster.workload.curve == ((1, 0.9),)


@in_loop
async def test_a_study_without_running_trials_is_not_measured() -> None:
    cluster = Cluster(START)
    cluster.succeed(at(1), MESSAGE)
    bench = Bench(cluster)

    await bench.tick(2)

    assert bench.source.asked == []
    assert cluster.workload.report == measured(3, loss=0.5)


@in_loop
async def test_a_slow_answer_is_waited_for_and_not_asked_for_again() -> None:
    bench = Bench(Cluster(START))
    bench.source.held = asyncio.Event()
    for seconds in (0, 1, 2):
        await bench.tick(seconds)
        await asyncio.sleep(0)
    bench.source.held.set()
    bench.source.held = None
    await bench.settle()

    assert len(bench.source.asked) == 1
    await bench.tick(3)
    assert len(bench.source.asked) == 2


@in_loop
async def test_an_unexpected_error_ends_neither_the_gatherer_nor_the_next_question() -> None:
    bench = Bench(Cluster(START))
    bench.source.answer = cast(Answer, None)
    await bench.tick(0)
    bench.source.answer = answering(1, 0.9)
    await bench.tick(1)

    assert bench.cluster.workload.curve == ((1, 0.9),)


@in_loop
async def test_a_source_that_fails_is_asked_on_and_what_was_known_stays() -> None:
    bench = Bench(Cluster(START))
    bench.source.answer = answering(1, 0.9)
    await bench.tick(0)
    bench.source.answer = SourceFailed("no answer")
    for seconds in range(1, 5):
        await bench.tick(seconds)

    assert bench.cluster.workload.curve == ((1, 0.9),)
    source = bench.cluster.state.source
    assert (source.answered_at, source.away_since, source.failed_at, source.error) == (at(0), at(1), at(4), "no answer")
    bench.source.answer = answering(2, 0.8)
    await bench.tick(5)
    assert bench.cluster.state.source.away_since is None
    assert bench.cluster.workload.curve == ((2, 0.8),)


@in_loop
async def test_samples_that_the_source_has_forgotten_stay_known() -> None:
    bench = Bench(Cluster(START))
    bench.source.answer = answering(1, 0.9)
    await bench.tick(0)
    bench.source.answer = NOTHING
    await bench.tick(1)

    assert bench.cluster.workload.curve == ((1, 0.9),)


@in_loop
async def test_samples_of_a_lost_pod_are_forgotten_with_the_first_answer_about_the_next() -> None:
    cluster = Cluster(START)
    bench = Bench(cluster)
    bench.source.answer = answering(9, 0.1)
    await bench.tick(0)
    cluster.replace_pod("digits-0-b", at(1))
    bench.source.answer = NOTHING
    await bench.tick(2)

    assert bench.source.asked[-1] == {0: Run(at(1), None, frozenset({"digits-0-b"}), "team-a")}
    assert cluster.workload.report is None


@in_loop
async def test_pods_that_are_not_scraped_are_told_after_two_minutes() -> None:
    bench = Bench(Cluster(START))
    await bench.tick(119)
    assert bench.cluster.state.source.scraped
    await bench.tick(120)
    assert not bench.cluster.state.source.scraped
    bench.source.answer = Answer({}, at(121))
    await bench.tick(121)
    assert bench.cluster.state.source.scraped


# After the end


@in_loop
async def test_a_program_that_has_ended_without_its_result_is_asked_for_at_once_and_until_two_intervals_after() -> None:
    cluster = Cluster(START)
    bench = Bench(cluster)
    bench.source.answer = answering(1, 0.9)
    await bench.tick(0)
    cluster.succeed(at(0.1))
    bench.gatherer.seek(cluster.state, 0)
    bench.source.answer = answering(2, 0.4)
    await bench.tick(0.2)
    assert bench.source.asked[-1] == {0: Run(START, at(0.1), frozenset({"digits-0-a"}), "team-a")}
    bench.gatherer.seek(cluster.state, 0)
    await bench.tick(0.3)
    assert len(bench.source.asked) == 2
    assert cluster.workload.awaiting
    await bench.tick(1.2)
    assert cluster.workload.awaiting
    assert cluster.workload.report is None
    await bench.tick(2.2)

    assert not cluster.workload.awaiting
    assert cluster.workload.report == measured(2, loss=0.4)
    assert cluster.workload.source == "Prometheus"
    await bench.tick(3.2)
    assert len(bench.source.asked) == 4


@in_loop
async def test_so_is_a_RayJob_whose_head_runs_on() -> None:
    cluster = Cluster(START)
    bench = Bench(cluster)
    bench.source.answer = answering(1, 0.9)
    await bench.tick(0)
    cluster.complete_as_RayJob(at(0.1))
    assert cluster.workload.awaiting
    bench.source.answer = answering(2, 0.4)
    await bench.tick(2.2)

    assert not cluster.workload.awaiting
    assert cluster.workload.report == measured(2, loss=0.4)


# Logs

PATTERN = r"loss (?P<loss>\S+)"


@in_loop
async def test_a_log_is_read_once_and_gives_the_result() -> None:
    cluster = Cluster(START, pattern=PATTERN)
    cluster.succeed(at(1))
    bench = Bench(cluster, "loss 0.9\nloss 0.5\n")
    assert cluster.workload.awaiting

    for _ in range(3):
        bench.gatherer.seek(cluster.state, 0)
        await bench.settle()

    assert [asked[:3] for asked in bench.logs.asked] == [("team-a", "digits-0-a", "main")]
    assert cluster.workload.report == measured(None, loss=(0.5, 0.5, 0.9))
    assert cluster.workload.source == "Log"
    assert not cluster.workload.awaiting
    assert bench.changed == [UID]


@in_loop
async def test_a_log_that_cannot_be_read_for_now_is_tried_again() -> None:
    cluster = Cluster(START, pattern=PATTERN)
    cluster.succeed(at(1))
    bench = Bench(cluster, UNREACHABLE, UNREACHABLE, "loss 0.5")

    bench.gatherer.seek(cluster.state, 0)
    await bench.settle()

    assert len(bench.logs.asked) == 3
    assert cluster.workload.report == measured(None, loss=0.5)


@pytest.mark.parametrize(("failure", "tries"), [(UNREACHABLE, module.LOG_TRIES), (FORBIDDEN, 1)])
def test_a_log_that_cannot_be_read_at_all_is_given_up(failure: RequestFailed, tries: int) -> None:
    async def test() -> None:
        cluster = Cluster(START, pattern=PATTERN)
        cluster.succeed(at(1))
        bench = Bench(cluster, failure)

        bench.gatherer.seek(cluster.state, 0)
        await bench.settle()

        assert len(bench.logs.asked) == tries
        assert cluster.state.logs_read == {0}
        assert cluster.workload.report is None

    asyncio.run(test())


@in_loop
async def test_a_log_without_the_result_leaves_it_to_the_source() -> None:
    cluster = Cluster(START, pattern=PATTERN)
    cluster.succeed(at(1))
    bench = Bench(cluster, "nothing to see")
    bench.gatherer.seek(cluster.state, 0)
    await bench.settle()
    bench.source.answer = answering(2, 0.4)
    await bench.tick(3)

    assert cluster.workload.report == measured(2, loss=0.4)
    assert not cluster.workload.awaiting


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_RETRY_SECONDS", 0.0)
