"""Studies, Trials and workloads for tests, said as a person would say them; and what a plan says, in short."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from hpo_operator import conditions as c
from hpo_operator.ledger import Ledger
from hpo_operator.outcomes import format_number
from hpo_operator.planner import Cleanup, Consultation, MaxPending, Plan, Refusal, View, WriteStudy, WriteTrial, plan
from hpo_operator.reports import Aggregates, Report, Saved, Weights
from hpo_operator.resources import (
    CheckpointRecord,
    Condition,
    Metadata,
    NamedValue,
    Observation,
    RestoreFrom,
    SlotSpec,
    StopRecord,
    Study,
    StudyRef,
    StudySpec,
    StudyStatus,
    Trial,
    TrialSpec,
    TrialStatus,
    WorkloadRef,
)
from hpo_operator.validation import problem_of
from hpo_operator.workloads import Hold, Phase, Workload

DIGEST = "sha256:" + "d" * 64
START = datetime(2030, 1, 1, tzinfo=UTC)
X = {"name": "x", "float": {"min": 0.0, "max": 1.0}}
TEMPLATE = {"job": {"spec": {"template": {"spec": {"containers": [{"name": "main", "command": ["true"]}]}}}}}


def at(seconds: float) -> datetime:
    """A time, in seconds since the Study was created."""
    return START + timedelta(seconds=seconds)


def measured(step: int | None = None, **metrics: float | tuple[float, float, float]) -> Report:
    """A report; a metric is its value, or (last, lowest, highest)."""
    found = {name: Aggregates(*(v if isinstance(v, tuple) else (v, v, v))) for name, v in metrics.items()}
    return Report(step, found)


class StudyBuilder:
    """Minimises `loss` over x in [0, 1] at random, two Trials at once, without an end, until told otherwise."""

    def __init__(self) -> None:
        self._name, self._generation, self._status = "digits", 1, StudyStatus(seed=0)
        self._deleted: datetime | None = None
        self._spec: dict[str, Any] = {
            "objectives": [{"metric": "loss"}],
            "parameters": [X],
            "algorithm": {"random": {}},
            "parallelism": 2,
            "limits": {},
            "seed": 0,
            "template": TEMPLATE,
        }

    def _with(self, *, edited: bool = False, **fields: Any) -> Self:
        changed = copy.copy(self)
        changed._spec = {**self._spec, **fields}
        changed._generation += edited
        return changed

    def minimizing(self, metric: str, **more: Any) -> Self:
        return self._with(objectives=[{"metric": metric, "goal": "Minimize", **more}])

    def maximizing(self, metric: str, **more: Any) -> Self:
        return self._with(objectives=[{"metric": metric, "goal": "Maximize", **more}])

    def objectives(self, *objectives: dict[str, Any]) -> Self:
        return self._with(objectives=list(objectives))

    def constrained(self, metric: str, operator: str, bound: float) -> Self:
        return self._with(constraints=[{"metric": metric, "operator": operator, "bound": bound}])

    def over(self, *parameters: dict[str, Any]) -> Self:
        return self._with(parameters=list(parameters))

    def by(self, algorithm: str, schedule: str | None = None, **settings: Any) -> Self:
        """An algorithm and a schedule; the settings are the schedule's where there is one."""
        timing = {schedule: settings} if schedule else None
        return self._with(algorithm={algorithm: {} if schedule else settings}, schedule=timing)

    def budget(self, low: int, high: int) -> Self:
        return self._with(budget={"min": low, "max": high})

    def parallelism(self, count: int) -> Self:
        return self._with(parallelism=count, edited=True)

    def limits(self, **limits: int | None) -> Self:
        known = {**self._spec["limits"], **limits}
        return self._with(limits={name: value for name, value in known.items() if value is not None}, edited=True)

    def suspended(self, suspend: bool = True) -> Self:
        return self._with(suspend=suspend, edited=True)

    def ttl(self, seconds: int) -> Self:
        return self._with(workload_ttl_seconds=seconds, edited=True)

    def keeping_checkpoints(self, **more: str) -> Self:
        return self._with(checkpoints={"volume_claim": {"name": "weights"}, **more})

    def being_deleted(self) -> Self:
        changed = copy.copy(self)
        changed._deleted = at(0)
        return changed

    def keeping_objects(self, secret: str | None = "s3-rights") -> Self:
        return self._with(checkpoints={"object_store": {"uri": "s3://bucket/team-a/", "secret_name": secret}})

    def standing_at(self, status: StudyStatus) -> Self:
        """With a status, such as an earlier plan has written."""
        changed = copy.copy(self)
        changed._status = status
        return changed

    def started(self, when: datetime) -> Self:
        return self.standing_at(self._status.model_copy(update={"start_time": when}))

    def build(self) -> Study:
        metadata = Metadata(
            name=self._name,
            namespace="team-a",
            uid="study-uid",
            generation=self._generation,
            creation_timestamp=START,
            deletion_timestamp=self._deleted,
        )
        spec = StudySpec.model_validate({k: v for k, v in self._spec.items() if v is not None}, strict=False)
        return Study(metadata=metadata, spec=spec, status=self._status)


