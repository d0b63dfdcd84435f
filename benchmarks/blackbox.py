"""Black-box comparison: mean normalised regret after 25, 50 and 100 evaluations, mean rank, and CPU seconds a proposal.

    python -m benchmarks.blackbox --ours tpe,gp,auto --peers optuna_tpe,smac_hpo,pymoo_ga,pymoo_pso --tasks data --seeds 1,3,5

Defaults are chosen on odd seeds; figures that are quoted come from even ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from benchmarks.cache import Runs
from benchmarks.optimisers import PEERS, Conversation, optimiser, version_of
from benchmarks.tasks import DATA, Task, load_tasks


def run(conversation: Conversation, task: Task, evaluations: int, noise: float = 0.0, seed: int = 0) -> dict[str, list[float]]:
    """One Study: the loss of what has looked best so far after each evaluation, and the CPU seconds of each proposal.

    Losses are told with a normal error, whose deviation is `noise` times the distance of the median from the best.
    """
    best, seconds, lowest, shown = [], [], np.inf, np.inf
    error, rng = noise * (task.median - task.best), np.random.default_rng(seed)
    start = time.process_time()
    try:
        params = next(conversation)
        for i in range(evaluations):
            seconds.append(time.process_time() - start)
            loss = task.loss(params)
            told = loss + error * rng.standard_normal()
            if told < lowest:
                lowest, shown = told, loss
            best.append(float(shown))
            if i + 1 < evaluations:
                start = time.process_time()
                params = conversation.send(told)
    except StopIteration:  # a finite space has been exhausted
        best += [float(shown)] * (evaluations - len(best))
    return {"best": best, "seconds": seconds}


class Results:
    """Runs that have been made."""

    def __init__(self) -> None:
        self._runs = Runs("blackbox")

    def get(self, name: str, task: Task, seed: int, evaluations: int, parallel: int, noise: float) -> dict[str, list[float]]:
        stamp = version_of(name) + (f"*{parallel}" if parallel > 1 else "") + (f"~{noise}" if noise else "")
        plans = name in PEERS and PEERS[name].plans
        for stored in {evaluations} if plans else sorted({evaluations, 100, 50, 25}):  # a longer run begins as the shorter one does
            row = self._runs.get(f"{name}/{stamp}/{task.name}/{seed}/{stored}")
            if row and stored >= evaluations:
                return row
        made = run(optimiser(name, seed, task.spec, evaluations, parallel), task, evaluations, noise, seed)
        return self._runs.put(f"{name}/{stamp}/{task.name}/{seed}/{evaluations}", made)


def mean_ranks(regrets: np.ndarray) -> np.ndarray:
    """The mean rank of each optimiser, of regrets of shape (optimisers, tasks, seeds): 1 is the best, equals share their ranks."""
    found: np.ndarray = rankdata(regrets, axis=0).mean(axis=(1, 2))
    return found


def standard_errors(regrets: np.ndarray) -> np.ndarray:
    """Of means over tasks and seeds, of regrets of shape (tasks, seeds, ...): how far those of other seeds would lie."""
    tasks, seeds = regrets.shape[:2]
    spread = regrets.std(axis=1, ddof=1) if seeds > 1 else np.zeros_like(regrets[:, 0])
    found: np.ndarray = np.sqrt((spread**2 / seeds).sum(axis=0)) / tasks
    return found


def table(
    names: Sequence[str], tasks: Sequence[Task], seeds: Sequence[int], at: Sequence[int], parallel: int = 1, noise: float = 0.0
) -> None:
    """Run what is missing, and print one line a task and one of means for each optimiser."""
    results = Results()
    regrets = np.empty((len(names), len(tasks), len(seeds), len(at)))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for t, task in enumerate(tasks):
        for n, name in enumerate(names):
            for s, seed in enumerate(seeds):
                row = results.get(name, task, seed, max(at), parallel, noise)
                regrets[n, t, s] = [task.regret(row["best"][count - 1]) for count in at]
                seconds[name] += row["seconds"][: max(at)]
            shown = "  ".join(f"{value:7.4f}" for value in regrets[n, t].mean(axis=0))
            print(f"{task.name:40s} {name:28s} {shown}", flush=True)
    when = "/".join(map(str, at))
    print(f"\nmean normalised regret at {when}, {len(tasks)} tasks, {len(seeds)} seeds (standard error)", end="; ")
    print(f"mean rank of {len(names)} over tasks and seeds at {when}; CPU seconds")
    ranks = mean_ranks(regrets)
    for n, name in enumerate(names):
        means, errors = regrets[n].mean(axis=(0, 1)), standard_errors(regrets[n])
        shown = "  ".join(f"{mean:.3f} ({error:.3f})" for mean, error in zip(means, errors, strict=True))
        ranked = " ".join(f"{rank:5.2f}" for rank in ranks[n])
        print(f"{name:28s} {shown}   rank {ranked}   {np.mean(seconds[name]):.4f} s a proposal")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.blackbox", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--ours", default="", help="samplers by their names in a Study, comma-separated: tpe,gp[acquisition=EI]")
    parser.add_argument("--peers", default="", help=f"any of {','.join(PEERS)}")
    parser.add_argument("--tasks", default="seven", help="tasks or groups of tasks: seven, others, data, synthetic, all, lcbench_*")
    parser.add_argument("--seeds", default="1,3,5", help="comma-separated")
    parser.add_argument("--at", default="25,50,100", help="after how many evaluations to look")
    parser.add_argument("--parallel", type=int, default=1, help="Trials at a time, results out of order; ours alone")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="deviation of what is told, in units of regret; counted is the loss without it"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of benchmark data (or HPO_BENCH_DATA)")
    given = parser.parse_args(argv)
    names = [name for name in [*given.ours.split(","), *given.peers.split(",")] if name]
    tasks = load_tasks(given.tasks.split(","), given.data)
    numbers = [int(seed) for seed in given.seeds.split(",")]
    if given.parallel > 1 and given.peers:
        raise SystemExit("--parallel: peers are run one Trial at a time only. Leave out --peers.")
    table(names, tasks, numbers, sorted(int(count) for count in given.at.split(",")), given.parallel, given.noise)
    return 0


if __name__ == "__main__":
    sys.exit(main())
