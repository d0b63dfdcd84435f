"""Fixtures of the tests on a real control plane."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.control_plane.building import VERSION, Result
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.life import TRIALS, Life
from tests.control_plane.operator_process import OperatorAccount, OperatorProcess
from tests.control_plane.proxy import Proxy
from tests.testbed import ControlPlane
from tests.testbed.binaries import sources
from tests.testbed.charts import CHART, RELEASE, SYSTEM, Helm
from tests.testbed.control_plane import DEFINITION, STUDIES
from tests.testbed.fixtures import Bed

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture
def studies(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows Study and Trial, by the definitions that are committed."""
    control_plane.define_studies()
    return control_plane


@pytest.fixture
def account(studies: ControlPlane) -> OperatorAccount:
    """The ServiceAccount of the operator."""
    return OperatorAccount(studies)


@pytest.fixture
def proxy(studies: ControlPlane) -> Iterator[Proxy]:
    """A proxy before the API server."""
    with Proxy(studies.server, studies.certificate) as running:
        yield running


class Operators(Protocol):
    """Gives an operator that is ready to be started: for one namespace, with a proxy between it and the API server or without."""

    def __call__(
        self,
        namespace: str,
        *arguments: str,
        through: Proxy | None = None,
        environment: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> OperatorProcess: ...


@pytest.fixture
def operators(account: OperatorAccount, tmp_path: Path) -> Iterator[Operators]:
    """Makes operators; all are killed at the end, and what they said is shown with a test that fails."""
    numbers, made = itertools.count(), list[OperatorProcess]()

    def make(
        namespace: str,
        *arguments: str,
        through: Proxy | None = None,
        environment: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> OperatorProcess:
        kubeconfig = account.kubeconfig(through.url if through else "")
        only = ("--namespace", namespace)
        log = tmp_path / f"operator-{next(numbers)}.log"
        made.append(OperatorProcess(kubeconfig, *only, *arguments, log=log, environment=environment, fresh=fresh))
        return made[-1]

    yield make
    for operator in made:
        operator.kill()
        print(f"{operator.log.name} ({' '.join(operator.arguments)}):\n{operator.said()[-20_000:]}")


@pytest.fixture
def chronicle(studies: ControlPlane, namespace: str) -> Iterator[Chronicle]:
    """All that happens in the test's namespace."""
    with Chronicle(studies, namespace) as running:
        yield running


@pytest.fixture
def namespace(namespace: str, studies: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own, whose Studies and Jobs are deleted with it."""
    yield namespace
    _clear(studies, namespace)


@pytest.fixture
def namespaces(studies: ControlPlane) -> Iterator[Callable[[], str]]:
    """Makes more namespaces, which are deleted at the end."""
    made = list[str]()

    def make() -> str:
        made.append(studies.create_namespace(f"more-{next(_numbers)}"))
        return made[-1]

    yield make
    for name in made:
        _clear(studies, name)
        studies.api.delete("v1", "Namespace", name, namespace="")


Lives = Callable[..., Life]


@pytest.fixture
def lives(studies: ControlPlane, operators: Operators, namespaces: Callable[[], str]) -> Iterator[Lives]:
    """Makes Studies in namespaces of their own."""
    with ExitStack() as stack:
        yield lambda **spec: Life(studies, namespaces(), operators, stack, **spec)


_undisturbed: list[Result] = []


@pytest.fixture
def undisturbed(lives: Lives) -> Result:
    """The result of a life without disturbance. It is the same each time, so that one is enough for all tests."""
    if not _undisturbed:
        life = lives()
        life.begin()
        result = life.finish()
        assert life.flaws(result) == []
        assert [trial[0] for trial in result.trials] == [*range(TRIALS)]
        assert {trial[4] for trial in result.trials} == {"Completed"}
        life.operator.kill()
        _undisturbed.append(result)
    return _undisturbed[0]


_numbers = itertools.count()


def _clear(plane: ControlPlane, namespace: str) -> None:
    """A namespace ends with its pods before its Jobs, and simulated pods that run are held by their Jobs."""
    plane.api.delete_all(VERSION, "Study", namespace)
    plane.api.delete_all("batch/v1", "Job", namespace)


# The chart


class Untouched(ControlPlane):
    """A control plane of the chart's own: the definitions in it are the chart's."""


@pytest.fixture(scope="module")
def plane(bed: Bed) -> ControlPlane:
    """A control plane into which nothing but the chart is put."""
    running = bed(Untouched, Untouched)
    if not running.api.find("v1", "Namespace", SYSTEM, namespace=""):
        running.create_namespace(SYSTEM, RESTRICTED)
    return running


@pytest.fixture(scope="module")
def monitored(plane: ControlPlane) -> ControlPlane:
    """The same, which knows the kinds of the Prometheus operator."""
    folder = sources("prometheus-operator") / "example" / "prometheus-operator-crd"
    plane.kubectl("apply", "--server-side", "--filename", str(folder))  # PyYAML cannot read all of them
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    return plane


@pytest.fixture(scope="module")
def helm(plane: ControlPlane) -> Helm:
    """The program helm, for that control plane."""
    return Helm(plane)


@pytest.fixture
def team(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace for Studies."""
    name = re.sub("[^a-z]+", "-", request.node.name.lower()).strip("-")[-40:].strip("-")
    yield plane.create_namespace(name)
    if plane.api.find(*DEFINITION, "studies.hpo.dev", namespace=""):
        plane.api.delete_all(VERSION, "Study", name)
    plane.api.delete_all("batch/v1", "Job", name)
    plane.api.delete("v1", "Namespace", name, namespace="")


Install = Callable[..., None]


@contextmanager
def installing(plane: ControlPlane, helm: Helm) -> Iterator[Install]:
    """Installs the chart, or upgrades it; it is uninstalled at the end, definitions and all."""

    def do(chart: Path = CHART, **values: Any) -> None:
        arguments = ("upgrade", "--install", RELEASE, str(chart), "--namespace", SYSTEM)
        helm(*arguments, values=values)
        for name in STUDIES:
            plane.wait_until_served(name)

    yield do
    if RELEASE in helm("list", "--namespace", SYSTEM, "--short"):
        helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")
    for name in STUDIES:
        plane.kubectl("delete", f"crd/{name}", "--ignore-not-found", "--timeout=60s")


@pytest.fixture
def install(plane: ControlPlane, helm: Helm) -> Iterator[Install]:
    """Installs the chart, or upgrades it, for one test."""
    with installing(plane, helm) as do:
        yield do


@pytest.fixture
def operator(plane: ControlPlane, tmp_path: Path) -> Iterator[Callable[[], OperatorProcess]]:
    """Starts the operator with the ServiceAccount, the rights and the settings that the chart has made, and no others."""
    made = list[OperatorProcess]()

    def start() -> OperatorProcess:
        settings = tmp_path / "settings.yaml"
        stored = plane.api.get("v1", "ConfigMap", RELEASE, SYSTEM)["data"]["settings.yaml"]
        settings.write_text(stored.replace("port: 8080", "port: 0"))
        kubeconfig = plane.kubeconfig_of_service_account(RELEASE, namespace=SYSTEM)
        log = tmp_path / f"operator-{len(made)}.log"
        made.append(OperatorProcess(kubeconfig, "--config", str(settings), log=log))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.kill()
        print(f"{each.log.name}:\n{each.said()[-20_000:]}")
