"""Where everything is decided: from what a Study asks and what can be seen of its Trials to the next actions.

`plan` is pure: no I/O, no clock, no memory. It is called after every change, and again after its own actions have been carried out,
until it has no more; calling it too often does no harm. The order of the actions is the order in which they must be done.

1. Trials whose workload has ended, timed out or been stopped get their result; only then is the workload removed.
2. The Study's end is decided, by the limits or by the algorithm; what still runs is then canceled.
3. Free places are filled: the algorithm is asked, and its proposals become Trials in ascending number.
4. The Study's status is written, when it has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hpo_algorithms import Proposal, Slot, Stop

from hpo_operator import conditions as c
from hpo_operator.ledger import Ledger, is_terminal, pairs_of
from hpo_operator.outcomes import Outcome, losses_of, observation_of, outcome_of
from hpo_operator.resources import (
    Metadata,
    RestoreFrom,
    SlotSpec,
    StopRecord,
    Study,
    StudyRef,
    StudyStatus,
    Trial,
    TrialSpec,
    TrialStatus,
)
from hpo_operator.workloads import Phase, Workload

PENDING_SHOWN_AFTER = timedelta(seconds=30)  # a workload that starts sooner costs no write for having waited


@dataclass(frozen=True, slots=True)
class Consultation:
    """What the algorithm answered when it was asked with the ledger at `version` for Trials from number `first`.

    `error` says why the algorithm itself could not answer; the proposals are then a fallback, or there are none.
    """

    version: int
    first: int
    proposals: tuple[Proposal, ...] = ()
    finished: str = ""
    stops: tuple[Stop, ...] = ()
    error: str = ""


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


Action = Ask | CreateTrial | StartWorkload | StopWorkload | LookForWorkload | WriteTrial | WriteStudy


@dataclass(frozen=True, slots=True)
class View:
    """All that a decision rests on.

    `workloads` holds what is known of the workloads of active and uncleaned Trials; a missing entry means not known. `stopping`
    says that the schedule stops Trials early and wants to be asked when curves have grown.
    """

    study: Study
    ledger: Ledger
    workloads: Mapping[int, Workload]
    now: datetime
    consultation: Consultation | None = None
    stopping: bool = False


@dataclass(slots=True)
class Plan:
    """Actions in their order, and the time at which to plan again even if nothing happens."""

    actions: list[Action] = field(default_factory=list)
    again_at: datetime | None = None

    def wake(self, at: datetime) -> None:
        self.again_at = at if self.again_at is None else min(self.again_at, at)


def plan(view: View) -> Plan:
    """The next actions for a Study. See the module's docstring."""
    decided = Plan()
    ending = _ending(view)
    for trial in list(view.ledger.active.values()):
        decided.actions += _active_trial(view, trial, ending, decided)
    if decided.actions and any(isinstance(each, WriteTrial) and _ends(each) for each in decided.actions):
        return decided  # results first: what follows from them is decided when they stand
    cleanups = list(_cleanups(view, decided))
    if not ending and not view.study.spec.suspend:
        decided.actions += _refills(view)
    decided.actions += cleanups
    status = _study_status(view, ending)
    if status != view.study.status:
        decided.actions.append(WriteStudy(status))
    if view.study.spec.limits.deadline_seconds and status.start_time and not ending:
        decided.wake(status.start_time + timedelta(seconds=view.study.spec.limits.deadline_seconds))
    return decided


# Trials


