"""Pictures are of what has been measured, and stand on pages."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cache import Runs
from benchmarks.curves import BENCHMARKS, FOLDER, PICTURES, Picture, measured
from benchmarks.optimisers import fingerprint
from benchmarks.tasks import Task

PAGES = sorted(FOLDER.parent.glob("*.md"))
TASKS: dict[str, Task | None] = {name: Task(name, [], lambda params: 0.0, 0.0, 2.0) for name in ("a", "b")}


def row(runs: Runs, name: str, version: str, task: str, seed: int, best: float, length: int = 100) -> None:
    runs.put(f"{name}/{version}/{task}/{seed}/{length}", {"best": [best] * length})


def test_a_line_is_of_the_even_seeds_that_all_tasks_have_in_the_version_of_now(tmp_path: Path) -> None:
    runs, now = Runs("blackbox", tmp_path), fingerprint("random")
    for task, best in (("a", 0.4), ("b", 0.8)):
        row(runs, "random", now, task, 2, best)
        row(runs, "random", now, task, 3, 9.0)
        row(runs, "random", now, task, 4, best / 2, length=200)
        row(runs, "random", now, task, 6, 9.0, length=50)
        row(runs, "random", "another", task, 8, 9.0)
        row(runs, "random", f"{now}*8", task, 10, 9.0)
    row(runs, "random", now, "a", 12, 9.0)
    found = measured(Picture(("random",)), "random", TASKS, runs)
    assert found is not None
    assert found.shape == (2, len(BENCHMARKS["blackbox"].x))
    assert found[:, 0] == pytest.approx([0.3, 0.15])
    assert np.all(found == found[:, :1])
    assert measured(Picture(("tpe",)), "tpe", TASKS, runs) is None


@pytest.mark.parametrize("title", PICTURES)
def test_what_a_picture_is_of_can_be_measured_by_its_command(title: str) -> None:
    for name in PICTURES[title].names:
        assert BENCHMARKS[PICTURES[title].of].version_of(name)
        assert f"'{name}'" in PICTURES[title].command(name)


def test_every_picture_that_is_drawn_stands_on_a_page_and_can_be_drawn_again() -> None:
    shown = {name for page in PAGES for name in re.findall(r"\]\(curves/([a-z0-9]+)\.svg\)", page.read_text())}
    assert shown == {path.stem for path in FOLDER.glob("*.svg")}
    assert shown <= PICTURES.keys()
