"""What `tune` gives back: the best parameters, and all Trials as a table."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpo_algorithms import AlgorithmsError
from hpo_algorithms.space import Space

from hpo_operator import conditions as c
from hpo_operator.ledger import metrics_of, params_of
from hpo_operator.local.display import rounded
from hpo_operator.local.summary import sentences, succeeded
from hpo_operator.resources import Study, Trial


class Table(list[dict[str, Any]]):
    """Trials as rows, each a dict: `trial`, `state`, the metrics, the budget if there is one, the parameters, `seconds`, `message`.

    A parameter with the name of another column is called `param.<name>`.
    """

    def to_frame(self) -> Any:
        """As a pandas DataFrame, one row a Trial. Raises ImportError where pandas is not installed."""
        try:
            import pandas
        except ImportError:
            raise ImportError("A DataFrame needs pandas: pip install pandas. The table is a list of dicts without it.") from None
        return pandas.DataFrame(list(self), columns=_columns(self))

    def _repr_html_(self) -> str:
        names = _columns(self)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        rows = "".join(f"<tr>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in names)}</tr>" for row in self)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


class Result:
    """How a `tune` has ended.

    Attributes:
        best_params: the best Trial's parameters, typed; those of the first objective.
        best_value: its metric.
        best_trial: its number.
        table: all Trials by number, as rows; `table.to_frame()` makes a DataFrame.
        trials: the same as they are recorded.
        reason, message: why it ended: MaxTrialsReached, SearchExhausted, DeadlineReached, …
        results: the folder with logs and records; it is removed with this object unless it was named.
    """

    def __init__(self, study: Study, space: Space, trials: Mapping[int, Trial], results: Path) -> None:
        found = c.condition(study.status.conditions, c.SUCCEEDED)
        assert found is not None
        self._study = study
        self.reason, self.message, self.succeeded = found.reason, found.message, succeeded(study)
        self.results = results
        self.trials = tuple(trials[number] for number in sorted(trials))
        self.table = Table(_row(study, space, trial) for trial in self.trials)
        self.best_trial: int | None = None
        self.best_params: dict[str, Any] | None = None
        self.best_value: float | None = None
        if study.status.best:
            best = trials[study.status.best[0].number]
            self.best_trial = best.spec.number
            self.best_params = dict(params_of(space, best.spec.parameters))
            self.best_value = metrics_of(best)[study.spec.objectives[0].metric]

    def log(self, number: int) -> str:
        """What the function printed in a Trial, with the traceback if it failed."""
        return (self.results / "trials" / f"{number:04d}" / "log.txt").read_text(errors="replace")

    def __repr__(self) -> str:
        return sentences(self._study)

    def _repr_html_(self) -> str:
        metric = self._study.spec.objectives[0]
        ranked = {each.number: place for place, each in enumerate(self._study.status.best)}
        rows = sorted(self.table, key=lambda row: (ranked.get(row["trial"], len(ranked)), row["trial"]))
        return f"<p>{html.escape(repr(self))}</p><p>{html.escape(metric.metric)}: {metric.goal}</p>{Table(rows)._repr_html_()}"


class StudyFailed(AlgorithmsError):
    """Too many Trials failed, or none gave a result; `result` has them all."""

    def __init__(self, result: Result) -> None:
        super().__init__(f"{result.message or result.reason} Logs: result.log(number) of this exception.")
        self.result = result


def _row(study: Study, space: Space, trial: Trial) -> dict[str, Any]:
    found = c.condition(trial.status.conditions, c.SUCCEEDED)
    status = trial.status
    row: dict[str, Any] = {"trial": trial.spec.number, "state": found.reason if found else c.PENDING}
    wanted = [objective.metric for objective in study.spec.objectives]
    observed = metrics_of(trial)
    row |= {name: observed.get(name) for name in dict.fromkeys([*wanted, *observed])}
    if study.spec.budget:
        row["budget"] = trial.spec.budget
    taken = {*row, "seconds", "message"}
    params = params_of(space, trial.spec.parameters)
    row |= {f"param.{name}" if name in taken else name: params.get(name) for name in space.names}
    done = status.start_time and status.completion_time
    row["seconds"] = (status.completion_time - status.start_time).total_seconds() if done else None  # type: ignore[operator]
    row["message"] = found.message if found and found.reason != c.COMPLETED else ""
    return row


def _cell(value: Any) -> str:
    return "" if value is None else html.escape(rounded(str(value)))


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))
