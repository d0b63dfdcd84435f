"""Places: how many Trials there may be at once, what fills a free place, and when it is given back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hpo_algorithms import Origin, Proposal, Slot
from hpo_operator import conditions as c
from hpo_operator.planner import Ask, Consultation, CreateTrial, MaxPending, Refusal, StartWorkload, StopWorkload, plan
from hpo_operator.workloads import ABSENT, Workload

from tests.unit.operator.builders import Decision, StudyBuilder, TrialBuilder, WorkloadBuilder, a_study, a_trial, a_workload, at

RUNNING = a_workload().running()
HALF, QUARTER = Proposal({"x": 0.5}), Proposal({"x": 0.25})


def decide(study: StudyBuilder, *trials: TrialBuilder, asked: Any = None, seen: Any = None, **more: Any) -> Decision:
    """With the algorithm's answer on all that is known, `asked` being (proposals, count) or more of it."""
    workloads: dict[int, Any] = {each.build().spec.number: ABSENT for each in trials} | (seen or {})
    known = Decision(study, trials, workloads, **more).ledger
    answer = None
    if asked is not None:
        proposals, count = asked
        answer = Consultation(known.version, known.created, proposals, count=count)
    return Decision(study, trials, workloads, asked=answer, **more)


def completed(number: int) -> TrialBuilder:
    return a_trial(number).completed(loss=0.5)


# Filling


def test_free_places_are_asked_for_all_at_once() -> None:
    assert decide(a_study().parallelism(5)).actions == [Ask(0, 5)]


WAITING = a_workload().pending(c.UNSCHEDULABLE)


def test_no_more_is_created_while_as_many_wait_for_their_pods_as_the_installer_allows() -> None:
    study, trials = a_study().parallelism(9), [a_trial(0), a_trial(1), a_trial(2)]
    seen = {0: RUNNING, 1: WAITING, 2: WAITING}
    assert decide(study, *trials, seen=seen, max_pending=MaxPending(2)).actions == []
    assert decide(study, *trials, seen=seen, max_pending=MaxPending(4)).actions == [Ask(3, 2)]
    assert decide(study, *trials, seen=seen).actions == [Ask(3, 6)]


def test_pods_that_wait_of_other_studies_count_too_and_all_pods_of_a_workload() -> None:
    study, trials, seen = a_study().parallelism(9), [a_trial(0), a_trial(1)], {0: RUNNING, 1: WAITING}
    assert decide(study, *trials, seen=seen, max_pending=MaxPending(8, elsewhere=3)).actions == [Ask(2, 4)]
    assert decide(study, *trials, seen=seen, max_pending=MaxPending(8, elsewhere=7)).actions == []
    assert decide(study, *trials, seen=seen, max_pending=MaxPending(8, pods=3)).actions == [Ask(2, 1)]


def test_a_workload_with_more_pods_than_may_wait_is_created_when_nothing_else_waits() -> None:
    study = a_study().parallelism(9)
    assert decide(study, a_trial(0), seen={0: RUNNING}, max_pending=MaxPending(8, pods=16)).actions == [Ask(1, 1)]
    assert decide(study, a_trial(0), seen={0: RUNNING}, max_pending=MaxPending(8, elsewhere=1, pods=16)).actions == []


def test_what_waits_in_a_queue_has_no_pods_and_keeps_nothing_from_being_created() -> None:
    queued = {0: a_workload().queued(), 1: a_workload().queued()}
    assert decide(a_study().parallelism(3), a_trial(0), a_trial(1), seen=queued, max_pending=MaxPending(1)).actions == [Ask(2, 1)]


def test_trials_that_wait_to_be_started_start_first_and_one_after_the_other() -> None:
    study, trials = a_study().parallelism(9), [a_trial(0), a_trial(1), a_trial(2)]
    assert decide(study, *trials, max_pending=MaxPending(2)).actions == [StartWorkload(0), StartWorkload(1)]
    assert decide(study, *trials, seen={0: RUNNING, 1: WAITING}, max_pending=MaxPending(2)).actions == [StartWorkload(2)]


def test_each_proposal_becomes_a_trial_and_its_workload_in_ascending_number() -> None:
    decision = decide(a_study(), completed(0), asked=((HALF, QUARTER), 2))
    kinds = [type(each) for each in decision.actions]
    assert kinds == [CreateTrial, StartWorkload, CreateTrial, StartWorkload]
    assert [each.trial.spec.number for each in decision.actions[::2]] == [1, 2]
    assert [each.number for each in decision.actions[1::2]] == [1, 2]


