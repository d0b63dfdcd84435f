"""Where a Study stands: each of its conditions and reasons, each limit, each way to end, and what its status says of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from hpo_algorithms import Proposal
from hpo_algorithms.trials import SCHEDULE_FINISHED, SEARCH_EXHAUSTED
from hpo_operator import conditions as c
from hpo_operator.planner import Ask, Consultation, Refusal, WriteStudy, plan, rejected
from hpo_operator.resources import StudyStatus, TrialCounts
from hpo_operator.study_lifecycle import will_ask
from hpo_operator.workloads import ABSENT

from tests.unit.operator.builders import (
    START,
    Decision,
    StudyBuilder,
    TrialBuilder,
    WorkloadBuilder,
    a_study,
    a_trial,
    a_workload,
    at,
)

EARLIER, LATER = at(30), at(60)
GOING_ON = ("Unknown", c.IN_PROGRESS)
ACTIVE = ("True", c.TRIALS_ACTIVE)
FINISHED = ("False", c.FINISHED)


def completed(number: int, loss: float = 0.5) -> TrialBuilder:
    return a_trial(number).completed(loss=loss)


def failed(number: int, message: str = "exit code 1") -> TrialBuilder:
    return a_trial(number).over(c.PROGRAM_FAILED, message)


def infeasible(number: int) -> TrialBuilder:
    return a_trial(number).over(c.INFEASIBLE, "too large")


def answered(finished: str = "", *, error: str = "", count: int | None = 2, proposals: tuple[Proposal, ...] = ()) -> Any:
    """The algorithm's answer, on all that is known."""

    def of(decision: Decision) -> Consultation:
        return Consultation(decision.ledger.version, decision.ledger.created, proposals, finished, (), error, count)

    return of


@dataclass
class Case:
    """A Study and its Trials, whose workloads are gone unless they are given, and what its status then says."""

    study: StudyBuilder
    trials: list[TrialBuilder] = field(default_factory=list)
    progressing: tuple[str, str] = ACTIVE
    succeeded: tuple[str, str] = GOING_ON
    says: str = ""
    workloads: dict[int, WorkloadBuilder] = field(default_factory=dict)
    asked: Any = None
    refusal: Refusal | None = None
    accepted: tuple[str, str] = ("True", c.VALID)
    now: datetime = LATER

    def decide(self) -> Decision:
        seen = {each.build().spec.number: ABSENT for each in self.trials} | self.workloads
        first = Decision(self.study, self.trials, seen, now=self.now, refusal=self.refusal)
        asked = self.asked(first) if self.asked else None
        return Decision(self.study, self.trials, seen, now=self.now, asked=asked, refusal=self.refusal)


def over(truth: c.Truth, reason: str, *, when: datetime = EARLIER) -> StudyStatus:
    """The status of a Study that was over before."""
    found = c.put((), c.ACCEPTED, "True", c.VALID, "", START, 1)
    found = c.put(found, c.PROGRESSING, "False", c.FINISHED, "", when, 1)
    found = c.put(found, c.SUCCEEDED, truth, reason, "as it was said then", when, 1)
    return StudyStatus(seed=0, conditions=found, start_time=START, completion_time=when, trials=TrialCounts(created=1))


def ended(study: StudyBuilder, reason: str, truth: c.Truth = "True", **more: Any) -> StudyBuilder:
    return study.standing_at(over(truth, reason, **more))


RUNNING = {0: a_workload().running()}
QUOTA = Refusal(c.CREATION_REFUSED, "exceeded quota: count/trials.hpo.dev", at(70))
FULL = a_study().parallelism(1)

