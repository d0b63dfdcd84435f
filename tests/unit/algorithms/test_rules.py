"""The rules beside the median: percentile, extrapolation, threshold, no improvement."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hpo_algorithms import InvalidSettings, Optimizer, Problem, State, Trial
from hpo_algorithms.registry import SCHEDULES, STOPPING, load
from hpo_algorithms.schedules.median import Median
from hpo_algorithms.schedules.rules import Extrapolation, NoImprovement, Percentile, Threshold

from tests.unit.algorithms.histories import SPACE

PROBLEM = Problem(SPACE, 1, 1, 100)


def running(number: int, *losses: float, every: int = 1) -> Trial:
    return Trial(number, {"x": 0.5}, 100, curve=tuple((every * (i + 1), loss) for i, loss in enumerate(losses)))


def ended(number: int, *losses: float) -> Trial:
    curve = tuple(enumerate(losses, start=1))
    return Trial(number, {"x": 0.5}, 100, state=State.DONE, curve=curve, losses=losses[-1:])


def stopped(rule: Percentile | Extrapolation | Threshold | NoImprovement | Median, *trials: Trial) -> list[tuple[int, str, int]]:
    return [(stop.number, stop.rule, stop.step) for stop in rule.stops(PROBLEM, trials)]


OTHERS = [ended(number, float(number + 1)) for number in range(9)]  # losses 1 to 9


def test_the_percentile_is_the_share_that_goes_on() -> None:
    rule = Percentile(percentile=25)
    assert stopped(rule, *OTHERS, running(9, 3.1)) == [(9, "percentile", 1)]
    assert stopped(rule, *OTHERS, running(9, 3.0)) == []


def test_the_fiftieth_percentile_is_the_median_rule() -> None:
    for loss in (4.9, 5.0, 5.1, math.nan):
        trials = [*OTHERS, running(9, loss)]
        assert bool(stopped(Percentile(percentile=50), *trials)) == bool(stopped(Median(), *trials))


def test_a_percentile_between_two_trials_lies_between_them_also_where_one_is_infinite() -> None:
    others = [ended(0, 1.0), ended(1, math.inf), ended(2, math.inf)]
    assert stopped(Percentile(percentile=25, startup_trials=3), *others, running(3, 5.0)) == []
    assert stopped(Percentile(percentile=0, startup_trials=3), *others, running(3, 5.0)) == [(3, "percentile", 1)]


# From the first step to the last they gain 1, 2, 3, 4 and 5; the best ends at 1.
GAINING = [ended(number, 2.0 + 2 * number, 1.0 + number) for number in range(5)]


def test_what_would_have_to_gain_more_than_any_before_it_is_stopped() -> None:
    assert stopped(Extrapolation(), *GAINING, running(5, 6.1)) == [(5, "extrapolation", 1)]
    assert stopped(Extrapolation(), *GAINING, running(5, 6.0)) == [], "with a gain of 5, as one before it had, it would be as good"


def test_what_is_believed_possible_is_the_quantile_of_the_gains() -> None:
    assert stopped(Extrapolation(quantile=0.5), *GAINING, running(5, 4.1)) == [(5, "extrapolation", 1)]
    assert stopped(Extrapolation(quantile=0.5), *GAINING, running(5, 4.0)) == []


def test_gains_are_those_from_the_same_step_on() -> None:
    """At their second step all have gained already what they will."""
    assert stopped(Extrapolation(), *GAINING, running(5, 6.0, 1.1)) == [(5, "extrapolation", 2)]


def test_nothing_is_extrapolated_from_few_from_the_stopped_or_towards_what_breaks_a_constraint() -> None:
    late = running(5, 50.0)
    assert stopped(Extrapolation(), *GAINING[:4], late) == []
    assert stopped(Extrapolation(), *(dataclasses.replace(trial, state=State.STOPPED) for trial in GAINING), late) == []
    assert stopped(Extrapolation(), *(dataclasses.replace(trial, violation=1.0) for trial in GAINING), late) == []


def test_late_bloomers_keep_the_next_one_alive() -> None:
    others = [*GAINING, *(ended(number, math.nan, 1.0) for number in (5, 6))]
    assert stopped(Extrapolation(), *others, running(9, 50.0)) == []


def test_a_loss_above_the_threshold_is_stopped_and_one_at_it_is_not() -> None:
    rule = Threshold(above=2.0)
    assert stopped(rule, running(0, 2.0), running(1, 1.0, 2.1)) == [(1, "threshold", 2)]


def test_the_latest_loss_counts_for_the_threshold() -> None:
    assert stopped(Threshold(above=2.0), running(0, 9.0, 1.0)) == []


def test_a_loss_that_is_not_a_number_is_stopped_whatever_the_bound() -> None:
    assert stopped(Threshold(), running(0, math.nan), running(1, math.inf), running(2, 1e300)) == [(0, "threshold", 1)]


def test_what_has_not_become_better_for_the_patience_is_stopped() -> None:
    rule = NoImprovement(patience=3)
    assert stopped(rule, running(0, 5.0, 4.0, 4.0, 4.0, 4.0)) == [(0, "noImprovement", 5)]
    assert stopped(rule, running(0, 5.0, 4.0, 4.0, 4.0)) == [], "it was better three steps ago"
    assert stopped(rule, running(0, 5.0, 4.0, 4.0, 4.0, 3.9)) == []


def test_patience_is_counted_in_steps_and_not_in_reports() -> None:
    assert stopped(NoImprovement(patience=3), running(0, 5.0, 5.0, every=2)) == []
    assert stopped(NoImprovement(patience=3), running(0, 5.0, 5.0, 5.0, every=2)) == [(0, "noImprovement", 6)]


def test_less_than_the_delta_is_no_improvement() -> None:
    rule = NoImprovement(patience=1, min_delta=0.5)
    assert stopped(rule, running(0, 5.0, 4.6)) == [(0, "noImprovement", 2)]
    assert stopped(rule, running(0, 5.0, 4.4)) == []


def test_a_training_that_begins_with_nan_and_recovers_has_improved() -> None:
    assert stopped(NoImprovement(patience=1), running(0, math.nan, 5.0)) == []
    assert stopped(NoImprovement(patience=1), running(0, math.nan, math.nan)) == [(0, "noImprovement", 2)]


@pytest.mark.parametrize("name", sorted(STOPPING - {"median"}))
def test_no_rule_stops_before_its_first_step_at_the_end_or_what_has_ended(name: str) -> None:
    rule = load(SCHEDULES[name])(min_steps=3)
    bad = [math.nan] * 2
    assert stopped(rule, *OTHERS, running(9, *bad)) == []
    assert stopped(rule, *OTHERS, running(9, *bad, every=50)) == []
    assert stopped(rule, *OTHERS, ended(9, *[math.nan] * 5)) == []


@pytest.mark.parametrize("name", sorted(STOPPING - {"median"}))
def test_rules_need_no_budget_but_a_single_objective(name: str) -> None:
    Optimizer(SPACE, schedule={name: {}})
    with pytest.raises(InvalidSettings, match=f"schedule.{name}"):
        Optimizer(SPACE, schedule={name: {}}, objectives=2)
