"""What the API server promises about Studies and Trials by their definitions alone: no operator runs here."""

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hpo_operator import crds
from hpo_operator.resources import PARAMETERS_ANNOTATION, Study, StudyStatus, Trial, TrialStatus
from hpo_operator.validation import InvalidStudy, read_study

from tests.testbed import ApiError, CommandFailed, ControlPlane, Object
from tests.testbed.namespaces import ROOT
from tests.unit.operator.bad_studies import BAD_STUDIES, BadStudy, put, valid_study
from tests.unit.operator.good_studies import EVERYTHING, defaulted, good_studies

pytestmark = pytest.mark.control_plane

VERSION = "hpo.dev/v1alpha1"
SCHEMA = crds.study_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
NOW = "2026-11-23T12:00:00Z"

# What a row says of the header is decided before the definition is asked: such an object is no Study.
OF_THE_SPEC = [bad for bad in BAD_STUDIES if bad.path not in ("kind", "apiVersion")]


def create(plane: ControlPlane, manifest: Object, namespace: str = "default", **query: str) -> Object:
    """Creates an object, refusing unknown fields as kubectl does."""
    path = plane.api.path(VERSION, manifest["kind"], namespace=namespace)
    return plane.api.request("POST", path, body=manifest, query={"fieldValidation": "Strict", **query})


def dry_run(plane: ControlPlane, manifest: Object) -> Object:
    return create(plane, manifest, dryRun="All")


def change(plane: ControlPlane, study: Object, **fields: Any) -> Object:
    """Patches the spec of a Study; a field that is None is removed."""
    metadata = study["metadata"]
    return plane.api.patch(VERSION, "Study", metadata["name"], {"spec": fields}, metadata["namespace"])


def write_status(plane: ControlPlane, obj: Object, status: Object) -> Object:
    """Replaces the status, as far as the server lets it."""
    current = plane.api.get(VERSION, obj["kind"], obj["metadata"]["name"], obj["metadata"]["namespace"])
    path = plane.api.path(VERSION, obj["kind"], obj["metadata"]["name"], obj["metadata"]["namespace"], "status")
    return plane.api.request("PUT", path, body={**current, "status": status}, query={"fieldValidation": "Strict"})


def condition(type_: str, status: str, reason: str) -> Object:
    return {"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": NOW}


# Refused and accepted


@pytest.mark.parametrize("bad", [bad for bad in OF_THE_SPEC if bad.server], ids=lambda bad: bad.sentence)
def test_a_bad_Study_is_refused_and_the_field_to_blame_is_named(studies: ControlPlane, bad: BadStudy) -> None:
    with pytest.raises(ApiError) as refusal:
        dry_run(studies, bad.manifest())
    assert refusal.value.status in (400, 422)
    assert bad.is_named_by(refusal.value.message), refusal.value.message


@pytest.mark.parametrize("bad", [bad for bad in OF_THE_SPEC if not bad.server], ids=lambda bad: bad.sentence)
def test_what_only_a_program_can_know_is_left_to_the_operator(studies: ControlPlane, bad: BadStudy) -> None:
    dry_run(studies, bad.manifest())


@pytest.mark.parametrize("study", good_studies().values(), ids=good_studies())
def test_a_good_Study_is_accepted_and_gets_the_defaults_of_the_definition(studies: ControlPlane, study: Object) -> None:
    """That these defaults are those of the local models is shown without a cluster, in tests/unit/operator/test_crds.py."""
    stored = dry_run(studies, study)
    assert stored["spec"] == defaulted(SCHEMA, study)["spec"]


def test_kubectl_is_told_of_an_unknown_field(studies: ControlPlane, namespace: str) -> None:
    study = valid_study()
    put("spec.limits.maxTrial", 5)(study)
    with pytest.raises(CommandFailed, match=r'unknown field "spec.limits.maxTrial"'):
        studies.kubectl("create", "-n", namespace, "-f", "-", input=yaml.safe_dump(study))


