"""From a Job and its pods, as the API server shows them, to what the planner knows of a workload."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from hpo_operator import conditions as c
from hpo_operator.cluster.rendering import reporting_container
from hpo_operator.reports import INFEASIBLE_EXIT_CODE, final_message
from hpo_operator.resources import StudySpec, WorkloadRef
from hpo_operator.workloads import ABSENT, Phase, Workload

Object = Mapping[str, Any]

IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
ENDED_PHASES = ("Succeeded", "Failed")


def observe_job(spec: StudySpec, job: Object | None, pods: Iterable[Object]) -> Workload:
    """A Trial's Job and its pods as a workload; `job` is None when it has been looked for and is not there."""
    pods = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    ended = all(_pod_ended(pod) for pod in pods)
    if job is None:
        return ABSENT if ended else Workload(Phase.ABSENT, ended=False)
    ref = reference(job)
    finished = _finished(job)
    pod = pods[-1] if pods else None
    seen = _Pod(spec, pod) if pod is not None else None
    base = Workload(
        phase=Phase.PENDING,
        ref=ref,
        ended=ended and (finished is not None or not _active(job)),
        started=seen.started if seen else None,
        finished=seen.finished if seen else None,
        gpus=gpus_of(spec, pod) if pod is not None else 0,
        report=seen.report if seen else None,
        source="TerminationMessage",
        created=_time((pod or job)["metadata"].get("creationTimestamp")),
        deleting=bool(job["metadata"].get("deletionTimestamp")),
        exit_code=seen.exit_code if seen else None,
    )
    if finished == "Failed" and seen and seen.disrupted:
        return replace(base, phase=Phase.FAILED, disrupted=True, message=seen.message or "Its pod was disrupted.")
    if finished == "Failed":
        reason, message = _failure(job, seen)
        return replace(base, phase=Phase.FAILED, reason=reason, message=message)
    if finished == "Complete" or _alone_and_succeeded(job, seen):
        # A single pod that has succeeded decides before the Job controller, which looks once a second, has written so.
        return replace(base, phase=Phase.SUCCEEDED, ended=ended)
    if seen and seen.exit_code == INFEASIBLE_EXIT_CODE and ended:
        return replace(base, phase=Phase.FAILED, reason=c.INFEASIBLE)
    if seen and seen.running:
        return replace(base, phase=Phase.RUNNING, ended=False)
    reason, message = _pending(job, seen)
    return replace(base, reason=reason, message=message, ended=ended)


def reference(workload: Object) -> WorkloadRef:
    """The reference to an object that stands in a Trial's status."""
    metadata = workload["metadata"]
    return WorkloadRef(api_version=workload["apiVersion"], kind=workload["kind"], name=metadata["name"], uid=metadata["uid"])


def gpus_of(spec: StudySpec, pod: Object) -> int:
    """How many GPUs a pod holds, over all its containers; MIG slices count as one each."""
    total = 0
    for container in pod["spec"]["containers"]:
        limits = (container.get("resources") or {}).get("limits") or {}
        total += sum(int(count) for name, count in limits.items() if name.startswith("nvidia.com/") and str(count).isdigit())
    return total


class _Pod:
    """What one pod tells of its Trial, through the container that reports."""

    def __init__(self, spec: StudySpec, pod: Object) -> None:
        status = pod.get("status") or {}
        self.phase: str = status.get("phase", "Pending")
        self.running = self.phase == "Running" and not pod["metadata"].get("deletionTimestamp")
        self.conditions = {each["type"]: each for each in status.get("conditions") or ()}
        self.disrupted = self.conditions.get("DisruptionTarget", {}).get("status") == "True"
        name = reporting_container(pod["spec"], spec.template)["name"]
        statuses = {each["name"]: each for each in status.get("containerStatuses") or ()}
        state = (statuses.get(name) or {}).get("state") or {}
        terminated = state.get("terminated") or {}
        self.waiting: Object = next((s["state"]["waiting"] for s in statuses.values() if (s.get("state") or {}).get("waiting")), {})
        self.exit_code: int | None = terminated.get("exitCode")
        self.started = _time((state.get("running") or terminated).get("startedAt"))
        self.finished = _time(terminated.get("finishedAt"))
        self.report = final_message(terminated.get("message") or "")
        self.message = self._message(status, terminated)

    def _message(self, status: Object, terminated: Object) -> str:
        disruption = self.conditions.get("DisruptionTarget", {})
        if self.disrupted:
            return f"{disruption.get('reason', 'Disrupted')}: {disruption.get('message', '')}".strip()
        if terminated.get("reason") == "OOMKilled":
            return "The program was killed because it used more memory than its limit (OOMKilled)."
        if self.exit_code:
            last = [line for line in (terminated.get("message") or "").splitlines() if line.strip() and not line.startswith("{")]
            words = f"; its last words: {last[-1][:300]}" if last else ""
            return f"The program ended with exit code {self.exit_code}{words}."
        return str(status.get("message") or status.get("reason") or "")


def _finished(job: Object) -> str | None:
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return None


def _active(job: Object) -> bool:
    status = job.get("status") or {}
    return bool(status.get("active") or status.get("terminating"))


def _alone_and_succeeded(job: Object, pod: _Pod | None) -> bool:
    alone = (job["spec"].get("completions") or 1) == 1 and (job["spec"].get("parallelism") or 1) == 1
    return alone and pod is not None and pod.phase == "Succeeded"


def _failure(job: Object, pod: _Pod | None) -> tuple[str, str]:
    failed: Object = next(each for each in job["status"]["conditions"] if each["type"] == "Failed")
    if failed.get("reason") == "DeadlineExceeded":
        return c.TIMED_OUT, "The Job ran longer than its activeDeadlineSeconds."
    return c.PROGRAM_FAILED, (pod.message if pod and pod.message else failed.get("message", ""))


def _pending(job: Object, pod: _Pod | None) -> tuple[str, str]:
    if job["spec"].get("suspend"):
        return c.QUOTA_PENDING, "The Job is suspended: its queue has not admitted it yet."
    if pod is None:
        for condition in (job.get("status") or {}).get("conditions") or ():
            if condition["type"] == "FailureTarget":
                return c.CREATING, str(condition.get("message", ""))
        return c.CREATING, ""
    scheduled = pod.conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return c.UNSCHEDULABLE, str(scheduled.get("message", ""))
    if pod.waiting.get("reason") in IMAGE_REASONS:
        return c.IMAGE_PULL, f"{pod.waiting.get('reason')}: {pod.waiting.get('message', '')}"
    return c.CREATING, str(pod.waiting.get("message") or pod.waiting.get("reason") or "")


def _pod_ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ENDED_PHASES


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
