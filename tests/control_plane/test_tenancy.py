"""What the author of a Study can and cannot do, tried with the rights that the chart gives and no others, on a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from tests.control_plane.building import BEST, PATIENCE, VERSION, reason, study, trials, wait_for_study, wait_for_trials
from tests.control_plane.crowd import JOB, POD, Crowd, metrics_of
from tests.testbed import Api, ApiError, ControlPlane, Object, wait_until
from tests.testbed.charts import CHART
from tests.testbed.fixtures import Bed
from tests.testbed.simulation import DELAY, MESSAGE, OPTIMUM

pytestmark = pytest.mark.control_plane

AUTHOR = "author"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


class Scene(NamedTuple):
    """An author of Studies in one namespace, and a namespace in which they may do nothing."""

    crowd: Crowd
    author: Api
    home: str
    other: str


@pytest.fixture(scope="module")
def scene(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    plane = bed(ControlPlane, ControlPlane)
    with Crowd(plane, "tenancy", tmp_path_factory.mktemp("operator")) as crowd:
        home, other = crowd.namespace(), crowd.namespace()
        plane.service_account(AUTHOR, rights_of_an_author(), namespace=home)
        yield Scene(crowd, plane.api_as(plane.token_of_service_account(AUTHOR, namespace=home)), home, other)


def rights_of_an_author() -> list[Object]:
    """What the chart adds to `view` and `edit`, without anything else of these roles."""
    found = []
    for name in ("view", "edit"):
        text = (CHART / "templates" / "rbac" / f"{name}.yaml").read_text()
        found += yaml.safe_load(text[text.index("\nrules:") : text.rindex("{{- end }}")])["rules"]
    return found


def template(spec: Object | None = None, metadata: Object | None = None, **says: str) -> Object:
    """A template whose Job has metadata, and its pod a spec, of the author's own."""
    annotations = {DELAY: "200ms", OPTIMUM: BEST, **says}
    pod = {"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "main", "image": "none"}], **(spec or {})}}
    return {"job": {"spec": {"template": pod}, **({"metadata": metadata} if metadata else {})}}


def end_of(scene: Scene, wanted: Object) -> Object:
    scene.author.create(wanted)
    return scene.crowd.end_of(wanted)


def refused(status: int, do: Any, *arguments: Any) -> str:
    with pytest.raises(ApiError) as refusal:
        do(*arguments)
    assert refusal.value.status == status
    message: str = refusal.value.message
    return message


def test_an_author_runs_Studies_at_home_and_nowhere_else(scene: Scene) -> None:
    ended = end_of(scene, study("mine", scene.home, trials=1))
    assert reason(ended) == "MaxTrialsReached"
    assert scene.author.objects(VERSION, "Trial", scene.home)
    refused(403, scene.author.create, study("theirs", scene.other))
    refused(403, scene.author.objects, VERSION, "Study", scene.other)
    refused(403, scene.author.objects, VERSION, "Trial", "")


def test_an_author_writes_no_Trial_and_no_status_and_so_no_result(scene: Scene) -> None:
    wanted = study("honest", scene.home, trials=1)
    end_of(scene, wanted)
    (trial,) = trials(scene.crowd.plane, wanted)
    name, better = trial["metadata"]["name"], {"status": {"observation": {"metrics": [{"name": "loss", "value": "-1"}]}}}
    forged = {**trial, "metadata": {"name": "honest-1", "namespace": scene.home}}
    refused(403, scene.author.create, forged)
    refused(403, scene.author.patch, VERSION, "Trial", name, better, scene.home, "status")
    refused(403, scene.author.patch, VERSION, "Study", "honest", {"status": {"best": []}}, scene.home, "status")
    refused(403, scene.author.delete, VERSION, "Trial", name, scene.home)


def test_a_template_that_names_another_namespace_name_and_owner_makes_its_Job_at_home_under_the_Trials_name(scene: Scene) -> None:
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": scene.other, "uid": "u", "controller": True}
    tricks = {
        "namespace": scene.other,
        "name": "kube-root",
        "generateName": "a-",
        "uid": "00000000-0000-0000-0000-000000000000",
        "ownerReferences": [owner],
        "finalizers": ["example.com/for-ever"],
        "labels": {"hpo.dev/study-uid": "forged", "hpo.dev/trial-number": "99", "own": "kept"},
    }
    wanted = study("tricks", scene.home, trials=1, template=template(metadata=tricks))
    assert reason(end_of(scene, wanted)) == "MaxTrialsReached"
    job, (trial,) = scene.crowd.job(wanted, 0), scene.crowd.trials(wanted)
    assert job is not None
    metadata = job["metadata"]
    assert [each["uid"] for each in metadata["ownerReferences"]] == [trial["metadata"]["uid"]]
    assert "finalizers" not in metadata
    labels = metadata["labels"]
    assert (labels["own"], labels["hpo.dev/trial-number"]) == ("kept", "0")
    assert labels["hpo.dev/study-uid"] == trial["spec"]["studyRef"]["uid"]
    assert scene.crowd.api.objects(*JOB, scene.other) == []


def test_a_Trials_pod_has_no_token_unless_asked_for_and_no_account_that_its_namespace_lacks(scene: Scene) -> None:
    plain = study("plain", scene.home, trials=1)
    end_of(scene, plain)
    (pod,) = scene.crowd.pods(plain)
    assert (pod["spec"]["serviceAccountName"], pod["spec"]["automountServiceAccountToken"]) == ("default", False)
    assert "volumes" not in pod["spec"]
    # The operator's own account is in another namespace, which no template can name.
    wanted = study("borrowed", scene.home, trials=1, template=template({"serviceAccountName": "hpo-operator"}))
    scene.author.create(wanted)
    refusals = wait_until("that its pod is refused", lambda: events(scene, "borrowed-0", "FailedCreate"), seconds=PATIENCE)
    assert 'serviceaccount "hpo-operator" not found' in refusals[0]
    assert scene.crowd.pods(wanted) == []


def events(scene: Scene, name: str, why: str) -> list[str]:
    found = scene.crowd.api.objects("v1", "Event", scene.home)
    return [each["message"] for each in found if (each["involvedObject"]["name"], each["reason"]) == (name, why)]


def test_what_pod_security_forbids_to_a_Job_it_forbids_to_a_Trial(scene: Scene) -> None:
    scene.crowd.api.patch("v1", "Namespace", scene.home, {"metadata": {"labels": RESTRICTED}}, namespace="")
    try:
        host = {"hostNetwork": True, "volumes": [{"name": "root", "hostPath": {"path": "/"}}]}
        wanted = study("privileged", scene.home, trials=1, template=template(host))
        scene.author.create(wanted)
        refusals = wait_until("that its pod is refused", lambda: events(scene, "privileged-0", "FailedCreate"), seconds=PATIENCE)
        assert "violates PodSecurity" in refusals[0]
        assert scene.crowd.pods(wanted) == []
        scene.author.delete(VERSION, "Study", "privileged", scene.home)
    finally:
        removed = {"metadata": {"labels": dict.fromkeys(RESTRICTED)}}
        scene.crowd.api.patch("v1", "Namespace", scene.home, removed, namespace="")


def test_a_kind_that_the_installer_has_not_allowed_is_never_made(scene: Scene) -> None:
    rule = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "all"}, "rules": [rule]}
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "main", "image": "none"}]}}
    for name, wanted in (("role", role), ("pod", pod)):
        made = study(f"kind-{name}", scene.home, template={"object": wanted})
        scene.author.create(made)
        found = wait_for_study(scene.crowd.plane, made, "a refusal", lambda each: reason(each, "Accepted"))
        assert reason(found, "Accepted") == "KindNotAllowed"
        assert scene.crowd.trials(made) == []


