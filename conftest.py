"""Fixtures for all levels of tests, and what none of them may inherit from the shell."""

import functools
import importlib.util
import signal

import pytest

from tests.testbed.lacking import lacking

pytest_plugins = ["tests.testbed.fixtures"]

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell does so for what it runs in the background; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What needs torch and has it not is skipped, and fails where it must be there; a GPU need be nowhere."""
    if item.get_closest_marker("torch") and importlib.util.find_spec("botorch") is None:
        lacking("needs the extra torch: make .venv/.torch")
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs the extra torch, and a GPU that it sees: make gpu")


@functools.cache
def _has_gpu() -> bool:
    if importlib.util.find_spec("botorch") is None:
        return False
    import torch

    return torch.cuda.is_available()
