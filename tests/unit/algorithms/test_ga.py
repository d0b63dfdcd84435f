"""GA: who may be a parent, what a child is made of, and how well it searches."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.samplers.ga import GA

MIXED = Space.from_spec(
    [
        {"name": "a", "categorical": {"choices": list("pqrstuvw")}},
        {"name": "b", "ordinal": {"values": [1, 2, 4, 8, 16, 32]}},
        {"name": "c", "int": {"min": 1, "max": 1000, "scale": "Log"}},
        {"name": "d", "float": {"min": 0, "max": 1}},
        {"name": "e", "float": {"min": 0, "max": 1}, "when": [{"parameter": "a", "in": ["p"]}]},
    ]
)
WIDE = Space.from_spec([{"name": f"x{i}", "float": {"min": 0, "max": 1}} for i in range(8)])


def trials(space: Space, count: int, loss: Callable[[Mapping[str, Any]], float], **fields: Any) -> list[Trial]:
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(count)]
    return [Trial(i, p, state=State.DONE, losses=(loss(p),), **fields) for i, p in enumerate(drawn)]


def children(space: Space, history: list[Trial], count: int = 60, **settings: Any) -> list[Mapping[str, Any]]:
    return [GA(**settings).draw(Problem(space, seed=seed), history, [len(history)])[0].params for seed in range(count)]


def parents_of(child: Mapping[str, Any], history: list[Trial]) -> set[int]:
    """The Trials that share a float with a child: a float is never drawn twice."""
    shared = [n for n in child if isinstance(child[n], float)]
    return {trial.number for trial in history if any(trial.params.get(name) == child[name] for name in shared)}


def test_a_child_has_each_value_from_one_of_two_parents_but_for_what_is_changed() -> None:
    history = trials(WIDE, 30, lambda p: p["x0"])
    for child in children(WIDE, history, mutation=0.0, crossover=1.0):
        inherited = sum(any(child[name] == trial.params[name] for trial in history) for name in child)
        assert inherited >= len(child) - 1, "only a child that is like a parent is changed, in one parameter"
        assert len(parents_of(child, history)) in (1, 2)
    alone = children(WIDE, history, mutation=0.0, crossover=0.0)
    assert all(len(parents_of(child, history)) == 1 for child in alone)
    assert all(sum(child[n] != history[min(parents_of(child, history))].params[n] for n in child) == 1 for child in alone)


def test_parents_are_the_best_of_all_that_have_a_result() -> None:
    history = trials(WIDE, 60, lambda p: p["x0"])
    spoiled = min(history, key=lambda trial: trial.loss)
    history[spoiled.number] = dataclasses.replace(spoiled, state=State.FAILED, losses=())
    best = {trial.number for trial in sorted(history, key=lambda trial: trial.loss)[:10]}
    used = set().union(*(parents_of(child, history) for child in children(WIDE, history, population=10, tournament=1)))
    assert used == best


def test_a_larger_tournament_chooses_better_parents() -> None:
    history = trials(WIDE, 20, lambda p: p["x0"])
    mean = [
        statistics.mean(history[n].loss for child in children(WIDE, history, tournament=size) for n in parents_of(child, history))
        for size in (1, 8)
    ]
    assert mean[1] < 0.5 * mean[0]


def test_regularized_evolution_lets_even_the_best_die_of_age() -> None:
    history = trials(WIDE, 30, lambda p: p["x0"])
    history[3] = dataclasses.replace(history[3], losses=(-9.0,))
    young = {trial.number for trial in history[-10:]}
    for child in children(WIDE, history, mode="regularized", population=10):
        assert parents_of(child, history) <= young
    assert any(3 in parents_of(child, history) for child in children(WIDE, history, population=10))


def test_a_change_is_to_any_other_name_and_to_near_numbers() -> None:
    history = trials(MIXED, 2, lambda p: 0.0)
    one = history[0].params
    history = [dataclasses.replace(history[0], number=i) for i in range(2)]
    drawn = children(MIXED, history, 400, population=2, mutation=0.0)
    changed = {name: [child[name] for child in drawn if child[name] != one[name]] for name in "abcd"}
    assert set(changed["a"]) == set("pqrstuvw") - {one["a"]}
    assert all(changed.values())
    steps = [abs(MIXED["d"].encode(value) - MIXED["d"].encode(one["d"])) for value in changed["d"]]
    assert statistics.median(steps) < 0.1
    assert max(steps) > 0.2


def test_children_of_parents_with_other_parameters_have_those_that_are_active_in_them() -> None:
    history = trials(MIXED, 40, lambda p: p["d"])
    drawn = children(MIXED, history, 200, mutation=0.3)
    for child in drawn:
        assert MIXED.validate(child) == child
    assert {"e" in child for child in drawn} == {True, False}


def generation(trial: Trial) -> int:
    return int(trial.memo.split()[1])


def test_a_generation_is_complete_with_so_many_results_and_is_overfilled_until_then() -> None:
    optimizer = Optimizer(WIDE, {"ga": {"mode": "generational", "population": 6}})
    asked = optimizer.ask(9)
    assert [generation(trial) for trial in asked] == [0] * 9
    for trial in asked[:5]:
        optimizer.tell(trial.number, trial.params["x0"])
    assert [generation(trial) for trial in optimizer.ask(2)] == [0, 0]
    optimizer.tell(8, state="failed")
    assert [generation(trial) for trial in optimizer.ask(4)] == [1] * 4


def test_stragglers_that_never_end_hold_no_generation_up() -> None:
    """Half of the workers hang for ever; the others fill their places with more children."""
    optimizer = Optimizer(WIDE, {"ga": {"mode": "generational", "population": 6}})
    optimizer.ask(3)
    for _ in range(30):
        for trial in optimizer.ask(3):
            optimizer.tell(trial.number, trial.params["x0"])
    assert generation(optimizer.ask(1)[0]) == 90 // 6


def test_only_the_elite_outlives_its_generation() -> None:
    history = trials(WIDE, 10, lambda p: p["x0"], memo="generation 0")
    later = trials(WIDE, 20, lambda p: 5 + p["x0"], memo="generation 1")[10:]
    history += later
    elite = min(history, key=lambda trial: trial.loss).number
    allowed = {trial.number for trial in later} | {elite}
    drawn = children(WIDE, history, mode="generational", population=10)
    used = set().union(*(parents_of(child, history) for child in drawn))
    assert used <= allowed
    assert elite in used
    without = children(WIDE, history, mode="generational", population=10, elitism=0)
    assert not any(elite in parents_of(child, history) for child in without)


def test_generations_go_on_where_trials_have_been_deleted() -> None:
    history = trials(WIDE, 30, lambda p: p["x0"])
    history = [dataclasses.replace(trial, memo=f"generation {trial.number // 10}") for trial in history]
    left = history[:3] + history[27:]
    (draw,) = GA(mode="generational", population=10).draw(Problem(WIDE), left, [30])
    assert draw.memo == "generation 2"


def test_a_configuration_that_was_trained_further_counts_once_and_by_its_last_result() -> None:
    low = trials(WIDE, 20, lambda p: p["x0"], budget=1)
    high = [Trial(20 + i, low[i].params, 9, state=State.DONE, losses=(3.0 + i,)) for i in range(4)]
    used = set().union(*(parents_of(child, low) for child in children(WIDE, low + high, population=4, tournament=1)))
    assert used == {0, 1, 2, 3}


@pytest.mark.parametrize("mode", ["steadyState", "generational", "regularized"])
@pytest.mark.parametrize("workers", [1, 8])
def test_each_mode_comes_closer_than_random_search(mode: str, workers: int) -> None:
    def best(algorithm: dict[str, Any], seed: int) -> float:
        optimizer = Optimizer(MIXED, algorithm, seed=seed)
        while len(optimizer.history) < 240:
            for trial in optimizer.ask(workers)[::-1]:
                p = trial.params
                off = (p["a"] != "q") + abs(math.log2(p["b"]) - 3) / 5 + abs(math.log10(p["c"]) - 1.5) + abs(p["d"] - 0.7)
                optimizer.tell(trial.number, off)
        assert optimizer.best is not None
        return optimizer.best.loss

    losses = {
        name: statistics.mean(best({name: s}, seed) for seed in range(4)) for name, s in (("ga", {"mode": mode}), ("random", {}))
    }
    assert losses["ga"] < losses["random"] / 3
