"""What becomes of one Trial: from what can be seen of its workload to its next status.

A Trial has one workload at a time. When that is lost, or the Study is suspended, this is written first; from then on that workload
is given up: it is stopped, nothing that it still says counts, and another one starts only when its pods have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from hpo_algorithms import Stop

from hpo_operator import conditions as c
from hpo_operator.actions import Action, LookForWorkload, Plan, StartWorkload, StopWorkload, View, WriteTrial
from hpo_operator.ledger import is_terminal
from hpo_operator.outcomes import Outcome, checkpoint_of, observation_of, outcome_of, restored_of
from hpo_operator.resources import Condition, StopRecord, Trial, TrialStatus
from hpo_operator.workloads import ABSENT, Phase, Workload

PENDING_SHOWN_AFTER = timedelta(seconds=30)  # a workload that starts sooner costs no write for having waited
RUNNING_SHOWN_AFTER = timedelta(seconds=2)  # nor does one that ends sooner for having run; Kubernetes' times are whole seconds

Conditions = tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What holds for all Trials in one decision.

    `ending` is the reason for which the Study ends now, if it does; `startable` the Trials whose workloads may start;
    `stops` what the schedule has said about ending some early.
    """

    ending: str
    startable: frozenset[int]
    stops: Mapping[int, Stop]


def next_steps(view: View, trial: Trial, circumstances: Circumstances, decided: Plan) -> Iterator[Action]:
    """The next actions for an active Trial. One write at a time: what follows from it is decided when it stands."""
    number, spec = trial.spec.number, view.study.spec
    if trial.metadata.deletion_timestamp is not None:
        return  # its workload goes with it
    workload = view.workloads.get(number)
    if workload is None:
        if number not in circumstances.startable:
            yield LookForWorkload(number)
            return
        workload = ABSENT  # it has just been created; if it has a workload after all, starting finds it
    given_up = is_given_up(trial, workload)
    if workload.phase in (Phase.SUCCEEDED, Phase.FAILED) and not _is_losing(workload) and not given_up:
        outcome = outcome_of(spec, workload)
        if outcome is not None and outcome.reason == c.DONOR_UNAVAILABLE and trial.spec.restore_from is None:
            outcome = Outcome(
                c.PROGRAM_FAILED, f"The program lacks a checkpoint, but this Trial starts from none: {outcome.message}"
            )
        if outcome is None:
            yield from _show_awaiting(view, trial, workload, decided)
        else:
            yield WriteTrial(number, ended(view, trial, workload, outcome))
    elif circumstances.ending:
        yield WriteTrial(number, ended(view, trial, workload, Outcome(c.CANCELED, f"The Study has ended: {circumstances.ending}.")))
    elif not given_up and (cut := _cut_short(view, trial, workload, circumstances, decided)) is not None:
        yield cut
    elif spec.suspend:
        yield from _suspended(view, trial, workload)
    else:
        yield from _going_on(view, trial, workload, circumstances, decided)


def ends(write: WriteTrial) -> bool:
    """Whether a status is a Trial's last."""
    found = c.condition(write.status.conditions, c.SUCCEEDED)
    return found is not None and found.status != "Unknown"


def ended(view: View, trial: Trial, workload: Workload, outcome: Outcome, stop: StopRecord | None = None) -> TrialStatus:
    """The last status of a Trial: its result and all the evidence for it."""
    found = c.put(trial.status.conditions, c.RUNNING, "False", c.FINISHED, "", view.now)
    found = c.put(found, c.SUCCEEDED, outcome.status, outcome.reason, outcome.message, view.now)
    return _recorded(view, trial, workload, found).model_copy(
        update={
            "completion_time": workload.finished or view.now,
            "observation": observation_of(view.study.spec, workload),
            "stop": stop,
            "checkpoint": checkpoint_of(view.study, trial, workload, outcome.reason),
            "restored": restored_of(workload),
            "gpu_seconds": _gpu_seconds(view, trial, workload),
        }
    )


def is_given_up(trial: Trial, workload: Workload) -> bool:
    """Whether a workload's suspension or loss stands in the Trial."""
    known = trial.status.workload
    same = known is not None and workload.ref is not None and known.uid == workload.ref.uid
    return same and c.reason(trial.status.conditions, c.RUNNING) in c.GIVEN_UP


