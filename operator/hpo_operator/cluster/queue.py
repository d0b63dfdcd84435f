"""Which Study to look at next: each key once, however often it is asked for, and later again after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF = 0.2
LAST_BACKOFF = 60.0


class WorkQueue(Generic[K]):
    """A deduplicating queue. A key that is added while it is worked on is worked on once more afterwards."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: dict[K, float] = {}
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._held: set[K] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and nothing is worked on."""
        return not self._waiting and not self._working

    @property
    def oldest_age(self) -> float:
        """How long the key that waits longest has waited, in seconds."""
        return self._oldest(self._waiting)

    @property
    def longest_work(self) -> float:
        """How long the key that is worked on longest has been, in seconds."""
        return self._oldest(self._working)

    def add(self, key: K) -> None:
        """Look at a key as soon as possible: not before its back-off is over."""
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting and key not in self._held:
            self._waiting[key] = self._now()
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Look at a key in a while; the earliest of several such times counts."""
        due = self._now() + max(seconds, 0.0)
        known = self._timers.get(key)
        if key in self._held and known is not None:
            return  # it is looked at then, whatever for
        if known is not None:
            if known[0] <= due:
                return
            known[1].cancel()
        self._timers[key] = (due, asyncio.get_running_loop().call_at(due, self._fire, key))

    async def get(self) -> K:
        """The next key; `done` or `failed` must follow."""
        key = await self._ready.get()
        self._waiting.pop(key, None)
        self._working[key] = self._now()
        return key

    def done(self, key: K, rest: float = 0.0) -> None:
        """A key was worked on well, and is not worked on again for some seconds."""
        if rest > 0:
            asyncio.get_running_loop().call_later(rest, self._release, key)
        else:
            self._release(key)

    def failed(self, key: K, at_least: float = 0.0) -> float:
        """A key must be tried again; gives in how many seconds. Events in between do not shorten the time."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay: float = max(min(FIRST_BACKOFF * 2.0**count, LAST_BACKOFF), at_least)
        self._working.pop(key, None)
        self._again.discard(key)
        if key in self._timers:
            self._timers.pop(key)[1].cancel()
        self.add_after(key, delay)
        self._held.add(key)
        return delay

    def forgive(self, key: K) -> None:
        """What was begun for a key has succeeded, so that its next failure is the first again."""
        self._failures.pop(key, None)

    def forget(self, key: K) -> None:
        """A key is of no interest any more."""
        self._failures.pop(key, None)
        self._held.discard(key)
        if key in self._timers:
            self._timers.pop(key)[1].cancel()

    def _release(self, key: K) -> None:
        self._working.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self._held.discard(key)
        self.add(key)

    def _oldest(self, since: Mapping[K, float]) -> float:
        return self._now() - min(since.values()) if since else 0.0

    @staticmethod
    def _now() -> float:
        now: float = asyncio.get_running_loop().time()
        return now
