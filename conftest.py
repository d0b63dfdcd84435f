"""The test bed's fixtures for all levels of tests: one control plane at a time, whichever folder asks for it."""

pytest_plugins = ["tests.testbed.fixtures"]
