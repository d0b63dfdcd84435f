"""A real S3 server on this machine, moto's, and a gate before it that can be shut.

The server has an environment of its own, for what it needs and what the operator needs exclude each other.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.testbed.lacking import lacking

PYTHON = Path(__file__).parents[3] / ".venv" / "s3" / "bin" / "python"
PATIENCE = 60.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with one empty bucket, `weights`."""
    if not PYTHON.exists():
        lacking(f"{PYTHON} is missing: make .venv/.s3")
    port = free_port()
    command = [PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{address}/weights", method="PUT"), timeout=PATIENCE).close()
                break
            except OSError:
                assert process.poll() is None, "the S3 server has ended"
                assert time.monotonic() < deadline, "the S3 server does not answer"
                time.sleep(0.05)
        yield address
    finally:
        process.kill()
        process.wait()


class Gate:
    """A way to a server that can be shut: what passes through it breaks off, and then nobody answers at its address.

    `watch(upwards, data)` is called with all that passes, before it does.
    """

    def __init__(self, server: str) -> None:
        self.address = f"http://127.0.0.1:{free_port()}"
        self.watch: Callable[[bool, bytes], None] = lambda upwards, data: None
        self._server = int(server.rpartition(":")[2])
        self._passing: set[socket.socket] = set()
        self._listening: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        return self._listening is not None

    def open(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", int(self.address.rpartition(":")[2])))
        threading.Thread(target=self._let_in, args=(self._listening,), daemon=True).start()

    def shut(self) -> None:
        listening, self._listening = self._listening, None
        for each in ([listening] if listening else []) + list(self._passing):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        if listening:
            listening.close()

    def _let_in(self, listening: socket.socket) -> None:
        with suppress(OSError):  # it is shut
            while True:
                near, _ = listening.accept()
                threading.Thread(target=self._pass, args=(near,), daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._server)) as far:
            self._passing |= {near, far}
            back = threading.Thread(target=self._carry, args=(far, near, False), daemon=True)
            back.start()
            self._carry(near, far, True)
            back.join()
            self._passing -= {near, far}

    def _carry(self, source: socket.socket, target: socket.socket, upwards: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.watch(upwards, data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
