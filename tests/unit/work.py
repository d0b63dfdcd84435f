"""How much an action does, counted and not timed: a test of it says the same on every machine, however busy."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

Action = Callable[[], object]

GROWTH = 5  # for four times the input; what is quadratic does sixteen times as much


def lines(action: Action) -> int:
    """Lines of Python that an action runs, of every library; one in a loop counts each time.

    What it does inside of a function written in C is one line, whatever it costs. Arrays show in `memory`.
    """
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def memory(action: Action) -> int:
    """Bytes that an action holds at its height beyond what was there: an array of each with each is seen by them."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def assert_linear(action_on: Callable[[int], Action], size: int, measure: Callable[[Action], int] = lines, spare: int = 0) -> None:
    """What `action_on(n)` returns does at most in proportion to n, within a quarter; and `spare` more, which is free."""
    small, large = measure(action_on(size)), measure(action_on(4 * size))
    assert large <= GROWTH * small + spare, f"{small:,} at {size:,} and {large:,} at {4 * size:,}: more than in proportion"
