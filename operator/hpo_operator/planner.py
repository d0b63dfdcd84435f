"""Where everything is decided: from what a Study asks and what can be seen of its Trials to the next actions.

`plan` is pure: no I/O, no clock, no memory. It is called after every change, and again after its own actions have been carried out,
until it has no more; calling it too often does no harm. The order of the actions is the order in which they must be done.

1. Trials whose workload has ended, timed out or been stopped get their result; only then is the workload removed.
2. The Study's end is decided, by the limits or by the algorithm; what still runs is then canceled.
3. Free places are filled: the algorithm is asked, and its proposals become Trials in ascending number.
4. Checkpoints that nothing needs any more are collected.
5. The Study's status is written, when it has changed.

`trial_lifecycle` says what becomes of one Trial, `places` who has a place, `study_lifecycle` where the Study stands, `checkpoints`
whose weights are kept.
"""

from __future__ import annotations

from hpo_operator import study_lifecycle
from hpo_operator.actions import (
    Action,
    Ask,
    Cleanup,
    Collect,
    Consultation,
    CreateTrial,
    EndCleanup,
    LookForWorkload,
    MaxPending,
    Plan,
    Refusal,
    StartWorkload,
    StopWorkload,
    View,
    WriteCheckpoint,
    WriteStudy,
    WriteTrial,
)
from hpo_operator.checkpoints import collections
from hpo_operator.places import cleanups, occupied, refills, startable, trial_of
from hpo_operator.study_lifecycle import rejected
from hpo_operator.trial_lifecycle import PENDING_SHOWN_AFTER, Circumstances, ends, next_steps


def plan(view: View) -> Plan:
    """The next actions for a Study. See the module's docstring."""
    decided = Plan()
    if view.study.metadata.deletion_timestamp is not None:
        return decided  # its Trials and their workloads go with it
    ending = study_lifecycle.ending(view)
    stops = {stop.number: stop for stop in view.consultation.stops} if view.consultation else {}
    circumstances = Circumstances(ending, frozenset() if ending else startable(view), stops)
    for trial in list(view.ledger.active.values()):
        decided.actions += next_steps(view, trial, circumstances, decided)
    results = [each.status for each in decided.actions if isinstance(each, WriteTrial) and ends(each)]
    if any(study_lifecycle.may_end(view, status) for status in results):
        return decided  # results first: what follows from them is decided when they stand
    over, early = study_lifecycle.is_over(view.study.status), view.status_due is not None and view.now < view.status_due
    may_end = over or bool(ending) or not view.ledger.active
    status = study_lifecycle.status_of(view, ending) if may_end or not early else view.study.status
    if over and not study_lifecycle.is_over(status):
        decided.actions.append(WriteStudy(status))
        return decided  # a limit was raised: it is said that the Study goes on before it does
    if not ending:
        decided.actions += refills(view)
        study_lifecycle.wakes(view, decided)
    decided.actions += cleanups(view, decided)
    decided.actions += collections(view, decided)
    if early and view.status_due is not None and not study_lifecycle.is_over(status):
        decided.wake(view.status_due)
    elif status != view.study.status and not results:
        decided.actions.append(WriteStudy(status))
    return decided


__all__ = [
    "PENDING_SHOWN_AFTER",
    "Action",
    "Ask",
    "Cleanup",
    "Collect",
    "Consultation",
    "CreateTrial",
    "EndCleanup",
    "LookForWorkload",
    "MaxPending",
    "Plan",
    "Refusal",
    "StartWorkload",
    "StopWorkload",
    "View",
    "WriteCheckpoint",
    "WriteStudy",
    "WriteTrial",
    "occupied",
    "plan",
    "rejected",
    "trial_of",
]
