"""A preview for people, and for programs."""

from __future__ import annotations

from typing import Any

from hpo_operator.ledger import pairs_of
from hpo_operator.local.display import short_parameters
from hpo_operator.local.preview import Preview
from hpo_operator.local.program import gpus_of
from hpo_operator.resources import Study


def as_json(study: Study, shown: Preview, unit_seconds: float | None) -> dict[str, Any]:
    """The preview as JSON values."""
    return {
        "study": study.metadata.name,
        "configurations": shown.problem.space.size,
        "algorithm": shown.algorithm,
        "schedule": shown.schedule,
        "trials": shown.trials,
        "complete": shown.complete,
        "finished": shown.finished,
        "rungs": [{"budget": budget, "trials": trials} for budget, trials in shown.rungs],
        "budgetUnits": shown.units,
        "budgetUnitsContinued": shown.continued,
        "gpusPerTrial": gpus_of(study.spec),
        "gpuHours": gpu_hours(study, shown, unit_seconds),
        "first": [{"number": t.number, "parameters": dict(t.params), "budget": t.budget} for t in shown.first],
    }


def as_text(study: Study, shown: Preview, unit_seconds: float | None) -> str:
    """The preview in lines."""
    spec, size = study.spec, shown.problem.space.size
    unit = spec.budget.unit if spec.budget else ""
    parameters = f"{len(shown.problem.space)} parameters, " + (f"{size:,} configurations" if size else "continuous")
    if spec.parameter_constraints:
        parameters += f", {len(spec.parameter_constraints)} constraints between them"
    lines = [f"Study '{study.metadata.name}': {parameters}", f"Algorithm: {shown.algorithm}    schedule: {shown.schedule}"]
    bound = "" if shown.complete else " or more (nothing ends the Study by then)"
    lines.append(f"Trials: {shown.trials:,}{bound}, {spec.parallelism} at a time")
    for budget, trials in shown.rungs if spec.budget else ():
        lines.append(f"  {trials:>6,} to {budget:,} {unit}")
    if spec.budget:
        lines.append(f"In sum: {shown.units:,} {unit}" + _continuing(study, shown, unit))
    lines.append(_gpu_line(study, shown, unit_seconds))
    lines.append("First proposals:" if shown.first else "No proposals.")
    for trial in shown.first:
        budget_text = f"  (to {trial.budget} {unit})" if trial.budget else ""
        lines.append(f"  {trial.number}: {short_parameters(pairs_of(shown.problem.space.format(trial.params)))}{budget_text}")
    lines.append("Nothing was run.")
    return "\n".join(lines)


def gpu_hours(study: Study, shown: Preview, unit_seconds: float | None) -> float | None:
    """What the Trials would use, given how long a unit of budget takes, or a Trial where there is no budget."""
    if unit_seconds is None:
        return None
    units = shown.units if study.spec.budget else shown.trials
    return units * unit_seconds * gpus_of(study.spec) / 3600


def _continuing(study: Study, shown: Preview, unit: str) -> str:
    if shown.continued == shown.units:
        return ""
    if study.spec.checkpoints:
        return f", or {shown.continued:,} as promoted Trials go on from their checkpoints"
    return f" ({shown.continued:,} if promoted Trials went on from checkpoints)"


def _gpu_line(study: Study, shown: Preview, unit_seconds: float | None) -> str:
    gpus = gpus_of(study.spec)
    if not gpus:
        return "GPUs: none asked for"
    hours = gpu_hours(study, shown, unit_seconds)
    if hours is not None:
        return f"GPUs: {gpus} a Trial, {hours:,.2f} GPU-hours"
    timeout = study.spec.limits.trial_timeout_seconds
    most = f", at most {shown.trials * timeout * gpus / 3600:,.1f} GPU-hours (limits.trialTimeoutSeconds)" if timeout else ""
    return f"GPUs: {gpus} a Trial{most}; say --unit-seconds for an estimate of GPU-hours"
