"""The algorithm of a Study that names none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers.random import Random
from hpo_algorithms.trials import Draw, History, Problem


@dataclass(frozen=True, slots=True)
class Auto:
    """Chooses by what the Study asks."""

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return Random().errors(problem)

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return Random().draw(problem, history, numbers)
