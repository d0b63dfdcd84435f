"""Quasi-random search: a scrambled Sobol sequence [Owen1998], which leaves no region of the space empty for long.

[Owen1998] A. Owen, Scrambling Sobol' and Niederreiter-Xing points, Journal of Complexity 14, 1998.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.samplers.positions import following
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem


@dataclass(frozen=True, slots=True)
class Sobol:
    """Walks one scrambled Sobol sequence through the unit cube; a finite space is walked without repetition.

    Any 2^k Trials that follow each other from the start stand in different halves, quarters, … of each parameter's scale. Like
    `random` it learns nothing from the results; prefer it where the Trials are few and all are run anyway.
    """

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        points = _points(problem, following(history))

        def one(number: int, attempt: int) -> Draw:
            position, u = next(points)
            return Draw(problem.space.decode(u), memo=str(position))

        return novel(problem, history, numbers, one)


def _points(problem: Problem, position: int) -> Iterator[tuple[int, np.ndarray]]:
    """The Study's own sequence from a position on: (position, point of the unit cube)."""
    from scipy.stats import qmc  # takes longer to import than all of this package

    seed = int(stream(problem.seed, 0, "sobol/scramble").integers(2**63))
    sequence = qmc.Sobol(len(problem.space), scramble=True, rng=seed)
    if position:  # scipy cannot advance by nothing
        sequence.fast_forward(position)
    while True:
        yield position, sequence.random(1)[0]
        position += 1
