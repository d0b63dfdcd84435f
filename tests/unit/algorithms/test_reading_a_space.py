"""A search space as users write it: every mistake is named with its place, the rule that it breaks, and the remedy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hpo_algorithms import InvalidSpace, Space
from hpo_algorithms.errors import Fault


def faults(spec: object) -> list[Fault]:
    with pytest.raises(InvalidSpace) as caught:
        Space.from_spec(spec)  # type: ignore[arg-type]
    return list(caught.value.faults)


def float_(**fields: object) -> list[dict[str, object]]:
    return [{"name": "x", "float": {"min": 0.1, "max": 1.0, **fields}}]


def int_(**fields: object) -> list[dict[str, object]]:
    return [{"name": "x", "int": {"min": 1, "max": 9, **fields}}]


def after(child: dict[str, object], parents: int = 1) -> list[dict[str, object]]:
    """`child` behind some parameters that it may depend on."""
    spec: list[dict[str, object]] = [
        {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
        {"name": "layers", "int": {"min": 1, "max": 4}},
        {"name": "lr", "float": {"min": 0, "max": 1, "step": 0.5}},
        {"name": "nesterov", "categorical": {"choices": ["yes", "no"]}, "when": [{"parameter": "optimizer", "in": ["sgd"]}]},
    ]
    return [*spec, {"name": "x", "float": {"min": 0, "max": 1}, **child}]


def when(*conditions: tuple[object, object]) -> list[dict[str, object]]:
    return after({"when": [{"parameter": parent, "in": values} for parent, values in conditions]})


CHOICE = {"categorical": {"choices": ["a", "b"]}}

# title: (specification, path of the fault, words of its rule, words of its remedy)
WRONG: dict[str, tuple[object, str, str, str]] = {
    "not a list": ("lr", "", "must be a list of parameters", ""),
    "a mapping instead of a list": ({"lr": {"float": {}}}, "", "must be a list of parameters", ""),
    "an empty list": ([], "", "is empty", "at least one parameter"),
    "more than 100 parameters": ([{"name": f"p{i}", **CHOICE} for i in range(101)], "", "101 parameters; at most 100", ""),
    "an entry that is no mapping": (["lr"], "[0]", "must be a mapping with name", ""),
    # names and kinds
    "no name": ([CHOICE], "[0].name", "is required", ""),
    "a name with a space": ([{"name": "learning rate", **CHOICE}], "[0].name", "letters, digits", ""),
    "a name that starts with a digit": ([{"name": "1st", **CHOICE}], "[0].name", "letters, digits", ""),
    "a name that is a number": ([{"name": 7, **CHOICE}], "[0].name", "letters, digits", ""),
    "a name twice": ([{"name": "x", **CHOICE}, {"name": "x", **CHOICE}], "[1].name", "stands twice", "name of its own"),
    "two names with one environment variable": (
        [{"name": "max-depth", **CHOICE}, {"name": "max_depth", **CHOICE}],
        "[1].name",
        "cannot be told from 'max-depth' as an environment variable (HPO_PARAM_MAX_DEPTH)",
        "Rename",
    ),
    "no kind": ([{"name": "x"}], "[0]", "has no kind; exactly one of float, int, ordinal, categorical", ""),
    "two kinds": ([{"name": "x", **CHOICE, "int": {"min": 1, "max": 2}}], "[0]", "has int and categorical", ""),
    "a misspelt kind": ([{"name": "x", "flaot": {"min": 0, "max": 1}, **CHOICE}], "[0].flaot", "not a known field", "'float'"),
    "a misspelt field": (float_(maximum=3), "[0].float.maximum", "not a known field", "'max'"),
    "a kind that is no mapping": ([{"name": "x", "float": [0, 1]}], "[0].float", "must be a mapping with min, max", ""),
    # ranges
    "no max": ([{"name": "x", "float": {"min": 0}}], "[0].float.max", "is required", ""),
    "min above max": (float_(min=2), "[0].float.min", "must be less than max (1.0)", "ordinal or a categorical"),
    "min equal to max": (int_(min=9), "[0].int.min", "must be less than max (9)", "ordinal or a categorical"),
    "a bound in quotes": (float_(min="1e-5"), "[0].float.min", "is a string", "Take away the quotes"),
    "a bound that is no number": (float_(min="low"), "[0].float.min", "must be a number", ""),
    "a bound that is a truth value": (float_(min=False), "[0].float.min", "must be a number", ""),
    "an infinite bound": (float_(max=math.inf), "[0].float.max", "finite number", ""),
    "a bound that is not a number": (float_(max=math.nan), "[0].float.max", "finite number", ""),
    "a bound too large to be squared": (float_(max=1e200), "[0].float.max", "between 1e-150 and 1e+150", ""),
    "a bound too large for any float": (float_(max=10**400), "[0].float.max", "between 1e-150 and 1e+150", ""),
    "a bound too small to be squared": (float_(min=1e-200), "[0].float.min", "between 1e-150 and 1e+150", ""),
    "a range too narrow for its numbers": (float_(min=1e6, max=1e6 + 1e-4), "[0].float.max", "too narrow", "difference"),
    "a fraction as bound of an int": (int_(min=0.5), "[0].int.min", "must be a whole number", "use a float"),
    "an int range beyond 2^48": (int_(max=2**50), "[0].int.max", "too wide for an int", "Use a float"),
    "an int beyond 2^40 on a Log scale": (int_(max=2**41, scale="Log"), "[0].int.max", "too wide for an int", "Use a float"),
    # scale and step
    "Log with min 0": (float_(min=0, scale="Log"), "[0].float.min", "must be greater than 0 on a Log scale", ""),
    "Log with a negative min": (int_(min=-1, scale="Log"), "[0].int.min", "must be greater than 0 on a Log scale", ""),
    "Log with step": (float_(scale="Log", step=0.1), "[0].float.step", "cannot be combined with a Log scale", "Drop one"),
    "Log with step on an int": (int_(scale="Log", step=2), "[0].int.step", "cannot be combined with a Log scale", "ordinal"),
    "a misspelt scale": (float_(scale="log"), "[0].float.scale", "must be Linear or Log", "Did you mean 'Log'?"),
    "a step that is a truth value": (float_(step=True), "[0].float.step", "must be a number", ""),
    "an infinite step": (float_(step=math.inf), "[0].float.step", "finite number", ""),
    "step 0": (float_(step=0), "[0].float.step", "must be greater than 0", ""),
    "a negative step": (int_(step=-1), "[0].int.step", "must be greater than 0", ""),
    "a step beyond the range": (float_(step=2), "[0].float.step", "at most max - min (0.9)", "Leave step out"),
    "a step lost in rounding": (float_(step=1e-12), "[0].float.step", "too small", "Leave step out"),
    "a fraction as step of an int": (int_(step=1.5), "[0].int.step", "must be a whole number", "use a float"),
    # lists
    "no values": ([{"name": "x", "ordinal": {"values": []}}], "[0].ordinal.values", "list of 1 to 100", ""),
    "too many choices": (
        [{"name": "x", "categorical": {"choices": [str(i) for i in range(101)]}}],
        "[0].categorical.choices",
        "list of 1 to 100",
        "",
    ),
    "choices in one string": ([{"name": "x", "categorical": {"choices": "ab"}}], "[0].categorical.choices", "must be a list", ""),
    "values out of order": (
        [{"name": "x", "ordinal": {"values": [1, 3, 2]}}],
        "[0].ordinal.values[2]",
        "greater than the one before",
        "",
    ),
    "a value twice": ([{"name": "x", "ordinal": {"values": [1, 1.0]}}], "[0].ordinal.values[1]", "greater than the one before", ""),
    "a name among numbers": (
        [{"name": "x", "ordinal": {"values": [1, "two"]}}],
        "[0].ordinal.values[1]",
        "a number",
        "categorical",
    ),
    "a number in quotes": ([{"name": "x", "ordinal": {"values": [1, "2"]}}], "[0].ordinal.values[1]", "a number", "quotes"),
    "a value that is not finite": ([{"name": "x", "ordinal": {"values": [1, math.inf]}}], "[0].ordinal.values[1]", "finite", ""),
    "a number among choices": (
        [{"name": "x", "categorical": {"choices": ["a", 1]}}],
        "[0].categorical.choices[1]",
        "string",
        "ordinal",
    ),
    "a bare yes among choices": (
        [{"name": "x", "categorical": {"choices": ["no", True]}}],
        "[0].categorical.choices[1]",
        "must be a string",
        "Quote it: 'true'",
    ),
    "an empty choice": ([{"name": "x", "categorical": {"choices": [""]}}], "[0].categorical.choices[0]", "1 to 256 characters", ""),
    "a choice twice": ([{"name": "x", "categorical": {"choices": ["a", "a"]}}], "[0].categorical.choices[1]", "stands twice", ""),
    # conditions
    "when that is no list": (after({"when": {"parameter": "optimizer", "in": ["sgd"]}}), "[4].when", "must be a list", ""),
    "nine conditions": (when(*[("optimizer", ["sgd"])] * 9), "[4].when", "at most 8 conditions", ""),
    "a condition without values": (after({"when": [{"parameter": "optimizer"}]}), "[4].when[0].in", "is required", ""),
    "a condition with no value": (when(("optimizer", [])), "[4].when[0].in", "list of 1 to 100 values of 'optimizer'", ""),
    "a condition on one value outside a list": (when(("optimizer", "sgd")), "[4].when[0].in", "list of 1 to 100 values", ""),
    "a condition on an unknown parameter": (when(("optimiser", ["sgd"])), "[4].when[0].parameter", "stands earlier", "'optimizer'"),
    "a condition on itself": (when(("x", [1])), "[4].when[0].parameter", "stands earlier", "Known here: optimizer"),
    "a condition on a later parameter": (
        [{"name": "x", **CHOICE, "when": [{"parameter": "y", "in": ["a"]}]}, {"name": "y", **CHOICE}],
        "[0].when[0].parameter",
        "not a parameter that stands earlier",
        "Move it before this one.",
    ),
    "a condition of the first parameter": (
        [{"name": "x", **CHOICE, "when": [{"parameter": "z", "in": ["a"]}]}],
        "[0].when[0].parameter",
        "not a parameter that stands earlier",
        "This one is the first.",
    ),
    "a condition on a float": (when(("lr", [0.5])), "[4].when[0].parameter", "is a float", "Make it an ordinal"),
    "a condition on an impossible choice": (when(("optimizer", ["lbfgs"])), "[4].when[0].in[0]", "is no value of 'optimizer'", ""),
    "a condition on an impossible number": (when(("layers", [4, 5])), "[4].when[0].in[1]", "is no value of 'layers'", ""),
    "a condition on a number in quotes": (when(("layers", ["4"])), "[4].when[0].in[0]", "must be a whole number", ""),
    "conditions that exclude each other": (
        when(("optimizer", ["sgd"]), ("optimizer", ["adam"])),
        "[4].when",
        "can never hold, for 'optimizer' cannot have all the values",
        "",
    ),
    "a condition that its parent's own excludes": (
        when(("nesterov", ["yes"]), ("optimizer", ["adam"])),
        "[4].when",
        "can never hold, for 'optimizer'",
        "",
    ),
}


@pytest.mark.parametrize("title", WRONG)
def test_a_wrong_space_is_refused_with_place_rule_and_remedy(title: str) -> None:
    spec, path, rule, remedy = WRONG[title]
    found = faults(spec)
    assert [fault.path for fault in found] == [path]
    assert rule in found[0].rule
    assert remedy in found[0].remedy
    assert bool(remedy) == bool(found[0].remedy), f"remedy: {found[0].remedy}"
    assert path in str(found[0])


def test_all_mistakes_are_named_at_once() -> None:
    spec = [
        {"name": "lr", "float": {"min": 1, "max": 0.1, "scale": "Log", "step": 2}},
        {"name": "lr", **CHOICE},
        {"name": "opt", "categorical": {"choices": ["a", 1]}},
        {"name": "child", **CHOICE, "when": [{"parameter": "nothing", "in": ["a"]}]},
    ]
    assert [fault.path for fault in faults(spec)] == [
        "[0].float.min",
        "[0].float.step",
        "[1].name",
        "[2].categorical.choices[1]",
        "[3].when[0].parameter",
    ]


def test_a_child_of_a_faulty_parent_gets_no_message_of_its_own() -> None:
    spec = [
        {"name": "parent", "categorical": {"choices": []}},
        {"name": "x", **CHOICE, "when": [{"parameter": "parent", "in": ["a"]}]},
    ]
    assert [fault.path for fault in faults(spec)] == ["[0].categorical.choices"]


def test_a_fault_reads_as_one_sentence_that_ends_in_the_remedy() -> None:
    fault = faults(float_(scale="log"))[0]
    assert str(fault) == "[0].float.scale: 'log': must be Linear or Log. Did you mean 'Log'?"
    assert str(fault.under("spec.parameters")).startswith("spec.parameters[0].float.scale: 'log'")


@pytest.mark.parametrize(
    "spec",
    [
        float_(min=0, max=1),
        float_(step=None, scale=None),
        float_(min=-1e150, max=1e150),
        float_(min=1e-150, max=1e150, scale="Log"),
        int_(min=1.0, max=1e3),
        int_(min=-(2**46), max=2**46),
        int_(min=1, max=2**40, scale="Log"),
        [{"name": "_a.b-c_9", **CHOICE}],
        [{"name": "x", "ordinal": {"values": [-1, 0, 0.5, 10**30]}}],
        [{"name": "x", "categorical": {"choices": ["yes", "1", "λ", " "]}}],
        when(("optimizer", ["sgd"]), ("layers", [1.0 and 1, 2]), ("nesterov", ["yes", "no"])),
        after({"when": []}),
        after({"when": None}),
        [{"name": f"p{i}", **CHOICE} for i in range(100)],
    ],
    ids=range(14),
)
def test_what_is_legal_is_read(spec: list[dict[str, object]]) -> None:
    space = Space.from_spec(spec)
    assert space.decode([0.7] * len(space)) == space.validate(space.decode([0.7] * len(space)))


def test_what_numpy_has_made_is_read_as_what_it_is() -> None:
    choices, values, low, weight = np.array(["a", "b"]), np.arange(1, 4), np.int64(1), np.float32(0.5)
    written = [
        {"name": "kind", "categorical": {"choices": choices}},
        {"name": "size", "ordinal": {"values": values}, "when": [{"parameter": "kind", "in": choices[:1]}]},
        {"name": "layers", "int": {"min": low, "max": np.float64(9)}},
        {"name": "rate", "float": {"min": np.float32(0), "max": low}},
    ]
    constraints = [{"terms": [{"parameter": "layers", "weight": weight}], "max": low * 4}]
    space = Space.from_spec(written).constrained(constraints)
    plain = [
        {"name": "kind", "categorical": {"choices": ["a", "b"]}},
        {"name": "size", "ordinal": {"values": [1, 2, 3]}, "when": [{"parameter": "kind", "in": ["a"]}]},
        {"name": "layers", "int": {"min": 1, "max": 9}},
        {"name": "rate", "float": {"min": 0, "max": 1}},
    ]
    same = Space.from_spec(plain).constrained([{"terms": [{"parameter": "layers", "weight": 0.5}], "max": 4}])
    assert repr((space, space.constraints)) == repr((same, same.constraints))
    taken = space.validate({"kind": choices[0], "size": values[1], "layers": low, "rate": weight})
    assert repr(taken) == repr({"kind": "a", "size": 2, "layers": 1, "rate": 0.5})
