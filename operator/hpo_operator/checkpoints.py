"""Whose checkpoints are kept, and when they are collected.

A Trial's folder goes when nothing can need it any more: no later proposal (`Algorithm.donors`), no active Trial that starts from
it, and it is none of the best. That is written first (Collecting), so that nothing starts from what is about to go; then the
folders of several Trials are removed together; then that is written (Collected). So whoever is killed in between finds what is
left to do in the Trials. A Study that is over keeps its best, and where a limit could be raised also what it would then go on from.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from hpo_operator import conditions as c
from hpo_operator.actions import Action, Ask, Collect, EndCleanup, Plan, View, WriteCheckpoint
from hpo_operator.places import free, is_current, may_create
from hpo_operator.resources import Trial
from hpo_operator.study_lifecycle import is_over

MAX_AT_ONCE = 100  # folders removed by one workload, whose command names them all
ENOUGH = 10  # so many are worth a workload; of fewer, what a generation or rung leaves
RETRY_AFTER = timedelta(seconds=60)


def collections(view: View, decided: Plan) -> Iterator[Action]:
    """What is to be done about checkpoints that nothing needs any more, the algorithm asked about that included."""
    if view.study.spec.checkpoints is None:
        return
    if view.cleanup is not None:
        yield from _finishing(view, decided)
    if not may_create(view):
        return
    found, unsure = _needless(view)
    if _is_worth_it(view, len(found | view.ledger.collecting)):
        chosen = sorted(found)[:MAX_AT_ONCE]
        yield from (_marked(view.ledger.trials[number], "Collecting") for number in chosen)
        ready = [number for number in sorted(view.ledger.collecting) if _is_at_rest(view, number)]
        if ready and not chosen and view.cleanup is None:
            yield Collect(tuple(ready[:MAX_AT_ONCE]))
    elif _is_worth_it(view, len(found | unsure | view.ledger.collecting)) and _may_ask(view):
        yield Ask(view.ledger.created, 0)


def _finishing(view: View, decided: Plan) -> Iterator[Action]:
    """What follows from the end of a cleanup. One that has failed stays for a while, for people to look at, and is tried again."""
    cleanup = view.cleanup
    assert cleanup is not None
    if cleanup.ended is None:
        return
    if cleanup.succeeded:
        gone = [number for number in cleanup.numbers if number in view.ledger.collecting]
        yield from (_marked(view.ledger.trials[number], "Collected") for number in gone)
        if not gone:
            yield EndCleanup()
    elif view.now >= cleanup.ended + RETRY_AFTER:
        yield EndCleanup()
    else:
        decided.wake(cleanup.ended + RETRY_AFTER)


def _needless(view: View) -> tuple[set[int], set[int]]:
    """The ended Trials whose checkpoints nothing needs; and those of which only the algorithm can say whether it may.

    What it has said before holds for all that has not changed since. A Trial that has ended since may be a donor by now, and its
    own donor may be asked for again, if its place has become free.
    """
    ledger, asked = view.ledger, view.consultation
    found = ledger.restorable - {each.number for each in (*ledger.best(), *ledger.front())}
    found -= {trial.spec.restore_from.number for trial in ledger.active.values() if trial.spec.restore_from is not None}
    if not found:
        return set(), set()
    if is_over(view.study.status) and c.reason(view.study.status.conditions, c.SUCCEEDED) not in c.RAISABLE:
        return found, set()
    if asked is None or asked.donors is None:
        return set(), found
    found -= asked.donors
    changed = ledger.changed[asked.version :]
    if any(number not in ledger.trials for number in changed):
        return set(), found  # what has become of it cannot be seen any more
    since = {*changed, *(r.number for n in changed if (r := ledger.trials[n].spec.restore_from) is not None)}
    return found - since, found & since


def _is_worth_it(view: View, count: int) -> bool:
    return count >= (1 if is_over(view.study.status) else min(max(view.study.spec.parallelism, 1), ENOUGH))


def _may_ask(view: View) -> bool:
    """Whether the algorithm is to be asked for this alone. Of a Study that is over, only who has asked it before asks once more."""
    if is_current(view):
        return False
    return view.consultation is not None if is_over(view.study.status) else free(view) <= 0


def _is_at_rest(view: View, number: int) -> bool:
    """Whether nothing writes into a Trial's folder any more."""
    if number not in view.ledger.uncleaned:
        return True
    workload = view.workloads.get(number)
    return workload is not None and workload.at_rest


def _marked(trial: Trial, state: str) -> WriteCheckpoint:
    assert trial.status.checkpoint is not None
    return WriteCheckpoint(trial.spec.number, trial.status.checkpoint.model_copy(update={"state": state}))
