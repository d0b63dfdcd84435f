"""Reading a growing file line by line, whatever a program writes into it, or puts in its place."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAX_LINE = 65536  # what is longer is no metric; its rest is skipped
CHUNK = 1 << 20


class Tail:
    """The whole lines that were added to a file since the last look; bounded in memory, bytes that are no text replaced.

    A carriage return ends a line, too: progress bars end theirs so.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._skipping = False

    def lines(self, *, last: bool = False) -> Iterator[str]:
        """New lines, at most a chunk of them at a time unless it is the `last` look, which also takes an unfinished line."""
        try:
            with _opened(self._path) as file:
                size = os.fstat(file.fileno()).st_size  # what is added from now on is for the next look
                file.seek(self._offset)
                while self._offset < size and (chunk := file.read(min(CHUNK, size - self._offset))):
                    self._offset += len(chunk)
                    yield from self._split(chunk)
                    if not last:
                        break
        except OSError:
            return
        if last and self._rest and not self._skipping:
            yield self._rest.decode(errors="replace")
            self._rest = b""

    def _split(self, chunk: bytes) -> list[str]:
        *whole, rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
        found = [line.decode(errors="replace") for line in whole[1 if self._skipping and whole else 0 :] if len(line) <= MAX_LINE]
        self._skipping = (self._skipping and not whole) or len(rest) > MAX_LINE
        self._rest = b"" if self._skipping else rest
        return found


def last_line(path: Path, size: int = 4096) -> str:
    """The last line of a file that is not blank, for a message; empty where there is none."""
    lines = (line.strip() for line in reversed(end_of(path, size).splitlines()))
    line = next((line for line in lines if line), "")
    return "".join(each if each.isprintable() else "�" for each in line)[:300]


def end_of(path: Path, size: int = 4096) -> str:
    """The tail of a file, as the kubelet reads a termination message; empty where it cannot be read."""
    try:
        with _opened(path) as file:
            file.seek(max(os.fstat(file.fileno()).st_size - size, 0))
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def stands_for(path: Path) -> str:
    """What stands where a file belongs, if it is none and so is not read; empty where it is one, or nothing."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    if stat.S_ISREG(mode):
        return ""
    return "a directory" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "a socket or a device"


def _opened(path: Path) -> BinaryIO:
    """A file to be read. Raises OSError for what is none: a FIFO would be waited for, and a device may have no end."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115  the caller's
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return file
