"""The real operator as a process that a test starts, kills and starts again, with exactly the rights of deploy/rbac.yaml.

    account = OperatorAccount(plane)
    with OperatorProcess(account.kubeconfig(), "--namespace", "a", log=tmp_path / "operator.log") as operator:
        ...
        operator.kill()
        operator.start()

The operator is `python -m hpo_operator`. Since a second of each start goes into imports, and some tests start it a hundred times,
it is forked from a process that has imported it and done nothing else; with `fresh=True` the command itself is run.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import yaml

from tests.testbed import Component, ControlPlane
from tests.testbed.credentials import write_kubeconfig
from tests.testbed.errors import ProcessDied
from tests.testbed.namespaces import ROOT

NAMESPACE = "hpo-system"
NAME = "hpo-operator"
USER = f"system:serviceaccount:{NAMESPACE}:{NAME}"
RBAC = ROOT / "deploy" / "rbac.yaml"

NO_PORT = ("--port", "0")  # several operators run side by side; a test that asks /metrics says where
PRELOADED = ["hpo_operator.__main__", "kopf", "hpo_operator.consultant", __name__]
NOT_IN_A_POD = {"KUBERNETES_SERVICE_HOST": "", "KUBERNETES_SERVICE_PORT": ""}  # though the tests may run in one


class OperatorAccount:
    """The operator's ServiceAccount in a control plane, bound to the committed role and to nothing else."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        group = "rbac.authorization.k8s.io"
        plane.apply(
            [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": NAMESPACE}},
                {
                    "apiVersion": f"{group}/v1",
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": NAME},
                    "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": NAME},
                    "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
                },
            ]
        )
        plane.apply(RBAC)
        self._token = plane.token_of_service_account(NAME, namespace=NAMESPACE)

    def kubeconfig(self, server: str = "") -> Path:
        """A kubeconfig of the operator for the API server, or for a proxy before it."""
        server = server or self._plane.server
        path = self._plane.state / "kubeconfigs" / f"{NAME}-{server.rpartition(':')[2]}.yaml"
        return write_kubeconfig(path, server, self._plane.certificate, self._token, NAMESPACE)


def grant(plane: ControlPlane, group: str, plural: str) -> None:
    """Gives the operator the right to make workloads of one more kind, as whoever allows it must."""
    rbac, name = "rbac.authorization.k8s.io", f"{NAME}-{plural}"
    rule = {"apiGroups": [group], "resources": [plural], "verbs": ["get", "list", "watch", "create", "delete"]}
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    binding = {"roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name}, "subjects": [subject]}
    for kind, fields in (("ClusterRole", {"rules": [rule]}), ("ClusterRoleBinding", binding)):
        plane.apply([{"apiVersion": f"{rbac}/v1", "kind": kind, "metadata": {"name": name}, **fields}])


class OperatorProcess:
    """One operator, running inside the `with` block; its log survives restarts.

    Args:
        arguments: of `python -m hpo_operator`.
        environment: added to this process's; KUBECONFIG is set.
        fresh: run the command itself instead of forking what it would import.
    """

    def __init__(
        self,
        kubeconfig: Path,
        *arguments: str,
        log: Path,
        environment: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> None:
        self.arguments = [*arguments, *(() if "--port" in arguments or "--config" in arguments else NO_PORT)]
        self.log = log
        self._environment = {**os.environ, **NOT_IN_A_POD, **(environment or {}), "KUBECONFIG": str(kubeconfig)}
        self._fresh = fresh
        self._process: Component | _Forked | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Starts the operator, also after it was stopped or killed."""
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write("--- the operator starts\n")
        if self._fresh:
            command: Sequence[str | Path] = [sys.executable, "-m", "hpo_operator", *self.arguments]
            self._process = Component(self.log.stem, command, self.log.parent, self._environment)
        else:
            self._process = _Forked(self.log, self.arguments, self._environment)
        self._process.start()

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The process id. Raises ProcessDied when it does not run."""
        self.require_running()
        assert self._process is not None
        return self._process.pid

    def require_running(self) -> None:
        """Raises ProcessDied, with the end of the log, when the operator has ended by itself."""
        if self._process is not None:
            self._process.require_running()

    def workers(self) -> list[psutil.Process]:
        """The processes in which the algorithms of its Studies run."""
        found: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
        return found

    def stop(self, grace_seconds: float = 20.0) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        if self._process is not None:
            self._process.stop(grace_seconds)
            self._process = None

    def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class _Forked:
    """An operator forked from a process in which everything is imported; as a Component in all else."""

    def __init__(self, log: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self._log = log
        process: Any = _nursery().Process
        self._process: BaseProcess = process(target=run_operator, args=(str(log), [*arguments], dict(environment)))

    def start(self) -> None:
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def require_running(self) -> None:
        if self._process.exitcode is not None:
            raise ProcessDied("the operator", self._process.exitcode, self._log.read_text(errors="replace"))

    def stop(self, grace_seconds: float) -> None:
        self._process.terminate()
        self._process.join(grace_seconds)
        self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


@cache
def _nursery() -> Any:
    """The context whose processes are forked from one that has only imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_operator(log: str, arguments: list[str], environment: dict[str, str]) -> None:
    """What a forked operator does: as `python -m hpo_operator` with this environment would."""
    os.setsid()
    with open(log, "ab") as output, open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        for standard in (1, 2):
            os.dup2(output.fileno(), standard)
    os.environ.clear()
    os.environ.update(environment)
    from hpo_operator.__main__ import main
    from kubernetes.aio import config

    for module in (config.kube_config, config):
        importlib.reload(module)  # it looks at KUBECONFIG when it is imported
    sys.exit(main(arguments))


def write_settings(path: Path, **settings: Any) -> Path:
    """A file for `--config`. No port unless it says so."""
    path.write_text(yaml.safe_dump({"port": 0, **settings}))
    return path
