"""What Prometheus takes from pods by the chart's two configurations: by the real Prometheus operator, and of the bundled one."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hpo_operator.cluster.rendering import OWN_LABELS

from tests.control_plane.building import PATIENCE
from tests.control_plane.conftest import installing
from tests.testbed import Component, ControlPlane, Object, network, prometheus, wait_until
from tests.testbed.binaries import program
from tests.testbed.charts import CHART, RELEASE, SYSTEM, Helm
from tests.testbed.processes import run

pytestmark = pytest.mark.control_plane

ALERTS = CHART / "files" / "alerts.yaml"
TRIALS = {f"podMonitor/{SYSTEM}/{RELEASE}-trials/0": f"{SYSTEM}/{RELEASE}-trials", "trials": "trials"}
"""The jobs by which Trials are scraped, of the Prometheus operator and the bundled one: each with the `job` of its series."""


@dataclass(frozen=True, slots=True)
class Made:
    """What the chart makes for Prometheus: configuration and rules by the Prometheus operator, and the bundled configuration."""

    by_operator: str
    rules: str
    bundled: str


@pytest.fixture(scope="module")
def made(monitored: ControlPlane, helm: Helm) -> Iterator[Made]:
    labels = {"release": "stack"}
    with installing(monitored, helm) as install:
        install(monitoring={"enabled": True, "labels": labels}, bundledPrometheus={"enabled": True})
        everywhere = {f"{kind}NamespaceSelector": {} for kind in ("podMonitor", "serviceMonitor", "rule")}
        chosen = {f"{kind}Selector": {"matchLabels": labels} for kind in ("podMonitor", "serviceMonitor", "rule")}
        wanted = {"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus"}
        wanted |= {"metadata": {"name": "stack", "namespace": SYSTEM}, "spec": {"replicas": 0, **everywhere, **chosen}}
        monitored.apply([wanted])

        def configuration() -> str:
            secret = monitored.api.find("v1", "Secret", "prometheus-stack", SYSTEM) or {"data": {}}
            packed = secret["data"].get("prometheus.yaml.gz", "")
            text = gzip.decompress(base64.b64decode(packed)).decode() if packed else ""
            return text if "hpo-operator-trials" in text and f"serviceMonitor/{SYSTEM}/{RELEASE}" in text else ""

        environment = {"KUBECONFIG": str(monitored.kubeconfig())}
        manager = Component("prometheus-operator", [program("prometheus-operator")], monitored.logs, environment)
        manager.start()
        try:
            text = wait_until("the configuration of Prometheus", configuration, seconds=PATIENCE, components=[manager])
            rules = wait_until("its rules", lambda: monitored.api.find("v1", "ConfigMap", "prometheus-stack-rulefiles-0", SYSTEM))
        finally:
            manager.stop()
        (taken,) = rules["data"].values()
        bundled = monitored.api.get("v1", "ConfigMap", f"{RELEASE}-prometheus", SYSTEM)["data"]["prometheus.yaml"]
        yield Made(text.replace("$(SHARD)", "0"), taken, bundled)  # as the sidecar of the first of its Prometheuses does


def test_the_Prometheus_operator_takes_what_the_chart_makes_for_it(made: Made, tmp_path: Path) -> None:
    (tmp_path / "prometheus.yaml").write_text(made.by_operator)
    run([program("promtool"), "check", "config", "--syntax-only", str(tmp_path / "prometheus.yaml")])
    jobs = {job["job_name"].split("/")[2]: job for job in yaml.safe_load(made.by_operator)["scrape_configs"]}
    assert jobs.keys() == {RELEASE, f"{RELEASE}-trials"}
    assert jobs[RELEASE]["honor_labels"] is True
    assert (jobs[f"{RELEASE}-trials"]["sample_limit"], jobs[f"{RELEASE}-trials"]["label_limit"]) == (2000, 40)
    wanted_alerts = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    assert {rule["alert"] for group in yaml.safe_load(made.rules)["groups"] for rule in group["rules"]} == wanted_alerts
    assert "docs/runbooks" not in made.rules


def test_the_alert_on_an_absent_operator_names_the_labels_that_the_Prometheus_operator_gives_its_series(made: Made) -> None:
    (job,) = (each for each in yaml.safe_load(made.by_operator)["scrape_configs"] if each["job_name"].split("/")[2] == RELEASE)
    given = [
        (tuple(each["source_labels"]), each["target_label"])
        for each in job["relabel_configs"]
        if "target_label" in each and "source_labels" in each
    ]
    assert (("__meta_kubernetes_namespace",), "namespace") in given
    assert [source for source, target in given if target == "job"] == [("__meta_kubernetes_service_name",)]
    (expression,) = re.findall(r"absent\(.*\)", made.rules)
    assert expression == f'absent(hpo_build_info{{namespace="{SYSTEM}", job="{RELEASE}"}})'


# Pods that pretend

PLACE = {"bracket": "1", "rung": "2", "generation": "3"}
TRIAL = {"study": "digits", "study-uid": "the-uid", "trial": "digits-0", "trial-number": "0", **PLACE}
PRETENDED = ("namespace", "pod", "job", "instance", "container", "endpoint")
FORGED = {
    **{f"hpo.dev/{each}": "victim" for each in PRETENDED},
    **{f"hpo-dev/{each}": "victim" for each in PRETENDED},
    **{f"hpo_dev_{each}": "victim" for each in PRETENDED},
    **{f"hpo-dev/{each}": "the-victims" for each in ("study", "study-uid", "trial-number")},
}
REPORTED = """
hpo_trial_metric{metric="loss"} 0.5
hpo_trial_step 3
hpo_trial_parameter{parameter="lr",value="0.1"} 0.1
val_loss{namespace="victim",pod="victim",study_uid="the-victims",trial_number="7"} 0.5
hpo_own 1
"""
OF_THE_OPERATOR = """
hpo_build_info{version="forged"} 1
hpo_queue_oldest_seconds 9999
hpo_study_condition{namespace="victim",study="digits",type="Progressing",status="False",reason="Forged"} 1
hpo_trials_finished_total{namespace="victim",study="digits",reason="ProgramFailed"} 9999
hpo_reconcile_duration_seconds_bucket{le="+Inf"} 1
"""


@pytest.fixture(scope="module")
def served() -> Iterator[int]:
    """The port at which the program of a Trial serves its metrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write((REPORTED + OF_THE_OPERATOR).lstrip().encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer((network.NODE_ADDRESS, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def pods(plane: ControlPlane, served: int) -> Iterator[None]:
    """The pod of a Trial, and in another namespace one with the same labels and as many as may pretend to be another's."""
    ours = {f"hpo.dev/{name}": value for name, value in TRIAL.items()}
    assert ours.keys() == {*OWN_LABELS}
    for namespace, labels in (("honest", ours), ("forger", {**FORGED, **ours})):
        plane.create_namespace(namespace)
        port = {"name": "hpo-metrics", "containerPort": served}
        spec = {"schedulerName": "nobody", "containers": [{"name": "main", "image": "none", "ports": [port]}]}
        metadata = {"name": f"{namespace}-0", "namespace": namespace, "labels": labels}
        plane.api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        address = {"podIP": network.NODE_ADDRESS, "podIPs": [{"ip": network.NODE_ADDRESS}]}
        status = {"status": {"phase": "Running", **address}}
        plane.kubectl(*f"patch pod {namespace}-0 -n {namespace} --subresource=status --patch".split(), json.dumps(status))
    yield
    for namespace in ("honest", "forger"):
        plane.api.delete_all("v1", "Pod", namespace, gracePeriodSeconds=0)
        plane.api.delete("v1", "Namespace", namespace, namespace="")


@pytest.fixture(scope="module")
def scraping(plane: ControlPlane, made: Made, pods: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prometheus with both configurations and the rights that the chart gives to the bundled one; it has scraped both pods."""
    folder = tmp_path_factory.mktemp("prometheus")
    kubeconfig = str(plane.kubeconfig_of_service_account(f"{RELEASE}-prometheus", namespace=SYSTEM))
    jobs = [job for text in (made.by_operator, made.bundled) for job in yaml.safe_load(text)["scrape_configs"]]
    jobs = [job for job in jobs if job["job_name"] in TRIALS]
    for job in jobs:
        job["kubernetes_sd_configs"] = [{**each, "kubeconfig_file": kubeconfig} for each in job["kubernetes_sd_configs"]]
        job["scrape_interval"] = job["scrape_timeout"] = "1s"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({"scrape_configs": jobs}))
    arguments = prometheus.arguments(folder / "prometheus.yaml", folder / "data")
    server = Component("prometheus", [program("prometheus"), *arguments], folder)
    server.start()
    try:
        wait_until("Prometheus", prometheus.ready, components=[server])
        for job, namespace in itertools.product(TRIALS.values(), ("honest", "forger")):
            scraped = f'up{{job="{job}",namespace="{namespace}"}} == 1'
            wait_until(scraped, lambda scraped=scraped: prometheus.query(scraped), seconds=PATIENCE, components=[server])
        yield
    finally:
        server.kill()


def series(selector: str) -> list[Object]:
    """The series that a selector names."""
    asked = urllib.parse.urlencode({"match[]": selector})
    with urllib.request.urlopen(f"{prometheus.ADDRESS}/api/v1/series?{asked}", timeout=10) as answer:
        found: list[Object] = json.load(answer)["data"]
    return found


@pytest.mark.usefixtures("scraping")
def test_the_series_of_a_Trial_carry_its_labels_and_whatever_a_pod_pretends_its_own_namespace_and_name() -> None:
    labels = {name.replace("-", "_"): value for name, value in TRIAL.items()}
    (honest,) = series('hpo_trial_step{job="trials",namespace="honest"}')
    assert honest.pop("instance").startswith(network.NODE_ADDRESS)
    assert honest == {"__name__": "hpo_trial_step", "job": "trials", "namespace": "honest", "pod": "honest-0", **labels}
    for job in TRIALS.values():
        found = series(json.dumps(job).join(("{job=", "}")))
        assert {(each["namespace"], each["pod"]) for each in found} == {("honest", "honest-0"), ("forger", "forger-0")}
        of_each = {each["__name__"] for each in found if each["namespace"] == "honest"}
        assert of_each == {each["__name__"] for each in found if each["namespace"] == "forger"}
        assert of_each > {"hpo_trial_metric", "hpo_trial_step", "hpo_trial_parameter", "val_loss", "up"}
        own = [each for each in found if each["__name__"] == "val_loss" and each["namespace"] == "honest"]
        assert [{name: each[name] for name in ("study_uid", "trial_number")} for each in own] == [
            {"study_uid": "the-uid", "trial_number": "0"}
        ]
    assert "victim" not in {value for each in series('{job!=""}') for name, value in each.items() if name in PRETENDED}


@pytest.mark.usefixtures("scraping")
def test_no_Trial_raises_or_silences_an_alert_by_exporting_the_operator_s_series() -> None:
    for job in TRIALS.values():
        names = {each["__name__"] for each in series(json.dumps(job).join(("{job=", "}")))}
        of_programs = {name for name in names if not name.startswith(("up", "scrape_"))}
        assert of_programs == {"hpo_trial_metric", "hpo_trial_step", "hpo_trial_parameter", "val_loss", "hpo_own"}
    assert prometheus.query("absent(hpo_build_info)"), "the alert on an absent operator would fire"
