"""From a workload and its pods, as the API server shows them, to what the planner knows of it.

The workload says whether it has ended; its pods say what came of it. Their events come by another watch, and may come later:
the end of a workload whose reporting pod is not seen to have ended is `awaiting` until the caller has asked the API server for
the pods (`pods_listed`). A result that is not found even then is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from hpo_operator import conditions as c
from hpo_operator.cluster.kinds import JOB, End, WorkloadKind, conditions_of, time_of
from hpo_operator.cluster.rendering import RESTORING, reporting_container
from hpo_operator.outcomes import is_complete, metrics_wanted
from hpo_operator.reports import (
    DONOR_UNAVAILABLE_EXIT_CODE,
    INFEASIBLE_EXIT_CODE,
    NO_WEIGHTS,
    Weights,
    final_message,
    final_weights,
)
from hpo_operator.resources import StudySpec, WorkloadRef
from hpo_operator.workloads import Hold, Phase, Workload

Object = Mapping[str, Any]

IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
DEADLINE_EXCEEDED = "DeadlineExceeded"  # as a Job, a RayJob and the kubelet say it
FINAL = {INFEASIBLE_EXIT_CODE: c.INFEASIBLE, DONOR_UNAVAILABLE_EXIT_CODE: c.DONOR_UNAVAILABLE}  # another try would end the same
GONE = "gone"  # a field that the store sets on a pod that it keeps after its deletion
CLAIMED = "claimed"  # and one with the GPUs that a pod gets by its resource claims

_GPU = re.compile(r"[^/]+/(gpu|mig-).*")
_INDEX = "batch.kubernetes.io/job-completion-index"
_JOB_NAME = "batch.kubernetes.io/job-name"
_UID_LABELS = {
    ("batch", "Job"): "batch.kubernetes.io/controller-uid",
    ("jobset.x-k8s.io", "JobSet"): "jobset.sigs.k8s.io/jobset-uid",
}
_EXIT_CODE = re.compile(r"failed with exit code (\d+)")  # in the words of a Job whose podFailurePolicy has ended it


def observe(
    spec: StudySpec,
    kind: WorkloadKind,
    workload: Object | None,
    pods: Iterable[Object],
    last: Object | None = None,
    *,
    pods_listed: bool = False,
) -> Workload:
    """A Trial's workload and its pods as they are known now.

    `workload` is None when it has been looked for and is not there; `last` is then the one that was seen last, if any was.
    `pods_listed` says that its pods were asked from the API server since it was seen to have ended: without that, `awaiting` may
    ask for it. Of a pod that was deleted, the last state with `gone: true` keeps its report and its GPU time in the account.
    """
    known = [_Pod(spec, pod) for pod in pods]
    everything_ended = all(pod.ended for pod in known)
    if workload is None:
        return _absent(kind, last, known, everything_ended)
    created = _created(workload)
    resumed = _resumed(workload)
    own = [pod for pod in known if pod.is_of(kind, str(workload["metadata"].get("uid")), created) and not pod.left_before(resumed)]
    end = kind.end_of(workload)
    counting = _counting(kind, workload, own, end)
    seen = _reporter(spec, counting, finished=end is not None)
    base = Workload(
        phase=Phase.PENDING,
        ref=reference(workload),
        ended=everything_ended,
        started=(seen.started if seen else None) or min((pod.started for pod in counting if pod.started), default=None),
        finished=seen.finished if seen else None,
        gpus=sum(pod.gpus for pod in own if not pod.ended) or sum(pod.gpus for pod in counting),
        holds=_holds(own),
        report=seen.report if seen else None,
        source="TerminationMessage",
        created=seen.created if seen else created,
        deleting=bool(workload["metadata"].get("deletionTimestamp")),
        exit_code=seen.exit_code if seen else None,
        weights=seen.weights if seen else NO_WEIGHTS,
        pods=(names := _names(seen, counting, own)),
        lost=bool(names) and len(names) < len(own),
    )
    if end is None:
        return _unfinished(kind, workload, base, counting)
    base = replace(base, ended=everything_ended and not _active(workload), finished=base.finished or _latest(counting) or end.time)
    if end.succeeded:
        asked_to_go = time_of(workload["metadata"].get("deletionTimestamp"))
        base = replace(base, succeeded_first=bool(asked_to_go and end.time and end.time <= asked_to_go))
        return _succeeded(base, counting, seen, pods_listed)
    return _failed(base, end, counting, pods_listed)


def reference(workload: Object) -> WorkloadRef:
    """The reference to an object that stands in a Trial's status."""
    metadata = workload["metadata"]
    return WorkloadRef(api_version=workload["apiVersion"], kind=workload["kind"], name=metadata["name"], uid=metadata["uid"])


