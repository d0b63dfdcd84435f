"""The default: Gaussian processes where they see through the Study, TPE's help where they do not."""

import dataclasses

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.gp.region import region
from hpo_algorithms.gp.rungs import RungSurrogate, matched
from hpo_algorithms.gp.surrogate import Results
from hpo_algorithms.samplers import budgets
from hpo_algorithms.samplers.auto import Auto, tpe_share
from hpo_algorithms.samplers.budgets import kde_share
from hpo_algorithms.samplers.gp import GaussianProcess
from hpo_algorithms.samplers.kde import KDE
from hpo_algorithms.samplers.tpe import TPE
from hpo_algorithms.streams import stream
from scipy.special import ndtri

PLANE = Space.from_spec([{"name": name, "float": {"min": 0.0, "max": 1.0}} for name in ("x", "y")])


def bowl(p):
    return (p["x"] - 0.3) ** 2 + (p["y"] - 0.7) ** 2


def plateaus(p):
    """Four levels on a board of seven by seven, of which neighbours have different ones."""
    return float((3 * int(7 * p["x"]) + 5 * int(7 * p["y"])) % 4)


def history(count, loss, seed=0, **fields):
    rng = np.random.default_rng(seed)
    drawn = [PLANE.sample(rng) for _ in range(count)]
    return [Trial(i, p, state=State.DONE, losses=(loss(p),), **fields) for i, p in enumerate(drawn)]


def test_gaussian_processes_decide_alone_where_they_foretell_the_results():
    assert tpe_share(Problem(PLANE), history(30, bowl)) == 0.0


def test_most_trials_are_tpe_s_where_results_are_in_no_order():
    for seed in range(5):
        assert 0.7 < tpe_share(Problem(PLANE), history(30, plateaus, seed)) <= 0.75


def test_constant_losses_are_no_insight():
    assert tpe_share(Problem(PLANE), history(30, lambda p: 1.0)) == pytest.approx(0.75)


def test_what_the_gaussian_processes_call_noise_is_not_held_against_them():
    noise = np.random.default_rng(1)
    shares = [tpe_share(Problem(PLANE), history(100, lambda p: noise.random(), seed)) for seed in range(5)]
    assert np.mean(shares) < 0.4


def proposers(known, numbers, seed=0):
    """Whose proposals those of `auto` are, each alone."""
    problem, found = Problem(PLANE, seed=seed), []
    for number in numbers:
        drawn = Auto().draw(problem, known, [number])
        makers = {name: made.draw(problem, known, [number]) for name, made in (("tpe", TPE()), ("gp", GaussianProcess()))}
        found += [name for name, draw in makers.items() if draw == drawn]
    assert len(found) == len(numbers)
    return found


def test_the_gaussian_processes_propose_and_tpe_where_they_see_nothing_or_results_are_many():
    noise = np.random.default_rng(1)
    assert set(proposers(history(7, lambda p: noise.random()), range(7, 15))) == {"gp"}, "points spread evenly"
    assert set(proposers(history(30, bowl), range(30, 38))) == {"gp"}
    assert 8 <= proposers(history(30, plateaus), range(30, 46)).count("tpe") < 16
    assert set(proposers(history(1000, bowl), [1000, 1001, 1002, 1003])) == {"gp"}
    assert 2 <= proposers(history(1001, bowl), range(1001, 1009)).count("tpe") <= 6


def test_it_is_tpe_where_a_rule_has_stopped_trials_of_a_study_with_a_budget():
    problem = Problem(PLANE, min_budget=1, max_budget=9)
    known = history(30, bowl, budget=9)
    known[7] = dataclasses.replace(known[7], state=State.STOPPED, step=2)
    assert Auto().draw(problem, known, [30, 31]) == TPE().draw(problem, known, [30, 31])


def test_a_budget_that_all_trials_have_makes_no_difference():
    known = history(30, bowl, budget=9)
    assert Auto().draw(Problem(PLANE, min_budget=1, max_budget=9), known, [30]) == Auto().draw(Problem(PLANE), known, [30])


def climbing(count, loss, seed=0):
    """Trials under ASHA, with the loss that a configuration has at a budget of 1, 3 or 9."""
    optimizer = Optimizer(PLANE, {"random": {}}, {"asha": {}}, (1, 9), seed)
    for _ in range(count):
        trial = optimizer.ask()
        optimizer.tell(trial.number, loss(trial.params, trial.budget))
    return optimizer.problem, list(optimizer.history)


def test_results_at_all_budgets_lead_to_where_the_full_budget_is_best():
    """Each budget has its own level and its own optimum, which moves to the bowl's as the budget grows."""
    problem, known = climbing(60, lambda p, budget: bowl({"x": p["x"] - 0.1 / budget, "y": p["y"]}) + 3 / budget)
    found = [draw.params for draw in Auto().draw(problem, known, range(60, 72))]
    near = sum(bowl(p) < 0.02 for p in found)
    assert near >= 6, "a uniform draw has a chance of six per cent"


