"""What the generated definitions promise without a cluster; tests/control_plane/test_crds.py holds them to a real API server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hpo_algorithms import build
from hpo_operator import crds
from hpo_operator.resources import Study, StudySpec, TrialSpec
from hpo_operator.validation import InvalidStudy, problem_of, read_study

from tests.testbed.namespaces import ROOT
from tests.unit.operator.bad_studies import BAD_STUDIES, BadStudy, Manifest, valid_study
from tests.unit.operator.good_studies import defaulted, good_studies

SCHEMAS = {
    crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for crd in (crds.study_crd(), crds.trial_crd())
}
STUDY = SCHEMAS["Study"]


def nodes(schema: Manifest, path: str) -> Iterator[tuple[str, Manifest]]:
    """Every schema within a schema, by its path."""
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from nodes(each, f"{path}.{name}")
    for field in ("items", "additionalProperties"):
        if isinstance(schema.get(field), dict):
            yield from nodes(schema[field], f"{path}[]")


EVERY_NODE = [node for kind, schema in SCHEMAS.items() for node in nodes(schema, kind)]


# The committed files


@pytest.mark.parametrize("path", crds.files())
def test_what_is_committed_is_what_would_be_generated(path: str) -> None:
    assert (ROOT / path).read_text() == crds.files()[path], "run: python -m hpo_operator.crds"


def test_a_check_of_what_is_committed_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert crds.main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_a_check_of_a_changed_file_fails_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crds.main(["--root", str(tmp_path)]) == 0
    changed = tmp_path / "crds" / "hpo.dev_trials.yaml"
    changed.write_text(changed.read_text().replace("Trial", "Trail"))
    assert crds.main(["--root", str(tmp_path), "--check"]) == 1
    assert "crds/hpo.dev_trials.yaml is out of date" in capsys.readouterr().err


def test_generating_twice_writes_nothing_the_second_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crds.main(["--root", str(tmp_path)])
    capsys.readouterr()
    crds.main(["--root", str(tmp_path)])
    assert capsys.readouterr().out == ""


def test_the_files_are_yaml_without_anchors() -> None:
    for path, text in crds.files().items():
        if path.startswith("crds/"):  # the chart's are templates
            assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
            assert "&id" not in text


# The schema


def test_every_field_says_what_it_means() -> None:
    silent = [path for path, node in EVERY_NODE if "description" not in node and not path.endswith("[]")]
    assert [path for path in silent if ".template.job." not in path and ".metadata" not in path] == []


def test_every_list_string_and_map_is_bounded() -> None:
    def unbounded(node: Manifest) -> bool:
        if node.get("type") == "array":
            return "maxItems" not in node
        if node.get("type") == "string":
            return not {"maxLength", "enum", "format"} & node.keys()
        return isinstance(node.get("additionalProperties"), dict) and "maxProperties" not in node

    found = [path for path, node in EVERY_NODE if unbounded(node)]
    assert [path for path in found if path.count(".") > 1 and ".metadata" not in path] == []


def test_no_bound_of_a_number_is_beyond_what_the_API_server_compares_rightly() -> None:
    """It turns the bound of a whole number into an int64: with a maximum of 1e150 every 1 is refused."""
    bounds = [abs(node.get(field, 0)) for _, node in EVERY_NODE for field in ("minimum", "maximum")]
    assert max(bounds) <= 2**53


def test_the_spec_has_the_fields_of_the_models_and_no_others() -> None:
    assert [*STUDY["properties"]["spec"]["properties"]] == [field.alias for field in StudySpec.model_fields.values()]
    assert [*SCHEMAS["Trial"]["properties"]["spec"]["properties"]] == [field.alias for field in TrialSpec.model_fields.values()]


def test_a_status_has_no_defaults() -> None:
    """What the operator has not written must not look as if it had."""
    assert [path for path, node in EVERY_NODE if ".status" in path and "default" in node] == []


def test_all_that_may_change_in_a_Study_is_what_the_design_says() -> None:
    rules = STUDY["properties"]["spec"]["x-kubernetes-validations"]
    fixed = {rule["fieldPath"].removeprefix(".") for rule in rules if "oldSelf" in rule["rule"]}
    assert set(STUDY["properties"]["spec"]["properties"]) - fixed == {"parallelism", "limits", "suspend", "workloadTTLSeconds"}


# Good and bad Studies


def test_the_Study_that_is_spoilt_is_valid_itself() -> None:
    assert read_study(valid_study()).metadata.name == "digits"


@pytest.mark.parametrize("bad", BAD_STUDIES, ids=lambda bad: bad.sentence)
def test_a_bad_Study_is_refused_and_the_field_to_blame_is_named(bad: BadStudy) -> None:
    with pytest.raises(InvalidStudy) as refusal:
        read_study(bad.manifest())
    assert bad.path in [fault.path for fault in refusal.value.faults], str(refusal.value)


GOOD = [
    pytest.param(study, id=name, marks=[pytest.mark.torch] if "algorithm botorch" in name else [])
    for name, study in good_studies().items()
]


@pytest.mark.parametrize("study", GOOD)
def test_a_good_Study_is_accepted_and_the_defaults_of_the_definition_are_those_of_the_code(study: Manifest) -> None:
    given, filled = read_study(study), read_study(defaulted(STUDY, study))
    assert same_study(given, filled)


def same_study(one: Study, other: Study) -> bool:
    """Whether two Studies ask the same, some defaults written out in one of them."""
    first, second = (problem_of(each.spec, 0) for each in (one, other))
    as_given: dict[str, Any] = {"parameters": (), "algorithm": {}, "schedule": None}
    rest = [each.spec.model_copy(update=as_given) for each in (one, other)]
    methods = [build(problem, each.spec.algorithm, each.spec.schedule) for problem, each in ((first, one), (second, other))]
    return first == second and rest[0] == rest[1] and methods[0] == methods[1]
