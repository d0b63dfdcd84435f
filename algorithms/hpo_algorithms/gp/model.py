"""Gaussian process regression with a Matern-5/2 kernel, one length scale a parameter.

[Rasmussen2006] C. Rasmussen and C. Williams, Gaussian processes for machine learning, MIT Press 2006.
[Hvarfner2024] C. Hvarfner et al., Vanilla Bayesian optimization performs great in high dimensions, ICML 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

Trend = Callable[[np.ndarray], np.ndarray]

SQRT5 = math.sqrt(5.0)
FLOOR = math.log(1e-9)  # of the noise variance, relative to a unit variance of the targets
JITTER = 1e-10
SHORTER = 0.5  # what doubt multiplies length scales by
BLOCK = 12_000  # entries of a matrix that is worked on at once: more leave the cache, and cost several times the time


@dataclass(frozen=True, slots=True)
class Prior:
    """Priors of the logarithms: means and deviations, normal but for the noise, independent but for what length scales share.

    `scale` is that of a length scale in one dimension; it grows with sqrt(d) [Hvarfner2024], as distances in a cube do. Each length
    scale deviates by `scale_sd` on its own and by `common_sd` together with the others: what is rough in one parameter mostly is in
    others, too, so that short scales in all of them must not count as one surprise each.

    The noise is next to nothing, or else anything: a Student distribution with few degrees of freedom holds a low value while there
    are few points, and gives way to what a hundred noisy ones say. With a normal prior as wide as that, what varies in few places
    is soon taken for noise, and the search goes to the corners.
    """

    scale: float
    scale_sd: float = 0.8
    common_sd: float = 0.0
    noise: float = math.log(1e-4)
    noise_sd: float = 1.0
    freedom: float = 3.0  # degrees of freedom of the noise's prior
    variance_sd: float = 0.7

    def means(self, d: int) -> np.ndarray:
        """Of the d log length scales, the log variance and the log noise: shape (d + 2,)."""
        return np.append(np.full(d, self.scale + 0.5 * math.log(d)), [0.0, self.noise])

    def deviations(self, d: int) -> np.ndarray:
        """Of the same, each on its own."""
        return np.append(np.full(d, self.scale_sd), [self.variance_sd, self.noise_sd])


class GP:
    """The posterior given points and targets: k(x, x') = v m(|x - x'| / l) with m Matern-5/2, constant mean, noise s.

    Args:
        F: features, shape (n, D).
        y: targets, shape (n,).
        owner: the length scale that each feature is divided by, shape (D,).
        theta: log length scales, log v, log s: shape (d + 2,).
        trend: what is expected of features beforehand, beside a constant: the process is what differs from it.
    """

    def __init__(self, F: np.ndarray, y: np.ndarray, owner: np.ndarray, theta: np.ndarray, trend: Trend | None = None) -> None:
        self.theta, self._owner, self.trend = theta, owner, trend
        self._factors = SQRT5 * np.exp(-theta[:-2])[owner]
        self.variance, self.noise = math.exp(theta[-2]), math.exp(theta[-1])
        self._F, self.y = F * self._factors, y
        self._right = _right(self._F)
        K = self._prior_covariance(F)
        K[np.diag_indices_from(K)] += self.noise + JITTER
        L = _cholesky(K)
        self._inverse_L: np.ndarray = lapack.dtrtri(L, lower=1)[0]
        one = self._inverse_L @ np.ones(len(y))
        white = self._inverse_L @ (y if trend is None else y - trend(F))
        self.mean = float(one @ white / (one @ one))
        self._alpha = self._inverse_L.T @ (white - self.mean * one)

    @property
    def F(self) -> np.ndarray:
        """The features, shape (n, D)."""
        return np.asarray(self._F / self._factors)

    @property
    def scales(self) -> np.ndarray:
        """The length scale of each feature, shape (D,)."""
        return np.asarray(SQRT5 / self._factors)

    def predict(self, F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the noiseless function at features of shape (m, D)."""
        mean, variance = np.empty(len(F)), np.empty(len(F))
        rows = max(BLOCK // len(self.y), 1)
        for i in range(0, len(F), rows):
            k = self._prior_covariance(F[i : i + rows])
            mean[i : i + rows] = k @ self._alpha
            variance[i : i + rows] = self.variance - np.square(k @ self._inverse_L.T).sum(axis=1)
        return self.expected(F) + mean, np.sqrt(np.maximum(variance, 1e-12))

    def _prior_covariance(self, F: np.ndarray) -> np.ndarray:
        """The prior covariance of features, shape (m, D), with the points known: shape (m, n)."""
        k = _matern(F * self._factors, self._right)
        k *= self.variance
        return k

    def expected(self, F: np.ndarray) -> np.ndarray | float:
        """What was expected of features, shape (m, D), before any point was known."""
        return self.mean if self.trend is None else self.mean + self.trend(F)

    def covariance(self, F: np.ndarray, G: np.ndarray) -> np.ndarray:
        """The posterior covariance of the noiseless function at features F, shape (m, D), and G, shape (k, D): shape (m, k)."""
        left, right = (self._prior_covariance(A) @ self._inverse_L.T for A in (F, G))
        return np.asarray(self.variance * _matern(F * self._factors, _right(G * self._factors)) - left @ right.T)

    def doubted(self) -> GP:
        """The same points with shorter length scales, so that what lies between them is less known than is likeliest."""
        theta = self.theta.copy()
        theta[:-2] += math.log(SHORTER)
        return GP(self.F, self.y, self._owner, theta, self.trend)

    def left_out(self) -> np.ndarray:
        """What the other points say of each point: shape (n,) [Rasmussen2006, eq. 5.12]."""
        return np.asarray(self.y - self._alpha / np.square(self._inverse_L).sum(axis=0))

    def sample(self, F: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One joint draw of the noiseless function at features of shape (m, D)."""
        scaled = F * self._factors
        k = self._prior_covariance(F)
        half = k @ self._inverse_L.T
        K = self.variance * _matern(scaled, _right(scaled)) - half @ half.T
        K[np.diag_indices_from(K)] += 1e-6 * self.variance
        return np.asarray(self.expected(F) + k @ self._alpha + _cholesky(K) @ rng.standard_normal(len(F)))

    def given(self, F: np.ndarray, y: np.ndarray) -> GP:
        """The same hyperparameters with more points."""
        return GP(np.concatenate([self.F, F]), np.concatenate([self.y, y]), self._owner, self.theta, self.trend)


def fit(F: np.ndarray, y: np.ndarray, owner: np.ndarray, prior: Prior, steps: int) -> np.ndarray:
    """The hyperparameters of highest posterior density, by L-BFGS with analytic gradients from the prior's mean."""
    return fitted(F, y, owner, prior, steps)[0]


def fitted(
    F: np.ndarray, y: np.ndarray, owner: np.ndarray, prior: Prior, steps: int, start: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """The same from `start`, and minus the logarithm of their density, up to a constant."""
    d = int(owner.max()) + 1
    mean, deviation = prior.means(d), prior.deviations(d)
    objective = _Posterior(F, y, owner, prior)
    low, high = mean - 4 * deviation, mean + 4 * deviation
    low[-1], high[-1] = FLOOR, 0.0
    found = minimize(
        objective,
        mean if start is None else np.clip(start, low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=np.column_stack([low, high]),
        options={"maxiter": steps, "ftol": 1e-5},
    )
    return np.asarray(found.x), float(found.fun)


class _Posterior:
    """Minus the log posterior density of theta and its gradient; the constant mean is profiled out."""

    def __init__(self, F: np.ndarray, y: np.ndarray, owner: np.ndarray, prior: Prior) -> None:
        n, d = len(y), int(owner.max()) + 1
        self._n, self._freedom = n, prior.freedom
        self._mean, self._deviation = prior.means(d), prior.deviations(d)
        self._common = prior.common_sd**2 / (prior.scale_sd**2 + d * prior.common_sd**2)
        self._right = np.asfortranarray(np.column_stack([y, np.ones(n)]))
        self._i, self._j = np.tril_indices(n, -1)
        self._places = self._i * n + self._j  # of the pairs in a flattened matrix
        self._K = np.zeros(n * n)  # its upper triangle is never looked at
        self._D = np.zeros((d, len(self._i)))  # squared differences by parameter and pair
        for feature, parameter in enumerate(owner):
            self._D[parameter] += (F[self._i, feature] - F[self._j, feature]) ** 2

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        n, y = self._n, self._right[:, 0]
        w, v, s = np.exp(-2 * theta[:-2]), math.exp(theta[-2]), math.exp(theta[-1])
        r = SQRT5 * np.sqrt(w @ self._D)
        decay = v * np.exp(-r)
        slope = (1 + r) * decay
        k = slope + r * r * decay / 3
        self._K[self._places] = k
        self._K[:: n + 1] = v + s + JITTER
        # LAPACK's matrices are the transposes of ours: what is the lower triangle here is the upper one there.
        L = _cholesky(self._K.reshape(n, n).T, lower=0)
        solved = lapack.dpotrs(L, self._right)[0]
        alpha = solved[:, 0] - (solved[:, 1] @ y) / solved[:, 1].sum() * solved[:, 1]
        z = (theta - self._mean) / self._deviation
        shared = self._common * z[:-2].sum()  # the inverse of s^2 I + t^2 11^T is (I - 11^T t^2 / (s^2 + d t^2)) / s^2
        tail = math.log1p(z[-1] ** 2 / self._freedom) * (self._freedom + 1)
        value = 0.5 * (y @ alpha + z[:-1] @ z[:-1] - shared * z[:-2].sum() + tail) + np.log(L.diagonal()).sum()
        # dL/dK = G / 2 with G = K^-1 - alpha alpha^T; each pair stands twice in K.
        inverse = lapack.dpotri(L, overwrite_c=1)[0].T.ravel()
        pairs = inverse[self._places] - alpha[self._i] * alpha[self._j]
        trace = float(inverse[:: n + 1].sum() - alpha @ alpha)
        z[-1] *= (self._freedom + 1) / (self._freedom + z[-1] ** 2)
        z[:-2] -= shared
        gradient = z / self._deviation
        gradient[:-2] += w * (self._D @ (pairs * slope)) * (5 / 3)
        gradient[-2] += pairs @ k + 0.5 * trace * v
        gradient[-1] += 0.5 * trace * s
        return float(value), gradient


def _right(B: np.ndarray) -> np.ndarray:
    """What `_matern` multiplies points by to have their squared distances from B, shape (n, D), in one product: (D + 2, n)."""
    return np.concatenate([-2.0 * B.T, np.ones((1, len(B))), np.square(B).sum(axis=1)[None]])


def _matern(A: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The correlation of points, shape (m, D), with those of `_right`, where length scales are sqrt(5): shape (m, n)."""
    left = np.concatenate([A, np.square(A).sum(axis=1)[:, None], np.ones((len(A), 1))], axis=1)
    r = left @ right
    np.sqrt(np.maximum(r, 0.0, out=r), out=r)
    k = np.negative(r)
    np.exp(k, out=k)
    square = r * r
    square *= 1 / 3
    r += 1
    r += square
    k *= r
    return np.asarray(k)


def _cholesky(K: np.ndarray, lower: int = 1) -> np.ndarray:
    """A triangular factor of K, of which only that triangle is read; with more jitter where rounding made K indefinite."""
    jitter = JITTER
    while True:
        L, info = lapack.dpotrf(K, lower=lower, clean=lower)
        if info == 0:
            return np.asarray(L)
        jitter *= 100
        K = K + jitter * np.eye(len(K))
