"""The search space: configurations, their place in the unit cube, and their text."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hpo_algorithms import InvalidParameters, Space, SpaceWarning
from hpo_algorithms.parameters import Float, Int, Parameter, Value
from hpo_algorithms.streams import stream
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.unit.algorithms.spaces import ANY, FINITE, MIXED, WIDE, read, spaces

UNIT = st.floats(0, 1)


def one(kind: dict[str, object]) -> Parameter:
    return read([{"name": "p", **kind}]).parameters[0]


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    return draw(spaces(ANY, most=1)).parameters[0]


# Encoding


@given(parameters(), UNIT)
@settings(max_examples=200, deadline=None)
def test_encoding_and_decoding_gives_back_every_value_that_a_draw_can_give(parameter: Parameter, u: float) -> None:
    value = parameter.decode(u)
    assert 0 <= parameter.encode(value) <= 1
    assert parameter.decode(parameter.encode(value)) == value
    assert parameter.refusal(value) == ""
    assert parameter.canonical(value) == value


@given(parameters(), st.data())
@settings(max_examples=100, deadline=None)
def test_every_bin_of_a_discrete_parameter_decodes_to_its_own_value(parameter: Parameter, data: st.DataObject) -> None:
    count = parameter.count
    if count is None:
        return
    ends = [0, 1, count - 2, count - 1]
    for index in {*(i for i in ends if 0 <= i < count), data.draw(st.integers(0, count - 1))}:
        value = parameter.at(index)
        assert parameter.index(value) == index
        assert parameter.decode(parameter.encode(value)) == value
        assert parameter.refusal(value) == ""


@pytest.mark.parametrize(
    "kind",
    [
        {"int": {"min": -3, "max": 500}},
        {"int": {"min": 0, "max": 999, "step": 7}},
        {"int": {"min": 1, "max": 2000, "scale": "Log"}},
        {"float": {"min": 0, "max": 1, "step": 0.001}},
        {"float": {"min": -1e-7, "max": 1e-7, "step": 1e-9}},
        {"float": {"min": 1e6, "max": 1e6 + 1, "step": 1e-3}},
        {"float": {"min": 0, "max": 1, "step": 1 / 300}},
        {"ordinal": {"values": list(range(100))}},
        {"categorical": {"choices": [f"c{i}" for i in range(100)]}},
    ],
    ids=str,
)
def test_all_values_of_a_parameter_are_different_and_survive_the_unit_interval(kind: dict[str, object]) -> None:
    parameter = one(kind)
    assert parameter.count is not None
    values = [parameter.at(index) for index in range(parameter.count)]
    assert len(set(values)) == len(values)
    assert [parameter.decode(parameter.encode(value)) for value in values] == values
    assert [parameter.index(value) for value in values] == list(range(parameter.count))
    assert [parameter.parse(str(value)) for value in values] == values


@given(spaces(), st.data())
@settings(max_examples=60, deadline=None)
def test_every_point_of_the_cube_decodes_to_a_valid_configuration_that_encodes_back(space: Space, data: st.DataObject) -> None:
    params = space.decode(data.draw(st.lists(UNIT, min_size=len(space), max_size=len(space))))
    assert space.validate(params) == params
    assert list(params) == [name for name in space.names if name in params]
    assert all(type(value) is type(space.validate(params)[name]) for name, value in params.items())
    u = space.encode(params)
    assert list(np.isnan(u)) == [name not in params for name in space.names]
    assert space.decode(u) == params


@given(spaces(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_draw_is_valid_and_survives_being_written_as_text(space: Space, seed: int) -> None:
    params = space.sample(stream(seed, 0, "test"))
    texts = space.format(params)
    assert all(isinstance(text, str) for text in texts.values())
    back = space.parse(texts)
    assert back == params
    assert [type(value) for value in back.values()] == [type(value) for value in params.values()]


@given(spaces(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_snapping_moves_points_to_the_configurations_that_they_decode_to(space: Space, seed: int) -> None:
    U = stream(seed, 0, "test").random((16, len(space)))
    snapped = space.snap(U)
    expected = space.encode_all([space.decode(u) for u in U])
    for j, parameter in enumerate(space.parameters):
        assert np.array_equal(np.isnan(snapped[:, j]), np.isnan(expected[:, j])), "the same parameters are active"
        continuous = parameter.count is None  # snapping leaves these where they are; decoding rounds them to their lattice
        tolerance = 1e-6 if continuous and isinstance(parameter, Float) and _narrow(parameter) else 1e-9
        assert np.allclose(snapped[:, j], expected[:, j], rtol=0, atol=tolerance if continuous else 1e-13, equal_nan=True)
    again = space.snap(snapped)
    assert np.allclose(again, snapped, rtol=0, atol=1e-12, equal_nan=True)


def _narrow(parameter: Float) -> bool:
    return (parameter.high - parameter.low) < 1e-3 * max(abs(parameter.low), abs(parameter.high)) or parameter.log


def test_conditions_on_neighbouring_values_of_a_huge_range_are_told_apart() -> None:
    space = read(
        [
            {"name": "n", "int": {"min": 0, "max": 10**11}},
            {"name": "child", "float": {"min": 0, "max": 1}, "when": [{"parameter": "n", "in": [5]}]},
        ]
    )
    U = np.array([[space["n"].encode(n), 0.5] for n in (4, 5, 6)])
    assert list(np.isnan(space.snap(U)[:, 1])) == [True, False, True]


def test_coordinates_outside_the_cube_decode_to_the_nearest_values() -> None:
    space = read(MIXED)
    assert space.decode([-1.0] * len(space)) == space.decode([0.0] * len(space))
    assert space.decode([2.0] * len(space)) == space.decode([1.0] * len(space))


# Distributions, with fixed seeds


def draws(kind: dict[str, object], n: int) -> list[Value]:
    space = read([{"name": "p", **kind}])
    rng = stream(11, 0, "distribution")
    return [space.sample(rng)["p"] for _ in range(n)]


def test_linear_draws_are_uniform() -> None:
    assert stats.kstest(draws({"float": {"min": -5, "max": 10}}, 4000), stats.uniform(-5, 15).cdf).pvalue > 0.01


def test_log_draws_are_log_uniform() -> None:
    found = draws({"float": {"min": 1e-7, "max": 1e-1, "scale": "Log"}}, 4000)
    assert stats.kstest(found, stats.loguniform(1e-7, 1e-1).cdf).pvalue > 0.01


def test_int_log_draws_have_the_share_of_the_logarithmic_scale_around_each_value() -> None:
    low, high, n = 1, 40, 8000
    found = draws({"int": {"min": low, "max": high, "scale": "Log"}}, n)
    edges = np.log(np.arange(low, high + 2) - 0.5)
    expected = n * np.diff(edges) / (edges[-1] - edges[0])
    observed = np.bincount(np.array(found, dtype=int), minlength=high + 1)[low:]
    assert stats.chisquare(observed, expected).pvalue > 0.01


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ({"int": {"min": 3, "max": 9}}, 7),
        ({"int": {"min": 0, "max": 30, "step": 10}}, 4),
        ({"float": {"min": 0, "max": 1, "step": 0.25}}, 5),
        ({"ordinal": {"values": [1, 10, 100]}}, 3),
        ({"categorical": {"choices": ["a", "b", "c", "d"]}}, 4),
    ],
    ids=str,
)
def test_discrete_draws_are_uniform_and_reach_both_ends(kind: dict[str, object], count: int) -> None:
    observed = [draws(kind, 4000).count(value) for value in (one(kind).at(i) for i in range(count))]
    assert sum(observed) == 4000
    assert stats.chisquare(observed).pvalue > 0.01


# Steps


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0, 1, 0.1), (0.1, 0.3, 0.1), (1e-6, 1e-5, 1e-6), (-1, 1, 1 / 3), (0, 100, 0.01), (1000, 1000.5, 1e-4), (0, 1, 1e-6 / 3)],
)
def test_a_step_that_divides_its_range_reaches_both_ends_without_a_warning(
    low: float, high: float, step: float, recwarn: pytest.WarningsRecorder
) -> None:
    space = Space.from_spec([{"name": "p", "float": {"min": low, "max": high, "step": step}}])
    assert space.decode([0.0]) == {"p": low}
    assert space.decode([1.0]) == {"p": high}
    assert space.size == round((high - low) / step) + 1
    assert not recwarn.list
    assert space.warnings == ()


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ({"float": {"min": 0, "max": 1, "step": 0.3}}, 0.9),
        ({"float": {"min": 0, "max": 1e-12, "step": 3e-13}}, 9e-13),
        ({"float": {"min": -1, "max": 1, "step": 1.5}}, 0.5),
        ({"float": {"min": 0, "max": 1, "step": 3e-10}}, 3e-10 * 3333333333),
        ({"int": {"min": 1, "max": 10, "step": 4}}, 9),
    ],
    ids=str,
)
def test_a_step_that_does_not_divide_its_range_cuts_the_range_with_a_warning(kind: dict[str, object], last: float) -> None:
    with pytest.warns(SpaceWarning, match=r"parameter 'p': steps of .* short of max") as caught:
        space = Space.from_spec([{"name": "p", **kind}])  # type: ignore[dict-item]
    assert caught[0].filename == __file__
    assert space.decode([1.0])["p"] == pytest.approx(last, rel=1e-12)
    assert space.parameters[0].high == space.decode([1.0])["p"]  # type: ignore[attr-defined]
    assert len(space.warnings) == 1


@given(spaces(most=1))
@settings(max_examples=100, deadline=None)
def test_steps_start_at_min_and_stay_within_the_range(space: Space) -> None:
    parameter = space.parameters[0]
    if isinstance(parameter, Float | Int) and parameter.step is not None and parameter.count is not None:
        assert parameter.at(0) == parameter.low
        assert parameter.at(parameter.count - 1) == parameter.high
        some = [parameter.at(parameter.count * i // 7) for i in range(7)]
        assert some == sorted(some)


# Validation


def faults(space: Space, params: object) -> dict[str, str]:
    with pytest.raises(InvalidParameters) as caught:
        space.validate(params)  # type: ignore[arg-type]
    return {fault.path: f"{fault.rule} {fault.remedy}" for fault in caught.value.faults}


@pytest.mark.parametrize(
    ("params", "path", "words"),
    [
        ({"kernal": "rbf", "kernel": "linear", "cost": 0.5}, "kernal", "not a parameter of this space Did you mean 'kernel'?"),
        ({"kernel": "linear"}, "cost", "is missing Give a value"),
        ({"kernel": "linear", "cost": 0.6}, "cost", "whole number of steps of 0.5 above 0.5"),
        ({"kernel": "linear", "cost": 2}, "cost", r"must lie in [0.5, 1.0]"),
        ({"kernel": "linear", "cost": float("nan")}, "cost", "must be a finite number"),
        ({"kernel": "linear", "cost": float("inf")}, "cost", "must be a finite number"),
        ({"kernel": "linear", "cost": 10**400}, "cost", "must lie in"),
        ({"kernel": "linear", "cost": "1.0"}, "cost", "must be a finite number"),
        ({"kernel": "linear", "cost": True}, "cost", "must be a finite number"),
        ({"kernel": "sigmoid", "cost": 1.0}, "kernel", "must be one of 'rbf', 'poly', 'linear'"),
        ({"kernel": "poly", "gamma": 2, "degree": 2, "cost": 1.0}, "gamma", "must be one of 0.1, 1, 10"),
        ({"kernel": "poly", "gamma": True, "degree": 2, "cost": 1.0}, "gamma", "must be one of 0.1, 1, 10"),
        ({"kernel": "poly", "gamma": 1, "degree": 2.0, "cost": 1.0}, "degree", "must be a whole number"),
        ({"kernel": "poly", "gamma": 1, "degree": 4, "cost": 1.0}, "degree", "must lie in [2, 3]"),
        ({"kernel": "linear", "gamma": 1, "cost": 1.0}, "gamma", "is not active: kernel in ['rbf', 'poly'] Leave it out."),
        (["rbf"], "", "must be a mapping"),
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused_with_the_name_the_rule_and_the_remedy(params: object, path: str, words: str) -> None:
    assert words in faults(read(FINITE), params)[path]


def test_all_faults_of_a_configuration_are_named_at_once() -> None:
    assert faults(read(FINITE), {"kernel": "poly", "degree": 9, "colour": "red"}).keys() == {"colour", "gamma", "degree", "cost"}


def test_a_configuration_becomes_typed_and_ordered() -> None:
    params = read(FINITE).validate({"cost": 1, "degree": 2, "gamma": 1.0, "kernel": "poly"})
    assert list(params.items()) == [("kernel", "poly"), ("gamma", 1), ("degree", 2), ("cost", 1.0)]
    assert [type(value) for value in params.values()] == [str, int, int, float]


def test_a_float_that_the_user_gave_stays_exactly_as_it_was() -> None:
    space = read([{"name": "x", "float": {"min": 0, "max": 1}}])
    assert space.validate({"x": 0.12345678901234568}) == {"x": 0.12345678901234568}


def test_text_that_is_no_value_is_refused_when_read() -> None:
    with pytest.raises(InvalidParameters, match="degree: 'two': must be a whole number"):
        read(FINITE).parse({"kernel": "poly", "gamma": "1", "degree": "two", "cost": "1.0"})
    with pytest.raises(InvalidParameters, match="cost: nan: must be a finite number"):
        read(FINITE).parse({"kernel": "linear", "cost": "nan"})


def test_keys_are_shared_by_equal_configurations_only() -> None:
    space = read(FINITE)
    assert space.key({"kernel": "linear", "cost": 1.0}) == space.key({"cost": 1.0, "kernel": "linear"})
    every = [space.enumeration.at(i) for i in range(space.enumeration.size)]
    assert all(space.key(a) != space.key(b) for a, b in itertools.combinations(every, 2))


def test_a_space_crosses_to_another_process_whole_and_without_its_caches() -> None:
    space = read(WIDE)
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert hash(copy) == hash(space)
    finite = read(FINITE)
    before = len(pickle.dumps(finite))
    assert finite.size == 20
    assert len(pickle.dumps(finite)) == before


# A configuration not seen yet


def test_the_last_unseen_configuration_is_found_however_often_a_draw_repeats_itself() -> None:
    space = read(FINITE)
    first = space.enumeration.at(0)
    seen: set[object] = set()
    for _ in range(20):
        found = space.unseen(seen, lambda attempt: first, seed=3)
        assert found is not None
        assert space.key(found) not in seen
        seen.add(space.key(found))
    assert space.unseen(seen, lambda attempt: first, seed=3) is None
