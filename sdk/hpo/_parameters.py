"""The values that the Study chose for this Trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hpo._environment import Environment
from hpo._errors import UnknownParameter
from hpo._notices import note_once


class Parameters(Mapping[str, Any]):
    """Parameter values by name, read-only: `parameters["lr"]`, `parameters.lr`, `parameters.get("momentum", 0.9)`.

    Each has the type that the Study gives it: an int is an int, a float a float, a choice a str. A parameter that a
    condition of the Study leaves out is absent. Names that are no Python names, or that a mapping's own methods have
    (`keys`, `items`, …), are reached by item. `dict(parameters)` is a plain, changeable copy.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise self._unknown(name) from None

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise self._unknown(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Parameters({self._values!r})"

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __reduce__(self) -> tuple[type[Parameters], tuple[dict[str, Any]]]:
        return Parameters, (self._values,)  # without it, copy and pickle would ask __getattr__ before there are values

    def _unknown(self, name: object) -> UnknownParameter:
        there = f"it has {', '.join(self._values)}" if self._values else "it has none"
        remedy = "Mend the name, give it a default in hpo.parameters(…), or read it by .get() if the Study makes it conditional"
        return UnknownParameter("parameter", name, f"this Trial has no such parameter, {there}", remedy)


def parameters(defaults: Mapping[str, Any] | None = None, /, **more_defaults: Any) -> Parameters:
    """This Trial's parameter values, over the given defaults; outside any Study the defaults alone.

        parameters = hpo.parameters(lr=1e-3, momentum=0.9)
        parameters = hpo.parameters({"weight-decay": 0.01})     # names that are no Python names

    Raises `InvalidEnvironment` if what the runner handed over cannot be read.
    """
    known = {**(defaults or {}), **more_defaults}
    given = Environment().parameters
    if given is None:
        shown = ", ".join(f"{name}={value!r}" for name, value in known.items()) or "none"
        note_once("no parameters", f"outside any Study (HPO_PARAMETERS is not set), parameters are the defaults: {shown}")
        return Parameters(known)
    return Parameters({**known, **given})
