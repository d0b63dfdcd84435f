"""Budgets as a geometric series, in integers, and who may rise from one rung to the next."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hpo_algorithms.trials import State, Trial


def rungs(min_budget: int, max_budget: int, eta: int) -> tuple[int, ...]:
    """max / eta^s to the nearest integer for s = s_max … 0, where s_max is the largest s with min * eta^s <= max; ascending.

    Logarithms in floating point would lose a rung (log 243 / log 3 is 4.999…), hence the multiplication. Rounded down, the lowest
    rung would be too low by up to a half, and the first epoch of a training often says nothing of the others.

    >>> rungs(1, 81, 3), rungs(1, 52, 3)
    ((1, 3, 9, 27, 81), (2, 6, 17, 52))
    """
    powers = [1]
    while min_budget * powers[-1] * eta <= max_budget:
        powers.append(powers[-1] * eta)
    return tuple((2 * max_budget + power) // (2 * power) for power in reversed(powers))


def fit_to_rise(trials: Iterable[Trial]) -> list[Trial]:
    """The Trials that reached their budget with a result, best first.

    Those that keep the outcome constraints come first, then those that break them least. What failed, was stopped, or has no
    finite loss never rises; a loss of minus infinity is a result like any other.
    """
    fit = [
        (0.0 if trial.violation <= 0 else _broken(trial.violation), trial.losses[0], trial.number, trial)
        for trial in trials
        if trial.state is State.DONE and trial.losses and trial.losses[0] < math.inf  # nor is NaN
    ]
    fit.sort()  # numbers differ, so that Trials are never compared
    return [trial for *_, trial in fit]


def unless_lost(trials: Iterable[Trial]) -> list[Trial]:
    """The Trials that can be trained on from where they stand, or that never left anything to train on from."""
    return [trial for trial in trials if not trial.lost]


def _broken(violation: float) -> float:
    return math.inf if math.isnan(violation) else violation
