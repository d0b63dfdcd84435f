"""The resources of group hpo.dev as typed values: Study and Trial, spec and status.

One source: the local loader reads through these models, the planner works on them, and the CRDs are generated from them, texts and
bounds included. Field names are those of the Kubernetes API in snake_case. Every value is frozen; a changed one is a copy.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from hpo_algorithms._reading import LARGEST, MAX_CHOICES, MAX_TEXT, NAME
from hpo_algorithms.linear import MAX_CONSTRAINTS, MAX_TERMS
from hpo_algorithms.registry import DEFAULT_ALGORITHM
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

GROUP = "hpo.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

PARAMETERS_ANNOTATION = f"{GROUP}/parameters"  # of a Trial: what it tries in one line, for `kubectl get trials`

STUDY_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
MAX_STUDY_NAME = 50  # a pod's name adds a Trial's number and two random parts, and must stay within 63 characters
MAX_TRIALS = 1_000_000
MAX_MEMO = 2048
SAFE_INTEGER = 2**53  # larger whole numbers change on their way through a JSON reader that knows floats only

MetricName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\s\"\\{}][^\"\\{}\n]*$")]
Seconds = Annotated[int, Field(ge=1, le=31_536_000)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253)]
LabelValue = Annotated[str, Field(max_length=63)]
Count = Annotated[int, Field(ge=0, le=SAFE_INTEGER)]
Number = Annotated[int, Field(ge=0, le=MAX_TRIALS)]
Text = Annotated[str, Field(max_length=256)]
Path = Annotated[str, Field(max_length=4096)]
Uid = Annotated[str, Field(max_length=128)]


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
        None, ge=1, le=SAFE_INTEGER, description="The Study ends when its Trials have used this many GPU-seconds in sum."
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

    uri: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^(s3|gs|az|abfs|abfss)://[A-Za-z0-9][A-Za-z0-9.@_-]*(/[A-Za-z0-9_=][A-Za-z0-9._=-]*)*/?$",
        description="A bucket and a prefix in it: s3://bucket/prefix, or of gs://, az://, abfs://.",
    )
    secret_name: ObjectName | None = Field(
        None,
        description="The Secret whose keys become the programs' environment, such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
        "AWS_ENDPOINT_URL. Left out where the pods' service account has the rights.",
    )


class Checkpoints(Resource):
    """Where Trials keep their weights, volumeClaim or objectStore, and who copies those that another Trial starts from."""

    volume_claim: VolumeClaim | None = Field(None, description="A shared volume.")
    object_store: ObjectStore | None = Field(None, description="An object store.")
    restore: Literal["Program", "Copy"] = Field(
        "Program",
        description="Who copies the checkpoint that a Trial starts from into the Trial's own folder: its program, by "
        "hpo.checkpoint; or, for programs that know only that folder, it is copied before they start.",
    )


class NamedValue(Resource):
    """A parameter or metric and its value, as a string."""

    name: str = Field(min_length=1, max_length=128, description="The name.")
    value: str = Field(max_length=256, description="The value; numbers as they are written.")


class Configuration(Resource):
    """One configuration to try first."""

    parameters: tuple[NamedValue, ...] = Field(min_length=1, max_length=100, description="A value for each active parameter.")

    @field_validator("parameters")
    @classmethod
    def _each_once(cls, given: tuple[NamedValue, ...]) -> tuple[NamedValue, ...]:
        names = [each.name for each in given]
        if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
            raise PydanticCustomError("twice", "gives '{name}' two values", {"name": twice})
        return given


class StudyName(Resource):
    """A Study in the same namespace."""

    name: ObjectName = Field(description="Its name.")


class WarmStart(Resource):
    """What is known beforehand."""

    studies: tuple[StudyName, ...] = Field(
        (),
        max_length=16,
        description="Earlier Studies over the same parameters: their best are tried first, and models learn from all that "
        "they had found when this Study was created.",
    )
    configurations: tuple[Configuration, ...] = Field((), max_length=100, description="Configurations to try first.")


class Reporter(Resource):
    """Which container of which pod reports the result, where there are several."""

    container: ObjectName | None = Field(None, description="Name of the container; the only one, or the first, when left out.")
    pod_selector: dict[str, LabelValue] | None = Field(
        None, max_length=16, description="Labels of the reporting pod, for workloads of several pods."
    )


class Template(Resource):
    """What a Trial runs: exactly one of job and object."""

    job: dict[str, Any] | None = Field(None, description="A Job as in a CronJob's jobTemplate: metadata and spec.")
    object: dict[str, Any] | None = Field(None, description="A whole object of any kind that the installation allows.")
    reporter: Reporter | None = Field(None, description="Which container reports the result.")
    priority_classes: tuple[ObjectName, ...] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="PriorityClasses of the pods by the rung of their Trial: the first for the lowest rung and for Trials that "
        "have none, the last for all higher ones. A pod template that names one keeps it. Kueue goes by it too.",
    )


class FloatRange(Resource):
    """A real number in a range."""

    min: float = Field(ge=-LARGEST, le=LARGEST, description="The smallest value, itself possible.")
    max: float = Field(ge=-LARGEST, le=LARGEST, description="The largest value, itself possible.")
    scale: Literal["Linear", "Log"] = Field("Linear", description="Log where 1 to 10 matters as much as 10 to 100.")
    step: float | None = Field(
        None, gt=0, le=LARGEST, description="Only min, min + step, min + 2 step and so on. Not together with Log."
    )


class IntRange(Resource):
    """A whole number in a range."""

    min: int = Field(ge=-SAFE_INTEGER, le=SAFE_INTEGER, description="The smallest value, itself possible.")
    max: int = Field(ge=-SAFE_INTEGER, le=SAFE_INTEGER, description="The largest value, itself possible.")
    scale: Literal["Linear", "Log"] = Field("Linear", description="Log where 1 to 10 matters as much as 10 to 100.")
    step: int | None = Field(
        None, ge=1, le=SAFE_INTEGER, description="Only min, min + step, min + 2 step and so on. Not together with Log."
    )


class OrdinalValues(Resource):
    """One of several numbers; neighbours are taken to be alike, distances do not count."""

    values: tuple[Annotated[float, Field(ge=-LARGEST, le=LARGEST)], ...] = Field(
        min_length=1, max_length=MAX_CHOICES, description="The numbers, ascending."
    )


class CategoricalChoices(Resource):
    """One of several names without an order."""

    choices: tuple[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)], ...] = Field(
        min_length=1, max_length=MAX_CHOICES, description="The names."
    )


class ParentValues(Resource):
    """A condition on another parameter."""

    parameter: str = Field(
        min_length=1, max_length=63, description="Name of a parameter that stands earlier in the list and is no float."
    )
    values: tuple[Any, ...] = Field(
        alias="in", min_length=1, max_length=MAX_CHOICES, description="The values that it may have: names or numbers."
    )


class ParameterSpec(Resource):
    """A parameter of the search space: a name, exactly one kind, and possibly conditions.

    Studies hold parameters as they were given, for the algorithm package reads them; this model is what the CRD says of them.
    """

    name: str = Field(
        min_length=1,
        max_length=63,
        pattern=f"^{NAME.pattern}$",
        description="Its name. Programs also find it as the environment variable HPO_PARAM_<NAME>, in capitals, so two names must "
        "not differ in case or in the characters '-', '.' and '_' alone.",
    )
    float: FloatRange | None = Field(None, description="A real number in a range.")
    int: IntRange | None = Field(None, description="A whole number in a range.")
    ordinal: OrdinalValues | None = Field(None, description="One of several numbers.")
    categorical: CategoricalChoices | None = Field(None, description="One of several names.")
    when: tuple[ParentValues, ...] = Field(
        (), max_length=8, description="The parameter exists only while all of these hold; a missing parent is no match."
    )


class ConstraintTerm(Resource):
    """A parameter's part in a sum."""

    parameter: str = Field(min_length=1, max_length=63, description="Name of a parameter that is a float or an int.")
    weight: float = Field(1, ge=-LARGEST, le=LARGEST, description="What its value is multiplied by; not 0.")


