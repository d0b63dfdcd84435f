"""The chart and its images, as they stand, on a real node: helm installs, Studies run, Prometheus gathers, dashboards show it."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.generate import dashboards
from tests.cluster import images
from tests.cluster.building import PATIENCE, RESTRICTED_CONTAINER, container_of, example, observed, pods, running, study
from tests.cluster.conftest import RESTRICTED, STORE, Begin
from tests.cluster.prometheus_stack import NAMESPACE as MONITORING
from tests.cluster.prometheus_stack import Server, Stack
from tests.control_plane.building import (
    VERSION,
    Result,
    condition,
    end_of,
    has_ended,
    reason,
    trials,
    wait_for_condition,
    wait_for_trials,
)
from tests.testbed import Cluster, CommandFailed, Object, wait_until
from tests.testbed.charts import CHART, Helm
from tests.testbed.images import compressed_bytes, labels
from tests.testbed.node import NODE

pytestmark = pytest.mark.cluster

RELEASE, SYSTEM = "hpo-operator", "hpo-system"
VALUES = {
    "bundledPrometheus": {"enabled": True, "scrapeInterval": "1s"},
    "monitoring": {
        "enabled": True,
        "labels": {"release": "stack"},
        "podMonitor": {"interval": "1s"},
        "serviceMonitor": {"interval": "1s"},
    },
    "resources": {"requests": {"cpu": "10m"}},  # the node's two cores are everybody's
}
RANGE = "60s"
MEGABYTE = 1_000_000
ON_A_GPU = {"requests": {"cpu": "0"}, "limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}}
SLICE = "nvidia.com/mig-1g.10gb"
"""A part of a GPU: Trials that sleep hold none of the two that the examples train on."""

QUICK = "import hpo; hpo.report(step=1, loss=(hpo.parameters().x - 0.3) ** 2)"

# One in five fails. Each step takes a second: Prometheus needs some five until it has discovered a pod.
CLIMBING = """
import sys, time, hpo

x = hpo.parameters().x
if x > 0.8:
    sys.exit("this one cannot be trained")
for step in range(1, hpo.budget() + 1):
    hpo.report(step=step, loss=x + 1 / step)
    time.sleep(1)
"""

# A member of a population: each step takes a second, and the last one is kept.
GROWING = """
import time, hpo

for step in range(hpo.start_step() + 1, hpo.budget() + 1):
    hpo.report(step=step, loss=hpo.parameters().x + 1 / step)
    time.sleep(1)
hpo.checkpoint.save(step, lambda to: (to / "step").write_text(str(step)))
"""


# Without the SDK: it changes, moves and removes what it finds in its folder, and writes and tells its own as any language can.
UNKNOWING = """
import hashlib, importlib.util, json, os, pathlib, shutil

assert importlib.util.find_spec("hpo.checkpoint") is None
folder, budget = pathlib.Path(os.environ["HPO_CHECKPOINT_DIR"]), int(os.environ["HPO_BUDGET"])
found = max(folder.glob("step-*"), key=lambda each: int(each.name[5:]), default=None)
begun = (found / "weights").read_text() if found else ""
copied_by = found.stat().st_uid if found else -1
if found:
    (found / "weights").write_text("changed")
    found.rename(folder / "older")
    shutil.rmtree(folder / "older")

weights, draft = begun + os.environ["HPO_TRIAL"] + " ", folder / "draft"
draft.mkdir()
(draft / "weights").write_text(weights)
sha = hashlib.sha256(weights.encode()).hexdigest()
digest = hashlib.sha256(f"step {budget}\\n{sha} {len(weights)} weights\\n".encode()).hexdigest()
saved = {"step": budget, "digest": f"sha256:{digest}"}
files = [{"path": "weights", "size": len(weights), "sha256": sha}]
(draft / "manifest.json").write_text(json.dumps({"hpo": 1, **saved, "files": files}))
draft.rename(folder / f"step-{budget}")

