"""A Study's places: who has one, who may start in one, what fills a free one, and when one is given back.

A Trial keeps its place until it has its result *and* its pods have ended. With `created` Trials so far, number k is created only if
k < created - taken + parallelism.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from hpo_algorithms import Origin, Proposal, Slot

from hpo_operator import conditions as c
from hpo_operator.actions import Action, Ask, CreateTrial, LookForWorkload, Plan, StartWorkload, StopWorkload, View
from hpo_operator.ledger import pairs_of
from hpo_operator.resources import Metadata, RestoreFrom, SlotSpec, StudyRef, Trial, TrialSpec
from hpo_operator.workloads import Phase, Workload

CREATIONS = 512  # decided at once; what has come up before the last of them is made is a matter of the next plan
LEFT_ALONE = timedelta(seconds=3)  # longer than a request takes from its decision; Kubernetes' times are whole seconds


def occupied(view: View) -> int:
    """How many places are taken: also by workloads of ended and of deleted Trials that have not ended, or are not known to."""
    return len(view.ledger.active) + sum(1 for number in _leaving(view) if _may_run(view, number))


def startable(view: View) -> frozenset[int]:
    """The active Trials without a workload that may get one now, the oldest first.

    Parallelism may have been lowered since they were created; those that run then go on, but no other starts. One that may have a
    workload that is only not known yet counts as having none, and starting it finds it; but only while all of these may start.
    """
    if not may_create(view):
        return frozenset()
    workloads = view.workloads
    waiting = [number for number, trial in sorted(view.ledger.active.items()) if _waits(trial, workloads.get(number))]
    room = max(view.study.spec.parallelism - (occupied(view) - len(waiting)), 0)
    unsure = [number for number in waiting if number not in workloads]
    if unsure and len(waiting) > room:
        waiting = [number for number in waiting if number in workloads]
        room = max(room - len(unsure), 0)
    return frozenset(waiting[: _bounded(view, room)])


def may_create(view: View) -> bool:
    """Whether Trials and workloads may be created at present."""
    if view.study.spec.suspend:
        return False
    refusal = view.refusal
    return refusal is None or (refusal.until is not None and view.now >= refusal.until)


def refills(view: View) -> Iterator[Action]:
    """What fills the free places: new Trials where the algorithm has proposed some, else a question to it."""
    ledger, asked = view.ledger, view.consultation
    wanted = free(view)
    current = is_current(view)
    if wanted <= 0:
        if view.stopping and ledger.active and not current:
            yield Ask(ledger.created, 0)
        return
    if asked is None or (asked.count == 0 and current):
        yield Ask(ledger.created, wanted)
        return
    # The first ones may have become Trials already: those behind them were decided with them, and are as good as before.
    done = ledger.created - asked.first
    proposals = asked.proposals[done : done + min(wanted, CREATIONS)] if done >= 0 else ()
    if proposals and (current or all(_can_start(view, each) for each in asked.proposals[done:])):
        for offset, proposal in enumerate(proposals):
            if not _is_possible(view, proposal):
                return  # see `senseless`
            trial = trial_of(view, ledger.created + offset, proposal)
            yield CreateTrial(trial)
            yield StartWorkload(trial.spec.number)
    elif not current:
        yield Ask(ledger.created, wanted)


def free(view: View) -> int:
    """How many Trials may be created now."""
    if not may_create(view):
        return 0
    wanted = view.study.spec.parallelism - occupied(view)
    if view.max_pending is not None:
        starting = sum(1 for number, trial in view.ledger.active.items() if _waits(trial, view.workloads.get(number)))
        wanted = _bounded(view, wanted + starting) - starting  # those that have their Trial go first
    if view.study.spec.limits.max_trials is not None:
        wanted = min(wanted, view.study.spec.limits.max_trials - view.ledger.created)
    return wanted


def is_current(view: View) -> bool:
    """Whether the algorithm's last answer rests on all that is known now."""
    asked, ledger = view.consultation, view.ledger
    return asked is not None and (asked.version, asked.first) == (ledger.version, ledger.created)


