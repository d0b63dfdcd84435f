"""The resources of group hpo.dev as typed values: Study and Trial, spec and status.

One source: the local loader reads through these models, the planner works on them, and the CRDs are generated from them. Field
names are those of the Kubernetes API in snake_case. Every value is frozen; a changed one is a copy.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "hpo.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

STUDY_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
MAX_STUDY_NAME = 50  # a pod's name adds a Trial's number and two random parts, and must stay within 63 characters
MAX_TRIALS = 1_000_000

MetricName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\s\"\\{}][^\"\\{}\n]*$")]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253)]


class Resource(BaseModel):
    """Base of all models here: frozen, strict about types, camelCase outside."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )

    def manifest(self) -> dict[str, Any]:
        """As it stands in the API: camelCase, JSON values, nothing that is unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Observed(Resource):
    """Base of what the operator itself writes: read leniently, for a newer version may have written more."""

    model_config = ConfigDict(strict=False, extra="ignore", ser_json_inf_nan="strings")


# Study.spec


class Objective(Resource):
    """What is to be optimised. Several objectives make a Study multi-objective."""

    metric: MetricName = Field(description="Name of the metric as the program reports it.")
    goal: Literal["Minimize", "Maximize"] = Field("Minimize", description="Which way is better.")
    aggregate: Literal["Last", "Best"] = Field(
        "Last", description="Which of a Trial's reports counts: the last one, or the best one over all its steps."
    )
    target: float | None = Field(
        None, description="The Study succeeds as soon as a Trial at the highest budget reaches this value."
    )


class OutcomeConstraint(Resource):
    """A bound on a reported metric; a Trial that breaks it is never best."""

    metric: MetricName = Field(description="Name of the metric as the program reports it.")
    operator: Literal["LessOrEqual", "GreaterOrEqual"] = Field(description="Which side of the bound is allowed.")
    bound: float = Field(description="The bound, itself allowed.")


class Budget(Resource):
    """How far a Trial trains, in a unit of the Study's own."""

    min: int = Field(1, ge=1, le=2**31 - 1, description="The smallest budget that tells anything; the lowest rung.")
    max: int = Field(ge=1, le=2**31 - 1, description="A full training.")
    unit: str = Field("epochs", min_length=1, max_length=63, description="What one unit is: epochs, steps, samples.")


class Limits(Resource):
    """When the Study ends, and what a Trial may cost."""

    max_trials: int | None = Field(None, ge=1, le=MAX_TRIALS, description="The Study succeeds once this many Trials have ended.")
    max_failed_trials: int = Field(10, ge=0, le=MAX_TRIALS, description="The Study fails once more Trials than this have failed.")
    deadline_seconds: Seconds | None = Field(None, description="The Study ends this many seconds after its start.")
    trial_timeout_seconds: Seconds | None = Field(None, description="A Trial that runs longer than this has failed.")
    max_retries: int = Field(3, ge=0, le=100, description="How often a Trial is started again after its pod was lost or preempted.")
    gpu_seconds: int | None = Field(
        None, ge=1, description="The Study ends when its Trials have used this many GPU-seconds in sum."
    )


class LogMetrics(Resource):
    """Metrics read from what a program prints."""

    pattern: str = Field(
        min_length=1,
        max_length=1024,
        description="A regular expression with named groups: `step` is the step, every other group a metric of that name; or "
        "the two groups `metric` and `value`.",
    )


class Metrics(Resource):
    """How results are gathered."""

    step: MetricName | None = Field(None, description="The metric that tells the step, for programs that export their own.")
    interval_seconds: int = Field(15, ge=1, le=3600, description="How often running Trials are measured.")
    logs: LogMetrics | None = Field(None, description="Read the final result from the log, for programs that only print.")


class VolumeClaim(Resource):
    """A PersistentVolumeClaim in the Study's namespace."""

    name: ObjectName = Field(description="Its name. It must be ReadWriteMany.")


class ObjectStore(Resource):
    """A bucket and a prefix in it."""

    uri: str = Field(min_length=1, max_length=1024, description="For example s3://bucket/prefix.")
    secret_name: ObjectName = Field(description="The Secret with the credentials.")


class Checkpoints(Resource):
    """Where Trials keep their weights: exactly one of its fields."""

    volume_claim: VolumeClaim | None = Field(None, description="A shared volume.")
    object_store: ObjectStore | None = Field(None, description="An object store.")


class NamedValue(Resource):
    """A parameter or metric and its value, as a string."""

    name: str = Field(min_length=1, max_length=128, description="The name.")
    value: str = Field(max_length=256, description="The value; numbers as they are written.")


class Configuration(Resource):
    """One configuration to try first."""

    parameters: tuple[NamedValue, ...] = Field(min_length=1, max_length=100, description="A value for each active parameter.")


class StudyName(Resource):
    """A Study in the same namespace."""

    name: ObjectName = Field(description="Its name.")


class WarmStart(Resource):
    """What is known beforehand."""

    studies: tuple[StudyName, ...] = Field((), max_length=16, description="Earlier Studies over the same parameters.")
    configurations: tuple[Configuration, ...] = Field((), max_length=100, description="Configurations to try first.")


class Reporter(Resource):
    """Which container of which pod reports the result, where there are several."""

    container: ObjectName | None = Field(None, description="Name of the container; the only one, or the first, when left out.")
    pod_selector: dict[str, str] | None = Field(None, description="Labels of the reporting pod, for workloads of several pods.")


