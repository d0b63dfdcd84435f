"""Asynchronous successive halving [Li2020asha]: no rung waits for its last Trial.

[Li2020asha] L. Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms.errors import Fault
from hpo_algorithms.schedules.rungs import budget_needed, rungs
from hpo_algorithms.settings import setting
from hpo_algorithms.trials import History, Place, Problem, Slot, Stop, Trial


@dataclass(frozen=True, slots=True)
class ASHA:
    """Promotes a configuration as soon as it stands among the best 1/eta of those that ended on its rung.

    For each free place, from the highest rung down: a Trial in the best floor(n / eta) of the n ended ones that has not been
    promoted is trained on to the next rung. Where no rung has one, a new configuration starts at the bottom.
    """

    eta: int = setting(3, "One in eta is promoted; also the ratio of neighbouring budgets.", minimum=2, maximum=16)

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return budget_needed(problem, "asha")

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        assert problem.min_budget is not None and problem.max_budget is not None
        budgets = rungs(problem.min_budget, problem.max_budget, self.eta)
        found = [
            Place(budgets[rung + 1], Slot(rung=rung + 1, member=trial.slot.member), trial.number)
            for rung in reversed(range(len(budgets) - 1))
            for trial in self._promotable(history, rung)
        ][:count]
        first = len(history) + len(found)
        if not exhausted:
            found += [Place(budgets[0], Slot(rung=0, member=first + i)) for i in range(count - len(found))]
        return found

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        assert problem.min_budget is not None and problem.max_budget is not None
        top = len(rungs(problem.min_budget, problem.max_budget, self.eta)) - 1
        promoted = {(trial.slot.rung, trial.slot.member) for trial in history if trial.slot.rung}
        return frozenset(
            trial.number
            for trial in history
            if trial.slot.rung is not None
            and trial.slot.rung < top
            and not trial.active
            and trial.loss < float("inf")
            and (trial.slot.rung + 1, trial.slot.member) not in promoted
        )

    def finished(self, problem: Problem, history: History) -> str:
        return ""

    def _promotable(self, history: History, rung: int) -> list[Trial]:
        ended = [trial for trial in history if trial.slot.rung == rung and not trial.active]
        best = sorted(ended, key=lambda trial: (trial.loss, trial.number))[: len(ended) // self.eta]
        promoted = {trial.slot.member for trial in history if trial.slot.rung == rung + 1}
        return [t for t in best if t.slot.member not in promoted and t.loss < float("inf")]
