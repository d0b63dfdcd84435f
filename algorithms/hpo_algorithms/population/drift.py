"""A Gaussian process on what changes with time: what happened long ago says less about now [Bogunovic2016].

[Bogunovic2016] I. Bogunovic, J. Scarlett and V. Cevher, Time-varying Gaussian process bandit optimization, AISTATS 2016.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

JITTER = 1e-8
STEPS = 40  # of L-BFGS: by then the density has long stopped to rise

# Of log length scale, log noise and logit of the forgetting: where their normal priors stand, and how wide they are. A length scale
# of a third of the range, noise of a third of the deviation, and a tenth forgotten a generation.
CENTRE = np.array([math.log(0.35), math.log(0.1), math.log(0.1 / 0.9)])
WIDTH = np.array([0.6, 1.0, 1.0])


class DriftingGP:
    """The posterior given points, times and standardised targets.

    k((x, t), (x', t')) = exp(-|x - x'|^2 / 2 l^2) (1 - e)^(|t - t'| / 2), with noise s: variance one, mean zero.

    Args:
        X: points, shape (n, D).
        t: times, in generations, shape (n,): a unit that does not shrink as time goes on, or e would mean another thing each time.
        y: targets, shape (n,).
        theta: log l, log s, logit e; those of highest posterior density when left out.
    """

    def __init__(self, X: np.ndarray, t: np.ndarray, y: np.ndarray, theta: np.ndarray | None = None) -> None:
        self._X, self._t, self._y = X, t, y
        self.theta = _fitted(X, t, y) if theta is None else theta
        K = _kernel(self.theta, X, t, X, t)
        K[np.diag_indices_from(K)] += math.exp(self.theta[1]) + JITTER
        self._factor = cho_factor(K, lower=True)
        self._alpha = cho_solve(self._factor, y)

    def mean(self, X: np.ndarray, t: float) -> np.ndarray:
        """What is expected at points of shape (m, D) at one time."""
        return np.asarray(_kernel(self.theta, X, np.full(len(X), t), self._X, self._t) @ self._alpha)

    def deviation(self, X: np.ndarray, t: float) -> np.ndarray:
        """The standard deviation of what is expected, without noise."""
        k = _kernel(self.theta, X, np.full(len(X), t), self._X, self._t)
        half = solve_triangular(self._factor[0], k.T, lower=True)
        return np.asarray(np.sqrt(np.maximum(1.0 - np.square(half).sum(axis=0), 1e-12)))

    def with_running(self, X: np.ndarray, t: np.ndarray) -> DriftingGP:
        """The same process as if results were known at more points. Only its `deviation` means anything: it asks for no targets."""
        return DriftingGP(np.concatenate([self._X, X]), np.append(self._t, t), np.append(self._y, np.zeros(len(X))), self.theta)


def _kernel(theta: np.ndarray, X: np.ndarray, t: np.ndarray, Z: np.ndarray, s: np.ndarray) -> np.ndarray:
    r2 = np.square(X).sum(axis=1)[:, None] + np.square(Z).sum(axis=1)[None, :] - 2 * X @ Z.T
    return np.asarray(np.exp(-0.5 * np.maximum(r2, 0.0) * math.exp(-2 * theta[0]) + _decay(theta) * np.abs(t[:, None] - s)))


def _decay(theta: np.ndarray) -> float:
    """log(1 - e) / 2."""
    return -0.5 * math.log1p(math.exp(theta[2]))


def _fitted(X: np.ndarray, t: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The hyperparameters of highest posterior density, by L-BFGS with analytic gradients from the prior's centre."""
    n = len(y)
    r2 = np.square(X[:, None, :] - X[None, :, :]).sum(axis=2)
    apart = np.abs(t[:, None] - t)
    identity = np.eye(n)

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        scale, noise = math.exp(-2 * theta[0]), math.exp(theta[1])
        K = np.exp(-0.5 * r2 * scale + _decay(theta) * apart)
        factor = cho_factor(K + (noise + JITTER) * identity, lower=True)
        alpha = cho_solve(factor, y)
        G = cho_solve(factor, identity) - np.outer(alpha, alpha)
        z = (theta - CENTRE) / WIDTH
        value = 0.5 * (y @ alpha + z @ z) + np.log(np.diag(factor[0])).sum()
        slope = -0.5 / (1 + math.exp(-theta[2]))  # of the decay by the logit
        gradient = 0.5 * np.array([(G * K * r2).sum() * scale, np.trace(G) * noise, (G * K * apart).sum() * slope])
        return float(value), gradient + z / WIDTH

    bounds = np.column_stack([CENTRE - 3 * WIDTH, CENTRE + 3 * WIDTH])
    return np.asarray(minimize(objective, CENTRE, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}).x)
