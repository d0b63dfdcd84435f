"""Prometheus servers within the cluster, and one of them as people have it: run by the real Prometheus operator.

with Stack(cluster, {"release": "stack"}) as stack:
    stack.server.query("hpo_build_info")
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

from tests.cluster.building import PATIENCE, RESTRICTED_POD
from tests.cluster.images import PROMETHEUS, RELOADER
from tests.testbed import Cluster, Component, wait_until
from tests.testbed.binaries import program, sources

NAMESPACE = "monitoring"
NAME = "stack"
GROUP = "monitoring.coreos.com/v1"

_SEEN = [
    {"apiGroups": [""], "resources": ["pods", "services", "endpoints"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
]
"""What a Prometheus must see to find what PodMonitors and ServiceMonitors name."""


@dataclass(frozen=True, slots=True)
class Server:
    """A Prometheus that a pod is, or a Service has: `pods/name:port` or `services/name:port` in a namespace."""

    cluster: Cluster
    namespace: str
    name: str

    def ask(self, path: str, **query: str) -> Any:
        """What it answers, by the API server's proxy."""
        address = f"/api/v1/namespaces/{self.namespace}/{self.name}/proxy/api/v1/{path}"
        answer = json.loads(self.cluster.kubectl("get", "--raw", f"{address}?{urlencode(query)}"))
        assert answer["status"] == "success"
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """The instant vector of an expression."""
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def over(self, expression: str, since: float) -> list[Any]:
        """The series of an expression from then until now."""
        times = {"start": f"{since:.0f}", "end": f"{time.time():.0f}", "step": "1"}
        found: list[Any] = self.ask("query_range", query=expression, **times)["result"]
        return found


class Stack:
    """The Prometheus operator beside a cluster, and a Prometheus of one replica in it, there inside the `with` block.

    It takes PodMonitors, ServiceMonitors and PrometheusRules with these labels, of all namespaces. Its images must be on the node.
    """

    def __init__(self, cluster: Cluster, labels: Mapping[str, str]) -> None:
        self.cluster = cluster
        self.labels = dict(labels)
        self.server = Server(cluster, NAMESPACE, f"pods/prometheus-{NAME}-0:9090")
        arguments = (f"--prometheus-config-reloader={RELOADER}", "--web.listen-address=127.0.0.1:8079")
        environment = {"KUBECONFIG": str(cluster.kubeconfig())}
        self._manager = Component("prometheus-operator", [program("prometheus-operator"), *arguments], cluster.logs, environment)

    def __enter__(self) -> Self:
        definitions = sources("prometheus-operator") / "example" / "prometheus-operator-crd"
        self.cluster.kubectl("apply", "--server-side", "--filename", str(definitions))  # PyYAML cannot read all of them
        self.cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        self.cluster.service_account(NAME, _SEEN, namespace=NAMESPACE, cluster_wide=True)
        self.cluster.api.create(self._prometheus())
        self._manager.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._manager.stop()
        self.cluster.api.delete(GROUP, "Prometheus", NAME, NAMESPACE)  # and by its owner all that was made for it

    def wait_until_ready(self) -> None:
        """Waits until it answers. Raises ProcessDied where its operator has ended."""
        wait_until(
            "the Prometheus of its operator", lambda: self.server.query("vector(1)"), seconds=PATIENCE, components=[self._manager]
        )

    def _prometheus(self) -> Any:
        chosen = {f"{kind}Selector": {"matchLabels": self.labels} for kind in ("podMonitor", "serviceMonitor", "rule")}
        everywhere = {f"{kind}NamespaceSelector": {} for kind in ("podMonitor", "serviceMonitor", "rule")}
        spec = {
            "replicas": 1,
            "image": PROMETHEUS,
            "version": PROMETHEUS.rpartition(":")[2],
            "serviceAccountName": NAME,
            "securityContext": {**RESTRICTED_POD, "runAsUser": 65532, "fsGroup": 65532},
            "resources": {"requests": {"cpu": "10m"}},
            "evaluationInterval": "5s",
            **chosen,
            **everywhere,
        }
        return {"apiVersion": GROUP, "kind": "Prometheus", "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec}
