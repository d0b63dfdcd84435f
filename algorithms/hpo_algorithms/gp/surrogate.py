"""What the Gaussian processes believe of a Study: from its history to a score for any configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from hpo_algorithms.encoding import encoded
from hpo_algorithms.gp.ensemble import Ensemble
from hpo_algorithms.gp.feasibility import Feasibility
from hpo_algorithms.gp.features import Features
from hpo_algorithms.gp.model import GP
from hpo_algorithms.space import Params, Space
from hpo_algorithms.trials import History, Problem, State, Trial, losses_of

FARTHEST = 1e280  # from the best loss: what is farther away could not be divided by a narrow range


@dataclass(frozen=True, slots=True)
class Results:
    """A history as arrays, in the order of the Trials' numbers.

    `X` are encodings, `told` losses, shape (n, objectives), infinite where there is no result; `violation` says by how much a
    constraint is broken, shape (n,). `reach` is how far each Trial trained, as a share of the logarithm of the whole way. `active`
    are encodings of what has no result yet.
    """

    X: np.ndarray
    told: np.ndarray
    violation: np.ndarray
    reach: np.ndarray
    active: np.ndarray

    @classmethod
    def of(cls, problem: Problem, history: History) -> Results:
        """Read a history."""
        ended = [trial for trial in history if trial.state is not State.ACTIVE]
        active = [trial for trial in history if trial.state is State.ACTIVE]
        told = losses_of(ended, problem.objectives)
        violation = np.maximum([trial.violation for trial in ended], -1e300)
        lost = np.array([trial.state not in (State.DONE, State.STOPPED) for trial in ended], dtype=bool)
        told[lost | ~np.isfinite(told).all(axis=1) | ~np.isfinite(violation)] = np.inf
        reach = np.array([_reach(trial, problem) for trial in ended])
        return cls(_encoded(problem.space, ended), told, violation, reach, _encoded(problem.space, active))

    @property
    def Y(self) -> np.ndarray:
        """The losses, infinite also where a constraint is broken."""
        return np.where(self.violation[:, None] > 0, np.inf, self.told)

    @property
    def known(self) -> int:
        """How many have a result."""
        return int(np.isfinite(self.told[:, 0]).sum())

    @property
    def usable(self) -> int:
        """How many have a result that keeps the constraints."""
        return int(np.isfinite(self.Y[:, 0]).sum())

    @property
    def constrained(self) -> bool:
        """Whether a Trial with a result has broken a constraint."""
        return bool((self.violation[np.isfinite(self.told[:, 0])] > 0).any())

    def ranked(self) -> Results:
        """The same with places as the one loss: those that keep the constraints by their losses, behind them the others by how
        much they break them."""
        broken = self.violation > 0
        value = np.where(broken, self.violation, self.weighted(np.ones(self.told.shape[1])))
        _, place = np.unique(np.column_stack([broken, value]), axis=0, return_inverse=True)
        told = np.where(np.isfinite(self.told[:, :1]), place.reshape(-1, 1), np.inf)
        return replace(self, told=told, violation=np.zeros(len(told)))

    def feasibility(self, F: np.ndarray, owner: np.ndarray) -> Feasibility | None:
        """What the Trials, of features F, shape (n, D), say of where the constraints are kept; None while none has broken one."""
        told = np.isfinite(self.told[:, 0])
        return Feasibility.of(F[told], self.violation[told], owner) if self.constrained else None

    def weighted(self, weights: np.ndarray, broken: bool = False) -> np.ndarray:
        """One loss of several by the augmented Chebyshev norm: shape (n,). With one objective that objective as it is.

        Those of Trials that break a constraint are infinite, unless `broken` ones are wanted, too.
        """
        told = self.told
        if told.shape[1] > 1:
            good = np.isfinite(told[:, 0])
            low, high = told[good].min(axis=0), np.quantile(told[good], 0.75, axis=0)
            high = np.where(high > low, high, told[good].max(axis=0))  # else what few have would outweigh all other objectives
            scaled = weights * np.minimum(told - low, FARTHEST) / np.maximum(high - low, 1e-12)
            told = scaled.max(axis=1, keepdims=True) + 0.05 * np.where(good[:, None], scaled, 0.0).sum(axis=1, keepdims=True)
            told[~good] = np.inf
        return told[:, 0] if broken else np.where(self.violation > 0, np.inf, told[:, 0])


def _reach(trial: Trial, problem: Problem) -> float:
    last = trial.step if trial.state is State.STOPPED and trial.step is not None else trial.budget
    highest = problem.max_budget or trial.budget
    if last is None or highest is None or highest <= 1:
        return 1.0
    return min(math.log(max(last, 1)) / math.log(highest), 1.0)


def _encoded(space: Space, trials: Sequence[Trial]) -> np.ndarray:
    configurations: list[Params] = [trial.params for trial in trials]
    return encoded(space, configurations)


@lru_cache(maxsize=4)
def _fitted(shape: tuple[int, int], F: bytes, losses: bytes, owner: tuple[int, ...], earlier: tuple[GP, ...] = ()) -> Ensemble:
    # A memo of what is a function of its arguments: proposals made one by one on the same results share a fit.
    return Ensemble.of(np.frombuffer(F).reshape(shape), np.frombuffer(losses), np.array(owner), earlier=earlier)


class Surrogate:
    """The ensemble fitted to one Study. Where Trials trained for different times, the reach is a feature like any parameter, and
    losses are compared with others at the same reach.

    Where Trials have broken outcome constraints, their losses teach the models like any others; what others have to improve on
    is the best of those that keep them.

    Args:
        results: with at least two usable ones.
        losses: one for each result, infinite where there is none.
        earlier: models of what earlier Studies have found.
    """

    def __init__(self, space: Space, results: Results, losses: np.ndarray, earlier: Sequence[GP] = ()) -> None:
        self.space, self._features = space, Features(space)
        self._several = bool(np.ptp(results.reach) > 0)
        self._owner = self._features.owner
        if self._several:
            self._owner = np.append(self._owner, self._owner.max() + 1)
            losses = aligned(results, losses)
        self._F = F = np.ascontiguousarray(self.features(results.X, results.reach))
        self.ensemble = _fitted(F.shape, F.tobytes(), losses.tobytes(), tuple(self._owner.tolist()), tuple(earlier))
        self.results = results
        self.losses = np.where(results.violation > 0, np.inf, losses)
        kept = results.X[np.isfinite(self.losses)]
        # What matters is the best that keeps the constraints, and at the full budget, at which it may not have been run.
        if len(kept) and (self._several or results.constrained):
            self.ensemble = self.ensemble.expecting(self.features(kept))

    def feasibility(self) -> Feasibility | None:
        """What the Trials say of where the constraints are kept; None while none has broken one."""
        return self.results.feasibility(self._F, self._owner)

    def features(self, X: np.ndarray, reach: np.ndarray | float = 1.0) -> np.ndarray:
        """Features of encodings, shape (n, d), trained to `reach`."""
        F = self._features(X)
        return np.column_stack([F, np.broadcast_to(reach, len(F))]) if self._several else F

    def best(self, count: int) -> np.ndarray:
        """Encodings of the `count` best configurations: by their loss, or by what is expected of them at the full budget."""
        good = np.flatnonzero(np.isfinite(self.losses))
        order = self.losses[good]
        if not len(good):
            good = np.flatnonzero(np.isfinite(self.results.told[:, 0]))
            order = self.results.violation[good]
        elif self._several:
            F = self.features(self.results.X[good])
            order = np.mean([model.predict(F)[0] for model in self.ensemble.models], axis=0)
        return np.asarray(self.results.X[good[np.argsort(order, kind="stable")[:count]]])


def aligned(results: Results, losses: np.ndarray) -> np.ndarray:
    """Losses moved, reach by reach, to the level of the reach with most results.

    Longer training lowers all losses, and only what stood out is trained longer; a model of both at once would take the one
    for the other. What a longer training brings is read off the configurations that have run at both.
    """
    good = np.isfinite(losses)
    levels, counts = np.unique(results.reach[good], return_counts=True)
    base = good & (results.reach == levels[np.argmax(counts)])
    known = {x.tobytes(): loss for x, loss in zip(results.X[base], losses[base], strict=True)}
    moved = losses.copy()
    for level in levels:
        rung = good & (results.reach == level)
        pairs = [(x.tobytes(), loss) for x, loss in zip(results.X[rung], losses[rung], strict=True)]
        gains = [loss - known[key] for key, loss in pairs if key in known]
        moved[rung] -= np.median(gains) if gains else np.median(losses[rung]) - np.median(losses[base])
    return moved
