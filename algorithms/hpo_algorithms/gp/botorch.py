"""The Gaussian processes of this package as models of BoTorch [Balandat2020], and what BoTorch says an evaluation is worth.

Imported only when asked for: torch takes seconds. The hyperparameters are those that `model.fit` finds, so that both sides mean the
same by a space with conditions, a failed Trial or a noise. Each score maps features, shape (m, D), to the value of an evaluation
there, shape (m,), larger being better. BoTorch maximises: the models here are of minus the targets.

[Balandat2020] M. Balandat et al., BoTorch: a framework for efficient Monte-Carlo Bayesian optimization, NeurIPS 2020.
[Ament2023] S. Ament et al., Unexpected improvements to expected improvement for Bayesian optimization, NeurIPS 2023.
[Frazier2009] P. Frazier et al., The knowledge-gradient policy for correlated normal beliefs, INFORMS J. Comput. 21, 2009.
[Hvarfner2022] C. Hvarfner et al., Joint entropy search for maximally-informed Bayesian optimization, NeurIPS 2022.
[Yang2019] K. Yang et al., Efficient computation of expected hypervolume improvement using box decomposition algorithms, J. Glob.
Optim. 75, 2019.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
from botorch.models import ModelListGP, SingleTaskGP
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.means import Mean

from hpo_algorithms.gp.model import GP
from hpo_algorithms.ranking import nondomination

Score = Callable[[np.ndarray], np.ndarray]

SAMPLES = 64  # draws of the posterior that an expected improvement is the mean over; 256 chose no better
FANTASIES = 16  # results of an evaluation that a knowledge gradient is a weighted mean over
OPTIMA = 16  # draws of the optimum that an entropy is the mean over
RIVALS = 16  # known points that may be the best, by what is expected of them; each costs as much as a candidate
FRONT = 40  # points of a front that volumes are measured over: with four objectives each adds several cells
QUIET = 1e-6  # of the noise: below it the matrices of a few hundred points are singular to rounding
ROWS = 400  # points valued at once: more need memory, and no less time


@contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """One thread, torch's own random numbers from a seed, no gradients, no warnings; afterwards all is as it was."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of inputs outside the unit cube and targets that are not standardised: both are meant
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the generators of all GPUs, too, and these stay so
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def posterior(model: GP) -> SingleTaskGP:
    """The same posterior of minus the targets."""
    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=model.F.shape[1]))
    X, Y = _tensor(model.F), _tensor(-model.y[:, None])
    noise = torch.full_like(Y, max(model.noise, QUIET))
    made = SingleTaskGP(X, Y, noise, covar_module=kernel, mean_module=_Expected(model), outcome_transform=None)
    kernel.to(X)
    kernel.base_kernel.lengthscale = _tensor(model.scales)
    kernel.outputscale = model.variance
    return made.eval().requires_grad_(False)


def noisy_log_ei(model: GP, active: np.ndarray, seed: int) -> Score:
    """The logarithm of the expected improvement over the best of the known points and of the active ones, shape (m, D), whose
    values are all uncertain [Ament2023]."""
    rivals = model.F[np.argsort(model.predict(model.F)[0], kind="stable")[:RIVALS]]
    value = qLogNoisyExpectedImprovement(
        posterior(model),
        X_baseline=_tensor(np.concatenate([rivals, active])),
        sampler=_sampler(SAMPLES, seed),
        prune_baseline=False,
        cache_root=True,
    )
    return _by_rows(lambda X: value(X[:, None]))


def knowledge_gradient(model: GP, active: np.ndarray, choices: np.ndarray) -> Score:
    """By how much the best expectation anywhere is expected to improve; anywhere is x and `choices`, shape (k, D) [Frazier2009].

    The result at x moves the expectation at x' by cov(x', x) / deviation(x) times a standard normal, which is known before; the
    mean over it is a Gauss-Hermite sum. BoTorch's own class samples it, and looks for the best in the whole cube, which mixed
    spaces fill but in places.
    """
    believed, A = posterior(_with(model, active)), _tensor(choices)
    nodes, weights = map(_tensor, np.polynomial.hermite_e.hermegauss(FANTASIES))

    def gain(X: torch.Tensor) -> torch.Tensor:
        both = believed.posterior(torch.cat([X, A]))
        mean, covariance = both.mean[:, 0], both.distribution.covariance_matrix[: len(X)]
        variance = covariance[:, : len(X)].diagonal()
        deviation = (variance + max(model.noise, QUIET)).sqrt()
        elsewhere = (mean[len(X) :] + covariance[:, len(X) :] / deviation[:, None] * nodes[:, None, None]).amax(-1)
        there = mean[: len(X)] + variance / deviation * nodes[:, None]
        return (weights / weights.sum()) @ torch.maximum(elsewhere, there) - mean[len(X) :].max()

    return _by_rows(gain)


