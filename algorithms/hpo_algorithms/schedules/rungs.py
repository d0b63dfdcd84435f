"""Budgets as a geometric series, in integers."""

from __future__ import annotations

from collections.abc import Sequence

from hpo_algorithms.errors import Fault
from hpo_algorithms.trials import Problem


def rungs(min_budget: int, max_budget: int, eta: int) -> tuple[int, ...]:
    """max // eta^s for s = s_max … 0, where s_max is the largest s with min * eta^s <= max; ascending.

    Logarithms in floating point would lose a rung (log 243 / log 3 is 4.999…), hence the multiplication.

    >>> rungs(1, 81, 3)
    (1, 3, 9, 27, 81)
    """
    powers = [1]
    while min_budget * powers[-1] * eta <= max_budget:
        powers.append(powers[-1] * eta)
    return tuple(max_budget // power for power in reversed(powers))


def budget_needed(problem: Problem, schedule: str) -> Sequence[Fault]:
    """The fault of a Study that names a schedule of rungs but no budget to divide."""
    if problem.min_budget is not None and problem.max_budget is not None:
        return ()
    remedy = "Add budget: {min: 1, max: 27, unit: epochs}."
    return [Fault(f"schedule.{schedule}", None, "needs a budget, for it decides how far each Trial trains", remedy)]
