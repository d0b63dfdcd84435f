"""What programs tell: anything may stand in it, nothing makes the reader fail, and nothing is read that was not told."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import pytest
from hpo._message import Summary, infeasible_line, result_line
from hpo_operator.reports import (
    MAX_STEP,
    Aggregates,
    Report,
    Restored,
    Saved,
    final_message,
    final_weights,
    live_reports,
    log_reports,
    number,
)
from hypothesis import given, settings
from hypothesis import strategies as st

STEADY = functools.partial(settings, deadline=None, derandomize=True)

LINE = '{"hpo":1,"step":27,"metrics":{"loss":["0.1","0.05","0.9"]}}'
EXPECTED = Report(27, {"loss": Aggregates(0.1, 0.05, 0.9)})

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400) | st.just("1" * 5000)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)
NEARLY = st.fixed_dictionaries(
    {}, optional={"hpo": st.just(1) | SCALARS, "step": JSON, "metrics": JSON, "infeasible": JSON}
)  # fmt: skip
TEXTS = st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")) | NEARLY.map(json.dumps)


def same(one: Report | None, other: Report | None) -> bool:
    return repr(one) == repr(other)  # NaN is not equal to itself


# The final message


def test_the_final_message_is_read_as_it_is_written() -> None:
    assert final_message(LINE) == EXPECTED


@STEADY()
@given(
    st.integers(0, MAX_STEP),
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), st.floats(), min_size=1, max_size=5
    ),
)
def test_what_the_sdk_writes_is_what_is_read(step: int, values: dict[str, float]) -> None:
    line = result_line(step, {name: Summary.of(value) for name, value in values.items()}, list(values)).decode()
    expected = Report(step, {name: Aggregates(value, value, value) for name, value in values.items()})
    assert same(final_message(line), expected)
    assert same(final_message(f"noise\n{line}"), expected)


@STEADY()
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_the_reason_to_be_infeasible_is_read_as_the_sdk_writes_it(reason: str) -> None:
    found = final_message(infeasible_line(reason).decode())
    assert found is not None
    assert found.infeasible == reason


@pytest.mark.parametrize(
    "text",
    [
        f"{LINE}\n",
        f"{LINE}\r\n",
        f"  {LINE}  ",
        f"Traceback: …\n{LINE}\nbye",
        f'{{"hpo":1,"step":1,"metrics":{{"loss":["9","9","9"]}}}}\n{LINE}',
        f'{LINE}\n{{"hpo":2,"metrics":{{}}}}',
        f'{LINE}\n{{"hpo":1,"metrics":["loss"]}}',
        f'{LINE}\n{{"hpo":1,"step":28,"metrics":{{"loss":["0.2","0.0',
        f'{LINE}\n{{"hpo":true,"metrics":{{}}}}',
        "\x00\xff\n" + LINE,
        '"step":3,"metrics":{"loss":["1","1","1"]}}\n' + LINE,
    ],
    ids=[
        "with its end of line",
        "with another system's",
        "with spaces",
        "between other lines",
        "the last of two",
        "before another version's",
        "before one of the wrong shape",
        "before one that was cut off",
        "before one that is not of this kind",
        "after binary",
        "after the rest of one whose beginning the kubelet cut off",
    ],
)
def test_the_last_whole_line_that_is_one_counts(text: str) -> None:
    assert final_message(text) == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "hello", "{}", "[1]", "1", "{", "{" * 9, "[" * 100_000),
        '{"hpo":1}',
        '{"hpo":"1","metrics":{}}',
        '{"metrics":{"loss":1}}',
        '{"hpo":1,"metrics":' + '{"a":' * 100_000,
    ],
)
def test_where_no_line_is_a_report_there_is_none(text: str) -> None:
    assert final_message(text) is None


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ('["0.1","0.05","0.9"]', Aggregates(0.1, 0.05, 0.9)),
        ("0.5", Aggregates(0.5, 0.5, 0.5)),
        ('"0.5"', Aggregates(0.5, 0.5, 0.5)),
        ('["-Infinity","-Infinity","1e3"]', Aggregates(-math.inf, -math.inf, 1000.0)),
        ("[1,2]", None),
        ("[1,2,3,4]", None),
        ("[1,2,null]", None),
        ('["1","2","three"]', None),
        ("null", None),
        ("true", None),
        ("{}", None),
        ('""', None),
        ('"1_000"', None),
        ('"١"', None),
        ('"0x10"', None),
        ('"1,5"', None),
        ("1" + "0" * 400, None),
    ],
)
def test_a_metric_that_is_no_number_is_left_out_and_the_others_stay(value: str, read: Aggregates | None) -> None:
    found = final_message(f'{{"hpo":1,"step":1,"metrics":{{"m":{value},"other":1}}}}')
    assert found is not None
    assert found.metrics == ({"m": read} if read else {}) | {"other": Aggregates(1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("step", "read"),
    [
        ("27", 27),
        ('"27"', 27),
        ("27.0", 27),
        ("1.5", 1),
        ("9007199254740991", 9007199254740991),
        ('"9007199254740991"', 9007199254740991),
        (str(MAX_STEP), MAX_STEP),
        (str(MAX_STEP + 1), None),
        ("-1", None),
        ("NaN", None),
        ("1e400", None),
        ("true", None),
        ("null", None),
        ('"x"', None),
        ("[1]", None),
    ],
)
def test_a_step_is_a_whole_number_or_none(step: str, read: int | None) -> None:
    found = final_message(f'{{"hpo":1,"step":{step},"metrics":{{"m":1}}}}')
    assert found is not None
    assert found.step == read


@STEADY(max_examples=300)
@given(TEXTS)
def test_no_text_makes_the_reader_of_final_messages_fail_and_nothing_is_invented(text: str) -> None:
    found = final_message(text)
    if found is None:
        return
    told: list[Any] = []
    for line in text.split("\n"):
        try:
            told.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    said = [each for each in told if isinstance(each, dict)]
    assert any(set(found.metrics) <= set(each.get("metrics") or {}) or found.infeasible == each.get("infeasible") for each in said)
    for name, aggregates in found.metrics.items():
        sources = [each["metrics"][name] for each in said if isinstance(each.get("metrics"), dict) and name in each["metrics"]]
        assert any(_is(value, aggregates) for value in sources)
    assert found.step is None or 0 <= found.step <= MAX_STEP


def _is(value: Any, aggregates: Aggregates) -> bool:
    parts = value if isinstance(value, list) else [value] * 3
    return len(parts) == 3 and repr([float(part) for part in parts]) == repr(
        [aggregates.last, aggregates.lowest, aggregates.highest]
    )


# Live reports and logs


@STEADY(max_examples=200)
@given(st.lists(TEXTS, max_size=4).map("\n".join))
def test_no_text_makes_the_reader_of_live_reports_fail(text: str) -> None:
    for step, metrics in live_reports(text):
        assert step is None or 0 <= step <= MAX_STEP
        assert all(isinstance(value, float) for value in metrics.values())


def test_live_reports_come_in_order_and_what_is_no_report_is_left_out() -> None:
    first, second = '{"step":1,"metrics":{"loss":"0.5"}}', '{"step":2,"metrics":{"loss":"NaN","b":"x"}}'
    found = list(live_reports("\n".join([first, "noise", second, '{"metrics":{"a":1}}'])))
    assert repr(found) == repr([(1, {"loss": 0.5}), (2, {"loss": math.nan}), (None, {"a": 1.0})])


def test_a_line_separator_inside_a_name_does_not_cut_the_line() -> None:
    """JSON lets U+2028 and its like stand in a string as they are, and Python's splitlines splits there."""
    line = json.dumps({"step": 1, "metrics": {"a\u2028b\x85c": "1"}}, ensure_ascii=False)
    assert list(live_reports(line)) == [(1, {"a\u2028b\x85c": 1.0})]


