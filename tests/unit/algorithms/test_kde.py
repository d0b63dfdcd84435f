"""KDE and BOHB: what they learn from which Trials, and how well."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import InvalidSettings, Optimizer, Problem, Space, State, Trial, build
from hpo_algorithms.encoding import encoded
from hpo_algorithms.samplers.kde import BOHB, KDE, SPREAD, Density
from hpo_algorithms.scheduled import Scheduled
from hpo_algorithms.schedules.asha import ASHA
from hpo_algorithms.schedules.hyperband import Hyperband

LINE = Space.from_spec([{"name": "x", "float": {"min": 0.0, "max": 1.0}}])
MIXED = Space.from_spec(
    [
        {"name": "optimizer", "categorical": {"choices": ["sgd", "adam", "lbfgs"]}},
        {"name": "lr", "float": {"min": 1e-5, "max": 1.0, "scale": "Log"}},
        {"name": "momentum", "float": {"min": 0.0, "max": 1.0, "step": 0.25}, "when": [{"parameter": "optimizer", "in": ["sgd"]}]},
        {"name": "layers", "int": {"min": 1, "max": 6}},
        {"name": "batch", "ordinal": {"values": [16, 32, 64]}},
        {"name": "only", "categorical": {"choices": ["one"]}},
    ]
)

Loss = Callable[[Mapping[str, Any]], float]


def trials(space: Space, count: int, loss: Loss, seed: int = 0, budget: int | None = None) -> list[Trial]:
    rng = np.random.default_rng(seed)
    drawn = [space.sample(rng) for _ in range(count)]
    return [Trial(i, p, budget, state=State.DONE, losses=(loss(p),)) for i, p in enumerate(drawn)]


def proposals(space: Space, history: list[Trial], count: int = 100, **settings: Any) -> list[Mapping[str, Any]]:
    return [KDE(**settings).draw(Problem(space, seed=seed), history, [100])[0].params for seed in range(count)]


def off(proposed: list[Mapping[str, Any]], where: float) -> float:
    return statistics.median(abs(p["x"] - where) for p in proposed)


@pytest.mark.parametrize("factor", [1.0, 5.0])
def test_a_density_integrates_to_one_over_the_space(factor: float) -> None:
    rng = np.random.default_rng(1)
    density = Density(MIXED, encoded(MIXED, [MIXED.sample(rng) for _ in range(7)]), factor)
    uniform = encoded(MIXED, [MIXED.sample(rng) for _ in range(30_000)])
    assert np.exp(density.logpdf(uniform)).mean() == pytest.approx(1.0, abs=0.05)


def test_draws_follow_the_density() -> None:
    rng = np.random.default_rng(2)
    density = Density(MIXED, encoded(MIXED, [MIXED.sample(rng) for _ in range(7)]), 4.0)
    # Under the density itself the mean of 1 / p is the volume of the space, which is one.
    assert np.exp(-density.logpdf(density.sample(rng, 30_000))).mean() == pytest.approx(1.0, abs=0.05)


def test_a_name_that_no_good_trial_has_is_unlikely_but_never_impossible() -> None:
    space = Space.from_spec([{"name": "c", "categorical": {"choices": list("abcd")}}])
    density = Density(space, encoded(space, [{"c": "b"}] * 9))
    p = np.exp(density.logpdf(encoded(space, [{"c": c} for c in "abcd"]))) / 4
    assert p.sum() == pytest.approx(1.0)
    assert p[1] > 0.99
    assert min(p) > 1e-4


def test_values_in_order_are_likelier_the_nearer_they_are() -> None:
    space = Space.from_spec([{"name": "n", "ordinal": {"values": [1, 2, 4, 8, 16]}}])
    density = Density(space, encoded(space, [{"n": 1}, {"n": 2}, {"n": 2}, {"n": 4}]))
    p = np.exp(density.logpdf(encoded(space, [{"n": n} for n in (1, 2, 4, 8, 16)])))
    assert p[1] > p[0] > p[3] > p[4] > 0


def test_proposals_gather_where_losses_are_low_but_for_the_random_ones() -> None:
    history = trials(LINE, 40, lambda p: abs(p["x"] - 0.3))
    assert off(proposals(LINE, history, random_fraction=0.0), 0.3) < 0.1
    assert off(proposals(LINE, history, random_fraction=1.0), 0.3) > 0.2


def test_nothing_is_learned_before_two_more_results_than_make_a_set() -> None:
    history = trials(LINE, 6, lambda p: abs(p["x"] - 0.3))
    settings = {"min_points": 4, "random_fraction": 0.0}
    assert proposals(LINE, history[:5], **settings) == proposals(LINE, trials(LINE, 5, lambda p: -p["x"]), **settings)
    assert proposals(LINE, history, **settings) != proposals(LINE, trials(LINE, 6, lambda p: -p["x"]), **settings)


def test_where_the_highest_budget_has_enough_results_lower_ones_say_no_more_what_is_good() -> None:
    low = trials(LINE, 40, lambda p: abs(p["x"] - 0.9), budget=1)
    high = [Trial(40 + i, t.params, 9, state=State.DONE, losses=(abs(t.params["x"] - 0.2),)) for i, t in enumerate(low[:12])]
    settings = {"random_fraction": 0.0, "min_points": 6}
    assert off(proposals(LINE, low + high[:3], **settings), 0.9) < 0.15
    assert off(proposals(LINE, low + high, **settings), 0.2) < 0.25


def test_the_good_of_higher_budgets_with_few_results_are_good_too() -> None:
    low = [Trial(i, {"x": 0.5 + i / 80}, 1, state=State.DONE, losses=(-float(i),)) for i in range(40)]
    high = [Trial(40 + i, {"x": x}, 9, state=State.DONE, losses=(x,)) for i, x in enumerate((0.1, 0.6, 0.65, 0.7, 0.75))]
    settings = {"random_fraction": 0.0, "min_points": 6}
    near = [sum(p["x"] < 0.3 for p in proposals(LINE, history, **settings)) for history in (low, low + high)]
    assert near[0] < 10
    assert near[1] > 50


def test_the_worse_half_of_lower_budgets_is_among_the_others_but_for_those_trained_on() -> None:
    high = [Trial(i, {"x": i / 20}, 9, state=State.DONE, losses=(abs(i / 20 - 0.6),)) for i in range(20)]
    low = [Trial(20 + i, {"x": i / 80}, 1, state=State.DONE, losses=(float(i >= 40),)) for i in range(80)]
    again = [Trial(20 + i, trial.params, 1, state=State.DONE, losses=(1.0,)) for i, trial in enumerate(high)]
    settings = {"random_fraction": 0.0, "min_points": 6}
    before = proposals(LINE, high, **settings)
    assert proposals(LINE, high + again, **settings) == before
    below = [sum(p["x"] < 0.5 for p in drawn) for drawn in (before, proposals(LINE, high + low, **settings))]
    assert below[0] < 10
    assert below[1] > 50


def test_proposals_keep_away_from_active_trials_but_not_from_promoted_ones() -> None:
    history = trials(LINE, 40, lambda p: abs(p["x"] - 0.3), budget=1)
    best = sorted(history, key=lambda trial: trial.loss)[:8]
    promoted = [Trial(40 + i, trial.params, 3) for i, trial in enumerate(best)]
    busy = [Trial(40 + i, {"x": 0.3 + 0.004 * i - 0.012}, 1) for i in range(8)]
    near = off(proposals(LINE, history), 0.3)
    assert off(proposals(LINE, history + busy), 0.3) > 1.3 * near
    assert off(proposals(LINE, history + promoted), 0.3) == pytest.approx(near, rel=0.3)


def test_what_failed_is_among_the_others() -> None:
    results = [Trial(i, {"x": i / 40}, state=State.DONE, losses=(0.0,)) for i in range(0, 41, 2)]
    failures = [Trial(i, {"x": i / 40}, state=State.FAILED) for i in range(1, 41, 2) if i > 20]
    history = sorted(results + failures, key=lambda trial: trial.number)
    drawn = proposals(LINE, history, 200, random_fraction=0.0)
    assert statistics.mean(p["x"] < 0.5 for p in drawn) > 0.7


def test_a_conditional_parameter_is_learned_where_it_is_active() -> None:
    def loss(p: Mapping[str, Any]) -> float:
        return abs(p["momentum"] - 0.75) if p["optimizer"] == "sgd" else 2.0

    drawn = proposals(MIXED, trials(MIXED, 80, loss), random_fraction=0.0)
    assert statistics.mean(p["optimizer"] == "sgd" for p in drawn) > 0.7
    momenta = [p["momentum"] for p in drawn if "momentum" in p]
    assert statistics.mean(momentum >= 0.5 for momentum in momenta) > 0.8


def test_bohb_is_kde_under_hyperband_and_needs_a_budget() -> None:
    problem = Problem(LINE, 1, 1, 27)
    assert build(problem, {"bohb": {"candidates": 9}}) == Scheduled(BOHB(candidates=9), Hyperband())
    assert build(problem, {"bohb": {}}, {"asha": {}}) == Scheduled(BOHB(), ASHA())
    history = trials(LINE, 40, lambda p: abs(p["x"] - 0.3))
    assert BOHB().draw(problem, history, [40, 41]) == KDE().draw(problem, history, [40, 41])
    with pytest.raises(InvalidSettings) as caught:
        build(Problem(LINE), {"bohb": {}})
    assert [fault.path for fault in caught.value.faults] == ["schedule.hyperband"]


def test_counting_ones_is_solved_twice_as_well_as_by_hyperband_alone() -> None:
    space = Space.from_spec(
        [{"name": f"c{i}", "categorical": {"choices": ["0", "1"]}} for i in range(4)]
        + [{"name": f"x{i}", "float": {"min": 0, "max": 1}} for i in range(4)]
    )

    def missing(algorithm: str, seed: int) -> float:
        optimizer = Optimizer(space, {algorithm: {}}, {"hyperband": {}}, (9, 243), seed=seed)
        spent, rng = 0, np.random.default_rng(seed)
        while spent < 30 * 243:
            trial = optimizer.ask()
            assert trial is not None
            assert trial.budget is not None
            ones = sum(trial.params[f"c{i}"] == "1" for i in range(4))
            seen = sum(rng.binomial(trial.budget, trial.params[f"x{i}"]) / trial.budget for i in range(4))
            optimizer.tell(trial.number, -ones - seen)
            spent += trial.budget
        assert optimizer.best is not None
        p = optimizer.best.params
        return 1 - sum((p[f"c{i}"] == "1") + p[f"x{i}"] for i in range(4)) / 8

    mean = {name: statistics.mean(missing(name, seed) for seed in (2, 4, 6)) for name in ("bohb", "random")}
    assert mean["bohb"] <= 0.5 * mean["random"]


def test_good_trials_that_stand_together_by_chance_do_not_keep_all_others_there() -> None:
    """Three good Trials at one place, with one and the same name and whole number: draws still go elsewhere."""
    space = Space.from_spec(
        [
            {"name": "x", "float": {"min": 0, "max": 1}},
            {"name": "n", "int": {"min": 1, "max": 5}},
            {"name": "c", "categorical": {"choices": ["a", "b", "c"]}},
        ]
    )
    good = encoded(space, [{"x": 0.5 + i / 1000, "n": 1, "c": "a"} for i in range(3)])
    drawn = Density(space, good, 5.0, SPREAD / 5).sample(np.random.default_rng(0), 1000)
    assert drawn[:, 0].std() > 0.15
    names = space.names
    assert np.mean(np.abs(drawn[:, names.index("n")] - good[0, 1]) > 1e-9) > 0.2
    assert np.mean(np.abs(drawn[:, names.index("c")] - good[0, 2]) > 1e-9) > 0.2