def test_all_free_places_are_filled_by_one_plan() -> None:
    """Only eight were once, so that the workloads of the first got in the way of the creation of the rest."""
    decision = decide(a_study().parallelism(100), asked=((HALF, QUARTER) * 50, 100))
    assert sum(isinstance(each, CreateTrial) for each in decision.actions) == 100


def test_a_trial_holds_all_that_the_proposal_says_and_whose_it_is() -> None:
    made = Proposal({"x": 0.5}, 9, Slot(rung=1, member=3), memo="m", origin=Origin.PROMOTED, donor=0)
    donor = completed(0).checkpoint(step=3)
    (create, _) = decide(a_study(), donor, asked=((made,), 1)).actions
    trial = create.trial
    assert trial.metadata.name == "digits-1"
    assert trial.metadata.namespace == "team-a"
    assert (trial.spec.study_ref.name, trial.spec.study_ref.uid) == ("digits", "study-uid")
    assert [(pair.name, pair.value) for pair in trial.spec.parameters] == [("x", "0.5")]
    assert (trial.spec.budget, trial.spec.memo, trial.spec.origin) == (9, "m", "Promoted")
    assert trial.spec.slot is not None
    assert (trial.spec.slot.rung, trial.spec.slot.member, trial.spec.slot.bracket) == (1, 3, None)
    assert trial.spec.restore_from is not None
    assert (trial.spec.restore_from.trial_name, trial.spec.restore_from.step) == ("digits-0", 3)


def test_no_more_trials_are_created_than_there_are_places() -> None:
    study = a_study().parallelism(2)
    decision = decide(study, a_trial(0).running(), seen={0: RUNNING}, asked=((HALF, QUARTER), 2))
    assert [type(each) for each in decision.actions] == [CreateTrial, StartWorkload]


def test_no_more_trials_are_created_than_the_limit_allows() -> None:
    assert decide(a_study().parallelism(5).limits(max_trials=3), completed(0)).actions == [Ask(1, 2)]


def test_an_answer_for_other_numbers_is_asked_for_anew() -> None:
    stale = Consultation(version=0, first=7, proposals=(HALF,), count=1)
    assert Decision(a_study(), asked=stale).actions == [Ask(0, 2)]


def test_an_answer_that_is_a_little_old_is_still_of_use() -> None:
    """It was asked for when Trial 0 still ran: what it proposes for Trial 1 is as good as it was."""
    old = Consultation(version=0, first=1, proposals=(HALF,), count=1)
    decision = Decision(a_study().parallelism(1), [completed(0)], {0: ABSENT}, asked=old)
    assert [type(each) for each in decision.actions] == [CreateTrial, StartWorkload]


def test_an_algorithm_that_waits_is_asked_again_when_something_has_changed_and_not_before() -> None:
    study, trials, seen = a_study(), [a_trial(0).running()], {0: RUNNING}
    assert decide(study, *trials, seen=seen, asked=((), 1)).actions == []
    old = Consultation(version=0, first=1, count=1)
    assert Decision(study, trials, seen, asked=old).actions == [Ask(1, 1)]


def test_an_algorithm_that_was_asked_for_nothing_is_asked_when_a_place_is_free() -> None:
    assert decide(a_study(), a_trial(0).running(), seen={0: RUNNING}, asked=((), 0)).actions == [Ask(1, 1)]


def test_whom_to_stop_is_asked_when_curves_have_grown_though_no_place_is_free() -> None:
    study = a_study().by("random", "median").parallelism(1)
    trials, seen = [a_trial(0).running()], {0: RUNNING}
    assert decide(study, *trials, seen=seen, stopping=True).actions == [Ask(1, 0)]
    assert decide(study, *trials, seen=seen, stopping=True, asked=((), 0)).actions == []
    assert decide(study, *trials, seen=seen, stopping=False).actions == []


@pytest.mark.parametrize("study", [a_study().parallelism(0), a_study().suspended(), a_study().limits(max_trials=1)])
def test_nothing_is_asked_where_nothing_may_be_created(study: StudyBuilder) -> None:
    assert decide(study, completed(0)).actions == []


