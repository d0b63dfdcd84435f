"""What becomes of a Trial whose workload is lost, evicted, suspended, or replaces its pods by itself."""

from __future__ import annotations

import pytest
from hpo_operator import conditions as c
from hpo_operator.planner import StartWorkload, StopWorkload
from hpo_operator.workloads import ABSENT

from tests.unit.operator.builders import (
    Decision,
    a_study,
    a_trial,
    a_workload,
    at,
)

LATER = at(60)


# Losses


def test_a_lost_workload_is_given_up_then_deleted_and_when_its_pods_have_ended_another_starts() -> None:
    study, lost = a_study().parallelism(1), a_workload().disrupted()
    first = Decision(study, [a_trial(0).running()], {0: lost})
    assert [type(each).__name__ for each in first.actions] == ["WriteTrial"]
    assert first.written[0].attempts == 1
    recorded = a_trial(0).given_up(c.PREEMPTED)
    assert Decision(study, [recorded], {0: lost}).actions == [StopWorkload(0)]
    assert Decision(study, [recorded], {0: lost.deleting()}).actions == []
    assert Decision(study, [recorded], {0: a_workload().gone(pods=True)}).actions == []
    assert Decision(study, [recorded], {0: a_workload().gone()}).actions == [StartWorkload(0)]


def test_what_a_given_up_workload_still_says_is_no_result() -> None:
    """A program that is asked to stop may end well, with what it had reached."""
    trial = a_trial(0).given_up(c.STUDY_SUSPENDED)
    for workload in (a_workload().succeeded(loss=-100.0), a_workload().failed(143)):
        assert Decision(a_study().parallelism(1), [trial], {0: workload}).actions == [StopWorkload(0)]


def test_that_a_trial_runs_is_written_once_it_has_run_for_two_seconds() -> None:
    workloads = {0: a_workload().running(since=at(10))}
    early = Decision(a_study(), [a_trial(0)], workloads, now=at(11))
    assert early.written == {}
    assert early.plan.again_at == at(12)
    assert Decision(a_study(), [a_trial(0)], workloads, now=at(12)).of(c.RUNNING, 0) == ("True", c.PODS_ACTIVE)


def test_a_trial_that_ends_within_two_seconds_costs_a_single_write() -> None:
    decision = Decision(a_study(), [a_trial(0)], {0: a_workload().running(since=at(10)).succeeded(at(11), loss=0.5)}, now=at(11))
    assert decision.of(c.SUCCEEDED, 0) == ("True", c.COMPLETED)
    assert decision.written[0].start_time == at(10)


def test_the_next_workload_after_a_loss_is_another_attempt() -> None:
    decision = Decision(a_study(), [a_trial(0).given_up(c.PREEMPTED)], {0: a_workload("w1").running()})
    assert decision.written[0].attempts == 2
    assert decision.written[0].workload is not None
    assert decision.written[0].workload.uid == "w1"


def test_the_next_workload_after_a_suspension_is_not() -> None:
    decision = Decision(a_study(), [a_trial(0).given_up(c.STUDY_SUSPENDED)], {0: a_workload("w1").running()})
    assert decision.written[0].attempts == 1


def test_a_loss_with_a_suspension_behind_it_is_still_counted() -> None:
    decision = Decision(a_study().suspended(), [a_trial(0).given_up(c.PREEMPTED)], {0: a_workload().gone()})
    assert decision.of(c.RUNNING, 0) == ("False", c.STUDY_SUSPENDED)
    assert decision.written[0].attempts == 2


def test_a_second_loss_before_the_workload_was_ever_seen_running_is_counted_too() -> None:
    for workload in (a_workload("w1").disrupted(), a_workload("w1").gone()):
        decision = Decision(a_study(), [a_trial(0).given_up(c.PREEMPTED)], {0: workload})
        assert decision.of(c.RUNNING, 0) == ("False", c.PREEMPTED)
        assert decision.written[0].attempts == 2


def test_the_gpu_seconds_of_a_lost_workload_are_added_when_it_is_given_up_and_not_again_at_the_end() -> None:
    lost = a_workload().running(at(0), gpus=4).disrupted(when=at(50))
    first = Decision(a_study(), [a_trial(0).running()], {0: lost}, now=at(60))
    assert first.written[0].gpu_seconds == 200
    trial = a_trial(0).given_up(c.PREEMPTED).gpu_seconds(200)
    ending = Decision(a_study().limits(deadline_seconds=1).started(at(0)), [trial], {0: lost}, now=at(60))
    assert ending.written[0].gpu_seconds == 200


