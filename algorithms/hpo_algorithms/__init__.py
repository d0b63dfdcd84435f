"""Hyperparameter optimisation as pure functions of the history. No Kubernetes, no I/O, no clock.

Programs that run their Trials themselves use `Space` and `Optimizer`; `build` and the seams are for those that add an algorithm
or write a runner of their own.
"""

from hpo_algorithms.errors import (
    AlgorithmsError,
    Fault,
    InvalidInput,
    InvalidParameters,
    InvalidReport,
    InvalidSettings,
    InvalidSpace,
)
from hpo_algorithms.optimizer import Optimizer
from hpo_algorithms.registry import ALGORITHMS, SCHEDULES, build
from hpo_algorithms.seams import Algorithm, Sampler, Schedule
from hpo_algorithms.space import Space, SpaceWarning
from hpo_algorithms.trials import Answer, Draw, Origin, Place, Problem, Proposal, Slot, State, Stop, Trial

__all__ = [
    "ALGORITHMS",
    "SCHEDULES",
    "Algorithm",
    "AlgorithmsError",
    "Answer",
    "Draw",
    "Fault",
    "InvalidInput",
    "InvalidParameters",
    "InvalidReport",
    "InvalidSettings",
    "InvalidSpace",
    "Optimizer",
    "Origin",
    "Place",
    "Problem",
    "Proposal",
    "Sampler",
    "Schedule",
    "Slot",
    "Space",
    "SpaceWarning",
    "State",
    "Stop",
    "Trial",
    "build",
]
