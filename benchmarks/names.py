"""Other ways than TV.EXP3.M to choose the names that copies get, to compare `pb2` with: Thompson sampling and chance.

[Raj2017] V. Raj and S. Kalyani, Taming non-stationary bandits: a Bayesian approach, arXiv 1707.09727.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from hpo_algorithms.encoding import Columns, encoded
from hpo_algorithms.population.generations import Step, improvement
from hpo_algorithms.population.names import Names
from hpo_algorithms.population.pb2 import PB2, standardised
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import History, Problem, Proposal

FORGOTTEN = 0.1  # of what a name has earned, a generation

NAMED = {"pb2_thompson": "benchmarks.names:Thompson", "pb2_uniform": "benchmarks.names:Uniform"}


@dataclass(frozen=True, slots=True)
class Thompson(PB2):
    """Names by Thompson sampling on what each has earned in all members, of which a share is forgotten a generation [Raj2017]."""

    def _names(self, problem: Problem, history: History) -> Names:
        return _Thompson(problem, history, 1, 1)


@dataclass(frozen=True, slots=True)
class Uniform(PB2):
    """Names by chance."""

    def _names(self, problem: Problem, history: History) -> Names:
        return _Uniform(problem, history, 1, 1)


class _Thompson(Names):
    def __init__(self, problem: Problem, history: History, batch: int, rounds: int) -> None:
        super().__init__(problem, history, batch, rounds)
        self._space, self._seed = problem.space, problem.seed
        known = {trial.number: trial for trial in history}
        ended = [trial for trial in history if trial.donor in known and not trial.active]
        self._y = standardised(np.array([improvement(trial, known[trial.donor or 0]) for trial in ended]))
        self._t = np.array([trial.slot.generation or 0 for trial in ended], dtype=float)
        self._U = encoded(self._space, [trial.params for trial in ended])

    def of(self, step: Step, beside: Sequence[Proposal]) -> Mapping[int, float]:
        rng, found = stream(self._seed, _slot(step), "thompson"), {}
        weight = (1 - FORGOTTEN) ** (step.generation - self._t)
        for j in map(int, Columns.of(self._space).categorical):
            count = self._space.parameters[j].count
            assert count is not None
            places = (np.arange(count) + 0.5) / count
            had = np.abs(self._U[:, [j]] - places) < 1e-6
            seen = weight @ had + 1
            drawn = (weight * self._y) @ had / seen + rng.standard_normal(count) / np.sqrt(seen)
            found[j] = float(places[int(drawn.argmax())])
        return found


class _Uniform(Names):
    def __init__(self, problem: Problem, history: History, batch: int, rounds: int) -> None:
        super().__init__(problem, history, batch, rounds)
        self._space, self._seed = problem.space, problem.seed

    def of(self, step: Step, beside: Sequence[Proposal]) -> Mapping[int, float]:
        rng = stream(self._seed, _slot(step), "uniform")
        return {int(j): float(rng.random()) for j in Columns.of(self._space).categorical}


def _slot(step: Step) -> int:
    """A number of its own for each copy."""
    return 1000 * step.generation + step.member
