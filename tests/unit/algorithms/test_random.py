"""Random search: independent uniform draws that belong to their Trials' numbers."""

from __future__ import annotations

import numpy as np
from hpo_algorithms import Optimizer, Problem, Trial
from hpo_algorithms.samplers.random import Random
from scipy import stats

from tests.unit.algorithms.spaces import CONTINUOUS, FINITE, MIXED, read

GOLDEN = [
    {"x": -1.959815547887, "lr": 0.00420683309925},
    {"x": 9.187144524461, "lr": 0.0351281417435},
    {"x": 3.501258416369, "lr": 0.00367135187881},
]


def test_the_first_draws_of_a_seed_never_change() -> None:
    """Golden values: a change here would make running Studies repeat themselves or jump."""
    found = [dict(trial.params) for trial in Optimizer(read(CONTINUOUS), {"random": {}}, seed=7).ask(3)]
    assert found == GOLDEN


def test_a_draw_belongs_to_its_number_whatever_else_is_asked_or_known() -> None:
    problem = Problem(read(MIXED), seed=4)
    alone = Random().draw(problem, [], [17])
    assert Random().draw(problem, [Trial(0, alone[0].params)], [16, 17, 18])[1] == alone[0]


def test_draws_are_independent_between_trials_and_between_parameters() -> None:
    trials = Optimizer(read(CONTINUOUS), {"random": {}}, seed=0).ask(3000)
    U = np.array([read(CONTINUOUS).encode(trial.params) for trial in trials])
    for column in U.T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(U.T)[0, 1]) < 0.05


def test_sixty_draws_hit_the_best_twentieth_as_often_as_they_should() -> None:
    space = read([{"name": "x", "float": {"min": 0, "max": 1}}])
    hits = sum(
        any(draw.params["x"] < 0.05 for draw in Random().draw(Problem(space, seed=seed), [], range(60)))  # type: ignore[operator]
        for seed in range(300)
    )
    assert stats.binomtest(hits, 300, 1 - 0.95**60).pvalue > 0.01


def test_a_finite_space_is_drawn_without_repetition() -> None:
    space = read(FINITE)
    draws = Random().draw(Problem(space), [], range(30))
    assert len(draws) == len({space.key(draw.params) for draw in draws}) == 20
