"""What the store makes of events: late ones, missed ones, and those of workloads that nobody expects any more."""

from __future__ import annotations

from typing import Any

import pytest
from hpo_operator.cluster.kinds import WorkloadKind
from hpo_operator.cluster.rendering import NUMBER_LABEL, STUDY_UID_LABEL, owner
from hpo_operator.cluster.store import Store, StudyState
from hpo_operator.workloads import Phase

from tests.unit.operator.builders import TrialBuilder, a_ledger, a_study, a_trial, at
from tests.unit.operator.cluster import objects as pods

UID = "study-uid"


@pytest.fixture
def store() -> Store:
    found = Store()
    found.study(None, {"metadata": {"namespace": "team-a", "name": "digits", "uid": UID, "resourceVersion": "1"}})
    return found


def holding(store: Store, *trials: TrialBuilder) -> StudyState:
    """The Study, accepted, with these Trials."""
    state, study = store.studies[UID], a_study().build()
    state.study, state.ledger = study, a_ledger(study, *(each.build() for each in trials))
    return state


def a_job(uid: str = "w0", version: int = 10, *, number: int = 0, by: str = "Trial", **metadata: Any) -> dict[str, Any]:
    labels = {STUDY_UID_LABEL: UID, NUMBER_LABEL: str(number)}
    known = {"name": f"digits-{number}", "uid": uid, "resourceVersion": str(version), "labels": labels}
    owners = [owner(by, f"digits-{number}", "t")]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {**known, "ownerReferences": owners, **metadata}, "spec": {}}


def a_pod(uid: str = "p0", version: int = 10, phase: str = "Running") -> dict[str, Any]:
    labels = {STUDY_UID_LABEL: UID, NUMBER_LABEL: "0"}
    metadata = {"name": uid, "uid": uid, "resourceVersion": str(version), "labels": labels}
    spec = {"containers": [{"name": "main", "image": "large", "env": []}]}
    return {"metadata": {**metadata, "managedFields": [1]}, "spec": spec, "status": {"phase": phase}}


def test_an_older_state_of_a_workload_does_not_undo_a_newer_one(store: Store) -> None:
    state = holding(store, a_trial(0))
    assert store.workload("MODIFIED", a_job(version=20)) == UID
    assert store.workload("MODIFIED", a_job(version=10)) is None
    assert state.workloads[0]["metadata"]["resourceVersion"] == "20"


def test_an_older_state_of_a_trial_does_not_undo_its_deletion(store: Store) -> None:
    """The answer to a write that was carried out before it comes after it."""
    state = holding(store)
    ended = a_trial(0).completed(loss=0.5).build().manifest()

    def at_version(version: int) -> dict[str, Any]:
        return {**ended, "metadata": {**ended["metadata"], "resourceVersion": str(version)}}

    store.trial("ADDED", at_version(10))
    store.trial("DELETED", at_version(12))
    assert not state.put_trial(at_version(11))
    assert state.ledger is not None
    assert not state.ledger.trials


def test_a_workload_that_is_gone_is_remembered_by_its_reference(store: Store) -> None:
    state = holding(store, a_trial(0))
    store.workload("ADDED", a_job("w0"))
    store.workload("DELETED", a_job("w0", 11))
    seen = state.workload(0)
    assert seen.phase is Phase.ABSENT
    assert seen.ref is not None
    assert seen.ref.uid == "w0"


def test_what_carries_the_labels_of_a_Trial_in_another_namespace_is_none_of_its(store: Store) -> None:
    state = holding(store, a_trial(0))
    pod = a_pod()
    pod["metadata"]["namespace"] = "team-b"
    assert store.workload("ADDED", a_job(namespace="team-b")) is None
    assert store.pod("ADDED", pod) is None
    assert (state.workloads, state.pods) == ({}, {})
    assert store.workload("ADDED", a_job(namespace="team-a")) == UID


def test_the_end_of_an_earlier_workload_does_not_take_the_present_one_away(store: Store) -> None:
    state = holding(store, a_trial(0))
    store.workload("ADDED", a_job("w1", 20))
    store.workload("DELETED", a_job("w0", 30))
    assert state.workload(0).phase is not Phase.ABSENT


