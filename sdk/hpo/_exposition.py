"""The newest report at /metrics, for a Prometheus that watches Trials while they train.

    hpo_trial_metric{metric="val_loss"} 0.031
    hpo_trial_step 27
    hpo_trial_parameter{parameter="lr",value="0.01"} 0.01

Which Trial it is, Prometheus knows from the labels of the pod. This module is imported when there is something to serve:
it is the one that needs prometheus-client, which takes longer to import than all the rest.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Metric, MetricsHandler
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class TrialCollector(Collector):
    """What `latest` returns, step and metrics, asked for once a scrape so that the two belong together; and the parameters.

    A parameter that is a word has no number: it is in the label alone.
    """

    def __init__(self, latest: Callable[[], tuple[int, Mapping[str, float]]], parameters: Mapping[str, object]) -> None:
        self._latest, self._parameters = latest, parameters

    def collect(self) -> Iterator[Metric]:
        step, metrics = self._latest()
        values = GaugeMetricFamily("hpo_trial_metric", "The last reported value of a metric.", labels=["metric"])
        for name, value in metrics.items():
            values.add_metric([name], value)
        yield values
        yield GaugeMetricFamily("hpo_trial_step", "The step of the last report.", value=step)
        tried = GaugeMetricFamily("hpo_trial_parameter", "What the Trial tries.", labels=["parameter", "value"])
        for name, given in self._parameters.items():
            number = float(given) if isinstance(given, (int, float)) else float("nan")
            tried.add_metric([name, str(given)], number)
        yield tried

    def describe(self) -> list[Metric]:
        return []  # otherwise registering would collect


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer looks up its own name here, which takes seconds where DNS is broken, and nobody asks for it.
        socketserver.TCPServer.server_bind(self)


def serve(port: int, latest: Callable[[], tuple[int, Mapping[str, float]]], parameters: Mapping[str, object]) -> None:
    """Serves /metrics on all IPv4 addresses from a daemon thread; an OSError says that the port cannot be had."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TrialCollector(latest, parameters))
    server = _Server(("0.0.0.0", port), MetricsHandler.factory(registry))
    threading.Thread(target=server.serve_forever, name="hpo-metrics", daemon=True).start()
