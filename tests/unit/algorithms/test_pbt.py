"""PBT: who becomes whose copy, what becomes of its parameters, and what the population survives."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hpo_algorithms import Algorithm, InvalidSettings, Optimizer, Origin, Problem, Space, State, Trial, build
from hpo_algorithms.population.generations import ends
from hpo_algorithms.population.pb2 import PB2
from hpo_algorithms.population.pbt import PBT, nudged, perturbed
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import POPULATION_LOST, SCHEDULE_FINISHED

from tests.unit.algorithms.populations import LINE, Run, diverged, done, failed, lost, slot, training
from tests.unit.algorithms.spaces import MIXED, read


def by_member(trial: Trial) -> float:
    """Member 0 is the best, and so on."""
    return float(trial.slot.member or 0)


def generation(count: int = 10, **settings: object) -> Run:
    """A population of which the first generation has ended, and the second begun."""
    run = Run(PBT(population=count, **settings), training())  # type: ignore[arg-type]
    run.start()
    run.end_all(by_member)
    run.start()
    return run


# Generations


def test_generations_end_at_min_then_an_interval_further_and_the_last_at_max() -> None:
    assert ends(training(2, 9), None) == (2, 4, 6, 8, 9)
    assert ends(training(5, 11), 2) == (5, 7, 9, 11)
    assert ends(training(5, 6), 100) == (5, 6)


def test_each_member_of_a_generation_is_a_new_trial_that_trains_to_the_generation_s_end() -> None:
    run = Run(PBT(population=4), training(2, 5))
    for number, budget in enumerate((2, 4, 5)):
        made = run.start()
        assert [trial.slot for trial in made] == [slot(number, member) for member in range(4)]
        assert {trial.budget for trial in made} == {budget}
        run.end_all(by_member)
    run.start()
    assert run.finished == SCHEDULE_FINISHED
    assert run.method.donors(run.problem, run.history) == frozenset()


def test_a_generation_waits_for_all_of_the_one_before() -> None:
    run = Run(PBT(population=3), training())
    first = run.start()
    run.end(first[0], lambda trial: done(trial, 1.0))
    run.end(first[2], lambda trial: done(trial, 1.0))
    assert run.start() == []
    assert not run.finished
    run.end(first[1], lambda trial: done(trial, 1.0))
    assert len(run.start()) == 3


def test_a_population_larger_than_parallelism_runs_in_waves_and_comes_to_the_same() -> None:
    whole, waves = (Run(PBT(population=10), training(seed=4)) for _ in range(2))
    while not whole.finished:
        whole.start()
        whole.end_all(lambda trial: trial.params["x"] + trial.budget)
    while not waves.finished:
        waves.start(3)
        waves.end_all(lambda trial: trial.params["x"] + trial.budget)
    assert waves.history == whole.history


# Exploit


def test_truncation_gives_the_loser_the_winner_s_checkpoint_and_not_its_own_as_katib_does() -> None:
    run = generation()
    for member, trial in run.at(1).items():
        own = run.number(0, member)
        if member in (8, 9):
            assert trial.donor in (run.number(0, 0), run.number(0, 1)), "the winner's number"
            assert trial.donor != own, "never the loser's"
        else:
            assert trial.donor == own


def test_the_winner_s_parameters_go_with_its_checkpoint_and_are_changed_and_all_others_keep_theirs() -> None:
    run = Run(PBT(resample=0.0), training())
    run.start()
    run.end_all(by_member)
    answer = run.method.propose(run.problem, run.history, 10, 10)
    known = {trial.number: trial for trial in run.history}
    for member, proposal in enumerate(answer.proposals):
        before = known[proposal.donor].params["x"]
        if member >= 8:
            assert proposal.origin is Origin.PERTURBED
            assert proposal.params["x"] != before
            assert abs(proposal.params["x"] - before) <= 0.2 * before + 0.02
        else:
            assert (proposal.origin, proposal.params["x"]) == (Origin.PROMOTED, before)


def test_the_winner_is_any_of_the_best() -> None:
    winners = set()
    for seed in range(20):
        run = Run(PBT(population=10, truncation=0.3), training(seed=seed))
        run.start()
        run.end_all(by_member)
        winners |= {trial.donor for trial in run.start() if trial.slot.member in (7, 8, 9)}
    assert winners == {0, 1, 2}


def test_two_members_exchange_weights_although_a_fifth_of_two_is_none() -> None:
    run = generation(2)
    assert [trial.donor for trial in run.at(1).values()] == [0, 0]


def test_in_a_tournament_only_the_loser_of_a_duel_copies_and_only_whom_it_met() -> None:
    copies = 0
    for seed in range(30):
        run = Run(PBT(population=5, exploit="tournament"), training(seed=seed))
        run.start()
        run.end_all(by_member)
        made = run.start()
        assert made[0].donor == 0, "nobody is better than the best"
        assert all(trial.donor <= trial.number - 5 for trial in made), "a copy is one of somebody better"
        copies += sum(trial.donor != trial.number - 5 for trial in made)
    # Member k loses to k of the 4 others: (0 + 1 + 2 + 3 + 4) / 4 = 2.5 copies a generation.
    assert copies / 30 == pytest.approx(2.5, abs=0.4)


def test_who_keeps_the_constraints_is_better_than_who_breaks_them() -> None:
    run = Run(PBT(population=2), training())
    first = run.start()
    run.end(first[0], lambda trial: dataclasses.replace(done(trial, 0.0), violation=1.0))
    run.end(first[1], lambda trial: done(trial, 5.0))
    assert [trial.donor for trial in run.start()] == [1, 1]


# Explore


def test_a_number_moves_by_a_share_of_itself_an_ordinal_to_a_neighbour_and_a_name_stays() -> None:
    space = read(MIXED)
    assert nudged(space["lr"], 0.001, 0.2) == pytest.approx(0.0012)
    assert nudged(space["lr"], 0.001, -0.2) == pytest.approx(0.0008)
    assert nudged(space["lr"], 0.1, 0.2) == 0.1, "a bound holds"
    assert nudged(space["width"], 100, 0.2) == 120
    assert nudged(space["width"], 2, 0.2) == 3, "at least one"
    assert nudged(space["layers"], 3, -0.2) == 2
    assert nudged(space["dropout"], 0.5, 0.2) == pytest.approx(0.6)
    assert nudged(space["warmup"], 100, -0.2) == 80
    assert nudged(space["batch"], 32, 0.2) == 64.5
    assert nudged(space["batch"], 16, -0.2) == 16
    assert nudged(space["optimizer"], "sgd", 0.2) == "sgd"
    assert nudged(LINE["x"], 0.0, 0.2) == pytest.approx(0.02), "zero is no trap"
    far = Space.from_spec([{"name": "t", "float": {"min": 290, "max": 310}}])["t"]
    assert nudged(far, 300.0, 0.2) == pytest.approx(304), "not by a fifth of 300, to the bound at once"


def test_copies_are_legal_configurations_whatever_is_changed() -> None:
    space = read(MIXED)
    for number in range(300):
        rng = stream(1, number, "test")
        found = perturbed(space, rng, space.sample(rng), 0.2, 0.5)
        assert list(space.validate(found)) == list(found)


def test_resample_says_how_often_a_parameter_is_drawn_anew() -> None:
    far = [perturbed(LINE, stream(0, n, "test"), {"x": 0.5}, 0.2, 0.3)["x"] for n in range(1000)]
    assert sum(abs(x - 0.5) > 0.101 for x in far) / 1000 == pytest.approx(0.3 * 0.8, abs=0.04)


# Losses


@pytest.mark.parametrize("ending", [failed, diverged, lambda trial: lost(trial, -5.0)], ids=["failed", "NaN", "no checkpoint"])
def test_a_member_that_cannot_be_continued_is_replaced_by_a_copy_of_a_good_one(ending: object) -> None:
    run = Run(PBT(population=10), training())
    first = run.start()
    run.end(first[0], ending)  # type: ignore[arg-type]
    run.end_all(by_member)
    made = run.start()
    assert made[0].donor in (1, 2)
    assert made[0].budget == 2
    assert made[9].donor in (1, 2)
    assert all(trial.donor == trial.slot.member for trial in made[1:8])


def test_one_that_fails_every_generation_is_replaced_every_time() -> None:
    run = Run(PBT(population=4), training(1, 6))
    while not run.finished:
        for trial in run.start():
            run.end(trial, failed if trial.slot.member == 3 else lambda each: done(each, by_member(each)))
    assert run.finished == SCHEDULE_FINISHED
    assert [run.at(g)[3].donor for g in range(1, 6)] == [run.number(g, 0) for g in range(5)]


def test_a_population_of_which_all_are_lost_ends_and_says_so() -> None:
    for endings in ((failed, diverged, failed), (failed, lambda trial: lost(trial, 1.0), diverged)):
        run = generation(3)
        for trial, ending in zip(run.at(1).values(), endings, strict=True):
            assert not run.finished
            run.end(trial, ending)
        run.start()
        assert run.finished == POPULATION_LOST


def test_a_slot_whose_donor_was_lost_is_filled_from_the_next_best() -> None:
    run = generation()
    taken = next(trial for trial in run.at(1).values() if trial.slot.member == 9)
    winner = run.history[taken.donor]
    run.free(taken)
    run.history[winner.number] = dataclasses.replace(winner, restorable=False)
    (again,) = run.start()
    assert again.slot == taken.slot
    assert again.donor in {0, 1, 2} - {winner.number}
    assert again.number == 20, "a Trial of its own"


def test_while_a_trial_may_still_be_freed_the_checkpoints_that_its_slot_could_be_filled_from_are_kept() -> None:
    run = generation()
    assert run.method.donors(run.problem, run.history) >= set(range(10))
    for trial in list(run.at(1).values())[:-1]:
        run.end(trial, lambda each: done(each, 1.0))
    assert run.method.donors(run.problem, run.history) >= set(range(20)) - {19}
    run.end(run.at(1)[9], lambda each: done(each, 1.0))
    assert run.method.donors(run.problem, run.history) == set(range(10, 20))


# Asynchronous


def test_asynchronous_members_do_not_wait_and_are_compared_with_those_that_have_come_as_far() -> None:
    run = Run(PBT(population=4, mode="asynchronous"), training())
    first = run.start()
    run.end(first[2], lambda trial: done(trial, 3.0))
    (alone,) = run.start()
    assert (alone.slot, alone.donor) == (slot(1, 2), 2), "there is nobody to compare with yet"
    run.end(first[0], lambda trial: done(trial, 9.0))
    (loser,) = run.start()
    assert (loser.slot, loser.donor) == (slot(1, 0), 2)
    run.end(first[1], lambda trial: done(trial, 5.0))
    (middle,) = run.start()
    assert (middle.slot, middle.donor) == (slot(1, 1), 1)


def test_an_asynchronous_member_that_is_lost_waits_for_one_that_comes_as_far() -> None:
    run = Run(PBT(population=2, mode="asynchronous"), training())
    first = run.start()
    run.end(first[0], failed)
    assert run.start() == []
    assert not run.finished
    run.end(first[1], lambda trial: done(trial, 1.0))
    assert [(trial.slot, trial.donor) for trial in run.start()] == [(slot(1, 0), 1), (slot(1, 1), 1)]


@pytest.mark.parametrize(
    "method",
    [
        PBT(population=6, mode="asynchronous"),
        PBT(population=6, mode="asynchronous", exploit="tournament"),
        PB2(population=6, mode="asynchronous"),
    ],
    ids=["pbt", "tournament", "pb2"],
)
@pytest.mark.parametrize("seed", range(8))
def test_an_asynchronous_population_is_valid_under_any_order_and_needs_only_what_it_says_it_keeps(
    method: Algorithm, seed: int
) -> None:
    """Checkpoints that `donors` does not name are collected at once; failures and freed slots come as they like."""
    rng = random.Random(seed)
    run = Run(method, training(1, 8, seed=seed))
    while not run.finished:
        run.start(rng.randint(1, 4))
        kept = run.method.donors(run.problem, run.history)
        run.history = [t if t.active or t.number in kept else dataclasses.replace(t, restorable=False) for t in run.history]
        active = [trial for trial in run.history if trial.active]
        for trial in rng.sample(active, min(len(active), rng.randint(0, 3))):
            fate = rng.random()
            if fate < 0.1:
                run.free(trial)
            elif fate < 0.2:
                run.end(trial, failed)
            else:
                run.end(trial, lambda each: done(each, rng.random()))
    assert run.finished == SCHEDULE_FINISHED
    known = {trial.number: trial for trial in run.history}
    for trial in run.history:
        generation = trial.slot.generation
        assert trial.budget == run.problem.min_budget + generation
        if generation:
            assert known[trial.donor].slot.generation == generation - 1
            assert known[trial.donor].state is State.DONE
    for member in range(6):
        assert sorted(t.slot.generation for t in run.history if t.slot.member == member) == list(range(8))


# Law 1


def test_lineage_is_read_from_the_trials_and_not_worked_out_again() -> None:
    """Results that come to light later change nothing that has been decided."""
    run = generation()
    answer = run.method.propose(run.problem, run.history, 20, 10)
    assert answer.proposals == ()
    run.history = [dataclasses.replace(t, losses=(9.0 - t.losses[0],)) if t.losses else t for t in run.history]
    assert run.start() == []
    run.end_all(by_member)
    assert [trial.donor for trial in run.start()][:8] == [run.number(1, member) for member in range(8)]


def test_every_lineage_leads_back_to_a_trial_of_the_first_generation_step_by_step() -> None:
    run = Run(PBT(population=5), training(2, 20, seed=3))
    while not run.finished:
        run.start()
        run.end_all(lambda trial: (trial.params["x"] - 0.3) ** 2 - trial.budget)
    known = {trial.number: trial for trial in run.history}
    for trial in run.at(9).values():
        budgets = []
        while trial.donor is not None:
            budgets.append(trial.budget)
            trial = known[trial.donor]  # noqa: PLW2901
        assert budgets == list(range(20, 2, -2))
        assert trial.slot.generation == 0


# Settings


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            Problem(LINE),
            "algorithm.pbt: needs a budget, for its members train in generations. "
            "Add budget: {min: 5, max: 100, unit: epochs}, a generation and the whole.",
        ),
        (
            Problem(LINE, 1, 9, 9),
            "algorithm.pbt: has a single generation, since budget.min (9) is not below budget.max (9). "
            "Lower budget.min to the length of a generation.",
        ),
        (
            Problem(LINE, 1, 1, 10**9),
            "algorithm.pbt: has 1000000000 generations by its budget; at most 10000 are allowed. "
            "Raise interval, or budget.min where that is the length of a generation.",
        ),
        (
            Problem(LINE, 2, 1, 9),
            "algorithm.pbt: ranks its members by one objective, and there are 2. "
            "Keep one objective and make the others constraints.",
        ),
    ],
    ids=["no budget", "one generation", "generations without end", "two objectives"],
)
def test_what_a_population_cannot_work_with_is_refused_with_the_reason(problem: Problem, message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        build(problem, {"pbt": {}})
    assert [str(fault) for fault in caught.value.faults] == [message]


def test_a_schedule_beside_it_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="Remove schedule"):
        build(training(), {"pbt": {}}, {"hyperband": {}})


def test_two_workers_reach_by_turns_what_neither_reaches_alone() -> None:
    """The toy of [Jaderberg2017, figure 2]: each of two fixed surrogates sees one coordinate only."""
    space = Space.from_spec([{"name": name, "float": {"min": 0, "max": 1}} for name in ("h0", "h1")])
    optimizer = Optimizer(
        space, {"pbt": {"population": 2}}, budget=(4, 200), seed=1, given=[{"h0": 1.0, "h1": 0.0}, {"h0": 0.0, "h1": 1.0}]
    )
    weights: dict[int | None, tuple[float, float]] = {None: (0.9, 0.9)}
    while trials := optimizer.ask(2):
        for trial in trials:
            a, b = weights[trial.donor]
            for _ in range(trial.budget - (optimizer.history[trial.donor].budget if trial.donor is not None else 0)):
                a, b = a - 0.02 * trial.params["h0"] * a, b - 0.02 * trial.params["h1"] * b
            weights[trial.number] = a, b
            optimizer.tell(trial.number, a * a + b * b - 1.2)
    assert optimizer.finished == SCHEDULE_FINISHED
    assert -optimizer.best.loss > 1.15
