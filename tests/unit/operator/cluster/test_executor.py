"""What is written, and what is not any more, when something happens between a decision and its answer."""

from __future__ import annotations

import asyncio

from hpo_operator import conditions as c
from hpo_operator.cluster.rendering import trial_manifest
from hpo_operator.planner import CreateTrial, LookForWorkload, WriteStudy, WriteTrial
from hpo_operator.resources import StudyStatus
from hpo_operator.workloads import Phase

from tests.unit.operator.builders import a_study, a_trial, at
from tests.unit.operator.cluster.api import Bench, a_job_of
from tests.unit.operator.cluster.objects import stamp


async def answered(bench: Bench) -> None:
    """All that is under way is answered."""
    while under_way := [each for each in bench.state.requests.values() if not each.done()]:
        await asyncio.wait(under_way)


def test_a_study_that_is_deleted_while_its_trials_are_created_gets_no_more_of_them_and_no_workloads() -> None:
    bench = Bench(a_study())

    def delete(verb: str, kind: str, name: str) -> None:
        if (verb, name) == ("create", "digits-2"):
            bench.store.study("DELETED", bench.state.raw)

    async def run() -> None:
        bench.api.meanwhile = delete
        bench.executor.execute(bench.state, [CreateTrial(a_trial(number).build()) for number in range(5)])
        await answered(bench)

    asyncio.run(run())
    assert bench.api.did("create", "Trial") == ["digits-0", "digits-1", "digits-2"]
    assert bench.api.did("create", "Job") == []


def test_a_trial_that_ends_while_others_are_created_gets_no_workload() -> None:
    """Its Study has come to its end, and its place may be free again: nobody would stop the workload."""
    bench = Bench(a_study())

    def cancel(verb: str, kind: str, name: str) -> None:
        if (verb, name) == ("create", "digits-1"):
            canceled = a_trial(0).over(c.CANCELED).build().manifest()
            bench.store.trial("MODIFIED", bench.api.put({"kind": "Trial", **canceled}))
            bench.state.wanted.clear()

    async def run() -> None:
        bench.api.meanwhile = cancel
        bench.executor.execute(bench.state, [CreateTrial(a_trial(number).build()) for number in range(2)])
        await answered(bench)

    asyncio.run(run())
    assert bench.api.did("create", "Job") == ["digits-1"]


def test_a_workload_that_is_told_of_while_it_is_looked_for_is_not_taken_to_be_absent() -> None:
    """Another operator creates it; taken for absent it would be a loss, which is counted, and the Trial begun anew."""
    bench = Bench(a_study(), a_trial(0))

    def create(verb: str, kind: str, name: str) -> None:
        bench.store.workload("ADDED", bench.api.put(a_job_of(0)))

    async def run() -> None:
        bench.api.meanwhile = create
        bench.executor.execute(bench.state, [LookForWorkload(0)])
        await answered(bench)

    asyncio.run(run())
    assert bench.state.workload(0).phase is Phase.PENDING


def test_what_rests_on_an_older_state_of_a_trial_is_not_written_over_a_newer_one() -> None:
    """Another operator has given its workload up; what was decided before that it runs is not true any more."""
    bench = Bench(a_study())
    study, given_up = bench.state.study, a_trial(0).given_up(c.PREEMPTED).gpu_seconds(7).build()
    assert study is not None
    bench.state.put_trial(bench.api.put(trial_manifest(study, a_trial(0).build())))

    async def run() -> None:
        bench.executor.execute(bench.state, [WriteTrial(0, a_trial(0).running().build().status)])
        bench.store.trial("MODIFIED", bench.api.put({**trial_manifest(study, given_up), "status": given_up.status.manifest()}))
        await answered(bench)

    asyncio.run(run())
    assert bench.api.objects["Trial", "digits-0"]["status"] == given_up.status.manifest()
    assert bench.state.ledger is not None
    assert bench.state.ledger.trials[0].status == given_up.status


def test_what_rests_on_an_older_state_of_the_study_is_not_written_over_a_newer_one() -> None:
    """Another operator has written its end."""
    bench = Bench(a_study())
    ended = {"type": "Succeeded", "status": "True", "reason": "MaxTrialsReached", "lastTransitionTime": stamp(at(0))}
    over = {"conditions": [ended]}

    async def run() -> None:
        bench.executor.execute(bench.state, [WriteStudy(StudyStatus(seed=0))])
        bench.store.study("MODIFIED", bench.api.put({**bench.state.raw, "status": over}))
        await answered(bench)

    asyncio.run(run())
    assert bench.api.objects["Study", "digits"]["status"] == over
