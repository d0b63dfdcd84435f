"""The chart on a real API server, by the real helm: what it makes, what the operator may do by it, and what becomes of Studies."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hpo_operator.cluster.claims import GPU_CLASSES
from hpo_operator.cluster.kinds import WorkloadKind
from hpo_operator.cluster.settings import read_settings

from tests.control_plane.building import PATIENCE, VERSION, end_of, has_ended, reason, study, trials
from tests.control_plane.conftest import Install
from tests.control_plane.operator_process import RBAC, USER, OperatorProcess
from tests.testbed import ApiError, CommandFailed, ControlPlane, Object, controllers, wait_until
from tests.testbed.charts import CHART, RELEASE, SYSTEM, Helm
from tests.testbed.control_plane import DEFINITION, STUDIES
from tests.testbed.namespaces import ROOT
from tests.testbed.processes import run
from tests.testbed.simulation import DELAY, NEVER, of_trial

pytestmark = pytest.mark.control_plane

CI = sorted((CHART / "ci").glob("*-values.yaml"))
WORKLOADS = [
    {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"},
    {"apiVersion": "ray.io/v1", "kind": "RayJob"},
    {"apiVersion": "example.com/v1", "kind": "Policy", "succeeded": [{"path": "status.phase", "in": ["Done"]}]},
    {"apiVersion": "example.com/v1", "kind": "Process"},
    {"apiVersion": "example.com/v1", "kind": "Chess", "plural": "chess"},
]


# What is made


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_lint_has_nothing_to_say(values: Path) -> None:
    Helm()("lint", str(CHART), "--strict", "--quiet", values=values)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt name": ({"prometeus": {"url": "http://a"}}, "prometeus"),
    "a misspelt name within a section": ({"crds": {"kept": True}}, "kept"),
    "a text for a number": ({"resyncSeconds": "often"}, "resyncSeconds"),
    "an address that is none": ({"prometheus": {"url": "prometheus:9090"}}, "prometheus.url|prometheus/url"),
    "runbooks without a place for the alert's name": ({"monitoring": {"rules": {"runbooks": "https://wiki/"}}}, "runbooks"),
    "a kind of the core group, which has no workloads": ({"workloadKinds": [{"apiVersion": "v1", "kind": "Pod"}]}, "workloadKinds"),
    "a misspelt sign of a kind's end": (
        {"workloadKinds": [{"apiVersion": "example.com/v1", "kind": "A", "failed": [{"conditon": "Broken"}]}]},
        "conditon",
    ),
    "a path to a kind's end without its values": (
        {"workloadKinds": [{"apiVersion": "example.com/v1", "kind": "A", "succeeded": [{"path": "status.phase"}]}]},
        "'in' required",
    ),
    "a token and a password at once": (
        {"prometheus": {"bearerToken": {"secretName": "a"}, "basicAuth": {"secretName": "b", "username": "c"}}},
        "keep one",
    ),
    "a password without a name": ({"prometheus": {"basicAuth": {"secretName": "b"}}}, "needs both username and secretName"),
    "certificates from a Secret and from a ConfigMap at once": (
        {"prometheus": {"ca": {"secretName": "a", "configMapName": "b"}}},
        r"prometheus\.ca\.secretName and prometheus\.ca\.configMapName are both given; keep one",
    ),
    "a label of all objects by which pods are selected": (
        {"commonLabels": {"app.kubernetes.io/name": "tuning"}},
        r"commonLabels may not have app\.kubernetes\.io/name, by which .*: leave it out; nameOverride changes it",
    ),
    "a label of the pod by which it is selected": (
        {"podLabels": {"app.kubernetes.io/component": "tuner"}},
        r"podLabels may not have app\.kubernetes\.io/component, by which .*: leave it out",
    ),
    "a label that is no text": (
        {"commonLabels": {"example.com/year": 2026}},
        "/commonLabels/example.com~1year': got number, want string",
    ),
    "a bundled Prometheus of no version": (
        {"bundledPrometheus": {"enabled": True, "image": {"tag": ""}}},
        r"bundledPrometheus\.image\.tag and bundledPrometheus\.image\.digest are both empty; give one",
    ),
    "no port of the API server, by which all ports would be open": ({"networkPolicy": {"apiServerPorts": []}}, "apiServerPorts"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_value_is_refused_by_its_name_before_anything_is_made(mistake: str) -> None:
    values, named = MISTAKES[mistake]
    with pytest.raises(CommandFailed, match=named):
        Helm().template(values=values)


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_the_api_server_would_take_all_that_is_made_and_warns_of_nothing(values: Path, monitored: ControlPlane) -> None:
    objects = Helm().template(values=values)
    text = yaml.safe_dump_all(objects)
    said = run(
        ["sh", "-c", '"$0" apply --server-side --dry-run=server --filename - 2>&1', _kubectl(monitored)],
        input=text,
        environment={"KUBECONFIG": str(monitored.kubeconfig()), "HOME": str(monitored.state)},
    )
    assert len(said.splitlines()) == len(objects)
    assert "Warning" not in said


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_every_pod_of_the_chart_is_admitted_where_pods_must_be_restricted(values: Path, plane: ControlPlane) -> None:
    deployments = [each for each in Helm().template(values=values) if each["kind"] == "Deployment"]
    assert deployments
    for each in deployments:
        template = each["spec"]["template"]
        template["spec"].pop("priorityClassName", None)  # one that is for another namespace
        template["spec"]["serviceAccountName"] = "default"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried", "namespace": SYSTEM}, "spec": template["spec"]}
        plane.api.request("POST", plane.api.path("v1", "Pod", "", SYSTEM) + "?dryRun=All", body=pod)
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "limits" in container["resources"]


def _kubectl(plane: ControlPlane) -> str:
    return str(plane.programs() / "kubectl")


# Rights


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def operators_role(objects: list[Object]) -> list[Object]:
    return [each for each in of_kind(objects, "Role", "ClusterRole") if each["metadata"]["name"] == RELEASE]


def committed(path: Path) -> Any:
    (role,) = yaml.safe_load_all(path.read_text())
    return role["rules"]


def test_the_operator_may_do_what_stands_in_deploy_and_no_more() -> None:
    (role,) = operators_role(Helm().template())
    assert (role["kind"], role["rules"]) == ("ClusterRole", committed(RBAC))


def test_with_namespaces_there_are_Roles_in_them_and_nothing_that_is_the_clusters() -> None:
    objects = Helm().template(values={"watchNamespaces": ["a", "b"], "crds": {"enabled": False}})
    roles = operators_role(objects)
    assert [(each["kind"], each["metadata"]["namespace"]) for each in roles] == [("Role", "a"), ("Role", "b")]
    assert all(each["rules"] == committed(ROOT / "deploy" / "rbac-namespaced.yaml") for each in roles)
    assert all("namespace" in each["metadata"] for each in objects)


def test_each_kind_that_is_allowed_is_in_the_settings_and_in_the_role() -> None:
    objects = Helm().template(values={"workloadKinds": WORKLOADS})
    (role,) = operators_role(objects)
    kinds = [WorkloadKind.model_validate_json(json.dumps(each), by_alias=True) for each in WORKLOADS]
    served = [(each.api_version.partition("/")[0], each.served.plural) for each in kinds]
    added = role["rules"][len(committed(RBAC)) :]
    assert [(*each["apiGroups"], *each["resources"]) for each in added] == served
    assert {tuple(each["verbs"]) for each in added} == {("get", "list", "watch", "create", "delete")}
    assert "*" not in str(role["rules"])
    assert "secrets" not in str(role["rules"])


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_the_operator_reads_the_settings_that_the_chart_writes(values: Path, tmp_path: Path) -> None:
    given = yaml.safe_load(values.read_text()) or {}
    (found,) = [each for each in of_kind(Helm().template(values=values), "ConfigMap") if "settings.yaml" in each.get("data", {})]
    (tmp_path / "settings.yaml").write_text(found["data"]["settings.yaml"])
    settings = read_settings(tmp_path / "settings.yaml", {})
    assert settings.port == 8080
    assert settings.namespaces == tuple(given.get("watchNamespaces", ()))
    assert [each.kind for each in settings.workload_kinds] == [each["kind"] for each in given.get("workloadKinds", ())]
    assert settings.max_pending == given.get("maxPending")
    assert settings.gpu_device_classes == tuple(given.get("gpuDeviceClasses", GPU_CLASSES))
    wanted = given.get("prometheus", {}).get("url")
    assert settings.prometheus is not None or not (wanted or given.get("bundledPrometheus"))
    if wanted:
        assert settings.prometheus is not None
        assert settings.prometheus.url == wanted


@pytest.mark.parametrize(
    "served", ["", "https://wiki/hpo/docs/runbooks/ALERT.html", "https://forge/blob/main/docs/runbooks/ALERT.md"]
)
def test_an_alert_names_its_runbook_where_runbooks_are_served_and_no_address_that_there_is_not(served: str) -> None:
    monitoring = {"enabled": True, "rules": {"runbooks": served}}
    made = Helm().template(values={"monitoring": monitoring, "bundledPrometheus": {"enabled": True}})
    (rules,) = of_kind(made, "PrometheusRule")
    (bundled,) = [each for each in of_kind(made, "ConfigMap") if "alerts.yaml" in str(each.get("data", {}).keys())]
    groups = [*rules["spec"]["groups"], *yaml.safe_load(bundled["data"]["alerts.yaml"])["groups"]]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert alerts
    for each in alerts:
        assert each["annotations"].get("runbook_url", "") == served.replace("ALERT", each["alert"])


def test_a_changed_setting_gives_the_operator_another_pod() -> None:
    def annotations(**values: Any) -> Any:
        (deployment,) = of_kind(Helm().template(values=values), "Deployment")
        return deployment["spec"]["template"]["metadata"]["annotations"]

    assert annotations(resyncSeconds=300) != annotations() == annotations(commonLabels={})


def test_whoever_may_edit_a_namespace_may_make_Studies_there_and_nobody_may_write_Trials(
    plane: ControlPlane, install: Install, team: str
) -> None:
    install()
    for role in ("view", "edit"):
        plane.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}er", "--namespace", team)

    def may(user: str, verb: str, resource: str, part: str = "", namespace: str = team) -> bool:
        asked = ("auth", "can-i", verb, resource, "--as", user, "--namespace", namespace, f"--subresource={part}")
        try:
            said = plane.kubectl(*asked)
        except CommandFailed:
            return False
        return said.strip() == "yes"

    wait_until("the aggregated roles", lambda: may("editer", "create", "studies.hpo.dev"), seconds=PATIENCE)
    assert may("viewer", "list", "trials.hpo.dev")
    assert not may("viewer", "create", "studies.hpo.dev")
    assert may("editer", "patch", "studies.hpo.dev", "scale")
    for verb in ("create", "update", "patch", "delete"):
        assert not may("editer", verb, "trials.hpo.dev")
    assert not may("editer", "patch", "studies.hpo.dev", "status")
    assert not may("editer", "create", "studies.hpo.dev", namespace="default")


# Studies


def test_the_operator_runs_a_Study_with_the_rights_of_the_chart_and_is_refused_nothing(
    plane: ControlPlane, install: Install, team: str, operator: Callable[[], OperatorProcess]
) -> None:
    install()
    operator()
    wanted = study("granted", team, workloadTTLSeconds=0)
    plane.apply([wanted])
    assert reason(end_of(plane, wanted)) == "MaxTrialsReached"
    assert refused(plane) == []


def test_an_operator_of_one_namespace_is_refused_nothing_and_leaves_others_alone(
    plane: ControlPlane, install: Install, team: str, operator: Callable[[], OperatorProcess]
) -> None:
    elsewhere = plane.create_namespace("elsewhere")
    install(watchNamespaces=[team])
    operator()
    wanted, other = study("here", team), study("there", elsewhere)
    plane.apply([other, wanted])
    assert reason(end_of(plane, wanted)) == "MaxTrialsReached"
    assert trials(plane, other) == []
    assert refused(plane) == []


def refused(plane: ControlPlane) -> list[Object]:
    return [vars(each) for each in plane.requests() if each.user == USER and each.code in (401, 403)]


def test_a_Study_lives_through_upgrade_rollback_and_uninstall_and_runs_on_with_the_next_operator(
    plane: ControlPlane, helm: Helm, install: Install, team: str, operator: Callable[[], OperatorProcess]
) -> None:
    install()
    running = operator()
    wanted = study("lasting", team, trials=3, says={of_trial(DELAY, 1): NEVER})
    plane.apply([wanted])
    wait_until("that one runs, and the others have ended", lambda: completed(plane, wanted) == 2, seconds=PATIENCE)
    before = uids(plane, team)
    settings = ("v1", "ConfigMap", RELEASE, SYSTEM)

    install(resyncSeconds=300)
    assert "resyncSeconds: 300" in plane.api.get(*settings)["data"]["settings.yaml"]
    running.kill()  # as the Deployment does, since its checksum has changed
    running = operator()
    assert uids(plane, team) == before
    helm("rollback", RELEASE, "1", "--namespace", SYSTEM)
    assert "resyncSeconds: 600" in plane.api.get(*settings)["data"]["settings.yaml"]
    running.kill()
    running = operator()
    # The operator of the former chart is at work: it scales the Study by what is asked of it now.
    plane.api.patch(VERSION, "Study", "lasting", {"spec": {"limits": {"maxTrials": 4}}}, team)
    wait_until("another Trial", lambda: completed(plane, wanted) == 3, seconds=PATIENCE)
    assert uids(plane, team).items() >= before.items()

    running.kill()
    helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")
    assert plane.api.find("v1", "ServiceAccount", RELEASE, SYSTEM) is None
    assert not has_ended(plane.api.get(VERSION, "Study", "lasting", team))
    assert uids(plane, team).items() >= before.items()
    (pod,) = plane.api.objects("v1", "Pod", team, labelSelector="hpo.dev/trial-number=1")
    assert pod["status"]["phase"] == "Running"
    said = {"metadata": {"annotations": {of_trial(DELAY, 1): "0s"}}}
    plane.api.patch("v1", "Pod", pod["metadata"]["name"], said, team)  # it ends while there is no operator

    install()
    operator()
    ended = end_of(plane, wanted)
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 4)
    assert uids(plane, team).items() >= before.items()
    assert refused(plane) == []


def completed(plane: ControlPlane, of: Object) -> int:
    """How many Trials of a Study have ended well."""
    return [reason(each) for each in trials(plane, of)].count("Completed")


def uids(plane: ControlPlane, namespace: str) -> dict[str, str]:
    """The uids of all Studies, Trials and Jobs, by kind and name."""
    kinds = ((VERSION, "Study"), (VERSION, "Trial"), ("batch/v1", "Job"))
    found = [(kind, each["metadata"]) for version, kind in kinds for each in plane.api.objects(version, kind, namespace)]
    return {f"{kind} {metadata['name']}": metadata["uid"] for kind, metadata in found}


def without(text: str, field: str) -> str:
    """A text of YAML, or a template of it, without one field and what is below it. Raises AssertionError if there is none."""
    left, found = re.subn(rf"^( *){field}:.*\n(?:\1 +.*\n)*", "", text, flags=re.MULTILINE)
    assert found
    return left


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The chart as it may have been a version ago: it lacks a value, and its definition of Study a field."""
    chart = tmp_path / CHART.name
    shutil.copytree(CHART, chart)
    lacked = {
        "values.yaml": "gpuDeviceClasses",
        "templates/operator/settings.yaml": "gpuDeviceClasses",
        "templates/crds/studies.yaml": "deadlineSeconds",
    }
    for path, field in lacked.items():
        (chart / path).write_text(without((chart / path).read_text(), field))
    schema = json.loads((chart / "values.schema.json").read_text())
    del schema["properties"]["gpuDeviceClasses"]
    (chart / "values.schema.json").write_text(json.dumps(schema))
    about = (chart / "Chart.yaml").read_text()
    (chart / "Chart.yaml").write_text(re.sub(r"^version: .*$", "version: 0.0.9", about, flags=re.MULTILINE))
    return chart


