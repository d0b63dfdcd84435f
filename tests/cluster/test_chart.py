"""The chart and its images, as they stand, on a real node: helm installs, Studies run, Prometheus gathers, dashboards show it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from helm.generate import dashboards
from tests.cluster import images
from tests.cluster.building import PATIENCE, example, observed, pods, running, study
from tests.cluster.conftest import RESTRICTED, Begin
from tests.control_plane.building import VERSION, condition, end_of, reason, trials
from tests.testbed import Cluster, CommandFailed, Object, wait_until
from tests.testbed.binaries import sources
from tests.testbed.charts import CHART, Helm

pytestmark = pytest.mark.cluster

RELEASE, SYSTEM = "hpo-operator", "hpo-system"
VALUES = {
    "bundledPrometheus": {"enabled": True, "scrapeInterval": "1s"},
    "monitoring": {"enabled": True},
    "resources": {"requests": {"cpu": "10m"}},  # the node's two cores are everybody's
}
RANGE = "60s"

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


class Installed:
    """The chart as it is installed: its operator's pod, and its Prometheus."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.helm = cluster, Helm(cluster)

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

    def kill(self) -> None:
        """Kill the operator as a node's failure would."""
        name = self.pod()["metadata"]["name"]
        self.cluster.api.delete("v1", "Pod", name, SYSTEM, gracePeriodSeconds=0)

    def said(self) -> str:
        """The log of the operator's pod."""
        return self.cluster.kubectl("logs", "--namespace", SYSTEM, f"deployment/{RELEASE}", "--tail=-1")

    def require_running(self) -> None:
        """The operator runs: asked for by the fixture that shows its log."""

    def ask(self, path: str, **query: str) -> Any:
        """What the bundled Prometheus answers."""
        service = f"/api/v1/namespaces/{SYSTEM}/services/{RELEASE}-prometheus:9090/proxy/api/v1/{path}"
        answer = json.loads(self.cluster.kubectl("get", "--raw", f"{service}?{urlencode(query)}"))
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """The instant vector of an expression."""
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def over(self, expression: str, since: float) -> list[Any]:
        """The series of an expression from then until now."""
        times = {"start": f"{since:.0f}", "end": f"{time.time():.0f}", "step": "1"}
        found: list[Any] = self.ask("query_range", query=expression, **times)["result"]
        return found


@pytest.fixture(scope="module")
def operator(cluster: Cluster) -> Iterator[Installed]:
    """The chart is installed; it takes the place of the operator beside the cluster, which the other modules have."""
    cluster.load_images(images.of_the_chart())
    cluster.create_namespace(SYSTEM, RESTRICTED)
    folder = sources("prometheus-operator") / "example" / "prometheus-operator-crd"
    for kind in ("podmonitors", "servicemonitors", "prometheusrules"):
        cluster.apply(folder / f"monitoring.coreos.com_{kind}.yaml")
    installed = Installed(cluster)
    installed.upgrade()
    yield installed
    installed.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")


@pytest.fixture(scope="module")
def started() -> float:
    return time.time()


@pytest.fixture(scope="module")
def begun(cluster: Cluster, namespace: str, begin: Begin, started: float) -> dict[str, Object]:
    """An example as it stands; and Trials with GPUs on rungs, of which some fail."""
    limits = {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "0"}}
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
    svm = example(cluster, "digits-svm", namespace, limits={"maxTrials": 6})
    return {each["metadata"]["name"]: begin(each) for each in (svm, climbing)}


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


def test_an_example_as_it_stands_runs_to_its_end(operator: Installed, begun: dict[str, Object]) -> None:
    ended = end_of(operator.cluster, begun["digits-svm"], PATIENCE)
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 6)
    assert {observed(each)["source"] for each in trials(operator.cluster, ended)} == {"TerminationMessage"}