def completion_index(pod: Object) -> str | None:
    """A pod's index, in a Job whose pods have one."""
    metadata = pod["metadata"]
    found: str | None = (metadata.get("labels") or {}).get(_INDEX) or (metadata.get("annotations") or {}).get(_INDEX)
    return found


def gpus_of(pod: Object) -> int:
    """How many GPUs a pod holds: its containers' together, or what an init container needs before; a MIG slice counts as one.

    What it gets by resource claims is its own from its start to its end.
    """
    together, before = 0, 0
    for container in pod["spec"].get("initContainers") or ():
        if container.get("restartPolicy") == "Always":  # it stays beside the others
            together += _gpus(container)
        before = max(before, together + (0 if container.get("restartPolicy") == "Always" else _gpus(container)))
    return max(before, together + sum(map(_gpus, pod["spec"]["containers"]))) + int(pod.get(CLAIMED, 0))


class _Pod:
    """What one pod tells of its Trial, above all through the container that reports."""

    def __init__(self, spec: StudySpec, pod: Object) -> None:
        metadata, status = pod["metadata"], pod.get("status") or {}
        self.name: str = metadata["name"]
        self.labels: Object = metadata.get("labels") or {}
        self.index = completion_index(pod)
        self.created = time_of(metadata.get("creationTimestamp"))
        self.phase: str = status.get("phase", "Pending")
        self.gone = bool(pod.get(GONE))
        self.ended = self.gone or self.phase in ("Succeeded", "Failed")
        self.leaving = self.gone or bool(metadata.get("deletionTimestamp"))
        self.running = self.phase == "Running" and not self.leaving
        self.conditions = {each["type"]: each for each in status.get("conditions") or ()}
        self.reason = str(status.get("reason") or "")
        self._status = status
        statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        began = [time_of(each.get("startedAt")) for status in statuses for each in _runs(status)]
        self._late = self._behind(min(filter(None, began), default=None))
        states: dict[str, Object] = {each["name"]: each.get("state") or {} for each in statuses}
        self.waiting: list[Object] = [state["waiting"] for state in states.values() if state.get("waiting")]
        self._terminated = {each["name"]: runs[0] for each in statuses if (runs := _runs(each)) and "exitCode" in runs[0]}
        name = self._program = reporting_container(pod["spec"], spec.template)["name"]
        restored = self._terminated.get(RESTORING, {})
        # Where the checkpoint to start from could not be had, the program has not run, and this speaks for it.
        self._last: Object = self._terminated.get(name) or (restored if restored.get("exitCode") else {})
        self.told = bool((states.get(name) or {}).get("terminated")) or (self.ended and not self.gone)
        self.exit_code: int | None = self._last.get("exitCode")
        self.report = final_message(self._last.get("message") or "")
        told, copied = (final_weights(each.get("message") or "") for each in (self._last, restored))
        self.weights = Weights(told.saved or copied.saved, told.restored or copied.restored)
        self.reports_all = is_complete(self.report, metrics_wanted(spec))
        self.started = self._by_node((states.get(name, {}).get("running") or self._last).get("startedAt"))
        self.finished = self._by_node(self._last.get("finishedAt"))
        self.gpus = gpus_of(pod)
        self.began = min((each + self._late for each in began if each), default=None)
        self.vanished = time_of(metadata.get("deletionTimestamp"))
        grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
        self._asked_to_go = self.vanished - grace if self.vanished else None  # Kubernetes notes the end of the grace that was given
        struck = self._holds("DisruptionTarget") or self._was_turned_away()
        deleted = self._asked_to_go is not None and self._asked_to_go <= (self._failed_at() or self._asked_to_go)
        self.deleted = self.phase != "Succeeded" and deleted and not struck  # by somebody, or because another pod has failed
        self.disrupted = self.phase != "Succeeded" and (struck or deleted)

    @property
    def place(self) -> object:
        """What it shares with the pods that came before it and failed, in a Job whose pods have an index."""
        return self.name if self.index is None else (self.labels.get(_JOB_NAME), self.index)

    def is_of(self, kind: WorkloadKind, uid: str, created: datetime | None) -> bool:
        """Whether it is of this workload, and not of an earlier one of the same Trial.

        Its age tells only where no label does: two API servers, whose clocks differ, may have made the one and the other.
        """
        owner = self.labels.get(_UID_LABELS.get(kind.key, ""))
        return bool(owner == uid) if owner else self.created is None or created is None or self.created >= created

    def left_before(self, resumed: datetime | None) -> bool:
        """Whether it was asked to go before its workload was admitted again, and is no part of what runs since then.

        Its age would not tell: a Job's controller makes pods first, and says afterwards that the Job goes on.
        """
        return resumed is not None and self._asked_to_go is not None and self._asked_to_go <= resumed

    def trouble(self) -> datetime | None:
        """When it was struck, or failed by itself."""
        if self.deleted:
            return self._asked_to_go
        struck = self.conditions.get("DisruptionTarget", {}) if self.disrupted else {}
        return time_of(struck.get("lastTransitionTime")) or self._failed_at()

    def until(self) -> datetime | None:
        """When it has let its GPUs go; where its node could not say so, when that was found out."""
        if not self.ended:
            return None
        ends = [self._by_node(each.get("finishedAt")) for each in self._terminated.values()]
        changes = [time_of(each.get("lastTransitionTime")) for each in self.conditions.values()]
        return max(filter(None, ends), default=None) or self.vanished or max(filter(None, changes), default=None) or self.began

    def message(self) -> str:
        """Why it has failed, for people."""
        if self._holds("DisruptionTarget"):
            found = self.conditions["DisruptionTarget"]
            return f"{found.get('reason', 'Disrupted')}: {found.get('message', '')}".removesuffix(": ")
        if self.deleted:
            return f"Its pod {self.name} was deleted."
        culprits = {name: each for name, each in self._terminated.items() if each.get("exitCode")}
        name, ended = next(((n, e) for n, e in culprits.items() if e is self._last), next(iter(culprits.items()), ("", {})))
        who = "The program" if name == self._program else f"Container {name}"
        if ended.get("reason") == "OOMKilled":
            return f"{who} was killed because it used more memory than its limit (OOMKilled)."
        if ended:
            last = [line for line in (ended.get("message") or "").splitlines() if line.strip() and not line.startswith("{")]
            words = f"; its last words: {last[-1][:300]}" if last else ""
            return f"{who} ended with exit code {ended['exitCode']}{words}."
        return ": ".join(filter(None, (self.reason, str(self._status.get("message") or ""))))

    def waits_for(self) -> tuple[str, str]:
        """Why it does not run yet."""
        scheduled = self.conditions.get("PodScheduled", {})
        if scheduled.get("status") == "False":
            gated = scheduled.get("reason") == "SchedulingGated"
            return c.QUOTA_PENDING if gated else c.UNSCHEDULABLE, str(scheduled.get("message") or "")
        if not self.waiting:
            return c.CREATING, ""
        waiting = min(self.waiting, key=lambda each: (each.get("reason") not in IMAGE_REASONS, not each.get("message")))
        reason = c.IMAGE_PULL if waiting.get("reason") in IMAGE_REASONS else c.CREATING
        return reason, ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))

    def _behind(self, began: datetime | None) -> timedelta:
        """How much its node's clock is late at least, by which its first container started before there was a pod."""
        if began is None or self.created is None:
            return timedelta()
        return max(self.created - began, timedelta())

    def _by_node(self, text: str | None) -> datetime | None:
        """A time that its node has told."""
        found = time_of(text)
        return found + self._late if found else None

    def _failed_at(self) -> datetime | None:
        """When the first of its containers failed, if one has."""
        times = [self._by_node(each.get("finishedAt")) for each in self._terminated.values() if each.get("exitCode")]
        return min(filter(None, times), default=None)

    def _holds(self, condition: str) -> bool:
        return bool(self.conditions.get(condition, {}).get("status") == "True")

    def _was_turned_away(self) -> bool:
        """Whether its node refused it, as after a restart without its GPUs: Kubernetes does not count that as a disruption."""
        return self.phase == "Failed" and self.reason not in ("", DEADLINE_EXCEEDED) and not self._terminated


