"""Successive halving [Jamieson2016sh]: many configurations trained a little, the best 1/eta of them trained on, and so on.

[Jamieson2016sh] K. Jamieson and A. Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counting

from hpo_algorithms.errors import Fault
from hpo_algorithms.schedules.hyperband import Bracket, bracket_trials, open_places, still_needed
from hpo_algorithms.schedules.requirements import budget_needed, one_objective
from hpo_algorithms.schedules.rungs import rungs
from hpo_algorithms.settings import setting
from hpo_algorithms.trials import SCHEDULE_FINISHED, History, Place, Problem, Stop


@dataclass(frozen=True, slots=True)
class Halving:
    """Starts `configurations` on the smallest budget, trains the best 1/eta of every rung on to the next, then begins anew.

    Of the n that were started the best floor(n / eta^i) rise to rung i, each as soon as no result that is still out can take its
    place; while results are waited for, free places go to the next round. This is Hyperband's most eager bracket alone: cheaper
    where small budgets already tell good from bad, and misled where they do not.
    """

    eta: int = setting(3, "One in eta rises; also the ratio of neighbouring budgets.", minimum=2, maximum=16)
    configurations: int | None = setting(
        None, "Started in each round; eta^(rungs - 1) when left out, so that one reaches the top.", minimum=1, maximum=1_000_000
    )
    iterations: int | None = setting(
        None, "Rounds, after which the Study is finished; without it only a limit ends the Study.", minimum=1, maximum=10_000
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return [*budget_needed(problem, "halving"), *one_objective(problem, "halving")]

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        return open_places(self._rounds(problem, history), count, exhausted)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return still_needed(self._rounds(problem, history))

    def finished(self, problem: Problem, history: History) -> str:
        if self.iterations is None:
            return ""
        return SCHEDULE_FINISHED if all(each.over for each in self._rounds(problem, history)) else ""

    def _rounds(self, problem: Problem, history: History) -> Iterator[Bracket]:
        assert problem.min_budget is not None and problem.max_budget is not None
        budgets = rungs(problem.min_budget, problem.max_budget, self.eta)
        wide = self.configurations or self.eta ** (len(budgets) - 1)
        trials = bracket_trials(history, len(budgets))
        for number in counting() if self.iterations is None else range(self.iterations):
            yield Bracket(number, self.eta, wide, budgets, trials.get(number, [[] for _ in budgets]))
