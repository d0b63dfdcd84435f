"""All configurations of a finite space by index."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hpo_algorithms import InvalidSpace, Space
from hpo_algorithms.enumeration import Enumeration
from hpo_algorithms.streams import permuted
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.algorithms.spaces import CONTINUOUS, FINITE, FINITE_SIZE, SMALL, WIDE, every_configuration, read, spaces


@given(spaces(SMALL, most=6))
@settings(max_examples=150, deadline=None)
def test_each_configuration_has_exactly_one_index(space: Space) -> None:
    expected = {space.key(params) for params in every_configuration(space)}
    assert space.size == len(expected)
    found = [space.enumeration.at(index) for index in range(space.size)]
    assert {space.key(params) for params in found} == expected
    assert all(space.validate(params) == params for params in found)
    assert all(list(params) == [name for name in space.names if name in params] for params in found)


def test_a_space_without_end_has_no_size() -> None:
    assert read(CONTINUOUS).size is None


def test_an_index_out_of_range_is_an_error() -> None:
    enumeration = read(FINITE).enumeration
    for index in (-1, FINITE_SIZE):
        with pytest.raises(IndexError):
            enumeration.at(index)


def test_a_continuous_range_is_cut_into_points_with_both_ends() -> None:
    grid = Enumeration(read(CONTINUOUS).parameters, points=3)
    assert [grid.at(i) for i in range(grid.size)] == [{"x": x, "lr": lr} for x in (-5.0, 2.5, 10.0) for lr in (1e-5, 1e-3, 1e-1)]
    assert Enumeration(read(CONTINUOUS).parameters, points=1).at(0) == {"x": 2.5, "lr": 1e-3}


def test_a_hundred_parameters_are_counted_and_found_at_once() -> None:
    """Walking through them would never end."""
    grid = Enumeration(read(WIDE).parameters, points=4)
    assert grid.size == ((4 + 1) * 512 * 3) ** 25
    assert (len(grid.at(0)), len(grid.at(grid.size - 1))) == (75, 100)  # all flags off, all on


def test_many_parents_listed_before_their_children_are_counted_at_once() -> None:
    """Ruling children out in the order of the list would double the states with each of the forty parents."""
    flag = {"categorical": {"choices": ["on", "off"]}}
    root = [{"parameter": "root", "in": ["on"]}]
    spec = [{"name": "root", **flag}]
    spec += [{"name": f"parent{i}", **flag, "when": root} for i in range(40)]
    spec += [{"name": f"child{i}", **flag, "when": [{"parameter": f"parent{i}", "in": ["on"]}]} for i in range(40)]
    assert read(spec).size == 3**40 + 1


def test_conditions_too_entangled_to_be_counted_are_refused() -> None:
    flag = {"categorical": {"choices": ["on", "off"]}}
    spec = [{"name": f"parent{i}", **flag} for i in range(50)]
    for i in range(50):
        parents = {i, (7 * i + 3) % 50, (11 * i + 5) % 50}
        spec.append({"name": f"child{i}", **flag, "when": [{"parameter": f"parent{j}", "in": ["on"]} for j in sorted(parents)]})
    with pytest.raises(InvalidSpace, match="too entangled"):  # counting on would take 2^50 steps
        Space.from_spec(spec)


@given(st.integers(1, 3000), st.integers(0, 2**63))
@settings(max_examples=20, deadline=None)
def test_a_permutation_has_each_index_once(size: int, seed: int) -> None:
    assert sorted(permuted(index, size, seed) for index in range(size)) == list(range(size))


def test_permutations_differ_by_seed_and_look_random() -> None:
    orders = [[permuted(index, 100, seed) for index in range(100)] for seed in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    for order in orders:
        assert sum(abs(a - b) for a, b in pairwise(order)) > 2000  # a third of 100 * 100 at random, 99 in order


def test_an_index_of_a_huge_permutation_is_had_at_once() -> None:
    """Walking there would never end."""
    assert len({permuted(index, 10**30, 1) for index in range(100)}) == 100