def test_a_field_that_is_null_is_one_that_is_left_out(studies: ControlPlane) -> None:
    study = valid_study()
    study["spec"] |= {"seed": None, "schedule": None, "parallelism": None, "algorithm": None, "limits": {"maxRetries": None}}
    study["spec"]["objectives"][0]["goal"] = None
    spec = dry_run(studies, study)["spec"]
    assert spec["objectives"][0]["goal"] == "Minimize"
    assert not {"seed", "schedule"} & spec.keys()
    assert (spec["parallelism"], spec["algorithm"], spec["limits"]["maxRetries"]) == (1, {"auto": {}}, 3)


def fields(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all that stands in a spec, but for what a template holds."""
    if path:
        yield path
    if path != ("template",) and isinstance(value, dict | list):
        for step, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from fields(each, (*path, step))


@pytest.mark.parametrize("nothing", [None, False, "", {}, [], 0], ids=repr)
def test_where_nothing_is_said_hpo_validate_takes_what_the_server_takes(studies: ControlPlane, nothing: Any) -> None:
    """It took `scale: false` for one that was left out, and `goal: null` for a goal."""
    differing = []
    for path in fields(EVERYTHING["spec"]):
        study = copy.deepcopy(EVERYTHING)
        place = study["spec"]
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = nothing
        try:
            read_study(study)
            said = ""
        except InvalidStudy as refusal:
            said = str(refusal)
        try:
            dry_run(studies, study)
        except ApiError as refusal:
            if not said:
                differing.append((path, refusal.message))
        else:
            if said and nothing is None and isinstance(path[-1], str):  # no member of a list
                differing.append((path, said))
    assert differing == []


# The largest Study


def name(place: int) -> str:
    """The longest name there is; all differ in the last characters only."""
    return f"{'p' * 60}{place:03d}"


def with_all_conditions() -> Iterator[Object]:
    """100 parameters with 8 conditions of 100 values each, every parent as late as it can stand."""
    for place in range(100):
        parents = [name(max(place - 1 - k, 0)) for k in range(8)] if place else []
        when = [{"parameter": parent, "in": [*range(1, 101)]} for parent in parents]
        yield {"name": name(place), "int": {"min": 1, "max": 100}, "when": when}


def with_all_choices(length: int) -> Iterator[Object]:
    for place in range(100):
        yield {"name": name(place), "categorical": {"choices": [f"{i:03d}".ljust(length, "c") for i in range(100)]}}


def with_all_numbers() -> Iterator[Object]:
    for place in range(100):
        yield {"name": name(place), "ordinal": {"values": [i + 0.5 for i in range(100)]}}


LARGEST = {
    "the most conditions": {"parameters": [*with_all_conditions()]},
    "the longest choices": {"parameters": [*with_all_choices(200)]},
    "the most numbers": {"parameters": [*with_all_numbers()]},
    "the most configurations to try first": {
        "parameters": [{"name": name(place), "int": {"min": 1, "max": 100}} for place in range(100)],
        "warmStart": {"configurations": [{"parameters": [{"name": name(p), "value": "1"} for p in range(100)]}] * 100},
    },
    "the longest texts": {
        "objectives": [{"metric": f"{i}{'m' * 127}"} for i in range(4)],
        "constraints": [{"metric": "c" * 128, "operator": "LessOrEqual", "bound": 1}] * 8,
        "metrics": {"logs": {"pattern": "a" * 1024}},
        "warmStart": {"studies": [{"name": "s" * 253}] * 16},
    },
}


@pytest.mark.parametrize("fields", LARGEST.values(), ids=LARGEST)
def test_no_rule_costs_too_much_on_the_largest_Study(studies: ControlPlane, fields: Object) -> None:
    study = valid_study()
    study["spec"] |= fields
    dry_run(studies, study)


STORED = {
    "the most conditions": LARGEST["the most conditions"],
    "the most choices": {"parameters": [*with_all_choices(20)]},  # as many as etcd takes in one request
    "the most numbers": LARGEST["the most numbers"],
    "the longest texts": LARGEST["the longest texts"],
}


@pytest.mark.parametrize("fields", STORED.values(), ids=STORED)
def test_no_rule_costs_too_much_when_the_largest_Study_is_changed(studies: ControlPlane, namespace: str, fields: Object) -> None:
    study = valid_study()
    study["spec"] |= fields
    stored = create(studies, study, namespace)
    assert change(studies, stored, parallelism=7)["spec"]["parallelism"] == 7


# What may change


@pytest.fixture
def study(studies: ControlPlane, namespace: str) -> Object:
    """A stored Study that says everything."""
    return create(studies, copy.deepcopy(EVERYTHING), namespace)


MUTABLE = {
    "parallelism": 3,
    "suspend": False,
    "workloadTTLSeconds": 60,
    "limits": {"maxTrials": 7, "deadlineSeconds": None, "gpuSeconds": 5},
}


@pytest.mark.parametrize(("field", "value"), MUTABLE.items(), ids=MUTABLE)
def test_what_may_change_can_be_changed(studies: ControlPlane, study: Object, field: str, value: Any) -> None:
    assert change(studies, study, **{field: value})["metadata"]["generation"] == 2


PARAMETERS = EVERYTHING["spec"]["parameters"]
CHANGED = {
    "another objective": {"objectives": [{"metric": "accuracy"}]},
    "another goal": {"objectives": [{**EVERYTHING["spec"]["objectives"][0], "goal": "Maximize"}]},
    "no target": {"objectives": [{"metric": "val/loss", "aggregate": "Best"}]},
    "no constraints": {"constraints": None},
    "one more parameter": {"parameters": [*PARAMETERS, {"name": "extra", "int": {"min": 1, "max": 2}}]},
    "one parameter less": {"parameters": PARAMETERS[:-1]},
    "another range": {"parameters": [{"name": "lr", "float": {"min": 1e-6, "max": 1e-1, "scale": "Log"}}, *PARAMETERS[1:]]},
    "parameters in another order": {"parameters": [PARAMETERS[1], PARAMETERS[0], *PARAMETERS[2:]]},
    "choices in another order": {
        "parameters": [
            *PARAMETERS[:6],
            {"name": "optimizer", "categorical": {"choices": ["sgd", "adam", "a b/c:д"]}},
            *PARAMETERS[7:],
        ]
    },
    "other values in a condition": {
        "parameters": [*PARAMETERS[:7], {**PARAMETERS[7], "when": [{"parameter": "optimizer", "in": ["adam"]}]}, *PARAMETERS[8:]]
    },
    "another setting": {"algorithm": {"tpe": {"startupTrials": 5}}},
    "another algorithm": {"algorithm": {"tpe": None, "random": {}}},
    "no schedule": {"schedule": None},
    "a larger budget": {"budget": {"max": 243}},
    "another seed": {"seed": 1},
    "no seed": {"seed": None},
    "another interval": {"metrics": {"intervalSeconds": 30}},
    "no checkpoints": {"checkpoints": None},
    "no warm start": {"warmStart": None},
    "another image": {"template": {"job": {"spec": {"template": {"spec": {"containers": [{"name": "logger", "image": "x"}]}}}}}},
    "a label in the template": {"template": {"job": {"metadata": {"labels": {"a": "b"}}}}},
    "another reporter": {"template": {"reporter": None}},
}


@pytest.mark.parametrize("fields", CHANGED.values(), ids=CHANGED)
def test_what_the_Trials_were_made_from_cannot_be_changed(studies: ControlPlane, study: Object, fields: Object) -> None:
    (field,) = fields
    with pytest.raises(ApiError, match=rf"spec\.{field}: Forbidden: {field} cannot be changed after") as refusal:
        change(studies, study, **fields)
    assert refusal.value.status == 422


def test_a_field_that_was_left_out_cannot_be_added(studies: ControlPlane, namespace: str) -> None:
    study = create(studies, valid_study(), namespace)
    for field, value in {
        "seed": 5,
        "schedule": {"asha": {}},
        "constraints": [],
        "checkpoints": {"volumeClaim": {"name": "a"}},
    }.items():
        with pytest.raises(ApiError, match=rf"spec\.{field}: Forbidden"):
            change(studies, study, **{field: value})


@pytest.mark.parametrize("how", ["client", "server"])
def test_the_same_file_can_be_applied_again(studies: ControlPlane, namespace: str, how: str) -> None:
    """The defaults that were filled in are no change."""
    for _ in range(2):
        arguments = ("apply", f"--server-side={how == 'server'}".lower(), "-n", namespace, "-f", "-")
        studies.kubectl(*arguments, input=yaml.safe_dump(valid_study()))
    assert studies.api.get(VERSION, "Study", "digits", namespace)["metadata"]["generation"] == 1


# Trials


@pytest.fixture
def trial(studies: ControlPlane, namespace: str) -> Object:
    """A stored Trial that is running."""
    made = Trial.model_validate(
        {
            "metadata": {"name": "digits-7"},
            "spec": {
                "studyRef": {"name": "digits", "uid": "1b4e28ba-2fa1-11d2-883f-0016d3cca427"},
                "number": 7,
                "parameters": [{"name": "lr", "value": "0.01"}, {"name": "optimizer", "value": "sgd"}],
                "budget": 27,
                "slot": {"bracket": 1, "rung": 2},
                "memo": "m" * 2048,
                "origin": "Promoted",
            },
        }
    ).manifest()
    manifest = {
        "apiVersion": VERSION,
        "kind": "Trial",
        "metadata": {"name": "digits-7", "annotations": {PARAMETERS_ANNOTATION: "lr=0.01 optimizer=sgd"}},
        "spec": made["spec"],
    }
    stored = create(studies, manifest, namespace)
    return write_status(studies, stored, RUNNING)


RUNNING = {"conditions": [condition("Running", "True", "PodsActive"), condition("Succeeded", "Unknown", "Running")], "attempts": 1}
ENDED = {
    "conditions": [condition("Running", "False", "Finished"), condition("Succeeded", "True", "EarlyStopped")],
    "workload": {"apiVersion": "batch/v1", "kind": "Job", "name": "digits-7", "uid": "x"},
    "attempts": 1,
    "startTime": NOW,
    "completionTime": NOW,
    "observation": {
        "source": "TerminationMessage",
        "step": 9,
        "objective": "0.25",
        "metrics": [{"name": "loss", "value": "0.25"}, {"name": "accuracy", "value": "NaN"}],
        "curve": [{"step": step, "value": "0.5"} for step in range(64)],
    },
    "stop": {"rule": "median", "step": 9},
    "checkpoint": {"step": 8, "digest": "sha256:0", "path": "digits/7", "state": "Kept"},
    "gpuSeconds": 90,
}


def ended(**fields: Any) -> Object:
    return {name: value for name, value in (copy.deepcopy(ENDED) | fields).items() if value is not None}


def test_a_Trial_ends_with_one_write(studies: ControlPlane, trial: Object) -> None:
    assert write_status(studies, trial, ended())["status"] == ended()


def test_what_the_models_write_is_what_the_definition_takes(studies: ControlPlane, trial: Object) -> None:
    fraction = {"startTime": "2026-11-23T12:00:00.123456Z", "completionTime": "2026-11-23T12:00:30.5Z"}
    status = TrialStatus.model_validate(ended(**fraction))
    stored = write_status(studies, trial, status.manifest())["status"]
    assert TrialStatus.model_validate(stored) == status
    assert write_status(studies, trial, TrialStatus.model_validate(stored).manifest())["status"] == stored


def test_a_Trials_spec_never_changes(studies: ControlPlane, trial: Object, namespace: str) -> None:
    for fields in ({"budget": 81}, {"budget": None}, {"parameters": [{"name": "lr", "value": "0.1"}]}, {"origin": "Sampled"}):
        with pytest.raises(ApiError, match=r"spec: Forbidden: a Trial's spec is immutable"):
            studies.api.patch(VERSION, "Trial", "digits-7", {"spec": fields}, namespace)


@pytest.mark.parametrize("name", ["digits-07", "digits-8", "digits", "digit-7", "digits-7-7", "digits--7"])
def test_a_Trial_is_named_after_its_Study_and_number(studies: ControlPlane, trial: Object, name: str) -> None:
    spec = trial["spec"]
    with pytest.raises(ApiError, match=r"metadata\.name: .*<studyRef.name>-<number>"):
        dry_run(studies, {"apiVersion": VERSION, "kind": "Trial", "metadata": {"name": name}, "spec": spec})


RESULTS = {
    "another verdict": ended(conditions=[condition("Succeeded", "False", "ProgramFailed")]),
    "another reason": ended(conditions=[condition("Succeeded", "True", "Completed")]),
    "another message": ended(conditions=[{**condition("Succeeded", "True", "EarlyStopped"), "message": "no"}]),
    "open again": ended(conditions=[condition("Succeeded", "Unknown", "Pending")]),
    "no verdict": ended(conditions=[condition("Running", "False", "Finished")]),
    "no conditions": ended(conditions=None),
    "another result": ended(observation={**ENDED["observation"], "metrics": [{"name": "loss", "value": "0.2"}]}),
    "another curve": ended(observation={**ENDED["observation"], "curve": []}),
    "no result": ended(observation=None),
    "another stop": ended(stop={"rule": "median", "step": 8}),
    "no stop": ended(stop=None),
    "another end": ended(completionTime="2026-11-23T12:00:01Z"),
    "no end": ended(completionTime=None),
    "no status": {},
}


@pytest.mark.parametrize("status", RESULTS.values(), ids=RESULTS)
def test_the_result_of_a_Trial_that_has_ended_never_changes(studies: ControlPlane, trial: Object, status: Object) -> None:
    write_status(studies, trial, ended())
    with pytest.raises(ApiError, match=r"status: Forbidden: the Trial has ended"):
        write_status(studies, trial, status)


def test_a_failed_Trial_is_as_final_as_one_that_succeeded(studies: ControlPlane, trial: Object) -> None:
    failed = ended(conditions=[condition("Succeeded", "False", "ProgramFailed")], observation=None, stop=None)
    write_status(studies, trial, failed)
    with pytest.raises(ApiError, match=r"status: Forbidden: the Trial has ended"):
        write_status(studies, trial, ended())


def test_what_is_no_result_may_still_be_told_of_a_Trial_that_has_ended(studies: ControlPlane, trial: Object) -> None:
    write_status(studies, trial, ended())
    later = ended(
        conditions=[*reversed(ENDED["conditions"]), condition("CheckpointCollected", "True", "NoLongerNeeded")],
        checkpoint={**ENDED["checkpoint"], "state": "Collected"},
        gpuSeconds=120,
        attempts=2,
    )
    assert write_status(studies, trial, later)["status"]["checkpoint"]["state"] == "Collected"


def test_a_Trial_that_waits_or_runs_again_may_change_as_it_must(studies: ControlPlane, trial: Object) -> None:
    waiting = {"conditions": [condition("Running", "False", "Preempted"), condition("Succeeded", "Unknown", "Pending")]}
    write_status(studies, trial, waiting)
    write_status(studies, trial, {})
    write_status(studies, trial, RUNNING)


BAD_STATUSES = {
    "a condition twice": {"conditions": [condition("Running", "True", "A"), condition("Running", "False", "B")]},
    "a truth in lower case": {"conditions": [condition("Running", "true", "A")]},
    "a reason of two words": {"conditions": [condition("Running", "True", "two words")]},
    "a metric twice": {"observation": {"source": "Log", "metrics": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}},
    "a metric that is a number": {"observation": {"source": "Log", "metrics": [{"name": "a", "value": 1}]}},
    "an unknown source": {"observation": {"source": "Rumour"}},
    "a curve of 65 points": {"observation": {"source": "Log", "curve": [{"step": i, "value": "1"} for i in range(65)]}},
    "an unknown field": {"phase": "Running"},
}


@pytest.mark.parametrize("status", BAD_STATUSES.values(), ids=BAD_STATUSES)
def test_a_wrong_status_is_refused(studies: ControlPlane, trial: Object, status: Object) -> None:
    with pytest.raises(ApiError) as refusal:
        write_status(studies, trial, status)
    assert refusal.value.status in (400, 422)


def test_a_memo_of_more_than_two_kilobytes_is_refused(studies: ControlPlane, trial: Object) -> None:
    manifest = {
        "apiVersion": VERSION,
        "kind": "Trial",
        "metadata": {"name": "digits-7"},
        "spec": {**trial["spec"], "memo": "m" * 2049},
    }
    with pytest.raises(ApiError, match=r"spec\.memo: Too long"):
        dry_run(studies, manifest)


def test_Trials_are_selected_by_their_Study_and_number(studies: ControlPlane, trial: Object, namespace: str) -> None:
    def found(selector: str) -> list[str]:
        return [each["metadata"]["name"] for each in studies.api.objects(VERSION, "Trial", namespace, fieldSelector=selector)]

    assert found("spec.studyRef.name=digits,spec.number=7") == ["digits-7"]
    assert found("spec.studyRef.name=others") == []


# Subresources


def test_the_status_is_written_by_its_own_subresource_only(studies: ControlPlane, study: Object) -> None:
    metadata = study["metadata"]
    status = {"seed": 5, "trials": {"created": 3}}
    stored = studies.api.patch(VERSION, "Study", metadata["name"], {"status": status}, metadata["namespace"])
    assert "status" not in stored
    both = {"status": status, "spec": {"parallelism": 9}}
    stored = studies.api.patch(VERSION, "Study", metadata["name"], both, metadata["namespace"], subresource="status")
    assert (stored["status"], stored["spec"]["parallelism"], stored["metadata"]["generation"]) == (status, 0, 1)


def test_kubectl_scale_sets_the_parallelism(studies: ControlPlane, study: Object, namespace: str) -> None:
    write_status(studies, study, {"trials": {"running": 2}, "selector": "hpo.dev/study=everything"})
    studies.kubectl("scale", "study/everything", "--replicas=4", "-n", namespace)
    scale = studies.api.get(VERSION, "Study", "everything", namespace, "scale")
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (4, 2)
    assert scale["status"]["selector"] == "hpo.dev/study=everything"
    assert studies.api.get(VERSION, "Study", "everything", namespace)["spec"]["parallelism"] == 4


def test_scaling_beyond_what_is_allowed_is_refused(studies: ControlPlane, study: Object, namespace: str) -> None:
    with pytest.raises(CommandFailed, match=r"parallelism"):
        studies.kubectl("scale", "study/everything", "--replicas=10001", "-n", namespace)


# What people see


STATUS = {
    "observedGeneration": 1,
    "conditions": [
        condition("Accepted", "True", "Valid"),
        condition("Progressing", "True", "TrialsActive"),
        condition("Succeeded", "Unknown", "InProgress"),
    ],
    "seed": 0,
    "startTime": NOW,
    "estimatedCompletionTime": NOW,
    "progress": "12/40",
    "left": "35m",
    "trials": {"created": 14, "active": 2, "running": 2, "completed": 11, "earlyStopped": 0, "failed": 1, "infeasible": 0},
    "gpuSeconds": 720,
    "best": [
        {
            "trialName": "everything-3",
            "number": 3,
            "budget": 81,
            "parameters": [{"name": "lr", "value": "0.01"}],
            "metrics": [{"name": "val/loss", "value": "0.0625"}, {"name": "accuracy", "value": "0.9"}],
        }
    ],
}


def table(text: str) -> list[dict[str, str]]:
    """The rows of what kubectl prints, by the titles of the columns."""
    head, *rows = text.splitlines()
    titles = [part for part in head.split("  ") if part.strip()]
    starts = [head.index(title) for title in titles]
    ends = [*starts[1:], None]
    cut = [{t.strip(): row[a:b].strip() for t, a, b in zip(titles, starts, ends, strict=True)} for row in rows]
    return cut


def test_kubectl_get_studies_says_how_far_how_good_and_how_long(studies: ControlPlane, study: Object, namespace: str) -> None:
    write_status(studies, study, STATUS)
    (row,) = table(studies.kubectl("get", "studies", "-n", namespace))
    assert row.pop("AGE").endswith("s")
    assert row == {
        "NAME": "everything",
        "STATE": "InProgress",
        "ACCEPTED": "Valid",
        "TRIALS": "12/40",
        "RUNNING": "2",
        "FAILED": "1",
        "BEST": "0.0625",
        "LEFT": "35m",
    }


def test_a_Study_without_a_status_is_shown_too(studies: ControlPlane, study: Object, namespace: str) -> None:
    (row,) = table(studies.kubectl("get", "studies", "-n", namespace))
    assert (row["NAME"], row["STATE"]) == ("everything", "")


def test_kubectl_get_trials_says_what_was_tried_and_what_came_of_it(studies: ControlPlane, trial: Object, namespace: str) -> None:
    write_status(studies, trial, ended())
    (row,) = table(studies.kubectl("get", "trials", "-n", namespace))
    assert row.pop("AGE").endswith("s")
    assert row == {
        "NAME": "digits-7",
        "STATE": "EarlyStopped",
        "OBJECTIVE": "0.25",
        "STEP": "9",
        "BUDGET": "27",
        "PARAMETERS": "lr=0.01 optimizer=sgd",
    }


@pytest.mark.parametrize("word", ["hps,hpt", "hpo"])
def test_both_kinds_are_found_by_short_names_and_by_category(
    studies: ControlPlane, study: Object, trial: Object, word: str
) -> None:
    names = studies.kubectl("get", word, "-n", study["metadata"]["namespace"], "-o", "name").split()
    assert names == ["study.hpo.dev/everything", "trial.hpo.dev/digits-7"]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("study.spec.parameters", "The search space"),
        ("study.spec.parameters.float.scale", "Log"),
        ("study.spec.parameters.when.in", "The values that it may have"),
        ("study.spec.algorithm.tpe.startupTrials", "Results before the densities are used"),
        ("study.spec.schedule.hyperband", "One in eta rises"),
        ("study.spec.template.job", "A Job as in a CronJob"),
        ("study.status.conditions", "Succeeded"),
        ("trial.spec.origin", "Promoted"),
    ],
)
def test_kubectl_explain_says_what_a_field_means(studies: ControlPlane, path: str, told: str) -> None:
    wait = time.monotonic() + 30
    while True:
        try:
            text = " ".join(studies.kubectl("explain", path, "--api-version=hpo.dev/v1alpha1").split())
            break
        except CommandFailed:  # the server publishes what it knows of a new kind a moment after it serves it
            if time.monotonic() > wait:
                raise
            time.sleep(0.2)
    assert told in text


def test_a_stored_Study_is_read_back_as_it_was_meant(studies: ControlPlane, study: Object) -> None:
    """The models read what the server gives, all that it adds included."""
    read = Study.model_validate_json(json.dumps(write_status(studies, study, STATUS)))
    assert read.spec.manifest()["limits"] == EVERYTHING["spec"]["limits"]
    assert read.status == StudyStatus.model_validate(STATUS)


def test_the_committed_definitions_can_be_applied_over_themselves(studies: ControlPlane) -> None:
    answer = studies.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
    assert answer.count("serverside-applied") == 2
