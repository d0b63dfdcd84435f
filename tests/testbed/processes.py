"""The components of the test bed as child processes, and waiting for things."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from .errors import CommandFailed, MissingTool, ProcessDied, TestbedError, TimedOut

T = TypeVar("T")


class Component:
    """One program that runs until it is stopped. Its output goes to a log file that survives restarts.

    Ended by its process id alone, never by name: other people's clusters may run beside it.
    """

    def __init__(self, name: str, command: Sequence[str | Path], logs: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = logs / f"{name}.log"
        self.environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the program; does nothing when it runs already."""
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            # Out of the terminal's reach: Ctrl-C is for the tests, whose teardown then stops the components in order.
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the program runs now."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id, for tests that stop, continue or measure a component. Raises ProcessDied when it does not run."""
        self.require_running()
        assert self._process is not None
        return self._process.pid

    def require_running(self) -> None:
        """Raises ProcessDied, with the end of the log, when the program has ended."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise ProcessDied(self.name, status, self.log.read_text(errors="replace"))

    def stop(self, grace_seconds: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: what a test means by a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def run(command: Sequence[str | Path], *, input: str | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Runs a program to its end and returns its standard output. Raises CommandFailed with what it said."""
    words = [str(part) for part in command]
    try:
        done = subprocess.run(
            words, input=input, capture_output=True, text=True, env={**os.environ, **(environment or {})}, check=False
        )
    except FileNotFoundError as error:
        raise MissingTool(words[0], "see tests/testbed/README.md for what is needed") from error
    if done.returncode != 0:
        raise CommandFailed(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def wait_until(
    what: str,
    look: Callable[[], T | None],
    *,
    seconds: float = 30.0,
    every: float = 0.05,
    components: Sequence[Component] = (),
) -> T:
    """Looks again and again until something true is seen, and returns it.

    Raises TimedOut with what was seen last (an error of the look counts as seen), ProcessDied when a component ends meanwhile.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        for component in components:
            component.require_running()
        try:
            seen = look()
        except (TestbedError, OSError) as error:
            seen, last = None, error
        else:
            last = seen
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise TimedOut(what, seconds, last)
        time.sleep(every)
