"""What became of a Trial: from its workload's end and its reports to a result, and nothing invented in between."""

from __future__ import annotations

import functools
import math

import pytest
from hpo_operator import conditions as c
from hpo_operator.outcomes import (
    MAX_METRICS,
    format_number,
    losses_of,
    metrics_wanted,
    observation_of,
    outcome_of,
    thinned,
    violation_of,
)
from hpo_operator.reports import Report, number
from hpo_operator.resources import OutcomeConstraint
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.builders import StudyBuilder, a_study, a_workload, measured

STEADY = functools.partial(settings, deadline=None, derandomize=True)

NAN, INF = math.nan, math.inf


def outcome(study: StudyBuilder, report: Report) -> tuple[str, str]:
    found = outcome_of(study.build().spec, a_workload().succeeded(report=report).build())
    assert found is not None
    return found.reason, found.message


# Which value counts


@pytest.mark.parametrize(
    ("study", "counts"),
    [
        (a_study().minimizing("m"), "0.5"),
        (a_study().minimizing("m", aggregate="Last"), "0.5"),
        (a_study().minimizing("m", aggregate="Best"), "0.1"),
        (a_study().maximizing("m"), "0.5"),
        (a_study().maximizing("m", aggregate="Best"), "0.9"),
    ],
)
def test_the_last_or_the_best_report_counts(study: StudyBuilder, counts: str) -> None:
    report = measured(3, m=(0.5, 0.1, 0.9))
    observation = observation_of(study.build().spec, a_workload().succeeded(report=report).build())
    assert observation is not None
    assert observation.metrics[0].value == counts
    assert counts in outcome(study, report)[1]


def test_a_run_that_diverged_at_its_end_still_has_its_best() -> None:
    report = measured(3, m=(NAN, 0.1, 0.9))
    assert outcome(a_study().minimizing("m", aggregate="Best"), report)[0] == c.COMPLETED
    assert outcome(a_study().minimizing("m"), report)[0] == c.OBJECTIVE_NOT_FINITE


def test_a_run_that_never_was_a_number_has_no_best() -> None:
    assert outcome(a_study().minimizing("m", aggregate="Best"), measured(m=NAN))[0] == c.OBJECTIVE_NOT_FINITE


def test_every_objective_must_be_there_and_finite() -> None:
    study = a_study().objectives({"metric": "a"}, {"metric": "b"})
    assert outcome(study, measured(a=1.0, b=2.0)) == (c.COMPLETED, "a = 1.0, b = 2.0.")
    assert outcome(study, measured(a=1.0))[0] == c.OBJECTIVE_MISSING
    assert outcome(study, measured(a=1.0, b=INF))[0] == c.OBJECTIVE_NOT_FINITE


def test_a_constrained_metric_may_be_anything_but_must_be_there() -> None:
    study = a_study().minimizing("a").constrained("b", "LessOrEqual", 1.0)
    assert outcome(study, measured(a=1.0, b=NAN))[0] == c.COMPLETED
    assert outcome(study, measured(a=1.0))[0] == c.OBJECTIVE_MISSING


def test_what_is_still_awaited_is_not_missing() -> None:
    spec = a_study().build().spec
    assert outcome_of(spec, a_workload().succeeded().awaiting().build()) is None
    assert outcome_of(spec, a_workload().succeeded(other=1.0).awaiting().build()) is None
    found = outcome_of(spec, a_workload().succeeded(loss=1.0).awaiting().build())
    assert found is not None
    assert found.reason == c.COMPLETED


@pytest.mark.parametrize("code", [0, 1, 86, 137])
def test_a_program_that_says_it_cannot_run_is_infeasible_however_it_ends(code: int) -> None:
    workload = a_workload().failed(code, report=Report(infeasible="no")).build()
    found = outcome_of(a_study().build().spec, workload)
    assert found is not None
    assert (found.reason, found.message, found.status) == (c.INFEASIBLE, "no", "False")


