"""Whole Studies in virtual time, with everything going wrong that can: the laws hold, and each run comes to an end.

The world holds every single action against the laws (see `World._act`); what is said here is what must come out of it all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hpo_algorithms import Answer, Problem, Proposal, Slot, Stop
from hpo_algorithms.trials import SCHEDULE_FINISHED, History, Origin
from hpo_operator import conditions as c
from hpo_operator.resources import Trial
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.unit.operator.builders import StudyBuilder, X, a_study
from tests.unit.operator.fates import Fate, Fates, smooth, time
from tests.unit.operator.world import World

MISHAPS = ("crash", "infeasible", "nan", "silent", "late", "disrupted", "vanish", "lost", "rejected")
LOSSES = ("disrupted", "vanish", "lost")
# Seeds do not shrink to anything that is easier to understand; a failure is repeated by its arguments.
QUICK: dict[str, Any] = {"derandomize": True, "deadline": None, "phases": (Phase.explicit, Phase.generate)}


def by_chance(seed: int, ends: Sequence[str] = ("done", *MISHAPS)) -> Fates:
    """Fates that depend on the Trial and the attempt alone."""

    def fate(trial: Trial, attempt: int) -> Fate:
        chance = random.Random(f"{seed}/{trial.spec.number}/{attempt}")
        return Fate(
            wait=chance.choice((0.0, 1.0, 50.0)),
            run=chance.choice((0.5, 10.0, 60.0)),
            end=chance.choice((*("done",) * 6, *ends)),
            grace=chance.choice((0.0, 2.0, 40.0)),
            foreground=chance.random() < 0.5,
        )

    return fate


def always(end: str, **more: float) -> Fates:
    return lambda trial, attempt: Fate(end=end, **more)  # type: ignore[arg-type]


def methods() -> st.SearchStrategy[StudyBuilder]:
    grid = a_study().over(X, {"name": "y", "ordinal": {"values": [1, 2]}}).by("grid")
    known = [a_study().limits(max_trials=12), a_study().by("tpe").limits(max_trials=14), grid]
    for schedule, more in (("asha", {}), ("hyperband", {"iterations": 1}), ("median", {"startupTrials": 2})):
        known.append(a_study().by("random", schedule, **more).budget(1, 9).limits(max_trials=14))
    return st.sampled_from(known)


kills = st.sets(st.integers(1, 150) | st.integers(-150, -1), max_size=6)


@settings(max_examples=100, **QUICK)
@given(
    study=methods(),
    parallelism=st.integers(1, 5),
    max_failed=st.sampled_from((0, 3, 100)),
    max_retries=st.integers(0, 2),
    timeout=st.sampled_from([None, None, 15]),
    seed=st.integers(0, 10_000),
    killed=kills,
    settle=st.booleans(),
)
def test_whatever_goes_wrong_a_study_comes_to_its_end_and_the_laws_hold(
    study: StudyBuilder,
    parallelism: int,
    max_failed: int,
    max_retries: int,
    timeout: int | None,
    seed: int,
    killed: set[int],
    settle: bool,
) -> None:
    study = study.parallelism(parallelism).limits(max_failed_trials=max_failed, max_retries=max_retries)
    study = study.limits(trial_timeout_seconds=timeout, deadline_seconds=1_000_000)
    world = World(study, by_chance(seed), seed=seed, kill=killed.__contains__, settle=settle).run()
    assert world.over
    assert len(world.ends) >= 1
    assert set(world.ends) == {world.reason()}, "once over, a Study is over for one reason"
    assert all(reason not in ("", c.PENDING, "Running", c.AWAITING_RESULT) for reason in world.reasons().values())
    counts = world.study.status.trials
    assert counts.created == len(world.ever)
    assert counts.active == 0
    assert counts.failed == sum(reason in c.FAILURES for reason in world.reasons().values())
    if world.reason() == c.TOO_MANY_FAILURES:
        assert counts.failed > max_failed
    for number, reason in world.reasons().items():
        attempts = world.trials[number].status.attempts
        assert attempts <= max_retries + 1
        assert (reason == c.RETRIES_EXHAUSTED) <= (attempts == max_retries + 1)
    before = (world.reason(), world.study_writes, world.writes.total())
    world.kill()
    world.run(until=2_000_000)
    assert (world.reason(), world.study_writes, world.writes.total()) == before, "what is over is left alone"


@settings(max_examples=25, **QUICK)
@given(seed=st.integers(0, 10_000), parallelism=st.integers(1, 4), killed=kills, settle=st.booleans())
def test_a_run_with_late_news_and_a_killed_operator_finds_what_an_undisturbed_one_finds(
    seed: int, parallelism: int, killed: set[int], settle: bool
) -> None:
    # Retries without an end: a loss that nobody has seen, because the operator was away, is not counted.
    study = a_study().parallelism(parallelism).limits(max_trials=10, max_failed_trials=100, max_retries=100)
    plain = World(study, by_chance(seed)).run()
    world = World(study, by_chance(seed), seed=seed, kill=killed.__contains__, settle=settle).run()
    assert world.parameters() == plain.parameters()
    assert world.reasons() == plain.reasons()
    assert world.losses_by_number() == plain.losses_by_number()
    assert world.reason() == plain.reason()
    assert [each.number for each in world.study.status.best] == [each.number for each in plain.study.status.best]


@pytest.mark.parametrize(
    ("study", "least", "most_writes"),
    [
        (a_study().limits(max_trials=5), 30, 2),
        (a_study().by("pbt", population=2).budget(1, 3).keeping_checkpoints(), 40, 4),  # two more say that weights go, and are gone
    ],
    ids=["flat", "a population"],
)
def test_killed_before_and_after_each_single_action_the_operator_repeats_nothing_and_loses_nothing(
    study: StudyBuilder, least: int, most_writes: int
) -> None:
    study = study.ttl(5)
    plain = World(study).run()
    actions = plain._carried_out
    assert least < actions < 150
    for action in [*range(1, actions + 1), *range(-actions, 0)]:
        world = World(study, kill=lambda n, action=action: n == action).run()  # type: ignore[misc]
        assert world.kills == 1
        assert world.parameters() == plain.parameters()
        assert world.donors() == plain.donors()
        assert world.reasons() == plain.reasons()
        assert world.reason() == plain.reason()
        assert world.creates == plain.creates, "a Trial or a workload was created twice"
        assert world.deletes == plain.deletes
        assert world.disk == plain.disk
        assert all(count <= most_writes for count in world.writes.values())


def test_an_undisturbed_trial_costs_two_creates_two_status_writes_and_one_delete() -> None:
    world = World(a_study().parallelism(3).limits(max_trials=12).ttl(60)).run()
    assert set(world.creates) == {(kind, number) for kind in ("trial", "workload") for number in range(12)}
    assert set(world.creates.values()) == {1}
    assert dict(world.writes) == dict.fromkeys(range(12), 2)
    assert dict(world.deletes) == dict.fromkeys(range(12), 1)


def test_the_study_s_status_is_written_only_when_it_has_changed() -> None:
    """Twelve Trials in four waves of three: each wave starts and ends, and each start and end changes the counts."""
    world = World(a_study().parallelism(3).limits(max_trials=12)).run()
    assert world.study_writes <= 3 * 4 + 2


def test_a_trial_that_waits_long_costs_one_write_more_and_one_that_waits_shortly_none() -> None:
    for wait, expected in ((29.0, 2), (31.0, 3)):
        world = World(a_study().limits(max_trials=2), always("done", wait=wait)).run()
        assert set(world.writes.values()) == {expected}


@pytest.mark.parametrize("end", LOSSES)
def test_a_trial_that_is_always_lost_is_tried_again_as_often_as_allowed_and_then_fails(end: str) -> None:
    world = World(a_study().limits(max_trials=3, max_retries=2), always(end), seed=1).run()
    assert set(world.reasons().values()) == {c.RETRIES_EXHAUSTED}
    assert {n: world.creates["workload", n] for n in range(3)} == dict.fromkeys(range(3), 3)
    assert {trial.status.attempts for trial in world.trials.values()} == {3}


@pytest.mark.parametrize("wait", [0.0, 100.0])
@pytest.mark.parametrize("end", LOSSES)
def test_losses_are_counted_whether_or_not_the_pod_had_been_seen_running(end: str, wait: float) -> None:
    world = World(a_study().limits(max_trials=2, max_retries=3), always(end, wait=wait, run=0.0)).run()
    assert set(world.reasons().values()) == {c.RETRIES_EXHAUSTED}
    assert {n: world.creates["workload", n] for n in range(2)} == {0: 4, 1: 4}


@settings(max_examples=20, **QUICK)
@given(seed=st.integers(0, 10_000), times=st.lists(st.floats(0, 120), min_size=1, max_size=4), killed=kills)
def test_suspensions_use_up_no_retries_and_a_suspended_study_runs_nothing(seed: int, times: list[float], killed: set[int]) -> None:
    study = a_study().parallelism(3).limits(max_trials=8, max_retries=0)
    world = World(study, by_chance(seed, ends=("done",)), seed=seed, kill=killed.__contains__)
    for moment in sorted(times):
        world.run(until=world.now + moment)
        if world.over:
            break
        world.edit(lambda study: study.suspended())
        world.run(until=world.now + 70)  # the longest grace period, and the latest news
        assert world.pods() == 0
        assert world.over or world.reason(c.PROGRESSING) == c.SUSPENDED
        before = (world.study_writes, world.writes.total(), world.creates.total())
        world.run(until=world.now + 1000)
        assert before == (world.study_writes, world.writes.total(), world.creates.total()), "a suspended Study is quiet"
        world.edit(lambda study: study.suspended(False))
    world.run()
    assert set(world.reasons().values()) == {c.COMPLETED}
    assert len(world.ever) == 8


@pytest.mark.parametrize("moment", [5.0, 17.0, 28.0, 39.0, 50.0])
def test_a_population_suspended_in_the_middle_of_a_generation_goes_on_to_what_an_undisturbed_one_finds(moment: float) -> None:
    """Four members on two places: a generation takes two waves of eleven seconds."""
    study = a_study().by("pbt", population=4).budget(1, 3).parallelism(2).limits(max_retries=0).keeping_checkpoints()
    plain = World(study).run()
    world = World(study).run(until=moment)
    assert world.pods() == 2
    world.edit(lambda study: study.suspended())
    world.run(until=moment + 1000)
    assert world.pods() == 0
    assert world.reason(c.PROGRESSING) == c.SUSPENDED
    world.edit(lambda study: study.suspended(False))
    world.run()
    assert world.creates.total() == plain.creates.total() + 2, "two were under way, and begin again"
    assert (world.parameters(), world.donors()) == (plain.parameters(), plain.donors())
    assert (world.reason(), world.reasons()) == (c.SCHEDULE_FINISHED, plain.reasons())
    assert [each.number for each in world.study.status.best] == [each.number for each in plain.study.status.best]


@settings(max_examples=20, **QUICK)
@given(
    seed=st.integers(0, 10_000),
    deletions=st.lists(st.tuples(st.floats(0, 150), st.integers(0, 20)), min_size=1, max_size=8),
    killed=kills,
    study=methods(),
)
def test_trials_deleted_by_hand_leave_holes_and_their_numbers_are_not_used_again(
    seed: int, deletions: list[tuple[float, int]], killed: set[int], study: StudyBuilder
) -> None:
    study = study.parallelism(3).limits(max_failed_trials=100)
    world = World(study, by_chance(seed), seed=seed, kill=killed.__contains__)

    def delete(number: int) -> None:
        if number in world.trials and not world.over:
            world.delete_trial(number)

    for moment, number in deletions:
        world.at(moment, lambda number=number: delete(number))  # type: ignore[misc]
    world.run()
    assert world.over
    assert world.study.status.trials.created == len(world.ever)
    limit = world.study.spec.limits.max_trials
    if limit is not None and world.reason() not in (c.SCHEDULE_FINISHED, c.NO_RESULT):
        assert len(world.ever) == limit, "maxTrials counts the deleted ones"


@settings(max_examples=25, **QUICK)
@given(
    seed=st.integers(0, 10_000),
    edits=st.lists(st.tuples(st.floats(0, 60), st.integers(0, 6)), min_size=1, max_size=6),
    killed=kills,
)
def test_parallelism_goes_up_down_and_to_zero_without_ending_anything(
    seed: int, edits: list[tuple[float, int]], killed: set[int]
) -> None:
    study = a_study().limits(max_trials=12, max_failed_trials=100).ttl(10_000_000)
    world = World(study, by_chance(seed, ends=("done",)), seed=seed, kill=killed.__contains__)
    for moment, parallelism in edits:
        world.run(until=world.now + moment)
        if not world.over:
            world.edit(lambda study, parallelism=parallelism: study.parallelism(parallelism))  # type: ignore[misc]
    world.run()
    if not world.over:
        assert world.builder.build().spec.parallelism == 0
        assert world.reason(c.PROGRESSING) == c.TRIALS_PENDING
        world.edit(lambda study: study.parallelism(2))
        world.run()
    assert set(world.reasons().values()) == {c.COMPLETED}
    assert len(world.ever) == 12
    assert not world.deletes


@settings(max_examples=20, **QUICK)
@given(seed=st.integers(0, 10_000), moment=st.floats(1, 150), killed=kills)
def test_at_the_deadline_what_runs_is_canceled_and_a_raised_deadline_lets_the_study_go_on(
    seed: int, moment: float, killed: set[int]
) -> None:
    study = a_study().parallelism(3).limits(max_trials=30, deadline_seconds=int(moment) + 1, max_failed_trials=100)
    world = World(study, by_chance(seed), seed=seed, kill=killed.__contains__).run()
    assert world.reason() in (c.DEADLINE_REACHED, c.NO_RESULT, c.MAX_TRIALS_REACHED)
    assert world.pods() == 0
    if world.reason() == c.DEADLINE_REACHED:
        world.now += 1e5  # somebody looks at it the next day
        world.edit(lambda study: study.limits(deadline_seconds=100_000))
        world.run()
        assert world.reason() == c.MAX_TRIALS_REACHED
        assert len(world.ever) == 30


def test_the_target_ends_a_study_with_all_that_still_runs() -> None:
    study = a_study().parallelism(4).minimizing("loss", target=0.9).limits(max_trials=100)

    def losses(trial: Trial) -> float:
        return 0.5 if trial.spec.number == 6 else 2.0

    world = World(study, lambda trial, attempt: Fate(run=10.0 + trial.spec.number), losses).run()
    assert world.reason() == c.TARGET_REACHED
    reasons = world.reasons()
    assert reasons.pop(6) == c.COMPLETED
    assert c.CANCELED in reasons.values()
    canceled = [number for number, reason in reasons.items() if reason == c.CANCELED]
    assert {number: world.deletes[number] for number in canceled} == dict.fromkeys(canceled, 1)
    assert world.pods() == 0
    assert world.study.status.best[0].number == 6


def test_a_study_whose_every_trial_is_infeasible_ends_without_a_result() -> None:
    world = World(a_study().limits(max_trials=20, max_failed_trials=0), always("infeasible")).run()
    assert world.reason() == c.NO_RESULT
    assert world.study.status.trials.infeasible == 20
    assert world.study.status.trials.failed == 0


def test_a_hyperband_run_trains_on_what_is_good_and_ends_by_itself() -> None:
    study = a_study().by("random", "hyperband", iterations=1).budget(1, 9).parallelism(4).keeping_checkpoints()
    world = World(study, seed=3).run()
    assert world.reason() == c.SCHEDULE_FINISHED
    budgets = [trial.spec.budget for trial in world.ever.values()]
    assert (budgets.count(1), budgets.count(3), budgets.count(9)) == (9, 3 + 5, 1 + 1 + 3)
    promoted = [trial for trial in world.ever.values() if trial.spec.origin == "Promoted"]
    assert all(trial.spec.restore_from is not None for trial in promoted)


def test_the_median_rule_stops_trials_and_none_of_them_is_best() -> None:
    study = a_study().by("random", "median", startupTrials=3).budget(1, 5).parallelism(2).limits(max_trials=12)

    def losses(trial: Trial) -> float:
        return smooth(trial) + (10.0 if trial.spec.number % 3 == 2 else 0.0)

    world = World(study, losses=losses).run()
    stopped = [number for number, reason in world.reasons().items() if reason == c.EARLY_STOPPED]
    assert stopped
    assert world.study.status.trials.early_stopped == len(stopped)
    assert not set(stopped) & {each.number for each in world.study.status.best}
    assert all(world.trials[number].status.stop is not None for number in stopped)
    assert all(world.deletes[number] == 1 for number in stopped)


def test_a_finite_space_is_tried_once_and_then_the_search_is_exhausted() -> None:
    pair = {"name": "y", "categorical": {"choices": ["a", "b", "c"]}}
    world = World(a_study().over(pair).by("grid").parallelism(2), losses=lambda trial: 1.0).run()
    assert world.reason() == c.SEARCH_EXHAUSTED
    assert len(world.ever) == 3


class Scripted:
    """An algorithm that answers from a list, and after its end with the last entry."""

    def __init__(self, *answers: Answer, stops: Sequence[Stop] = ()) -> None:
        self.answers, self._stops = list(answers), stops

    def errors(self, problem: Problem) -> Sequence[object]:
        return ()

    def propose(self, problem: Problem, history: History, first: int, count: int) -> Answer:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return Answer(answer.proposals[:count], answer.finished)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return self._stops

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return frozenset()


def proposal(x: float = 0.5, **more: object) -> Proposal:
    return Proposal({"x": x}, **more)  # type: ignore[arg-type]


def test_an_algorithm_that_proposes_nothing_while_nothing_is_active_is_an_error_and_never_a_silent_stall() -> None:
    """It is asked again from time to time, and the Study's status is not written for that."""
    world = World(a_study(), algorithm=Scripted(Answer()))  # type: ignore[arg-type]
    world.run(until=10)
    writes = world.study_writes
    world.run(until=1000)
    assert world.reason(c.PROGRESSING) == c.ALGORITHM_ERROR
    assert world.study_writes == writes
    assert not world.over


