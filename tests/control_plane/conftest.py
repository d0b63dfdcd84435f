"""Fixtures of the tests on a real control plane."""

import pytest

from tests.testbed import ControlPlane
from tests.testbed.namespaces import ROOT


@pytest.fixture
def studies(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows Study and Trial, by the definitions that are committed."""
    definition = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    names = ("studies.hpo.dev", "trials.hpo.dev")
    if not all(control_plane.api.find(*definition, name, namespace="") for name in names):
        control_plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in names))
    return control_plane