def test_a_Study_runs_on_while_the_chart_is_upgraded_and_its_operator_killed(operator: Installed, begun: dict[str, Object]) -> None:
    cluster, climbing = operator.cluster, begun["climbing"]
    wait_until("a running Trial", lambda: running(pods(cluster, climbing)), seconds=PATIENCE)
    before = operator.pod()["metadata"]["uid"]
    operator.kill()
    operator.upgrade(resyncSeconds=300)
    assert operator.pod()["metadata"]["uid"] != before
    ended = end_of(cluster, climbing, PATIENCE)
    assert reason(ended) == "MaxTrialsReached"
    found = trials(cluster, ended)
    assert [each["spec"]["number"] for each in found] == [*range(len(found))]
    assert {each["status"]["attempts"] for each in found} == {1}
    for each in found:
        x = float(next(pair["value"] for pair in each["spec"]["parameters"] if pair["name"] == "x"))
        if reason(each) == "Completed":
            assert observed(each)["metrics"]["loss"] == repr(x + 1 / each["spec"]["budget"])
        else:
            assert (reason(each), x > 0.8) == ("ProgramFailed", True)


def test_the_curves_of_Trials_come_from_the_bundled_Prometheus(operator: Installed, begun: dict[str, Object]) -> None:
    ended = end_of(operator.cluster, begun["climbing"], PATIENCE)
    assert reason(ended, "MetricsAvailable") == "SourceAnswers", condition(ended, "MetricsAvailable")
    curves = [observed(each)["curve"] for each in trials(operator.cluster, ended) if reason(each) == "Completed"]
    assert max(len(each) for each in curves) >= 2


def test_Prometheus_gathers_by_study_trial_and_rung(operator: Installed, begun: dict[str, Object], started: float) -> None:
    found = operator.over('hpo_trial_metric{study="climbing"}', started)
    uid = begun["climbing"]["metadata"]["uid"]
    assert {each["metric"]["study_uid"] for each in found} == {uid}
    for each in found:
        labels = each["metric"]
        assert labels.keys() >= {"namespace", "study", "trial", "trial_number", "pod", "rung"}
        assert labels["trial"] == f"climbing-{labels['trial_number']}"
    assert {each["metric"]["rung"] for each in found} >= {"0"}
    (version,) = wait_until("what the operator says of itself", lambda: operator.query("hpo_build_info"), seconds=PATIENCE)
    assert version["metric"]["version"]


def test_Prometheus_has_taken_the_alerts(operator: Installed) -> None:
    groups = operator.ask("rules")["groups"]
    assert {group["name"] for group in groups} == {"hpo-studies", "hpo-operator"}
    wait_until("their evaluation", lambda: all_are_well(operator), seconds=PATIENCE)


def all_are_well(operator: Installed) -> bool:
    rules = [rule for group in operator.ask("rules")["groups"] for rule in group["rules"]]
    assert all(rule["health"] != "err" for rule in rules), rules
    return all(rule["health"] == "ok" for rule in rules)


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
    operator: Installed, begun: dict[str, Object], started: float, variables: dict[str, str], name: str
) -> None:
    end_of(operator.cluster, begun["climbing"], PATIENCE)
    asked = list(dashboards.queries(dashboards.dashboards()[name], variables))
    assert len(asked) > 15
    unanswered = {title: query for title, query in asked if not operator.over(query, started)}
    assert unanswered == {}
    assert not any(re.search(r"\$\w", query) for _, query in asked)


@pytest.mark.parametrize("name", dashboards.dashboards())
def test_every_variable_of_a_dashboard_has_values(
    operator: Installed, begun: dict[str, Object], started: float, variables: dict[str, str], name: str
) -> None:
    end_of(operator.cluster, begun["climbing"], PATIENCE)
    made = dashboards.dashboards()[name]
    assert made.templating is not None
    for each in made.templating.list_val or ():
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", str(each.query))
        if found is None:
            continue  # the data source
        query = found[1]
        for variable in sorted(variables, key=len, reverse=True):
            query = query.replace(f"${variable}", variables[variable])
        values = operator.ask(f"label/{found[2]}/values", **{"match[]": query, "start": f"{started:.0f}"})
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
    assert VERSION
