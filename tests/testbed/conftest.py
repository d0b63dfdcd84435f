"""The test bed's own tests use its fixtures."""

from tests.testbed.fixtures import bed, cluster, control_plane, namespace  # noqa: F401