def senseless(view: View) -> str:
    """What makes the algorithm's last answer useless although it knew all; empty when it is of use, or was only given too early."""
    asked = view.consultation
    if asked is None or asked.finished or asked.error or not is_current(view) or view.ledger.active:
        return ""
    if not asked.proposals:
        return "" if asked.count == 0 else "The algorithm proposes nothing although nothing is active."
    first = asked.proposals[0]
    if not _is_possible(view, first):
        return f"The algorithm proposes to start from a checkpoint of Trial {first.donor}, which has none."
    return ""


def cleanups(view: View, decided: Plan) -> Iterator[Action]:
    """Workloads of ended and deleted Trials: stopped while they run, deleted when their time to live is over.

    Those that have ended by themselves are left alone for a moment. Another operator, for a moment there may be two, may have seen
    it before this one; and while the name is taken, one that is late cannot make the workload a second time.
    """
    ledger = view.ledger
    ttl = max(timedelta(seconds=view.study.spec.workload_ttl_seconds), LEFT_ALONE)
    for number in _leaving(view):
        workload, trial = view.workloads.get(number), ledger.uncleaned.get(number)
        if workload is None:
            yield LookForWorkload(number)
        elif workload.phase is Phase.ABSENT or workload.ref is None or workload.deleting:
            continue  # it is gone, or goes, or never was
        elif trial is None or trial.status.completion_time is None or _is_cut_short(trial, workload):
            yield StopWorkload(number)
        else:
            due = trial.status.completion_time + (ttl if workload.at_rest else LEFT_ALONE)
            if view.now < due:
                decided.wake(due)
            else:
                yield StopWorkload(number)
    for completed, number in ledger.kept:
        if view.now < completed + ttl:
            decided.wake(completed + ttl)
            break
        yield StopWorkload(number)


def trial_of(view: View, number: int, proposal: Proposal) -> Trial:
    """The Trial that a proposal becomes. Without a store of checkpoints one that is promoted starts from the beginning."""
    study = view.study
    restore = None
    if proposal.donor is not None and _can_start(view, proposal):
        donor = view.ledger.trials[proposal.donor]
        kept = donor.status.checkpoint
        assert kept is not None and kept.step is not None and kept.digest is not None
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


def _is_cut_short(trial: Trial, workload: Workload) -> bool:
    """Whether an ended Trial's workload is to be stopped, for it would run on."""
    return not workload.at_rest and c.reason(trial.status.conditions, c.SUCCEEDED) in c.CUT_SHORT


def _waits(trial: Trial, workload: Workload | None) -> bool:
    """Whether a Trial has no workload, as far as is known, and may get one: two pods must not meet in one Trial's folder."""
    if trial.metadata.deletion_timestamp is not None:
        return False
    if workload is None:
        return trial.status.workload is None
    return workload.phase is Phase.ABSENT and workload.ended


def _bounded(view: View, room: int) -> int:
    """How many workloads may be created now, so that no more pods wait to run than the installer allows."""
    if view.max_pending is None:
        return room
    limit, pods = view.max_pending.limit, min(view.max_pending.pods, view.max_pending.limit)
    waiting = view.max_pending.elsewhere + pods * count_waiting(map(view.workloads.get, view.ledger.active))
    return min(room, max(limit - waiting, 0) // pods)


def count_waiting(workloads: Iterable[Workload | None]) -> int:
    """How many workloads wait for their pods to run. One that its queue holds back has no pods, and does not count."""
    return sum(1 for each in workloads if each and each.phase is Phase.PENDING and each.reason != c.QUOTA_PENDING)


def _leaving(view: View) -> list[int]:
    """The Trials that are not active any more but may still hold a place."""
    return [*view.ledger.uncleaned, *sorted(view.ledger.removed)]


def _may_run(view: View, number: int) -> bool:
    workload = view.workloads.get(number)
    return workload is None or not workload.at_rest


def _can_start(view: View, proposal: Proposal) -> bool:
    """Whether the checkpoint that a proposal starts from can be had."""
    if proposal.donor is None:
        return True
    donor = view.ledger.view(proposal.donor)
    return donor is not None and donor.restorable


def _is_possible(view: View, proposal: Proposal) -> bool:
    """Whether a proposal can become a Trial that means what it says: law 8, never a silent start from nothing."""
    return _can_start(view, proposal) or (view.study.spec.checkpoints is None and proposal.origin is Origin.PROMOTED)