class TrialBuilder:
    """A Trial of the Study above, just created."""

    def __init__(self, number: int) -> None:
        self._number, self._created = number, at(0)
        self._deleted: datetime | None = None
        self._parameters = {"x": "0.5"}
        self._spec: dict[str, Any] = {}
        self._status: dict[str, Any] = {}
        self._conditions: tuple[Condition, ...] = ()

    def with_parameters(self, **values: str) -> Self:
        return self._with(_parameters=values)

    def budget(self, budget: int) -> Self:
        return self._with(_spec={**self._spec, "budget": budget})

    def slot(self, **slot: int) -> Self:
        return self._with(_spec={**self._spec, "slot": SlotSpec(**slot)})

    def restoring(self, donor: int) -> Self:
        restore = RestoreFrom(trial_name=f"digits-{donor}", number=donor, step=3, path="p", digest="d")
        return self._with(_spec={**self._spec, "restore_from": restore})

    def created(self, when: datetime) -> Self:
        return self._with(_created=when)

    def being_deleted(self) -> Self:
        return self._with(_deleted=at(0))

    def attempts(self, count: int) -> Self:
        return self._having(attempts=count)

    def evicted(self, times: int = 1) -> Self:
        """As it stands once its queue has taken its place away."""
        return self._having(attempts=1 + times, evictions=times).waiting(c.QUOTA_PENDING)

    def in_pod(self, name: str) -> Self:
        return self._having(pod=name)

    def gpu_seconds(self, seconds: int) -> Self:
        return self._having(gpu_seconds=seconds)

    def checkpoint(self, step: int = 3, state: str = "Kept") -> Self:
        return self._having(checkpoint=CheckpointRecord(step=step, digest="d", path="p", state=state))  # type: ignore[arg-type]

    def having(self, record: CheckpointRecord | None) -> Self:
        return self._having(checkpoint=record)

    def running(self, since: datetime = START) -> Self:
        """As it stands once its running has been written."""
        seen = self._seen()._having(start_time=since)
        return seen._put(c.RUNNING, "True", c.PODS_ACTIVE)._put(c.SUCCEEDED, "Unknown", "Running")

    def waiting(self, reason: str, message: str = "") -> Self:
        """As it stands once it has waited for thirty seconds."""
        return self._seen()._put(c.RUNNING, "False", reason, message)._put(c.SUCCEEDED, "Unknown", c.PENDING)

    def given_up(self, reason: str) -> Self:
        """As it stands once a loss or a suspension has been written."""
        return self.waiting(reason)

    def awaiting(self) -> Self:
        return self.running()._put(c.RUNNING, "False", c.FINISHED)._put(c.SUCCEEDED, "Unknown", c.AWAITING_RESULT)

    def completed(self, when: datetime = START, *, started: datetime = START, **metrics: float) -> Self:
        return self._having(observation=observed(metrics), start_time=started)._over("True", c.COMPLETED, when)

    def stopped_early(self, step: int = 1, when: datetime = START, **metrics: float) -> Self:
        record = StopRecord(rule="median", step=step)
        return self._having(stop=record, observation=observed(metrics))._over("True", c.EARLY_STOPPED, when)

    def over(self, reason: str, message: str = "", when: datetime = START) -> Self:
        """Ended without a result."""
        return self._over("False", reason, when, message)

    def _over(self, truth: c.Truth, reason: str, when: datetime, message: str = "") -> Self:
        ended = self._having(completion_time=when)._put(c.RUNNING, "False", c.FINISHED)
        return ended._put(c.SUCCEEDED, truth, reason, message)

    def _seen(self) -> Self:
        """As it stands once anything was written about its workload."""
        return self._having(workload=ref(f"w{self._number}"), attempts=self._status.get("attempts", 1))

    def _put(self, type_: str, truth: c.Truth, reason: str, message: str = "") -> Self:
        return self._with(_conditions=c.put(self._conditions, type_, truth, reason, message, START))

    def _having(self, **status: Any) -> Self:
        return self._with(_status={**self._status, **status})

    def _with(self, **fields: Any) -> Self:
        changed = copy.copy(self)
        vars(changed).update(fields)
        return changed

    def build(self) -> Trial:
        return Trial(
            metadata=Metadata(
                name=f"digits-{self._number}",
                namespace="team-a",
                uid=f"t{self._number}",
                creation_timestamp=self._created,
                deletion_timestamp=self._deleted,
            ),
            spec=TrialSpec(
                study_ref=StudyRef(name="digits", uid="study-uid"),
                number=self._number,
                parameters=tuple(NamedValue(name=name, value=value) for name, value in self._parameters.items()),
                **self._spec,
            ),
            status=TrialStatus(conditions=self._conditions, **self._status),
        )


