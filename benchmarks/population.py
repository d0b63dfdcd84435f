"""Populations against random search and Ray Tune's, at equal training steps: tasks in which no constant setting is best.

    python -m benchmarks.population                        # toy, quadratic and digits, 20 seeds
    python -m benchmarks.population --tasks quadratic --members 4,8 --seeds 20 --peers ray_pbt,ray_pb2
    python -m benchmarks.population --tasks scaling,steady,optimizers --ours pb2,pb2_thompson,pb2_uniform --peers= --every 2
    python -m benchmarks.population --tasks quadratic --ours 'pbt,pbt[resample=0]' --peers=
    python -m benchmarks.population --tasks digits --ours pbt,pbt@replay --peers=

Peers need a Python of their own with Ray: pip install "ray[tune]==2.60.0" scikit-learn (0.6 GB), named by --ray or HPO_BENCH_RAY.
Their own schedulers decide; `population_ray` only carries out what they do. Where Ray is not installed the benchmark says so and
goes on without them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache import Runs
from benchmarks.names import NAMED
from benchmarks.optimisers import fingerprint, settings_of
from benchmarks.training import TASKS, Task

OURS = {
    "random": {"random": {}},
    "pbt": {"pbt": {}},
    "pb2": {"pb2": {}},
    "pbt_async": {"pbt": {"mode": "asynchronous"}},
    **{name: {name: {}} for name in NAMED},
}
RAY = "ray 2.60.0"
ROOT = Path(__file__).resolve().parents[1]
AGAIN = "@replay"  # behind a name: what its schedule brings when it is trained once more
ELSEWHERE = 1_000_000  # added to the numbers of Trials that noise depends on


def ours(algorithm: Mapping[str, Mapping[str, Any]], task: Task, members: int, seed: int) -> list[float]:
    """The best loss of a population of ours, or of as many Trials with constant settings, each interval: the last is at the end."""
    name, settings = next(iter(algorithm.items()))
    populated = name != "random"
    given = task.given[:members] if len(task.given) == members else ()
    return _trained({name: {**settings, "population": members} if populated else {}}, task, seed, members, given)[1]


def version_of(label: str) -> str:
    """Changes whenever what the label stands for may have changed."""
    return fingerprint(next(iter(named(label))))


def replayed(algorithm: Mapping[str, Mapping[str, Any]], task: Task, members: int, seed: int) -> float:
    """The loss of the schedule that a population has found, trained once more from nothing: other noise, where there is any."""
    name, settings = next(iter(algorithm.items()))
    given = task.given[:members] if len(task.given) == members else ()
    schedule, _ = _trained({name: {**settings, "population": members}}, task, seed, members, given)
    return _trained({"replay": {}}, task, seed, 1, schedule, ELSEWHERE)[1][-1]


def _trained(
    algorithm: Mapping[str, Mapping[str, Any]],
    task: Task,
    seed: int,
    members: int,
    given: Sequence[Mapping[str, Any]],
    noise: int = 0,
) -> tuple[list[Mapping[str, Any]], list[float]]:
    """The settings of every generation that led to the best loss at the end, and the best loss after each interval."""
    from hpo_algorithms import Optimizer, Space, registry

    name, space = next(iter(algorithm)), Space.from_spec(task.spec)
    registry.ALGORITHMS.update({name: NAMED[name]} if name in NAMED else {})  # no Study can name them
    optimizer = Optimizer(space, algorithm, budget=(task.interval, task.steps), seed=seed, given=given)
    kept: dict[int, tuple[int, Any, list[Mapping[str, Any]]]] = {}
    schedules: list[tuple[float, list[Mapping[str, Any]]]] = []
    lowest = [math.inf] * (task.steps // task.interval)
    while (name != "random" or len(optimizer.history) < members) and (trials := optimizer.ask(members)):
        for trial in trials:
            start, state, settings = kept[trial.donor] if trial.donor is not None else (0, task.start(), [])
            assert trial.budget is not None
            for step in range(start, trial.budget, task.interval):
                end = step + task.interval
                state, loss = task.train(state, step, end, trial.params, (seed, noise + trial.number))
                lowest[step // task.interval] = min(lowest[step // task.interval], loss)
            kept[trial.number] = trial.budget, state, [*settings, trial.params]
            if math.isfinite(loss):
                optimizer.tell(trial.number, loss)
            else:
                optimizer.tell(trial.number, state="infeasible")
            if trial.budget == task.steps:
                schedules.append((loss, kept[trial.number][2]))
    return min(schedules, key=lambda each: each[0])[1], lowest


def named(label: str) -> dict[str, dict[str, Any]]:
    """The algorithm that one of OURS stands for, with settings in brackets: `pbt[resample=0]`."""
    bare, settings = settings_of(label)
    if bare not in OURS:
        raise SystemExit(f"--ours: {bare}: not known; known: {', '.join(OURS)}")
    ((name, own),) = OURS[bare].items()
    return {name: {**own, **settings}}


def known(label: str, task: str, members: int, seed: int, runs: Runs) -> list[float]:
    """What `ours` gives, read from the cache where it has been made."""
    algorithm = named(label)
    if next(iter(algorithm)) in NAMED:  # of which there is no digest
        return ours(algorithm, TASKS[task], members, seed)
    key = f"{label}/{version_of(label)}/{task}/{seed}/{TASKS[task].steps}/{members}"
    row = runs.get(key) or runs.put(key, {"lowest": ours(algorithm, TASKS[task], members, seed)})
    found: list[float] = row["lowest"]
    return found


def peer(python: str, name: str, task: str, members: int, seeds: Sequence[int]) -> list[float]:
    """The same of Ray's, in a process of its Python."""
    words = [python, "-m", "benchmarks.population_ray", name, task, str(members), *map(str, seeds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AIR_NEW_OUTPUT": "0"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def constant(task: Task, points: int) -> float:
    """The best loss of a grid of constant settings: what no search over constants can beat by much."""
    from hpo_algorithms import Space

    space = Space.from_spec(task.spec)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, points)] * len(space)), axis=-1).reshape(-1, len(space))
    losses = [task.train(task.start(), 0, task.steps, space.decode(u), (0, i))[1] for i, u in enumerate(grid)]
    return min(loss for loss in losses if math.isfinite(loss))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.population", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tasks", default="toy,toy100,quadratic,digits", help=f"any of {','.join(TASKS)}")
    parser.add_argument(
        "--ours", default="random,pbt,pb2", help=f"any of {','.join(OURS)}, with settings in brackets; behind them {AGAIN}"
    )
    parser.add_argument("--peers", default="ray_pbt,ray_pb2", help="ray_pbt, ray_pb2, or nothing")
    parser.add_argument("--members", default="", help="comma-separated; each task has its own otherwise")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--every", type=int, default=1, help="the distance of seeds: with 2 odd ones to choose by, even ones to report"
    )
    parser.add_argument("--ray", default=os.environ.get("HPO_BENCH_RAY", sys.executable), help="a Python that has Ray")
    parser.add_argument("--constants", type=int, default=0, metavar="POINTS", help="also the best of a grid of constant settings")
    given = parser.parse_args(argv)
    peers, seeds = (
        [name for name in given.peers.split(",") if name],
        range(given.first, given.first + given.seeds * given.every, given.every),
    )
    if peers and subprocess.run([given.ray, "-c", "import ray, sklearn"], capture_output=True, check=False).returncode:
        print(f"{', '.join(peers)}: left out, for {given.ray} has no Ray: see the head of benchmarks/population.py ({RAY})")
        peers = []
    runs = Runs("population")
    for name in given.tasks.split(","):
        task = TASKS[name]
        if given.constants:
            print(f"{name:10s} best constant            {task.shown(constant(task, given.constants)):9.4f}", flush=True)
        for members in [int(count) for count in given.members.split(",") if count] or task.members:
            for label in [*[each for each in given.ours.split(",") if each], *peers]:
                if label in peers:
                    found = peer(given.ray, label, name, members, seeds)
                elif label.endswith(AGAIN):
                    found = [replayed(named(label.removesuffix(AGAIN)), task, members, seed) for seed in seeds]
                else:
                    found = [known(label, name, members, seed, runs)[-1] for seed in seeds]
                losses = np.array([task.shown(loss) for loss in found])
                error = losses.std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else 0.0
                print(
                    f"{name:10s} {members:2d} members  {label:10s} mean {losses.mean():9.4f} ({error:.4f})  "
                    f"median {np.median(losses):9.4f}  worst {task.worst(losses):9.4f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
