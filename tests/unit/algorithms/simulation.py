"""A Study simulated in memory: a method is asked, its answers are checked against what the seam promises, results are played."""

from __future__ import annotations

import dataclasses
import math
import pickle
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hpo_algorithms import (
    ALGORITHMS,
    SCHEDULES,
    Algorithm,
    Answer,
    Origin,
    Problem,
    Proposal,
    Sampler,
    Slot,
    Space,
    State,
    Trial,
    build,
)
from hpo_algorithms.registry import load
from hpo_algorithms.schedules.rungs import rungs

MIN_BUDGET, MAX_BUDGET = 1, 9
HUGE = 1.7e308  # a loss: of two of them neither the sum nor the difference is a number
MEMO_LIMIT = 2048  # bytes that a Trial resource may hold


@dataclass(frozen=True)
class Method:
    """An algorithm under a schedule, by their names in the registry; no schedule for one that decides by itself how long.

    What is set besides the defaults is of the algorithm (`settings`) and of the schedule (`pace`).
    """

    algorithm: str
    schedule: str | None
    settings: tuple[tuple[str, Any], ...] = ()
    pace: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        set_to = "".join(f"-{name}-{value}" for name, value in self.settings + self.pace)
        return f"{self.algorithm}-{self.schedule or 'itself'}{set_to}"

    @property
    def specs(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """As in a Study: `algorithm` and `schedule`."""
        return {self.algorithm: dict(self.settings)}, {self.schedule: dict(self.pace)} if self.schedule else None

    def build(self, problem: Problem) -> Algorithm:
        return build(problem, *self.specs)

    def drawn_at_random(self) -> Method:
        """Random draws under the same schedule."""
        return Method("random", self.schedule, pace=self.pace)


VARIANTS = [  # other ways that an algorithm or a schedule has, each with code of its own
    Method("pso", "flat", (("mode", "generational"),)),
    Method("ga", "flat", (("mode", "generational"),)),
    Method("ga", "flat", (("mode", "regularized"),)),
    Method("nsga2", "flat", (("mode", "generational"),)),
    Method("gp", "flat", (("acquisition", "thompson"),)),
    Method("gp", "flat", (("acquisition", "maxValueEntropy"),)),
    Method("gp", "flat", (("acquisition", "twoStep"),)),
    Method("botorch", "flat", (("acquisition", "knowledgeGradient"),)),
    Method("botorch", "flat", (("acquisition", "jointEntropySearch"),)),
    Method("pbt", None, (("mode", "asynchronous"),)),
    Method("pb2", None, (("mode", "asynchronous"),)),
    Method("random", "asha", pace=(("form", "stopping"),)),
    Method("random", "asha", pace=(("capped", False),)),
    Method("random", "hyperband", pace=(("rounding", "hpbandster"),)),
]


def methods(algorithms: Iterable[str] | None = None) -> list[Method]:
    """Each algorithm of the registry under each schedule that it can be combined with, and variants; `replay` searches nothing."""
    names = [each for each in ALGORITHMS if each != "replay"] if algorithms is None else list(algorithms)
    found = [each for each in VARIANTS if each.algorithm in names]
    for name in names:
        combined = isinstance(load(ALGORITHMS[name])(), Sampler)
        found += [Method(name, schedule) for schedule in (SCHEDULES if combined else [None])]
    return found


def problem_on(space: Space, **fields: Any) -> Problem:
    return Problem(space, **{"min_budget": MIN_BUDGET, "max_budget": MAX_BUDGET, "seed": 5, **fields})


# Results


Ending = Callable[[Problem, Trial], Trial]


def ended(trial: Trial, state: State, loss: float | None, step: int | None = None) -> Trial:
    """A Trial with its end and its curve: the loss falls from twice its size."""
    last = step or trial.budget or MAX_BUDGET
    curve = () if loss is None else tuple((t, loss + abs(loss) * (1 - t / last)) for t in range(1, last + 1))
    losses = () if loss is None else (loss,)
    return dataclasses.replace(trial, state=state, curve=curve, losses=losses, step=last, restorable=state is State.DONE)


def smooth(problem: Problem, trial: Trial) -> Trial:
    """A bowl in the unit cube, a little lower for a larger budget."""
    u = problem.space.encode(trial.params)
    return ended(trial, State.DONE, float(np.nansum((u - 0.3) ** 2)) + 0.1 / (trial.budget or MAX_BUDGET))


def constant(problem: Problem, trial: Trial) -> Trial:
    return ended(trial, State.DONE, 1.0)


def all_fail(problem: Problem, trial: Trial) -> Trial:
    return ended(trial, State.FAILED, None)


def all_infeasible(problem: Problem, trial: Trial) -> Trial:
    return ended(trial, State.INFEASIBLE, math.nan)


def all_stopped(problem: Problem, trial: Trial) -> Trial:
    return ended(trial, State.STOPPED, 1.0, step=1)


def all_break_constraints(problem: Problem, trial: Trial) -> Trial:
    return dataclasses.replace(smooth(problem, trial), violation=1.0 + trial.number % 3)


def anything(problem: Problem, trial: Trial) -> Trial:
    """Every kind of result, by number."""
    made: Sequence[Callable[[], Trial]] = [
        lambda: smooth(problem, trial),
        lambda: ended(trial, State.FAILED, None),
        lambda: ended(trial, State.INFEASIBLE, math.nan),
        lambda: ended(trial, State.DONE, math.inf),
        lambda: smooth(problem, trial),
        lambda: ended(trial, State.DONE, -math.inf),
        lambda: ended(trial, State.STOPPED, 0.7, step=1),
        lambda: ended(trial, State.DONE, HUGE),
        lambda: ended(trial, State.STOPPED, None),
        lambda: ended(trial, State.DONE, -HUGE),
        lambda: dataclasses.replace(smooth(problem, trial), violation=2.0),
        lambda: ended(trial, State.DONE, 0.0),
        lambda: dataclasses.replace(smooth(problem, trial), restorable=False),
    ]
    return made[trial.number % len(made)]()


def unstopped(problem: Problem, trial: Trial) -> Trial:
    """The same where no rule stops any: some algorithms turn to another model as soon as one has."""
    whole = anything(problem, trial)
    return smooth(problem, trial) if whole.state is State.STOPPED else whole


def huge(problem: Problem, trial: Trial) -> Trial:
    """Finite, and some of them as large as they come, with either sign."""
    whole = smooth(problem, trial)
    return ended(trial, State.DONE, {2: HUGE, 14: -HUGE}.get(trial.number % 20, whole.loss))


def exchanged(history: Sequence[Trial]) -> list[Trial]:
    """With each result given to the next Trial of the same budget, and equal losses told apart: as many of each kind."""
    changed = list(history)
    for budget in {trial.budget for trial in history}:
        places = [place for place, trial in enumerate(history) if trial.budget == budget]
        for place, other in zip(places, [*places[1:], places[0]], strict=True):
            result = history[other]
            losses = tuple(loss + 1e-6 * (other * 0.618 % 1) if math.isfinite(loss) else loss for loss in result.losses)
            changed[place] = dataclasses.replace(
                history[place],
                state=result.state,
                losses=losses,
                step=result.step,
                violation=result.violation,
                restorable=result.restorable,
            )
    return changed


# A simulated Study


class World:
    """A Study in memory; `ask` checks each answer against what the seam promises."""

    def __init__(self, method: Method, problem: Problem, ending: Ending = smooth, restarts: bool = False) -> None:
        self.name = method
        self.problem = problem
        self.ending = ending
        self.restarts = restarts
        self.history: list[Trial] = []
        self.finished = ""
        self._method = method.build(problem)

    @property
    def active(self) -> list[Trial]:
        return [trial for trial in self.history if trial.active]

    def ask(self, count: int = 1, create: int | None = None) -> list[Trial]:
        """Put proposals into the history: all, or the first `create` where the operator is killed in between."""
        if self.restarts:
            self.problem, self.history = pickle.loads(pickle.dumps((self.problem, self.history)))
            self._method = self.name.build(self.problem)
        kept = self._method.donors(self.problem, self.history)
        assert all(0 <= number < len(self.history) for number in kept)
        before = [dict(trial.params) for trial in self.history]
        answer = self._method.propose(self.problem, self.history, len(self.history), count)
        assert [trial.params for trial in self.history] == before, "the history is not the method's to change"
        self._check(answer, count, kept)
        self.finished = answer.finished
        started = [
            Trial(number, p.params, p.budget, p.slot, p.donor, p.memo)
            for number, p in enumerate(answer.proposals[:create], start=len(self.history))
        ]
        self.history += started
        return started

    def begin(self, trials: int) -> World:
        """So many Trials, all ended, drawn at random under the schedule, so that what follows is proposed by a model.

        A population has only Trials that are its own: it begins by itself.
        """
        drawn = self if self.name.schedule is None else World(self.name.drawn_at_random(), self.problem, self.ending)
        while len(drawn.history) < trials and not drawn.finished:
            drawn.ask(min(8, trials - len(drawn.history)))
            for trial in drawn.active:
                drawn.end(trial)
        self.history, self.finished = drawn.history, drawn.finished
        return self

    def end(self, trial: Trial) -> None:
        assert self.history[trial.number].active
        self.history[trial.number] = self.ending(self.problem, self.history[trial.number])

    def stop(self) -> None:
        """End the active Trials that the method wants ended."""
        for stop in self._method.stops(self.problem, self.history):
            trial = self.history[stop.number]
            assert trial.active
            assert stop.rule
            assert stop.step <= trial.curve[-1][0]
            self.history[stop.number] = dataclasses.replace(
                trial, state=State.STOPPED, losses=(trial.curve[-1][1],), step=stop.step
            )

    def grow(self, trial: Trial) -> None:
        """One point more on the learning curve of an active Trial."""
        whole = self.ending(self.problem, trial).curve
        self.history[trial.number] = dataclasses.replace(trial, curve=whole[: len(trial.curve) + 1])

    def run(self, trials: int, workers: int = 4, seed: int = 0) -> World:
        """Until so many Trials have been started or the method is finished, ending them in a seeded random order."""
        rng = random.Random(seed)
        while len(self.history) < trials and not self.finished:
            free = workers - len(self.active)
            if free > 0:
                self.ask(min(free, trials - len(self.history)))
            for trial in rng.sample(self.active, min(len(self.active), rng.randint(1, workers))):
                self.grow(trial)
            self.stop()
            for trial in rng.sample(self.active, min(len(self.active), rng.randint(0, 2))):
                self.end(trial)
        return self

    def learns(self) -> bool:
        """Whether proposals have depended on the results of late: a model is in use, and not only waited for.

        A schedule is left out, for whom it promotes depends on them, too.
        """
        ended = [self.ending(self.problem, trial) if trial.active else trial for trial in self.history]
        method = Method(self.name.algorithm, self.name.schedule and "flat", self.name.settings).build(self.problem)
        for n in range(len(ended), len(ended) - 16, -1):
            count, known = 1 if self.name.schedule else n, ended[:n]
            if method.propose(self.problem, known, n, count) != method.propose(self.problem, exchanged(known), n, count):
                return True
        return False

    def _check(self, answer: Answer, count: int, kept: frozenset[int]) -> None:
        assert len(answer.proposals) <= count
        if not answer.proposals and not answer.finished:
            assert self.active, "nothing is proposed, nothing runs, and no end is given: a stall"
        space = self.problem.space
        tried = {space.key(trial.params) for trial in self.history}
        for proposal in answer.proposals:
            assert isinstance(proposal, Proposal)
            self._check_parameters(proposal)
            self._check_place(proposal, kept)
            fresh = proposal.origin in (Origin.SAMPLED, Origin.GIVEN)
            if fresh and space.size is not None:
                assert space.key(proposal.params) not in tried, "a finite space is not tried twice"
                tried.add(space.key(proposal.params))

    def _check_parameters(self, proposal: Proposal) -> None:
        canonical = self.problem.space.validate(proposal.params)
        assert list(canonical.items()) == list(proposal.params.items())
        assert [type(value) for value in canonical.values()] == [type(value) for value in proposal.params.values()]
        assert len(proposal.memo.encode()) <= MEMO_LIMIT

    def _check_place(self, proposal: Proposal, kept: frozenset[int]) -> None:
        assert proposal.budget is None or type(proposal.budget) is int
        assert isinstance(proposal.slot, Slot)
        assert all(value is None or (type(value) is int and value >= 0) for value in dataclasses.astuple(proposal.slot))
        if self.name.schedule in ("halving", "asha", "hyperband"):
            assert proposal.budget in rungs(MIN_BUDGET, MAX_BUDGET, 3)
            places = [(t.slot.bracket, t.slot.rung, t.slot.member) for t in self.history if t.slot.rung is not None]
            assert (proposal.slot.bracket, proposal.slot.rung, proposal.slot.member) not in places
        elif self.name.schedule is not None:
            assert proposal.budget == self.problem.max_budget
        else:
            taken = {(t.slot.generation, t.slot.member) for t in self.history}
            assert (proposal.slot.generation, proposal.slot.member) not in taken
        if proposal.donor is not None:
            donor = self.history[proposal.donor]
            assert not donor.active
            assert donor.restorable
            assert donor.number in kept, "its checkpoint may have been collected already"
            assert (donor.budget or 0) < (proposal.budget or 0)
            assert donor.params == proposal.params or proposal.origin is Origin.PERTURBED
