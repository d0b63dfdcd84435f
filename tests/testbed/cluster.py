"""A control plane with a real node: containerd runs real pods, Prometheus scrapes them.

    with Cluster(images=[images.build(Path("examples/digits"), "digits:test")]) as cluster:
        cluster.apply(Path("study.yaml"))

Needs root. About 18 seconds from nothing to a finished pod.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import cgroups, images, network, node, prometheus
from .api import Object
from .binaries import PROGRAMS, program
from .control_plane import ControlPlane, usable
from .credentials import User
from .errors import MissingTool
from .namespaces import enclosed
from .packages import missing
from .processes import run, wait_until
from .simulation import SimulatedNode

_IN_MEMORY = ("/var/log", "/var/lib/cni")
"""Folders that kubelet and CNI plugins write to, whatever they are told; in memory they are ours and go with the enclosure."""


class Cluster(ControlPlane):
    """A control plane, one real node and a Prometheus, there inside the `with` block.

    Args:
        images: archives of images that pods may use (`images.build` makes them); `imagePullPolicy` must not be Always.
        gpus: how many `nvidia.com/gpu` the node advertises. They are counted by scheduler and kubelet, and not there.
        scrape_seconds: how often Prometheus scrapes trial pods.
        nodes: simulated nodes beside the real one; pods land there too unless they select.
    """

    users: Sequence[str] = (*ControlPlane.users, "system:kube-proxy", "system:coredns", "system:prometheus")

    def __init__(
        self,
        images: Sequence[Path] = (),
        gpus: int = 2,
        scrape_seconds: float = 1.0,
        nodes: Sequence[SimulatedNode] = (),
        logs: Path | None = None,
    ) -> None:
        super().__init__(nodes=nodes, logs=logs)
        self.images, self.gpus, self.scrape_seconds = tuple(images), gpus, scrape_seconds
        self._socket = self.state / "containerd.sock"

    def start(self) -> None:
        """Starts everything and waits until the node takes pods. Raises MissingTool where something is not installed."""
        _require_root_and_packages()
        super().start()
        self._start_kubelet()
        self._start_kube_proxy()
        self._start_dns()
        self._start_prometheus()
        self.wait_for("the kubelet's node", "v1", "Node", node.NODE, bool, seconds=60)
        self._advertise_gpus()
        self.wait_for(f"node {node.NODE}", "v1", "Node", node.NODE, self._advertises_gpus, seconds=60)
        wait_until("Prometheus", prometheus.ready, components=[self.component("prometheus")])

    def stop(self) -> None:
        """Ends everything, pods included, so that another cluster may start in the same enclosure."""
        super().stop()
        if not enclosed():
            return  # never started, and what runs here is not ours
        _end_pods()
        _unmount_below(self.state)
        cgroups.remove(cgroups.group_of_this_run())

    def load_images(self, archives: Iterable[Path]) -> None:
        """Makes more images known to the node."""
        for archive in archives:
            run([program("ctr"), "--address", self._socket, "--namespace", "k8s.io", "images", "import", "--local", archive])

    def query(self, expression: str, time: float | None = None) -> list[dict[str, Any]]:
        """What Prometheus answers: the instant vector of an expression."""
        return prometheus.query(expression, time)

    @property
    def prometheus_url(self) -> str:
        """Where Prometheus answers, for pods and for programs beside them."""
        return f"http://{network.NODE_ADDRESS}:9090"

    def _make_users(self) -> Iterable[User]:
        return [*super()._make_users(), User(f"system:node:{node.NODE}", ("system:nodes",))]

    def _start_store(self) -> None:
        # containerd needs nothing of the control plane, so it starts first and takes in images meanwhile.
        self._start_containerd()
        super()._start_store()

    def _start_containerd(self) -> None:
        for written in _IN_MEMORY:
            _mount_memory(Path(written))
        folder, networks = self.state / "containerd", self.state / "networks"
        folder.mkdir()
        networks.mkdir()
        (networks / "pods.conflist").write_text(node.network_configuration(self.state / "addresses"))
        configuration = folder / "config.toml"
        configuration.write_text(node.containerd_configuration(folder, self._socket, networks))
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        containerd = self.run_program("containerd", f"--config={configuration}", "--log-level=warn")
        wait_until("containerd", self._socket.exists, components=[containerd])
        self.load_images([images.pause_image(), *self.images])

    def _start_kubelet(self) -> None:
        folder = self.state / "kubelet"
        folder.mkdir()
        cgroups.create(cgroups.group_of_this_run())
        configuration = folder / "config.yaml"
        configuration.write_text(node.kubelet_configuration(folder, self._socket, cgroups.group_of_this_run()))
        self.run_program(
            "kubelet",
            f"--config={configuration}",
            f"--kubeconfig={self.kubeconfig(f'system:node:{node.NODE}')}",
            f"--root-dir={folder / 'root'}",
            f"--hostname-override={node.NODE}",
            f"--node-ip={network.NODE_ADDRESS}",
        )

    def _advertise_gpus(self) -> None:
        """The documented way to extended resources without a device plugin; the kubelet keeps what it finds."""
        count = {"nvidia.com/gpu": str(self.gpus)}
        self.api.patch("v1", "Node", node.NODE, {"status": {"capacity": count, "allocatable": count}}, subresource="status")

    def _advertises_gpus(self, seen: Object) -> bool:
        count = seen["status"].get("allocatable", {}).get("nvidia.com/gpu", "0")
        return usable(seen) and count == str(self.gpus)

    def _start_kube_proxy(self) -> None:
        configuration = self.state / "kube-proxy.yaml"
        configuration.write_text(node.kube_proxy_configuration(self.kubeconfig("system:kube-proxy")))
        self.run_program("kube-proxy", f"--config={configuration}")

    def _start_dns(self) -> None:
        configuration = self.state / "Corefile"
        configuration.write_text(node.dns_configuration(self.kubeconfig("system:coredns")))
        self.run_program("coredns", f"-conf={configuration}")

    def _start_prometheus(self) -> None:
        configuration = self.state / "prometheus.yaml"
        configuration.write_text(prometheus.configuration(self.kubeconfig("system:prometheus"), self.scrape_seconds))
        self.run_program("prometheus", *prometheus.arguments(configuration, self.state / "prometheus"))


def _require_root_and_packages() -> None:
    if os.geteuid() != 0:
        raise MissingTool("root", "a real node needs it; tests/control_plane runs without")
    if packages := missing():
        raise MissingTool(" ".join(packages), "install with: python -m tests.testbed build cluster")


def _mount_memory(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_mount():
        run(["mount", "-t", "tmpfs", "tmpfs", folder])


def _end_pods() -> None:
    """Kills what containers and their shims still run. All processes that can be seen here are this enclosure's."""
    shim = str(PROGRAMS["containerd-shim-runc-v2"].path())
    group = cgroups.group_of_this_run()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError, ProcessLookupError):
            if os.readlink(entry / "exe") == shim or f"/{group}/" in (entry / "cgroup").read_text():
                os.kill(int(entry.name), signal.SIGKILL)
    subprocess.run(["ip", "link", "delete", "cni0"], capture_output=True, check=False)


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed([each for each in mounts if each.startswith((f"{folder}/", "/run/netns/"))]):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
