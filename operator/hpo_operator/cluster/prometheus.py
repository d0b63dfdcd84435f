"""Results from Prometheus: one range query a Study and interval, joined to steps by timestamp.

A Trial of the SDK exports `hpo_trial_metric{metric="val_loss"}` and `hpo_trial_step`, both of one moment in one scrape; a program
that exports its own has the objective as the name of a series, and the step in the one that `metrics.step` names. Pods' labels
`hpo.dev/…` are labels of the series without the prefix, as the chart's PodMonitor relabels them.

Each answer is whole: from the start of the oldest Trial that is still measured until now. So nothing has to be remembered: a
restart, an outage or samples that arrive late change nothing. What that costs is bounded by the number of points, for which the
distance between them grows; a curve of 64 points needs no more. Where it has grown beyond the distance of the scrapes, the lowest
and highest value are those of the points alone; the termination message, which goes first, has the true ones.

The query takes the last sample of each stretch (`last_over_time`), and not, as a bare selector would, the state at its end: that is
empty as soon as Prometheus has noticed that the pod is gone, so that the last sample before it would mostly be lost; and where
Prometheus does not notice, that sample would be repeated for five minutes more.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import ssl
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import aiohttp
from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hpo_operator.outcomes import metrics_wanted
from hpo_operator.reports import Report, number
from hpo_operator.resources import SAFE_INTEGER, Resource, StudySpec

METRIC, STEP = "hpo_trial_metric", "hpo_trial_step"
UP = "up"  # Prometheus' own: a target is there, whether or not it has reported anything
TARGET = ("job", "namespace", "pod", "container", "instance")  # labels that tell one scraped program from another

MAX_POINTS = 1000  # of a series in one answer; Prometheus itself refuses more than 11,000
MIN_POINTS = 64  # as many as a curve in a status has
MAX_SAMPLES = 100_000  # of all series of one answer, roughly: some three megabytes, a tenth of a second to read
MAX_NAMED = 1000  # Trials; VictoriaMetrics takes no query of more than 16 kB
MAX_BYTES = 32 << 20
MAX_TEXT = 200  # characters of a foreign text that are passed on

ReadableFile = Annotated[Path, Field(strict=False)]


class SourceFailed(Exception):
    """Prometheus did not answer, or (`refused`) not what was asked."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class BasicAuth(Resource):
    """A name and a password."""

    username: str = Field(min_length=1, description="The name.")
    password_file: ReadableFile = Field(description="A file with the password, read anew for each query.")


class PrometheusSettings(Resource):
    """Where and how Prometheus is asked. The installer's, never a Study's."""

    url: str = Field(
        pattern=r"^https?://[^\s]+$", description="Its base URL, such as http://prometheus.monitoring:9090; a path is kept."
    )
    bearer_token_file: ReadableFile | None = Field(None, description="A file with a bearer token, read anew for each query.")
    basic_auth: BasicAuth | None = Field(None, description="Name and password, instead of a token.")
    ca_file: ReadableFile | None = Field(None, description="Certificates to trust instead of the system's, read anew when changed.")
    headers: dict[str, str] = Field({}, description="More headers, such as X-Scope-OrgID.")
    query_timeout_seconds: float = Field(10.0, gt=0, le=300, description="How long one query may take.")

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        if "@" in urlsplit(url).netloc:  # it is told in conditions and logs
            raise PydanticCustomError("secret", "must not hold a name or password; use basicAuth")
        return url

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if self.bearer_token_file and self.basic_auth:
            raise PydanticCustomError("twice", "has both bearerTokenFile and basicAuth; keep one")
        return self


