"""Fixtures for all levels of tests, and what none of them may inherit from the shell."""

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
    """What needs torch and has it not is skipped, and fails where it must be there."""
    if item.get_closest_marker("torch") and importlib.util.find_spec("botorch") is None:
        lacking("needs the extra torch: make .venv/.torch")
