"""What unit tests of the SDK and of the operator share."""

import os
import subprocess
from contextlib import contextmanager

import pytest

from tests.testbed.lacking import lacking


@contextmanager
def mounted(folder, size):
    """A folder that is a disk of this size; needs root."""
    folder.mkdir()
    if os.geteuid() != 0:
        lacking("mounting a small disk needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False).returncode != 0:
        lacking("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a disk of 32 kB, which little fills."""
    with mounted(tmp_path / "disk", "32k") as folder:
        yield folder


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 1 MB."""
    with mounted(tmp_path / "disk", "1m") as folder:
        yield folder
