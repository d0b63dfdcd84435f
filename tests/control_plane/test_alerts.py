"""The alerts of the chart, by promtool: that they can be read, and when each fires."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.testbed.binaries import program
from tests.testbed.charts import CHART, Helm
from tests.testbed.processes import run

pytestmark = pytest.mark.control_plane

ALERTS = CHART / "files" / "alerts.yaml"
EXPECTATIONS = Path(__file__).with_name("alerts.yaml")


def test_promtool_reads_the_alerts_and_has_nothing_to_say() -> None:
    said = run([program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS)])
    assert f"{len(names())} rules found" in said


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    tests = tmp_path / "tests.yaml"
    tests.write_text(EXPECTATIONS.read_text().replace("ALERTS", str(ALERTS)))
    run([program("promtool"), "test", "rules", str(tests)])


def test_the_operator_of_one_release_does_not_hide_that_that_of_another_is_away(tmp_path: Path) -> None:
    """The alert asked whether there was any operator: with two in one Prometheus, one could be away for good."""
    here = {("hpo-operator", "team-a"): "1x60", ("hpo-operator", "team-b"): "1x9 _x50", ("tuning", "team-b"): "1x60"}
    files, series = [], []
    for (release, namespace), values in here.items():
        made = Helm().template(values={"monitoring": {"enabled": True}}, release=release, namespace=namespace)
        kinds = {each["kind"]: each for each in made}
        files.append(tmp_path / f"{namespace}-{release}.yaml")
        files[-1].write_text(yaml.safe_dump(kinds["PrometheusRule"]["spec"]))
        labels = f'namespace="{kinds["ServiceMonitor"]["metadata"]["namespace"]}", job="{kinds["Service"]["metadata"]["name"]}"'
        series.append({"series": f"hpo_build_info{{{labels}}}", "values": values})
    said = {
        "summary": "The operator team-b/hpo-operator says nothing of itself.",
        "description": "It does not run, or is not scraped. Trials run on; nothing new is begun, and results wait.",
    }
    away = {"exp_labels": {"severity": "critical", "namespace": "team-b", "job": "hpo-operator"}, "exp_annotations": said}
    cases = [
        {"alertname": "HpoOperatorAway", "eval_time": "9m", "exp_alerts": []},
        {"alertname": "HpoOperatorAway", "eval_time": "30m", "exp_alerts": [away]},
    ]
    tests = tmp_path / "tests.yaml"
    wanted = {"interval": "1m", "input_series": series, "alert_rule_test": cases}
    tests.write_text(yaml.safe_dump({"rule_files": [*map(str, files)], "evaluation_interval": "1m", "tests": [wanted]}))
    run([program("promtool"), "test", "rules", str(tests)])


def test_of_each_alert_it_is_said_when_it_fires() -> None:
    cases = [case for test in yaml.safe_load(EXPECTATIONS.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(names())


def names() -> list[str]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]
