"""Test functions with a known optimum, on the spaces of a Study.

Normalised regret is (loss - best) / (median - best): 0 is the optimum, 1 the median of random configurations. Medians are those
of 20,001 uniform draws, rounded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.tasks import Task, categorical, floating, integer

Params = Mapping[str, Any]

HARTMANN6_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
HARTMANN6_A = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]], dtype=float
)
HARTMANN6_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ],
    dtype=float,
)


def branin(p: Params) -> float:
    x1, x2 = p["x1"], p["x2"]
    bowl = (x2 - 5.1 / (4 * math.pi**2) * x1**2 + 5 / math.pi * x1 - 6) ** 2
    return float(bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x1) + 10)


def hartmann6(p: Params, missing: float = 0.0) -> float:
    """With `missing`, a lower fidelity as in Kandasamy 2017: the share of a budget that is not spent."""
    x = np.array([p[f"x{i}"] for i in range(1, 7)])
    return float(-(HARTMANN6_ALPHA - 0.6 * missing) @ np.exp(-np.sum(HARTMANN6_A * (x - HARTMANN6_P) ** 2, axis=1)))


def mixed8(p: Params) -> float:
    L = math.log10(p["lr"])
    loss = 0.15 * (L + 2.3) ** 2 + 0.03 * (math.log2(p["batch"]) - 6) ** 2 + {"a": 0.10, "b": 0.0, "c": 0.22}[p["act"]]
    if p["opt"] == "sgd":
        loss += 0.05 + 1.2 * (p["momentum"] - 0.88) ** 2 + 0.05 * abs(L + 1.6)
    elif p["opt"] == "adam":
        loss += 0.10 * (math.log10(p["eps"]) + 7) ** 2 / 4 + 0.03 * abs(L + 2.9)
    else:
        loss += 0.2
    loss += 0.08 * abs(p["layers"] - 4) * (1.5 if p["act"] == "c" else 1) + 0.25 * (p["dropout"] - 0.25) ** 2
    return loss + 0.02 * (1 - math.cos(6 * L)) + 0.02 * (1 - math.cos(9 * p["dropout"]))


def ackley(p: Params) -> float:
    x = np.array(list(p.values()))
    return float(20 + math.e - 20 * math.exp(-0.2 * math.sqrt(np.mean(x**2))) - math.exp(np.mean(np.cos(2 * np.pi * x))))


def levy(p: Params) -> float:
    w = 1 + (np.array(list(p.values())) - 1) / 4
    ends = math.sin(math.pi * w[0]) ** 2 + (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)
    return float(ends + np.sum((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)))


def rastrigin(p: Params) -> float:
    x = np.array(list(p.values()))
    return float(np.sum(10 + x**2 - 10 * np.cos(2 * np.pi * x)))


def schwefel(p: Params) -> float:
    """The best basin lies at the edge, far from the next best one."""
    x = np.array(list(p.values()))
    return float(-np.sum(x * np.sin(np.sqrt(np.abs(x)))))


def counting_ones(p: Params) -> float:
    """Minus the mean of the coordinates, categorical ones read as 0 and 1 [Falkner2018bohb]."""
    return -sum(float(value) for value in p.values()) / len(p)


def counted_ones(p: Params, budget: int, seed: int) -> float:
    """What `budget` samples say of it: each float is the probability of a coin that is thrown so often."""
    names = "/".join(f"{name}={value}" for name, value in p.items())
    digest = hashlib.blake2b(f"{seed}/{budget}/{names}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest))
    total = sum(rng.binomial(budget, value) / budget if isinstance(value, float) else float(value) for value in p.values())
    return -float(total) / len(p)


def _cube(d: int, low: float, high: float) -> list[dict[str, Any]]:
    return [floating(f"x{i}", low, high) for i in range(1, d + 1)]


MIXED8 = [
    categorical("opt", ["sgd", "adam", "rms"]),
    floating("lr", 1e-5, 1.0, log=True),
    integer("batch", 8, 512, log=True),
    integer("layers", 1, 8),
    categorical("act", ["a", "b", "c"]),
    floating("dropout", 0.0, 0.8),
    floating("momentum", 0.0, 0.99, when={"opt": ["sgd"]}),
    floating("eps", 1e-10, 1e-2, log=True, when={"opt": ["adam"]}),
]


def _counting(each: int) -> list[dict[str, Any]]:
    names, numbers = [categorical(f"c{i}", ["0", "1"]) for i in range(each)], [floating(f"x{i}", 0.0, 1.0) for i in range(each)]
    return [*names, *numbers]


def synthetic_tasks() -> dict[str, Task]:
    """All of them by name."""
    tasks = [
        Task("branin", [floating("x1", -5, 10), floating("x2", 0, 15)], branin, 0.39788735772973816, 35.8),
        Task("hartmann6", _cube(6, 0, 1), hartmann6, -3.3223680114155134, -0.1015),
        Task("mixed8", MIXED8, mixed8, 0.03818300633942176, 0.9756),
        Task("ackley5", _cube(5, -20, 32.768), ackley, 0.0, 20.8),
        Task("ackley20", _cube(20, -20, 32.768), ackley, 0.0, 20.9),
        Task("levy8", _cube(8, -8, 10), levy, 0.0, 76.0),
        Task("levy30", _cube(30, -8, 10), levy, 0.0, 316.0),
        Task("rastrigin2", _cube(2, -4.6, 5.9), rastrigin, 0.0, 38.5),
        Task("schwefel1", _cube(1, -500, 500), schwefel, -418.98288727243374, -0.04),
        Task("schwefel2", _cube(2, -500, 500), schwefel, 2 * -418.98288727243374, 2.0),
        Task("counting8", _counting(4), counting_ones, -1.0, -0.5),
        # With budgets: regret is the share of ones that are missing.
        Task("counting8_mf", _counting(4), counting_ones, -1.0, 0.0, (9, 729), counted_ones),
        Task("counting16_mf", _counting(8), counting_ones, -1.0, 0.0, (9, 729), counted_ones),
        Task(
            "hartmann6_mf",
            _cube(6, 0, 1),
            hartmann6,
            -3.3223680114155134,
            -0.1015,
            (1, 27),
            lambda params, budget, seed: hartmann6(params, 1 - budget / 27),
        ),
    ]
    return {task.name: task for task in tasks}
