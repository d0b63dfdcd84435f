"""Controllers of other projects on a control plane: Kueue, which admits workloads by quota, and JobSet, of several Jobs each.

    with QueuedControlPlane() as control_plane: ...

Each is installed by its own manifests, whole but for the Deployment: its program runs here instead, as the same ServiceAccount, and
is the endpoint of its webhooks' Service. What a kubelet would do for its pod, to mount the Secret with the certificate that the
program has made, is done here.
"""

import base64
import re
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import network
from .binaries import program, sources
from .control_plane import DEFINITION, ControlPlane
from .processes import wait_until

_NOT_HERE = re.compile(r"^kind: (Deployment|APIService)$", re.MULTILINE)
_CERTIFICATES = Path("k8s-webhook-server/serving-certs")  # below /tmp, where both programs look
_IN_OWN_TMP = 'mount --bind "$0" /tmp && exec "$@"'
_PORT = 443


@dataclass(frozen=True, slots=True)
class Controller:
    """A program that is another project's controller: its name, where it listens, and what its configuration lacks."""

    name: str
    address: str
    health_port: int
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def namespace(self) -> str:
        return f"{self.name}-system"

    def configuration(self, shipped: str) -> str:
        """The configuration that the project ships, with the addresses on this machine."""
        settings: dict[str, Any] = {
            **yaml.safe_load(shipped),
            "webhook": {"host": self.address, "port": _PORT},
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self.health_port}"},
            "metrics": {"bindAddress": "0"},
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"qps": 500, "burst": 500},
            **dict(self.settings),
        }
        return yaml.safe_dump(settings)

    def is_ready(self) -> bool:
        """Whether its webhooks answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)


JOBSET = Controller("jobset", "192.168.127.201", 8081)
KUEUE = Controller(
    "kueue",
    "192.168.127.202",
    8082,
    (("featureGates", {"VisibilityOnDemand": False}),),  # a server for people to ask
)


class QueuedControlPlane(ControlPlane):
    """A control plane in which JobSets run, and Kueue admits whatever names a queue."""

    def start(self) -> None:
        """Starts all components, these controllers last, and waits until their webhooks answer."""
        super().start()
        for each in (JOBSET, KUEUE):
            install(self, each)


def install(plane: ControlPlane, controller: Controller) -> None:
    """Installs a controller beside a control plane that runs, and waits until its webhooks answer."""
    network.add_address(controller.address)
    shipped = plane.kubectl("kustomize", str(sources(controller.name) / "config" / "default"))
    documents = [_at(controller, each) for each in shipped.split("\n---\n") if not _NOT_HERE.search(each)]
    plane.kubectl("apply", "--server-side", "--filename", "-", input="\n---\n".join(documents))
    for each in plane.api.objects(*DEFINITION):
        plane.wait_until_served(each["metadata"]["name"])
    folder = plane.state / controller.name
    certificates = folder / "tmp" / _CERTIFICATES
    certificates.mkdir(parents=True)
    maps = plane.api.get("v1", "ConfigMap", f"{controller.name}-manager-config", controller.namespace)
    (folder / "config.yaml").write_text(controller.configuration(maps["data"]["controller_manager_config.yaml"]))
    account = f"{controller.name}-controller-manager"
    environment = {"KUBECONFIG": str(plane.kubeconfig_of_service_account(account, namespace=controller.namespace))}
    command = ["sh", "-c", _IN_OWN_TMP, folder / "tmp", program(controller.name), f"--config={folder / 'config.yaml'}"]
    component = plane.run_beside(controller.name, "unshare", "--mount", *command, environment=environment)
    secret = wait_until("its certificate", lambda: _certificate_of(plane, controller), components=[component])
    for name, value in secret.items():
        (certificates / name).write_bytes(base64.b64decode(value))
    wait_until(f"the webhooks of {controller.name}", controller.is_ready, seconds=90, components=[component])


def _certificate_of(plane: ControlPlane, controller: Controller) -> dict[str, str]:
    secret = plane.api.get("v1", "Secret", f"{controller.name}-webhook-server-cert", controller.namespace)
    data: dict[str, str] = secret.get("data") or {}
    return data


def _at(controller: Controller, document: str) -> str:
    """The Service of the webhooks with the program as its endpoint; any other document as it is."""
    if f"name: {controller.name}-webhook-service\n  namespace" not in document or "kind: Service\n" not in document:
        return document
    service = yaml.safe_load(document)
    (port,) = service["spec"]["ports"]
    service["spec"] = {"ports": [{**port, "targetPort": _PORT}]}
    metadata = {name: service["metadata"][name] for name in ("name", "namespace")}
    endpoint = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**metadata, "labels": {"kubernetes.io/service-name": metadata["name"]}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [controller.address]}],
        "ports": [{"name": port.get("name", ""), "port": _PORT, "protocol": "TCP"}],
    }
    return yaml.safe_dump_all([service, endpoint])
