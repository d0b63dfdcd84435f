"""The order in which samplers with a model see a history."""

from __future__ import annotations

import numpy as np
import pytest
from hpo_algorithms import Problem, Space, State, Trial
from hpo_algorithms.ranking import nondomination, ranked

LINE = Space.from_spec([{"name": "x", "float": {"min": 0, "max": 1}}])


def test_behind_the_results_at_one_budget_stands_the_worse_half_of_the_others_that_were_not_trained_on() -> None:
    def at(number: int, x: float, budget: int, loss: float) -> Trial:
        return Trial(number, {"x": x}, budget, state=State.DONE, losses=(loss,))

    low = [at(number, number / 10, 1, float(number)) for number in range(6)]
    high = [at(6, 0.0, 9, 3.0), at(7, 0.4, 9, 2.0), Trial(8, {"x": 0.9}, 9, state=State.FAILED)]
    found = ranked(Problem(LINE, min_budget=1, max_budget=9), [*low, *high], least=2)
    assert [trial.number for trial in found.trials] == [7, 6, 3, 5, 8]
    assert (found.usable, found.told) == (2, 2)


@pytest.mark.parametrize("objectives", [1, 2, 3, 5])
def test_the_first_front_is_what_no_other_dominates_and_equals_stand_in_it_together(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for n in (1, 7, 60):
        Y = rng.integers(0, 4, (n, objectives)).astype(float)
        dominated = [bool(((y >= Y).all(axis=1) & (y > Y).any(axis=1)).any()) for y in Y]
        assert (nondomination(Y) >= 1).tolist() == dominated


def test_a_front_of_all_trials_of_a_long_study_with_several_objectives_is_ranked() -> None:
    """Each was compared with all others by copying them, which took minutes."""
    Y = np.random.default_rng(0).random((20_000, 3))
    Y /= Y.sum(axis=1, keepdims=True)
    assert (nondomination(Y) < 1).all()