def test_an_algorithm_may_wait_for_what_is_active_and_then_finish() -> None:
    script = Scripted(Answer((proposal(),)), Answer(), Answer((), SCHEDULE_FINISHED))
    world = World(a_study(), algorithm=script).run()  # type: ignore[arg-type]
    assert world.reason() == c.SCHEDULE_FINISHED
    assert world.reasons() == {0: c.COMPLETED}


def test_places_that_become_free_while_the_algorithm_was_only_asked_whom_to_stop_are_filled() -> None:
    """The pods of Trial 0 go slowly, Trial 1 runs long: when 0's place is free, nothing that an algorithm sees has changed."""
    study = a_study().by("random", "median").budget(1, 5).limits(max_trials=3)

    def fates(trial: Trial, attempt: int) -> Fate:
        if trial.spec.number == 0:
            return Fate(run=5.0, end="forever", grace=20.0)
        return Fate(run=10_000.0)

    script = Scripted(Answer((proposal(), proposal(), proposal())), stops=[Stop(0, "median", 2)])
    world = World(study, fates, algorithm=script)  # type: ignore[arg-type]
    world.run(until=60)
    assert world.reasons()[0] == c.EARLY_STOPPED
    assert world.creates["trial", 2] == 1


def test_a_proposal_whose_donor_was_deleted_meanwhile_is_asked_for_anew() -> None:
    """The answer names Trial 0, which is deleted while the algorithm thinks."""
    continued = proposal(origin=Origin.PERTURBED, donor=0, slot=Slot(generation=1, member=0))
    script = Scripted(Answer((proposal(),)), Answer((continued,)), Answer((proposal(0.25),)))
    world = World(a_study().parallelism(1).limits(max_trials=2), algorithm=script)  # type: ignore[arg-type]
    world._delay = lambda: 5.0  # type: ignore[method-assign]
    world.settle()
    while not (world.reasons().get(0) == c.COMPLETED and world.operator.busy):
        following = world.next_event()
        assert following is not None
        world.advance(following)
    world.delete_trial(0)
    world._notice_deletion(0)
    world.run()
    assert world.parameters()[1] == ("0.25",)


