"""Draws regret curves from the caches of the other benchmarks, for the pages of `docs/algorithms`.

    python -m benchmarks.curves                 # every picture that has been measured
    python -m benchmarks.curves pso schedules   # some of them

Nothing is run: what is missing is named, with the command that measures it. Lines are means over tasks and seeds, bands
standard errors over seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import multifidelity
from benchmarks.cache import Runs
from benchmarks.optimisers import PEERS, fingerprint
from benchmarks.searchers import stamp
from benchmarks.tasks import DATA, SEVEN, SIX_MF, Task, load_tasks

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "algorithms" / "curves"
SPENT = np.geomspace(2, 40, 60)  # full trainings
TRIALS = np.unique(np.geomspace(5, 100, 60).astype(int))
SEEDS = range(2, 42, 2)  # figures that are shown come from even seeds


@dataclass(frozen=True)
class Picture:
    """What stands in one picture; with `budgets` it is of the multi-fidelity benchmark."""

    names: tuple[str, ...]
    budgets: bool = False

    @property
    def command(self) -> str:
        module = "multifidelity" if self.budgets else "blackbox"
        mine, peers = ([name for name in self.names if ("_" in name) is peer] for peer in (False, True))
        return f"python -m benchmarks.{module} --ours '{','.join(mine)}' --peers '{','.join(peers)}' --seeds 2,4,6,8"


PICTURES = {
    **{name: Picture((name, "auto", "random")) for name in ("sobol", "pso", "ga", "cmaes")},
    "auto": Picture(("auto", "tpe", "random", "optuna_tpe")),
    "gp": Picture(("gp", "random", "optuna_gp")),
    "tpe": Picture(("tpe", "random", "optuna_tpe")),
    "bohb": Picture(("bohb", "random@hyperband", "hpbandster_bohb"), budgets=True),
    "schedules": Picture(("auto", "random@asha", "random@halving", "random@hyperband", "random@flat"), budgets=True),
}


def measured(picture: Picture, name: str, tasks: Sequence[Task], runs: Runs) -> np.ndarray | None:
    """Regrets over the horizontal axis, shape (seeds, points): of the seeds that all tasks have; None without one."""
    rows: dict[tuple[str, int], np.ndarray] = {}
    known = {task.name: task for task in tasks}
    version = stamp(name) if picture.budgets else _version(name)
    for row in runs:
        made = _read(picture, row, name, version, known)
        if made is not None:
            rows[made[0]] = made[1]
    seeds = [seed for seed in SEEDS if all((task.name, seed) in rows for task in tasks)]
    if not seeds:
        return None
    return np.array([np.mean([rows[task.name, seed] for task in tasks], axis=0) for seed in seeds])


def _read(
    picture: Picture, row: dict[str, Any], name: str, version: str, known: dict[str, Task]
) -> tuple[tuple[str, int], np.ndarray] | None:
    parts = row["key"].split("/")
    if picture.budgets:
        protocol, made, of, task, seed, spent, workers = parts
        if (protocol, made, of, workers) != (str(multifidelity.PROTOCOL), name, version, "1") or int(spent) < SPENT[-1]:
            return None
    else:
        made, of, task, seed, count = parts
        if (made, of) != (name, version) or int(count) < TRIALS[-1]:
            return None
    if task not in known:
        return None
    if picture.budgets:
        regrets = [multifidelity.regret_at(known[task], row, spent) for spent in SPENT]
    else:
        regrets = [known[task].regret(row["best"][count - 1]) for count in TRIALS]
    return (task, int(seed)), np.array(regrets)


def _version(name: str) -> str:
    from importlib.metadata import version

    return version("optuna") if name in PEERS else fingerprint(name)


def draw(title: str, picture: Picture, tasks: Sequence[Task], runs: Runs) -> Path | None:
    """One picture as SVG; None where what it is of, the first name, has not been measured."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": title, "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    x, drawn = SPENT if picture.budgets else TRIALS, set[str]()
    for name in picture.names:
        try:
            found = measured(picture, name, tasks, runs)
        except ModuleNotFoundError as missing:
            print(f"{title}: {name}: {missing}", file=sys.stderr)
            continue
        if found is None:
            print(f"{title}: {name} has not been measured; {picture.command}", file=sys.stderr)
            continue
        mean, error = found.mean(axis=0), found.std(axis=0) / np.sqrt(len(found))
        (line,) = axes.plot(x, mean, label=f"{name} ({len(found)} seeds)", linewidth=1.6)
        axes.fill_between(x, mean - error, mean + error, color=line.get_color(), alpha=0.15, linewidth=0)
        drawn.add(name)
    if picture.names[0] not in drawn:
        plt.close(figure)
        return None
    axes.set(
        xscale="log", xlabel="full trainings" if picture.budgets else "Trials", ylabel="mean normalised regret", ylim=(0, None)
    )
    ticks = [2, 5, 10, 20, 40] if picture.budgets else [5, 10, 25, 50, 100]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{title}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.curves", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pictures", nargs="*", help=f"any of {', '.join(PICTURES)}; all when left out")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of benchmark data (or HPO_BENCH_DATA)")
    given = parser.parse_args(argv)
    if unknown := [name for name in given.pictures if name not in PICTURES]:
        parser.error(f"{', '.join(unknown)}: not known; known: {', '.join(PICTURES)}")
    runs = {True: Runs("multifidelity"), False: Runs("blackbox")}
    tasks = {True: load_tasks(SIX_MF, given.data), False: load_tasks(SEVEN, given.data)}
    for title in given.pictures or PICTURES:
        picture = PICTURES[title]
        path = draw(title, picture, tasks[picture.budgets], runs[picture.budgets])
        if path:
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
