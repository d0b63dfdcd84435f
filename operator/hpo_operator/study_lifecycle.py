"""Where a Study stands: whether it goes on, why it has ended, and what its status says about it.

Its clock, by which `limits.deadlineSeconds` is measured, stands still while the Study is suspended or over, as a Job's does: when
it goes on, `startTime` has moved by as much.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from hpo_operator import conditions as c
from hpo_operator.actions import Plan, Refusal, View
from hpo_operator.ledger import is_terminal
from hpo_operator.outcomes import losses_of
from hpo_operator.places import free, is_current, senseless
from hpo_operator.resources import Condition, Study, StudyStatus, TrialCounts, TrialStatus
from hpo_operator.trial_lifecycle import is_counted
from hpo_operator.workloads import ABSENT, Phase

Verdict = tuple[c.Truth, str, str]  # a condition's status, reason, message

NOT_ACCEPTED = "The Study is not accepted: see the condition Accepted."
NO_END: Verdict = ("Unknown", c.IN_PROGRESS, "")
UNSUCCESSFUL = frozenset({c.TOO_MANY_FAILURES, c.NO_RESULT, c.POPULATION_LOST})
NEEDS_RESULT = frozenset({*c.RAISABLE, c.SEARCH_EXHAUSTED, c.SCHEDULE_FINISHED})


def ending(view: View) -> str:
    """The reason for which a Study ends at once, with all that still runs; empty while it goes on."""
    before = _end(view.study.status)
    if before is not None and (before.reason not in c.RAISABLE or _is_reached(view, before.reason)):
        return before.reason
    if view.ledger.failed > view.study.spec.limits.max_failed_trials:
        return c.TOO_MANY_FAILURES
    if _target_reached(view):
        return c.TARGET_REACHED
    return next((reason for reason in (c.DEADLINE_REACHED, c.GPU_BUDGET_SPENT) if _is_reached(view, reason)), "")


def may_end(view: View, status: TrialStatus) -> bool:
    """Whether the end of a Trial, as it is about to be written, may end the Study: nothing else is begun before it stands."""
    spec, reason = view.study.spec, c.reason(status.conditions, c.SUCCEEDED)
    if reason != c.COMPLETED or spec.objectives[0].target is not None or view.ledger.created == 0:
        return True
    last = len(view.ledger.active) == 1
    return last or is_over(view.study.status)


def wakes(view: View, decided: Plan) -> None:
    """See that the limits that time alone can reach are looked at in time."""
    limits = view.study.spec.limits
    if limits.deadline_seconds and view.study.status.start_time and not view.study.spec.suspend:
        decided.wake(_start(view) + timedelta(seconds=limits.deadline_seconds))
    rate = sum(w.gpus for n in view.ledger.active if (w := view.workloads.get(n)) and w.phase is Phase.RUNNING and w.started)
    if limits.gpu_seconds and rate:
        left = limits.gpu_seconds - view.ledger.gpu_seconds - _running_gpu_seconds(view)
        decided.wake(view.now + timedelta(seconds=math.ceil(max(left / rate, 0)) + 1))
    if view.refusal is not None and view.refusal.until is not None and view.refusal.until > view.now:
        decided.wake(view.refusal.until)


def status_of(view: View, ending: str) -> StudyStatus:
    """The Study's status as it ought to stand now; equal to the one that stands when nothing has changed."""
    study, ledger, now = view.study, view.ledger, view.now
    old, generation = study.status, study.metadata.generation
    running = sum(1 for n in ledger.active if (w := view.workloads.get(n)) is not None and w.phase is Phase.RUNNING)
    succeeded = _succeeded(view, ending)
    over = succeeded[0] != "Unknown"
    found = c.put(old.conditions, c.ACCEPTED, *_accepted(view), now, generation)
    progress = _progress(view, running, over)
    stays_suspended = progress[1] == c.reason(old.conditions, c.PROGRESSING) == c.SUSPENDED
    found = c.put(found, c.PROGRESSING, *progress, now, generation)
    if view.metrics is not None and not over:
        found = c.put(found, c.METRICS_AVAILABLE, *view.metrics, now, generation)
    found = c.put(found, c.SUCCEEDED, *succeeded, now, generation)
    stands = {
        "observed_generation": generation,
        "conditions": found,
        "checkpoint_bytes": ledger.checkpoint_bytes if study.spec.checkpoints else None,
    }
    if over and is_over(old):
        return old.model_copy(update=stands)  # whoever now deletes the Trials keeps what they have found
    counts = ledger.counts(running)
    estimate = None if over else _estimate(view, counts)
    return old.model_copy(
        update={
            **stands,
            "seed": old.seed if old.seed is not None else study.spec.seed,
            "start_time": old.start_time if stays_suspended else _start(view),
            "completion_time": now if over else None,
            "estimated_completion_time": estimate,
            "left": old.left if estimate == old.estimated_completion_time else _duration(estimate, now),
            "progress": _done(study, counts),
            "trials": counts,
            "gpu_seconds": ledger.gpu_seconds,
            "best": ledger.best(),
            "pareto_front": ledger.front(),
        }
    )