def test_a_log_is_read_by_a_pattern_with_a_group_for_each_metric() -> None:
    lines = ["epoch 1: loss=0.5 acc=0.9", "hello", "epoch 2: loss=nan acc=bad"]
    pattern = r"epoch (?P<step>\d+): loss=(?P<loss>\S+) acc=(?P<acc>\S+)"
    assert repr(list(log_reports(lines, pattern))) == repr([(1, {"loss": 0.5, "acc": 0.9}), (2, {"loss": math.nan})])


def test_a_log_is_read_by_a_pattern_that_finds_names_too_and_several_times_a_line() -> None:
    found = list(log_reports(["loss=0.5 acc=0.9"], r"(?P<metric>\w+)=(?P<value>\S+)"))
    assert found == [(None, {"loss": 0.5}), (None, {"acc": 0.9})]


@STEADY()
@given(st.lists(st.text(), max_size=5))
def test_no_log_makes_its_reader_fail(lines: list[str]) -> None:
    for pattern in (r"(?P<metric>\w+)=(?P<value>\S+)", r"(?P<step>\S+)? ?(?P<loss>.*)", r"(?P<loss>\d*)"):
        for step, metrics in log_reports(lines, pattern):
            assert metrics
            assert step is None or 0 <= step <= MAX_STEP


