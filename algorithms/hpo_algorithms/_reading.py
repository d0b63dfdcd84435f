"""From the list in `Study.spec.parameters` to typed parameters, finding every fault on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hpo_algorithms.errors import Fault, nearest
from hpo_algorithms.parameters import (
    MAX_INT_VALUES,
    MAX_LOG_INT,
    Categorical,
    Condition,
    Float,
    Int,
    Ordinal,
    Parameter,
    Value,
    steps_within,
)

KINDS = ("float", "int", "ordinal", "categorical")
SCALES = ("Linear", "Log")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
MAX_PARAMETERS = 100
MAX_CHOICES = 100
MAX_TEXT = 256
LARGEST, SMALLEST = 1e150, 1e-150  # a float beyond them cannot be squared
NARROWEST = 1e-9  # of a float's size: a narrower range has too few values that can be told apart
FINEST = 1e-10  # of a float's size: steps below it are lost in rounding
LARGEST_INT = 2**53  # beyond it a whole number changes on its way through JSON
IN_REACH = f"must be 0 or a finite number between {SMALLEST:g} and {LARGEST:g} in size"
YAML_NUMBER = "Take away the quotes; YAML 1.1 also wants 1.0e-5 for 1e-5."


def read_parameters(spec: object) -> tuple[list[Parameter], list[Fault], list[str]]:
    """The parameters that could be read, every fault found, and notes on what is legal but was changed."""
    spec = plain(spec)
    if not isinstance(spec, Sequence) or isinstance(spec, str):
        return [], [Fault("", spec, "must be a list of parameters")], []
    reading = _Reading(each.get("name") for each in spec if isinstance(each, Mapping))
    if not spec:
        reading.fault("", None, "is empty", "Name at least one parameter to search over.")
    if len(spec) > MAX_PARAMETERS:
        reading.fault("", None, f"has {len(spec)} parameters; at most {MAX_PARAMETERS} are allowed")
        return [], reading.faults, []
    for place, entry in enumerate(spec):
        reading.read(f"[{place}]", entry)
    return list(reading.known.values()), reading.faults, reading.notes


class _Reading:
    """One pass over the list; remembers the parameters read so far, for `when` looks back at them."""

    def __init__(self, names: Iterable[object]) -> None:
        self.known: dict[str, Parameter] = {}
        self._names = [name for name in names if isinstance(name, str)]
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self._read: set[str] = set()
        self._variables: dict[str, str] = {}  # environment variable -> name of the parameter that has it

    def fault(self, path: str, value: object, rule: str, remedy: str = "") -> None:
        self.faults.append(Fault(path, value, rule, remedy))

    def read(self, path: str, entry: object) -> None:
        if not self._fields(path, entry, ("name", *KINDS, "when"), ("name",)):
            return
        assert isinstance(entry, Mapping)
        if not self._name(f"{path}.name", entry["name"]):
            return
        name: str = entry["name"]
        kinds = [kind for kind in KINDS if entry.get(kind) is not None]
        if len(kinds) != 1:
            rule = f"has {' and '.join(kinds)}" if kinds else "has no kind"
            self.fault(path, None, f"{rule}; exactly one of {', '.join(KINDS)} is needed")
            return
        before = len(self.faults)
        when = self._when(f"{path}.when", entry.get("when"), name)
        kind = kinds[0]
        parameter: Parameter | None = getattr(self, f"_{kind}")(f"{path}.{kind}", name, entry[kind], when)
        if parameter is not None and len(self.faults) == before:
            self.known[name] = parameter

    def _name(self, path: str, name: object) -> bool:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self.fault(path, name, "must be 1 to 63 letters, digits, '_', '-' or '.', the first one a letter or '_'")
            return False
        variable = re.sub(r"[^A-Z0-9_]", "_", name.upper())
        other = self._variables.setdefault(variable, name)
        if other != name:
            rule = f"cannot be told from '{other}' as an environment variable (HPO_PARAM_{variable})"
            self.fault(path, name, rule, "Rename one of them.")
        elif name in self._read:
            self.fault(path, name, "stands twice", "Give each parameter a name of its own.")
        else:
            self._read.add(name)
            return True
        return False

    def _float(self, path: str, name: str, entry: object, when: tuple[Condition, ...]) -> Float | None:
        if not self._fields(path, entry, ("min", "max", "scale", "step"), ("min", "max")):
            return None
        assert isinstance(entry, Mapping)
        low, high = self._number(path, entry, "min"), self._number(path, entry, "max")
        step = self._number(path, entry, "step") if entry.get("step") is not None else None
        log = self._scale(path, entry)
        if low is None or high is None or not self._range(path, low, high, log, entry.get("step")):
            return None
        size = max(abs(low), abs(high))
        if high - low < NARROWEST * size:
            remedy = "Search over the difference from min, and add it in the program."
            self.fault(f"{path}.max", high, "makes the range too narrow for its values to be told apart", remedy)
            return None
        if step is not None and step < FINEST * size:
            self.fault(f"{path}.step", step, "is too small for the range", "Leave step out.")
            return None
        if step is not None:
            step = float(step)
            reached = float(f"{low + steps_within(low, high, step) * step:.15g}")
            if high - reached > 1e-6 * step:
                self.notes.append(f"parameter '{name}': steps of {step!r} from {low!r} end at {reached!r}, short of max {high!r}")
                high = reached
        return Float(name, float(low), float(high), log, step, when)

    def _int(self, path: str, name: str, entry: object, when: tuple[Condition, ...]) -> Int | None:
        if not self._fields(path, entry, ("min", "max", "scale", "step"), ("min", "max")):
            return None
        assert isinstance(entry, Mapping)
        low, high = self._whole(path, entry, "min"), self._whole(path, entry, "max")
        step = self._whole(path, entry, "step") if entry.get("step") is not None else 1
        log = self._scale(path, entry)
        if low is None or high is None or step is None or not self._range(path, low, high, log, entry.get("step")):
            return None
        for field, bound in (("min", low), ("max", high)):
            if abs(bound) > LARGEST_INT:
                remedy = "Use a float and round it in the program."
                self.fault(f"{path}.{field}", bound, f"must be at most {LARGEST_INT} in size", remedy)
                return None
        if high - low >= MAX_INT_VALUES or (log and high > MAX_LOG_INT):
            self.fault(f"{path}.max", high, "makes the range too wide for an int", "Use a float and round it in the program.")
            return None
        reached = low + (high - low) // step * step
        if reached != high:
            self.notes.append(f"parameter '{name}': steps of {step} from {low} end at {reached}, short of max {high}")
        return Int(name, low, reached, log, step, when)

    def _ordinal(self, path: str, name: str, entry: object, when: tuple[Condition, ...]) -> Ordinal | None:
        values = self._list(path, entry, "values")
        for place, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int | float):
                remedy = YAML_NUMBER if _looks_like_number(value) else "For names use a categorical."
                self.fault(f"{path}.values[{place}]", value, "must be a number", remedy)
            elif not _in_reach(value):
                self.fault(f"{path}.values[{place}]", value, IN_REACH)
            elif place and isinstance(values[place - 1], int | float) and not value > values[place - 1]:
                self.fault(f"{path}.values[{place}]", value, f"must be greater than the one before it ({values[place - 1]!r})")
        return Ordinal(name, tuple(values), when) if values else None

    def _categorical(self, path: str, name: str, entry: object, when: tuple[Condition, ...]) -> Categorical | None:
        choices = self._list(path, entry, "choices")
        for place, choice in enumerate(choices):
            if not isinstance(choice, str):
                number = isinstance(choice, int | float) and not isinstance(choice, bool)
                remedy = "For numbers use an ordinal." if number else f"Quote it: '{str(choice).lower()}'."
                self.fault(f"{path}.choices[{place}]", choice, "must be a string", remedy)
            elif not choice or len(choice) > MAX_TEXT:
                self.fault(f"{path}.choices[{place}]", choice, f"must have 1 to {MAX_TEXT} characters")
            elif choice in choices[:place]:
                self.fault(f"{path}.choices[{place}]", choice, "stands twice")
        return Categorical(name, tuple(choices), when) if choices else None

    def _when(self, path: str, entry: object, name: str) -> tuple[Condition, ...]:
        if entry is None:
            return ()
        if not isinstance(entry, list | tuple) or len(entry) > 8:
            self.fault(path, entry, "must be a list of at most 8 conditions like {parameter: optimizer, in: [sgd]}")
            return ()
        found = tuple(c for place, each in enumerate(entry) if (c := self._condition(f"{path}[{place}]", each, name)))
        if parent := self._contradiction(found):
            self.fault(path, None, f"can never hold, for '{parent}' cannot have all the values that it needs at once")
        return found

    def _contradiction(self, when: tuple[Condition, ...]) -> str:
        """The parameter of which conditions, with those of the parents they name, ask what it cannot be; empty if there is none."""
        needed: dict[str, set[Value]] = {}
        waiting, met = list(when), set(when)
        while waiting:
            condition = waiting.pop()
            parent = condition.parameter
            needed[parent] = needed.get(parent, set(condition.values)) & set(condition.values)
            if not needed[parent]:
                return parent
            fresh = [each for each in self.known[parent].when if each not in met]
            met.update(fresh)
            waiting += fresh
        return ""

    def _condition(self, path: str, entry: object, name: str) -> Condition | None:
        if not self._fields(path, entry, ("parameter", "in"), ("parameter", "in")):
            return None
        assert isinstance(entry, Mapping)
        wanted = entry["parameter"]
        parent = self.known.get(wanted) if isinstance(wanted, str) else None
        if parent is None:
            later = wanted in self._names[self._names.index(name) + 1 :]
            if later or wanted == name or wanted not in self._names:  # else it stands earlier, and is itself at fault
                remedy = "Move it before this one." if later else nearest(wanted, list(self.known)) or "This one is the first."
                self.fault(f"{path}.parameter", wanted, "is not a parameter that stands earlier in the list", remedy)
            return None
        if parent.count is None or isinstance(parent, Float):
            self.fault(f"{path}.parameter", parent.name, "is a float, which cannot carry a condition", "Make it an ordinal.")
            return None
        values = entry["in"]
        if not isinstance(values, list | tuple) or not 0 < len(values) <= MAX_CHOICES:
            self.fault(f"{path}.in", values, f"must be a list of 1 to {MAX_CHOICES} values of '{parent.name}'")
            return None
        for place, value in enumerate(values):
            if refusal := parent.refusal(value):
                self.fault(f"{path}.in[{place}]", value, f"is no value of '{parent.name}': it {refusal}")
                return None
        return Condition(parent.name, tuple(dict.fromkeys(parent.canonical(value) for value in values)))

    # Pieces

    def _fields(self, path: str, entry: object, known: Sequence[str], required: Sequence[str]) -> bool:
        self.faults += field_faults(path, entry, known, required)
        return isinstance(entry, Mapping) and all(entry.get(field) is not None for field in required)

    def _number(self, path: str, entry: Mapping[str, Any], field: str) -> float | None:
        value = entry[field]
        if _looks_like_number(value):
            self.fault(f"{path}.{field}", value, "is a string", YAML_NUMBER)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            self.fault(f"{path}.{field}", value, "must be a number")
        elif not _in_reach(value):
            self.fault(f"{path}.{field}", value, IN_REACH)
        else:
            return value
        return None

    def _whole(self, path: str, entry: Mapping[str, Any], field: str) -> int | None:
        value = self._number(path, entry, field)
        if value is None:
            return None
        if value != int(value):
            self.fault(f"{path}.{field}", entry[field], "must be a whole number", "For fractions use a float.")
            return None
        return int(value)

    def _scale(self, path: str, entry: Mapping[str, Any]) -> bool:
        scale = entry.get("scale")
        if scale is not None and scale not in SCALES:
            self.fault(f"{path}.scale", scale, "must be Linear or Log", nearest(scale, SCALES))
        return bool(scale == "Log")

    def _range(self, path: str, low: float, high: float, log: bool, step: object) -> bool:
        before = len(self.faults)
        if not low < high:
            self.fault(
                f"{path}.min", low, f"must be less than max ({high!r})", "For a single value use an ordinal or a categorical."
            )
        if log and low <= 0:
            self.fault(f"{path}.min", low, "must be greater than 0 on a Log scale")
        if log and step is not None:
            self.fault(f"{path}.step", step, "cannot be combined with a Log scale", "Drop one, or list the values as an ordinal.")
        elif not isinstance(step, int | float) or isinstance(step, bool) or not _in_reach(step):
            pass  # absent, or found wrong before
        elif step <= 0:
            self.fault(f"{path}.step", step, "must be greater than 0")
        elif step > high - low > 0:
            self.fault(f"{path}.step", step, f"must be at most max - min ({high - low!r})", "Leave step out.")
        return len(self.faults) == before

    def _list(self, path: str, entry: object, field: str) -> tuple[Any, ...]:
        if not self._fields(path, entry, (field,), (field,)):
            return ()
        assert isinstance(entry, Mapping)
        values = entry[field]
        if not isinstance(values, list | tuple) or not 0 < len(values) <= MAX_CHOICES:
            self.fault(f"{path}.{field}", values, f"must be a list of 1 to {MAX_CHOICES}")
            return ()
        return tuple(values)


def plain(value: Any) -> Any:
    """The same with the numbers, texts and arrays of numpy as those of Python that they are, also within mappings and lists."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def field_faults(path: str, entry: object, known: Sequence[str], required: Sequence[str]) -> list[Fault]:
    """Why an entry is no mapping with these fields: unknown ones, and required ones that are missing."""
    if not isinstance(entry, Mapping):
        return [Fault(path, entry, f"must be a mapping with {', '.join(required)}")]
    unknown = [field for field in entry if field not in known]
    faults = [Fault(f"{path}.{field}", entry[field], "is not a known field", nearest(field, known)) for field in unknown]
    return faults + [Fault(f"{path}.{field}", None, "is required") for field in required if entry.get(field) is None]


def _in_reach(value: float) -> bool:
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def _looks_like_number(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True