def _active_trial(view: View, trial: Trial, ending: str, decided: Plan) -> Iterator[Action]:
    number, spec = trial.spec.number, view.study.spec
    workload = view.workloads.get(number)
    if workload is None:
        if trial.status.workload is not None:
            yield LookForWorkload(number)
            return
        workload = Workload(Phase.ABSENT, ended=True)  # never seen running: creating it again finds the one that is there
    if workload.phase in (Phase.SUCCEEDED, Phase.FAILED) and not workload.disrupted:
        outcome = outcome_of(spec, workload)
        if outcome is None:
            yield from _show(view, trial, workload, c.AWAITING_RESULT, decided)
        else:
            yield WriteTrial(number, _ended(view, trial, workload, outcome))
        return
    if ending:
        yield WriteTrial(number, _ended(view, trial, workload, Outcome(c.CANCELED, f"The Study has ended: {ending}.")))
        return
    if (stop := _stop_of(view, number)) is not None and workload.phase is Phase.RUNNING:
        outcome = Outcome(c.EARLY_STOPPED, f"Stopped by rule '{stop.rule}' at step {stop.step}.")
        yield WriteTrial(number, _ended(view, trial, workload, outcome, StopRecord(rule=stop.rule, step=stop.step)))
        return
    if workload.phase is Phase.RUNNING and spec.limits.trial_timeout_seconds and workload.started:
        end = workload.started + timedelta(seconds=spec.limits.trial_timeout_seconds)
        if view.now >= end:
            message = f"Ran longer than limits.trialTimeoutSeconds ({spec.limits.trial_timeout_seconds})."
            yield WriteTrial(number, _ended(view, trial, workload, Outcome(c.TIMED_OUT, message)))
            return
        decided.wake(end)
    if spec.suspend:
        yield from _suspended(view, trial, workload)
    elif workload.disrupted or workload.phase is Phase.ABSENT:
        yield from _started(view, trial, workload)
    else:
        yield from _show(view, trial, workload, "", decided)


def _started(view: View, trial: Trial, workload: Workload) -> Iterator[Action]:
    """A Trial whose workload does not run: the first start, one after a suspension, or one after a loss, which is counted."""
    number, status = trial.spec.number, trial.status
    why = c.reason(status.conditions, c.RUNNING)
    lost = status.workload is not None and why not in (c.PREEMPTED, c.STUDY_SUSPENDED)
    if lost:
        if status.attempts > view.study.spec.limits.max_retries:
            message = f"Its workload was lost {status.attempts} times (limits.maxRetries)."
            yield WriteTrial(number, _ended(view, trial, workload, Outcome(c.RETRIES_EXHAUSTED, message)))
            return
        yield WriteTrial(
            number, _not_running(view, trial, c.PREEMPTED, workload.message or "Its workload was lost; starting again.")
        )
    if workload.phase is not Phase.ABSENT:
        yield StopWorkload(number)
    elif not lost:
        yield StartWorkload(number)


def _suspended(view: View, trial: Trial, workload: Workload) -> Iterator[Action]:
    if c.reason(trial.status.conditions, c.RUNNING) != c.STUDY_SUSPENDED:
        yield WriteTrial(trial.spec.number, _not_running(view, trial, c.STUDY_SUSPENDED, "Starts again when the Study is resumed."))
    if workload.phase is not Phase.ABSENT:
        yield StopWorkload(trial.spec.number)


def _show(view: View, trial: Trial, workload: Workload, awaiting: str, decided: Plan) -> Iterator[Action]:
    """Write that a Trial runs, or why it still waits; nothing when that stands there already."""
    status, running = trial.status, workload.phase is Phase.RUNNING
    if not running and not awaiting:
        since = workload.started or trial.metadata.creation_timestamp or view.now
        if view.now < since + PENDING_SHOWN_AFTER:
            decided.wake(since + PENDING_SHOWN_AFTER)
            return
    if awaiting and c.reason(status.conditions, c.SUCCEEDED) == awaiting:
        return
    reason = c.PODS_ACTIVE if running else (c.FINISHED if awaiting else workload.reason or c.CREATING)
    truth: c.Truth = "True" if running else "False"
    again = workload.ref is not None and status.workload is not None and status.workload.uid != workload.ref.uid
    resumed = c.reason(status.conditions, c.RUNNING) == c.STUDY_SUSPENDED
    if c.reason(status.conditions, c.RUNNING) == reason and not again:
        return
    attempts = max(status.attempts, 1) + (1 if again and not resumed else 0)
    found = c.put(status.conditions, c.RUNNING, truth, reason, workload.message, view.now)
    found = c.put(found, c.SUCCEEDED, "Unknown", awaiting or ("Running" if running else c.PENDING), "", view.now)
    yield WriteTrial(
        trial.spec.number,
        status.model_copy(
            update={
                "conditions": found,
                "workload": workload.ref or status.workload,
                "attempts": attempts if running or status.attempts else 0,
                "start_time": status.start_time or workload.started,
            }
        ),
    )


