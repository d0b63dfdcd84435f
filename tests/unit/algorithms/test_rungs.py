"""Budgets as a geometric series, and the order in which Trials rise."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
from hpo_algorithms import State, Trial
from hpo_algorithms.schedules.rungs import fit_to_rise, rungs
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.algorithms.histories import done, failed


@pytest.mark.parametrize(
    ("low", "high", "eta", "expected"),
    [
        (1, 81, 3, (1, 3, 9, 27, 81)),
        (1, 243, 3, (1, 3, 9, 27, 81, 243)),  # log(243) / log(3) is 4.999… in floating point
        (1, 1000, 10, (1, 10, 100, 1000)),  # and log(1000) / log(10) 2.999…
        (3, 81, 3, (3, 9, 27, 81)),
        (1, 100, 3, (1, 4, 11, 33, 100)),
        (1, 52, 3, (2, 6, 17, 52)),  # 1.93, which is not 1
        (1, 5, 2, (1, 3, 5)),
        (2, 27, 3, (3, 9, 27)),
        (4, 9, 3, (9,)),
        (7, 7, 2, (7,)),
        (1, 2**60, 2, tuple(2**i for i in range(61))),
    ],
)
def test_rungs_divide_the_largest_budget(low: int, high: int, eta: int, expected: tuple[int, ...]) -> None:
    assert rungs(low, high, eta) == expected


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(2, 16))
def test_rungs_ascend_from_min_to_max_as_the_integers_next_to_a_geometric_series(low: int, width: int, eta: int) -> None:
    budgets = rungs(low, low + width, eta)
    assert low <= budgets[0]
    assert budgets[-1] == low + width
    assert all(below < above for below, above in pairwise(budgets))
    assert all(abs(budget * eta**s - budgets[-1]) * 2 <= eta**s for s, budget in enumerate(reversed(budgets)))
    assert low * eta ** len(budgets) > budgets[-1]


def test_trials_rise_by_loss_then_by_number_and_those_without_a_result_never() -> None:
    trials = [Trial(i, {}) for i in range(9)]
    history = [
        done(trials[0], 2.0),
        done(trials[1], math.nan),
        done(trials[2], 1.0),
        failed(trials[3]),
        done(trials[4], 1.0),
        dataclasses.replace(done(trials[5], 0.0), state=State.STOPPED),
        done(trials[6], math.inf),
        done(trials[7], -math.inf),
        trials[8],
    ]
    assert [trial.number for trial in fit_to_rise(history)] == [7, 2, 4, 0]


def test_trials_that_break_a_constraint_rise_behind_those_that_keep_it() -> None:
    trials = [Trial(i, {}) for i in range(4)]
    history = [done(trials[0], 0.0, violation=2.0), done(trials[1], 9.0), done(trials[2], 5.0, 1.0), done(trials[3], 0.0, math.nan)]
    assert [trial.number for trial in fit_to_rise(history)] == [1, 2, 0, 3]
