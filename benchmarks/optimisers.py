"""Everything that is compared, behind one seam: a generator of configurations that is sent the loss of each.

Ours are named as in a Study, with settings in brackets: `tpe`, `tpe[candidates=48]`. Peers run at their packages' defaults, in the
versions that `pins` knows.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache import source_of
from benchmarks.pins import PINS, check
from benchmarks.spaces import Spec, configspace, plain, space_of, suggested

Conversation = Generator[dict[str, Any], float, None]


def ours(name: str, parallel: int = 1) -> Callable[[Spec, int], Conversation]:
    """Our sampler by its name in a Study, with so many Trials active at a time, any of which is the next to end."""
    bare, settings = settings_of(name)

    def make(spec: Spec, seed: int) -> Conversation:
        from hpo_algorithms import Optimizer

        optimizer = Optimizer(space_of(spec), algorithm={bare: settings}, seed=seed)

        def conversation() -> Conversation:
            active, ends = list(optimizer.ask(parallel)), np.random.default_rng(seed)
            while active:
                trial = active.pop(int(ends.integers(len(active))))
                optimizer.tell(trial.number, (yield dict(trial.params)))
                active += optimizer.ask(parallel - len(active))

        return conversation()

    return make


def settings_of(name: str) -> tuple[str, dict[str, Any]]:
    """The algorithm and its settings, of a name with settings in brackets."""
    bare, _, rest = name.partition("[")
    pairs = [pair.split("=") for pair in rest.rstrip("]").split(";") if pair]
    return bare, {key: _value(value) for key, value in pairs}


@dataclass(frozen=True)
class Peer:
    """Another package's optimiser, made of a space, a seed and how many evaluations there will be; imported before it is timed.

    One that `plans` searches otherwise when there will be more of them, so that a long run of it does not begin as a short one.
    """

    package: str
    make: Callable[[Spec, int, int], Conversation]
    plans: bool = False


def optimiser(name: str, seed: int, spec: Spec, evaluations: int, parallel: int = 1) -> Conversation:
    """A fresh one by its name, a peer's or ours."""
    if name not in PEERS:
        return ours(name, parallel)(spec, seed)
    check(PEERS[name].package)
    return PEERS[name].make(spec, seed, evaluations)


def version_of(name: str) -> str:
    """Changes whenever what the name stands for may have changed: a peer's version, or a digest of our source."""
    return PINS[PEERS[name].package] if name in PEERS else fingerprint(name)


def fingerprint(name: str) -> str:
    """Changes whenever our code for a sampler may have changed, so that stale results are never read."""
    from hpo_algorithms import ALGORITHMS

    return source_of(ALGORITHMS[name.partition("[")[0]])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _optuna(sampler: Callable[[Any, int], Any]) -> Peer:
    def make(spec: Spec, seed: int, evaluations: int) -> Conversation:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=sampler(optuna.samplers, seed))

        def conversation() -> Conversation:
            while True:
                trial = study.ask()
                study.tell(trial, (yield suggested(trial, spec)))

        return conversation()

    return Peer("optuna", make)


def _smac(facade: str) -> Peer:
    """SMAC3, whose first design is a quarter of the evaluations at most: it is told how many there are."""

    def make(spec: Spec, seed: int, evaluations: int) -> Conversation:
        import smac
        from smac.runhistory import TrialValue

        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")

        def conversation() -> Conversation:
            with tempfile.TemporaryDirectory() as folder:
                scenario = smac.Scenario(
                    configspace(spec, seed), output_directory=Path(folder), deterministic=True, n_trials=evaluations, seed=seed
                )
                search = getattr(smac, facade)(scenario, lambda config, seed=0: 0.0, overwrite=True, logging_level=False)
                while True:
                    asked = search.ask()
                    search.tell(asked, TrialValue(cost=(yield plain(asked.config, spec))), save=False)

        return conversation()

    return Peer("smac", make, plans=True)


def _pymoo(algorithm: Callable[[], Any]) -> Peer:
    """An algorithm of pymoo's over the unit cube that our Space decodes, one generation after another."""

    def make(spec: Spec, seed: int, evaluations: int) -> Conversation:
        from pymoo.core.evaluator import Evaluator
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination
        from pymoo.problems.static import StaticProblem

        space, search = space_of(spec), algorithm()
        problem = Problem(n_var=len(space), n_obj=1, xl=0.0, xu=1.0)
        search.setup(problem, termination=NoTermination(), seed=seed)

        def conversation() -> Conversation:
            while (generation := search.ask()) is not None:
                losses = []
                for point in generation.get("X"):
                    losses.append((yield space.decode(point)))
                Evaluator().eval(StaticProblem(problem, F=np.array(losses)[:, None]), generation)
                search.tell(infills=generation)

        return conversation()

    return Peer("pymoo", make)


def _ga(**settings: Any) -> Any:
    from pymoo.algorithms.soo.nonconvex.ga import GA

    return GA(**settings)


def _pso(**settings: Any) -> Any:
    from pymoo.algorithms.soo.nonconvex.pso import PSO

    return PSO(**settings)


PEERS: dict[str, Peer] = {
    "optuna_tpe": _optuna(lambda samplers, seed: samplers.TPESampler(seed=seed)),
    "optuna_tpe_mv": _optuna(lambda samplers, seed: samplers.TPESampler(seed=seed, multivariate=True, group=True)),
    "optuna_tpe_uni": _optuna(lambda samplers, seed: samplers.TPESampler(seed=seed, multivariate=False)),
    "optuna_gp": _optuna(lambda samplers, seed: samplers.GPSampler(seed=seed)),
    "optuna_cmaes": _optuna(lambda samplers, seed: samplers.CmaEsSampler(seed=seed)),
    "optuna_nsgaii": _optuna(lambda samplers, seed: samplers.NSGAIISampler(seed=seed)),
    "smac_hpo": _smac("HyperparameterOptimizationFacade"),
    "smac_blackbox": _smac("BlackBoxFacade"),
    "pymoo_ga": _pymoo(_ga),
    "pymoo_ga_20": _pymoo(lambda: _ga(pop_size=20)),  # the default of 100 is no search yet after a hundred evaluations
    "pymoo_pso": _pymoo(_pso),
}