def _not_running(view: View, trial: Trial, reason: str, message: str) -> TrialStatus:
    found = c.put(trial.status.conditions, c.RUNNING, "False", reason, message, view.now)
    found = c.put(found, c.SUCCEEDED, "Unknown", c.PENDING, "", view.now)
    return trial.status.model_copy(update={"conditions": found, "attempts": max(trial.status.attempts, 1)})


def _ended(view: View, trial: Trial, workload: Workload, outcome: Outcome, stop: StopRecord | None = None) -> TrialStatus:
    """The last status of a Trial: its result and all the evidence for it."""
    started = trial.status.start_time or workload.started
    finished = workload.finished or view.now
    found = c.put(trial.status.conditions, c.RUNNING, "False", c.FINISHED, "", view.now)
    found = c.put(found, c.SUCCEEDED, outcome.status, outcome.reason, outcome.message, view.now)
    seconds = max((finished - workload.started).total_seconds(), 0) if workload.started else 0
    return trial.status.model_copy(
        update={
            "conditions": found,
            "workload": workload.ref or trial.status.workload,
            "attempts": max(trial.status.attempts, 1 if started else 0),
            "start_time": started,
            "completion_time": finished,
            "observation": observation_of(view.study.spec, workload),
            "stop": stop,
            "gpu_seconds": trial.status.gpu_seconds + round(seconds * workload.gpus),
        }
    )


def _ends(write: WriteTrial) -> bool:
    found = c.condition(write.status.conditions, c.SUCCEEDED)
    return found is not None and found.status != "Unknown"


def _stop_of(view: View, number: int) -> Stop | None:
    stops = view.consultation.stops if view.consultation else ()
    return next((stop for stop in stops if stop.number == number), None)


def _cleanups(view: View, decided: Plan) -> Iterator[Action]:
    """Workloads of ended Trials: stopped while they run, deleted when their time to live is over."""
    ttl = timedelta(seconds=view.study.spec.workload_ttl_seconds)
    for number, trial in view.ledger.uncleaned.items():
        workload = view.workloads.get(number)
        if workload is None:
            yield LookForWorkload(number)
        elif workload.phase is Phase.ABSENT:
            continue
        elif not workload.ended:
            yield StopWorkload(number)
        elif trial.status.completion_time is not None:
            due = trial.status.completion_time + ttl
            if view.now >= due:
                yield StopWorkload(number)
            else:
                decided.wake(due)


# Places


def occupied(view: View) -> int:
    """How many places are taken: a Trial keeps its own until it has ended and its pods have too."""
    lingering = sum(1 for number in view.ledger.uncleaned if (w := view.workloads.get(number)) is not None and not w.ended)
    unknown = sum(1 for number in view.ledger.uncleaned if number not in view.workloads)
    return len(view.ledger.active) + lingering + unknown


def _refills(view: View) -> Iterator[Action]:
    spec, ledger = view.study.spec, view.ledger
    wanted = spec.parallelism - occupied(view)
    if spec.limits.max_trials is not None:
        wanted = min(wanted, spec.limits.max_trials - ledger.created)
    asked = view.consultation
    current = asked is not None and asked.version == ledger.version
    if wanted <= 0:
        if view.stopping and ledger.active and not current:
            yield Ask(ledger.created, 0)
        return
    if asked is not None and asked.first == ledger.created and asked.proposals:
        for offset, proposal in enumerate(asked.proposals[:wanted]):
            trial = trial_of(view, ledger.created + offset, proposal)
            yield CreateTrial(trial)
            yield StartWorkload(trial.spec.number)
    elif not current:
        yield Ask(ledger.created, wanted)


