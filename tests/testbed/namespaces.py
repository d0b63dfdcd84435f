"""Namespaces of its own for one command and all that it starts: the *enclosure*.

Inside there are a network with nothing but loopback, so that every port is free and no address outside is ever contacted, a
`/run` in memory, and process ids of its own. However the command ends, by itself, by a signal or because the outermost process
was killed with -9, the kernel ends all that runs inside and takes the network and the mounts with it.

Three processes: the *outer* one, which the caller sees and signals; `unshare`, which makes the namespaces; and the *init* of
the new process ids, which runs the command, passes signals on and reaps orphans.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from .cgroups import RUN, name_of_new_run, remove_cgroups_of_the_dead
from .errors import MissingTool, NotEnclosed

ROOT = Path(__file__).resolve().parents[2]
"""The repository's root, from which `tests.testbed` is importable."""

NAMESPACE = "HPO_TESTBED_NAMESPACE"
"""The environment variable that names the network namespace made here."""

_INIT = (sys.executable, "-m", "tests.testbed.enclose", "--init")

GRACE_SECONDS = 10.0
"""How long the command may take to end after SIGTERM before it is killed."""


def enclosed() -> bool:
    """Whether this process runs inside. An inherited variable alone does not count: the namespace must be ours."""
    try:
        return os.environ.get(NAMESPACE) == os.readlink("/proc/self/ns/net")
    except OSError:  # not Linux
        return False


def require_enclosed(what: str) -> None:
    """Raises NotEnclosed outside, where `what` would take other people's ports."""
    if not enclosed():
        raise NotEnclosed(what)


def enclose(command: Sequence[str]) -> int:
    """Runs the command inside and returns its exit status (128 + n when signal n ended it)."""
    environment = dict(os.environ)
    environment[RUN] = name_of_new_run()
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    # setpriv: a killed outer process must take unshare along, which takes the rest.
    unshare = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    try:
        process = subprocess.Popen([*unshare, "--", *_INIT, "--", *command], env=environment)
    except FileNotFoundError as error:
        raise MissingTool("setpriv", "install util-linux") from error
    try:
        return _wait(process)
    finally:
        process.kill()
        process.wait()
        remove_cgroups_of_the_dead()


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Waits for unshare. It ignores SIGTERM itself, so the signal goes to init, past it."""

    def forward(number: int, frame: FrameType | None) -> None:
        for child in _children(process.pid):
            os.kill(child, number)
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    handlers = {signal.SIGTERM: forward, signal.SIGHUP: forward, signal.SIGALRM: lambda *_: process.kill()}
    # The terminal sends Ctrl-C to everyone in the foreground; the command decides what it means.
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = process.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - status if status < 0 else status


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def init(command: Sequence[str]) -> int:
    """Process 1 inside: prepares the namespaces, runs the command, returns its status. The kernel ends the rest after it."""
    _prepare()
    os.environ[NAMESPACE] = os.readlink("/proc/self/ns/net")
    try:
        # SIGINT comes ignored from the outer process; the command gets the usual handlers back.
        child = os.posix_spawnp(command[0], list(command), os.environ, setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    except FileNotFoundError:
        print(f"enclose: {command[0]}: not found", file=sys.stderr)
        return 127
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _prepare() -> None:
    for step in (["ip", "link", "set", "lo", "up"], ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]):
        try:
            subprocess.run(step, check=True)
        except FileNotFoundError as error:
            raise MissingTool(step[0], "install iproute2 and util-linux") from error
