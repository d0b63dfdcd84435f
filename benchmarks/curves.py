"""Draws what the other benchmarks have measured, from their caches, for the pages of `docs/algorithms`.

    python -m benchmarks.curves                 # every picture that has been measured
    python -m benchmarks.curves pso schedules   # some of them

Nothing is run: what is missing is named, with the command that measures it. Lines are means over tasks and seeds, bands
standard errors over seeds; peers are dashed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import multifidelity, optimisers, pareto, population, searchers
from benchmarks.cache import Runs
from benchmarks.tasks import DATA, SEVEN, SIX_MF, Task, load_tasks
from benchmarks.training import TASKS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "algorithms" / "curves"
PEERS = {*optimisers.PEERS, *searchers.PEERS, *pareto.PEERS}
SEEDS = range(2, 42, 2)  # figures that are shown come from even seeds
TORCH = ("branin", "hartmann6", "mixed8")  # what `botorch` is measured on, for it takes long


@dataclass(frozen=True)
class Benchmark:
    """One of the other benchmarks: its axes, what its runs depend on, and how one of them is read along the horizontal axis."""

    x: np.ndarray
    ticks: Sequence[int]
    labels: tuple[str, str]
    tasks: tuple[str, ...]
    version_of: Callable[[str], str]
    read: Callable[[Task | None, str, dict[str, Any]], list[float]]
    before: str = ""  # of the keys in the cache
    after: str = ""
    scale: str = "log"
    low: float | None = 0  # end of the vertical axis


def _regrets(task: Task | None, name: str, row: dict[str, Any]) -> list[float]:
    assert task is not None
    return [task.regret(row["best"][count - 1]) for count in BENCHMARKS["blackbox"].x]


def _regrets_by_budget(task: Task | None, name: str, row: dict[str, Any]) -> list[float]:
    assert task is not None
    return [multifidelity.regret_at(task, row, spent) for spent in BENCHMARKS["multifidelity"].x]


def _shares(task: Task | None, name: str, row: dict[str, Any]) -> list[float]:
    losses, front = [(first, second) for first, second in row["losses"]], pareto.whole(pareto.PROBLEMS[name])
    return [pareto.volume(losses[:count]) / front for count in BENCHMARKS["pareto"].x]


def _squared_distances(task: Task | None, name: str, row: dict[str, Any]) -> list[float]:
    return [TASKS[name].shown(loss) for loss in row["lowest"]]


BENCHMARKS = {
    "blackbox": Benchmark(
        np.unique(np.geomspace(5, 100, 60).astype(int)),
        (5, 10, 25, 50, 100),
        ("Trials", "mean normalised regret"),
        SEVEN,
        optimisers.version_of,
        _regrets,
    ),
    "multifidelity": Benchmark(
        np.geomspace(2, 40, 60),
        (2, 5, 10, 20, 40),
        ("full trainings", "mean normalised regret"),
        SIX_MF,
        searchers.stamp,
        _regrets_by_budget,
        f"{multifidelity.PROTOCOL}/",
        "/1",  # worker
    ),
    "pareto": Benchmark(
        np.unique(np.geomspace(20, 1000, 40).astype(int)),
        (20, 50, 100, 200, 500, 1000),
        ("Trials", "share of the front's volume"),
        tuple(pareto.PROBLEMS),
        pareto.version_of,
        _shares,
    ),
    "population": Benchmark(
        np.arange(10, 201, 10),
        (10, 50, 100, 150, 200),
        ("steps of training", "log10 of the best loss of eight members"),
        ("quadratic",),
        population.version_of,
        _squared_distances,
        after="/8",  # members
        scale="linear",
        low=None,
    ),
}


@dataclass(frozen=True)
class Picture:
    """What stands in one picture: the first name is what it is of."""

    names: tuple[str, ...]
    of: str = "blackbox"
    only: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.only or BENCHMARKS[self.of].tasks

    def command(self, name: str) -> str:
        """What measures a line of it."""
        if self.of == "population":
            return f"python -m benchmarks.population --tasks {','.join(self.tasks)} --members 8 --ours '{name}' --peers= --every 2"
        tasks = "" if self.of == "pareto" else f" --tasks {','.join(self.tasks)}"
        ours, peers = ("", name) if name in PEERS else (name, "")
        return f"python -m benchmarks.{self.of} --ours '{ours}' --peers '{peers}' --seeds 2,4,6{tasks}"


PICTURES = {
    "auto": Picture(("auto", "gp", "tpe", "random", "optuna_gp", "optuna_tpe", "smac_hpo")),
    "gp": Picture(("gp", "smac", "tpe", "random", "optuna_gp")),
    "botorch": Picture(("botorch", "gp", "random"), only=TORCH),
    "smac": Picture(("smac", "gp", "tpe", "random", "smac_hpo")),
    "tpe": Picture(("tpe", "auto", "random", "optuna_tpe")),
    "cmaes": Picture(("cmaes", "auto", "random", "optuna_cmaes")),
    "pso": Picture(("pso", "auto", "random", "pymoo_pso")),
    "ga": Picture(("ga", "auto", "random", "pymoo_ga_20")),
    "nsga2": Picture(("nsga2", "ga", "random", "pymoo_nsga2_20", "pymoo_nsga2"), "pareto"),
    "random": Picture(("random", "sobol", "ga", "auto")),
    "sobol": Picture(("sobol", "random", "auto")),
    "grid": Picture(("grid", "random", "auto")),
    "bohb": Picture(("bohb", "random@hyperband", "auto", "hpbandster_bohb", "optuna_hyperband"), "multifidelity"),
    "kde": Picture(("kde", "tpe", "random")),
    "pbt": Picture(("pbt", "random"), "population"),
    "pb2": Picture(("pb2", "pbt", "random"), "population"),
    "schedules": Picture(("auto", "random@asha", "random@halving", "random@hyperband", "random@flat"), "multifidelity"),
}


def measured(picture: Picture, name: str, tasks: dict[str, Task | None], runs: Runs) -> np.ndarray | None:
    """What is drawn along the horizontal axis, shape (seeds, points): of the seeds that all tasks have; None without one."""
    benchmark = BENCHMARKS[picture.of]
    before, after = f"{benchmark.before}{name}/{benchmark.version_of(name)}/", benchmark.after
    rows: dict[tuple[str, int], list[float]] = {}
    for row in runs:
        if not (row["key"].startswith(before) and row["key"].endswith(after)):
            continue
        task, seed, length = row["key"].removeprefix(before).removesuffix(after).split("/")
        if task in tasks and int(length) >= benchmark.x[-1]:
            rows[task, int(seed)] = benchmark.read(tasks[task], task, row)
    seeds = [seed for seed in SEEDS if all((task, seed) in rows for task in tasks)]
    return np.array([np.mean([rows[task, seed] for task in tasks], axis=0) for seed in seeds]) if seeds else None


def draw(title: str, picture: Picture, tasks: dict[str, Task | None], runs: Runs) -> Path | None:
    """One picture as SVG; None where what it is of, the first name, has not been measured."""
    found = {name: measured(picture, name, tasks, runs) for name in picture.names}
    for name in (name for name, lines in found.items() if lines is None):
        print(f"{title}: {name} has not been measured; {picture.command(name)}", file=sys.stderr)
    if found[picture.names[0]] is None:
        return None

    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": title, "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    benchmark = BENCHMARKS[picture.of]
    for i, (name, lines) in enumerate(found.items()):
        if lines is None:
            continue
        mean, error = lines.mean(axis=0), lines.std(axis=0) / np.sqrt(len(lines))
        style: dict[str, Any] = {"color": "grey" if name == "random" else f"C{i}", "linestyle": "--" if name in PEERS else "-"}
        seeds = f"{len(lines)} seed{'s' if len(lines) > 1 else ''}"
        axes.plot(benchmark.x, mean, label=f"{name} ({seeds})", linewidth=1.4 if i else 2.2, zorder=3 - i / 10, **style)
        axes.fill_between(benchmark.x, mean - error, mean + error, color=style["color"], alpha=0.12, linewidth=0)
    xlabel, ylabel = benchmark.labels
    several = f", {len(tasks)} tasks" if len(tasks) > 1 else ""
    axes.set(xscale=benchmark.scale, xlabel=xlabel, ylabel=ylabel + several, ylim=(benchmark.low, None))
    axes.set_xticks(list(benchmark.ticks), [str(tick) for tick in benchmark.ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{title}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.curves", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pictures", nargs="*", help=f"any of {', '.join(PICTURES)}; all when left out")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of benchmark data (or HPO_BENCH_DATA)")
    given = parser.parse_args(argv)
    if unknown := [name for name in given.pictures if name not in PICTURES]:
        parser.error(f"{', '.join(unknown)}: not known; known: {', '.join(PICTURES)}")
    runs = {name: Runs(name) for name in BENCHMARKS}
    known: dict[str, Task | None] = {task.name: task for task in load_tasks([*SEVEN, *SIX_MF], given.data)}
    for title in given.pictures or PICTURES:
        picture = PICTURES[title]
        path = draw(title, picture, {task: known.get(task) for task in picture.tasks}, runs[picture.of])
        if path:
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
