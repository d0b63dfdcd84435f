"""Each synthetic task has its optimum where the literature has it, or, for a function of ours, where a search found it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import Space

from benchmarks.synthetic import synthetic_tasks

TASKS = synthetic_tasks()
HARTMANN6 = [0.20168950909, 0.15001069354, 0.47687397292, 0.27533242752, 0.31165161724, 0.65730053455]


def cube(x: list[float]) -> dict[str, Any]:
    return {f"x{i}": value for i, value in enumerate(x, 1)}


def ones(each: int) -> dict[str, Any]:
    return {f"c{i}": "1" for i in range(each)} | {f"x{i}": 1.0 for i in range(each)}


MIXED8 = {"opt": "adam", "lr": 10**-2.18766155, "batch": 64, "layers": 4, "act": "b", "dropout": 0.06130296, "eps": 1e-7}
OPTIMA = {
    "branin": [cube([-math.pi, 12.275]), cube([math.pi, 2.275]), cube([3 * math.pi, 2.475])],
    "hartmann6": [cube(HARTMANN6)],
    "hartmann6_mf": [cube(HARTMANN6)],
    "mixed8": [MIXED8],
    "ackley5": [cube([0.0] * 5)],
    "ackley20": [cube([0.0] * 20)],
    "levy8": [cube([1.0] * 8)],
    "levy30": [cube([1.0] * 30)],
    "rastrigin2": [cube([0.0] * 2)],
    "schwefel1": [cube([420.968746359982])],
    "schwefel2": [cube([420.968746359982] * 2)],
    "counting8": [ones(4)],
    "counting8_mf": [ones(4)],
    "counting16_mf": [ones(8)],
}


def test_every_synthetic_task_has_a_known_optimum() -> None:
    assert OPTIMA.keys() == TASKS.keys()


@pytest.mark.parametrize("name", TASKS)
def test_regret_is_nought_at_the_optimum_and_positive_around_it_and_elsewhere(name: str) -> None:
    task, space, rng = TASKS[name], Space.from_spec(TASKS[name].spec), np.random.default_rng(0)
    for optimum in OPTIMA[name]:
        assert space.validate(optimum) == optimum
        assert task.regret(task.loss(optimum)) == pytest.approx(0, abs=1e-9)
        point = np.nan_to_num(space.encode(optimum), nan=0.5)
        for j, parameter in enumerate(space.names):
            for step in (-0.4, -0.05, -0.01, 0.01, 0.05, 0.4):
                beside = space.decode(np.clip(point + step * (np.arange(len(space)) == j), 0, 1))
                if beside.get(parameter) != optimum.get(parameter):  # a step too short for a name, or of what is not active
                    assert task.regret(task.loss(beside)) > 0
    for _ in range(500):
        assert task.regret(task.loss(space.sample(rng))) > 0


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith("counting") or name == "counting8"])
def test_half_of_all_configurations_have_a_regret_above_one(name: str) -> None:
    """The counting tasks with budgets are not normalised so: their regret is the share of ones that are missing."""
    task, space, rng = TASKS[name], Space.from_spec(TASKS[name].spec), np.random.default_rng(1)
    regrets = [task.regret(task.loss(space.sample(rng))) for _ in range(2000)]
    assert np.median(regrets) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.budgets])
def test_the_whole_budget_shows_the_loss_itself_but_for_noise(name: str) -> None:
    task, (optimum,) = TASKS[name], OPTIMA[name]
    assert task.budgets is not None and task.partial is not None
    low, high = task.budgets
    assert task.partial(optimum, high, 0) == pytest.approx(task.loss(optimum))
    drawn = Space.from_spec(task.spec).sample(np.random.default_rng(2))
    assert task.partial(drawn, high, 0) == pytest.approx(task.loss(drawn), abs=0.05)
    assert task.partial(drawn, low, 0) != task.partial(drawn, high, 0)
