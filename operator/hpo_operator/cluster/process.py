"""The operator process: kopf as the informer, the controller behind it, and what the process says of itself."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import aiohttp
import kopf
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from hpo_operator.cluster import informer, telemetry
from hpo_operator.cluster.client import Client, RequestFailed
from hpo_operator.cluster.controller import Controller
from hpo_operator.cluster.durations import Durations
from hpo_operator.cluster.events import Recorder
from hpo_operator.cluster.kinds import JOB
from hpo_operator.cluster.prometheus import Prometheus
from hpo_operator.cluster.results import Gatherer
from hpo_operator.cluster.settings import Settings
from hpo_operator.cluster.sources import Source
from hpo_operator.cluster.store import Store

log = logging.getLogger("hpo_operator")

CONNECTIONS = 64  # to the API server at the same time


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run the operator until `stop` is set, or until a part of it ends by itself, which is an error."""
    async with AsyncExitStack() as stack:
        client = Client(await stack.enter_async_context(ApiClient(await _configuration())))
        store = Store(Source(configured=settings.prometheus is not None))
        registry, watches = CollectorRegistry(), informer.Watches()
        recorder = Recorder(client)
        kinds = [JOB, *settings.workload_kinds]
        controller = Controller(client, store, recorder, Durations(registry), settings.workload_kinds, settings.cleanup_image)
        served = [each.served for each in kinds]
        source = None
        if settings.prometheus is not None:
            source = Prometheus(settings.prometheus, await stack.enter_async_context(aiohttp.ClientSession()))
        gatherer = Gatherer(client, store, source, controller.queue.add)
        controller.gatherer = gatherer
        handlers = informer.registry(store, served, watches, controller.queue.add)
        if settings.port:
            registry.register(telemetry.StoreCollector(controller, client, watches))
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            server = await telemetry.serve(controller, watches, registry, settings.port)
            stack.push_async_callback(server.cleanup)
        watching = kopf.operator(
            registry=handlers,
            settings=informer.settings(served),
            standalone=True,
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
    return configuration
