"""Every setting of every algorithm and schedule is heeded: another value makes another Study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import ALGORITHMS, SCHEDULES, Problem, Proposal, State, Trial
from hpo_algorithms.registry import load
from hpo_algorithms.settings import Setting, settings_of

from tests.unit.algorithms.simulation import Method, World, ended, problem_on
from tests.unit.algorithms.spaces import MIXED, read

Settings = Mapping[str, Any]

# What is compared with the default, where twice of it (or half, if twice is too much) would not do; and other settings, without
# which one does nothing, or nothing so soon.
OTHERS: dict[tuple[str, str], list[Any]] = {
    ("smac", "randomShare"): [0.9],
    ("kde", "minPoints"): [4],
    ("bohb", "minPoints"): [4],
    ("cmaes", "population"): [5],
    ("ga", "mutation"): [0.5],
    ("nsga2", "mutation"): [0.5],
    ("pbt", "interval"): [4],
    ("pb2", "interval"): [4],
    ("median", "startupTrials"): [30],
    ("percentile", "startupTrials"): [30],
    ("extrapolation", "startupTrials"): [30],
    ("threshold", "above"): [1.0],
    ("threshold", "minSteps"): [5],
    ("noImprovement", "patience"): [3],
    ("noImprovement", "minDelta"): [0.3],
    ("noImprovement", "minSteps"): [7],
    ("halving", "configurations"): [5],
    ("halving", "iterations"): [1],
    ("hyperband", "iterations"): [1],
}
TOGETHER: dict[tuple[str, str], Settings] = {
    ("gp", "beta"): {"acquisition": "UCB"},
    ("cmaes", "restarts"): {"population": 4, "sigma": 0.05},
    ("ga", "elitism"): {"mode": "generational", "population": 5},
    ("threshold", "minSteps"): {"above": 1.0},
    ("noImprovement", "minDelta"): {"patience": 3},
    ("noImprovement", "minSteps"): {"patience": 3},
}
ALIKE = {("gp", "acquisition"): {"EI"}}  # the expected improvement is largest where its logarithm is
TRIALS = {"botorch": 14, "gp": 16, "smac": 24}


def resting(problem: Problem, trial: Trial) -> Trial:
    """A bowl in the unit cube with a flat bottom, and a curve that falls for some steps and then rests."""
    away = float(np.nansum((problem.space.encode(trial.params) - 0.3) ** 2))
    whole = ended(trial, State.DONE, max(away, 0.4))
    steps = 2 + trial.number % 5
    return dataclasses.replace(whole, curve=tuple((t, whole.losses[0] + 1 - min(t, steps) / steps) for t, _ in whole.curve))


class Study(World):
    """In which a place may be any, for the rungs that are checked elsewhere are those of the default `eta`."""

    def _check_place(self, proposal: Proposal, kept: frozenset[int]) -> None:
        pass


def study(name: str, settings: Settings) -> list[Any]:
    """All that the Trials of a Study show of what was decided."""
    chosen = tuple(settings.items())
    if name in SCHEDULES:
        method = Method("random", name, pace=chosen)
    else:
        method = Method(name, None if name in ("pbt", "pb2") else "flat", chosen)
    history = Study(method, problem_on(read(MIXED)), resting).run(TRIALS.get(name, 60)).history
    return [(trial.params, trial.budget, trial.slot, trial.donor, trial.state, trial.step) for trial in history]


def others(name: str, setting: Setting) -> list[Any]:
    """Values that must make a difference to the default, and to each other."""
    if (name, setting.name) in OTHERS:
        return OTHERS[name, setting.name]
    if setting.kind is bool:
        return [not setting.default]
    if setting.choices:
        return [choice for choice in setting.choices if choice not in {setting.default} | ALIKE.get((name, setting.name), set())]
    assert setting.default and setting.maximum, f"name another value of {setting.name} in OTHERS"
    twice = 2 * setting.default
    return [twice if twice <= setting.maximum else setting.kind(setting.default / 2)]


CASES = [
    pytest.param(name, setting, id=f"{name}-{setting.name}", marks=[pytest.mark.torch] if name == "botorch" else [])
    for name, reference in {**ALGORITHMS, **SCHEDULES}.items()
    if name != "replay"  # which takes as many configurations as its interval makes generations
    for setting in settings_of(load(reference))
]


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_another_value_of_a_setting_makes_another_study(name: str, setting: Setting) -> None:
    together = TOGETHER.get((name, setting.name), {})
    found = [study(name, together), *(study(name, {**together, setting.name: value}) for value in others(name, setting))]
    assert len(set(map(repr, found))) == len(found)
