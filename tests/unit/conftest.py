"""What unit tests of the SDK and of the operator share."""

import os
import subprocess

import pytest


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a disk of 32 kB, and a function that fills it; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)], check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
