"""Mixtures of product kernels on a search space: densities that can be sampled, with respect to its uniform distribution."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr, ndtri

from hpo_algorithms.encoding import Columns, Snapping, cells
from hpo_algorithms.space import Space

TINY = 1e-300
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
UNIFORM_VARIANCE = 1 / 12


class Parzen:
    """p(x) = (1 + sum_i prod_j k_j(x_j, X_ij)) / (n + 1), the ratio of a density to the uniform one.

    Numbers have truncated normal kernels on the unit scale, integrated over the cell of a value where values are discrete;
    categoricals keep the value, or change to any with a probability that falls as n grows. A parameter that is inactive in x or in
    X_i has k_j = 1. The 1 in the sum is a component of its own, uniform in everything, so that no place is ever ruled out.

    Args:
        X: encoded configurations, shape (n, d), NaN where inactive.
        bandwidth: factor of Scott's rule, deviation * n^(-1 / (d + 4)); times d^3 / 24 for one or two columns.
    """

    def __init__(self, space: Space, X: np.ndarray, bandwidth: float) -> None:
        self._space, self._columns = space, Columns.of(space)
        self._n = len(X)
        self._known = ~np.isnan(X)
        self._h = _bandwidths(X, self._known, bandwidth)
        self._X = np.where(self._known, X, 0.5)
        # One count of prior spread over the levels, as if each had been seen 1/levels times.
        levels = self._columns.levels[self._columns.categorical]
        self._change = levels / (levels + self._n + 1)
        below, above = ndtr(-self._X / self._h), ndtr((1 - self._X) / self._h)
        self._below, self._mass = below, above - below

    def sample(self, rng: np.random.Generator, m: int, mixed: bool = False) -> np.ndarray:
        """m draws, snapped to the space: shape (m, d), NaN where inactive. If mixed, each parameter is of a kernel of its own."""
        which = rng.integers(self._n + 1, size=(m, len(self._space) if mixed else 1))
        u, change = rng.random((2, m, len(self._space)))
        kernel, j = np.minimum(which, self._n - 1), np.arange(len(self._space))
        X = self._X[kernel, j]
        drawn = X + self._h * ndtri(self._below[kernel, j] + u * self._mass[kernel, j])
        k = self._columns.categorical
        drawn[:, k] = np.where(change[:, k] < self._change, u[:, k], X[:, k])
        uniform = (which == self._n) | ~self._known[kernel, j]
        return Snapping(self._space)(np.clip(np.where(uniform, u, drawn), 0.0, 1.0))

    def logpdf(self, C: np.ndarray) -> np.ndarray:
        """log p at each row of C, snapped points of shape (m, d)."""
        return together(self.kernels(C))

    def kernels(self, C: np.ndarray) -> np.ndarray:
        """log k_j(x_j, X_ij) for each row x of C, snapped points of shape (m, d): shape (d, m, n), over which sums are quick.

        In single precision: most of a proposal's time goes into these, and half of it is saved.
        """
        active = ~np.isnan(C)
        C = np.where(active, C, 0.5)
        logk = np.empty((C.shape[1], len(C), self._n), np.float32)
        for columns, kernel in (
            (self._columns.continuous, self._continuous),
            (self._columns.discrete, self._discrete),
            (self._columns.categorical, self._categorical),
        ):
            if len(columns):
                logk[columns] = kernel(C[:, columns], columns)
        if not (active.all() and self._known.all()):
            logk[~(active.T[:, :, None] & self._known.T[:, None, :])] = 0.0
        return logk

    def _continuous(self, C: np.ndarray, columns: np.ndarray) -> np.ndarray:
        h = self._h[columns, None]
        scale = h * math.sqrt(2)
        z = _single(C.T / scale)[:, :, None] - _single(self._X.T[columns] / scale)[:, None, :]
        z *= z  # in place: new memory of this size takes longer than the arithmetic
        z += _single(np.log(self._mass.T[columns] * h) + LOG_SQRT_2PI)[:, None, :]
        return np.asarray(np.negative(z, out=z))

    def _discrete(self, C: np.ndarray, columns: np.ndarray) -> np.ndarray:
        logk = np.empty((len(columns), len(C), self._n))
        for k, j in enumerate(columns):
            values, which = np.unique(C[:, k], return_inverse=True)  # a handful, so that each mass is computed once
            low, high = cells(self._space, columns[k : k + 1], values[:, None])
            X, h = self._X[:, j], self._h[j]
            mass = ndtr((high - X) / h) - ndtr((low - X) / h)
            logk[k] = np.log(np.maximum(mass, TINY) / (self._mass[:, j] * (high - low)))[which]
        return logk

    def _categorical(self, C: np.ndarray, columns: np.ndarray) -> np.ndarray:
        levels = self._columns.levels[columns]
        same = np.abs(C.T[:, :, None] - self._X.T[columns][:, None, :]) < 1e-9
        kept, other = np.log((1 - self._change) * levels + self._change), np.log(self._change)
        return np.asarray(np.where(same, kept[:, None, None], other[:, None, None]))


def together(kernels: np.ndarray) -> np.ndarray:
    """The logarithm of the density of all parameters together, of the logarithms of kernels, shape (d, m, n)."""
    logk = kernels.sum(axis=0)
    top = np.maximum(logk.max(axis=1, initial=0.0), 0.0)
    total = np.exp(logk - top[:, None]).sum(axis=1, dtype=float) + np.exp(-top)
    return np.asarray(top + np.log(total) - math.log(kernels.shape[2] + 1))


def apart(*kernels: np.ndarray) -> np.ndarray:
    """The logarithm of the product of the densities of each parameter alone, of the logarithms of kernels, shapes (d, m, n)."""
    sums = sum(np.exp(each).sum(axis=2, dtype=float) for each in kernels)
    return np.asarray(np.log((1 + sums) / (1 + sum(each.shape[2] for each in kernels))).sum(axis=0))


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _bandwidths(X: np.ndarray, known: np.ndarray, factor: float) -> np.ndarray:
    """Scott's rule for each column: what the good Trials agree on is kept, what they differ in is varied.

    The deviation is shrunk towards that of one uniform draw, and the width bounded below: few points that happen to lie together
    say little. The rule is for one hill. With one or two columns the points lie much closer than that, and wide kernels would hide
    basins where nothing has been tried.
    """
    n = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, X, 0.0).sum(axis=0) / n
    squares = np.where(known, (X - mean) ** 2, 0.0).sum(axis=0)
    deviation = np.sqrt((squares + UNIFORM_VARIANCE) / (n + 1))
    d = X.shape[1]
    h = factor * min(1.0, d**3 / 24) * deviation * n ** (-1 / (d + 4))
    return np.asarray(np.clip(h, 1 / np.minimum(n + 2, 100), 1.0))
