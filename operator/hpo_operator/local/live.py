"""The live picture of a running Study on a terminal, and tables of Trials."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from types import TracebackType
from typing import IO, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo_operator import conditions as c
from hpo_operator.local.display import Display, duration, of_total, rounded, short_parameters, state_of, trouble
from hpo_operator.local.runner import Progress
from hpo_operator.resources import Study, Trial
from hpo_operator.workloads import Phase

MAX_RUNNING_SHOWN = 12
STYLES = {c.COMPLETED: "green", c.EARLY_STOPPED: "yellow", c.CANCELED: "dim", c.INFEASIBLE: "yellow"}


class LiveDisplay(Display):
    """A bar, the running Trials and the best so far, redrawn in place."""

    def __init__(self, out: IO[str]) -> None:
        self._live = Live(console=Console(file=out, highlight=False), auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __call__(self, progress: Progress) -> None:
        with contextlib.suppress(OSError):  # the terminal may be gone, while the Study goes on under nohup
            self._live.update(picture(progress), refresh=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()


def picture(progress: Progress) -> RenderableType:
    """The live picture: title, bar, running Trials."""
    study, ledger = progress.study, progress.ledger
    counts = ledger.counts(0)
    running = [n for n in ledger.active if (w := progress.workloads.get(n)) and w.phase is Phase.RUNNING]
    facts = [f"{of_total(ledger.ended, study)} Trials", f"{len(running)} running"]
    facts += [f"{count} {word}" for count, word in ((counts.early_stopped, "stopped"), (counts.failed, "failed")) if count]
    facts += [_best(study, progress)] if ledger.best() else []
    facts += [f"{duration(progress.now, study.status.start_time)} elapsed"] if study.status.start_time else []
    estimate = study.status.estimated_completion_time
    facts += [f"about {duration(estimate, progress.now)} left"] if estimate and estimate > progress.now else []
    title = Text.assemble((study.metadata.name, "bold"), "  ", " · ".join(facts))
    total = study.spec.limits.max_trials
    bar = ProgressBar(total=total, completed=ledger.ended, pulse=total is None, width=60)
    troubles = [Text(found, style="red")] if (found := trouble(study)) else []
    return Group(title, bar, *troubles, _running_table(progress, running))


def _running_table(progress: Progress, running: list[int]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    metric = progress.study.spec.objectives[0].metric
    for column in ("Trial", "Time", "Step", metric, "Parameters"):
        table.add_column(Text(column), no_wrap=True)
    for number in running[:MAX_RUNNING_SHOWN]:
        trial, workload = progress.ledger.trials[number], progress.workloads[number]
        step, value = (str(workload.curve[-1][0]), f"{workload.curve[-1][1]:.5g}") if workload.curve else ("", "")
        of = f"{step or 0}/{trial.spec.budget}" if trial.spec.budget else step
        since = duration(progress.now, workload.started) if workload.started else ""
        table.add_row(str(number), since, of, value, Text(short_parameters(trial.spec.parameters)))
    if len(running) > MAX_RUNNING_SHOWN:
        table.add_row("…", "", "", "", f"and {len(running) - MAX_RUNNING_SHOWN} more")
    return table


def trials_table(study: Study, trials: Iterable[Trial]) -> Table:
    """Trials with their results, one a row."""
    metrics = [objective.metric for objective in study.spec.objectives]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    names = list(dict.fromkeys(p["name"] for p in study.spec.parameters))
    for column in ("Trial", "State", *metrics, *(["Budget"] if study.spec.budget else []), *names, "Time"):
        table.add_column(Text(column), no_wrap=column in ("Trial", "State", "Time"), overflow="fold")
    for trial in trials:
        state = state_of(trial)
        values = {pair.name: pair.value for pair in trial.spec.parameters}
        observed = {p.name: p.value for p in trial.status.observation.metrics} if trial.status.observation else {}
        table.add_row(
            str(trial.spec.number),
            Text(state, style=STYLES.get(state, "red" if state in c.FAILURES else "")),
            *(Text(rounded(observed.get(metric, ""))) for metric in metrics),
            *([str(trial.spec.budget)] if study.spec.budget else []),
            *(Text(rounded(values.get(name, "–"))) for name in names),
            duration(trial.status.completion_time, trial.status.start_time),
        )
    return table


def _best(study: Study, progress: Progress) -> str:
    best = progress.ledger.best()[0]
    values = {pair.name: pair.value for pair in best.metrics}
    metric = study.spec.objectives[0].metric
    return f"best {metric} {rounded(values.get(metric, ''))} (Trial {best.number})"