class WorkloadBuilder:
    """A workload that has just been created."""

    def __init__(self, uid: str) -> None:
        self._fields: dict[str, Any] = {"phase": Phase.PENDING, "ref": ref(uid), "created": START}

    def _with(self, **fields: Any) -> Self:
        changed = copy.copy(self)
        changed._fields = {**self._fields, **fields}
        return changed

    def created(self, when: datetime) -> Self:
        return self._with(created=when)

    def pending(self, reason: str = "", message: str = "") -> Self:
        return self._with(phase=Phase.PENDING, reason=reason, message=message)

    def held(self, gpus: int, since: datetime, until: datetime | None = None) -> Self:
        return self._with(gpus=gpus, holds=(Hold(gpus, since, until),))

    def queued(self, *, pods: bool = False) -> Self:
        """Suspended by its queue, with or without pods that have not ended."""
        return self.pending(c.QUOTA_PENDING, "The Job is suspended.")._with(ended=not pods)

    def running(self, since: datetime = START, gpus: int = 0) -> Self:
        return self._with(phase=Phase.RUNNING, started=since, gpus=gpus)

    def in_pods(self, *names: str, lost: bool = False) -> Self:
        return self._with(pods=names, lost=lost)

    def curve(self, *points: tuple[int, float]) -> Self:
        return self._with(curve=points)

    def succeeded(self, when: datetime = START, report: Report | None = None, **metrics: Any) -> Self:
        """Ended well, and reported these metrics."""
        report = report or (measured(**metrics) if metrics else None)
        return self._ended(Phase.SUCCEEDED, when)._with(report=report, source="TerminationMessage")

    def awaiting(self) -> Self:
        return self._with(awaiting=True)

    def failed(self, code: int = 1, message: str = "", when: datetime = START, **more: Any) -> Self:
        return self._ended(Phase.FAILED, when)._with(exit_code=code, message=message, **more)

    def having_saved(self, step: int = 3, digest: str = DIGEST) -> Self:
        return self._with(weights=Weights(Saved(step, digest, 10)))

    def refused(self, message: str) -> Self:
        """As the executor shows one that the API server did not take."""
        return self._with(phase=Phase.FAILED, ref=None, ended=True, reason=c.WORKLOAD_REJECTED, message=message)

    def disrupted(self, message: str = "", when: datetime = START) -> Self:
        return self._ended(Phase.FAILED, when)._with(disrupted=True, message=message)

    def result_lost(self) -> Self:
        return self._ended(Phase.SUCCEEDED, START)._with(disrupted=True, reason=c.RESULT_LOST)

    def deleting(self, *, succeeded_first: bool = False) -> Self:
        return self._with(deleting=True, succeeded_first=succeeded_first)

    def lingering(self) -> Self:
        """Some of its pods have not ended."""
        return self._with(ended=False)

    def gone(self, *, pods: bool = False) -> Self:
        return self._with(phase=Phase.ABSENT, ended=not pods)

    def _ended(self, phase: Phase, when: datetime) -> Self:
        since = self._fields.get("started") or START
        return self._with(phase=phase, ended=True, started=since, finished=when)

    def build(self) -> Workload:
        return Workload(**self._fields)


