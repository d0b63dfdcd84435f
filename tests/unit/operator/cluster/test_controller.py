"""What a look at a Study comes to when something happens in the midst of it."""

from __future__ import annotations

import asyncio

import pytest
from hpo_algorithms import Proposal
from hpo_operator.cluster.client import RequestFailed
from hpo_operator.cluster.rendering import NUMBER_LABEL, STUDY_UID_LABEL
from hpo_operator.planner import Consultation, WriteStudy
from hpo_operator.resources import StudyName, StudyStatus, WarmStart

from tests.unit.operator.builders import a_study, a_trial, at
from tests.unit.operator.cluster.api import NAMESPACE, UID, Bench, a_job_of
from tests.unit.operator.cluster.objects import a_pod


def test_earlier_studies_that_cannot_be_read_for_now_are_read_when_it_is_tried_again() -> None:
    bench = Bench(a_study())
    assert bench.state.study is not None
    spec = bench.state.study.spec.model_copy(update={"warm_start": WarmStart(studies=(StudyName(name="earlier"),))})
    bench.state.study = bench.state.study.model_copy(update={"spec": spec})
    bench.api.put({"kind": "Study", "metadata": {"name": "earlier"}})
    bench.api.put({"kind": "Trial", **a_trial(0).completed(loss=0.5).build().manifest()})

    def fail(verb: str, kind: str, name: str) -> None:
        if (verb, name) == ("get", "earlier") and bench.api.did("get", "Study") == ["earlier"]:
            raise RequestFailed("get", 500, "InternalError", "etcdserver: leader changed")

    bench.api.meanwhile = fail
    with pytest.raises(RequestFailed):
        asyncio.run(bench.controller._prepare(bench.state))
    assert asyncio.run(bench.controller._prepare(bench.state))
    assert bench.state.earlier is not None
    assert [[trial.loss for trial in found] for found in bench.state.earlier] == [[0.5]]


def test_a_study_that_is_created_while_all_are_listed_is_not_taken_for_deleted() -> None:
    bench = Bench(a_study())
    late = {"name": "late", "namespace": NAMESPACE, "uid": "late-uid"}

    def create(verb: str, kind: str, name: str) -> None:
        if verb == "list":
            bench.store.study("ADDED", bench.api.put({"apiVersion": "hpo.dev/v1alpha1", "kind": "Study", "metadata": late}))

    bench.api.meanwhile = create
    asyncio.run(bench.controller.resync())
    assert set(bench.store.studies) == {UID, "late-uid"}


def test_a_study_that_is_not_there_any_more_is_forgotten() -> None:
    bench = Bench(a_study())
    bench.api.objects.clear()
    asyncio.run(bench.controller.resync())
    assert not bench.store.studies


def test_nothing_is_begun_for_a_study_that_is_deleted_while_it_is_looked_at() -> None:
    bench = Bench(a_study())
    bench.state.resync = True
    bench.state.consultation = Consultation(0, 0, (Proposal({"x": 0.5}),), count=2)

    def delete(verb: str, kind: str, name: str) -> None:
        if (verb, kind) == ("list", "Pod"):
            bench.store.study("DELETED", bench.state.raw)

    async def run() -> bool:
        bench.api.meanwhile = delete
        await bench.controller._look(bench.state)
        return bool(bench.state.requests)

    assert not asyncio.run(run())


def test_what_deleted_pods_have_held_is_not_forgotten_when_everything_is_listed_anew() -> None:
    bench = Bench(a_study(), a_trial(0).running())
    labels = {STUDY_UID_LABEL: UID, NUMBER_LABEL: "0"}
    bench.api.put(a_trial(0).running().build().manifest())
    bench.store.workload("ADDED", bench.api.put(a_job_of(0)))
    lost = a_pod("lost").gpus(2).labelled(**labels).failed(143, since=at(10), until=at(40))
    unheard = a_pod("unheard").gpus(2).labelled(**labels).created(at(39)).failed(143, since=at(40), until=at(50))
    runs = a_pod("runs").gpus(2).labelled(**labels).created(at(49)).running(at(50)).having("kind", value="Pod")
    bench.store.pod("DELETED", lost.having("metadata", "resourceVersion", value="50").build())
    bench.store.pod("MODIFIED", unheard.having("metadata", "resourceVersion", value="51").build())
    bench.store.pod("ADDED", bench.api.put(runs.build()))
    assert bench.state.workload(0).gpu_seconds(at(60)) == 2 * (30 + 10 + 10)

    bench.state.resync = True
    assert asyncio.run(bench.controller._prepare(bench.state))
    assert bench.state.workload(0).gpu_seconds(at(60)) == 2 * (30 + 10 + 10)
    assert bench.state.workload(0).pods == ("runs",)


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another has its name"])
def test_a_study_whose_status_finds_it_gone_is_forgotten_though_its_deletion_was_not_heard_of(again: bool) -> None:
    bench = Bench(a_study())
    del bench.api.objects["Study", "digits"]
    if again:
        bench.api.put({"apiVersion": "hpo.dev/v1alpha1", "kind": "Study", "metadata": {"name": "digits", "uid": "another"}})

    async def run() -> None:
        bench.controller._executor.execute(bench.state, [WriteStudy(StudyStatus(seed=0))])
        await asyncio.wait(list(bench.state.requests.values()))
        await bench.controller._look(bench.state)

    asyncio.run(run())
    assert not bench.store.studies
    assert bench.api.did("patch", "Study") == []
