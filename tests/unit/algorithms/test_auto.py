"""The default: Gaussian processes where they see through the Study, TPE's help where they do not."""

import numpy as np
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.samplers.auto import Auto, tpe_share
from hpo_algorithms.samplers.tpe import TPE

PLANE = Space.from_spec([{"name": name, "float": {"min": 0.0, "max": 1.0}} for name in ("x", "y")])


def bowl(p):
    return (p["x"] - 0.3) ** 2 + (p["y"] - 0.7) ** 2


def history(count, loss, seed=0, **fields):
    rng = np.random.default_rng(seed)
    drawn = [PLANE.sample(rng) for _ in range(count)]
    return [Trial(i, p, state=State.DONE, losses=(loss(p),), **fields) for i, p in enumerate(drawn)]


def test_gaussian_processes_decide_alone_where_they_foretell_the_results():
    assert tpe_share(Problem(PLANE), history(30, bowl)) == 0.0


def test_half_of_the_trials_are_tpe_s_where_results_look_like_chance():
    noise = np.random.default_rng(1)
    assert tpe_share(Problem(PLANE), history(30, lambda p: noise.random())) == 0.5


def test_constant_losses_are_no_insight():
    assert tpe_share(Problem(PLANE), history(30, lambda p: 1.0)) == 0.5


def test_with_budgets_it_is_tpe():
    problem = Problem(PLANE, min_budget=1, max_budget=9)
    known = history(30, bowl, budget=9)
    assert Auto().draw(problem, known, [30, 31]) == TPE().draw(problem, known, [30, 31])


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
