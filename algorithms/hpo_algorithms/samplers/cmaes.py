"""Covariance matrix adaptation, replayed from the history; discrete numbers with a margin, names by their own frequencies.

[Hansen2016] N. Hansen, The CMA evolution strategy: a tutorial, arXiv 1604.00772.
[Hamano2022] R. Hamano et al., CMA-ES with margin: lower-bounding marginal probability for mixed-integer optimization, GECCO 2022.
[Auger2005] A. Auger and N. Hansen, A restart CMA evolution strategy with increasing population size, CEC 2005.
[Baluja1994] S. Baluja, Population-based incremental learning, CMU-CS-94-163, 1994.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.encoding import Columns
from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.samplers.population import best_first, first_point, packed, settled, unpacked
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Space
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem, Trial

LEARNED = 0.3  # how far the frequencies of names move towards those of the better half, each generation
CONVERGED = 1e-5  # range of all coordinates in a generation below which a search is over; memos have seven digits
DOUBLINGS = 4  # of the population, at most: sixteen times as many are as good as a random search with what is left
CACHED = 16  # replayed searches that are kept: a memo of what the history says, so that a long one is not replayed each time
RESAMPLED = 20  # draws until one lies within the bounds; then the last is moved to them


@dataclass(frozen=True, slots=True)
class CMAES:
    """Moves, stretches and turns a normal distribution towards where losses are low.

    1. The first `startupTrials` are spread evenly over the space. The best of them is the first mean, `sigma` the deviation.
    2. Points are drawn from N(mean, sigma^2 C) in the unit cube. When a generation has `population` results, mean, sigma and C move
       towards its better half and away from the worse [Hansen2016]. Numbers of a step keep a margin of probability for each
       neighbour [Hamano2022], without which they would stand still once the distribution is narrower than a step.
    3. Names are drawn from frequencies of their own, that move towards those of the better half [Baluja1994], and never below a
       margin. They do not correlate with anything.
    4. A search that has converged, or whose generation has one and the same loss throughout, starts again elsewhere with twice
       the population [Auger2005].

    A generation is the next `population` Trials that have ended, by number: nothing waits for a straggler, which is told with
    those that end when it does. Failed Trials are the worst. Each Trial's memo holds its search, its generation and its point
    before rounding, and the first ones of a search where that began; a proposal replays the running search.

    For 5 to 100 numbers and at least some hundred Trials. With fewer, or with many names and conditions, `auto` finds more.
    """

    population: int | None = setting(
        None, "Results in a generation; 4 + 3 ln(parameters) where not given.", minimum=4, maximum=1000
    )
    sigma: float = setting(0.15, "First standard deviation, as a share of each range.", minimum=0.001, maximum=1)
    startup_trials: int = setting(20, "Trials that look for a place to start from.", minimum=0, maximum=1000)
    restarts: bool = setting(True, "Whether to start again after convergence, or to go on drawing from the last distribution.")

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        space = problem.space
        ended = settled(problem, history)
        drawn = [trial for trial in history if trial.memo.startswith("cmaes ")]
        startup = 0 if drawn else max(self.startup_trials - len(history), 0)
        search: _Search | None = None

        def one(number: int, attempt: int) -> Draw:
            nonlocal search
            rng = stream(problem.seed, number, f"cmaes/{attempt}")
            if number in numbers[:startup]:
                return Draw(space.decode(first_point(problem, number) if attempt == 0 else rng.random(len(space))))
            search = search or self._search(problem, drawn, ended)
            u, unrounded = search.point(rng)
            start = f" {packed(search.start)}" if search.generation == 0 else ""
            return Draw(space.decode(u), f"cmaes {search.index} {search.generation} {packed(unrounded)}{start}")

        return novel(problem, history, numbers, one)

    def _search(self, problem: Problem, drawn: Sequence[Trial], ended: Sequence[Trial]) -> _Search:
        """The search that is running, or the next one where that is over."""
        d = len(problem.space)
        index = max((_index(trial) for trial in drawn), default=0)
        mine = {trial.number: _start(trial) for trial in drawn if _index(trial) == index}
        told = sorted((trial for trial in ended if trial.number in mine), key=lambda trial: trial.number)
        starts = [start for start in mine.values() if start is not None]
        start = starts[-1] if starts else np.full(d, 0.5)
        if index == 0 and len(told) < self._size(d, 0):  # those that look for a place to start from may not all have ended yet
            ordered, usable = best_first(problem, [trial for trial in ended if trial.number not in mine])
            if usable:
                found = problem.space.encode(ordered[0].params)
                start = np.where(np.isnan(found), 0.5, found)
        search = self._begun(problem.space, index, start)
        search = _replayed(search, f"{self!r} {problem.space!r}", _generations(problem, told, search.population))
        if search.over and self.restarts:
            return self._begun(problem.space, index + 1, stream(problem.seed, index + 1, "cmaes/restart").random(d))
        return search

    def _begun(self, space: Space, index: int, start: np.ndarray) -> _Search:
        start = unpacked(packed(start))  # as it will be read from the memos
        return _Search(space, index, start, self.sigma, self._size(len(space), index))

    def _size(self, d: int, index: int) -> int:
        """The population of a search on d parameters, after `index` restarts."""
        first = self.population or 4 + math.floor(3 * math.log(d))
        return first << min(index, DOUBLINGS)


class _Search:
    """One run of the evolution strategy: its distribution after the generations that it has been told."""

    def __init__(self, space: Space, index: int, start: np.ndarray, sigma: float, population: int) -> None:
        from cmaes import CMAwM

        columns = Columns.of(space)
        self.index, self.generation, self.population, self.start = index, 0, population, start
        self.over = False
        self._names = [j for j in columns.categorical if columns.levels[j] > 1]
        self._numbers = np.setdiff1d(np.arange(len(space)), columns.categorical)
        self._numbers = self._numbers[columns.levels[self._numbers] > 1]
        self._levels = columns.levels
        self._shares = {j: np.full(int(columns.levels[j]), 1 / columns.levels[j]) for j in self._names}
        for j in self._names:
            chosen = np.eye(len(self._shares[j]))[_level(start[j], len(self._shares[j]))]
            self._shares[j] = _with_margin((1 - LEARNED) * self._shares[j] + LEARNED * chosen)
        self._cma = None
        if len(self._numbers):
            even = [j for j in columns.discrete if columns.levels[j] > 1 and _is_even(space, j)]
            steps = np.array([1 / columns.levels[j] if j in even else 0.0 for j in self._numbers])
            bounds = np.column_stack([steps / 2, 1 - steps / 2])
            mean = np.clip(start[self._numbers], bounds[:, 0], bounds[:, 1])
            self._cma = CMAwM(mean, sigma, bounds, steps, n_max_resampling=RESAMPLED, population_size=population)

    def point(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A draw, and the same before rounding, which is what is learned from: shapes (d,)."""
        u = np.full(len(self._levels), 0.5)
        for j in self._names:
            level = int(np.searchsorted(np.cumsum(self._shares[j]), rng.random()))
            u[j] = (min(level, len(self._shares[j]) - 1) + 0.5) / len(self._shares[j])
        unrounded = u.copy()
        if self._cma is not None:
            self._cma.reseed_rng(int(rng.integers(2**32)))
            u[self._numbers], unrounded[self._numbers] = self._cma.ask()
        return u, unrounded

    def tell(self, X: np.ndarray, flat: bool) -> None:
        """Learn from the points of a generation, best first: shape (population, d)."""
        self.generation += 1
        self.over = flat
        if self._cma is not None:
            self.over |= bool((np.ptp(X[:, self._numbers], axis=0) < CONVERGED).all())
            self._cma.tell([(x, float(rank)) for rank, x in enumerate(X[:, self._numbers])])
            # Copying it, as the cache does, drops one triangle of C, which rounding makes differ from the other. Done always, so
            # that what is in the cache is what a replay gives, to the last digit.
            self._cma = copy.deepcopy(self._cma)
        for j in self._names:
            levels = len(self._shares[j])
            seen = np.bincount([_level(u, levels) for u in X[: len(X) // 2, j]], minlength=levels)
            self._shares[j] = _with_margin((1 - LEARNED) * self._shares[j] + LEARNED * seen / seen.sum())


def _generations(problem: Problem, ended: Sequence[Trial], population: int) -> list[tuple[list[Trial], bool]]:
    """What each complete generation of a search has brought: its Trials, best first, and whether all are alike."""
    found = []
    for first in range(0, len(ended) - population + 1, population):
        ordered, usable = best_first(problem, ended[first : first + population])
        found.append((ordered, usable > 1 and len({trial.losses for trial in ordered}) == 1))
    return found


def _replayed(search: _Search, study: str, generations: Sequence[tuple[list[Trial], bool]]) -> _Search:
    """A search that has been told all generations; those that an earlier proposal has told are taken from the cache."""
    keys, digest = [], hashlib.blake2b(f"{study} {search.index} {packed(search.start)}".encode(), digest_size=16)
    for ordered, flat in generations:
        digest.update("\n".join([str(flat), *(trial.memo for trial in ordered)]).encode())
        keys.append(digest.digest())
    known = next((i for i in reversed(range(len(keys))) if keys[i] in _CACHE), -1)
    if known >= 0:
        search = copy.deepcopy(_CACHE[keys[known]])
    for ordered, flat in generations[known + 1 :]:
        search.tell(np.array([unpacked(trial.memo.split(" ")[3]) for trial in ordered]), flat)
    if keys:
        _CACHE.pop(keys[-1], None)
        _CACHE[keys[-1]] = copy.deepcopy(search)
        while len(_CACHE) > CACHED:
            _CACHE.pop(next(iter(_CACHE)))
    return search


_CACHE: dict[bytes, _Search] = {}


def _index(trial: Trial) -> int:
    return int(trial.memo.split(" ", 2)[1])


def _start(trial: Trial) -> np.ndarray | None:
    words = trial.memo.split(" ")
    return unpacked(words[4]) if len(words) > 4 else None


def _level(u: float, levels: int) -> int:
    return min(int(u * levels), levels - 1)


def _is_even(space: Space, j: int) -> bool:
    """Whether a discrete parameter's values lie evenly on the unit scale, which those of a logarithmic one do not."""
    return not getattr(space.parameters[j], "log", False)


def _with_margin(shares: np.ndarray) -> np.ndarray:
    """Frequencies none of which is below a tenth of the even one."""
    least = 0.1 / len(shares)
    raised = np.maximum(shares, least)
    return np.asarray(raised / raised.sum())
