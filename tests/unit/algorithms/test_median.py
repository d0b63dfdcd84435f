"""The median stopping rule: a Trial is ended when its best is worse than half of the others' running means."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
from hpo_algorithms import InvalidSettings, Optimizer, Problem, State, Trial
from hpo_algorithms.schedules.median import Median
from hpo_algorithms.schedules.rules import Extrapolation

from tests.unit.algorithms.histories import SPACE
from tests.unit.work import assert_linear, lines

PROBLEM = Problem(SPACE, 1, 1, 10)
NAN = math.nan


def history(ended: list[list[float]], *active: list[float], state: State = State.DONE) -> list[Trial]:
    """Trials with these curves, reported at the steps 1, 2, …"""
    made = []
    for number, losses in enumerate([*ended, *active]):
        curve = tuple(enumerate(losses, start=1))
        ending = state if number < len(ended) else State.ACTIVE
        made.append(
            Trial(number, {"x": 0.5}, 10, state=ending, curve=curve, losses=tuple(losses[-1:]) if ending != State.ACTIVE else ())
        )
    return made


def stopped(trials: list[Trial], rule: Median = Median(startup_trials=3), problem: Problem = PROBLEM) -> list[tuple[int, int]]:  # noqa: B008
    return [(stop.number, stop.step) for stop in rule.stops(problem, trials)]


def test_a_trial_is_stopped_when_its_best_is_worse_than_the_median_of_running_means() -> None:
    ended = [[4.0, 2.0, 1.0], [6.0, 4.0, 2.0], [8.0, 6.0, 4.0]]  # means up to step 2: 3, 5, 7
    assert stopped(history(ended, [9.0, 5.1])) == [(3, 2)]
    assert stopped(history(ended, [9.0, 5.0])) == [], "equal is not worse"
    assert stopped(history(ended, [4.9, 9.0])) == [], "its best counts, not its latest"
    assert stopped(history(ended, [9.0])) == [(3, 1)], "the median at step 1 is 6"
    assert stopped(history(ended, [5.9])) == []


def test_a_trial_with_the_same_losses_as_all_others_goes_on_whatever_rounding_makes_of_their_mean() -> None:
    losses = [n / 7 for n in range(1, 40)]
    assert any(sum([loss] * 9) / 9 < loss for loss in losses)
    assert [loss for loss in losses if stopped(history([[loss] * 9] * 3, [loss] * 9))] == []


@pytest.mark.parametrize("order", [1, -1])
def test_a_mean_of_infinities_of_both_signs_is_the_worst_wherever_it_stands(order: int) -> None:
    ended = [[math.inf, -math.inf], [1.0, 1.0], [2.0, 2.0], [0.0, 0.0]][::order]  # the median is 1.5
    assert stopped(history(ended, [1.6, 1.6], [1.4, 1.4])) == [(4, 2)]


def test_only_steps_up_to_the_trials_own_are_compared() -> None:
    ended = [[9.0, 9.0, 0.0, 0.0]] * 3
    assert stopped(history(ended, [8.0, 8.0])) == []
    assert stopped(history(ended, [8.0, 8.0, 8.0])) == [(3, 3)]


def test_steps_need_not_be_the_same() -> None:
    trials = history([[1.0], [1.0], [1.0]], [2.0])
    sparse = tuple(Trial(t.number, t.params, 10, state=t.state, curve=((4, 1.0), (8, 0.5)), losses=t.losses) for t in trials[:3])
    late = Trial(3, {"x": 0.5}, 10, curve=((5, 2.0),))
    early = Trial(3, {"x": 0.5}, 10, curve=((3, 2.0),))
    assert stopped([*sparse, late]) == [(3, 5)]
    assert stopped([*sparse, early]) == [], "nobody had reported by step 3"


def test_several_trials_are_judged_by_themselves() -> None:
    assert stopped(history([[1.0, 1.0]] * 3, [2.0], [0.5], [2.0, 2.0], [])) == [(3, 1), (5, 2)]


def test_nothing_is_stopped_before_enough_trials_have_ended() -> None:
    assert stopped(history([[1.0]] * 4, [2.0]), Median()) == []
    assert stopped(history([[1.0]] * 5, [2.0]), Median()) == [(5, 1)]


def test_nothing_is_stopped_before_its_min_steps() -> None:
    rule = Median(startup_trials=1, min_steps=3)
    assert stopped(history([[1.0] * 9], [2.0, 2.0]), rule) == []
    assert stopped(history([[1.0] * 9], [2.0, 2.0, 2.0]), rule) == [(1, 3)]


def test_a_trial_that_has_reached_its_budget_is_left_to_end() -> None:
    assert stopped(history([[1.0] * 10] * 3, [2.0] * 10)) == []


def test_points_that_are_not_numbers_are_worst() -> None:
    assert stopped(history([[1.0, 1.0]] * 3, [NAN, NAN])) == [(3, 2)], "it has shown nothing"
    assert stopped(history([[1.0, 1.0]] * 3, [NAN, 0.5])) == []
    assert stopped(history([[1.0], [1.0], [NAN]], [2.0])) == [(3, 1)], "one diverged, two are better"
    assert stopped(history([[1.0], [NAN], [NAN]], [2.0])) == [], "the median is a diverged one"
    assert stopped(history([[-math.inf], [math.inf]], [2.0]), Median(startup_trials=1)) == []


def test_failed_and_infeasible_trials_do_not_count() -> None:
    for state in (State.FAILED, State.INFEASIBLE):
        assert stopped(history([[1.0]] * 5, [2.0], state=state)) == []


def test_stopped_trials_count_as_far_as_they_came() -> None:
    trials = history([[1.0, 1.0]] * 3, [2.0], [2.0, 2.0, 2.0], state=State.STOPPED)
    assert stopped(trials) == [(3, 1)]


def test_it_needs_no_budget() -> None:
    no_budget = [
        Trial(t.number, t.params, None, state=t.state, curve=t.curve, losses=t.losses) for t in history([[1.0]] * 3, [2.0])
    ]
    assert stopped(no_budget, problem=Problem(SPACE)) == [(3, 1)]
    assert Optimizer(SPACE, {"random": {}}, {"median": {}}).ask().budget is None  # type: ignore[union-attr]


def test_every_trial_is_given_the_full_budget() -> None:
    assert {trial.budget for trial in Optimizer(SPACE, {"random": {}}, {"median": {}}, (1, 27)).ask(20)} == {27}


def test_it_is_refused_with_several_objectives_and_wrong_settings() -> None:
    with pytest.raises(InvalidSettings, match=r"schedule\.median: ranks Trials by one objective"):
        Optimizer(SPACE, {"random": {}}, {"median": {}}, objectives=2)
    with pytest.raises(InvalidSettings, match=r"schedule\.median\.startupTrials: 0: must be at least 1"):
        Optimizer(SPACE, {"random": {}}, {"median": {"startupTrials": 0}})
    with pytest.raises(
        InvalidSettings, match=r"schedule\.median\.warmup: 3: is not a known setting\. Known here: startupTrials, minSteps"
    ):
        Optimizer(SPACE, {"random": {}}, {"median": {"warmup": 3}})


def test_curves_are_compared_at_a_cost_in_proportion_to_them() -> None:
    def compare(curves: int):  # type: ignore[no-untyped-def]
        trials = history([[1.0] * 64] * curves, *([[2.0] * n for n in range(1, 9)]))
        assert len(stopped(trials)) == 8
        return lambda: stopped(trials)

    assert_linear(compare, 250)


@pytest.mark.parametrize("rule", [Median(), Extrapolation(quantile=0.0)])
def test_many_trials_at_different_steps_do_not_each_go_through_all_curves(rule: Median | Extrapolation) -> None:
    def judge(active: int) -> Callable[[], object]:
        ended = [dataclasses.replace(trial, budget=500) for trial in history([[1.0] * 400] * 20)]
        trials = ended + [Trial(20 + n, {"x": 0.5}, 500, curve=((300 + n, 2.0),)) for n in range(active)]
        assert len(rule.stops(PROBLEM, trials)) == active
        return lambda: rule.stops(PROBLEM, trials)

    assert lines(judge(100)) < 3 * lines(judge(10))
