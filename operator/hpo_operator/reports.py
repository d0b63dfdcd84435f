"""What programs tell: the final message of the SDK, its live reports, and metrics in a log.

Every text here comes from a user's program, so anything may stand in it: what cannot be read is left out, never guessed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

INFEASIBLE_EXIT_CODE = 86  # a program ends with it to say that its configuration cannot be run
DONOR_UNAVAILABLE_EXIT_CODE = 87  # that the checkpoint that it should start from is missing or damaged
MAX_STEP = 2**53  # what a status can hold

# float() would take more: other scripts' digits, and underscores, which no program means.
# Possessive (++), for a megabyte of digits must not take a minute to refuse.
_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:e[-+]?[0-9]++)?|inf(?:inity)?|nan)", re.IGNORECASE)
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colours, and what else a terminal is told
_OBJECT_NAME = re.compile(r"[-.a-z0-9]{1,253}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Aggregates:
    """A metric over all reports of a run. `lowest` and `highest` leave NaN out, and are NaN only when all were."""

    last: float
    lowest: float
    highest: float

    def followed_by(self, value: float) -> Aggregates:
        """These aggregates after one more report."""
        if math.isnan(value):
            return Aggregates(value, self.lowest, self.highest)
        lowest = value if math.isnan(self.lowest) else min(self.lowest, value)
        highest = value if math.isnan(self.highest) else max(self.highest, value)
        return Aggregates(value, lowest, highest)


@dataclass(frozen=True, slots=True)
class Report:
    """A run's result as far as it is known: the last step, each metric's aggregates, or why there can be none.

    That is because the configuration is infeasible, or because the checkpoint that the run should start from cannot be had.
    """

    step: int | None = None
    metrics: Mapping[str, Aggregates] = field(default_factory=dict)
    infeasible: str | None = None
    donor_unavailable: str | None = None

    def followed_by(self, step: int | None, metrics: Mapping[str, float]) -> Report:
        """This report after one more call of `hpo.report`."""
        merged = dict(self.metrics)
        for name, value in metrics.items():
            merged[name] = merged[name].followed_by(value) if name in merged else Aggregates(value, value, value)
        return Report(self.step if step is None else step, merged, self.infeasible)


@dataclass(frozen=True, slots=True)
class Saved:
    """The newest complete checkpoint that a program tells of."""

    step: int
    digest: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """Which other Trial's checkpoint a program has started from, and what copying it took."""

    trial: str
    step: int
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Weights:
    """What a program tells of its checkpoints."""

    saved: Saved | None = None
    restored: Restored | None = None


NO_WEIGHTS = Weights()


def final_message(text: str) -> Report | None:
    """The report in a termination message: its last whole line that is one. None where no line is."""
    for found in _messages(text):
        if isinstance(found.get("infeasible"), str):
            return Report(_step(found.get("step")), infeasible=found["infeasible"])
        if isinstance(found.get("donorUnavailable"), str):
            return Report(donor_unavailable=found["donorUnavailable"])
        metrics = found.get("metrics")
        if isinstance(metrics, dict):
            return Report(_step(found.get("step")), {k: a for k, v in metrics.items() if (a := _aggregates(v))})
    return None


def final_weights(text: str) -> Weights:
    """What the last whole line of a termination message says of checkpoints. Its paths are not read: they follow from the steps."""
    last = next(_messages(text), {})
    return Weights(_saved(last.get("checkpoint")), _restored(last.get("restored")))


def live_reports(text: str) -> Iterator[tuple[int | None, dict[str, float]]]:
    """The (step, metrics) in the lines of a metrics file, in order."""
    for line in _lines(text):
        found = _mapping(line)
        if found is not None and isinstance(found.get("metrics"), dict):
            metrics = {k: x for k, v in found["metrics"].items() if (x := number(v)) is not None}
            yield _step(found.get("step")), metrics


def log_reports(lines: Iterable[str], pattern: str) -> Iterator[tuple[int | None, dict[str, float]]]:
    """The (step, metrics) that a pattern finds in the lines of a log; each match is one report."""
    expression = re.compile(pattern)
    for line in lines:
        for match in expression.finditer(_ESCAPES.sub("", line)):
            groups = {name: text for name, text in match.groupdict().items() if text is not None}
            step = _step(groups.pop("step", None))
            if "metric" in groups and "value" in groups:
                groups = {groups["metric"]: groups["value"]}
            metrics = {name: value for name, text in groups.items() if (value := number(text)) is not None}
            if metrics:
                yield step, metrics


def number(value: object) -> float | None:
    """A reported value as a number: NaN and infinities are numbers, anything else that is not one is None."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _messages(text: str) -> Iterator[dict[str, Any]]:
    """The whole lines of a termination message that are ours, the last one first."""
    for line in reversed(_lines(text)):
        found = _mapping(line)
        if found is not None and found.get("hpo") is not True and found.get("hpo") == 1:
            yield found


def _saved(found: Any) -> Saved | None:
    if not isinstance(found, dict) or found.get("path") != f"step-{found.get('step')}":
        return None
    step, digest = found.get("step"), found.get("digest")
    if type(step) is not int or not 0 <= step <= MAX_STEP or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return None
    return Saved(step, digest, _count(found.get("bytes")))


def _restored(found: Any) -> Restored | None:
    if not isinstance(found, dict):
        return None
    trial, step, size, seconds = (
        found.get("from"),
        _count(found.get("step")),
        _count(found.get("bytes")),
        number(found.get("seconds")),
    )
    if not isinstance(trial, str) or not _OBJECT_NAME.fullmatch(trial) or step is None or size is None:
        return None
    return Restored(trial, step, size, seconds) if seconds is not None and 0 <= seconds < math.inf else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_STEP else None


def _lines(text: str) -> list[str]:
    """The lines of a text. Not `splitlines`, which also splits at characters that may stand inside a JSON string."""
    return text.split("\n")


def _aggregates(value: Any) -> Aggregates | None:
    values = [number(each) for each in (value if isinstance(value, list) else [value] * 3)]
    if len(values) != 3 or any(each is None for each in values):
        return None
    return Aggregates(*values)  # type: ignore[arg-type]


def _step(value: object) -> int | None:
    """A step as a whole number; of a fraction, such as an epoch of 1.5, the last whole one that was reached."""
    if isinstance(value, str) and re.fullmatch(r"\s*\+?[0-9]{1,19}\s*", value, re.ASCII):
        value = int(value)  # by way of a float, the last digits of a long one would be lost
    if isinstance(value, int) and not isinstance(value, bool):
        return value if 0 <= value <= MAX_STEP else None
    found = number(value)
    return int(found) if found is not None and 0 <= found <= MAX_STEP else None


def _mapping(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
