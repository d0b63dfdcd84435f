"""CMA-ES: what it is told and when, that a replay is exact, and how well it searches."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.samplers import cmaes
from hpo_algorithms.samplers.cmaes import CMAES
from hpo_algorithms.samplers.population import unpacked

PLANE = Space.from_spec([{"name": name, "float": {"min": -1, "max": 1}} for name in "xyz"])
MIXED = Space.from_spec(
    [
        {"name": "a", "categorical": {"choices": list("pqrstuvw")}},
        {"name": "b", "ordinal": {"values": [1, 2, 4, 8, 16, 32]}},
        {"name": "c", "int": {"min": 1, "max": 1000, "scale": "Log"}},
        {"name": "d", "float": {"min": 0, "max": 1}},
        {"name": "e", "float": {"min": 0, "max": 1}, "when": [{"parameter": "a", "in": ["p"]}]},
    ]
)

Loss = Callable[[Mapping[str, Any]], float]


def bent(p: Mapping[str, Any]) -> float:
    """A valley a hundred times as long as it is wide, across the axes."""
    return float((p["x"] + p["y"] - 0.5) ** 2 * 1e4 + (p["x"] - p["y"] - 0.2) ** 2 + (p["z"] + 0.3) ** 2)


def mixed(p: Mapping[str, Any]) -> float:
    return (p["a"] != "q") + abs(math.log2(p["b"]) - 3) / 5 + abs(math.log10(p["c"]) - 1.5) + abs(p["d"] - 0.7)


def run(
    space: Space, loss: Loss, trials: int, seed: int = 0, workers: int = 1, algorithm: str = "cmaes", **settings: Any
) -> Optimizer:
    optimizer = Optimizer(space, {algorithm: settings}, seed=seed)
    while len(optimizer.history) < trials:
        for trial in optimizer.ask(workers)[::-1]:
            optimizer.tell(trial.number, loss(trial.params))
    return optimizer


def label(trial: Trial) -> tuple[int, int] | None:
    words = trial.memo.split(" ")
    return (int(words[1]), int(words[2])) if words[0] == "cmaes" else None


@pytest.mark.parametrize("workers", [1, 8])
def test_it_follows_a_narrow_valley_across_the_axes(workers: int) -> None:
    best = [run(PLANE, bent, 400, seed, workers).best for seed in range(4)]
    assert statistics.median(trial.loss for trial in best if trial is not None) < (1e-4 if workers == 1 else 1e-2)


def test_it_comes_closer_than_random_search_on_a_mixed_space() -> None:
    mean = {
        name: statistics.mean(trial.loss for seed in range(4) if (trial := run(MIXED, mixed, 240, seed, algorithm=name).best))
        for name in ("cmaes", "random")
    }
    assert mean["cmaes"] < mean["random"] / 3


def test_the_first_trials_look_for_a_place_to_start_from() -> None:
    history = list(run(PLANE, bent, 30, startupTrials=12).history)
    assert [label(trial) is None for trial in history[:13]] == [True] * 12 + [False]
    best = min(history[:12], key=lambda trial: trial.loss)
    start = unpacked(history[12].memo.split(" ")[4])
    np.testing.assert_allclose(start, PLANE.encode(best.params), atol=1e-6)


def test_a_first_trial_that_ends_late_can_still_become_the_place_to_start_from() -> None:
    optimizer = Optimizer(PLANE, {"cmaes": {"startupTrials": 4, "population": 5}})
    *first, early = optimizer.ask(5)
    assert label(early) == (0, 0)
    for trial in first:
        optimizer.tell(trial.number, bent(trial.params))
    start = unpacked(optimizer.ask(1)[0].memo.split(" ")[4])
    np.testing.assert_allclose(start, PLANE.encode(min(first, key=lambda trial: bent(trial.params)).params), atol=1e-6)


def test_a_generation_is_complete_with_so_many_results_and_no_place_stays_empty_until_then() -> None:
    optimizer = Optimizer(PLANE, {"cmaes": {"startupTrials": 0, "population": 5}})
    asked = optimizer.ask(8)
    assert {label(trial) for trial in asked} == {(0, 0)}
    for trial in asked[4:]:
        optimizer.tell(trial.number, bent(trial.params))
    assert label(optimizer.ask(1)[0]) == (0, 0)
    optimizer.tell(0, state="failed")
    assert label(optimizer.ask(1)[0]) == (0, 1)


def test_a_generation_is_the_next_that_have_ended_and_what_failed_is_its_worst() -> None:
    first = Optimizer(PLANE, {"cmaes": {"startupTrials": 0, "population": 4}}).ask(6)
    losses = [0.1, 0.2, 0.3, 0.4, 0.8, 0.9]

    def then(history: list[Trial]) -> str:
        return CMAES(startup_trials=0, population=4).draw(Problem(PLANE), history, [6])[0].memo

    def told(values: list[float]) -> list[Trial]:
        return [dataclasses.replace(t, state=State.DONE, losses=(y,)) for t, y in zip(first, values, strict=True)]

    assert then(told(losses)) == then(told([0.1, 0.2, 0.3, 0.4, 0.9, 0.8])), "two of the next are not a generation"
    assert then(told(losses)) != then(told([0.1, 0.3, 0.2, 0.4, 0.8, 0.9]))
    crashed = told(losses)
    crashed[3] = dataclasses.replace(crashed[3], state=State.FAILED, losses=())
    assert then(told(losses)) == then(crashed)
    late = told(losses)
    late[2] = first[2]
    assert then(late) == then(late[:2] + late[3:]), "nothing waits for a straggler"


def test_a_proposal_does_not_depend_on_what_was_replayed_before() -> None:
    history = list(run(MIXED, mixed, 150, seed=3).history)
    sampler, problem = CMAES(), Problem(MIXED, seed=3)
    kept = sampler.draw(problem, history, [150, 151])
    cmaes._CACHE.clear()
    assert sampler.draw(problem, history, [150, 151]) == kept
    cmaes._CACHE.clear()
    for end in range(60, 151, 7):
        sampler.draw(problem, history[:end], [end])
    assert sampler.draw(problem, history, [150, 151]) == kept


def test_a_search_without_a_slope_starts_again_elsewhere_with_twice_the_population() -> None:
    history = run(PLANE, lambda p: 1.0, 60, population=5, startupTrials=5).history
    labels = [label(trial) for trial in history]
    assert labels == [None] * 5 + [(0, 0)] * 5 + [(1, 0)] * 10 + [(2, 0)] * 20 + [(3, 0)] * 20
    starts = [unpacked(history[i].memo.split(" ")[4]) for i in (5, 10, 20)]
    assert min(np.abs(a - b).max() for a, b in ((starts[0], starts[1]), (starts[1], starts[2]))) > 0.05
    stubborn = run(PLANE, lambda p: 1.0, 60, population=5, startupTrials=5, restarts=False).history
    assert label(stubborn[-1]) == (0, 10)


def test_a_converged_search_starts_again() -> None:
    history = run(PLANE, lambda p: sum(value**2 for value in p.values()), 700, population=6).history
    assert {found[0] for trial in history if (found := label(trial))} >= {0, 1}


def test_a_search_goes_on_with_what_is_left_where_trials_have_been_deleted() -> None:
    history = list(run(PLANE, bent, 200).history)
    whole = np.array([CMAES().draw(Problem(PLANE, seed=s), history, [200])[0].params["x"] for s in range(20)])
    for left in (history[:20] + history[40:], history[:100] + history[101::2], history[-100:]):
        (draw,) = CMAES().draw(Problem(PLANE), left, [200])
        assert draw.memo.split(" ")[1] == history[-1].memo.split(" ")[1]
        drawn = np.array([CMAES().draw(Problem(PLANE, seed=s), left, [200])[0].params["x"] for s in range(20)])
        assert abs(np.median(drawn) - np.median(whole)) < 0.3


def test_steps_keep_a_chance_to_change_when_the_distribution_is_narrow() -> None:
    space = Space.from_spec([{"name": "n", "int": {"min": 1, "max": 9}}, {"name": "x", "float": {"min": -1, "max": 1}}])
    history = run(space, lambda p: p["x"] ** 2 + (p["n"] - 5) ** 2, 260, population=6, restarts=False).history
    late = [trial.params["n"] for trial in history[-80:]]
    assert {4, 5, 6} <= set(late)
    assert late.count(5) > 40


def test_a_name_that_lost_keeps_a_chance() -> None:
    history = run(MIXED, mixed, 300, restarts=False).history
    late = [trial.params["a"] for trial in history[-120:]]
    assert late.count("q") > 60
    assert len(set(late)) > 3


def test_a_hundred_parameters_fit_into_a_memo() -> None:
    wide = Space.from_spec([{"name": f"parameter-{i}", "float": {"min": 0, "max": 1}} for i in range(100)])
    (draw,) = CMAES(startup_trials=0).draw(Problem(wide), [], [0])
    assert len(draw.memo.split(" ")) == 5
    assert len(draw.memo) + 20 <= 2048
