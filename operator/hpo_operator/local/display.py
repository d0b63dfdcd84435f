"""What a person sees of a running Study: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from types import TracebackType
from typing import IO, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo_operator import conditions as c
from hpo_operator.local.runner import Progress
from hpo_operator.resources import NamedValue, Study, Trial
from hpo_operator.workloads import Phase

MAX_RUNNING_SHOWN = 12
SHORT = 48

STYLES = {c.COMPLETED: "green", c.EARLY_STOPPED: "yellow", c.CANCELED: "dim", c.INFEASIBLE: "yellow"}


class Display(AbstractContextManager["Display"]):
    """Base: watches a run, and says nothing."""

    def __call__(self, progress: Progress) -> None:
        """Take in one look at the run."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the screen in order."""


class LiveDisplay(Display):
    """A bar, the running Trials and the best so far, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __call__(self, progress: Progress) -> None:
        self._live.update(picture(progress))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()


class LineDisplay(Display):
    """One line for each Trial that has ended, for logs and pipes."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._told: set[int] = set()
        self._first = True

    def __call__(self, progress: Progress) -> None:
        if self._first:
            self._first = False
            self._told = {trial.spec.number for trial in progress.ledger if trial.spec.number not in progress.ledger.active}
            if self._told:
                print(f"{progress.study.metadata.name}: going on after {len(self._told)} ended Trials", file=self._out, flush=True)
        for number in sorted(progress.ledger.trials.keys() - progress.ledger.active.keys() - self._told):
            self._told.add(number)
            print(f"[{_of_total(progress)}] {line_of(progress.ledger.trials[number])}", file=self._out, flush=True)


def display_for(output: str, quiet: bool) -> Display:
    """The display that fits where the program runs; with JSON on stdout, people are told on stderr."""
    if quiet:
        return Display()
    stream = sys.stderr if output == "json" else sys.stdout
    if stream.isatty():
        return LiveDisplay(Console(file=stream, highlight=False))
    return LineDisplay(stream)


def picture(progress: Progress) -> RenderableType:
    """The live picture: title, bar, running Trials."""
    study, ledger = progress.study, progress.ledger
    counts = ledger.counts(0)
    running = [n for n in ledger.active if (w := progress.workloads.get(n)) and w.phase is Phase.RUNNING]
    facts = [f"{_of_total(progress)} Trials", f"{len(running)} running"]
    facts += [f"{count} {word}" for count, word in ((counts.early_stopped, "stopped"), (counts.failed, "failed")) if count]
    facts += [_best(study, progress)] if ledger.best() else []
    facts += [f"{_duration(progress.now, study.status.start_time)} elapsed"] if study.status.start_time else []
    estimate = study.status.estimated_completion_time
    facts += [f"about {_duration(estimate, progress.now)} left"] if estimate and estimate > progress.now else []
    title = Text.assemble((study.metadata.name, "bold"), "  ", " · ".join(facts))
    total = study.spec.limits.max_trials
    bar = ProgressBar(total=total, completed=ledger.ended, pulse=total is None, width=60)
    return Group(title, bar, _running_table(progress, running))


def _running_table(progress: Progress, running: list[int]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    metric = progress.study.spec.objectives[0].metric
    for column in ("Trial", "Time", "Step", metric, "Parameters"):
        table.add_column(column, no_wrap=True)
    for number in running[:MAX_RUNNING_SHOWN]:
        trial, workload = progress.ledger.trials[number], progress.workloads[number]
        step, value = (str(workload.curve[-1][0]), f"{workload.curve[-1][1]:.5g}") if workload.curve else ("", "")
        of = f"{step or 0}/{trial.spec.budget}" if trial.spec.budget else step
        since = _duration(progress.now, workload.started) if workload.started else ""
        table.add_row(str(number), since, of, value, short_parameters(trial.spec.parameters))
    if len(running) > MAX_RUNNING_SHOWN:
        table.add_row("…", "", "", "", f"and {len(running) - MAX_RUNNING_SHOWN} more")
    return table


def trials_table(study: Study, trials: Iterable[Trial], title: str | None = None) -> Table:
    """Trials with their results, one a row."""
    metrics = [objective.metric for objective in study.spec.objectives]
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), header_style="dim")
    names = list(dict.fromkeys(p["name"] for p in study.spec.parameters))
    for column in ("Trial", "State", *metrics, *(["Budget"] if study.spec.budget else []), *names, "Time"):
        table.add_column(column, no_wrap=column in ("Trial", "State", "Time"), overflow="fold")
    for trial in trials:
        state = state_of(trial)
        values = {pair.name: pair.value for pair in trial.spec.parameters}
        observed = {p.name: p.value for p in trial.status.observation.metrics} if trial.status.observation else {}
        table.add_row(
            str(trial.spec.number),
            Text(state, style=STYLES.get(state, "red" if state in c.FAILURES else "")),
            *(_rounded(observed.get(metric, "")) for metric in metrics),
            *([str(trial.spec.budget)] if study.spec.budget else []),
            *(_rounded(values.get(name, "–")) for name in names),
            _duration(trial.status.completion_time, trial.status.start_time),
        )
    return table


def line_of(trial: Trial) -> str:
    """A Trial that has ended, in a line."""
    found = c.condition(trial.status.conditions, c.SUCCEEDED)
    reason, message = (found.reason, found.message) if found else (c.PENDING, "")
    duration = _duration(trial.status.completion_time, trial.status.start_time)
    return f"Trial {trial.spec.number}: {reason}, {message.rstrip('.')}  ({duration}; {short_parameters(trial.spec.parameters)})"


def state_of(trial: Trial) -> str:
    """The reason of a Trial's `Succeeded`, which is what its print column says."""
    return c.reason(trial.status.conditions, c.SUCCEEDED) or c.PENDING


def short_parameters(pairs: Iterable[NamedValue]) -> str:
    """Parameters in one short piece of text."""
    text = ", ".join(f"{pair.name}={_rounded(pair.value)}" for pair in pairs)
    return text if len(text) <= 2 * SHORT else text[: 2 * SHORT - 1] + "…"


def _best(study: Study, progress: Progress) -> str:
    best = progress.ledger.best()[0]
    values = {pair.name: pair.value for pair in best.metrics}
    metric = study.spec.objectives[0].metric
    return f"best {metric} {_rounded(values.get(metric, ''))} (Trial {best.number})"


def _of_total(progress: Progress) -> str:
    total = progress.study.spec.limits.max_trials
    return f"{progress.ledger.ended}/{total}" if total else str(progress.ledger.ended)


def _rounded(value: str) -> str:
    """A number with the digits that a person compares; anything else as it is."""
    try:
        number = float(value)
    except ValueError:
        return value if len(value) <= SHORT else value[: SHORT - 1] + "…"
    return value if len(value) <= 7 else f"{number:.5g}"


def _duration(end: datetime | None, start: datetime | None) -> str:
    if end is None or start is None:
        return ""
    seconds = max((end - start).total_seconds(), 0)
    return f"{seconds:.1f}s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
