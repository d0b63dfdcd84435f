"""The search space: an ordered list of parameters, some of them active only under conditions on earlier ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from hpo_algorithms._reading import plain, read_parameters
from hpo_algorithms.enumeration import Enumeration
from hpo_algorithms.errors import Fault, InvalidParameters, InvalidSpace, nearest
from hpo_algorithms.linear import Allowed, LinearConstraint, Walk, read_constraints
from hpo_algorithms.parameters import Parameter, Value, text_of
from hpo_algorithms.streams import permuted, stream

Params = Mapping[str, Value]

TRIES_BEFORE_ENUMERATION = 16  # draws that may repeat a known configuration before an unseen one is looked up instead
LEAST_SHARE = 0.01  # of a space that its constraints must leave: draws are made until one keeps them
DRAWS = 4000  # by which that share is estimated, always the same ones
TRIES = 200  # draws before one of those that were found then is taken


class SpaceWarning(UserWarning):
    """The space can be searched, but not quite as it was written."""


class Space:
    """What may be tried. Built by `Space.from_spec` from the list that stands in `Study.spec.parameters`.

    A configuration is a dict of typed values that holds the *active* parameters only, in the order of the space. Its encoding is a
    vector of one coordinate in [0, 1] a parameter, NaN where it is inactive.

    >>> space = Space.from_spec([
    ...     {"name": "kernel", "categorical": {"choices": ["rbf", "linear"]}},
    ...     {"name": "gamma", "float": {"min": 1e-4, "max": 1.0, "scale": "Log"},
    ...      "when": [{"parameter": "kernel", "in": ["rbf"]}]},
    ... ])
    >>> space.decode([0.9, 0.5])
    {'kernel': 'linear'}
    >>> space.decode([0.1, 0.5])
    {'kernel': 'rbf', 'gamma': 0.01}
    """

    def __init__(
        self, parameters: Iterable[Parameter], warnings: Iterable[str] = (), constraints: Iterable[LinearConstraint] = ()
    ) -> None:
        self.parameters: tuple[Parameter, ...] = tuple(parameters)
        self.warnings: tuple[str, ...] = tuple(warnings)
        self.constraints: tuple[LinearConstraint, ...] = tuple(constraints)
        self.names: tuple[str, ...] = tuple(each.name for each in self.parameters)
        self._by_name = dict(zip(self.names, self.parameters, strict=True))

    @classmethod
    def from_spec(cls, spec: Sequence[Mapping[str, Any]]) -> Space:
        """Read a list of parameters as in `Study.spec.parameters`.

        Raises InvalidSpace with every fault found, each with its path below the list (`[2].float.min`). What is legal but not quite
        what was written, such as a step that does not divide its range, is a SpaceWarning and stands in `warnings`.
        """
        parameters, faults, notes = read_parameters(spec)
        if faults:
            raise InvalidSpace(faults)
        space = cls(parameters, notes)
        _ = space.size  # counted here, so that conditions too entangled for it are refused at the door
        for note in notes:
            warnings.warn(note, SpaceWarning, stacklevel=2)
        return space

    def constrained(self, spec: Sequence[Mapping[str, Any]]) -> Space:
        """The same space under a list of constraints as in `Study.spec.parameterConstraints`.

        Raises InvalidSpace with every fault found, each with its path below the list; also where they leave less than a hundredth
        of the space, for nothing could be drawn from it.

        >>> space = Space.from_spec([{"name": name, "int": {"min": 1, "max": 8}} for name in ("conv", "dense")])
        >>> few = space.constrained([{"terms": [{"parameter": "conv"}, {"parameter": "dense", "weight": 2}], "max": 10}])
        >>> few.allows({"conv": 4, "dense": 3}), few.allows({"conv": 5, "dense": 3})
        (True, False)
        """
        constraints, faults = read_constraints(spec, self)
        if faults:
            raise InvalidSpace(faults)
        if not constraints:
            return self  # and what it has counted
        found = Space(self.parameters, self.warnings, constraints)
        if len(found._examples) < LEAST_SHARE * DRAWS:
            remedy = "Raise a max, or narrow the ranges of the parameters."
            raise InvalidSpace([Fault("", None, "leave less than one configuration in a hundred", remedy)])
        return found

    def __len__(self) -> int:
        return len(self.parameters)

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and (self.parameters, self.constraints) == (other.parameters, other.constraints)

    def __hash__(self) -> int:
        return hash((self.parameters, self.constraints))

    def __repr__(self) -> str:
        return f"Space({', '.join(repr(each) for each in self.parameters)})"

    def __reduce__(self) -> tuple[type[Space], tuple[tuple[Parameter, ...], tuple[str, ...], tuple[LinearConstraint, ...]]]:
        # The caches below are cheap to make again, and need not cross to a worker process.
        return type(self), (self.parameters, self.warnings, self.constraints)

    # Configurations and the unit cube

    def active(self, parameter: Parameter, params: Params) -> bool:
        """Whether a parameter is active, given the values of the active ones before it."""
        for condition in parameter.when:
            if condition.parameter not in params or params[condition.parameter] not in condition.values:
                return False
        return True

    def decode(self, u: Sequence[float] | np.ndarray) -> dict[str, Value]:
        """The configuration at a point of the unit cube; coordinates of inactive parameters are not looked at."""
        params: dict[str, Value] = {}
        for coordinate, parameter in zip(u, self.parameters, strict=True):
            if self.active(parameter, params):
                params[parameter.name] = parameter.decode(float(coordinate))
        return params

    def encode(self, params: Params) -> np.ndarray:
        """The point of the unit cube that decodes to a configuration: shape (d,), NaN for inactive parameters."""
        return np.array([each.encode(params[each.name]) if each.name in params else np.nan for each in self.parameters])

    def encode_all(self, configurations: Sequence[Params]) -> np.ndarray:
        """The encodings of several configurations: shape (n, d)."""
        return np.array([self.encode(each) for each in configurations]).reshape(len(configurations), len(self))

    def snap(self, U: np.ndarray) -> np.ndarray:
        """Points of the cube, shape (n, d), moved to those of the configurations that they decode to, NaN where inactive."""
        snapped = np.empty_like(U, dtype=float)
        for j, parameter in enumerate(self.parameters):
            snapped[:, j] = parameter.snap(U[:, j])
            for condition in parameter.when:
                i = self.names.index(condition.parameter)
                parent = self.parameters[i]
                allowed = np.array([parent.encode(value) for value in condition.values])
                near = np.abs(snapped[:, i, None] - allowed[None, :]) < _spacing(parent) / 4
                snapped[~near.any(axis=1), j] = np.nan  # also where the parent is NaN, hence inactive itself
        return snapped

    def sample(self, rng: np.random.Generator) -> dict[str, Value]:
        """A configuration drawn uniformly on each parameter's scale, of those that keep the constraints.

        Uses d numbers of the stream, whatever is active, and as many again for each draw that does not keep them.
        """
        for _ in range(TRIES):
            params = self.decode(rng.random(len(self)))
            if self.allows(params):
                return params
        start = int(rng.integers(len(self._examples)))
        examples = (self.decode(u) for u in np.roll(self._examples, -start, axis=0))
        return next(params for params in examples if self.allows(params))

    def allows(self, params: Params) -> bool:
        """Whether a configuration keeps all constraints."""
        return all(constraint.holds(params) for constraint in self.constraints)

    @cached_property
    def _examples(self) -> np.ndarray:
        """Points that keep the constraints, shape (n, d), NaN for inactive parameters."""
        U = self.snap(np.random.default_rng(0).random((DRAWS, len(self))))
        return np.asarray(U[Allowed(self)(U)])

    def key(self, params: Params) -> Hashable:
        """A value that two configurations share exactly when they are the same."""
        return tuple(map(params.get, self.names))  # a generator would take three times as long, for 10,000 Trials

    # Reading and writing

    def validate(self, params: Mapping[str, object], path: str = "") -> dict[str, Value]:
        """A configuration in canonical form: typed, ordered, complete. Raises InvalidParameters with every fault found."""
        if not isinstance(params, Mapping):
            raise InvalidParameters([Fault(path, params, "must be a mapping of parameters to values")])
        params = plain(params)
        faults = [
            Fault(_at(path, name), params[name], "is not a parameter of this space", nearest(name, self.names))
            for name in params
            if name not in self._by_name
        ]
        canonical: dict[str, Value] = {}
        for parameter in self.parameters:
            name, wanted = parameter.name, self.active(parameter, canonical)
            if wanted and name not in params:
                faults.append(Fault(_at(path, name), None, "is missing", "Give a value to every active parameter."))
            elif wanted and (refusal := parameter.refusal(params[name])):
                faults.append(Fault(_at(path, name), params[name], refusal))
            elif wanted:
                canonical[name] = parameter.canonical(params[name])  # type: ignore[arg-type]
            elif name in params and not faults:
                rule = "is not active: " + " and ".join(f"{c.parameter} in {list(c.values)}" for c in parameter.when)
                faults.append(Fault(_at(path, name), params[name], rule, "Leave it out."))
        if faults:
            raise InvalidParameters(faults)
        for constraint in self.constraints:
            if not constraint.holds(canonical):
                raise InvalidParameters([Fault(path, None, f"breaks the constraint {constraint}", "Lower one of its values.")])
        return canonical

    def format(self, params: Params) -> dict[str, str]:
        """The values as strings, as they stand in a Trial."""
        return {name: text_of(value) for name, value in params.items()}

    def parse(self, texts: Mapping[str, str]) -> dict[str, Value]:
        """The inverse of `format`; raises InvalidParameters where a string is no value of its parameter."""
        values: dict[str, object] = {}
        for name, text in texts.items():
            try:
                values[name] = self._by_name[name].parse(text) if name in self._by_name else text
            except ValueError:
                values[name] = text
        return self.validate(values)

    # Counting

    @property
    def size(self) -> int | None:
        """How many configurations there are, None where a parameter is continuous."""
        return None if any(each.count is None for each in self.parameters) else self.enumeration.size

    @cached_property
    def enumeration(self) -> Enumeration:
        """All configurations of a finite space, by index."""
        return Enumeration(self.parameters, points=1)

    def unseen(self, seen: Set[Hashable], draw: Callable[[int], dict[str, Value]], seed: int) -> dict[str, Value] | None:
        """A configuration whose key is not in `seen`; None when all of a finite space have been.

        `draw(attempt)` proposes; where it keeps repeating what was seen, the space is walked in a seeded order instead, so that the
        answer comes after at most len(seen) + 1 further steps. Under constraints uniform draws come before that, and the walk is of
        what keeps them; where several constraints are so entangled that it leads nowhere, all are taken to have been seen. In a
        space without end the first draw that keeps the constraints is taken as it is.
        """
        size = self.size
        if size is None or len(seen) < size:
            for attempt in range(TRIES_BEFORE_ENUMERATION):
                params = draw(attempt)
                if (size is None or self.key(params) not in seen) and self.allows(params):
                    return params
        rng = stream(seed, len(seen), "space/sample")
        if size is None:
            return self.sample(rng)
        others: Iterable[dict[str, Value]]
        if self.constraints:
            others = chain((self.sample(rng) for _ in range(TRIES_BEFORE_ENUMERATION)), Walk(self, seed))
        else:
            others = (self.enumeration.at(permuted(index, size, seed)) for index in range(min(len(seen) + 1, size)))
        return next((params for params in others if self.key(params) not in seen), None)


def _spacing(parent: Parameter) -> float:
    """The least distance of two values of a discrete parameter in the unit interval: that of the last two, on either scale."""
    assert parent.count is not None
    return 1.0 if parent.count == 1 else parent.encode(parent.at(parent.count - 1)) - parent.encode(parent.at(parent.count - 2))


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)