class ParameterConstraint(Resource):
    """A bound on a weighted sum of parameters; one that is inactive counts as 0."""

    terms: tuple[ConstraintTerm, ...] = Field(
        min_length=1, max_length=MAX_TERMS, description="What is added up; each parameter once."
    )
    max: float = Field(ge=-LARGEST, le=LARGEST, description="The bound, itself allowed.")


def _default_algorithm() -> dict[str, dict[str, Any]]:
    return {DEFAULT_ALGORITHM: {}}


class StudySpec(Resource):
    """What the user asks."""

    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=4, description="What is optimised, most important first.")
    constraints: tuple[OutcomeConstraint, ...] = Field((), max_length=8, description="Bounds on reported metrics.")
    parameters: tuple[dict[str, Any], ...] = Field(description="The search space; conditions look back, so the order counts.")
    parameter_constraints: tuple[ParameterConstraint, ...] = Field(
        (), max_length=MAX_CONSTRAINTS, description="Bounds on weighted sums of parameters; what breaks one is never tried."
    )
    algorithm: dict[str, dict[str, Any]] = Field(
        default_factory=_default_algorithm, min_length=1, description="What to try: exactly one of its fields."
    )
    schedule: dict[str, dict[str, Any]] | None = Field(
        None, min_length=1, description="How long to try it: exactly one of its fields, or left out."
    )
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

    created: Count = Field(0, description="Ever created, deleted ones included; also the number that the next one gets.")
    active: Count = Field(0, description="Without a result so far.")
    running: Count = Field(0, description="With running pods.")
    completed: Count = Field(0, description="Trained to their budget.")
    early_stopped: Count = Field(0, description="Ended early by the schedule.")
    failed: Count = Field(0, description="Gave no result; counted against limits.maxFailedTrials.")
    infeasible: Count = Field(0, description="Their configuration cannot be run, or their objective is not a finite number.")


