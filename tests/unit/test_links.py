"""The pages that programs, the chart and examples name are there. Links between pages are checked by `make docs`."""

from __future__ import annotations

import subprocess

from tests.testbed.namespaces import ROOT

PAGE = r"(docs|examples|benchmarks|helm)/[A-Za-z0-9_./-]+\.md"


def test_no_file_names_a_page_that_is_not_there() -> None:
    found = subprocess.run(
        ["git", "grep", "--untracked", "--extended-regexp", "--only-matching", "--no-color", PAGE, "--", ":!*.md", ":!tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    named = [line.partition(":")[::2] for line in found.stdout.splitlines()]
    assert len(named) > 10
    assert [f"{page} in {file}" for file, page in named if not (ROOT / page).is_file()] == []
