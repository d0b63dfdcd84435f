"""Constraints between parameters: what they say, how they are read, and that a space keeps them."""

from __future__ import annotations

import pickle
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hpo_algorithms import InvalidParameters, InvalidSpace, Optimizer, Space
from hpo_algorithms import space as space_module
from hpo_algorithms.linear import DEAD_ENDS, Allowed, LinearConstraint, Walk
from hpo_algorithms.parameters import Float, Int
from hpo_algorithms.trials import SEARCH_EXHAUSTED
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.algorithms.spaces import MIXED, SMALL, every_configuration, read, spaces

LAYERS = Space.from_spec([{"name": name, "int": {"min": 1, "max": 8}} for name in ("conv", "dense")])


def at_most(bound: float, **weights: float) -> dict[str, Any]:
    return {"terms": [{"parameter": name, "weight": weight} for name, weight in weights.items()], "max": bound}


def test_the_weighted_sum_may_be_as_large_as_the_bound() -> None:
    space = LAYERS.constrained([at_most(10, conv=1, dense=2)])
    assert space.allows({"conv": 8, "dense": 1})
    assert not space.allows({"conv": 8, "dense": 2})


def test_a_weight_is_one_where_it_is_left_out() -> None:
    assert LAYERS.constrained([{"terms": [{"parameter": "conv"}], "max": 2}]).constraints[0].weights == (("conv", 1),)


def test_what_only_rounding_puts_above_the_bound_is_kept() -> None:
    constraint = LinearConstraint((("a", 1.0), ("b", 1.0)), 0.3)
    assert 0.1 + 0.2 > 0.3
    assert constraint.holds({"a": 0.1, "b": 0.2})
    assert not constraint.holds({"a": 0.1, "b": 0.2001})


def test_an_inactive_parameter_counts_as_nothing() -> None:
    space = read(MIXED).constrained([at_most(20, layers=1, warmup=1)])
    params = {"lr": 0.01, "dropout": 0.1, "width": 8, "layers": 6, "batch": 32, "optimizer": "lbfgs"}
    assert space.allows(params)
    assert not space.allows({**params, "optimizer": "adam", "warmup": 50})


def test_points_and_configurations_are_judged_alike() -> None:
    space = read(MIXED).constrained([at_most(40, width=0.2, layers=3, warmup=1), at_most(-0.2, momentum=-1, lr=2, dropout=-1)])
    U = space.snap(np.random.default_rng(3).random((2000, len(space))))
    mask = Allowed(space)(U)
    assert mask.tolist() == [space.allows(space.decode(u)) for u in U]
    assert 0.1 < mask.mean() < 0.6


def test_draws_keep_the_constraints_also_where_many_tries_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    space = LAYERS.constrained([at_most(3, conv=1, dense=1)])
    rng = np.random.default_rng(0)
    seen = {tuple(space.sample(rng).values()) for _ in range(100)}
    assert seen == {(1, 1), (1, 2), (2, 1)}
    monkeypatch.setattr(space_module, "TRIES", 0)
    assert {tuple(space.sample(rng).values()) for _ in range(100)} == seen


def test_a_configuration_that_breaks_a_constraint_is_refused_with_the_constraint() -> None:
    space = LAYERS.constrained([at_most(10, conv=1, dense=2.5)])
    with pytest.raises(InvalidParameters, match=r"breaks the constraint conv \+ 2.5 \* dense <= 10"):
        space.validate({"conv": 6, "dense": 2})
    with pytest.raises(InvalidParameters):
        Optimizer(space, given=[{"conv": 8, "dense": 8}])


def test_constraints_are_a_part_of_a_space_and_cross_to_another_process() -> None:
    space = LAYERS.constrained([at_most(10, conv=1, dense=2)])
    assert space != LAYERS
    assert pickle.loads(pickle.dumps(space)) == space
    assert not pickle.loads(pickle.dumps(space)).allows({"conv": 8, "dense": 8})


def test_constraints_that_leave_next_to_nothing_are_refused() -> None:
    with pytest.raises(InvalidSpace, match="less than one configuration in a hundred"):
        Space.from_spec([{"name": "x", "float": {"min": 0, "max": 1000}}]).constrained([at_most(5, x=1)])