class RankedTrial(Observed):
    """A Trial among the best."""

    trial_name: ObjectName = Field(description="Name of the Trial.")
    number: Number = Field(description="Its number in the Study.")
    budget: Count | None = Field(None, description="How far it was trained.")
    parameters: tuple[NamedValue, ...] = Field(max_length=100, description="What it tried.")
    metrics: tuple[NamedValue, ...] = Field(max_length=64, description="What it gave, objectives first.")


class StudyStatus(Observed):
    """How far, how good, how long. Never grows with the number of Trials."""

    observed_generation: int | None = Field(None, description="The generation of the spec that this status is about.")
    conditions: tuple[Condition, ...] = Field(
        (),
        max_length=16,
        description="Accepted: the Study can be run. Progressing: Trials are made and run. MetricsAvailable: the source of metrics "
        "answers. Succeeded: the Study has ended, and why.",
    )
    seed: int | None = Field(None, ge=0, le=2**31 - 1, description="The seed that is used: spec.seed, or the one that was drawn.")
    template_hash: str | None = Field(None, max_length=128, description="Hash of the template with which the Trials were made.")
    start_time: datetime | None = Field(None, description="When the Study was accepted.")
    completion_time: datetime | None = Field(None, description="When it ended.")
    estimated_completion_time: datetime | None = Field(None, description="When it will probably end.")
    progress: str | None = Field(
        None, max_length=32, description="Ended Trials, and of how many: 12/40; only 12 where nothing says how many there will be."
    )
    left: str | None = Field(
        None, max_length=32, description="Time until estimatedCompletionTime as it was when that was set: 35m, 2h10m."
    )
    trials: TrialCounts = Field(TrialCounts(), description="Trials by what became of them.")
    selector: str | None = Field(None, max_length=1024, description="Label selector of the pods of the Trials.")
    gpu_seconds: Count = Field(0, description="GPU-seconds that the ended Trials have used.")
    checkpoint_bytes: Count | None = Field(
        None, description="What the checkpoints that are kept take, each Trial's newest counted, as far as programs have told."
    )
    best: tuple[RankedTrial, ...] = Field(
        (), max_length=10, description="The best Trials at the highest budget that any has completed, best first."
    )
    pareto_front: tuple[RankedTrial, ...] = Field(
        (), max_length=100, description="With several objectives: the Trials that no other beats in all of them."
    )


# Trial


class StudyRef(Observed):
    """The Study that a Trial belongs to."""

    name: ObjectName = Field(description="Its name.")
    uid: Uid = Field(description="Its uid: a Study of the same name that comes later is another one.")


class SlotSpec(Observed):
    """A Trial's place in its schedule or population."""

    bracket: Count | None = Field(None, description="The bracket of Hyperband.")
    rung: Count | None = Field(None, description="The rung within it, the lowest budget first.")
    generation: Count | None = Field(None, description="The generation of a population or swarm.")
    member: Count | None = Field(None, description="The member of a population, or a configuration's number in its bracket.")


class RestoreFrom(Observed):
    """The checkpoint that a Trial starts from."""

    trial_name: ObjectName = Field(description="Name of the Trial that wrote it.")
    number: Number = Field(description="Number of that Trial.")
    step: Count = Field(description="The step after which it was written.")
    path: Path = Field(description="Where it lies in the store.")
    digest: Text = Field(description="Digest of its content, checked before it is used.")


