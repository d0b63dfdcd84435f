"""Trust regions for many parameters [Eriksson2019]: search near the best, in a box that grows with success and shrinks without.

In many dimensions most of a cube is its corners, where a Gaussian process knows nothing and therefore hopes for everything.

[Eriksson2019] D. Eriksson et al., Scalable global optimization via local Bayesian optimization, NeurIPS 2019.
"""

from __future__ import annotations

import numpy as np

from hpo_algorithms.gp.search import Box

MANY = 20  # parameters from which on the region is used
LENGTH, SHORTEST, LONGEST = 0.8, 0.5**7, 1.6  # of a side, in units of the cube, as in the paper
SUCCESSES = 3  # improvements in a row after which the side is doubled
CHANGED = 20  # parameters changed at once, on average


def region(losses: np.ndarray, centre: np.ndarray, scales: np.ndarray) -> Box | None:
    """The box that the history leads to, sides in proportion to the length scales, shape (d,); None where it is not needed."""
    d = len(scales)
    if d <= MANY:
        return None
    weights = scales / np.exp(np.log(scales).mean())
    half = np.minimum(side(losses, d) * weights / 2, 1.0)
    return Box(np.where(np.isnan(centre), 0.5, centre), half, min(CHANGED / d, 1.0))


def side(losses: np.ndarray, d: int) -> float:
    """Replay: the length after all results, in the order of the Trials' numbers; back to the start when it has become too short."""
    length, best, row = LENGTH, np.inf, 0
    for loss in losses:
        better = loss < best - 1e-3 * abs(best) if np.isfinite(best) else bool(np.isfinite(loss))
        best = min(best, loss)
        row = max(row, 0) + 1 if better else min(row, 0) - 1
        if row == SUCCESSES:
            length, row = min(2 * length, LONGEST), 0
        elif row == -d:
            length, row = length / 2, 0
        if length < SHORTEST:
            length, best = LENGTH, np.inf
    return length
