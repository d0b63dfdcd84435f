"""Everything that divides a budget, behind one seam: asked for jobs, told their losses, in any order.

Ours are named `sampler@schedule` as in a Study, with settings in brackets: `kde@hyperband[eta=4]`; without a schedule it is the one
that the Study would take. Peers run at their packages' defaults, in the versions that `pins` knows.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.cache import source_of
from benchmarks.optimisers import settings_of
from benchmarks.pins import PINS, check
from benchmarks.spaces import configspace, plain, space_of, suggested
from benchmarks.tasks import Task


@dataclass(frozen=True)
class Job:
    """A configuration to be trained up to `budget`. Jobs of one `configuration` go on from each other."""

    configuration: Hashable
    params: Mapping[str, Any]
    budget: int
    handle: Any = None


class Searcher(Protocol):
    """What to run next."""

    def ask(self) -> Job | None:
        """None: wait for a result that is still out, or, with none out, that there is nothing more."""
        ...

    def tell(self, job: Job, loss: float) -> None: ...


class Ours:
    """A sampler under a schedule, by their names in a Study. Where that judges learning curves, a Trial reports each unit of its
    budget, one Trial after another."""

    def __init__(self, name: str, task: Task, seed: int) -> None:
        from hpo_algorithms import Optimizer
        from hpo_algorithms.registry import stops_early

        sampler, schedule = parsed(name)
        assert task.budgets is not None
        self._first = task.budgets[0] if stops_early(schedule) else None
        self._going: list[Job] = []
        self._optimizer = Optimizer(space_of(task.spec), sampler, schedule, task.budgets, seed)

    def ask(self) -> Job | None:
        if self._going:
            return self._going.pop()
        trial = self._optimizer.ask()
        if trial is None:
            return None
        root = trial.number if trial.donor is None else self._root(trial.donor)
        assert trial.budget is not None
        return Job(root, trial.params, self._first or trial.budget, trial.number)

    def tell(self, job: Job, loss: float) -> None:
        self._optimizer.tell(job.handle, loss, step=job.budget if self._first else None)
        if not self._optimizer.history[job.handle].active:
            return
        if any(stop.number == job.handle for stop in self._optimizer.stops()):
            self._optimizer.tell(job.handle, state="stopped")
        else:
            self._going.append(replace(job, budget=job.budget + 1))

    def _root(self, number: int) -> int:
        donor = self._optimizer.history[number].donor
        return number if donor is None else self._root(donor)


def parsed(name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The algorithm and the schedule that a name stands for, as in a Study."""
    sampler, _, schedule = name.partition("@")
    return _read(sampler), _read(schedule) if schedule else None


def _read(text: str) -> dict[str, Any]:
    bare, settings = settings_of(text)
    return {bare: settings}


def stamp(name: str) -> str:
    """Changes whenever what the name stands for may have changed: a peer's version, or a digest of our source."""
    if name in PEERS:
        return PINS[PEERS[name][0]]
    from hpo_algorithms import ALGORITHMS, SCHEDULES

    sampler, schedule = parsed(name)
    timing = [SCHEDULES[next(iter(schedule))]] if schedule else list(SCHEDULES.values())
    return source_of(ALGORITHMS[next(iter(sampler))], *timing, "hpo_algorithms.scheduled", "hpo_algorithms.registry")


def searcher(name: str, task: Task, seed: int) -> Searcher:
    """A fresh one."""
    if name not in PEERS:
        return Ours(name, task, seed)
    check(PEERS[name][0])
    return PEERS[name][1](task, seed)