def test_a_workload_that_fails_for_a_reason_that_nobody_knows_is_a_failed_program() -> None:
    found = outcome_of(a_study().build().spec, a_workload().failed(1, reason="Cosmic").build())
    assert found is not None
    assert (found.reason, found.message) == (c.PROGRAM_FAILED, "The program failed.")


# Losses and constraints


def test_objectives_become_losses_and_a_missing_one_is_not_a_number() -> None:
    spec = a_study().objectives({"metric": "a"}, {"metric": "b", "goal": "Maximize"}, {"metric": "c"}).build().spec
    losses = losses_of(spec, {"a": 1.0, "b": 2.0})
    assert losses[:2] == (1.0, -2.0)
    assert math.isnan(losses[2])


@pytest.mark.parametrize(
    ("operator", "value", "violation"),
    [
        ("LessOrEqual", 1.0, 0.0),
        ("LessOrEqual", 0.5, -0.5),
        ("LessOrEqual", 1.5, 0.5),
        ("GreaterOrEqual", 1.0, 0.0),
        ("GreaterOrEqual", 0.5, 0.5),
        ("GreaterOrEqual", INF, 0.0),
        ("LessOrEqual", INF, INF),
        ("LessOrEqual", NAN, INF),
        ("GreaterOrEqual", NAN, INF),
    ],
)
def test_a_constraint_is_broken_by_so_much(operator: str, value: float, violation: float) -> None:
    spec = a_study().constrained("m", operator, 1.0).build().spec
    assert violation_of(spec.constraints, {"m": value}) == violation


@pytest.mark.parametrize(("a", "b", "violation"), [(0.25, 0.5, -0.5), (1.5, 0.5, 0.5), (1.5, 2.0, 1.5)])
def test_of_several_constraints_the_broken_ones_are_added_up_and_else_the_nearest_counts(
    a: float, b: float, violation: float
) -> None:
    constraints = [OutcomeConstraint(metric=metric, operator="LessOrEqual", bound=1.0) for metric in ("a", "b")]
    assert violation_of(constraints, {"a": a, "b": b}) == violation


def test_a_constraint_on_what_is_missing_is_broken_without_bound() -> None:
    spec = a_study().constrained("m", "LessOrEqual", 1.0).build().spec
    assert violation_of(spec.constraints, {}) == INF


# The evidence


def test_a_trial_that_was_never_heard_of_has_no_observation() -> None:
    assert observation_of(a_study().build().spec, a_workload().pending().build()) is None


def test_objectives_and_constraints_come_first_and_of_many_metrics_they_are_kept() -> None:
    study = a_study().minimizing("z").constrained("y", "LessOrEqual", 1.0)
    report = Report(1, {**measured(**{f"m{n:03}": 1.0 for n in range(200)}).metrics, **measured(y=1.0, z=2.0).metrics})
    observation = observation_of(study.build().spec, a_workload().succeeded(report=report).build())
    assert observation is not None
    names = [pair.name for pair in observation.metrics]
    assert names[:3] == ["z", "y", "m000"]
    assert len(names) == MAX_METRICS


def test_an_objective_that_is_also_a_constraint_is_wanted_once() -> None:
    spec = a_study().minimizing("m").constrained("m", "LessOrEqual", 1.0).build().spec
    assert metrics_wanted(spec) == ["m"]


@STEADY()
@given(st.lists(st.integers(), max_size=300), st.integers(2, 80))
def test_a_thinned_curve_keeps_its_ends_its_order_and_no_more_than_allowed(points: list[int], limit: int) -> None:
    curve = list(enumerate(points))
    kept = list(thinned(curve, limit))
    assert len(kept) == min(len(curve), limit)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(curve)
    if curve:
        assert (kept[0], kept[-1]) == (curve[0], curve[-1])


@STEADY()
@given(st.floats())
def test_a_number_survives_being_written(value: float) -> None:
    found = number(format_number(value))
    assert found is not None
    assert found == value or (math.isnan(found) and math.isnan(value))
