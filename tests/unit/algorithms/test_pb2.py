"""PB2: what its model learns from improvements, and how copies that are made together differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from hpo_algorithms import Origin, Problem, Space, State, Trial
from hpo_algorithms.population import pb2
from hpo_algorithms.population.drift import DriftingGP
from hpo_algorithms.population.generations import improvement
from hpo_algorithms.population.names import Bandit, Names, rewarded
from hpo_algorithms.population.pb2 import PB2

from tests.unit.algorithms.populations import Run, done, failed, slot, training
from tests.unit.work import assert_linear, lines, memory

PLANE = Space.from_spec([{"name": name, "float": {"min": 0, "max": 1}} for name in "xy"])
NAMED = Space.from_spec(
    [
        {"name": "kind", "categorical": {"choices": ["bad", "good", "worse"]}},
        {"name": "x", "float": {"min": 0, "max": 1}},
        {"name": "z", "float": {"min": 0, "max": 1}, "when": [{"parameter": "kind", "in": ["good"]}]},
    ]
)


def past(space: Space, gain: object, generations: int = 8, members: int = 6, optimum: float = 0.7) -> list[Trial]:
    """A population in which each Trial improved by `gain(params, generation)`, with parameters drawn at random."""
    rng, history = np.random.default_rng(0), []
    for generation in range(generations):
        for member in range(members):
            number = len(history)
            params = space.sample(rng)
            donor = number - members if generation else None
            before = history[donor].losses[0] if donor is not None else 10.0
            loss = before - gain(params, generation)  # type: ignore[operator]
            trial = Trial(number, params, generation + 1, slot(generation, member), donor)
            history.append(done(trial, loss))
    return history


def copies(history: list[Trial], space: Space, seeds: int = 10, high: int = 100, **settings: object) -> list[dict[str, object]]:
    method = PB2(population=6, **settings)  # type: ignore[arg-type]
    found = []
    for seed in range(seeds):
        answer = method.propose(Problem(space, 1, 1, high, seed), history, len(history), 6)
        found += [proposal.params for proposal in answer.proposals if proposal.origin is Origin.PERTURBED]
    return found  # type: ignore[return-value]


# The model


def test_the_process_goes_through_its_points_and_knows_little_far_from_them() -> None:
    X, t = np.linspace(0, 1, 8)[:, None], np.zeros(8)
    gp = DriftingGP(X, t, np.sin(4 * X[:, 0]))
    np.testing.assert_allclose(gp.mean(X, 0.0), np.sin(4 * X[:, 0]), atol=0.15)
    assert gp.deviation(np.array([[0.5]]), 0.0)[0] < 0.3 < gp.deviation(np.array([[3.0]]), 0.0)[0]


def test_what_is_unknown_is_said_by_the_standard_deviation_and_not_by_its_square_as_in_the_published_code() -> None:
    """Of a process of variance one that is known at one point and one time: sqrt(1 - k^2 / (1 + s))."""
    scale, noise, forgotten, apart, later = 0.3, 0.2, 0.1, 0.25, 3.0
    theta = np.array([math.log(scale), math.log(noise), math.log(forgotten / (1 - forgotten))])
    gp = DriftingGP(np.array([[0.5]]), np.zeros(1), np.array([0.8]), theta)
    k = math.exp(-(apart**2) / (2 * scale**2)) * (1 - forgotten) ** (later / 2)
    at = np.array([[0.5 + apart]])
    assert gp.mean(at, later)[0] == pytest.approx(k * 0.8 / (1 + noise))
    assert gp.deviation(at, later)[0] == pytest.approx(math.sqrt(1 - k**2 / (1 + noise)))


def test_a_choice_weighs_the_standard_deviation_by_kappa_and_not_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    scores: list[np.ndarray] = []

    def spied(space, score, best, rng, effort, box):  # type: ignore[no-untyped-def]
        scores.append(score(best))
        return best

    monkeypatch.setattr(pb2, "maximum", spied)
    monkeypatch.setattr(DriftingGP, "mean", lambda self, X, t: np.full(len(X), 2.0))
    monkeypatch.setattr(DriftingGP, "deviation", lambda self, X, t: np.full(len(X), 0.5))
    copies(past(PLANE, lambda params, _: params["x"]), PLANE, seeds=1, kappa=3.0)
    assert scores and all(each == pytest.approx(2.0 + 3.0 * 0.5) for each in scores)


def test_what_happened_long_ago_says_less() -> None:
    X = np.linspace(0, 1, 8)[:, None]
    gp = DriftingGP(X, np.zeros(8), np.sin(4 * X[:, 0]))
    at = np.array([[0.4]])
    soon, late = (gp.deviation(at, when)[0] for when in (1.0, 30.0))
    assert soon < late
    assert abs(gp.mean(at, 30.0)[0]) < abs(gp.mean(at, 1.0)[0])


def test_it_is_found_out_how_much_is_forgotten() -> None:
    """A target that turns round each few generations against one that stays: e of (1 - e)^(t / 2)."""
    rng = np.random.default_rng(1)
    X, t = rng.random((60, 1)), np.repeat(np.arange(20.0), 3)
    stays, turns = np.sin(4 * X[:, 0]), np.sin(4 * X[:, 0] + 0.8 * t)
    forgotten = [DriftingGP(X, t, (y - y.mean()) / y.std()).theta[2] for y in (stays, turns)]
    assert forgotten[0] < forgotten[1] - 1.0


def test_running_members_narrow_what_is_unknown_and_do_not_change_what_is_expected() -> None:
    X = np.array([[0.1], [0.2]])
    gp = DriftingGP(X, np.zeros(2), np.array([1.0, -1.0]))
    wider = gp.with_running(np.array([[0.8]]), np.array([0.0]))
    at = np.array([[0.8]])
    assert wider.deviation(at, 0.0)[0] < 0.6 * gp.deviation(at, 0.0)[0]


def test_gradients_of_its_density_are_right() -> None:
    from hpo_algorithms.population import drift
    from scipy.optimize import check_grad

    captured = {}
    rng = np.random.default_rng(0)
    X, t, y = rng.random((12, 2)), np.repeat(np.arange(4.0), 3), rng.standard_normal(12)

    def spy(objective, start, **options):  # type: ignore[no-untyped-def]
        captured["f"] = objective
        return dataclasses.make_dataclass("Found", ["x"])(start)

    original, drift.minimize = drift.minimize, spy
    try:
        DriftingGP(X, t, y)
    finally:
        drift.minimize = original
    objective = captured["f"]
    for theta in (drift.CENTRE, drift.CENTRE + 0.7, drift.CENTRE - 0.5):
        assert check_grad(lambda v: objective(v)[0], lambda v: objective(v)[1], theta) < 1e-4


# Improvements


def test_what_counts_is_the_improvement_per_unit_of_budget_from_the_donor_s_loss() -> None:
    donor = done(Trial(0, {}, 4, slot(0, 0)), 3.0)
    assert improvement(done(Trial(1, {}, 6, slot(1, 0), 0), 2.0), donor) == pytest.approx(0.5)
    assert math.isnan(improvement(failed(Trial(1, {}, 6, slot(1, 0), 0)), donor))
    assert math.isnan(improvement(dataclasses.replace(done(Trial(1, {}, 6), 2.0), losses=(math.nan,)), donor))


def test_a_copy_gets_what_has_paid() -> None:
    history = past(PLANE, lambda params, _: 1 - (params["x"] - 0.7) ** 2 - (params["y"] - 0.2) ** 2)
    found = copies(history, PLANE, kappa=0.0)
    assert np.median([abs(each["x"] - 0.7) for each in found]) < 0.12
    assert np.median([abs(each["y"] - 0.2) for each in found]) < 0.12


def test_a_copy_gets_what_pays_now_and_not_what_paid_before() -> None:
    history = past(PLANE, lambda params, generation: 1 - (params["x"] - (0.1 if generation < 10 else 0.9)) ** 2, generations=16)
    assert np.median([each["x"] for each in copies(history, PLANE, kappa=0.0)]) > 0.6


def test_a_configuration_that_diverged_is_not_chosen_again() -> None:
    history = past(PLANE, lambda params, _: 0.1)
    history = [
        dataclasses.replace(t, state=State.INFEASIBLE, losses=(math.nan,)) if t.params["x"] > 0.5 and t.donor is not None else t
        for t in history
    ]
    assert np.mean([each["x"] < 0.5 for each in copies(history, PLANE, kappa=0.0)]) > 0.9


def test_copies_that_are_made_together_are_different() -> None:
    history = past(PLANE, lambda params, _: 0.0, generations=2)
    method = PB2(population=6, truncation=0.5)
    answer = method.propose(Problem(PLANE, 1, 1, 100, 0), history, len(history), 6)
    made = [(p.params["x"], p.params["y"]) for p in answer.proposals if p.origin is Origin.PERTURBED]
    assert len(made) == 3
    apart = [math.dist(a, b) for i, a in enumerate(made) for b in made[:i]]
    assert min(apart) > 0.2


def test_a_copy_that_runs_already_is_taken_into_account() -> None:
    history = past(PLANE, lambda params, _: 0.0, generations=2)
    method, problem = PB2(population=6, truncation=0.5), Problem(PLANE, 1, 1, 100, 0)
    whole = method.propose(problem, history, len(history), 6).proposals
    begun = [
        *history,
        *(Trial(len(history) + i, p.params, p.budget, p.slot, p.donor) for i, p in enumerate(whole[:4])),
    ]
    assert method.propose(problem, begun, len(begun), 2).proposals == whole[4:], "decided one by one as together"


# Names


KINDS = ("a", "b", "c", "d")
FOUR = Space.from_spec([{"name": "kind", "categorical": {"choices": list(KINDS)}}, {"name": "x", "float": {"min": 0, "max": 1}}])


def lived(
    space: Space, gain: Callable[[dict[str, object], int], float], generations: int = 40, members: int = 6, made: int = 2
) -> list[Trial]:
    """A population in which the first members, and those that failed, become copies with parameters drawn by chance; NaN fails."""
    rng, history = np.random.default_rng(0), []
    for generation in range(generations):
        before = history[-members:]
        fit = [trial for trial in before if trial.state is State.DONE]
        for member in range(members):
            own, params, loss = next((t for t in fit if t.slot.member == member), None), space.sample(rng), 0.0
            donor = own if own is not None and member >= made else next((t for t in fit[::-1] if t is not own), None)
            if donor is not None:
                params, loss = donor.params if donor is own else params, donor.losses[0]
            trial = Trial(len(history), params, generation + 1, slot(generation, member), donor.number if donor else None)
            gained = gain(params, generation)  # type: ignore[arg-type]
            history.append(failed(trial) if math.isnan(gained) else done(trial, loss - gained))
    return history


def chances(history: list[Trial], space: Space, generation: int, rounds: int = 40, batch: int = 2) -> np.ndarray:
    """Of the first parameter's names."""
    return Names(Problem(space, 1, 1, rounds + 1, 0), history, batch, rounds).chances(generation)[0]


