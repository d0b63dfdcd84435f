"""Search spaces for tests: some that have a bit of everything, and hypothesis strategies that make others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from hpo_algorithms import InvalidSpace, Space, SpaceWarning
from hpo_algorithms.parameters import Value
from hypothesis import assume
from hypothesis import strategies as st

Spec = list[dict[str, Any]]

CONTINUOUS: Spec = [
    {"name": "x", "float": {"min": -5, "max": 10}},
    {"name": "lr", "float": {"min": 1e-5, "max": 1e-1, "scale": "Log"}},
]

# Every kind and scale; `momentum` and `nesterov` nested below `optimizer`, `warmup` with two parents.
MIXED: Spec = [
    {"name": "lr", "float": {"min": 1e-5, "max": 1e-1, "scale": "Log"}},
    {"name": "dropout", "float": {"min": 0, "max": 0.9, "step": 0.1}},
    {"name": "width", "int": {"min": 1, "max": 1024, "scale": "Log"}},
    {"name": "layers", "int": {"min": 1, "max": 6}},
    {"name": "batch", "ordinal": {"values": [16, 32, 64.5, 128]}},
    {"name": "optimizer", "categorical": {"choices": ["adam", "sgd", "lbfgs"]}},
    {"name": "nesterov", "categorical": {"choices": ["yes", "no"]}, "when": [{"parameter": "optimizer", "in": ["sgd"]}]},
    {"name": "momentum", "float": {"min": 0, "max": 0.99}, "when": [{"parameter": "nesterov", "in": ["yes"]}]},
    {
        "name": "warmup",
        "int": {"min": 0, "max": 100, "step": 5},
        "when": [{"parameter": "layers", "in": [4, 5, 6]}, {"parameter": "optimizer", "in": ["adam", "sgd"]}],
    },
]

# (rbf: 3 gammas; poly: 3 gammas x 2 degrees; linear) x 2 costs = 20 configurations
FINITE: Spec = [
    {"name": "kernel", "categorical": {"choices": ["rbf", "poly", "linear"]}},
    {"name": "gamma", "ordinal": {"values": [0.1, 1, 10]}, "when": [{"parameter": "kernel", "in": ["rbf", "poly"]}]},
    {"name": "degree", "int": {"min": 2, "max": 3}, "when": [{"parameter": "kernel", "in": ["poly"]}]},
    {"name": "cost", "float": {"min": 0.5, "max": 1.0, "step": 0.5}},
]
FINITE_SIZE = 20

# The same with six costs = 60 configurations: enough for a model to be used before they are exhausted.
LATTICE: Spec = [*FINITE[:-1], {"name": "cost", "float": {"min": 0.5, "max": 3.0, "step": 0.5}}]
LATTICE_SIZE = 60

SINGLE: Spec = [
    {"name": "only", "categorical": {"choices": ["this"]}},
    {"name": "fixed", "ordinal": {"values": [3]}},
    {"name": "free", "float": {"min": 0, "max": 1}},
]

WIDE: Spec = [
    entry
    for i in range(25)
    for entry in (
        {"name": f"flag{i}", "categorical": {"choices": ["on", "off"]}},
        {"name": f"rate{i}", "float": {"min": 1e-6, "max": 1, "scale": "Log"}, "when": [{"parameter": f"flag{i}", "in": ["on"]}]},
        {"name": f"units{i}", "int": {"min": 1, "max": 512}},
        {"name": f"level{i}", "ordinal": {"values": [1, 2, 4]}},
    )
]


def read(spec: Spec) -> Space:
    """A space; its warnings are left to the tests that are about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpaceWarning)
        return Space.from_spec(spec)


def every_configuration(space: Space) -> Iterator[dict[str, Value]]:
    """All configurations of a finite space the slow way: try each value of each parameter where it is active."""

    def extended(params: dict[str, Value], place: int) -> Iterator[dict[str, Value]]:
        if place == len(space):
            yield params
            return
        parameter = space.parameters[place]
        if not space.active(parameter, params):
            yield from extended(params, place + 1)
            return
        assert parameter.count is not None
        for index in range(parameter.count):
            yield from extended({**params, parameter.name: parameter.at(index)}, place + 1)

    return extended({}, 0)


