"""Reading a growing file line by line, whatever a program writes into it."""

from __future__ import annotations

import os
from pathlib import Path

MAX_LINE = 65536  # what is longer is no metric; its rest is skipped
CHUNK = 1 << 20


class Tail:
    """The whole lines that were added to a file since the last look; bounded in memory, bytes that are no text replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._skipping = False

    def lines(self, *, last: bool = False) -> list[str]:
        """New lines, at most a chunk of them at a time unless it is the `last` look, which also takes an unfinished line."""
        found: list[str] = []
        try:
            with open(self._path, "rb") as file:
                if os.fstat(file.fileno()).st_size > self._offset:
                    file.seek(self._offset)
                    while chunk := file.read(CHUNK):
                        self._offset += len(chunk)
                        found += self._split(chunk)
                        if not last:
                            break
        except OSError:
            return found
        if last and self._rest and not self._skipping:
            found.append(self._rest.decode(errors="replace"))
            self._rest = b""
        return found

    def _split(self, chunk: bytes) -> list[str]:
        *whole, rest = (self._rest + chunk).split(b"\n")
        found = [line.decode(errors="replace") for line in whole[1 if self._skipping and whole else 0 :] if len(line) <= MAX_LINE]
        self._skipping = (self._skipping and not whole) or len(rest) > MAX_LINE
        self._rest = b"" if self._skipping else rest
        return found


def last_line(path: Path, size: int = 4096) -> str:
    """The last line of a file that is not blank, for a message; empty where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - size, 0))
            lines = file.read(size).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def end_of(path: Path, size: int = 4096) -> str:
    """The tail of a file, as the kubelet reads a termination message; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - size, 0))
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""
