"""Studies that must be refused, each by a sentence that says what is wrong with it.

The local validation and the API server are held to the same table (test_crds.py here and in tests/control_plane), so that a Study
that runs on a laptop is not refused by a cluster, nor the other way round. A row is a change to a valid Study, and the path of the
field that is to blame. What only a program can know, such as whether a regular expression is one, the server lets pass
(`server=False`); the operator then says `Accepted=False`.
"""

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
Change = Callable[[Manifest], None]

FLOAT = {"min": 1e-5, "max": 0.1, "scale": "Log"}
CONTAINER = {"name": "trial", "image": "python", "command": ["python", "train.py"]}


@dataclass(frozen=True)
class BadStudy:
    """A way to spoil a Study. `path` is the field that the local validation names; the server names it or one above it."""

    sentence: str
    change: Change
    path: str
    server: bool = True

    def manifest(self) -> Manifest:
        study = valid_study()
        self.change(study)
        return study

    def is_named_by(self, message: str) -> bool:
        """Whether a message of the API server names the field to blame, one below it, or one above it but not the whole spec."""
        parts = self.path.split(".")
        above = [".".join(parts[:n]) for n in range(min(2, len(parts)), len(parts))]
        whole_lists = [re.sub(r"\[\d+\]$", "", path) for path in [*above, self.path]]
        below = any(f"{self.path}{mark}" in message for mark in "[.")
        return below or any(f"{path}: " in message or f'"{path}"' in message for path in [*above, *whole_lists, self.path])


