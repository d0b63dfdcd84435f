"""What tests of the local runner share."""

import pytest

from tests.unit.operator.local_studies import Laptop, without_a_worker


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    """A folder with a Study, and what a user does there; the algorithms run in this process."""
    without_a_worker(monkeypatch)
    laptop = Laptop(tmp_path)
    yield laptop
    laptop.clean_up()
