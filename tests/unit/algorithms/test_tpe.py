"""TPE: what it learns from which Trials, and how well."""

import dataclasses
import math
import statistics
import warnings

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.encoding import Snapping, encoded
from hpo_algorithms.parzen import Parzen, apart
from hpo_algorithms.ranking import nondomination, ranked
from hpo_algorithms.samplers import tpe
from hpo_algorithms.samplers.tpe import TPE
from hpo_algorithms.streams import stream

from tests.unit.work import assert_linear, lines, memory

MIXED = Space.from_spec(
    [
        {"name": "optimizer", "categorical": {"choices": ["sgd", "adam"]}},
        {"name": "lr", "float": {"min": 1e-5, "max": 1.0, "scale": "Log"}},
        {"name": "momentum", "float": {"min": 0.0, "max": 1.0, "step": 0.25}, "when": [{"parameter": "optimizer", "in": ["sgd"]}]},
        {"name": "layers", "int": {"min": 1, "max": 6}},
        {"name": "units", "int": {"min": 1, "max": 1024, "scale": "Log"}},
        {"name": "batch", "ordinal": {"values": [16, 32, 64]}},
        {"name": "only", "categorical": {"choices": ["one"]}},
        {"name": "clip", "float": {"min": -2.0, "max": 3.0}},
    ]
)
LINE = Space.from_spec([{"name": "x", "float": {"min": 0.0, "max": 1.0}}])


def trials(space, count, loss, seed=0, **fields):
    rng = np.random.default_rng(seed)
    drawn = [space.sample(rng) for _ in range(count)]
    return [Trial(i, p, state=State.DONE, losses=(loss(p),), **fields) for i, p in enumerate(drawn)]


def proposals(space, history, count=100, **settings):
    return [TPE(**settings).draw(Problem(space, seed=seed), history, [len(history)])[0].params for seed in range(count)]