def _absent(kind: WorkloadKind, last: Object | None, known: Sequence[_Pod], ended: bool) -> Workload:
    pods = [pod for pod in known if last is None or pod.is_of(kind, str(last["metadata"].get("uid")), _created(last))]
    return Workload(
        Phase.ABSENT,
        ref=reference(last) if last is not None else None,
        ended=ended,
        started=min((pod.started for pod in pods if pod.started), default=None),
        finished=_latest(pods) if ended else None,
        gpus=sum(pod.gpus for pod in pods),
        holds=_holds(pods),
        created=min((pod.created for pod in pods if pod.created), default=None),
    )


def _counting(kind: WorkloadKind, workload: Object, own: Iterable[_Pod], end: End | None) -> list[_Pod]:
    """The pods whose evidence counts: the newest of each place, and none that another one replaces or will replace."""
    if end is None and kind.is_suspended(workload):
        return []
    single = kind.key == JOB.key and _is_single(workload)
    newest: dict[object, _Pod] = {}
    for pod in sorted(own, key=lambda each: (str(each.created), each.name)):
        if end is not None and end.succeeded and kind.key == JOB.key and pod.phase == "Failed":
            continue  # another one has succeeded
        if end is not None or pod.phase == "Succeeded" or not (pod.disrupted or pod.leaving):
            newest["" if single else pod.place] = pod
    return list(newest.values())


