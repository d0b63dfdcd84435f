"""Which kinds of workloads an installer allows, and by which signs each says that it has ended."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hpo_operator.cluster.client import JOBS
from hpo_operator.cluster.kinds import JOB, End, KindNotAllowed, WorkloadKind, kind_of
from hpo_operator.resources import Template
from hpo_operator.validation import faults_of
from pydantic import ValidationError

from tests.unit.operator.builders import TEMPLATE, at
from tests.unit.operator.cluster.objects import WorkloadObjectBuilder, an_object, stamp


def read(**given: Any) -> WorkloadKind:
    """As it is read from the installer's file."""
    return WorkloadKind.model_validate_json(json.dumps({"apiVersion": "example.com/v1", "kind": "Training", **given}))


def with_status(**status: Any) -> WorkloadObjectBuilder:
    return an_object("example.com/v1", "Training").having("status", value=status)


def condition(type_: str, status: str = "True") -> dict[str, Any]:
    return {"conditions": [{"type": "Other", "status": "True"}, {"type": type_, "status": status}]}


# Known kinds

ENDS = [
    ("jobset.x-k8s.io/v1alpha2", "JobSet", "jobsets", condition("Completed"), condition("Failed")),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs", condition("Complete"), condition("Failed")),
    ("ray.io/v1", "RayJob", "rayjobs", {"jobDeploymentStatus": "Complete"}, {"jobDeploymentStatus": "Failed"}),
    ("ray.io/v1", "RayJob", "rayjobs", {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}, {"jobStatus": "STOPPED"}),
    ("ray.io/v1", "RayJob", "rayjobs", {"jobDeploymentStatus": "Complete"}, {"jobDeploymentStatus": "ValidationFailed"}),
    ("argoproj.io/v1alpha1", "Workflow", "workflows", {"phase": "Succeeded"}, {"phase": "Failed"}),
    ("argoproj.io/v1alpha1", "Workflow", "workflows", {"phase": "Succeeded"}, {"phase": "Error"}),
    ("batch.volcano.sh/v1alpha1", "Job", "jobs", {"state": {"phase": "Completed"}}, {"state": {"phase": "Aborted"}}),
    ("kubeflow.org/v2beta1", "MPIJob", "mpijobs", condition("Succeeded"), condition("Failed")),
    ("kubeflow.org/v1", "PyTorchJob", "pytorchjobs", condition("Succeeded"), condition("Failed")),
    ("batch/v1", "Job", "jobs", condition("Complete"), condition("Failed")),
]


@pytest.mark.parametrize(
    ("api_version", "kind", "plural", "well", "badly"), ENDS, ids=lambda each: each if isinstance(each, str) else ""
)
def test_an_installer_need_only_name_a_known_kind(api_version: str, kind: str, plural: str, well: Any, badly: Any) -> None:
    found = read(apiVersion=api_version, kind=kind)
    assert found.served.path("a", "b") == f"/apis/{api_version}/namespaces/a/{plural}/b"
    for status, expected in ((well, True), (badly, False), ({}, None), ({"phase": "Running"}, None)):
        end = found.end_of(with_status(**status).build())
        assert (end and end.succeeded) is expected, status


def test_a_RayJob_that_is_tried_again_has_not_failed() -> None:
    ray = read(apiVersion="ray.io/v1", kind="RayJob")
    assert ray.end_of(with_status(jobStatus="FAILED", jobDeploymentStatus="Retrying").build()) is None


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ({"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}, {"suspend": True}, True),
        ({"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}, {"suspend": False}, False),
        ({"apiVersion": "kubeflow.org/v2beta1", "kind": "MPIJob"}, {"runPolicy": {"suspend": True}}, True),
        ({}, {"suspend": True}, True),
        ({"suspended": [{"path": "spec.state", "in": ["Held"]}]}, {"suspend": True}, False),
        ({"suspended": [{"path": "spec.state", "in": ["Held"]}]}, {"state": "Held"}, True),
    ],
)
def test_a_workload_that_waits_for_its_queue_is_known(kind: Any, spec: Any, expected: bool) -> None:
    assert read(**kind).is_suspended(an_object("a/v1", "B", **spec).build()) is expected


# Kinds of the installer's own


@pytest.mark.parametrize("type_", ["Complete", "Completed", "Succeeded"])
def test_a_kind_of_which_nothing_is_said_ends_by_the_usual_conditions(type_: str) -> None:
    assert read().end_of(with_status(**condition(type_)).build()) == End(True)
    assert read().end_of(with_status(**condition(type_, "False")).build()) is None
    assert read().end_of(with_status(**condition("Failed")).build()) == End(False)


OWN = {
    "succeeded": [{"path": "status.code", "in": [0, "ok"]}, {"condition": "Fine"}],
    "failed": [{"path": "status.dead", "in": [True]}],
}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"code": 0}, True),
        ({"code": "0"}, True),
        ({"code": "ok"}, True),
        ({"code": 1}, None),
        ({"code": {"ok": "ok"}}, None),
        (condition("Fine"), True),
        (condition("Complete"), None),
        ({"dead": True, "code": 0}, False),
        ({"dead": "true"}, False),
        ({"dead": False}, None),
        ({"conditions": None}, None),
        ({"conditions": "broken"}, None),
    ],
)
def test_the_signs_that_an_installer_gives_replace_the_usual_ones(status: Any, expected: bool | None) -> None:
    end = read(**OWN).end_of(with_status(**status).build())
    assert (end and end.succeeded) is expected


