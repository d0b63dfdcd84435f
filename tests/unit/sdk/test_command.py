"""The command `hpo`: one name, whether or not hpo-operator is installed."""

import os
import subprocess
import sys
from pathlib import Path

import hpo
import pytest

from tests.testbed.lacking import lacking

PACKAGE_FOLDER = str(Path(hpo.__file__).parent.parent)


@pytest.fixture
def command(tmp_path):
    """Runs `hpo` where nothing is installed but what stands in the given folder."""

    def run(*arguments, folder=""):
        # Without `site`, no installed distribution is seen.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), PACKAGE_FOLDER]))}
        return subprocess.run(
            [sys.executable, "-S", "-m", "hpo", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
            text=True,
        )

    return run


@pytest.fixture
def operator(tmp_path):
    """A folder with a distribution that registers itself as hpo-operator does."""
    folder = tmp_path / "installed"
    metadata = folder / "hpo_operator-9.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hpo-operator\nVersion: 9\n")
    (metadata / "entry_points.txt").write_text("[hpo.commands]\nother = nowhere:main\nmain = operator_command:main\n")
    (folder / "operator_command.py").write_text("def main(arguments):\n    print(arguments)\n    return 5\n")
    return folder


def test_without_the_operator_a_command_says_which_package_brings_it(command):
    done = command("run", "study.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hpo: the command 'run' needs another package: pip install hpo-operator\n"


def test_without_the_operator_help_tells_of_exec_and_of_the_other_package(command):
    for arguments, code in ((["--help"], 0), (["-h"], 0), ([], 2)):
        done = command(*arguments)
        assert done.returncode == code
        assert "hpo exec" in done.stdout + done.stderr
        assert "pip install hpo-operator" in done.stdout + done.stderr


def test_with_the_operator_every_other_command_is_its_own(command, operator):
    for arguments in (["run", "study.yaml", "--parallelism", "2"], ["--help"], []):
        done = command(*arguments, folder=operator)
        assert (done.returncode, done.stdout) == (5, f"{arguments!r}\n")


def test_exec_is_this_package_s_with_and_without_the_operator(command, operator):
    for folder in ("", operator):
        done = command("exec", "--", "echo", "printed", folder=folder)
        assert (done.returncode, done.stdout) == (0, "printed\n")


def test_the_script_is_installed_under_its_name():
    script = Path(sys.executable).parent / "hpo"
    if not script.exists():
        lacking("the package is on the path, but not installed: make .venv/.test")
    assert subprocess.run([script, "exec", "--", "sh", "-c", "exit 7"], check=False).returncode == 7