@dataclass(frozen=True, slots=True)
class Run:
    """The run of a Trial that is measured: from when to when its program ran, and in which pods of which namespace, if known."""

    started: datetime
    finished: datetime | None = None
    pods: frozenset[str] = frozenset()
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a Trial's metrics: the curve of the first objective, and the aggregates of all that were asked for."""

    curve: tuple[tuple[int, float], ...] = ()
    report: Report = field(default_factory=Report)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the Trials by number, the time of the newest sample of any pod, and what Prometheus warns of."""

    trials: Mapping[int, Measured]
    newest: datetime | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Grid:
    """The times at which series are evaluated: multiples of a step, so that they stay the same from query to query."""

    first: int
    last: int
    step: int

    @classmethod
    def over(cls, start: datetime, end: datetime, interval_seconds: int, points: int = MAX_POINTS) -> Grid:
        """The grid whose stretches cover all from start to end: the interval apart, doubled while there would be too many."""
        step = interval_seconds
        while (end - start).total_seconds() > points * step:
            step *= 2
        first, last = (math.ceil(time.timestamp() / step) * step for time in (start, end))
        return cls(first, max(first, last), step)


class Prometheus:
    """A Prometheus server, or whatever speaks its API: Thanos, Mimir, VictoriaMetrics."""

    def __init__(self, settings: PrometheusSettings, session: aiohttp.ClientSession) -> None:
        self._settings, self._session = settings, session
        self._url = settings.url.rstrip("/") + "/api/v1/query_range"
        self._trusted: tuple[float, ssl.SSLContext] | None = None

    async def measure(self, spec: StudySpec, uid: str, runs: Mapping[int, Run], now: datetime) -> Answer:
        """What the Trials of a Study have reported, by number, up to now. Raises SourceFailed."""
        series = len(runs) * (len(metrics_wanted(spec)) + 2)
        points = min(max(MAX_SAMPLES // max(series, 1), MIN_POINTS), MAX_POINTS)
        start = min(run.started for run in runs.values())
        grid = Grid.over(min(start, now), now, spec.metrics.interval_seconds, points)
        text = await self._post(
            {
                "query": expression(spec, uid, grid.step, runs),
                "start": str(grid.first),
                "end": str(grid.last),
                "step": str(grid.step),
                "timeout": f"{self._settings.query_timeout_seconds:g}s",
            }
        )
        return await asyncio.to_thread(read, text, spec, runs, grid.step)  # others get their turn meanwhile

    async def _post(self, query: Mapping[str, str]) -> bytes:
        # By POST, since a query over many names may be longer than a URL may be; and without redirects, which would turn it
        # into a GET and could carry the token elsewhere.
        try:
            async with self._session.post(
                self._url,
                data=query,
                headers=self._headers(),
                ssl=self._trust(),
                timeout=aiohttp.ClientTimeout(total=self._settings.query_timeout_seconds),
                allow_redirects=False,
            ) as answer:
                text = await _limited(answer)
                if answer.status == 200:
                    return text
        except SourceFailed:
            raise
        except TimeoutError as error:
            raise SourceFailed(f"{self._url}: no answer within {self._settings.query_timeout_seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise SourceFailed(f"{self._url}: {_shortened(str(error) or repr(error))}") from error
        where = f", to {answer.headers.get('Location')}" if 300 <= answer.status < 400 else ""
        refused = answer.status < 500 and answer.status != 429
        raise SourceFailed(f"{self._url} answered {answer.status}{where}: {_error_in(text)}", refused=refused)

    def _headers(self) -> dict[str, str]:
        found = dict(self._settings.headers)
        basic = self._settings.basic_auth
        if self._settings.bearer_token_file:
            found["Authorization"] = f"Bearer {_secret(self._settings.bearer_token_file)}"
        elif basic:
            pair = f"{basic.username}:{_secret(basic.password_file)}"
            found["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return found

    def _trust(self) -> ssl.SSLContext | bool:
        path = self._settings.ca_file
        if path is None:
            return True
        try:
            changed = path.stat().st_mtime
            if self._trusted is None or self._trusted[0] != changed:
                self._trusted = changed, ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise SourceFailed(f"caFile {path} cannot be read: {error}", refused=True) from error
        return self._trusted[1]


def expression(spec: StudySpec, uid: str, seconds: int, numbers: Collection[int] = ()) -> str:
    """The last sample of each stretch of so many seconds, of the Study's own names and the SDK's.

    Of these Trials alone, unless they are too many to be named: while one runs for long, thousands of others may come and go.
    Names are written as regular expressions that match nothing else, and quoted, so that nothing can be injected through them.
    An empty `metric` is that of all series but the SDK's.
    """
    wanted = metrics_wanted(spec)
    own = [*wanted, *([spec.metrics.step] if spec.metrics.step else [])]
    names = "|".join(_literal(name) for name in dict.fromkeys([METRIC, STEP, UP, *own]))
    metrics = "|".join(["", *(_literal(name) for name in wanted)])
    selector = f'__name__=~"{_quoted(names)}",study_uid="{_quoted(uid)}",metric=~"{_quoted(metrics)}"'
    if 0 < len(numbers) <= MAX_NAMED:
        selector += f',trial_number=~"{"|".join(map(str, sorted(numbers)))}"'
    return f"last_over_time({{{selector}}}[{seconds}s])"


def read(text: bytes, spec: StudySpec, runs: Mapping[int, Run], step: int) -> Answer:
    """An answer's text as measurements. Raises SourceFailed for one that is no answer to a range query.

    An answer with warnings is one: what a part of a federated source holds is better than nothing.
    """
    try:
        found = json.loads(text)
        data = found["data"]
        if found["status"] != "success" or data["resultType"] != "matrix":
            raise ValueError(f"status {found['status']!r}, {_error_in(text)}")
        series = [(_labels(each["metric"]), _samples(each["values"])) for each in data["result"] if "values" in each]
        warnings = tuple(_shortened(str(each)) for each in found.get("warnings") or ())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceFailed(f"something else than a query result was answered: {_shortened(repr(error))}", refused=True) from error
    newest = max((time for _, samples in series for time in samples), default=None)
    return Answer(join(spec, runs, series, step), None if newest is None else datetime.fromtimestamp(newest, UTC), warnings)


Labels = Mapping[str, str]
Samples = dict[float, float]


@dataclass(slots=True)
class _Program:
    """The series of one program that was scraped. A metric is None where several series claim to be it."""

    steps: Samples = field(default_factory=dict)
    metrics: dict[str, Samples | None] = field(default_factory=dict)

    def add(self, metric: str, samples: Samples) -> None:
        self.metrics[metric] = None if metric in self.metrics else samples

    @property
    def found(self) -> dict[str, Samples]:
        return {name: samples for name, samples in self.metrics.items() if samples}

    @property
    def age(self) -> tuple[float, float]:
        """When it was first and last scraped."""
        times = [time for samples in self.found.values() for time in samples]
        return min(times), max(times)


def join(spec: StudySpec, runs: Mapping[int, Run], series: Iterable[tuple[Labels, Samples]], step: int) -> dict[int, Measured]:
    """Series as curves by Trial number: a value belongs to the step that stood at the same time in the same program.

    Series of other Trials, and of other pods of the same Trial, do not count. Where the pod is not told, the program that was
    scraped first most lately does: the others are earlier attempts.
    """
    interval = spec.metrics.interval_seconds
    wanted = metrics_wanted(spec)
    trials: dict[int, list[tuple[Labels, Samples]]] = {}
    for labels, samples in series:
        trial = labels.get("trial_number", "")
        run = runs.get(int(trial)) if re.fullmatch("[0-9]{1,9}", trial) else None
        if run is None or (run.pods and labels.get("pod") and labels["pod"] not in run.pods):
            continue
        if run.namespace and labels.get("namespace", run.namespace) != run.namespace:
            continue  # a pod of somebody else's, with labels that are not its own
        # Clocks of nodes differ, so that there is an interval's grace on both sides.
        begin = run.started.timestamp() - interval
        end = run.finished.timestamp() + interval + step if run.finished else math.inf
        trials.setdefault(int(trial), []).append((labels, {t: v for t, v in samples.items() if begin <= t <= end}))
    found = {}
    for number_, theirs in trials.items():
        programs = [each for each in _programs(spec, wanted, theirs) if each.found]
        if programs:
            found[number_] = _measured(spec, max(programs, key=lambda each: each.age))
    return found


def _programs(spec: StudySpec, wanted: list[str], series: Iterable[tuple[Labels, Samples]]) -> list[_Program]:
    """The series of one Trial by the program that they were scraped from: the labels of a step are those of its metrics."""
    stepped: dict[frozenset[tuple[str, str]], _Program] = {}
    others: list[tuple[Labels, str, Samples]] = []
    for labels, samples in sorted(series, key=lambda each: sorted(each[0].items())):
        name = labels.get("__name__", "")
        if name in (STEP, spec.metrics.step):
            stepped.setdefault(_rest(labels), _Program()).steps.update(samples)
        if name == METRIC or name in wanted:
            metric = labels.get("metric", "") if name == METRIC else name
            others.append((labels, metric, samples))
    unstepped: dict[tuple[str, ...], _Program] = {}
    for labels, metric, samples in others:
        fitting = [each for each in stepped if each <= _rest(labels)]
        if fitting:
            stepped[max(fitting, key=len)].add(metric, samples)
        else:
            unstepped.setdefault(tuple(labels.get(each, "") for each in TARGET), _Program()).add(metric, samples)
    return [*stepped.values(), *unstepped.values()]


def _rest(labels: Labels) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name not in ("__name__", "metric"))


def _measured(spec: StudySpec, program: _Program) -> Measured:
    """One program's samples in order of time. Without a step there is no curve: to count scrapes would be to invent steps."""
    report, curve = Report(), list[tuple[int, float]]()
    metrics, objective = program.found, spec.objectives[0].metric
    for time in sorted({time for samples in metrics.values() for time in samples}):
        reached = _step(program.steps.get(time))
        now = {name: samples[time] for name, samples in metrics.items() if time in samples}
        report = report.followed_by(reached, now)
        if reached is not None and objective in now:
            while curve and curve[-1][0] >= reached:  # the same step again, whose last value counts; or a program begun anew
                curve.pop()
            curve.append((reached, now[objective]))
    return Measured(tuple(curve), report)


