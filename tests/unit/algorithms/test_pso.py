"""PSO: how particles move, what they know, and how well they search."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import Optimizer, Problem, Space, State, Trial
from hpo_algorithms.samplers.population import packed, unpacked
from hpo_algorithms.samplers.pso import PSO

PLANE = Space.from_spec([{"name": name, "float": {"min": 0, "max": 1}} for name in "xy"])
NAMES = Space.from_spec([{"name": "a", "categorical": {"choices": list("pqrstuvw")}}, {"name": "x", "float": {"min": 0, "max": 1}}])
MIXED = Space.from_spec(
    [
        {"name": "a", "categorical": {"choices": list("pqrstuvw")}},
        {"name": "b", "ordinal": {"values": [1, 2, 4, 8, 16, 32]}},
        {"name": "c", "int": {"min": 1, "max": 1000, "scale": "Log"}},
        {"name": "d", "float": {"min": 0, "max": 1}},
        {"name": "e", "float": {"min": 0, "max": 1}, "when": [{"parameter": "a", "in": ["p"]}]},
    ]
)


def at(number: int, particle: int, generation: int, x: list[float], v: list[float], loss: float, space: Space = PLANE) -> Trial:
    memo = f"particle {particle} {generation} {packed(np.array([*x, *v]))}"
    return Trial(number, space.decode(x), memo=memo, state=State.DONE, losses=(loss,))


def motion(memo: str) -> tuple[int, int, np.ndarray, np.ndarray]:
    _, particle, generation, text = memo.split(" ")
    both = unpacked(text)
    return int(particle), int(generation), both[: len(both) // 2], both[len(both) // 2 :]


def moves(
    history: list[Trial], count: int = 200, space: Space = PLANE, **settings: Any
) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
    sampler = PSO(swarm=2, **settings)
    return [motion(sampler.draw(Problem(space, seed=seed), history, [len(history)])[0].memo) for seed in range(count)]


TWO = [at(0, 0, 0, [0.2, 0.4], [0.1, 0.0], 5.0), at(1, 1, 0, [0.6, 0.6], [0.0, 0.0], 1.0), at(2, 0, 1, [0.3, 0.4], [0.1, 0.0], 9.0)]


def test_a_particle_keeps_its_velocity_and_is_drawn_to_both_best_places() -> None:
    history = [*TWO, at(3, 1, 1, [0.7, 0.6], [0.0, 0.0], 2.0)]
    drawn = moves(history, inertia=0.5, own=1.0, social=2.0)
    assert {(particle, generation) for particle, generation, *_ in drawn} == {(0, 2)}, "the one that waited longest"
    v = np.array([v for *_, v in drawn])
    # 0.5 (0.1, 0) + r1 ((0.2, 0.4) - (0.3, 0.4)) + 2 r2 ((0.6, 0.6) - (0.3, 0.4))
    np.testing.assert_allclose(v.mean(axis=0), [0.05 - 0.05 + 0.3, 0.2], atol=0.03)
    assert v[:, 0].min() >= 0.05 - 0.1 - 1e-6
    assert v[:, 0].max() <= 0.05 + 0.6 + 1e-6
    assert np.ptp(v[:, 1]) > 0.3
    for *_, x, after in drawn:
        np.testing.assert_allclose(x, np.array([0.3, 0.4]) + after, atol=1e-6)


def test_a_coordinate_that_reaches_its_bound_is_reflected_and_rests() -> None:
    history = [at(0, 0, 0, [0.9, 0.5], [0.4, 0.1], 1.0), at(1, 1, 0, [0.9, 0.5], [0.0, 0.0], 2.0)]
    for *_, x, v in moves(history, 20, inertia=1.0):
        np.testing.assert_allclose(x, [0.7, 0.6], atol=1e-6)
        np.testing.assert_allclose(v, [0.0, 0.1], atol=1e-6)


def test_a_particle_that_hardly_moves_is_thrown_anew() -> None:
    history = [at(0, 0, 0, [0.5, 0.5], [1e-6, 0.0], 1.0), at(1, 1, 0, [0.5, 0.5], [0.0, 0.0], 2.0)]
    x = np.array([x for *_, x, _ in moves(history)])
    assert (np.ptp(x, axis=0) > 0.4).all()


def test_a_failed_trial_is_no_best_place_and_its_particle_flies_on() -> None:
    failed = dataclasses.replace(at(2, 0, 1, [0.9, 0.1], [0.0, 0.0], -5.0), state=State.FAILED, losses=())
    history = [*TWO[:2], failed, at(3, 1, 1, [0.7, 0.6], [0.0, 0.0], 2.0)]
    v = np.array([v for *_, v in moves(history, inertia=0.0, own=0.0, social=1.0)])
    assert (v[:, 0] <= 0).all(), "towards the best that has a result, at (0.6, 0.6)"
    assert (v[:, 1] >= 0).all()


def test_a_name_is_one_of_three_or_rarely_any_whatever_its_place_in_the_list() -> None:
    place = {name: (i + 0.5) / 8 for i, name in enumerate("pqrstuvw")}
    history = [
        at(0, 0, 0, [place["p"], 0.5], [0.0, 0.1], 5.0, NAMES),
        at(1, 1, 0, [place["w"], 0.5], [0.0, 0.1], 1.0, NAMES),
        at(2, 0, 1, [place["r"], 0.5], [0.0, 0.1], 9.0, NAMES),
        at(3, 1, 1, [place["w"], 0.5], [0.0, 0.1], 2.0, NAMES),
    ]
    drawn = [NAMES.decode(x)["a"] for *_, x, _ in moves(history, 600, NAMES)]
    shares = {name: drawn.count(name) / 600 for name in "pqrstuvw"}
    assert sum(shares[name] for name in "pwr") > 0.85
    assert min(shares[name] for name in "pw") > 0.25, "its own best, and the best of all"
    assert 0 < max(shares[name] for name in "qstuv") < 0.05


@pytest.mark.parametrize(("mode", "to"), [("steadyState", 1), ("generational", -1)])
def test_a_result_counts_at_once_or_when_its_generation_has_ended(mode: str, to: int) -> None:
    """The best of the first generation stands below the particle that moves, a better one of the next above it."""
    first = [at(0, 0, 0, [0.5, 0.5], [0.0, 0.0], 5.0), at(1, 1, 0, [0.2, 0.2], [0.0, 0.0], 1.0)]
    drawn = moves([*first, at(2, 1, 1, [0.8, 0.8], [0.0, 0.0], 0.5)], 20, mode=mode, inertia=0.0, own=0.0, social=1.0)
    assert all((particle, generation, (to * v > 0).all()) == (0, 1, True) for particle, generation, _, v in drawn)


def test_in_generations_the_best_of_all_is_known_when_four_fifths_have_ended() -> None:
    optimizer = Optimizer(PLANE, {"pso": {"mode": "generational", "swarm": 5, "inertia": 0, "own": 0, "social": 1}}, seed=3)
    first = optimizer.ask(5)
    optimizer.tell(first[0].number, 5.0)
    optimizer.tell(first[1].number, 1.0)
    (early,) = optimizer.ask(1)
    assert motion(early.memo)[:2] == (0, 1)
    optimizer.tell(first[2].number, state="failed")
    optimizer.tell(first[3].number, 4.0)
    late = optimizer.ask(2)
    best = motion(first[1].memo)[2]
    for trial in late[1:]:
        particle, _, x, _ = motion(trial.memo)
        was = motion(first[particle].memo)[2]
        assert (np.abs(x - best) <= np.abs(was - best) + 1e-6).all()


def test_stragglers_that_never_end_count_as_the_worst_once_half_of_the_swarm_is_two_generations_ahead() -> None:
    """Four of ten hang for ever, so that 80 % of no generation ever end. What they would have told changes nothing."""
    optimizer = Optimizer(PLANE, {"pso": {"mode": "generational", "swarm": 10, "inertia": 0, "own": 0, "social": 1}}, seed=3)
    first = optimizer.ask(10)
    for trial in first[:6]:
        optimizer.tell(trial.number, float(trial.number))
    for _ in range(2):
        for trial in optimizer.ask(6):
            optimizer.tell(trial.number, 100.0 + trial.number)
    followers = optimizer.ask(6)
    best = motion(first[0].memo)[2]
    latest = {motion(trial.memo)[0]: motion(trial.memo)[2] for trial in optimizer.history[:-6]}
    for trial in followers:
        particle, generation, x, _ = motion(trial.memo)
        assert (particle < 6, generation) == (True, 3)
        assert (np.abs(x - best) <= np.abs(latest[particle] - best) + 1e-6).all()
    moved = [np.abs(motion(each.memo)[2] - latest[motion(each.memo)[0]]).max() for each in followers]
    assert max(moved) > 0.01, "the best of all draws them"


def test_a_swarm_of_fewer_particles_than_workers_grows() -> None:
    optimizer = Optimizer(PLANE, {"pso": {"swarm": 3}})
    particles = [motion(trial.memo)[0] for trial in optimizer.ask(5)]
    assert particles == [0, 1, 2, 3, 4]
    optimizer.tell(4, 1.0)
    assert motion(optimizer.ask(1)[0].memo)[:2] == (4, 1)


def test_a_hundred_parameters_fit_into_a_memo() -> None:
    wide = Space.from_spec([{"name": f"parameter-{i}", "float": {"min": 0, "max": 1}} for i in range(100)])
    history = [dataclasses.replace(TWO[0], params=wide.decode([0.5] * 100), memo=f"particle 999999 99999 {packed(np.zeros(200))}")]
    (draw,) = PSO().draw(Problem(wide), history, [1])
    assert len(history[0].memo) < len(draw.memo) + 20 <= 2048


def test_positions_are_kept_unrounded_so_that_small_steps_add_up() -> None:
    space = Space.from_spec([{"name": "n", "int": {"min": 1, "max": 4}}, {"name": "x", "float": {"min": 0, "max": 1}}])
    history = [at(0, 0, 0, [0.3, 0.5], [0.1, 0.0], 1.0, space), at(1, 1, 0, [0.3, 0.5], [0.0, 0.0], 2.0, space)]
    for *_, x, _ in moves(history, 5, space, inertia=1.0):
        assert x[0] == pytest.approx(0.4, abs=1e-6)


def test_a_swarm_goes_on_moving_where_a_constraint_leaves_a_twentieth_of_the_space() -> None:
    space = PLANE.constrained([{"terms": [{"parameter": "x"}, {"parameter": "y"}], "max": 0.3}])
    optimizer = Optimizer(space, {"pso": {}}, seed=0)
    for _ in range(100):
        trial = optimizer.ask()
        optimizer.tell(trial.number, sum((value - 0.15) ** 2 for value in trial.params.values()))
    assert statistics.median(trial.loss for trial in optimizer.history[70:]) < 1e-3


@pytest.mark.parametrize("mode", ["steadyState", "generational"])
@pytest.mark.parametrize("workers", [1, 8])
def test_each_mode_comes_closer_than_random_search(mode: str, workers: int) -> None:
    def best(algorithm: dict[str, Any], seed: int) -> float:
        optimizer = Optimizer(MIXED, algorithm, seed=seed)
        while len(optimizer.history) < 240:
            for trial in optimizer.ask(workers)[::-1]:
                p = trial.params
                off = (p["a"] != "q") + abs(math.log2(p["b"]) - 3) / 5 + abs(math.log10(p["c"]) - 1.5) + abs(p["d"] - 0.7)
                optimizer.tell(trial.number, off)
        assert optimizer.best is not None
        return optimizer.best.loss

    losses = {n: statistics.mean(best({n: s}, seed) for seed in range(4)) for n, s in (("pso", {"mode": mode}), ("random", {}))}
    assert losses["pso"] < losses["random"] / 3
