"""A Kubernetes operator for hyperparameter optimisation, and its local runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo_operator.local.tuning import InvalidFunction, Result, StudyFailed, Table, tune

__all__ = ["InvalidFunction", "Result", "StudyFailed", "Table", "tune"]


def __getattr__(name: str) -> Any:
    # Imported when they are asked for: neither the operator nor a Trial's process needs the local runner.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hpo_operator.local import tuning

    return getattr(tuning, name)
