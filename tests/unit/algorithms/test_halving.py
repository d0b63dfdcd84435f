"""Successive halving: rounds of one bracket."""

from __future__ import annotations

import random

import pytest
from hpo_algorithms.schedules.halving import Halving
from hpo_algorithms.schedules.hyperband import Hyperband

from tests.unit.algorithms.histories import Run, budgeted, done, failed


def by_number(trial):  # type: ignore[no-untyped-def]
    return done(trial, float(trial.number))


def finish(run: Run, count: int, ending=by_number) -> None:  # type: ignore[no-untyped-def]
    while not run.schedule.finished(run.problem, run.history):
        started = run.start(count)
        assert started, "nothing is active and nothing proposed: a stall"
        run.end(started, ending)


@pytest.mark.parametrize("count", [1, 5, 1000])
def test_a_round_starts_enough_for_one_to_reach_the_top(count: int) -> None:
    run = Run(Halving(iterations=1), budgeted(1, 27))
    finish(run, count)
    assert run.counts() == {(0, 0): (27, 1), (0, 1): (9, 3), (0, 2): (3, 9), (0, 3): (1, 27)}


def test_another_number_of_configurations_keeps_the_ratio() -> None:
    run = Run(Halving(configurations=20, iterations=1), budgeted(1, 27))
    finish(run, 4)
    assert run.counts() == {(0, 0): (20, 1), (0, 1): (6, 3), (0, 2): (2, 9), (0, 3): (1, 27)}


def test_rounds_follow_each_other() -> None:
    run = Run(Halving(eta=2, iterations=2), budgeted(1, 4))
    finish(run, 3)
    assert run.counts() == {(n, rung): found for n in (0, 1) for rung, found in enumerate([(4, 1), (2, 2), (1, 4)])}


def test_free_places_go_to_the_next_round_while_a_rung_is_waited_for() -> None:
    run = Run(Halving(eta=2), budgeted(1, 4))
    assert [trial.slot.bracket for trial in run.start(6)] == [0, 0, 0, 0, 1, 1]


def test_a_straggler_holds_back_only_what_depends_on_it() -> None:
    run = Run(Halving(iterations=1), budgeted(1, 27))
    run.end(run.start(27)[1:], by_number)
    second = run.start(27)
    assert [(trial.slot.rung, trial.slot.member) for trial in second] == [(1, member) for member in range(1, 9)], "eight of nine"
    run.end(second, by_number)
    third = run.start(27)
    assert [(trial.slot.rung, trial.slot.member) for trial in third] == [(2, 1), (2, 2)], "the ninth may be the best there, too"
    run.end(third, by_number)
    assert run.start(27) == []
    assert not run.schedule.finished(run.problem, run.history)
    run.end(run.history[:1], failed)
    finish(run, 27, by_number)
    assert run.counts() == {(0, 0): (27, 1), (0, 1): (9, 3), (0, 2): (3, 9), (0, 3): (1, 27)}


def test_a_tie_with_a_straggler_is_not_decided_before_it_ends() -> None:
    run = Run(Halving(eta=2, iterations=1), budgeted(1, 2))
    first = run.start(2)
    run.end(first[1:], lambda trial: done(trial, 0.0))
    assert run.start(2) == []
    run.end(first[:1], lambda trial: done(trial, 0.0))
    assert [trial.slot.member for trial in run.start(2)] == [0]


def test_a_round_is_over_when_nothing_runs_any_more() -> None:
    run = Run(Halving(eta=2, configurations=1, iterations=1), budgeted(1, 2))
    run.end(run.start(1), by_number)
    top = run.start(1)
    assert not run.schedule.finished(run.problem, run.history)
    run.end(top, by_number)
    assert run.schedule.finished(run.problem, run.history)


def test_a_round_in_which_all_fail_is_over_and_the_next_begins() -> None:
    run = Run(Halving(eta=2, iterations=2), budgeted(1, 4))
    run.end(run.start(4), failed)
    assert {trial.slot.bracket for trial in run.start(4)} == {1}


def test_it_is_the_first_bracket_of_hyperband() -> None:
    halving, hyperband = Run(Halving(iterations=1), budgeted(1, 81)), Run(Hyperband(iterations=1), budgeted(1, 81))
    finish(halving, 50)
    finish(hyperband, 50)
    assert halving.counts() == {place: found for place, found in hyperband.counts().items() if place[0] == 0}


def test_hyperband_rounds_as_hpbandster_where_it_is_asked_to() -> None:
    run = Run(Hyperband(iterations=1, rounding="hpbandster"), budgeted(1, 81))
    finish(run, 50)
    assert [run.counts()[bracket, 0] for bracket in range(5)] == [(81, 1), (27, 3), (9, 9), (6, 27), (5, 81)]


@pytest.mark.parametrize("schedule", [Halving(), Hyperband()], ids=["halving", "hyperband"])
def test_stragglers_and_failures_never_stall_a_bracket(schedule: Halving | Hyperband) -> None:
    """In virtual time: of the first thirty Trials every fifth takes a hundred times as long, and every seventh fails at once."""
    run, rng = Run(schedule, budgeted(1, 27)), random.Random(0)
    ends: dict[int, float] = {}
    clock = 0.0
    while len(run.history) < 500:
        for trial in run.start(8 - len(ends)):
            slow = trial.number < 30 and trial.number % 5 == 0
            ends[trial.number] = clock + (0.01 if trial.number % 7 == 0 else (trial.budget or 0) * (100 if slow else 1))
        assert len(ends) == 8, "no worker idles"
        number = min(ends, key=ends.__getitem__)
        clock = ends.pop(number)
        run.end([run.history[number]], failed if number % 7 == 0 else lambda trial: done(trial, rng.random()))
    tops = {trial.slot.bracket for trial in run.history if trial.budget == 27}
    assert 0 in tops, "the bracket that waited got to its top all the same"
    assert len(tops) >= 5
