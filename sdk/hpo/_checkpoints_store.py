"""A Trial's own folder of checkpoints, whose content is right whenever the program dies, kill -9 in any write included.

    step-26/  step-27/             complete: the manifest was written last, the folder then renamed to this name
    .step-28.tmp-9f2c…/            being written, or what a killed program left of it
    .step-25.gone-51ab…/           being removed, likewise
    .lock                          held by the process that changes the folder

A checkpoint never changes under its name. What a killed program left behind is removed by the next one. Anything else
in the folder is the user's and stays as it is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpo._checkpoints_manifest import (
    LARGEST_MANIFEST,
    MANIFEST,
    CopiedFrom,
    Entry,
    Irregular,
    Manifest,
    check_content,
    read_manifest,
    tree,
    verify,
)
from hpo._checkpoints_reading import CHUNK, Damaged, Unreadable, is_away, read, remedy_for, stands, waited_for
from hpo._errors import CheckpointNotSaved, InvalidCheckpoint
from hpo._notices import note, note_once

_COMPLETE = re.compile(r"step-(0|[1-9]\d{0,15})")
_LEFT_OVER = re.compile(r"\.step-\d+\.(tmp|gone)-[0-9a-f]+")

LOCK = ".lock"
_FLUSHER = "hpo-checkpoint-flush"

# Whoever mounts the folder next may run as another user. Nobody but the owner writes.
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755

# The answers of file systems that have no locks, and of those on which folders cannot be flushed or modes not be set.
_NOT_OFFERED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}

# A writer's error that is the volume's fault and not the writer's.
_VOLUME_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}

_LOOK_SECONDS, _TOLD_AFTER_SECONDS = 0.05, 5.0
_LARGE, _FLUSH_SECONDS = 8 * CHUNK, 0.02  # from this size on a file is flushed, each time after this pause, while it is worked on


class _Turns:
    """Whose turn it is in this process. Reentrant, since a signal handler may save in the middle of a save."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.lock = threading.RLock()
        self.held: set[str] = set()
        self.swept: set[str] = set()


_turns = _Turns()
os.register_at_fork(after_in_child=_turns.begin)  # another thread of the parent may hold the lock, which nobody would release


