"""Settings of algorithms and schedules: the fields of a frozen dataclass, each with its default, bounds and meaning.

The same fields are read here from a Study's `algorithm: {tpe: {startupTrials: 10}}`, and by the operator when it generates the
CRD, so a new setting is one line in its algorithm's file. In a Study the names are written in camelCase.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from hpo_algorithms._reading import plain
from hpo_algorithms.errors import Fault, nearest

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One setting as a user sees it. `minimum` and `maximum` are inclusive; `kind` is bool, int, float or str."""

    name: str
    field: str
    kind: type
    default: Any
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False


def setting(
    default: Any, doc: str, *, minimum: float | None = None, maximum: float | None = None, choices: Sequence[str] = ()
) -> Any:
    """A dataclass field that a Study may set; `doc` says what it means, in its unit, and why the default is what it is."""
    metadata = {"doc": doc, "minimum": minimum, "maximum": maximum, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(cls: type) -> tuple[Setting, ...]:
    """The settings of a dataclass, in the order of its fields."""
    hints = get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        if "doc" not in field.metadata:
            continue
        options = [each for each in getattr(hints[field.name], "__args__", (hints[field.name],)) if each is not type(None)]
        optional = type(None) in getattr(hints[field.name], "__args__", ())
        kind = float if float in options else options[0]
        found.append(Setting(camel(field.name), field.name, kind, field.default, optional=optional, **field.metadata))
    return tuple(found)


def read_settings(cls: type[T], given: Mapping[str, Any] | None, path: str) -> tuple[T | None, list[Fault]]:
    """The dataclass built from a mapping in camelCase, and every fault found; None where there is one."""
    known = {each.name: each for each in settings_of(cls)}
    given = {} if given is None else plain(given)
    if not isinstance(given, Mapping):
        return None, [Fault(path, given, "must be a mapping of settings", f"Write {path}: {{}} for the defaults.")]
    faults, values = [], {}
    for name, value in given.items():
        if name not in known:
            remedy = nearest(name, list(known)) or "It has no settings."
            faults.append(Fault(f"{path}.{name}", value, "is not a known setting", remedy))
        elif not (value is None and known[name].optional):
            rule = _refusal(known[name], value)
            if rule:
                faults.append(Fault(f"{path}.{name}", value, rule))
            elif value is not None:
                values[known[name].field] = known[name].kind(value)
    return (None if faults else cls(**values)), faults


def camel(name: str) -> str:
    """snake_case as Kubernetes writes it."""
    return re.sub(r"_(\w)", lambda match: match[1].upper(), name)


def _refusal(known: Setting, value: object) -> str:
    if known.kind is bool:
        return "" if isinstance(value, bool) else "must be true or false"
    if known.kind is str:
        return "" if value in known.choices else f"must be one of {', '.join(known.choices)}"
    if isinstance(value, bool) or not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        return "must be a number"
    if known.kind is int and value != int(value):
        return "must be a whole number"
    if known.minimum is not None and value < known.minimum:
        return f"must be at least {known.minimum:g}"
    if known.maximum is not None and value > known.maximum:
        return f"must be at most {known.maximum:g}"
    return ""
