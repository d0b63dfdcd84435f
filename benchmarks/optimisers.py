"""Everything that is compared, behind one seam: a generator of configurations that is sent the loss of each.

Ours are named as in a Study, with settings in brackets: `tpe`, `tpe[candidates=48]`. Peers run at their packages' defaults.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.cache import source_of

Spec = Sequence[Mapping[str, Any]]
Conversation = Generator[dict[str, Any], float, None]


def ours(name: str, parallel: int = 1) -> Callable[[Spec, int], Conversation]:
    """Our sampler by its name in a Study, with so many Trials active at a time, any of which is the next to end."""
    bare, settings = settings_of(name)

    def conversation(spec: Spec, seed: int) -> Conversation:
        from hpo_algorithms import Optimizer, Space

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a space that was written with a step too long is no news here
            space = Space.from_spec(spec)
        optimizer = Optimizer(space, algorithm={bare: settings}, seed=seed)
        active, ends = list(optimizer.ask(parallel)), np.random.default_rng(seed)
        while active:
            trial = active.pop(int(ends.integers(len(active))))
            optimizer.tell(trial.number, (yield dict(trial.params)))
            active += optimizer.ask(parallel - len(active))

    return conversation


def settings_of(name: str) -> tuple[str, dict[str, Any]]:
    """The algorithm and its settings, of a name with settings in brackets."""
    bare, _, rest = name.partition("[")
    pairs = [pair.split("=") for pair in rest.rstrip("]").split(";") if pair]
    return bare, {key: _value(value) for key, value in pairs}


def fingerprint(name: str) -> str:
    """Changes whenever our code for a sampler may have changed, so that stale results are never read."""
    from hpo_algorithms import ALGORITHMS

    return source_of(ALGORITHMS[name.partition("[")[0]])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _optuna(make: Callable[[Any, int], Any]) -> Callable[[Spec, int], Conversation]:
    def conversation(spec: Spec, seed: int) -> Conversation:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=make(optuna.samplers, seed))
        while True:
            trial = study.ask()
            params: dict[str, Any] = {}
            for p in spec:
                if all(params.get(c["parameter"]) in c["in"] for c in p.get("when", ())):
                    params[p["name"]] = _suggest(trial, p)
            study.tell(trial, (yield params))

    return conversation


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


PEERS: dict[str, Callable[[Spec, int], Conversation]] = {
    "optuna_tpe": _optuna(lambda samplers, seed: samplers.TPESampler(seed=seed)),
    "optuna_tpe_mv": _optuna(lambda samplers, seed: samplers.TPESampler(seed=seed, multivariate=True, group=True)),
    "optuna_tpe_uni": _optuna(lambda samplers, seed: samplers.TPESampler(seed=seed, multivariate=False)),
    "optuna_gp": _optuna(lambda samplers, seed: samplers.GPSampler(seed=seed)),
    "optuna_cmaes": _optuna(lambda samplers, seed: samplers.CmaEsSampler(seed=seed)),
    "optuna_nsgaii": _optuna(lambda samplers, seed: samplers.NSGAIISampler(seed=seed)),
}