def test_nothing_is_created_while_creations_are_refused_and_it_is_tried_again_later() -> None:
    refusal = Refusal(c.CREATION_REFUSED, "quota", at(30))
    early = decide(a_study(), asked=((HALF,), 2), refusal=refusal, now=at(10))
    assert early.actions == []
    assert early.plan.again_at == at(30)
    later = decide(a_study(), asked=((HALF,), 2), refusal=refusal, now=at(30))
    assert [type(each) for each in later.actions] == [CreateTrial, StartWorkload]
    assert later.of(c.PROGRESSING) == ("False", c.CREATION_REFUSED)


def test_what_is_refused_for_good_is_not_tried_again() -> None:
    decision = decide(a_study(), a_trial(0), asked=((HALF,), 2), refusal=Refusal(c.KIND_NOT_ALLOWED, "no"), now=at(1e6))
    assert decision.actions == []


def test_a_refusal_does_not_keep_results_from_being_taken() -> None:
    refusal = Refusal(c.CREATION_REFUSED, "quota", at(30))
    decision = decide(a_study(), a_trial(0).running(), seen={0: a_workload().succeeded(loss=0.1)}, refusal=refusal)
    assert decision.of(c.SUCCEEDED, 0) == ("True", c.COMPLETED)


# Donors


@pytest.mark.parametrize("donor", [completed(0), completed(0).checkpoint(state="Collected")])
def test_a_promotion_whose_checkpoint_is_gone_is_trained_from_the_beginning(donor: TrialBuilder) -> None:
    risen = Proposal({"x": 0.5}, 9, donor=0, origin=Origin.PROMOTED)
    (create, _) = decide(a_study().parallelism(1), donor, asked=((risen,), 1)).actions
    assert create.trial.spec.restore_from is None


@pytest.mark.parametrize("donor", [0, 5], ids=["without a checkpoint", "unknown"])
def test_another_s_weights_that_are_not_there_are_asked_for_anew_when_the_answer_is_old(donor: int) -> None:
    perturbed = Proposal({"x": 0.5}, donor=donor, origin=Origin.PERTURBED)
    old = Consultation(version=0, first=1, proposals=(perturbed,), count=1)
    assert Decision(a_study().parallelism(1), [completed(0)], {0: ABSENT}, asked=old).actions == [Ask(1, 1)]


def test_another_s_weights_that_never_were_there_create_nothing() -> None:
    perturbed = Proposal({"x": 0.5}, donor=0, origin=Origin.PERTURBED)
    decision = decide(a_study(), completed(0), asked=((perturbed,), 2))
    assert decision.actions == []
    assert decision.of(c.PROGRESSING) == ("False", c.ALGORITHM_ERROR)


# Giving back


@pytest.mark.parametrize(
    ("workload", "free"),
    [
        (a_workload().succeeded(loss=0.5), 1),
        (a_workload().succeeded(loss=0.5).lingering(), 0),
        (replace(a_workload().pending().build(), ended=True, deleting=True), 0),
        (a_workload().running().deleting(), 0),
        (a_workload().gone(pods=True), 0),
        (a_workload().gone(), 1),
    ],
    ids=[
        "its pods have ended",
        "a pod of it lingers",
        "it has no pod yet but will",
        "it is being deleted",
        "it is gone but its pods run",
        "it is gone",
    ],
)
def test_the_place_of_an_ended_trial_is_free_when(workload: WorkloadBuilder | Workload, free: int) -> None:
    asks = [each for each in decide(a_study().parallelism(1), completed(0), seen={0: workload}).actions if isinstance(each, Ask)]
    assert len(asks) == free


def test_an_ended_trial_s_workload_that_still_runs_is_stopped_once() -> None:
    study = a_study().parallelism(1)
    early = a_trial(0).stopped_early()
    assert decide(study, early, seen={0: RUNNING}).actions == [StopWorkload(0)]
    assert decide(study, early, seen={0: RUNNING.deleting()}).actions == []


def test_a_canceled_trial_s_workload_that_has_no_pod_yet_is_stopped_at_once() -> None:
    """None of its pods runs, but it will soon have one."""
    canceled, pending = a_trial(0).over(c.CANCELED), replace(a_workload().pending().build(), ended=True)
    assert decide(a_study().parallelism(1), canceled, seen={0: pending}).actions == [StopWorkload(0)]


