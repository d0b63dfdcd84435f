"""What training code imports inside a Trial, in a pod or under the local runner.

    import hpo

    parameters = hpo.parameters(lr=1e-3, layers=2)
    for epoch in range(hpo.start_step() + 1, (hpo.budget() or 10) + 1):
        loss = train_one_epoch(lr=parameters.lr, layers=parameters.layers)
        hpo.report(step=epoch, val_loss=loss)

Outside any Study the same calls return the defaults and print the reports, so that a program needs no second path.
`hpo.checkpoint` saves and loads checkpoints; it is imported at its first use.
"""

from __future__ import annotations

import typing as _typing

from hpo._environment import Trial, budget, start_step, trial
from hpo._errors import (
    HPOError,
    InvalidEnvironment,
    InvalidMetricName,
    InvalidMetricValue,
    InvalidReport,
    InvalidStep,
    UnknownParameter,
)
from hpo._infeasible import INFEASIBLE_EXIT_CODE, Infeasible, infeasible
from hpo._parameters import Parameters, parameters
from hpo._report import report
from hpo._version import VERSION as __version__

if _typing.TYPE_CHECKING:
    from hpo import checkpoint
else:

    def __getattr__(name: str) -> object:
        if name == "checkpoint":
            from importlib import import_module

            return import_module("hpo.checkpoint")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "INFEASIBLE_EXIT_CODE",
    "HPOError",
    "Infeasible",
    "InvalidEnvironment",
    "InvalidMetricName",
    "InvalidMetricValue",
    "InvalidReport",
    "InvalidStep",
    "Parameters",
    "Trial",
    "UnknownParameter",
    "__version__",
    "budget",
    "checkpoint",
    "infeasible",
    "parameters",
    "report",
    "start_step",
    "trial",
]