def test_a_pod_of_another_namespace_that_carries_all_labels_of_a_Trial_is_none_of_its_pods(scene: Scene) -> None:
    wanted = study("real", scene.home, trials=1, template=template(**{DELAY: "5s"}))
    scene.author.create(wanted)
    wait_for_trials(scene.crowd.plane, wanted, "it runs", lambda all_: all_ and reason(all_[0], "Running") == "PodsActive")
    (pod,) = scene.crowd.pods(wanted)
    says = {DELAY: "100ms", MESSAGE: '{{"hpo":1,"step":1,"metrics":{{"loss":["-100","-100","-100"]}}}}'}
    labels = {name: value for name, value in pod["metadata"]["labels"].items() if not name.startswith("controller-uid")}
    metadata = {"name": pod["metadata"]["name"], "namespace": scene.other, "labels": labels, "annotations": says}
    spec = {"containers": [{"name": "main", "image": "none"}], "restartPolicy": "Never"}
    forged = scene.crowd.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    done = ("Succeeded", "Failed")
    name = forged["metadata"]["name"]
    wait_until(
        "the end of the forged one",
        lambda: scene.crowd.api.get(*POD, name, scene.other).get("status", {}).get("phase") in done,
        seconds=PATIENCE,
    )
    scene.crowd.end_of(wanted)
    (trial,) = scene.crowd.trials(wanted)
    assert float(metrics_of(trial)["loss"]) >= 0