def test_the_gpu_seconds_of_a_suspended_workload_count_up_to_the_suspension() -> None:
    decision = Decision(
        a_study().suspended(), [a_trial(0).running().gpu_seconds(10)], {0: a_workload().running(at(0), gpus=2)}, now=at(30)
    )
    assert decision.written[0].gpu_seconds == 70


# Pods that a workload replaces by itself


def test_a_pod_that_replaces_a_lost_one_is_another_attempt_which_is_written_at_once() -> None:
    trial = a_trial(0).running().in_pod("first")
    decision = Decision(
        a_study().limits(trial_timeout_seconds=600), [trial], {0: a_workload().running(at(700)).in_pods("second")}, now=at(701)
    )
    assert (decision.of(c.RUNNING, 0), decision.written[0].attempts) == (("True", c.PODS_ACTIVE), 2)
    written = decision.written[0]
    assert (written.pod, c.condition(written.conditions, c.RUNNING).last_transition_time) == ("second", at(701))


@pytest.mark.parametrize("pods", [(), ("first",), ("second", "first")], ids=["to be replaced", "the same", "another beside it"])
def test_a_pod_that_was_not_replaced_is_no_other_attempt(pods: tuple[str, ...]) -> None:
    trial = a_trial(0).running().in_pod("first")
    assert Decision(a_study(), [trial], {0: a_workload().running().in_pods(*pods)}, now=LATER).written == {}


def test_the_pod_of_another_workload_and_the_one_that_a_queue_lets_in_again_are_counted_once() -> None:
    evicted = Decision(a_study(), [a_trial(0).running().in_pod("first")], {0: a_workload().queued()}, now=LATER).written[0]
    assert (evicted.attempts, evicted.pod) == (2, None)
    admitted = Decision(a_study(), [a_trial(0).evicted()], {0: a_workload().running().in_pods("second")}, now=LATER)
    assert (admitted.written[0].attempts, admitted.written[0].pod) == (2, "second")
    lost = a_trial(0).given_up(c.PREEMPTED).in_pod("first")
    started = Decision(a_study(), [lost], {0: a_workload("w1").running().in_pods("second")}, now=LATER)
    assert (started.written[0].attempts, started.written[0].pod) == (2, "second")


def test_a_pod_that_was_lost_and_replaced_before_anything_was_written_is_counted_and_not_again_later() -> None:
    again = {0: a_workload().running().in_pods("second", lost=True)}
    first = Decision(a_study(), [a_trial(0)], again, now=LATER).written[0]
    assert (first.attempts, first.pod) == (2, "second")
    assert Decision(a_study(), [a_trial(0).running().in_pod("second").attempts(2)], again, now=LATER).written == {}


def test_a_workload_that_replaces_lost_pods_for_ever_is_bounded_by_the_retries() -> None:
    trial, again = a_trial(0).running().in_pod("second").attempts(2), {0: a_workload().running().in_pods("third")}
    assert Decision(a_study().limits(max_retries=2), [trial], again, now=LATER).written[0].attempts == 3
    over = Decision(a_study().limits(max_retries=1), [trial], again, now=LATER)
    assert over.of(c.SUCCEEDED, 0) == ("False", c.RETRIES_EXHAUSTED)
    assert "lost 2 times (limits.maxRetries: 1)" in over.message(c.SUCCEEDED, 0)


def test_a_pod_that_replaces_a_lost_one_and_soon_ends_is_counted_with_the_result() -> None:
    trial = a_trial(0).running().in_pod("first")
    ended = Decision(a_study(), [trial], {0: a_workload().succeeded(loss=0.5).in_pods("second")}, now=LATER).written[0]
    assert (ended.attempts, ended.pod) == (2, "second")


# Evictions