# Numbers


@STEADY()
@given(st.floats())
def test_a_number_is_read_as_it_is_told(value: float) -> None:
    for told in (value, repr(value), f" {value!r} "):
        found = number(told)
        assert found is not None
        assert found == value or math.isnan(value)


@STEADY()
@given(JSON)
def test_what_is_no_number_is_none(value: object) -> None:
    found = number(value)
    assert found is None or isinstance(found, float)
    if isinstance(value, bool | list | dict) or value is None:
        assert found is None


def test_megabytes_of_digits_are_refused_as_fast_as_they_are_read() -> None:
    """By a search that starts anew at each digit this would not come back within the day."""
    assert number("1" * 10_000_000 + "x") is None
    assert number("1." * 5_000_000) is None


# Aggregates


@STEADY()
@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_aggregates_are_those_of_all_reports_and_leave_out_what_is_no_number(values: list[float]) -> None:
    report = Report()
    for step, value in enumerate(values):
        report = report.followed_by(step, {"m": value})
    numbers = [value for value in values if not math.isnan(value)]
    found = report.metrics["m"]
    assert repr(found.last) == repr(values[-1])
    if numbers:
        assert (found.lowest, found.highest) == (min(numbers), max(numbers))
    else:
        assert math.isnan(found.lowest)
        assert math.isnan(found.highest)
    assert report.step == len(values) - 1


def test_a_report_without_a_step_does_not_take_the_step_back() -> None:
    assert Report().followed_by(3, {"m": 1.0}).followed_by(None, {"m": 2.0}).step == 3


def test_a_checkpoint_that_its_program_says_is_elsewhere_than_its_step_is_none() -> None:
    def told(path: str) -> Saved | None:
        checkpoint = {"step": 3, "digest": f"sha256:{'0' * 64}", "path": path}
        return final_weights(json.dumps({**json.loads(LINE), "checkpoint": checkpoint})).saved

    assert told("step-3") == Saved(3, f"sha256:{'0' * 64}")
    for elsewhere in ("../../x", "/etc", "step-3/../../other", "step-4", ""):
        assert told(elsewhere) is None


@pytest.mark.parametrize("name", ["\\ud800", "Digits", "", "d" * 254, "d\\n"])
def test_a_donor_whose_name_no_status_can_hold_is_left_out(name: str) -> None:
    """Half a surrogate pair would make each plan for the Study fail."""
    line = '{"hpo":1,"metrics":{},"restored":{"from":"NAME","step":3,"bytes":5,"seconds":0.1}}'
    assert final_weights(line.replace("NAME", "digits-7")).restored == Restored("digits-7", 3, 5, 0.1)
    assert final_weights(line.replace("NAME", name)).restored is None
