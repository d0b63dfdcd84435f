"""Losses as targets that a Gaussian process can explain: heavy upper tails tamed, mean 0, variance 1.

Training diverges, and then losses are many times those of interest. What matters to a search is the order and the distances among
the good; of the bad it is enough to know that they are.

[Song2024] X. Song et al., The Vizier Gaussian process bandit algorithm, arXiv 2408.11527.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

FAR = 1e100  # times the losses of interest: whether a loss is farther away matters to nobody


def standardised(y: np.ndarray) -> np.ndarray:
    """Losses as they are."""
    return _standardised(_shrunk(y))


def winsorised(y: np.ndarray) -> np.ndarray:
    """Losses above the upper fence of a box plot (third quartile + 1.5 interquartile ranges) moved down to it."""
    y = _shrunk(y)
    low, high = np.quantile(y, [0.25, 0.75])
    return _standardised(np.minimum(y, high + 1.5 * (high - low)))


def half_ranked(y: np.ndarray) -> np.ndarray:
    """Losses up to the median as they are, those above it as the Gaussian quantiles of their ranks [Song2024]."""
    y, n = _shrunk(y), len(y)
    median = np.median(y)
    y = _sized(y, y[y <= median])  # beside one that diverged, those up to the median may be too small to be squared
    median = np.median(y)
    spread = np.sqrt(np.mean((y[y <= median] - median) ** 2))
    # Equal losses share the mean of their ranks, also those that only rounding tells apart: else the model would learn noise
    # from them, or jumps where there are none.
    level = np.round((y - median) / max(spread, 1e-12) * 1e9)
    _, place, count = np.unique(level, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count + 1) / 2)[place]
    quantiles = median + spread * ndtri((rank + 0.5) / n)
    return _standardised(np.where(level <= 0, y, np.maximum(quantiles, median)))


def _shrunk(y: np.ndarray) -> np.ndarray:
    """Within [-1, 1], for the squares of what a program may report overflow."""
    largest = float(np.abs(y).max())
    return y / largest if largest > 0 else y


def _sized(y: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Times the power of two, which changes no digit, by which the largest `of` them is about one; what is far above is cut."""
    largest = float(np.abs(of).max())
    return np.ldexp(np.minimum(y, FAR * largest), -math.frexp(largest)[1]) if largest > 0 else y


def _standardised(y: np.ndarray) -> np.ndarray:
    y = _sized(y, y)
    centred = y - y.mean()
    deviation = centred.std()
    return np.asarray(centred / deviation if deviation > 1e-12 else np.zeros(len(y)))
