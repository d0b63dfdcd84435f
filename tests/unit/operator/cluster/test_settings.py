"""The installer's settings: from a file and from flags, and every fault named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hpo_algorithms import InvalidInput
from hpo_operator.cluster.settings import Settings, read_settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def faults(file: Path, text: str) -> list[str]:
    file.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_settings(file, {})
    return [str(fault) for fault in refused.value.faults]


def test_without_a_file_all_has_a_default() -> None:
    assert read_settings(None, {}) == Settings()


def test_an_empty_file_is_as_good_as_none(file: Path) -> None:
    file.write_text("")
    assert read_settings(file, {}) == Settings()


def test_a_flag_goes_before_the_file(file: Path) -> None:
    file.write_text("port: 9000\nresyncSeconds: 60\n")
    found = read_settings(file, {"port": 9001})
    assert (found.port, found.resync_seconds) == (9001, 60)


def test_kinds_and_prometheus_are_read(file: Path) -> None:
    file.write_text(
        "workloadKinds: [{apiVersion: jobset.x-k8s.io/v1alpha2, kind: JobSet}]\nprometheus: {url: 'http://prometheus:9090'}\n"
    )
    found = read_settings(file, {})
    assert [kind.served.plural for kind in found.workload_kinds] == ["jobsets"]
    assert found.prometheus is not None
    assert found.prometheus.url == "http://prometheus:9090"


def test_a_misspelt_field_is_named(file: Path) -> None:
    (fault,) = faults(file, "prometeus: {url: x}\n")
    assert "prometeus" in fault


def test_a_wrong_value_is_named_with_its_rule(file: Path) -> None:
    (fault,) = faults(file, "port: 70000\n")
    assert fault.startswith("port: 70000")
    assert "65535" in fault


@pytest.mark.parametrize(("text", "rule"), [("[1]", "must be a mapping"), ("a: [", "is no YAML")])
def test_what_is_no_mapping_is_refused(file: Path, text: str, rule: str) -> None:
    assert rule in faults(file, text)[0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"missing\.yaml: cannot be read"):
        read_settings(tmp_path / "missing.yaml", {})
