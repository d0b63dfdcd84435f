"""Every algorithm and schedule has a page with all of its settings, their defaults as they are, and a word on each."""

from __future__ import annotations

from typing import Any

import pytest
from hpo_algorithms import ALGORITHMS, SCHEDULES
from hpo_algorithms.registry import load
from hpo_algorithms.settings import settings_of

from tests.testbed.namespaces import ROOT

FOLDER = ROOT / "docs" / "algorithms"
ELSEWHERE = {"kde": "bohb"}  # the sampler of that one


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next of its kind."""
    found = f"\n{page}".partition(f"\n## {heading}\n")[2]
    return found.partition("\n## ")[0]


def rows(text: str) -> dict[str, list[str]]:
    """The cells behind each name in the first column."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def shown(default: Any) -> str:
    return f"`{default}`" if isinstance(default, str) else str(default).lower() if isinstance(default, bool) else f"{default:g}"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_has_a_page_that_says_what_it_is_when_to_use_it_and_what_was_measured(name: str) -> None:
    text = (FOLDER / f"{ELSEWHERE.get(name, name)}.md").read_text()
    assert text.startswith(f"# {ELSEWHERE.get(name, name)}: ")
    if name != "auto":  # which chooses among the others, and says when to name one
        assert section(text, "When to use it").strip()
    assert section(text, "Measured").strip()


@pytest.mark.parametrize("name", [*ALGORITHMS, *SCHEDULES])
def test_a_page_has_each_setting_with_its_default_and_a_word_on_it(name: str) -> None:
    if name in SCHEDULES:
        text, where = section((FOLDER / "schedules.md").read_text(), name), SCHEDULES[name]
        assert text.strip()
    else:
        text, where = section((FOLDER / f"{ELSEWHERE.get(name, name)}.md").read_text(), "Settings"), ALGORITHMS[name]
    found = rows(text)
    known = settings_of(load(where))
    assert list(found) == [each.name for each in known]
    for each in known:
        default, meaning, *_ = found[each.name]
        assert default == shown(each.default) if each.default is not None else default
        assert len(meaning) > 2


def test_every_page_of_an_algorithm_stands_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page.name for page in FOLDER.glob("*.md") if f"docs/algorithms/{page.name}" not in navigation] == []
