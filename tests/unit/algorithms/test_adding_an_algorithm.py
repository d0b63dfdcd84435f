"""The page that shows how to add an algorithm is true: what it says is done to a copy of the package, and the tests are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import hpo_algorithms
import pytest
from hpo_algorithms.registry import SCHEDULES

from tests.unit.algorithms.contract import PROMISES, UNDER_EVERY_SCHEDULE, pairs

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "adding-an-algorithm.md"
OPENING = "ALGORITHMS: dict[str, str] = {\n"


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 4, "the file, the line, the use and the test"
    return found


@pytest.fixture(scope="module")
def with_it(blocks: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that sees a copy of the package with one file and one line more."""
    folder = tmp_path_factory.mktemp("copy")
    package = Path(shutil.copytree(Path(hpo_algorithms.__path__[0]), folder / "hpo_algorithms"))
    (package / "samplers" / "perturb.py").write_text(blocks[0])
    registry = package / "registry.py"
    before = registry.read_text()
    assert before.count(OPENING) == 1
    registry.write_text(before.replace(OPENING, OPENING + blocks[1]))
    (folder / "test_perturb.py").write_text(blocks[3])
    return {**os.environ, "PYTHONPATH": str(folder), "FOLDER": str(folder)}


def test_its_example_runs_and_finds_the_valley(blocks: list[str], with_it: dict[str, str]) -> None:
    child = subprocess.run([sys.executable, "-c", blocks[2]], env=with_it, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    best = eval(child.stdout)
    assert best["x"] == pytest.approx(2, abs=0.5)
    assert 12 <= best["n"] <= 32


def test_the_contract_suite_and_its_own_test_cover_it(with_it: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "perturb"]
    files = ["tests/unit/algorithms/test_contract.py", f"{with_it['FOLDER']}/test_perturb.py"]
    child = subprocess.run([*command, *files], env=with_it, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    passed = re.search(r"(\d+) passed", child.stdout)
    assert passed
    under_flat_alone = (len(SCHEDULES) - 1) * (len(PROMISES) - len(UNDER_EVERY_SCHEDULE))
    without_variants = [method for method, _ in pairs(["random"]) if not method.pace]
    assert int(passed[1]) == len(without_variants) - under_flat_alone + 1, "all, and its own"


def test_the_page_says_no_more_than_there_is() -> None:
    text = PAGE.read_text()
    for name in re.findall(r"`(?:algorithms/hpo_algorithms/|hpo_algorithms/)?((?:samplers|schedules)/\w+\.py|\w+\.py)`", text):
        if name != "samplers/perturb.py":
            assert (Path(hpo_algorithms.__path__[0]) / name).exists(), name
    for name in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert "perturb" in name or (ROOT / name).exists(), name
