"""The command `hpo`: `hpo exec` from this package, everything else from hpo-operator where that is installed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

USAGE = """\
usage: hpo exec [--pattern REGEX]... [--step-pattern REGEX] -- PROGRAM [ARGUMENT]...

Inside a Trial, `hpo exec` runs a program that only prints, and reports the metrics found in its output; `hpo exec --help`
tells more. This is all that hpo-operator-sdk brings along. The commands that run and show Studies (hpo run, validate, plan,
trials, best) come with another package:  pip install hpo-operator
"""

# Where a distribution registers a function that takes the arguments and returns the exit code.
GROUP, NAME = "hpo.commands", "main"
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["exec"]:
        from hpo._exec import main as exec_main

        return exec_main(arguments[1:])
    with _interruptible_imports():
        command = _command_of_the_operator()
    if command is not None:
        return command(arguments)
    if arguments in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if not arguments:
        sys.stderr.write(USAGE)
    else:
        sys.stderr.write(f"hpo: the command {arguments[0]!r} needs another package: pip install hpo-operator\n")
    return 2


@contextmanager
def _interruptible_imports() -> Iterator[None]:
    """An interrupt ends the process, which has nothing to end yet: some modules make another error of a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, as nohup sets it, or somebody else's
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _command_of_the_operator() -> Callable[[list[str]], int] | None:
    from importlib.metadata import entry_points

    points: Any = entry_points()  # a mapping by group in Python 3.9, a selection since 3.10
    of_group = points.select(group=GROUP) if hasattr(points, "select") else points.get(GROUP, ())
    for point in of_group:
        if point.name == NAME:
            return point.load()  # type: ignore[no-any-return]
    return None


if __name__ == "__main__":
    sys.exit(main())
