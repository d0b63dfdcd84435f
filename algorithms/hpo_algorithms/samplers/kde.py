"""Kernel densities of the good and of the others: the model of BOHB [Falkner2018].

[Falkner2018] S. Falkner et al., BOHB: robust and efficient hyperparameter optimization at scale, ICML 2018.
[Aitchison1976] J. Aitchison and C. Aitken, Multivariate binary discrimination by the kernel method, Biometrika 63, 1976.
[Wang1981] M.-C. Wang and J. van Ryzin, A class of smooth estimators for discrete distributions, Biometrika 68, 1981.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from hpo_algorithms.encoding import Snapping, among, encoded
from hpo_algorithms.errors import Fault
from hpo_algorithms.linear import Allowed
from hpo_algorithms.parameters import Categorical
from hpo_algorithms.ranking import Ranked, ranked
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Params, Space
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem, Trial

MAX_GOOD = 100  # the best of them: beyond, a draw costs more and tells no more
MAX_BAD = 400  # evenly thinned: their density keeps its shape, and 10,000 Trials cost no more than a thousand
MAX_LEVELS = 32  # an ordered parameter of more values is as good as continuous
NARROWEST = 1e-3  # of a bandwidth; the paper's
# Draws around n good Trials are at least this / (n + 2) of the range wide. Good Trials that stand together by chance would else
# draw all others to where they are, and parameters of few values would take one and the same for good.
SPREAD = 2.0
FLOOR = math.log(1e-32)  # of a density: below, a ratio would only compare two tails


@dataclass(frozen=True, slots=True)
class KDE:
    """Draws near the good Trials of the highest budget that has enough and of those above it, where the others are few.

    1. Learns from the highest budget with at least `minPoints` + 2 results, and from those above it, which have fewer; before
       there are so many in all: uniform draws.
    2. The best share of the results at each of them is good: a third while they are few, then at least `minPoints`.
    3. The rest are the others, what failed and what is still running among them; so is the worse half of each lower budget, but for
       those looked at before. They are at least `minPoints`, so that the two sets overlap at first.
    4. Each set becomes one density over all parameters, a sum of product kernels (`Density`).
    5. Of `candidates` draws from kernels around the good, `bandwidthFactor` times as wide, the one with the largest ratio
       l(x) / g(x) of the densities is proposed. A `randomFraction` of the Trials is drawn uniformly instead.

    Under Hyperband this is `bohb`. A proposal takes one or two milliseconds. On full trainings alone, `tpe` finds more.
    """

    min_points: int | None = setting(
        None, "Trials that make a set; one more than there are parameters where not given.", minimum=1, maximum=1000
    )
    good_share: float = setting(0.15, "The share of the results that is called good.", minimum=0.01, maximum=0.5)
    candidates: int = setting(64, "Draws that the best is taken of.", minimum=1, maximum=1000)
    random_fraction: float = setting(
        0.33, "Share of uniform draws, for low budgets may mislead the model for good.", minimum=0, maximum=1
    )
    bandwidth_factor: float = setting(
        5.0,
        "Draws come from kernels so many times as wide as those of the density; with less than 3 the search stands still.",
        minimum=1,
        maximum=100,
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        space = problem.space
        least = self.min_points or len(space) + 1
        model = self._model(problem, history, least)

        def one(number: int, attempt: int) -> Draw:
            rng = stream(problem.seed, number, f"kde/{attempt}")
            u = rng.random(len(space))
            if model is None or rng.random() < self.random_fraction:
                return Draw(space.decode(u))
            return Draw(space.decode(model.best(rng, self.candidates)))

        return novel(problem, history, numbers, one)

    def _model(self, problem: Problem, history: History, least: int) -> Model | None:
        space, rungs = problem.space, _by_budget(problem, history)
        if sum(rung.told for rung in rungs) < least + 2:
            return None
        good: dict[Hashable, Params] = {}
        seen: dict[Hashable, Params] = {}
        enough = False
        for rung in rungs:
            n, looked_at = rung.told, rung.trials
            if not enough:
                enough = n >= least + 2
                count = max(min(least, n // 3), min(int(self.good_share * n), MAX_GOOD), min(n, 1))
                good |= {space.key(trial.params): trial.params for trial in looked_at[:count]}
            else:
                looked_at = looked_at[(len(looked_at) + 1) // 2 :]
            seen |= {space.key(trial.params): trial.params for trial in looked_at}
        others = [params for key, params in seen.items() if key not in good]
        missing = max(least - len(others), 0)
        others = list(good.values())[max(len(good) - missing, 0) :] + others
        others = others[:: max(1, math.ceil(len(others) / MAX_BAD))]
        known = {space.key(trial.params) for trial in history if not trial.active}
        others += [trial.params for trial in history if trial.active and space.key(trial.params) not in known]
        return Model(space, encoded(space, list(good.values())), encoded(space, others), self.bandwidth_factor)


@dataclass(frozen=True, slots=True)
class BOHB(KDE):
    """Kernel densities of the good Trials and of the others, under Hyperband where no schedule is named.

    The sampler is that of `kde` [Falkner2018], and so are the settings.
    """


def _by_budget(problem: Problem, history: History) -> list[Ranked]:
    """What ended at each budget, the highest first."""
    ended: dict[int, list[Trial]] = {}
    for trial in history:
        if not trial.active:
            ended.setdefault(trial.budget or 0, []).append(trial)
    return [ranked(problem, ended[budget], 1) for budget in sorted(ended, reverse=True)]


class Model:
    """The two densities, and draws from around the good."""

    def __init__(self, space: Space, good: np.ndarray, bad: np.ndarray, factor: float) -> None:
        self._tried = np.vstack([good, bad]) if space.size is not None else None
        self._allowed = Allowed(space) if space.constraints else None
        self._good, self._bad = Density(space, good), Density(space, bad)
        self._wide = Density(space, good, factor, SPREAD / (len(good) + 2))

    def best(self, rng: np.random.Generator, candidates: int) -> np.ndarray:
        """The candidate of largest ratio, a snapped point of shape (d,)."""
        C = self._wide.sample(rng, candidates)
        scores = np.maximum(self._good.logpdf(C), FLOOR) - np.maximum(self._bad.logpdf(C), FLOOR)
        if self._tried is not None:
            scores[among(C, self._tried)] = -np.inf
        if self._allowed is not None:
            scores[~self._allowed(C)] = -np.inf
        return np.asarray(C[np.argmax(scores)])


class Density:
    """p(x) = mean over i of prod_j k_j(x_j, X_ij), with respect to the uniform density on the space.

    Numbers have normal kernels truncated to the unit interval. Those of few values have k(a, b) ~ exp(-|a - b| / h) over the
    values that there are [Wang1981], those without an order 1 - w for the value itself and w in all shared by the others
    [Aitchison1976]. Bandwidths follow the normal reference rule, 1.06 deviation n^(-1 / (4 + d)); the deviation of names is
    how evenly they are spread. A parameter that is inactive in x or in X_i counts as its average over all values: k_j = 1.

    Args:
        X: encoded configurations, shape (n, d) with n > 0, NaN where inactive.
        factor: all bandwidths are multiplied by it.
        least: no bandwidth is smaller.
    """

    def __init__(self, space: Space, X: np.ndarray, factor: float = 1.0, least: float = 0.0) -> None:
        self._snap, (n, d) = Snapping(space), X.shape
        self._known = ~np.isnan(X)
        self._X = np.where(self._known, X, 0.5)
        rule = 1.06 * np.maximum(self._known.sum(axis=0), 1) ** (-1 / (4 + d))
        self._levels = [_levels(space, j) for j in range(d)]
        self._numbers = np.array([j for j in range(d) if not len(self._levels[j])], dtype=int)
        self._h = np.maximum(np.maximum(rule * _deviations(self._X, self._known), NARROWEST) * factor, least)[self._numbers]
        below, above = ndtr(-self._X[:, self._numbers] / self._h), ndtr((1 - self._X[:, self._numbers]) / self._h)
        self._below, self._mass = below, above - below
        self._tables: dict[int, np.ndarray] = {}
        self._places = np.zeros((n, d), dtype=int)
        for j in range(d):
            if len(grid := self._levels[j]):
                self._places[:, j] = _places(grid, self._X[:, j])
                seen = self._places[self._known[:, j], j]
                ordered = not isinstance(space.parameters[j], Categorical)
                self._tables[j] = _table(grid, seen, float(rule[j]), factor, least, ordered)

    def sample(self, rng: np.random.Generator, m: int) -> np.ndarray:
        """m draws, snapped to the space: shape (m, d), NaN where inactive."""
        which = rng.integers(len(self._X), size=m)
        u = rng.random((m, self._X.shape[1]))
        near = self._below[which] + u[:, self._numbers] * self._mass[which]
        drawn = u.copy()
        drawn[:, self._numbers] = self._X[which][:, self._numbers] + self._h * ndtri(near)
        for j, table in self._tables.items():
            chosen = (np.cumsum(table[self._places[which, j]], axis=1) < u[:, j : j + 1]).sum(axis=1)
            drawn[:, j] = self._levels[j][np.minimum(chosen, len(table) - 1)]
        return self._snap(np.clip(np.where(self._known[which], drawn, u), 0.0, 1.0))

    def logpdf(self, C: np.ndarray) -> np.ndarray:
        """log p at each row of C, snapped points of shape (m, d)."""
        active = ~np.isnan(C)
        C = np.where(active, C, 0.5)
        logk = np.zeros((len(C), len(self._X)))
        k = self._numbers
        if len(k):
            z = (C[:, None, k] - self._X[None, :, k]) / self._h
            numbers = -0.5 * z * z - np.log(self._mass * self._h * math.sqrt(2 * math.pi))
            logk += np.where(active[:, None, k] & self._known[None, :, k], numbers, 0.0).sum(axis=2)
        for j, table in self._tables.items():
            logs = np.log(table * len(table))[_places(self._levels[j], C[:, j])][:, self._places[:, j]]
            logk += np.where(active[:, j, None] & self._known[None, :, j], logs, 0.0)
        top = logk.max(axis=1)
        return np.asarray(top + np.log(np.exp(logk - top[:, None]).mean(axis=1)))


def _levels(space: Space, j: int) -> np.ndarray:
    """The unit coordinates of a parameter's values, empty where it is treated as continuous."""
    parameter = space.parameters[j]
    if parameter.count is None or (parameter.count > MAX_LEVELS and not isinstance(parameter, Categorical)):
        return np.empty(0)
    return np.array([parameter.encode(parameter.at(i)) for i in range(parameter.count)])


