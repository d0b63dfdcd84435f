"""Sequential model-based optimisation with a forest of trees [Hutter2011].

[Hutter2011] F. Hutter et al., Sequential model-based optimization for general algorithm configuration, LION 5, 2011.
[Geurts2006] P. Geurts et al., Extremely randomized trees, Mach. Learn. 63, 2006.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpo_algorithms.encoding import Columns, Snapping, among
from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers.gp import spread
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Space
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem

if TYPE_CHECKING:
    from hpo_algorithms.gp.surrogate import Results

INACTIVE = -1.0  # stands for a parameter that a configuration does not have: outside [0, 1], so that one cut sets it apart
KNOWN = 1000  # Trials that the forest is grown on: the best half and some of the others
CHALLENGERS = 1000  # uniform draws, the best of which are improved on
STARTS = 5  # best Trials, and best challengers, that local search starts from
STEPS = 8  # of a local search at most
WIDTHS = (0.2, 0.1, 0.03, 0.01)  # of the normal steps that make a number's neighbours
NAMES = 10  # neighbours of a categorical at most
LEAVES = (1, 5)  # least results in a leaf: where trees foresee losses, and where noise has to be averaged out
JUDGED = 25, 200  # results from which on leaves are compared, and how many are looked at for it
FOLDS, FEW = 4, 8  # into which they are dealt, and trees grown for each
UNSURE = 1e-4  # deviation where all trees agree, relative to that of the losses


@dataclass(frozen=True, slots=True)
class SMAC:
    """Proposes where a forest of regression trees expects the largest improvement.

    1. The first `startupTrials` are spread evenly over the space.
    2. Each of `trees` trees is grown on all Trials until each leaf holds one loss, with cuts at random places [Geurts2006]: at a
       Trial all trees agree, and the further from any Trial, the less they do. Where leaves of five losses say better what Trials
       left out have brought, losses are noisy: then these are taken, and the best is what trees expect of the best Trial, not
       what luck has made of one. A parameter that is inactive is -1. Failed and
       infeasible Trials and those that break an outcome constraint count as the worst known, active ones as if they had brought
       what the trees expect. Until `startupTrials` keep the constraints, what is learned is the order of all, in which who breaks
       them less stands before who breaks them more.
    3. What is maximised is the logarithm of the expected improvement, for the mean and deviation over the trees: by local search
       from the best Trials and from the best of many draws, to the best of all neighbours that differ in one parameter.
    4. A share `randomShare` of the Trials is uniform, for a forest that is wrong does not find out by itself.

    A proposal takes about 30 ms. Trees take cliffs and names as they come; on smooth losses `gp` and `auto` find more.
    """

    startup_trials: int = setting(10, "Results before the forest is used.", minimum=2, maximum=1000)
    trees: int = setting(30, "Trees of the forest; with fewer their deviation is a rough one.", minimum=2, maximum=1000)
    random_share: float = setting(0.1, "Share of the Trials that are drawn uniformly.", minimum=0, maximum=1)

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        from hpo_algorithms.gp.surrogate import Results

        space, results = problem.space, Results.of(problem, history)
        if results.known < self.startup_trials:
            return novel(problem, history, numbers, lambda number, attempt: Draw(spread(problem, number, attempt)))
        if results.usable < self.startup_trials:
            results = results.ranked()
        active = results.active

        def one(number: int, attempt: int) -> Draw:
            nonlocal active
            rng = stream(problem.seed, number, f"smac/{attempt}")
            if attempt or rng.random() < self.random_share:
                return Draw(space.sample(rng))
            found = self._search(problem, results, active, rng)
            active = np.vstack([active, found])
            return Draw(space.decode(found))

        return novel(problem, history, numbers, one)

    def _search(self, problem: Problem, results: Results, active: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The encoding, shape (d,), of what is to be tried next."""
        from hpo_algorithms.gp.acquisition import log_ei
        from hpo_algorithms.gp.ensemble import thinned
        from hpo_algorithms.gp.outputs import winsorised
        from hpo_algorithms.gp.search import kept as allowed
        from hpo_algorithms.gp.surrogate import aligned

        losses = results.weighted(rng.dirichlet(np.ones(problem.objectives)))
        if np.ptp(results.reach) > 0:
            losses = aligned(results, losses)
        finite = np.isfinite(losses)
        losses = np.where(finite, losses, losses[finite].max())
        kept = thinned(losses, KNOWN)
        X, y = results.X[kept], winsorised(losses[kept])
        leaf = least_in_leaf(X, results.reach[kept], y, rng)
        forest = Forest(X, results.reach[kept], y, self.trees, rng, leaf)
        if len(active):
            expected = forest.predict(active)[0]
            X, y = np.vstack([X, active]), np.append(y, expected)
            forest = Forest(X, np.append(results.reach[kept], np.ones(len(active))), y, self.trees, rng, leaf)
        best, tried = float((y if leaf == 1 else forest.predict(X)[0]).min()), np.vstack([results.X, active])

        def score(C: np.ndarray) -> np.ndarray:
            values = log_ei(*forest.predict(C), best)
            values[among(C, tried)] = -np.inf
            return values

        return maximum(problem.space, allowed(problem.space, score), X[np.argsort(y, kind="stable")[:STARTS]], rng)


