"""What a schedule asks of a Study before it can work."""

from __future__ import annotations

from collections.abc import Sequence

from hpo_algorithms.errors import Fault
from hpo_algorithms.trials import Problem


def budget_needed(problem: Problem, schedule: str) -> Sequence[Fault]:
    """The fault of a Study that names a schedule of rungs but no budget to divide."""
    if problem.min_budget is not None and problem.max_budget is not None:
        return ()
    remedy = "Add budget: {min: 1, max: 27, unit: epochs}."
    return [Fault(f"schedule.{schedule}", None, "needs a budget, for it decides how far each Trial trains", remedy)]


def one_objective(problem: Problem, schedule: str) -> Sequence[Fault]:
    """The fault of a Study whose Trials cannot be put in one order, which is what decides who trains on."""
    if problem.objectives == 1:
        return ()
    rule = f"ranks Trials by one objective, and there are {problem.objectives}"
    return [Fault(f"schedule.{schedule}", None, rule, "Remove schedule, or keep one objective and make the others constraints.")]
