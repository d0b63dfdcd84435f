"""When /healthz has the kubelet restart the operator: a watch that is dead, a Study that never gets its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from hpo_operator import conditions as c
from hpo_operator.cluster.client import JOBS, PODS, TRIALS, Client
from hpo_operator.cluster.controller import Controller
from hpo_operator.cluster.informer import SILENT_SECONDS, Watches
from hpo_operator.cluster.kinds import WorkloadKind
from hpo_operator.cluster.queue import WorkQueue
from hpo_operator.cluster.store import Store
from hpo_operator.cluster.telemetry import STUCK_SECONDS, StoreCollector, serve
from prometheus_client import CollectorRegistry

from tests.unit.operator.builders import TrialBuilder, a_ledger, a_study, a_trial


def health(
    monkeypatch: pytest.MonkeyPatch,
    *,
    namespaces: Sequence[str] = (),
    silent: float = 0.0,
    waiting: float = 0.0,
    looked_at: float = 0.0,
    unserved: bool = False,
) -> tuple[int, Any]:
    """What is answered where the last watch has been silent, and Studies have waited and were looked at, for so many seconds."""
    watches, queue = Watches(namespaces), WorkQueue[str]()
    watches.begin("studies")
    watches.begin("pods")
    last = list(watches.heard)[-1]
    watches.heard[last] -= silent
    if unserved:
        watches.miss(*last)

    async def inside() -> tuple[int, Any]:
        if looked_at:
            queue.add("another-study")
            monkeypatch.setattr(WorkQueue, "_now", staticmethod(lambda: waiting - looked_at))
            await queue.get()
        monkeypatch.setattr(WorkQueue, "_now", staticmethod(lambda: 0.0))
        queue.add("a-study")
        monkeypatch.setattr(WorkQueue, "_now", staticmethod(lambda: waiting))
        controller = cast(Controller, SimpleNamespace(queue=queue))
        runner = await serve(controller, watches, CollectorRegistry(), 0)
        try:
            port = next(address[1] for address in runner.addresses if len(address) == 2)
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as answer:
                return answer.status, await answer.json()
        finally:
            await runner.cleanup()

    return asyncio.run(inside())


def test_an_operator_that_hears_and_works_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    found = health(monkeypatch, silent=SILENT_SECONDS - 60, waiting=STUCK_SECONDS, looked_at=STUCK_SECONDS)
    assert found == (200, {"healthy": True, "reason": ""})


def test_an_operator_with_a_watch_that_cannot_be_alive_any_more_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = health(monkeypatch, silent=SILENT_SECONDS + 60)
    assert (status, said["healthy"]) == (503, False)
    assert said["reason"].startswith("the watch of pods has said nothing for ")


def test_a_kind_that_is_not_installed_is_no_reason_to_restart_until_it_was_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert health(monkeypatch, silent=SILENT_SECONDS + 60, unserved=True)[0] == 200
    watches = Watches()
    watches.miss("jobsets", "")
    watches.hear("jobsets", "")
    watches.heard["jobsets", ""] -= SILENT_SECONDS + 60
    assert list(watches.silent()) == [("jobsets", "")]


def test_a_dead_watch_of_one_namespace_is_not_hidden_by_a_living_one_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = health(monkeypatch, namespaces=("a", "b"), silent=SILENT_SECONDS + 60)
    assert status == 503
    assert said["reason"].startswith("the watch of pods in namespace b has said nothing for ")


def test_a_dead_watch_of_Volcanos_Jobs_is_not_hidden_by_a_living_one_of_Kubernetes() -> None:
    kinds = (JOBS, WorkloadKind(api_version="batch.volcano.sh/v1alpha1", kind="Job").served, TRIALS, PODS)
    assert [each.resource for each in kinds] == ["jobs", "jobs.batch.volcano.sh", "trials", "pods"]


def test_an_operator_in_which_a_Study_never_gets_its_turn_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = health(monkeypatch, waiting=STUCK_SECONDS + 1)
    assert (status, said) == (503, {"healthy": False, "reason": "a Study has waited for its turn for 301 s"})


def test_an_operator_that_never_comes_back_from_a_look_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    status, said = health(monkeypatch, looked_at=STUCK_SECONDS + 1)
    assert (status, said) == (503, {"healthy": False, "reason": "a Study has been looked at for 301 s"})


def finished(*trials: TrialBuilder, deleted: Sequence[int] = ()) -> dict[str, float]:
    """The Trials of a Study that have ended, by reason, as they are scraped; some were deleted since."""
    store, study = Store(), a_study().build()
    store.study(None, {"metadata": {"namespace": "team-a", "name": "digits", "uid": "u", "resourceVersion": "1"}})
    state = store.studies["u"]
    state.study, state.ledger = study, a_ledger(study, *(each.build() for each in trials))
    for number in deleted:
        state.ledger.remove(number)
    controller = cast(Controller, SimpleNamespace(store=store, queue=WorkQueue[str]()))
    found = StoreCollector(controller, cast(Client, SimpleNamespace(requests={})), Watches()).collect()
    (family,) = (each for each in found if each.name == "hpo_trials_finished")
    return {sample.labels["reason"]: sample.value for sample in family.samples}


def test_the_first_failures_of_a_Study_are_an_increase_since_each_reason_is_counted_from_0() -> None:
    """Five failures between two scrapes raised no alert: a series that begins at 5 has never increased."""
    before = finished(a_trial(0))
    after = finished(*(a_trial(number).over(c.PROGRAM_FAILED) for number in range(5)), a_trial(5).completed(loss=0.5))
    assert set(before.values()) == {0}
    assert before.keys() == after.keys()
    assert {reason: count for reason, count in after.items() if count} == {"ProgramFailed": 5, "Completed": 1}


def test_a_deleted_Trial_has_ended_all_the_same_since_to_a_count_that_falls_all_that_is_left_of_it_is_an_increase() -> None:
    """Where some Trials were deleted all others seemed to have ended within the hour, which raised the alert on failures."""
    trials = [a_trial(0).over(c.PROGRAM_FAILED), a_trial(1).completed(loss=0.5), a_trial(2).completed(loss=0.5)]
    assert finished(*trials) == finished(*trials, deleted=(0, 2))