numbers = {"loss": 1 / len(weights), "begun": len(begun.split()), "user": os.getuid(), "copied_by": copied_by}
metrics = {name: [str(number)] * 3 for name, number in numbers.items()}
checkpoint = {**saved, "path": f"step-{budget}", "bytes": len(weights)}
told = {"hpo": 1, "step": budget, "metrics": metrics, "checkpoint": checkpoint}
pathlib.Path(os.environ["HPO_TERMINATION_FILE"]).write_text(json.dumps(told) + "\\n")
"""


class Installed:
    """The chart as it is installed: its operator's pod, and its Prometheus."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.helm = cluster, Helm(cluster)
        self.prometheus = Server(cluster, SYSTEM, f"services/{RELEASE}-prometheus:9090")

    def upgrade(self, **values: Any) -> None:
        """Install the chart, or upgrade it, and wait until all of it is ready."""
        arguments = ("--namespace", SYSTEM, "--take-ownership", "--force-conflicts", "--wait", "--timeout", "180s")
        try:
            self.helm("upgrade", "--install", RELEASE, str(CHART), *arguments, values={**VALUES, **values})
        except CommandFailed:
            print(self.cluster.kubectl("describe", "pods", "--namespace", SYSTEM), self.said())
            raise

    def pod(self) -> Object:
        """The operator's pod that is not about to end."""
        selector = "app.kubernetes.io/component=operator"
        found = self.cluster.api.objects("v1", "Pod", SYSTEM, labelSelector=selector)
        (pod,) = [each for each in found if not each["metadata"].get("deletionTimestamp")]
        return pod

    def image(self) -> str:
        """The image of the operator's container."""
        (container,) = self.pod()["spec"]["containers"]
        found: str = container["image"]
        return found

    def kill(self) -> None:
        """Kill the operator as a node's failure would."""
        name = self.pod()["metadata"]["name"]
        self.cluster.api.delete("v1", "Pod", name, SYSTEM, gracePeriodSeconds=0)

    def said(self) -> str:
        """The log of the operator's pod."""
        return self.cluster.kubectl("logs", "--namespace", SYSTEM, f"deployment/{RELEASE}", "--tail=-1")

    def require_running(self) -> None:
        """The operator runs: asked for by the fixture that shows its log."""


@pytest.fixture(scope="module")
def stack(cluster: Cluster) -> Iterator[Stack]:
    """A Prometheus of the Prometheus operator, which takes what the chart makes for it."""
    cluster.load_images(images.of_the_chart())
    cluster.create_namespace(MONITORING, RESTRICTED)
    with Stack(cluster, VALUES["monitoring"]["labels"]) as running:
        yield running


@pytest.fixture(scope="module")
def operator(cluster: Cluster, stack: Stack) -> Iterator[Installed]:
    """The chart is installed; it takes the place of the operator beside the cluster, which the other modules have."""
    cluster.create_namespace(SYSTEM, RESTRICTED)
    slices = {SLICE: "2"}
    cluster.api.patch("v1", "Node", NODE, {"status": {"capacity": slices, "allocatable": slices}}, subresource="status")
    installed = Installed(cluster)
    installed.upgrade()
    stack.wait_until_ready()
    yield installed
    installed.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")


@pytest.fixture(scope="module")
def started() -> float:
    return time.time()


SHORTER: dict[str, Object] = {
    # One after the other: which configuration is drawn next hangs on what has ended by then.
    "digits-svm": {"limits": {"maxTrials": 6}, "parallelism": 1},
    "digits-mlp": {"budget": {"min": 3, "max": 9}, "parallelism": 1, "checkpoints": STORE},
    "digits-pb2": {"budget": {"min": 4, "max": 12}},
}
"""Examples whose results are compared, in what they are shorter. Each of their Trials has a GPU."""


def shorter(cluster: Cluster, name: str, namespace: str, suffix: str) -> Object:
    found = example(cluster, name, namespace, **SHORTER[name])
    found["metadata"]["name"] = f"{name}-{suffix}"
    container_of(found)["resources"] = ON_A_GPU
    return found


@pytest.fixture(scope="module")
def begun(cluster: Cluster, namespace: str, begin: Begin, started: float, volume: Path) -> dict[str, Object]:
    """The examples, a population of two generations, slow enough to be scraped, and a program without the SDK for which its
    checkpoints are copied; nothing disturbs them.
    """
    generations = {"algorithm": {"pbt": {"population": 2}}, "budget": {"min": 8, "max": 16}, "parallelism": 2}
    population = study("population", namespace, GROWING, checkpoints=STORE, **generations)
    unknowing = study(
        "unknowing",
        namespace,
        UNKNOWING,
        container={"image": images.PLAIN},
        schedule={"halving": {"eta": 2, "iterations": 1}},
        budget={"min": 1, "max": 2},
        checkpoints={**STORE, "restore": "Copy"},
        limits={"maxTrials": 20, "maxFailedTrials": 0},
        parallelism=2,
    )
    studies = [population, unknowing, *(shorter(cluster, name, namespace, "undisturbed") for name in SHORTER)]
    return {each["metadata"]["name"]: begin(each) for each in studies}