def sizes(low: float = 1e-100, high: float = 1e100) -> st.SearchStrategy[float]:
    """Numbers of very different size, as likely small as large."""
    return st.floats(0, 1).map(lambda u: float(f"{low * (high / low) ** u:.6g}"))


def numbers() -> st.SearchStrategy[float]:
    return st.one_of(st.just(0.0), st.integers(-1000, 1000).map(float), sizes(), sizes().map(lambda size: -size))


@st.composite
def floats(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["linear", "log", "step"]))
    low, high = sorted((draw(numbers()), draw(numbers())))
    if kind == "log":
        low, high = sorted((draw(sizes()), draw(sizes())))
        return {"float": {"min": low, "max": high, "scale": "Log"}}
    if kind == "step":
        return {"float": {"min": low, "max": high, "step": (high - low) / draw(st.floats(1, 1e6))}}
    return {"float": {"min": low, "max": high}}


@st.composite
def ints(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        low = draw(st.integers(1, 1000))
        return {"int": {"min": low, "max": draw(st.integers(low + 1, 2 ** draw(st.integers(10, 40)))), "scale": "Log"}}
    low, width = draw(st.integers(-(2**40), 2**40)), draw(st.integers(1, 2 ** draw(st.integers(1, 47))))
    return {"int": {"min": low, "max": low + width, "step": draw(st.integers(1, width))}}


def ordinals(most: int = 100) -> st.SearchStrategy[dict[str, Any]]:
    value = st.one_of(st.integers(-1000, 1000), numbers())
    return st.lists(value, min_size=1, max_size=most, unique=True).map(lambda values: {"ordinal": {"values": sorted(values)}})


def categoricals(most: int = 100) -> st.SearchStrategy[dict[str, Any]]:
    choice = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    return st.lists(choice, min_size=1, max_size=most, unique=True).map(lambda choices: {"categorical": {"choices": choices}})


def small_ints() -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.integers(-3, 3), st.integers(1, 3)).map(lambda t: {"int": {"min": t[0], "max": t[0] + t[1]}})


def small_steps() -> st.SearchStrategy[dict[str, Any]]:
    return st.integers(1, 3).map(lambda n: {"float": {"min": 0.5, "max": 0.5 + n * 0.1, "step": 0.1}})


ANY = st.one_of(floats(), ints(), ordinals(), categoricals())
SMALL = st.one_of(small_ints(), small_steps(), ordinals(3), categoricals(3))


@st.composite
def spaces(draw: st.DrawFn, kinds: st.SearchStrategy[dict[str, Any]] = ANY, most: int = 8) -> Space:
    """A space with conditions, among them parameters with two parents and children of children."""
    spec: Spec = []
    for place in range(draw(st.integers(1, most))):
        entry = {"name": f"p{place}", **draw(kinds)}
        parents = [each for each in spec if "float" not in each]
        if parents and draw(st.booleans()):
            chosen = draw(st.lists(st.sampled_from(parents), min_size=1, max_size=2, unique_by=lambda parent: parent["name"]))
            entry["when"] = [{"parameter": parent["name"], "in": draw(_some_values(parent))} for parent in chosen]
            if not _legal([*spec, entry]):
                del entry["when"]
        spec.append(entry)
    assume(_legal(spec))
    return read(spec)


def _some_values(parent: dict[str, Any]) -> st.SearchStrategy[list[Value]]:
    parameter = read([{key: value for key, value in parent.items() if key != "when"}]).parameters[0]
    assert parameter.count is not None
    index = st.integers(0, parameter.count - 1)
    return st.lists(index, min_size=1, max_size=3, unique=True).map(lambda indices: [parameter.at(i) for i in indices])


def _legal(spec: Spec) -> bool:
    try:
        read(spec)
    except InvalidSpace:
        return False
    return True
