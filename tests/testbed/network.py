"""The network inside the enclosure: one node address, and a route for the addresses of services.

The address is on a bridge, since not every kernel has dummy devices, and not on loopback, since Kubernetes publishes the API
server's address as an Endpoint, which must not be loopback.
"""

from pathlib import Path

from .processes import run

NODE_ADDRESS = "192.168.127.1"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
POD_RANGE = "10.244.0.0/16"
SIMULATED_POD_RANGE = "10.128.0.1/9"

_DEVICE = "hpo-node"


def set_up() -> None:
    """Makes the node's device, unless an earlier control plane in this enclosure has made it."""
    if Path(f"/sys/class/net/{_DEVICE}").exists() or _DEVICE in run(["ip", "-o", "link"]):
        return
    run(["ip", "link", "add", _DEVICE, "type", "bridge"])
    run(["ip", "address", "add", f"{NODE_ADDRESS}/24", "dev", _DEVICE])
    run(["ip", "link", "set", _DEVICE, "up"])
    run(["ip", "route", "add", SERVICE_RANGE, "dev", _DEVICE])


def add_address(address: str) -> None:
    """Gives the node another address, for a program that is a Service's endpoint."""
    if address not in run(["ip", "-o", "address", "show", "dev", _DEVICE]):
        run(["ip", "address", "add", f"{address}/32", "dev", _DEVICE])