@pytest.fixture(scope="module")
def refused(operator: Installed, namespace: str, begin: Begin) -> Object:
    """What the image without torch has said of a Study that needs it."""
    asked = study("on-torch", namespace, QUICK, algorithm={"botorch": {}}, limits={"maxTrials": 10}, parallelism=2)
    return wait_for_condition(operator.cluster, begin(asked), "Accepted", "InvalidSettings", seconds=PATIENCE)


@pytest.fixture(scope="module")
def disturbed(operator: Installed, namespace: str, begin: Begin, begun: dict[str, Object], refused: Object) -> dict[str, Object]:
    """The same examples, and Trials with parts of GPUs on rungs, of which some fail: in the middle of all of them the operator is
    killed, and the chart upgraded to another image.
    """
    cluster = operator.cluster
    for each in begun.values():
        end_of(cluster, each, PATIENCE)
    limits = {"limits": {SLICE: "1"}, "requests": {"cpu": "0"}}
    climbing = study(
        "climbing",
        namespace,
        CLIMBING,
        container={"resources": limits},
        schedule={"asha": {"eta": 3}},
        budget={"min": 8, "max": 24},
        parallelism=2,
        limits={"maxTrials": 8, "gpuSeconds": 3600},
    )
    studies = [begin(each) for each in (climbing, *(shorter(cluster, name, namespace, "disturbed") for name in SHORTER))]
    for each in studies:
        wait_until("a running Trial", lambda each=each: running(pods(cluster, each)), seconds=PATIENCE)
    before = operator.pod()["metadata"]["uid"]
    assert not any(has_ended(cluster.api.get(VERSION, "Study", each["metadata"]["name"], namespace)) for each in studies)
    operator.kill()
    operator.upgrade(resyncSeconds=300, image={"tag": images.TORCH_VERSION})
    assert operator.pod()["metadata"]["uid"] != before
    return {each["metadata"]["name"]: end_of(cluster, each, PATIENCE) for each in studies}


def test_the_operator_is_a_restricted_pod_that_can_write_nothing_but_tmp(operator: Installed) -> None:
    name = operator.pod()["metadata"]["name"]

    def does(program: str) -> str:
        command = ("exec", "--namespace", SYSTEM, name, "--", "python", "-c", program)
        return operator.cluster.kubectl(*command).strip()

    assert does("import os; print(os.getuid(), os.getgid())") == "65532 65532"
    assert does("open('/tmp/a', 'w').write('a'); print('written')") == "written"
    with pytest.raises(CommandFailed, match="Read-only file system"):
        does("open('/opt/hpo/a', 'w')")
    assert operator.pod()["status"]["qosClass"] == "Burstable"


@pytest.mark.parametrize("tag", [images.OPERATOR, images.TORCH_OPERATOR, images.TRIAL])
def test_an_image_says_what_it_is(operator: Installed, tag: str) -> None:
    said = labels(images.archive_of(tag))
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert said["org.opencontainers.image.version"] == about["appVersion"]
    assert said["org.opencontainers.image.licenses"] == about["annotations"]["artifacthub.io/license"]
    assert said["org.opencontainers.image.title"]
    assert said["org.opencontainers.image.description"]


def test_the_small_image_is_small_where_a_registry_keeps_it(operator: Installed) -> None:
    assert compressed_bytes(images.archive_of(images.OPERATOR)) <= 300 * MEGABYTE


def test_an_example_runs_to_its_end_on_a_GPU(operator: Installed, begun: dict[str, Object]) -> None:
    ended = end_of(operator.cluster, begun["digits-svm-undisturbed"], PATIENCE)
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 6)
    assert {observed(each)["source"] for each in trials(operator.cluster, ended)} == {"TerminationMessage"}
    assert ended["status"]["gpuSeconds"] > 0


def test_a_program_without_the_SDK_finds_its_donor_s_weights_and_may_do_with_them_what_it_likes(
    operator: Installed, begun: dict[str, Object], volume: Path
) -> None:
    cluster = operator.cluster
    ended = end_of(cluster, begun["unknowing"], PATIENCE)
    *below, promoted = found = trials(cluster, ended)
    assert {reason(each) for each in found} == {"Completed"}, [condition(each, "Succeeded")["message"] for each in found]
    assert reason(ended) == "ScheduleFinished"
    donor = below[promoted["spec"]["restoreFrom"]["number"]]
    assert len(below) == 2
    assert promoted["spec"]["restoreFrom"]["digest"] == donor["status"]["checkpoint"]["digest"]
    assert promoted["status"]["restored"]["trialName"] == donor["metadata"]["name"]
    told = {name: float(value) for name, value in observed(promoted)["metrics"].items()}
    assert told["begun"] == 1, "the weights are its donor's"
    assert (told["user"], told["copied_by"]) == (1234, 65532)

    (pod,) = (each for each in pods(cluster, ended) if each["spec"].get("initContainers"))
    (copying,) = pod["spec"]["initContainers"]
    assert copying["image"] == images.OPERATOR
    wait_for_trials(
        cluster, ended, "the end of the cleanup", lambda all_: all(e["status"]["checkpoint"]["state"] != "Collecting" for e in all_)
    )
    assert [each.name for each in (volume / ended["metadata"]["uid"]).iterdir()] == [promoted["metadata"]["name"]]