def _reporter(spec: StudySpec, counting: Iterable[_Pod], *, finished: bool) -> _Pod | None:
    """The pod whose result counts, of those with the reporter's labels: one that reports all that is wanted goes first.

    While the workload goes on, a failed one goes last: it is being replaced, whatever it has said.
    """
    selector = (spec.template.reporter.pod_selector if spec.template.reporter else None) or {}

    def rank(pod: _Pod) -> tuple[bool, bool, bool, str]:
        alive = pod.phase != "Failed" and not pod.gone
        return (finished or alive) and pod.reports_all, alive, pod.index == "0", str(pod.created)

    return max((pod for pod in counting if selector.items() <= pod.labels.items()), key=rank, default=None)


def _unfinished(kind: WorkloadKind, workload: Object, base: Workload, counting: Sequence[_Pod]) -> Workload:
    if kind.key == JOB.key and _is_single(workload) and any(pod.phase == "Succeeded" for pod in counting):
        # A single pod that has succeeded decides before the Job controller, which looks once a second, has written so.
        return replace(base, phase=Phase.SUCCEEDED)
    code = next((pod.exit_code for pod in counting if pod.exit_code in FINAL), None)
    if base.ended and code is not None:
        ended = _ends_at_once(workload, code) or not _active(workload)
        return replace(base, phase=Phase.FAILED, ended=ended, reason=FINAL[code], exit_code=code)
    if any(pod.running for pod in counting):
        return replace(base, phase=Phase.RUNNING, ended=False)
    if kind.is_suspended(workload):
        return replace(base, reason=c.QUOTA_PENDING, message=f"The {kind.kind} is suspended: its queue has not admitted it yet.")
    reasons = [pod.waits_for() for pod in counting if not pod.ended]
    telling = sorted(reasons, key=lambda each: (each[0] == c.CREATING, not each[1]))
    if telling:
        reason, message = telling[0]
    else:  # a quota or pod security may refuse its pods, which stands in Events alone
        name = workload["metadata"]["name"]
        reason, message = c.CREATING, f"No pod yet: kubectl describe {kind.kind.lower()} {name} may say why."
    return replace(base, reason=reason, message=message)


def _succeeded(base: Workload, counting: Sequence[_Pod], seen: _Pod | None, pods_listed: bool) -> Workload:
    found = replace(base, phase=Phase.SUCCEEDED)
    if seen is not None and seen.told:
        return found
    if not pods_listed:
        return replace(found, awaiting=True)
    if seen is not None and not seen.gone:
        return replace(found, awaiting=seen.leaving)  # one that is not asked to go, as Ray's, will never say a last word
    if counting and seen is None:
        return found  # none has the reporter's labels: another attempt would not mend that
    return replace(found, disrupted=True, reason=c.RESULT_LOST, message="It has succeeded, but its pod is gone with its result.")


