"""The algorithms and schedules by name, and their settings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hpo_algorithms import ALGORITHMS, SCHEDULES, Algorithm, InvalidSettings, Problem, Sampler, Schedule, build
from hpo_algorithms.registry import default_schedule, load, stops_early
from hpo_algorithms.settings import read_settings, setting, settings_of

from tests.unit.algorithms.spaces import CONTINUOUS, read

PROBLEM = Problem(read(CONTINUOUS), 1, 1, 9)


@pytest.mark.parametrize("reference", [*ALGORITHMS.values(), *SCHEDULES.values()])
def test_every_entry_is_a_frozen_dataclass_whose_settings_are_documented_and_have_legal_defaults(reference: str) -> None:
    found = load(reference)
    made = found()
    assert isinstance(made, Algorithm | Sampler | Schedule)
    assert found.__doc__
    assert not found.__doc__.startswith(f"{found.__name__}("), "a docstring of its own, not the one that dataclass makes"
    assert found.__dataclass_params__.frozen
    assert len(settings_of(found)) == len(dataclasses.fields(found)), "no field that a user cannot set"
    for each in settings_of(found):
        assert each.doc.endswith("."), each.name
        assert each.default is not None or each.optional
        if each.kind in (int, float):
            assert each.minimum is not None, f"{each.name} needs bounds"
            assert each.maximum is not None, f"{each.name} needs bounds"
    defaults = {each.name: each.default for each in settings_of(found)}
    assert read_settings(found, defaults, "path") == (made, [])


@dataclass(frozen=True)
class Sample:
    """For the tests below."""

    how_many: int = setting(3, "A number.", minimum=1, maximum=5)
    share: float = setting(0.5, "A share.", minimum=0, maximum=1)
    sure: bool = setting(False, "Yes or no.")
    kind: str = setting("a", "A kind.", choices=("a", "b"))
    limit: int | None = setting(None, "Perhaps a number.", minimum=1)


def test_settings_are_read_in_camel_case_and_typed() -> None:
    made, faults = read_settings(Sample, {"howMany": 4.0, "share": 1, "sure": True, "kind": "b", "limit": 7}, "x")
    assert (made, faults) == (Sample(4, 1.0, True, "b", 7), [])
    assert made is not None
    assert [type(value) for value in dataclasses.astuple(made)] == [int, float, bool, str, int]
    assert read_settings(Sample, None, "x") == (Sample(), [])
    assert read_settings(Sample, {"limit": None}, "x") == (Sample(), [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"how_many": 2}, "x.how_many: 2: is not a known setting. Did you mean 'howMany'?"),
        ({"howMany": 0}, "x.howMany: 0: must be at least 1."),
        ({"howMany": 6}, "x.howMany: 6: must be at most 5."),
        ({"howMany": 2.5}, "x.howMany: 2.5: must be a whole number."),
        ({"howMany": True}, "x.howMany: True: must be a number."),
        ({"howMany": "3"}, "x.howMany: '3': must be a number."),
        ({"share": float("nan")}, "x.share: nan: must be a number."),
        ({"sure": 1}, "x.sure: 1: must be true or false."),
        ({"kind": "c"}, "x.kind: 'c': must be one of a, b."),
        ({"limit": 0}, "x.limit: 0: must be at least 1."),
        ("a", "x: 'a': must be a mapping of settings. Write x: {} for the defaults."),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_with_path_and_rule(given: object, message: str) -> None:
    made, faults = read_settings(Sample, given, "x")  # type: ignore[arg-type]
    assert made is None
    assert [str(fault) for fault in faults] == [message]


def test_what_is_left_out_is_automatic_and_flat_or_asha_where_there_is_a_budget() -> None:
    assert build(PROBLEM) == build(PROBLEM, {"auto": {}}, {"asha": {}})
    assert build(PROBLEM, {"random": {}}) == build(PROBLEM, {"random": {}}, {"flat": {}})
    assert build(PROBLEM, {}, {}) == build(PROBLEM)
    assert build(PROBLEM, {"random": None}) == build(PROBLEM, {"random": {}})


def test_faults_of_sampler_and_schedule_are_named_together() -> None:
    with pytest.raises(InvalidSettings) as caught:
        build(Problem(read(CONTINUOUS), 2), {"random": {}}, {"asha": {}})
    assert [fault.path for fault in caught.value.faults] == ["schedule.asha", "schedule.asha"]


def test_auto_takes_asha_where_a_study_has_a_budget_to_divide_and_one_objective() -> None:
    space = read(CONTINUOUS)
    divided = Problem(space, min_budget=1, max_budget=9)
    assert default_schedule("auto", divided) == "asha"
    assert default_schedule("tpe", divided) == "flat"
    assert default_schedule("bohb", divided) == "hyperband"
    assert default_schedule("auto", Problem(space)) == "flat"
    assert default_schedule("auto", Problem(space, min_budget=9, max_budget=9)) == "flat"
    assert default_schedule("auto", Problem(space, objectives=2, min_budget=1, max_budget=9)) == "flat"


def test_curves_are_asked_for_by_the_schedules_that_stop() -> None:
    assert stops_early({"median": {}})
    assert stops_early({"asha": {"form": "stopping"}})
    assert not stops_early({"asha": {}})
    assert not stops_early({"asha": None})
    assert not stops_early(None)
