"""The ledger: whatever happens to Trials in whatever order, it says what could be counted anew from the Trials alone."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import pytest
from hpo_algorithms import State
from hpo_operator import conditions as c
from hpo_operator.ledger import Changes, Ledger
from hpo_operator.resources import RankedTrial, Trial
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.unit.operator.builders import START, StudyBuilder, TrialBuilder, a_ledger, a_study, a_trial, at, ref
from tests.unit.work import assert_linear

STEADY = functools.partial(settings, deadline=None, derandomize=True)

MULTI = a_study().objectives({"metric": "loss"}, {"metric": "acc", "goal": "Maximize"})
PLAIN = a_study()
STUDIES = {
    "one objective": PLAIN,
    "several objectives": MULTI,
    "constrained": a_study().constrained("acc", "GreaterOrEqual", 0.5),
    "to be maximised": a_study().maximizing("loss"),
}

NUMBERS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.sampled_from([0.5, math.nan, math.inf, -math.inf])
ENDS = st.one_of(
    st.tuples(st.just(c.COMPLETED), NUMBERS, NUMBERS),
    st.tuples(st.sampled_from([c.EARLY_STOPPED, *sorted(c.FAILURES | c.INFEASIBILITIES | c.FREED)]), NUMBERS, NUMBERS),
)


def ending(trial: TrialBuilder, end: tuple[str, float, float], seconds: int) -> TrialBuilder:
    reason, loss, acc = end
    trial = trial.gpu_seconds(seconds)
    if reason == c.COMPLETED:
        return trial.completed(at(seconds), loss=loss, acc=acc)
    if reason == c.EARLY_STOPPED:
        return trial.stopped_early(3, at(seconds), loss=loss, acc=acc)
    return trial.over(reason, when=at(seconds))


class AnyOrder(RuleBasedStateMachine):
    """Trials are created, run, end, are deleted, and are told of late and twice."""

    study: StudyBuilder = PLAIN

    def __init__(self) -> None:
        super().__init__()
        self.ledger = a_ledger(self.study.build())
        self.states: dict[int, list[Trial]] = {}
        self.number = 0

    @rule(budget=st.sampled_from([None, 1, 9]), x=st.floats(0, 1))
    def created(self, budget: int | None, x: float) -> None:
        trial = a_trial(self.number).with_parameters(x=repr(x))
        self._put(trial.budget(budget).build() if budget else trial.build())
        self.number += 1

    @precondition(lambda self: self.ledger.active)
    @rule(choice=st.integers(0, 50), seconds=st.integers(0, 100))
    def given_up(self, choice: int, seconds: int) -> None:
        old = self._choose(self.ledger.active, choice)
        status = old.status.model_copy(update={"gpu_seconds": old.status.gpu_seconds + seconds, "workload": ref("w")})
        self._put(old.model_copy(update={"status": status}))

    @precondition(lambda self: self.ledger.active)
    @rule(choice=st.integers(0, 50), end=ENDS, seconds=st.integers(0, 100))
    def ended(self, choice: int, end: tuple[str, float, float], seconds: int) -> None:
        old = self._choose(self.ledger.active, choice)
        new = ending(a_trial(old.spec.number), end, seconds).build()
        self._put(old.model_copy(update={"status": new.status}))

    @precondition(lambda self: self.ledger.trials)
    @rule(choice=st.integers(0, 50))
    def removed(self, choice: int) -> None:
        number = self._choose(self.ledger.trials, choice).spec.number
        self.ledger.remove(number)
        del self.states[number]

    @precondition(lambda self: self.ledger.trials)
    @rule(choice=st.integers(0, 50), which=st.integers(0, 5))
    def told_again(self, choice: int, which: int) -> None:
        """An old state comes late; of an active Trial the store lets none through."""
        number = self._choose(self.ledger.trials, choice).spec.number
        if number not in self.ledger.active:
            self.ledger.put(self.states[number][which % len(self.states[number])])

    @precondition(lambda self: self.ledger.uncleaned)
    @rule(choice=st.integers(0, 50), gone=st.booleans())
    def workload_ended(self, choice: int, gone: bool) -> None:
        number = self._choose(self.ledger.uncleaned, choice).spec.number
        (self.ledger.cleaned if gone else self.ledger.settle)(number)
        assert number not in self.ledger.uncleaned

    @rule()
    def counted_anew(self) -> None:
        """A rule, not an invariant: between two looks any number of changes may come."""
        known = self.ledger
        fresh = Ledger(known.spec, known.space, reversed(list(known.trials.values())), known.created)
        assert known.counts(3) == fresh.counts(3)
        assert (known.created, known.ended, known.failed) == (fresh.created, fresh.ended, fresh.failed)
        assert known.gpu_seconds == fresh.gpu_seconds
        assert known.mean_seconds == fresh.mean_seconds
        assert known.best() == fresh.best() == best_of(known)
        assert known.best_loss() == fresh.best_loss()
        assert known.front() == fresh.front() == front_of(known)
        assert repr(known.history()) == repr(fresh.history())  # NaN is not equal to itself
        assert known.active == fresh.active
        assert known.created == self.number
        assert known.kept == sorted(known.kept)
        assert not {number for _, number in known.kept} & (known.uncleaned.keys() | known.active.keys())
        assert {number for _, number in known.kept} <= known.trials.keys()

    def teardown(self) -> None:
        self.counted_anew()

    def _put(self, trial: Trial) -> None:
        self.states.setdefault(trial.spec.number, []).append(trial)
        self.ledger.put(trial)

    @staticmethod
    def _choose(trials: dict[int, Trial], choice: int) -> Trial:
        return trials[sorted(trials)[choice % len(trials)]]


def candidates(ledger: Ledger) -> list[tuple[int, int, tuple[float, ...]]]:
    """(budget, number, losses) of the completed Trials that may be best, said as plainly as can be."""
    found = []
    for _, trial in sorted(ledger.trials.items()):
        if c.reason(trial.status.conditions, c.SUCCEEDED) != c.COMPLETED or trial.status.observation is None:
            continue
        values = {pair.name: float(pair.value) for pair in trial.status.observation.metrics}
        signs = {objective.metric: 1 if objective.goal == "Minimize" else -1 for objective in ledger.spec.objectives}
        losses = tuple(sign * values[metric] for metric, sign in signs.items())
        if all(map(math.isfinite, losses)) and (not ledger.spec.constraints or values["acc"] >= 0.5):
            found.append((trial.spec.budget or 0, trial.spec.number, losses))
    return found


def best_of(ledger: Ledger) -> tuple[RankedTrial, ...]:
    found = candidates(ledger)
    highest = max((budget for budget, _, _ in found), default=0)
    ranked = sorted((losses[0], number) for budget, number, losses in found if budget == highest)
    return shown(ledger, [number for _, number in ranked][:10])


def front_of(ledger: Ledger) -> tuple[RankedTrial, ...]:
    found = candidates(ledger)
    if len(ledger.spec.objectives) == 1:
        return ()

    def beaten(losses: tuple[float, ...]) -> bool:
        return any(all(a <= b for a, b in zip(o, losses, strict=True)) and o != losses for _, _, o in found)

    return shown(ledger, [number for losses, number in sorted((o, n) for _, n, o in found if not beaten(o))])


def shown(ledger: Ledger, numbers: Sequence[int]) -> tuple[RankedTrial, ...]:
    def one(trial: Trial) -> RankedTrial:
        metrics = trial.status.observation.metrics if trial.status.observation else ()
        return RankedTrial(
            trial_name=trial.metadata.name,
            number=trial.spec.number,
            budget=trial.spec.budget,
            parameters=trial.spec.parameters,
            metrics=metrics,
        )

    return tuple(one(ledger.trials[number]) for number in numbers)


def machine(study: StudyBuilder) -> type[RuleBasedStateMachine.TestCase]:
    case = type("AnyOrder", (AnyOrder,), {"study": study}).TestCase
    case.settings = settings(max_examples=20, stateful_step_count=30, deadline=None, derandomize=True)
    return case


TestOneObjective = machine(STUDIES["one objective"])
TestSeveralObjectives = machine(STUDIES["several objectives"])
TestConstrained = machine(STUDIES["constrained"])
TestMaximised = machine(STUDIES["to be maximised"])


# What algorithms see


def test_a_canceled_or_deleted_trial_is_a_hole_in_the_history() -> None:
    trials = [a_trial(0).completed(loss=0.5), a_trial(1).over(c.CANCELED), a_trial(2), a_trial(3).over(c.DONOR_UNAVAILABLE)]
    ledger = a_ledger(PLAIN.build(), *(trial.build() for trial in trials), a_trial(4).build())
    ledger.remove(2)
    assert [seen.number for seen in ledger.history()] == [0, 4]
    assert ledger.created == 5


@pytest.mark.parametrize(
    ("trial", "state", "losses"),
    [
        (a_trial(0), State.ACTIVE, ()),
        (a_trial(0).running(), State.ACTIVE, ()),
        (a_trial(0).completed(loss=0.5), State.DONE, (0.5,)),
        (a_trial(0).stopped_early(loss=0.5), State.STOPPED, (0.5,)),
        (a_trial(0).stopped_early(), State.STOPPED, ()),
        (a_trial(0).over(c.PROGRAM_FAILED), State.FAILED, ()),
        (a_trial(0).over(c.INFEASIBLE), State.INFEASIBLE, ()),
        (a_trial(0).over("ReasonOfTheFuture"), State.FAILED, ()),
    ],
)
def test_algorithms_see_what_became_of_a_trial(trial: TrialBuilder, state: State, losses: tuple[float, ...]) -> None:
    seen = a_ledger(PLAIN.build(), trial.build()).history()[0]
    assert (seen.state, seen.losses) == (state, losses)


def test_algorithms_see_objectives_to_be_maximised_as_losses_and_curves_too() -> None:
    study = a_study().maximizing("acc").build()
    ledger = a_ledger(study, a_trial(0).completed(acc=0.9).build(), a_trial(1).build())
    ledger.observe(1, ((1, 0.5), (2, 0.6)))
    done, active = ledger.history()
    assert done.losses == (-0.9,)
    assert active.curve == ((1, -0.5), (2, -0.6))
    assert active.step == 2


def test_a_checkpoint_that_is_collected_after_the_result_can_be_continued_no_more() -> None:
    trial = a_trial(0).completed(loss=0.5)
    ledger = a_ledger(PLAIN.build(), trial.checkpoint().build())
    version = ledger.version
    assert ledger.history()[0].restorable
    ledger.put(trial.checkpoint(state="Collected").build())
    assert not ledger.history()[0].restorable
    assert ledger.changed[version:] == [0]


def test_an_old_state_of_an_ended_trial_changes_nothing() -> None:
    ledger = a_ledger(PLAIN.build(), a_trial(0).completed(loss=0.5).checkpoint().build())
    version = ledger.version
    ledger.put(a_trial(0).running().build())
    assert ledger.version == version
    assert ledger.history()[0].restorable


def test_a_result_that_was_changed_by_hand_does_not_count() -> None:
    ledger = a_ledger(PLAIN.build(), a_trial(0).completed(loss=0.5).build())
    ledger.put(a_trial(0).completed(loss=0.1).build())
    ledger.put(a_trial(0).build())
    assert ledger.best_loss() == 0.5
    assert ledger.best()[0].metrics[0].value == "0.5"
    assert not ledger.active


def test_a_trial_whose_parameters_this_version_does_not_take_is_counted_but_not_shown() -> None:
    trials = [a_trial(0).with_parameters(x="7.5").completed(loss=0.5), a_trial(1).with_parameters(y="1")]
    ledger = a_ledger(PLAIN.build(), *(trial.build() for trial in trials))
    assert ledger.history() == []
    assert ledger.counts(0).completed == 1


def test_the_version_grows_only_with_what_algorithms_can_see() -> None:
    ledger = a_ledger(PLAIN.build(), a_trial(0).build())
    version = ledger.version
    ledger.put(a_trial(0).running().build())
    ledger.put(a_trial(0).given_up(c.PREEMPTED).build())
    assert ledger.version == version
    ledger.observe(0, ((1, 0.5),))
    assert ledger.version == version + 1
    ledger.observe(0, ((1, 0.5),))
    ledger.observe(7, ((1, 0.5),))
    assert ledger.version == version + 1


@STEADY()
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 40))
def test_the_changes_since_a_version_are_each_number_once_in_the_order_of_its_last_change(numbers: list[int], since: int) -> None:
    changes = Changes()
    for number in numbers:
        changes.append(number)
    assert len(changes) == len(numbers)
    later = numbers[since:]
    assert changes[since:] == sorted(set(later), key=lambda n: len(later) - 1 - later[::-1].index(n))


def test_the_numbers_of_created_trials_come_from_the_status_too_for_the_last_may_have_been_deleted() -> None:
    assert a_ledger(PLAIN.build(), a_trial(2).build(), created=7).created == 7
    assert a_ledger(PLAIN.build(), a_trial(8).build(), created=7).created == 9
    ledger = a_ledger(PLAIN.build(), a_trial(0).build())
    ledger.remove(0)
    assert ledger.created == 1


def test_a_deleted_trial_is_remembered_as_long_as_its_workload_may_be_there() -> None:
    ledger = a_ledger(PLAIN.build(), a_trial(0).running().build(), a_trial(1).completed(loss=0.5).build())
    ledger.cleaned(1)
    ledger.remove(0)
    ledger.remove(1)
    ledger.remove(9)
    assert ledger.removed == {0, 9}
    assert ledger.created == 10
    ledger.cleaned(0)
    assert ledger.removed == {9}


# How good


def test_the_best_are_ten_in_the_order_of_their_loss_and_equal_ones_by_number() -> None:
    losses = [0.5, 0.3, 0.5, 0.1, 0.9, 0.5, 0.2, 0.8, 0.7, 0.6, 0.4, 0.55]
    ledger = a_ledger(PLAIN.build(), *(a_trial(n).completed(loss=loss).build() for n, loss in enumerate(losses)))
    assert [entry.number for entry in ledger.best()] == [3, 6, 1, 10, 0, 2, 5, 11, 9, 8]


def test_when_the_best_is_deleted_the_eleventh_comes_up() -> None:
    ledger = a_ledger(PLAIN.build(), *(a_trial(n).completed(loss=n / 20).build() for n in range(12)))
    ledger.remove(0)
    assert [entry.number for entry in ledger.best()] == list(range(1, 11))


def test_a_low_loss_on_a_small_budget_is_not_best_while_a_full_training_has_ended() -> None:
    trials = [a_trial(0).budget(1).completed(loss=0.1), a_trial(1).budget(9).completed(loss=0.9)]
    ledger = a_ledger(PLAIN.build(), *(trial.build() for trial in trials))
    assert [entry.number for entry in ledger.best()] == [1]
    assert ledger.best_loss() == 0.9


@pytest.mark.parametrize(
    "trial",
    [
        a_trial(0).stopped_early(loss=0.0),
        a_trial(0).completed(loss=math.nan),
        a_trial(0).completed(loss=-math.inf),
        a_trial(0).over(c.PROGRAM_FAILED),
        a_trial(0).over(c.OBJECTIVE_NOT_FINITE),
        a_trial(0).running(),
        a_trial(0).completed(),
    ],
    ids=["stopped early", "NaN", "infinite", "failed", "not finite", "running", "without its metric"],
)
def test_what_is_never_best(trial: TrialBuilder) -> None:
    ledger = a_ledger(PLAIN.build(), trial.build())
    assert ledger.best() == ()
    assert ledger.best_loss() == math.inf


def test_what_breaks_a_constraint_is_never_best() -> None:
    study = a_study().constrained("latency", "LessOrEqual", 1.0).build()
    broken = a_trial(0).completed(loss=0.1, latency=1.5)
    missing = a_trial(1).completed(loss=0.2)
    kept = a_trial(2).completed(loss=0.9, latency=1.0)
    ledger = a_ledger(study, broken.build(), missing.build(), kept.build())
    assert [entry.number for entry in ledger.best()] == [2]
    assert [seen.violation for seen in ledger.history()] == [0.5, math.inf, 0.0]


def test_equal_trials_stand_side_by_side_in_the_front_whichever_came_first() -> None:
    trials = [a_trial(n).completed(loss=0.5, acc=0.5).build() for n in range(2)]
    for order in (trials, trials[::-1]):
        ledger = a_ledger(MULTI.build())
        for trial in order:
            ledger.put(trial)
        assert [entry.number for entry in ledger.front()] == [0, 1]


def test_of_a_long_front_an_even_choice_with_both_ends_is_shown() -> None:
    trials = [a_trial(n).completed(loss=n / 1000, acc=n / 1000).build() for n in range(250)]
    numbers = [entry.number for entry in a_ledger(MULTI.build(), *trials).front()]
    assert len(numbers) == 100
    assert (numbers[0], numbers[-1]) == (0, 249)
    assert max(b - a for a, b in itertools.pairwise(numbers)) <= 3


def test_the_mean_duration_is_that_of_all_trials_that_started() -> None:
    trials = [a_trial(n).completed(at(10 * (n + 1)), started=START, loss=0.5).build() for n in range(3)]
    assert a_ledger(PLAIN.build(), *trials, a_trial(3).over(c.CANCELED).build()).mean_seconds == 20.0


# What it costs


def test_trials_are_taken_in_at_a_cost_each_that_does_not_grow() -> None:
    def put_all(count: int):
        ledger, trials = a_ledger(PLAIN.build()), [a_trial(n).completed(loss=n / 7 % 1).build() for n in range(count)]
        return lambda: [ledger.put(each) for each in trials]

    assert_linear(put_all, 500)


def test_a_put_beside_a_front_costs_no_more_than_a_walk_along_it() -> None:
    """The worst case: none is beaten by any other."""

    def put_one(count: int):
        trials = [a_trial(n).completed(loss=n / 5000, acc=n / 5000).build() for n in range(count + 1)]
        ledger = a_ledger(MULTI.build(), *trials[:-1])
        return lambda: ledger.put(trials[-1])

    assert_linear(put_one, 300)


def test_deletions_do_not_count_everything_anew_each_time() -> None:
    def remove_most(count: int):
        ledger = a_ledger(PLAIN.build(), *(a_trial(n).completed(loss=n / 5000).build() for n in range(count)))

        def remove() -> None:
            for number in range(count - 10):
                ledger.remove(number)
            assert [entry.number for entry in ledger.best()] == list(range(count - 10, count))

        return remove

    assert_linear(remove_most, 500)
