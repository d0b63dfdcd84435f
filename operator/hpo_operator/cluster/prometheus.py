"""Results from Prometheus: one range query a Study and interval, joined to steps by timestamp.

A Trial of the SDK exports `hpo_trial_metric{metric="val_loss"}` and `hpo_trial_step`; a program that exports its own has the
objective as the name of a series, and the step in the one that `metrics.step` names. Pods' labels `hpo.dev/…` are labels of the
series without the prefix, as the chart's PodMonitor relabels them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp

from hpo_operator.outcomes import metrics_wanted
from hpo_operator.reports import Report, number
from hpo_operator.resources import StudySpec

METRIC, STEP = "hpo_trial_metric", "hpo_trial_step"
MAX_POINTS = 1000  # of a series in one answer; Prometheus itself refuses more than 11,000
TIMEOUT_SECONDS = 10.0


class SourceFailed(Exception):
    """Prometheus did not answer, or not what was asked."""


@dataclass(slots=True)
class Measured:
    """What is known of a Trial's metrics: the curve of the first objective, and the aggregates of all that were asked for."""

    curve: tuple[tuple[int, float], ...] = ()
    report: Report = field(default_factory=Report)


class Prometheus:
    """A Prometheus server, by its base URL."""

    def __init__(self, url: str, session: aiohttp.ClientSession, headers: Mapping[str, str] | None = None) -> None:
        self._url, self._session, self._headers = url.rstrip("/"), session, dict(headers or {})

    async def measure(self, spec: StudySpec, uid: str, start: datetime, end: datetime) -> dict[int, Measured]:
        """What the Trials of a Study reported between two times, by Trial number. Raises SourceFailed."""
        step = resolution(start, end, spec.metrics.interval_seconds)
        query = {
            "query": expression(spec, uid),
            "start": f"{start.timestamp():.3f}",
            "end": f"{end.timestamp():.3f}",
            "step": f"{step.total_seconds():g}",
        }
        answer = await self._get("/api/v1/query_range", query)
        return join(spec, answer)

    async def _get(self, path: str, query: Mapping[str, str]) -> list[Any]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            async with self._session.get(self._url + path, params=query, headers=self._headers, timeout=timeout) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise SourceFailed(f"{self._url}{path} answered {answer.status}: {text[:200]}")
                found = json.loads(text)["data"]["result"]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise SourceFailed(f"{self._url}{path}: {error!r}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise SourceFailed(f"{self._url}{path} answered something else than a query result: {error!r}") from error
        return list(found)


def expression(spec: StudySpec, uid: str) -> str:
    """The one selector of a Study: its own names and the SDK's. Names are quoted, so that nothing can be injected through them."""
    own = [*metrics_wanted(spec), *([spec.metrics.step] if spec.metrics.step else [])]
    names = "|".join(_literal(name) for name in dict.fromkeys([METRIC, STEP, *own]))
    return f'{{__name__=~"{_quoted(names)}",study_uid="{_quoted(uid)}"}}'


def resolution(start: datetime, end: datetime, interval_seconds: int) -> timedelta:
    """The distance of samples: the Study's interval, or more where that would be too many."""
    return max(timedelta(seconds=interval_seconds), (end - start) / MAX_POINTS)


def join(spec: StudySpec, series: Iterable[Mapping[str, Any]]) -> dict[int, Measured]:
    """Series of one answer as curves by Trial number: a value belongs to the step that stood at the same time."""
    steps: dict[int, dict[float, float]] = {}
    values: dict[int, dict[str, dict[float, float]]] = {}
    for each in series:
        labels = each.get("metric") or {}
        trial = labels.get("trial_number", "")
        if not trial.isdigit():
            continue
        samples = _samples(each.get("values") or ())
        name = labels.get("__name__")
        if name in (STEP, spec.metrics.step):
            steps.setdefault(int(trial), {}).update(samples)
        else:
            metric = labels.get("metric", "") if name == METRIC else str(name)
            values.setdefault(int(trial), {}).setdefault(metric, {}).update(samples)
    return {trial: _measured(spec, steps.get(trial, {}), found) for trial, found in values.items()}


def _measured(spec: StudySpec, steps: Mapping[float, float], metrics: Mapping[str, Mapping[float, float]]) -> Measured:
    report, curve = Report(), dict[int, float]()
    objective = spec.objectives[0].metric
    times = sorted({time for samples in metrics.values() for time in samples})
    for place, time in enumerate(times):
        step = steps.get(time)
        reached = int(step) if step is not None and math.isfinite(step) else (None if steps else place)
        now = {name: samples[time] for name, samples in metrics.items() if time in samples}
        report = report.followed_by(reached, now)
        if reached is not None and objective in now:
            curve[reached] = now[objective]  # the same step is sampled many times; its last value counts
    return Measured(tuple(sorted(curve.items())), report)


def _samples(pairs: Iterable[Any]) -> dict[float, float]:
    found = {}
    for pair in pairs:
        value = number(pair[1]) if isinstance(pair, list) and len(pair) == 2 else None
        if value is not None and isinstance(pair[0], int | float):
            found[float(pair[0])] = value
    return found


def _literal(name: str) -> str:
    """A name as a regular expression that matches nothing else."""
    return "".join(each if each.isalnum() or each in "_:" else f"\\x{{{ord(each):x}}}" for each in name)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