@pytest.mark.parametrize(
    ("entry", "path", "rule"),
    [
        ("conv <= 3", "[0]", "must be a mapping with terms, max"),
        ({"terms": [], "max": 1}, "[0].terms", "must be a list of 1 to 16 terms"),
        ({"terms": [{"parameter": "conv"}]}, "[0].max", "is required"),
        ({"terms": [{"parameter": "conv"}], "max": float("inf")}, "[0].max", "must be a finite number"),
        ({"terms": [{"parameter": "conv"}], "max": 10**400}, "[0].max", "must be a finite number"),
        ({"terms": [{"parameter": "conf"}], "max": 1}, "[0].terms[0].parameter", "is not a parameter of this space"),
        ({"terms": [{"parameter": "conv", "weight": 0}], "max": 1}, "[0].terms[0].weight", "must be a finite number other than 0"),
        ({"terms": [{"parameter": "conv"}] * 2, "max": 1}, "[0].terms[1].parameter", "stands twice in one sum"),
        ({"terms": [{"parameter": "conv", "times": 2}], "max": 1}, "[0].terms[0].times", "is not a known field"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_named(entry: Any, path: str, rule: str) -> None:
    with pytest.raises(InvalidSpace) as raised:
        LAYERS.constrained([entry])
    assert (raised.value.faults[0].path, raised.value.faults[0].rule) == (path, rule)


def test_names_and_ordinals_cannot_be_added_up() -> None:
    with pytest.raises(InvalidSpace) as raised:
        read(MIXED).constrained([at_most(3, optimizer=1, batch=1)])
    assert [fault.path for fault in raised.value.faults] == ["[0].terms[0].parameter", "[0].terms[1].parameter"]


@given(spaces(SMALL, most=6), st.data())
@settings(max_examples=200, deadline=None)
def test_a_walk_comes_by_all_that_keeps_the_constraints_and_by_each_once(space: Space, data: st.DataObject) -> None:
    summable = [each.name for each in space.parameters if isinstance(each, Float | Int)]
    weights = st.sampled_from([1.0, -1.0, 0.1, -2.5, 1e6])
    sums = st.dictionaries(st.sampled_from(summable), weights, min_size=1) if summable else st.nothing()
    bounds = st.sampled_from([-3.0, 0.0, 0.3, 2.0, 1e6])
    constraint = st.builds(lambda terms, bound: LinearConstraint(tuple(terms.items()), bound), sums, bounds)
    constraints = data.draw(st.lists(constraint, max_size=3)) if summable else []
    narrow = Space(space.parameters, (), constraints)
    walked = [narrow.key(params) for params in Walk(narrow, seed=data.draw(st.integers(0, 9)))]
    assert len(walked) == len(set(walked))
    assert set(walked) == {narrow.key(params) for params in every_configuration(narrow) if narrow.allows(params)}


@pytest.mark.parametrize("algorithm", ["random", "tpe", "grid"])
def test_of_a_trillion_configurations_the_28_that_keep_the_constraints_are_tried_and_then_the_search_ends(algorithm: str) -> None:
    wide = Space.from_spec([{"name": name, "int": {"min": 1, "max": 10**6, "scale": "Log"}} for name in ("a", "b")])
    optimizer = Optimizer(wide.constrained([at_most(8, a=1, b=1)]), {algorithm: {}})
    while trial := optimizer.ask():
        optimizer.tell(trial.number, 1.0)
    assert optimizer.finished == SEARCH_EXHAUSTED
    assert {tuple(trial.params.values()) for trial in optimizer.history} == {(a, b) for a in range(1, 8) for b in range(1, 9 - a)}
    assert len(optimizer.history) == 28


def test_a_walk_among_constraints_that_only_together_forbid_everything_is_given_up() -> None:
    """a is at most b - c and at most c - b: never positive, which no constraint says alone."""
    constraints = [LinearConstraint((("a", 1.0), (less, 1.0), (more, -1.0)), 0.0) for less, more in ("bc", "cb")]
    space = Space([Int(name, 1, 10**6) for name in "abc"], (), constraints)
    assert next(iter(Walk(space, seed=0)), None) is None


def test_a_walk_is_not_given_up_while_it_finds_something() -> None:
    """Every second a is a dead end, for it must be twice b."""
    constraints = [LinearConstraint((("a", weight), ("b", -2 * weight)), 0.0) for weight in (1.0, -1.0)]
    space = Space([Int("a", 0, 10**6), Int("b", 0, 10**6)], (), constraints)
    assert len(list(islice(Walk(space, seed=0), DEAD_ENDS * 2))) == DEAD_ENDS * 2
