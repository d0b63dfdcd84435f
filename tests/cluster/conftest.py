"""Fixtures of the tests on a real node: one operator and one namespace for each module, whose Studies run side by side."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from weakref import WeakSet

import pytest

from tests.cluster import images
from tests.cluster.building import PATIENCE, make_volume
from tests.control_plane.building import VERSION
from tests.control_plane.operator_process import OperatorAccount, OperatorProcess
from tests.testbed import Cluster, Object, wait_until
from tests.testbed.fixtures import Bed

STORE = {"volumeClaim": {"name": "weights"}}
"""Checkpoints on what the fixture `volume` makes."""
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

_prepared: WeakSet[Cluster] = WeakSet()
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster(bed: Bed) -> Cluster:
    """A cluster that knows Study and Trial, and the images of the examples."""
    running = bed(Cluster, Cluster)
    if running not in _prepared:
        running.load_images(images.archives())
        running.define_studies()
        _prepared.add(running)
    return running


@pytest.fixture(scope="module")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """The operator, with the rights of deploy/rbac.yaml; it reads metrics from Prometheus."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    arguments = ("--prometheus-url", cluster.prometheus_url)
    with OperatorProcess(OperatorAccount(cluster).kubeconfig(), *arguments, log=log, fresh=True) as running:
        yield running
        running.stop()


@pytest.fixture(autouse=True)
def what_the_operator_said(operator: OperatorProcess) -> Iterator[None]:
    """The operator's log is shown with a test that fails."""
    before = len(operator.said())
    yield
    operator.require_running()
    print(f"the operator:\n{operator.said()[before:][-20_000:]}")


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace in which all pods must be restricted; its Studies and pods have gone when the next module begins."""
    name, api = cluster.create_namespace(f"team-{next(_numbers)}", RESTRICTED), cluster.api
    yield name
    everything = ((VERSION, "Study"), ("batch/v1", "Job"), ("v1", "Pod"))
    for kind in everything:
        api.delete_all(*kind, name)
    api.delete("v1", "Namespace", name, namespace="")
    wait_until(f"the end of what was in {name}", lambda: not any(api.objects(*kind, name) for kind in everything), seconds=PATIENCE)


@pytest.fixture(scope="module")
def volume(cluster: Cluster, namespace: str) -> Iterator[Path]:
    """A folder that every pod may write to, as a ReadWriteMany volume behind the claim `weights`."""
    folder = make_volume(cluster, namespace)
    yield folder
    cluster.api.delete("v1", "PersistentVolume", folder.name, namespace="")


Begin = Callable[..., Object]


@pytest.fixture(scope="module")
def begin(cluster: Cluster, operator: OperatorProcess) -> Begin:
    """Creates a Study, which then runs beside those that were begun before."""
    return cluster.api.create
