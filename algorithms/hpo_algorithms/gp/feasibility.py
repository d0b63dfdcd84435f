"""How likely a configuration is to keep the outcome constraints [Gardner2014].

[Gardner2014] J. Gardner et al., Bayesian optimization with inequality constraints, ICML 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import log_ndtr

from hpo_algorithms.gp.acquisition import log_ei
from hpo_algorithms.gp.ensemble import CONDITIONED, FITTED, thinned
from hpo_algorithms.gp.model import GP, Prior, fit

STEPS = 15  # of the fit
KEPT = -math.log(2.0)  # the target where it is not said how far constraints are kept: as far from zero as the median
FARTHEST = math.log(1000.0)  # times the median: of what is further outside it is enough to know that it is
PRIOR = Prior(scale=0.0)


@dataclass(frozen=True, slots=True)
class Feasibility:
    """A Gaussian process on the logarithms of violations, which are below zero where the constraints are kept."""

    model: GP
    least: float  # the lowest mean at a known point

    @classmethod
    def of(cls, F: np.ndarray, violation: np.ndarray, owner: np.ndarray) -> Feasibility:
        """Fit to at least one Trial that has broken a constraint.

        Args:
            F: features, shape (n, D), in the order of the Trials' numbers.
            violation: shape (n,), below zero where all constraints are kept, or zero where it is not said how far.
            owner: the length scale that each feature is divided by, shape (D,).
        """
        latest = thinned(-np.arange(len(F)), CONDITIONED)
        F, violation = np.ascontiguousarray(F[latest]), violation[latest]
        return _fitted(F.shape, F.tobytes(), violation.tobytes(), tuple(owner.tolist()))

    def log_probability(self, F: np.ndarray) -> np.ndarray:
        """Of keeping the constraints, at features of shape (m, D)."""
        mean, deviation = self.model.predict(F)
        return np.asarray(log_ndtr(-mean / deviation))

    def log_improvement(self, F: np.ndarray) -> np.ndarray:
        """Of what is expected to break them by less than any Trial has: the way to the first that keeps them."""
        return log_ei(*self.model.predict(F), self.least)


@lru_cache(maxsize=4)
def _fitted(shape: tuple[int, int], points: bytes, violations: bytes, owner: tuple[int, ...]) -> Feasibility:
    # A memo of what is a function of its arguments: proposals made one by one on the same results share a fit.
    F, violation, parameters = np.frombuffer(points).reshape(shape), np.frombuffer(violations), np.array(owner)
    target, told = np.full(len(F), KEPT), violation != 0
    if told.any():
        size = np.log(np.abs(violation[told]))
        far = np.logaddexp(0.0, np.minimum(size - np.median(size), FARTHEST))  # log(1 + |violation| / median)
        target[told] = np.copysign(far, violation[told])
    unit = target / math.sqrt(float(np.mean(target**2)))  # not centred: zero must stay the border
    few = thinned(-np.arange(len(F)), FITTED)
    model = GP(F, unit, parameters, fit(F[few], unit[few], parameters, PRIOR, STEPS))
    return Feasibility(model, float(model.predict(F)[0].min()))
