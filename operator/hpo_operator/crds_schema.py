"""From the typed models and the settings of algorithms to structural schemas of Kubernetes (OpenAPI v3, nothing referenced).

What the models say once stands here: types, bounds, defaults, descriptions. Rules over several fields are in `crds_rules`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from hpo_algorithms.registry import ALGORITHMS, DEFAULT_ALGORITHM, SCHEDULES, load
from hpo_algorithms.settings import Setting, settings_of
from pydantic import BaseModel

from hpo_operator.resources import ParameterSpec, StudySpec, StudyStatus, TrialSpec, TrialStatus

Schema = dict[str, Any]

JSON_TYPES: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}

INT64 = 2**63

MAP_KEYS = {
    "spec.objectives": ["metric"],
    "spec.parameters": ["name"],
    "spec.warmStart.configurations[].parameters": ["name"],
    "status.conditions": ["type"],
    "status.observation.metrics": ["name"],
}
"""Lists whose entries are told apart by a field: the API server refuses two alike, and managers of fields own them one by one."""

SETS = ("spec.parameters[].categorical.choices",)
"""Lists of values of which none stands twice."""

# A name or a number, and nothing else. A schema of Kubernetes cannot give a value two types, except for integers and strings, which
# would leave out fractions; hence no type, and what is left of the other types is forbidden one by one.
NAME_OR_NUMBER: Schema = {
    "x-kubernetes-preserve-unknown-fields": True,
    "maxLength": 256,
    "maxProperties": 0,
    "maxItems": 0,
    "not": {"enum": [True, False, {}, []]},
}

ANY_OBJECT: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

CONDITION: Schema = {
    "type": "object",
    "description": "One aspect of where the resource stands.",
    "required": ["lastTransitionTime", "message", "reason", "status", "type"],
    "properties": {
        "type": {
            "type": "string",
            "description": "The aspect.",
            "maxLength": 316,
            "pattern": r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
        },
        "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
        "reason": {
            "type": "string",
            "description": "Why, in one word.",
            "minLength": 1,
            "maxLength": 1024,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        },
        "message": {"type": "string", "description": "Why, in a sentence.", "maxLength": 32768},
        "observedGeneration": {
            "type": "integer",
            "format": "int64",
            "minimum": 0,
            "description": "The generation of the spec that it is about.",
        },
        "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When its status last changed."},
    },
}
"""metav1.Condition as Kubernetes' own generator writes it, with shorter texts."""


def study_schema() -> Schema:
    """The schema of a Study, without rules."""
    spec = schema_of(StudySpec)
    fields = spec["properties"]
    fields["parameters"] |= {"items": _parameter(), "minItems": 1, "maxItems": 100}
    fields["algorithm"] = union(ALGORITHMS, fields["algorithm"]["description"]) | {"default": {DEFAULT_ALGORITHM: {}}}
    fields["schedule"] = union(SCHEDULES, fields["schedule"]["description"])
    template = fields["template"]["properties"]
    template["job"] |= _job()
    template["object"] |= _object()
    return _resource("A hyperparameter study: what to optimise, over what, how, and what each trial runs.", spec, StudyStatus)


def trial_schema() -> Schema:
    """The schema of a Trial, without rules."""
    return _resource(
        "One configuration of a Study, run once. Only the operator makes and changes Trials.", schema_of(TrialSpec), TrialStatus
    )


def schema_of(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """The structural schema of a model and all that it holds."""
    found = model.model_json_schema(by_alias=True)
    return _structural(found, found.get("$defs", {}), defaults)


def union(registry: Mapping[str, str], description: str) -> Schema:
    """A union of algorithms or schedules: an object of settings for each of them."""
    members = {name: _method(load(reference)) for name, reference in registry.items()}
    return {"type": "object", "description": description, "properties": members}


def list_types(schema: Schema, path: str = "") -> None:
    """Say of each list how the API server is to tell its entries apart."""
    if schema.get("type") == "array":
        if keys := MAP_KEYS.get(path):
            schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}
        else:
            schema["x-kubernetes-list-type"] = "set" if path in SETS else "atomic"
        list_types(schema["items"], f"{path}[]")
    for name, each in schema.get("properties", {}).items():
        list_types(each, f"{path}.{name}" if path else name)


