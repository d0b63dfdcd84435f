"""Multi-fidelity comparison: mean normalised regret after 10, 20 and 40 full trainings' worth of budget.

    python -m benchmarks.multifidelity --ours auto,bohb,random@hyperband --peers optuna_hyperband --tasks six_mf --seeds 1,3,5

Continuing a configuration costs the difference. The incumbent is the lowest loss at the highest fidelity seen so far, and is scored
at full fidelity free of charge. With `--parallel 4` Trials take between half and one and a half times their budget, so that results
come out of order; what has been spent is then the time of all workers, idle or not.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache import Runs
from benchmarks.searchers import PEERS, Searcher, searcher, stamp
from benchmarks.tasks import DATA, Task, load_tasks

PROTOCOL = 2  # raised when `run` comes to mean something else, so that older runs are not read


def run(search: Searcher, task: Task, seed: int, trainings: float, workers: int) -> dict[str, Any]:
    """One Study in virtual time: the incumbent's loss at full fidelity wherever it changed, by what had been spent."""
    assert task.budgets is not None and task.partial is not None
    rng = np.random.default_rng(seed)
    trained: dict[Hashable, int] = {}
    running: list[tuple[float, int, Any]] = []
    spent, losses, seconds, asked = [], [], 0.0, 0
    clock, highest, lowest = 0.0, 0, np.inf
    while True:
        while len(running) < workers:
            start = time.process_time()
            job = search.ask()
            seconds += time.process_time() - start
            if job is None:
                break
            cost = (job.budget - trained.get(job.configuration, 0)) / task.budgets[1]
            heapq.heappush(running, (clock + cost * (rng.uniform(0.5, 1.5) if workers > 1 else 1.0), asked, job))
            asked += 1
        if not running:
            break
        clock, _, job = heapq.heappop(running)
        if clock * workers > trainings + 1e-9:
            break
        trained[job.configuration] = job.budget
        loss = task.partial(job.params, job.budget, seed)
        if job.budget > highest or (job.budget == highest and loss < lowest):
            highest, lowest = job.budget, loss
            spent.append(clock * workers)
            losses.append(task.loss(job.params))
        search.tell(job, loss)
    return {"spent": spent, "losses": losses, "seconds": seconds, "asked": asked}


class Results:
    """Runs that have been made."""

    def __init__(self) -> None:
        self._runs = Runs("multifidelity")

    def get(self, name: str, task: Task, seed: int, trainings: int, workers: int) -> dict[str, Any]:
        key = f"{PROTOCOL}/{name}/{stamp(name)}/{task.name}/{seed}/{trainings}/{workers}"
        row = self._runs.get(key)
        if row is None:
            row = self._runs.put(key, run(searcher(name, task, seed), task, seed, trainings, workers))
        return row


def regret_at(task: Task, row: dict[str, Any], spent: float) -> float:
    """The regret of the incumbent when so much has been spent; before the first result, that of a random configuration."""
    place = int(np.searchsorted(row["spent"], spent + 1e-9, side="right"))
    return task.regret(row["losses"][place - 1]) if place else 1.0


def table(names: Sequence[str], tasks: Sequence[Task], seeds: Sequence[int], at: Sequence[int], workers: int) -> None:
    """Run what is missing, and print one line a task and one of means for each optimiser."""
    results = Results()
    regrets = np.empty((len(names), len(tasks), len(seeds), len(at)))
    seconds = np.zeros((len(names), 2))
    for t, task in enumerate(tasks):
        for n, name in enumerate(names):
            for s, seed in enumerate(seeds):
                row = results.get(name, task, seed, max(at), workers)
                regrets[n, t, s] = [regret_at(task, row, spent) for spent in at]
                seconds[n] += row["seconds"], row["asked"]
            shown = "  ".join(f"{value:7.4f}" for value in regrets[n, t].mean(axis=0))
            print(f"{task.name:40s} {name:28s} {shown}", flush=True)
    when = "/".join(map(str, at))
    print(f"\nmean normalised regret at {when} full trainings, {len(tasks)} tasks, {len(seeds)} seeds (standard error)")
    for n, name in enumerate(names):
        means = regrets[n].mean(axis=(0, 1))
        errors = regrets[n].mean(axis=0).std(axis=0, ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else np.zeros(len(at))
        shown = "  ".join(f"{mean:.3f} ({error:.3f})" for mean, error in zip(means, errors, strict=True))
        print(f"{name:28s} {shown}   {seconds[n, 0] / max(seconds[n, 1], 1):.4f} s a proposal")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.multifidelity", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--ours", default="", help="sampler@schedule by their names in a Study, comma-separated: auto,kde@asha[eta=4]"
    )
    parser.add_argument("--peers", default="", help=f"any of {','.join(PEERS)}")
    parser.add_argument(
        "--tasks", default="six_mf", help="tasks or groups: six_mf, others_mf, counting8_mf, counting16_mf, lcbench_*"
    )
    parser.add_argument("--seeds", default="1,3,5", help="comma-separated")
    parser.add_argument("--at", default="10,20,40", help="after how many full trainings to look")
    parser.add_argument("--parallel", type=int, default=1, help="workers; with more than one, results come out of order")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of benchmark data (or HPO_BENCH_DATA)")
    given = parser.parse_args(argv)
    names = [name for name in [*given.ours.split(","), *given.peers.split(",")] if name]
    tasks = load_tasks(given.tasks.split(","), given.data)
    if whole := [task.name for task in tasks if task.budgets is None]:
        raise SystemExit(f"--tasks: {', '.join(whole)}: cannot be trained in part")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    table(names, tasks, seeds, sorted(int(spent) for spent in given.at.split(",")), given.parallel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
