"""NSGA-II: who may be a parent, what a child is made of, and how well it covers a front."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.ranking import nondomination
from hpo_algorithms.samplers.nsga2 import NSGA2, crossed

from benchmarks.pareto import PROBLEMS, volume

MIXED = Space.from_spec(
    [
        {"name": "a", "categorical": {"choices": list("pqrs")}},
        {"name": "b", "ordinal": {"values": [1, 2, 4, 8, 16, 32]}},
        {"name": "c", "int": {"min": 1, "max": 1000, "scale": "Log"}},
        {"name": "d", "float": {"min": 0, "max": 1}},
        {"name": "e", "float": {"min": 0, "max": 1}, "when": [{"parameter": "a", "in": ["p"]}]},
    ]
)
CUBE = Space.from_spec([{"name": f"x{i}", "float": {"min": 0, "max": 1}} for i in range(6)])


def searched(algorithm: dict[str, Any], seed: int, evaluations: int = 400, workers: int = 1) -> float:
    optimizer = Optimizer(CUBE, algorithm, seed=seed, objectives=2)
    while len(optimizer.history) < evaluations:
        for trial in optimizer.ask(workers)[::-1]:
            optimizer.tell(trial.number, PROBLEMS["zdt1"]([*trial.params.values()]))
    return volume([trial.losses for trial in optimizer.history])  # type: ignore[misc]


def trials(space: Space, count: int, **fields: Any) -> list[Trial]:
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(count)]
    return [Trial(i, p, state=State.DONE, losses=(p["d"], 1 - p["d"]), **fields) for i, p in enumerate(drawn)]


def test_a_crossed_number_is_around_its_parents_and_mostly_near_the_nearer_one() -> None:
    rng = np.random.default_rng(0)
    found = np.array([crossed(rng, MIXED["d"], 0.4, 0.6) for _ in range(2000)], dtype=float)
    assert abs(found - 0.4).mean() < 0.02
    assert found.min() < 0.38
    assert found.max() > 0.42
    assert crossed(rng, MIXED["d"], 0.4, 0.4) == 0.4
    edge = [crossed(rng, MIXED["d"], 0.0, 1.0) for _ in range(200)]
    assert all(0 <= value <= 1 for value in edge)


def test_children_of_parents_with_other_parameters_have_those_that_are_active_in_them() -> None:
    history = trials(MIXED, 40)
    drawn = [NSGA2(mutation=0.3).draw(Problem(MIXED, 2, seed=seed), history, [40])[0].params for seed in range(200)]
    assert all(MIXED.validate(child) == child for child in drawn)
    assert {"e" in child for child in drawn} == {True, False}


def test_members_are_the_first_fronts_and_of_the_last_one_what_is_far_from_others() -> None:
    front = [(i / 20, 1 - i / 20) for i in range(21)]
    crowded = [(0.5 + i / 1e4, 0.5 - i / 1e4) for i in range(1, 10)]
    behind = [(2.0, 2.0)] * 10
    history = [Trial(i, {"d": 0.5}, state=State.DONE, losses=losses) for i, losses in enumerate([*crowded, *behind, *front])]
    line = Space.from_spec([{"name": "d", "float": {"min": 0, "max": 1}}])
    _, members = NSGA2(population=20)._members(Problem(line, 2), history)
    chosen = {trial.losses for trial in members}
    assert len(chosen & set(crowded)) <= 1
    assert {(0.0, 1.0), (1.0, 0.0)} <= chosen
    assert not chosen & set(behind)


def test_a_population_larger_than_a_model_would_look_at_is_ranked_whole() -> None:
    Y = np.array([(i % 10 / 10 + i // 10, 1 - i % 10 / 10 + i // 10) for i in range(200)], dtype=float)
    assert len(set(np.floor(nondomination(Y, 200)).tolist())) == 20
    assert len(set(np.floor(nondomination(Y)).tolist())) < 10


def test_fronts_of_two_objectives_are_those_of_the_definition() -> None:
    Y = np.random.default_rng(0).integers(0, 12, size=(120, 2)).astype(float)  # with equal rows, and rows equal in one
    first = np.floor(nondomination(Y, 120)) == 0
    assert first.tolist() == [not ((y >= Y).all(1) & (y > Y).any(1)).any() for y in Y]


def test_failed_trials_and_those_that_break_constraints_are_no_parents() -> None:
    history = trials(MIXED, 30)
    history[3] = dataclasses.replace(history[3], losses=(-1.0, -1.0), violation=1.0)
    history[4] = dataclasses.replace(history[4], state=State.FAILED, losses=())
    _, members = NSGA2(population=30)._members(Problem(MIXED, 2), history)
    assert {trial.number for trial in members} == set(range(30)) - {3, 4}


def test_a_generation_is_complete_with_so_many_results_and_is_overfilled_until_then() -> None:
    optimizer = Optimizer(CUBE, {"nsga2": {"mode": "generational", "population": 6}}, objectives=2)
    asked = optimizer.ask(9)
    assert {trial.memo for trial in asked} == {"generation 0"}
    for trial in asked[:5]:
        optimizer.tell(trial.number, PROBLEMS["zdt1"]([*trial.params.values()]))
    assert {trial.memo for trial in optimizer.ask(2)} == {"generation 0"}
    optimizer.tell(8, state="failed")
    assert {trial.memo for trial in optimizer.ask(4)} == {"generation 1"}


@pytest.mark.parametrize("mode", ["steadyState", "generational"])
@pytest.mark.parametrize("workers", [1, 8])
def test_it_comes_close_to_the_front_of_zdt1_where_random_search_does_not(mode: str, workers: int) -> None:
    """The whole front dominates 0.8767 of 1.21."""
    found = statistics.mean(searched({"nsga2": {"mode": mode}}, seed, workers=workers) for seed in range(2))
    blind = statistics.mean(searched({"random": {}}, seed) for seed in range(2))
    assert blind < 0.1
    assert found > 0.5
