"""Two-step look-ahead: its nested quadrature against its definition, and against BoTorch's."""

from __future__ import annotations

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Space
from hpo_algorithms.gp.acquisition import log_ei
from hpo_algorithms.gp.lookahead import expected_improvement, log_two_step
from hpo_algorithms.gp.model import GP

GRID = np.linspace(0, 1, 101)[:, None]
POINTS = np.array([[0.12], [0.3], [0.52], [0.75], [0.85]])


def wave() -> GP:
    F = np.array([[0.05], [0.2], [0.45], [0.6], [0.95]])
    y = np.sin(9 * F[:, 0])
    return GP(F, (y - y.mean()) / y.std(), np.array([0]), np.array([-1.6, 0.1, -13.0]))


def best_of(model: GP) -> float:
    return float(model.predict(model.F)[0].min())


def test_the_covariance_is_that_of_joint_draws() -> None:
    model, rng = wave(), np.random.default_rng(0)
    F = np.array([[0.3], [0.36], [0.8]])
    drawn = np.array([model.sample(F, rng) for _ in range(20_000)])
    np.testing.assert_allclose(model.covariance(F, F), np.cov(drawn.T), atol=0.03)
    np.testing.assert_allclose(np.sqrt(model.covariance(F, F).diagonal()), model.predict(F)[1], rtol=1e-6)


def test_the_expected_improvement_is_the_one_of_which_the_logarithm_is_used_elsewhere() -> None:
    mean, deviation = np.array([-3.0, 0.0, 1.0, 4.0]), np.array([0.5, 1.0, 2.0, 1.0])
    found = expected_improvement(mean, deviation, np.array(0.3))
    np.testing.assert_allclose(np.log(found), log_ei(mean, deviation, 0.3), rtol=1e-6)


def test_it_is_the_mean_over_results_of_the_best_second_step_of_the_model_that_has_them() -> None:
    model, best, rng = wave(), best_of(wave()), np.random.default_rng(1)
    found = np.exp(log_two_step(model, POINTS, GRID, best))
    for point, value in zip(POINTS[:, None], found, strict=True):
        mean, deviation = model.predict(point)
        second = []
        for result in mean + deviation * rng.standard_normal(1500):
            after = model.given(point, np.array([result]))
            # `given` takes the mean of the process anew; what is looked ahead to keeps it.
            after._alpha = after._inverse_L.T @ (after._inverse_L @ (after.y - model.mean))
            after.mean = model.mean
            second.append(expected_improvement(*after.predict(GRID), np.minimum(best, result)).max())
        whole = float(np.exp(log_ei(mean, deviation, best))[0]) + np.mean(second)
        assert value == pytest.approx(whole, rel=0.06)


def test_a_second_step_is_worth_something_everywhere_and_most_where_the_first_tells_most() -> None:
    model, best = wave(), best_of(wave())
    two, one = (np.exp(f) for f in (log_two_step(model, GRID, GRID, best), log_ei(*model.predict(GRID), best)))
    assert (two > one).all()
    # What a point that tells nothing is worth is the best second step; others are worth more.
    assert two.max() > 1.05 * one.max()
    known = model.F[:1] + 1e-4
    assert np.exp(log_two_step(model, known, GRID, best))[0] == pytest.approx(one.max(), rel=0.02)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_it_is_what_botorch_gets_by_sampling() -> None:
    import torch
    from botorch.acquisition import qExpectedImprovement
    from botorch.acquisition.multi_step_lookahead import make_best_f, qMultiStepLookahead
    from hpo_algorithms.gp import botorch as b

    model, best, choices, fantasies = wave(), best_of(wave()), GRID[::4], 128
    ours = np.exp(log_two_step(model, POINTS, choices, best))
    with b.undisturbed(0):
        believed, sampler = b.posterior(model), b._sampler(fantasies, 1)
        theirs = qMultiStepLookahead(
            believed,
            batch_sizes=[1],
            samplers=[sampler],
            valfunc_cls=[qExpectedImprovement, qExpectedImprovement],
            valfunc_argfacs=[make_best_f, make_best_f],
            inner_mc_samples=[256, 256],
        )
        A = b._tensor(choices)
        for point, value in zip(POINTS, ours, strict=True):
            X = b._tensor(point[None])
            fantasy = believed.fantasize(X, sampler)
            at = fantasy.posterior(A)
            known = fantasy.train_targets.amax(-1)
            mean, deviation = (-at.mean[..., 0]).numpy(), at.variance[..., 0].sqrt().numpy()
            second = expected_improvement(mean, deviation, (-known).numpy()[..., None]).argmax(-1)
            whole = torch.cat([X, A[torch.tensor(second)].reshape(fantasies, 1)])
            assert value == pytest.approx(float(theirs(whole)), rel=0.05, abs=0.01)


def test_a_search_that_looks_two_steps_ahead_mostly_finds_the_deepest_of_many_valleys() -> None:
    space = Space.from_spec([{"name": "x", "float": {"min": 0, "max": 1}}, {"name": "k", "categorical": {"choices": ["a", "b"]}}])
    best = []
    for seed in range(1, 6):
        optimizer = Optimizer(space, {"gp": {"acquisition": "twoStep"}}, seed=seed)
        for _ in range(22):
            trial = optimizer.ask()
            x = trial.params["x"]
            optimizer.tell(trial.number, np.sin(13 * x) * np.sin(27 * x) + (0.3 if trial.params["k"] == "a" else 0))
        best.append(optimizer.best.loss)
    assert sorted(best)[2] < -0.9