def is_counted(trial: Trial, workload: Workload) -> bool:
    """Whether a Trial's GPU-seconds hold what its workload has used: since it was given up, or put back into its queue."""
    waits = workload.reason == c.QUOTA_PENDING == c.reason(trial.status.conditions, c.RUNNING)
    return is_given_up(trial, workload) or (waits and trial.status.evictions > 0)


def _donor_is_gone(view: View, trial: Trial) -> bool:
    """Whether the checkpoint that a Trial starts from is known to be gone. A deleted donor's may still be there."""
    restore = trial.spec.restore_from
    donor = view.ledger.trials.get(restore.number) if restore else None
    if restore is None or donor is None or not is_terminal(donor):
        return False
    seen = view.ledger.view(restore.number)
    return seen is None or not seen.restorable


# While it runs


def _going_on(view: View, trial: Trial, workload: Workload, circumstances: Circumstances, decided: Plan) -> Iterator[Action]:
    if workload.phase is Phase.ABSENT:
        yield from _absent(view, trial, workload, circumstances)
    elif is_given_up(trial, workload):
        yield from _stop(trial.spec.number, workload)
    elif _is_losing(workload):
        yield _lost(view, trial, workload)
    else:
        yield from _show(view, trial, workload, decided)


def _cut_short(view: View, trial: Trial, workload: Workload, circumstances: Circumstances, decided: Plan) -> Action | None:
    """The end of a running Trial that its schedule or its timeout asks for."""
    if workload.phase is not Phase.RUNNING:
        return None
    if (stop := circumstances.stops.get(trial.spec.number)) is not None:
        outcome = Outcome(c.EARLY_STOPPED, f"Stopped by rule '{stop.rule}' at step {stop.step}.")
        record = StopRecord(rule=stop.rule, step=stop.step)
        return WriteTrial(trial.spec.number, ended(view, trial, workload, outcome, record))
    seconds = view.study.spec.limits.trial_timeout_seconds
    if seconds and (since := _running_since(trial, workload)):
        end = since + timedelta(seconds=seconds)
        if view.now >= end:
            outcome = Outcome(c.TIMED_OUT, f"Ran longer than limits.trialTimeoutSeconds ({seconds}).")
            return WriteTrial(trial.spec.number, ended(view, trial, workload, outcome))
        decided.wake(end)
    return None


def _show(view: View, trial: Trial, workload: Workload, decided: Plan) -> Iterator[Action]:
    """Write that a Trial runs, or why it still waits; nothing when that stands there already."""
    if _is_evicted(trial, workload):
        if workload.ended:  # what its pods have held is counted with it
            yield WriteTrial(trial.spec.number, _requeued(view, trial, workload))
        return
    running = workload.phase is Phase.RUNNING
    replaced = _is_replaced(trial, workload)
    if replaced and (exhausted := _exhausted(view, trial, workload, _attempts(trial, workload) - 1)):
        yield exhausted
        return
    reason = c.PODS_ACTIVE if running else workload.reason if workload.reason in c.WAITS else c.CREATING
    if c.reason(trial.status.conditions, c.RUNNING) == reason and not _is_new(trial, workload) and not replaced:
        return
    since = workload.created if not running or _is_ahead(view, workload) else workload.started
    after = RUNNING_SHOWN_AFTER if running else PENDING_SHOWN_AFTER
    another = running and (replaced or trial.status.attempts > 0)  # one that follows a loss is written at once
    if not another and not _is_due(view, (since or trial.metadata.creation_timestamp or view.now) + after, decided):
        return
    truth: c.Truth = "True" if running else "False"
    found = trial.status.conditions
    if replaced:  # it ran no more, if only for a moment
        found = c.put(found, c.RUNNING, "False", c.PREEMPTED, "", view.now)
    found = c.put(found, c.RUNNING, truth, reason, workload.message, view.now)
    found = c.put(found, c.SUCCEEDED, "Unknown", "Running" if running else c.PENDING, "", view.now)
    yield WriteTrial(trial.spec.number, _recorded(view, trial, workload, found))


