"""Outcome constraints: the median regret of the best Trial that keeps them, ours and Optuna's.

    python -m benchmarks.constrained --ours gp,auto,tpe,random --peers optuna_gp,optuna_tpe --seeds 2,4,6 --at 15,25,50

Regret is as everywhere here: 0 is the best loss known, 1 the median of random configurations that keep the constraints. `-` says
that half of the runs or more have found none.
"""

from __future__ import annotations

import argparse
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.optimisers import settings_of
from benchmarks.pins import check
from benchmarks.spaces import space_of, suggested
from benchmarks.synthetic import branin, hartmann6
from benchmarks.tasks import floating

Params = Mapping[str, Any]
Found = list[tuple[float, float]]  # loss and violation, in the order of the evaluations


@dataclass(frozen=True)
class Problem:
    """To be minimised over a box where all constraints are zero or less; `best` and `median` scale the regret."""

    spec: Sequence[Mapping[str, Any]]
    loss: Callable[[Params], float]
    constraints: Callable[[Params], Sequence[float]]
    best: float
    median: float

    def evaluate(self, p: Params) -> tuple[float, float]:
        values = self.constraints(p)
        return self.loss(p), sum(value for value in values if value > 0) or max(values)


def _cube(d: int, high: float = 1.0) -> list[Mapping[str, Any]]:
    return [floating(f"x{i}", 0, high) for i in range(1, d + 1)]


BRANIN = [floating("x1", -5, 10), floating("x2", 0, 15)]
PROBLEMS = {
    # J. Gardner et al., ICML 2014, the first of their simulations: a third of the box
    "gardner": Problem(
        _cube(2, 6),
        lambda p: math.cos(2 * p["x1"]) * math.cos(p["x2"]) + math.sin(p["x1"]),
        lambda p: [math.cos(p["x1"] + p["x2"]) + 0.5],
        -1.888752,
        0.0777,
    ),
    # R. Gramacy et al., Technometrics 58, 2016: two constraints, of which one winds
    "gramacy": Problem(
        _cube(2),
        lambda p: p["x1"] + p["x2"],
        lambda p: [
            1.5 - p["x1"] - 2 * p["x2"] - 0.5 * math.sin(2 * math.pi * (p["x1"] ** 2 - 2 * p["x2"])),
            p["x1"] ** 2 + p["x2"] ** 2 - 1.5,
        ],
        0.599788,
        1.2504,
    ),
    "branin_disk": Problem(BRANIN, branin, lambda p: [(p["x1"] - 2.5) ** 2 + (p["x2"] - 7.5) ** 2 - 50], 0.397887, 32.86),
    # One configuration in thirty keeps it, and no minimum of the function does
    "branin_small": Problem(BRANIN, branin, lambda p: [abs(p["x1"] - 5) + abs(p["x2"] - 9) - 2], 43.05936, 70.3),
    # One in fifty
    "hartmann6_sum": Problem(_cube(6), hartmann6, lambda p: [sum(p.values()) - 1.6], -2.786456, -0.175),
    "hartmann6_two": Problem(_cube(6), hartmann6, lambda p: [p["x1"] + p["x2"] - 0.25, 0.4 - p["x3"]], -3.261329, -0.171),
}


def ours(name: str, problem: Problem, seed: int, evaluations: int) -> Found:
    from hpo_algorithms import Optimizer

    bare, settings = settings_of(name)
    optimizer = Optimizer(space_of(problem.spec), {bare: settings}, seed=seed)
    found = []
    for _ in range(evaluations):
        trial = optimizer.ask()
        assert trial is not None
        found.append(problem.evaluate(trial.params))
        optimizer.tell(trial.number, found[-1][0], violation=found[-1][1])
    return found


def _optuna(sampler: str) -> Callable[[Problem, int, int], Found]:
    def run(problem: Problem, seed: int, evaluations: int) -> Found:
        check("optuna")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        found: Found = []

        def objective(trial: optuna.Trial) -> float:
            params = suggested(trial, problem.spec)
            trial.set_user_attr("constraints", list(problem.constraints(params)))
            found.append(problem.evaluate(params))
            return found[-1][0]

        kept = getattr(optuna.samplers, sampler)(seed=seed, constraints_func=lambda trial: trial.user_attrs["constraints"])
        optuna.create_study(sampler=kept).optimize(objective, n_trials=evaluations)
        return found

    return run


PEERS = {"optuna_gp": _optuna("GPSampler"), "optuna_tpe": _optuna("TPESampler")}


def regret(problem: Problem, found: Found) -> float:
    """Of the best that keeps the constraints; infinite if none does."""
    best = min((loss for loss, violation in found if violation <= 0), default=math.inf)
    return (best - problem.best) / (problem.median - problem.best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="gp,auto,tpe,random")
    parser.add_argument("--peers", default="", help=f"any of {','.join(PEERS)}")
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--seeds", default="2,4,6")
    parser.add_argument("--at", default="15,25,50")
    given = parser.parse_args()
    at, seeds = [int(each) for each in given.at.split(",")], [int(each) for each in given.seeds.split(",")]
    names = [name for name in (*given.ours.split(","), *given.peers.split(",")) if name]
    print("| | problem |", " | ".join(map(str, at)), "| kept |\n|---|---|" + "---|" * (len(at) + 1))
    for name in names:
        for label in given.problems.split(","):
            problem = PROBLEMS[label]
            runs = [PEERS[name](problem, seed, max(at)) if name in PEERS else ours(name, problem, seed, max(at)) for seed in seeds]
            medians = [statistics.median(regret(problem, run[:count]) for run in runs) for count in at]
            shown = " | ".join(f"{value:.4f}" if math.isfinite(value) else "-" for value in medians)
            kept = statistics.fmean(violation <= 0 for run in runs for _, violation in run)
            print(f"| `{name}` | {label} | {shown} | {kept:.0%} |", flush=True)


if __name__ == "__main__":
    main()
