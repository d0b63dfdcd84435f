"""One thread for linear algebra while a sampler draws.

Several threads add up in another order than one, and what is rounded otherwise is another proposal sooner or later. The matrices
here are too small to gain from threads, and where all cores are busy, those that wait for each other take ten times as long.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import ThreadpoolController

_limited = threading.RLock()  # the limit is the process's: who leaves first would lift it for the others


@contextmanager
def one_thread() -> Iterator[None]:
    """Of the libraries that are loaded at the beginning; afterwards they have the threads that they had."""
    with _limited, _libraries(len(sys.modules)).limit(limits=1, user_api="blas"):
        yield


@lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """Looked up anew only when modules were imported, for that takes milliseconds."""
    return ThreadpoolController()