def test_an_ended_workload_is_kept_for_its_time_to_live_and_then_deleted() -> None:
    study, trial = a_study().parallelism(0).ttl(600), a_trial(0).completed(at(100), loss=0.5)
    seen = {0: a_workload().succeeded(at(100), loss=0.5)}
    early = decide(study, trial, seen=seen, now=at(699))
    assert early.actions == []
    assert early.plan.again_at == at(700)
    assert decide(study, trial, seen=seen, now=at(700)).actions == [StopWorkload(0)]


def test_the_same_holds_for_those_of_which_it_is_known_that_their_place_is_free() -> None:
    study = a_study().parallelism(0).ttl(600)
    decision = decide(study, *(a_trial(n).completed(at(100 * n), loss=0.5) for n in range(3)))
    for number in (2, 0, 1):
        decision.ledger.settle(number)
    following = plan(replace(decision.view, now=at(700), workloads={}))
    assert [each for each in following.actions if isinstance(each, StopWorkload)] == [StopWorkload(0), StopWorkload(1)]
    assert following.again_at == at(800)


def test_a_time_to_live_that_is_changed_holds_for_what_has_ended_before() -> None:
    trial, seen = a_trial(0).completed(at(100), loss=0.5), {0: a_workload().succeeded(at(100), loss=0.5)}
    assert decide(a_study().parallelism(0).ttl(0), trial, seen=seen, now=at(103)).actions == [StopWorkload(0)]


def test_a_workload_is_not_removed_while_another_operator_may_be_about_to_create_it() -> None:
    """Two operators with a time to live of 0 made a quick Trial's workload twice: one had removed it before the other's request."""
    trial, seen = a_trial(0).completed(at(100), loss=0.5), {0: a_workload().succeeded(at(100), loss=0.5)}
    decision = decide(a_study().parallelism(0).ttl(0), trial, seen=seen, now=at(100))
    assert (decision.actions, decision.plan.again_at) == ([], at(103))


def test_a_workload_that_has_ended_for_another_operator_is_not_stopped_before_this_one_sees_it() -> None:
    """It was deleted, and its logs with it, however long it was to be kept."""
    trial, seen = a_trial(0).completed(at(100), loss=0.5), {0: a_workload().running(at(50))}
    decision = decide(a_study().parallelism(0).ttl(600), trial, seen=seen, now=at(101))
    assert (decision.actions, decision.plan.again_at) == ([], at(103))
    assert decide(a_study().parallelism(0).ttl(600), trial, seen=seen, now=at(103)).actions == [StopWorkload(0)]


def test_the_workloads_of_a_study_that_is_over_are_deleted_like_all_others() -> None:
    study = a_study().limits(max_trials=1).ttl(10)
    trial, seen = a_trial(0).completed(at(0), loss=0.5), {0: a_workload().succeeded(loss=0.5)}
    done = decide(study, trial, seen=seen, now=at(5))
    assert done.plan.again_at == at(10)
    assert decide(study.standing_at(done.status), trial, seen=seen, now=at(10)).actions == [StopWorkload(0)]


def test_a_workload_that_was_never_created_needs_no_deletion() -> None:
    trial = a_trial(0).over(c.WORKLOAD_REJECTED)
    assert decide(a_study().parallelism(0).ttl(0), trial, seen={0: a_workload().refused("no")}).actions == []


# Parallelism that was lowered


def test_a_lowered_parallelism_ends_nothing() -> None:
    trials = [a_trial(0).running(), a_trial(1).running()]
    seen = {0: RUNNING, 1: a_workload("w1").running()}
    assert decide(a_study().parallelism(1), *trials, seen=seen).actions == []


def test_after_a_suspension_no_more_trials_start_than_there_are_places_now() -> None:
    trials = [a_trial(number).given_up(c.STUDY_SUSPENDED) for number in range(4)]
    assert decide(a_study().parallelism(2), *trials).actions == [StartWorkload(0), StartWorkload(1)]


def test_a_lost_workload_is_not_replaced_while_others_fill_the_lowered_parallelism() -> None:
    trials = [a_trial(0).given_up(c.PREEMPTED), a_trial(1).running()]
    assert decide(a_study().parallelism(1), *trials, seen={1: a_workload("w1").running()}).actions == []


def test_with_parallelism_0_a_lost_workload_waits_until_there_is_a_place_again() -> None:
    decision = decide(a_study().parallelism(0), a_trial(0).given_up(c.PREEMPTED))
    assert decision.actions == []
    assert decision.of(c.PROGRESSING) == ("False", c.TRIALS_PENDING)
