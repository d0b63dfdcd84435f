"""Hyperband: the brackets of Li et al. 2018, and what becomes of them when Trials fail, lag behind or run out."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from hpo_algorithms import InvalidSettings, Optimizer, State, Trial
from hpo_algorithms.schedules.hyperband import Hyperband
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.algorithms.histories import SPACE, Run, budgeted, done, failed, on
from tests.unit.work import assert_linear, lines

# (bracket, rung) -> (Trials, budget): table 1 of the paper, whose configurations are ceil((s_max + 1) eta^s / (s + 1))
PAPER = {
    (0, 0): (81, 1), (0, 1): (27, 3), (0, 2): (9, 9), (0, 3): (3, 27), (0, 4): (1, 81),
    (1, 0): (34, 3), (1, 1): (11, 9), (1, 2): (3, 27), (1, 3): (1, 81),
    (2, 0): (15, 9), (2, 1): (5, 27), (2, 2): (1, 81),
    (3, 0): (8, 27), (3, 1): (2, 81),
    (4, 0): (5, 81),
}  # fmt: skip


def by_number(trial):  # type: ignore[no-untyped-def]
    return done(trial, float(trial.number))


def finish(run: Run, count: int = 8, ending=by_number, limit: int = 3000) -> None:  # type: ignore[no-untyped-def]
    """Ask for `count` at a time and end all at once, until the schedule is finished."""
    while not run.schedule.finished(run.problem, run.history):
        started = run.start(count)
        assert started, "nothing is active and nothing proposed: a stall"
        run.end(started, ending)
        assert len(run.history) < limit


@pytest.mark.parametrize("count", [1, 8, 1000])
def test_one_pass_is_the_table_of_the_paper(count: int) -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 81))
    finish(run, count)
    assert run.counts() == PAPER


def test_passes_repeat_the_brackets_under_new_numbers() -> None:
    run = Run(Hyperband(iterations=2), budgeted(1, 81))
    finish(run, 50)
    assert run.counts() == PAPER | {(bracket + 5, rung): found for (bracket, rung), found in PAPER.items()}


@pytest.mark.parametrize(
    ("low", "high", "eta", "starts"),
    [
        (1, 27, 3, [(27, 1), (12, 3), (6, 9), (4, 27)]),
        (1, 16, 2, [(16, 1), (10, 2), (7, 4), (5, 8), (5, 16)]),
        (1, 16, 4, [(16, 1), (6, 4), (3, 16)]),
        (3, 100, 3, [(27, 4), (12, 11), (6, 33), (4, 100)]),
        (5, 9, 3, [(1, 9)]),
    ],
)
def test_other_budgets_and_ratios(low: int, high: int, eta: int, starts: list[tuple[int, int]]) -> None:
    run = Run(Hyperband(eta=eta, iterations=1), budgeted(low, high))
    finish(run)
    counts = run.counts()
    assert [counts[bracket, 0] for bracket in range(len(starts))] == starts
    assert all(budget == high for (bracket, rung), (_, budget) in counts.items() if (bracket, rung + 1) not in counts)


def test_members_keep_their_number_from_rung_to_rung_and_the_best_rise() -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 9))
    finish(run)
    assert [trial.slot.member for trial in on(run.history, 0, 0)] == list(range(9))
    assert [trial.slot.member for trial in on(run.history, 1, 0)] == [0, 1, 2]
    assert [trial.slot.member for trial in on(run.history, 2, 0)] == [0]
    risen = on(run.history, 1, 0)[2]
    assert run.history[risen.donor].slot.member == 2  # type: ignore[index]
    assert run.history[risen.donor].budget == 1  # type: ignore[index]


def test_who_is_sure_to_rise_does_so_at_once_and_the_next_bracket_starts_meanwhile() -> None:
    run = Run(Hyperband(), budgeted(1, 9))
    first = run.start(9)
    run.end(first[:8], by_number)
    places = [(trial.slot.bracket, trial.slot.rung, trial.slot.member) for trial in run.start(4)]
    assert places == [(0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1)], "two of three, for the last may be better than the third"
    run.end(first[8:], by_number)
    places = [(trial.slot.bracket, trial.slot.rung, trial.slot.member) for trial in run.start(3)]
    assert places == [(0, 1, 2), (1, 0, 2), (1, 0, 3)]


def test_places_are_counted_across_calls_so_that_a_rung_half_created_is_filled_and_no_more() -> None:
    run = Run(Hyperband(), budgeted(1, 9))
    run.end(run.start(9), by_number)
    risen = [trial for _ in range(3) for trial in run.start(1)]
    assert [trial.slot.member for trial in risen] == [0, 1, 2]
    assert run.start(1)[0].slot.bracket == 1


def test_a_promotion_stands_even_if_the_ranking_would_come_out_differently_now() -> None:
    run = Run(Hyperband(), budgeted(1, 9))
    run.end(run.start(9), by_number)
    assert [trial.slot.member for trial in run.start(3)] == [0, 1, 2]
    for trial in on(run.history, 0, 0):  # as if the results had been read differently
        run.history[trial.number] = done(trial, -float(trial.number))
    assert run.start(1)[0].slot.bracket == 1
    run.end(on(run.history, 1, 0), by_number)
    assert (run.start(1)[0].slot.rung, run.counts()[0, 1][0]) == (2, 3)


def test_failed_trials_never_rise_and_never_stall() -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 9))
    first = run.start(9)
    run.end(first[:7], failed)
    run.end(first[7:], by_number)
    assert [trial.slot.member for trial in run.start(3)] == [7, 8, 0], (
        "two survivors rise, the third place goes to the next bracket"
    )
    assert run.history[-1].slot.bracket == 1


def test_a_bracket_all_of_whose_trials_failed_is_over() -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 9))
    finish(run, ending=failed)
    assert run.counts() == {(0, 0): (9, 1), (1, 0): (5, 3), (2, 0): (3, 9)}
    assert run.start(4) == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_trials_without_a_finite_loss_never_rise(loss: float) -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 9))
    finish(run, ending=lambda trial: done(trial, loss))
    assert {rung for _, rung in run.counts()} == {0}


def test_a_space_that_runs_out_closes_the_rung_with_what_there_is_and_halves_on() -> None:
    run = Run(Hyperband(), budgeted(1, 81))
    run.end(run.start(20), by_number)
    assert len(run.start(50, exhausted=True)) == 6
    run.end(run.history[20:], by_number)
    assert run.start(1)[0].slot.rung == 2, "a rung that has risen is closed, though it has free places"
    run.end(run.history[-1:], by_number)
    while rising := run.start(1, exhausted=True):
        run.end(rising, by_number)
    assert [len(on(run.history, rung, 0)) for rung in range(5)] == [20, 6, 2, 1, 1]


def test_a_space_that_runs_out_waits_for_the_trials_that_run() -> None:
    run = Run(Hyperband(), budgeted(1, 9))
    first = run.start(4)
    run.end(first[:3], by_number)
    assert run.start(5, exhausted=True) == []
    run.end(first[3:], by_number)
    assert [trial.slot.member for trial in run.start(5, exhausted=True)] == [0]


def test_a_place_that_was_freed_is_filled_again() -> None:
    run = Run(Hyperband(), budgeted(1, 9))
    run.end(run.start(9), by_number)
    run.start(3)
    run.history[10] = Trial(10, {"x": 0.5}, state=State.FAILED)  # canceled: it has lost its slot
    assert (run.start(1)[0].slot.rung, run.history[-1].slot.member) == (1, 1)


def test_a_rung_that_was_complete_takes_no_more_when_a_trial_is_deleted() -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 9))
    run.end(run.start(9), by_number)
    run.end(run.start(3), by_number)
    run.end(run.start(1), by_number)
    run.history[10] = Trial(10, {"x": 0.5}, state=State.FAILED)  # its slot is free
    assert {trial.slot.bracket for trial in run.start(5)} == {1}


def test_trials_placed_by_others_are_passed_over() -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 81))
    for state in (State.DONE, State.FAILED, State.ACTIVE):
        run.stray(state)
    while not run.schedule.finished(run.problem, run.history):
        run.end(run.start(10), by_number)
        run.stray()
    counts = run.counts()
    del counts[None, None]
    assert counts == PAPER


def test_checkpoints_are_kept_while_their_trial_may_rise_and_no_longer() -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 9))
    first = run.start(9)
    run.end(first[:8], by_number)
    kept = {0, 1, 2, 3, 4, 5}
    assert run.schedule.donors(run.problem, run.history) == kept, (
        "any of the best three, should the ninth fail, and a spare for each"
    )
    run.end(first[8:], by_number)
    assert run.schedule.donors(run.problem, run.history) == kept, "three more, lest the best cannot start from theirs"
    run.start(1)
    assert run.schedule.donors(run.problem, run.history) == {1, 2, 3, 4, 5}
    second = [run.history[-1], *run.start(2)]
    assert run.schedule.donors(run.problem, run.history) == {3, 4, 5}
    run.end(second, by_number)
    assert run.schedule.donors(run.problem, run.history) == {second[0].number, second[1].number}
    finish(run)
    assert run.schedule.donors(run.problem, run.history) == set()


def test_the_next_best_rises_in_place_of_one_whose_checkpoint_is_lost() -> None:
    run = Run(Hyperband(iterations=1), budgeted(1, 9))
    run.end(run.start(9), by_number)
    risen = run.start(3)
    run.history = [dataclasses.replace(each, restorable=False, lost=True) if each.number == 1 else each for each in run.history]
    run.history.remove(risen[1])  # as its place is free again
    again = run.schedule.places(run.problem, run.history, 2, exhausted=False)
    assert (again[0].source, again[0].slot.rung) == (3, 1)
    assert again[1].slot.rung == 0, "and nobody else"


def test_it_is_refused_without_a_budget_and_with_several_objectives() -> None:
    with pytest.raises(InvalidSettings, match=r"schedule\.hyperband: needs a budget, for it decides .* Add budget"):
        Optimizer(SPACE, {"random": {}}, {"hyperband": {}})
    with pytest.raises(InvalidSettings, match=r"schedule\.hyperband: ranks Trials by one objective, and there are 2"):
        Optimizer(SPACE, {"random": {}}, {"hyperband": {}}, (1, 9), objectives=2)


@given(
    low=st.integers(1, 4), high=st.integers(4, 90), eta=st.integers(2, 5), workers=st.integers(1, 12), seed=st.integers(0, 2**32)
)
@settings(max_examples=40, deadline=None)
def test_any_order_of_results_any_failures_and_any_workers_give_whole_brackets(
    low: int, high: int, eta: int, workers: int, seed: int
) -> None:
    schedule = Hyperband(eta=eta, iterations=1)
    run, rng = Run(schedule, budgeted(low, high)), random.Random(seed)
    while not schedule.finished(run.problem, run.history):
        active = [trial for trial in run.history if trial.active]
        donors = schedule.donors(run.problem, run.history)
        started = run.start(workers - len(active)) if len(active) < workers else []
        assert all(trial.donor in donors for trial in started if trial.slot.rung), "no checkpoint was given up too early"
        if rng.random() < 0.05:
            run.stray()
        active += started
        assert active, "nothing is active and nothing proposed: a stall"
        for trial in rng.sample(active, rng.randint(1, len(active))):
            run.end([trial], failed if rng.random() < 0.2 else by_number)
    placed = [trial for trial in run.history if trial.slot.rung is not None]
    assert max(Counter((t.slot.bracket, t.slot.rung, t.slot.member) for t in placed).values()) == 1
    for (bracket, rung), (count, _) in run.counts().items():
        if rung:
            below = on(run.history, rung - 1, bracket)
            fit = sum(trial.state is State.DONE for trial in below)
            assert count == min(fit, len(on(run.history, 0, bracket)) // eta**rung)


@given(
    high=st.sampled_from([9, 27, 40]),
    eta=st.integers(2, 4),
    workers=st.integers(1, 30),
    levels=st.integers(2, 1000),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_who_rises_does_not_depend_on_who_is_faster(high: int, eta: int, workers: int, levels: int, seed: int) -> None:
    """Whatever ends when, fails or is canceled: those on a rung are in the end the best of all that were on the one below."""
    schedule = Hyperband(eta=eta, iterations=1)
    run, rng = Run(schedule, budgeted(1, high)), random.Random(seed)
    pace: dict[int, float] = {}
    while not schedule.finished(run.problem, run.history):
        active = [trial for trial in run.history if trial.active]
        donors = schedule.donors(run.problem, run.history)
        started = run.start(workers - len(active)) if len(active) < workers else []
        assert all(trial.donor in donors for trial in started if trial.slot.rung), "no checkpoint was given up too early"
        pace |= {trial.number: rng.choice([0.001, 0.1, 1.0]) for trial in started}
        active += started
        assert active, "nothing is active and nothing proposed: a stall"
        [trial] = rng.choices(active, [pace[each.number] for each in active])
        if rng.random() < 0.05:
            run.history[trial.number] = Trial(trial.number, trial.params, state=State.FAILED)  # canceled: it has lost its slot
        else:
            run.end([trial], failed if rng.random() < 0.1 else lambda each: done(each, float(rng.randrange(levels))))
    for bracket, rung in run.counts():
        if bracket is not None and rung:
            fit = [trial for trial in on(run.history, rung - 1, bracket) if trial.state is State.DONE]
            best = sorted(fit, key=lambda trial: (trial.losses, trial.number))[
                : max(len(on(run.history, 0, bracket)) // eta**rung, 1)
            ]
            risen = on(run.history, rung, bracket)
            assert Counter(trial.slot.member for trial in best) == Counter(trial.slot.member for trial in risen)


def test_a_large_budget_in_small_units_costs_no_more() -> None:
    """Walking through it unit by unit would take a thousand million steps."""
    run = Run(Hyperband(eta=2), budgeted(1, 10**9))

    def start_two_rows() -> None:
        run.end(run.start(8), by_number)
        assert [trial.slot.member for trial in run.start(8)] == list(range(8, 16))

    assert lines(start_two_rows) < 100_000


@pytest.mark.parametrize("ask", ["places", "donors"])
def test_what_is_asked_after_a_long_study_costs_in_proportion_to_it(ask: str) -> None:
    def after(trials: int):  # type: ignore[no-untyped-def]
        run = Run(Hyperband(), budgeted(1, 81))
        while len(run.history) < trials:
            run.end(run.start(500), by_number)
        return lambda: getattr(run.schedule, ask)(run.problem, run.history, *((8, False) if ask == "places" else ()))

    assert_linear(after, 2500)
