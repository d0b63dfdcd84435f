"""What can be seen of the workload that runs a Trial, whatever kind it is of."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hpo_operator.reports import NO_WEIGHTS, Report, Weights
from hpo_operator.resources import WorkloadRef


class Phase(enum.Enum):
    """How far a workload is."""

    ABSENT = "absent"  # looked for, and not there
    PENDING = "pending"  # no pod runs yet, or none runs any more for now
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Hold:
    """GPUs that one pod has held from a time on, and until another one unless it still does."""

    gpus: int
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """One look at a workload.

    `ended` says that none of its pods runs now; those of an absent one may still run, and a pending one may have none yet.
    `disrupted` says that it ended by no fault of its program: a pod was preempted, evicted or lost, or it has succeeded but is gone
    with its result (`reason` is then ResultLost). `report` is the latest that is known; `awaiting` says that more of it may still
    come although the workload has ended. `reason` and `message` explain a pending or failed one; one that the API server refused
    to create is a failed one without a `ref`, with reason WorkloadRejected. `curve` holds (step, value) of the first objective's
    metric as it was reported, in ascending order of step.

    `created` is when it, or the pod that it waits for now, came to be. `deleting` says that it has been asked to go, and
    `succeeded_first` that it had succeeded before, so that this has cut nothing short. An absent one that was seen before keeps
    at least its `ref`, which tells a workload that is lost from one that never was. `holds` says what each of its pods has held,
    where that is known; it then counts instead of `gpus` from `started` to `finished`. `weights` is what an ended program has
    said of its checkpoints. `pods` are the names of its pods, the one that reports
    first, without those that were lost; `lost` says whether any is known that was, and that another one has replaced.
    """

    phase: Phase
    ref: WorkloadRef | None = None
    ended: bool = False
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    disrupted: bool = False
    started: datetime | None = None
    finished: datetime | None = None
    gpus: int = 0
    report: Report | None = None
    source: Literal["TerminationMessage", "Log", "Prometheus", "Report"] = "Report"
    curve: tuple[tuple[int, float], ...] = ()
    awaiting: bool = False
    created: datetime | None = None
    deleting: bool = False
    succeeded_first: bool = False
    holds: tuple[Hold, ...] = ()
    weights: Weights = NO_WEIGHTS
    pods: tuple[str, ...] = ()
    lost: bool = False

    @property
    def at_rest(self) -> bool:
        """Whether none of its pods runs any more, and none will: a pending one that has no pod yet is not at rest."""
        return self.ended and self.phase not in (Phase.PENDING, Phase.RUNNING)

    def gpu_seconds(self, now: datetime) -> float:
        """What it has used up to now."""
        if self.holds:
            return sum(max(((each.until or now) - each.since).total_seconds(), 0.0) * each.gpus for each in self.holds)
        if self.started is None:
            return 0.0
        return max(((self.finished or now) - self.started).total_seconds(), 0.0) * self.gpus


ABSENT = Workload(Phase.ABSENT, ended=True)
