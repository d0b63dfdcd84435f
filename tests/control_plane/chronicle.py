"""What has happened in a namespace, in the order in which the API server let it happen.

    with Chronicle(plane, namespace) as chronicle:
        ...
        chronicle.catch_up()
    assert chronicle.created("Job") == {number: 1 for number in range(4)}
    assert chronicle.most_running() <= 2

All objects are in one store, whose revisions order the changes of all kinds: what is seen over several watches is put into that
order, so that "never more than two at once" is a statement about every moment, and not about the moments when a test looked.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import partial
from http.client import HTTPException
from types import TracebackType
from typing import NamedTuple, Self

from tests.control_plane.building import VERSION, has_ended
from tests.testbed import ApiError, ControlPlane, Object, wait_until

KINDS = ((VERSION, "Trial"), ("batch/v1", "Job"), ("v1", "Pod"))
NUMBER = "hpo.dev/trial-number"
WATCH_SECONDS = 20  # then a watch begins anew, or ends with the test


class Event(NamedTuple):
    """One change; `type` is ADDED, MODIFIED or DELETED."""

    revision: int
    kind: str
    type: str
    object: Object


class Chronicle:
    """Writes down all changes of a namespace's Trials, Jobs and pods inside the `with` block."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane, self._namespace = plane, namespace
        self._events: list[Event] = []
        self._known: dict[str, dict[str, Object]] = {kind: {} for _, kind in KINDS}
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        for version, kind in KINDS:
            look = partial(self._take_stock, version, kind)
            arguments = (version, kind, wait_until(f"{kind}s to be served", look))  # a new kind is not at once
            threading.Thread(target=self._write_down, args=arguments, name=f"chronicle of {kind}s", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()

    # What is asked

    def events(self, *kinds: str) -> list[Event]:
        """All changes so far of some kinds, or of all."""
        return sorted((each for each in list(self._events) if not kinds or each.kind in kinds), key=lambda each: each.revision)

    def catch_up(self) -> None:
        """Waits until everything that has happened up to now is written down."""
        for version, kind in KINDS:
            wait_until(f"the chronicle of {kind}s", partial(self._is_at, version, kind))

    def created(self, kind: str) -> dict[int, int]:
        """How many objects of a kind there ever were for each Trial's number."""
        uids = {(_number(each.object), each.object["metadata"]["uid"]) for each in self.events(kind) if _is_of_a_trial(each.object)}
        return dict(sorted(Counter(number for number, _ in uids).items()))

    def most_running(self) -> int:
        """The largest number of Trials whose workload was there and had not ended, at any moment."""
        jobs: dict[int, dict[str, Object]] = defaultdict(dict)
        pods: dict[int, dict[str, Object]] = defaultdict(dict)
        running: set[int] = set()
        most = 0
        for event in self.events("Job", "Pod"):
            if not _is_of_a_trial(event.object):
                continue
            number = _number(event.object)
            _apply(jobs[number] if event.kind == "Job" else pods[number], event)
            if _runs(jobs[number].values(), pods[number].values()):
                running.add(number)
            else:
                running.discard(number)
            most = max(most, len(running))
        return most

    def most_active(self) -> int:
        """The largest number of Trials without a result at any moment."""
        active: set[str] = set()
        most = 0
        for event in self.events("Trial"):
            uid = event.object["metadata"]["uid"]
            if event.type == "DELETED" or has_ended(event.object):
                active.discard(uid)
            else:
                active.add(uid)
            most = max(most, len(active))
        return most

    # How it is written

    def _write_down(self, version: str, kind: str, revision: str) -> None:
        while not self._ended.is_set():
            try:
                if not revision:
                    revision = self._take_stock(version, kind)
                for type_, obj in self._plane.api.watch(
                    version, kind, self._namespace, seconds=WATCH_SECONDS, resourceVersion=revision
                ):
                    if type_ == "ERROR":
                        revision = ""
                        break
                    revision = obj["metadata"]["resourceVersion"]
                    self._put(Event(int(revision), kind, type_, obj))
            except ApiError:
                revision = ""
                self._ended.wait(0.1)
            except (OSError, ValueError, HTTPException):  # the API server is away, or was killed in the middle of a line
                self._ended.wait(0.1)

    def _take_stock(self, version: str, kind: str) -> str:
        """Takes in what is there, before the first watch and after a gap; gives the revision of that."""
        path = self._plane.api.path(version, kind, namespace=self._namespace)
        answer = self._plane.api.request("GET", path)
        revision: str = answer["metadata"]["resourceVersion"]
        known, there = dict(self._known[kind]), {each["metadata"]["uid"]: each for each in answer["items"]}
        for uid in known.keys() - there.keys():
            self._put(Event(int(revision), kind, "DELETED", known[uid]))
        for uid, obj in there.items():
            if uid not in known or known[uid]["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
                self._put(Event(int(obj["metadata"]["resourceVersion"]), kind, "MODIFIED", obj))
        return revision

    def _put(self, event: Event) -> None:
        _apply(self._known[event.kind], event)
        self._events.append(event)

    def _is_at(self, version: str, kind: str) -> bool:
        there = {
            each["metadata"]["uid"]: each["metadata"]["resourceVersion"]
            for each in self._plane.api.objects(version, kind, self._namespace)
        }
        known = {uid: each["metadata"]["resourceVersion"] for uid, each in list(self._known[kind].items())}
        return there == known


def _apply(objects: dict[str, Object], event: Event) -> None:
    uid = event.object["metadata"]["uid"]
    if event.type == "DELETED":
        objects.pop(uid, None)
    else:
        objects[uid] = event.object


def _is_of_a_trial(obj: Object) -> bool:
    """Whether an object has a Trial's number; what removes checkpoints has none."""
    return NUMBER in (obj["metadata"].get("labels") or {})


def _number(obj: Object) -> int:
    return int(obj["metadata"]["labels"][NUMBER])


def _runs(jobs: Iterable[Object], pods: Iterable[Object]) -> bool:
    """Whether one of these has not ended: a pod, or a Job that may still make one."""
    pods = list(pods)
    if any(pod["status"].get("phase") not in ("Succeeded", "Failed") for pod in pods):
        return True
    return any(not pods and not _finished(job) for job in jobs)


def _finished(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions") or ()
    return any(each["type"] in ("Complete", "Failed") and each["status"] == "True" for each in conditions)
