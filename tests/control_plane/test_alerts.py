"""The alerts of the chart, by promtool: that they can be read, and when each fires."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.testbed.binaries import program
from tests.testbed.charts import CHART
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


def test_of_each_alert_it_is_said_when_it_fires() -> None:
    cases = [case for test in yaml.safe_load(EXPECTATIONS.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == set(names())


def names() -> list[str]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"]]