def test_an_installer_may_give_signs_of_success_alone() -> None:
    assert read(succeeded=OWN["succeeded"]).end_of(with_status(**condition("Failed")).build()) == End(False)


def test_an_end_is_told_in_the_words_beside_its_sign() -> None:
    workload = an_object("a/v1", "B").condition("Failed", "Why", "said so", at(60)).build()
    assert read().end_of(workload) == End(False, "Why", "said so", at(60))
    state = {"phase": "Failed", "reason": "Why", "message": "said so"}
    volcano = read(apiVersion="batch.volcano.sh/v1alpha1", kind="Job")
    assert volcano.end_of(with_status(state=state).build()) == End(False, "Why", "said so")
    found = volcano.end_of(with_status(state={**state, "lastTransitionTime": stamp(at(60))}).build())
    assert found == End(False, "Why", "said so", at(60))


@pytest.mark.parametrize(
    ("api_version", "kind", "status"),
    [
        ("ray.io/v1", "RayJob", {"jobDeploymentStatus": "Complete", "endTime": stamp(at(60))}),
        ("argoproj.io/v1alpha1", "Workflow", {"phase": "Succeeded", "finishedAt": stamp(at(60))}),
    ],
)
def test_when_it_ended_is_told_where_each_kind_says_it(api_version: str, kind: str, status: Any) -> None:
    assert read(apiVersion=api_version, kind=kind).end_of(with_status(**status).build()) == End(True, time=at(60))


@pytest.mark.parametrize("time", ["yesterday", "2030-01-01T00:00:00", 7, None])
def test_what_is_no_time_is_none(time: Any) -> None:
    assert read(**OWN).end_of(with_status(code=0, endTime=time).build()) == End(True)


def test_the_name_in_the_paths_is_guessed_as_Kubernetes_does_unless_it_is_given() -> None:
    assert [read(kind=kind).served.plural for kind in ("Training", "Process", "Study")] == ["trainings", "processes", "studies"]
    assert read(plural="trainees").served.plural == "trainees"


# What an installer may get wrong

WRONG = {
    "a version without a number": ({"apiVersion": "Example/"}, "apiVersion: 'Example/': must be a group and a version"),
    "a path": ({"apiVersion": "../v1"}, "apiVersion"),
    "a plural for a kind": ({"kind": "rayjobs"}, "kind: 'rayjobs': must be a kind as it stands in an object"),
    "a plural with a slash": ({"plural": "a/b"}, "plural: 'a/b': must be a name as in the paths of the API"),
    "a sign of two kinds": (
        {"failed": [{"condition": "A", "path": "b", "in": ["c"]}]},
        "failed[0]: needs exactly one of condition, path",
    ),
    "an empty sign": ({"failed": [{}]}, "failed[0]: needs exactly one of condition, path. For example {condition: Complete}"),
    "a path without values": ({"failed": [{"path": "status.phase"}]}, "failed[0]: needs `in` together with path"),
    "a condition with values": ({"failed": [{"condition": "A", "in": ["B"]}]}, "failed[0]: needs `in` together with path"),
    "a path with a hole": ({"failed": [{"path": "a..b", "in": ["B"]}]}, "failed[0].path: 'a..b': must be names of fields"),
    "a field that does not exist": ({"succeded": []}, "succeded: is not a known field. Did you mean 'succeeded'?"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_named_with_its_field_and_the_remedy(given: Any, message: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        read(**given)
    faults = [str(fault) for fault in faults_of(refusal.value, WorkloadKind)]
    assert len(faults) == 1
    assert faults[0].startswith(message)


# What a Study may ask for


def test_a_Job_is_always_allowed() -> None:
    as_object = {"apiVersion": "batch/v1", "kind": "Job"}
    assert kind_of(Template.model_validate(TEMPLATE), ()) is kind_of(Template(object=as_object), ()) is JOB
    assert JOB.served == JOBS


def test_a_kind_is_allowed_in_the_version_that_the_installer_names() -> None:
    allowed = read()
    assert kind_of(Template(object={"apiVersion": "example.com/v1", "kind": "Training"}), [allowed]) is allowed
    with pytest.raises(KindNotAllowed) as refusal:
        kind_of(Template(object={"apiVersion": "example.com/v2", "kind": "Training"}), [allowed])
    assert str(refusal.value) == (
        "spec.template.object: 'example.com/v2 Training': is of a kind that this installation does not allow. "
        "Allowed: batch/v1 Job, example.com/v1 Training. Whoever has installed the operator can allow more (workloadKinds)."
    )
