"""What can go wrong in this package, drawn as one tree.

AlgorithmsError
├── InvalidInput            a mistake of the caller: carries one Fault for each thing to mend
│   ├── InvalidSpace        the search space cannot be built
│   ├── InvalidSettings     an algorithm, a schedule or a budget cannot be used as asked
│   └── InvalidParameters   a configuration does not belong to the space
└── InvalidReport           a result was told for a Trial that cannot take it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake in what a user wrote: where, what stands there, which rule it breaks and what to do."""

    path: str
    value: object
    rule: str
    remedy: str = ""

    def __str__(self) -> str:
        shown = "" if self.value is None else f" {_short(self.value)}:"
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.path}:{shown} {self.rule}.{remedy}"

    def under(self, prefix: str) -> Fault:
        """The same fault, seen from a document in which this one's root stands at `prefix`."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return Fault(f"{prefix}{joint}{self.path}", self.value, self.rule, self.remedy)


class AlgorithmsError(Exception):
    """Root of all errors that this package raises on purpose."""


class InvalidInput(AlgorithmsError, ValueError):
    """A mistake of the caller; `faults` holds one entry for each thing to mend, never none."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[InvalidInput], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)  # crosses a process boundary whole


class InvalidSpace(InvalidInput):
    """The search space cannot be built."""


class InvalidSettings(InvalidInput):
    """An algorithm, a schedule or a budget cannot be used as asked."""


class InvalidParameters(InvalidInput):
    """A configuration does not belong to the space."""


class InvalidReport(AlgorithmsError, ValueError):
    """A result was told for a Trial that is unknown, or that has ended."""


def nearest(name: object, known: Sequence[str]) -> str:
    """A remedy that suggests the known name nearest to a misspelt one, else lists them all."""
    lowered = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{lowered[close[0]]}'?"
    return f"Known here: {', '.join(known)}." if known else ""


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
