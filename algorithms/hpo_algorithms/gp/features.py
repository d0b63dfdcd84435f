"""Configurations as points of a Euclidean space, so that any stationary kernel on it is a valid one on the search space.

The idea of placing active values on an arc around the inactive one is that of [Swersky2014].

[Swersky2014] K. Swersky et al., Raiders of the lost architecture: kernels for Bayesian optimization in conditional parameter
spaces, arXiv 1409.4011.
"""

from __future__ import annotations

import math

import numpy as np

from hpo_algorithms.parameters import Categorical
from hpo_algorithms.space import Space

ARC = 1.0  # radians: with one, inactive is as far from each active value as the two ends of the range from each other


class Features:
    """Maps encodings, shape (n, d) with NaN where inactive, to features, shape (n, D), of which `owner` says the parameter.

    1. A number that is always active is its unit coordinate.
    2. A number with conditions is a point on an arc of the unit circle, and the centre of the circle where it is inactive.
    3. A categorical is one-hot, scaled such that two different names are at distance one; inactive is the origin.
    """

    def __init__(self, space: Space) -> None:
        self._plain = np.array([j for j, p in enumerate(space.parameters) if not isinstance(p, Categorical) and not p.when], int)
        self._arcs = np.array([j for j, p in enumerate(space.parameters) if not isinstance(p, Categorical) and p.when], int)
        names = [(j, p.count) for j, p in enumerate(space.parameters) if isinstance(p, Categorical)]
        self._named = np.array([j for j, count in names for _ in range(count)], int)
        self._places = np.array([(i + 0.5) / count for _, count in names for i in range(count)])
        self.owner = np.concatenate([self._plain, self._arcs, self._arcs, self._named])

    def __call__(self, U: np.ndarray) -> np.ndarray:
        pieces = [U[:, self._plain]]
        if len(self._arcs):
            arcs = U[:, self._arcs] * ARC
            absent = np.isnan(arcs)
            pieces += [np.where(absent, 0.0, np.cos(arcs)), np.where(absent, 0.0, np.sin(arcs))]
        if len(self._named):
            pieces.append((np.abs(U[:, self._named] - self._places) < 1e-6) * math.sqrt(0.5))
        return np.concatenate(pieces, axis=1)