class Store:
    """The checkpoints of one Trial in one folder, of which the newest `keep` are kept.

    `is_first` says whether this process is the first of those that share the folder, if there are several.
    """

    def __init__(self, folder: str, keep: int, *, is_first: bool = True) -> None:
        self.folder = os.path.abspath(folder)
        self._keep = keep
        self._is_first = is_first

    def path(self, step: int) -> str:
        """Where the checkpoint of a step stands once it is complete."""
        return os.path.join(self.folder, f"step-{step}")

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, the newest first; raises `Unreadable`."""

        def complete() -> list[int]:
            try:
                names = [match for match in map(_COMPLETE.fullmatch, os.listdir(self.folder)) if match]
            except FileNotFoundError:
                return []
            return [int(name[1]) for name in names if stands(os.path.join(self.folder, name[0], MANIFEST))]

        return sorted(read("the folder", self.folder, complete), reverse=True)

    def manifest(self, step: int) -> Manifest:
        """The manifest of a complete checkpoint; raises `Damaged` and `Unreadable`."""
        return read_manifest(self.path(step))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keeps other threads and processes from changing the folder meanwhile; at the first time removes what is left over."""
        with _turns.lock:
            if self.folder in _turns.held:
                yield
                return
            try:
                descriptor, alone = waited_for(self.folder, self._locked, is_away)
            except OSError as error:
                if is_away(error):
                    raise Unreadable(self.folder, error) from error
                raise self._fault("cannot be written to", error) from error
            try:
                _turns.held.add(self.folder)
                if self.folder not in _turns.swept and (alone or self._is_first):
                    self._sweep()
                yield
            finally:
                _turns.held.discard(self.folder)
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough: a forked child may hold a copy
                os.close(descriptor)

    def newest_intact(self, at_least: int = 0) -> Manifest | None:
        """The newest checkpoint that is whole to the last bit; damaged ones are told and removed. Raises `Unreadable`."""
        for step in self.steps():
            if step < at_least:
                break
            try:
                manifest = read_manifest(self.path(step))
                if manifest.step != step:
                    raise Damaged(f"{MANIFEST} says step {manifest.step}")
                verify(self.path(step), manifest)
            except Damaged as damage:
                note(f"checkpoint {self.path(step)} is damaged and not used: {damage}")
                self.remove(step)
            else:
                return manifest
        return None

    def write(self, step: int, writer: Callable[[Path], object]) -> Manifest:
        """Makes a checkpoint of what the writer leaves in the folder that it is given.

        Raises what the writer raises, `InvalidCheckpoint` and `CheckpointNotSaved`, and then nothing is left.
        """
        with self._begun(step) as folder:
            try:
                writer(Path(folder))
            except OSError as error:
                if error.errno in _VOLUME_FAULTS:
                    raise self._fault(f"could not take the checkpoint of step {step}", error) from error
                raise
            with self._no_faults(step):
                return self._complete(folder, Manifest(step, _flushed(folder)))

    def copy(self, source: Manifest, copy_file: Callable[[Entry, str], None], origin: Callable[[], CopiedFrom | None]) -> Manifest:
        """Makes one's own of another's checkpoint; `copy_file` writes one file to a path, or raises `Damaged` or `Unreadable`.

        It reaches the disk while the program goes on, and before its process ends: a machine that dies before that loses nothing,
        for what it leaves of the copy is told by its digests, and the other's is still there. Raises `CheckpointNotSaved` too, and
        then nothing is left.
        """
        with self._begun(source.step) as folder, self._no_faults(source.step):
            for entry in source.files:
                path = os.path.join(folder, entry.path)
                os.makedirs(os.path.dirname(path), _FOLDER_MODE, exist_ok=True)
                copy_file(entry, path)
                _set_mode(path, _FILE_MODE)
            made = self._complete(folder, source._replace(copied_from=origin()), flushed=False)
        flush_behind(self.path(made.step))
        return made

    def prune(self) -> None:
        """Removes all but the newest complete checkpoints; a fault is told once, for nothing is lost by it."""
        try:
            for step in self.steps()[self._keep :]:
                self.remove(step)
        except (CheckpointNotSaved, Unreadable) as error:
            note_once("prune", str(error))

    def remove(self, step: int) -> None:
        """Removes one checkpoint, its name first, so that there is never half of it under its name."""
        gone = self._hidden(step, "gone")
        try:
            os.replace(self.path(step), gone)
        except OSError as error:
            raise self._fault(f"still holds an old or damaged checkpoint of step {step}", error) from error
        _delete(gone)

    def _locked(self) -> tuple[int, bool]:
        """The folder's lock, once no other process has it, and whether there are such locks at all; raises OSError."""
        # makedirs would take a folder that cannot be looked at for a file
        if not read("the folder", self.folder, lambda: stands(self.folder)):
            os.makedirs(self.folder, _FOLDER_MODE, exist_ok=True)
        descriptor = os.open(os.path.join(self.folder, LOCK), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            return descriptor, _lock(descriptor, self.folder)
        except BaseException:
            os.close(descriptor)
            raise

    def _sweep(self) -> None:
        """Removes what killed programs left behind. Only at the beginning of a turn: within one, or without, it may be in use."""
        _turns.swept.add(self.folder)
        with suppress(OSError):
            for name in os.listdir(self.folder):
                if _LEFT_OVER.fullmatch(name):
                    _delete(os.path.join(self.folder, name))

    @contextmanager
    def _begun(self, step: int) -> Iterator[str]:
        """A hidden folder to write to, which is gone afterwards: by then renamed, or removed."""
        folder = self._hidden(step, "tmp")
        with self._no_faults(step):
            os.mkdir(folder, 0o777)
        try:
            yield folder
        finally:
            _delete(folder)

    def _complete(self, folder: str, manifest: Manifest, *, flushed: bool = True) -> Manifest:
        """Writes the manifest and gives the folder its name, each only once all that it stands for is on the disk.

        The latter unless `flushed` is False: then somebody sees to that afterwards.

        Returns what stands under the name: what was saved under it meanwhile, by a signal handler or, where there are no
        locks, by another process, stays.
        """
        content = manifest.as_json()
        if len(content) > LARGEST_MANIFEST:
            rule = f"has {len(manifest.files)} files, and naming them takes more than {LARGEST_MANIFEST >> 20} MiB"
            raise InvalidCheckpoint("checkpoint", folder, rule, "Pack them into fewer files")
        draft = os.path.join(folder, f".{MANIFEST}.tmp")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        try:
            write_all(descriptor, content)
        finally:
            os.close(descriptor)
        settle = _flush if flushed else _set_mode
        settle(draft, _FILE_MODE)
        os.replace(draft, os.path.join(folder, MANIFEST))
        for below, _, _ in os.walk(folder, topdown=False):
            settle(below, _FOLDER_MODE)
        target = self.path(manifest.step)
        if os.path.lexists(target) and not stands(os.path.join(target, MANIFEST)):
            self.remove(manifest.step)  # something of that name, but no checkpoint
        try:
            os.rename(folder, target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            manifest = read_manifest(target)
        if flushed:
            _flush(self.folder)
        return manifest

    def _hidden(self, step: int, purpose: str) -> str:
        return os.path.join(self.folder, f".step-{step}.{purpose}-{os.urandom(8).hex()}")

    @contextmanager
    def _no_faults(self, step: int) -> Iterator[None]:
        try:
            yield
        except CheckpointNotSaved:
            raise
        except OSError as error:
            raise self._fault(f"could not take the checkpoint of step {step}", error) from error

    def _fault(self, rule: str, error: OSError) -> CheckpointNotSaved:
        otherwise = "Look at the volume's size, quota and permissions, or keep fewer or smaller checkpoints"
        remedy = remedy_for(error, "write", otherwise)
        return CheckpointNotSaved("checkpoint folder", self.folder, f"{rule} ({error})", remedy, error.errno)


def _delete(path: str) -> None:
    """Removes whatever it is, as far as that is possible; the next program tries again."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        os.unlink(path)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all bytes, however few the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_compared(content: Iterator[bytes], entry: Entry, path: str) -> None:
    """Makes a file of what is read; raises `Damaged` unless it is the one that a manifest names, `OSError`."""
    size, sha256 = 0, hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for chunk in content:
            size += len(chunk)
            if size > entry.size:
                break  # no need to fill the disk with what is not wanted
            sha256.update(chunk)
            write_all(descriptor, chunk)
    finally:
        os.close(descriptor)
    check_content(entry, (size, sha256.hexdigest()))


def _flushed(folder: str) -> tuple[Entry, ...]:
    """Flushes all that a writer left in its folder to the disk, and says what it is; raises `InvalidCheckpoint` and `OSError`."""
    try:
        if os.path.islink(folder):
            raise Irregular(folder, "was replaced by a symbolic link; a checkpoint must hold the files themselves")
        paths = sorted(tree(folder))
    except Irregular as error:
        raise InvalidCheckpoint("file", error.path, error.rule, "Write plain files and folders with plain names") from None
    if not paths:
        raise InvalidCheckpoint(
            "checkpoint", folder, "holds no file", "Write at least one file into the folder that is handed over"
        )
    for path in paths:
        if path in (MANIFEST, f".{MANIFEST}.tmp"):
            raise InvalidCheckpoint("file", path, "is the name of the checkpoint's own manifest", "Choose another name")
    return tuple(_entry(folder, path) for path in paths)


def _entry(folder: str, path: str) -> Entry:
    size, sha256 = 0, hashlib.sha256()
    place = os.path.join(folder, path)
    _set_mode(place, _FILE_MODE)
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        with _flushing(descriptor, os.fstat(descriptor).st_size):
            while chunk := os.read(descriptor, CHUNK):
                size += len(chunk)
                sha256.update(chunk)
        _sync(descriptor)
    finally:
        os.close(descriptor)
    return Entry(path, size, sha256.hexdigest())


def _flush(path: str, mode: int | None = None) -> None:
    if mode is not None:
        _set_mode(path, mode)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def flush_behind(folder: str) -> None:
    """Flushes a complete checkpoint to the disk in a thread of its own, for which the process waits when it ends."""

    def flush() -> None:
        try:
            for below, _, names in os.walk(folder):
                for path in (*(os.path.join(below, name) for name in names), below):
                    _flush(path)
            _flush(os.path.dirname(folder))
        except FileNotFoundError:
            pass  # it has been removed, since a newer one is there
        except OSError as error:
            note(f"{folder} may not survive this machine ({error})")

    threading.Thread(target=flush, name=_FLUSHER, daemon=False).start()


def wait_until_flushed() -> None:
    """Waits for what is being flushed: before a process becomes another program, which ends its threads."""
    for thread in threading.enumerate():
        if thread.name == _FLUSHER:
            thread.join()


@contextmanager
def _flushing(descriptor: int, size: int) -> Iterator[None]:
    """Flushes a large file while it is written or read, so that little is left to wait for at the end: raises `OSError`.

    The caller's own flush follows. A fault must be raised here, for the system tells of it only once.
    """
    if size < _LARGE:
        yield
        return
    ended, faults = threading.Event(), list[OSError]()

    def flush() -> None:
        try:
            while not ended.wait(_FLUSH_SECONDS):
                _sync(descriptor)
        except OSError as fault:
            faults.append(fault)

    flusher = threading.Thread(target=flush, daemon=True)
    flusher.start()
    try:
        yield
    finally:
        ended.set()
        flusher.join()
    for fault in faults:
        raise fault


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


def _set_mode(path: str, mode: int) -> None:
    if stat.S_IMODE(os.stat(path).st_mode) == mode:
        return
    try:
        os.chmod(path, mode)
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise


def hand_over(checkpoint: Path) -> None:
    """Lets whoever may write to a Trial's folder replace and remove a checkpoint in it, too, and take the folder's lock.

    That is for a program that runs as another user than this process. Group and rights to write become those of the folder, so
    that nobody can write who could not before.
    """
    about = os.stat(checkpoint.parent)
    shared = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not shared:
        return
    for below, _, names in os.walk(checkpoint):
        _share(below, about.st_gid, _FOLDER_MODE | shared)
        for name in names:
            _share(os.path.join(below, name), about.st_gid, _FILE_MODE | shared)
    _share(os.path.join(checkpoint.parent, LOCK), about.st_gid, _FILE_MODE | shared)


def _share(path: str, group: int, mode: int) -> None:
    with suppress(FileNotFoundError):  # the program of another pod is at work already
        try:
            os.chown(path, -1, group)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:  # somebody else's, or a group that this process is not in
                raise
        _set_mode(path, mode)


def _lock(descriptor: int, folder: str) -> bool:
    """Waits until no other process has the folder; False where the file system has no locks."""
    begun = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() - begun > _TOLD_AFTER_SECONDS:
                note_once("lock", f"waiting for another process of this Trial, which is at work in {folder}")
            time.sleep(_LOOK_SECONDS)
        except OSError as error:
            if error.errno in _NOT_OFFERED:
                return False
            raise
