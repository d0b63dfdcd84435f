"""What a test does that lacks something of this machine."""

import os
from typing import NoReturn

import pytest


def lacking(what: object) -> NoReturn:
    """Skips the test, and says what it lacks and how to get it. In CI, where nothing may be lacking, the test fails."""
    if os.environ.get("CI"):
        pytest.fail(str(what))
    pytest.skip(str(what))
