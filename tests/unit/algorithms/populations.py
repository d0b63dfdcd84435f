"""Populations for tests: Trials in generations, ended as the test says."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from hpo_algorithms import Algorithm, Problem, Slot, Space, State, Trial

LINE = Space.from_spec([{"name": "x", "float": {"min": 0, "max": 1}}])


def training(low: int = 1, high: int = 5, space: Space = LINE, seed: int = 0) -> Problem:
    return Problem(space, 1, low, high, seed)


def done(trial: Trial, loss: float) -> Trial:
    return dataclasses.replace(trial, state=State.DONE, losses=(loss,), step=trial.budget, restorable=True)


def failed(trial: Trial) -> Trial:
    return dataclasses.replace(trial, state=State.FAILED)


def diverged(trial: Trial) -> Trial:
    return dataclasses.replace(trial, state=State.INFEASIBLE, losses=(math.nan,))


def lost(trial: Trial, loss: float) -> Trial:
    """It ended well, but its checkpoint cannot be continued."""
    return dataclasses.replace(done(trial, loss), restorable=False)


class Run:
    """A history that a population fills."""

    def __init__(self, method: Algorithm, problem: Problem) -> None:
        self.method, self.problem = method, problem
        self.history: list[Trial] = []
        self.finished = ""
        self._number = 0

    def start(self, count: int = 100) -> list[Trial]:
        """Ask, and make Trials of all that is proposed."""
        kept = self.method.donors(self.problem, self.history)
        answer = self.method.propose(self.problem, self.history, self._number, count)
        assert len(answer.proposals) <= count
        self.finished = answer.finished
        made = [Trial(self._number + i, p.params, p.budget, p.slot, p.donor, p.memo) for i, p in enumerate(answer.proposals)]
        assert all(trial.donor is None or trial.donor in kept for trial in made)
        self._number += len(made)
        self.history += made
        return made

    def end(self, trial: Trial, ending: Callable[[Trial], Trial]) -> None:
        place = next(i for i, each in enumerate(self.history) if each.number == trial.number)
        assert self.history[place].active
        self.history[place] = ending(self.history[place])

    def end_all(self, losses: Callable[[Trial], float]) -> None:
        for trial in [each for each in self.history if each.active]:
            self.end(trial, lambda each: done(each, losses(each)))

    def free(self, trial: Trial) -> None:
        """The slot is free again, as when the donor's checkpoint was not there: the Trial is a hole."""
        self.history = [each for each in self.history if each.number != trial.number]

    def at(self, generation: int) -> dict[int, Trial]:
        """The Trials of a generation by member."""
        return {t.slot.member: t for t in self.history if t.slot.generation == generation and t.slot.member is not None}

    def number(self, generation: int, member: int) -> int:
        return self.at(generation)[member].number


def slot(generation: int, member: int) -> Slot:
    return Slot(generation=generation, member=member)
