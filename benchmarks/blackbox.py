"""Black-box comparison: mean normalised regret after 25, 50 and 100 evaluations, and CPU seconds a proposal.

    python -m benchmarks.blackbox --ours tpe,gp,auto --peers optuna_tpe --tasks seven --seeds 1,3,5

Defaults are chosen on odd seeds; figures that are quoted come from even ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.cache import Runs
from benchmarks.optimisers import PEERS, Conversation, Spec, fingerprint, ours
from benchmarks.tasks import DATA, Task, load_tasks


def run(optimiser: Callable[[Spec, int], Conversation], task: Task, seed: int, evaluations: int) -> dict[str, list[float]]:
    """One Study: the best loss so far after each evaluation, and the CPU seconds of each proposal."""
    conversation = optimiser(task.spec, seed)
    best, seconds, lowest = [], [], np.inf
    start = time.process_time()
    try:
        params = next(conversation)
        for i in range(evaluations):
            seconds.append(time.process_time() - start)
            loss = task.loss(params)
            lowest = min(lowest, loss)
            best.append(float(lowest))
            if i + 1 < evaluations:
                start = time.process_time()
                params = conversation.send(loss)
    except StopIteration:  # a finite space has been exhausted
        best += [float(lowest)] * (evaluations - len(best))
    return {"best": best, "seconds": seconds}


class Results:
    """Runs that have been made."""

    def __init__(self) -> None:
        self._runs = Runs("blackbox")

    def get(self, name: str, task: Task, seed: int, evaluations: int, parallel: int) -> dict[str, list[float]]:
        peer = name in PEERS
        stamp = (version("optuna") if peer else fingerprint(name)) + (f"*{parallel}" if parallel > 1 else "")
        for stored in sorted({evaluations, 100, 50, 25}):  # a longer run begins as the shorter one does
            row = self._runs.get(f"{name}/{stamp}/{task.name}/{seed}/{stored}")
            if row and stored >= evaluations:
                return row
        made = run(PEERS[name] if peer else ours(name, parallel), task, seed, evaluations)
        return self._runs.put(f"{name}/{stamp}/{task.name}/{seed}/{evaluations}", made)


def table(names: Sequence[str], tasks: Sequence[Task], seeds: Sequence[int], at: Sequence[int], parallel: int = 1) -> None:
    """Run what is missing, and print one line a task and one of means for each optimiser."""
    results = Results()
    regrets = np.empty((len(names), len(tasks), len(seeds), len(at)))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for t, task in enumerate(tasks):
        for n, name in enumerate(names):
            for s, seed in enumerate(seeds):
                row = results.get(name, task, seed, max(at), parallel)
                regrets[n, t, s] = [task.regret(row["best"][count - 1]) for count in at]
                seconds[name] += row["seconds"][: max(at)]
            shown = "  ".join(f"{value:7.4f}" for value in regrets[n, t].mean(axis=0))
            print(f"{task.name:40s} {name:28s} {shown}", flush=True)
    print(f"\nmean normalised regret at {'/'.join(map(str, at))}, {len(tasks)} tasks, {len(seeds)} seeds (standard error)")
    for n, name in enumerate(names):
        means = regrets[n].mean(axis=(0, 1))
        spread = regrets[n].std(axis=1, ddof=1) if len(seeds) > 1 else np.zeros((len(tasks), len(at)))
        errors = np.sqrt((spread**2 / len(seeds)).sum(axis=0)) / len(tasks)
        shown = "  ".join(f"{mean:.3f} ({error:.3f})" for mean, error in zip(means, errors, strict=True))
        ranks = (np.argsort(np.argsort(regrets[:, :, :, -1].mean(axis=2), axis=0), axis=0) + 1)[n].mean()
        print(f"{name:28s} {shown}   rank {ranks:.2f}   {np.mean(seconds[name]):.4f} s a proposal")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.blackbox", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--ours", default="", help="samplers by their names in a Study, comma-separated: tpe,gp[acquisition=EI]")
    parser.add_argument("--peers", default="", help=f"any of {','.join(PEERS)}")
    parser.add_argument("--tasks", default="seven", help="tasks or groups of tasks: seven, others, data, synthetic, all, lcbench_*")
    parser.add_argument("--seeds", default="1,3,5", help="comma-separated")
    parser.add_argument("--at", default="25,50,100", help="after how many evaluations to look")
    parser.add_argument("--parallel", type=int, default=1, help="Trials at a time, results out of order; ours alone")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of benchmark data (or HPO_BENCH_DATA)")
    given = parser.parse_args(argv)
    names = [name for name in [*given.ours.split(","), *given.peers.split(",")] if name]
    tasks = load_tasks(given.tasks.split(","), given.data)
    numbers = [int(seed) for seed in given.seeds.split(",")]
    if given.parallel > 1 and given.peers:
        raise SystemExit("--parallel: peers are run one Trial at a time only. Leave out --peers.")
    table(names, tasks, numbers, sorted(int(count) for count in given.at.split(",")), given.parallel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