def test_a_name_s_chance_is_that_of_the_formula_and_never_above_one() -> None:
    even, once = Bandit(4, 2, 20), Bandit(3, 1, 20)
    assert even.gamma == pytest.approx(math.sqrt(4 * math.log(2) / ((math.e - 1) * 2 * 20)))
    np.testing.assert_allclose(even.chances(np.ones(4) / 4), 0.5)
    weights = np.array([0.6, 0.3, 0.1])
    np.testing.assert_allclose(once.chances(weights), (1 - once.gamma) * weights + once.gamma / 3)
    heavy = even.chances(np.array([0.97, 0.01, 0.01, 0.01]))
    np.testing.assert_allclose(heavy, [1, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize(("names", "plays"), [(2, 1), (3, 2), (5, 3), (7, 6)])
def test_chances_sum_to_the_plays_and_no_name_is_without_one(names: int, plays: int) -> None:
    rng, bandit = np.random.default_rng(0), Bandit(names, plays, 30)
    for _ in range(200):
        found = bandit.chances(rng.dirichlet(np.full(names, 0.2)) + 1e-12)
        assert found.sum() == pytest.approx(plays)
        assert found.max() <= 1
        assert found.min() >= plays * bandit.gamma / names * (1 - 1e-9)


def test_a_draw_holds_different_names_each_as_often_as_its_chance_says() -> None:
    bandit, weights = Bandit(4, 2, 20), np.array([0.5, 0.3, 0.15, 0.05])
    drawn = [bandit.draw(weights, np.random.default_rng(seed)) for seed in range(4000)]
    assert all(len(set(each.tolist())) == 2 for each in drawn)
    np.testing.assert_allclose(np.bincount(np.concatenate(drawn), minlength=4) / 4000, bandit.chances(weights), atol=0.03)


def test_what_a_name_has_earned_is_weighed_by_the_chance_with_which_it_was_drawn() -> None:
    """By hand, for one draw: w exp(gamma r / (p C)) + e alpha / C; a name that went on with a member was there for certain."""
    bandit, weights = Bandit(3, 1, 20), np.array([0.5, 0.3, 0.2])
    p, rate, share = bandit.chances(weights)[1], bandit.gamma / 3, math.e / 20 / 3
    drawn = np.array([0.5, 0.3 * math.exp(rate * 0.8 / p), 0.2]) + share
    np.testing.assert_allclose(bandit.after(weights, 1, np.array([1]), np.array([False]), np.array([0.8])), drawn / drawn.sum())
    both = np.array([0.5, 0.3 * math.exp(rate * (0.8 + 0.4) / 2), 0.2]) + share
    found = bandit.after(weights, 1, np.array([1, 1]), np.array([False, True]), np.array([0.8, 0.4]))
    np.testing.assert_allclose(found, both / both.sum())


def test_a_reward_is_how_many_of_the_others_improved_less_and_a_failure_is_the_worst() -> None:
    np.testing.assert_allclose(rewarded(np.array([1.0, 2.0, math.nan])), [0.5, 1.0, 0.0])
    np.testing.assert_allclose(rewarded(np.array([1.0, 1.0])), [0.5, 0.5])
    np.testing.assert_allclose(rewarded(np.array([7.0])), [0.5])


def test_copies_that_are_made_together_have_different_names_together_and_one_by_one() -> None:
    history = lived(FOUR, lambda params, _: 0.0, generations=3)
    for seed in range(3):
        method, problem = PB2(population=6, truncation=0.5), Problem(FOUR, 1, 1, 100, seed)
        whole = method.propose(problem, history, len(history), 6).proposals
        named = [p.params["kind"] for p in whole if p.origin is Origin.PERTURBED]
        assert len(named) == 3 == len(set(named))
        alone = list(history)
        for _ in whole:  # as if killed after each Trial, and begun again
            (p,) = PB2(population=6, truncation=0.5).propose(problem, list(alone), len(alone), 1).proposals
            alone.append(Trial(len(alone), p.params, p.budget, p.slot, p.donor))
        assert [trial.params for trial in alone[len(history) :]] == [p.params for p in whole]


def test_the_first_copies_have_different_names_too() -> None:
    run = Run(PB2(population=8), training(space=FOUR))
    run.start()
    run.end_all(lambda trial: float(trial.slot.member or 0))
    made = [p for p in run.method.propose(run.problem, run.history, 8, 8).proposals if p.origin is Origin.PERTURBED]
    assert len({p.params["kind"] for p in made}) == 2 == len(made)


def test_names_follow_what_is_best_at_the_time_and_the_others_are_tried_for_ever() -> None:
    history = lived(FOUR, lambda params, generation: 1.0 * (params["kind"] == ("a" if generation < 100 else "b")), 200)
    early, late = chances(history, FOUR, 100, 200), chances(history, FOUR, 200, 200)
    assert early.argmax() == 0
    assert late.argmax() == 1
    assert early[0] > 1.3 * early[1]
    assert late[1] > 1.3 * late[2]
    assert min(early.min(), late.min()) >= 2 * Bandit(4, 2, 200).gamma / 4
    method = PB2(population=6, truncation=0.4)
    problems = [Problem(FOUR, 1, 1, 201, seed) for seed in range(10)]
    made = [p for problem in problems for p in method.propose(problem, history, len(history), 6).proposals]
    assert {p.params["kind"] for p in made if p.origin is Origin.PERTURBED} == set(KINDS)


def test_a_name_with_which_members_fail_is_avoided() -> None:
    history = lived(FOUR, lambda params, _: math.nan if params["kind"] == "c" else 1.0)
    found = chances(history, FOUR, 40)
    assert found.argmin() == 2
    assert found[2] < 0.8 * np.delete(found, 2).min()


def test_where_no_name_is_better_all_stay_about_as_likely() -> None:
    np.testing.assert_allclose(chances(lived(FOUR, lambda *_: 0.0), FOUR, 40), 0.5, atol=0.1)


def test_chances_rest_on_earlier_generations_alone_and_not_on_the_order_in_which_they_ended() -> None:
    """What was drawn can therefore be weighed later by the chance that it had."""
    history = lived(FOUR, lambda params, _: 1.0 * (params["kind"] == "a"))
    before = [trial for trial in history if (trial.slot.generation or 0) < 30]
    np.testing.assert_array_equal(chances(history, FOUR, 30), chances(before, FOUR, 30))
    np.testing.assert_array_equal(chances(before[::-1], FOUR, 30), chances(before, FOUR, 30))


def test_several_categoricals_are_learnt_apart_and_a_condition_hides_what_it_hides() -> None:
    space = Space.from_spec(
        [
            {"name": "kind", "categorical": {"choices": ["a", "b"]}},
            {"name": "way", "categorical": {"choices": ["p", "q", "r"]}, "when": [{"parameter": "kind", "in": ["a"]}]},
            {"name": "x", "float": {"min": 0, "max": 1}},
        ]
    )
    history = lived(space, lambda params, _: 0.5 * (params["kind"] == "a") + (params.get("way") == "q"), 200)
    found = Names(Problem(space, 1, 1, 201, 0), history, 1, 200).chances(200)
    assert sorted(found) == [0, 1]
    assert found[0].argmax() == 0
    assert found[1].argmax() == 1
    for each in copies(history, space, seeds=4, high=201):
        assert ("way" in each) == (each["kind"] == "a")


def test_a_number_that_depends_on_a_name_is_there_with_that_name_alone() -> None:
    found = copies(past(NAMED, lambda params, _: 1.0 if params["kind"] == "good" else 0.0), NAMED, seeds=40)
    for each in found:
        assert ("z" in each) == (each["kind"] == "good")
    even = copies(past(NAMED, lambda params, _: 0.0), NAMED, seeds=40)
    assert {each["kind"] for each in even} == {"bad", "good", "worse"}


# At first, and in the long run


def test_before_anything_is_known_copies_are_drawn_from_the_space() -> None:
    run = Run(PB2(population=4), training(space=PLANE))
    run.start()
    run.end_all(lambda trial: float(trial.slot.member or 0))
    answer = run.method.propose(run.problem, run.history, 4, 4)
    assert [proposal.donor for proposal in answer.proposals][:3] == [0, 1, 2]
    assert answer.proposals[3].donor == 0
    assert answer.proposals[3].origin is Origin.PERTURBED


def test_a_member_that_diverged_hides_no_difference_among_the_others() -> None:
    gains = np.append(np.linspace(0, 1, 20), -1e12)
    found = pb2.standardised(gains)
    assert np.ptp(found[:20]) > 0.3, "it would be 0: the deviation was that of the one alone"
    assert found[20] == -pb2.CLIP


def test_losses_of_any_size_are_taken() -> None:
    """An overflow would be a warning, which fails the test."""
    rng, history = np.random.default_rng(3), past(PLANE, lambda params, _: 0.0)
    sizes = rng.choice([1e300, -1e300, -math.inf, 0.0, 1.0], size=len(history))
    wild = [dataclasses.replace(trial, losses=(float(size),)) for trial, size in zip(history, sizes, strict=True)]
    assert copies(wild, PLANE, seeds=2)


@pytest.mark.parametrize("space", [PLANE, FOUR], ids=["numbers", "names"])
@pytest.mark.parametrize("measure", [lines, memory])
def test_a_proposal_costs_no_more_than_its_share_of_a_long_history(measure, space: Space) -> None:  # type: ignore[no-untyped-def]
    def propose(generations: int):  # type: ignore[no-untyped-def]
        history = past(space, lambda params, _: params["x"], generations=generations)
        method, problem = PB2(population=6), Problem(space, 1, 1, 1000, 0)
        return lambda: method.propose(problem, history, len(history), 6)

    assert_linear(propose, 45, measure)
