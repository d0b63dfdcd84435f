"""ASHA: promotion as soon as there is somebody to promote."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter

import pytest
from hpo_algorithms import InvalidSettings, Optimizer, State, Stop
from hpo_algorithms.schedules.asha import ASHA
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.algorithms.histories import SPACE, Run, budgeted, done, failed, on
from tests.unit.work import assert_linear


def by_number(trial):  # type: ignore[no-untyped-def]
    return done(trial, float(trial.number))


def test_one_worker_promotes_as_in_the_paper() -> None:
    """With eta 3 and losses that grow: of each three below the best rises, and of three on the middle rung the best again."""
    run = Run(ASHA(), budgeted(1, 9))
    seen = []
    for _ in range(13):
        (trial,) = run.start(1)
        seen.append((trial.slot.rung, trial.budget))
        run.end([trial], lambda trial: done(trial, float(trial.slot.member or 0)))
    low, middle, high = (0, 1), (1, 3), (2, 9)
    assert seen == [low, low, low, middle, low, low, low, middle, low, low, low, middle, high]


@pytest.mark.parametrize(("capped", "expected"), [(True, [0, 0, 0, 1, 0, 0, 0, 1, 0]), (False, [0, 0, 0, 1, 0, 1, 0, 1, 0])])
def test_no_more_than_one_in_eta_rises_however_much_better_the_new_ones_are_unless_the_paper_is_followed(
    capped: bool, expected: list[int]
) -> None:
    """Each Trial is better than all before it, as when a sampler learns."""
    run = Run(ASHA(capped=capped), budgeted(1, 3))
    rungs = []
    for _ in range(9):
        (trial,) = run.start(1)
        rungs.append(trial.slot.rung)
        run.end([trial], lambda trial: done(trial, -float(trial.number)))
    assert rungs == expected


def test_of_those_that_have_not_risen_the_best_of_all_rises_next() -> None:
    run = Run(ASHA(), budgeted(1, 3))
    run.end(run.start(3), lambda trial: done(trial, [5.0, 3.0, 4.0][trial.number]))
    run.end(run.start(1), by_number)
    run.end(run.start(3, exhausted=False), lambda trial: done(trial, [9.0, 3.5, 8.0][trial.number - 4]))
    assert [trial.slot.member for trial in run.history if trial.slot.rung == 1] == [1]
    assert run.start(1)[0].slot.member == 5


def test_of_those_with_one_and_the_same_loss_the_first_rises_before_the_others() -> None:
    run = Run(ASHA(), budgeted(1, 3))
    run.end(run.start(9), lambda trial: done(trial, [1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0][trial.number]))
    assert [trial.slot.member for trial in run.start(3)] == [0, 1, 2], "only the best third is looked at"
    run = Run(ASHA(), budgeted(1, 3))
    run.end(run.start(9), lambda trial: done(trial, [1.0, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 7.0][trial.number]))
    assert [trial.slot.member for trial in run.start(3)] == [0, 2, 1]


def test_the_stopping_form_starts_all_on_the_whole_way_and_stops_those_behind_at_a_rung() -> None:
    run, schedule = Run(ASHA(form="stopping"), budgeted(1, 9)), ASHA(form="stopping")
    assert [(trial.budget, trial.slot.rung) for trial in run.start(4)] == [(9, None)] * 4
    for number, losses in enumerate([[0.5], [0.4], [0.6, 0.55], [0.3, 0.2]]):
        curve = tuple(enumerate(losses, start=1))
        run.history[number] = dataclasses.replace(run.history[number], curve=curve)
    stopped = schedule.stops(run.problem, run.history)
    assert stopped == [Stop(2, "asha", 2)], "the first goes on, the second and the last are the best third of those before them"
    assert not schedule.donors(run.problem, run.history)
    assert not ASHA().stops(run.problem, run.history)


def test_the_stopping_form_judges_a_trial_at_the_rung_that_it_passed_last_and_never_one_at_its_end() -> None:
    run, schedule = Run(ASHA(form="stopping"), budgeted(1, 9)), ASHA(form="stopping")
    run.start(3)
    behind = {1: 0.9, 2: 0.8, 3: 0.1}
    for number, curve in enumerate([{1: 0.1, 3: 0.3}, behind, {**behind, 3: math.nan}]):
        run.history[number] = dataclasses.replace(run.history[number], curve=tuple(curve.items()))
    assert schedule.stops(run.problem, run.history) == [Stop(2, "asha", 3)], "it came up; the other is not a number"
    over = {**behind, 9: 0.9}
    run.history[2] = dataclasses.replace(run.history[2], curve=tuple(over.items()))
    assert schedule.stops(run.problem, run.history) == []


def test_a_straggler_on_any_rung_holds_nobody_up_and_rises_when_it_ends_well() -> None:
    """In virtual time: one Trial in five takes a hundred times as long; the others reach the top meanwhile."""
    run, rng = Run(ASHA(), budgeted(1, 27)), random.Random(0)
    ends: dict[int, float] = {}
    clock = 0.0
    while len(run.history) < 400:
        for trial in run.start(8 - len(ends)):
            ends[trial.number] = clock + (trial.budget or 0) * (100 if trial.number % 5 == 0 and trial.number < 30 else 1)
        assert len(ends) == 8, "no worker idles"
        number = min(ends, key=ends.__getitem__)
        clock = ends.pop(number)
        run.end([run.history[number]], lambda trial: done(trial, rng.random()))
    late = [trial for trial in run.history[:30] if trial.number % 5 == 0]
    assert sum(trial.slot.rung == 3 for trial in run.history) >= 8
    assert any(trial.slot.member in {each.slot.member for each in late} for trial in run.history if trial.slot.rung == 1)


def test_members_keep_their_number_and_start_from_their_own_checkpoint() -> None:
    run = Run(ASHA(), budgeted(1, 9))
    run.end(run.start(3), by_number)
    risen, fresh = run.start(2)
    assert (risen.slot.rung, risen.slot.member, risen.donor) == (1, 0, 0)
    assert (fresh.slot.rung, fresh.slot.member, fresh.donor) == (0, 4, None)


def test_the_highest_rung_is_served_first_and_workers_never_idle() -> None:
    run = Run(ASHA(), budgeted(1, 9))
    run.end(run.start(9), by_number)
    run.end(run.start(3), by_number)
    run.end(run.start(3), by_number)
    assert [trial.slot.rung for trial in run.history[9:]] == [1, 1, 1, 2, 0, 0]
    assert len(run.start(5)) == 5
    assert len(run.start(5)) == 5


def test_a_promotion_is_never_repeated_whatever_the_ranking_says_by_now() -> None:
    run = Run(ASHA(capped=False), budgeted(1, 3))
    run.end(run.start(3), by_number)
    assert run.start(1)[0].slot.member == 0
    for trial in run.history[:3]:
        run.history[trial.number] = done(trial, -float(trial.number))
    assert run.start(1)[0].slot.member == 2, "the best by now; the first promotion stands"
    assert run.start(1)[0].slot.rung == 0


@pytest.mark.parametrize("ending", [failed, lambda t: done(t, float("nan")), lambda t: done(t, float("inf"))])
def test_trials_without_a_finite_loss_never_rise(ending) -> None:  # type: ignore[no-untyped-def]
    run = Run(ASHA(), budgeted(1, 9))
    for _ in range(10):
        run.end(run.start(3), ending)
    assert run.counts().keys() == {(None, 0)}
    run.end(run.start(1), by_number)
    assert run.start(1)[0].slot.rung == 1


def test_a_space_that_ran_out_leaves_the_promotions() -> None:
    run = Run(ASHA(), budgeted(1, 9))
    run.end(run.start(9), by_number)
    assert [trial.slot.rung for trial in run.start(8, exhausted=True)] == [1, 1, 1]
    assert run.start(8, exhausted=True) == []
    run.end(run.history[9:], by_number)
    assert [trial.slot.rung for trial in run.start(8, exhausted=True)] == [2]
    run.end(run.history[-1:], by_number)
    assert run.start(8, exhausted=True) == []


def test_the_next_best_rises_in_place_of_one_whose_checkpoint_is_lost_and_no_more_than_before() -> None:
    run = Run(ASHA(), budgeted(1, 9))
    run.end(run.start(6), by_number)
    first, second = run.start(2)
    assert [on(run.history, 0)[each.donor].number for each in (first, second)] == [0, 1]
    lost = {0, 1}  # Trial 1 before anybody could start from it, Trial 0 after
    run.history = [dataclasses.replace(each, restorable=False, lost=True) if each.number in lost else each for each in run.history]
    run.history.remove(second)
    sources = [place.source for place in run.schedule.places(run.problem, run.history, 3, exhausted=False)]
    assert sources == [2, None, None]
    assert run.schedule.donors(run.problem, run.history) == {2, 3, 4, 5}


def test_checkpoints_are_kept_of_all_that_may_still_rise() -> None:
    run = Run(ASHA(), budgeted(1, 9))
    first = run.start(5)
    run.end(first[:3], by_number)
    run.end(first[3:4], failed)
    assert run.schedule.donors(run.problem, run.history) == {0, 1, 2}
    risen = run.start(1)
    assert run.schedule.donors(run.problem, run.history) == {1, 2}
    run.end(risen, by_number)
    assert run.schedule.donors(run.problem, run.history) == {1, 2, risen[0].number}


def test_it_is_refused_without_a_budget_and_with_several_objectives() -> None:
    with pytest.raises(InvalidSettings, match=r"schedule\.asha: needs a budget"):
        Optimizer(SPACE, {"random": {}}, {"asha": {}})
    with pytest.raises(InvalidSettings, match=r"schedule\.asha: ranks Trials by one objective"):
        Optimizer(SPACE, {"random": {}}, {"asha": {}}, (1, 9), objectives=3)


@given(eta=st.integers(2, 5), workers=st.integers(1, 12), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_any_order_of_results_promotes_at_most_one_in_eta_and_each_once(eta: int, workers: int, seed: int) -> None:
    schedule = ASHA(eta=eta)
    run, rng = Run(schedule, budgeted(1, 30)), random.Random(seed)
    while len(run.history) < 150:
        active = [trial for trial in run.history if trial.active]
        donors = schedule.donors(run.problem, run.history)
        started = run.start(workers - len(active)) if len(active) < workers else []
        assert len(started) == workers - len(active), "no worker idles"
        assert all(trial.donor in donors for trial in started if trial.slot.rung)
        if rng.random() < 0.05:
            run.stray()
        for trial in rng.sample(active + started, rng.randint(1, workers)):
            ending = done(trial, rng.random()) if rng.random() < 0.8 else failed(trial)
            run.end([trial], lambda _, ending=ending: ending)  # type: ignore[misc]
    placed = [trial for trial in run.history if trial.slot.rung is not None]
    assert max(Counter((trial.slot.rung, trial.slot.member) for trial in placed).values()) == 1
    rung = Counter(trial.slot.rung for trial in placed)
    assert all(rung[i + 1] <= rung[i] // eta for i in range(max(rung))), "no more rise than one in eta"
    for trial in placed:
        if trial.slot.rung:
            below = [t for t in on(run.history, trial.slot.rung - 1) if t.number < trial.number and not t.active]
            assert any(t.slot.member == trial.slot.member and t.state is State.DONE for t in below)
            assert len(below) >= eta


@pytest.mark.parametrize("ask", ["places", "donors"])
def test_what_is_asked_after_a_long_study_costs_in_proportion_to_it(ask: str) -> None:
    def after(trials: int):  # type: ignore[no-untyped-def]
        run, rng = Run(ASHA(), budgeted(1, 81)), random.Random(0)
        while len(run.history) < trials:
            run.end(run.start(500), lambda trial: done(trial, rng.random()))
        return lambda: getattr(run.schedule, ask)(run.problem, run.history, *((8, False) if ask == "places" else ()))

    assert_linear(after, 2500)