def joint_entropy(model: GP, active: np.ndarray, choices: np.ndarray) -> Score:
    """What an evaluation tells about where the optimum is and how low, in nats; that is one of `choices` [Hvarfner2022].

    Given an optimum and its value, the posterior elsewhere moves as after one more result without noise, and is cut off at that
    value. BoTorch's own class says the same, with a model for each optimum and point: that takes seconds and a gigabyte.
    """
    believed, A = posterior(_with(model, active)), _tensor(choices)
    drawn = believed.posterior(A).rsample(torch.Size([OPTIMA])).squeeze(-1)
    best, where = drawn.max(-1)
    noise = max(model.noise, QUIET)

    def gain(X: torch.Tensor) -> torch.Tensor:
        both = believed.posterior(torch.cat([X, A[where]]))
        mean, covariance = both.mean[:, 0], both.distribution.covariance_matrix
        variance, shared = covariance.diagonal(), covariance[: len(X), len(X) :]
        slopes = shared / (variance[len(X) :] + QUIET)
        moved = mean[: len(X), None] + slopes * (best - mean[len(X) :])
        left = (variance[: len(X), None] - slopes * shared).clamp_min(QUIET)
        z = (best - moved) / left.sqrt()
        hazard = (-0.5 * (z**2 + math.log(2 * math.pi)) - torch.special.log_ndtr(z)).exp()
        cut = left * (1 - (z + hazard) * hazard).clamp_min(QUIET)
        return 0.5 * ((variance[: len(X)] + noise).log() - (cut + noise).log().mean(-1))

    return _by_rows(gain)


def expected_hypervolume(models: Sequence[GP], active: np.ndarray, points: np.ndarray) -> Score:
    """The expected growth of the volume that the known points, shape (n, D), and the active ones dominate, one model an objective
    [Yang2019]. What stands at a point is what the models expect there, for noise flatters results."""
    believed = [_with(model, active) for model in models]
    Y = np.column_stack([-model.predict(np.concatenate([points, active]))[0] for model in believed])
    origin, front = reference(Y), _tensor(Y[np.argsort(nondomination(-Y), kind="stable")[:FRONT]])
    cells = FastNondominatedPartitioning(origin, front)
    value = ExpectedHypervolumeImprovement(ModelListGP(*map(posterior, believed)), origin.tolist(), cells)
    return _by_rows(lambda X: value(X[:, None]))


def reference(Y: np.ndarray) -> torch.Tensor:
    """The point that volumes are measured from, a little worse than the worst values on the front of Y, shape (n, objectives)."""
    return infer_reference_point(_tensor(Y[np.floor(nondomination(-Y)) == 0]))


class _Expected(Mean):  # type: ignore[misc]
    """What a model expects beforehand, negated as all here; without gradients, for none are used."""

    def __init__(self, model: GP) -> None:
        super().__init__()
        self._model = model

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        expected = self._model.expected(X.reshape(-1, X.shape[-1]).numpy())
        return -torch.as_tensor(np.broadcast_to(expected, X.shape[:-1].numel()).copy(), dtype=X.dtype).reshape(X.shape[:-1])


def _with(model: GP, active: np.ndarray) -> GP:
    """As if the active points had brought what is expected: of what they are worth others need know no more."""
    return model.given(active, model.predict(active)[0]) if len(active) else model


def _sampler(count: int, seed: int) -> SobolQMCNormalSampler:
    return SobolQMCNormalSampler(torch.Size([count]), seed=seed)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double)


def _by_rows(value: Callable[[torch.Tensor], torch.Tensor]) -> Score:
    def score(F: np.ndarray) -> np.ndarray:
        X = _tensor(F)
        return np.asarray(torch.cat([value(X[i : i + ROWS]) for i in range(0, len(X), ROWS)]).numpy())

    return score
