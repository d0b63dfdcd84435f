"""The Job that removes checkpoints: it sees its Study's own folder and nothing else, and says what it is about."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hpo_operator.cluster.cleanup import cleanup_manifest, cleanup_name, is_cleanup, seen_cleanup
from hpo_operator.cluster.store import Store, StudyState
from hpo_operator.planner import Cleanup
from hpo_operator.resources import Study, Template

from tests.unit.operator.builders import a_study, at
from tests.unit.operator.cluster.objects import Object, WorkloadObjectBuilder, running_object


def the_study(**pod: Any) -> Study:
    container = {"name": "main", "image": "trainer:1", "command": ["train"]} | pod.pop("container", {})
    template = Template.model_validate({"job": {"spec": {"template": {"spec": {"containers": [container], **pod}}}}})
    study = a_study().keeping_checkpoints().build()
    return study.model_copy(update={"spec": study.spec.model_copy(update={"template": template})})


def pod_of(job: Object) -> Object:
    found: Object = job["spec"]["template"]["spec"]
    return found


def test_it_sees_of_the_volume_only_the_study_s_own_folder_and_names_what_it_removes() -> None:
    pod = pod_of(cleanup_manifest(the_study(), [3, 12]))
    (container,) = pod["containers"]
    assert pod["volumes"] == [{"name": "hpo-checkpoints", "persistentVolumeClaim": {"claimName": "weights"}}]
    assert container["volumeMounts"] == [{"name": "hpo-checkpoints", "mountPath": "/hpo/checkpoints", "subPath": "study-uid"}]
    assert (container["workingDir"], container["command"]) == ("/hpo/checkpoints", ["rm", "-rf", "--", "digits-3", "digits-12"])
    assert pod["automountServiceAccountToken"] is False


def test_what_it_removes_may_be_gone_by_half_or_wholly_from_an_attempt_that_was_killed(tmp_path: Path) -> None:
    for path in ("digits-3/step-1/model", "digits-1/step-1/model"):  # of digits-3 the manifest is gone already, of digits-12 all
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("weights")
    (tmp_path / "digits-3" / "step-2").mkdir()
    (container,) = pod_of(cleanup_manifest(the_study(), [3, 12]))["containers"]
    for _ in range(2):
        subprocess.run(container["command"], cwd=tmp_path, check=True)
        assert [each.name for each in tmp_path.iterdir()] == ["digits-1"]


def test_it_runs_as_the_trials_do_and_with_their_image_unless_the_installer_names_another() -> None:
    who = {
        "securityContext": {"runAsUser": 7},
        "nodeSelector": {"disk": "nfs"},
        "container": {"securityContext": {"runAsGroup": 8}},
    }
    pod = pod_of(cleanup_manifest(the_study(**who), [3]))
    (container,) = pod["containers"]
    assert (pod["securityContext"], pod["nodeSelector"]) == ({"runAsUser": 7}, {"disk": "nfs"})
    assert (container["securityContext"], container["image"]) == ({"runAsGroup": 8}, "trainer:1")
    assert pod_of(cleanup_manifest(the_study(), [3], "busybox"))["containers"][0]["image"] == "busybox"
    assert "nvidia.com/gpu" not in str(pod["containers"])


def test_it_is_the_study_s_and_none_of_its_trials() -> None:
    job = cleanup_manifest(the_study(), [3])
    labels, inner = job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == ("digits-cleanup-study-ui", "team-a")
    assert labels["hpo.dev/study-uid"] == "study-uid"
    assert "hpo.dev/study-uid" not in inner, "by which pods of Trials are counted"
    assert job["metadata"]["ownerReferences"][0]["kind"] == "Study"
    assert is_cleanup(job)


def test_its_name_is_no_longer_than_a_pod_s_may_be() -> None:
    study = the_study()
    named = study.model_copy(update={"metadata": study.metadata.model_copy(update={"name": "d" * 50, "uid": "0" * 36})})
    assert len(cleanup_name(named)) <= 63


@pytest.mark.parametrize(
    ("say", "seen"),
    [
        (lambda job: job, Cleanup((3, 12))),
        (
            lambda job: job.complete(at(60)),
            Cleanup((3, 12), True, at(60), "CompletionsReached: Reached expected number of succeeded pods"),
        ),
        (lambda job: job.failed("BackoffLimitExceeded", "no"), Cleanup((3, 12), False, at(60), "BackoffLimitExceeded: no")),
    ],
    ids=["at work", "done", "failed"],
)
def test_what_it_shows_is_what_its_command_names_and_how_it_has_ended(say: Any, seen: Cleanup) -> None:
    assert seen_cleanup(say(WorkloadObjectBuilder(cleanup_manifest(the_study(), [3, 12]))).build()) == seen


def test_the_store_takes_it_for_no_trial_s_workload() -> None:
    store, job = Store(), cleanup_manifest(the_study(), [3])
    job["metadata"] |= {"uid": "u", "resourceVersion": "5"}
    store.studies["study-uid"] = state = StudyState("team-a", "digits", "study-uid", {})
    assert store.workload("ADDED", job) == "study-uid"
    assert state.cleanup is job
    assert state.workloads == {}
    older = {**job, "metadata": {**job["metadata"], "resourceVersion": "4"}}
    store.workload("MODIFIED", older)
    assert state.cleanup is job
    assert store.workload("DELETED", job) == "study-uid"
    assert state.cleanup is None


def test_a_Job_of_another_namespace_that_carries_its_labels_is_not_it() -> None:
    """Taken for it, one that never ends would keep all checkpoints for ever, and one that ends would tell that they are gone."""
    store, job = Store(), cleanup_manifest(the_study(), [3])
    store.studies["study-uid"] = state = StudyState("team-a", "digits", "study-uid", {})
    job["metadata"] |= {"uid": "forged", "resourceVersion": "5", "namespace": "team-b"}
    assert store.workload("ADDED", job) is None
    assert state.cleanup is None


def test_in_an_object_store_the_sdk_removes_below_the_study_s_own_prefix_with_the_trials_rights() -> None:
    study = the_study(serviceAccountName="trainer", container={"env": [{"name": "AWS_REGION", "value": "eu-central-1"}]})
    kept = a_study().keeping_objects().build().spec.checkpoints
    study = study.model_copy(update={"spec": study.spec.model_copy(update={"checkpoints": kept})})
    job = cleanup_manifest(study, [3, 12], "busybox")
    (container,) = pod_of(job)["containers"]
    place = "s3://bucket/team-a/study-uid"
    removing = ["python", "-m", "hpo.checkpoint", "remove", "--store", place, "--", "digits-3", "digits-12"]
    assert (container["image"], container["command"]) == ("trainer:1", removing)
    assert container["envFrom"] == [{"secretRef": {"name": "s3-rights"}}]
    assert container["env"] == [{"name": "AWS_REGION", "value": "eu-central-1"}]
    assert pod_of(job)["serviceAccountName"] == "trainer"
    assert "volumes" not in pod_of(job)
    assert seen_cleanup(job) == Cleanup((3, 12))
    assert pod_of(cleanup_manifest(study, [3], "busybox", "sdk:1"))["containers"][0]["image"] == "sdk:1"


def test_what_a_Workflow_s_steps_have_saved_is_removed_as_its_steps_run() -> None:
    step = {"name": "train", "container": {"image": "trainer:1", "securityContext": {"runAsUser": 7}}}
    spec = {"templates": [{"name": "all", "steps": []}, step], "nodeSelector": {"disk": "nfs"}, "serviceAccountName": "argo"}
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": spec}
    pod = pod_of(cleanup_manifest(running_object(a_study().keeping_checkpoints(), workflow), [3]))
    (container,) = pod["containers"]
    assert (container["image"], container["securityContext"]) == ("trainer:1", {"runAsUser": 7})
    assert pod["nodeSelector"] == {"disk": "nfs"}
    assert "serviceAccountName" not in pod
