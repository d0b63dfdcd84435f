"""Asynchronous successive halving [Li2020asha]: no rung waits for its last Trial.

[Li2020asha] L. Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpo_algorithms.errors import Fault
from hpo_algorithms.schedules.requirements import budget_needed, one_objective
from hpo_algorithms.schedules.rungs import fit_to_rise, rungs
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
        return [*budget_needed(problem, "asha"), *one_objective(problem, "asha")]

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        budgets = self._budgets(problem)
        on = _by_rung(history, len(budgets))
        found: list[Place] = []
        for rung in reversed(range(len(budgets) - 1)):
            ended = [trial for trial in on[rung] if not trial.active]
            for trial in _rising(fit_to_rise(ended), on[rung + 1], len(ended) // self.eta):
                found.append(Place(budgets[rung + 1], Slot(rung=rung + 1, member=trial.slot.member), trial.number))
        del found[count:]
        if not exhausted:
            first = (history[-1].number + 1 if history else 0) + len(found)
            found += [Place(budgets[0], Slot(rung=0, member=first + i)) for i in range(count - len(found))]
        return found

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        """All that have not risen: as its rung fills, any of them may come to stand among the best 1/eta."""
        on = _by_rung(history, len(self._budgets(problem)))
        return frozenset(trial.number for here, above in pairwise(on) for trial in _rising(fit_to_rise(here), above, len(here)))

    def finished(self, problem: Problem, history: History) -> str:
        return ""

    def _budgets(self, problem: Problem) -> tuple[int, ...]:
        assert problem.min_budget is not None and problem.max_budget is not None
        return rungs(problem.min_budget, problem.max_budget, self.eta)


def _by_rung(history: History, count: int) -> list[list[Trial]]:
    """The Trials on each rung; those without one, given a place by somebody else, stand on none."""
    on: list[list[Trial]] = [[] for _ in range(count)]
    for trial in history:
        if trial.slot.rung is not None and trial.slot.rung < count:
            on[trial.slot.rung].append(trial)
    return on


def _rising(fit: Sequence[Trial], above: Sequence[Trial], count: int) -> list[Trial]:
    """Those of the best `count` that have not risen yet. One whose checkpoint is lost gives its place to the next best.

    A promotion is read from the slots on the rung above, whatever the ranking says by now.
    """
    risen = {trial.slot.member for trial in above}
    counting = [trial for trial in fit if not trial.lost or trial.slot.member in risen]
    return [trial for trial in counting[:count] if trial.slot.member not in risen]
