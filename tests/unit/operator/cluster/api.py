"""An API server of which a test says what happens while it answers: what the real one shows only by chance."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import cast

from hpo_operator.cluster.client import Client, Kind, RequestFailed
from hpo_operator.cluster.controller import Controller
from hpo_operator.cluster.durations import Durations
from hpo_operator.cluster.events import Recorder
from hpo_operator.cluster.executor import Executor
from hpo_operator.cluster.queue import WorkQueue
from hpo_operator.cluster.rendering import NUMBER_LABEL, STUDY_UID_LABEL, owner
from hpo_operator.cluster.store import Store, StudyState
from prometheus_client import CollectorRegistry

from tests.unit.operator.builders import StudyBuilder, TrialBuilder, a_ledger
from tests.unit.operator.cluster.objects import Object, a_job

UID = "study-uid"
NAMESPACE = "team-a"


def a_job_of(number: int) -> Object:
    """The Job of a Trial, by its labels and its owner."""
    job = a_job().having("metadata", "name", value=f"digits-{number}").having("metadata", "uid", value=f"w{number}")
    job = job.having("metadata", "labels", value={STUDY_UID_LABEL: UID, NUMBER_LABEL: str(number)})
    return job.having("metadata", "ownerReferences", value=[owner("Trial", f"digits-{number}", f"t{number}")]).build()


class Api:
    """Objects by kind and name. `meanwhile` is called when a request was carried out and its answer is still under way."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Object] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.meanwhile: Callable[[str, str, str], None] = lambda verb, kind, name: None
        self._version = 100

    def put(self, raw: Object) -> Object:
        """Make an object be there, at a new version."""
        self._version += 1
        known = self.objects.get((raw["kind"], raw["metadata"]["name"]), raw)["metadata"]
        metadata = {"uid": f"uid-{self._version}", **known, **raw["metadata"], "resourceVersion": str(self._version)}
        self.objects[raw["kind"], metadata["name"]] = {**raw, "metadata": metadata}
        return self.objects[raw["kind"], metadata["name"]]

    def did(self, verb: str, kind: str) -> list[str]:
        """The names of the objects of a kind about which it was asked."""
        return [name for each, of, name in self.asked if (each, of) == (verb, kind)]

    async def create(self, kind: Kind, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        name = body["metadata"]["name"]
        if (kind.kind, name) in self.objects:
            raise RequestFailed("create", 409, "AlreadyExists", f"{name} already exists")
        found = self.put(body)
        self._tell("create", kind.kind, name)
        return found

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        found = self.objects.get((kind.kind, name))
        self._tell("get", kind.kind, name)
        return found

    async def list(self, kind: Kind, namespace: str | None, selector: str = "", fields: str = "") -> AsyncIterator[Object]:
        found = [raw for (of, _), raw in self.objects.items() if of == kind.kind]
        self._tell("list", kind.kind, selector)
        for each in found:
            yield each

    async def patch_status(self, kind: Kind, namespace: str, name: str, version: str, status: Object) -> Object:
        known = self.objects.get((kind.kind, name))
        if known is None:
            raise RequestFailed("patch", 404, "NotFound", f"{name} not found")
        if version != known["metadata"]["resourceVersion"]:
            raise RequestFailed("patch", 409, "Conflict", "the object has been modified")
        found = self.put({**known, "status": {**(known.get("status") or {}), **status}})
        self._tell("patch", kind.kind, name)
        return found

    def _tell(self, verb: str, kind: str, name: str) -> None:
        self.asked.append((verb, kind, name))
        self.meanwhile(verb, kind, name)


class Bench:
    """One Study, which was accepted, with its Trials; the parts of the operator that ask and write for it."""

    def __init__(self, study: StudyBuilder, *trials: TrialBuilder) -> None:
        self.api, self.store = Api(), Store()
        client, built = cast(Client, self.api), study.build()
        metadata = {"name": "digits", "namespace": NAMESPACE, "uid": UID, "generation": built.metadata.generation}
        raw = self.api.put({"apiVersion": "hpo.dev/v1alpha1", "kind": "Study", "metadata": metadata})
        self.store.study(None, raw)
        self.controller = Controller(client, self.store, Recorder(client), Durations(CollectorRegistry()))
        self.executor = Executor(client, Recorder(client), WorkQueue())
        self.state: StudyState = self.store.studies[UID]
        self.state.study, self.state.edited = built, False
        self.state.ledger = a_ledger(built, *(each.build() for each in trials))