class OptunaHyperband:
    """Optuna's Hyperband pruner with its default sampler: reports after each unit of the budget, one Trial after another."""

    def __init__(self, task: Task, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        assert task.budgets is not None
        low, self._high = task.budgets
        pruner = optuna.pruners.HyperbandPruner(min_resource=low, max_resource=self._high, reduction_factor=3)
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
        self._task, self._pruned, self._low = task, optuna.trial.TrialState.PRUNED, low
        self._going: list[Job] = []

    def ask(self) -> Job | None:
        if self._going:
            return self._going.pop()
        trial = self._study.ask()
        return Job(trial.number, suggested(trial, self._task.spec), self._low, trial)

    def tell(self, job: Job, loss: float) -> None:
        job.handle.report(loss, job.budget)
        if job.budget >= self._high:
            self._study.tell(job.handle, loss)
        elif job.handle.should_prune():
            self._study.tell(job.handle, state=self._pruned)
        else:
            self._going.append(Job(job.configuration, job.params, job.budget + 1, job.handle))


class SMACHyperband:
    """SMAC's multi-fidelity facade: a random forest under Hyperband."""

    def __init__(self, task: Task, seed: int) -> None:
        import tempfile

        from smac import MultiFidelityFacade, Scenario

        logging.disable(logging.WARNING)
        assert task.budgets is not None
        low, self._high = task.budgets
        self._task, self._folder = task, tempfile.TemporaryDirectory()
        scenario = Scenario(
            configspace(task.spec, seed), output_directory=Path(self._folder.name), deterministic=True, n_trials=1_000_000,
            min_budget=low, max_budget=self._high, seed=seed,
        )  # fmt: skip
        self._facade = MultiFidelityFacade(scenario, lambda config, seed, budget: 0.0, overwrite=True, logging_level=False)

    def ask(self) -> Job | None:
        info = self._facade.ask()
        params = plain(info.config, self._task.spec)
        return Job(str(params), params, round(info.budget or self._high), info)

    def tell(self, job: Job, loss: float) -> None:
        from smac.runhistory import TrialValue

        self._facade.tell(job.handle, TrialValue(cost=loss))


class HpBandSter:
    """HpBandSter's successive halving brackets around one of its generators, without its network of workers."""

    def __init__(self, model: str, task: Task, seed: int) -> None:
        from hpbandster.optimizers.config_generators.bohb import BOHB
        from hpbandster.optimizers.config_generators.random_sampling import RandomSampling

        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
        np.random.seed(seed)  # its generators draw from NumPy's global stream
        self._task, space = task, configspace(task.spec, seed)
        self._generator = BOHB(configspace=space) if model == "bohb" else RandomSampling(configspace=space)
        assert task.budgets is not None
        low, high = task.budgets
        steps = range(int(np.floor(np.log(high / low) / np.log(3))), -1, -1)
        self._budgets = [high * 3.0**-step for step in steps]
        self._brackets: list[Any] = []

    def ask(self) -> Job | None:
        for bracket in self._brackets:
            run = None if bracket.is_finished else bracket.get_next_run()
            if run is not None:
                return self._job(run)
        self._brackets.append(self._bracket(len(self._brackets)))
        return self._job(self._brackets[-1].get_next_run())

    def _bracket(self, number: int) -> Any:
        from hpbandster.optimizers.iterations import SuccessiveHalving

        longest = len(self._budgets)
        s = longest - 1 - number % longest
        first = int(np.floor(longest / (s + 1)) * 3**s)
        return SuccessiveHalving(
            HPB_iter=number, num_configs=[max(int(first * 3.0**-i), 1) for i in range(s + 1)], budgets=self._budgets[-s - 1 :],
            config_sampler=self._generator.get_config,
        )  # fmt: skip

    def _job(self, run: Any) -> Job:
        identity, config, budget = run
        return Job(identity, plain(config, self._task.spec), max(round(budget), 1), run)

    def tell(self, job: Job, loss: float) -> None:
        from hpbandster.core.dispatcher import Job as Ran

        identity, config, budget = job.handle
        ran = Ran(identity, config=config, budget=budget)
        ran.result, ran.exception, ran.timestamps = {"loss": loss, "info": {}}, None, {}
        self._brackets[identity[0]].register_result(ran)
        self._generator.new_result(ran)


Make = Callable[[Task, int], Searcher]

# Name -> distribution, and how to make it.
PEERS: dict[str, tuple[str, Make]] = {
    "optuna_hyperband": ("optuna", OptunaHyperband),
    "smac_hyperband": ("smac", SMACHyperband),
    "hpbandster_bohb": ("hpbandster", lambda task, seed: HpBandSter("bohb", task, seed)),
    "hpbandster_hyperband": ("hpbandster", lambda task, seed: HpBandSter("random", task, seed)),
}
