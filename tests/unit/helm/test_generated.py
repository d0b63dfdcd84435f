"""What of the chart is generated: nobody changes one without the other, and no value is left unexplained."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from hpo_operator.cluster.rendering import OWN_LABELS, label_of_series

from helm.generate import dashboards, values
from helm.generate.__main__ import CHART, files, main
from tests.testbed.namespaces import ROOT

ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
EVERY_ALERT = [rule for group in ALERTS["groups"] for rule in group["rules"]]
METRICS = re.compile(r"\bhpo_[a-z_]+|process_resident_memory_bytes")


def test_what_is_committed_is_what_would_be_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_check_of_a_changed_value_fails_and_names_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("values.yaml", *files()):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((CHART / path).read_text().replace("resyncSeconds: 600", "resyncSeconds: 900"))
    chart = ["--chart", str(tmp_path)]
    assert main([*chart, "--check"]) == 1
    assert re.findall(r"helm/hpo-operator/(\S+) is out of date", capsys.readouterr().err) == ["README.md", "values.schema.json"]
    assert main(chart) == 0
    assert main([*chart, "--check"]) == 0


def test_a_value_without_a_comment_is_refused_by_its_name_and_line() -> None:
    with pytest.raises(values.Undocumented, match=r"line 4: a\.c has no comment"):
        values.read("a:\n  # Says something.\n  b: {}\n  c: 1\n")


def test_a_value_has_the_type_of_its_default_and_what_its_comment_adds() -> None:
    found = values.read('# A port.\n# @schema {"maximum": 65535}\nport: 8080\nsection:\n  # Two lines\n  # of text.\n  names: []\n')
    assert [each.description for each in found] == ["A port.", "Two lines of text."]
    schema = json.loads(values.schema(found))
    assert schema["properties"]["port"] == {"type": "integer", "description": "A port.", "default": 8080, "maximum": 65535}
    assert schema["properties"]["section"]["properties"]["names"]["type"] == "array"
    assert schema["properties"]["section"]["additionalProperties"] is False


def test_every_value_is_in_the_table_with_its_default() -> None:
    table = (CHART / "README.md").read_text()
    found = values.read((CHART / "values.yaml").read_text())
    assert len(found) > 50
    for each in found:
        assert f"| `{'.'.join(each.path)}` | `{json.dumps(each.default, ensure_ascii=False)}` |" in table


def test_what_the_hub_is_told_of_the_chart_is_true() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    told = {name.removeprefix("artifacthub.io/"): yaml.safe_load(text) for name, text in chart["annotations"].items()}
    image = yaml.safe_load((CHART / "values.yaml").read_text())["image"]
    assert chart["appVersion"] == chart["version"] == version("hpo-operator")
    assert told["images"] == [{"name": "operator", "image": f"{image['registry']}/{image['repository']}:{chart['appVersion']}"}]
    defined = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    assert [(each["name"], each["kind"], each["version"]) for each in told["crds"]] == [
        (each["metadata"]["name"], each["spec"]["names"]["kind"], each["spec"]["versions"][-1]["name"]) for each in defined
    ]


# Relabelling

RELABELLING = {
    "helm/hpo-operator/templates/_helpers.tpl": 1,  # of the PodMonitor and of the bundled Prometheus
    "tests/testbed/prometheus.py": 1,
    "docs/metrics.md": 2,
}


@pytest.mark.parametrize("path", RELABELLING)
def test_the_labels_that_series_have_from_pods_are_those_that_the_operator_sets_and_no_others(path: str) -> None:
    """With any other, a pod could name itself another namespace or pod."""
    names = re.findall(r"__meta_kubernetes_pod_label_(\S+?\))", (ROOT / path).read_text())
    ours = "|".join(label_of_series(each).removeprefix("hpo_dev_") for each in OWN_LABELS)
    assert names == [f"hpo_dev_({ours})"] * RELABELLING[path]


@pytest.mark.parametrize("path", RELABELLING)
def test_what_is_dropped_of_a_Trials_series_are_all_of_the_operators_and_none_of_the_sdk(path: str) -> None:
    """With any of those a Trial could raise alerts, or keep them silent."""
    dropped = re.findall(r"\bhpo_\(\w+\|\S+?\)\(\|_\.\*\)", (ROOT / path).read_text())
    assert len(dropped) == RELABELLING[path]
    of_operator = re.findall(r"^\| `(hpo_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    of_sdk = re.findall(r"^(hpo_\w+)", (ROOT / "docs" / "sdk.md").read_text(), re.MULTILINE)
    assert len(of_operator) > 10 and len(of_sdk) == 3
    for pattern in dropped:
        assert [name for name in of_operator if not re.fullmatch(pattern, name)] == []
        assert [name for name in of_sdk if re.fullmatch(pattern, name)] == []


# Alerts and dashboards


def known_metrics() -> set[str]:
    """The series that the documentation names, which tests hold to what operator and SDK serve."""
    documented = "".join((ROOT / "docs" / page).read_text() for page in ("metrics.md", "sdk.md"))
    names = set(METRICS.findall(documented))
    return names | {f"{name}_bucket" for name in names if name.endswith("_seconds")}


def queries() -> list[tuple[str, str]]:
    """Every expression of alerts and dashboards, by its title."""
    of_dashboards = [(title, query) for made in dashboards.dashboards().values() for title, query in dashboards.queries(made, {})]
    return [*((rule["alert"], rule["expr"]) for rule in EVERY_ALERT), *of_dashboards]


@pytest.mark.parametrize(("title", "query"), queries(), ids=lambda each: each[:40])
def test_every_series_that_is_asked_for_is_documented(title: str, query: str) -> None:
    used = set(METRICS.findall(query)) - {"process_resident_memory_bytes"}
    assert used
    assert used <= known_metrics()


@pytest.mark.parametrize("rule", EVERY_ALERT, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_summary_and_a_page_that_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    page = (ROOT / rule["annotations"]["runbook_url"]).read_text()
    assert page.startswith(f"# {rule['alert']}\n")


def test_there_is_no_runbook_without_an_alert() -> None:
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} == {rule["alert"] for rule in EVERY_ALERT}


@pytest.mark.parametrize("name", dashboards.dashboards())
def test_a_dashboard_works_with_any_source_and_has_a_sentence_for_each_panel(name: str) -> None:
    made = json.loads((CHART / "files" / "dashboards" / f"{name}.json").read_text())
    assert made["uid"] == f"hpo-{name}"
    for panel in made["panels"]:
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    assert {each["name"] for each in made["templating"]["list"]} >= {"datasource", "namespace"}