def test_what_was_known_of_an_earlier_workload_is_not_the_next_ones(store: Store) -> None:
    state = holding(store, a_trial(0))
    store.workload("ADDED", a_job("w0"))
    state.pods_listed.add(0)
    state.logs_read.add(0)
    store.workload("DELETED", a_job("w0", 11))
    store.workload("ADDED", a_job("w1", 12))
    assert not state.pods_listed
    assert not state.logs_read


def test_what_an_earlier_workload_has_held_is_not_counted_with_the_next_one_that_is_lost(store: Store) -> None:
    """It was, when that one was given up; and pods of most kinds name no workload."""
    state = holding(store, a_trial(0))
    state.kind = WorkloadKind(api_version="ray.io/v1", kind="RayJob")
    labels = {STUDY_UID_LABEL: UID, NUMBER_LABEL: "0"}

    def pod(name: str, since: float, until: float) -> dict[str, Any]:
        built = pods.a_pod(name).gpus(2).labelled(**labels).created(at(since)).failed(143, since=at(since), until=at(until))
        return built.having("metadata", "resourceVersion", value="5").build()

    for uid, since in (("w0", 0), ("w1", 100)):
        job = {**a_job(uid, 10 + since, creationTimestamp=pods.stamp(at(since))), "kind": "RayJob", "apiVersion": "ray.io/v1"}
        store.workload("ADDED", job)
        store.pod("DELETED", pod(f"of-{uid}", since + 10, since + 40))
        store.workload("DELETED", {**job, "metadata": {**job["metadata"], "resourceVersion": str(50 + since)}})
        assert state.workload(0).gpu_seconds(at(200)) == 2 * 30


def test_what_a_controller_has_made_with_copied_labels_is_not_the_trials_workload(store: Store) -> None:
    state = holding(store, a_trial(0))
    assert store.workload("ADDED", a_job(by="RayJob")) is None
    assert 0 not in state.workloads


def test_events_that_come_while_everything_is_listed_wait_for_it(store: Store) -> None:
    state = holding(store, a_trial(0))
    state.missed = []
    assert store.workload("DELETED", a_job("w0", 11)) is None
    assert state.missed == [("workload", "DELETED", a_job("w0", 11))]
    assert 0 not in state.absent


def test_a_pod_that_is_deleted_keeps_its_evidence(store: Store) -> None:
    state = holding(store, a_trial(0))
    store.pod("ADDED", a_pod())
    store.pod("DELETED", a_pod(version=11))
    assert [each["gone"] for each in state.pods[0].values()] == [True]


def test_of_a_pod_only_what_is_looked_at_is_kept(store: Store) -> None:
    state = holding(store, a_trial(0))
    store.pod("ADDED", a_pod())
    (kept,) = state.pods[0].values()
    assert kept["spec"] == {"containers": [{"name": "main"}]}
    assert "managedFields" not in kept["metadata"]


class TestATrialThatHasEndedAndWhoseWorkloadIsAtRest:
    @pytest.fixture
    def state(self, store: Store) -> StudyState:
        state = holding(store, a_trial(0).completed(loss=0.5))
        store.workload("ADDED", a_job("w0"))
        assert state.ledger is not None
        state.ledger.settle(0)
        state.settle(0)
        return state

    def test_is_not_looked_at_again_for_its_pods_and_its_workload(self, store: Store, state: StudyState) -> None:
        assert store.pod("MODIFIED", a_pod(version=20)) is None
        assert store.workload("MODIFIED", a_job("w0", 20)) is None
        assert 0 not in state.pods

    def test_is_looked_at_when_a_workload_of_it_is_created_late(self, store: Store, state: StudyState) -> None:
        """By a request of an operator that has died meanwhile."""
        assert state.ledger is not None
        assert store.workload("ADDED", a_job("w1", 20)) == UID
        assert 0 in state.ledger.uncleaned
        assert not state.ledger.kept

    def test_is_not_looked_at_for_late_events_of_what_was_deleted(self, store: Store, state: StudyState) -> None:
        assert state.ledger is not None
        state.deleted[0] = "w0"
        state.ledger.cleaned(0)
        state.forget(0)
        assert store.workload("MODIFIED", a_job("w0", 20)) is None
        assert store.workload("MODIFIED", a_job("w1", 20, deletionTimestamp="2026-01-01T00:00:00Z")) is None
