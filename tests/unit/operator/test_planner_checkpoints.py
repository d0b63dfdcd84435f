"""Whose checkpoints are kept, and that nothing starts from one that is gone: decisions, and whole Studies in virtual time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hpo_algorithms import Origin, Proposal
from hpo_operator import conditions as c
from hpo_operator.planner import Ask, Cleanup, Collect, Consultation, CreateTrial, EndCleanup, WriteCheckpoint
from hpo_operator.resources import Trial
from hpo_operator.workloads import ABSENT
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.builders import (
    DIGEST,
    Decision,
    StudyBuilder,
    TrialBuilder,
    a_ledger,
    a_study,
    a_trial,
    a_workload,
    at,
)
from tests.unit.operator.fates import Fate
from tests.unit.operator.test_planner_world import QUICK, by_chance, kills
from tests.unit.operator.world import World

STUDY = a_study().keeping_checkpoints()


def decide(
    *trials: TrialBuilder, study: StudyBuilder = STUDY, donors: Iterable[int] | None = (), asked: Any = (), **more: Any
) -> Decision:
    """With an algorithm that has said all it knows: nothing to propose, and who may still be a donor."""
    workloads = {each.build().spec.number: ABSENT for each in trials} | more.pop("seen", {})
    known = a_ledger(study.build(), *(each.build() for each in trials))
    told = frozenset(donors) if donors is not None else None
    answer = Consultation(known.version, known.created, tuple(asked), count=len(tuple(asked)) or 9, donors=told)
    return Decision(study, trials, workloads, asked=answer, **more)


def completed(number: int, loss: float = 0.5, budget: int = 1) -> TrialBuilder:
    return a_trial(number).budget(budget).completed(loss=loss).checkpoint()


def marks(decision: Decision) -> dict[int, str]:
    return {each.number: each.record.state for each in decision.actions if isinstance(each, WriteCheckpoint)}


def many(count: int, *, best: int = 10) -> list[TrialBuilder]:
    """So many more completed Trials than stand among the best, which are the last ones."""
    return [completed(number, loss=100.0 - number) for number in range(count + best)]


# What is recorded


def test_a_trial_that_has_saved_is_recorded_with_where_and_what_it_is() -> None:
    seen = {0: a_workload().succeeded(loss=0.5).having_saved(step=7)}
    write = Decision(STUDY, [a_trial(0).running()], seen).written[0]
    assert write.checkpoint is not None
    assert write.checkpoint.manifest() == {
        "step": 7,
        "digest": DIGEST,
        "bytes": 10,
        "path": "study-uid/digits-0/step-7",
        "state": "Kept",
    }


@pytest.mark.parametrize("end", [a_workload().failed(), a_workload().succeeded(loss=0.5)], ids=["failed", "completed"])
def test_what_a_trial_may_have_left_that_saved_nothing_whole_is_to_be_removed(end: Any) -> None:
    decision = Decision(STUDY, [a_trial(0).running()], {0: end})
    record = decision.written[0].checkpoint
    assert record is not None
    assert (record.path, record.step, record.state) == ("study-uid/digits-0", None, "Collecting")


def test_without_a_store_nothing_is_recorded() -> None:
    decision = Decision(a_study(), [a_trial(0).running()], {0: a_workload().succeeded(loss=0.5).having_saved()})
    assert decision.written[0].checkpoint is None


# Starting


def test_a_checkpoint_that_one_trial_could_not_start_from_is_offered_to_no_other() -> None:
    first = a_trial(1).restoring(0).over(c.DONOR_UNAVAILABLE)
    ledger = a_ledger(STUDY.build(), completed(0).build())
    assert ledger.view(0).restorable  # type: ignore[union-attr]
    ledger.put(first.build())
    seen = ledger.view(0)
    assert seen is not None
    assert (seen.restorable, seen.lost) == (False, True)
    assert ledger.view(1) is None, "its place is free again"


@pytest.mark.parametrize("state", ["Collecting", "Collected"])
def test_a_promotion_whose_checkpoint_is_gone_is_never_trained_from_the_beginning(state: str) -> None:
    risen = Proposal({"x": 0.5}, 9, donor=0, origin=Origin.PROMOTED)
    decision = decide(completed(0).checkpoint(state=state), asked=(risen,), study=STUDY.parallelism(1))
    assert not [each for each in decision.actions if isinstance(each, CreateTrial)]
    assert decision.of(c.PROGRESSING) == ("False", c.ALGORITHM_ERROR)


def test_two_trials_of_one_donor_of_which_the_first_finds_it_damaged_both_free_their_places() -> None:
    first, second = a_trial(1).restoring(0).running(), a_trial(2).restoring(0)
    seen = {1: a_workload("w1").failed(code=87), 2: ABSENT}
    decision = decide(completed(0), first, second, seen=seen)
    assert decision.of(c.SUCCEEDED, 1) == ("False", c.DONOR_UNAVAILABLE)
    after = decide(completed(0), a_trial(1).restoring(0).over(c.DONOR_UNAVAILABLE), second, seen={2: ABSENT})
    assert after.of(c.SUCCEEDED, 2) == ("False", c.DONOR_UNAVAILABLE)


def test_a_program_that_lacks_a_checkpoint_though_it_starts_from_none_has_failed() -> None:
    decision = Decision(STUDY, [a_trial(0).running()], {0: a_workload().failed(code=87)})
    assert decision.of(c.SUCCEEDED, 0) == ("False", c.PROGRAM_FAILED)


# Collecting


def test_what_no_donor_no_active_trial_and_none_of_the_best_needs_is_marked_before_it_is_removed() -> None:
    trials = many(4)
    active = a_trial(14).restoring(1).running()
    decision = decide(*trials, active, donors={2}, seen={14: a_workload("w14").running()})
    assert marks(decision) == {0: "Collecting", 3: "Collecting"}
    assert not [each for each in decision.actions if isinstance(each, Collect)]


def test_marked_ones_are_removed_together() -> None:
    trials = [completed(0).checkpoint(state="Collecting"), completed(1).checkpoint(state="Collecting"), completed(2)]
    assert decide(*trials).actions == [Collect((0, 1))]
    assert decide(*trials, cleanup=Cleanup((0,))).actions == [], "one at a time"


def test_a_few_are_not_worth_a_workload_while_the_study_runs() -> None:
    study = STUDY.parallelism(4)
    assert marks(decide(*many(3), study=study)) == {}
    assert len(marks(decide(*many(4), study=study))) == 4


def test_nothing_is_removed_where_a_pod_may_still_write() -> None:
    trials = [a_trial(n).over(c.PROGRAM_FAILED).checkpoint(state="Collecting") for n in range(3)]
    seen = {0: a_workload().failed(), 1: a_workload("w1").failed().lingering(), 2: a_workload("w2").running().deleting()}
    decision = decide(*trials, seen=seen, study=STUDY.parallelism(3))
    assert [each for each in decision.actions if isinstance(each, Collect)] == [Collect((0,))]


def test_what_has_been_removed_is_said_and_then_the_cleanup_is_put_away() -> None:
    done = Cleanup((0, 1), succeeded=True, ended=at(0))
    trials = [completed(0).checkpoint(state="Collecting"), completed(1).checkpoint(state="Collected")]
    assert marks(decide(*trials, cleanup=done)) == {0: "Collected"}
    trials[0] = completed(0).checkpoint(state="Collected")
    assert decide(*trials, cleanup=done).actions == [EndCleanup()]


def test_a_removal_that_has_failed_is_tried_again_after_a_minute() -> None:
    trials = [completed(n).checkpoint(state="Collecting") for n in range(2)]
    failed = Cleanup((0, 1), ended=at(0))
    early = decide(*trials, cleanup=failed, now=at(59))
    assert early.actions == []
    assert early.plan.again_at == at(60)
    assert decide(*trials, cleanup=failed, now=at(60)).actions == [EndCleanup()]


def test_what_the_algorithm_has_not_spoken_of_is_kept_and_it_is_asked_when_no_place_is_free() -> None:
    trials = [*many(2), a_trial(12).running(), a_trial(13).running()]
    seen = {n: a_workload(f"w{n}").running() for n in (12, 13)}
    workloads = dict.fromkeys(range(12), ABSENT) | seen
    assert Decision(STUDY, trials, workloads).actions == [Ask(14, 0)]
    old = Consultation(version=5, first=5, donors=frozenset(), count=1)
    assert Decision(STUDY.parallelism(20), trials, workloads, asked=old).actions[0] == Ask(14, 18)
    assert decide(*trials, donors=None, seen=seen).actions == [], "it cannot say: everything is kept, and it is not asked on and on"


def test_a_donor_whose_trial_has_ended_since_the_algorithm_spoke_is_kept_for_it_may_be_asked_for_again() -> None:
    trials = [*many(3), a_trial(13).budget(3).restoring(0).over(c.CANCELED)]
    workloads = dict.fromkeys(range(14), ABSENT)
    version = a_ledger(STUDY.build(), *(each.build() for each in trials[:-1])).version
    asked = Consultation(version, 14, donors=frozenset(), count=1)
    decision = Decision(STUDY.parallelism(2), trials, workloads, asked=asked)
    assert marks(decision) == {1: "Collecting", 2: "Collecting"}


@pytest.mark.parametrize(("reason", "left"), [(c.TARGET_REACHED, set()), (c.MAX_TRIALS_REACHED, {0, 1})])
def test_a_study_that_is_over_keeps_its_best_and_where_a_limit_can_be_raised_what_it_would_go_on_from(
    reason: str, left: set[int]
) -> None:
    study = STUDY.limits(max_trials=13) if reason == c.MAX_TRIALS_REACHED else STUDY.minimizing("loss", target=1000.0)
    ended = decide(*many(3), study=study)
    assert ended.of(c.SUCCEEDED) == ("True", reason)
    after = decide(*many(3), study=study.standing_at(ended.status), donors={0, 1})
    assert set(marks(after)) == {0, 1, 2} - left


def test_a_suspended_study_removes_nothing() -> None:
    trials = [completed(n).checkpoint(state="Collecting") for n in range(3)]
    assert decide(*trials, study=STUDY.suspended()).actions == []


def test_the_study_says_what_the_kept_ones_take_also_when_they_go_after_its_end() -> None:
    seen = {0: a_workload().succeeded(loss=0.5).having_saved()}
    ended = a_trial(0).completed(loss=0.5).having(Decision(STUDY, [a_trial(0).running()], seen).written[0].checkpoint)
    study = STUDY.limits(max_trials=1)
    over = decide(ended, study=study)
    assert over.status.checkpoint_bytes == 10
    gone = a_trial(0).completed(loss=0.5).checkpoint(state="Collected")
    assert decide(gone, study=study.standing_at(over.status)).status.checkpoint_bytes == 0
    assert Decision(a_study(), [a_trial(0).completed(loss=0.5)]).status.checkpoint_bytes is None


# Whole Studies


def methods() -> st.SearchStrategy[StudyBuilder]:
    known = [STUDY.limits(max_trials=25)]
    for schedule, more in (("asha", {}), ("hyperband", {"iterations": 1}), ("halving", {"iterations": 2, "eta": 2})):
        known.append(STUDY.by("random", schedule, **more).budget(1, 9).limits(max_trials=40))
    populations = [STUDY.by("pbt", population=4), STUDY.by("pbt", population=3, mode="asynchronous"), STUDY.by("pb2", population=4)]
    return st.sampled_from([*known, *(each.budget(1, 4) for each in populations)])


ENDS = ("done", "done", "unavailable", "unavailable", "crash", "disrupted", "vanish", "silent", "late", "rejected")


@settings(max_examples=60, **QUICK)
@given(
    study=methods(),
    parallelism=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    killed=kills,
    settle=st.booleans(),
    failing=st.sets(st.integers(1, 4)),
)
def test_whatever_goes_wrong_nothing_needed_is_removed_and_nothing_needless_stays(
    study: StudyBuilder, parallelism: int, seed: int, killed: set[int], settle: bool, failing: set[int]
) -> None:
    """The world holds each start, mark and removal against the law; see `World._check_start` and what follows it."""
    study = study.parallelism(parallelism).limits(max_failed_trials=1000, max_retries=5)
    world = World(
        study, by_chance(seed, ENDS), seed=seed, kill=killed.__contains__, settle=settle, cleanups=lambda n: n not in failing
    ).run()
    assert world.over
    states = {n: t.status.checkpoint.state for n, t in world.trials.items() if t.status.checkpoint is not None}
    assert "Collecting" not in states.values()
    kept = {number for number, state in states.items() if state == "Kept"}
    assert world.disk == kept
    best = {each.number for each in world.study.status.best}
    assert {n for n in best if n in states} <= kept
    if world.reason() not in c.RAISABLE:
        assert kept <= best
    assert world.cleanup is None


def test_a_whole_hyperband_starts_each_promotion_from_its_donor_and_costs_few_removals() -> None:
    study = STUDY.by("random", "hyperband", iterations=1).budget(1, 9).parallelism(4)
    world = World(study).run()
    promoted = [trial for trial in world.trials.values() if trial.spec.origin == "Promoted"]
    assert len(promoted) == 3 + 1 + 1
    assert all(trial.spec.restore_from is not None for trial in promoted)
    assert world.cleanups <= 5
    assert world.disk == {each.number for each in world.study.status.best}


def test_when_every_promotion_finds_its_checkpoint_damaged_the_study_still_comes_to_its_end() -> None:
    study = STUDY.by("random", "halving", iterations=1).budget(1, 9).parallelism(3)

    def fates(trial: Trial, attempt: int) -> Fate:
        return Fate(end="unavailable")

    world = World(study, fates).run()
    assert world.reason() == c.SCHEDULE_FINISHED
    rungs = {trial.spec.slot.rung for trial in world.trials.values() if trial.spec.slot}
    assert rungs == {0, 1}
    assert set(world.reasons().values()) == {c.COMPLETED, c.DONOR_UNAVAILABLE}
    assert world.study.status.trials.failed == 0


def test_each_generation_that_is_over_is_collected_by_one_removal_while_the_population_trains_on() -> None:
    removals: list[tuple[set[int | None], bool]] = []

    def succeeds(number: int) -> bool:
        assert world.cleanup is not None
        slots = [world.trials[each].spec.slot for each in world.cleanup.numbers]
        removals.append(({slot.generation for slot in slots if slot}, world.over))
        return True

    world = World(STUDY.by("pbt", population=4).budget(1, 5).parallelism(2), cleanups=succeeds)
    world.run()
    assert removals == [({0}, False), ({1}, False), ({2}, False), ({3}, True)]
    assert world.disk == {each.number for each in world.study.status.best} == set(range(16, 20))


@pytest.mark.parametrize("end", ["crash", "nan", "infeasible"])
def test_a_population_of_which_all_members_fail_in_one_generation_is_lost(end: str) -> None:
    def fates(trial: Trial, attempt: int) -> Fate:
        return Fate(end=end if trial.spec.slot and trial.spec.slot.generation == 1 else "done")

    world = World(STUDY.by("pbt", population=4).budget(1, 4).limits(max_failed_trials=100), fates).run()
    assert world.reason() == c.POPULATION_LOST
    assert len(world.trials) == 4 + 4
    assert world.study.status.trials.failed == (4 if end == "crash" else 0)
    found = c.condition(world.study.status.conditions, c.SUCCEEDED)
    assert found is not None
    assert found.status == "False"
