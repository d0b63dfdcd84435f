"""A real S3 server on this machine: moto's.

It has an environment of its own, for what it needs and what the operator needs exclude each other.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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
        assert not os.environ.get("CI"), f"{PYTHON} is missing: make .venv/.s3"
        pytest.skip("no S3 server is installed: make .venv/.s3")
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
