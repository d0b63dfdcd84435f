"""Studies that must be accepted, by the local validation and by the API server alike, and be the same Study to both."""

from collections.abc import Iterator
from typing import Any

from hpo_algorithms import InvalidInput, Problem, Space, build
from hpo_algorithms.registry import ALGORITHMS, CONTINUING, SCHEDULES, load
from hpo_algorithms.settings import Setting, settings_of
from hpo_operator.manifests import read_file, study_document

from tests.testbed.namespaces import ROOT
from tests.unit.operator.bad_studies import CONTAINER, FLOAT, Manifest, valid_study

EVERYTHING: Manifest = {
    "apiVersion": "hpo.dev/v1alpha1",
    "kind": "Study",
    "metadata": {"name": "everything", "labels": {"team": "a"}},
    "spec": {
        "objectives": [{"metric": "val/loss", "goal": "Minimize", "aggregate": "Best", "target": 0.05}],
        "constraints": [
            {"metric": "latency_ms", "operator": "LessOrEqual", "bound": 5},
            {"metric": "latency_ms", "operator": "GreaterOrEqual", "bound": 0.5},
        ],
        "parameters": [
            {"name": "lr", "float": {"min": 1e-5, "max": 1e-1, "scale": "Log"}},
            {"name": "layers", "int": {"min": 1, "max": 6}},
            {"name": "width", "int": {"min": 8, "max": 1024, "scale": "Log"}},
            {"name": "heads", "int": {"min": -4, "max": 4, "step": 2}},
            {"name": "batch", "ordinal": {"values": [16, 32, 64, 128]}},
            {"name": "dropout", "ordinal": {"values": [-0.5, 0, 0.1, 0.25]}},
            {"name": "optimizer", "categorical": {"choices": ["adam", "sgd", "a b/c:д"]}},
            {"name": "momentum", "float": {"min": 0, "max": 0.99}, "when": [{"parameter": "optimizer", "in": ["sgd"]}]},
            {
                "name": "nesterov",
                "categorical": {"choices": ["yes", "no"]},
                "when": [{"parameter": "optimizer", "in": ["sgd", "adam"]}, {"parameter": "layers", "in": [2, 3, 6]}],
            },
            {
                "name": "warm.up-steps",
                "float": {"min": -1, "max": 1, "step": 0.5},
                "when": [{"parameter": "nesterov", "in": ["yes"]}, {"parameter": "dropout", "in": [0.1, 0.25]}],
            },
            {"name": "one", "ordinal": {"values": [1]}},
            {"name": "wide", "float": {"min": -1e150, "max": 1e150}},
        ],
        "algorithm": {"tpe": {"startupTrials": 4}},
        "schedule": {"hyperband": {"eta": 4, "iterations": 2}},
        "budget": {"min": 2, "max": 81, "unit": "steps"},
        "parallelism": 0,
        "limits": {
            "maxTrials": 1_000_000,
            "maxFailedTrials": 0,
            "deadlineSeconds": 86400,
            "trialTimeoutSeconds": 7200,
            "maxRetries": 0,
            "gpuSeconds": 720_000_000,
        },
        "parameterConstraints": [
            {
                "terms": [{"parameter": "layers", "weight": 2}, {"parameter": "heads", "weight": -0.5}, {"parameter": "momentum"}],
                "max": 12,
            },
            {"terms": [{"parameter": "width"}], "max": 512},
        ],
        "seed": 0,
        "metrics": {"step": "epoch", "intervalSeconds": 5, "logs": {"pattern": r"loss=(?P<loss>\S+)"}},
        "checkpoints": {"objectStore": {"uri": "s3://bucket/prefix", "secretName": "credentials"}},
        "warmStart": {"studies": [{"name": "everything-before"}]},
        "suspend": True,
        "workloadTTLSeconds": 0,
        "template": {
            "job": {
                "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
                "spec": {
                    "backoffLimit": 0,
                    "template": {
                        "spec": {
                            "containers": [CONTAINER, {"name": "logger", "resources": {"limits": {"nvidia.com/gpu": 1}}}],
                            "restartPolicy": "Never",
                        }
                    },
                },
            },
            "reporter": {"container": "logger", "podSelector": {"role": "worker"}},
        },
    },
}