WRONG: dict[str, tuple[Object, str]] = {
    "a metric that ends a string": ({"objectives": [{"metric": 'loss"} or {__name__=~".+'}]}, "spec.objectives"),
    "a metric with an escape": ({"objectives": [{"metric": "loss\\"}]}, "spec.objectives"),
    "a metric of two lines": ({"objectives": [{"metric": "loss\nup"}]}, "spec.objectives"),
    "a step that ends a string": ({"metrics": {"step": 'epoch"} or up{a="'}}, "spec.metrics.step"),
    "a parameter that is a path": ({"parameters": [{"name": "../../etc", "float": {"min": 0, "max": 1}}]}, "spec.parameters"),
    "a parameter that is a variable": ({"parameters": [{"name": "$(PATH)", "float": {"min": 0, "max": 1}}]}, "spec.parameters"),
    "a priority class without a name": ({"template": template() | {"priorityClasses": [""]}}, "spec.template.priorityClasses"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_name_that_would_be_read_as_something_else_is_refused_at_admission(scene: Scene, wrong: str) -> None:
    fields, field = WRONG[wrong]
    assert field in refused(422, scene.author.create, study("wrong", scene.home, **fields))


def test_a_Study_that_is_named_as_a_path_is_refused_so_that_each_Trials_folder_stays_below_its_Studys(scene: Scene) -> None:
    for name in ("../other", "a/b", "..", "a.b"):
        status = 400 if "/" in name else 422
        with pytest.raises(ApiError) as refusal:
            scene.author.create(study(name, scene.home))
        assert refusal.value.status in (status, 422)


def test_a_value_that_looks_like_a_variable_reaches_the_program_as_it_is(scene: Scene) -> None:
    """The kubelet replaces $(NAME) in a value, and would hand a secret of the pod's environment to whoever reads the parameters."""
    choices = {"choices": ["$(SECRET)", "$$(SECRET)"]}
    parameters = [{"name": "x", "categorical": choices}]
    wanted = study("dollars", scene.home, trials=1, parameters=parameters, template=template(**{OPTIMUM: "{}"}))
    end_of(scene, wanted)
    (pod,) = scene.crowd.pods(wanted)
    given = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    (trial,) = scene.crowd.trials(wanted)
    value = trial["spec"]["parameters"][0]["value"]
    assert given["HPO_PARAM_X"].replace("$$", "$") == value
    assert given["HPO_PARAM_X"].startswith("$$")
