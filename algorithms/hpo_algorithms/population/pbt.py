"""Population based training [Jaderberg2017]: bad members become copies of good ones, and go on with other hyperparameters.

[Jaderberg2017] M. Jaderberg et al., Population based training of neural networks, arXiv 1711.09846.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.errors import Fault
from hpo_algorithms.parameters import Categorical, Float, Int, Ordinal, Parameter, Value
from hpo_algorithms.population.generations import TRIES, Rules, Step, answer, donors, faults
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Params, Space
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Answer, History, Problem, Proposal, Stop


@dataclass(frozen=True, slots=True)
class PBT:
    """Trains a population in generations, and finds a schedule of hyperparameters rather than one set of them.

    1. The first members are those that the user gave, and others spread evenly over the space.
    2. At the end of a generation a member of the worst `truncation` becomes a copy of one of the best `truncation`, drawn at
       random; or in exploit `tournament` a member meets another drawn at random, and becomes its copy if that one is better. A
       member that failed, or whose checkpoint is lost, always becomes the copy of a good one.
    3. Whoever has become a copy changes the winner's hyperparameters: each is drawn anew with probability `resample`, else a number
       grows or shrinks by a share of itself, `perturbation`, an ordinal goes to a neighbour, and a name stays.
    4. All others go on with what they have.

    In mode `synchronous` a generation begins when all of the one before have ended: same seed, same results, same Study. In mode
    `asynchronous` each member goes on as soon as it has ended, and is compared with those that have come as far by then.

    Each generation is a Trial a member. budget.min is the length of the first generation, `interval` that of the others, and
    the last ends at budget.max. With eight members or fewer `pb2` finds better schedules.
    """

    population: int = setting(10, "Members; each trains to budget.max.", minimum=2, maximum=1000)
    interval: int | None = setting(
        None, "Length of a generation in units of the budget; budget.min where not given.", minimum=1, maximum=1_000_000
    )
    exploit: str = setting(
        "truncation",
        "Who becomes a copy of whom: the worst of the best, or each loser of a duel.",
        choices=("truncation", "tournament"),
    )
    truncation: float = setting(0.2, "Share of the members that are worst, and that are best.", minimum=0.01, maximum=0.5)
    perturbation: float = setting(
        0.2,
        "Share by which a number grows or shrinks; on a linear scale at most this share of the range.",
        minimum=0.01,
        maximum=0.9,
    )
    resample: float = setting(0.25, "Probability that a parameter of a copy is drawn anew.", minimum=0, maximum=1)
    mode: str = setting(
        "synchronous",
        "Whether a generation waits for all of the one before; without waiting, runs with the same seed differ.",
        choices=("synchronous", "asynchronous"),
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return faults(problem, self._rules)

    def propose(self, problem: Problem, history: History, first: int, count: int) -> Answer:
        def explore(number: int, step: Step, _: Sequence[Proposal]) -> Params:
            assert step.donor is not None
            rng = stream(problem.seed, number, "pbt/explore")
            return perturbed(problem.space, rng, step.donor.params, self.perturbation, self.resample)

        return answer(problem, history, first, count, self._rules, explore)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return donors(problem, history, self._rules)

    @property
    def _rules(self) -> Rules:
        return Rules("pbt", self.population, self.interval, self.exploit, self.truncation, self.mode)


def perturbed(space: Space, rng: np.random.Generator, params: Params, width: float, resample: float) -> Params:
    """The parameters of a copy, which stay as they are where the constraints of the space leave no other choice."""
    for _ in range(TRIES):
        found = _perturbed(space, rng, params, width, resample)
        if space.allows(found):
            return found
    return params


def _perturbed(space: Space, rng: np.random.Generator, params: Params, width: float, resample: float) -> dict[str, Value]:
    """Built in the order of the space; what becomes active by a change before it is drawn anew."""
    found: dict[str, Value] = {}
    for parameter in space.parameters:
        draw, anew, up = map(float, rng.random(3))
        if not space.active(parameter, found):
            continue
        name = parameter.name
        again = name not in params or anew < resample
        found[name] = parameter.decode(draw) if again else nudged(parameter, params[name], width if up < 0.5 else -width)
    return found


def nudged(parameter: Parameter, value: Value, share: float) -> Value:
    """A value moved by a share of itself, up or down, within its bounds.

    On a logarithmic scale it is multiplied. On a linear one it moves by `share` of its size, but not by more than that share of the
    range nor by less than a tenth of that, so that neither zero nor a range far from zero is a trap. Where values are discrete,
    by at least one of them; a name stays.
    """
    if isinstance(parameter, Categorical):
        return value
    if isinstance(parameter, Ordinal):
        return parameter.at(min(max(parameter.index(value) + (1 if share > 0 else -1), 0), parameter.count - 1))
    assert isinstance(parameter, Float | Int) and not isinstance(value, str)
    if parameter.log:
        moved = value * (1 + share)
    else:
        most = abs(share) * (parameter.high - parameter.low)
        moved = value + math.copysign(min(max(abs(share * value), most / 10), most), share)
    if parameter.step is not None:  # an Int always has one
        least = value + math.copysign(parameter.step, share)
        moved = max(moved, least) if share > 0 else min(moved, least)
        moved = parameter.low + round((moved - parameter.low) / parameter.step) * parameter.step
    moved = min(max(moved, parameter.low), parameter.high)
    if isinstance(parameter, Int):
        return parameter.at(parameter.index(int(moved)))
    return parameter.decode(parameter.encode(moved))
