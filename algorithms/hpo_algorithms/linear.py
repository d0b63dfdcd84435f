"""Bounds on weighted sums of parameters: what the ranges of single parameters cannot say."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpo_algorithms._reading import LARGEST, field_faults, plain
from hpo_algorithms.errors import Fault, nearest
from hpo_algorithms.parameters import Float, Int, Parameter, Value
from hpo_algorithms.streams import permuted

if TYPE_CHECKING:
    from hpo_algorithms.space import Space

MAX_CONSTRAINTS, MAX_TERMS = 8, 16
SLACK = 1e-9  # of the terms' sizes: what rounding may add to a sum that is exactly at its bound
# Beginnings of configurations from which a walk may find that it cannot go on, and as many again for each configuration found.
# Under one constraint there are next to none; what several leave together can be as hard to find as one likes.
DEAD_ENDS, DEAD_ENDS_EACH = 10_000, 10


@dataclass(frozen=True, slots=True)
class LinearConstraint:
    """The sum of numbers times their weights is at most a bound; a parameter that is inactive counts as 0."""

    weights: tuple[tuple[str, float], ...]
    bound: float

    def holds(self, params: Mapping[str, Value]) -> bool:
        """Whether a configuration keeps it."""
        return bool(self.excess([np.array(float(params.get(name, 0.0))) for name, _ in self.weights]) <= 0)

    def excess(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """By how much the sum of these values, one array for each weight, is above the bound and what rounding may add."""
        terms = [weight * value for (_, weight), value in zip(self.weights, values, strict=True)]
        size = np.maximum(np.sum(np.abs(terms), axis=0), abs(self.bound))
        return np.asarray(np.sum(terms, axis=0) - self.bound - SLACK * size)

    def __str__(self) -> str:
        return f"{' + '.join(name if weight == 1 else f'{weight:g} * {name}' for name, weight in self.weights)} <= {self.bound:g}"


class Allowed:
    """Which snapped points of the unit cube keep the constraints of a space, for searches that look at thousands of them."""

    def __init__(self, space: Space) -> None:
        self._constraints = space.constraints
        self._columns = {name: space.names.index(name) for each in space.constraints for name, _ in each.weights}
        self._numbers = {name: p for name in self._columns if isinstance(p := space[name], Float | Int)}

    def __call__(self, U: np.ndarray) -> np.ndarray:
        """A mask over the rows of U, shape (n, d)."""
        kept = np.ones(len(U), dtype=bool)
        values = {name: np.nan_to_num(self._numbers[name].numbers(U[:, j])) for name, j in self._columns.items()}
        for constraint in self._constraints:
            kept &= constraint.excess([values[name] for name, _ in constraint.weights]) <= 0
        return kept


class Walk:
    """The configurations of a finite space that keep its constraints, in a seeded order, without a look at most of the others.

    A configuration is begun with the first parameter, and goes on only with values from which each constraint, taken alone, can
    still be kept. A walk that meets too many dead ends all the same is over before its end. `points` is as in `Enumeration`.
    """

    def __init__(self, space: Space, seed: int, points: int = 1) -> None:
        self._space, self._seed, self._points = space, seed, points
        self._place = {name: i for i, name in enumerate(space.names)}
        self._most = [each.bound + SLACK * abs(each.bound) for each in space.constraints]
        self._least = [
            {name: min(_term(weight, self._level(name, i)) for i in (0, self._count(name) - 1)) for name, weight in each.weights}
            for each in space.constraints
        ]
        self._spare = DEAD_ENDS

    def __iter__(self) -> Iterator[dict[str, Value]]:
        return self._from(0, {})

    def _from(self, place: int, params: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if place == len(self._space):
            if self._space.allows(params):
                self._spare += DEAD_ENDS_EACH
                yield params
            else:
                self._spare -= 1
            return
        name = self._space.names[place]
        if not self._space.active(self._space[name], params):
            yield from self._from(place + 1, params)
            return
        values = self._values(name, place, params)
        self._spare -= not values
        for i in range(len(values)):
            if self._spare <= 0:
                return
            value = self._level(name, values[permuted(i, len(values), self._seed)])
            yield from self._from(place + 1, {**params, name: value})

    def _values(self, name: str, place: int, params: Mapping[str, Value]) -> range:
        """Indices of the values of a parameter with which no constraint is broken whatever comes after."""
        parameter = self._space[name]
        values = range(self._count(name))
        for constraint, most, least in zip(self._space.constraints, self._most, self._least, strict=True):
            own, room = 0.0, most
            for other, weight in constraint.weights:
                if other == name:
                    own = weight
                elif self._place[other] < place:
                    room -= _term(weight, params.get(other, 0))
                else:
                    active = self._will_be_active(self._space[other], place, params)
                    room -= least[other] if active else 0.0 if active is False else min(least[other], 0.0)

            def term(index: int, weight: float = own) -> float:  # which grows with the index, its sign changed if it would fall
                return math.copysign(1, weight) * _term(weight, parameter.level(index, self._points)) if weight else 0.0

            values = values[bisect_left(values, -room, key=term) :] if own < 0 else values[: bisect_right(values, room, key=term)]
        return values

    def _will_be_active(self, parameter: Parameter, place: int, params: Mapping[str, Value]) -> bool | None:
        """None where that hangs on parameters from `place` on."""
        certain = True
        for condition in parameter.when:
            if self._place[condition.parameter] < place:
                if params.get(condition.parameter) not in condition.values:
                    return False
            elif self._will_be_active(self._space[condition.parameter], place, params) is False:
                return False
            else:
                certain = False
        return True if certain else None

    def _count(self, name: str) -> int:
        return self._space[name].levels(self._points)

    def _level(self, name: str, index: int) -> Value:
        return self._space[name].level(index, self._points)


def _term(weight: float, value: Value) -> float:
    """What a value adds to a sum, less what rounding may add."""
    term = weight * float(value)
    return term - SLACK * abs(term)


def read_constraints(spec: object, space: Space) -> tuple[list[LinearConstraint], list[Fault]]:
    """The constraints that could be read from a list as in `Study.spec.parameterConstraints`, and every fault found."""
    spec = plain(spec)
    if not isinstance(spec, Sequence) or isinstance(spec, str) or len(spec) > MAX_CONSTRAINTS:
        return [], [Fault("", spec, f"must be a list of at most {MAX_CONSTRAINTS} constraints")]
    found, faults = [], []
    for i, entry in enumerate(spec):
        constraint, wrong = _read(f"[{i}]", entry, space)
        faults += wrong
        if constraint is not None:
            found.append(constraint)
    return found, faults


def _read(path: str, entry: object, space: Space) -> tuple[LinearConstraint | None, list[Fault]]:
    faults = field_faults(path, entry, ("terms", "max"), ("terms", "max"))
    if faults or not isinstance(entry, Mapping):
        return None, faults
    terms, bound = entry["terms"], entry["max"]
    if not _is_number(bound):
        faults.append(Fault(f"{path}.max", bound, "must be a finite number"))
    if not isinstance(terms, list | tuple) or not 0 < len(terms) <= MAX_TERMS:
        return None, [*faults, Fault(f"{path}.terms", terms, f"must be a list of 1 to {MAX_TERMS} terms")]
    weights: dict[str, float] = {}
    for j, term in enumerate(terms):
        at = f"{path}.terms[{j}]"
        if wrong := field_faults(at, term, ("parameter", "weight"), ("parameter",)):
            faults += wrong
            continue
        name, weight = term["parameter"], 1 if term.get("weight") is None else term["weight"]
        if name not in space.names:
            faults.append(Fault(f"{at}.parameter", name, "is not a parameter of this space", nearest(name, space.names)))
        elif not isinstance(space[name], Float | Int):
            faults.append(Fault(f"{at}.parameter", name, "is neither a float nor an int, and cannot be added up"))
        elif name in weights:
            faults.append(Fault(f"{at}.parameter", name, "stands twice in one sum", "Add its weights."))
        if not _is_number(weight) or weight == 0:
            faults.append(Fault(f"{at}.weight", weight, "must be a finite number other than 0"))
        weights[str(name)] = weight
    return (None, faults) if faults else (LinearConstraint(tuple(weights.items()), float(bound)), [])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
