"""The order in which model-based samplers see a history: best first, what gave no result last.

1. Trials that ran to their budget with a finite loss: by loss, or by non-domination [Deb2002] with several objectives.
2. Trials that a rule stopped: by how far they came, then by loss. Rules stop what looks bad, so they stand behind all above.
3. Trials that break an outcome constraint: by how much.
4. Failed and infeasible Trials, and those whose loss is infinite or not a number.

[Deb2002] K. Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE Trans. Evol. Comp. 6, 2002.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.trials import History, Problem, State, Trial, losses_of

FRONTS_UP_TO = 64  # fronts are peeled until this many Trials stand in them: most samplers do not look at the order behind


@dataclass(frozen=True, slots=True)
class Ranked:
    """Ended Trials, best first; the first `usable` of them have a result that keeps the outcome constraints, the first `told` one
    at all: who breaks them least is next to those that keep them. `active` have none yet.
    """

    trials: Sequence[Trial]
    usable: int
    told: int
    active: Sequence[Trial]


def ranked(problem: Problem, history: History, least: int, enough: int = FRONTS_UP_TO) -> Ranked:
    """Rank a history. Where Trials have several budgets, those of the highest budget with `least` results come first.

    What ended at another budget tells less. It is kept only if it stands in the worse half of its own budget and was not trained
    on to the one looked at, and goes behind: the better half there may well be as good as what is known, only not known yet.
    With several objectives the order holds for the first `enough` places.
    """
    ended = [trial for trial in history if trial.state is not State.ACTIVE]
    active = [trial for trial in history if trial.state is State.ACTIVE]
    budgets = {trial.budget for trial in ended}
    if len(budgets) <= 1:
        order, usable, told = _order(problem, ended, enough)
        return Ranked([ended[i] for i in order], usable, told, active)
    rungs: dict[int | None, tuple[list[Trial], int, int]] = {}
    for budget in budgets:
        rung = [trial for trial in ended if trial.budget == budget]
        order, usable, told = _order(problem, rung, enough)
        rungs[budget] = [rung[i] for i in order], usable, told
    level = max(rungs, key=lambda budget: (min(rungs[budget][2], least), budget or 0))
    trials, usable, told = rungs.pop(level)
    seen = {problem.space.key(trial.params) for trial in trials}
    worse = [trial for rung, _, _ in rungs.values() for trial in rung[(len(rung) + 1) // 2 :]]
    behind = [trial for trial in worse if problem.space.key(trial.params) not in seen]
    return Ranked(trials[:told] + behind + trials[told:], usable, told, active)


def _order(problem: Problem, ended: Sequence[Trial], enough: int) -> tuple[np.ndarray, int, int]:
    """Indices of `ended`, best first, how many of them keep the constraints, and how many have a result."""
    done, stopped = State.DONE, State.STOPPED
    Y = losses_of(ended, problem.objectives)
    ran = np.array([trial.state is done for trial in ended], dtype=bool)
    halted = np.array([trial.state is stopped for trial in ended], dtype=bool)
    violation = np.array([trial.violation for trial in ended], dtype=float)
    violation[np.isnan(violation)] = math.inf
    known = np.isfinite(Y[:, 0]) & (halted | (ran & np.isfinite(Y).all(axis=1)))  # a curve holds the first objective alone
    first = np.where(known, Y[:, 0], 0.0)
    within = known & (violation <= 0)
    tier = np.where(within & ran, 0, np.where(within, 1, np.where(known, 2, 3)))
    value = np.where(tier == 2, violation, first)
    if problem.objectives > 1 and (tier == 0).any():
        value[tier == 0] = nondomination(Y[tier == 0], enough)
    steps = np.zeros(len(ended))
    for i in np.flatnonzero(tier == 1):
        steps[i] = -(ended[int(i)].step or 0)
    return np.lexsort((value, steps, tier)), int((tier <= 1).sum()), int((tier <= 2).sum())


def nondomination(Y: np.ndarray, enough: int = FRONTS_UP_TO) -> np.ndarray:
    """A rank for each row of losses, shape (n, m): its front, and within the front less for what stands further from others.

    Once `enough` rows stand in fronts the others share a rank behind them.
    """
    rank = np.full(len(Y), math.inf)
    left, placed, front = np.arange(len(Y)), 0, 0
    while len(left) and placed < enough:
        best = left[_undominated(Y[left])]
        crowding = _crowding(Y[best])
        rank[best] = front + np.argsort(np.argsort(-crowding, kind="stable"), kind="stable") / (len(best) + 1)
        left = left[~np.isin(left, best)]
        placed, front = placed + len(best), front + 1
    rank[left] = front
    return rank


def _undominated(Y: np.ndarray) -> np.ndarray:
    """Which rows no other row dominates; one pass over the rows for each row of the front, with two objectives one in all."""
    if Y.shape[1] == 2:
        rows, place = np.unique(Y, axis=0, return_inverse=True)  # in ascending order of the first
        lowest_before = np.concatenate([[math.inf], np.minimum.accumulate(rows[:-1, 1])])
        return np.asarray((rows[:, 1] < lowest_before)[place.ravel()])
    order = np.lexsort(Y.T)  # who dominates another stands before it
    columns = np.ascontiguousarray(Y[order].T)
    i = 0
    while i < len(order):
        row, later = columns[:, i : i + 1], columns[:, i + 1 :]
        keep = (later < row).any(axis=0) | (later == row).all(axis=0)
        i += 1
        if not keep.all():
            kept = np.append(np.arange(i), i + np.flatnonzero(keep))
            columns, order = np.take(columns, kept, axis=1), order[kept]
    mask = np.zeros(len(Y), dtype=bool)
    mask[order] = True
    return mask


def _crowding(Y: np.ndarray) -> np.ndarray:
    distance = np.zeros(len(Y))
    for y in Y.T:
        order = np.argsort(y, kind="stable")
        span = y[order[-1]] - y[order[0]]
        distance[order[[0, -1]]] = math.inf
        if len(Y) > 2 and span > 0:
            distance[order[1:-1]] += (y[order[2:]] - y[order[:-2]]) / span
    return distance
