"""The black-box benchmark counts as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import optimisers, pins, searchers
from benchmarks.blackbox import mean_ranks, run, standard_errors
from benchmarks.optimisers import Conversation
from benchmarks.spaces import suggested
from benchmarks.tasks import Task, categorical, floating, ordinal

TASK = Task("line", [floating("x", 0, 1)], lambda params: params["x"], 0.0, 1.0)


def scripted(*values: float) -> Conversation:
    for value in values:
        yield {"x": value}


def test_each_seed_of_each_task_is_ranked_and_equals_share_their_ranks() -> None:
    regrets = np.array([[[0.1, 0.9], [0.5, 0.5]], [[0.2, 0.8], [0.5, 0.1]], [[0.3, 0.7], [0.5, 0.9]]])
    assert mean_ranks(regrets) == pytest.approx(np.array([1 + 3 + 2 + 2, 2 + 2 + 2 + 1, 3 + 1 + 2 + 3]) / 4)


def test_the_standard_error_is_over_seeds_and_not_over_tasks() -> None:
    regrets = np.array([[[0.1], [0.1], [0.1]], [[0.7], [0.9], [0.8]]])
    assert standard_errors(regrets) == pytest.approx([0.1 / math.sqrt(3) / 2])
    assert standard_errors(regrets[:, :1]) == pytest.approx([0])


def test_what_counts_is_the_best_so_far_and_an_exhausted_space_keeps_it() -> None:
    made = run(scripted(0.5, 0.7, 0.2), TASK, 5)
    assert made["best"] == [0.5, 0.5, 0.2, 0.2, 0.2]
    assert len(made["seconds"]) == 3


def test_under_noise_what_counts_is_what_the_lowest_told_is_without_it() -> None:
    told: list[float] = []

    def asked() -> Conversation:
        for i in range(50):
            told.append((yield {"x": i / 50}))

    made = run(asked(), TASK, 51, noise=3.0, seed=1)
    errors = np.array(told) - np.arange(50) / 50
    assert 2 < errors.std() < 4
    assert made["best"][-1] == np.argmin(told) / 50 > 0
    assert made["best"] != run(scripted(*np.arange(50) / 50), TASK, 51, noise=3.0, seed=2)["best"]


def test_every_peer_is_of_a_package_whose_version_is_pinned() -> None:
    packages = {peer.package for peer in optimisers.PEERS.values()} | {package for package, _ in searchers.PEERS.values()}
    assert packages == {"optuna", "smac", "pymoo", "hpbandster"}
    assert packages <= pins.PINS.keys()


def test_a_peer_is_refused_in_another_version_than_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "PINS", {"pytest": "0.1"})
    with pytest.raises(SystemExit, match=r"pytest: .* is installed, not 0\.1; install the extra `peers`"):
        pins.check("pytest")
    monkeypatch.setattr(pins, "PINS", {"no-such-package": "0.1"})
    with pytest.raises(SystemExit, match="no-such-package: not installed"):
        pins.check("no-such-package")


class First:
    """A trial of Optuna's that draws the first of whatever it is asked for."""

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        return choices[0]

    def suggest_int(self, name: str, low: int, high: int, log: bool = False) -> int:
        return low

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        return low


def test_a_peer_is_asked_for_active_parameters_alone() -> None:
    spec = [
        categorical("kind", ["a", "b"]),
        ordinal("size", [4, 8], when={"kind": ["a"]}),
        floating("rate", 0.5, 1.0, when={"kind": ["b"]}),
        floating("depth", 0.25, 1.0, when={"size": [4]}),
    ]
    assert suggested(First(), spec) == {"kind": "a", "size": 4, "depth": 0.25}
    assert suggested(First(), [categorical("kind", ["b", "a"]), *spec[1:]]) == {"kind": "b", "rate": 0.5}
