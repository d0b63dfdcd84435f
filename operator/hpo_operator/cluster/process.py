"""The operator process: kopf as the informer, the controller behind it, and nothing in between."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import kopf
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from hpo_operator.cluster.client import Client
from hpo_operator.cluster.controller import Controller
from hpo_operator.cluster.rendering import STUDY_UID_LABEL
from hpo_operator.cluster.store import Store

log = logging.getLogger("hpo_operator")

RESYNC_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the installer decides. `namespaces` empty means the whole cluster."""

    namespaces: tuple[str, ...] = ()


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run the operator until `stop` is set."""
    configuration = Configuration()
    await _load(configuration)
    configuration.connection_pool_maxsize = 64
    async with ApiClient(configuration) as api:
        controller = Controller(Client(api), Store())
        registry = kopf.OperatorRegistry()
        register(registry, controller)
        async with asyncio.TaskGroup() as group:
            working = [group.create_task(controller.run()), group.create_task(_resync(controller))]
            await kopf.operator(
                registry=registry,
                settings=informer_settings(),
                standalone=True,
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
                stop_flag=stop,
            )
            for task in working:
                task.cancel()


def register(registry: kopf.OperatorRegistry, controller: Controller) -> None:
    """Each event updates the store and names the Study to look at. kopf neither writes nor decides anything."""
    store, queue = controller.store, controller.queue
    kopf.on.login(registry=registry)(kopf.login_with_service_account if _in_cluster() else kopf.login_with_kubeconfig)
    watched: Sequence[tuple[tuple[str, ...], Any]] = (
        (("hpo.dev", "v1alpha1", "studies"), store.study),
        (("hpo.dev", "v1alpha1", "trials"), store.trial),
        (("batch", "v1", "jobs"), store.workload),
        (("", "v1", "pods"), store.pod),
    )
    for selector, take in watched:

        async def handler(type: str | None, body: kopf.Body, take: Any = take, **_: Any) -> None:
            uid = take(type, dict(body))
            if uid is not None:
                queue.add(uid)

        kopf.on.event(*selector, id=f"watch-{selector[-1]}", registry=registry)(handler)


class _NoEssence(kopf.DiffBaseStorage):
    """Nothing is compared: kopf would copy each object twice for a difference that only its stateful handlers look at."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return _NOTHING

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Nothing is persisted: a handler that only takes in an event has no progress."""

    def fetch(self, *, key: Any, body: kopf.Body) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        return None

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        return None

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        return None

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


_NOTHING: kopf.BodyEssence = {}


def informer_settings() -> kopf.OperatorSettings:
    """kopf's settings for a plain informer: see each field's reason."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # kopf's peering pauses; it does not elect
    settings.scanning.disabled = True  # nobody else's CRDs and namespaces need be known
    settings.posting.enabled = False  # Events are the executor's
    settings.persistence.diffbase_storage = _NoEssence()
    settings.persistence.progress_storage = _NoProgress()
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["jobs.batch"] = STUDY_UID_LABEL  # never watch what is not ours
    settings.watching.label_selectors["pods"] = STUDY_UID_LABEL
    settings.watching.server_timeout = 290  # shorter than what load balancers cut off silently
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.networking.request_timeout = 30
    settings.networking.enforce_retry_after = True
    return settings


async def _resync(controller: Controller) -> None:
    while True:
        await asyncio.sleep(RESYNC_SECONDS)
        try:
            await controller.resync()
        except Exception:
            log.exception("the periodic comparison with the API server failed")


async def _load(configuration: Configuration) -> None:
    if _in_cluster():
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(client_configuration=configuration)


def _in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and not os.environ.get("KUBECONFIG")
