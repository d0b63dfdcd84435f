"""The sampler on BoTorch: that its models are ours, its values those of the definitions, and what it finds."""

from __future__ import annotations

import importlib.util
import itertools
import statistics

import numpy as np
import pytest
from hpo_algorithms import InvalidSettings, Optimizer, Problem, Space, State, Trial, build
from hpo_algorithms.gp.model import GP
from hpo_algorithms.gp.region import region
from hpo_algorithms.gp.surrogate import Results, Surrogate
from hpo_algorithms.samplers.botorch import ACQUISITIONS, NEEDED, BoTorch

PLANE = Space.from_spec([{"name": name, "float": {"min": 0.0, "max": 1.0}} for name in ("x", "y")])
LINE = Space.from_spec([{"name": "x", "float": {"min": 0.0, "max": 1.0}}])
GRID = np.linspace(0, 1, 201)[:, None]
needs_torch = pytest.mark.torch


def bowl(p):
    return (p["x"] - 0.3) ** 2 + (p["y"] - 0.7) ** 2


def wave(noise: float = -8.0) -> GP:
    F = np.array([[0.05], [0.2], [0.45], [0.6], [0.95]])
    y = np.sin(9 * F[:, 0])
    return GP(F, (y - y.mean()) / y.std(), np.array([0]), np.array([-1.6, 0.1, noise]))


# Without torch


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "botorch") else there(name))
    with pytest.raises(
        InvalidSettings, match=r"algorithm.botorch: needs torch and .*botorch.* pip install 'hpo-operator\[torch\]'"
    ):
        build(Problem(PLANE), {"botorch": {}})


@needs_torch
def test_what_knows_one_objective_only_refuses_several() -> None:
    for acquisition in ACQUISITIONS[1:]:
        with pytest.raises(InvalidSettings, match=r"algorithm.botorch.acquisition: .* one objective only. Leave it out"):
            build(Problem(PLANE, 2), {"botorch": {"acquisition": acquisition}})
    build(Problem(PLANE, 2), {"botorch": {}})


# Values


