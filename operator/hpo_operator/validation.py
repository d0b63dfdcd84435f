"""From a manifest to a Study, or to every fault in it.

Structure is checked by the models, the search space and the settings by the algorithm package, and what concerns several fields at
once here. Faults carry the path from the root of the manifest, so that a message can be acted on as it stands.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from hpo_algorithms import Fault, InvalidInput, Problem, Space, Trial, build
from hpo_algorithms.errors import nearest
from hpo_algorithms.prior import warm
from hpo_algorithms.registry import CONTINUING
from hpo_algorithms.space import Params
from pydantic import BaseModel, ValidationError

from hpo_operator.resources import API_VERSION, MAX_STUDY_NAME, STUDY_NAME, Metadata, Study, StudySpec


class InvalidStudy(InvalidInput):
    """A manifest that is no valid Study."""


def read_study(manifest: Mapping[str, Any]) -> Study:
    """The Study in a manifest. Raises InvalidStudy with every fault found."""
    faults = [*_header_faults(manifest), *_metadata_faults(manifest.get("metadata"))]
    raw = manifest.get("spec")
    if not isinstance(raw, Mapping):
        raise InvalidStudy([*faults, Fault("spec", raw, "must be a mapping", "See the examples for a whole Study.")])
    raw = _spec_without_nulls(raw)
    spec: StudySpec | None = None
    try:
        # Strict, but a JSON list is a tuple; and by the names of the API alone.
        spec = StudySpec.model_validate_json(json.dumps(raw), by_alias=True, by_name=False)
    except ValidationError as error:
        faults += [fault.under("spec") for fault in faults_of(error, StudySpec)]
    methods = [fault.under("spec") for fault in _method_faults(raw, spec)]
    known = {fault.path for fault in methods}
    faults = [fault for fault in faults if fault.path not in known] + methods  # the models say the same with less
    if spec is not None:
        faults += [fault.under("spec") for fault in _cross_faults(spec)]
    if faults or spec is None:
        raise InvalidStudy({str(fault): fault for fault in faults}.values())
    return Study(metadata=Metadata.model_validate(manifest["metadata"]), spec=spec)


def _spec_without_nulls(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The spec as the API server takes it; an algorithm of null, which it refuses, stays to be named, and a template as it is."""
    found = {field: each if field == "template" else _without_nulls(each) for field, each in raw.items() if each is not None}
    for field in ("algorithm", "schedule"):
        if isinstance(raw.get(field), Mapping):
            found[field] = {name: _without_nulls(settings) for name, settings in raw[field].items()}
    return found


def _without_nulls(value: Any) -> Any:
    """A value in which a field that is null is one that is left out."""
    if isinstance(value, Mapping):
        return {field: _without_nulls(each) for field, each in value.items() if each is not None}
    return [*map(_without_nulls, value)] if isinstance(value, list | tuple) else value