def is_over(status: StudyStatus) -> bool:
    """Whether a status says that the Study is over."""
    return _end(status) is not None


def will_ask(study: Study) -> bool:
    """Whether a Study probably asks its algorithm next, by what its status says before its Trials are known."""
    spec, status = study.spec, study.status
    most, counts = spec.limits.max_trials, status.trials
    if spec.suspend or counts.active >= spec.parallelism or (most is not None and counts.created >= most):
        return False
    return not is_over(status) or status.observed_generation != study.metadata.generation


def rejected(study: Study, refusal: Refusal, now: datetime) -> StudyStatus:
    """The status of a Study that cannot be planned at all, because its space or its settings cannot be read."""
    generation = study.metadata.generation
    found = c.put(study.status.conditions, c.ACCEPTED, "False", refusal.reason, refusal.message, now, generation)
    if not is_over(study.status):
        found = c.put(found, c.PROGRESSING, "False", c.TRIALS_PENDING, NOT_ACCEPTED, now, generation)
    if c.condition(found, c.SUCCEEDED) is None:
        found = c.put(found, c.SUCCEEDED, *NO_END, now, generation)
    return study.status.model_copy(update={"conditions": found, "observed_generation": generation})


# The clock


def _start(view: View) -> datetime:
    """When the Study would have started had its clock never stood still."""
    started = view.study.status.start_time
    return view.now if started is None else started + (view.now - _clock(view))


def _clock(view: View) -> datetime:
    """The time at which the Study's clock stands: now, or when it was suspended or ended."""
    status, stood = view.study.status, [view.now]
    if _end(view.study.status) is not None and status.completion_time is not None:
        stood.append(status.completion_time)
    progressing = c.condition(status.conditions, c.PROGRESSING)
    if progressing is not None and progressing.reason == c.SUSPENDED:
        stood.append(progressing.last_transition_time)
    return max(min(stood), status.start_time or view.now)


# Ends


def _end(status: StudyStatus) -> Condition | None:
    """The Study's end, if it has been written."""
    succeeded = c.condition(status.conditions, c.SUCCEEDED)
    return succeeded if succeeded is not None and succeeded.status != "Unknown" else None


def _is_reached(view: View, reason: str) -> bool:
    """Whether a limit that can be raised is reached."""
    limits, ledger = view.study.spec.limits, view.ledger
    if reason == c.MAX_TRIALS_REACHED:
        return limits.max_trials is not None and ledger.created >= limits.max_trials
    if reason == c.DEADLINE_REACHED:
        start, seconds = view.study.status.start_time, limits.deadline_seconds
        return bool(seconds and start and _clock(view) >= start + timedelta(seconds=seconds))
    return bool(limits.gpu_seconds and ledger.gpu_seconds + _running_gpu_seconds(view) >= limits.gpu_seconds)


def _target_reached(view: View) -> bool:
    objective, best = view.study.spec.objectives[0], view.ledger.best()
    if objective.target is None or not best:
        return False
    highest = view.study.spec.budget.max if view.study.spec.budget else None
    target = losses_of(view.study.spec, {objective.metric: objective.target})[0]
    return (highest is None or best[0].budget == highest) and view.ledger.best_loss() <= target


def _running_gpu_seconds(view: View) -> float:
    """What the workloads of active Trials have used and no status counts yet."""
    return sum(
        w.gpu_seconds(view.now)
        for n, trial in view.ledger.active.items()
        if (w := view.workloads.get(n)) and w.gpus and not is_counted(trial, w)
    )


def _succeeded(view: View, ending: str) -> Verdict:
    """The condition `Succeeded`. A Study is over once nothing is active any more."""
    before, reason = _end(view.study.status), _reason(view, ending)
    if before is not None and before.reason == reason:
        return before.status, before.reason, before.message
    if reason in NEEDS_RESULT and not view.ledger.best():
        return "False", c.NO_RESULT, _without_result(view, reason)
    if reason:
        return "False" if reason in UNSUCCESSFUL else "True", reason, _explanation(view, reason)
    return NO_END


def _reason(view: View, ending: str) -> str:
    if ending and (_end(view.study.status) is not None or not view.ledger.active):
        return ending
    if view.ledger.active:
        return ""
    if _is_reached(view, c.MAX_TRIALS_REACHED):
        return c.MAX_TRIALS_REACHED
    return view.consultation.finished if view.consultation is not None and is_current(view) else ""


def _without_result(view: View, reason: str) -> str:
    counts = view.ledger.counts(0)
    return f"No Trial has given a result ({reason}): {counts.failed} failed, {counts.infeasible} infeasible.{_latest(view)}"


