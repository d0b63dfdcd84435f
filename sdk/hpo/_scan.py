"""Finds metrics in what a program prints, without ever keeping much of it.

Text is cut into lines at line feeds and at carriage returns, which progress bars end their lines with. Each line is searched
by every pattern; what is found in one line makes one report.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from hpo._errors import InvalidPattern, InvalidReport, InvalidStep
from hpo._notices import note_once
from hpo._values import HIGHEST_STEP

# `loss=0.5`, `val_loss: 3e-4`, `"auc": "0.97"`; but neither 12:30, nor 2024-01-31, nor version: 1.2.3, nor 1,234.5, nor time: 12s.
DEFAULT_PATTERN = (
    r"(?<![\w./-])(?P<metric>[A-Za-z_][\w./-]{0,199})[\"']?\s{0,8}[=:]\s{0,8}[\"']?"
    r"(?P<value>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|(?i:nan|inf(?:inity)?)))(?!\w|[.,:-]\d)"
)

# `Epoch 3/27`, `step=100`, `[epoch: 3]`, `{"epoch": 3.0}`, `Step 1,000`.
_STEP_WORD = re.compile(
    r"\b(?P<word>epoch|step|iteration)\b[\"']?\s{0,8}[=:#]?\s{0,8}[\"'\[(]?(?P<step>\d{1,3}(?:,\d{3}){1,5}|\d{1,18}(?:\.\d+)?)(?!\w|[.,]\d)",
    re.IGNORECASE,
)
_STEP_WORDS = frozenset(("epoch", "step", "iteration"))

# Colours and erasures take no room; what else a terminal is told, as to go up a line, parts what stands around it.
_COLOURS = re.compile(r"\x1b\[[0-9;:?]*[mKJ]")
_MOVES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

# Metrics that an output may have besides those that are needed: each report goes through all, and some programs name each image.
MOST_NAMES = 256

# Longer lines are dumps, and searching only their beginning could cut a number in two.
LONGEST_LINE = 64 * 1024


class Lines:
    """Cuts a stream of bytes into lines of text, keeping at most one line of at most 64 kB."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that these bytes complete."""
        *ends, rest = re.split(rb"[\r\n]", data)
        for end in ends:
            self._keep(end)
            yield from self.finish()
        self._keep(rest)

    def finish(self) -> Iterator[str]:
        """The line that has begun, if it can be searched."""
        line, too_long = bytes(self._begun), self._too_long
        self._begun.clear()
        self._too_long = False
        if line and not too_long:
            yield _MOVES.sub(" ", _COLOURS.sub("", line.decode("utf-8", "replace")))

    def _keep(self, part: bytes) -> None:
        self._too_long = self._too_long or len(self._begun) + len(part) > LONGEST_LINE
        if not self._too_long:
            self._begun += part


class Found(NamedTuple):
    """One number in a line; `step` as text where the pattern itself finds it."""

    name: str
    value: str
    step: str | None


class Pattern:
    """A regular expression that finds metrics by its named groups.

    A group `step` is the step. Groups `metric` and `value` are a metric's name and its number; without these two, every
    other named group is a metric of the group's name. Raises `InvalidPattern`.
    """

    def __init__(self, text: str = DEFAULT_PATTERN) -> None:
        self._expression = _compiled("--pattern", text)
        groups = set(self._expression.groupindex)
        self.has_step = "step" in groups
        self._is_general = {"metric", "value"} <= groups
        self._metrics = sorted(groups - {"step"})
        if not self._metrics:
            rule = "must have a named group for each metric"
            remedy = r"Write for example 'loss=(?P<loss>\S+)', or '(?P<metric>\w+)=(?P<value>\S+)' for all"
            raise InvalidPattern("--pattern", text, rule, remedy)

    def find(self, line: str) -> Iterator[Found]:
        """All that a line says, from left to right."""
        for match in self._expression.finditer(line):
            groups = match.groupdict()
            step = groups.get("step")
            if not self._is_general:
                yield from (Found(name, groups[name], step) for name in self._metrics if groups[name] is not None)
            elif groups["metric"] and groups["value"] is not None and groups["metric"].lower() not in _STEP_WORDS:
                yield Found(groups["metric"], groups["value"], step)


