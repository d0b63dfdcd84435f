"""Histories for the tests of schedules: Trials without parameters, placed by a schedule and ended by the test."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable

from hpo_algorithms import Place, Problem, Schedule, Space, State, Trial

SPACE = Space.from_spec([{"name": "x", "float": {"min": 0, "max": 1}}])


def budgeted(low: int = 1, high: int = 81, objectives: int = 1) -> Problem:
    return Problem(SPACE, objectives, low, high)


def done(trial: Trial, loss: float, violation: float = 0.0) -> Trial:
    return dataclasses.replace(trial, state=State.DONE, losses=(loss,), step=trial.budget, restorable=True, violation=violation)


def failed(trial: Trial) -> Trial:
    return dataclasses.replace(trial, state=State.FAILED)


class Run:
    """A history that a schedule fills; `end` decides what becomes of a Trial."""

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.schedule = schedule
        self.problem = problem
        self.history: list[Trial] = []

    def start(self, count: int, exhausted: bool = False) -> list[Trial]:
        """Ask for places and put Trials on them."""
        places = self.schedule.places(self.problem, self.history, count, exhausted)
        assert len(places) <= count
        return [self.put(place) for place in places]

    def put(self, place: Place) -> Trial:
        donor = place.source if place.source is not None and self.history[place.source].restorable else None
        trial = Trial(len(self.history), {"x": 0.5}, place.budget, place.slot, donor)
        self.history.append(trial)
        return trial

    def stray(self, state: State = State.DONE, loss: float = 0.0) -> None:
        """A Trial that the schedule did not place, as the operator makes when an algorithm fails."""
        self.history.append(Trial(len(self.history), {"x": 0.5}, self.problem.max_budget, state=state, losses=(loss,)))

    def end(self, which: Iterable[Trial], ending: Callable[[Trial], Trial]) -> None:
        for trial in which:
            assert self.history[trial.number].active
            self.history[trial.number] = ending(self.history[trial.number])

    def counts(self) -> dict[tuple[int | None, int | None], tuple[int, int | None]]:
        """(bracket, rung) -> (number of Trials, budget)."""
        found = Counter((trial.slot.bracket, trial.slot.rung, trial.budget) for trial in self.history)
        assert len({key[:2] for key in found}) == len(found), "a rung has one budget"
        return {(bracket, rung): (count, budget) for (bracket, rung, budget), count in found.items()}


def on(history: Iterable[Trial], rung: int, bracket: int | None = None) -> list[Trial]:
    return [trial for trial in history if trial.slot.rung == rung and trial.slot.bracket == bracket]