def test_many_configurations_are_encoded_as_each_alone():
    rng = np.random.default_rng(0)
    drawn = [MIXED.sample(rng) for _ in range(200)]
    np.testing.assert_allclose(encoded(MIXED, drawn), MIXED.encode_all(drawn), atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_density_integrates_to_one_over_the_space(n):
    rng = np.random.default_rng(1)
    density = Parzen(MIXED, encoded(MIXED, [MIXED.sample(rng) for _ in range(n)]), 0.7)
    uniform = encoded(MIXED, [MIXED.sample(rng) for _ in range(20_000)])
    assert np.exp(density.logpdf(uniform)).mean() == pytest.approx(1.0, abs=0.05)
    assert np.exp(apart(density.kernels(uniform))).mean() == pytest.approx(1.0, abs=0.05)


def test_draws_follow_the_density():
    rng = np.random.default_rng(2)
    density = Parzen(MIXED, encoded(MIXED, [MIXED.sample(rng) for _ in range(5)]), 0.7)
    # Under the density itself the mean of 1 / p is the volume of the space, which is one.
    assert np.exp(-density.logpdf(density.sample(rng, 20_000))).mean() == pytest.approx(1.0, abs=0.05)


def test_proposals_gather_where_losses_are_low():
    drawn = proposals(LINE, trials(LINE, 40, lambda p: abs(p["x"] - 0.3)))
    assert statistics.median(abs(p["x"] - 0.3) for p in drawn) < 0.05


def test_one_lucky_trial_does_not_outweigh_what_the_third_best_and_the_worst_say_of_a_parameter():
    space = Space.from_spec([{"name": name, "float": {"min": 0.0, "max": 1.0}} for name in ("x", "y", "z")])
    places = [0.9, *np.linspace(0.1, 0.3, 3), *np.linspace(0.7, 1.0, 6)]  # the best, the others of the third, all others
    rng = np.random.default_rng(0)
    drawn = [{"x": float(x), "y": float(rng.random()), "z": float(rng.random())} for x in places]
    history = [Trial(i, p, state=State.DONE, losses=(float(i),)) for i, p in enumerate(drawn)]
    assert statistics.median(p["x"] for p in proposals(space, history)) < 0.5


def test_the_best_trial_speaks_for_its_kernel_however_bad_others_are_that_have_it():
    """What they lack may be the right gamma."""
    gamma = {"name": "gamma", "float": {"min": 0.0, "max": 1.0}, "when": [{"parameter": "kernel", "in": ["radial"]}]}
    space = Space.from_spec([{"name": "kernel", "categorical": {"choices": ["linear", "radial"]}}, gamma])
    rng = np.random.default_rng(0)
    radial = [{"kernel": "radial", "gamma": float(rng.random())} for _ in range(14)]
    drawn = [radial[0], *[{"kernel": "linear"}] * 6, *radial[1:]]  # best first: the third that is good has one radial of seven
    history = [Trial(i, p, state=State.DONE, losses=(float(i),)) for i, p in enumerate(drawn)]
    assert sum(p["kernel"] == "radial" for p in proposals(space, history)) > 50


def test_where_all_break_a_constraint_proposals_gather_where_they_break_it_least():
    history = [dataclasses.replace(t, violation=1 + abs(t.params["x"] - 0.8)) for t in trials(LINE, 40, lambda p: p["x"])]
    assert statistics.median(abs(p["x"] - 0.8) for p in proposals(LINE, history)) < 0.1


def test_where_few_keep_the_constraints_more_is_called_good_and_more_is_found(monkeypatch):
    space = Space.from_spec([{"name": name, "float": {"min": 0.0, "max": 1.0}} for name in "abcd"])

    def best(seed):
        optimizer = Optimizer(space, {"tpe": {}}, seed=seed)
        for _ in range(60):
            trial = optimizer.ask()
            values = trial.params.values()  # of whose box a 256th is allowed
            broken = max(*(x - 0.55 for x in values), *(0.3 - x for x in values))
            optimizer.tell(trial.number, sum((x - 0.6) ** 2 for x in values), violation=broken)
        return min((t.losses[0] for t in optimizer.history if t.violation <= 0), default=math.inf)

    found = statistics.median(map(best, range(12)))
    monkeypatch.setattr(tpe, "SCARCE_SHARE", 0.0)
    assert found < 0.8 * statistics.median(map(best, range(12)))


def test_proposals_keep_away_from_active_trials():
    history = trials(LINE, 40, lambda p: abs(p["x"] - 0.3))
    busy = [Trial(40 + i, {"x": 0.3 + 0.001 * i}) for i in range(8)]
    distance = [statistics.mean(abs(p["x"] - 0.3) for p in proposals(LINE, known)) for known in (history, history + busy)]
    assert distance[1] > 1.5 * distance[0]


def test_a_value_that_several_active_trials_have_is_not_bad_for_that():
    """It may well be a good one; they keep the next one away from the whole of what they have, not from each value."""
    space = Space.from_spec([{"name": name, "float": {"min": 0.0, "max": 1.0}} for name in "xabcdefgh"])
    rng = np.random.default_rng(1)
    busy = [Trial(20 + i, {**space.sample(rng), "x": 0.3}) for i in range(20)]
    drawn = proposals(space, [*trials(space, 20, lambda p: abs(p["x"] - 0.3)), *busy], 60)
    assert statistics.median(abs(p["x"] - 0.3) for p in drawn) < 0.11


def test_active_trials_count_for_half_of_what_the_densities_wait_for():
    def drawn(done, active):
        busy = [Trial(done + i, {"x": 0.9}) for i in range(active)]
        return proposals(LINE, [*trials(LINE, done, lambda p: p["x"]), *busy], 10)

    blind = [LINE.sample(stream(seed, 5, "tpe/0")) for seed in range(10)]
    assert drawn(3, 2) == drawn(2, 3) == drawn(0, 5) == drawn(5, 0) == blind
    waited = [LINE.sample(stream(seed, 7, "tpe/0")) for seed in range(10)]
    assert drawn(2, 5) == waited
    assert drawn(3, 4) != waited


def test_several_at_once_are_what_one_after_another_would_be():
    history = trials(MIXED, 30, lambda p: abs(math.log10(p["lr"]) + 3))
    together = TPE().draw(Problem(MIXED), history, [30, 31, 32])
    for draw in together:
        (alone,) = TPE().draw(Problem(MIXED), history, [len(history)])
        assert alone.params == draw.params
        history.append(Trial(len(history), alone.params))


def test_stopped_trials_rank_behind_done_ones_by_how_far_they_came():
    x = {"x": 0.5}
    history = [
        Trial(0, x, state=State.FAILED),
        Trial(1, x, state=State.STOPPED, losses=(0.1,), step=3),
        Trial(2, x, state=State.DONE, losses=(9.0,)),
        Trial(3, x, state=State.STOPPED, losses=(0.5,), step=9),
        Trial(4, x, state=State.DONE, losses=(math.nan,)),
        Trial(5, x, state=State.DONE, losses=(0.0,), violation=2.0),
        Trial(6, x, state=State.DONE, losses=(7.0,)),
        Trial(7, x, state=State.DONE, losses=(-math.inf,)),
        Trial(8, x),
        Trial(9, x, state=State.DONE, losses=(5.0,), violation=1.0),
    ]
    found = ranked(Problem(LINE), history, least=1)
    assert [trial.number for trial in found.trials] == [6, 2, 3, 1, 9, 5, 0, 4, 7]
    assert (found.usable, found.told, [trial.number for trial in found.active]) == (4, 6, [8])


def test_the_highest_budget_with_enough_results_is_learned_from():
    low = trials(LINE, 40, lambda p: abs(p["x"] - 0.9), budget=1)
    high = [Trial(40 + i, t.params, 9, state=State.DONE, losses=(abs(t.params["x"] - 0.2),)) for i, t in enumerate(low[:12])]
    assert statistics.median(p["x"] for p in proposals(LINE, low + high[:3])) > 0.7
    assert statistics.median(p["x"] for p in proposals(LINE, low + high)) < 0.4


def test_several_objectives_are_ranked_by_fronts():
    Y = np.array([[0.0, 3.0], [3.0, 0.0], [1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [1.0, 1.0]])
    rank = nondomination(Y)
    assert [int(r) for r in rank] == [0, 0, 0, 1, 2, 0]


def test_finite_spaces_are_tried_whole_and_without_repetition():
    space = Space.from_spec(
        [{"name": "a", "int": {"min": 1, "max": 5}}, {"name": "b", "categorical": {"choices": ["x", "y", "z"]}}]
    )
    optimizer = Optimizer(space, algorithm={"tpe": {"startupTrials": 3}}, seed=1)
    seen = []
    while (trial := optimizer.ask()) is not None:
        optimizer.tell(trial.number, trial.params["a"])
        seen.append(space.key(trial.params))
    assert len(seen) == len(set(seen)) == 15


HARD = {
    "no results": lambda i: {"state": State.FAILED},
    "constant": lambda i: {"state": State.DONE, "losses": (1.0,)},
    "not numbers": lambda i: {"state": State.DONE, "losses": ((math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 3.0)[i % 6],)},
    "stopped": lambda i: {"state": State.STOPPED, "losses": (float(i),), "step": i},
    "infeasible": lambda i: {"state": (State.INFEASIBLE, State.DONE)[i % 2], "losses": (float(i),), "violation": float(i % 3)},
    "active": lambda i: {},
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("count", [0, 1, 2, 25])
def test_any_history_gives_a_valid_proposal_without_warnings(kind, count):
    rng = np.random.default_rng(3)
    history = [Trial(i, MIXED.sample(rng), **HARD[kind](i)) for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in TPE(startup_trials=1).draw(Problem(MIXED), history, [count, count + 1]):
            assert MIXED.validate(draw.params) == draw.params


def test_a_hundred_parameters_are_proposed():
    wide = Space.from_spec([{"name": f"x{i}", "float": {"min": 0.0, "max": 1.0}} for i in range(100)])
    assert len(TPE().draw(Problem(wide), trials(wide, 50, lambda p: p["x0"]), [50])[0].params) == 100


@pytest.mark.parametrize("measure", [lines, memory])
def test_a_proposal_costs_no_more_than_its_share_of_a_long_history(measure):
    def propose(count):
        history = trials(LINE, count, lambda p: p["x"])
        return lambda: TPE().draw(Problem(LINE), history, [count])

    assert_linear(propose, 2500, measure)


def test_snapping_many_points_is_the_space_s_own_snapping():
    U = np.random.default_rng(4).uniform(-0.1, 1.1, (500, len(MIXED)))
    np.testing.assert_allclose(Snapping(MIXED)(U), MIXED.snap(U), atol=1e-12)
