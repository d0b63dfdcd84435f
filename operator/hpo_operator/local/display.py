"""What a person sees of a running Study where there is no terminal: plain lines. `live` has the picture for a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from types import TracebackType
from typing import IO

from hpo_operator import conditions as c
from hpo_operator.local.runner import Progress
from hpo_operator.resources import NamedValue, Study, Trial

SHORT = 48


class Display(AbstractContextManager["Display"]):
    """Base: watches a run, and says nothing."""

    def __call__(self, progress: Progress) -> None:
        """Take in one look at the run."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the screen in order."""


class LineDisplay(Display):
    """One line for each Trial that has ended, for logs and pipes. Whoever reads them may go; the Study goes on."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._told: set[int] = set()
        self._first = True
        self._trouble = ""

    def __call__(self, progress: Progress) -> None:
        ledger, study = progress.ledger, progress.study
        ended = ledger.trials.keys() - ledger.active.keys()
        if self._first:
            self._first = False
            self._told = set(ended)
            if ended:
                self._print(f"{study.metadata.name}: going on after {len(ended)} ended Trials")
        for trial in sorted((ledger.trials[number] for number in ended - self._told), key=_end):
            self._told.add(trial.spec.number)
            self._print(f"[{of_total(len(self._told), study)}] {line_of(trial)}")
        if (found := trouble(study)) != self._trouble:
            self._trouble = found
            if found:
                self._print(f"{study.metadata.name}: {found}")

    def _print(self, line: str) -> None:
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        try:
            print(line.encode(encoding, "backslashreplace").decode(encoding), file=self._out, flush=True)
        except OSError:
            self._print = lambda line: None  # type: ignore[method-assign]


def display_for(output: str, quiet: bool) -> Display:
    """The display that fits where the program runs; with JSON on stdout, people are told on stderr."""
    stream = sys.stderr if output == "json" else sys.stdout
    if quiet or stream is None:  # None where it was closed before Python began
        return Display()
    if not stream.isatty() or os.environ.get("TERM") == "dumb":  # where nothing can be redrawn
        return LineDisplay(stream)
    from hpo_operator.local.live import LiveDisplay

    return LiveDisplay(stream)


def line_of(trial: Trial) -> str:
    """A Trial that has ended, in a line."""
    found = c.condition(trial.status.conditions, c.SUCCEEDED)
    reason, message = (found.reason, found.message) if found else (c.PENDING, "")
    what = f"{reason}, {message.rstrip('.')}" if message else reason
    took = duration(trial.status.completion_time, trial.status.start_time)
    return f"Trial {trial.spec.number}: {what}  ({took}; {short_parameters(trial.spec.parameters)})"


def trouble(study: Study) -> str:
    """What keeps the Study from going on as it should, for as long as it does."""
    found = c.condition(study.status.conditions, c.PROGRESSING)
    return found.message if found is not None and found.reason in (c.TRIALS_ACTIVE, c.ALGORITHM_ERROR) else ""


def state_of(trial: Trial) -> str:
    """The reason of a Trial's `Succeeded`, which is what its print column says."""
    return c.reason(trial.status.conditions, c.SUCCEEDED) or c.PENDING


def short_parameters(pairs: Iterable[NamedValue]) -> str:
    """Parameters in one short piece of text."""
    text = ", ".join(f"{pair.name}={rounded(pair.value)}" for pair in pairs)
    return text if len(text) <= 2 * SHORT else text[: 2 * SHORT - 1] + "…"


def of_total(count: int, study: Study) -> str:
    """A number of Trials, out of how many where that is known."""
    total = study.spec.limits.max_trials
    return f"{count}/{total}" if total else str(count)


def rounded(value: str) -> str:
    """A number with the digits that a person compares; anything else as it is."""
    try:
        number = float(value)
    except ValueError:
        return value if len(value) <= SHORT else value[: SHORT - 1] + "…"
    return value if len(value) <= 7 or value.lstrip("-").isdecimal() else f"{number:.5g}"


def duration(end: datetime | None, start: datetime | None) -> str:
    """The time between two moments; empty where one is not known."""
    if end is None or start is None:
        return ""
    seconds = max((end - start).total_seconds(), 0)
    return f"{seconds:.1f}s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def _end(trial: Trial) -> tuple[float, int]:
    return (trial.status.completion_time.timestamp() if trial.status.completion_time else 0.0, trial.spec.number)
