"""The algorithms and schedules by the names that stand in a Study. Adding one is one file and one line here.

Each entry names a frozen dataclass: an Algorithm, or a Sampler, which any Schedule can be combined with. Modules are imported when
they are asked for, so that a heavy one costs only those who use it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from hpo_algorithms.errors import Fault, InvalidSettings, nearest
from hpo_algorithms.scheduled import Scheduled
from hpo_algorithms.seams import Algorithm, Sampler, Schedule
from hpo_algorithms.settings import read_settings
from hpo_algorithms.trials import Problem

ALGORITHMS: dict[str, str] = {
    "auto": "hpo_algorithms.samplers.auto:Auto",
    "random": "hpo_algorithms.samplers.random:Random",
    "sobol": "hpo_algorithms.samplers.sobol:Sobol",
    "grid": "hpo_algorithms.samplers.grid:Grid",
    "tpe": "hpo_algorithms.samplers.tpe:TPE",
    "gp": "hpo_algorithms.samplers.gp:GaussianProcess",
    "botorch": "hpo_algorithms.samplers.botorch:BoTorch",
    "smac": "hpo_algorithms.samplers.smac:SMAC",
    "kde": "hpo_algorithms.samplers.kde:KDE",
    "bohb": "hpo_algorithms.samplers.kde:BOHB",
    "cmaes": "hpo_algorithms.samplers.cmaes:CMAES",
    "pso": "hpo_algorithms.samplers.pso:PSO",
    "ga": "hpo_algorithms.samplers.ga:GA",
    "nsga2": "hpo_algorithms.samplers.nsga2:NSGA2",
    "pbt": "hpo_algorithms.population.pbt:PBT",
    "pb2": "hpo_algorithms.population.pb2:PB2",
    "replay": "hpo_algorithms.population.replay:Replay",
}

SCHEDULES: dict[str, str] = {
    "flat": "hpo_algorithms.schedules.flat:Flat",
    "median": "hpo_algorithms.schedules.median:Median",
    "percentile": "hpo_algorithms.schedules.rules:Percentile",
    "threshold": "hpo_algorithms.schedules.rules:Threshold",
    "extrapolation": "hpo_algorithms.schedules.rules:Extrapolation",
    "noImprovement": "hpo_algorithms.schedules.rules:NoImprovement",
    "halving": "hpo_algorithms.schedules.halving:Halving",
    "asha": "hpo_algorithms.schedules.asha:ASHA",
    "hyperband": "hpo_algorithms.schedules.hyperband:Hyperband",
}

DEFAULT_ALGORITHM = "auto"
# The algorithms whose Trials start from each other's checkpoints: they work with a store of checkpoints only.
CONTINUING = frozenset({"pbt", "pb2", "replay"})

# The schedules that only end Trials early.
STOPPING = frozenset({"median", "percentile", "extrapolation", "threshold", "noImprovement"})


def default_schedule(algorithm: str, problem: Problem) -> str:
    """The schedule of a Study that names none: flat, but for `bohb`, and for `auto` where a budget can be divided."""
    if algorithm == "bohb":
        return "hyperband"
    divided = problem.min_budget is not None and problem.max_budget is not None and problem.min_budget < problem.max_budget
    return "asha" if algorithm == "auto" and divided and problem.objectives == 1 else "flat"


def stops_early(schedule: Mapping[str, Any] | None) -> bool:
    """Whether a schedule, as in a Study, ends Trials early, so that it must be asked when curves have grown."""
    if not schedule:
        return False
    name, settings = next(iter(schedule.items()))
    return name in STOPPING or (name == "asha" and (settings or {}).get("form") == "stopping")


def load(reference: str) -> type[Any]:
    """The class behind a registry entry."""
    module, name = reference.split(":")
    loaded: type[Any] = getattr(importlib.import_module(module), name)
    return loaded


def build(problem: Problem, algorithm: Mapping[str, Any] | None = None, schedule: Mapping[str, Any] | None = None) -> Algorithm:
    """The method that a Study asks for, as `{"tpe": {"startupTrials": 10}}` and `{"hyperband": {}}`, checked against its problem.

    Raises InvalidSettings with every fault found: unknown names and settings, values out of bounds, a schedule without a
    budget, a space that the algorithm cannot search.
    """
    faults: list[Fault] = []
    name, settings = _only(algorithm or {DEFAULT_ALGORITHM: {}}, "algorithm", ALGORITHMS, faults)
    method = _read(ALGORITHMS, name, settings, "algorithm", faults)
    chosen = _only(schedule, "schedule", SCHEDULES, faults) if schedule else (default_schedule(name, problem), {})
    timing = _read(SCHEDULES, chosen[0], chosen[1], "schedule", faults)
    if faults or method is None or timing is None:
        raise InvalidSettings(faults)
    if isinstance(method, Sampler):
        method = Scheduled(method, timing)
    elif schedule:
        rule = f"cannot be combined with algorithm '{name}', which decides itself how long its Trials run"
        faults.append(Fault(f"schedule.{chosen[0]}", None, rule, "Remove schedule."))
    faults += method.errors(problem)
    if faults:
        raise InvalidSettings(faults)
    found: Algorithm = method
    return found


def _only(given: object, path: str, known: Mapping[str, str], faults: list[Fault]) -> tuple[str, Any]:
    if not isinstance(given, Mapping) or len(given) != 1 or not next(iter(given)):
        faults.append(
            Fault(
                path, given, f"must hold exactly one of {', '.join(known)}", f"For example {path}: {{{next(iter(known))}: {{}}}}."
            )
        )
        return "", {}
    name, settings = next(iter(given.items()))
    return str(name), settings


def _read(known: Mapping[str, str], name: str, settings: Any, path: str, faults: list[Fault]) -> Any:
    if name not in known:
        if name:
            faults.append(Fault(f"{path}.{name}", None, f"is not a known {path}", nearest(name, list(known))))
        return None
    made, found = read_settings(load(known[name]), settings, f"{path}.{name}")
    faults += found
    return made


__all__ = ["ALGORITHMS", "SCHEDULES", "Schedule", "build", "load"]