def _failed(base: Workload, end: End, counting: Sequence[_Pod], pods_listed: bool) -> Workload:
    troubled = sorted((pod for pod in counting if pod.trouble()), key=lambda pod: (pod.deleted, str(pod.trouble())))
    first = next(iter(troubled), next((pod for pod in counting if pod.phase == "Failed"), None))
    message = (first.message() if first else "") or end.message
    found = replace(base, phase=Phase.FAILED, reason=c.PROGRAM_FAILED, message=message)
    told = _EXIT_CODE.search(end.message)
    codes = {pod.exit_code for pod in counting} | ({int(told[1])} if told else set())
    if (code := next((each for each in FINAL if each in codes), None)) is not None:
        return replace(found, reason=FINAL[code], exit_code=code)
    if end.reason == DEADLINE_EXCEEDED or (first is not None and first.reason == DEADLINE_EXCEEDED):
        return replace(found, reason=c.TIMED_OUT, message="It ran longer than its activeDeadlineSeconds.")
    if first is not None and first.disrupted:
        return replace(found, disrupted=True, reason="", message=message or "Its pod was disrupted.")
    return replace(found, awaiting=first is None and not pods_listed)


def _holds(pods: Iterable[_Pod]) -> tuple[Hold, ...]:
    return tuple(Hold(pod.gpus, pod.began, pod.until()) for pod in pods if pod.gpus and pod.began)


def _names(first: _Pod | None, counting: Sequence[_Pod], own: Iterable[_Pod]) -> tuple[str, ...]:
    """The pods that there are and those that failed by themselves: what is missing was lost. None while one is to be replaced."""
    if not counting:
        return ()
    kept = [pod for pod in own if pod in counting or not (pod.disrupted or pod.leaving)]
    return tuple(pod.name for pod in sorted(kept, key=lambda each: each is not first))


def _created(workload: Object) -> datetime | None:
    return time_of(workload["metadata"].get("creationTimestamp"))


def _latest(pods: Iterable[_Pod]) -> datetime | None:
    return max((pod.finished for pod in pods if pod.finished), default=None)


def _resumed(workload: Object) -> datetime | None:
    """When its queue has last admitted a workload; a RayJob, which has no conditions, then starts anew."""
    for each in conditions_of(workload):
        if each.get("type") == "Suspended" and each.get("status") == "False":
            return time_of(each.get("lastTransitionTime"))
    return time_of((workload.get("status") or {}).get("startTime")) if workload["kind"] == "RayJob" else None


def _active(workload: Object) -> bool:
    """Whether a Job says that some of its pods run; other kinds have a field of the same name for something else."""
    status = workload.get("status") or {}
    return workload["kind"] == "Job" and any(
        isinstance(status.get(field), int) and status[field] > 0 for field in ("active", "terminating")
    )


def _ends_at_once(workload: Object, code: int) -> bool:
    """Whether a Job makes no other pod once one has ended with this exit code, as ours do; it says so a second later."""
    spec = workload.get("spec") or {}
    rules = (spec.get("podFailurePolicy") or {}).get("rules") or ()
    fails = any(rule.get("action") == "FailJob" and code in ((rule.get("onExitCodes") or {}).get("values") or ()) for rule in rules)
    return workload["kind"] == "Job" and (fails or spec.get("backoffLimit") == 0)


def _is_single(job: Object) -> bool:
    spec = job.get("spec") or {}
    return (spec.get("completions") or 1) == 1 and (spec.get("parallelism") or 1) == 1


def _gpus(container: Object) -> int:
    limits = (container.get("resources") or {}).get("limits") or {}
    return sum(int(count) for name, count in limits.items() if _GPU.fullmatch(name) and str(count).isdigit())


def _runs(status: Object) -> list[Object]:
    """A container's run now, or its last one, and the one before it."""
    state, before = status.get("state") or {}, status.get("lastState") or {}
    return [run for run in (state.get("running"), state.get("terminated"), before.get("terminated")) if run]
