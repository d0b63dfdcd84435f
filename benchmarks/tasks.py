"""What the optimisers are measured on: a space, a loss to minimise, and the two losses that regret is normalised by.

The public tasks are read from a folder of data files (`tasks.json` and what it names); nothing is trained. Without the folder
the synthetic tasks remain.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Loss = Callable[[Mapping[str, Any]], float]
Partial = Callable[[Mapping[str, Any], int, int], float]

DATA = Path(os.environ.get("HPO_BENCH_DATA", Path(__file__).resolve().parents[1] / ".." / "shared" / "bench-data"))

SIX_MF = (
    "hartmann6_mf",
    "lcbench_7593",
    "lcbench_167184",
    "lcbench_189906",
    "taskset_patch32_GRU128_bs128",
    "taskset_patch32_IRNN64_relu_avg_bs128",
)
SEVEN = (
    "branin",
    "hartmann6",
    "mixed8",
    "lcbench_168908",
    "rbv2_xgboost_41143",
    "rbv2_svm_1494",
    "fcnet_protein_structure",
)


@dataclass(frozen=True)
class Task:
    """A problem: `spec` as in `Study.spec.parameters`; `loss` maps a configuration to the loss at full fidelity.

    Where training can be cut short, `budgets` are the smallest and the largest, and `partial(params, budget, seed)` is what is seen
    after a budget; with the largest it is `loss` but for noise, which depends on the seed.
    """

    name: str
    spec: Sequence[Mapping[str, Any]]
    loss: Loss
    best: float
    median: float
    budgets: tuple[int, int] | None = None
    partial: Partial | None = None

    def regret(self, loss: float) -> float:
        return (loss - self.best) / (self.median - self.best)


def floating(name: str, low: float, high: float, log: bool = False, when: Mapping[str, list[Any]] | None = None) -> dict[str, Any]:
    return {"name": name, "float": {"min": low, "max": high, "scale": "Log" if log else "Linear"}, **_when(when)}


def integer(name: str, low: int, high: int, log: bool = False, when: Mapping[str, list[Any]] | None = None) -> dict[str, Any]:
    return {"name": name, "int": {"min": low, "max": high, "scale": "Log" if log else "Linear"}, **_when(when)}


def categorical(name: str, choices: Sequence[str], when: Mapping[str, list[Any]] | None = None) -> dict[str, Any]:
    return {"name": name, "categorical": {"choices": list(choices)}, **_when(when)}


def ordinal(name: str, values: Sequence[float], when: Mapping[str, list[Any]] | None = None) -> dict[str, Any]:
    return {"name": name, "ordinal": {"values": list(values)}, **_when(when)}


def _when(when: Mapping[str, list[Any]] | None) -> dict[str, Any]:
    return {"when": [{"parameter": name, "in": values} for name, values in when.items()]} if when else {}


def load_tasks(names: Sequence[str], data: Path = DATA) -> list[Task]:
    """Tasks by name; `seven`, `others`, `data`, `synthetic`, `all`, `six_mf` and `others_mf` name groups; `prefix*` matches."""
    from benchmarks.synthetic import synthetic_tasks

    synthetic = synthetic_tasks()
    stored = _descriptions(data)
    at_full = [name for name in synthetic if not name.endswith("_mf")]
    groups = {
        "seven": list(SEVEN),
        "synthetic": at_full,
        "data": list(stored),
        "others": [name for name in stored if name not in SEVEN],
        "all": [*at_full, *stored],
        "six_mf": list(SIX_MF),
        "others_mf": [name for name in stored if name.startswith(("lcbench_", "taskset_")) and name not in SIX_MF],
    }
    wanted: list[str] = []
    for name in names:
        if name.endswith("*"):
            wanted += [known for known in groups["all"] if known.startswith(name[:-1])]
        else:
            wanted += groups.get(name, [name])
    tasks = []
    for name in dict.fromkeys(wanted):
        if name not in synthetic and name not in stored:
            raise SystemExit(f"--tasks: {name}: not a known task; known: {', '.join(groups['all'])}; data folder: {data}")
        tasks.append(synthetic[name] if name in synthetic else _stored(stored[name], data))
    return tasks


def _descriptions(data: Path) -> dict[str, dict[str, Any]]:
    path = data / "tasks.json"
    return {task["name"]: task for task in json.loads(path.read_text())["tasks"]} if path.exists() else {}


def _stored(description: dict[str, Any], data: Path) -> Task:
    make = {"onnx": _onnx, "table": _table, "curves": _curves}[description["kind"]]
    loss = make(description, data / description["file"])
    name, spec, best, median = description["name"], _spec(description["space"]), description["best"], description["median"]
    fidelity = description.get("fidelity")
    if not fidelity or fidelity["type"] != "int":
        return Task(name, spec, loss, best, median)
    budgets = int(fidelity["lo"]), int(fidelity["hi"])
    return Task(name, spec, loss, best, median, budgets, lambda params, budget, seed: loss(params, budget))


def _spec(space: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for p in space:
        when = {condition["param"]: condition["in"] for condition in p.get("active_if") or []}
        if p["type"] == "cat":
            made.append(categorical(p["name"], p["choices"], when))
        elif p["type"] == "ord":
            made.append(ordinal(p["name"], p["choices"], when))
        else:
            kind = floating if p["type"] == "float" else integer
            made.append(kind(p["name"], p["lo"], p["hi"], bool(p.get("log")), when))
    return made


def _onnx(d: dict[str, Any], path: Path) -> Callable[..., float]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    categories, numbers = (each.name for each in session.get_inputs())
    fidelity = d["fidelity"]

    def loss(params: Mapping[str, Any], budget: int | None = None) -> float:
        c = {**params, **d["fixed"], fidelity["name"]: budget or fidelity["hi"]}
        cont = np.array([[c.get(n, 0) for n in d["cont_inputs"]]], np.float32)
        cat = np.array([[d["codes"][n][str(c[n])] if n in c else 0 for n in d["cat_inputs"]]], np.int32)
        return float(d["scale"] * session.run(None, {categories: cat, numbers: cont})[0][0, d["output"]] + d["offset"])

    return loss


def _table(d: dict[str, Any], path: Path) -> Callable[..., float]:
    values = d["scale"] * np.load(path)[d["array"]].astype(float).mean(axis=-1) + d["offset"]
    if d["log10"]:
        values = np.log10(values)

    def loss(params: Mapping[str, Any]) -> float:
        return float(values[tuple(p["choices"].index(params[p["name"]]) for p in d["space"])])

    return loss


def _curves(d: dict[str, Any], path: Path) -> Callable[..., float]:
    stored = np.load(path)
    low = np.array([math.log(p["lo"]) if p["log"] else p["lo"] for p in d["space"]])
    high = np.array([math.log(p["hi"]) if p["log"] else p["hi"] for p in d["space"]])
    log = np.array([bool(p["log"]) for p in d["space"]])

    def unit(values: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (np.where(log, np.log(values), values) - low) / (high - low)
        return scaled

    points = unit(stored["configs"].astype(float))
    curves = np.minimum(np.nan_to_num(stored["valid"].astype(float), nan=d["cap"]), d["cap"])

    def loss(params: Mapping[str, Any], budget: int | None = None) -> float:
        x = unit(np.array([float(params[p["name"]]) for p in d["space"]]))
        return float(curves[np.argmin(np.sum((points - x) ** 2, axis=1)), (budget or curves.shape[1]) - 1])

    return loss
