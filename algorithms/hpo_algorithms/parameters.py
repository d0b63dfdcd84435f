"""The four kinds of hyperparameter, each with an exact map to and from the unit interval.

A value is *canonical* when `decode(encode(value)) == value`. Every value that `decode` gives is canonical: discrete values sit
in the middle of equal bins, and floats are rounded to a decimal lattice that is coarser than the rounding errors of the map
(about 13 digits of the range on a linear scale, 12 significant digits on a logarithmic one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Value = int | float | str

MAX_INT_VALUES = 2**48  # more bins than this cannot be told apart in a float64 in [0, 1]
MAX_LOG_INT = 2**40  # above, neighbouring integers share one logarithm in float64


@dataclass(frozen=True, slots=True)
class Condition:
    """A parameter is active only while `parameter` is active itself and has one of `values`."""

    parameter: str
    values: tuple[Value, ...]


class Parameter(Protocol):
    """What every kind of parameter can do.

    `count` is the number of values, None where they are continuous; indices run from 0 to count - 1. `encode` and `decode` map to
    and from [0, 1], and `snap` moves an array of unit coordinates to those of the values that they decode to. `levels` and `level`
    list the values for a grid, a continuous range cut into `points`. `refusal` says why a value is not one of this
    parameter's (empty when it is), `canonical` gives it the parameter's type (on a lattice also the lattice's own value, a float
    between lattice points stays as it was given), and `parse` reads `text_of`.
    """

    @property
    def name(self) -> str: ...
    @property
    def when(self) -> tuple[Condition, ...]: ...
    @property
    def count(self) -> int | None: ...
    def decode(self, u: float) -> Value: ...
    def encode(self, value: Value) -> float: ...
    def snap(self, u: np.ndarray) -> np.ndarray: ...
    def at(self, index: int) -> Value: ...
    def index(self, value: Value) -> int: ...
    def levels(self, points: int) -> int: ...
    def level(self, index: int, points: int) -> Value: ...
    def refusal(self, value: object) -> str: ...
    def canonical(self, value: Value) -> Value: ...
    def parse(self, text: str) -> Value: ...


def text_of(value: Value) -> str:
    """A value as it stands in a Trial: floats by repr, so that reading it back gives the same number."""
    return repr(value) if isinstance(value, float) else str(value)


class _Discrete:
    """Equal bins on [0, 1]; what stands in each bin is the subclass's business."""

    __slots__ = ()

    count: int

    def at(self, index: int) -> Value:
        raise NotImplementedError

    def index(self, value: Value) -> int:
        raise NotImplementedError

    def decode(self, u: float) -> Value:
        return self.at(min(max(int(u * self.count), 0), self.count - 1))

    def encode(self, value: Value) -> float:
        return (self.index(value) + 0.5) / self.count

    def snap(self, u: np.ndarray) -> np.ndarray:
        bins = np.clip(np.floor(u * self.count), 0, self.count - 1)
        return np.asarray((bins + 0.5) / self.count)

    def levels(self, points: int) -> int:
        return self.count

    def level(self, index: int, points: int) -> Value:
        return self.at(index)

    def canonical(self, value: Value) -> Value:
        return self.at(self.index(value))


