"""What results at all budgets say of a configuration at the full one: Gaussian processes over configuration and budget.

[Salinas2020] D. Salinas et al., A quantile-based approach for hyperparameter transfer learning, ICML 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from hpo_algorithms.gp.ensemble import Ensemble, thinned
from hpo_algorithms.gp.feasibility import Feasibility
from hpo_algorithms.gp.features import Features
from hpo_algorithms.gp.model import GP, Prior, fit
from hpo_algorithms.gp.outputs import winsorised
from hpo_algorithms.gp.surrogate import Results, aligned
from hpo_algorithms.space import Space

# Short trainings come by the hundred, so that a proposal must not cost more than it does on full ones.
FITTED = 80  # results that hyperparameters are fitted on
CONDITIONED = 128  # results that the posterior is conditioned on
PRIORS = (Prior(scale=math.sqrt(2)), Prior(scale=0.0))  # of the two models
STEPS = 15  # of a fit
GROWTH = 10  # hyperparameters are fitted anew when there are a tenth more results


@dataclass(frozen=True, slots=True)
class RungSurrogate:
    """Two Gaussian processes with the budget as one more coordinate.

    One sees quantiles that are matched across budgets (`matched`), and expects long length scales; the other losses that are moved
    to one level (`hpo_algorithms.gp.surrogate.aligned`) and winsorised, and expects short ones. `ensemble` improves on the
    lowest mean at the full budget of `X`, encodings, shape (n, d). `losses` are all results, comparable across budgets, infinite
    where there is none or a constraint is broken. `feasibility` says where the constraints are kept, where a Trial has broken one.
    """

    ensemble: Ensemble
    X: np.ndarray
    losses: np.ndarray
    feasibility: Feasibility | None
    _features: Features

    @classmethod
    def of(cls, space: Space, results: Results) -> RungSurrogate:
        """Fit to results of one objective, at least two of them usable. Those that break a constraint teach like others."""
        features = Features(space)
        owner = np.append(features.owner, features.owner.max() + 1)
        first = _until(results, milestone(len(results.X)))
        targets, early = _targets(results), _targets(first)
        many, few = chosen(results, targets[0], CONDITIONED), chosen(first, early[0], FITTED)
        F = np.column_stack([features(results.X), results.reach])
        A = np.ascontiguousarray(F[few])
        models = []
        for y, y_first, prior in zip(targets, early, PRIORS, strict=True):
            target = np.ascontiguousarray(winsorised(y_first[few]))
            theta = _fitted(A.shape, A.tobytes(), target.tobytes(), tuple(owner.tolist()), prior)
            models.append(GP(F[many], winsorised(y[many]), owner, theta))
        kept = many[~(results.violation[many] > 0)]
        losses = np.where(np.isfinite(results.Y[:, 0]), targets[0], np.inf)
        X, feasibility = results.X[kept if len(kept) else many], results.feasibility(F, owner)
        found = cls(Ensemble(tuple(models), ()), X, losses, feasibility, features)
        return replace(found, ensemble=found.ensemble.expecting(found.features(found.X)))

    def features(self, X: np.ndarray) -> np.ndarray:
        """Features of encodings, shape (n, d), at the full budget."""
        return np.column_stack([self._features(X), np.ones(len(X))])

    def best(self, count: int) -> np.ndarray:
        """Encodings of the `count` configurations of which most is expected at the full budget."""
        F = self.features(self.X)
        order = np.mean([model.predict(F)[0] for model in self.ensemble.models], axis=0)
        return np.asarray(self.X[np.argsort(order, kind="stable")[:count]])

    @property
    def insight(self) -> float:
        """Rank correlation between results and what the others say of them, less its standard error: few points flatter it."""
        return self.ensemble.insight - 1 / math.sqrt(len(self.ensemble.models[0].y))


def matched(results: Results, losses: np.ndarray) -> np.ndarray:
    """Losses as Gaussian quantiles that can be compared across budgets [Salinas2020], infinite where there is no loss.

    On the lowest budget those of the ranks. On each higher one the k-th best gets the k-th best value that its configurations have
    below: who was trained on was good already, and the median of those is not that of all.
    """
    values = np.full(len(losses), np.inf)
    known: dict[bytes, float] = {}
    good = np.isfinite(losses)
    for level in np.unique(results.reach[good]):
        rung = np.flatnonzero(good & (results.reach == level))
        keys = [x.tobytes() for x in results.X[rung]]
        below = sorted(known[key] for key in keys if key in known)
        place = _places(losses[rung])
        found = np.interp(place, (np.arange(len(below)) + 0.5) / len(below), below) if below else ndtri(place)
        values[rung] = found
        known.update(zip(keys, found.tolist(), strict=True))
    return values


def _places(y: np.ndarray) -> np.ndarray:
    """Ranks between 0 and 1; equal values share the mean of theirs."""
    _, place, count = np.unique(y, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - count / 2)[place] / len(y))


def chosen(results: Results, target: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` results, as many of each budget where there are enough: the best half, the rest evenly."""
    left, kept = most, []
    levels = np.unique(results.reach)[::-1]
    for i, level in enumerate(levels):
        rung = np.flatnonzero(results.reach == level)
        rung = rung[thinned(target[rung], left // (len(levels) - i))]
        left -= len(rung)
        kept.append(rung)
    return np.sort(np.concatenate(kept))


def milestone(count: int) -> int:
    """The last number of results, up to `count`, at which hyperparameters are fitted.

    >>> [milestone(n) for n in (5, 8, 11, 12, 100, 105, 106)]
    [5, 8, 8, 12, 97, 97, 106]
    """
    last = 8
    while (following := last + max(4, last // GROWTH)) <= count:
        last = following
    return min(last, count)


def _until(results: Results, count: int) -> Results:
    """The first results, by number; at least two usable ones among them."""
    usable = np.flatnonzero(np.isfinite(results.told[:, 0]))
    n = max(count, int(usable[min(1, len(usable) - 1)]) + 1)
    return Results(results.X[:n], results.told[:n], results.violation[:n], results.reach[:n], results.active)


def _targets(results: Results) -> tuple[np.ndarray, np.ndarray]:
    losses = results.told[:, 0]
    found = matched(results, losses), aligned(results, losses)
    good = np.isfinite(losses)
    return tuple(np.where(good, each, each[good].max()) for each in found)  # type: ignore[return-value]


@lru_cache(maxsize=4)
def _fitted(shape: tuple[int, int], F: bytes, y: bytes, owner: tuple[int, ...], prior: Prior) -> np.ndarray:
    # A memo of what is a function of its arguments: proposals between two milestones share a fit.
    return fit(np.frombuffer(F).reshape(shape), np.frombuffer(y), np.array(owner), prior, STEPS)
