"""A real control plane on this machine: etcd, API server, controller manager, scheduler, and nodes that KWOK simulates.

    with ControlPlane() as control_plane:
        control_plane.apply([job])
        control_plane.kubectl("get", "pods")

About three seconds from nothing to ready, one GiB of memory.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from . import audit, network
from .api import Api, Object
from .binaries import PROGRAMS, program
from .credentials import User, write_certificate, write_kubeconfig, write_token_file
from .errors import ApiError, TimedOut
from .namespaces import ROOT, require_enclosed
from .processes import Component, run, wait_until
from .simulation import SIMULATED, SimulatedNode, configuration

STATE = Path("/run/hpo-testbed")
"""All files of a running control plane. `/run` is in memory in the enclosure, and gone with it."""

API_PORT = 6443
ETCD_URL = "http://127.0.0.1:2379"
MASTERS = ("system:masters",)
DEFINITION = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
STUDIES = ("studies.hpo.dev", "trials.hpo.dev")

_API_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")

_REQUESTS_PER_SECOND = 2000  # of the controllers; their default of 20 to 50 would be what a test measures


class ControlPlane:
    """A control plane that is there inside the `with` block.

    Args:
        nodes: the simulated nodes to begin with; `add_nodes` adds more.
        delay_milliseconds: how long a simulated pod runs that says nothing itself.
        logs: the folder for the log of each component; in memory, gone at the end, when it is left out.
        audit: whether `requests` can count. It takes a tenth of the API server's time, so a measurement of speed goes without.
    """

    users: Sequence[str] = ("admin", "system:kube-controller-manager", "system:kube-scheduler", "system:kwok")

    def __init__(
        self,
        nodes: Sequence[SimulatedNode] = (SimulatedNode("simulated-0"),),
        delay_milliseconds: int = 500,
        logs: Path | None = None,
        audit: bool = True,
    ) -> None:
        self.nodes, self.delay_milliseconds, self.audit = tuple(nodes), delay_milliseconds, audit
        self.state = STATE
        self.logs = logs or STATE / "logs"
        self.server = f"https://{network.NODE_ADDRESS}:{API_PORT}"
        self.certificate, self._key = STATE / "pki" / "server.crt", STATE / "pki" / "server.key"
        self._users = {user.name: user for user in self._make_users()}
        self._components: dict[str, Component] = {}
        self._api: Api | None = None

    def __enter__(self) -> Self:
        require_enclosed(type(self).__name__)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts all components and waits until pods can be created and scheduled. Raises NotEnclosed outside."""
        require_enclosed(type(self).__name__)
        shutil.rmtree(STATE, ignore_errors=True)
        STATE.mkdir(parents=True)
        network.set_up()
        self._start_store()
        self._start_api_server()
        self._start_controllers()
        self.add_nodes(self.nodes)
        self.wait_for_service_account("default", "default")
        self.wait_until_ready()

    def stop(self) -> None:
        """Ends all components, the last started first, and at once: nothing that they hold is needed again."""
        for component in reversed(self._components.values()):
            component.kill()
        self._components.clear()
        self._api = None

    # What a test talks to

    @property
    def api(self) -> Api:
        """The client of the administrator."""
        if self._api is None:
            self._api = self.api_as(self._users["admin"].token)
        return self._api

    def api_as(self, token: str) -> Api:
        """A client that shows this token."""
        return Api(network.NODE_ADDRESS, API_PORT, token, self.certificate)

    def kubeconfig(self, user: str = "admin") -> Path:
        """The kubeconfig of a user of the token file."""
        path = self.state / "kubeconfigs" / f"{user.replace(':', '-')}.yaml"
        if not path.exists():
            write_kubeconfig(path, self.server, self.certificate, self._users[user].token)
        return path

    def kubectl(self, *arguments: str, input: str | None = None, kubeconfig: Path | None = None) -> str:
        """Runs kubectl, by default as administrator, and returns what it printed. Raises CommandFailed."""
        environment = {"KUBECONFIG": str(kubeconfig or self.kubeconfig()), "HOME": str(self.state)}
        return run([program("kubectl"), *arguments], input=input, environment=environment)

    def apply(self, objects: Iterable[Mapping[str, Any]] | str | Path) -> list[Object]:
        """Applies objects (server-side), YAML text or a file of YAML, in order; waits until each CRD is served."""
        if isinstance(objects, Path):
            objects = objects.read_text()
        if isinstance(objects, str):
            objects = [each for each in yaml.safe_load_all(objects) if each]
        stored = []
        for each in objects:
            stored.append(self.api.apply(each))
            if each["kind"] == "CustomResourceDefinition":
                self.wait_until_served(each["metadata"]["name"])
        return stored

    def define_studies(self) -> None:
        """Serves Study and Trial from now on, by the definitions that are committed."""
        if not all(self.api.find(*DEFINITION, name, namespace="") for name in STUDIES):
            for file in sorted((ROOT / "crds").glob("*.yaml")):
                self.apply(file)

    def wait_for(
        self,
        what: str,
        api_version: str,
        kind: str,
        name: str,
        seen: Callable[[Object], object],
        *,
        namespace: str = "default",
        seconds: float = 30.0,
    ) -> Object:
        """Waits until `seen` is true of the object, and returns it. Raises TimedOut, or ProcessDied with a log."""

        last: Object = {}

        def look() -> Object | None:
            nonlocal last
            last = self.api.find(api_version, kind, name, namespace) or {}
            return last if last and seen(last) else None

        try:
            return wait_until(what, look, seconds=seconds, components=[*self._components.values()])
        except TimedOut as error:
            status = error.last or last.get("status", "no such object")
            raise TimedOut(what, seconds, str(status)[:2000]) from None

    def programs(self) -> Path:
        """A folder with all programs built so far, for a PATH."""
        folder = self.state / "bin"
        folder.mkdir(exist_ok=True)
        for name, each in PROGRAMS.items():
            if each.path().exists() and not (folder / name).exists():
                (folder / name).symlink_to(each.path())
        return folder

    def requests(self) -> list[audit.Request]:
        """All finished requests so far but those of Kubernetes' own components: for tests that count. None without audit."""
        return list(audit.read(self.state / "audit.log"))

    # What a test sets up

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Creates a namespace and waits until pods can be created there."""
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
        self.wait_for_service_account(name, "default")
        return name

    def add_nodes(self, nodes: Iterable[SimulatedNode]) -> None:
        """Adds simulated nodes and waits until the scheduler may use them."""
        names = [self.api.create(node.manifest())["metadata"]["name"] for node in nodes]
        for name in names:
            self.wait_for(f"node {name}", "v1", "Node", name, usable)

    def service_account(
        self,
        name: str,
        rules: Sequence[Mapping[str, Any]],
        *,
        namespace: str = "default",
        cluster_wide: bool = False,
    ) -> Path:
        """Creates a ServiceAccount that may do what the RBAC rules say, and returns a kubeconfig of it."""
        kind = "ClusterRole" if cluster_wide else "Role"
        metadata = {"name": name} if cluster_wide else {"name": name, "namespace": namespace}
        group = "rbac.authorization.k8s.io"
        self.apply(
            [
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
                {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": [dict(rule) for rule in rules]},
                {
                    "apiVersion": f"{group}/v1",
                    "kind": f"{kind}Binding",
                    "metadata": metadata,
                    "roleRef": {"apiGroup": group, "kind": kind, "name": name},
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
                },
            ]
        )
        return self.kubeconfig_of_service_account(name, namespace=namespace)

    def kubeconfig_of_service_account(self, name: str, *, namespace: str = "default", seconds: int = 86400) -> Path:
        """A kubeconfig with a fresh token of a ServiceAccount that is there already, such as the chart's."""
        token = self.token_of_service_account(name, namespace=namespace, seconds=seconds)
        path = self.state / "kubeconfigs" / f"{namespace}-{name}.yaml"
        return write_kubeconfig(path, self.server, self.certificate, token, namespace)

    def token_of_service_account(self, name: str, *, namespace: str = "default", seconds: int = 86400) -> str:
        """A fresh token, as a pod would get one."""
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}}
        path = self.api.path("v1", "ServiceAccount", name, namespace, "token")
        token: str = self.api.request("POST", path, body=request)["status"]["token"]
        return token

    def wait_for_service_account(self, namespace: str, name: str) -> None:
        """Waits for the ServiceAccount that the controller manager creates; pods are refused before it is there."""
        self.wait_for(f"service account {namespace}/{name}", "v1", "ServiceAccount", name, bool, namespace=namespace)

    def wait_until_served(self, name: str) -> None:
        """Waits until objects of a definition can be created and listed: lists are refused (429) until their cache is there."""

        def established(definition: Object) -> bool:
            conditions = definition.get("status", {}).get("conditions") or []  # null for an instant
            return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

        spec = self.wait_for(f"CRD {name}", *DEFINITION, name, established)["spec"]
        for version in spec["versions"]:
            if version["served"]:
                path = f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}"
                wait_until(f"lists of {path}", lambda path=path: self.api.request("GET", path, query={"resourceVersion": "0"}))

    # What a test breaks

    def component(self, name: str) -> Component:
        """A component by the name of its program: to stop and start it, or to ask for its pid."""
        return self._components[name]

    def run_beside(self, name: str, *command: str | Path, environment: Mapping[str, str] | None = None) -> Component:
        """Starts a program beside the others, which is a component from then on: it must run, and ends with them."""
        component = Component(name, command, self.logs, environment)
        self._components[name] = component
        component.start()
        return component

    def run_program(self, name: str, *arguments: str | Path) -> Component:
        """Starts one of the test bed's programs, as `run_beside` does."""
        return self.run_beside(name, program(name), *arguments)

    def restart(self, name: str) -> None:
        """Kills a component as a crash would, starts it again, and waits for the API server where it is that.

        Not for KWOK: 0.8.0 may die, or leave a pod alone for ever, where it finds nodes and pods as it starts.
        """
        component = self.component(name)
        component.kill()
        component.start()
        self.wait_until_ready()

    def wait_until_ready(self, seconds: float = 60.0) -> None:
        """Waits until the API server says that it is ready."""
        running = [component for component in self._components.values() if component.running]
        wait_until("the API server", self._is_ready, seconds=seconds, components=running)

    def is_whole(self) -> bool:
        """Whether all components run and the API server is ready: whether a test may use it after another has broken it."""
        return bool(self._components) and all(each.running for each in self._components.values()) and self._is_ready()

    # How it is started

    def _make_users(self) -> Iterable[User]:
        # Kubernetes' own components are masters here: what they may do is not under test, and it spares them a token each.
        return [User(name, MASTERS) for name in self.users]

    def _start_store(self) -> None:
        self.run_program(
            "etcd",
            f"--data-dir={self.state / 'etcd'}",
            f"--listen-client-urls={ETCD_URL}",
            f"--advertise-client-urls={ETCD_URL}",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=4294967296",
            "--log-level=warn",
        )

    def _start_api_server(self) -> None:
        self.certificate.parent.mkdir()
        write_certificate(self.certificate, self._key, [network.NODE_ADDRESS, network.API_SERVICE_ADDRESS], _API_NAMES)
        tokens = self.state / "tokens.csv"
        write_token_file(tokens, [*self._users.values()])
        self.run_program(
            "kube-apiserver",
            f"--etcd-servers={ETCD_URL}",
            "--bind-address=0.0.0.0",
            f"--advertise-address={network.NODE_ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={network.SERVICE_RANGE}",
            f"--tls-cert-file={self.certificate}",
            f"--tls-private-key-file={self._key}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self.certificate}",
            f"--service-account-signing-key-file={self._key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            "--enable-aggregator-routing=true",  # to the endpoints of a webhook's Service, with kube-proxy or without
            "--profiling=false",
            *(self._audit_arguments() if self.audit else []),
        )
        # It answers a second before it is ready (it still writes the roles of RBAC); the others may start meanwhile.
        wait_until("the API server", lambda: self.api.text("/version"), components=[*self._components.values()])

    def _audit_arguments(self) -> list[str]:
        policy = self.state / "audit-policy.yaml"
        policy.write_text(audit.POLICY)
        unrotated = "--audit-log-maxsize=4096"  # a rotated log would lose count
        return [f"--audit-policy-file={policy}", f"--audit-log-path={self.state / 'audit.log'}", unrotated]

    def _is_ready(self) -> bool:
        try:
            return self.api.text("/readyz") == "ok"
        except (ApiError, OSError):
            return False

    def _start_controllers(self) -> None:
        rate = [f"--kube-api-qps={_REQUESTS_PER_SECOND}", f"--kube-api-burst={_REQUESTS_PER_SECOND}"]
        self.run_program(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig('system:kube-controller-manager')}",
            "--leader-elect=false",
            "--secure-port=0",  # nobody asks it, and it need not make a certificate
            f"--service-account-private-key-file={self._key}",
            f"--root-ca-file={self.certificate}",
            "--node-monitor-grace-period=24h",  # simulated nodes hold no lease
            *rate,
        )
        scheduler = self.state / "scheduler.yaml"
        scheduler.write_text(self._scheduler_configuration())
        self.run_program("kube-scheduler", f"--config={scheduler}", "--secure-port=0")
        stages = self.state / "stages.yaml"
        stages.write_text(configuration(self.delay_milliseconds))
        self.run_program(
            "kwok",
            f"--kubeconfig={self.kubeconfig('system:kwok')}",
            f"--config={stages}",
            f"--manage-nodes-with-annotation-selector={SIMULATED}=fake",
            "--node-lease-duration-seconds=0",  # it drops for ever what a pod does until it sees its own lease
            f"--node-ip={network.NODE_ADDRESS}",
            f"--cidr={network.SIMULATED_POD_RANGE}",
        )

    def _scheduler_configuration(self) -> str:
        connection = {
            "kubeconfig": str(self.kubeconfig("system:kube-scheduler")),
            "qps": _REQUESTS_PER_SECOND,
            "burst": _REQUESTS_PER_SECOND,
        }
        return yaml.safe_dump(
            {
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "clientConnection": connection,
                "leaderElection": {"leaderElect": False},
            }
        )


def usable(node: Object) -> bool:
    """Ready, and without the taint that keeps pods off a node that is not."""
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", []))
    taints = {each["key"] for each in node["spec"].get("taints", [])}
    return ready and not any(key.startswith("node.kubernetes.io/not-ready") for key in taints)
