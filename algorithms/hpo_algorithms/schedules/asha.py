"""Asynchronous successive halving [Li2020asha]: no rung waits for its last Trial.

[Li2020asha] L. Li et al., A system for massively parallel hyperparameter tuning, MLSys 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from hpo_algorithms.errors import Fault
from hpo_algorithms.schedules.requirements import budget_needed, one_objective
from hpo_algorithms.schedules.rungs import fit_to_rise, rungs, unless_lost
from hpo_algorithms.settings import setting
from hpo_algorithms.trials import History, Place, Problem, Slot, Stop, Trial


@dataclass(frozen=True, slots=True)
class ASHA:
    """Trains on a configuration as soon as it stands among the best 1/eta of those that ended on its rung.

    *Promoting:* for each free place, from the highest rung down, a Trial in the best floor(n / eta) of the n ended ones that has
    not been promoted is trained on to the next rung. Where no rung has one, a new configuration starts at the bottom. When a
    sampler learns, new Trials keep standing above old ones, and nearly all would rise in their turn; so no more than floor(n / eta)
    do in all, unless `capped` is false, as in the paper. Of those with one and the same loss the first rises before the others:
    where parameters make no difference, training on with all of them would tell nothing new.

    *Stopping:* each Trial starts with the full budget and is stopped at a rung unless its loss there is among the best 1/eta of
    those of the Trials before it. Needs learning curves and no checkpoints; where a rung has no other loss yet, a Trial goes on.
    """

    eta: int = setting(3, "One in eta is trained on; also the ratio of neighbouring budgets.", minimum=2, maximum=16)
    form: str = setting(
        "promoting",
        "Whether Trials end on each rung and the best go on from there, or all start on the whole way and most are stopped.",
        choices=("promoting", "stopping"),
    )
    capped: bool = setting(
        True, "At most one in eta of a rung rises in all; else a sampler that learns has nearly all of its Trials promoted."
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return [*budget_needed(problem, "asha"), *one_objective(problem, "asha")]

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        if self.form == "stopping":
            return [Place(problem.max_budget)] * count
        budgets = self._budgets(problem)
        on = _by_rung(history, len(budgets))
        found: list[Place] = []
        for rung in reversed(range(len(budgets) - 1)):
            ended = [trial for trial in on[rung] if not trial.active]
            most = len(ended) // self.eta
            room = most - len(on[rung + 1]) if self.capped else most
            if room <= 0 or len(found) >= count:  # which saves the ranking
                continue
            rising = _rising(fit_to_rise(ended), on[rung + 1], most)[:room]
            found += [Place(budgets[rung + 1], Slot(rung=rung + 1, member=each.slot.member), each.number) for each in rising]
        del found[count:]
        if not exhausted:
            first = (history[-1].number + 1 if history else 0) + len(found)
            found += [Place(budgets[0], Slot(rung=0, member=first + i)) for i in range(count - len(found))]
        return found

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        """The rung that a Trial has passed last is the one that it is judged on, by what those of lower numbers had there."""
        if self.form == "promoting":
            return ()
        found = []
        for rung, above in pairwise(self._budgets(problem)):
            seen: list[float] = []
            for trial in history:
                loss = _at(trial, rung)
                if loss is None:
                    continue
                seen.append(loss)
                step = trial.curve[-1][0]
                if not trial.active or step >= above or len(seen) == 1:
                    continue
                if sum(other <= loss for other in seen[:-1]) >= math.ceil(len(seen) / self.eta):
                    found.append(Stop(trial.number, "asha", step))
        return found

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        """All that have not risen: as its rung fills, any of them may come to stand among the best 1/eta."""
        if self.form == "stopping":
            return frozenset()
        on = _by_rung(history, len(self._budgets(problem)))
        return frozenset(trial.number for here, above in pairwise(on) for trial in _rising(fit_to_rise(here), above, len(here)))

    def finished(self, problem: Problem, history: History) -> str:
        return ""

    def _budgets(self, problem: Problem) -> tuple[int, ...]:
        assert problem.min_budget is not None and problem.max_budget is not None
        return rungs(problem.min_budget, problem.max_budget, self.eta)


def _at(trial: Trial, rung: int) -> float | None:
    """The loss of the first report at a rung or behind it, infinite where it is not a number; None where there is none."""
    for step, loss in trial.curve:
        if step >= rung:
            return math.inf if math.isnan(loss) else loss
    return None


def _by_rung(history: History, count: int) -> list[list[Trial]]:
    """The Trials on each rung; those without one, given a place by somebody else, stand on none."""
    on: list[list[Trial]] = [[] for _ in range(count)]
    for trial in history:
        if trial.slot.rung is not None and trial.slot.rung < count:
            on[trial.slot.rung].append(trial)
    return on


def _repeats_behind(best: Sequence[Trial]) -> list[Trial]:
    """Those whose loss is exactly that of another one go behind."""
    firsts: dict[float, Trial] = {}
    repeats = [trial for trial in best if firsts.setdefault(trial.losses[0], trial) is not trial]
    return [*firsts.values(), *repeats]


def _rising(fit: Sequence[Trial], above: Sequence[Trial], count: int) -> list[Trial]:
    """Those of the best `count` that have not risen yet. One whose checkpoint is lost gives its place to the next best.

    A promotion is read from the slots on the rung above, whatever the ranking says by now.
    """
    risen = {trial.slot.member for trial in above}
    rising = [trial for trial in _repeats_behind(fit[:count]) if trial.slot.member not in risen]
    lost = sum(trial.lost for trial in rising)
    if lost == 0:
        return rising
    next_best = [trial for trial in fit[count:] if trial.slot.member not in risen]
    return unless_lost(rising) + unless_lost(next_best)[:lost]
