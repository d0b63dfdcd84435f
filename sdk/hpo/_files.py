"""Files that must be readable whenever the program dies, kill -9 in the middle of a write included.

The termination file cannot be replaced by renaming, since the kubelet mounts it by itself, and truncating it first would
leave a moment in which nothing stands there. So lines are appended, and a line is complete when its newline stands. Once
the file is crowded, the newest line is written over its front, as long as the last complete line stays untouched behind,
and only then is the rest cut off. A reader takes the last complete line: before the cut the one before, after it the
newest. A line is ready to be read when the call that writes it returns.
"""

from __future__ import annotations

import errno
import fcntl
import os

from hpo._message import LONGEST_LINE, MARK

# A pod's containers share 12 kB, each cut from the *front* of the 4 kB tail that was read before: what is kept small
# enough arrives whole in pods of up to six containers.
CROWDED = 2048

# A termination file is no log; what stands further from its end than this no kubelet delivers.
_FAR_BACK = 16 * 1024


def append_line(path: str, line: bytes) -> None:
    """Appends a line by a single write, on a line of its own even where a write before it was cut short."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        _all_written(os.write(descriptor, line), line)
    finally:
        os.close(descriptor)


def write_last_line(path: str, line: bytes) -> None:
    """Makes a line the last of the termination file, and shortens a crowded file."""
    if _size(path) + len(line) <= CROWDED or not _rewrite(path, line):
        append_line(path, line)


def newest_line(path: str) -> bytes:
    """The last complete line of ours, whichever process has written it; empty if there is none."""
    start = max(0, _size(path) - _FAR_BACK)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        *lines, _ = os.pread(descriptor, _FAR_BACK, start).split(b"\n")
    finally:
        os.close(descriptor)
    return next((line + b"\n" for line in reversed(lines) if line.startswith(MARK)), b"")


def settle(path: str, line: bytes) -> None:
    """Leaves the line as the only one of ours, at the end."""
    if not _rewrite(path, line):
        append_line(path, line)  # once more, and further back than anything that is written over now
        _rewrite(path, line)


def _rewrite(path: str, line: bytes) -> bool:
    """Writes what others wrote and then the line over the file; False, and nothing done, if that would risk the last line."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another rank reports too, and is here right now
            return False
        except OSError:
            pass  # no locks on this file system; one process alone needs none
        size = os.fstat(descriptor).st_size
        start = max(0, size - _FAR_BACK)
        room = CROWDED - max(LONGEST_LINE, len(line))  # what others wrote is kept in front of the message while both fit
        others, last_ours = _sorted_out(os.pread(descriptor, _FAR_BACK, start), room, begins_within=start > 0)
        content = others + line
        if last_ours is not None and len(content) > start + last_ours:
            return False
        _all_written(os.pwrite(descriptor, content, 0), content)
        os.ftruncate(descriptor, len(content))
        return True
    finally:
        os.close(descriptor)


def _sorted_out(content: bytes, room: int, begins_within: bool) -> tuple[bytes, int | None]:
    """The last whole lines that others wrote, as many as there is room for; and where our last complete line begins."""
    others: list[bytes] = []
    last_ours, position = None, 0
    *lines, unfinished = content.split(b"\n")
    if begins_within and lines:  # within a line, which is not whole
        position = len(lines.pop(0)) + 1
    for line in lines:
        if line.startswith(MARK):
            last_ours = position
        elif not MARK.startswith(line.strip()):  # neither empty nor the first bytes of one of ours
            others.append(line + b"\n")
        position += len(line) + 1
    if not unfinished.startswith(MARK) and not MARK.startswith(unfinished.strip()):
        others.append(unfinished + b"\n")
    kept: list[bytes] = []
    while others and len(others[-1]) <= room:
        kept.append(others.pop())
        room -= len(kept[-1])
    return b"".join(reversed(kept)), last_ours


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _all_written(count: int, content: bytes) -> None:
    if count < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
