"""What became of a Trial: from the end of its workload and what it reported to the reason of its `Succeeded` condition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hpo_operator import conditions as c
from hpo_operator.reports import DONOR_UNAVAILABLE_EXIT_CODE, INFEASIBLE_EXIT_CODE, Aggregates, Report
from hpo_operator.resources import (
    CheckpointRecord,
    CurvePoint,
    NamedValue,
    Objective,
    Observation,
    OutcomeConstraint,
    RestoreRecord,
    Study,
    StudySpec,
    Trial,
)
from hpo_operator.workloads import Phase, Workload

T = TypeVar("T")

MAX_CURVE = 64
MAX_METRICS = 64
MAX_NAME = 128  # characters of a metric's name in a status; no objective can be longer


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a Trial: the reason of `Succeeded`, and a sentence for the user."""

    reason: str
    message: str

    @property
    def status(self) -> c.Truth:
        return "True" if self.reason in (c.COMPLETED, c.EARLY_STOPPED) else "False"


def outcome_of(spec: StudySpec, workload: Workload) -> Outcome | None:
    """What a workload that has ended means for its Trial; None while its result may still come."""
    report = workload.report or Report()
    if report.donor_unavailable is not None or workload.exit_code == DONOR_UNAVAILABLE_EXIT_CODE:
        why = report.donor_unavailable or "The program says that it cannot have the checkpoint that it should start from."
        return Outcome(c.DONOR_UNAVAILABLE, why)
    if report.infeasible is not None or workload.exit_code == INFEASIBLE_EXIT_CODE:
        return Outcome(c.INFEASIBLE, report.infeasible or "The program says that this configuration cannot be run.")
    if workload.phase is Phase.FAILED and workload.awaiting:
        return None
    if workload.phase is Phase.FAILED:
        reason = workload.reason if workload.reason in {*c.FAILURES, c.DONOR_UNAVAILABLE} else c.PROGRAM_FAILED
        return Outcome(reason, workload.message or "The program failed.")
    for metric in metrics_wanted(spec):
        if metric not in report.metrics:
            if workload.awaiting:
                return None
            return Outcome(c.OBJECTIVE_MISSING, f"{_missing(metric, report)} {workload.message}".strip())
    for objective in spec.objectives:
        value = objective_value(objective, report.metrics[objective.metric])
        if not math.isfinite(value):
            return Outcome(c.OBJECTIVE_NOT_FINITE, f"{objective.metric} is {format_number(value)}.")
    shown = ", ".join(f"{o.metric} = {format_number(objective_value(o, report.metrics[o.metric]))}" for o in spec.objectives)
    return Outcome(c.COMPLETED, f"{shown}.")


def metrics_wanted(spec: StudySpec) -> list[str]:
    """The metrics without which a Trial has no result: objectives, then constraints."""
    return [*dict.fromkeys([*(o.metric for o in spec.objectives), *(o.metric for o in spec.constraints)])]


def is_complete(report: Report | None, wanted: Iterable[str]) -> bool:
    """Whether a report has all metrics that are wanted, or says that there can be none."""
    return report is not None and (report.infeasible is not None or all(name in report.metrics for name in wanted))


def objective_value(objective: Objective, metric: Aggregates) -> float:
    """The value that counts for an objective: its last, or its best."""
    if objective.aggregate == "Last":
        return metric.last
    return metric.lowest if objective.goal == "Minimize" else metric.highest


def losses_of(spec: StudySpec, metrics: dict[str, float]) -> tuple[float, ...]:
    """The objectives as losses to minimise, NaN where one is missing."""
    signs = [1.0 if objective.goal == "Minimize" else -1.0 for objective in spec.objectives]
    return tuple(sign * metrics.get(o.metric, math.nan) for sign, o in zip(signs, spec.objectives, strict=True))


def violation_of(constraints: Iterable[OutcomeConstraint], metrics: dict[str, float]) -> float:
    """By how much outcome constraints are broken in sum, or, below zero, how far the nearest is from being broken.

    Infinite where a constrained metric is missing or not a number.
    """
    excesses = []
    for constraint in constraints:
        value = metrics.get(constraint.metric, math.nan)
        excess = value - constraint.bound if constraint.operator == "LessOrEqual" else constraint.bound - value
        excesses.append(math.inf if math.isnan(excess) else excess)
    nearest = max(excesses, default=0.0)
    return sum(excess for excess in excesses if excess > 0) or (nearest if math.isfinite(nearest) else 0.0)


def observation_of(spec: StudySpec, workload: Workload) -> Observation | None:
    """The evidence, as it is kept in the Trial's status: objectives and constraints first."""
    if workload.report is None and not workload.curve:
        return None
    report = workload.report or Report()
    values = {name: aggregates.last for name, aggregates in report.metrics.items()}
    for objective in spec.objectives:
        if objective.metric in report.metrics:
            values[objective.metric] = objective_value(objective, report.metrics[objective.metric])
    first = [metric for metric in metrics_wanted(spec) if metric in values]
    names = list(dict.fromkeys([*first, *sorted(filter(_writable, values))]))[:MAX_METRICS]
    first_objective = values.get(spec.objectives[0].metric)
    return Observation(
        source=workload.source,
        step=report.step,
        objective=None if first_objective is None else format_number(first_objective),
        metrics=tuple(NamedValue(name=name, value=format_number(values[name])) for name in names),
        curve=tuple(CurvePoint(step=step, value=format_number(value)) for step, value in thinned(workload.curve)),
    )


def checkpoint_folder(uid: str, trial_name: str) -> str:
    """Where a Trial's checkpoints lie in its Study's store: each Study's below its uid, which no other has."""
    return f"{uid}/{trial_name}"


def checkpoint_of(study: Study, trial: Trial, workload: Workload, reason: str) -> CheckpointRecord | None:
    """What is recorded of the checkpoints of a Trial that ends for a reason; None where there can be none.

    One that is not known to have left any may have left part of one, which is to be removed.
    """
    if study.spec.checkpoints is None or (workload.ref is None and trial.status.workload is None):
        return None
    folder, saved = checkpoint_folder(study.metadata.uid, trial.metadata.name), workload.weights.saved
    if saved is None or reason in c.FREED:
        return CheckpointRecord(path=folder, state="Collecting")
    return CheckpointRecord(step=saved.step, digest=saved.digest, size=saved.size, path=f"{folder}/step-{saved.step}")


def restored_of(workload: Workload) -> RestoreRecord | None:
    """What a program says of the checkpoint that it has started from."""
    told = workload.weights.restored
    if told is None:
        return None
    return RestoreRecord(trial_name=told.trial, step=told.step, size=told.size, seconds=told.seconds)


def thinned(points: Sequence[T], limit: int = MAX_CURVE) -> Sequence[T]:
    """At most `limit` of some points: the first, the last, and between them evenly spaced ones."""
    if len(points) <= limit:
        return points
    last = len(points) - 1
    return [points[round(i * last / (limit - 1))] for i in range(limit)]


def format_number(value: float) -> str:
    """A number as a string: repr, NaN as in Prometheus."""
    return "NaN" if math.isnan(value) else repr(value)


def _writable(name: str) -> bool:
    """Whether a program's name for a metric can stand in a status."""
    return 0 < len(name) <= MAX_NAME and c.plain(name) == name


def _missing(metric: str, report: Report) -> str:
    if not report.metrics:
        return f"The program ended well but reported nothing; '{metric}' was expected. Call hpo.report({metric}=…)."
    return f"The program reported {', '.join(sorted(report.metrics)[:8])}, but not '{metric}'."