def _show_awaiting(view: View, trial: Trial, workload: Workload, decided: Plan) -> Iterator[Action]:
    """Write that a Trial has ended but its result is still to come, once that takes long."""
    if c.reason(trial.status.conditions, c.SUCCEEDED) == c.AWAITING_RESULT or not _is_due(
        view, (workload.finished or trial.metadata.creation_timestamp or view.now) + PENDING_SHOWN_AFTER, decided
    ):
        return
    found = c.put(trial.status.conditions, c.RUNNING, "False", c.FINISHED, "", view.now)
    found = c.put(found, c.SUCCEEDED, "Unknown", c.AWAITING_RESULT, "", view.now)
    yield WriteTrial(trial.spec.number, _recorded(view, trial, workload, found))


def _running_since(trial: Trial, workload: Workload) -> datetime | None:
    """Since when a workload runs: as its node says, but not later than this was written here, for a node's clock may be ahead."""
    found = c.condition(trial.status.conditions, c.RUNNING)
    other = _is_new(trial, workload) or _is_replaced(trial, workload)
    if workload.started is None or found is None or found.reason != c.PODS_ACTIVE or other:
        return workload.started
    return min(workload.started, found.last_transition_time)


def _is_ahead(view: View, workload: Workload) -> bool:
    """Whether the clock of its node is ahead: it says that it has started in the future."""
    return workload.started is not None and workload.started > view.now


def _is_due(view: View, due: datetime, decided: Plan) -> bool:
    """Whether something has lasted long enough to be worth a write."""
    if view.now < due:
        decided.wake(due)
        return False
    return True


# Between two workloads


def _absent(view: View, trial: Trial, workload: Workload, circumstances: Circumstances) -> Iterator[Action]:
    """A Trial without a workload: the first start, one after a suspension, or one after a loss."""
    if _is_unrecorded(trial, workload):
        yield _lost(view, trial, workload)
    elif trial.spec.number in circumstances.startable:
        if trial.status.attempts == 0 and _donor_is_gone(view, trial):
            assert trial.spec.restore_from is not None
            message = f"The checkpoint of {trial.spec.restore_from.trial_name} is gone, before this Trial could start."
            yield WriteTrial(trial.spec.number, ended(view, trial, workload, Outcome(c.DONOR_UNAVAILABLE, message)))
        else:
            yield StartWorkload(trial.spec.number)


def _lost(view: View, trial: Trial, workload: Workload) -> Action:
    """Give up a workload that was lost, and count it; the last one that is allowed ends the Trial."""
    attempts = _attempts(trial, workload)
    if exhausted := _exhausted(view, trial, workload, attempts):
        return exhausted
    awaited = c.reason(trial.status.conditions, c.SUCCEEDED) == c.AWAITING_RESULT
    reason = c.RESULT_LOST if awaited or workload.reason == c.RESULT_LOST else c.PREEMPTED
    message = workload.message or "Its workload was lost; it starts again."
    return WriteTrial(trial.spec.number, _given_up(view, trial, workload, reason, message, attempts))


def _exhausted(view: View, trial: Trial, workload: Workload, lost: int) -> Action | None:
    """The end of a Trial of whose attempts so many were lost, or evicted, where that is more than it may be started again."""
    losses, allowed = lost - trial.status.evictions, view.study.spec.limits.max_retries
    if losses <= allowed:
        return None
    message = f"Its workload was lost {losses} times (limits.maxRetries: {allowed}). {workload.message}".strip()
    return WriteTrial(trial.spec.number, ended(view, trial, workload, Outcome(c.RETRIES_EXHAUSTED, message)))


def _suspended(view: View, trial: Trial, workload: Workload) -> Iterator[Action]:
    why = c.reason(trial.status.conditions, c.RUNNING)
    if why != c.STUDY_SUSPENDED or _is_new(trial, workload):
        # The start that follows a loss is a retry even if a suspension comes between them.
        attempts = _attempts(trial, workload) + (why in c.LOSSES and not _is_new(trial, workload))
        message = "Starts again when the Study is resumed."
        yield WriteTrial(trial.spec.number, _given_up(view, trial, workload, c.STUDY_SUSPENDED, message, attempts))
    else:
        yield from _stop(trial.spec.number, workload)