def test_creations_that_are_refused_are_tried_again_and_the_status_says_why() -> None:
    world = World(a_study().limits(max_trials=4))
    world.refused = "exceeded quota: trials=0"
    world.run(until=100)
    assert world.reason(c.PROGRESSING) == c.CREATION_REFUSED
    assert not world.ever
    assert world.study_writes <= 2
    world.refused = ""
    world.run()
    assert world.reason() == c.MAX_TRIALS_REACHED
    assert world.reason(c.ACCEPTED) == c.VALID


def test_a_late_result_is_waited_for_and_costs_a_write_only_when_it_takes_long() -> None:
    world = World(a_study().limits(max_trials=2), always("late")).run()
    assert set(world.reasons().values()) == {c.COMPLETED}
    assert set(world.writes.values()) == {3}


def test_gpu_seconds_are_summed_over_all_attempts_and_each_counts_once() -> None:
    """Twenty seconds each of a preempted, a suspended and a completing workload, on two GPUs."""

    def fates(trial: Trial, attempt: int) -> Fate:
        return Fate(wait=0.0, run=20.0 if attempt != 1 else 1000.0, end="disrupted" if attempt == 0 else "done", gpus=2)

    world = World(a_study().parallelism(1).limits(max_trials=1), fates)
    world.run(until=40.0)
    world.edit(lambda study: study.suspended())
    world.run(until=500.0)
    world.edit(lambda study: study.suspended(False))
    world.run()
    assert world.reasons() == {0: c.COMPLETED}
    assert world.trials[0].status.gpu_seconds == 2 * 60
    assert world.study.status.gpu_seconds == 2 * 60
    assert world.trials[0].status.attempts == 2


def test_a_gpu_budget_ends_the_study_in_time_though_nothing_else_happens() -> None:
    world = World(a_study().limits(gpu_seconds=1000), always("done", wait=0.0, run=10_000.0, gpus=2)).run()
    assert world.reason() == c.NO_RESULT
    assert world.study.status.completion_time == time(251.0)
    assert 1000 <= world.study.status.gpu_seconds <= 1010
