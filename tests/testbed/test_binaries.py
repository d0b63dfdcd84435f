"""How the test bed comes by its programs: each is built once, anew when what it is built from changes, and said so."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.testbed import BuildFailed, MissingTool, binaries
from tests.testbed.binaries import ASSETS, CACHE, Program
from tests.testbed.lacking import lacking

pytestmark = pytest.mark.control_plane

TINY = Program("tiny", "tiny", "example.test/tiny", (("main.word", "first"),))
MAIN = 'package main\n\nimport "fmt"\n\nvar word = "none"\n\nfunc main() { fmt.Println(word) }\n'


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of one program that says a word, which is linked into it, and nothing that is built yet."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(ASSETS, raising=False)
    monkeypatch.setattr(binaries, "MODULES", tmp_path)
    monkeypatch.setattr(binaries, "SETS", {"tiny": (TINY,)})
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "go.mod").write_text("module example.test/tiny\n\ngo 1.21\n")
    (folder / "main.go").write_text(MAIN)
    return folder


def built() -> list[str]:
    """What a build says."""
    said: list[str] = []
    binaries.build(["tiny"], said.append)
    return said


def runs(program: Program = TINY) -> str:
    return subprocess.run([program.path()], capture_output=True, text=True, check=True).stdout.strip()


def test_a_program_is_built_once_and_what_is_done_is_said(module: Path) -> None:
    said = built()
    assert said[0] == "tiny: building tiny"
    assert said[-1].startswith("built tiny in ")
    assert runs() == "first"
    made = TINY.path().stat().st_mtime_ns
    assert built() == []
    assert TINY.path().stat().st_mtime_ns == made


def test_a_build_that_takes_long_says_how_far_it_is(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "PROGRESS_SECONDS", 0.0)
    (module / "main.go").write_text(f"{MAIN}// {module}, which no earlier build has seen\n")
    assert any(line.startswith("tiny: 1 packages compiled, ") for line in built())


def test_what_a_program_is_built_from_decides_whether_it_is_built_anew(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built()
    before = {TINY.path()}
    (module / "main.go").write_text(MAIN.replace("Println(word)", 'Println("changed", word)'))
    assert TINY.path() not in before
    assert built()[0] == "tiny: building tiny"
    assert runs() == "changed first"
    relinked = replace(TINY, variables=(("main.word", "second"),))
    monkeypatch.setattr(binaries, "SETS", {"tiny": (relinked,)})
    assert built()[0] == "tiny: building tiny"
    assert (runs(), runs(relinked)) == ("changed first", "changed second")
    before = {TINY.path()}
    assert replace(TINY, tags="more").path() not in before
    (module / "go.mod").write_text("module example.test/tiny\n\ngo 1.22\n")
    assert TINY.path() not in before
    assert built()[0] == "tiny: building tiny"


def test_a_program_that_is_among_the_assets_of_envtest_is_taken_from_there(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    monkeypatch.setenv(ASSETS, str(assets))
    assert built()[0] == "tiny: building tiny"  # it is not there
    (assets / "tiny").write_text("#!/bin/sh\necho given\n")
    (assets / "tiny").chmod(0o755)
    (module / "main.go").write_text("no Go")
    assert built() == []
    assert runs() == "given"


def test_a_build_that_fails_says_why_and_leaves_nothing_that_is_taken_for_a_program(module: Path) -> None:
    (module / "main.go").write_text("package main\n\nfunc main() { nothing() }\n")
    with pytest.raises(BuildFailed, match=r"(?s)building tiny failed.*undefined: nothing"):
        built()
    assert [*TINY.directory().iterdir()] == []
    (module / "main.go").write_text(MAIN)
    (TINY.directory() / "tmp-killed").mkdir(parents=True)  # of a build that was killed
    built()
    assert [each.name for each in TINY.directory().iterdir()] == ["tiny"]


def test_without_Go_it_is_said_which_one_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    monkeypatch.delenv(ASSETS, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=r"go is missing: install Go ≥ \d+\.\d+.*, or set KUBEBUILDER_ASSETS"):
        binaries.build(["control-plane"])


def test_a_program_that_is_not_built_is_missing_with_the_command_that_builds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    monkeypatch.delenv(ASSETS, raising=False)
    with pytest.raises(MissingTool, match=r"python -m tests\.testbed build control-plane"):
        binaries.program("etcd")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_what_is_lacking_skips_a_test_and_in_CI_fails_it(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no control plane"):
        lacking("no control plane")
