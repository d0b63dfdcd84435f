"""What earlier Studies on the same parameters have found, as a trend that a new Study's models start from [Golovin2017].

Each earlier Study gets a model of its own, of losses whose upper half are ranks, so that Studies with other levels and scales can
be compared. The trend of a new Study is a weighted sum of these models. The weights are a compromise between trust, which is all
there is before the first results, and what agrees with the results: a ridge regression with no weight below zero. Whether there
is a trend at all the likelihood of the results decides.

[Golovin2017] D. Golovin et al., Google Vizier: a service for black-box optimization, KDD 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import nnls

from hpo_algorithms.gp.features import Features
from hpo_algorithms.gp.model import GP, Prior, Trend, fit
from hpo_algorithms.gp.outputs import half_ranked
from hpo_algorithms.space import Space

TRUST = 0.5  # weight of all earlier Studies together before the first result: a result tells half of what it seems to
DOUBT = 4.0  # results that weigh as much as the trust does
FITTED, CONDITIONED = 60, 200  # points of an earlier Study that its model is fitted on, and knows
LEAST = 3  # results of an earlier Study below which it says nothing


def model_of(space: Space, X: np.ndarray, losses: np.ndarray) -> GP | None:
    """The model of an earlier Study: encodings, shape (n, d), and losses, shape (n,), infinite where there is none."""
    finite = np.isfinite(losses)
    if finite.sum() < LEAST:
        return None
    features = Features(space)
    F = np.ascontiguousarray(features(X))
    y = np.where(finite, losses, losses[finite].max())
    return _model(F.shape, F.tobytes(), y.tobytes(), tuple(features.owner.tolist()))


@lru_cache(maxsize=32)
def _model(shape: tuple[int, int], F: bytes, losses: bytes, owner: tuple[int, ...]) -> GP:
    # A memo: an earlier Study stays what it is, however many proposals look at it.
    from hpo_algorithms.gp.ensemble import thinned

    points, y, owned = np.frombuffer(F).reshape(shape), np.frombuffer(losses), np.array(owner)
    few, many, target = thinned(y, FITTED), thinned(y, CONDITIONED), half_ranked(y)
    theta = fit(points[few], target[few], owned, Prior(scale=math.log(2)), steps=20)
    return GP(points[many], target[many], owned, theta)


def trusted(earlier: Sequence[GP], F: np.ndarray, y: np.ndarray) -> Trend:
    """The trend that targets y, shape (n,), at features F, shape (n, D), leave of what earlier models say."""
    said = _said(earlier, F)
    count = len(earlier)
    prior = math.sqrt(DOUBT) * np.eye(count)
    A = np.vstack([said - said.mean(axis=0), prior])
    weights = nnls(A, np.append(y - y.mean(), prior @ np.full(count, TRUST / count)))[0]
    return lambda G: np.asarray(_said(earlier, G) @ weights)


def _said(earlier: Sequence[GP], F: np.ndarray) -> np.ndarray:
    """What each model expects, shape (n, count); a budget behind the features of the parameters is none of theirs."""
    return np.column_stack([model.predict(F[:, : model.F.shape[1]])[0] for model in earlier])
