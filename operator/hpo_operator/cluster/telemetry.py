"""What the operator says of itself: /metrics for Prometheus, /healthz for the kubelet.

Series are computed from the store when they are scraped, so that a deleted Study's vanish with it; only durations and requests are
counted as they happen. No series is labelled with a Trial.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.metadata import version

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from hpo_operator import conditions as c
from hpo_operator.cluster.client import Client
from hpo_operator.cluster.controller import Controller
from hpo_operator.cluster.informer import Watches
from hpo_operator.cluster.store import StudyState
from hpo_operator.resources import Limits
from hpo_operator.workloads import Phase

STUCK_SECONDS = 300.0  # a Study that has waited this long for its turn never gets it, and a look of this length never ends


class StoreCollector:
    """Series over the store, made at each scrape."""

    def __init__(self, controller: Controller, client: Client, watches: Watches) -> None:
        self._controller, self._client, self._watches = controller, client, watches

    def collect(self) -> Iterator[Metric]:
        """All series. Called by prometheus-client."""
        yield InfoMetricFamily("hpo_build", "Version of the operator.", {"version": version("hpo-operator")})
        yield from self._studies()
        yield from self._process()

    def _studies(self) -> Iterator[Metric]:
        labels = ["namespace", "study"]
        studies = GaugeMetricFamily("hpo_studies", "Studies by the reason of Succeeded.", labels=["namespace", "reason"])
        trials = GaugeMetricFamily("hpo_trials", "Trials by state.", labels=[*labels, "state"])
        finished = CounterMetricFamily(
            "hpo_trials_finished", "Ended Trials by the reason of Succeeded.", labels=[*labels, "reason"]
        )
        best = GaugeMetricFamily("hpo_study_best_objective", "First objective of the best Trial.", labels=labels)
        gpu = CounterMetricFamily("hpo_gpu_seconds", "GPU-seconds of ended Trials.", labels=labels)
        stored = GaugeMetricFamily("hpo_checkpoint_bytes", "What the checkpoints that are kept take.", labels=labels)
        held = GaugeMetricFamily("hpo_gpus", "GPUs of running Trials.", labels=labels)
        limits = GaugeMetricFamily("hpo_study_limit", "What limits the Study.", labels=[*labels, "limit"])
        standing = GaugeMetricFamily(
            "hpo_study_condition", "1 for the reason that each condition has now.", labels=[*labels, "type", "status", "reason"]
        )
        by_reason: dict[tuple[str, str], int] = {}
        for state in self._controller.store.studies.values():
            key = [state.namespace, state.name]
            reason = _reason(state)
            by_reason[state.namespace, reason] = by_reason.get((state.namespace, reason), 0) + 1
            for each in (state.raw.get("status") or {}).get("conditions") or ():
                standing.add_metric([*key, each["type"], each["status"], each["reason"]], 1)
            if state.study is None or state.ledger is None:
                continue
            counts = state.study.status.trials
            for name in ("active", "running", "completed", "early_stopped", "failed", "infeasible"):
                trials.add_metric([*key, name], getattr(counts, name))
            # All reasons from the start: of a series that begins at 5 Prometheus sees no increase.
            for ended, count in {**dict.fromkeys(sorted(c.ENDS), 0), **state.ledger.finished}.items():
                finished.add_metric([*key, ended], count)
            gpu.add_metric(key, state.ledger.gpu_seconds)
            stored.add_metric(key, state.ledger.checkpoint_bytes)
            held.add_metric(key, _gpus(state))
            for name, limit in _limits(state.study.spec.limits):
                limits.add_metric([*key, name], limit)
            if (value := _best(state)) is not None:
                best.add_metric(key, value)
        for (namespace, reason), count in by_reason.items():
            studies.add_metric([namespace, reason], count)
        yield from (studies, trials, finished, best, gpu, stored, held, limits, standing)

    def _process(self) -> Iterator[Metric]:
        queue = self._controller.queue
        yield GaugeMetricFamily("hpo_queue_depth", "Studies that wait for their turn.", len(queue))
        yield GaugeMetricFamily("hpo_queue_oldest_seconds", "How long the first of them has waited.", queue.oldest_age)
        yield GaugeMetricFamily("hpo_queue_longest_look_seconds", "How long a Study has been looked at by now.", queue.longest_work)
        labels = ["resource", "namespace"]
        silence = GaugeMetricFamily("hpo_watch_silent_seconds", "Since a watch was opened or said anything.", labels=labels)
        for watched, heard in self._watches.heard.items():
            silence.add_metric(watched, time.monotonic() - heard)
        yield silence
        requests = CounterMetricFamily("hpo_apiserver_requests", "Requests to the API server.", labels=["verb", "kind", "code"])
        for (verb, kind, code), count in self._client.requests.items():
            requests.add_metric([verb, kind, str(code)], count)
        yield requests


def health(controller: Controller, watches: Watches) -> str:
    """Why the process should be restarted; empty when it need not be."""
    for (resource, namespace), seconds in watches.silent().items():
        where = f" in namespace {namespace}" if namespace else ""
        return f"the watch of {resource}{where} has said nothing for {seconds:.0f} s"
    queue = controller.queue
    if queue.oldest_age > STUCK_SECONDS:
        return f"a Study has waited for its turn for {queue.oldest_age:.0f} s"
    if queue.longest_work > STUCK_SECONDS:
        return f"a Study has been looked at for {queue.longest_work:.0f} s"
    return ""


async def serve(controller: Controller, watches: Watches, registry: CollectorRegistry, port: int) -> web.AppRunner:
    """Serve /metrics and /healthz on all addresses; the caller cleans the runner up."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        fault = health(controller, watches)
        body = json.dumps({"healthy": not fault, "reason": fault})
        return web.Response(text=body, status=503 if fault else 200, content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner


def _reason(state: StudyState) -> str:
    if state.study is None:
        return "NotAccepted"
    return c.reason(state.study.status.conditions, c.SUCCEEDED) or c.IN_PROGRESS


def _gpus(state: StudyState) -> int:
    assert state.ledger is not None
    seen = (state.workload(number) for number in state.ledger.active if state.is_known(number))
    return sum(each.gpus for each in seen if each.phase is Phase.RUNNING)


def _limits(limits: Limits) -> Iterator[tuple[str, int]]:
    given = {"trials": limits.max_trials, "failed_trials": limits.max_failed_trials, "gpu_seconds": limits.gpu_seconds}
    yield from ((name, value) for name, value in given.items() if value is not None)


def _best(state: StudyState) -> float | None:
    assert state.study is not None
    ranked = state.study.status.best
    metric = state.study.spec.objectives[0].metric
    value = next((pair.value for pair in ranked[0].metrics if pair.name == metric), None) if ranked else None
    return float(value) if value is not None else None
