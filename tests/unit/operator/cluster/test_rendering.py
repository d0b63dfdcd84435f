"""What is added to the workload that a user has written, and that nothing else of it changes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hpo_operator.cluster.rendering import (
    MAX_PARAMETERS_LINE,
    job_manifest,
    labels_of,
    parameters_line,
    pod_templates,
    pods_of,
    reporting_container,
    trial_manifest,
    workload_manifest,
)
from hpo_operator.resources import NamedValue, Study, Template
from hpo_operator.validation import problem_of

from tests.unit.operator.builders import a_study, a_trial
from tests.unit.operator.cluster.objects import Object, running_object

OURS = {"hpo.dev/study": "digits", "hpo.dev/study-uid": "study-uid", "hpo.dev/trial": "digits-3", "hpo.dev/trial-number": "3"}
REPORTING = {"HPO_METRICS_PORT", "HPO_TERMINATION_FILE"}


def rendered(wanted: Object, **reporter: Any) -> Object:
    return of(running_object(a_study(), wanted, **reporter))


def of(study: Study) -> Object:
    return workload_manifest(study, a_trial(3).build(), problem_of(study.spec, 0).space)


def rendered_job(job: Object, **reporter: Any) -> Object:
    study = a_study().build()
    template = Template.model_validate({"job": job, "reporter": reporter or None})
    return of(study.model_copy(update={"spec": study.spec.model_copy(update={"template": template})}))


def a_pod_template(*containers: str, **labels: str) -> Object:
    made = [
        {"name": each, "image": "i", "command": ["train"], "args": ["--lr=$(HPO_PARAM_LR)"]} for each in containers or ("main",)
    ]
    return {"metadata": {"labels": labels}, "spec": {"containers": made}}


def a_job(*containers: str) -> Object:
    return {"spec": {"template": a_pod_template(*containers)}}


def a_jobset(**templates: Object) -> Object:
    jobs = [{"name": name, "replicas": 1, "template": {"spec": {"template": each}}} for name, each in templates.items()]
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "spec": {"replicatedJobs": jobs}}


def variables(container: Object) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def programs(workload: Object) -> dict[str, Object]:
    return {each["name"]: each for pod in pod_templates(workload) for each in pod["spec"]["containers"]}


# Every workload


@pytest.mark.parametrize(
    "wanted", [a_jobset(a=a_pod_template()), {"apiVersion": "x.y/v1", "kind": "Z", "spec": {}}], ids=["JobSet", "any"]
)
def test_name_namespace_and_owner_are_forced(wanted: Object) -> None:
    own = {"name": "mine", "namespace": "kube-system", "ownerReferences": [{"uid": "x"}], "finalizers": ["stay"], "uid": "u"}
    kept = {"annotations": {"a": "b"}, "labels": {"kueue.x-k8s.io/queue-name": "q", "hpo.dev/trial": "forged"}}
    metadata = rendered({**wanted, "metadata": {**own, **kept}, "status": {"phase": "Succeeded"}})["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("digits-3", "team-a")
    assert [(each["kind"], each["uid"], each["controller"]) for each in metadata["ownerReferences"]] == [("Trial", "t3", True)]
    assert not metadata.keys() & {"finalizers", "uid"}
    assert metadata["annotations"] == {"a": "b"}
    assert metadata["labels"] == {"kueue.x-k8s.io/queue-name": "q", **OURS}


def test_a_status_is_not_the_users_to_write() -> None:
    assert "status" not in rendered({**a_jobset(a=a_pod_template()), "status": {"terminalState": "Completed"}})


def test_what_the_user_wrote_is_left_as_it_stands() -> None:
    wanted = {**a_jobset(a=a_pod_template("main", "loader")), "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}}}
    before = copy.deepcopy(wanted)
    made = rendered(wanted)
    assert wanted == before
    assert "suspend" not in made["spec"]  # Kueue's own webhook does that
    for container in programs(made).values():
        assert (container["image"], container["command"], container["args"]) == ("i", ["train"], ["--lr=$(HPO_PARAM_LR)"])


def test_a_variable_of_the_users_own_stays_and_comes_after_those_that_it_may_refer_to() -> None:
    pod = a_pod_template()
    pod["spec"]["containers"][0]["env"] = [{"name": "HPO_BUDGET", "value": "own"}, {"name": "LR", "value": "$(HPO_PARAM_X)"}]
    env = programs(rendered(a_jobset(a=pod)))["main"]["env"]
    assert env[-2:] == pod["spec"]["containers"][0]["env"]
    assert [each["name"] for each in env].count("HPO_BUDGET") == 1
    assert {"name": "HPO_PARAM_X", "value": "0.5"} in env


# A Job


def test_a_Job_gets_the_fields_that_it_does_not_have() -> None:
    spec = rendered_job(a_job())["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore", "FailJob"]
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["automountServiceAccountToken"]) == ("Never", False)
    assert spec["template"]["metadata"]["labels"] == OURS


def test_a_Job_keeps_the_fields_that_it_has() -> None:
    job = a_job()
    job["spec"] |= {"backoffLimit": 3, "podReplacementPolicy": "TerminatingOrFailed", "podFailurePolicy": {"rules": []}}
    job["spec"]["template"]["spec"] |= {"restartPolicy": "Never", "automountServiceAccountToken": True}
    spec = rendered_job(job)["spec"]
    assert {field: spec[field] for field in job["spec"] if field != "template"} == {
        field: value for field, value in job["spec"].items() if field != "template"
    }
    assert spec["template"]["spec"]["automountServiceAccountToken"] is True


def test_a_Job_whose_containers_restart_in_place_gets_no_failure_policy_which_would_be_refused() -> None:
    job = a_job()
    job["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    assert "podFailurePolicy" not in rendered_job(job)["spec"]


def test_a_Job_that_is_written_as_an_object_is_the_same_Job() -> None:
    assert rendered({"apiVersion": "batch/v1", "kind": "Job", **a_job()}) == rendered_job(a_job())


def test_the_old_name_renders_the_same_Job() -> None:
    study = a_study().build()
    assert job_manifest(study, a_trial(3).build(), problem_of(study.spec, 0).space) == of(study)


# The container that reports


@pytest.mark.parametrize(("reporter", "expected"), [({}, "main"), ({"container": "second"}, "second")])
def test_only_the_reporting_container_is_told_where_to_report(reporter: Any, expected: str) -> None:
    made = programs(rendered_job(a_job("main", "second"), **reporter))
    assert {name for name, each in made.items() if variables(each).keys() >= REPORTING} == {expected}
    assert {name for name, each in made.items() if "ports" in each} == {expected}
    assert all("HPO_PARAM_X" in variables(each) for each in made.values())


def test_a_termination_file_of_the_users_own_is_the_one_to_write() -> None:
    job = a_job()
    job["spec"]["template"]["spec"]["containers"][0] |= {"terminationMessagePath": "/tmp/end", "ports": [{"containerPort": 80}]}
    container = programs(rendered_job(job))["main"]
    assert variables(container)["HPO_TERMINATION_FILE"] == "/tmp/end"
    assert [each["containerPort"] for each in container["ports"]] == [80, 9464]


PODS = {"spec": {"containers": [{"name": "main"}]}}


@pytest.mark.parametrize(
    ("manifest", "pods"),
    [
        ({"job": {"spec": {"template": PODS}}}, 1),
        ({"job": {"spec": {"parallelism": 4, "completions": 8, "template": PODS}}}, 4),
        ({"spec": {"replicatedJobs": [{"replicas": 2, "template": {"spec": {"parallelism": 3, "template": PODS}}}] * 2}}, 12),
        ({"spec": {"replicaSpecs": {"Master": {"template": PODS}, "Worker": {"replicas": 3, "template": PODS}}}}, 4),
        ({"spec": {"trainer": {"numNodes": 4}}}, 0),
    ],
)
def test_the_pods_of_a_workload_are_counted_by_replicas_and_parallelism(manifest: Any, pods: int) -> None:
    assert pods_of(manifest) == pods


ROLES = {"lead": a_pod_template("lead", role="lead"), "work": a_pod_template("work", role="work")}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [(None, {"lead", "work"}), ({"role": "lead"}, {"lead"}), ({"set-by-its-controller": "0"}, {"lead", "work"})],
    ids=["without labels, any may report", "labels of a template name it", "labels of no template leave it open"],
)
def test_of_several_pod_templates_some_report(selector: Any, expected: set[str]) -> None:
    made = programs(rendered(a_jobset(**ROLES), podSelector=selector))
    assert {name for name, each in made.items() if variables(each).keys() >= REPORTING} == expected


# Pods of other kinds


def test_a_JobSet_has_our_labels_on_its_pods_but_not_on_its_Jobs_which_are_no_workloads_of_a_Study() -> None:
    made = rendered(a_jobset(**ROLES))
    for job in made["spec"]["replicatedJobs"]:
        assert "metadata" not in job["template"]
        pod = job["template"]["spec"]["template"]
        assert pod["metadata"]["labels"] == {"role": job["name"], **OURS}
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert "restartPolicy" not in pod["spec"]


def test_a_RayJob_has_its_labels_and_variables_in_head_workers_and_submitter_and_keeps_its_tokens() -> None:
    made = rendered(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "spec": {
                "entrypoint": "python train.py",
                "submitterPodTemplate": a_pod_template("submitter"),
                "rayClusterSpec": {
                    "headGroupSpec": {"template": a_pod_template("head")},
                    "workerGroupSpecs": [{"template": a_pod_template("worker")}],
                },
            },
        }
    )
    pods = list(pod_templates(made))
    assert programs(made).keys() == {"submitter", "head", "worker"}
    assert all(pod["metadata"]["labels"] == OURS and "automountServiceAccountToken" not in pod["spec"] for pod in pods)
    assert all("HPO_PARAM_X" in variables(each) for each in programs(made).values())


def a_workflow(*steps: Object) -> Object:
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {"entrypoint": "all", "templates": list(steps)}}


def test_the_steps_of_a_Workflow_get_the_variables_and_its_pods_the_labels() -> None:
    made = rendered(
        a_workflow(
            {"name": "all", "steps": [[{"name": "a", "template": "train"}]]},
            {"name": "train", "container": {"image": "i"}},
            {"name": "check", "script": {"image": "i", "source": "print()"}, "metadata": {"labels": {"own": "1"}}},
            {"name": "both", "containerSet": {"containers": [{"name": "aside", "image": "i"}, {"name": "main", "image": "i"}]}},
        )
    )
    every, train, check, both = made["spec"]["templates"]
    assert every == {"name": "all", "steps": [[{"name": "a", "template": "train"}]]}
    aside, main = both["containerSet"]["containers"]
    assert all(variables(each).keys() >= REPORTING for each in (train["container"], check["script"], main))
    assert not REPORTING & variables(aside).keys()
    assert made["spec"]["podMetadata"]["labels"] == OURS
    assert check["metadata"] == {"labels": {"own": "1"}}


FORGED = {
    "hpo.dev/study-uid": "a",
    "hpo-dev/study-uid": "b",
    "hpo.dev/study_uid": "c",
    "hpo_dev_trial.number": "d",
    "hpo.dev/rung": "9",
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_label_that_a_series_could_not_tell_from_ours_is_dropped_wherever_a_template_may_have_one(forged: str) -> None:
    labels = {forged: FORGED[forged], "hpo.dev/team": "a", "role": "b"}
    kept = {"hpo.dev/team": "a", "role": "b"}
    pod = {**a_pod_template(), "metadata": {"labels": labels}}
    job = rendered_job({"metadata": {"labels": labels}, "spec": {"template": pod}})
    jobset = rendered(a_jobset(a=pod))
    steps = [{"name": "train", "metadata": {"labels": labels}, "container": {"image": "i"}}]
    spec = {"podMetadata": {"labels": labels}, "templates": steps}
    workflow = rendered({"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": spec})

    made = [job, *pod_templates(job["spec"]), *pod_templates(jobset)]
    assert [each["metadata"]["labels"] for each in made] == [{**kept, **OURS}] * 3
    assert workflow["spec"]["podMetadata"]["labels"] == {**kept, **OURS}
    assert workflow["spec"]["templates"][0]["metadata"]["labels"] == kept


def test_the_step_of_a_Workflow_that_has_the_labels_reports() -> None:
    steps = [{"name": each, "metadata": {"labels": {"step": each}}, "container": {"image": "i"}} for each in ("train", "check")]
    train, check = rendered(a_workflow(*steps), podSelector={"step": "train"})["spec"]["templates"]
    assert variables(train["container"]).keys() >= REPORTING
    assert not REPORTING & variables(check["container"]).keys()


def test_the_main_container_of_a_Workflows_pod_reports() -> None:
    template = running_object(a_study(), a_workflow()).spec.template
    assert reporting_container({"containers": [{"name": "wait"}, {"name": "main"}]}, template)["name"] == "main"


def test_the_trainer_of_a_TrainJob_gets_the_variables_and_nothing_that_its_definition_does_not_know() -> None:
    own = {"runtimeRef": {"name": "torch"}, "trainer": {"numNodes": 2, "env": [{"name": "A", "value": "1"}]}}
    spec = rendered({"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "spec": own})["spec"]
    assert spec.keys() == own.keys()
    assert spec["trainer"].keys() == {"numNodes", "env"}
    assert (
        variables(spec["trainer"]).items()
        >= {"A": "1", "HPO_PARAM_X": "0.5", "HPO_TERMINATION_FILE": "/dev/termination-log"}.items()
    )


@pytest.mark.parametrize(
    "broken", [{"spec": {"containers": [None]}}, {"spec": {"containers": "none"}}, {"metadata": 1}, {"env": 5}]
)
def test_what_makes_no_sense_is_left_for_the_API_server_to_refuse(broken: Object) -> None:
    pod = {**a_pod_template(), **broken}
    if "env" in broken:
        pod["spec"]["containers"][0] |= {"env": 5, "ports": 5}
    for made in (rendered(a_jobset(a=pod)), rendered({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": pod}})):
        assert made["metadata"]["name"] == "digits-3"


@pytest.mark.parametrize("spec", [None, 5, {}, {"template": None}])
def test_a_Job_without_pods_is_left_for_the_API_server_to_refuse(spec: Any) -> None:
    assert rendered({"apiVersion": "batch/v1", "kind": "Job", "spec": spec})["spec"] == spec


# A Trial


def test_a_Trial_says_in_one_line_what_it_tries() -> None:
    study, trial = a_study().build(), a_trial(3).with_parameters(lr="0.0031234567", layers="2").build()
    metadata = trial_manifest(study, trial)["metadata"]
    assert metadata["annotations"] == {"hpo.dev/parameters": "lr=0.00312346 layers=2"}
    assert metadata["labels"] == labels_of(study, trial)


RUNGS = {
    "no rung": (None, "low"),
    "the lowest": (0, "low"),
    "the next": (1, "mid"),
    "the last named": (2, "high"),
    "above": (5, "high"),
}


@pytest.mark.parametrize(("rung", "expected"), RUNGS.values(), ids=RUNGS)
def test_the_pods_of_a_Trial_have_the_priority_of_its_rung(rung: int | None, expected: str) -> None:
    trial = a_trial(3).build() if rung is None else a_trial(3).slot(bracket=1, rung=rung).build()
    for template in ({"job": a_job("a", "b")}, {"object": a_jobset(lead=a_pod_template(), worker=a_pod_template())}):
        study = a_study().build()
        given = Template.model_validate({**template, "priorityClasses": ("low", "mid", "high")})
        study = study.model_copy(update={"spec": study.spec.model_copy(update={"template": given})})
        made = workload_manifest(study, trial, problem_of(study.spec, 0).space)
        assert {each["spec"]["priorityClassName"] for each in pod_templates(made)} == {expected}


def test_a_priority_of_the_users_own_stays() -> None:
    job = a_job()
    job["spec"]["template"]["spec"]["priorityClassName"] = "mine"
    study = a_study().build()
    given = Template.model_validate({"job": job, "priorityClasses": ("low",)})
    made = of(study.model_copy(update={"spec": study.spec.model_copy(update={"template": given})}))
    assert made["spec"]["template"]["spec"]["priorityClassName"] == "mine"
    assert "priorityClassName" not in rendered_job(a_job())["spec"]["template"]["spec"]


def test_the_place_of_a_trial_in_its_schedule_is_in_its_labels_but_not_who_it_is_there() -> None:
    trial = a_trial(3).slot(bracket=1, rung=0, member=4).build()
    assert labels_of(a_study().build(), trial).items() - labels_of(a_study().build(), a_trial(3).build()).items() == {
        ("hpo.dev/bracket", "1"),
        ("hpo.dev/rung", "0"),
    }


LINES = {
    "numbers keep six digits": ({"a": "1e-05", "b": "0.1000000001", "c": "-12345.678901"}, "a=1e-05 b=0.1 c=-12345.7"),
    "whole numbers stay whole": ({"n": "123456789"}, "n=123456789"),
    "a long name is cut": ({"net": "a-very-long-architecture-name"}, "net=a-very-long-archite…"),
    "a line stays a line": ({"net": "two\nlines"}, "net=two lines"),
    "nothing to try": ({}, ""),
}


@pytest.mark.parametrize(("values", "line"), LINES.values(), ids=LINES)
def test_the_line_is_short(values: dict[str, str], line: str) -> None:
    assert parameters_line(tuple(NamedValue(name=name, value=value) for name, value in values.items())) == line


def test_a_hundred_parameters_make_no_endless_line() -> None:
    line = parameters_line(tuple(NamedValue(name=f"p{i}", value="0.123456789") for i in range(100)))
    assert len(line) == MAX_PARAMETERS_LINE
    assert line.startswith("p0=0.123457 p1=")
    assert line.endswith("…")


def test_the_parameters_reach_the_program_as_they_are() -> None:
    container = programs(rendered_job(a_job()))["main"]
    assert json.loads(variables(container)["HPO_PARAMETERS"]) == {"x": 0.5}


# Checkpoints


def rendered_with_checkpoints(wanted: Object | None = None, donor: int | None = None) -> Object:
    study = running_object(a_study().keeping_checkpoints(), wanted)
    trial = a_trial(3) if donor is None else a_trial(3).restoring(donor)
    return workload_manifest(study, trial.build(), problem_of(study.spec, 0).space)


def test_a_trial_sees_of_the_volume_its_own_folder_and_no_other() -> None:
    pod = rendered_with_checkpoints()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["volumes"] == [{"name": "hpo-checkpoints", "persistentVolumeClaim": {"claimName": "weights"}}]
    assert container["volumeMounts"] == [
        {"name": "hpo-checkpoints", "mountPath": "/hpo/checkpoints", "subPath": "study-uid/digits-3"}
    ]
    assert variables(container)["HPO_CHECKPOINT_DIR"] == "/hpo/checkpoints"
    assert "HPO_RESTORE_DIR" not in variables(container)


def test_a_trial_that_continues_sees_its_donor_s_folder_too_and_cannot_write_there() -> None:
    (container,) = rendered_with_checkpoints(donor=7)["spec"]["template"]["spec"]["containers"]
    assert container["volumeMounts"][1] == {
        "name": "hpo-checkpoints",
        "mountPath": "/hpo/donor",
        "subPath": "study-uid/digits-7",
        "readOnly": True,
    }
    found = variables(container)
    assert (found["HPO_RESTORE_DIR"], found["HPO_RESTORE_TRIAL"]) == ("/hpo/donor/step-3", "digits-7")
    assert (found["HPO_RESTORE_STEP"], found["HPO_RESTORE_DIGEST"], found["HPO_START_STEP"]) == ("3", "d", "3")


def test_volumes_of_the_template_stay_and_every_pod_template_gets_the_folder() -> None:
    own = {"name": "data", "emptyDir": {}}
    pod = a_pod_template("a", "b")
    pod["spec"] |= {"volumes": [own]}
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    workload = rendered_with_checkpoints(a_jobset(lead=pod, worker=a_pod_template("c")))
    for template in pod_templates(workload):
        assert template["spec"]["volumes"][-1]["name"] == "hpo-checkpoints"
        assert all(each["volumeMounts"][-1]["subPath"] == "study-uid/digits-3" for each in template["spec"]["containers"])
    first = next(pod_templates(workload))["spec"]
    assert first["volumes"][0] == own
    assert first["containers"][0]["volumeMounts"][0] == {"name": "data", "mountPath": "/data"}


def rendered_to_copy(wanted: Object | None = None, donor: int | None = None, sdk_image: str | None = None) -> Object:
    study = running_object(a_study().keeping_checkpoints(restore="Copy"), wanted)
    trial = a_trial(3) if donor is None else a_trial(3).restoring(donor)
    return workload_manifest(study, trial.build(), problem_of(study.spec, 0).space, sdk_image)


def test_where_it_is_copied_for_the_program_an_init_container_sees_what_the_program_sees_and_runs_as_it_does() -> None:
    own = {"name": "unpacking", "image": "tar"}
    template = a_pod_template("main")
    template["spec"]["initContainers"] = [own]
    template["spec"]["containers"][0] |= {"securityContext": {"runAsUser": 7}, "imagePullPolicy": "Always"}
    pod = rendered_to_copy({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}}, donor=7)["spec"]["template"][
        "spec"
    ]
    (container,) = pod["containers"]
    assert pod["initContainers"][0] == own
    added = pod["initContainers"][1]
    assert added["command"] == ["python", "-m", "hpo.checkpoint", "restore"]
    for field in ("image", "volumeMounts", "securityContext", "imagePullPolicy"):
        assert added[field] == container[field]
    assert variables(added)["HPO_RESTORE_DIGEST"] == "d"
    assert variables(added)["HPO_TERMINATION_FILE"] == "/dev/termination-log"
    assert "HPO_METRICS_PORT" not in variables(added)


def test_the_installer_s_image_copies_where_programs_lack_the_sdk_as_whom_the_template_names() -> None:
    template, restricted = a_pod_template("main"), {"runAsUser": 7, "runAsGroup": 8, "capabilities": {"drop": ["ALL"]}}
    template["spec"]["containers"][0] |= {"securityContext": restricted, "imagePullPolicy": "Always"}
    template["spec"]["securityContext"] = {"runAsNonRoot": True, "fsGroup": 9}
    wanted = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}}
    pod = rendered_to_copy(wanted, donor=7, sdk_image="sdk:1")["spec"]["template"]["spec"]
    (added,) = pod["initContainers"]
    assert (added["image"], added["securityContext"]) == ("sdk:1", restricted)
    assert "imagePullPolicy" not in added
    assert pod["securityContext"] == {"runAsNonRoot": True, "fsGroup": 9}
    (added,) = rendered_to_copy(donor=7, sdk_image="sdk:1")["spec"]["template"]["spec"]["initContainers"]
    assert "securityContext" not in added, "nobody is made root who was not"
    assert added["terminationMessagePolicy"] == "FallbackToLogsOnError", "what is wrong stands in the Trial's condition"


def test_nothing_is_copied_for_a_trial_that_starts_from_nothing_or_copies_itself() -> None:
    assert "initContainers" not in rendered_to_copy()["spec"]["template"]["spec"]
    assert "initContainers" not in rendered_with_checkpoints(donor=7)["spec"]["template"]["spec"]


def test_it_is_copied_in_every_pod_since_any_may_start_first() -> None:
    workload = rendered_to_copy(a_jobset(lead=a_pod_template("a"), worker=a_pod_template("b")), donor=7)
    assert [len(pod["spec"]["initContainers"]) for pod in pod_templates(workload)] == [1, 1]


def rendered_with_objects(wanted: Object | None = None, donor: int | None = None, secret: str | None = "s3-rights") -> Object:
    study = running_object(a_study().keeping_objects(secret), wanted)
    trial = a_trial(3) if donor is None else a_trial(3).restoring(donor)
    return workload_manifest(study, trial.build(), problem_of(study.spec, 0).space)


def test_in_an_object_store_a_trial_is_told_its_own_place_and_its_donor_s_below_the_study_s_uid() -> None:
    pod = rendered_with_objects(donor=7)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    found = variables(container)
    assert found["HPO_CHECKPOINT_DIR"] == "s3://bucket/team-a/study-uid/digits-3"
    assert found["HPO_RESTORE_DIR"] == "s3://bucket/team-a/study-uid/digits-7/step-3"
    assert "volumes" not in pod
    assert "volumeMounts" not in container


def test_the_steps_of_a_Workflow_share_its_volume_or_its_object_store() -> None:
    own = {"name": "data", "emptyDir": {}}
    workflow = a_workflow({"name": "train", "container": {"image": "i"}}, {"name": "check", "script": {"image": "i"}})
    workflow["spec"]["volumes"] = [own]
    made = rendered_with_checkpoints(workflow, donor=7)["spec"]
    assert made["volumes"] == [own, {"name": "hpo-checkpoints", "persistentVolumeClaim": {"claimName": "weights"}}]
    train, check = made["templates"][0]["container"], made["templates"][1]["script"]
    for step in (train, check):
        assert [each["subPath"] for each in step["volumeMounts"]] == ["study-uid/digits-3", "study-uid/digits-7"]
        assert variables(step)["HPO_RESTORE_DIR"] == "/hpo/donor/step-3"
    made = rendered_with_objects(workflow)["spec"]
    assert made["volumes"] == [own]
    assert made["templates"][1]["script"]["envFrom"] == [{"secretRef": {"name": "s3-rights"}}]


def test_a_TrainJob_s_trainer_is_told_its_place_in_an_object_store() -> None:
    job = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "spec": {"runtimeRef": {"name": "torch"}}}
    trainer = rendered_with_objects(job, secret=None)["spec"]["trainer"]
    assert variables(trainer)["HPO_CHECKPOINT_DIR"] == "s3://bucket/team-a/study-uid/digits-3"
    assert trainer.keys() == {"env"}


def test_the_secret_becomes_environment_and_what_the_template_names_itself_goes_before_it() -> None:
    template, own = a_pod_template("main", "helper"), {"configMapRef": {"name": "own"}}
    template["spec"]["containers"][0]["envFrom"] = [own]
    pod = rendered_with_objects({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}})["spec"]["template"][
        "spec"
    ]
    secret = {"secretRef": {"name": "s3-rights"}}
    assert [each["envFrom"] for each in pod["containers"]] == [[secret, own], [secret]], "the last entry wins"
    pod = rendered_with_objects(secret=None)["spec"]["template"]["spec"]
    assert "envFrom" not in pod["containers"][0]


def test_without_checkpoints_no_volume_is_added() -> None:
    pod = rendered_job(a_job())["spec"]["template"]["spec"]
    assert "volumes" not in pod
    assert "volumeMounts" not in pod["containers"][0]
    assert "HPO_CHECKPOINT_DIR" not in variables(pod["containers"][0])


def test_a_job_fails_at_once_where_another_try_would_end_the_same() -> None:
    rules = rendered_job(a_job())["spec"]["podFailurePolicy"]["rules"]
    assert rules[1] == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [86, 87]}}


def test_a_trial_s_second_workload_is_the_same_as_its_first_so_that_it_finds_its_own_checkpoints() -> None:
    assert rendered_with_checkpoints(donor=7) == rendered_with_checkpoints(donor=7)
