"""Finding and ending what a Trial has left running: after a killed runner, or out of reach of its process group.

A process is a Trial's when it is the one that stands in the Trial's folder, is in its session, carries the Study's uid in its
environment, writes into the Trial's log, or descends from one of these. One mark alone would not do: a program may leave its
session, hide its environment (many set their title there), or send its output elsewhere. A program that runs a Study of its own
passes its marks on to the Trials of that one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path

RECORD = "process.json"
LOG = "log.txt"
OUTER_TRIALS = "HPO_OUTER_TRIALS"  # the variable with the Trials that a Trial's program runs within, as "<uid>/<number> …"


def remember(folder: Path, pid: int) -> None:
    """Write down which process a Trial runs in. Raises OSError."""
    (folder / RECORD).write_text(json.dumps({"pid": pid, "born": _birth(pid)}))


def forget(folder: Path) -> None:
    """A Trial's process has ended, with all its group."""
    with contextlib.suppress(OSError):
        os.unlink(folder / RECORD)


def trials_of(variables: Mapping[str, str]) -> str:
    """The Trials that a process with these variables is part of, as OUTER_TRIALS has them."""
    own = f"{variables['HPO_STUDY_UID']}/{variables.get('HPO_TRIAL_NUMBER', '')}" if "HPO_STUDY_UID" in variables else ""
    return f"{variables.get(OUTER_TRIALS, '')} {own}".strip()


def end_leftovers(uid: str, folders: Iterable[Path], spared: Collection[int] = (), patience: float = 10.0) -> list[int]:
    """End the processes of a Study's Trials, and wait until they are gone; gives those that could not be ended, normally none.

    Args:
        uid: the Study's.
        folders: of the Trials to look for, which hold their processes and logs.
        spared: numbers of Trials that are running, and go on.
        patience: seconds to wait for processes that were killed.
    """
    known = list(folders)
    leaders = {pid for folder in known if (pid := _leader(folder)) is not None}
    logs = {os.path.realpath(folder / LOG) for folder in known}
    deadline = time.monotonic() + patience
    dying: dict[int, str | None] = {}
    # Until a look finds none: a process that is just being killed may have started another one.
    while victims := _find(uid, leaders, logs, spared, dying):
        for pid in victims:
            dying.setdefault(pid, _birth(pid))
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, 9)
        if time.monotonic() > deadline:
            return sorted(victims)
        time.sleep(0.01)
    for folder in known:
        forget(folder)
    return []


def _find(uid: str, leaders: set[int], logs: set[str], spared: Collection[int], dying: dict[int, str | None]) -> set[int]:
    import psutil

    own = {os.getpid(), *(each.pid for each in psutil.Process().parents())}
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter():
        pid = process.pid
        if pid in own:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            # Without other threads it has ended, and its parent has not looked yet. With them it holds its memory and its GPU until
            # it has given them back, and tells nothing of itself any more but its session.
            if process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1:
                continue
            children.setdefault(process.ppid(), []).append(pid)
            known = pid in leaders or os.getsid(pid) in leaders or (pid in dying and dying[pid] == _birth(pid))
            if known or _writes_to(pid, logs) or _carries(process, uid, spared):
                found.add(pid)
    level = list(found)
    while level:
        level = [child for pid in level for child in children.get(pid, ()) if child not in found]
        found.update(level)
    return found


def _leader(folder: Path) -> int | None:
    """The process that stands in a Trial's folder, if it still is that process: numbers are given again."""
    try:
        known = json.loads((folder / RECORD).read_text())
        pid = int(known["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    born = _birth(pid)
    return pid if born is not None and born == known.get("born") else None


def _carries(process: object, uid: str, spared: Collection[int]) -> bool:
    places = (each.partition("/") for each in trials_of(process.environ()).split())  # type: ignore[attr-defined]
    return any(study == uid and not (number.isdecimal() and int(number) in spared) for study, _, number in places)


def _writes_to(pid: int, logs: set[str]) -> bool:
    for stream in (1, 2):
        with contextlib.suppress(OSError):  # not ours to look into, or a system without /proc
            if os.readlink(f"/proc/{pid}/fd/{stream}") in logs:
                return True
    return False


def _birth(pid: int) -> str | None:
    """When a process was started, as a text that no other process with its number ever has; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = file.read().rpartition(b")")[2].split()[19].decode()  # since boot, so that setting the clock changes nothing
        return f"{_boot()}/{ticks}"
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    except (OSError, IndexError):
        return None
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
