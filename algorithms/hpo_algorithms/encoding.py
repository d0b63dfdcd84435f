"""Many configurations at once as points of the unit cube: what `Space.encode` does, a column at a time.

Model-based samplers look at the whole history before each proposal; these arrays keep that in the order of a microsecond a
Trial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.parameters import Categorical, Float, Int, Ordinal, Parameter
from hpo_algorithms.space import Params, Space

MAX_CELLS = 1000  # a discrete parameter of more values is as good as continuous, and differences in its cells get lost in rounding


def encoded(space: Space, configurations: Sequence[Params]) -> np.ndarray:
    """The encodings of several configurations, shape (n, d), NaN for inactive parameters; `Space.encode_all` to rounding."""
    X = np.empty((len(configurations), len(space)))
    for j, parameter in enumerate(space.parameters):
        X[:, j] = _column(parameter, [params.get(parameter.name) for params in configurations])
    return X


def _column(parameter: Parameter, values: list[object]) -> np.ndarray | list[float]:
    if isinstance(parameter, Categorical | Ordinal):
        places: dict[object, float] = {parameter.at(i): (i + 0.5) / parameter.count for i in range(parameter.count)}
        return [places.get(value, math.nan) for value in values]
    column = np.array(values, dtype=float)  # None becomes NaN
    assert isinstance(parameter, Float | Int)
    if parameter.log:
        low, high = _log_range(parameter)
        return np.asarray((np.log(column) - low) / (high - low))
    if parameter.step is None:
        low, half = parameter.low, parameter.high / 2 - parameter.low / 2
        return np.asarray((column / 2 - low / 2) / half)
    steps = np.rint((column - parameter.low) / parameter.step)
    count = parameter.count
    assert count is not None
    return np.asarray((np.clip(steps, 0, count - 1) + 0.5) / count)


def _log_range(parameter: Float | Int) -> tuple[float, float]:
    margin = 0.5 if isinstance(parameter, Int) else 0.0  # as in Int: the two ends are as likely as their share of the scale
    return math.log(parameter.low - margin), math.log(parameter.high + margin)


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of an encoding hold what; index arrays into range(d).

    `continuous` includes discrete parameters of very many values. `discrete` have cells, `categorical` have no order; `levels` is
    the number of values of each column, infinite where continuous.
    """

    continuous: np.ndarray
    discrete: np.ndarray
    categorical: np.ndarray
    levels: np.ndarray

    @classmethod
    def of(cls, space: Space) -> Columns:
        """The columns of a space."""
        counts = [each.count for each in space.parameters]
        names = [isinstance(each, Categorical) for each in space.parameters]
        cells = [count is not None and count <= MAX_CELLS and not name for count, name in zip(counts, names, strict=True)]
        rest = [not (cell or name) for cell, name in zip(cells, names, strict=True)]
        levels = np.array([math.inf if count is None else count for count in counts], dtype=float)
        return cls(np.flatnonzero(rest), np.flatnonzero(cells), np.flatnonzero(names), levels)


class Snapping:
    """`Space.snap`, with all that does not depend on the points computed once: for searches that look at thousands of them."""

    def __init__(self, space: Space) -> None:
        self._even = np.array([j for j, p in enumerate(space.parameters) if p.count is not None and not _is_log_int(p)], int)
        self._counts = np.array([space.parameters[j].count for j in self._even], dtype=float)
        self._logs = [(j, p) for j, p in enumerate(space.parameters) if _is_log_int(p)]
        self._conditions = [
            (j, i, np.array([space.parameters[i].encode(value) for value in condition.values]))
            for j, parameter in enumerate(space.parameters)
            for condition in parameter.when
            for i in [space.names.index(condition.parameter)]
        ]

    def __call__(self, U: np.ndarray) -> np.ndarray:
        """Points of the cube, shape (n, d), moved to those of the configurations they decode to, NaN where inactive."""
        snapped = np.clip(U, 0.0, 1.0)
        even = snapped[:, self._even]
        snapped[:, self._even] = (np.minimum(np.floor(even * self._counts), self._counts - 1) + 0.5) / self._counts
        for j, parameter in self._logs:
            snapped[:, j] = parameter.snap(snapped[:, j])
        for j, i, allowed in self._conditions:
            near = np.abs(snapped[:, i, None] - allowed) < 1e-9
            snapped[~near.any(axis=1), j] = np.nan  # also where the parent is NaN, hence inactive itself
        return np.asarray(snapped)


def _is_log_int(parameter: Parameter) -> bool:
    return isinstance(parameter, Int) and parameter.log


def among(C: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Which rows of C, snapped points of shape (m, d), are among those of X, NaN being equal to NaN.

    Rows are compared by one projection with incommensurable weights, in which different ones coincide with probability zero.
    """
    weights = np.sqrt(np.arange(2.0, C.shape[1] + 2)) % 1.0 + 0.5
    c, x = (np.where(np.isnan(A), -1.0, A) @ weights for A in (C, X))
    return np.asarray((np.abs(c[:, None] - x) < 1e-10).any(axis=1))


def cells(space: Space, columns: np.ndarray, U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The intervals of the unit scale that decode to the same value as each coordinate of U, shape (n, len(columns))."""
    low, high = np.empty_like(U), np.empty_like(U)
    for k, j in enumerate(columns):
        parameter = space.parameters[j]
        if isinstance(parameter, Int) and parameter.log:
            start, end = _log_range(parameter)
            values = np.rint(np.exp(start + U[:, k] * (end - start)))
            low[:, k] = (np.log(values - 0.5) - start) / (end - start)
            high[:, k] = (np.log(values + 0.5) - start) / (end - start)
        else:
            count = parameter.count
            assert count is not None
            bins = np.floor(U[:, k] * count)
            low[:, k], high[:, k] = bins / count, (bins + 1) / count
    return low, high