def _step(value: float | None) -> int | None:
    """A step as a whole number, the last that was reached; None for what is none, or more than a status can hold."""
    return int(value) if value is not None and 0 <= value <= SAFE_INTEGER else None


def _labels(given: Mapping[str, Any]) -> Labels:
    return {str(name): str(value) for name, value in given.items()}


def _samples(pairs: Iterable[Any]) -> Samples:
    found = {}
    for pair in pairs:
        value = number(pair[1]) if isinstance(pair, list) and len(pair) == 2 else None
        if value is not None and isinstance(pair[0], int | float) and 0 < pair[0] < 1e11:
            found[float(pair[0])] = value
    return found


def _literal(name: str) -> str:
    """A name as a regular expression that matches nothing else."""
    return "".join(each if each.isalnum() or each in "_:" else f"\\x{{{ord(each):x}}}" for each in name)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


async def _limited(answer: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        found += chunk
        if len(found) > MAX_BYTES:
            raise SourceFailed(f"{answer.url.path} answered more than {MAX_BYTES >> 20} MiB", refused=True)
    return bytes(found)


def _secret(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise SourceFailed(f"{path} cannot be read: {error}", refused=True) from error


def _error_in(text: bytes) -> str:
    """What an answer that is none says, as Prometheus words it or else as it stands."""
    try:
        return _shortened(f"{(found := json.loads(text))['errorType']}: {found['error']}")
    except (ValueError, KeyError, TypeError, RecursionError):
        return _shortened(text[: 4 * MAX_TEXT].decode(errors="replace"))


def _shortened(text: str) -> str:
    return " ".join(text.split())[:MAX_TEXT]