def test_a_trial_whose_queue_takes_its_place_away_waits_with_the_same_workload_and_that_is_another_attempt() -> None:
    study, running = a_study().parallelism(1), a_trial(0).running()
    assert Decision(study, [running], {0: a_workload().queued(pods=True)}, now=LATER).actions == []
    decision = Decision(study, [running], {0: a_workload().queued().held(2, at(10), at(40))}, now=LATER)
    assert [type(each).__name__ for each in decision.actions] == ["WriteTrial"]
    status = decision.written[0]
    assert decision.of(c.RUNNING, 0) == ("False", c.QUOTA_PENDING)
    assert (status.attempts, status.evictions, status.gpu_seconds) == (2, 1, 60)
    assert Decision(study, [a_trial(0).evicted()], {0: a_workload().queued()}, now=LATER).actions == []


def test_a_trial_that_is_admitted_again_is_the_same_attempt_and_counts_what_it_holds_since() -> None:
    evicted = a_trial(0).evicted().gpu_seconds(60)
    again = a_workload().running(at(100)).held(2, at(100))
    shown = Decision(a_study(), [evicted], {0: again}, now=at(100)).written[0]
    assert (shown.attempts, shown.evictions, shown.gpu_seconds) == (2, 1, 60)
    ended = a_workload().succeeded(at(110), loss=0.5).held(2, at(100), at(110))
    assert Decision(a_study(), [evicted], {0: ended}, now=at(120)).written[0].gpu_seconds == 80


def test_what_an_evicted_trial_has_used_is_not_counted_again_when_it_is_canceled_in_its_queue() -> None:
    queued = a_workload().queued().held(2, at(10), at(40))
    trial = a_trial(0).evicted().gpu_seconds(60)
    ending = Decision(a_study().limits(deadline_seconds=1).started(at(0)), [trial], {0: queued}, now=LATER)
    assert (ending.of(c.SUCCEEDED, 0), ending.written[0].gpu_seconds) == (("False", c.CANCELED), 60)


def test_evictions_do_not_use_up_the_retries_that_are_for_losses() -> None:
    often = a_trial(0).evicted(9)
    lost = Decision(a_study().limits(max_retries=1), [often], {0: a_workload().disrupted()}, now=LATER)
    assert (lost.of(c.RUNNING, 0), lost.written[0].attempts) == (("False", c.PREEMPTED), 10)
    again = a_trial(0).evicted(9).attempts(11)
    over = Decision(a_study().limits(max_retries=1), [again], {0: a_workload().disrupted()}, now=LATER)
    assert over.of(c.SUCCEEDED, 0) == ("False", c.RETRIES_EXHAUSTED)
    assert "lost 2 times" in over.message(c.SUCCEEDED, 0)


# Suspension


def test_a_suspended_trial_s_workload_is_deleted_once_that_is_written_and_it_starts_again_on_resumption() -> None:
    recorded = a_trial(0).given_up(c.STUDY_SUSPENDED)
    suspended = a_study().suspended().parallelism(1)
    assert Decision(suspended, [recorded], {0: a_workload().running()}).actions == [StopWorkload(0)]
    assert Decision(suspended, [recorded], {0: a_workload().running().deleting()}).actions == []
    assert Decision(suspended, [recorded], {0: a_workload().gone()}).actions == []
    assert Decision(a_study().parallelism(1), [recorded], {0: a_workload().gone()}).actions == [StartWorkload(0)]


def test_a_study_resumed_while_its_pods_still_go_waits_for_them() -> None:
    recorded = a_trial(0).given_up(c.STUDY_SUSPENDED)
    for workload in (a_workload().running().deleting(), a_workload().gone(pods=True)):
        assert Decision(a_study().parallelism(1), [recorded], {0: workload}).actions == []


def test_a_trial_that_has_not_started_when_its_study_is_suspended_has_made_no_attempt() -> None:
    decision = Decision(a_study().suspended(), [a_trial(0)], {0: ABSENT})
    assert decision.of(c.RUNNING, 0) == ("False", c.STUDY_SUSPENDED)
    assert decision.written[0].attempts == 0


def test_a_workload_of_a_second_suspension_is_not_taken_for_a_loss() -> None:
    """Resumed and suspended again before the new workload was seen running."""
    trial = a_trial(0).given_up(c.STUDY_SUSPENDED)
    decision = Decision(a_study().suspended(), [trial], {0: a_workload("w1").pending()})
    assert decision.written[0].workload is not None
    assert decision.written[0].workload.uid == "w1"
    assert decision.written[0].attempts == 1
