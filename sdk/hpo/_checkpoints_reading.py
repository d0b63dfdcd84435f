"""Reading from a store that may be away for a while: its server restarts, its network is mended, a stream breaks off.

What is not there is `Damaged`, at once. Any other fault tells nothing of the checkpoint, which may be whole: what was to be read
is opened anew and read on from where it broke off, until three minutes have brought nothing. Then it is `Unreadable`: a reason to
end the program, and never one to remove anything.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hpo._notices import note

Found = TypeVar("Found")

CHUNK = 1024 * 1024

# How long is waited for a store that brings nothing, and how long at a time. Object stores are given the same.
PATIENCE_SECONDS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 180.0, 0.2, 10.0

# A file that is not there, or a link in its place. A handle that a server knows no more (ESTALE) is not among them: it is opened
# anew, and only then it shows whether the file is gone or its server was.
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

# The faults by which a store that is written to says that it is away, and not that it is full, forbidden or none.
_AWAY = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
}


class Damaged(Exception):
    """A folder is not the complete checkpoint that it should be; `str()` says why."""


class Unreadable(Exception):
    """A store could not be read, however often it was tried; `str()` says which, why, and what to look at."""

    def __init__(self, place: str, error: OSError) -> None:
        self.place, self.errno = place, error.errno
        self.rule = f"cannot be read ({error.strerror or error})"
        otherwise = "Look at the store's server, its network, and your permissions or credentials there"
        self.remedy = remedy_for(error, "read", otherwise) + "; nothing was removed"
        super().__init__(f"{place}: {self.rule}. {self.remedy}.")


def remedy_for(error: OSError, act: str, otherwise: str) -> str:
    """What to do about a fault: where the system forbids it to this user, to run as another one; else what `otherwise` says."""
    if error.errno not in (errno.EACCES, errno.EPERM) or not error.filename:  # an object store's have no file
        return otherwise
    return f"User {os.geteuid()} may not {act} there: run as the one who may (securityContext.runAsUser of the pod), or let others"


def is_gone(error: OSError) -> bool:
    """Whether a fault says that something is not there, so that it is no use to look again."""
    return error.errno in _GONE


def is_away(error: OSError) -> bool:
    """Whether a fault says that the whole store is away."""
    return error.errno in _AWAY


def read(what: str, place: str, work: Callable[[], Found]) -> Found:
    """What is read from a place, which is tried again; raises `Damaged` where it is gone, and `Unreadable`."""
    try:
        return waited_for(place, work, lambda error: not is_gone(error))
    except OSError as error:
        if is_gone(error):
            raise Damaged(f"{what} cannot be read ({error.strerror})") from None
        raise Unreadable(place, error) from error


def read_on(what: str, place: str, open_at: Callable[[int], Iterator[bytes]]) -> Iterator[bytes]:
    """The pieces of a file or an object, which is opened anew at the next byte where it breaks off; raises as `read`."""
    source: Iterator[bytes] | None = None
    offset = 0

    def piece() -> bytes:
        nonlocal source
        if source is None:
            source = open_at(offset)
        try:
            return next(source, b"")
        except OSError:
            source = None
            raise

    while found := read(what, place, piece):
        offset += len(found)
        yield found


def waited_for(place: str, work: Callable[[], Found], is_passing: Callable[[OSError], bool]) -> Found:
    """The work's result, which is tried again while its faults may pass, and told at the first; raises the last OSError."""
    begun, pause = time.monotonic(), FIRST_PAUSE_SECONDS
    while True:
        try:
            return work()
        except OSError as error:
            left = begun + PATIENCE_SECONDS - time.monotonic()
            if left <= 0 or not is_passing(error):
                raise
            if pause == FIRST_PAUSE_SECONDS:
                note(f"{place} does not answer ({error.strerror or error}); it is tried again for {_patience()}")
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def chunks(path: str) -> Iterator[bytes]:
    """A regular file's content in pieces; raises `Damaged` where it is gone, and `Unreadable`."""

    def open_at(offset: int) -> Iterator[bytes]:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if offset:
                os.lseek(descriptor, offset, os.SEEK_SET)
            while chunk := os.read(descriptor, CHUNK):
                yield chunk
        finally:
            os.close(descriptor)

    return read_on(repr(os.path.basename(path)), path, open_at)


def stands(path: str) -> bool:
    """Whether there is something of this name; other than os.path.exists it raises OSError where that cannot be known."""
    try:
        os.stat(path)
    except OSError as error:
        if is_gone(error):
            return False
        raise
    return True


def _patience() -> str:
    return f"{PATIENCE_SECONDS / 60:g} minutes"
