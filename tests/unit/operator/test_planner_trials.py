"""What becomes of one Trial: each condition and reason, each by the situation that calls for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from hpo_algorithms import Stop
from hpo_operator import conditions as c
from hpo_operator.planner import Consultation, LookForWorkload, StartWorkload, StopWorkload, plan
from hpo_operator.reports import Report

from tests.unit.operator.builders import (
    Decision,
    StudyBuilder,
    TrialBuilder,
    WorkloadBuilder,
    a_study,
    a_trial,
    a_workload,
    at,
    measured,
)

LATER = at(60)


@dataclass
class Case:
    """A Trial (number 0) and its workload, and what is then written into it: (status and reason) of Running and of Succeeded."""

    trial: TrialBuilder
    workload: WorkloadBuilder | None
    running: tuple[str, str]
    succeeded: tuple[str, str]
    study: StudyBuilder = field(default_factory=a_study)
    now: datetime = LATER
    says: str = ""

    def decide(self) -> Decision:
        return Decision(self.study, [self.trial], {0: self.workload} if self.workload else {}, now=self.now)


FINISHED = ("False", c.FINISHED)
PENDING = ("Unknown", c.PENDING)


def limits(**more: int) -> StudyBuilder:
    return a_study().limits(**more)


CASES = {
    "a Trial whose pod runs is Running": Case(a_trial(0), a_workload().running(), ("True", c.PODS_ACTIVE), ("Unknown", "Running")),
    "a workload that has had no pod for thirty seconds is being created": Case(
        a_trial(0), a_workload().pending(), ("False", c.CREATING), PENDING
    ),
    "a workload that waits for quota says so": Case(
        a_trial(0), a_workload().pending(c.QUOTA_PENDING, "no quota"), ("False", c.QUOTA_PENDING), PENDING, says="no quota"
    ),
    "a pod that fits no node says so": Case(
        a_trial(0), a_workload().pending(c.UNSCHEDULABLE, "0/3 nodes"), ("False", c.UNSCHEDULABLE), PENDING, says="0/3 nodes"
    ),
    "an image that cannot be pulled says so": Case(
        a_trial(0), a_workload().pending(c.IMAGE_PULL, "ErrImagePull"), ("False", c.IMAGE_PULL), PENDING, says="ErrImagePull"
    ),
    "a reason to wait that nobody knows is not written as one": Case(
        a_trial(0), a_workload().pending("Cosmic", "rays"), ("False", c.CREATING), PENDING, says="rays"
    ),
    "a reason to wait that changes is written again": Case(
        a_trial(0).waiting(c.CREATING), a_workload().pending(c.IMAGE_PULL), ("False", c.IMAGE_PULL), PENDING
    ),
    "a preempted pod is a loss, and its Trial waits for another": Case(
        a_trial(0).running(), a_workload().disrupted("Preempted by x"), ("False", c.PREEMPTED), PENDING, says="Preempted by x"
    ),
    "a workload that is gone is a loss": Case(a_trial(0).running(), a_workload().gone(), ("False", c.PREEMPTED), PENDING),
    "a loss counts even if the Trial had not been seen running": Case(
        a_trial(0), a_workload().disrupted(), ("False", c.PREEMPTED), PENDING
    ),
    "a workload that somebody deletes is a loss, whatever it says while it goes": Case(
        a_trial(0).running(), a_workload().succeeded(loss=0.0).deleting(), ("False", c.PREEMPTED), PENDING
    ),
    "a workload that goes by its time to live has its result": Case(
        a_trial(0).running(),
        a_workload().succeeded(loss=0.5).deleting(succeeded_first=True),
        FINISHED,
        ("True", c.COMPLETED),
    ),
    "a workload that succeeded but is gone with its result has lost it": Case(
        a_trial(0).running(), a_workload().result_lost(), ("False", c.RESULT_LOST), PENDING
    ),
    "a workload that goes while its result is awaited has lost it": Case(
        a_trial(0).awaiting(), a_workload().gone(), ("False", c.RESULT_LOST), PENDING
    ),
    "a Trial of a suspended Study waits until it is resumed": Case(
        a_trial(0).running(), a_workload().running(), ("False", c.STUDY_SUSPENDED), PENDING, a_study().suspended()
    ),
    "a result that does not come for thirty seconds is awaited": Case(
        a_trial(0).running(), a_workload().succeeded().awaiting(), FINISHED, ("Unknown", c.AWAITING_RESULT)
    ),
    "a Trial that ends well and has reported its objective is completed": Case(
        a_trial(0).running(), a_workload().succeeded(loss=0.25), FINISHED, ("True", c.COMPLETED), says="loss = 0.25"
    ),
    "a Trial whose program crashes has failed": Case(
        a_trial(0).running(), a_workload().failed(3, "exit code 3"), FINISHED, ("False", c.PROGRAM_FAILED), says="exit code 3"
    ),
    "a Trial whose program crashes has failed even if it has reported": Case(
        a_trial(0).running(), a_workload().failed(1, report=measured(loss=0.1)), FINISHED, ("False", c.PROGRAM_FAILED)
    ),
    "a Trial whose workload ran into a deadline of its own has timed out": Case(
        a_trial(0).running(), a_workload().failed(reason=c.TIMED_OUT), FINISHED, ("False", c.TIMED_OUT)
    ),
    "a Trial that runs longer than its timeout has timed out": Case(
        a_trial(0).running(),
        a_workload().running(),
        FINISHED,
        ("False", c.TIMED_OUT),
        limits(trial_timeout_seconds=60),
        says="limits.trialTimeoutSeconds (60)",
    ),
    "a Trial that reports nothing lacks its objective": Case(
        a_trial(0).running(), a_workload().succeeded(), FINISHED, ("False", c.OBJECTIVE_MISSING), says="hpo.report(loss=…)"
    ),
    "a Trial that reports something else lacks its objective": Case(
        a_trial(0).running(), a_workload().succeeded(acc=1.0), FINISHED, ("False", c.OBJECTIVE_MISSING), says="reported acc"
    ),
    "a Trial that leaves out a constrained metric has no result": Case(
        a_trial(0).running(),
        a_workload().succeeded(loss=1.0),
        FINISHED,
        ("False", c.OBJECTIVE_MISSING),
        a_study().constrained("latency", "LessOrEqual", 1.0),
        says="latency",
    ),
    "a workload that the API server refuses is rejected": Case(
        a_trial(0), a_workload().refused("denied by policy"), FINISHED, ("False", c.WORKLOAD_REJECTED), says="denied by policy"
    ),
    "a Trial that is lost once too often has used up its retries": Case(
        a_trial(0).running().attempts(3),
        a_workload().disrupted("evicted"),
        FINISHED,
        ("False", c.RETRIES_EXHAUSTED),
        limits(max_retries=2),
        says="lost 3 times (limits.maxRetries: 2). evicted",
    ),
    "a Trial that is lost as often as allowed is tried once more": Case(
        a_trial(0).running().attempts(2), a_workload().disrupted(), ("False", c.PREEMPTED), PENDING, limits(max_retries=2)
    ),
    "a Trial without retries fails by its first loss": Case(
        a_trial(0), a_workload().gone(), FINISHED, ("False", c.RETRIES_EXHAUSTED), limits(max_retries=0)
    ),
    "a Trial that says its configuration cannot be run is infeasible": Case(
        a_trial(0).running(),
        a_workload().failed(86, report=Report(infeasible="too large")),
        FINISHED,
        ("False", c.INFEASIBLE),
        says="too large",
    ),
    "the infeasible exit code is enough to be infeasible": Case(
        a_trial(0).running(), a_workload().failed(86), FINISHED, ("False", c.INFEASIBLE)
    ),
    "an objective that is not a number is no result": Case(
        a_trial(0).running(), a_workload().succeeded(loss=float("nan")), FINISHED, ("False", c.OBJECTIVE_NOT_FINITE), says="NaN"
    ),
    "an infinite objective is no result": Case(
        a_trial(0).running(), a_workload().succeeded(loss=float("inf")), FINISHED, ("False", c.OBJECTIVE_NOT_FINITE)
    ),
    "a Trial that runs when its Study ends is canceled": Case(
        a_trial(0).running(),
        a_workload().running(),
        FINISHED,
        ("False", c.CANCELED),
        limits(deadline_seconds=10).started(at(0)),
        says=c.DEADLINE_REACHED,
    ),
    "a Trial that waits when its Study ends is canceled": Case(
        a_trial(0), a_workload().pending(), FINISHED, ("False", c.CANCELED), limits(deadline_seconds=10).started(at(0))
    ),
    "a Trial whose workload could not fetch its donor's checkpoint has no donor": Case(
        a_trial(0).restoring(7), a_workload().failed(reason=c.DONOR_UNAVAILABLE), FINISHED, ("False", c.DONOR_UNAVAILABLE)
    ),
    "a result that is there when the Study ends is not canceled": Case(
        a_trial(0).running(),
        a_workload().succeeded(loss=0.5),
        FINISHED,
        ("True", c.COMPLETED),
        limits(deadline_seconds=10).started(at(0)),
    ),
    "a result that is there when the timeout passes counts": Case(
        a_trial(0).running(),
        a_workload().succeeded(loss=0.5),
        FINISHED,
        ("True", c.COMPLETED),
        limits(trial_timeout_seconds=10),
    ),
    "a result that is there when the Study is suspended counts": Case(
        a_trial(0).running(), a_workload().succeeded(loss=0.5), FINISHED, ("True", c.COMPLETED), a_study().suspended()
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_trial_s_conditions(case: Case) -> None:
    decision = case.decide()
    assert decision.of(c.RUNNING, 0) == case.running
    assert decision.of(c.SUCCEEDED, 0) == case.succeeded
    assert case.says in decision.message(c.RUNNING, 0) + decision.message(c.SUCCEEDED, 0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_what_is_written_is_not_written_again_and_nothing_is_stopped_before_it_stands(case: Case) -> None:
    decision = case.decide()
    assert not [each for each in decision.actions if isinstance(each, StopWorkload)]
    written = decision.ledger.trials[0].model_copy(update={"status": decision.written[0]})
    again = Decision(case.study, [], {0: case.workload} if case.workload else {}, now=case.now)
    again.ledger.put(written)
    following = plan(again.view)
    assert 0 not in {each.number for each in following.actions if hasattr(each, "status") and hasattr(each, "number")}


def test_the_table_has_every_reason_of_a_trial_but_early_stopping() -> None:
    """Early stopping needs an answer of the algorithm, and is tested below."""
    reasons = {case.running[1] for case in CASES.values()} | {case.succeeded[1] for case in CASES.values()}
    named = {c.PODS_ACTIVE, *c.WAITS, *c.GIVEN_UP, c.FINISHED, c.PENDING, c.AWAITING_RESULT, c.COMPLETED}
    assert reasons == {*named, *c.FAILURES, *c.INFEASIBILITIES, *c.FREED, "Running"}


# Early stopping


def stop(number: int = 0, **more: Any) -> Consultation:
    return Consultation(version=0, first=1, stops=(Stop(number, "median", 4),), count=0, **more)


def test_a_trial_that_the_schedule_stops_has_succeeded_early_and_says_by_which_rule() -> None:
    decision = Decision(a_study(), [a_trial(0).running()], {0: a_workload().running().curve((4, 0.7))}, asked=stop())
    assert decision.of(c.SUCCEEDED, 0) == ("True", c.EARLY_STOPPED)
    status = decision.written[0]
    assert status.stop is not None
    assert (status.stop.rule, status.stop.step) == ("median", 4)
    assert status.observation is not None
    assert [(point.step, point.value) for point in status.observation.curve] == [(4, "0.7")]


@pytest.mark.parametrize("workload", [a_workload().pending(), a_workload().gone(pods=True)])
def test_only_a_running_trial_is_stopped_early(workload: WorkloadBuilder) -> None:
    decision = Decision(a_study(), [a_trial(0)], {0: workload}, asked=stop())
    assert c.EARLY_STOPPED not in {c.reason(each.conditions, c.SUCCEEDED) for each in decision.written.values()}


def test_a_trial_that_has_ended_meanwhile_is_not_stopped_early() -> None:
    decision = Decision(a_study(), [a_trial(0).running()], {0: a_workload().succeeded(loss=0.1)}, asked=stop())
    assert decision.of(c.SUCCEEDED, 0) == ("True", c.COMPLETED)


# Waiting


@pytest.mark.parametrize("reason", sorted(c.WAITS))
def test_that_a_workload_waits_is_written_after_thirty_seconds_and_not_before(reason: str) -> None:
    def decide(now: float) -> Decision:
        return Decision(a_study().parallelism(1), [a_trial(0)], {0: a_workload().pending(reason)}, now=at(now))

    early = decide(29.0)
    assert not early.written
    assert early.plan.again_at == at(30)
    assert decide(30.0).of(c.RUNNING, 0) == ("False", reason)


def test_the_thirty_seconds_are_those_of_the_workload_not_of_its_trial() -> None:
    trial, workload = a_trial(0).given_up(c.STUDY_SUSPENDED), a_workload("w1").created(at(1000)).pending()
    assert not Decision(a_study().parallelism(1), [trial], {0: workload}, now=at(1029)).written
    assert Decision(a_study().parallelism(1), [trial], {0: workload}, now=at(1030)).of(c.RUNNING, 0) == ("False", c.CREATING)


def test_a_text_that_changes_while_a_workload_waits_is_not_written() -> None:
    trial, workload = a_trial(0).waiting(c.UNSCHEDULABLE, "0/3 nodes"), a_workload().pending(c.UNSCHEDULABLE, "0/4 nodes")
    assert not Decision(a_study().parallelism(1), [trial], {0: workload}, now=at(100)).written


def test_an_awaited_result_is_not_mentioned_before_thirty_seconds() -> None:
    workload = a_workload().succeeded(at(100)).awaiting()
    early = Decision(a_study().parallelism(1), [a_trial(0).running()], {0: workload}, now=at(129))
    assert not early.written
    assert early.plan.again_at == at(130)


def test_an_awaited_result_that_comes_counts_and_one_that_does_not_is_missing() -> None:
    found = Decision(a_study(), [a_trial(0).awaiting()], {0: a_workload().succeeded(loss=0.5)}, now=at(60))
    assert found.of(c.SUCCEEDED, 0) == ("True", c.COMPLETED)
    missing = Decision(a_study(), [a_trial(0).awaiting()], {0: a_workload().succeeded()}, now=at(60))
    assert missing.of(c.SUCCEEDED, 0) == ("False", c.OBJECTIVE_MISSING)


def test_the_time_at_which_a_timeout_will_pass_is_planned_for() -> None:
    study = limits(trial_timeout_seconds=500).parallelism(1)
    decision = Decision(study, [a_trial(0).running()], {0: a_workload().running(at(0))}, now=at(200))
    assert not decision.written
    assert decision.plan.again_at == at(500)


# Clocks apart


def test_a_timeout_begins_when_a_trial_was_seen_to_run_where_its_node_s_clock_is_ahead() -> None:
    study, ahead = limits(trial_timeout_seconds=600).parallelism(1), a_workload().running(at(3600))
    decision = Decision(study, [a_trial(0).running()], {0: ahead}, now=at(5))
    assert (decision.written, decision.plan.again_at) == ({}, at(600))
    assert Decision(study, [a_trial(0).running()], {0: ahead}, now=at(600)).of(c.SUCCEEDED, 0) == ("False", c.TIMED_OUT)


def test_that_a_trial_runs_is_written_where_its_node_s_clock_is_ahead() -> None:
    decision = Decision(a_study().parallelism(1), [a_trial(0)], {0: a_workload().running(at(3600))}, now=at(5))
    assert decision.of(c.RUNNING, 0) == ("True", c.PODS_ACTIVE)


# What is not known


@pytest.mark.parametrize(
    ("study", "trial"),
    [
        (a_study().parallelism(1), a_trial(0).running()),
        (a_study().parallelism(1), a_trial(0).given_up(c.PREEMPTED)),
        (a_study().suspended(), a_trial(0)),
        (a_study().suspended(), a_trial(0).running()),
        (limits(deadline_seconds=1).started(at(0)), a_trial(0)),
        (a_study().parallelism(0), a_trial(0)),
    ],
    ids=["running", "lost", "suspended and new", "suspended and running", "at the Study's end", "without a place to start in"],
)
def test_a_workload_that_is_not_known_is_looked_for_before_anything_is_decided(study: StudyBuilder, trial: TrialBuilder) -> None:
    decision = Decision(study, [trial], {}, now=at(60))
    assert decision.actions == [LookForWorkload(0)]


def test_the_workload_of_a_new_trial_is_started_without_a_look_because_starting_finds_it() -> None:
    assert Decision(a_study().parallelism(1), [a_trial(0)], {}).actions == [StartWorkload(0)]


def test_where_not_all_that_may_be_missing_may_start_each_is_looked_for() -> None:
    """After a restart with a lowered parallelism: one of the two may well be running."""
    decision = Decision(a_study().parallelism(1), [a_trial(0), a_trial(1)], {})
    assert decision.actions == [LookForWorkload(0), LookForWorkload(1)]


def test_the_workload_of_an_ended_trial_that_is_not_known_is_looked_for_and_keeps_its_place() -> None:
    decision = Decision(a_study().parallelism(1), [a_trial(0).completed(loss=0.5)], {})
    assert decision.actions == [LookForWorkload(0)]


# Donors


def test_a_trial_whose_donor_s_checkpoint_was_collected_before_it_started_frees_its_place() -> None:
    donor = a_trial(0).completed(loss=0.5).checkpoint(state="Collected")
    decision = Decision(a_study(), [donor, a_trial(1).restoring(0)], {0: a_workload().gone()})
    assert decision.of(c.SUCCEEDED, 1) == ("False", c.DONOR_UNAVAILABLE)
    assert "digits-0" in decision.message(c.SUCCEEDED, 1)


def test_a_trial_that_has_started_once_needs_its_donor_no_more() -> None:
    donor = a_trial(0).completed(loss=0.5).checkpoint(state="Collected")
    trial = a_trial(1).restoring(0).given_up(c.PREEMPTED)
    decision = Decision(a_study().parallelism(1), [donor, trial], {0: a_workload().gone(), 1: a_workload("w1").gone()})
    assert decision.actions == [StartWorkload(1)]


def test_a_donor_that_was_deleted_by_hand_may_still_have_its_checkpoint() -> None:
    assert Decision(a_study().parallelism(1), [a_trial(1).restoring(0)], {}).actions == [StartWorkload(1)]


# Deletion


def test_a_trial_that_is_being_deleted_is_left_alone_and_keeps_its_place() -> None:
    trial = a_trial(0).running().being_deleted()
    assert Decision(a_study().parallelism(1), [trial], {0: a_workload().disrupted()}).actions == []


def test_a_trial_that_is_being_deleted_lets_no_other_start_in_its_place() -> None:
    trials = [a_trial(0).given_up(c.PREEMPTED), a_trial(1).being_deleted()]
    seen = {0: a_workload().gone(), 1: a_workload("w1").gone()}
    assert Decision(a_study().parallelism(1), trials, seen).actions == []


def test_a_trial_deleted_by_hand_keeps_its_place_until_its_pods_have_ended() -> None:
    study, trial = a_study().parallelism(1), a_trial(0).running()
    assert Decision(study, [trial], {}, deleted=[0]).actions == [LookForWorkload(0)]
    assert Decision(study, [trial], {0: a_workload().running()}, deleted=[0]).actions == [StopWorkload(0)]
    assert Decision(study, [trial], {0: a_workload().gone(pods=True)}, deleted=[0]).actions == []
    assert [type(each).__name__ for each in Decision(study, [trial], {0: a_workload().gone()}, deleted=[0]).actions] == ["Ask"]


# The evidence


def test_the_last_write_of_a_trial_holds_all_the_evidence() -> None:
    report = measured(9, loss=(0.3, 0.2, 0.9), accuracy=(0.5, 0.1, 0.6))
    workload = a_workload().running(at(10), gpus=2).curve((1, 0.9), (9, 0.3)).succeeded(at(110), report)
    status = Decision(a_study(), [a_trial(0).running(at(10))], {0: workload}, now=at(120)).written[0]
    assert (status.start_time, status.completion_time) == (at(10), at(110))
    assert status.gpu_seconds == 200
    assert status.attempts == 1
    assert status.observation is not None
    assert status.observation.step == 9
    assert status.observation.source == "TerminationMessage"
    assert {pair.name: pair.value for pair in status.observation.metrics} == {"loss": "0.3", "accuracy": "0.5"}
    assert [(point.step, point.value) for point in status.observation.curve] == [(1, "0.9"), (9, "0.3")]


def test_a_program_s_impossible_words_do_not_stop_the_study() -> None:
    """Half a surrogate pair is no character, and a name of 200 characters does not fit a status."""
    report = measured(None, **{"loss": 0.5, "x" * 200: 1.0, "\ud800": 2.0, "": 3.0})
    status = Decision(a_study(), [a_trial(0).running()], {0: a_workload().succeeded(report=report)}).written[0]
    assert status.observation is not None
    assert [pair.name for pair in status.observation.metrics] == ["loss"]
    decision = Decision(a_study(), [a_trial(0).running()], {0: a_workload().failed(1, "last words: \udcff" + "x" * 5000)})
    assert len(decision.message(c.SUCCEEDED, 0)) == 1024
    decision.written[0].model_dump_json()
