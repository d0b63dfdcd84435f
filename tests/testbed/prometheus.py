"""A Prometheus that scrapes trial pods, and questions to it."""

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml

ADDRESS = "http://127.0.0.1:9090"

STUDY_LABEL = "hpo.dev/study"
METRICS_PORT = "hpo-metrics"
LABELS = "__meta_kubernetes_pod_label_hpo_dev_(study|study_uid|trial|trial_number|bracket|rung|generation)"
OPERATORS_SERIES = "hpo_(apiserver|build|checkpoint|gpu|gpus|proposal|queue|reconcile|studies|study|trials|watch)(|_.*)"


def configuration(kubeconfig: Path, interval_seconds: float = 1.0) -> str:
    """Prometheus' file: every pod that carries the label of a Study, at its port of that name.

    What the chart's PodMonitor says for the Prometheus operator; the operator's labels `hpo.dev/…` of the pod become labels without
    the prefix.
    """
    labelled, port = "__meta_kubernetes_pod_labelpresent_hpo_dev_study", "__meta_kubernetes_pod_container_port_name"
    job = {
        "job_name": "trials",
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": str(kubeconfig)}],
        "relabel_configs": [
            {"source_labels": [labelled, port], "regex": f"true;{METRICS_PORT}", "action": "keep"},
            {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Succeeded|Failed", "action": "drop"},
            {"regex": LABELS, "action": "labelmap"},
            {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
            {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        ],
        "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": OPERATORS_SERIES, "action": "drop"}],
    }
    interval = f"{int(interval_seconds * 1000)}ms"
    return yaml.safe_dump(
        {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": [job]}, sort_keys=False
    )


def arguments(configuration_file: Path, data: Path) -> list[str]:
    """Prometheus' command line."""
    return [
        f"--config.file={configuration_file}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address=0.0.0.0:{urllib.parse.urlsplit(ADDRESS).port}",
        "--log.level=warn",
    ]


def ready() -> bool:
    """Whether Prometheus answers."""
    with urllib.request.urlopen(f"{ADDRESS}/-/ready", timeout=5) as answer:
        return bool(answer.status == 200)


def query(expression: str, time: float | None = None) -> list[dict[str, Any]]:
    """The instant vector of an expression: a list of {metric, value}."""
    asked = {"query": expression, **({"time": repr(time)} if time is not None else {})}
    with urllib.request.urlopen(f"{ADDRESS}/api/v1/query?{urllib.parse.urlencode(asked)}", timeout=10) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result
