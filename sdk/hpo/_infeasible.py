"""The way out for parameters that cannot be run at all: a batch that no GPU holds, layers that do not fit each other."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from hpo._report import reporter

# What the program exits with. Whoever runs the Trial neither retries it nor counts it as a failure.
INFEASIBLE_EXIT_CODE = 86


class Infeasible(SystemExit):
    """Ends the program with the infeasible exit code; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(INFEASIBLE_EXIT_CODE)
        self.reason = reason


def infeasible(reason: object = "") -> NoReturn:
    """Says that this Trial's parameters cannot be run, and why, and ends the program with exit code 86.

    The algorithm is told that these parameters are as bad as can be; the Trial is neither run again nor counted as failed.
    Ends the program by an exception, `Infeasible`, so that `finally` and `with` do their work; from a thread other than the
    main one, where an exception would end that thread alone, at once.
    """
    reporter().infeasible(str(reason))
    end(Infeasible(str(reason)))


def end(way_out: SystemExit) -> NoReturn:
    """Raises the way out; from a thread other than the main one, where that would end the thread alone, does it at once."""
    if threading.current_thread() is not threading.main_thread():
        _end_now(way_out)
    raise way_out


def _end_now(way_out: SystemExit) -> NoReturn:
    reporter().close()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # the exit code matters more than the last words
            stream.flush()
    os._exit(int(str(way_out.code)))
