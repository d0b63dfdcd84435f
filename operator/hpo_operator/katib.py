"""Katib's Experiments as Studies, for those who come from there.

What an Experiment says is carried over; what has no counterpart is told, and nothing is left out without a word. Fields and
defaults are those of kubeflow.org/v1beta1 in Katib 0.19; docs/katib.md says what each becomes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hpo_algorithms import Fault
from pydantic import ValidationError

from hpo_operator.environment import parameter_variable
from hpo_operator.resources import API_VERSION, Observed
from hpo_operator.validation import InvalidStudy, faults_of, read_study

Text = str | int | float  # Katib writes numbers as texts; people who write them as numbers mean the same

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[Ee][+-]?\d+)?"
PRINTED = rf"(?P<metric>[\w|-]+)\s*=\s*(?P<value>{NUMBER}|nan|[+-]?inf)"  # what Katib looks for unless told otherwise
PLACEHOLDER = re.compile(r"\$\{trialParameters\.([^}]+)\}")
METADATA = re.compile(r"\$\{trialSpec\.(?:(Name|Namespace|Kind|APIVersion)|(Labels|Annotations)\[(.+)\])\}")
GROUP = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\((?!\?)", re.DOTALL)  # one without a name; what is escaped or in brackets is none
FILLED = re.compile(r"\.(?:(?:initC|c)ontainers\[\d+\]|container|script|trainer)\.(?:(?:command|args)\[\d+\]|env\[\d+\]\.value)$")
TRIAL = "$(HPO_TRIAL)"
PRIMARY = ("Launcher", "Master", "Chief")  # of the replicas of a training job, who reports
ROLE = "role"
ENDS_KNOWN = {"Job", "JobSet", "MPIJob", "PyTorchJob", "TFJob", "XGBoostJob", "RayJob", "TrainJob", "Workflow"}

ALGORITHMS = {
    "random": "random",
    "grid": "grid",
    "sobol": "sobol",
    "tpe": "tpe",
    "multivariate-tpe": "tpe",
    "bayesianoptimization": "gp",
    "cmaes": "cmaes",
    "hyperband": "random",
    "pbt": "pbt",
}
SETTINGS = {  # of ours, and how it is read
    ("tpe", "n_EI_candidates"): ("candidates", int),
    ("tpe", "n_ei_candidates"): ("candidates", int),
    ("tpe", "n_startup_trials"): ("startupTrials", int),
    ("gp", "n_initial_points"): ("startupTrials", int),
    ("smac", "n_initial_points"): ("startupTrials", int),
    ("pbt", "n_population"): ("population", int),
    ("pbt", "truncation_threshold"): ("truncation", float),
    ("pbt", "resample_probability"): ("resample", float),
}
ACQUISITIONS = {"EI": "EI", "PI": "PI", "LCB": "UCB"}
COLLECTORS = {
    "File": "a file is not read. Print what is written to it, or call hpo.report in the program",
    "TensorFlowEvent": "event files are not read. Call hpo.report in the program, or print the metrics",
    "Push": "nothing is pushed to a database. Call hpo.report(step=…, loss=…) where report_metrics was called",
    "PrometheusMetric": "a program's own series are scraped as docs/metrics.md says",
    "Custom": "there is no sidecar. Call hpo.report in the program, or print the metrics",
    "None": "a Trial without a result has failed. Call hpo.report in the program, or print the metrics",
}


class _Setting(Observed):
    name: str
    value: Text


class _Algorithm(Observed):
    algorithm_name: str
    algorithm_settings: tuple[_Setting, ...] = ()


class _Strategy(Observed):
    name: str
    value: Literal["min", "max", "latest"]


class _Objective(Observed):
    type: Literal["minimize", "maximize"]
    goal: float | None = None
    objective_metric_name: str
    metric_strategies: tuple[_Strategy, ...] = ()


class _Range(Observed):
    min: Text | None = None
    max: Text | None = None
    step: Text | None = None
    list: tuple[Text, ...] = ()
    distribution: Literal["uniform", "logUniform", "normal", "logNormal"] = "uniform"


class _Parameter(Observed):
    name: str
    parameter_type: Literal["double", "int", "discrete", "categorical"]
    feasible_space: _Range


class _TrialParameter(Observed):
    name: str
    reference: str


class _TrialTemplate(Observed):
    trial_spec: dict[str, Any] | None = None
    config_map: dict[str, Any] | None = None
    trial_parameters: tuple[_TrialParameter, ...] = ()
    primary_container_name: str | None = None
    primary_pod_labels: dict[str, str] | None = None
    success_condition: str | None = None
    failure_condition: str | None = None
    retain: bool = False


class _Filter(Observed):
    metrics_format: tuple[str, ...] = ()


class _Source(Observed):
    filter: _Filter | None = None


class _Collector(Observed):
    kind: str = "StdOut"


class _MetricsCollector(Observed):
    source: _Source | None = None
    collector: _Collector | None = None


class _Spec(Observed):
    objective: _Objective
    algorithm: _Algorithm
    early_stopping: _Algorithm | None = None
    parallel_trial_count: int = 3
    max_trial_count: int | None = None
    max_failed_trial_count: int | None = None
    parameters: tuple[_Parameter, ...] = ()
    trial_template: _TrialTemplate
    metrics_collector_spec: _MetricsCollector | None = None
    nas_config: dict[str, Any] | None = None


@dataclass(slots=True)
class Converted:
    """An Experiment as a Study: its manifest, what is different now, and what has to be mended before it is a valid one."""

    study: dict[str, Any]
    notes: list[Fault] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def converted(experiment: Mapping[str, Any]) -> Converted:
    """An Experiment's manifest as a Study's. Raises InvalidStudy where it is no valid Experiment, or has no template to run."""
    try:
        spec = _Spec.model_validate(experiment.get("spec") or {}, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidStudy([fault.under("spec") for fault in faults_of(error, _Spec)]) from None
    _refuse_what_no_study_has(spec)
    return _Conversion(experiment, spec).converted()


def _refuse_what_no_study_has(spec: _Spec) -> None:
    faults, template = [], spec.trial_template
    if spec.nas_config is not None or spec.algorithm.algorithm_name in ("enas", "darts"):
        remedy = "List the choices that a network is built of as parameters."
        faults.append(Fault("spec.nasConfig", None, "a search over architectures has no counterpart", remedy))
    if template.config_map is not None:
        name = template.config_map.get("configMapName")
        remedy = f"Put what `kubectl get configmap {name} -o yaml` shows under spec.trialTemplate.trialSpec."
        faults.append(Fault("spec.trialTemplate.configMap", name, "a Study holds its template itself", remedy))
    elif template.trial_spec is None:
        faults.append(Fault("spec.trialTemplate.trialSpec", None, "is required", "It is what a Trial runs."))
    elif template.trial_spec.get("kind") == "PipelineRun":
        remedy = "Run its steps as an Argo Workflow, or in one Job."
        faults.append(Fault("spec.trialTemplate.trialSpec.kind", "PipelineRun", "has no pod templates, and cannot be run", remedy))
    if faults:
        raise InvalidStudy(faults)


class _Conversion:
    def __init__(self, experiment: Mapping[str, Any], spec: _Spec) -> None:
        self._metadata = _mapping(experiment.get("metadata"))
        self._spec = spec
        self._found = Converted({})
        self._settings = {each.name: str(each.value) for each in spec.algorithm.algorithm_settings}
        banded = spec.algorithm.algorithm_name == "hyperband"
        self._resource = self._settings.get("resource_name") if banded else None
        self._highest = _whole(self._settings.get("r_l", "")) if banded else None
        self._references = {each.name: each.reference for each in spec.trial_template.trial_parameters}

    def converted(self) -> Converted:
        spec = self._spec
        algorithm, seed = self._algorithm()
        limits = {"maxTrials": spec.max_trial_count, "maxFailedTrials": spec.max_failed_trial_count}
        asked: dict[str, Any] = {
            "objectives": [self._objective()],
            "parameters": [self._parameter(i, each) for i, each in enumerate(spec.parameters) if each.name != self._resource],
            "algorithm": algorithm,
            "schedule": self._schedule(),
            "budget": {"min": 1, "max": self._highest} if self._highest else None,
            "parallelism": spec.parallel_trial_count,
            "limits": {name: value for name, value in limits.items() if value is not None} or None,
            "seed": seed,
            "metrics": self._metrics(),
            "template": self._template(),
        }
        metadata = {key: self._metadata[key] for key in ("name", "namespace", "labels") if key in self._metadata}
        found = self._found
        found.study = {
            "apiVersion": API_VERSION,
            "kind": "Study",
            "metadata": metadata,
            "spec": {name: value for name, value in asked.items() if value is not None},
        }
        try:
            if not found.faults:  # else what is said of the Study would only follow from them
                read_study(found.study)
        except InvalidStudy as error:
            found.faults += error.faults
        return found

    def _note(self, path: str, value: object, rule: str, remedy: str = "") -> None:
        self._found.notes.append(Fault(f"spec.{path}", value, rule, remedy))

    def _fault(self, path: str, value: object, rule: str, remedy: str = "") -> None:
        self._found.faults.append(Fault(f"spec.{path}", value, rule, remedy))

    # What is asked

    def _objective(self) -> dict[str, Any]:
        asked = self._spec.objective
        found: dict[str, Any] = {"metric": asked.objective_metric_name, "goal": asked.type.capitalize()}
        best = "max" if asked.type == "maximize" else "min"
        strategy = next((each.value for each in asked.metric_strategies if each.name == asked.objective_metric_name), best)
        if strategy == best:
            found["aggregate"] = "Best"
        elif strategy != "latest":
            rule = f"the worst of a Trial's values cannot be what counts of a metric to {asked.type}. The last one does"
            self._note("objective.metricStrategies", strategy, rule)
        if asked.goal is not None:
            found["target"] = asked.goal
        return found

    def _parameter(self, i: int, asked: _Parameter) -> dict[str, Any]:
        path, space = f"parameters[{i}].feasibleSpace", asked.feasible_space
        if asked.parameter_type == "categorical":
            return {"name": asked.name, "categorical": {"choices": [str(each) for each in space.list]}}
        if asked.parameter_type == "discrete":
            values = [self._number(f"{path}.list[{j}]", each) for j, each in enumerate(space.list)]
            return {"name": asked.name, "ordinal": {"values": sorted(each for each in values if each is not None)}}
        whole = asked.parameter_type == "int"
        bounds = {"min": space.min, "max": space.max}
        found: dict[str, Any] = {name: self._number(f"{path}.{name}", value, whole) for name, value in bounds.items()}
        if space.distribution.startswith("log"):
            found["scale"] = "Log"
        if space.distribution.lower().endswith("normal"):
            remedy = "Name likely values in warmStart.configurations."
            self._note(f"{path}.distribution", space.distribution, "all between the bounds is as likely here", remedy)
        if space.step is not None:
            if "scale" in found:
                self._note(f"{path}.step", space.step, "there are no steps on a logarithmic scale here, and it is left out")
            else:
                found["step"] = self._number(f"{path}.step", space.step, whole)
        return {"name": asked.name, "int" if whole else "float": found}

    def _number(self, path: str, given: Text | None, whole: bool = False) -> float | int | None:
        try:
            number = float("" if given is None else given)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self._fault(path, given, "must be a number")
            return None
        if number.is_integer() and (whole or abs(number) >= 10):
            return int(number)
        return number

    # How it is searched

    def _algorithm(self) -> tuple[dict[str, Any], int | None]:
        asked = self._spec.algorithm
        name = asked.algorithm_name
        ours = ALGORITHMS.get(name)
        if ours is None:
            remedy = f"Known: {', '.join(ALGORITHMS)}. One of your own becomes a file, see docs/adding-an-algorithm.md."
            self._fault("algorithm.algorithmName", name, "is not known", remedy)
            return {"auto": {}}, None
        if name == "bayesianoptimization" and self._settings.get("base_estimator") in ("RF", "ET", "GBRT"):
            ours = "smac"
        found: dict[str, Any] = {}
        elsewhere = {"random_state", *(("r_l", "eta", "resource_name") if name == "hyperband" else ())}
        for i, each in enumerate(asked.algorithm_settings):
            path, value = f"algorithm.algorithmSettings[{i}]", str(each.value)
            if each.name in elsewhere:
                continue
            if each.name == "base_estimator":
                if value in ("ET", "GBRT"):
                    self._note(path, value, "is a random forest here")
            elif each.name == "acq_func" and value in ACQUISITIONS and ours == "gp":
                found["acquisition"] = ACQUISITIONS[value]
            elif each.name == "restart_strategy":
                found["restarts"] = value != "none"
            elif (setting := SETTINGS.get((ours, each.name))) is not None:
                field_, read = setting
                number = self._number(path, value)
                found[field_] = number if number is None else read(number)
            elif each.name == "suggestion_trial_dir":
                self._note(path, value, "checkpoints are in HPO_CHECKPOINT_DIR", "Say under spec.checkpoints where they are kept.")
            else:
                self._note(path, each.name, f"has no counterpart; the default of {ours} is taken")
        if name == "pbt":
            remedy = "Write budget: {min: …, max: …} in the unit that the program counts, and checkpoints."
            self._note("algorithm", "pbt", "a Trial here trains for a length that it is told in HPO_BUDGET", remedy)
        return {ours: found}, _whole(self._settings.get("random_state", ""))

    def _schedule(self) -> dict[str, Any] | None:
        stopping = self._spec.early_stopping
        if self._spec.algorithm.algorithm_name == "hyperband":
            if stopping is not None:
                self._note("earlyStopping", stopping.algorithm_name, "is left out beside hyperband, which ends what is behind")
            if not self._highest:
                self._fault(
                    "algorithm.algorithmSettings", None, "r_l is missing", "Write budget.max, the length of a full training."
                )
            eta = _whole(self._settings.get("eta", ""))
            return {"hyperband": {"eta": eta} if eta else {}}
        if stopping is None:
            return None
        if stopping.algorithm_name != "medianstop":
            remedy = "Choose from docs/algorithms/schedules.md."
            self._note("earlyStopping.algorithmName", stopping.algorithm_name, "has no counterpart, and is left out", remedy)
            return None
        given = {each.name: _whole(str(each.value)) for each in stopping.algorithm_settings}
        remedy = "Install Prometheus, and run the program by `hpo exec`, or call hpo.report."
        self._note("earlyStopping", "medianstop", "Trials are stopped by their learning curves, which Prometheus tells", remedy)
        return {"median": {"startupTrials": given.get("min_trials_required") or 3, "minSteps": given.get("start_step") or 4}}

    # How results come

    def _metrics(self) -> dict[str, Any] | None:
        asked = self._spec.metrics_collector_spec or _MetricsCollector()
        kind = asked.collector.kind if asked.collector else "StdOut"
        if kind != "StdOut":
            self._note("metricsCollectorSpec.collector.kind", kind, COLLECTORS.get(kind, COLLECTORS["Custom"]))
        if kind not in ("StdOut", "File"):
            return None
        formats = asked.source.filter.metrics_format if asked.source and asked.source.filter else ()
        if not formats:
            return {"logs": {"pattern": PRINTED}}
        path = "metricsCollectorSpec.source.filter.metricsFormat"
        if len(formats) > 1:
            self._note(
                path, None, f"one pattern is read, and it is the first of {len(formats)}", "Join them by | where all are printed."
            )
        pattern = with_names(formats[0])
        if pattern is None:
            self._fault(path, formats[0], "is no regular expression with a group for the name and one for the value")
        return {"logs": {"pattern": pattern or formats[0]}}

    # What is run

    def _template(self) -> dict[str, Any]:
        asked = self._spec.trial_template
        workload = self._filled(asked.trial_spec or {}, "trialTemplate.trialSpec")
        kind, version = workload.get("kind"), workload.get("apiVersion")
        metadata = {
            key: value for key, value in _mapping(workload.pop("metadata", None)).items() if key in ("labels", "annotations")
        }
        reporter: dict[str, Any] = self._reporter(workload)
        whole = {**({"metadata": metadata} if metadata else {}), "spec": workload.get("spec")}
        found: dict[str, Any]
        if (version, kind) == ("batch/v1", "Job"):
            found = {"job": whole}
        else:
            found = {"object": {"apiVersion": version, "kind": kind, **whole}}
            shown = f"{{apiVersion: {version}, kind: {kind}}}"
            remedy = f"Whoever has installed the operator allows it: workloadKinds: [{shown}]."
            self._note("trialTemplate.trialSpec.kind", kind, "is a kind beside Job", remedy)
        if kind == "TrainJob":
            remedy = "Write the JobSet that its runtime makes of it."
            self._fault("trialTemplate.trialSpec.kind", kind, "gives its pods no label by which they could be found", remedy)
        if (asked.success_condition or asked.failure_condition) and str(kind) not in ENDS_KNOWN:
            remedy = "See `succeeded` and `failed` in docs/workloads.md."
            self._note("trialTemplate.successCondition", asked.success_condition, "is said by whoever allows the kind", remedy)
        if asked.retain:
            self._note(
                "trialTemplate.retain", True, "finished workloads are kept for workloadTTLSeconds, an hour unless you say more"
            )
        if reporter:
            found["reporter"] = reporter
        return found

    def _reporter(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Which pod and container report, as far as the template leaves it open; a replica that is primary gets a label for it."""
        asked, spec = self._spec.trial_template, workload.get("spec")
        found: dict[str, Any] = {}
        pods = _pod_specs(spec)
        labels = asked.primary_pod_labels
        replicas = next((_mapping(value) for key, value in _mapping(spec).items() if str(key).endswith("ReplicaSpecs")), {})
        if len(replicas) > 1:
            name = next((each for each in PRIMARY if each in replicas), next(iter(replicas)))
            template = _mapping(_mapping(replicas[name]).get("template"))
            metadata = _mapping(template.get("metadata"))
            template["metadata"] = {**metadata, "labels": {**_mapping(metadata.get("labels")), ROLE: name.lower()}}
            found["podSelector"] = {ROLE: name.lower()}
        elif labels and any(_mapping(each.get("labels")).items() >= labels.items() for each in _mappings(spec)):
            found["podSelector"] = labels
        elif labels and len(pods) > 1:
            remedy = "Give them to one, and name them in template.reporter.podSelector."
            self._note("trialTemplate.primaryPodLabels", None, "no pod template has these labels", remedy)
        if asked.primary_container_name and any(len(each) > 1 for each in pods):
            found["container"] = asked.primary_container_name
        return found

    def _filled(self, value: Any, path: str) -> Any:
        """A copy of a value of the template in which each placeholder is what Kubernetes fills in, or what the template says."""
        if isinstance(value, dict):
            return {key: self._filled(each, f"{path}.{key}") for key, each in value.items()}
        if isinstance(value, list):
            return [self._filled(each, f"{path}[{i}]") for i, each in enumerate(value)]
        if isinstance(value, str):
            return PLACEHOLDER.sub(lambda match: self._replaced(match, path), value)
        return value

    def _replaced(self, match: re.Match[str], path: str) -> str:
        reference = self._references.get(match[1])
        if reference is None:
            self._fault(path, match[0], "is not among trialTemplate.trialParameters", "Declare it, or write $(HPO_PARAM_…).")
            return match[0]
        if (said := METADATA.fullmatch(reference)) and said[1] != "Name":
            return self._said_of_template(path, said)
        if said:
            variable = TRIAL
        elif reference == self._resource:
            variable = "$(HPO_BUDGET)"
        elif reference in (each.name for each in self._spec.parameters):
            variable = f"$({parameter_variable(reference)})"
        else:
            self._fault(path, match[0], f"refers to {reference!r}, which is no parameter", "Name one of spec.parameters.")
            return match[0]
        if not FILLED.search(path):
            remedy = f"Hand it to the program as an argument or in a variable, where {variable} is filled in."
            self._fault(path, match[0], "stands where Kubernetes fills in no variable", remedy)
        return variable

    def _said_of_template(self, path: str, said: re.Match[str]) -> str:
        workload: Mapping[str, Any] = self._spec.trial_template.trial_spec or {}
        if said[2]:
            value = _mapping(_mapping(workload.get("metadata")).get(said[2].lower())).get(said[3])
        else:
            namespace = self._metadata.get("namespace", "default")
            value = {"Namespace": namespace, "Kind": workload.get("kind"), "APIVersion": workload.get("apiVersion")}[said[1]]
        if value is None:
            self._fault(path, said[0], "is not in trialTemplate.trialSpec.metadata", "Write what it should be.")
            return said[0]
        return str(value)


def with_names(pattern: str) -> str | None:
    """A pattern with its first two groups named `metric` and `value`; None where it is no regular expression with two."""
    names = iter(("metric", "value"))

    def named(match: re.Match[str]) -> str:
        name = next(names, None) if match[0] == "(" else None
        return f"(?P<{name}>" if name else match[0]

    found = GROUP.sub(named, pattern)
    try:
        re.compile(found)
    except re.error:
        return None
    return found if next(names, None) is None else None


def _whole(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _mapping(value: Any) -> dict[str, Any]:
    """It, where it is a mapping; what is wrong with another value, the Study's validation says."""
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> Sequence[dict[str, Any]]:
    """All mappings in a value, itself too."""
    if isinstance(value, dict):
        return [value, *(found for each in value.values() for found in _mappings(each))]
    return [found for each in value for found in _mappings(each)] if isinstance(value, list) else []


def _pod_specs(value: Any) -> Sequence[list[Any]]:
    """The containers of each pod in a workload."""
    return [each["containers"] for each in _mappings(value) if isinstance(each.get("containers"), list)]