def test_a_Study_runs_on_while_the_chart_is_upgraded_from_the_previous_one_and_can_use_what_is_new(
    plane: ControlPlane, helm: Helm, install: Install, team: str, operator: Callable[[], OperatorProcess], previous: Path
) -> None:
    def settings() -> Any:
        return yaml.safe_load(plane.api.get("v1", "ConfigMap", RELEASE, SYSTEM)["data"]["settings.yaml"])

    def limits() -> Any:
        patch = {"spec": {"limits": {"deadlineSeconds": 1}}}
        return plane.api.patch(VERSION, "Study", "lasting", patch, team)["spec"]["limits"]

    install(previous, resyncSeconds=300)
    first = operator()
    assert "gpuDeviceClasses" not in settings()
    wanted = study("lasting", team, says={of_trial(DELAY, 1): NEVER})
    plane.apply([wanted])
    job = wait_until("its Job", lambda: plane.api.find("batch/v1", "Job", "lasting-1", team), seconds=PATIENCE)
    assert "deadlineSeconds" not in limits()

    helm("upgrade", RELEASE, str(CHART), "--namespace", SYSTEM, "--reset-then-reuse-values")
    assert (settings()["resyncSeconds"], settings()["gpuDeviceClasses"]) == (300, [*GPU_CLASSES])
    first.kill()
    operator()
    assert not has_ended(plane.api.get(VERSION, "Study", "lasting", team))
    assert plane.api.get("batch/v1", "Job", "lasting-1", team)["metadata"]["uid"] == job["metadata"]["uid"]
    wait_until("the field that is new", lambda: limits().get("deadlineSeconds"), seconds=PATIENCE)
    assert reason(end_of(plane, wanted)) == "DeadlineReached"


def test_the_definitions_go_with_the_chart_where_it_is_told_so(plane: ControlPlane, helm: Helm, install: Install) -> None:
    install(crds={"keep": False})
    helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")
    for name in STUDIES:
        wait_until(f"the end of {name}", lambda name=name: not defined(plane, name), seconds=PATIENCE)


def defined(plane: ControlPlane, name: str) -> bool:
    try:
        return plane.api.find(*DEFINITION, name, namespace="") is not None
    except ApiError:
        return True


def test_definitions_that_were_applied_by_hand_can_be_handed_over_to_the_chart(
    plane: ControlPlane, helm: Helm, install: Install
) -> None:
    plane.kubectl("apply", "--server-side", "--filename", str(ROOT / "crds"))
    with pytest.raises(CommandFailed, match=r"ownership|conflict"):
        install()
    helm("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM, "--take-ownership", "--force-conflicts")
    install(resyncSeconds=300)


def test_what_the_next_command_is_stands_in_the_notes(plane: ControlPlane, helm: Helm, install: Install) -> None:
    install()
    notes = helm("get", "notes", RELEASE, "--namespace", SYSTEM)
    command = re.search(r"kubectl (--namespace \S+ rollout status \S+)", notes)
    assert command
    plane.kubectl(*command[1].replace("rollout status", "get").split())
    assert "--reset-then-reuse-values --set prometheus.url" in notes


def test_the_example_that_the_hub_shows_is_taken(plane: ControlPlane, install: Install, team: str) -> None:
    install()
    (example,) = yaml.safe_load(yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]["artifacthub.io/crdsExamples"])
    example["metadata"]["namespace"] = team
    said = plane.kubectl("apply", "--server-side", "--dry-run=server", "--filename", "-", input=yaml.safe_dump(example))
    assert "serverside-applied" in said


# Other kinds. Last, since the control plane has one more controller from here on.


def test_an_operator_whose_chart_allows_a_kind_makes_and_watches_it_and_is_refused_nothing(
    plane: ControlPlane, install: Install, team: str, operator: Callable[[], OperatorProcess]
) -> None:
    controllers.install(plane, controllers.JOBSET)
    allowed = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}
    install(workloadKinds=[allowed])
    running = operator()
    wanted = study("sets", team, trials=2)
    job = wanted["spec"]["template"]["job"]
    job["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    one = {"name": "main", "replicas": 1, "template": {"spec": {"backoffLimit": 0, **job["spec"]}}}
    wanted["spec"]["template"] = {"object": {**allowed, "spec": {"replicatedJobs": [one]}}}
    plane.apply([wanted])
    ended = end_of(plane, wanted)
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 2)
    assert {each["status"]["workload"]["kind"] for each in trials(plane, wanted)} == {"JobSet"}
    running.kill()  # a watch is told of when it ends

    def verbs() -> set[str]:
        return {each.verb for each in plane.requests() if each.user == USER and each.resource == "jobsets"}

    wait_until("the end of its watch", lambda: verbs() >= {"create", "list", "watch"}, seconds=PATIENCE)
    assert refused(plane) == []
