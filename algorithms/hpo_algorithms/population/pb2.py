"""Population based bandits [ParkerHolder2020], on mixed spaces [ParkerHolder2021]: PBT with a model of what pays at this time.

[ParkerHolder2020] J. Parker-Holder et al., Provably efficient online hyperparameter optimization with population-based bandits,
NeurIPS 2020.
[ParkerHolder2021] J. Parker-Holder et al., Tuning mixed input hyperparameters on the fly for efficient population based AutoRL,
NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.encoding import encoded
from hpo_algorithms.errors import Fault
from hpo_algorithms.gp.features import Features
from hpo_algorithms.gp.search import Box, Effort, maximum
from hpo_algorithms.population.drift import DriftingGP
from hpo_algorithms.population.generations import TRIES, Rules, Step, answer, donors, ends, faults, improvement
from hpo_algorithms.population.names import Names
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Params
from hpo_algorithms.streams import stream
from hpo_algorithms.threads import one_thread
from hpo_algorithms.trials import Answer, History, Problem, Proposal, Stop, Trial

ROWS = 150  # results that the model looks at, the newest: with a tenth forgotten a generation, older ones say nothing
LEAST = 2  # results below which copies are drawn from the space
CLIP = 2.0  # standard deviations: one jump, as when a learning rate falls, would hide all other differences
FENCE = 10.0  # interquartile ranges below the lower quartile, beyond which a loss of ground counts as no larger
HUGE = 1e100  # a gain: the squares of larger ones are no numbers
EFFORT = Effort(uniform=300, near=100, starts=3, tries=16, rounds=6)


@dataclass(frozen=True, slots=True)
class PB2:
    """Trains a population in generations, as `pbt` does, and chooses the hyperparameters of copies by a model.

    1. The first members are those that the user gave, and others spread evenly over the space.
    2. At the end of a generation the worst `truncation` of the members become copies of the best, and so do lost ones.
    3. Each ended Trial says by how much a unit of budget lowered the loss, at that time, from that loss, with those
       hyperparameters. A Gaussian process learns that; what happened long ago counts less.
    4. A copy gets the hyperparameters of the highest m + k s, where m is the mean and s the standard deviation, as if those that
       run had their results already; so members that are changed together are changed differently.
    5. Names are drawn before, by a bandit on what each has earned as it changes with time, TV.EXP3.M [ParkerHolder2021].
    6. All others go on with what they have.

    In mode `synchronous` a generation begins when all of the one before have ended: same seed, same results, same Study. In mode
    `asynchronous` each member goes on as soon as it has ended, and is compared with those that have come as far by then.

    Each generation is a Trial a member. budget.min is the length of the first generation, `interval` that of the others, and
    the last ends at budget.max. Four to eight members are enough.
    """

    population: int = setting(8, "Members; each trains to budget.max.", minimum=2, maximum=1000)
    interval: int | None = setting(
        None, "Length of a generation in units of the budget; budget.min where not given.", minimum=1, maximum=1_000_000
    )
    truncation: float = setting(0.25, "Share of the members that are worst, and that are best.", minimum=0.01, maximum=0.5)
    kappa: float = setting(1.0, "Weight k of the unknown: more explores.", minimum=0, maximum=10)
    mode: str = setting(
        "synchronous",
        "Whether a generation waits for all of the one before; without waiting, runs with the same seed differ.",
        choices=("synchronous", "asynchronous"),
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return faults(problem, self._rules)

    def propose(self, problem: Problem, history: History, first: int, count: int) -> Answer:
        model: list[_Model] = []

        def explore(number: int, step: Step, beside: Sequence[Proposal]) -> Params:
            if not model:
                model.append(_Model(problem, history, self._names(problem, history)))
            return model[0].best(number, step, beside, self.kappa)

        with one_thread():
            return answer(problem, history, first, count, self._rules, explore)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return donors(problem, history, self._rules)

    def _names(self, problem: Problem, history: History) -> Names:
        return Names(problem, history, self._rules.extreme(self.population), len(ends(problem, self.interval)) - 1)

    @property
    def _rules(self) -> Rules:
        return Rules("pb2", self.population, self.interval, "truncation", self.truncation, self.mode)


class _Model:
    """What has paid, and what is running: one a question, for the copies that it asks for."""

    def __init__(self, problem: Problem, history: History, names: Names) -> None:
        self._problem, self._space, self._names = problem, problem.space, names
        self._features = Features(self._space)
        known = {trial.number: trial for trial in history}
        taken = [(trial, known[trial.donor]) for trial in history if trial.donor in known and trial.slot.generation is not None]
        ended = [(trial, donor) for trial, donor in taken if not trial.active][-ROWS:]
        self._running = [(trial, donor) for trial, donor in taken if trial.active]
        self._known = known
        gains = np.array([improvement(trial, donor) for trial, donor in ended])
        self._y = standardised(gains)
        self._t = np.array([_time(trial) for trial, _ in ended])
        befores = np.array([donor.loss for _, donor in ended])
        finite = befores[np.isfinite(befores)]
        self._low = float(finite.min()) if len(finite) else 0.0
        self._span = max(float(finite.max()) - self._low, 1e-12) if len(finite) else 1.0
        self._U = encoded(self._space, [trial.params for trial, _ in ended])
        self._X = self._points(self._U, befores)
        self._gp = DriftingGP(self._X, self._t, self._y) if np.isfinite(gains).sum() >= LEAST else None

    def best(self, number: int, step: Step, beside: Sequence[Proposal], kappa: float) -> Params:
        """The parameters that promise most for a copy."""
        donor, rng = step.donor, stream(self._problem.seed, number, "pb2/explore")
        assert donor is not None
        names = self._names.of(step, beside)
        if self._gp is None:
            for _ in range(TRIES):
                u = rng.random(len(self._space))
                u[list(names)] = list(names.values())
                found = self._space.decode(u)
                if self._space.allows(found):
                    return found
            return donor.params
        gp = self._gp
        running = [(trial.params, trial.slot.generation or 0, before.loss) for trial, before in self._running]
        running += [
            (each.params, each.slot.generation or 0, self._known[each.donor].loss) for each in beside if each.donor is not None
        ]
        wider = gp
        if running:
            U = encoded(self._space, [params for params, *_ in running])
            X = self._points(U, np.array([loss for *_, loss in running]))
            wider = gp.with_running(X, np.array([time for _, time, _ in running], dtype=float))
        before = np.array([donor.loss])

        def score(C: np.ndarray) -> np.ndarray:
            X = self._points(C, np.repeat(before, len(C)))
            return np.asarray(gp.mean(X, step.generation) + kappa * wider.deviation(X, step.generation))

        box = self._box(names)
        start = encoded(self._space, [donor.params])
        found = self._space.decode(np.nan_to_num(maximum(self._space, score, start, rng, EFFORT, box)[0], nan=0.5))
        return found if self._space.allows(found) else donor.params

    def _points(self, U: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Encodings and losses before as points of the model: shape (n, D + 1)."""
        level = np.clip(np.nan_to_num((before - self._low) / self._span, nan=0.5, posinf=1.0, neginf=0.0), -1.0, 2.0)
        return np.column_stack([level, self._features(U)])

    def _box(self, names: Mapping[int, float]) -> Box:
        """The names that a copy gets, and all that the numbers may be."""
        centre, half = np.full(len(self._space), 0.5), np.full(len(self._space), 0.5)
        for j, place in names.items():
            centre[j], half[j] = place, 0.0
        return Box(centre, half, 1.0)


def standardised(gains: np.ndarray) -> np.ndarray:
    """Mean zero and deviation one, cut where single ones stand out; what could not be said, as of a Trial that failed, is worst."""
    found = np.full(len(gains), -CLIP)
    finite = np.isfinite(gains)
    if finite.any():
        known = np.clip(gains[finite], -HUGE, HUGE)
        low, high = np.quantile(known, [0.25, 0.75])
        if high > low:  # else a single Trial that diverged would set the deviation for all
            known = np.maximum(known, low - FENCE * (high - low))
        spread = known.std()
        found[finite] = np.clip((known - known.mean()) / (spread if spread > 0 else 1.0), -CLIP, CLIP)
    return found


def _time(trial: Trial) -> float:
    assert trial.slot.generation is not None
    return float(trial.slot.generation)