def good_studies() -> dict[str, Manifest]:
    """All of them, by sentences."""
    found = {
        "the Study that bad ones are made of": valid_study(),
        "a Study that says as little as possible": _changed(algorithm=None, budget=None, limits=None),
        "a Study that says everything": EVERYTHING,
        "a Study with four objectives": _changed(objectives=[{"metric": f"m{i}", "goal": "Maximize"} for i in range(4)]),
        "a Study of 100 parameters of each kind": _changed(parameters=[*_hundred()], parameterConstraints=[*_sums()]),
        "a Study of conditions nested 100 deep": _changed(parameters=[*_chain()]),
        "a Study with the longest name": {**valid_study(), "metadata": {"name": "d" * 50}},
        "a Study whose name is a number": {**valid_study(), "metadata": {"name": "7"}},
        "a Study of any object": _changed(
            template={"object": {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "spec": {"replicatedJobs": []}}}
        ),
        "a Study on a volume": _changed(checkpoints={"volumeClaim": {"name": "study-ckpt"}}),
        "a Study whose pods have the rights to an object store": _changed(checkpoints={"objectStore": {"uri": "gs://bucket"}}),
        "a Study whose programs know only their own folder": _changed(
            checkpoints={"volumeClaim": {"name": "study-ckpt"}, "restore": "Copy"}
        ),
        "a Study with a configuration to try first": _changed(warmStart={"configurations": [_given("0.01", "sgd")]}),
    }
    for name, settings in _methods():
        found[f"a Study with {name}"] = _changed(**settings)
    for file in sorted((ROOT / "examples").glob("*/study.yaml")):
        found[f"the example {file.parent.name}"] = study_document(read_file(file), str(file)).data
    return found


def _changed(**fields: Any) -> Manifest:
    study = valid_study()
    study["spec"] |= fields
    study["spec"] = {name: value for name, value in study["spec"].items() if value is not None}
    return study


def _given(lr: str, optimizer: str) -> Manifest:
    values = {"lr": lr, "layers": "3", "batch": "32", "optimizer": optimizer, "momentum": "0.9"}
    return {"parameters": [{"name": name, "value": value} for name, value in values.items()]}


def _hundred() -> Iterator[Manifest]:
    kinds = [
        {"float": FLOAT},
        {"int": {"min": 1, "max": 100}},
        {"ordinal": {"values": [*range(100)]}},
        {"categorical": {"choices": [f"choice {i}" for i in range(100)]}},
    ]
    for place in range(100):
        yield {"name": f"parameter-{place}", **kinds[place % 4]}


def _sums() -> Iterator[Manifest]:
    """As many constraints of as many terms as there may be."""
    for place in range(8):
        numbers = [4 * i + (i + place) % 2 for i in range(16)]
        yield {"terms": [{"parameter": f"parameter-{number}", "weight": place - 0.5} for number in numbers], "max": 9000}


def _chain() -> Iterator[Manifest]:
    for place in range(100):
        above = [{"parameter": f"p{place - 1}", "in": ["on"]}] if place else []
        yield {"name": f"p{place}", "categorical": {"choices": ["on", "off"]}, "when": above}


def _methods() -> Iterator[tuple[str, Manifest]]:
    """Every algorithm and every schedule, with its defaults and with all of its settings given."""
    for union, registry in (("algorithm", ALGORITHMS), ("schedule", SCHEDULES)):
        for name, reference in registry.items():
            for how, settings in (("", {}), (" in full", _in_full(load(reference)))):
                fields: Manifest = {union: {name: settings}, "budget": {"min": 1, "max": 81}}
                if name in CONTINUING:
                    fields["checkpoints"] = {"volumeClaim": {"name": "weights"}}
                if name == "replay":
                    fields["warmStart"] = {"configurations": [_given("0.01", "sgd")] * 81}
                yield f"{union} {name}{how}", _suited(fields)


def _in_full(cls: type) -> dict[str, Any]:
    return {each.name: _value(each) for each in settings_of(cls)}


def _value(setting: Setting) -> Any:
    return setting.kind(setting.minimum or 1) if setting.default is None else setting.default


def _suited(spec: Manifest) -> Manifest:
    """With a space that the algorithm can search: some want numbers only."""
    numbers = {"parameters": [{"name": name, "float": {"min": 0, "max": 1}} for name in ("a", "b")]}
    return spec if _accepted(valid_study()["spec"] | spec) or not _accepted(numbers | spec) else spec | numbers


def _accepted(spec: Manifest) -> bool:
    try:
        build(Problem(Space.from_spec(spec["parameters"]), 1, 1, 81), spec.get("algorithm"), spec.get("schedule"))
    except InvalidInput:
        return False
    return True


def defaulted(schema: Manifest, value: Any) -> Any:
    """A value with the defaults of its schema filled in, as the API server does it: from the top down, into defaults too."""
    if isinstance(value, list):
        return [defaulted(schema.get("items", {}), each) for each in value]
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    missing = {name: each["default"] for name, each in fields.items() if "default" in each and name not in value}
    return {name: defaulted(fields.get(name, {}), each) for name, each in (value | missing).items()}
