"""The operator process: the informers, the controller behind them, and what the process says of itself."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import kopf
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from hpo_operator.cluster import informer, telemetry
from hpo_operator.cluster.client import PODS, TRIALS, Client, RequestFailed
from hpo_operator.cluster.controller import Controller
from hpo_operator.cluster.durations import Durations
from hpo_operator.cluster.events import Recorder
from hpo_operator.cluster.kinds import JOB
from hpo_operator.cluster.prometheus import Prometheus
from hpo_operator.cluster.rendering import STUDY_UID_LABEL
from hpo_operator.cluster.results import Gatherer
from hpo_operator.cluster.settings import Settings
from hpo_operator.cluster.sources import Source
from hpo_operator.cluster.store import Store
from hpo_operator.cluster.watch import Watch

log = logging.getLogger("hpo_operator")

IDENTITY: Any = "hpo-operator"  # kopf would ask for the name of the user, and in a container a user may have none
CONNECTIONS = 64  # to the API server at the same time
GARBAGE = (50_000, 20, 20)  # what is known of thousands of Trials lives long, and little else is in cycles: look seldom


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run the operator until `stop` is set, or until a part of it ends by itself, which is an error."""
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    async with AsyncExitStack() as stack:
        client = Client(await stack.enter_async_context(ApiClient(await _configuration())))
        store = Store(Source(configured=settings.prometheus is not None))
        registry, watches = CollectorRegistry(), informer.Watches(settings.namespaces)
        recorder = Recorder(client)
        kinds = [JOB, *settings.workload_kinds]
        controller = Controller(
            client,
            store,
            recorder,
            Durations(registry),
            kinds=settings.workload_kinds,
            cleanup_image=settings.cleanup_image,
            sdk_image=settings.sdk_image,
            max_pending=settings.max_pending,
            gpu_classes=settings.gpu_device_classes,
        )
        served = [each.served for each in kinds]
        source = None
        if settings.prometheus is not None:
            source = Prometheus(settings.prometheus, await stack.enter_async_context(aiohttp.ClientSession()))
        gatherer = Gatherer(client, store, source, controller.queue.add)
        controller.gatherer = gatherer
        handlers = informer.registry(store, watches, controller.queue.add, client.requests)
        if settings.port:
            registry.register(telemetry.StoreCollector(controller, client, watches))
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            server = await telemetry.serve(controller, watches, registry, settings.port)
            stack.push_async_callback(server.cleanup)
        watching = kopf.operator(
            registry=handlers,
            settings=informer.settings(),
            standalone=True,
            identity=IDENTITY,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
            stop_flag=stop,
        )
        async with asyncio.TaskGroup() as group:
            parts = (controller.run(), gatherer.run(), recorder.run(), _resync(controller, settings))
            working = [group.create_task(each) for each in parts]
            try:
                await controller.prime(settings.namespaces)
            except RequestFailed as failure:
                log.warning("%s; the watches will tell", failure)
            workloads = [(kind, store.workload, STUDY_UID_LABEL) for kind in served]
            for kind, take, label in [(TRIALS, store.trial, ""), (PODS, store.pod, STUDY_UID_LABEL), *workloads]:
                watches.begin(kind.resource)
                for namespace in settings.namespaces or (None,):
                    hear, miss = (partial(told, kind.resource, namespace or "") for told in (watches.hear, watches.miss))
                    watch = Watch(client, kind, namespace, label, take, controller.queue.add, hear, miss, controller.compare)
                    working.append(group.create_task(watch.run(informer.SERVER_SECONDS, informer.INACTIVE_SECONDS)))
            await watching
            for task in working:
                task.cancel()


async def _resync(controller: Controller, settings: Settings) -> None:
    while True:
        await asyncio.sleep(settings.resync_seconds)
        try:
            await controller.resync(settings.namespaces)
        except Exception:
            log.exception("the periodic comparison with the API server failed")


async def _configuration() -> Configuration:
    configuration = Configuration()
    if informer.in_cluster():
        config.load_incluster_config(client_configuration=configuration)
    else:
        await config.load_kube_config(client_configuration=configuration)
    configuration.connection_pool_maxsize = CONNECTIONS
    return with_environment_read_once(configuration)


def with_environment_read_once(configuration: Configuration) -> Configuration:
    """The same, but with the proxy that the environment names now.

    aiohttp would look that up anew for each request, and ~/.netrc, in a thread each time.
    """
    server = urlsplit(configuration.host)
    if configuration.proxy is None and not proxy_bypass(server.hostname or ""):
        configuration.proxy = getproxies().get(server.scheme)
    configuration.client_session_kwargs = {"trust_env": False, "cookie_jar": aiohttp.DummyCookieJar()}
    return configuration
