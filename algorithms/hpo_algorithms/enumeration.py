"""All configurations of a finite space by index, by mixed radix, without ever listing them.

Parameters that are linked by conditions form a component; components are independent, so their sizes multiply. Within a
component the number of ways to go on from the i-th parameter depends only on which later parameters have been ruled out, which
is what the memo of `_ways` is keyed by. Each child is placed right behind its last parent, so that few can be ruled out at a
time: in a tree of conditions the memo then grows with the tree, while parents first and children last would double it with
every parent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from hpo_algorithms.errors import Fault, InvalidSpace
from hpo_algorithms.parameters import Parameter, Value

Dead = frozenset[int]

MAX_STATES = 20_000  # of the memo: half a second's work; a tree of 100 parameters needs some hundreds


class Enumeration:
    """An indexable view of a space: `size` configurations, `at(index)` in O(number of parameters).

    `points` is the number of values that stand for a continuous range, evenly spaced on its scale with both ends included.
    Raises InvalidSpace where so many parameters have several parents that the configurations cannot be counted.
    """

    def __init__(self, parameters: Sequence[Parameter], points: int) -> None:
        self._names = tuple(each.name for each in parameters)
        self._components = tuple(_Component(each, points) for each in _linked(parameters))
        self.size: int = math.prod(each.size for each in self._components)

    def at(self, index: int) -> dict[str, Value]:
        """The configuration with an index in range(size); the last component varies fastest."""
        if not 0 <= index < self.size:
            raise IndexError(f"index {index} is not in [0, {self.size})")
        found: dict[str, Value] = {}
        for component in reversed(self._components):
            index, inner = divmod(index, component.size)
            found.update(component.at(inner))
        return {name: found[name] for name in self._names if name in found}


class _Component:
    def __init__(self, linked: Sequence[Parameter], points: int) -> None:
        parameters = _children_next(linked)
        self._parameters = parameters
        self._points = points
        self._memo: dict[tuple[int, Dead], int] = {}
        places = {each.name: i for i, each in enumerate(parameters)}
        self._children: list[dict[int, tuple[Value, ...]]] = [{} for _ in parameters]
        for i, parameter in enumerate(parameters):
            for condition in parameter.when:
                allowed = self._children[places[condition.parameter]]
                both = set(condition.values) & set(allowed[i]) if i in allowed else set(condition.values)
                allowed[i] = tuple(both)
        self.size: int = self._ways(0, frozenset())

    def at(self, index: int) -> Iterator[tuple[str, Value]]:
        dead: Dead = frozenset()
        for i, parameter in enumerate(self._parameters):
            for values, after in self._branches(i, dead):
                ways = self._ways(i + 1, after)
                if index < len(values) * ways:
                    which, index = divmod(index, ways)
                    dead = after
                    if i not in values.dead:
                        yield parameter.name, parameter.level(values[which], self._points)
                    break
                index -= len(values) * ways

    def _ways(self, i: int, dead: Dead) -> int:
        if i == len(self._parameters):
            return 1
        if (i, dead) not in self._memo:
            if len(self._memo) >= MAX_STATES:
                rule = "has conditions too entangled for its configurations to be counted"
                raise InvalidSpace([Fault("", None, rule, "Give fewer parameters more than one parent.")])
            ways = sum(len(values) * self._ways(i + 1, after) for values, after in self._branches(i, dead))
            self._memo[i, dead] = ways
        return self._memo[i, dead]

    def _branches(self, i: int, dead: Dead) -> Iterator[tuple[_Levels, Dead]]:
        """The values of parameter i in groups that leave the same later parameters alive, and what is dead after each."""
        parameter, children = self._parameters[i], self._children[i]
        later = frozenset(j for j in dead if j > i)
        if i in dead:
            yield _Levels(1, (), frozenset([i])), later.union(children)
            return
        count = parameter.levels(self._points)
        named = sorted({parameter.index(value) for values in children.values() for value in values})
        if len(named) < count:
            yield _Levels(count, tuple(named), frozenset()), later.union(children)
        for index in named:
            value = parameter.at(index)
            yield _Levels(1, (), frozenset(), index), later.union(j for j, allowed in children.items() if value not in allowed)


class _Levels:
    """A group of a parameter's level indices: `count` of them less the sorted `without`, or the single one at `start`."""

    def __init__(self, count: int, without: tuple[int, ...], dead: Dead, start: int = 0) -> None:
        self._count, self._without, self._start, self.dead = count, without, start, dead

    def __len__(self) -> int:
        return self._count - len(self._without)

    def __getitem__(self, place: int) -> int:
        index = self._start + place
        for gap in self._without:
            index += gap <= index
        return index


def _children_next(parameters: Sequence[Parameter]) -> list[Parameter]:
    """The parameters in an order in which each stands as soon behind its parents as it can."""
    ordered: dict[str, Parameter] = {}

    def place(parameter: Parameter) -> None:
        ordered[parameter.name] = parameter
        for child in parameters:
            parents = {condition.parameter for condition in child.when}
            if parameter.name in parents and child.name not in ordered and parents <= ordered.keys():
                place(child)

    for each in parameters:
        if not each.when:
            place(each)
    return list(ordered.values())


def _linked(parameters: Sequence[Parameter]) -> list[list[Parameter]]:
    """The parameters in groups that no condition crosses, each in the order of the space."""
    group = {each.name: each.name for each in parameters}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for each in parameters:
        for condition in each.when:
            group[root(each.name)] = root(condition.parameter)
    groups: dict[str, list[Parameter]] = {}
    for each in parameters:
        groups.setdefault(root(each.name), []).append(each)
    return list(groups.values())
