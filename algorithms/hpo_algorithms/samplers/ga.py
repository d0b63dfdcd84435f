"""Genetic algorithm on mixed and conditional spaces, by generations or in a steady state.

[Goldberg1991] D. Goldberg and K. Deb, A comparative analysis of selection schemes used in genetic algorithms, FOGA 1991.
[Real2019] E. Real et al., Regularized evolution for image classifier architecture search, AAAI 2019.
[Syswerda1989] G. Syswerda, Uniform crossover in genetic algorithms, ICGA 1989.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.errors import Fault
from hpo_algorithms.parameters import Categorical, Parameter, Value
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.samplers.population import best_first, first_point, settled
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Params, Space
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem, Trial

WIDEST, NARROWEST = 0.3, 0.003  # of a step, as shares of a range: drawn in between anew for each child, evenly on a log scale


@dataclass(frozen=True, slots=True)
class GA:
    """Crosses good Trials with each other and changes a parameter or two of the child.

    1. The first `population` Trials are spread evenly over the space.
    2. Two parents are chosen, each as the best of `tournament` members of the population drawn at random [Goldberg1991].
    3. With probability `crossover` each parameter is either parent's [Syswerda1989], else the first parent's. A parameter that
       becomes active in the child and is so in neither parent is drawn uniformly.
    4. Each parameter is changed with probability `mutation`: a number by a normal step, a name to any other. A child that is like
       a parent is changed until it is not.

    Three modes say what the population is. `steadyState`: the best of all ended Trials, so that each result counts at once.
    `regularized`: the last of them by number, so that what was lucky once dies out [Real2019]; for noisy results and categoricals.
    `generational`: the last complete generation and the `elitism` best before it. A generation is complete when it has
    `population` results; places that become free before are filled with more children of the same parents, and what
    ends late is still a member. Failed Trials are no parents.
    """

    mode: str = setting(
        "steadyState",
        "What the population is; generations cost results that are not used yet.",
        choices=("steadyState", "generational", "regularized"),
    )
    population: int = setting(20, "Trials to choose parents from; more explore.", minimum=2, maximum=10_000)
    tournament: int = setting(
        8,
        "Members that a parent is the best of; 1 chooses blindly, more than a third of the population the best.",
        minimum=1,
        maximum=100,
    )
    crossover: float = setting(0.9, "Share of the children that have two parents.", minimum=0, maximum=1)
    mutation: float | None = setting(
        None, "Probability of a change of each parameter; one over their number where not given.", minimum=0, maximum=1
    )
    elitism: int = setting(1, "Members that outlive their generation, in mode generational.", minimum=0, maximum=100)

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        space = problem.space
        generation, pool = self._pool(problem, history)
        memo = f"generation {generation}" if generation is not None else ""
        parents = [trial.params for trial in pool]
        vacant = max(self.population - len(history), 0) if generation in (None, 0) else 0
        first = set(numbers[:vacant]) if len(parents) >= 2 else set(numbers)

        def one(number: int, attempt: int) -> Draw:
            if number in first:
                u = (
                    first_point(problem, number)
                    if attempt == 0
                    else stream(problem.seed, number, f"ga/{attempt}").random(len(space))
                )
                return Draw(space.decode(u), memo)
            rng = stream(problem.seed, number, f"ga/{attempt}")
            mother, father = (parents[int(rng.integers(len(parents), size=self.tournament).min())] for _ in range(2))
            return Draw(self._child(space, rng, mother, father), memo)

        return novel(problem, history, numbers, one)

    def _pool(self, problem: Problem, history: History) -> tuple[int | None, list[Trial]]:
        """The generation that is drawn now, None without generations, and the Trials that may be parents, best first."""
        ended = settled(problem, history)
        if self.mode == "regularized":
            ended = sorted(ended, key=lambda trial: trial.number)[-self.population :]
        ordered, usable = best_first(problem, ended)
        if self.mode != "generational":
            return None, ordered[: min(usable, self.population)]
        born, now = generations(history, ended, self.population)
        before = [trial for trial in ordered[:usable] if born[trial.number] < now]
        elite = {trial.number for trial in before[: self.elitism]}
        return now, [trial for trial in before if born[trial.number] == now - 1 or trial.number in elite]

    def _child(self, space: Space, rng: np.random.Generator, mother: Params, father: Params) -> Params:
        d = len(space)
        rate = 1 / d if self.mutation is None else self.mutation
        from_father = (rng.random(d) < 0.5) & (rng.random() < self.crossover)
        changed = rng.random(d) < rate
        width = WIDEST * (NARROWEST / WIDEST) ** rng.random()
        child = _crossed(space, rng, mother, father, from_father, changed, width)
        for _ in range(d):
            if child not in (mother, father):
                break
            changed = np.zeros(d, dtype=bool)
            active = [j for j, name in enumerate(space.names) if name in child]
            changed[rng.choice(active)] = True
            child = _crossed(space, rng, child, child, changed & False, changed, width)
        return child


def generation_of(trial: Trial) -> int:
    """What stands in the memo; what others placed counts as a forefather."""
    word, _, number = trial.memo.partition(" ")
    return int(number) if word == "generation" and number.isdecimal() else 0


def generations(history: History, ended: Sequence[Trial], size: int) -> tuple[dict[int, int], int]:
    """The generation of each Trial by its number, and the one that is drawn now: the next as soon as one has `size` results."""
    born = {trial.number: generation_of(trial) for trial in history}
    now = max(born.values(), default=0)
    return born, now + (sum(born[trial.number] == now for trial in ended) >= size)


def _crossed(
    space: Space,
    rng: np.random.Generator,
    mother: Params,
    father: Params,
    from_father: np.ndarray,
    changed: np.ndarray,
    width: float,
) -> dict[str, Value]:
    """A child: built in the order of the space, so that what is active follows from the values it already has."""
    child: dict[str, Value] = {}
    for j, parameter in enumerate(space.parameters):
        if not space.active(parameter, child):
            continue
        name = parameter.name
        giver, other = (father, mother) if from_father[j] else (mother, father)
        if name not in giver and name not in other:
            child[name] = parameter.decode(rng.random())
            continue
        value = giver[name] if name in giver else other[name]
        child[name] = moved(rng, parameter, value, width) if changed[j] else value
    return child


def moved(rng: np.random.Generator, parameter: Parameter, value: Value, width: float) -> Value:
    """Another value of a parameter: any other name, or a number that lies a normal step away, reflected at its bounds."""
    if parameter.count == 1:
        return value
    if isinstance(parameter, Categorical):
        return parameter.at((parameter.index(value) + 1 + int(rng.integers(parameter.count - 1))) % parameter.count)
    step = width * rng.standard_normal()
    u = abs(parameter.encode(value) + step) % 2
    found = parameter.decode(min(u, 2 - u))
    if parameter.count is None or found != value:
        return found
    index = parameter.index(value) + (1 if step > 0 else -1)
    return parameter.at(index if 0 <= index < parameter.count else parameter.index(value) + (-1 if step > 0 else 1))
