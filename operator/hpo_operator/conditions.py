"""Conditions and their reasons: the words in which a Study and a Trial say where they stand.

Each is decided in one place, the planner, and written in one place, the executor.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from hpo_operator.resources import Condition

Truth = Literal["True", "False", "Unknown"]

MAX_MESSAGE = 1024

# Types
ACCEPTED = "Accepted"
PROGRESSING = "Progressing"
METRICS_AVAILABLE = "MetricsAvailable"
SUCCEEDED = "Succeeded"
RUNNING = "Running"

# Trial: Running
PODS_ACTIVE = "PodsActive"
CREATING = "Creating"
QUOTA_PENDING = "QuotaPending"
UNSCHEDULABLE = "Unschedulable"
IMAGE_PULL = "ImagePull"
PREEMPTED = "Preempted"
RESULT_LOST = "ResultLost"
STUDY_SUSPENDED = "StudySuspended"
FINISHED = "Finished"

# Trial: Succeeded
PENDING = "Pending"
AWAITING_RESULT = "AwaitingResult"
COMPLETED = "Completed"
EARLY_STOPPED = "EarlyStopped"
PROGRAM_FAILED = "ProgramFailed"
TIMED_OUT = "TimedOut"
OBJECTIVE_MISSING = "ObjectiveMissing"
WORKLOAD_REJECTED = "WorkloadRejected"
RETRIES_EXHAUSTED = "RetriesExhausted"
INFEASIBLE = "Infeasible"
OBJECTIVE_NOT_FINITE = "ObjectiveNotFinite"
CANCELED = "Canceled"
DONOR_UNAVAILABLE = "DonorUnavailable"

GIVEN_UP = frozenset({PREEMPTED, RESULT_LOST, STUDY_SUSPENDED})  # the workload in the status is no longer this Trial's
LOSSES = GIVEN_UP - {STUDY_SUSPENDED}  # counted against maxRetries
WAITS = frozenset({CREATING, QUOTA_PENDING, UNSCHEDULABLE, IMAGE_PULL})

FAILURES = frozenset({PROGRAM_FAILED, TIMED_OUT, OBJECTIVE_MISSING, WORKLOAD_REJECTED, RETRIES_EXHAUSTED})
INFEASIBILITIES = frozenset({INFEASIBLE, OBJECTIVE_NOT_FINITE})
FREED = frozenset({CANCELED, DONOR_UNAVAILABLE})
ENDS = FAILURES | INFEASIBILITIES | FREED | {COMPLETED, EARLY_STOPPED}
CUT_SHORT = frozenset({EARLY_STOPPED, TIMED_OUT, CANCELED, RETRIES_EXHAUSTED})  # its workload may run on, and must be stopped

# Study: Accepted
VALID = "Valid"
INVALID_SPACE = "InvalidSpace"
INVALID_SETTINGS = "InvalidSettings"
TEMPLATE_REJECTED = "TemplateRejected"
TEMPLATE_CHANGED = "TemplateChanged"
KIND_NOT_ALLOWED = "KindNotAllowed"
CHECKPOINT_STORE_UNUSABLE = "CheckpointStoreUnusable"
WARM_START_UNUSABLE = "WarmStartUnusable"

REJECTIONS = frozenset(
    {
        INVALID_SPACE,
        INVALID_SETTINGS,
        TEMPLATE_REJECTED,
        TEMPLATE_CHANGED,
        KIND_NOT_ALLOWED,
        CHECKPOINT_STORE_UNUSABLE,
        WARM_START_UNUSABLE,
    }
)

# Study: Progressing
TRIALS_ACTIVE = "TrialsActive"
SUSPENDED = "Suspended"
TRIALS_PENDING = "TrialsPending"
CREATION_REFUSED = "CreationRefused"
ALGORITHM_ERROR = "AlgorithmError"
NAME_CONFLICT = "NameConflict"

# Study: Succeeded
IN_PROGRESS = "InProgress"
MAX_TRIALS_REACHED = "MaxTrialsReached"
TARGET_REACHED = "TargetReached"
SEARCH_EXHAUSTED = "SearchExhausted"
SCHEDULE_FINISHED = "ScheduleFinished"
DEADLINE_REACHED = "DeadlineReached"
GPU_BUDGET_SPENT = "GPUBudgetSpent"
TOO_MANY_FAILURES = "TooManyFailures"
NO_RESULT = "NoResult"
POPULATION_LOST = "PopulationLost"

RAISABLE = frozenset({MAX_TRIALS_REACHED, DEADLINE_REACHED, GPU_BUDGET_SPENT})  # a raised limit lets the Study go on


def condition(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """The condition of a type, if it has been set."""
    for each in conditions:
        if each.type == type_:
            return each
    return None


def reason(conditions: Iterable[Condition], type_: str) -> str:
    """The reason of a condition; empty while it has not been set."""
    found = condition(conditions, type_)
    return found.reason if found else ""


def put(
    conditions: tuple[Condition, ...],
    type_: str,
    status: Truth,
    reason: str,
    message: str,
    now: datetime,
    generation: int | None = None,
) -> tuple[Condition, ...]:
    """The conditions with one of them set. Its time of transition moves only when its status does, or with a suspension.

    A deadline's clock stands still from the suspension on, though the Study may have made no progress before it either.
    """
    old = condition(conditions, type_)
    stays = old is not None and old.status == status and (reason != SUSPENDED or old.reason == SUSPENDED)
    since = old.last_transition_time if old is not None and stays else now
    new = Condition(
        type=type_,
        status=status,
        reason=reason,
        message=plain(message)[:MAX_MESSAGE],
        observed_generation=generation,
        last_transition_time=since,
    )
    if old is None:
        return (*conditions, new)
    return tuple(new if each is old else each for each in conditions)


def plain(text: str) -> str:
    """Text of unknown origin as the API can take it: half a surrogate pair, which JSON lets through, is no character."""
    return text.encode("utf-8", "replace").decode()