def trial_of(view: View, number: int, proposal: Proposal) -> Trial:
    """The Trial that a proposal becomes."""
    study = view.study
    restore = None
    if proposal.donor is not None:
        donor = view.ledger.trials[proposal.donor]
        kept = donor.status.checkpoint
        if kept is not None:
            restore = RestoreFrom(
                trial_name=donor.metadata.name, number=proposal.donor, step=kept.step, path=kept.path, digest=kept.digest
            )
    slot = SlotSpec(**{name: getattr(proposal.slot, name) for name in Slot.__slots__})
    return Trial(
        metadata=Metadata(
            name=f"{study.metadata.name}-{number}",
            namespace=study.metadata.namespace,
            creation_timestamp=view.now,
        ),
        spec=TrialSpec(
            study_ref=StudyRef(name=study.metadata.name, uid=study.metadata.uid),
            number=number,
            parameters=pairs_of(view.ledger.space.format(proposal.params)),
            budget=proposal.budget,
            slot=slot if proposal.slot != Slot() else None,
            restore_from=restore,
            memo=proposal.memo or None,
            origin=proposal.origin.value,
        ),
    )


# The Study


def _ending(view: View) -> str:
    """The reason for which a Study ends at once, with all that still runs; empty while it goes on."""
    study, ledger = view.study, view.ledger
    limits, status = study.spec.limits, study.status
    succeeded = c.condition(status.conditions, c.SUCCEEDED)
    if succeeded is not None and succeeded.status != "Unknown" and succeeded.reason not in c.RAISABLE:
        return succeeded.reason
    if ledger.failed > limits.max_failed_trials:
        return c.TOO_MANY_FAILURES
    if _target_reached(view):
        return c.TARGET_REACHED
    deadline = timedelta(seconds=limits.deadline_seconds) if limits.deadline_seconds else None
    if deadline and status.start_time and view.now >= status.start_time + deadline:
        return c.DEADLINE_REACHED
    if limits.gpu_seconds and ledger.gpu_seconds + _running_gpu_seconds(view) >= limits.gpu_seconds:
        return c.GPU_BUDGET_SPENT
    return ""


def _target_reached(view: View) -> bool:
    objective = view.study.spec.objectives[0]
    if objective.target is None or not view.ledger.best():
        return False
    highest = view.study.spec.budget.max if view.study.spec.budget else None
    best = view.ledger.best()[0]
    target = losses_of(view.study.spec, {objective.metric: objective.target})[0]
    return (highest is None or best.budget == highest) and view.ledger.best_loss() <= target


def _running_gpu_seconds(view: View) -> float:
    return sum(
        w.gpus * (view.now - w.started).total_seconds()
        for number in view.ledger.active
        if (w := view.workloads.get(number)) is not None and w.phase is Phase.RUNNING and w.started
    )


def _completed(view: View, ending: str) -> str:
    """The reason of the Study's `Succeeded` condition, once nothing is active any more; empty while there is."""
    ledger, asked = view.ledger, view.consultation
    if ledger.active:
        return ""
    if ending:
        return ending
    limits = view.study.spec.limits
    if limits.max_trials is not None and ledger.created >= limits.max_trials:
        return c.MAX_TRIALS_REACHED
    if asked is not None and asked.finished and asked.version == ledger.version:
        return asked.finished
    return ""


