"""What a Study learns from earlier ones: that it helps where they are related, and does little harm where they are not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.gp.earlier import model_of, trusted
from hpo_algorithms.gp.ensemble import Ensemble
from hpo_algorithms.gp.features import Features
from hpo_algorithms.gp.model import GP
from hpo_algorithms.prior import FIRST, warm

SPACE = Space.from_spec(
    [
        {"name": "lr", "float": {"min": 1e-5, "max": 1, "scale": "Log"}},
        {"name": "decay", "float": {"min": 0, "max": 1}},
        {"name": "width", "int": {"min": 1, "max": 512, "scale": "Log"}},
        {"name": "optimizer", "categorical": {"choices": ["sgd", "adam", "lion"]}},
        {"name": "momentum", "float": {"min": 0, "max": 1}, "when": [{"parameter": "optimizer", "in": ["sgd"]}]},
    ]
)
Loss = Callable[[dict], float]


def training(at: tuple[float, float, float, float], best: str, scale: float = 1.0, level: float = 0.0) -> Loss:
    """A valley whose floor lies at a place of the unit cube, for one optimizer."""

    def loss(p: dict) -> float:
        u = np.nan_to_num(SPACE.encode(p), nan=0.5)[[0, 1, 2, 4]]
        away = float(np.square(u - np.array(at)) @ np.array([4.0, 1.0, 2.0, 0.5]))
        return level + scale * (away + 0.3 * math.sin(8 * u[0]) ** 2 * away + (0.0 if p["optimizer"] == best else 0.25))

    return loss


RELATED = [training((0.6, 0.3, 0.7, 0.8), "sgd", 20, 3), training((0.66, 0.36, 0.62, 0.9), "sgd", 0.1, -7)]
TARGET = training((0.63, 0.33, 0.66, 0.85), "sgd")
UNRELATED = [training((0.1, 0.9, 0.1, 0.1), "adam", 5), training((0.95, 0.1, 0.2, 0.3), "lion", 0.2, 9)]


def history(loss: Loss, count: int = 40, seed: int = 0, **fields: object) -> list[Trial]:
    rng = np.random.default_rng(seed)
    drawn = [SPACE.sample(rng) for _ in range(count)]
    return [Trial(i, p, state=State.DONE, losses=(loss(p),), **fields) for i, p in enumerate(drawn)]  # type: ignore[arg-type]


def best_after(count: int, seed: int, earlier: list[list[Trial]], algorithm: str = "gp") -> float:
    optimizer = Optimizer(SPACE, {algorithm: {}}, seed=seed, earlier=earlier)
    for _ in range(count):
        trial = optimizer.ask()
        assert trial is not None
        optimizer.tell(trial.number, TARGET(dict(trial.params)))
    assert optimizer.best is not None
    return optimizer.best.loss


# First points


def test_the_best_of_each_earlier_study_are_tried_first_in_turn_behind_what_the_user_gave() -> None:
    studies = [history(loss, seed=i) for i, loss in enumerate(RELATED)]
    best = [min(study, key=lambda trial: trial.loss).params for study in studies]
    given = SPACE.sample(np.random.default_rng(9))
    problem = warm(Problem(SPACE, given=(given,)), studies)
    assert list(problem.given[:3]) == [given, *best]
    assert len(problem.given) == 1 + FIRST
    optimizer = Optimizer(SPACE, {"random": {}}, given=[given], earlier=studies)
    assert [trial.params for trial in optimizer.ask(3)] == [given, *best]


def test_what_earlier_studies_share_is_tried_once_and_what_failed_is_not() -> None:
    study = history(TARGET, 3)
    study[0] = Trial(0, study[0].params, state=State.FAILED)
    problem = warm(Problem(SPACE), [study, study])
    assert sorted(SPACE.key(p) for p in problem.given) == sorted(SPACE.key(trial.params) for trial in study[1:])
    assert warm(Problem(SPACE), [study[:1]]).given == ()


def test_configurations_out_of_the_new_bounds_and_active_trials_are_left_out() -> None:
    good = history(TARGET, 2)
    wider = Trial(2, {**good[0].params, "decay": 3.0}, state=State.DONE, losses=(0.0,))
    other = Trial(3, {"batch": 3}, state=State.DONE, losses=(0.0,))
    problem = warm(Problem(SPACE), [[*good, wider, other, Trial(4, good[0].params)], [wider]])
    assert [[trial.number for trial in study] for study in problem.prior] == [[0, 1]]


# The trend


def data(loss: Loss, count: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    trials = history(loss, count, seed)
    X = SPACE.encode_all([trial.params for trial in trials])
    return X, np.array([trial.loss for trial in trials])


def models(losses: list[Loss]) -> list[GP]:
    found = [model_of(SPACE, *data(loss, 60, seed)) for seed, loss in enumerate(losses)]
    return [model for model in found if model is not None]


def test_before_the_first_result_an_earlier_study_is_trusted_by_half_and_later_as_it_deserves() -> None:
    features = Features(SPACE)

    def weight(losses: list[Loss], count: int) -> float:
        X, y = data(TARGET, count)
        earlier, F = models(losses), features(X)
        trend = trusted(earlier, F, (y - y.mean()) / max(y.std(), 1e-9))
        G = features(data(TARGET, 200, 8)[0])
        said = np.mean([model.predict(G)[0] for model in earlier], axis=0)
        return float(np.polyfit(said, trend(G), 1)[0])

    assert weight(RELATED, 1) == pytest.approx(0.5, abs=1e-6)
    assert weight(RELATED, 30) > 0.7


def test_a_trend_that_the_results_speak_against_is_dropped_or_small() -> None:
    features = Features(SPACE)
    X, y = data(TARGET, 30)
    G = features(data(TARGET, 100, 8)[0])

    def size(losses: list[Loss]) -> float:
        ensemble = Ensemble.of(features(X), y, features.owner, earlier=models(losses))
        return max(0.0 if model.trend is None else float(model.trend(G).std()) for model in ensemble.models)

    assert size(RELATED) > 0.5
    assert size([lambda p: -(TARGET(p) ** 2), lambda p: math.sin(40 * p["decay"])]) < 0.2


def test_a_model_with_a_trend_predicts_better_from_few_results() -> None:
    X, y = data(TARGET, 6)
    G, truth = data(TARGET, 200, 8)
    features = Features(SPACE)

    def insight(earlier: list[GP]) -> float:
        ensemble = Ensemble.of(features(X), y, features.owner, earlier=earlier)
        return float(np.corrcoef(ensemble.models[0].predict(features(G))[0], truth)[0, 1])

    assert insight(models(RELATED)) > 0.8 > insight([]) + 0.1


def test_a_trend_goes_along_when_points_are_added_length_scales_doubted_and_points_left_out() -> None:
    rng = np.random.default_rng(0)
    F = rng.random((12, 2))
    trend = lambda G: 5 * G[:, 0]  # noqa: E731
    model = GP(F, 5 * F[:, 0], np.arange(2), np.array([0.0, 0.0, -2.0, -6.0]), trend)
    G = rng.random((20, 2))
    for each in (model, model.doubted(), model.given(G[:2], 5 * G[:2, 0])):
        np.testing.assert_allclose(each.predict(G)[0], 5 * G[:, 0], atol=1e-6)
    np.testing.assert_allclose(model.left_out(), 5 * F[:, 0], atol=1e-6)
    assert np.corrcoef(model.sample(G, rng), G[:, 0])[0, 1] > 0.9


def test_an_earlier_study_with_too_few_results_says_nothing() -> None:
    assert model_of(SPACE, *data(TARGET, 2)) is None


# Whole Studies


@pytest.mark.parametrize("algorithm", ["gp", "auto"])
def test_related_studies_win_and_unrelated_ones_cost_little(algorithm: str) -> None:
    studies = {"related": RELATED, "unrelated": UNRELATED, "none": []}
    found = {
        name: [
            statistics.mean(
                best_after(count, seed, [history(loss, seed=seed + 10 * i) for i, loss in enumerate(losses)], algorithm)
                for seed in range(4)
            )
            for count in (6, 20)
        ]
        for name, losses in studies.items()
    }
    assert found["related"][0] < 0.5 * found["none"][0]
    assert found["related"][1] < found["none"][1]
    assert found["unrelated"][1] < found["none"][1] + 0.1, "random search stands at 0.4"


def test_what_was_trained_to_several_budgets_counts_by_the_highest() -> None:
    low, high = history(UNRELATED[0], 30, budget=1), history(TARGET, 30, seed=1, budget=9)
    earlier = [low + [Trial(30 + t.number, t.params, 9, state=State.DONE, losses=t.losses) for t in high]]
    optimizer = Optimizer(SPACE, {"gp": {}}, budget=(1, 9), seed=1, earlier=earlier)
    for place in range(12):
        trial = optimizer.ask()
        assert trial is not None
        optimizer.tell(trial.number, TARGET(dict(trial.params)))
        if place == 0:
            assert trial.params == min(high, key=lambda each: each.loss).params
    assert optimizer.best is not None
    assert optimizer.best.loss < min(trial.loss for trial in high)
