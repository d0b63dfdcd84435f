"""How a run has ended: in sentences for people, and as JSON values for programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo_operator import conditions as c
from hpo_operator.local.display import duration
from hpo_operator.resources import RankedTrial, Study, Trial


def succeeded(study: Study) -> bool:
    """Whether a Study that has ended has succeeded."""
    found = c.condition(study.status.conditions, c.SUCCEEDED)
    return found is not None and found.status == "True"


def best_trials(study: Study, trials: Mapping[int, Trial], limit: int) -> list[Trial]:
    """The best Trials; those on the Pareto front where there are several objectives."""
    ranked = study.status.pareto_front if len(study.spec.objectives) > 1 else study.status.best
    return [trials[each.number] for each in ranked[:limit] if each.number in trials]


def sentences(study: Study) -> str:
    """What became of the Study, and the best that it found."""
    found = c.condition(study.status.conditions, c.SUCCEEDED)
    assert found is not None
    counts, status = study.status.trials, study.status
    parts = [f"{counts.completed} completed"]
    parts += [f"{n} {word}" for n, word in (
        (counts.early_stopped, "stopped early"), (counts.infeasible, "infeasible"), (counts.failed, "failed")
    ) if n]  # fmt: skip
    took = duration(status.completion_time, status.start_time)
    how = "succeeded" if succeeded(study) else "FAILED"
    lines = [f"Study '{study.metadata.name}' {how} ({found.reason}) after {took}: {', '.join(parts)}."]
    if found.message and not succeeded(study):
        lines.append(found.message)
    if status.best:
        lines.append(_best(study, status.best[0]))
    return "\n".join(lines)


def as_json(study: Study, results: Path) -> dict[str, Any]:
    """The end of a run as JSON values."""
    found = c.condition(study.status.conditions, c.SUCCEEDED)
    assert found is not None
    return {
        "study": study.metadata.name,
        "succeeded": found.status == "True",
        "reason": found.reason,
        "message": found.message,
        "trials": study.status.trials.manifest(),
        "best": [each.manifest() for each in study.status.best],
        "paretoFront": [each.manifest() for each in study.status.pareto_front],
        "results": str(results),
    }


def _best(study: Study, best: RankedTrial) -> str:
    objective = study.spec.objectives[0].metric
    value = next((pair.value for pair in best.metrics if pair.name == objective), "")
    parameters = "  ".join(f"{pair.name}={pair.value}" for pair in best.parameters)
    return f"Best: {objective} = {value} by Trial {best.number}:  {parameters}"
