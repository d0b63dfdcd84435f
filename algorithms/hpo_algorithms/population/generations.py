"""A population as its Trials show it: who has come how far, who goes on from whose checkpoint, and whose may still be needed.

A generation is a span of the budget, and what a member does in it is one Trial with the slot (generation, member): it starts from
the checkpoint of its donor, a Trial of the generation before, and trains to the generation's end. The donor is the member's own
predecessor, or another member that it becomes a copy of. All that has been decided stands in slots and donors; only what
follows next is worked out here. `pbt` and `pb2` say how the parameters of a copy are changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.samplers.population import first_point
from hpo_algorithms.scheduled import untried
from hpo_algorithms.schedules.rungs import fit_to_rise
from hpo_algorithms.space import Params
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import (
    POPULATION_LOST,
    SCHEDULE_FINISHED,
    Answer,
    Draw,
    History,
    Origin,
    Problem,
    Proposal,
    Slot,
    State,
    Trial,
)

MAX_GENERATIONS = 10_000  # each is looked at before each proposal, and is a Trial a member
TRIES = 16  # of a copy's parameters that may break a constraint of the space, before it keeps what its donor has


@dataclass(frozen=True, slots=True)
class Rules:
    """How a population lives, in the words of its algorithm's settings."""

    name: str
    population: int
    interval: int | None
    exploit: str
    truncation: float
    mode: str

    def extreme(self, count: int) -> int:
        """How many of so many are at the top, and at the bottom: the share of them, but one of two at least."""
        return min(max(int(self.truncation * count + 1e-9), 1), count // 2)


@dataclass(frozen=True, slots=True)
class Step:
    """What a member does next: begin with a configuration of its own, or go on from a donor; `copied` if that is another one."""

    generation: int
    member: int
    donor: Trial | None = None
    copied: bool = False


Explore = Callable[[int, Step, Sequence[Proposal]], Params]
"""The parameters of a copy, from its number, its step, and what has been proposed beside it."""


def faults(problem: Problem, rules: Rules) -> list[Fault]:
    """Why a population cannot work on a problem."""
    path, found = f"algorithm.{rules.name}", []
    low, high = problem.min_budget, problem.max_budget
    if low is None or high is None:
        remedy = "Add budget: {min: 5, max: 100, unit: epochs}, a generation and the whole."
        found.append(Fault(path, None, "needs a budget, for its members train in generations", remedy))
    elif low >= high:
        rule = f"has a single generation, since budget.min ({low}) is not below budget.max ({high})"
        found.append(Fault(path, None, rule, "Lower budget.min to the length of a generation."))
    elif (count := 1 - (low - high) // (rules.interval or low)) > MAX_GENERATIONS:
        rule = f"has {count} generations by its budget; at most {MAX_GENERATIONS} are allowed"
        found.append(Fault(path, None, rule, "Raise interval, or budget.min where that is the length of a generation."))
    if problem.objectives > 1:
        rule = f"ranks its members by one objective, and there are {problem.objectives}"
        found.append(Fault(path, None, rule, "Keep one objective and make the others constraints."))
    return found


def ends(problem: Problem, interval: int | None) -> tuple[int, ...]:
    """The budget at which each generation ends: the first at min, the others `interval` (or min) further, the last at max."""
    low, high = problem.min_budget, problem.max_budget
    assert low is not None and high is not None
    return (*range(low, high, interval or low), high)


class Population:
    """The members by generation. Trials without a place in it, such as those that others made, are not looked at."""

    def __init__(self, problem: Problem, history: History, rules: Rules) -> None:
        self._problem, self._rules = problem, rules
        self.ends = ends(problem, rules.interval)
        self._ranked: dict[int, list[Trial]] = {}
        size = problem.space.size
        self.size = rules.population if size is None else min(rules.population, size)
        self.at: list[dict[int, Trial]] = [{} for _ in self.ends]
        for trial in history:
            generation, member = trial.slot.generation, trial.slot.member
            if generation is not None and member is not None and generation < len(self.at) and member < self.size:
                self.at[generation][member] = trial

    @property
    def newest(self) -> int:
        """The last generation that has Trials."""
        return max((generation for generation, members in enumerate(self.at) if members), default=0)

    def steps(self, first: int, count: int) -> list[Step]:
        """Up to `count` steps that can be taken now, for the Trials numbered from `first`."""
        found: list[Step] = []
        for generation, member in self._due():
            if len(found) == count:
                break
            step = self._step(generation, member, first + len(found))
            if step is not None:
                found.append(step)
        return found

    def finished(self) -> str:
        """Why nothing will follow any more; empty while something may."""
        if any(trial.active for members in self.at for trial in members.values()) or self.steps(0, 1):
            return ""
        return SCHEDULE_FINISHED if self.at[-1] else POPULATION_LOST

    def donors(self) -> frozenset[int]:
        """The Trials that a later step may still start from.

        That is each member's own last one, with the one before while the last is active and its slot may become free again, and
        in the generations that somebody still has to pass all that others may become copies of.
        """
        pending = {generation for generation, _ in self._due()}
        pending |= {generation for generation, here in enumerate(self.at) for trial in here.values() if trial.active}
        kept: set[int] = set()
        for generation in range(max(min(pending, default=len(self.ends)) - 1, 0), len(self.ends) - 1):
            fit = [trial for trial in self._fit(generation) if trial.restorable]
            if self._rules.exploit == "truncation" and self._rules.mode == "asynchronous":
                later = self.at[generation + 1]
                due = [trial for trial in fit if (after := later.get(_member(trial))) is None or after.active]
                fit = fit[: max(self._rules.extreme(self.size), 1)] + due
            kept |= {trial.number for trial in fit}
        return frozenset(kept)

    def _due(self) -> Iterable[tuple[int, int]]:
        """The slots to be filled next, (generation, member), some of which may still lack somebody to start from."""
        if self._rules.mode == "asynchronous":
            return sorted(self._due_alone())
        newest, members = self.newest, range(self.size)
        here = self.at[newest]
        missing = [(newest, member) for member in members if member not in here]
        if missing and (newest == 0 or any(trial.restorable for trial in self._fit(newest - 1))):
            return missing
        if newest + 1 < len(self.ends) and not any(trial.active for trial in here.values()):
            return [(newest + 1, member) for member in members]
        return []

    def _due_alone(self) -> Iterable[tuple[int, int]]:
        """The slots to be filled when no member waits for the others."""
        for member in range(self.size):
            last = max((generation for generation, here in enumerate(self.at) if member in here), default=-1)
            if last + 1 < len(self.ends) and (last < 0 or not self.at[last][member].active):
                yield last + 1, member

    def _step(self, generation: int, member: int, number: int) -> Step | None:
        """A member's way into a generation; None where nobody in the one before can be continued."""
        if generation == 0:
            return Step(0, member)
        before = self.at[generation - 1]
        own = before.get(member)
        fit = self._fit(generation - 1)
        place = next((i for i, trial in enumerate(fit) if trial is own and trial.restorable), len(fit))
        rng = stream(self._problem.seed, number, "population/exploit")
        better = [trial for trial in fit[:place] if trial.restorable]
        lost = place == len(fit)
        if self._rules.exploit == "truncation":
            ended = sum(not trial.active for trial in before.values())
            share = self._rules.extreme(ended)
            better = better[: max(share, 1)] if lost or place >= ended - share else []
        elif not lost and better:
            # Any other member may be the opponent; one that is not better, or has failed, changes nothing.
            opponent = int(rng.integers(sum(not trial.active for trial in before.values()) - 1))
            better = better[opponent : opponent + 1]
        if better:
            return Step(generation, member, better[int(rng.integers(len(better)))], copied=True)
        return None if lost else Step(generation, member, own)

    def _fit(self, generation: int) -> list[Trial]:
        """The Trials of a generation that have come to its end with a result, best first."""
        if generation not in self._ranked:
            self._ranked[generation] = fit_to_rise(self.at[generation].values())
        return self._ranked[generation]


def answer(problem: Problem, history: History, first: int, count: int, rules: Rules, explore: Explore) -> Answer:
    """What a population does next, with the parameters of copies from `explore`."""
    population = Population(problem, history, rules)
    if reason := population.finished():
        return Answer(finished=reason)
    steps = population.steps(first, count)
    fresh = iter(_first_ones(problem, history, [first + i for i, step in enumerate(steps) if step.donor is None], steps))
    proposals: list[Proposal] = []
    for number, step in enumerate(steps, start=first):
        budget, slot = population.ends[step.generation], Slot(generation=step.generation, member=step.member)
        if step.donor is None:
            params, origin = next(fresh)
            proposals.append(Proposal(params, budget, slot, origin=origin))
        elif step.copied:
            params = explore(number, step, proposals)
            proposals.append(Proposal(params, budget, slot, step.donor.number, origin=Origin.PERTURBED))
        else:
            proposals.append(Proposal(step.donor.params, budget, slot, step.donor.number, origin=Origin.PROMOTED))
    return Answer(tuple(proposals))


def donors(problem: Problem, history: History, rules: Rules) -> frozenset[int]:
    """The Trials whose checkpoints a population may still need."""
    return Population(problem, history, rules).donors()


def _first_ones(problem: Problem, history: History, numbers: Sequence[int], steps: Sequence[Step]) -> list[tuple[Params, Origin]]:
    """Configurations to begin with: those that the user gave, then points spread evenly over the space, none twice if possible."""
    given = untried(problem, history)[: len(numbers)]
    members = dict(zip(numbers, [step.member for step in steps if step.donor is None], strict=True))

    def one(number: int, attempt: int) -> Draw:
        if attempt == 0:
            return Draw(problem.space.decode(first_point(problem, members[number])))
        return Draw(problem.space.sample(stream(problem.seed, number, f"population/{attempt}")))

    rest = numbers[len(given) :]
    drawn = [draw.params for draw in novel(problem, history, rest, one)]
    again = 1 if problem.space.constraints else 0  # the first attempt need not keep them
    drawn += [one(number, again).params for number in rest[len(drawn) :]]
    return [(params, Origin.GIVEN) for params in given] + [(params, Origin.SAMPLED) for params in drawn]


def improvement(trial: Trial, donor: Trial) -> float:
    """By how much a Trial's loss fell per unit of its budget; NaN where that cannot be said."""
    if trial.state is not State.DONE or not np.isfinite([trial.loss, donor.loss]).all() or not trial.budget or not donor.budget:
        return float("nan")
    return (donor.loss - trial.loss) / max(trial.budget - donor.budget, 1)


def _member(trial: Trial) -> int:
    assert trial.slot.member is not None
    return trial.slot.member
