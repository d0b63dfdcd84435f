"""Programs of the real node that come from Debian: found, installed by apt where this is allowed, or asked for."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from .errors import CommandFailed, MissingTool

CNI_PLUGINS = Path("/usr/lib/cni")
"""Where Debian puts the CNI plugins; the one thing wanted that is not on the PATH."""

WANTED: Mapping[str, str] = {
    "ip": "iproute2",
    "openssl": "openssl",
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "iptables": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "mount": "mount",
    "unshare": "util-linux",
}
"""What a cluster needs, and the Debian package of each."""


def missing() -> list[str]:
    """The packages that are not installed."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return sorted({package for tool, package in WANTED.items() if shutil.which(tool, path=places) is None})


def install(say: Callable[[str], None] = print) -> None:
    """Installs what is missing. Raises MissingTool with the command to run for those who may not, or have no apt."""
    packages = missing()
    if not packages:
        return
    names = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingTool(names, f"install with: sudo apt-get install {names} (or what your system calls these)")
    say(f"packages: installing {names}")
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *packages]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandFailed(command, done.returncode, done.stdout + done.stderr)