@pytest.mark.parametrize("name", SHORTER)
def test_an_example_that_the_chart_s_upgrade_and_its_operator_s_end_disturb_finds_what_it_finds_undisturbed(
    operator: Installed, begun: dict[str, Object], disturbed: dict[str, Object], name: str
) -> None:
    undisturbed = end_of(operator.cluster, begun[f"{name}-undisturbed"], PATIENCE)
    found = Result.of(operator.cluster, undisturbed)
    assert found == Result.of(operator.cluster, disturbed[f"{name}-disturbed"])
    assert {trial[4] for trial in found.trials} == {"Completed"}
    assert any(trial[3] == "Promoted" or name != "digits-mlp" for trial in found.trials)
    assert disturbed[f"{name}-disturbed"]["status"]["gpuSeconds"] > 0


def test_a_Study_runs_on_while_the_chart_is_upgraded_and_its_operator_killed(
    operator: Installed, disturbed: dict[str, Object]
) -> None:
    ended = disturbed["climbing"]
    assert reason(ended) == "MaxTrialsReached"
    found = trials(operator.cluster, ended)
    assert [each["spec"]["number"] for each in found] == [*range(len(found))]
    assert {each["status"]["attempts"] for each in found} == {1}
    for each in found:
        x = float(next(pair["value"] for pair in each["spec"]["parameters"] if pair["name"] == "x"))
        if reason(each) == "Completed":
            assert observed(each)["metrics"]["loss"] == repr(x + 1 / each["spec"]["budget"])
        else:
            assert (reason(each), x > 0.8) == ("ProgramFailed", True), condition(each, "Succeeded")["message"]


def test_an_algorithm_on_torch_is_refused_by_the_small_image_and_runs_on_the_one_that_has_it(
    operator: Installed, refused: Object, disturbed: dict[str, Object]
) -> None:
    assert (condition(refused, "Accepted")["status"], reason(refused, "Accepted")) == ("False", "InvalidSettings")
    assert "torch" in condition(refused, "Accepted")["message"]
    ended = end_of(operator.cluster, refused, PATIENCE)
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 10)
    assert {each["spec"]["origin"] for each in trials(operator.cluster, ended)} == {"Sampled"}


def test_the_curves_of_Trials_come_from_the_bundled_Prometheus(operator: Installed, disturbed: dict[str, Object]) -> None:
    ended = disturbed["climbing"]
    assert reason(ended, "MetricsAvailable") == "SourceAnswers", condition(ended, "MetricsAvailable")
    curves = [observed(each)["curve"] for each in trials(operator.cluster, ended) if reason(each) == "Completed"]
    assert max(len(each) for each in curves) >= 2


@pytest.fixture(params=["bundled", "operated"])
def prometheus(request: pytest.FixtureRequest, operator: Installed, stack: Stack) -> Server:
    """The Prometheus of the chart, and that of the Prometheus operator."""
    return operator.prometheus if request.param == "bundled" else stack.server


def test_Prometheus_gathers_by_study_trial_and_rung(prometheus: Server, disturbed: dict[str, Object], started: float) -> None:
    found = prometheus.over('hpo_trial_metric{study="climbing"}', started)
    uid = disturbed["climbing"]["metadata"]["uid"]
    assert {each["metric"]["study_uid"] for each in found} == {uid}
    for each in found:
        labels = each["metric"]
        assert labels.keys() >= {"namespace", "study", "trial", "trial_number", "pod", "rung"}
        assert labels["trial"] == f"climbing-{labels['trial_number']}"
    assert {each["metric"]["rung"] for each in found} >= {"0"}
    (version,) = wait_until("what the operator says of itself", lambda: prometheus.query("hpo_build_info"), seconds=PATIENCE)
    assert version["metric"]["version"]


def test_Prometheus_has_taken_the_alerts(prometheus: Server) -> None:
    groups = prometheus.ask("rules")["groups"]
    assert {group["name"] for group in groups} == {"hpo-studies", "hpo-operator"}
    wait_until("their evaluation", lambda: all_are_well(prometheus), seconds=PATIENCE)