def _study_status(view: View, ending: str) -> StudyStatus:
    study, ledger, now = view.study, view.ledger, view.now
    old, generation = study.status, study.metadata.generation
    running = sum(1 for n in ledger.active if (w := view.workloads.get(n)) is not None and w.phase is Phase.RUNNING)
    reason = _completed(view, ending)
    if (
        reason
        and reason != c.TOO_MANY_FAILURES
        and not ledger.best()
        and reason in {*c.RAISABLE, c.SEARCH_EXHAUSTED, c.SCHEDULE_FINISHED}
    ):
        message = f"No Trial has given a result ({reason})."
        succeeded: tuple[c.Truth, str, str] = ("False", c.NO_RESULT, message)
    elif reason in (c.TOO_MANY_FAILURES, c.NO_RESULT, c.POPULATION_LOST):
        succeeded = ("False", reason, _failure_message(view) if reason == c.TOO_MANY_FAILURES else "")
    elif reason:
        succeeded = ("True", reason, "")
    else:
        succeeded = ("Unknown", c.IN_PROGRESS, "")
    previous = c.condition(old.conditions, c.SUCCEEDED)
    if previous is not None and previous.status == succeeded[0] and previous.reason == succeeded[1]:
        succeeded = (previous.status, previous.reason, previous.message)
    found = c.put(old.conditions, c.ACCEPTED, "True", c.VALID, "", now, generation)
    found = c.put(found, c.PROGRESSING, *_progress(view, running, bool(reason)), now, generation)
    found = c.put(found, c.SUCCEEDED, *succeeded, now, generation)
    counts = ledger.counts(running)
    return old.model_copy(
        update={
            "observed_generation": generation,
            "conditions": found,
            "start_time": old.start_time or now,
            "completion_time": (old.completion_time or now) if reason else None,
            "estimated_completion_time": _estimate(view) if counts != old.trials and not reason else old.estimated_completion_time,
            "trials": counts,
            "gpu_seconds": ledger.gpu_seconds,
            "best": ledger.best(),
            "pareto_front": ledger.front(),
        }
    )


def _progress(view: View, running: int, over: bool) -> tuple[c.Truth, str, str]:
    ledger, asked = view.ledger, view.consultation
    if over:
        return "False", c.FINISHED, ""
    if view.study.spec.suspend:
        return "False", c.SUSPENDED, "Set spec.suspend to false to go on."
    if asked is not None and asked.error:
        if asked.proposals or ledger.active:
            return "True", c.TRIALS_ACTIVE, f"The algorithm failed; places are filled quasi-randomly: {asked.error}"
        return "False", c.ALGORITHM_ERROR, asked.error
    stuck = asked is not None and not asked.proposals and asked.version == ledger.version and not asked.finished
    if stuck and not ledger.active and view.study.spec.parallelism > 0:
        return "False", c.ALGORITHM_ERROR, "The algorithm proposes nothing although nothing is active."
    if not ledger.active and view.study.spec.parallelism == 0:
        return "False", c.TRIALS_PENDING, "spec.parallelism is 0: no Trial is started."
    if ledger.active and not running and view.study.status.trials.created:
        return "False", c.TRIALS_PENDING, "All active Trials wait for their workloads to start."
    return "True", c.TRIALS_ACTIVE, ""


def _failure_message(view: View) -> str:
    """Why Trials failed, by the newest of them: a Study that fails must say what to look at."""
    for number in sorted(view.ledger.trials, reverse=True):
        trial = view.ledger.trials[number]
        found = c.condition(trial.status.conditions, c.SUCCEEDED)
        if found is not None and is_terminal(trial) and found.reason in c.FAILURES:
            return f"{view.ledger.failed} Trials failed; {trial.metadata.name}: {found.reason}: {found.message}"
    return ""


def _estimate(view: View) -> datetime | None:
    """When the Study will probably end: from the mean duration of its Trials, bounded by the deadline."""
    limits, ledger, start = view.study.spec.limits, view.ledger, view.study.status.start_time
    found = []
    if limits.max_trials is not None and ledger.mean_seconds and view.study.spec.parallelism:
        left = limits.max_trials - ledger.ended
        found.append(view.now + timedelta(seconds=round(ledger.mean_seconds * left / view.study.spec.parallelism)))
    if limits.deadline_seconds and start:
        found.append(start + timedelta(seconds=limits.deadline_seconds))
    return min(found) if found else None
