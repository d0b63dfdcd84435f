"""The final message's line: complete, at most 1,024 bytes, and the objectives always in it."""

import json
import math

import pytest
from hpo import _message
from hpo._message import Summary, infeasible_line, result_line

LONG = math.pi * 1e-300  # as long as a number's text becomes


def metrics_of(line):
    assert len(line) <= 1024
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line)["metrics"]


def test_the_line_is_the_contract_s():
    line = result_line(27, {"val_loss": Summary(0.031, 0.029, 0.9)}, ["val_loss"])
    assert line == b'{"hpo":1,"step":27,"metrics":{"val_loss":["0.031","0.029","0.9"]}}\n'


def test_with_fifty_metrics_the_objectives_are_kept_and_as_many_others_as_fit():
    summaries = {f"metric_{number}": Summary.of(LONG) for number in range(50)}
    kept = metrics_of(result_line(3, summaries, ["metric_49", "metric_48", "absent"]))
    assert list(kept)[:2] == ["metric_49", "metric_48"]
    assert list(kept)[2:] == [f"metric_{number}" for number in range(len(kept) - 2)]
    assert len(kept) >= 9


def test_a_metric_that_does_not_fit_leaves_its_place_to_shorter_ones():
    summaries = {"a": Summary.of(1.0), **{f"{number}" * 200: Summary.of(LONG) for number in range(8)}, "z": Summary.of(1.0)}
    kept = metrics_of(result_line(3, summaries, []))
    assert "a" in kept
    assert "z" in kept


def test_twelve_objectives_and_constraints_all_fit_if_need_be_to_nine_digits():
    summaries = {f"metric_number_{number:02}": Summary.of(LONG) for number in range(12)}
    assert len(json.dumps({name: [repr(LONG)] * 3 for name in summaries})) > 1024
    kept = metrics_of(result_line(3, summaries, list(summaries)))
    assert list(kept) == list(summaries)
    assert float(kept["metric_number_00"][0]) == pytest.approx(LONG, rel=1e-8)


def test_the_most_important_objective_stays_whatever_its_name_is():
    names = ["ü" * 100, '"' * 200, "x" * 200, "y" * 200]
    summaries = {name: Summary(LONG, -LONG, math.inf) for name in names}
    for first in names:
        kept = metrics_of(result_line(2**53, summaries, [first, *names]))
        assert next(iter(kept)) == first


def test_infeasible_says_why():
    assert infeasible_line('batch 4096\n"too large"') == b'{"hpo":1,"infeasible":"batch 4096\\n\\"too large\\""}\n'


@pytest.mark.parametrize("reason", ["x" * 5000, "\x00" * 5000, "ü" * 1000, "…" * 1000, "😀" * 1000, "\ud800" * 2000, ""])
def test_any_reason_fits_and_as_much_of_it_as_possible(reason):
    line = infeasible_line(reason)
    assert len(line) <= 1024
    kept = json.loads(line)["infeasible"]
    if reason:
        assert len(line) > 1000
        assert kept.endswith("…")
        assert reason.encode("utf-8", "replace").decode().startswith(kept.rstrip("…"))


def test_of_ten_thousand_metrics_only_as_many_are_looked_at_as_find_room(monkeypatch):
    looked_at = []
    entry = _message._entry
    monkeypatch.setattr(_message, "_entry", lambda name, *rest: looked_at.append(name) or entry(name, *rest))
    result_line(1, {f"metric_{number}": Summary.of(0.5) for number in range(10_000)}, ["metric_9999"])
    assert "metric_9999" in looked_at
    assert len(looked_at) < 100
