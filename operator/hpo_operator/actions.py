"""What a plan rests on and what it is made of: values only, for the planner decides and others act.

What the algorithm has answered and what the API server has refused are inputs like all others: nothing is remembered in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hpo_algorithms import Proposal, Stop

from hpo_operator.conditions import Truth
from hpo_operator.ledger import Ledger
from hpo_operator.resources import CheckpointRecord, Study, StudyStatus, Trial, TrialStatus
from hpo_operator.workloads import Workload

# Inputs


@dataclass(frozen=True, slots=True)
class Consultation:
    """What the algorithm answered when it was asked with the ledger at `version` for `count` Trials from number `first`.

    `error` says why the algorithm itself could not answer; the proposals are then a fallback, or there are none. A `count` of None
    is one that was large enough. `donors` are the Trials whose checkpoints a later proposal may start from; None where that was
    not asked or could not be said.
    """

    version: int
    first: int
    proposals: tuple[Proposal, ...] = ()
    finished: str = ""
    stops: tuple[Stop, ...] = ()
    error: str = ""
    count: int | None = None
    donors: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing can be created for a Study at present.

    `reason` is that of `Progressing` (CreationRefused, NameConflict), or one of those for which a Study is not `Accepted`. It
    stands until a creation succeeds; creations are tried again from `until` on, never when that is None.
    """

    reason: str
    message: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cleanup:
    """What can be seen of the removal of Trials' folders of checkpoints; `ended` is None while it is at work."""

    numbers: tuple[int, ...]
    succeeded: bool = False
    ended: datetime | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class MaxPending:
    """How many pods may wait to run, as the installer says; so many do of other Studies, and so many has each workload of this one.

    A workload with more pods than that counts as so many: it may wait when nothing else does.
    """

    limit: int
    elsewhere: int = 0
    pods: int = 1


@dataclass(frozen=True, slots=True)
class View:
    """All that a decision rests on.

    `workloads` holds what is known of the workloads of active, uncleaned and removed Trials; a missing entry means not known.
    `stopping` says that the schedule stops Trials early and wants to be asked when curves have grown. `metrics` is what stands to
    be said of the source of metrics: status, reason and message of `MetricsAvailable`; None where there is no such source.
    Before `status_due` the Study's status is written only for its end; None when it may be at any time.
    `cleanup` is the removal of checkpoints that is at work, or has ended and not been put away. `max_pending` is None where the
    installer sets no bound to pods that wait.
    """

    study: Study
    ledger: Ledger
    workloads: Mapping[int, Workload]
    now: datetime
    consultation: Consultation | None = None
    stopping: bool = False
    refusal: Refusal | None = None
    metrics: tuple[Truth, str, str] | None = None
    status_due: datetime | None = None
    cleanup: Cleanup | None = None
    max_pending: MaxPending | None = None


# Actions


@dataclass(frozen=True, slots=True)
class Ask:
    """Consult the algorithm: proposals for `count` Trials from number `first`, and whom to stop."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class CreateTrial:
    """Create a Trial; the next action is due only once it is acknowledged."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class StartWorkload:
    """Create the workload of a Trial, or adopt the one that is there."""

    number: int


@dataclass(frozen=True, slots=True)
class StopWorkload:
    """Delete the workload of a Trial and let its pods end."""

    number: int


@dataclass(frozen=True, slots=True)
class LookForWorkload:
    """Ask whether a Trial's workload exists, for what is merely not known must not be taken to be absent."""

    number: int


@dataclass(frozen=True, slots=True)
class WriteTrial:
    """Write a Trial's status."""

    number: int
    status: TrialStatus


@dataclass(frozen=True, slots=True)
class WriteStudy:
    """Write the Study's status."""

    status: StudyStatus


@dataclass(frozen=True, slots=True)
class WriteCheckpoint:
    """Write what has become of an ended Trial's checkpoint, and nothing else of its status."""

    number: int
    record: CheckpointRecord


@dataclass(frozen=True, slots=True)
class Collect:
    """Remove the folders of checkpoints of these Trials, or adopt the cleanup that is at work."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EndCleanup:
    """Put away a cleanup that has ended."""


Action = (
    Ask
    | CreateTrial
    | StartWorkload
    | StopWorkload
    | LookForWorkload
    | WriteTrial
    | WriteStudy
    | WriteCheckpoint
    | Collect
    | EndCleanup
)


@dataclass(slots=True)
class Plan:
    """Actions in their order, and the time at which to plan again even if nothing happens."""

    actions: list[Action] = field(default_factory=list)
    again_at: datetime | None = None

    def wake(self, at: datetime) -> None:
        """Plan again at a time, or earlier."""
        self.again_at = at if self.again_at is None else min(self.again_at, at)
