"""The values that pass between a Study and its algorithm: Trials that are known, and proposals for new ones."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from hpo_algorithms.space import Params, Space

LARGEST_LOSS = 1e300  # in size, as losses are compared: differences and sums of larger ones are no numbers


class State(enum.Enum):
    """Where a Trial stands, as far as an algorithm needs to know."""

    ACTIVE = "active"  # proposed, and not ended yet
    DONE = "done"  # ran to its budget
    STOPPED = "stopped"  # ended early by a rule
    FAILED = "failed"  # gave no result; to be ranked last
    INFEASIBLE = "infeasible"  # the configuration cannot be run, or its result is not a number; to be ranked last


class Origin(enum.Enum):
    """Where a proposal comes from."""

    GIVEN = "Given"  # a configuration that the user asked for
    SAMPLED = "Sampled"  # drawn by a sampler
    PROMOTED = "Promoted"  # a known configuration, to be trained further
    PERTURBED = "Perturbed"  # a member of a population that took over another one's weights and changed them
    FALLBACK = "Fallback"  # quasi-random, because the algorithm failed


@dataclass(frozen=True, slots=True)
class Slot:
    """A Trial's place in its schedule or population; what a schedule does not use is None.

    `member` tells configurations in one bracket, or members of one population, apart and stays the same from rung to rung.
    """

    bracket: int | None = None
    rung: int | None = None
    generation: int | None = None
    member: int | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration, run once. A history is a sequence of them in ascending order of `number`, active ones included.

    A number is not a position: Trials that were deleted, or canceled so that their slot is free again, leave holes.

    Losses are to be minimised; `losses` is the final result, one for each objective, empty while there is none and possibly NaN.
    `curve` holds (step, first objective's loss) in ascending order of step. `violation` is the sum by which outcome constraints
    are broken; where they hold it is 0, or less by how far the nearest is from being broken. `memo` is what the algorithm wrote
    into the proposal. `restorable` says that the Trial's last checkpoint can be continued by another. One that is `lost` had such
    a checkpoint and has it no more: whoever would have been trained on from it must not be trained on from nothing in its name.
    Without a store of checkpoints a Trial is neither.
    """

    number: int
    params: Params
    budget: int | None = None
    slot: Slot = Slot()
    donor: int | None = None
    memo: str = ""
    state: State = State.ACTIVE
    curve: tuple[tuple[int, float], ...] = ()
    losses: tuple[float, ...] = ()
    step: int | None = None
    violation: float = 0.0
    restorable: bool = False
    lost: bool = False

    @property
    def active(self) -> bool:
        return self.state is State.ACTIVE

    @property
    def loss(self) -> float:
        """The first objective's final loss for ranking: infinite where there is none, or where it is not a number."""
        if self.state in (State.FAILED, State.INFEASIBLE) or not self.losses or math.isnan(self.losses[0]):
            return math.inf
        loss = self.losses[0]
        return loss if math.isinf(loss) else min(max(loss, -LARGEST_LOSS), LARGEST_LOSS)


History = Sequence[Trial]


def losses_of(trials: Sequence[Trial], objectives: int) -> np.ndarray:
    """All objectives' final losses for ranking: shape (n, objectives), NaN where there are not as many."""
    nothing = (math.nan,) * objectives
    each = (trial.losses if len(trial.losses) == objectives else nothing for trial in trials)
    told = np.fromiter(chain.from_iterable(each), float, len(trials) * objectives)
    return np.where(np.isinf(told), told, np.clip(told, -LARGEST_LOSS, LARGEST_LOSS)).reshape(len(trials), objectives)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a Study asks: the space, how many objectives, how far Trials may train, and what is known beforehand.

    `given` are configurations that the user wants tried first; `prior` are the ended Trials of each of some earlier
    Studies on the same space (`hpo_algorithms.prior.warm` puts them there).
    """

    space: Space
    objectives: int = 1
    min_budget: int | None = None
    max_budget: int | None = None
    seed: int = 0
    given: tuple[Params, ...] = ()
    prior: tuple[tuple[Trial, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A Trial that an algorithm asks to run. `donor` is the Trial whose checkpoint it starts from."""

    params: Params
    budget: int | None = None
    slot: Slot = Slot()
    donor: int | None = None
    memo: str = ""
    origin: Origin = Origin.SAMPLED


@dataclass(frozen=True, slots=True)
class Answer:
    """Proposals for the numbers first, first + 1, …; fewer than asked for are fine.

    No proposals and no `finished` means: wait, which is legal only while a Trial is active. `finished` is the reason for which
    there will be no more proposals ever, whatever the active Trials bring: one of the constants below.
    """

    proposals: tuple[Proposal, ...] = ()
    finished: str = ""


SEARCH_EXHAUSTED = "SearchExhausted"  # every configuration of a finite space has been tried
SCHEDULE_FINISHED = "ScheduleFinished"  # the schedule has run all its brackets, or the population all its generations
POPULATION_LOST = "PopulationLost"  # no member of the population is left that could be continued


@dataclass(frozen=True, slots=True)
class Stop:
    """A decision to end an active Trial early, by a named rule, on what it had reported at `step`."""

    number: int
    rule: str
    step: int


@dataclass(frozen=True, slots=True)
class Draw:
    """What a sampler proposes; `slot` only where the sampler itself has generations."""

    params: Params
    memo: str = ""
    slot: Slot | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """How long a schedule wants a Trial to run: a new configuration, or that of Trial `source` trained further."""

    budget: int | None = None
    slot: Slot = Slot()
    source: int | None = None
