"""Every Trial to the full budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms.errors import Fault
from hpo_algorithms.trials import History, Place, Problem, Stop


@dataclass(frozen=True, slots=True)
class Flat:
    """Gives each Trial the largest budget, and stops none. What a Study does that names no schedule."""

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        return [Place(problem.max_budget)] * count

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return frozenset()

    def finished(self, problem: Problem, history: History) -> str:
        return ""
