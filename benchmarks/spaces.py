"""A task's space as ours and in the words of the other packages, and their configurations in ours."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

Spec = Sequence[Mapping[str, Any]]


def space_of(spec: Spec) -> Any:
    """The space as ours."""
    from hpo_algorithms import Space

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a space that was written with a step too long is no news here
        return Space.from_spec(spec)


def suggested(trial: Any, spec: Spec) -> dict[str, Any]:
    """A configuration that an Optuna trial draws, parameter by parameter; only the active ones are asked for."""
    params: dict[str, Any] = {}
    for p in spec:
        if all(params.get(c["parameter"]) in c["in"] for c in p.get("when", ())):
            params[p["name"]] = _suggest(trial, p)
    return params


def _suggest(trial: Any, p: Mapping[str, Any]) -> Any:
    name = p["name"]
    if "categorical" in p:
        return trial.suggest_categorical(name, p["categorical"]["choices"])
    if "ordinal" in p:  # Optuna has no ordinals: an integer index keeps the order
        values = p["ordinal"]["values"]
        return values[trial.suggest_int(name, 0, len(values) - 1)]
    kind = "float" if "float" in p else "int"
    suggest = trial.suggest_float if kind == "float" else trial.suggest_int
    return suggest(name, p[kind]["min"], p[kind]["max"], log=p[kind]["scale"] == "Log")


def configspace(spec: Spec, seed: int) -> Any:
    """The space as a ConfigSpace with its conditions, for old and new versions of that package."""
    from ConfigSpace import AndConjunction, ConfigurationSpace, InCondition

    space = ConfigurationSpace(seed=seed)
    made = {p["name"]: _hyperparameter(p) for p in spec}
    conditions = []
    for p in spec:
        found = [InCondition(made[p["name"]], made[c["parameter"]], list(c["in"])) for c in p.get("when", ())]
        if found:
            conditions.append(AndConjunction(*found) if len(found) > 1 else found[0])
    if hasattr(space, "add"):
        space.add(*made.values(), *conditions)
    else:
        space.add_hyperparameters(list(made.values()))
        space.add_conditions(conditions)
    return space


def _hyperparameter(p: Mapping[str, Any]) -> Any:
    from ConfigSpace import hyperparameters as kinds

    name = p["name"]
    if "categorical" in p:
        return kinds.CategoricalHyperparameter(name, p["categorical"]["choices"])
    if "ordinal" in p:
        return kinds.OrdinalHyperparameter(name, list(p["ordinal"]["values"]))
    kind = "float" if "float" in p else "int"
    make = kinds.UniformFloatHyperparameter if kind == "float" else kinds.UniformIntegerHyperparameter
    return make(name, p[kind]["min"], p[kind]["max"], log=p[kind]["scale"] == "Log")


def plain(config: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    """A configuration of a ConfigSpace as ours: in the order of the space, NumPy's scalars as Python's."""
    found = dict(config)
    values = {p["name"]: found[p["name"]] for p in spec if p["name"] in found}
    return {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