class TrialSpec(Observed):
    """One configuration, run once. Immutable."""

    study_ref: StudyRef = Field(description="The Study that the Trial belongs to.")
    number: Number = Field(description="Its number in the Study, from 0, without holes.")
    parameters: tuple[NamedValue, ...] = Field(max_length=100, description="What it tries: the active parameters.")
    budget: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="How far it trains, in the Study's unit of budget."
    )
    slot: SlotSpec | None = Field(None, description="Its place in the schedule or population.")
    restore_from: RestoreFrom | None = Field(None, description="The checkpoint that it starts from; its own last one goes first.")
    memo: Annotated[str, Field(max_length=MAX_MEMO)] | None = Field(
        None, description="What the algorithm will need later and cannot read off the parameters."
    )
    origin: Literal["Given", "Sampled", "Promoted", "Perturbed", "Fallback"] = Field(
        "Sampled",
        description="Given in warmStart.configurations, or the best of warmStart.studies; Sampled by the algorithm; Promoted "
        "from a lower rung; Perturbed from another member; or a Fallback, drawn quasi-randomly because the algorithm failed.",
    )


class WorkloadRef(Observed):
    """The object that runs the Trial."""

    api_version: Text = Field(description="Its API version.")
    kind: Text = Field(description="Its kind.")
    name: ObjectName = Field(description="Its name.")
    uid: Uid = Field(description="Its uid.")


class CurvePoint(Observed):
    """A point of the learning curve."""

    step: Count = Field(description="The step.")
    value: Text = Field(description="The first objective at it; numbers as they are written, NaN included.")


class Observation(Observed):
    """What was measured."""

    source: Literal["TerminationMessage", "Log", "Prometheus", "Report"] = Field(description="Where the result was read.")
    step: Count | None = Field(None, description="The last step that was reported.")
    objective: Text | None = Field(None, description="The first objective, where it was reported.")
    metrics: tuple[NamedValue, ...] = Field((), max_length=64, description="The result, objectives first.")
    curve: tuple[CurvePoint, ...] = Field((), max_length=64, description="The learning curve, thinned evenly.")


class StopRecord(Observed):
    """Why a Trial was ended early."""

    rule: Text = Field(description="The rule that stopped it.")
    step: Count = Field(description="The step on whose result it was stopped.")


class CheckpointRecord(Observed):
    """The newest complete checkpoint, and what becomes of the folder that it lies in."""

    step: Count | None = Field(
        None, description="The step after which it was written; missing where the Trial is not known to have left a complete one."
    )
    digest: Text | None = Field(None, description="Digest of its content.")
    size: Count | None = Field(None, alias="bytes", description="What its files take together, where that was reported.")
    path: Path = Field(description="Where it lies in the store; without a step, where the Trial's folder lies.")
    state: Literal["Kept", "Collecting", "Collected"] = Field(
        "Kept",
        description="Kept while another Trial may start from it, or the Trial is one of the best; Collecting once nothing starts "
        "from it any more; Collected once the Trial's whole folder is gone.",
    )


class RestoreRecord(Observed):
    """What starting from another Trial's checkpoint took."""

    trial_name: ObjectName = Field(description="Name of the Trial whose checkpoint it was.")
    step: Count = Field(description="The step after which it was written.")
    size: Count = Field(alias="bytes", description="What was copied.")
    seconds: float = Field(ge=0, description="How long copying and comparing with the digest took.")


class TrialStatus(Observed):
    """What became of a Trial. Once `Succeeded` is True or False the result never changes."""

    conditions: tuple[Condition, ...] = Field(
        (), max_length=16, description="Running: its pods run, or why not. Succeeded: how it ended, and why."
    )
    workload: WorkloadRef | None = Field(None, description="The object that runs it.")
    pod: ObjectName | None = Field(None, description="The pod that reports; of several attempts the last one's.")
    attempts: Count = Field(
        0, description="How often it was started: once more after each pod that was lost, and after each return to its queue."
    )
    evictions: Count = Field(
        0, description="How often its queue has taken its place away while it ran. Counted in attempts, but not against maxRetries."
    )
    start_time: datetime | None = Field(None, description="When its pods first ran.")
    completion_time: datetime | None = Field(None, description="When they ended.")
    observation: Observation | None = Field(None, description="What was measured.")
    stop: StopRecord | None = Field(None, description="Why it was ended early.")
    checkpoint: CheckpointRecord | None = Field(None, description="Its newest complete checkpoint.")
    restored: RestoreRecord | None = Field(None, description="That it started from another Trial's checkpoint, as it says itself.")
    gpu_seconds: Count = Field(0, description="GPUs times the seconds that they were held, over all attempts.")


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