def _resource(description: str, spec: Schema, status: type[BaseModel]) -> Schema:
    schema: Schema = {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Group and version of this schema: hpo.dev/v1alpha1."},
            "kind": {"type": "string", "description": "The kind of the resource."},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": spec,
            "status": schema_of(status, defaults=False),
        },
    }
    schema["properties"]["status"]["properties"]["conditions"]["items"] = CONDITION
    list_types(schema)
    return schema


def _parameter() -> Schema:
    parameter = schema_of(ParameterSpec)
    parameter["description"] = "A name, exactly one of float, int, ordinal and categorical, and possibly conditions."
    condition = parameter["properties"]["when"]["items"]
    condition["properties"]["in"]["items"] = dict(NAME_OR_NUMBER)
    return parameter


def _job() -> Schema:
    """As much of a Job as rules speak of; the API server looks at the whole of it when the first Trial is about to start."""
    container = {**ANY_OBJECT, "properties": {"name": {"type": "string", "maxLength": 63, "description": "Its name."}}}
    containers = {"type": "array", "minItems": 1, "maxItems": 64, "items": container, "description": "As in any pod."}
    schema: Schema = {**ANY_OBJECT, "required": ["containers"], "properties": {"containers": containers}}
    for field in ("spec", "template", "spec"):
        schema = {**ANY_OBJECT, "required": [field], "properties": {field: schema}}
    return schema


def _object() -> Schema:
    names = {name: {"type": "string", "maxLength": 253, "description": "As in any object."} for name in ("apiVersion", "kind")}
    return {**ANY_OBJECT, "required": [*names], "properties": names}


def _method(cls: type) -> Schema:
    settings = {each.name: _setting(each) for each in settings_of(cls)}
    schema: Schema = {"type": "object", "description": _first_paragraph(cls)}
    return schema | ({"properties": settings} if settings else {})


def _setting(setting: Setting) -> Schema:
    schema: Schema = {"type": JSON_TYPES[setting.kind], "description": setting.doc}
    for key, value in (("minimum", setting.minimum), ("maximum", setting.maximum), ("enum", [*setting.choices] or None)):
        if value is not None:
            schema[key] = value
    return schema | ({} if setting.default is None else {"default": setting.default})


def _first_paragraph(cls: type) -> str:
    return " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())


# From JSON Schema, as pydantic writes it, to what Kubernetes takes


def _structural(schema: Mapping[str, Any], known: Mapping[str, Any], defaults: bool) -> Schema:
    schema = _plain(schema, known)
    kept = {key: schema[key] for key in ("type", "description", "format", "pattern", "enum") if key in schema}
    for key in ("minimum", "maximum"):
        # The API server compares whole numbers as int64, also with a bound that is none; such bounds are left to rules.
        if key in schema and abs(schema[key]) < INT64:
            kept[key] = schema[key]
    for key in ("minLength", "maxLength", "minItems", "maxItems", "maxProperties"):
        if key in schema:
            kept[key] = schema[key]
    if "exclusiveMinimum" in schema:  # a number in JSON Schema, a flag beside the number in OpenAPI
        kept |= {"minimum": schema["exclusiveMinimum"], "exclusiveMinimum": True}
    if "const" in schema:
        kept["enum"] = [schema["const"]]
    if schema.get("type") == "array":
        kept["items"] = _structural(schema["items"], known, defaults)
    if schema.get("type") == "object":
        kept |= _object_fields(schema, known, defaults)
    if defaults and (default := schema.get("default")) is not None and default != []:
        # A model's own default is that of its fields, which the API server fills in by itself.
        kept["default"] = {} if isinstance(default, dict) else default
    return kept


def _object_fields(schema: Mapping[str, Any], known: Mapping[str, Any], defaults: bool) -> Schema:
    if "properties" in schema:
        fields: Schema = {"properties": {name: _structural(each, known, defaults) for name, each in schema["properties"].items()}}
        return ({"required": schema["required"]} if schema.get("required") else {}) | fields
    values = schema.get("additionalProperties")
    return {"additionalProperties": _structural(values, known, defaults)} if isinstance(values, dict) and values else {}


def _plain(schema: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without references, and without the null that an optional field may be: to Kubernetes null is the same as left out."""
    options: Iterable[Mapping[str, Any]] = schema.get("anyOf", ())
    if options:
        (only,) = [each for each in options if each.get("type") != "null"]
        schema = {**only, **{key: value for key, value in schema.items() if key != "anyOf"}}
    if "$ref" in schema:
        referred = _plain(known[schema["$ref"].rsplit("/", 1)[1]], known)
        return {**referred, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema
