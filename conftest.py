"""Fixtures for all levels of tests, and what none of them may inherit from the shell."""

import signal

pytest_plugins = ["tests.testbed.fixtures"]

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell does so for what it runs in the background; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
