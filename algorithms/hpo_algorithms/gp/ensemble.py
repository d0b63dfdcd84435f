"""Three unlike Gaussian processes on the same Trials, and their opinion taken together.

The first looks at winsorised losses and expects short length scales, all of them shorter where some are. The second looks at
half-ranked losses and expects long ones. Where one is misled, by an outlier or by a function rougher than it expects, the other
mostly is not. The third takes the losses as they are and expects next to nothing: where a function is smooth, the others bend what
they see, and it finds the last digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpo_algorithms.gp.earlier import trusted
from hpo_algorithms.gp.model import GP, Prior, Trend, fitted
from hpo_algorithms.gp.outputs import half_ranked, standardised, winsorised

FITTED = 64  # points that hyperparameters are fitted on: a fit costs their cube, and a dozen hyperparameters need no more
AGREED = 0.5  # deviation of the logarithm of the noise from what the first model found
NOISY = 0.1  # noise variance, relative to that of the targets, without which what cannot be foreseen is rough
NORMAL = 1e6  # degrees of freedom from which a Student distribution is a normal one
CONDITIONED = 300  # points that the posterior is conditioned on


@dataclass(frozen=True, slots=True)
class Member:
    """How one model of the ensemble sees the losses, and what it expects of its length scales in one dimension.

    Each fit begins where that of the model before has ended, which is not far, and so needs fewer `steps`.
    """

    outputs: Callable[[np.ndarray], np.ndarray]
    prior: Prior
    steps: int


MEMBERS = (
    Member(winsorised, Prior(scale=0.0, common_sd=1.0), 20),
    Member(half_ranked, Prior(scale=math.sqrt(2)), 12),
    Member(standardised, Prior(scale=math.sqrt(2), scale_sd=math.sqrt(3)), 6),
)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Fitted models, each with the best value that it believes in: the lowest mean at a known point, for noise flatters results."""

    models: tuple[GP, ...]
    bests: tuple[float, ...]

    @classmethod
    def of(
        cls,
        F: np.ndarray,
        y: np.ndarray,
        owner: np.ndarray,
        members: Sequence[Member] = MEMBERS,
        earlier: Sequence[GP] = (),
    ) -> Ensemble:
        """Fit to features, shape (n, D), and losses, shape (n,), of which infinite ones count as the worst finite one.

        What `earlier` models of other Studies say is the trend, as far as it agrees with these losses, and where the losses are
        likelier with it than without.
        """
        finite = np.isfinite(y)
        y = np.where(finite, y, y[finite].max())
        few, many = thinned(y, FITTED), thinned(y, CONDITIONED)
        models: list[GP] = []
        for member in members:
            target = member.outputs(y)
            prior = member.prior
            if models:
                # The first says how much is noise: the others, made to expect little variation, would call it all noise, and try
                # the same place again and again for the improvement that they still expect there.
                prior = replace(prior, noise=float(models[0].theta[-1]), noise_sd=AGREED, freedom=NORMAL)
            trend: Trend | None = None
            start = models[-1].theta if models else None
            theta, density = fitted(F[few], target[few], owner, prior, member.steps, start)
            if earlier:
                said = trusted(earlier, F[few], target[few])
                with_trend, other = fitted(F[few], target[few] - said(F[few]), owner, prior, member.steps, start)
                if other < density:
                    trend, theta = said, with_trend
            models.append(GP(F[many], target[many], owner, theta, trend))
        return cls(tuple(models), ()).expecting(F[many])

    def pending(self, F: np.ndarray) -> Ensemble:
        """As if the points F, shape (m, D), had been evaluated, each with the loss that the model expects of it [Desautels2014].

        What is expected of them is also what others have to improve on: else all would go to the same basin.

        [Desautels2014] T. Desautels et al., Parallelizing exploration-exploitation tradeoffs, JMLR 15, 2014.
        """
        if not len(F):
            return self
        expected = [model.predict(F)[0] for model in self.models]
        models = tuple(model.given(F, y) for model, y in zip(self.models, expected, strict=True))
        return Ensemble(models, tuple(min(best, float(y.min())) for best, y in zip(self.bests, expected, strict=True)))

    def expecting(self, F: np.ndarray) -> Ensemble:
        """With the lowest mean at the points F as the best there is."""
        return Ensemble(self.models, tuple(float(model.predict(F)[0].min()) for model in self.models))

    def demanding(self, improvement: float) -> Ensemble:
        """With an improvement to be exceeded before it counts, in standard deviations of the targets."""
        return Ensemble(self.models, tuple(best - improvement for best in self.bests))

    def doubting(self) -> Ensemble:
        """With models that are less sure of what lies between the points."""
        return Ensemble(tuple(model.doubted() for model in self.models), self.bests)

    @property
    def scales(self) -> np.ndarray:
        """The length scale of each parameter, geometric mean over models."""
        return np.asarray(np.exp(np.mean([model.theta[:-2] for model in self.models], axis=0)))

    @property
    def surest(self) -> GP:
        """The model that says best from the other points what each of the good half of them is.

        Up to the median all see the losses as they are, but for units.
        """
        errors = []
        for model in self.models:
            good = model.y <= np.median(model.y)
            errors.append(float(np.mean((model.y - model.left_out())[good] ** 2) / max(float(np.var(model.y[good])), 1e-12)))
        return self.models[int(np.argmin(errors))]

    @property
    def insight(self) -> float:
        """Rank correlation between each target and what the other points say of it, mean over models: 1 knows all, 0 nothing."""
        return float(np.mean([_rank_correlation(model.y, model.left_out()) for model in self.models]))

    @property
    def blind(self) -> bool:
        """Whether losses are noise to the models, of which they foresee nothing."""
        return self.models[0].noise > NOISY and self.insight <= 0

    def score(self, F: np.ndarray, acquisition: Callable[[int, np.ndarray, np.ndarray, float], np.ndarray]) -> np.ndarray:
        """The logarithm of the mean over models of what `acquisition` gives the logarithm of."""
        values = [
            acquisition(i, *model.predict(F), best) for i, (model, best) in enumerate(zip(self.models, self.bests, strict=True))
        ]
        return np.asarray(np.logaddexp.reduce(values, axis=0) - math.log(len(values)))


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = _centred_ranks(a), _centred_ranks(b)
    scale = math.sqrt(float((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(count) - (count + 1) / 2)[place]  # equal values share the mean of their ranks
    return np.asarray(ranks - ranks.mean())


def thinned(y: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` points: the best half of them as they come, the rest spread evenly over the others."""
    if len(y) <= most:
        return np.arange(len(y))
    order = np.argsort(y, kind="stable")
    rest = order[most // 2 :]
    return np.sort(np.append(order[: most // 2], rest[np.linspace(0, len(rest) - 1, most - most // 2).astype(int)]))
