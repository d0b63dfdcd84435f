"""What the tests of the SDK share: programs as a Trial runs them, and the final message as a runner reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hpo import _checkpoints_store, _environment, _notices, _report, checkpoint


def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process had just begun."""
    monkeypatch.setattr(checkpoint, "_reached", {})
    monkeypatch.setattr(_checkpoints_store, "_turns", _checkpoints_store._Turns())
    monkeypatch.setattr(_environment, "_gone_on_from", {})
    monkeypatch.setattr(_report, "_reporter", None)


class TrialUnderTest:
    """A Trial's folder and environment, and the programs that are run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.termination_file = folder / "termination"
        self.metrics_file = folder / "metrics.jsonl"
        self.environment = {
            "HPO_STUDY": "digits",
            "HPO_STUDY_UID": "6f2c",
            "HPO_TRIAL": "digits-7",
            "HPO_TRIAL_NUMBER": "7",
            "HPO_PARAMETERS": '{"lr": 0.001, "layers": 3, "optimizer": "adam"}',
            "HPO_PARAM_LR": "0.001",
            "HPO_OBJECTIVES": "val_loss",
            "HPO_TERMINATION_FILE": str(self.termination_file),
            "HPO_METRICS_FILE": str(self.metrics_file),
        }

    def start(self, *command, **options) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("HPO_", "PYTHONUNBUFFERED"))}
        return subprocess.Popen(
            [str(word) for word in command], env={**bare, **self.environment}, cwd=self.folder, **{**pipes, **options}
        )

    def run(self, *command, **options) -> subprocess.CompletedProcess:
        process = self.start(*command, **options)
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def python(self, program: str, *arguments: str) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-c", textwrap.dedent(program), *arguments)

    def exec(self, *arguments, **options) -> subprocess.CompletedProcess:
        return self.run(sys.executable, "-m", "hpo", "exec", *arguments, **options)

    @property
    def message(self) -> dict:
        return read_message(self.termination_file)

    @property
    def reports(self) -> list:
        return [json.loads(line) for line in self.metrics_file.read_text("utf-8").splitlines()]


def read_message(path) -> dict:
    """The last complete line of the 4 kB that a kubelet keeps; that it is JSON and ours is for the test to find out."""
    complete, newline, _ = Path(path).read_bytes()[-4096:].rpartition(b"\n")
    assert newline, "no complete line"
    return json.loads(complete.rpartition(b"\n")[2])


@pytest.fixture
def trial(tmp_path) -> TrialUnderTest:
    return TrialUnderTest(tmp_path)


@pytest.fixture
def no_study(tmp_path) -> TrialUnderTest:
    outside = TrialUnderTest(tmp_path)
    outside.environment.clear()
    return outside


@pytest.fixture
def message_in():
    return read_message


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """The folder of checkpoints of the Trial that this process is."""
    monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("HPO_TRIAL", "digits-3")
    monkeypatch.setenv("HPO_TERMINATION_FILE", str(tmp_path / "termination"))
    anew(monkeypatch)
    return tmp_path / "own"


@pytest.fixture
def in_another_trial(checkpoints, tmp_path, monkeypatch):
    """A function after which this process is another Trial that starts from what was saved."""

    def begin(saved):
        monkeypatch.setenv("HPO_TRIAL", "digits-7")
        monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(tmp_path / "other"))
        monkeypatch.setenv("HPO_RESTORE_DIR", str(saved.path))
        monkeypatch.setenv("HPO_RESTORE_TRIAL", "digits-3")
        monkeypatch.setenv("HPO_RESTORE_STEP", str(saved.step))
        monkeypatch.setenv("HPO_RESTORE_DIGEST", saved.digest)
        anew(monkeypatch)

    return begin


@pytest.fixture(autouse=True)
def _as_a_fresh_process(monkeypatch):
    """Tests set the variables that they mean, wherever they are run, hear what is told once a process, and have loaded nothing."""
    for name in [name for name in os.environ if name.startswith("HPO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(_notices, "_told", set())
    monkeypatch.setattr(_environment, "_gone_on_from", {})
