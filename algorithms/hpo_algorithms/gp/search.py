"""Where an acquisition function is largest on a mixed, conditional space: many candidates, then local search from the best.

Nothing here needs gradients, so that any acquisition and any parameter is served by the same few lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hpo_algorithms.encoding import Columns, Snapping
from hpo_algorithms.linear import Allowed
from hpo_algorithms.space import Space

Score = Callable[[np.ndarray], np.ndarray]
FULL = 50  # points known up to which a search is as thorough as it may be


@dataclass(frozen=True, slots=True)
class Effort:
    """How many points are looked at: `uniform` and `near` candidates, then `rounds` of `tries` around each of `starts`."""

    uniform: int = 400
    near: int = 200
    starts: int = 4
    tries: int = 24
    rounds: int = 8

    def shared(self, points: int) -> Effort:
        """Less of it where a model knows many points, each of which makes a candidate dearer: down to a half."""
        share = min(max(FULL / max(points, 1), 0.5), 1.0)
        return replace(self, **{name: round(share * getattr(self, name)) for name in ("uniform", "near", "tries")})


@dataclass(frozen=True, slots=True)
class Box:
    """A trust region: a box around `centre`, coordinates of the unit cube, and the chance that a coordinate is changed at all."""

    centre: np.ndarray
    half: np.ndarray
    change: float


def maximum(
    space: Space, score: Score, best: np.ndarray, rng: np.random.Generator, effort: Effort, box: Box | None = None
) -> np.ndarray:
    """Snapped points in descending order of their score, those that local search ended at among them.

    Args:
        score: maps snapped points, shape (m, d), to what is to be maximised; -inf for what must not be proposed.
        best: encodings of the best Trials known, around which half of the candidates are drawn.
    """
    columns, snap = Columns.of(space), Snapping(space)
    score = kept(space, score)
    U = np.concatenate([_uniform(columns, rng, effort.uniform, box), _around(columns, rng, best, effort.near)])
    C = snap(U if box is None else _within(U, box))
    scores = score(C)
    top = np.argsort(-scores, kind="stable")[: effort.starts]
    X, value = C[top], scores[top]
    found, found_scores = [C], [scores]
    for round_ in range(effort.rounds):
        step = 0.15 * 0.4**round_
        U = _moved(columns, rng, np.repeat(X, effort.tries, axis=0), step)
        C = snap(U if box is None else _within(U, box))
        scores = score(C)
        found.append(C)
        found_scores.append(scores)
        table = scores.reshape(len(X), effort.tries)
        winner = table.argmax(axis=1)
        better = table.max(axis=1) > value
        X[better] = C.reshape(len(X), effort.tries, -1)[np.flatnonzero(better), winner[better]]
        value[better] = table.max(axis=1)[better]
    order = np.argsort(-np.concatenate(found_scores), kind="stable")
    return np.concatenate(found)[order]


def kept(space: Space, score: Score) -> Score:
    """A score that is -inf where the constraints of the space are broken."""
    if not space.constraints:
        return score
    allowed = Allowed(space)
    return lambda C: np.where(allowed(C), score(C), -np.inf)


def _uniform(columns: Columns, rng: np.random.Generator, count: int, box: Box | None) -> np.ndarray:
    d = len(columns.levels)
    U = rng.random((count, d))
    if box is None:
        return U
    U = box.centre + (2 * U - 1) * box.half
    keep = rng.random((count, d)) >= box.change
    keep[np.arange(count), rng.integers(d, size=count)] = False
    return np.asarray(np.where(keep, box.centre, U))


def _around(columns: Columns, rng: np.random.Generator, best: np.ndarray, count: int) -> np.ndarray:
    chosen = best[rng.integers(len(best), size=count)]
    return _moved(columns, rng, chosen, 10.0 ** rng.uniform(-2.5, -0.5, size=(count, 1)))


def _moved(columns: Columns, rng: np.random.Generator, X: np.ndarray, step: float | np.ndarray) -> np.ndarray:
    """Each row with some of its coordinates changed: numbers by a normal step, at least to the next value, categoricals to any."""
    m, d = X.shape
    share = rng.choice([1.0, 0.5, 2.0 / max(d, 2)], size=(m, 1))
    change = rng.random((m, d)) < share
    change[np.arange(m), rng.integers(d, size=m)] = True
    fresh = rng.random((m, d))
    # A discrete value has to move by about a whole cell to be another one at all.
    spread = np.maximum(step, 0.7 / columns.levels)
    moved = np.clip(X + spread * rng.standard_normal((m, d)), 0.0, 1.0)
    named = columns.categorical
    change[:, named] &= rng.random((m, len(named))) < 0.3
    moved[:, named] = fresh[:, named]
    moved = np.where(np.isnan(X), fresh, np.where(change, moved, X))
    return np.asarray(moved)


def _within(U: np.ndarray, box: Box) -> np.ndarray:
    return np.asarray(np.clip(U, np.maximum(box.centre - box.half, 0.0), np.minimum(box.centre + box.half, 1.0)))
