"""Population based bandits [ParkerHolder2020], on mixed spaces [ParkerHolder2021]: PBT with a model of what pays at this time.

[ParkerHolder2020] J. Parker-Holder et al., Provably efficient online hyperparameter optimization with population-based bandits,
NeurIPS 2020.
[ParkerHolder2021] J. Parker-Holder et al., Tuning mixed input hyperparameters on the fly for efficient population based AutoRL,
NeurIPS 2021.
[Raj2017] V. Raj and S. Kalyani, Taming non-stationary bandits: a Bayesian approach, arXiv 1707.09727.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.encoding import Columns, encoded
from hpo_algorithms.errors import Fault
from hpo_algorithms.gp.features import Features
from hpo_algorithms.gp.search import Box, Effort, maximum
from hpo_algorithms.population.drift import DriftingGP
from hpo_algorithms.population.generations import Rules, Step, answer, donors, faults, improvement
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Params
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Answer, History, Problem, Proposal, Stop, Trial

ROWS = 150  # results that the model looks at, the newest: with a tenth forgotten a generation, older ones say nothing
LEAST = 2  # results below which copies are drawn from the space
CLIP = 2.0  # standard deviations: one jump, as when a learning rate falls, would hide all other differences
HUGE = 1e100  # a gain: the squares of larger ones are no numbers
FORGOTTEN = 0.1  # of what a name has earned, a generation
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
    5. Names are chosen before, by Thompson sampling on what each has earned, in which old earnings are forgotten [Raj2017].
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
                model.append(_Model(problem, history))
            return model[0].best(number, step, beside, self.kappa)

        return answer(problem, history, first, count, self._rules, explore)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return donors(problem, history, self._rules)

    @property
    def _rules(self) -> Rules:
        return Rules("pb2", self.population, self.interval, "truncation", self.truncation, self.mode)


class _Model:
    """What has paid, and what is running: one a question, for the copies that it asks for."""

    def __init__(self, problem: Problem, history: History) -> None:
        self._problem, self._space = problem, problem.space
        self._columns, self._features = Columns.of(self._space), Features(self._space)
        known = {trial.number: trial for trial in history}
        taken = [(trial, known[trial.donor]) for trial in history if trial.donor in known and trial.slot.generation is not None]
        ended = [(trial, donor) for trial, donor in taken if not trial.active][-ROWS:]
        self._running = [(trial, donor) for trial, donor in taken if trial.active]
        self._known = known
        gains = np.array([improvement(trial, donor) for trial, donor in ended])
        self._y = _standardised(gains)
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
        if self._gp is None:
            return self._space.sample(rng)
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

        box = self._box(rng, step.generation)
        start = encoded(self._space, [donor.params])
        return self._space.decode(np.nan_to_num(maximum(self._space, score, start, rng, EFFORT, box)[0], nan=0.5))

    def _points(self, U: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Encodings and losses before as points of the model: shape (n, D + 1)."""
        level = np.clip(np.nan_to_num((before - self._low) / self._span, nan=0.5, posinf=1.0, neginf=0.0), -1.0, 2.0)
        return np.column_stack([level, self._features(U)])

    def _box(self, rng: np.random.Generator, generation: int) -> Box:
        """The names that a copy gets, chosen by what each has earned, and all that the numbers may be."""
        d = len(self._space)
        centre, half = np.full(d, 0.5), np.full(d, 0.5)
        for j in self._columns.categorical:
            parameter = self._space.parameters[j]
            assert parameter.count is not None
            places = (np.arange(parameter.count) + 0.5) / parameter.count
            had = np.abs(self._U[:, [j]] - places) < 1e-6
            weight = (1 - FORGOTTEN) ** (generation - self._t)
            count = weight @ had
            earned = (weight * self._y) @ had
            drawn = earned / (count + 1) + rng.standard_normal(len(places)) / np.sqrt(count + 1)
            centre[j], half[j] = places[int(drawn.argmax())], 0.0
        return Box(centre, half, 1.0)


def _standardised(gains: np.ndarray) -> np.ndarray:
    """Mean zero and deviation one, cut where single ones stand out; what could not be said, as of a Trial that failed, is worst."""
    found = np.full(len(gains), -CLIP)
    finite = np.isfinite(gains)
    if finite.any():
        known = np.clip(gains[finite], -HUGE, HUGE)
        spread = known.std()
        found[finite] = np.clip((known - known.mean()) / (spread if spread > 0 else 1.0), -CLIP, CLIP)
    return found


def _time(trial: Trial) -> float:
    assert trial.slot.generation is not None
    return float(trial.slot.generation)
