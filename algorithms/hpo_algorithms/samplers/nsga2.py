"""NSGA-II [Deb2002] on mixed and conditional spaces, for several objectives and many Trials.

[Deb1995] K. Deb and R. Agrawal, Simulated binary crossover for continuous search space, Complex Systems 9, 1995.
[Deb2002] K. Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE Trans. Evol. Comp. 6, 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.errors import Fault
from hpo_algorithms.parameters import Categorical, Parameter, Value
from hpo_algorithms.samplers.ga import NARROWEST, WIDEST, generations, moved
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.samplers.population import best_first, first_point, settled
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Params, Space
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem, Trial

CROSSING = 15.0  # index of the distribution of crossed numbers, nearer to the parents where larger; the usual one
AGAIN = 16  # children tried before one that is like a parent is replaced by a point anywhere


@dataclass(frozen=True, slots=True)
class NSGA2:
    """Spreads a population along the Pareto front: first comes what no other dominates, of that what is far from others [Deb2002].

    1. The first `population` Trials are spread evenly over the space.
    2. Members are ranked by front, and within a front by crowding: the distance of the neighbours on both sides.
    3. Two parents are chosen, each the better of two members drawn at random.
    4. With probability `crossover` half of the child's numbers lie around and between the parents' [Deb1995], and all else is
       either parent's; otherwise all is the first parent's. A parameter that becomes active in the child is drawn uniformly.
    5. Each parameter is changed with probability `mutation`, as in `ga`.

    Two modes say what the population is. `steadyState`: the best of all ended Trials, so that each result counts at once.
    `generational`: the best of all complete generations; a generation is complete when it has `population` results, and
    places that become free before are filled with more children of the same parents. Failed and infeasible Trials are no parents.
    """

    mode: str = setting(
        "steadyState",
        "What the population is; generations cost results that are not used yet.",
        choices=("steadyState", "generational"),
    )
    population: int = setting(20, "Members; more keep more of the front, and come to it later.", minimum=4, maximum=1000)
    crossover: float = setting(0.9, "Share of the children that have two parents.", minimum=0, maximum=1)
    mutation: float | None = setting(
        None, "Probability of a change of each parameter; one over their number where not given.", minimum=0, maximum=1
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        space = problem.space
        generation, members = self._members(problem, history)
        memo = f"generation {generation}" if generation is not None else ""
        parents = [trial.params for trial in members]
        vacant = max(self.population - len(history), 0) if generation in (None, 0) else 0
        first = set(numbers[:vacant]) if len(parents) >= 2 else set(numbers)

        def one(number: int, attempt: int) -> Draw:
            rng = stream(problem.seed, number, f"nsga2/{attempt}")
            if number in first:
                return Draw(space.decode(first_point(problem, number) if attempt == 0 else rng.random(len(space))), memo)
            for _ in range(AGAIN):
                mother, father = (parents[int(rng.integers(len(parents), size=2).min())] for _ in range(2))
                child = self._child(space, rng, mother, father)
                if child not in (mother, father):
                    return Draw(child, memo)
            return Draw(space.sample(rng), memo)

        return novel(problem, history, numbers, one)

    def _members(self, problem: Problem, history: History) -> tuple[int | None, list[Trial]]:
        """The generation that is drawn now, None without generations, and the members that may be parents, best first."""
        ended = settled(problem, history)
        now: int | None = None
        if self.mode == "generational":
            born, now = generations(history, ended, self.population)
            ended = [trial for trial in ended if born[trial.number] < now]
        ordered, usable = best_first(problem, ended, self.population)
        return now, ordered[: min(usable, self.population)]

    def _child(self, space: Space, rng: np.random.Generator, mother: Params, father: Params) -> dict[str, Value]:
        """Built in the order of the space, so that what is active follows from the values it already has."""
        d, rate = len(space), 1 / len(space) if self.mutation is None else self.mutation
        two = rng.random() < self.crossover
        mixed, swapped, changed = rng.random(d) < 0.5, rng.random(d) < 0.5, rng.random(d) < rate
        width = WIDEST * (NARROWEST / WIDEST) ** rng.random()
        child: dict[str, Value] = {}
        for j, parameter in enumerate(space.parameters):
            if not space.active(parameter, child):
                continue
            name = parameter.name
            near, far = (father, mother) if two and swapped[j] else (mother, father)
            if name not in near and name not in far:
                child[name] = parameter.decode(rng.random())
                continue
            value = near[name] if name in near else far[name]
            if two and mixed[j] and name in near and name in far and not isinstance(parameter, Categorical):
                value = crossed(rng, parameter, near[name], far[name])
            child[name] = moved(rng, parameter, value, width) if changed[j] else value
        return child


def crossed(rng: np.random.Generator, parameter: Parameter, near: Value, far: Value) -> Value:
    """A number around that of the nearer parent, as far away as the parents are apart times a random factor, within the bounds."""
    a, b = parameter.encode(near), parameter.encode(far)
    if a == b:
        return near
    room = 1 + 2 * min(a, b, 1 - a, 1 - b) / abs(a - b)
    u = rng.random() * (2 - room ** -(CROSSING + 1))
    spread = (u if u <= 1 else 1 / (2 - u)) ** (1 / (CROSSING + 1))
    return parameter.decode(min(max(((1 + spread) * a + (1 - spread) * b) / 2, 0.0), 1.0))