CASES = {
    "a new Study is accepted and in progress": Case(a_study()),
    "a Study whose Trials run is in progress": Case(FULL, [a_trial(0).running()], workloads=RUNNING),
    "a suspended Study says how to go on": Case(a_study().suspended(), progressing=("False", c.SUSPENDED), says="spec.suspend"),
    "a Study with parallelism 0 says so once nothing runs": Case(
        a_study().parallelism(0), progressing=("False", c.TRIALS_PENDING), says="parallelism is 0"
    ),
    "a Study with parallelism 0 goes on while a Trial still runs": Case(
        a_study().parallelism(0), [a_trial(0).running()], workloads=RUNNING
    ),
    "a Study all of whose Trials have been waiting long says for what": Case(
        FULL,
        [a_trial(0).waiting(c.UNSCHEDULABLE, "0/3 nodes")],
        ("False", c.TRIALS_PENDING),
        workloads={0: a_workload().pending(c.UNSCHEDULABLE, "0/3 nodes")},
        says="digits-0: Unschedulable. 0/3 nodes",
    ),
    "a Study whose Trials wait for a moment does not say so": Case(
        FULL, [a_trial(0).completed(loss=0.5), a_trial(1)], workloads={1: a_workload("w1").pending()}, now=at(5)
    ),
    "a Study one of whose Trials runs is not pending": Case(
        a_study(),
        [a_trial(0).waiting(c.UNSCHEDULABLE), a_trial(1).running()],
        workloads={0: a_workload().pending(c.UNSCHEDULABLE), 1: a_workload("w1").running()},
    ),
    "a Study for which nothing can be created says why": Case(
        a_study(), progressing=("False", c.CREATION_REFUSED), refusal=QUOTA, says="exceeded quota"
    ),
    "a Study some of whose Trials run while others are refused goes on and says why": Case(
        a_study(), [a_trial(0).running()], workloads=RUNNING, refusal=QUOTA, says="exceeded quota"
    ),
    "a Study that meets another's objects says so": Case(
        a_study(),
        progressing=("False", c.NAME_CONFLICT),
        refusal=Refusal(c.NAME_CONFLICT, "Trial digits-0 belongs to another Study.", at(70)),
        says="digits-0",
    ),
    "an algorithm that fails and has no fallback stops the Study": Case(
        a_study(), progressing=("False", c.ALGORITHM_ERROR), asked=answered(error="ValueError: no"), says="ValueError: no"
    ),
    "an algorithm that fails is stood in for": Case(
        a_study(), asked=answered(error="ValueError: no", proposals=(Proposal({"x": 0.5}),)), says="quasi-randomly: ValueError"
    ),
    "an algorithm that fails while Trials run does not stop the Study": Case(
        FULL, [a_trial(0).running()], workloads=RUNNING, asked=answered(error="ValueError: no"), says="ValueError"
    ),
    "an algorithm that proposes nothing while nothing is active is in error": Case(
        a_study(), [completed(0)], ("False", c.ALGORITHM_ERROR), asked=answered(), says="proposes nothing"
    ),
    "an algorithm that was asked for no proposals is not": Case(a_study(), [completed(0)], asked=answered(count=0)),
    "an algorithm that waits for what is active is not": Case(
        a_study(), [a_trial(0).running()], workloads=RUNNING, asked=answered()
    ),
    "an algorithm that wants a checkpoint that does not exist is in error": Case(
        a_study(),
        [completed(0)],
        ("False", c.ALGORITHM_ERROR),
        asked=answered(proposals=(Proposal({"x": 0.5}, donor=0),)),
        says="Trial 0",
    ),
    "a Study whose number of Trials is reached has succeeded": Case(
        a_study().limits(max_trials=2), [completed(0), completed(1)], FINISHED, ("True", c.MAX_TRIALS_REACHED), says="(2)"
    ),
    "a Study whose last Trial still runs has not": Case(a_study().limits(max_trials=1), [a_trial(0).running()], workloads=RUNNING),
    "a Study whose number of Trials is lowered below what there is has succeeded": Case(
        a_study().limits(max_trials=1), [completed(0), completed(1)], FINISHED, ("True", c.MAX_TRIALS_REACHED)
    ),
    "a Study whose number of Trials is lowered lets what runs come to its end": Case(
        a_study().limits(max_trials=1), [completed(1), a_trial(0).running()], workloads=RUNNING
    ),
    "a target that is reached ends the Study": Case(
        a_study().minimizing("loss", target=0.5), [completed(0, 0.5)], FINISHED, ("True", c.TARGET_REACHED), says="digits-0"
    ),
    "a target to be maximised is reached from below": Case(
        a_study().maximizing("loss", target=0.5), [completed(0, 0.6)], FINISHED, ("True", c.TARGET_REACHED)
    ),
    "a target that is missed does not": Case(a_study().minimizing("loss", target=0.5), [completed(0, 0.51)]),
    "a target to be maximised that is missed does not": Case(a_study().maximizing("loss", target=0.5), [completed(0, 0.49)]),
    "a target counts at the highest budget only": Case(
        a_study().minimizing("loss", target=0.5).budget(1, 9).by("random", "asha"), [completed(0, 0.1).budget(3)]
    ),
    "a target at the highest budget counts": Case(
        a_study().minimizing("loss", target=0.5).budget(1, 9).by("random", "asha"),
        [completed(0, 0.1).budget(9)],
        FINISHED,
        ("True", c.TARGET_REACHED),
    ),
    "a target reached by breaking a constraint does not count": Case(
        a_study().minimizing("loss", target=0.5).constrained("latency", "LessOrEqual", 1.0),
        [a_trial(0).completed(loss=0.1, latency=2.0)],
    ),
    "a search that has tried everything is over": Case(
        a_study(), [completed(0)], FINISHED, ("True", c.SEARCH_EXHAUSTED), asked=answered(SEARCH_EXHAUSTED), says="Every"
    ),
    "a schedule that has come to its end ends the Study": Case(
        a_study(), [completed(0)], FINISHED, ("True", c.SCHEDULE_FINISHED), asked=answered(SCHEDULE_FINISHED)
    ),
    "a finished algorithm waits for what still runs": Case(
        a_study(), [a_trial(0).running()], workloads=RUNNING, asked=answered(SCHEDULE_FINISHED)
    ),
    "a population that is lost fails the Study": Case(
        a_study(), [completed(0)], FINISHED, ("False", c.POPULATION_LOST), asked=answered(c.POPULATION_LOST), says="No member"
    ),
    "a deadline that has passed ends the Study": Case(
        a_study().limits(deadline_seconds=60).started(at(0)), [completed(0)], FINISHED, ("True", c.DEADLINE_REACHED), says="(60)"
    ),
    "a deadline that has not passed does not": Case(a_study().limits(deadline_seconds=61).started(at(0)), [completed(0)]),
    "GPU-seconds that are spent end the Study": Case(
        a_study().limits(gpu_seconds=100), [completed(0).gpu_seconds(100)], FINISHED, ("True", c.GPU_BUDGET_SPENT), says="(100)"
    ),
    "too many failures fail the Study and say by the newest what to look at": Case(
        a_study().limits(max_failed_trials=1),
        [failed(0, "old"), completed(1), failed(2, "CUDA out of memory")],
        FINISHED,
        ("False", c.TOO_MANY_FAILURES),
        says="2 Trials have failed (limits.maxFailedTrials: 1). digits-2: ProgramFailed: CUDA out of memory",
    ),
    "as many failures as are allowed do not": Case(a_study().limits(max_failed_trials=2), [failed(0), failed(1)]),
    "infeasible Trials are no failures": Case(a_study().limits(max_failed_trials=0), [infeasible(0), infeasible(1)]),
    "canceled Trials are no failures": Case(a_study().limits(max_failed_trials=0), [a_trial(0).over(c.CANCELED)]),
    "a Study without any result has failed, whatever ended it": Case(
        a_study().limits(max_trials=2, max_failed_trials=5),
        [failed(0), infeasible(1)],
        FINISHED,
        ("False", c.NO_RESULT),
        says="(MaxTrialsReached): 1 failed, 1 infeasible. digits-1: Infeasible: too large",
    ),
    "a Study that only has results that break a constraint has none": Case(
        a_study().constrained("latency", "LessOrEqual", 1.0).limits(max_trials=1),
        [a_trial(0).completed(loss=0.1, latency=2.0)],
        FINISHED,
        ("False", c.NO_RESULT),
    ),
    "a Study that only has Trials stopped early has no result": Case(
        a_study().limits(max_trials=1), [a_trial(0).stopped_early(loss=0.1)], FINISHED, ("False", c.NO_RESULT)
    ),
    "failures come before the target": Case(
        a_study().minimizing("loss", target=1.0).limits(max_failed_trials=0),
        [completed(0), failed(1)],
        FINISHED,
        ("False", c.TOO_MANY_FAILURES),
    ),
    "what is over stays over, with what was said then": Case(
        ended(a_study(), c.TARGET_REACHED), [completed(0)], FINISHED, ("True", c.TARGET_REACHED), says="as it was said then"
    ),
    "an exhausted search stays exhausted though nobody is asked again": Case(
        ended(a_study(), c.SEARCH_EXHAUSTED), [completed(0)], FINISHED, ("True", c.SEARCH_EXHAUSTED)
    ),
    "a failed Study stays failed though it is allowed more failures": Case(
        ended(a_study().limits(max_failed_trials=9), c.TOO_MANY_FAILURES, "False"),
        [failed(0)],
        FINISHED,
        ("False", c.TOO_MANY_FAILURES),
    ),
    "a Study whose number of Trials is raised goes on": Case(
        ended(a_study().limits(max_trials=2), c.MAX_TRIALS_REACHED), [completed(0)]
    ),
    "a Study whose number of Trials is taken away goes on": Case(ended(a_study(), c.MAX_TRIALS_REACHED), [completed(0)]),
    "a Study whose deadline is raised goes on": Case(
        ended(a_study().limits(deadline_seconds=40), c.DEADLINE_REACHED), [completed(0)], now=at(100_000)
    ),
    "a Study whose deadline is not raised enough does not": Case(
        ended(a_study().limits(deadline_seconds=30), c.DEADLINE_REACHED), [completed(0)], FINISHED, ("True", c.DEADLINE_REACHED)
    ),
    "a Study whose GPU-seconds are raised goes on": Case(
        ended(a_study().limits(gpu_seconds=200), c.GPU_BUDGET_SPENT), [completed(0).gpu_seconds(100)]
    ),
    "a Study whose GPU-seconds are not raised does not": Case(
        ended(a_study().limits(gpu_seconds=100), c.GPU_BUDGET_SPENT),
        [completed(0).gpu_seconds(100)],
        FINISHED,
        ("True", c.GPU_BUDGET_SPENT),
    ),
    "a Study that has reached its number of Trials is not ended once more by a later deadline": Case(
        ended(a_study().limits(max_trials=1, deadline_seconds=1000), c.MAX_TRIALS_REACHED),
        [completed(0)],
        FINISHED,
        ("True", c.MAX_TRIALS_REACHED),
        now=at(100_000),
    ),
    "a template that is refused later stops new Trials only": Case(
        FULL,
        [a_trial(0).running()],
        workloads=RUNNING,
        refusal=Refusal(c.TEMPLATE_CHANGED, "the template was changed"),
        accepted=("False", c.TEMPLATE_CHANGED),
    ),
    **{
        f"a Study that is not accepted for {reason} runs nothing": Case(
            a_study(),
            progressing=("False", c.TRIALS_PENDING),
            refusal=Refusal(reason, "because"),
            accepted=("False", reason),
            says="Accepted",
        )
        for reason in sorted(c.REJECTIONS)
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_study_s_conditions(case: Case) -> None:
    decision = case.decide()
    assert decision.of(c.PROGRESSING) == case.progressing
    assert decision.of(c.SUCCEEDED) == case.succeeded
    assert decision.of(c.ACCEPTED) == case.accepted
    assert case.says in decision.message(c.PROGRESSING) + decision.message(c.SUCCEEDED)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_status_that_stands_is_not_written_again(case: Case) -> None:
    decision = case.decide()
    study = case.study.standing_at(decision.status).build()
    for later in (case.now, case.now.replace(microsecond=1)):
        again = plan(dataclasses.replace(decision.view, study=study, now=later))
        assert not [each for each in again.actions if isinstance(each, WriteStudy)]


def test_the_table_has_every_reason_of_a_study_that_is_decided_here() -> None:
    assert {case.progressing[1] for case in CASES.values()} == {
        c.TRIALS_ACTIVE,
        c.SUSPENDED,
        c.TRIALS_PENDING,
        c.CREATION_REFUSED,
        c.ALGORITHM_ERROR,
        c.NAME_CONFLICT,
        c.FINISHED,
    }
    assert {case.succeeded[1] for case in CASES.values()} == {
        *c.RAISABLE,
        c.IN_PROGRESS,
        c.TARGET_REACHED,
        c.SEARCH_EXHAUSTED,
        c.SCHEDULE_FINISHED,
        c.TOO_MANY_FAILURES,
        c.NO_RESULT,
        c.POPULATION_LOST,
    }
    assert {case.accepted[1] for case in CASES.values()} == {c.VALID, *c.REJECTIONS}


def test_each_condition_tells_for_which_generation_it_was_decided() -> None:
    study = a_study().parallelism(3).limits(max_trials=5)
    status = Decision(study).status
    assert status.observed_generation == 3
    assert {condition.observed_generation for condition in status.conditions} == {3}


def test_a_study_that_cannot_be_planned_at_all_still_gets_its_conditions() -> None:
    study = a_study().build()
    status = rejected(study, Refusal(c.INVALID_SPACE, "spec.parameters[0].float.min: must be below max"), START)
    assert c.reason(status.conditions, c.ACCEPTED) == c.INVALID_SPACE
    assert c.reason(status.conditions, c.PROGRESSING) == c.TRIALS_PENDING
    assert c.reason(status.conditions, c.SUCCEEDED) == c.IN_PROGRESS
    again = study.model_copy(update={"status": status})
    assert rejected(again, Refusal(c.INVALID_SPACE, "spec.parameters[0].float.min: must be below max"), LATER) == status


def test_a_study_that_is_over_waits_for_no_trials_though_its_kind_is_not_allowed_any_more() -> None:
    over = Decision(a_study().limits(max_trials=1), [completed(0)], {0: ABSENT}).status
    study = a_study().standing_at(over).build()
    status = rejected(study, Refusal(c.KIND_NOT_ALLOWED, "Allowed: batch/v1 Job."), LATER)
    assert c.reason(status.conditions, c.ACCEPTED) == c.KIND_NOT_ALLOWED
    assert c.reason(status.conditions, c.PROGRESSING) == c.FINISHED
    assert c.reason(status.conditions, c.SUCCEEDED) == c.MAX_TRIALS_REACHED


def test_trials_deleted_after_the_end_take_nothing_from_what_was_found() -> None:
    """People delete Trials to tidy up; the Study still tells its best."""
    study = a_study().limits(max_trials=2)
    first = Decision(study, [completed(0), completed(1)], {0: ABSENT, 1: ABSENT})
    later = Decision(study.standing_at(first.status), [completed(1)], {1: ABSENT}, deleted=[1], now=at(1e6))
    assert later.ledger.best() == ()
    assert later.status == first.status


def test_a_study_that_is_being_deleted_is_left_alone() -> None:
    decision = Decision(a_study().being_deleted(), [a_trial(0).running()], {0: a_workload().succeeded(loss=0.5)})
    assert decision.plan.actions == []


# What the algorithm's error leaves behind


def test_an_algorithm_that_is_asked_again_after_an_error_does_not_make_the_status_flap() -> None:
    error = answered(error="ValueError: no")
    first = Decision(a_study(), asked=error(Decision(a_study())))
    again = Decision(a_study().standing_at(first.status))
    assert again.plan.actions == [Ask(0, 2)]


# The clock


def suspended_since(when: datetime, **limits: int) -> StudyBuilder:
    """A Study that started at 0, was suspended, and is now resumed."""
    first = Decision(a_study().limits(**limits).started(at(0)).suspended(), now=when)
    return a_study().limits(**limits).suspended(False).standing_at(first.status)


def test_the_deadline_s_clock_stands_still_while_the_study_is_suspended() -> None:
    study = suspended_since(at(40), deadline_seconds=60)
    waiting = Decision(study.suspended(), now=at(100_000))
    assert waiting.of(c.SUCCEEDED) == GOING_ON
    assert waiting.plan.again_at is None
    resumed = Decision(study, now=at(100_040))
    assert resumed.of(c.SUCCEEDED) == GOING_ON
    assert resumed.status.start_time == at(100_000)
    assert resumed.plan.again_at == at(100_060)
    later = Decision(study.standing_at(resumed.status), [completed(0)], {0: ABSENT}, now=at(100_060))
    assert later.of(c.SUCCEEDED) == ("True", c.DEADLINE_REACHED)


def test_what_a_study_waits_before_it_is_suspended_counts_against_the_deadline() -> None:
    """It progresses neither before nor after: the time at which that began is not the one of the suspension."""
    study = a_study().limits(deadline_seconds=1000)
    waits = Decision(study.started(at(0)), [a_trial(0).waiting(c.UNSCHEDULABLE)], {0: a_workload("w0").pending()}, now=at(100))
    assert waits.of(c.PROGRESSING) == ("False", c.TRIALS_PENDING)
    suspended = Decision(study.suspended().standing_at(waits.status), now=at(500))
    assert Decision(study.suspended().standing_at(suspended.status), now=at(2000)).plan.actions == []
    resumed = Decision(study.standing_at(suspended.status), now=at(2000))
    assert resumed.status.start_time == at(1500)


def test_a_study_that_is_over_and_goes_on_suspended_counts_neither_time() -> None:
    study = ended(a_study().limits(max_trials=5, deadline_seconds=100), c.MAX_TRIALS_REACHED)
    suspended = Decision(study.suspended(), [completed(0)], {0: ABSENT}, now=at(1000))
    resumed = Decision(study.standing_at(suspended.status), [completed(0)], {0: ABSENT}, now=at(2000))
    assert resumed.status.start_time == at(1970)


def test_a_study_that_ends_while_it_is_suspended_and_goes_on_counts_neither_time() -> None:
    """It was suspended after 40 s, and ended because fewer Trials are allowed; with more it goes on: 60 s are left."""
    study = suspended_since(at(40), deadline_seconds=100)
    fewer = study.limits(max_trials=1).suspended()
    over = Decision(fewer, [completed(0)], {0: ABSENT}, now=at(1000))
    assert over.of(c.SUCCEEDED) == ("True", c.MAX_TRIALS_REACHED)
    resumed = Decision(study.limits(max_trials=2).standing_at(over.status), [completed(0)], {0: ABSENT}, now=at(2000))
    assert resumed.status.start_time == at(1960)


def test_a_deadline_that_had_passed_before_the_suspension_ends_the_study_all_the_same() -> None:
    study = a_study().limits(deadline_seconds=60).started(at(0)).suspended()
    assert Decision(study, [completed(0)], {0: ABSENT}, now=at(61)).of(c.SUCCEEDED) == ("True", c.DEADLINE_REACHED)


def test_the_clock_stands_still_while_the_study_is_over() -> None:
    """It ended after 30 s, and goes on much later: of its deadline of 100 s there are 70 left."""
    study = ended(a_study().limits(max_trials=5, deadline_seconds=100), c.MAX_TRIALS_REACHED)
    decision = Decision(study, [completed(0)], {0: ABSENT}, now=at(5000))
    assert decision.status.start_time == at(4970)
    assert decision.status.completion_time is None


def test_a_study_that_goes_on_says_so_before_it_creates_anything() -> None:
    study = ended(a_study().limits(max_trials=5), c.MAX_TRIALS_REACHED)
    decision = Decision(study, [completed(0)], {0: ABSENT})
    assert [type(each) for each in decision.plan.actions] == [WriteStudy]


def test_the_time_of_the_deadline_is_planned_for() -> None:
    assert Decision(a_study().limits(deadline_seconds=60).started(at(10)), now=at(20)).plan.again_at == at(70)


def counted(study: StudyBuilder, **counts: int) -> StudyBuilder:
    return study.standing_at(StudyStatus(seed=0, trials=TrialCounts(**counts)))


OVER = over("True", c.MAX_TRIALS_REACHED).model_copy(update={"observed_generation": 2})  # as a limit, set once, makes it

ASKS = {
    "a new one": (a_study(), True),
    "one with free places": (counted(a_study(), created=5, active=1), True),
    "one whose places are taken": (counted(a_study(), created=5, active=2), False),
    "one whose last Trials run": (counted(a_study().limits(max_trials=5), created=5, active=1), False),
    "one that is suspended": (a_study().suspended(), False),
    "one that is over": (a_study().limits(max_trials=5).standing_at(OVER), False),
    "one that goes on, a limit being raised": (a_study().limits(max_trials=1).limits(max_trials=5).standing_at(OVER), True),
}


@pytest.mark.parametrize("name", ASKS)
def test_a_worker_is_made_ready_only_for_a_study_that_will_ask_it(name: str) -> None:
    """An operator that starts anew among hundreds of Studies would fill its memory otherwise."""
    study, asks = ASKS[name]
    assert will_ask(study.build()) == asks


def test_a_study_that_is_over_is_not_waked_by_its_deadline() -> None:
    study = ended(a_study().limits(max_trials=1, deadline_seconds=1000), c.MAX_TRIALS_REACHED)
    assert Decision(study, [completed(0)], {0: ABSENT}).plan.again_at is None


# GPU-seconds


def test_the_gpu_budget_counts_what_runs_now_and_is_looked_at_when_it_will_be_spent() -> None:
    study = a_study().limits(gpu_seconds=1000)
    trials = [completed(0).gpu_seconds(400), a_trial(1).running().gpu_seconds(100)]
    workloads = {0: ABSENT, 1: a_workload("w1").running(at(0), gpus=4)}
    early = Decision(study, trials, workloads, now=at(100))
    assert early.of(c.SUCCEEDED) == GOING_ON
    assert early.plan.again_at is not None
    assert at(125) <= early.plan.again_at <= at(127)
    spent = Decision(study, trials, workloads, now=at(126))
    assert spent.of(c.SUCCEEDED, 1) == ("False", c.CANCELED)
    assert spent.written[1].gpu_seconds == 100 + 4 * 126


def test_a_workload_that_was_given_up_is_not_counted_twice_against_the_budget() -> None:
    study = a_study().limits(gpu_seconds=1000)
    trials = [a_trial(0).given_up(c.PREEMPTED).gpu_seconds(600)]
    workloads = {0: a_workload().running(at(0), gpus=1).disrupted(when=at(600))}
    assert Decision(study, trials, workloads, now=at(700)).of(c.SUCCEEDED) == GOING_ON


def test_the_status_tells_the_gpu_seconds_of_ended_trials_and_of_earlier_attempts() -> None:
    trials = [completed(0).gpu_seconds(400), a_trial(1).given_up(c.PREEMPTED).gpu_seconds(100)]
    assert Decision(a_study(), trials, {0: ABSENT, 1: ABSENT}).status.gpu_seconds == 500


# How far, how good, how long


def test_the_counts_say_what_became_of_the_trials() -> None:
    trials = [completed(0), failed(1), infeasible(2), a_trial(3).stopped_early(), a_trial(4).over(c.CANCELED), a_trial(5).running()]
    workloads: dict[int, Any] = dict.fromkeys(range(5), ABSENT) | {5: a_workload("w5").running()}
    assert Decision(a_study(), trials, workloads).status.trials == TrialCounts(
        created=6, active=1, running=1, completed=1, early_stopped=1, failed=1, infeasible=1
    )


def test_the_end_is_estimated_from_the_mean_duration_of_a_trial() -> None:
    """Two of ten have taken 100 s each, two run at once: eight more in four rounds."""
    trials = [a_trial(n).completed(at(100), started=at(0), loss=0.5) for n in range(2)]
    decision = Decision(a_study().limits(max_trials=10), trials, {0: ABSENT, 1: ABSENT}, now=at(100))
    assert decision.status.estimated_completion_time == at(500)


def test_the_last_trials_take_as_long_as_one_whatever_the_parallelism() -> None:
    trials = [a_trial(n).completed(at(100), started=at(0), loss=0.5) for n in range(9)]
    study = a_study().parallelism(8).limits(max_trials=10)
    decision = Decision(study, trials, dict.fromkeys(range(9), ABSENT), now=at(100))
    assert decision.status.estimated_completion_time == at(200)


def test_the_estimate_is_bounded_by_the_deadline() -> None:
    trials = [a_trial(n).completed(at(100), started=at(0), loss=0.5) for n in range(2)]
    study = a_study().limits(max_trials=1000, deadline_seconds=300).started(at(0))
    decision = Decision(study, trials, {0: ABSENT, 1: ABSENT}, now=at(100))
    assert decision.status.estimated_completion_time == at(300)


def test_the_estimate_is_made_anew_only_when_the_counts_change_or_the_study_is_edited() -> None:
    trials = [a_trial(n).completed(at(100), started=at(0), loss=0.5) for n in range(2)]
    study = a_study().limits(max_trials=10)
    first = Decision(study, trials, {0: ABSENT, 1: ABSENT}, now=at(100))
    standing = study.standing_at(first.status)
    assert Decision(standing, trials, {0: ABSENT, 1: ABSENT}, now=at(150)).status == first.status
    edited = Decision(standing.parallelism(8), trials, {0: ABSENT, 1: ABSENT}, now=at(150))
    assert edited.status.estimated_completion_time == at(250)


@pytest.mark.parametrize("study", [a_study(), a_study().limits(max_trials=10).suspended(), ended(a_study(), c.TARGET_REACHED)])
def test_there_is_no_estimate_without_an_end_while_suspended_or_after_the_end(study: StudyBuilder) -> None:
    trials = [a_trial(n).completed(at(100), started=at(0), loss=0.5) for n in range(2)]
    assert Decision(study, trials, {0: ABSENT, 1: ABSENT}, now=at(100)).status.estimated_completion_time is None


def test_the_best_is_shown_with_its_parameters_and_metrics() -> None:
    trials = [a_trial(0).with_parameters(x="0.1").completed(loss=0.4, acc=0.9), a_trial(1).completed(loss=0.5)]
    best = Decision(a_study(), trials, {0: ABSENT, 1: ABSENT}).status.best
    assert [entry.trial_name for entry in best] == ["digits-0", "digits-1"]
    assert [(pair.name, pair.value) for pair in best[0].parameters] == [("x", "0.1")]
    assert [(pair.name, pair.value) for pair in best[0].metrics] == [("loss", "0.4"), ("acc", "0.9")]


def test_a_study_of_several_objectives_shows_its_front() -> None:
    study = a_study().objectives({"metric": "loss"}, {"metric": "acc", "goal": "Maximize"})
    points = [(0.1, 0.5), (0.2, 0.9), (0.3, 0.6)]
    trials = [a_trial(n).completed(loss=loss, acc=acc) for n, (loss, acc) in enumerate(points)]
    front = Decision(study, trials, dict.fromkeys(range(3), ABSENT)).status.pareto_front
    assert [entry.number for entry in front] == [0, 1]


# What `kubectl get studies` shows


def test_progress_counts_the_ended_trials_of_how_many() -> None:
    trials = [completed(0), failed(1), a_trial(2).running()]
    workloads = {0: ABSENT, 1: ABSENT, 2: a_workload().running()}
    assert Decision(a_study().limits(max_trials=40), trials, workloads).status.progress == "2/40"
    assert Decision(a_study().limits(max_trials=None), trials, workloads).status.progress == "2"


@pytest.mark.parametrize(
    ("seconds", "left"), [(40, "40s"), (35 * 60 + 1, "35m"), (2 * 3600 + 600, "2h10m"), (3 * 86400 + 4 * 3600, "3d4h")]
)
def test_the_time_left_is_shown_as_kubectl_shows_ages(seconds: int, left: str) -> None:
    decision = Decision(a_study().limits(deadline_seconds=seconds), now=START)
    assert decision.status.left == left


def test_the_time_left_is_not_written_anew_while_nothing_ends() -> None:
    study, trials = a_study().limits(deadline_seconds=3600), [a_trial(0).running()]
    first = Decision(study, trials, {0: a_workload().running()}, now=START)
    later = Decision(study.standing_at(first.status), trials, {0: a_workload().running()}, now=at(600))
    assert later.status == first.status


def test_nothing_is_left_of_a_study_that_is_over() -> None:
    over = Decision(a_study().limits(max_trials=1), [completed(0)], {0: ABSENT}, now=LATER)
    assert (over.status.progress, over.status.left) == ("1/1", None)


def test_what_is_known_of_the_source_of_metrics_stands_in_the_status() -> None:
    unreachable = ("False", "SourceUnreachable", "Prometheus does not answer.")
    trials, workloads = [a_trial(0).running()], {0: a_workload().running()}
    assert Decision(a_study(), trials, workloads, metrics=unreachable).of(c.METRICS_AVAILABLE) == unreachable[:2]
    assert c.condition(Decision(a_study(), trials, workloads).status.conditions, c.METRICS_AVAILABLE) is None