def valid_study() -> Manifest:
    """The Study that rows change: something of each kind."""
    return copy.deepcopy(
        {
            "apiVersion": "hpo.dev/v1alpha1",
            "kind": "Study",
            "metadata": {"name": "digits"},
            "spec": {
                "objectives": [{"metric": "val_loss"}],
                "parameters": [
                    {"name": "lr", "float": FLOAT},
                    {"name": "layers", "int": {"min": 1, "max": 6}},
                    {"name": "batch", "ordinal": {"values": [16, 32, 64]}},
                    {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
                    {
                        "name": "momentum",
                        "float": {"min": 0, "max": 0.99},
                        "when": [{"parameter": "optimizer", "in": ["sgd"]}],
                    },
                ],
                "algorithm": {"tpe": {}},
                "budget": {"max": 27},
                "limits": {"maxTrials": 40},
                "template": {"job": {"spec": {"template": {"spec": {"containers": [CONTAINER]}}}}},
            },
        }
    )


def put(path: str, value: Any) -> Change:
    """The change that sets a field, making what stands above it."""

    def change(study: Manifest) -> None:
        *above, last = _steps(path)
        at: Any = study
        for step in above:
            at = at.setdefault(step, {}) if isinstance(step, str) else at[step]
        if last == "+":
            at.append(value)
        else:
            at[last] = copy.deepcopy(value)

    return change


def drop(path: str) -> Change:
    """The change that removes a field."""

    def change(study: Manifest) -> None:
        *above, last = _steps(path)
        at: Any = study
        for step in above:
            at = at[step]
        del at[last]

    return change


def both(*changes: Change) -> Change:
    """Several changes, one after the other."""

    def change(study: Manifest) -> None:
        for each in changes:
            each(study)

    return change


def _steps(path: str) -> Iterator[Any]:
    for name, place in re.findall(r"([^.\[\]]+)|\[(\d+|\+)\]", path):
        yield name or ("+" if place == "+" else int(place))


P = "spec.parameters"
LR, LAYERS, BATCH, OPTIMIZER, MOMENTUM = (f"{P}[{place}]" for place in range(5))
JOB = "spec.template.job"
POD = f"{JOB}.spec.template.spec"


def parameter(name: str, **kind: Any) -> Change:
    """The change that adds one more parameter."""
    return put(f"{P}[+]", {"name": name, **(kind or {"float": FLOAT})})


def conditional(**condition: Any) -> Change:
    """The change that puts one more parameter under a condition."""
    return parameter("extra", float=FLOAT, when=[condition])


NEW = f"{P}[5]"
WHEN = f"{NEW}.when[0]"

HEADERS = [
    BadStudy("of another kind", put("kind", "Experiment"), "kind", server=False),
    BadStudy("of another group", put("apiVersion", "kubeflow.org/v1beta1"), "apiVersion", server=False),
    BadStudy("without a name", drop("metadata.name"), "metadata.name"),
    BadStudy("with a name in capitals", put("metadata.name", "Digits"), "metadata.name"),
    BadStudy("with a name that begins with a dash", put("metadata.name", "-digits"), "metadata.name"),
    BadStudy("with a dot in its name", put("metadata.name", "digits.svm"), "metadata.name"),
    BadStudy("with a name too long for its Trials' pods", put("metadata.name", "d" * 51), "metadata.name"),
    BadStudy("without a spec", drop("spec"), "spec"),
    BadStudy("with an unknown field", put("spec.priority", 1), "spec.priority"),
    BadStudy("with a field written in another case", put("spec.limits", {"maxtrials": 5}), "spec.limits.maxtrials"),
]

OBJECTIVES = [
    BadStudy("without objectives", drop("spec.objectives"), "spec.objectives"),
    BadStudy("with no objective in the list", put("spec.objectives", []), "spec.objectives"),
    BadStudy("with five objectives", put("spec.objectives", [{"metric": f"m{i}"} for i in range(5)]), "spec.objectives"),
    BadStudy(
        "with the same objective twice",
        put("spec.objectives", [{"metric": "loss"}, {"metric": "loss"}]),
        "spec.objectives[1].metric",
    ),
    BadStudy("with an objective without a metric", put("spec.objectives", [{"goal": "Minimize"}]), "spec.objectives[0].metric"),
    BadStudy("with an objective of no name", put("spec.objectives[0].metric", ""), "spec.objectives[0].metric"),
    BadStudy("with a metric that has a quote in it", put("spec.objectives[0].metric", 'a"b'), "spec.objectives[0].metric"),
    BadStudy("with a metric of 129 characters", put("spec.objectives[0].metric", "m" * 129), "spec.objectives[0].metric"),
    BadStudy("with a goal in lower case", put("spec.objectives[0].goal", "minimize"), "spec.objectives[0].goal"),
    BadStudy("with an unknown aggregate", put("spec.objectives[0].aggregate", "Mean"), "spec.objectives[0].aggregate"),
    BadStudy("with a target that is a string", put("spec.objectives[0].target", "0.05"), "spec.objectives[0].target"),
    BadStudy(
        "with a target and two objectives",
        put("spec.objectives", [{"metric": "loss", "target": 0.1}, {"metric": "seconds"}]),
        "spec.objectives[0].target",
    ),
    BadStudy(
        "with a constraint of an unknown operator",
        put("spec.constraints", [{"metric": "ms", "operator": "Less", "bound": 5}]),
        "spec.constraints[0].operator",
    ),
    BadStudy(
        "with a constraint without a bound",
        put("spec.constraints", [{"metric": "ms", "operator": "LessOrEqual"}]),
        "spec.constraints[0].bound",
    ),
    BadStudy(
        "with nine constraints",
        put("spec.constraints", [{"metric": f"m{i}", "operator": "LessOrEqual", "bound": 1} for i in range(9)]),
        "spec.constraints",
    ),
]

PARAMETERS = [
    BadStudy("without parameters", drop(P), P),
    BadStudy("with no parameter in the list", put(P, []), P),
    BadStudy("with parameters as a mapping", put(P, {"lr": FLOAT}), P),
    BadStudy("with 101 parameters", put(P, [{"name": f"p{i}", "float": FLOAT} for i in range(101)]), P),
    BadStudy("with a parameter without a name", put(f"{P}[+]", {"float": FLOAT}), f"{NEW}.name"),
    BadStudy("with a blank in a parameter's name", parameter("learning rate"), f"{NEW}.name"),
    BadStudy("with a parameter's name that begins with a digit", parameter("1st"), f"{NEW}.name"),
    BadStudy("with a parameter's name of 64 characters", parameter("p" * 64), f"{NEW}.name"),
    BadStudy("with a name that is given twice", parameter("lr"), f"{NEW}.name"),
    BadStudy("with names that differ in case only", parameter("LR"), f"{NEW}.name"),
    BadStudy("with names that differ in a dash and a dot only", both(parameter("a-b"), parameter("a.b")), f"{P}[6].name"),
    BadStudy("with a parameter of no kind", put(f"{P}[+]", {"name": "x"}), NEW),
    BadStudy("with a parameter of two kinds", parameter("x", float=FLOAT, int={"min": 1, "max": 2}), NEW),
    BadStudy("with a parameter of an unknown kind", parameter("x", normal={"mean": 0}), f"{NEW}.normal"),
    BadStudy("with an unknown field in a parameter", put(f"{LR}.prior", "flat"), f"{LR}.prior"),
]

RANGES = [
    BadStudy("with a float without min", drop(f"{LR}.float.min"), f"{LR}.float.min"),
    BadStudy("with a float without max", drop(f"{LR}.float.max"), f"{LR}.float.max"),
    BadStudy("with min equal to max", put(f"{MOMENTUM}.float.min", 0.99), f"{MOMENTUM}.float.min"),
    BadStudy("with min above max", put(f"{MOMENTUM}.float.min", 2), f"{MOMENTUM}.float.min"),
    BadStudy("with a number in quotes", put(f"{LR}.float.min", "1e-5"), f"{LR}.float.min"),
    BadStudy("with a number that is true", put(f"{LR}.float.max", True), f"{LR}.float.max"),
    BadStudy("with a Log scale that begins at 0", put(f"{LR}.float.min", 0), f"{LR}.float.min"),
    BadStudy("with a Log scale below 0", put(f"{LR}.float.min", -1), f"{LR}.float.min"),
    BadStudy("with a step on a Log scale", put(f"{LR}.float.step", 0.01), f"{LR}.float.step"),
    BadStudy("with an unknown scale", put(f"{LR}.float.scale", "log"), f"{LR}.float.scale"),
    BadStudy("with no for a scale, which YAML takes for false", put(f"{LR}.float.scale", False), f"{LR}.float.scale"),
    BadStudy("with a step of 0", put(f"{MOMENTUM}.float.step", 0), f"{MOMENTUM}.float.step"),
    BadStudy("with a negative step", put(f"{MOMENTUM}.float.step", -0.1), f"{MOMENTUM}.float.step"),
    BadStudy("with a step wider than the range", put(f"{MOMENTUM}.float.step", 1), f"{MOMENTUM}.float.step"),
    BadStudy("with steps too small for the range", put(f"{MOMENTUM}.float.step", 1e-12), f"{MOMENTUM}.float.step"),
    BadStudy("with a range too narrow", put(f"{MOMENTUM}.float", {"min": 1, "max": 1.0000000001}), f"{MOMENTUM}.float.max"),
    BadStudy("with a number too large to be squared", put(f"{MOMENTUM}.float.max", 1e151), f"{MOMENTUM}.float.max"),
    BadStudy("with a number too small to be squared", put(f"{MOMENTUM}.float.min", 1e-151), f"{MOMENTUM}.float.min"),
    BadStudy("with an unknown field in a float", put(f"{LR}.float.base", 10), f"{LR}.float.base"),
    BadStudy("with an int that has a fraction", put(f"{LAYERS}.int.min", 1.5), f"{LAYERS}.int.min"),
    BadStudy("with an int as a string", put(f"{LAYERS}.int.max", "6"), f"{LAYERS}.int.max"),
    BadStudy("with an int without max", drop(f"{LAYERS}.int.max"), f"{LAYERS}.int.max"),
    BadStudy("with an int of min above max", put(f"{LAYERS}.int.min", 7), f"{LAYERS}.int.min"),
    BadStudy("with an int from 0 on a Log scale", put(f"{LAYERS}.int", {"min": 0, "max": 9, "scale": "Log"}), f"{LAYERS}.int.min"),
    BadStudy(
        "with an int step on a Log scale",
        put(f"{LAYERS}.int", {"min": 1, "max": 9, "scale": "Log", "step": 2}),
        f"{LAYERS}.int.step",
    ),
    BadStudy("with an int step of 0", put(f"{LAYERS}.int.step", 0), f"{LAYERS}.int.step"),
    BadStudy("with an int step wider than the range", put(f"{LAYERS}.int.step", 6), f"{LAYERS}.int.step"),
    BadStudy("with an int range too wide", put(f"{LAYERS}.int", {"min": -(2**47), "max": 2**47}), f"{LAYERS}.int.max"),
    BadStudy(
        "with an int range too wide for a Log scale",
        put(f"{LAYERS}.int", {"min": 1, "max": 2**40 + 1, "scale": "Log"}),
        f"{LAYERS}.int.max",
    ),
]

CHOICES = [
    BadStudy("with an ordinal without values", put(f"{BATCH}.ordinal", {}), f"{BATCH}.ordinal.values"),
    BadStudy("with an ordinal of no value", put(f"{BATCH}.ordinal.values", []), f"{BATCH}.ordinal.values"),
    BadStudy("with an ordinal of 101 values", put(f"{BATCH}.ordinal.values", [*range(101)]), f"{BATCH}.ordinal.values"),
    BadStudy("with an ordinal of strings", put(f"{BATCH}.ordinal.values", ["16", "32"]), f"{BATCH}.ordinal.values[0]"),
    BadStudy("with an ordinal that does not ascend", put(f"{BATCH}.ordinal.values", [32, 16]), f"{BATCH}.ordinal.values[1]"),
    BadStudy("with an ordinal value twice", put(f"{BATCH}.ordinal.values", [16, 16]), f"{BATCH}.ordinal.values[1]"),
    BadStudy("with an ordinal value out of reach", put(f"{BATCH}.ordinal.values", [0, 1e200]), f"{BATCH}.ordinal.values[1]"),
    BadStudy("with null among ordinal values", put(f"{BATCH}.ordinal.values", [16, None]), f"{BATCH}.ordinal.values[1]"),
    BadStudy("with a categorical of no choice", put(f"{OPTIMIZER}.categorical.choices", []), f"{OPTIMIZER}.categorical.choices"),
    BadStudy(
        "with a categorical of numbers", put(f"{OPTIMIZER}.categorical.choices", [1, 2]), f"{OPTIMIZER}.categorical.choices[0]"
    ),
    BadStudy(
        "with a choice twice",
        put(f"{OPTIMIZER}.categorical.choices", ["sgd", "adam", "sgd"]),
        f"{OPTIMIZER}.categorical.choices[2]",
    ),
    BadStudy("with an empty choice", put(f"{OPTIMIZER}.categorical.choices", ["sgd", ""]), f"{OPTIMIZER}.categorical.choices[1]"),
    BadStudy(
        "with a choice of 257 characters",
        put(f"{OPTIMIZER}.categorical.choices", ["sgd", "a" * 257]),
        f"{OPTIMIZER}.categorical.choices[1]",
    ),
    BadStudy(
        "with 101 choices",
        put(f"{OPTIMIZER}.categorical.choices", ["sgd", *(f"c{i}" for i in range(100))]),
        f"{OPTIMIZER}.categorical.choices",
    ),
]

CONDITIONS = [
    BadStudy(
        "with a condition on an unknown parameter", conditional(parameter="optimiser", **{"in": ["sgd"]}), f"{WHEN}.parameter"
    ),
    BadStudy("with a condition on itself", conditional(parameter="extra", **{"in": ["sgd"]}), f"{WHEN}.parameter"),
    BadStudy(
        "with a condition on a parameter that stands later",
        put(f"{LR}.when", [{"parameter": "optimizer", "in": ["sgd"]}]),
        f"{LR}.when[0].parameter",
    ),
    BadStudy("with a condition on a float", conditional(parameter="lr", **{"in": [0.1]}), f"{WHEN}.parameter"),
    BadStudy(
        "with a condition on a float with steps",
        both(put(f"{LR}.float", {"min": 0, "max": 1, "step": 0.5}), conditional(parameter="lr", **{"in": [0.5]})),
        f"{WHEN}.parameter",
    ),
    BadStudy("with a condition on no value", conditional(parameter="optimizer", **{"in": []}), f"{WHEN}.in"),
    BadStudy("with a condition without values", conditional(parameter="optimizer"), f"{WHEN}.in"),
    BadStudy("with a condition without a parameter", conditional(**{"in": ["sgd"]}), f"{WHEN}.parameter"),
    BadStudy("with a condition on 101 values", conditional(parameter="layers", **{"in": [1] * 101}), f"{WHEN}.in"),
    BadStudy("with a condition on true", conditional(parameter="optimizer", **{"in": [True]}), f"{WHEN}.in[0]"),
    BadStudy("with a condition on a list", conditional(parameter="optimizer", **{"in": [["sgd"]]}), f"{WHEN}.in[0]"),
    BadStudy("with a condition on an empty list", conditional(parameter="optimizer", **{"in": [[]]}), f"{WHEN}.in[0]"),
    BadStudy("with a condition on a mapping", conditional(parameter="optimizer", **{"in": [{"a": 1}]}), f"{WHEN}.in[0]"),
    BadStudy("with a condition on an empty mapping", conditional(parameter="optimizer", **{"in": [{}]}), f"{WHEN}.in[0]"),
    BadStudy("with a condition on null", conditional(parameter="optimizer", **{"in": [None]}), f"{WHEN}.in[0]", False),
    BadStudy(
        "with an unknown field in a condition",
        conditional(parameter="optimizer", **{"in": ["sgd"], "not": True}),
        f"{WHEN}.not",
    ),
    BadStudy(
        "with nine conditions",
        parameter("extra", float=FLOAT, when=[{"parameter": "layers", "in": [1]}] * 9),
        f"{NEW}.when",
    ),
    # The values of a condition may be of two types, which a schema cannot say, and what has no type is not shown to rules.
    BadStudy(
        "with a condition on a misspelt choice", conditional(parameter="optimizer", **{"in": ["sdg"]}), f"{WHEN}.in[0]", False
    ),
    BadStudy("with a condition on a number out of range", conditional(parameter="layers", **{"in": [7]}), f"{WHEN}.in[0]", False),
    BadStudy("with a condition on a number in quotes", conditional(parameter="batch", **{"in": ["16"]}), f"{WHEN}.in[0]", False),
    BadStudy(
        "with conditions that cannot hold together",
        parameter(
            "extra",
            float=FLOAT,
            when=[{"parameter": "optimizer", "in": ["sgd"]}, {"parameter": "optimizer", "in": ["adam"]}],
        ),
        f"{NEW}.when",
        server=False,
    ),
]

STORE = {"volumeClaim": {"name": "weights"}}

METHODS = [
    BadStudy("with an unknown algorithm", put("spec.algorithm", {"tpee": {}}), "spec.algorithm.tpee"),
    BadStudy("with two algorithms", put("spec.algorithm", {"tpe": {}, "random": {}}), "spec.algorithm"),
    BadStudy("with no algorithm in the mapping", put("spec.algorithm", {}), "spec.algorithm"),
    BadStudy("with an algorithm of null", put("spec.algorithm", {"tpe": None}), "spec.algorithm.tpe"),
    BadStudy("with an algorithm by its name only", put("spec.algorithm", "tpe"), "spec.algorithm"),
    BadStudy("with settings that are no mapping", put("spec.algorithm.tpe", 10), "spec.algorithm.tpe"),
    BadStudy("with an unknown setting", put("spec.algorithm.tpe", {"nStartup": 10}), "spec.algorithm.tpe.nStartup"),
    BadStudy("with a setting out of bounds", put("spec.algorithm.tpe", {"startupTrials": 0}), "spec.algorithm.tpe.startupTrials"),
    BadStudy("with a setting in quotes", put("spec.algorithm.tpe", {"startupTrials": "5"}), "spec.algorithm.tpe.startupTrials"),
    BadStudy(
        "with a fraction for a setting", put("spec.algorithm.tpe", {"startupTrials": 1.5}), "spec.algorithm.tpe.startupTrials"
    ),
    BadStudy("with true for a number", put("spec.algorithm.tpe", {"startupTrials": True}), "spec.algorithm.tpe.startupTrials"),
    BadStudy("with an unknown schedule", put("spec.schedule", {"hyperbad": {}}), "spec.schedule.hyperbad"),
    BadStudy("with two schedules", put("spec.schedule", {"asha": {}, "median": {}}), "spec.schedule"),
    BadStudy("with no schedule in the mapping", put("spec.schedule", {}), "spec.schedule"),
    BadStudy("with a schedule's setting out of bounds", put("spec.schedule", {"asha": {"eta": 1}}), "spec.schedule.asha.eta"),
    BadStudy(
        "under Hyperband without a budget",
        both(drop("spec.budget"), put("spec.schedule", {"hyperband": {}})),
        "spec.schedule.hyperband",
    ),
    BadStudy("under ASHA without a budget", both(drop("spec.budget"), put("spec.schedule", {"asha": {}})), "spec.schedule.asha"),
    BadStudy(
        "under a schedule that ranks by one objective, with two",
        both(put("spec.objectives", [{"metric": "loss"}, {"metric": "ms"}]), put("spec.schedule", {"asha": {}})),
        "spec.schedule.asha",
    ),
    BadStudy("with a population and no store of checkpoints", put("spec.algorithm", {"pbt": {}}), "spec.algorithm.pbt"),
    BadStudy(
        "with a population and no budget",
        both(drop("spec.budget"), put("spec.algorithm", {"pb2": {}}), put("spec.checkpoints", STORE)),
        "spec.algorithm.pb2",
    ),
    BadStudy(
        "with a population of a single generation",
        both(put("spec.budget", {"min": 9, "max": 9}), put("spec.algorithm", {"pbt": {}}), put("spec.checkpoints", STORE)),
        "spec.algorithm.pbt",
    ),
    BadStudy(
        "with a population under a schedule",
        both(put("spec.schedule", {"asha": {}}), put("spec.algorithm", {"pbt": {}}), put("spec.checkpoints", STORE)),
        "spec.schedule.asha",
    ),
    BadStudy(
        "with a replay of nothing",
        both(put("spec.algorithm", {"replay": {}}), put("spec.checkpoints", STORE)),
        "spec.algorithm.replay",
        server=False,
    ),
    BadStudy("with a budget of min above max", put("spec.budget", {"min": 9, "max": 3}), "spec.budget.min"),
    BadStudy("with a budget of 0", put("spec.budget", {"min": 0, "max": 3}), "spec.budget.min"),
    BadStudy("with a budget without max", put("spec.budget", {"min": 1}), "spec.budget.max"),
    BadStudy("with half a unit of budget", put("spec.budget", {"max": 0.5}), "spec.budget.max"),
    BadStudy("with a budget of no unit", put("spec.budget", {"max": 9, "unit": ""}), "spec.budget.unit"),
]

LIMITS = [
    BadStudy("with a negative parallelism", put("spec.parallelism", -1), "spec.parallelism"),
    BadStudy("with a parallelism of 10,001", put("spec.parallelism", 10_001), "spec.parallelism"),
    BadStudy("with half a Trial at once", put("spec.parallelism", 1.5), "spec.parallelism"),
    BadStudy("with a parallelism in quotes", put("spec.parallelism", "4"), "spec.parallelism"),
    BadStudy("with no Trial at most", put("spec.limits.maxTrials", 0), "spec.limits.maxTrials"),
    BadStudy("with a million and one Trials", put("spec.limits.maxTrials", 1_000_001), "spec.limits.maxTrials"),
    BadStudy("with a negative number of failures", put("spec.limits.maxFailedTrials", -1), "spec.limits.maxFailedTrials"),
    BadStudy("with a deadline of 0 seconds", put("spec.limits.deadlineSeconds", 0), "spec.limits.deadlineSeconds"),
    BadStudy("with a deadline as a duration", put("spec.limits.deadlineSeconds", "1h"), "spec.limits.deadlineSeconds"),
    BadStudy("with a timeout of 0 seconds", put("spec.limits.trialTimeoutSeconds", 0), "spec.limits.trialTimeoutSeconds"),
    BadStudy("with 101 retries", put("spec.limits.maxRetries", 101), "spec.limits.maxRetries"),
    BadStudy("with no GPU-seconds at all", put("spec.limits.gpuSeconds", 0), "spec.limits.gpuSeconds"),
    BadStudy("with a negative seed", put("spec.seed", -1), "spec.seed"),
    BadStudy("with a seed of 2^31", put("spec.seed", 2**31), "spec.seed"),
    BadStudy("suspended by a string", put("spec.suspend", "yes"), "spec.suspend"),
    BadStudy("with a negative time to live", put("spec.workloadTTLSeconds", -1), "spec.workloadTTLSeconds"),
    BadStudy("with a time to live in the wrong case", put("spec.workloadTtlSeconds", 5), "spec.workloadTtlSeconds"),
]

SOURCES = [
    BadStudy("measured every 0 seconds", put("spec.metrics.intervalSeconds", 0), "spec.metrics.intervalSeconds"),
    BadStudy("with a step metric of no name", put("spec.metrics.step", ""), "spec.metrics.step"),
    BadStudy("with logs but no pattern", put("spec.metrics.logs", {}), "spec.metrics.logs.pattern"),
    BadStudy("with a pattern of 1,025 characters", put("spec.metrics.logs.pattern", "a" * 1025), "spec.metrics.logs.pattern"),
    BadStudy("with a pattern that is none", put("spec.metrics.logs.pattern", "("), "spec.metrics.logs.pattern", server=False),
    BadStudy(
        "with a pattern that names no metric", put("spec.metrics.logs.pattern", "x"), "spec.metrics.logs.pattern", server=False
    ),
    BadStudy("with checkpoints nowhere", put("spec.checkpoints", {}), "spec.checkpoints"),
    BadStudy(
        "with checkpoints in two places",
        put("spec.checkpoints", {"volumeClaim": {"name": "a"}, "objectStore": {"uri": "s3://b", "secretName": "c"}}),
        "spec.checkpoints",
    ),
    BadStudy(
        "with checkpoints to copy from an object store, which has no folders",
        put("spec.checkpoints", {"objectStore": {"uri": "s3://b", "secretName": "c"}, "restore": "Copy"}),
        "spec.checkpoints.restore",
    ),
    BadStudy("with a volume of no name", put("spec.checkpoints.volumeClaim", {}), "spec.checkpoints.volumeClaim.name"),
    BadStudy(
        "with an object store that is a folder",
        put("spec.checkpoints", {"objectStore": {"uri": "/data/weights"}}),
        "spec.checkpoints.objectStore.uri",
    ),
    BadStudy(
        "with an object store outside of its prefix",
        put("spec.checkpoints", {"objectStore": {"uri": "s3://bucket/a/../../b"}}),
        "spec.checkpoints.objectStore.uri",
    ),
    BadStudy("warm-started from a Study of no name", put("spec.warmStart.studies", [{}]), "spec.warmStart.studies[0].name"),
    BadStudy(
        "with a given configuration of nothing",
        put("spec.warmStart.configurations", [{"parameters": []}]),
        "spec.warmStart.configurations[0].parameters",
    ),
    BadStudy(
        "with a given value that is a number",
        put("spec.warmStart.configurations", [{"parameters": [{"name": "lr", "value": 0.1}]}]),
        "spec.warmStart.configurations[0].parameters[0].value",
    ),
    BadStudy(
        "with a given value twice",
        put("spec.warmStart.configurations", [{"parameters": [{"name": "lr", "value": "0.1"}, {"name": "lr", "value": "0.01"}]}]),
        "spec.warmStart.configurations[0].parameters",
    ),
    BadStudy(
        "with a given value of an unknown parameter",
        put("spec.warmStart.configurations", [{"parameters": [{"name": "rate", "value": "0.1"}]}]),
        "spec.warmStart.configurations[0].rate",
    ),
    BadStudy(
        "with a given value out of range",
        put("spec.warmStart.configurations", [{"parameters": [{"name": "lr", "value": "5"}]}]),
        "spec.warmStart.configurations[0].lr",
        server=False,
    ),
]

C = "spec.parameterConstraints"


def constraint(*terms: Manifest, **bound: Any) -> Change:
    return put(C, [{"terms": list(terms), **(bound or {"max": 3})}])


CONSTRAINTS = [
    BadStudy("with a constraint of no terms", constraint(), f"{C}[0].terms"),
    BadStudy("with a constraint without a bound", put(C, [{"terms": [{"parameter": "layers"}]}]), f"{C}[0].max"),
    BadStudy("with a constraint on an unknown parameter", constraint({"parameter": "layer"}), f"{C}[0].terms[0].parameter"),
    BadStudy("with a constraint on names", constraint({"parameter": "optimizer"}), f"{C}[0].terms[0].parameter"),
    BadStudy("with a constraint on an ordinal", constraint({"parameter": "batch"}), f"{C}[0].terms[0].parameter"),
    BadStudy("with a parameter twice in a sum", constraint(*[{"parameter": "layers"}] * 2), f"{C}[0].terms[1].parameter"),
    BadStudy("with a weight of 0", constraint({"parameter": "layers", "weight": 0}), f"{C}[0].terms[0].weight"),
    BadStudy("with a weight that is a string", constraint({"parameter": "layers", "weight": "2"}), f"{C}[0].terms[0].weight"),
    BadStudy("with constraints that nothing keeps", constraint({"parameter": "layers"}, max=0), C, server=False),
    BadStudy(
        "with a given configuration that breaks a constraint",
        both(
            constraint({"parameter": "layers"}),
            put(
                "spec.warmStart.configurations",
                [
                    {
                        "parameters": [
                            {"name": "lr", "value": "0.01"},
                            {"name": "layers", "value": "4"},
                            {"name": "batch", "value": "16"},
                            {"name": "optimizer", "value": "adam"},
                        ]
                    }
                ],
            ),
        ),
        "spec.warmStart.configurations[0]",
        server=False,
    ),
]

TEMPLATES = [
    BadStudy("without a template", drop("spec.template"), "spec.template"),
    BadStudy("with an empty template", put("spec.template", {}), "spec.template"),
    BadStudy("with a job and an object", put("spec.template.object", {"apiVersion": "batch/v1", "kind": "Job"}), "spec.template"),
    BadStudy("with a job without a pod", put(JOB, {"spec": {}}), f"{POD}.containers"),
    BadStudy("with a job without a spec", put(JOB, {}), f"{POD}.containers"),
    BadStudy("with a pod without containers", put(POD, {}), f"{POD}.containers"),
    BadStudy("with a pod of no container", put(f"{POD}.containers", []), f"{POD}.containers"),
    BadStudy("with containers that are strings", put(f"{POD}.containers", ["python"]), f"{POD}.containers"),
    BadStudy(
        "with a reporter that is no container",
        put("spec.template.reporter", {"container": "main"}),
        "spec.template.reporter.container",
    ),
    BadStudy("with an object of no kind", put("spec.template", {"object": {"apiVersion": "a/v1"}}), "spec.template.object.kind"),
    BadStudy("with an object of no version", put("spec.template", {"object": {"kind": "Job"}}), "spec.template.object.apiVersion"),
    BadStudy("with an unknown field in the template", put("spec.template.pod", {}), "spec.template.pod"),
]

BAD_STUDIES = [
    *HEADERS,
    *OBJECTIVES,
    *PARAMETERS,
    *RANGES,
    *CHOICES,
    *CONDITIONS,
    *METHODS,
    *LIMITS,
    *SOURCES,
    *CONSTRAINTS,
    *TEMPLATES,
]