class Steps(Protocol):
    """Where the training stands, as the program's lines say: `read` sees each, `step` is asked for each metric found."""

    def read(self, line: str) -> None: ...

    def step(self) -> int | None: ...


class StepPattern:
    """A regular expression for lines that say where the training stands; its group `step`, or else its first, is the step."""

    def __init__(self, text: str) -> None:
        self._expression = _compiled("--step-pattern", text)
        if not self._expression.groups:
            raise InvalidPattern("--step-pattern", text, "must have a group", r"Write for example 'epoch (\d+)'")
        self._group: str | int = "step" if "step" in self._expression.groupindex else 1
        self._step: int | None = None

    def read(self, line: str) -> None:
        """Takes the first step that the line says."""
        match = self._expression.search(line)
        step = _whole_number(match[self._group]) if match else None
        self._step = self._step if step is None else step

    def step(self) -> int | None:
        """The step of a metric found now."""
        return self._step


class StepWords:
    """The number after the word epoch, step or iteration.

    A program may use several of them. The one that stands first in the line of the first metric counts from then on, or else
    the one that was read last before it.
    """

    def __init__(self) -> None:
        self._word: str | None = None
        self._latest: tuple[str, int] | None = None

    def read(self, line: str) -> None:
        """Takes the first step that the line says in the word that counts."""
        for match in _STEP_WORD.finditer(line):
            word, step = match["word"].lower(), _whole_number(match["step"].replace(",", ""))
            if step is not None and self._word in (None, word):
                self._latest = word, step
                return

    def step(self) -> int | None:
        """The step of a metric found now; from now on no other word counts."""
        if self._latest is None:
            return None
        self._word, step = self._latest
        return step


class Watch:
    """Reports what a program's lines say, from all its streams."""

    def __init__(
        self,
        patterns: Sequence[Pattern],
        steps: Steps | None,
        report: Callable[[Mapping[str, float], int | None], None],
        needed: Collection[str] = (),
    ) -> None:
        self._patterns = patterns
        self._steps = steps
        self._report = report
        self._needed = frozenset(needed)
        self._names: set[str] = set()
        self._lock = threading.Lock()

    def line(self, line: str) -> None:
        """Searches one line, and reports once for each step that it names."""
        with self._lock:
            if self._steps:
                self._steps.read(line)
            found: dict[int | None, dict[str, float]] = {}
            for pattern in self._patterns:
                for metric in pattern.find(line):
                    self._collect(metric, found)
            for step, metrics in found.items():
                self._send(metrics, step)

    def _collect(self, metric: Found, found: dict[int | None, dict[str, float]]) -> None:
        if metric.name not in self._names and metric.name not in self._needed:
            if len(self._names) >= MOST_NAMES:
                note_once("names", f"there are more than {MOST_NAMES} metrics; {metric.name[:40]!r} and further ones are left out")
                return
            self._names.add(metric.name)
        try:
            value = float(metric.value)
        except ValueError:
            note_once(f"number {metric.name}", f"{metric.value[:40]!r} was found for metric {metric.name!r}, but is no number")
            return
        step = None
        if metric.step is not None:
            step = _whole_number(metric.step)
        elif self._steps:
            step = self._steps.step()
        found.setdefault(step, {})[metric.name] = value

    def _send(self, metrics: Mapping[str, float], step: int | None) -> None:
        try:
            try:
                self._report(metrics, step)
            except InvalidStep as error:
                note_once("step", f"{error} Metrics count at the highest step until a higher one is found.")
                self._report(metrics, None)
        except InvalidReport as error:
            note_once("report", str(error))


def _compiled(option: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidPattern(option, text, f"must be a regular expression ({error})", "Mend it; quote it for the shell") from None


def _whole_number(text: str | None) -> int | None:
    """A step as a program prints it; of a fraction, such as an epoch of 1.5, the last whole one that was reached."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return int(number) if 0 <= number <= HIGHEST_STEP else None
