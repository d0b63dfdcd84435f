"""Several objectives: the share of the volume below the front that a search has found, ours and pymoo's.

    python -m benchmarks.pareto --ours nsga2,ga,random --peers pymoo_nsga2 --seeds 2,4,6 --at 200,400,1000

The problems are ZDT1, ZDT2 and ZDT3 of E. Zitzler, K. Deb and L. Thiele (2000) with ten parameters; 1 is the whole front, up to the
point (1.1, 1.1). Peers: the extra `peers`.
"""

from __future__ import annotations

import argparse
import functools
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.cache import Runs
from benchmarks.optimisers import fingerprint, settings_of
from benchmarks.pins import PINS, check

D = 10
ORIGIN = (1.1, 1.1)
Losses = tuple[float, float]


def _zdt(shape: Callable[[float, float], float]) -> Callable[[Sequence[float]], Losses]:
    def losses(x: Sequence[float]) -> Losses:
        g = 1 + 9 * statistics.fmean(x[1:])
        return x[0], g * shape(x[0], x[0] / g)

    return losses


PROBLEMS = {
    "zdt1": _zdt(lambda first, ratio: 1 - math.sqrt(ratio)),
    "zdt2": _zdt(lambda first, ratio: 1 - ratio**2),
    "zdt3": _zdt(lambda first, ratio: 1 - math.sqrt(ratio) - ratio * math.sin(10 * math.pi * first)),
}


def volume(losses: Sequence[Losses]) -> float:
    """The area that losses dominate, up to ORIGIN."""
    area, height = 0.0, ORIGIN[1]
    for first, second in sorted(losses):
        if first < ORIGIN[0] and second < height:
            area += (ORIGIN[0] - first) * (height - second)
            height = second
    return area


def ours(name: str, problem: Callable[[Sequence[float]], Losses], seed: int, evaluations: int) -> list[Losses]:
    from hpo_algorithms import Optimizer, Space

    bare, settings = settings_of(name)
    space = Space.from_spec([{"name": f"x{i}", "float": {"min": 0, "max": 1}} for i in range(D)])
    optimizer = Optimizer(space, {bare: settings}, seed=seed, objectives=2)
    found = []
    for _ in range(evaluations):
        trial = optimizer.ask()
        assert trial is not None
        found.append(problem([float(value) for value in trial.params.values()]))
        optimizer.tell(trial.number, found[-1])
    return found


def pymoo_nsga2(problem: Callable[[Sequence[float]], Losses], seed: int, evaluations: int, population: int = 100) -> list[Losses]:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.optimize import minimize

    found: list[Losses] = []

    class Recorded(ElementwiseProblem):  # type: ignore[misc]
        def _evaluate(self, x: np.ndarray, out: dict[str, Losses], *args: object, **kwargs: object) -> None:
            found.append(problem([float(value) for value in x]))
            out["F"] = found[-1]

    asked = Recorded(n_var=D, n_obj=2, xl=0.0, xu=1.0)
    minimize(asked, NSGA2(pop_size=population), ("n_eval", evaluations), seed=seed, verbose=False)
    return found


PEERS: dict[str, Callable[[Callable[[Sequence[float]], Losses], int, int], list[Losses]]] = {
    "pymoo_nsga2": pymoo_nsga2,
    "pymoo_nsga2_20": lambda problem, seed, evaluations: pymoo_nsga2(problem, seed, evaluations, 20),
}


def version_of(name: str) -> str:
    """Changes whenever what the name stands for may have changed."""
    return PINS["pymoo"] if name in PEERS else fingerprint(name)


def whole(problem: Callable[[Sequence[float]], Losses]) -> float:
    """The volume of a problem's front itself."""
    return volume([problem([i / 2000] + [0.0] * (D - 1)) for i in range(2001)])


def found_by(name: str, label: str, seed: int, evaluations: int, runs: Runs) -> list[Losses]:
    """All losses of one Study in their order; read from the cache where it has been made."""
    key = f"{name}/{version_of(name)}/{label}/{seed}/{evaluations}"
    row = runs.get(key)
    if row is None:
        if name in PEERS:
            check("pymoo")
        search = PEERS[name] if name in PEERS else functools.partial(ours, name)
        row = runs.put(key, {"losses": search(PROBLEMS[label], seed, evaluations)})
    return [(first, second) for first, second in row["losses"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="nsga2,ga,random")
    parser.add_argument("--peers", default="")
    parser.add_argument("--seeds", default="2,4,6")
    parser.add_argument("--at", default="200,400,1000")
    given = parser.parse_args()
    at, seeds = [int(each) for each in given.at.split(",")], [int(each) for each in given.seeds.split(",")]
    runs = Runs("pareto")
    names = [name for name in (*given.ours.split(","), *given.peers.split(",")) if name]
    print("| | problem |", " | ".join(map(str, at)), "|\n|---|---|" + "---|" * len(at))
    for name in names:
        for label, problem in PROBLEMS.items():
            made = [found_by(name, label, seed, max(at), runs) for seed in seeds]
            shares = [[volume(losses[:count]) / whole(problem) for losses in made] for count in at]
            print(f"| `{name}` | {label} |", " | ".join(f"{statistics.fmean(each):.3f}" for each in shares), "|", flush=True)


if __name__ == "__main__":
    main()
