"""The test bed by hand.

python -m tests.testbed build                 what tests/control_plane needs
python -m tests.testbed build cluster python  what tests/cluster needs: programs, Debian packages, base images
python -m tests.testbed shell                 a shell beside a control plane: kubectl at hand, the operator running
python -m tests.testbed shell --cluster -- kubectl get nodes
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from . import binaries, images, packages
from .cluster import Cluster
from .control_plane import ControlPlane
from .errors import TestbedError
from .namespaces import enclose, enclosed
from .simulation import SimulatedNode

OPERATOR_PORT = 8080

_started = time.monotonic()


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit status; what a person can mend is said without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.testbed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("build", help="build what is missing")
    build.add_argument("what", nargs="*", choices=[[], *binaries.SETS, *images.BASES], default=[])
    build.set_defaults(run=_build)
    shell = commands.add_parser("shell", help="a shell, or one command, beside a running control plane")
    shell.add_argument("--cluster", action="store_true", help="with a real node and Prometheus")
    shell.add_argument("--bare", action="store_true", help="without the operator and its resources")
    shell.add_argument("--gpus", type=int, default=8, help="of the simulated node")
    shell.add_argument("--logs", type=Path, help="keep the components' logs in this folder")
    shell.add_argument("command", nargs="*")
    shell.set_defaults(run=_shell)
    asked = parser.parse_args(arguments)
    try:
        status: int = asked.run(asked)
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return status


def _build(asked: argparse.Namespace) -> int:
    what = asked.what or ["control-plane"]
    if set(what) - {"control-plane"}:
        packages.install(_say)
    binaries.build([level for level in what if level in binaries.SETS], _say)
    for name in what:
        if name in images.BASES:
            images.build_base(images.BASES[name], _say)
    _say(f"{', '.join(what)}: all there, in {binaries.cache_directory()}")
    return 0


def _shell(asked: argparse.Namespace) -> int:
    if not enclosed():
        return enclose([sys.executable, "-m", "tests.testbed", *sys.argv[1:]])
    nodes = [SimulatedNode("simulated-0", gpus=asked.gpus)]
    bed = Cluster(logs=asked.logs) if asked.cluster else ControlPlane(nodes=nodes, logs=asked.logs)
    with bed, nullcontext() if asked.bare else _operator(bed):
        _say(f"ready; logs in {bed.logs}, KUBECONFIG={bed.kubeconfig()}")
        environment = {**os.environ, "KUBECONFIG": str(bed.kubeconfig()), "PATH": f"{bed.programs()}:{os.environ['PATH']}"}
        command = asked.command or [os.environ.get("SHELL", "/bin/bash")]
        return subprocess.run(command, env=environment, check=False).returncode


@contextmanager
def _operator(bed: ControlPlane) -> Iterator[None]:
    """The operator beside the control plane, with its own rights and no others."""
    from tests.control_plane.operator_process import OperatorAccount, OperatorProcess

    bed.define_studies()
    arguments = ["--port", str(OPERATOR_PORT)]
    if isinstance(bed, Cluster):
        arguments += ["--prometheus-url", bed.prometheus_url]
    log = bed.logs / "operator.log"
    with OperatorProcess(OperatorAccount(bed).kubeconfig(), *arguments, log=log, fresh=True) as operator:
        _say(f"the operator runs: http://127.0.0.1:{OPERATOR_PORT}/metrics, its log is {log}")
        try:
            yield
        finally:
            operator.stop()


def _say(line: str) -> None:
    print(f"{time.monotonic() - _started:6.1f} s  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
