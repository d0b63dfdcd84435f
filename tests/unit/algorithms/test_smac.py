"""SMAC: what the forest believes, what local search looks at, and how well both search."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.encoding import Columns, Snapping, encoded
from hpo_algorithms.samplers import smac
from hpo_algorithms.samplers.smac import JUDGED, NAMES, SMAC, Forest, Neighbours, least_in_leaf, maximum

MIXED = Space.from_spec(
    [
        {"name": "a", "categorical": {"choices": list("pqr")}},
        {"name": "b", "ordinal": {"values": [1, 2, 4, 8, 16, 32]}},
        {"name": "c", "int": {"min": 1, "max": 1000, "scale": "Log"}},
        {"name": "d", "float": {"min": 0, "max": 1}},
        {"name": "e", "float": {"min": 0, "max": 1}, "when": [{"parameter": "a", "in": ["p"]}]},
    ]
)
PLANE = Space.from_spec([{"name": name, "float": {"min": -1, "max": 1}} for name in "xy"])
MANY_NAMES = Space.from_spec([{"name": "n", "categorical": {"choices": [f"n{i}" for i in range(40)]}}])


def trials(space: Space, count: int, loss: Callable[[Mapping[str, Any]], float], **fields: Any) -> list[Trial]:
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(count)]
    return [Trial(i, p, state=State.DONE, losses=(loss(p),), **fields) for i, p in enumerate(drawn)]


def forest(X: np.ndarray, y: np.ndarray) -> Forest:
    return Forest(X, np.ones(len(X)), y, 50, np.random.default_rng(1))


def test_trees_agree_at_the_Trials_and_the_less_the_further_from_them() -> None:
    X = np.array([[0.1], [0.2], [0.8], [0.9]])
    y = np.array([0.0, 1.0, 3.0, 2.0])
    mean, deviation = forest(X, y).predict(np.array([[0.1], [0.9], [0.25], [0.5]]))
    np.testing.assert_allclose(mean[:2], [0.0, 2.0], atol=1e-6)
    assert deviation[:2].max() < 1e-3
    assert 1e-3 < deviation[2] < deviation[3]


def test_between_two_Trials_the_forest_slopes_from_one_to_the_other() -> None:
    C = np.linspace(0.01, 0.99, 9)[:, None]
    mean, _ = Forest(np.array([[0.0], [1.0]]), np.ones(2), np.array([0.0, 1.0]), 400, np.random.default_rng(1)).predict(C)
    np.testing.assert_allclose(mean, C[:, 0], atol=0.1)


def test_one_cut_sets_apart_what_does_not_have_a_parameter() -> None:
    X = np.array([[0.2, np.nan], [0.4, np.nan], [0.2, 0.1], [0.4, 0.9]])
    mean, _ = forest(X, np.array([0.0, 0.0, 1.0, 1.0])).predict(np.array([[0.3, np.nan], [0.3, 0.5]]))
    assert mean[0] < 0.4
    assert mean[1] > 0.6


def leaf(seed: int, noise: float, count: int = 60, dimensions: int = 2) -> int:
    rng = np.random.default_rng(seed)
    X = rng.random((count, dimensions))
    y = np.sin(5 * X).sum(axis=1) + np.square(X - 0.4).sum(axis=1)
    return least_in_leaf(X, np.ones(count), y / y.std() + noise * rng.standard_normal(count), rng)


def test_leaves_hold_one_result_where_trees_foresee_the_others_and_several_where_losses_are_noise() -> None:
    assert [leaf(seed, 0.0) for seed in range(20)] == [1] * 20
    assert [leaf(seed, 5.0) for seed in range(20)].count(5) >= 15


def test_that_few_trees_differ_among_themselves_is_not_taken_for_noise() -> None:
    """Larger leaves make trees more alike: compared by few of them as they are, they would win twelve times of thirty."""
    assert [leaf(seed, 0.3, 40, dimensions=8) for seed in range(30)].count(5) <= 7


def test_few_results_do_not_say_whether_losses_are_noise() -> None:
    assert {leaf(seed, 5.0, JUDGED[0] - 1) for seed in range(20)} == {1}


def test_a_lucky_result_among_noise_holds_the_search_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def distance(seed: int) -> float:
        noise = np.random.default_rng(seed)
        history = trials(PLANE, 60, lambda _: float(noise.standard_normal()))
        history[7] = Trial(7, {"x": 0.5, "y": 0.5}, state=State.DONE, losses=(-5.0,))
        drawn = [SMAC(random_share=0).draw(Problem(PLANE, seed=seed), history, [k])[0].params for k in range(60, 65)]
        return statistics.median(math.hypot(p["x"] - 0.5, p["y"] - 0.5) for p in drawn)

    found = statistics.median(map(distance, range(5)))
    monkeypatch.setattr(smac, "LEAVES", (1,))
    assert found > 2 * statistics.median(map(distance, range(5)))


def test_neighbours_differ_in_one_parameter_and_hold_every_other_name() -> None:
    columns, snap = Columns.of(MIXED), Snapping(MIXED)
    X = snap(np.array([[0.5, 0.4, 0.3, 0.6, 0.5]]))  # a = q, so that e is inactive
    N = snap(Neighbours(columns)(X, np.random.default_rng(2)))
    same = (N == X) | (np.isnan(N) & np.isnan(X))
    moved = ~same
    moved[:, 4] &= same[:, 0]  # what another name brings in
    assert (moved.sum(axis=1) <= 1).all()
    assert set(moved.argmax(axis=1)[moved.any(axis=1)].tolist()) == {0, 1, 2, 3}
    assert {MIXED.decode(n)["a"] for n in N if n[0] != X[0, 0]} == {"p", "r"}
    assert all("e" in MIXED.decode(n) for n in N if MIXED.decode(n)["a"] == "p")


def test_of_very_many_names_a_few_are_neighbours() -> None:
    snap = Snapping(MANY_NAMES)
    X = snap(np.array([[0.5]]))
    N = snap(Neighbours(Columns.of(MANY_NAMES))(X, np.random.default_rng(3)))
    assert len(N) == NAMES
    assert (N != X).all()


def test_local_search_climbs_to_the_top_of_a_hill() -> None:
    """The best of the draws alone lies 0.04 or more from it."""
    space = Space.from_spec([{"name": name, "float": {"min": 0, "max": 1}} for name in "abcd"])
    found = maximum(space, lambda C: -np.abs(C - 0.37).sum(axis=1), np.full((1, 4), 0.9), np.random.default_rng(4))
    assert np.abs(found - 0.37).max() < 0.02


def test_a_failed_Trial_keeps_others_away() -> None:
    def gone(p: Mapping[str, Any]) -> State:
        return State.FAILED if p["x"] > 0 else State.DONE

    drawn = trials(PLANE, 40, lambda p: p["y"])
    history = [
        Trial(t.number, t.params, state=gone(t.params), losses=t.losses if gone(t.params) is State.DONE else ()) for t in drawn
    ]
    proposals = [SMAC(random_share=0).draw(Problem(PLANE, seed=s), history, [40])[0].params for s in range(10)]
    assert sum(p["x"] <= 0.1 for p in proposals) >= 8
    assert statistics.median(p["y"] for p in proposals) < -0.5


def test_eight_at_once_go_to_different_places() -> None:
    """Where active Trials were not known to the forest, all would go around one place, half of them nearer than 0.07."""
    history = trials(PLANE, 30, lambda p: p["x"] ** 2 + p["y"] ** 2)
    drawn = SMAC(random_share=0).draw(Problem(PLANE, seed=1), history, list(range(30, 38)))
    points = encoded(PLANE, [draw.params for draw in drawn])
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(8, 1)]
    assert distance.min() > 1e-3
    assert np.median(distance) > 0.2


def test_several_at_once_are_what_one_after_another_would_be() -> None:
    history = trials(MIXED, 20, lambda p: abs(math.log10(p["c"]) - 2))
    for draw in SMAC().draw(Problem(MIXED), history, [20, 21, 22]):
        (alone,) = SMAC().draw(Problem(MIXED), history, [len(history)])
        assert alone.params == draw.params
        history.append(Trial(len(history), alone.params))


def test_a_share_of_the_Trials_is_uniform() -> None:
    history = trials(PLANE, 40, lambda p: abs(p["x"]) + abs(p["y"]))
    far = {
        share: sum(
            abs(SMAC(random_share=share).draw(Problem(PLANE, seed=s), history, [40])[0].params["x"]) > 0.7 for s in range(40)
        )
        for share in (0.0, 1.0)
    }
    assert far[0.0] <= 1
    assert far[1.0] >= 6


def test_what_was_learned_at_a_small_budget_helps_at_the_full_one() -> None:
    low = trials(PLANE, 40, lambda p: 1 + abs(p["x"]) + abs(p["y"]), budget=1)
    high = [Trial(40 + i, t.params, 27, state=State.DONE, losses=(t.losses[0] - 1,)) for i, t in enumerate(low[:3])]
    problems = [Problem(PLANE, min_budget=1, max_budget=27, seed=seed) for seed in range(9)]
    drawn = [SMAC(random_share=0).draw(p, low + high, [43])[0].params for p in problems]
    assert statistics.median(abs(p["x"]) + abs(p["y"]) for p in drawn) < 0.25


def test_where_all_break_a_constraint_proposals_gather_where_they_break_it_least() -> None:
    optimizer = Optimizer(PLANE, {"smac": {"randomShare": 0}}, seed=1)
    for _ in range(40):
        trial = optimizer.ask()
        optimizer.tell(trial.number, trial.params["x"], violation=1 + abs(trial.params["x"] - 0.6) + abs(trial.params["y"]))
    assert statistics.median(abs(t.params["x"] - 0.6) + abs(t.params["y"]) for t in optimizer.history[20:]) < 0.25


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 0.0, math.nan])
def test_losses_of_any_size_give_a_proposal_without_warnings(value: float) -> None:
    odd = Trial(15, MIXED.sample(np.random.default_rng(9)), state=State.DONE, losses=(value,))
    history = [*trials(MIXED, 15, lambda p: p["d"]), odd]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (draw,) = SMAC().draw(Problem(MIXED), history, [16])
    assert MIXED.validate(draw.params) == draw.params


def test_it_finds_more_than_random_search_on_cliffs_and_names() -> None:
    def loss(p: Mapping[str, Any]) -> float:
        cliff = 1.0 if p["d"] > 0.6 or p["b"] < 8 else 0.0
        return {"p": 0.2, "q": 0.5, "r": 0.0}[p["a"]] + cliff + abs(p["d"] - 0.5) + abs(math.log10(p["c"]) - 2) / 3

    best: dict[str, list[float]] = {"smac": [], "random": []}
    for name, found in best.items():
        for seed in range(4):
            optimizer = Optimizer(MIXED, {name: {}}, seed=seed)
            for _ in range(60):
                trial = optimizer.ask()
                assert trial is not None
                optimizer.tell(trial.number, loss(trial.params))
            assert optimizer.best is not None
            found.append(optimizer.best.loss)
    assert statistics.mean(best["smac"]) < statistics.mean(best["random"]) / 2
