"""Fixtures of pytest for the levels of tests that need a real Kubernetes.

They are a plugin of the repository's conftest.py, and not imported by each folder's: there must be one of each a session.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import pytest

from .cluster import Cluster
from .control_plane import ControlPlane
from .errors import NotEnclosed
from .lacking import lacking
from .namespaces import enclosed
from .processes import wait_until

Plane = TypeVar("Plane", bound=ControlPlane)


class Bed(Protocol):
    """Gives the one control plane that runs, of the kind asked for; starts it first, and ends one of another kind or in pieces."""

    def __call__(self, kind: type[Plane], make: Callable[[], Plane]) -> Plane: ...


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """One control plane at a time, since its ports are fixed; kept from test to test, since starting it takes seconds."""
    if not enclosed():
        lacking(NotEnclosed("a control plane"))
    running: ControlPlane | None = None

    def give(kind: type[Plane], make: Callable[[], Plane]) -> Plane:
        nonlocal running
        if type(running) is not kind or not running.is_whole():
            if running is not None:
                running.stop()
            running = make()
            running.__enter__()
        assert isinstance(running, kind)
        return running

    yield give
    if running is not None:
        running.stop()


@pytest.fixture
def control_plane(bed: Bed) -> ControlPlane:
    """A control plane with one simulated node of eight GPUs."""
    return bed(ControlPlane, ControlPlane)


@pytest.fixture
def cluster(bed: Bed) -> Cluster:
    """A cluster with one real node; images are loaded by the test."""
    return bed(Cluster, Cluster)


_numbers = itertools.count()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own in the control plane; its pods have gone, and free their GPUs, when the next test begins."""
    name, api = control_plane.create_namespace(f"test-{next(_numbers)}"), control_plane.api
    yield name
    api.delete("v1", "Namespace", name, namespace="")
    # From here on nothing new is accepted; the pods need not wait until the namespace's controller comes to them.
    api.delete_all("v1", "Pod", name, gracePeriodSeconds=0)
    wait_until(f"the end of the pods in {name}", lambda: not api.objects("v1", "Pod", name), seconds=60)
