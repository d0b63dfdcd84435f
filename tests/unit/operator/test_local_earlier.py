"""Studies that begin with what earlier runs on the same machine have found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.operator.local_studies import Laptop, manifest

PROGRAM = """echo "{\\"hpo\\":1,\\"step\\":1,\\"metrics\\":{\\"loss\\":\\"$HPO_PARAM_X\\"}}" > "$HPO_TERMINATION_FILE" """


def runs(folder: Path, name: str, earlier: list[str] = [], **spec: Any) -> Laptop:  # noqa: B006
    """A Study beside whose results the others' stand."""
    laptop = Laptop(folder)
    laptop.results = folder / name
    if earlier:
        spec["warmStart"] = {"studies": [{"name": each} for each in earlier], **spec.pop("warmStart", {})}
    laptop.write(PROGRAM, name=name, **spec)
    return laptop


def xs(laptop: Laptop) -> list[tuple[str, str]]:
    return [(trial.spec.parameters[0].value, trial.spec.origin) for trial in laptop.trials()]


def best(laptop: Laptop) -> list[str]:
    return sorted((value for value, _ in xs(laptop)), key=float)


def test_the_best_of_an_earlier_run_are_tried_first_behind_what_the_user_gives(tmp_path: Path) -> None:
    first = runs(tmp_path, "first", limits={"maxTrials": 6})
    assert first.hpo("run") == 0
    given = {"configurations": [{"parameters": [{"name": "x", "value": "0.75"}]}]}
    second = runs(tmp_path, "second", ["first"], limits={"maxTrials": 6}, warmStart=given, algorithm={"gp": {}})
    assert second.hpo("run") == 0
    assert xs(second)[:5] == [("0.75", "Given"), *((value, "Given") for value in best(first)[:4])]
    assert xs(second)[5][1] == "Sampled"


def test_a_folder_can_be_named_and_what_ended_later_does_not_change_a_study(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = runs(tmp_path / "elsewhere", "first", limits={"maxTrials": 3})
    assert first.hpo("run") == 0
    known = best(first)
    second = runs(tmp_path, "second", ["first"], limits={"maxTrials": 1})
    assert second.hpo("run", "--earlier", first.results) == 0
    runs(tmp_path / "elsewhere", "first", limits={"maxTrials": 30})
    assert first.hpo("run") == 0
    assert best(first)[0] != known[0]
    runs(tmp_path, "second", ["first"], limits={"maxTrials": 3})
    assert second.hpo("run", "--earlier", first.results) == 0
    assert [value for value, _ in xs(second)] == known


def test_an_earlier_run_that_is_not_there_or_found_nothing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs(tmp_path, "lonely", ["first"]).hpo("run") == 2
    said = capsys.readouterr().err
    assert "spec.warmStart.studies[0].name: 'first': has no results in" in said
    assert "Run it first, or name its results folder with --earlier." in said
    assert runs(tmp_path, "first", objectives=[{"metric": "loss"}]).hpo("run") == 0
    other = runs(tmp_path, "other", ["first"], parameters=[{"name": "y", "float": {"min": 0, "max": 1}}])
    assert other.hpo("run") == 2
    assert "no Trial of Study first had ended with loss and with a configuration within these parameters" in capsys.readouterr().err


def test_a_folder_of_a_study_that_is_not_named_is_refused_before_anything_is_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runs(tmp_path, "first")
    assert first.hpo("run") == 0
    second = runs(tmp_path, "second")
    assert second.hpo("run", "--earlier", first.results) == 2
    said = capsys.readouterr().err
    assert f"--earlier {first.results}: holds Study first, which spec.warmStart.studies does not name." in said
    assert "Add warmStart: {studies: [{name: first}]}." in said
    assert not second.results.exists()


def test_a_replay_that_names_earlier_studies_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = manifest(PROGRAM, algorithm={"replay": {}}, warmStart={"studies": [{"name": "first"}]})
    (tmp_path / "study.json").write_text(json.dumps(study))
    assert Laptop(tmp_path).hpo("validate", tmp_path / "study.json") == 2
    assert "spec.warmStart.studies: is of no use to algorithm replay, which searches nothing. Remove it." in capsys.readouterr().err
