"""The three seams of this package: Algorithm, and the Sampler and Schedule that most algorithms are made of.

Call sequence: whoever runs a Study holds its history. For free places it calls `propose(problem, history, first, count)`, where
`first` is the number that the next Trial will get, and creates the Trials proposed; when curves have grown it calls `stops`; before
it collects checkpoints it calls `donors`. Nothing is remembered between calls: each answer is a function of its
arguments alone. What an algorithm has decided stands in the Trials' slots and memos, and is read from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from hpo_algorithms.errors import Fault
from hpo_algorithms.trials import Answer, Draw, History, Place, Problem, Stop


@runtime_checkable
class Algorithm(Protocol):
    """All that the planner knows of a method."""

    def errors(self, problem: Problem) -> Sequence[Fault]:
        """Why this method cannot work on a problem; empty when it can."""
        ...

    def propose(self, problem: Problem, history: History, first: int, count: int) -> Answer:
        """Up to `count` proposals, decided jointly, for the Trials numbered from `first`."""
        ...

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        """Which active Trials to end early."""
        ...

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        """The Trials whose checkpoints a later proposal may still start from."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """What to try."""

    def errors(self, problem: Problem) -> Sequence[Fault]: ...

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        """A configuration for each number, decided jointly. Fewer mean that there are no others to try, now or ever."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """How long to try it."""

    def errors(self, problem: Problem) -> Sequence[Fault]: ...

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        """Up to `count` places to fill now; `exhausted` says that no new configuration can be had any more."""
        ...

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]: ...

    def donors(self, problem: Problem, history: History) -> frozenset[int]: ...

    def finished(self, problem: Problem, history: History) -> str:
        """Why there will be no more places ever; empty while there may be."""
        ...