class Forest:
    """Trees with random cuts on encodings of shape (n, d), the reach of each Trial, shape (n,), and targets, shape (n,).

    A leaf holds `leaf` targets at least.
    """

    def __init__(
        self, X: np.ndarray, reach: np.ndarray, y: np.ndarray, trees: int, rng: np.random.Generator, leaf: int = 1
    ) -> None:
        from sklearn.tree import ExtraTreeRegressor

        F = _imputed(X, reach)
        seeds = rng.integers(2**31, size=trees).tolist()
        self._trees = [
            ExtraTreeRegressor(max_features=None, min_samples_leaf=leaf, random_state=seed).fit(F, y, check_input=False).tree_
            for seed in seeds
        ]

    def predict(self, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the trees at encodings of shape (m, d), trained to the end."""
        F = _imputed(C, np.ones(len(C)))
        values = np.array([tree.predict(F)[:, 0] for tree in self._trees])
        return values.mean(axis=0), np.sqrt(values.var(axis=0) + UNSURE**2)


def least_in_leaf(X: np.ndarray, reach: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> int:
    """The one of `LEAVES` with which forests say best what is left out of them; with few results the first."""
    from hpo_algorithms.gp.ensemble import thinned

    few, many = JUDGED
    if len(y) < few:
        return LEAVES[0]
    kept = thinned(y, many)
    X, reach, y = X[kept], reach[kept], y[kept]
    folds = rng.permutation(len(y)) % FOLDS
    errors = dict.fromkeys(LEAVES, 0.0)
    for fold in range(FOLDS):
        out = folds == fold
        for leaf in LEAVES:
            # A mean over few trees has an error besides that one over all would not have: their variance, by their number.
            mean, deviation = Forest(X[~out], reach[~out], y[~out], FEW, rng, leaf).predict(X[out])
            errors[leaf] += float((np.square(mean - y[out]) - np.square(deviation) / (FEW - 1)).sum())
    return min(LEAVES, key=errors.__getitem__)


def _imputed(X: np.ndarray, reach: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.column_stack([np.where(np.isnan(X), INACTIVE, X), reach]), dtype=np.float32)


def maximum(space: Space, score: Callable[[np.ndarray], np.ndarray], best: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The point, shape (d,), at which the best of several local searches has ended.

    Args:
        score: maps snapped points, shape (m, d), to what is to be maximised; -inf for what must not be proposed.
        best: encodings of the best Trials, which the searches start from beside the best of the challengers.
    """
    neighbours, snap = Neighbours(Columns.of(space)), Snapping(space)
    C = snap(rng.random((CHALLENGERS, len(space))))
    scores = score(C)
    top = np.argsort(-scores, kind="stable")[:STARTS]
    X, values = np.vstack([C[top], best]), np.append(scores[top], np.full(len(best), -np.inf))
    climbing = np.arange(len(X))
    for _ in range(STEPS if len(neighbours) else 0):
        N = snap(neighbours(X[climbing], rng))
        table = score(N).reshape(len(climbing), -1)
        winner, highest = table.argmax(axis=1), table.max(axis=1)
        better = highest > values[climbing]
        X[climbing[better]] = N.reshape(len(climbing), -1, len(space))[better, winner[better]]
        values[climbing[better]] = highest[better]
        climbing = climbing[better]
        if not len(climbing):
            break
    return np.asarray(X[np.argmax(values)])


class Neighbours:
    """What differs from a configuration in one parameter: a number by normal steps, a categorical by another name."""

    def __init__(self, columns: Columns) -> None:
        named = set(columns.categorical.tolist())
        counts = [int(min(levels - 1, NAMES if j in named else len(WIDTHS))) for j, levels in enumerate(columns.levels)]
        self._column = np.repeat(np.arange(len(counts)), counts)
        self._named = np.isin(self._column, columns.categorical)
        place = np.concatenate([np.arange(count) for count in counts])
        # A discrete value has to move by about a whole cell to be another one at all.
        width = np.array(WIDTHS)[np.minimum(place, len(WIDTHS) - 1)]
        self._width = np.maximum(width, 0.7 / columns.levels[self._column])
        self._shift, self._names = place + 1, np.where(self._named, columns.levels[self._column], 1.0)

    def __len__(self) -> int:
        return len(self._column)

    def __call__(self, X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """All neighbours of each row of X, shape (m, d), one row after another, not snapped yet."""
        m, k = len(X), len(self)
        X = np.where(np.isnan(X), rng.random(X.shape), X)  # where a change brings a parameter in, it gets some value
        old, names = X[:, self._column], self._names
        moved = np.clip(old + self._width * rng.standard_normal((m, k)), 0.0, 1.0)
        drawn = 1 + np.floor(rng.random((m, k)) * (names - 1))
        shift = np.where(names - 1 <= NAMES, self._shift, drawn)
        other = ((np.floor(old * names) + shift) % names + 0.5) / names
        N = np.repeat(X, k, axis=0).reshape(m, k, -1)
        N[:, np.arange(k), self._column] = np.where(self._named, other, moved)
        return N.reshape(m * k, -1)
