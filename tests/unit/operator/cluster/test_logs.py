"""A log is searched aside, so that no pattern and no log can hold the operator."""

from __future__ import annotations

import asyncio

import pytest
from hpo_operator.cluster import logs
from hpo_operator.cluster.logs import MAX_METRICS, SearchFailed, search
from hpo_operator.reports import Report, final_message

from tests.unit.operator.builders import measured


def found(text: str, pattern: str, *wanted: str) -> Report | None:
    """What is found, in this process."""
    return final_message(logs.found_in(text, pattern, wanted or ("loss",)))


def test_what_a_pattern_finds_is_one_report() -> None:
    text = "epoch 1: loss 0.9\nnoise\r\nepoch 2: loss nan\nepoch 3: loss 0.5\r\n"

    assert asyncio.run(search(text, r"epoch (?P<step>\d+): loss (?P<loss>\S+)", ["loss"])) == measured(3, loss=(0.5, 0.5, 0.9))


def test_a_log_without_a_match_gives_an_empty_report() -> None:
    assert found("nothing", r"loss (?P<loss>\S+)") == Report()
    assert found("", r"loss (?P<loss>\S+)") == Report()


def test_a_pattern_that_backtracks_without_end_is_ended_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    child = "from hpo_operator.cluster import logs; logs.CPU_SECONDS = 1; logs.main()"
    monkeypatch.setattr(logs, "_CHILD", (*logs._CHILD[:-1], child))

    with pytest.raises(SearchFailed, match=r"metrics\.logs\.pattern"):
        asyncio.run(search("a" * 60 + "!", r"(?P<loss>(a+)+)$", ["loss"]))


def test_a_process_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "WALL_SECONDS", 0.1)
    monkeypatch.setattr(logs, "_CHILD", (*logs._CHILD[:-1], "import time; time.sleep(600)"))

    with pytest.raises(SearchFailed, match="within"):
        asyncio.run(search("", "(?P<loss>x)", ["loss"]))


def test_names_that_a_log_invents_are_bounded_and_those_needed_are_kept() -> None:
    lines = [f"m{number}=1" for number in range(1000)]

    report = found("\n".join([*lines, "loss=0.5"]), r"(?P<metric>\w+)=(?P<value>\S+)")

    assert report is not None
    assert len(report.metrics) == MAX_METRICS + 1
    assert report.metrics["loss"].last == 0.5


def test_names_as_long_as_lines_do_not_take_the_result_away() -> None:
    dumps = "".join(f"{number:060000}=1\n" for number in range(40))

    assert asyncio.run(search(f"{dumps}loss=0.5", r"(?P<metric>\w+)=(?P<value>\S+)", ["loss"])) == measured(None, loss=0.5)


def test_of_a_progress_bar_each_state_is_a_line_with_its_own_step() -> None:
    bar = "".join(f"\repoch {number}: {'#' * 30} loss=\x1b[32m0.{number}\x1b[0m\x1b[K" for number in range(1, 2001))

    assert found(bar, r"epoch (?P<step>\d+):.* loss=(?P<loss>\S+)") == measured(2000, loss=(0.2, 0.1, 0.999))


def test_lines_that_are_no_lines_are_passed_over() -> None:
    assert found("loss=0.1" + "x" * 100_000 + "\nloss=0.5", r"loss=(?P<loss>[\d.]+)") == measured(None, loss=0.5)


def test_whatever_is_no_text_is_passed_over() -> None:
    assert asyncio.run(search("\ufffd\x00\ud800\nloss=0.5", r"loss=(?P<loss>\S+)", ["loss"])) == measured(None, loss=0.5)