def _explanation(view: View, reason: str) -> str:
    """A sentence for the user. A Study that fails says what to look at: the newest Trial that went wrong."""
    limits, failed, objective = view.study.spec.limits, view.ledger.failed, view.study.spec.objectives[0]
    reached = view.ledger.best()[0].trial_name if view.ledger.best() else ""
    return {
        c.TARGET_REACHED: f"{reached} has reached the target of {objective.metric} ({objective.target}).",
        c.MAX_TRIALS_REACHED: f"limits.maxTrials ({limits.max_trials}) is reached.",
        c.DEADLINE_REACHED: f"limits.deadlineSeconds ({limits.deadline_seconds}) have passed.",
        c.GPU_BUDGET_SPENT: f"limits.gpuSeconds ({limits.gpu_seconds}) are spent.",
        c.SEARCH_EXHAUSTED: "Every configuration of the space has been tried.",
        c.SCHEDULE_FINISHED: "The schedule has come to its end.",
        c.TOO_MANY_FAILURES: f"{failed} Trials have failed (limits.maxFailedTrials: {limits.max_failed_trials}).{_latest(view)}",
        c.POPULATION_LOST: f"No member of the population is left that has a result and a checkpoint to go on from.{_latest(view)}",
    }.get(reason, "")


def _latest(view: View) -> str:
    for number in sorted(view.ledger.trials, reverse=True):
        trial = view.ledger.trials[number]
        found = c.condition(trial.status.conditions, c.SUCCEEDED)
        if found is not None and is_terminal(trial) and found.reason in c.FAILURES | c.INFEASIBILITIES:
            return f" {trial.metadata.name}: {found.reason}: {found.message}"
    return ""


# Progress


def _accepted(view: View) -> Verdict:
    refusal = view.refusal
    if refusal is not None and refusal.reason in c.REJECTIONS:
        return "False", refusal.reason, refusal.message
    return "True", c.VALID, ""


def _progress(view: View, running: int, over: bool) -> Verdict:
    active, refusal = view.ledger.active, view.refusal
    if over:
        return "False", c.FINISHED, ""
    if view.study.spec.suspend:
        return "False", c.SUSPENDED, "Set spec.suspend to false to go on."
    if refusal is not None and refusal.reason in c.REJECTIONS and not active:
        return "False", c.TRIALS_PENDING, NOT_ACCEPTED
    if refusal is not None and refusal.reason not in c.REJECTIONS:
        return ("True", c.TRIALS_ACTIVE, refusal.message) if running else ("False", refusal.reason, refusal.message)
    if view.study.spec.parallelism == 0 and not any(view.workloads.get(n, ABSENT).phase is not Phase.ABSENT for n in active):
        return "False", c.TRIALS_PENDING, "spec.parallelism is 0: no Trial is started."
    return _advice(view) or _waiting(view) or ("True", c.TRIALS_ACTIVE, "")


def _advice(view: View) -> Verdict | None:
    """What is to be said about the algorithm, if anything is."""
    active, asked = view.ledger.active, view.consultation
    if asked is not None and asked.error:
        if asked.proposals or active:
            return "True", c.TRIALS_ACTIVE, f"The algorithm failed; places are filled quasi-randomly: {asked.error}"
        return "False", c.ALGORITHM_ERROR, asked.error
    if fault := senseless(view):
        return "False", c.ALGORITHM_ERROR, fault
    before = c.condition(view.study.status.conditions, c.PROGRESSING)
    if before is not None and before.reason == c.ALGORITHM_ERROR and asked is None and not active and free(view) > 0:
        return "False", c.ALGORITHM_ERROR, before.message  # it is being asked again
    return None


def _waiting(view: View) -> Verdict | None:
    """That all active Trials wait, once that is worth having been written into each of them."""
    shown = [(trial, c.condition(trial.status.conditions, c.RUNNING)) for trial in view.ledger.active.values()]
    if not shown or any(found is None or found.reason not in c.WAITS for _, found in shown):
        return None
    trial, found = shown[0]
    assert found is not None
    text = f" {found.message}" if found.message else ""
    return "False", c.TRIALS_PENDING, f"All active Trials wait; {trial.metadata.name}: {found.reason}.{text}"


def _done(study: Study, counts: TrialCounts) -> str:
    """Ended Trials, and of how many."""
    ended, limit = counts.created - counts.active, study.spec.limits.max_trials
    return f"{ended}/{limit}" if limit is not None else str(ended)


def _duration(until: datetime | None, now: datetime) -> str | None:
    """The time until then as kubectl shows an age: 40s, 35m, 2h10m, 3d4h."""
    if until is None:
        return None
    minutes, seconds = divmod(max(round((until - now).total_seconds()), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m" if minutes else f"{seconds}s"


def _estimate(view: View, counts: TrialCounts) -> datetime | None:
    """When the Study will probably end, by the mean duration of its Trials and the deadline; anew when the counts change."""
    study, limits, found = view.study, view.study.spec.limits, []
    if study.spec.suspend:
        return None
    if counts == study.status.trials and study.status.observed_generation == study.metadata.generation:
        return study.status.estimated_completion_time
    if limits.max_trials is not None and view.ledger.mean_seconds and study.spec.parallelism:
        left = max(limits.max_trials - (counts.created - counts.active), counts.active)
        rounds = max(left / study.spec.parallelism, 1.0 if left else 0.0)
        found.append(view.now + timedelta(seconds=round(view.ledger.mean_seconds * rounds)))
    if limits.deadline_seconds:
        found.append(_start(view) + timedelta(seconds=limits.deadline_seconds))
    return min(found) if found else None