def _stop(number: int, workload: Workload) -> Iterator[Action]:
    if workload.phase is not Phase.ABSENT and not workload.deleting:
        yield StopWorkload(number)


# What is recorded of a workload


def _given_up(view: View, trial: Trial, workload: Workload, reason: str, message: str, attempts: int) -> TrialStatus:
    found = c.put(trial.status.conditions, c.RUNNING, "False", reason, message, view.now)
    found = c.put(found, c.SUCCEEDED, "Unknown", c.PENDING, "", view.now)
    return _recorded(view, trial, workload, found).model_copy(
        update={"attempts": attempts, "gpu_seconds": _gpu_seconds(view, trial, workload)}
    )


def _requeued(view: View, trial: Trial, workload: Workload) -> TrialStatus:
    """That a Trial's queue has taken its place away: the workload stays, and will be admitted again in its turn."""
    found = c.put(trial.status.conditions, c.RUNNING, "False", c.QUOTA_PENDING, workload.message, view.now)
    found = c.put(found, c.SUCCEEDED, "Unknown", c.PENDING, "", view.now)
    return _recorded(view, trial, workload, found).model_copy(
        update={
            "attempts": _attempts(trial, workload) + 1,
            "pod": None,
            "evictions": trial.status.evictions + 1,
            "gpu_seconds": _gpu_seconds(view, trial, workload),
        }
    )


def _recorded(view: View, trial: Trial, workload: Workload, found: Conditions) -> TrialStatus:
    status = trial.status
    return status.model_copy(
        update={
            "conditions": found,
            "workload": workload.ref or status.workload,
            "pod": next(iter(workload.pods), None if _is_new(trial, workload) else status.pod),
            "attempts": _attempts(trial, workload),
            "start_time": status.start_time or workload.started,
        }
    )


def _attempts(trial: Trial, workload: Workload) -> int:
    """How often a Trial was started, this time included. A workload that only follows a suspension is not another attempt."""
    status = trial.status
    if not _is_new(trial, workload):
        return max(status.attempts, 1 if status.workload is not None else 0) + _is_replaced(trial, workload)
    resumed = c.reason(status.conditions, c.RUNNING) == c.STUDY_SUSPENDED
    return max(status.attempts + (0 if resumed else 1), 1) + workload.lost  # before anything was written of it


def _gpu_seconds(view: View, trial: Trial, workload: Workload) -> int:
    """What all workloads of a Trial have used."""
    return trial.status.gpu_seconds + (0 if is_counted(trial, workload) else round(workload.gpu_seconds(view.now)))


def _is_losing(workload: Workload) -> bool:
    """Whether a workload ends by no fault of its program. What one says that somebody has deleted may be cut short."""
    return workload.disrupted or (workload.deleting and not workload.succeeded_first and workload.phase is not Phase.ABSENT)


def _is_evicted(trial: Trial, workload: Workload) -> bool:
    """Whether a Trial that stands there as running waits for its queue again."""
    ran = c.reason(trial.status.conditions, c.RUNNING) == c.PODS_ACTIVE
    return ran and workload.reason == c.QUOTA_PENDING and not _is_new(trial, workload)


def _is_replaced(trial: Trial, workload: Workload) -> bool:
    """Whether a workload runs on with another pod than the one that stands in the Trial, because that one was lost."""
    known = trial.status.pod
    return bool(known and workload.pods and known not in workload.pods and not _is_new(trial, workload))


def _is_new(trial: Trial, workload: Workload) -> bool:
    """Whether a workload is not the one that stands in the Trial."""
    known = trial.status.workload
    return workload.ref is not None and (known is None or known.uid != workload.ref.uid)


def _is_unrecorded(trial: Trial, workload: Workload) -> bool:
    """Whether an absent workload was there once, and nothing in the Trial says yet that it is gone."""
    if _is_new(trial, workload):
        return True
    return trial.status.workload is not None and c.reason(trial.status.conditions, c.RUNNING) not in c.GIVEN_UP