def a_study() -> StudyBuilder:
    return StudyBuilder()


def a_trial(number: int) -> TrialBuilder:
    return TrialBuilder(number)


def a_workload(uid: str = "w0") -> WorkloadBuilder:
    return WorkloadBuilder(uid)


def ref(uid: str) -> WorkloadRef:
    return WorkloadRef(api_version="batch/v1", kind="Job", name=uid, uid=uid)


def observed(metrics: Mapping[str, float]) -> Observation:
    pairs = tuple(NamedValue(name=name, value=format_number(value)) for name, value in metrics.items())
    return Observation(source="TerminationMessage", metrics=pairs)


def a_ledger(study: Study, *trials: Trial, created: int = 0) -> Ledger:
    return Ledger(study.spec, problem_of(study.spec, 0).space, trials, created)


class Decision:
    """A plan for one situation, and questions to it."""

    def __init__(
        self,
        study: StudyBuilder,
        trials: Iterable[TrialBuilder] = (),
        workloads: Mapping[int, WorkloadBuilder | Workload] | None = None,
        *,
        now: datetime = START,
        asked: Consultation | None = None,
        stopping: bool = False,
        refusal: Refusal | None = None,
        deleted: Iterable[int] = (),
        metrics: tuple[c.Truth, str, str] | None = None,
        cleanup: Cleanup | None = None,
        max_pending: MaxPending | None = None,
    ) -> None:
        self.study = study.build()
        self.ledger = a_ledger(self.study, *(each.build() for each in trials))
        for number in deleted:
            self.ledger.remove(number)
        seen = {n: w if isinstance(w, Workload) else w.build() for n, w in (workloads or {}).items()}
        self.view = View(
            self.study, self.ledger, seen, now, asked, stopping, refusal, metrics, cleanup=cleanup, max_pending=max_pending
        )
        self.plan: Plan = plan(self.view)

    @property
    def actions(self) -> list[Any]:
        """All but the writing of the Study's status, which has tests of its own."""
        return [each for each in self.plan.actions if not isinstance(each, WriteStudy)]

    @property
    def status(self) -> StudyStatus:
        """The Study's status as it stands after this plan."""
        return next((each.status for each in self.plan.actions if isinstance(each, WriteStudy)), self.study.status)

    @property
    def written(self) -> dict[int, TrialStatus]:
        """The statuses of Trials that are to be written."""
        return {each.number: each.status for each in self.plan.actions if isinstance(each, WriteTrial)}

    def of(self, type_: str, number: int | None = None) -> tuple[str, str]:
        """Status and reason of one of the Study's conditions, or of a Trial's as it is to be written."""
        found = c.condition((self.status if number is None else self.written[number]).conditions, type_)
        assert found is not None
        return found.status, found.reason

    def message(self, type_: str, number: int | None = None) -> str:
        found = c.condition((self.status if number is None else self.written[number]).conditions, type_)
        assert found is not None
        return found.message