@needs_torch
def test_the_posterior_in_botorch_is_ours() -> None:
    from hpo_algorithms.gp import botorch as b

    rng = np.random.default_rng(0)
    F = rng.random((30, 3))
    model = GP(F, rng.normal(size=30), np.array([0, 1, 1]), np.array([-0.7, 0.3, 0.4, -3.0]))
    G = rng.random((20, 3))
    with b.undisturbed(0):
        found = b.posterior(model).posterior(b._tensor(G))
    mean, deviation = model.predict(G)
    np.testing.assert_allclose(-found.mean[:, 0].numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(found.variance[:, 0].sqrt().numpy(), deviation, atol=1e-5)


@needs_torch
def test_without_noise_the_noisy_expected_improvement_is_the_expected_improvement() -> None:
    from hpo_algorithms.gp import botorch as b
    from hpo_algorithms.gp.acquisition import log_ei

    model = wave(-13.0)
    closed = log_ei(*model.predict(GRID), float(model.predict(model.F)[0].min()))
    with b.undisturbed(0):
        found = b.noisy_log_ei(model, np.empty((0, 1)), seed=3)(GRID)
    apart = np.abs(GRID - model.F.T).min(axis=1) > 0.04  # where a few dozen draws are enough
    likely = apart & (closed > -4)
    np.testing.assert_allclose(found[likely], closed[likely], atol=0.15)


@needs_torch
def test_an_active_trial_makes_its_neighbourhood_worth_less() -> None:
    from hpo_algorithms.gp import botorch as b

    model, none = wave(), np.empty((0, 1))
    for make in (
        lambda active: b.noisy_log_ei(model, active, 3),
        lambda active: b.knowledge_gradient(model, active, GRID),
        lambda active: b.joint_entropy(model, active, GRID),
        lambda active: b.expected_hypervolume([model, model], active, model.F),
    ):
        with b.undisturbed(0):
            alone = make(none)(GRID)
            place = GRID[np.argmax(alone)][None]
            assert make(place)(place)[0] < alone.max() - 1e-3 * abs(alone.max())


@needs_torch
def test_the_knowledge_gradient_is_that_of_botorch() -> None:
    """Which samples what is summed here, and looks for the best in the whole interval."""
    import torch
    from botorch.acquisition import qKnowledgeGradient
    from hpo_algorithms.gp import botorch as b

    model, choices = wave(-3.0), GRID[::4]
    points = np.array([[0.12], [0.3], [0.52], [0.75], [0.85]])
    with b.undisturbed(0):
        ours = b.knowledge_gradient(model, np.empty((0, 1)), choices)(points)
        believed, sampler = b.posterior(model), b._sampler(128, 1)
        theirs = qKnowledgeGradient(believed, num_fantasies=128, sampler=sampler)
        now = float(believed.posterior(b._tensor(choices)).mean.max())
        for point, value in zip(points, ours, strict=True):
            X = b._tensor(point[None])
            fantasies = believed.fantasize(X, sampler).posterior(b._tensor(choices)).mean[..., 0]
            best = b._tensor(choices)[fantasies.argmax(-1)]
            assert value == pytest.approx(float(theirs(torch.cat([X, best]))) - now, abs=0.01)


@needs_torch
def test_the_joint_entropy_is_that_of_botorch() -> None:
    """Which makes a model for each optimum and point of what is written out here.

    It takes the noise of an evaluation for the mean of what results have, the optimum's 1e-4 among them; here all have that.
    """
    import torch
    from botorch.acquisition.joint_entropy_search import qJointEntropySearch
    from hpo_algorithms.gp import botorch as b

    model = wave(np.log(1e-4))
    with b.undisturbed(0):
        ours = b.joint_entropy(model, np.empty((0, 1)), GRID)(GRID)
    with b.undisturbed(0):
        believed, A = b.posterior(model), b._tensor(GRID)
        drawn = believed.posterior(A).rsample(torch.Size([b.OPTIMA])).squeeze(-1)
        best = drawn.argmax(-1)
        theirs = qJointEntropySearch(believed, A[best], drawn.gather(-1, best[:, None]))(A[:, None]).numpy()
    assert np.ptp(theirs) > 0.5
    np.testing.assert_allclose(ours, theirs, atol=0.04 * np.ptp(theirs))  # nearly no noise, and none, at the optimum


@needs_torch
def test_the_expected_hypervolume_is_the_mean_growth_of_the_volume() -> None:
    from botorch.utils.multi_objective.hypervolume import Hypervolume
    from hpo_algorithms.gp import botorch as b

    one, rng = wave(-13.0), np.random.default_rng(1)
    other = GP(one.F, -np.cos(5 * one.F[:, 0]), np.array([0]), np.array([-1.2, 0.0, -13.0]))
    point = np.array([[0.52]])
    with b.undisturbed(0):
        found = b.expected_hypervolume([one, other], np.empty((0, 1)), one.F)(point)[0]
        Y = np.column_stack([-one.predict(one.F)[0], -other.predict(one.F)[0]])
        measure = Hypervolume(b.reference(Y)).compute
        draws = [-(m.predict(point)[0] + m.predict(point)[1] * rng.standard_normal(2000)) for m in (one, other)]
        before = measure(b._tensor(_front(Y)))
        grown = [measure(b._tensor(_front(np.vstack([Y, y])))) - before for y in np.column_stack(draws)]
    assert found == pytest.approx(np.mean(grown), rel=0.1)


def _front(Y: np.ndarray) -> np.ndarray:
    return Y[[not ((other >= y).all(1) & (other > y).any(1)).any() for y, other in ((y, Y) for y in Y)]]


# Draws


VALUES = {
    "logEI": "noisy_log_ei",
    "knowledgeGradient": "knowledge_gradient",
    "jointEntropySearch": "joint_entropy",
    "several objectives": "expected_hypervolume",
}


@needs_torch
@pytest.mark.parametrize("name", VALUES)
def test_points_have_the_value_that_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hpo_algorithms.gp import botorch as b

    objectives, asked = (1, name) if name in ACQUISITIONS else (2, "logEI")
    history = [Trial(i, {"x": i / 9}, state=State.DONE, losses=(i / 9, 1 - i / 9)[:objectives]) for i in range(10)]
    used: set[str] = set()
    for each in VALUES.values():
        monkeypatch.setattr(b, each, lambda *_, each=each: used.add(each) or (lambda F: F.sum(axis=1)))
    BoTorch(acquisition=asked).draw(Problem(LINE, objectives), history, [10])
    assert used == {VALUES[name]}


@needs_torch
def test_where_parameters_are_many_the_search_keeps_to_a_trust_region(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpo_algorithms.gp import botorch as b

    monkeypatch.setattr(b, "noisy_log_ei", lambda *_: lambda F: F.sum(axis=1))  # which leads to a corner
    many, rng = Space.from_spec([{"name": f"x{i}", "float": {"min": 0.0, "max": 1.0}} for i in range(30)]), np.random.default_rng(0)
    drawn = [many.sample(rng) for _ in range(40)]
    history = [Trial(i, p, state=State.DONE, losses=(sum((x - 0.5) ** 2 for x in p.values()),)) for i, p in enumerate(drawn)]
    (found,) = BoTorch().draw(Problem(many), history, [40])
    results = Results.of(Problem(many), history)
    surrogate = Surrogate(many, results, results.weighted(np.ones(1)))
    (centre,) = surrogate.best(1)
    half = region(surrogate.losses, centre, surrogate.ensemble.scales).half
    assert (np.abs(many.encode(found.params) - centre) <= half + 1e-9).all()


@needs_torch
@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_every_acquisition_closes_in_on_the_minimum(acquisition: str) -> None:
    optimizer = Optimizer(PLANE, {"botorch": {"acquisition": acquisition}}, seed=1)
    for _ in range(18):
        trial = optimizer.ask()
        optimizer.tell(trial.number, bowl(trial.params))
    assert optimizer.best.loss < 0.01


@needs_torch
def test_eight_at_once_go_to_different_places_and_are_what_one_after_another_would_be() -> None:
    rng = np.random.default_rng(2)
    history = [Trial(i, p, state=State.DONE, losses=(bowl(p),)) for i, p in enumerate(PLANE.sample(rng) for _ in range(12))]
    drawn = BoTorch().draw(Problem(PLANE), history, list(range(12, 16)))
    points = PLANE.encode_all([draw.params for draw in drawn])
    assert np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(4, 1)].min() > 1e-3
    for draw in drawn:
        (alone,) = BoTorch().draw(Problem(PLANE), history, [len(history)])
        assert alone.params == draw.params
        history.append(Trial(len(history), alone.params))


def history_of_a_line() -> list[Trial]:
    return [Trial(i, {"x": i / 9}, state=State.DONE, losses=((i / 9 - 0.4) ** 2,)) for i in range(10)]


@needs_torch
def test_torch_is_left_as_it_was() -> None:
    import torch

    history = history_of_a_line()
    before = torch.get_num_threads(), torch.get_rng_state().tolist(), torch.get_default_dtype()
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state().tolist()
        drawn.append(BoTorch().draw(Problem(LINE), history, [10]))
        assert torch.get_rng_state().tolist() == state
    assert drawn[0] == drawn[1]
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (before[0], before[2])


@needs_torch
@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_the_random_numbers_of_gpus_are_nobody_s_but_the_user_s(acquisition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    BoTorch(acquisition=acquisition).draw(Problem(LINE), history_of_a_line(), [10])
    assert seeded == []


@pytest.mark.gpu
def test_between_two_steps_of_a_training_on_a_gpu_it_proposes_what_it_proposes_elsewhere_and_changes_nothing() -> None:
    import torch

    elsewhere = BoTorch().draw(Problem(LINE), history_of_a_line(), [10])
    torch.cuda.manual_seed(1)
    state, held = torch.cuda.get_rng_state().tolist(), torch.cuda.memory_allocated()
    assert BoTorch().draw(Problem(LINE), history_of_a_line(), [10]) == elsewhere
    assert (torch.cuda.get_rng_state().tolist(), torch.cuda.memory_allocated()) == (state, held)


@needs_torch
def test_several_objectives_spread_along_the_front() -> None:
    optimizer = Optimizer(LINE, {"botorch": {}}, seed=2, objectives=2)
    for _ in range(22):
        trial = optimizer.ask()
        optimizer.tell(trial.number, (trial.params["x"] ** 2, (trial.params["x"] - 0.5) ** 2))
    tried = sorted(t.params["x"] for t in optimizer.history[8:])
    assert statistics.mean(x <= 0.55 for x in tried) > 0.8
    assert max(b - a for a, b in itertools.pairwise(tried) if b <= 0.5) < 0.2


@needs_torch
@pytest.mark.parametrize("objectives", [1, 2])
def test_where_all_break_a_constraint_proposals_gather_where_they_break_it_least(objectives: int) -> None:
    optimizer = Optimizer(LINE, {"botorch": {}}, seed=1, objectives=objectives)
    for _ in range(16):
        x = (trial := optimizer.ask()).params["x"]
        optimizer.tell(trial.number, [x, -x][:objectives], violation=1 + abs(x - 0.8))
    assert statistics.median(abs(trial.params["x"] - 0.8) for trial in optimizer.history[8:]) < 0.1


@needs_torch
def test_while_few_keep_a_constraint_proposals_are_where_those_are_and_better() -> None:
    optimizer = Optimizer(PLANE, {"botorch": {}}, seed=1)
    for _ in range(24):
        x, y = (trial := optimizer.ask()).params.values()
        optimizer.tell(trial.number, y, violation=max(abs(x - 0.8) - 0.05, 0.0))
    kept = [trial.params["y"] for trial in optimizer.history if trial.violation <= 0]
    assert len(kept) >= 8, "of 24 that are spread evenly 2 or 3 do"
    assert min(kept) < 0.05


@needs_torch
def test_all_that_is_needed_is_named() -> None:
    assert all(importlib.util.find_spec(name) for name in NEEDED)
