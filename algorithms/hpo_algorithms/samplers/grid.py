"""Grid search: every combination once, in an order that looks random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms.enumeration import Enumeration
from hpo_algorithms.errors import Fault, InvalidSpace
from hpo_algorithms.linear import Walk
from hpo_algorithms.samplers.positions import following
from hpo_algorithms.settings import setting
from hpo_algorithms.streams import permuted
from hpo_algorithms.trials import Draw, History, Problem

FORBIDDEN = 2000  # points one after the other that break a constraint, after which those that keep them are looked for instead


@dataclass(frozen=True, slots=True)
class Grid:
    """Walks a seeded permutation of the grid, so that a Study ended early has not seen one corner only.

    Discrete parameters take all their values, continuous ones `points`, evenly spaced on their scale; a parameter with `step` is
    discrete. Nothing is listed: a grid of 10^9 points costs no more than one of ten. What the user gave is not tried again.
    """

    points: int = setting(
        5, "Values that stand for a continuous range, both ends included; 1 takes its middle.", minimum=1, maximum=1000
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        try:
            Enumeration(problem.space.parameters, self.points)
        except InvalidSpace as error:
            return [fault.under("parameters") for fault in error.faults]
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        space = problem.space
        grid = Enumeration(space.parameters, self.points)
        # The grid's own Trials are behind `position`; others are compared. A given float is moved to the lattice that grid points
        # stand on, which is finer than anyone means.
        elsewhere = {space.key(trial.params) for trial in history if not trial.memo}
        elsewhere |= {space.key(space.decode(space.encode(params))) for params in problem.given}
        draws: list[Draw] = []
        position, forbidden = following(history), 0
        while len(draws) < len(numbers) and position < grid.size and forbidden < FORBIDDEN:
            params = grid.at(permuted(position, grid.size, problem.seed))
            allowed = space.allows(params)
            forbidden = 0 if allowed else forbidden + 1
            if allowed and space.key(params) not in elsewhere:
                draws.append(Draw(params, memo=str(position)))
            position += 1
        if forbidden < FORBIDDEN:
            return draws
        # Few are left. These have no position: they are among the others when the next are looked for.
        seen = elsewhere | {space.key(trial.params) for trial in history} | {space.key(draw.params) for draw in draws}
        while len(draws) < len(numbers):
            walk = Walk(space, problem.seed + len(seen), self.points)
            found = next((params for params in walk if space.key(params) not in seen), None)
            if found is None:
                break
            draws.append(Draw(found))
            seen.add(space.key(found))
        return draws
