"""Studies on a laptop, for tests: real programs, a real results folder, and the runner in this process or in one of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo_operator import cli
from hpo_operator.local import runner
from hpo_operator.local.leftovers import end_leftovers
from hpo_operator.local.runner import LocalRunner
from hpo_operator.local.store import open_for_reading
from hpo_operator.planner import Consultation
from hpo_operator.resources import Study, Trial
from hpo_operator.validation import read_study
from hpo_operator.worker import Method, Opening, Question

REPORT = """echo '{"hpo":1,"step":1,"metrics":{"loss":"0.5"}}' > "$HPO_TERMINATION_FILE" """
PATIENCE = 60.0  # seconds that a test waits for something that must happen


def manifest(program: Sequence[str] | str, **spec: Any) -> dict[str, Any]:
    """A Study of one float and three Trials; a program in one string is a shell's, whose dollars are its own."""
    command = ["sh", "-c", program.replace("$", "$$")] if isinstance(program, str) else list(program)
    container = {"name": "main", "command": command, **spec.pop("container", {})}
    pod = {"terminationGracePeriodSeconds": 1, **spec.pop("pod", {}), "containers": [container]}
    return {
        "apiVersion": "hpo.dev/v1alpha1",
        "kind": "Study",
        "metadata": {"name": spec.pop("name", "tiny")},
        "spec": {
            "objectives": [{"metric": "loss"}],
            "parameters": [{"name": "x", "float": {"min": 0, "max": 1}}],
            "algorithm": {"random": {}},
            "seed": 3,
            "limits": {"maxTrials": 3},
            "template": {"job": {"spec": {"template": {"spec": pod}}}},
            **spec,
        },
    }


class Laptop:
    """A folder with a Study file and its results, and what can be done with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"
        self._forks: list[Fork] = []

    def write(self, program: Sequence[str] | str, **spec: Any) -> Path:
        path = self.folder / "study.json"
        path.write_text(json.dumps(manifest(program, **spec)))
        return path

    def script(self, name: str, text: str) -> list[str]:
        """A Python program in the Study's folder, as a command."""
        (self.folder / name).write_text(textwrap.dedent(text))
        return ["python", name]

    def study(self) -> Study:
        return read_study(json.loads((self.folder / "study.json").read_text()))

    def runner(self, **options: Any) -> LocalRunner:
        return LocalRunner(self.study(), self.folder, self.results, **options)

    def hpo(self, command: str, *arguments: object) -> int:
        """The command in this process; its output goes where the test's goes."""
        words = [str(each) for each in arguments]
        if command == "run":
            words = [str(self.folder / "study.json"), "--results", str(self.results), "--quiet", *words]
        try:
            return cli.main([command, *words])
        except SystemExit as ended:
            return int(ended.code or 0)

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        """`hpo run` in a process of its own."""
        command = [sys.executable, "-m", "hpo", "run", "study.json", "--results", str(self.results), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, **{**pipes, **options})

    def fork(self, *arguments: object) -> Fork:
        """`hpo run` in a copy of this process."""
        self._forks.append(Fork(lambda: self.hpo("run", *arguments)))
        return self._forks[-1]

    def clean_up(self) -> None:
        """End what a test that has failed may have left running."""
        for fork in self._forks:
            fork.end()
        if (self.results / "study.json").exists():
            uid = json.loads((self.results / "study.json").read_text())["metadata"]["uid"]
            end_leftovers(uid, (self.results / "trials").iterdir())

    # What has become of it

    def trials(self) -> list[Trial]:
        return open_for_reading(self.results)[1]

    def recorded(self) -> Study:
        return open_for_reading(self.results)[0]

    def outcomes(self) -> list[tuple[str, str]]:
        """Reason and message of each Trial's end, by number."""
        found = [condition(trial) for trial in self.trials()]
        return [(each.reason, each.message) for each in found]

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.outcomes()]

    def ended(self) -> str:
        """The reason of the Study's `Succeeded`."""
        return condition(self.recorded()).reason

    def parameters(self) -> dict[int, str]:
        return {trial.spec.number: trial.spec.parameters[0].value for trial in self.trials()}

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def log(self, number: int = 0) -> str:
        return (self.results / "trials" / f"{number:04d}" / "log.txt").read_text(errors="replace")


def condition(resource: Study | Trial) -> Any:
    return next(each for each in resource.status.conditions if each.type == "Succeeded")


class Immediate:
    """A Consultant without a process, for tests that are about something else: it has its answer as soon as it is asked."""

    def __init__(self, problem: Any, algorithm: Any, schedule: Any, **options: Any) -> None:
        self._method = Method(Opening(problem, algorithm or {"auto": {}}, schedule, 0, options.get("donors", False)))
        self._answer: Consultation | None = None
        self._ready, self._other_end = os.pipe()
        os.write(self._other_end, b"!")

    @property
    def busy(self) -> bool:
        return self._answer is not None

    def start(self) -> None:
        pass

    def fileno(self) -> int:
        return self._ready

    def ask(self, ledger: Any, first: int, count: int) -> None:
        changes = tuple((trial.number, trial) for trial in ledger.history())
        reply = self._method.reply(Question(changes, first, count, whole=True))
        answer = reply.answer
        told = (answer.proposals, answer.finished, reply.stops, reply.error, count, reply.donors)
        self._answer = Consultation(ledger.version, first, *told)

    def poll(self) -> Consultation | None:
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        for end in (self._ready, self._other_end):
            os.close(end)


def without_a_worker(monkeypatch: Any) -> None:
    """Let the runner of this process ask its algorithm in this process, which saves half a second a run."""
    monkeypatch.setattr(runner, "Consultant", Immediate)


# Processes


def wait_until(condition: Callable[[], Any], what: str, process: subprocess.Popen[bytes] | None = None) -> Any:
    """Until something is true, which it must become; `process` must not end before."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:g} s"
        assert process is None or process.poll() is None, f"{what}: the process ended: {process.communicate()}"  # type: ignore
        time.sleep(0.005)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to look does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that must end."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out.decode(), err.decode()


class Fork:
    """A copy of this process that does some work and ends, for what would take a second each in a process of its own."""

    def __init__(self, work: Callable[[], int]) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                code = work()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def kill(self, what: int = signal.SIGKILL) -> None:
        os.kill(self.pid, what)

    def end(self) -> None:
        if self._code is None:
            self.kill()
            self.code()

    def code(self) -> int:
        """Its exit code, negative for a signal; it must end."""
        if self._code is not None:
            return self._code
        handle = os.pidfd_open(self.pid)
        try:
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            if not poller.poll(PATIENCE * 1000):
                self.kill()
        finally:
            os.close(handle)
        self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


def kill_at(event_number: int, within: Path) -> None:
    """End this process, as kill -9 does, right before its n-th act upon a folder: a write, a renaming, a start of a program."""
    left = event_number
    acts = {"os.rename", "os.mkdir", "os.remove", "subprocess.Popen", "os.killpg"}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in acts and not (event == "open" and _writes_below(within, arguments)):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _writes_below(folder: Path, arguments: tuple[Any, ...]) -> bool:
    path, _, flags = arguments
    return isinstance(path, str | Path) and str(path).startswith(str(folder)) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def environment(**variables: str) -> Mapping[str, str]:
    return {**os.environ, **variables}


def numbered(lines: Sequence[str]) -> Iterator[int]:
    return (int(line.split()[0]) for line in lines)