def _places(grid: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The index of the nearest level for each coordinate."""
    return np.searchsorted((grid[1:] + grid[:-1]) / 2, u)


def _table(grid: np.ndarray, seen: np.ndarray, rule: float, factor: float, least: float, ordered: bool) -> np.ndarray:
    """The kernel of a discrete parameter as probabilities, shape (levels, levels): row b is k(., b)."""
    levels = len(grid)
    if levels == 1:
        return np.ones((1, 1))
    shares = np.bincount(seen, minlength=levels) / max(len(seen), 1)
    if ordered:
        centre = shares @ grid
        deviation = math.sqrt(max(shares @ (grid - centre) ** 2, 0.0)) if len(seen) else 0.3
        h = max(max(rule * deviation, NARROWEST) * factor, least)
        near = np.exp(-np.abs(grid[:, None] - grid) / h)
        near = np.maximum(near / near.sum(axis=1, keepdims=True), NARROWEST / levels)
        return np.asarray(near / near.sum(axis=1, keepdims=True))
    # 0 where all have one value, 1 where all values are as frequent; at most the uniform distribution.
    spread = (1 - shares @ shares) * levels / (levels - 1) if len(seen) else 1.0
    wide = max(max(rule * math.sqrt(max(spread, 0.0)) * (levels - 1) / levels, NARROWEST) * factor, least)
    away = min(wide, (levels - 1) / levels)
    return np.where(np.eye(levels, dtype=bool), 1 - away, away / (levels - 1))


def _deviations(X: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The standard deviation of each column, where it is known; that of the uniform distribution where it never is."""
    n = known.sum(axis=0)
    mean = np.where(known, X, 0.0).sum(axis=0) / np.maximum(n, 1)
    squares = np.where(known, (X - mean) ** 2, 0.0).sum(axis=0) / np.maximum(n, 1)
    return np.asarray(np.where(n > 0, np.sqrt(squares), math.sqrt(1 / 12)))
