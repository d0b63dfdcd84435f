"""The work queue: each Study once, none twice at a time, later again after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hpo_operator.cluster import queue as module
from hpo_operator.cluster.queue import WorkQueue


def in_loop(test: Callable[[WorkQueue[str]], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test in a loop of its own, for the queue's clock is the loop's."""

    def run() -> None:
        async def inside() -> None:
            await test(WorkQueue())

        asyncio.run(inside())

    run.__name__ = test.__name__
    return run


async def taken(queue: WorkQueue[str]) -> str:
    async with asyncio.timeout(10):
        return await queue.get()


@in_loop
async def test_a_key_that_is_added_many_times_is_worked_on_once(queue: WorkQueue[str]) -> None:
    for _ in range(5):
        queue.add("a")
    assert await taken(queue) == "a"
    queue.done("a")
    assert len(queue) == 0


@in_loop
async def test_a_key_that_is_added_while_it_is_worked_on_is_not_worked_on_twice_at_a_time(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await taken(queue)
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await taken(queue) == "a"


@in_loop
async def test_keys_come_in_the_order_in_which_they_were_added(queue: WorkQueue[str]) -> None:
    for key in "abc":
        queue.add(key)
    assert [await taken(queue) for _ in range(3)] == ["a", "b", "c"]


def test_failures_wait_ever_longer_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF", 0.001)
    monkeypatch.setattr(module, "LAST_BACKOFF", 0.01)

    async def delays() -> list[float]:
        queue: WorkQueue[str] = WorkQueue()
        found = []
        queue.add("a")
        for _ in range(8):
            await taken(queue)
            found.append(queue.failed("a"))
        return found

    assert asyncio.run(delays()) == [0.001, 0.002, 0.004, 0.008, 0.01, 0.01, 0.01, 0.01]


@in_loop
async def test_a_failed_key_comes_back_by_itself(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await taken(queue)
    queue.failed("a")
    assert await taken(queue) == "a"


@in_loop
async def test_the_server_may_ask_for_a_longer_wait(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await taken(queue)
    assert queue.failed("a", 7.0) == 7.0


@in_loop
async def test_success_forgets_earlier_failures(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await taken(queue)
    queue.failed("a")
    queue.add("a")
    await taken(queue)
    queue.forgive("a")
    queue.done("a")
    queue.add("a")
    await taken(queue)
    assert queue.failed("a") == module.FIRST_BACKOFF


@in_loop
async def test_a_look_that_only_begins_something_does_not_forget_earlier_failures(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await taken(queue)
    queue.failed("a")
    queue.add("a")
    await taken(queue)
    queue.done("a")
    queue.add("a")
    await taken(queue)
    assert queue.failed("a") > module.FIRST_BACKOFF


@in_loop
async def test_what_comes_in_while_a_key_rests_is_worked_on_once_and_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await taken(queue)
    queue.done("a", rest=0.01)
    for _ in range(3):
        queue.add("a")
    assert len(queue) == 0
    assert await taken(queue) == "a"
    queue.done("a")
    assert len(queue) == 0


@in_loop
async def test_of_several_times_the_earliest_counts(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 1000)
    queue.add_after("a", 0.01)
    queue.add_after("a", 500)
    assert await taken(queue) == "a"


@in_loop
async def test_a_forgotten_key_does_not_come_back(queue: WorkQueue[str]) -> None:
    queue.add_after("a", 0.01)
    queue.forget("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await queue.get()


@in_loop
async def test_an_event_during_the_back_off_does_not_shorten_it(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await taken(queue)
    queue.failed("a", 1000)
    queue.add("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await queue.get()
