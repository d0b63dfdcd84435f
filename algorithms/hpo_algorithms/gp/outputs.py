"""Losses as targets that a Gaussian process can explain: heavy upper tails tamed, mean 0, variance 1.

Training diverges, and then losses are many times those of interest. What matters to a search is the order and the distances among
the good; of the bad it is enough to know that they are.

[Song2024] X. Song et al., The Vizier Gaussian process bandit algorithm, arXiv 2408.11527.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri


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


def _standardised(y: np.ndarray) -> np.ndarray:
    centred = y - y.mean()
    deviation = centred.std()
    return np.asarray(centred / deviation if deviation > 1e-12 else np.zeros(len(y)))