def test_under_budgets_kernel_densities_propose_where_gaussian_processes_see_little():
    assert [kde_share(insight) for insight in (0.9, 0.75, 0.625, 0.5, -1.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    noise = np.random.default_rng(0)
    problem, known = climbing(60, lambda p, budget: noise.random())
    drawn = [Auto().draw(problem, known, [number]) for number in range(60, 110)]
    uniform = [draw == [budgets._uniform(problem, number, 0)] for number, draw in enumerate(drawn, 60)]
    densities = [draw == KDE().draw(problem, known, [number]) for number, draw in enumerate(drawn, 60)]
    assert 1 <= sum(uniform) <= 12, "a tenth"
    assert sum(uniform) + sum(densities) == 50


def test_under_budgets_eight_at_once_go_to_different_places():
    """Were active Trials not known to the models, all would go around one place, half of them nearer than 0.004."""
    problem, known = climbing(60, lambda p, budget: bowl(p) + 1 / budget)
    points = PLANE.encode_all([draw.params for draw in Auto().draw(problem, known, range(60, 68))])
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(8, 1)]
    assert np.median(distance) > 0.02


def test_under_budgets_several_at_once_are_what_one_after_another_would_be():
    problem, known = climbing(40, lambda p, budget: bowl(p) + 1 / budget)
    for draw in Auto().draw(problem, known, [40, 41, 42, 43, 44, 45]):
        (alone,) = Auto().draw(problem, known, [len(known)])
        assert alone.params == draw.params
        known.append(Trial(len(known), alone.params, 1))


def test_quantiles_of_a_higher_budget_are_those_that_its_configurations_have_below():
    X = np.array([[0.1], [0.2], [0.3], [0.4], [0.1], [0.2], [0.9]])
    reach = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    losses = np.array([1.0, 2.0, 3.0, 4.0, 70.0, 60.0, np.inf])
    values = matched(Results(X, losses[:, None], np.zeros(len(X)), reach, X[:0]), losses)
    assert values[:4] == pytest.approx(ndtri([0.125, 0.375, 0.625, 0.875]))
    assert values[4:6] == pytest.approx([values[1], values[0]]), "the better of the two gets the better of their values below"
    assert values[6] == np.inf


def test_equal_losses_have_one_quantile():
    losses = np.array([1.0, 1.0, 5.0, 5.0])
    values = matched(Results(np.arange(4.0)[:, None], losses[:, None], np.zeros(4), np.zeros(4), np.empty((0, 1))), losses)
    assert values == pytest.approx(ndtri([0.25, 0.25, 0.75, 0.75]))


def test_with_results_at_one_budget_too_few_it_begins_as_without_a_model():
    problem, known = climbing(6, lambda p, budget: bowl(p))
    assert len(Auto().draw(problem, known, [6, 7])) == 2


def test_under_budgets_results_that_all_break_a_constraint_lead_to_where_it_is_broken_least():
    problem, known = climbing(60, lambda p, budget: bowl(p))
    broken = [dataclasses.replace(trial, violation=1 + trial.params["x"]) for trial in known]
    assert np.mean([draw.params["x"] < 0.2 for draw in Auto().draw(problem, broken, [60, 61, 62, 63])]) >= 0.5


def test_under_budgets_the_best_is_looked_for_where_the_constraint_is_kept():
    """The bowl's minimum is at x = .3, and x must be .6 or more."""
    problem, known = climbing(60, lambda p, budget: bowl(p) + 1 / budget)
    known = [dataclasses.replace(trial, violation=max(0.6 - trial.params["x"], 0.0)) for trial in known]
    drawn = []
    for number in range(60, 80):
        if stream(problem.seed, number, "auto/budgets").random() > budgets.UNIFORM:
            drawn.append(Auto().draw(problem, known, [number])[0].params)
    assert np.mean([0.55 < p["x"] < 0.75 and abs(p["y"] - 0.7) < 0.15 for p in drawn]) > 0.7


def test_under_budgets_the_search_keeps_to_a_trust_region_where_parameters_are_many():
    many = Space.from_spec([{"name": f"x{i}", "float": {"min": 0.0, "max": 1.0}} for i in range(30)])
    optimizer = Optimizer(many, {"random": {}}, {"asha": {}}, (1, 9), 0)
    for _ in range(80):
        trial = optimizer.ask()
        optimizer.tell(trial.number, sum((x - 0.5) ** 2 for x in trial.params.values()) + 1 / trial.budget)
    surrogate = RungSurrogate.of(many, Results.of(optimizer.problem, optimizer.history))
    ranked = budgets._ranked(optimizer.problem, surrogate, surrogate.X, optimizer.history, 80)
    centre = surrogate.best(1)[0]
    moved = np.abs(ranked - centre) > 1e-9
    half = region(surrogate.losses, centre, surrogate.ensemble.scales[:30]).half
    assert (np.abs(ranked - centre) <= half + 1e-9).all()
    assert moved.any(axis=1).all() and half.max() < 0.5


def test_several_at_once_are_what_one_after_another_would_be():
    known = history(20, lambda p: np.random.default_rng(int(1e6 * p["x"])).random())
    for draw in Auto().draw(Problem(PLANE), known, [20, 21, 22, 23]):
        (alone,) = Auto().draw(Problem(PLANE), known, [len(known)])
        assert alone.params == draw.params
        known.append(Trial(len(known), alone.params))


def test_a_bowl_is_solved_in_twenty_five_trials():
    optimizer = Optimizer(PLANE, seed=0)
    for _ in range(25):
        trial = optimizer.ask()
        optimizer.tell(trial.number, bowl(trial.params))
    assert optimizer.best.losses[0] < 1e-3