@dataclass(frozen=True, slots=True)
class Float:
    """A real number in [low, high], on a linear or logarithmic scale, or on a grid of steps from low."""

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: tuple[Condition, ...] = ()

    @property
    def count(self) -> int | None:
        """How many values there are: None where the range is continuous."""
        return None if self.step is None else steps_within(self.low, self.high, self.step) + 1

    def decode(self, u: float) -> float:
        count = self.count
        if count is not None:
            return self.at(min(max(int(u * count), 0), count - 1))
        u = min(max(u, 0.0), 1.0)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            value = float(f"{math.exp(low + u * (high - low)):.11e}")
        else:
            # The two-sided form never leaves the range and does not overflow for the widest one.
            value = round(self.low * (1 - u) + self.high * u, self._decimals)
        return min(max(value, self.low), self.high)

    def encode(self, value: Value) -> float:
        assert not isinstance(value, str)
        count = self.count
        if count is not None:
            return (self.index(value) + 0.5) / count
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (math.log(value) - low) / (high - low)
        half = self.high / 2 - self.low / 2
        return (value / 2 - self.low / 2) / half

    def snap(self, u: np.ndarray) -> np.ndarray:
        count = self.count
        if count is None:
            return np.asarray(np.clip(u, 0.0, 1.0))
        return np.asarray((np.clip(np.floor(u * count), 0, count - 1) + 0.5) / count)

    def numbers(self, u: np.ndarray) -> np.ndarray:
        """What coordinates decode to, but for rounding; NaN where they are."""
        count = self.count
        if count is not None:
            assert self.step is not None
            return np.asarray(self.low + np.minimum(np.floor(u * count), count - 1) * self.step)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return np.exp(low + u * (high - low))
        return np.asarray(self.low * (1 - u) + self.high * u)

    def at(self, index: int) -> float:
        assert self.step is not None and self.count is not None
        if index == 0:
            return self.low
        return self.high if index == self.count - 1 else round(self.low + index * self.step, self._decimals)

    def levels(self, points: int) -> int:
        return self.count or points

    def level(self, index: int, points: int) -> float:
        if self.count is not None:
            return self.at(index)
        return self.decode(0.5 if points == 1 else index / (points - 1))

    def refusal(self, value: object) -> str:
        """Why a value is not one of this parameter's; empty when it is."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "must be a finite number"
        if not self.low <= value <= self.high:
            finite = isinstance(value, int) or math.isfinite(value)
            return f"must lie in [{self.low!r}, {self.high!r}]" if finite else "must be a finite number"
        if self.step is not None and abs(self.at(self.index(value)) - value) > max(1e-9 * self.step, 10.0**-self._decimals):
            return f"must be a whole number of steps of {self.step!r} above {self.low!r}"
        return ""

    def canonical(self, value: Value) -> float:
        assert not isinstance(value, str)
        return float(value) if self.step is None else self.at(self.index(value))

    def parse(self, text: str) -> float:
        return float(text)

    def index(self, value: Value) -> int:
        assert not isinstance(value, str)
        assert self.step is not None and self.count is not None
        return min(max(round((value - self.low) / self.step), 0), self.count - 1)

    @property
    def _decimals(self) -> int:
        return 13 - math.ceil(math.log10(max(abs(self.low), abs(self.high))))


@dataclass(frozen=True, slots=True)
class Int(_Discrete):
    """A whole number in [low, high], every `step`-th of them, on a linear or logarithmic scale."""

    name: str
    low: int
    high: int
    log: bool = False
    step: int = 1
    when: tuple[Condition, ...] = ()

    @property
    def count(self) -> int:  # type: ignore[override]
        return (self.high - self.low) // self.step + 1

    def decode(self, u: float) -> int:
        if not self.log:
            return self.at(min(max(int(u * self.count), 0), self.count - 1))
        low, high = self._log_range
        return min(max(round(math.exp(low + min(max(u, 0.0), 1.0) * (high - low))), self.low), self.high)

    def encode(self, value: Value) -> float:
        assert isinstance(value, int)
        if not self.log:
            return (self.index(value) + 0.5) / self.count
        low, high = self._log_range
        return (math.log(value) - low) / (high - low)

    def snap(self, u: np.ndarray) -> np.ndarray:
        if not self.log:
            bins = np.clip(np.floor(u * self.count), 0, self.count - 1)
            return np.asarray((bins + 0.5) / self.count)
        low, high = self._log_range
        values = np.clip(np.rint(np.exp(low + np.clip(u, 0, 1) * (high - low))), self.low, self.high)
        return np.asarray((np.log(values) - low) / (high - low))

    def numbers(self, u: np.ndarray) -> np.ndarray:
        """What coordinates decode to; NaN where they are."""
        if not self.log:
            return np.asarray(self.low + np.minimum(np.floor(u * self.count), self.count - 1) * self.step)
        low, high = self._log_range
        return np.asarray(np.clip(np.rint(np.exp(low + u * (high - low))), self.low, self.high))

    def at(self, index: int) -> int:
        return self.low + index * self.step

    def refusal(self, value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int):
            return "must be a whole number"
        if not self.low <= value <= self.high:
            return f"must lie in [{self.low}, {self.high}]"
        if (value - self.low) % self.step:
            return f"must be a whole number of steps of {self.step} above {self.low}"
        return ""

    def parse(self, text: str) -> int:
        return int(text)

    def index(self, value: Value) -> int:
        assert isinstance(value, int)
        return (value - self.low) // self.step

    @property
    def _log_range(self) -> tuple[float, float]:
        # Half a unit on either side, so that the two ends are as likely as their share of the scale.
        return math.log(self.low - 0.5), math.log(self.high + 0.5)


@dataclass(frozen=True, slots=True)
class Ordinal(_Discrete):
    """One of several numbers, in their order; neighbours are taken to be alike, distances are not."""

    name: str
    values: tuple[int | float, ...]
    when: tuple[Condition, ...] = ()

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.values)

    def at(self, index: int) -> int | float:
        return self.values[index]

    def refusal(self, value: object) -> str:
        return refusal_of_choice(value, self.values)

    def parse(self, text: str) -> int | float:
        for value in self.values:
            if text_of(value) == text:
                return value
        return float(text)

    def index(self, value: Value) -> int:
        return self.values.index(value)


@dataclass(frozen=True, slots=True)
class Categorical(_Discrete):
    """One of several names without an order."""

    name: str
    choices: tuple[str, ...]
    when: tuple[Condition, ...] = ()

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.choices)

    def at(self, index: int) -> str:
        return self.choices[index]

    def refusal(self, value: object) -> str:
        return refusal_of_choice(value, self.choices)

    def parse(self, text: str) -> str:
        return text

    def index(self, value: Value) -> int:
        return self.choices.index(value)


def steps_within(low: float, high: float, step: float) -> int:
    """How many whole steps fit between low and high, forgiving the rounding of decimal fractions.

    A float that was written in decimals is off by 1e-16 of its size, which is the more steps the smaller they are.
    """
    return math.floor((high - low) / step + 1e-9 + 1e-14 * max(abs(low), abs(high)) / step)


def refusal_of_choice(value: object, choices: Sequence[Value]) -> str:
    """Why a value is none of the choices; True is not taken for 1, and '1' not for 1."""
    if not isinstance(value, bool) and any(value == each for each in choices):
        return ""
    shown = ", ".join(repr(each) for each in choices[:8]) + (", …" if len(choices) > 8 else "")
    return f"must be one of {shown}"