def _space_of(spec: StudySpec) -> Space:
    """What may be tried in a valid Study."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are told once, by `notes`
        return Space.from_spec(spec.parameters).constrained(_constraints_of(spec))


def _constraints_of(spec: StudySpec) -> list[dict[str, Any]]:
    return [constraint.model_dump() for constraint in spec.parameter_constraints]


def problem_of(spec: StudySpec, seed: int, earlier: Iterable[Iterable[Trial]] = ()) -> Problem:
    """The question that a valid Study puts to its algorithm, with the Trials of the earlier Studies that it names."""
    space = _space_of(spec)
    given = spec.warm_start.configurations if spec.warm_start else ()
    problem = Problem(
        space=space,
        objectives=len(spec.objectives),
        min_budget=spec.budget.min if spec.budget else None,
        max_budget=spec.budget.max if spec.budget else None,
        seed=seed,
        given=tuple(space.parse({pair.name: pair.value for pair in each.parameters}) for each in given),
    )
    return warm(problem, earlier)


def notes(spec: StudySpec) -> list[str]:
    """What is legal but probably not meant."""
    space = _space_of(spec)
    found = [f"spec.parameters: {note}" for note in space.warnings]
    ends = (spec.limits.max_trials, spec.limits.deadline_seconds, spec.limits.gpu_seconds)
    if not any(ends) and is_endless(spec):
        found.append("spec.limits: nothing ends this Study but its target or you; set maxTrials or deadlineSeconds.")
    if spec.limits.max_trials and spec.parallelism > spec.limits.max_trials:
        found.append(
            f"spec.parallelism: {spec.parallelism}: only {spec.limits.max_trials} Trials will ever run (limits.maxTrials)."
        )
    return found


def is_endless(spec: StudySpec) -> bool:
    """Whether neither the space, nor the algorithm, nor the schedule ends a valid Study, so that only limits do."""
    bounded = "grid" in spec.algorithm or any(settings.get("iterations") for settings in (spec.schedule or {}).values())
    return _space_of(spec).size is None and not bounded and CONTINUING.isdisjoint(spec.algorithm)


def _header_faults(manifest: Mapping[str, Any]) -> Iterable[Fault]:
    known = ("apiVersion", "kind", "metadata", "spec", "status")
    for field in manifest:
        if field not in known:
            yield Fault(str(field), manifest[field], "is not a field of a Study", nearest(field, known))
    if manifest.get("kind") != "Study":
        yield Fault("kind", manifest.get("kind"), "must be Study")
    if manifest.get("apiVersion") != API_VERSION:
        yield Fault("apiVersion", manifest.get("apiVersion"), f"must be {API_VERSION}")


def _metadata_faults(metadata: Any) -> Iterable[Fault]:
    if not isinstance(metadata, Mapping):
        yield Fault("metadata", metadata, "must be a mapping with a name", "For example metadata: {name: digits}.")
        return
    name = metadata.get("name")
    if not isinstance(name, str) or not re.fullmatch(STUDY_NAME, name) or len(name) > MAX_STUDY_NAME:
        rule = f"must be 1 to {MAX_STUDY_NAME} lower-case letters, digits and '-', beginning and ending with a letter or digit"
        yield Fault("metadata.name", name, rule)
    namespace = metadata.get("namespace", "default")
    if not isinstance(namespace, str) or not re.fullmatch(STUDY_NAME, namespace):
        yield Fault("metadata.namespace", namespace, "must be the name of a namespace")


def _method_faults(raw: Mapping[str, Any], spec: StudySpec | None) -> Iterable[Fault]:
    """Faults of the space, and of the algorithm and schedule on it."""
    if raw.get("parameters") is None:
        return  # the models have said so
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            space = Space.from_spec(raw["parameters"])
    except InvalidInput as error:
        yield from (fault.under("parameters") for fault in error.faults)
        return
    try:
        space = space.constrained(_constraints_of(spec) if spec else ())
    except InvalidInput as error:
        yield from (fault.under("parameterConstraints") for fault in error.faults)
    # Where the rest of the Study has faults of its own, its algorithm is still worth a look.
    objectives, budget = (len(spec.objectives), spec.budget) if spec else (1, None)
    low, high = (budget.min, budget.max) if budget else (1, 2) if raw.get("budget") else (None, None)
    given: list[Params] = []
    for place, configuration in enumerate(spec.warm_start.configurations if spec and spec.warm_start else ()):
        try:
            given.append(space.parse({pair.name: pair.value for pair in configuration.parameters}))
        except InvalidInput as error:
            yield from (fault.under(f"warmStart.configurations[{place}]") for fault in error.faults)
    try:
        build(Problem(space, objectives, low, high, given=tuple(given)), raw.get("algorithm"), raw.get("schedule"))
    except InvalidInput as error:
        yield from error.faults


def _cross_faults(spec: StudySpec) -> Iterable[Fault]:
    metrics = [objective.metric for objective in spec.objectives]
    for place, objective in enumerate(spec.objectives):
        if objective.metric in metrics[:place]:
            yield Fault(f"objectives[{place}].metric", objective.metric, "stands twice", "Name each metric once.")
        if objective.target is not None and len(metrics) > 1:
            yield Fault(f"objectives[{place}].target", objective.target, "is possible with one objective only", "Remove it.")
    if spec.budget and spec.budget.min > spec.budget.max:
        yield Fault("budget.min", spec.budget.min, f"must be at most max ({spec.budget.max})")
    if spec.checkpoints and (spec.checkpoints.volume_claim is None) == (spec.checkpoints.object_store is None):
        yield Fault("checkpoints", None, "needs exactly one of volumeClaim, objectStore")
    if spec.checkpoints and spec.checkpoints.restore == "Copy" and spec.checkpoints.volume_claim is None:
        remedy = "Use volumeClaim, or let the program load by hpo.checkpoint and leave restore out."
        yield Fault("checkpoints.restore", "Copy", "needs volumeClaim: an object store has no folder to copy to", remedy)
    if spec.checkpoints is None and (name := next(iter(CONTINUING.intersection(spec.algorithm)), "")):
        rule = "needs a store of checkpoints, for its Trials start from each other's"
        yield Fault(f"algorithm.{name}", None, rule, "Add checkpoints: {volumeClaim: {name: weights}}.")
    if spec.warm_start and spec.warm_start.studies and "replay" in spec.algorithm:
        yield Fault("warmStart.studies", None, "is of no use to algorithm replay, which searches nothing", "Remove it.")
    if spec.metrics.logs:
        yield from _pattern_faults(spec.metrics.logs.pattern)
    yield from _template_faults(spec)


def _pattern_faults(pattern: str) -> Iterable[Fault]:
    try:
        groups = re.compile(pattern).groupindex.keys()
    except re.error as error:
        yield Fault("metrics.logs.pattern", pattern, f"is not a regular expression: {error}")
        return
    if not groups - {"step"} or (("metric" in groups) != ("value" in groups)):
        remedy = r"For example loss=(?P<loss>\S+), or (?P<metric>\w+)=(?P<value>\S+)."
        yield Fault("metrics.logs.pattern", pattern, "needs a named group for each metric, or the groups metric and value", remedy)


def _template_faults(spec: StudySpec) -> Iterable[Fault]:
    template = spec.template
    if (template.job is None) == (template.object is None):
        yield Fault("template", None, "needs exactly one of job, object")
        return
    if template.object is not None:
        for field in ("apiVersion", "kind"):
            if not isinstance(template.object.get(field), str):
                yield Fault(f"template.object.{field}", template.object.get(field), "is required")
        return
    found: Any = template.job
    for field in ("spec", "template", "spec", "containers"):
        found = found.get(field) if isinstance(found, Mapping) else None
    path = "template.job.spec.template.spec.containers"
    if not isinstance(found, list) or not found or not all(isinstance(each, Mapping) for each in found):
        yield Fault(path, found, "must be a list of at least one container", "The fields are those of a Kubernetes Job.")
        return
    names = [each.get("name") for each in found]
    wanted = template.reporter.container if template.reporter else None
    if wanted is not None and wanted not in names:
        remedy = nearest(wanted, [str(name) for name in names])
        yield Fault("template.reporter.container", wanted, "is not the name of a container of the template", remedy)


# From pydantic's errors to faults


def faults_of(error: ValidationError, model: type[BaseModel]) -> Iterable[Fault]:
    """What a model refuses, in sentences."""
    for each in error.errors(include_url=False):
        if each["type"] == "too_short" and each["input"]:
            continue  # its entries have faults of their own
        place = [part for part in each["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
        value = None if each["type"] == "missing" or isinstance(each["input"], dict | list | tuple) else each["input"]
        yield Fault(_path(place), value, *_rule(each, model, place))


def _path(place: Iterable[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _rule(error: Any, model: type[BaseModel], place: list[int | str]) -> tuple[str, str]:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return "is not a known field", nearest(place[-1], _fields(model, place[:-1]))
    plain = {
        "missing": ("is required", ""),
        "int_type": ("must be a whole number", _quoted(error["input"])),
        "int_from_float": ("must be a whole number", ""),
        "float_type": ("must be a number", _quoted(error["input"])),
        "finite_number": ("must be a finite number", ""),
        "bool_type": ("must be true or false", _quoted(error["input"])),
        "string_type": ("must be a string", f"Quote it: '{error['input']}'." if isinstance(error["input"], int | float) else ""),
        "tuple_type": ("must be a list", ""),
        "dict_type": ("must be a mapping", ""),
        "model_type": ("must be a mapping", ""),
        "model_attributes_type": ("must be a mapping", ""),
    }
    if kind in plain:
        return plain[kind]
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return f"must be one of {', '.join(choices)}", nearest(error["input"], choices) if isinstance(error["input"], str) else ""
    bounds = {
        "greater_than_equal": "must be at least {ge}",
        "greater_than": "must be greater than {gt}",
        "less_than_equal": "must be at most {le}",
        "too_short": "must have at least {min_length} entries",
        "too_long": "must have at most {max_length} entries",
        "string_too_short": "must have at least {min_length} characters",
        "string_too_long": "must have at most {max_length} characters",
        "string_pattern_mismatch": "must match {pattern}",
    }
    if kind in bounds:
        return bounds[kind].format(**context).replace("at least 1 entries", "at least one entry"), ""
    return str(error["msg"]), ""


def _quoted(value: object) -> str:
    return "Take away the quotes." if isinstance(value, str) and re.fullmatch(r"[-+.\deE]+|true|false", value) else ""


def _fields(model: type[BaseModel], place: Iterable[int | str]) -> list[str]:
    """The names of the fields at a place inside a model, as a user writes them."""
    current: Any = model
    for part in place:
        if isinstance(part, int):
            continue
        field = next((f for name, f in current.model_fields.items() if part in (name, f.alias)), None)
        current = next(iter(_models(field.annotation)), None) if field else None
        if current is None:
            return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _models(annotation: Any) -> Iterable[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