def all_are_well(prometheus: Server) -> bool:
    rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert all(rule["health"] != "err" for rule in rules), rules
    away = {rule["state"] for rule in rules if rule["name"] == "HpoOperatorAway"}
    return all(rule["health"] == "ok" for rule in rules) and away == {"inactive"}


@pytest.fixture(scope="module")
def variables(namespace: str) -> dict[str, str]:
    return {
        "namespace": namespace,
        "study": "climbing",
        "metric": "loss",
        "parameter": "x",
        "__range": "1h",
        "__rate_interval": RANGE,
    }


@pytest.mark.parametrize("name", dashboards.dashboards())
def test_every_query_of_a_dashboard_is_answered(
    operator: Installed, disturbed: dict[str, Object], started: float, variables: dict[str, str], name: str
) -> None:
    made = dashboards.dashboards()[name]
    of_rungs, of_generations = (dashboards.queries(made, {**variables, "study": study}) for study in ("climbing", "population"))
    asked = [other if "generation" in one[1] else one for one, other in zip(of_rungs, of_generations, strict=True)]
    assert len(asked) > 15
    unanswered = {title: query for title, query in asked if not has_a_number(operator.prometheus.over(of_series(query), started))}
    assert unanswered == {}
    assert not any(re.search(r"\$\w", query) for _, query in asked)


def of_series(query: str) -> str:
    """A query without the number that it gives where there are no series."""
    return query.removesuffix(" or vector(0)")


def has_a_number(found: list[Any]) -> bool:
    return any(math.isfinite(float(value)) for series in found for _, value in series["values"])


@pytest.mark.parametrize("name", dashboards.dashboards())
def test_every_variable_of_a_dashboard_has_values(
    operator: Installed, disturbed: dict[str, Object], started: float, variables: dict[str, str], name: str
) -> None:
    made = dashboards.dashboards()[name]
    assert made.templating is not None
    for each in made.templating.list_val or ():
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", str(each.query))
        if found is None:
            continue  # the data source
        query = found[1]
        for variable in sorted(variables, key=len, reverse=True):
            query = query.replace(f"${variable}", variables[variable])
        values = operator.prometheus.ask(f"label/{found[2]}/values", **{"match[]": query, "start": f"{started:.0f}"})
        assert variables[str(each.name)] in values


def test_the_objects_of_the_Prometheus_operator_and_the_dashboards_are_there(operator: Installed) -> None:
    api, group = operator.cluster.api, "monitoring.coreos.com/v1"
    assert api.find(group, "PodMonitor", f"{RELEASE}-trials", SYSTEM)
    assert api.find(group, "ServiceMonitor", RELEASE, SYSTEM)
    assert api.find(group, "PrometheusRule", RELEASE, SYSTEM)
    for name in dashboards.dashboards():
        found = api.get("v1", "ConfigMap", f"{RELEASE}-dashboard-{name}", SYSTEM)
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(found["data"][f"hpo-{name}.json"])["uid"] == f"hpo-{name}"


# Trial 0 ends when it is told to.
PATIENT = """
import hpo, pathlib, time

while hpo.trial().number == 0 and not pathlib.Path("/tmp/end").exists():
    time.sleep(0.2)
hpo.report(step=1, loss=hpo.parameters().x)
"""


def test_a_Study_and_its_pod_live_through_rollback_and_uninstall_and_it_ends_with_the_next_installation(
    operator: Installed, namespace: str, begin: Begin, disturbed: dict[str, Object]
) -> None:
    cluster, writable = operator.cluster, {"securityContext": {**RESTRICTED_CONTAINER, "readOnlyRootFilesystem": False}}
    wanted = begin(study("lasting", namespace, PATIENT, container=writable, limits={"maxTrials": 2}))
    wait_until("a running Trial", lambda: running(pods(cluster, wanted)), seconds=PATIENCE)
    (pod,) = pods(cluster, wanted)
    assert operator.image() == images.TORCH_OPERATOR

    operator.helm("rollback", RELEASE, "1", "--namespace", SYSTEM, "--wait", "--timeout", "180s")
    assert operator.image() == images.OPERATOR
    operator.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")
    assert not has_ended(cluster.api.get(VERSION, "Study", "lasting", namespace))
    (kept,) = pods(cluster, wanted)
    assert (kept["metadata"]["uid"], kept["status"]["phase"]) == (pod["metadata"]["uid"], "Running")
    cluster.kubectl("exec", "--namespace", namespace, pod["metadata"]["name"], "--", "touch", "/tmp/end")

    operator.upgrade()
    ended = end_of(cluster, wanted, PATIENCE)
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 2)
    assert {each["status"]["attempts"] for each in trials(cluster, ended)} == {1}