class Template(Resource):
    """What a Trial runs: exactly one of job and object."""

    job: dict[str, Any] | None = Field(None, description="A Job as in a CronJob's jobTemplate: metadata and spec.")
    object: dict[str, Any] | None = Field(None, description="A whole object of any kind that the installation allows.")
    reporter: Reporter | None = Field(None, description="Which container reports the result.")


class StudySpec(Resource):
    """What the user asks."""

    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=4, description="What is optimised, most important first.")
    constraints: tuple[OutcomeConstraint, ...] = Field((), max_length=8, description="Bounds on reported metrics.")
    parameters: tuple[dict[str, Any], ...] = Field(description="The search space.")
    algorithm: dict[str, Any] = Field(default_factory=lambda: {"auto": {}}, description="What to try: exactly one.")
    schedule: dict[str, Any] | None = Field(None, description="How long to try it: at most one.")
    budget: Budget | None = Field(None, description="How far a Trial trains.")
    parallelism: int = Field(1, ge=0, le=10_000, description="How many Trials run at once; 0 lets the running ones end.")
    limits: Limits = Field(Limits(), description="When the Study ends.")
    seed: int | None = Field(None, ge=0, le=2**31 - 1, description="Seed of all random choices; drawn once when left out.")
    metrics: Metrics = Field(Metrics(), description="How results are gathered.")
    checkpoints: Checkpoints | None = Field(None, description="Where Trials keep their weights.")
    warm_start: WarmStart | None = Field(None, description="What is known beforehand.")
    suspend: bool = Field(False, description="Stops all workloads; Trials resume later from their checkpoints.")
    workload_ttl_seconds: int = Field(
        3600, alias="workloadTTLSeconds", ge=0, le=31_536_000, description="How long a finished Trial's workload is kept."
    )
    template: Template = Field(description="What a Trial runs.")


# Status


class Condition(Observed):
    """metav1.Condition."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: datetime


class TrialCounts(Observed):
    """Trials by what became of them."""

    created: int = 0
    active: int = 0
    running: int = 0
    completed: int = 0
    early_stopped: int = 0
    failed: int = 0
    infeasible: int = 0


class RankedTrial(Observed):
    """A Trial among the best."""

    trial_name: str
    number: int
    budget: int | None = None
    parameters: tuple[NamedValue, ...]
    metrics: tuple[NamedValue, ...]


class StudyStatus(Observed):
    """How far, how good, how long. Never grows with the number of Trials."""

    observed_generation: int | None = None
    conditions: tuple[Condition, ...] = ()
    seed: int | None = None
    template_hash: str | None = None
    start_time: datetime | None = None
    completion_time: datetime | None = None
    estimated_completion_time: datetime | None = None
    trials: TrialCounts = TrialCounts()
    selector: str | None = None
    gpu_seconds: int = 0
    best: tuple[RankedTrial, ...] = ()
    pareto_front: tuple[RankedTrial, ...] = ()


# Trial


class StudyRef(Observed):
    """The Study that a Trial belongs to."""

    name: str
    uid: str


class SlotSpec(Observed):
    """A Trial's place in its schedule or population."""

    bracket: int | None = None
    rung: int | None = None
    generation: int | None = None
    member: int | None = None


class RestoreFrom(Observed):
    """The checkpoint that a Trial starts from."""

    trial_name: str
    number: int
    step: int
    path: str
    digest: str


class TrialSpec(Observed):
    """One configuration, run once. Immutable."""

    study_ref: StudyRef
    number: int
    parameters: tuple[NamedValue, ...]
    budget: int | None = None
    slot: SlotSpec | None = None
    restore_from: RestoreFrom | None = None
    memo: str | None = None
    origin: Literal["Given", "Sampled", "Promoted", "Perturbed", "Fallback"] = "Sampled"


class WorkloadRef(Observed):
    """The object that runs the Trial."""

    api_version: str
    kind: str
    name: str
    uid: str


class CurvePoint(Observed):
    """A point of the learning curve."""

    step: int
    value: str


class Observation(Observed):
    """What was measured."""

    source: Literal["TerminationMessage", "Log", "Prometheus", "Report"]
    step: int | None = None
    metrics: tuple[NamedValue, ...] = ()
    curve: tuple[CurvePoint, ...] = ()


class StopRecord(Observed):
    """Why a Trial was ended early."""

    rule: str
    step: int


class CheckpointRecord(Observed):
    """The newest complete checkpoint."""

    step: int
    digest: str
    path: str
    state: Literal["Kept", "Collected"] = "Kept"


class TrialStatus(Observed):
    """What became of a Trial. Once `Succeeded` is True or False it never changes."""

    conditions: tuple[Condition, ...] = ()
    workload: WorkloadRef | None = None
    attempts: int = 0
    start_time: datetime | None = None
    completion_time: datetime | None = None
    observation: Observation | None = None
    stop: StopRecord | None = None
    checkpoint: CheckpointRecord | None = None
    gpu_seconds: int = 0


class Metadata(Observed):
    """The part of metav1.ObjectMeta that is used here."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Study(Observed):
    """The whole optimisation."""

    api_version: str = API_VERSION
    kind: Literal["Study"] = "Study"
    metadata: Metadata
    spec: StudySpec
    status: StudyStatus = StudyStatus()


class Trial(Observed):
    """One configuration and what became of it."""

    api_version: str = API_VERSION
    kind: Literal["Trial"] = "Trial"
    metadata: Metadata
    spec: TrialSpec
    status: TrialStatus = TrialStatus()
