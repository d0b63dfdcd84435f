"""A real Kubernetes for tests, on one small machine: `ControlPlane` (nodes simulated) and `Cluster` (a real node).

See README.md beside this file.
"""

from .api import Api, Object
from .audit import Request
from .cluster import Cluster
from .control_plane import ControlPlane
from .errors import (
    ApiError,
    BuildFailed,
    CommandFailed,
    MissingTool,
    NotEnclosed,
    ProcessDied,
    TestbedError,
    TimedOut,
)
from .namespaces import enclosed, require_enclosed
from .processes import Component, wait_until
from .simulation import SimulatedNode

__all__ = [
    "Api",
    "ApiError",
    "BuildFailed",
    "Cluster",
    "CommandFailed",
    "Component",
    "ControlPlane",
    "MissingTool",
    "NotEnclosed",
    "Object",
    "ProcessDied",
    "Request",
    "SimulatedNode",
    "TestbedError",
    "TimedOut",
    "enclosed",
    "require_enclosed",
    "wait_until",
]
