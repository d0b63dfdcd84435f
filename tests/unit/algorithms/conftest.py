"""What holds for all tests of the algorithms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits

# Helper modules whose assertions pytest shall explain as it does those of tests.
pytest.register_assert_rewrite(*(f"tests.unit.algorithms.{name}" for name in ("contract", "simulation", "histories")))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and lose much to their waiting for each other on a busy machine."""
    with threadpool_limits(1), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for processes that tests start
        yield
