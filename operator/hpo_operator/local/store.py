"""The record of a Study that runs without a cluster: a folder with one file for the Study and one for each Trial.

    study.json                  the Study with its status
    lock                        held while a runner works on the folder
    trials/0007/trial.json      a Trial with its status
    trials/0007/log.txt         what its program printed
    trials/0007/…               parameters, live metrics, final message, and the process while there is one

A file is written aside and renamed over the old one, so that a reader, or a runner after a crash, finds the old state or the
new one. That holds when the runner is killed; so that it also holds when the machine loses its power, a result that took long is
on the disk before anything is built on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hpo_algorithms import AlgorithmsError
from pydantic import ValidationError

from hpo_operator.ledger import is_terminal
from hpo_operator.resources import Study, StudyStatus, Trial, TrialStatus

FORMAT = 1
MUTABLE = ("parallelism", "limits", "suspend", "workloadTTLSeconds")  # spec fields that may change during a Study
SYNC_SECONDS = 1.0  # a Trial that took longer does not feel what it costs to wait for the disk
CHANGED = "It was changed by hand, or written by another version."
LOCK_SECONDS = 1.0  # a program that a killed runner was just starting holds the lock until it runs


class StoreError(AlgorithmsError):
    """A results folder cannot be used; the message says which, why, and what to do."""


class RunBroken(StoreError):
    """A run cannot go on by a fault of the machine. Nothing recorded is lost: the same command goes on when that is mended."""


class WriteFailed(RunBroken):
    """A file of a results folder could not be written during a run, most often because the disk is full."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        remedy = "Nothing that was recorded is lost: make room and run the same command again."
        super().__init__(f"{path}: cannot be written: {error.strerror or error}. {remedy}")


class Store:
    """A results folder, opened and locked by one runner."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock: int | None = None

    @classmethod
    def open(cls, root: Path, study: Study, seed: int) -> tuple[Store, Study]:
        """Create the folder for a Study, or take up the one that is there. Raises StoreError when it is another Study's."""
        store = cls(root)
        store._make_folder()
        store._lock = _locked(root)
        try:
            return store, store._adopt(study, seed)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def folder(self, number: int) -> Path:
        """A Trial's folder."""
        return self.root / "trials" / f"{number:04d}"

    def trials(self, uid: str) -> Iterator[Trial]:
        """All Trials of the folder by number. Raises StoreError for one that cannot be read, or is another Study's."""
        folder = self.root / "trials"
        try:
            known = [(number, self.folder(number) / "trial.json") for number in map(int, filter(str.isdecimal, os.listdir(folder)))]
            # Where there is none, a runner was killed before it had recorded this Trial, which nobody has seen yet.
            known = sorted((number, path) for number, path in known if path.exists())
        except OSError as error:
            remedy = "Check its permissions, or restore it."
            raise StoreError(f"{error.filename}: cannot be read: {error.strerror}. {remedy}") from None
        for number, path in known:
            trial: Trial = read(path, Trial)
            if trial.spec.number != number or trial.spec.study_ref.uid != uid:
                owner = f"Trial {trial.metadata.name} of the Study with uid {trial.spec.study_ref.uid or '(none)'}"
                raise StoreError(f"{path}: holds {owner}. It was put here by hand: move its folder out of {folder}.")
            yield trial

    def create(self, trial: Trial) -> Trial:
        """Record a new Trial."""
        self._write(self.folder(trial.spec.number) / "trial.json", trial.manifest())
        return trial

    def write_trial(self, trial: Trial, status: TrialStatus) -> Trial:
        """Record a Trial's status."""
        changed = trial.model_copy(update={"status": status})
        took = status.completion_time - status.start_time if status.completion_time and status.start_time else timedelta()
        durable = is_terminal(changed) and took.total_seconds() >= SYNC_SECONDS
        self._write(self.folder(trial.spec.number) / "trial.json", changed.manifest(), durable=durable)
        return changed

    def write_study(self, study: Study, status: StudyStatus) -> Study:
        """Record the Study with a new status."""
        changed = study.model_copy(update={"status": status})
        self._write(self.root / "study.json", {"format": FORMAT, **changed.manifest()})
        return changed

    def _make_folder(self) -> None:
        try:
            (self.root / "trials").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.root}: cannot be made: {error.strerror}. Name another folder with --results.") from None

    def _adopt(self, study: Study, seed: int) -> Study:
        path = self.root / "study.json"
        if not path.exists():
            if any((self.root / "trials").iterdir()):
                raise StoreError(f"{self.root}: holds trials but no study.json. Name another folder with --results.")
            metadata = study.metadata.model_copy(update={"uid": str(uuid.uuid4()), "creation_timestamp": datetime.now(UTC)})
            return self.write_study(
                study.model_copy(update={"metadata": metadata}),
                StudyStatus(seed=study.spec.seed if study.spec.seed is not None else seed),
            )
        known: Study = read(path, Study)
        changed = [field for field in _differences(known, study) if field not in MUTABLE]
        if changed:
            raise StoreError(
                f"{self.root}: holds the results of a Study with another {' and '.join(changed)}. "
                "Run with --fresh to set them aside and start anew, or name another folder with --results."
            )
        same = known.spec == study.spec
        generation = known.metadata.generation + (0 if same else 1)
        return known.model_copy(
            update={"spec": study.spec, "metadata": known.metadata.model_copy(update={"generation": generation})}
        )

    def _write(self, path: Path, data: Mapping[str, Any], *, durable: bool = False) -> None:
        aside = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # a program may have removed its own folder
            with open(aside, "wb") as file:
                file.write(json.dumps(data, ensure_ascii=False).encode())
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(aside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise WriteFailed(path, error) from None


def read(path: Path, kind: type[Any]) -> Any:
    """A Study or a Trial from its file. Raises StoreError when it is none, or of another version of this program."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}. Is this the results folder of a Study?") from None
    except (ValueError, RecursionError) as error:
        remedy = "It was damaged, or not written by this program: restore it, or name another folder."
        raise StoreError(f"{path}: is not JSON ({error}). {remedy}") from None
    if kind is Study and isinstance(data, dict) and (form := data.pop("format", None)) != FORMAT:
        stands = "no format" if form is None else f"format {form}"
        raise StoreError(f"{path}: has {stands}, this version reads {FORMAT}. Use the version of hpo-operator that wrote it.")
    try:
        found = kind.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise StoreError(f"{path}: {where}: {first['msg']}. {CHANGED}") from None
    if kind is Study and found.status.seed is None:
        raise StoreError(f"{path}: status.seed: Field required. {CHANGED}")
    return found


def open_for_reading(root: Path) -> tuple[Study, list[Trial]]:
    """The Study and the Trials of a results folder, as they stand, without its lock."""
    study = study_in(root)
    return study, list(Store(root).trials(study.metadata.uid))


def study_in(root: Path) -> Study:
    """The Study of a results folder, as it stands, without its lock."""
    study: Study = read(root / "study.json", Study)
    return study


def set_aside(root: Path) -> Path | None:
    """Rename an earlier results folder to the first free name, for results are never deleted; None where there is none.

    Raises StoreError when a runner works on it, or when it is no results folder.
    """
    try:
        if not root.is_dir() or not any(root.iterdir()):
            return None
        is_run = (root / "study.json").exists()
    except OSError as error:
        raise StoreError(f"{root}: cannot be read: {error.strerror}. Name another folder with --results.") from None
    if not is_run:
        raise StoreError(f"{root}: holds no results of a Study, and is not touched. Name another folder with --results.")
    lock = _locked(root)
    try:
        absolute, number = root.absolute(), 1
        while (aside := absolute.with_name(f"{absolute.name}.{number}")).exists():
            number += 1
        os.rename(absolute, aside)
    except OSError as error:
        raise StoreError(f"{root}: cannot be renamed: {error.strerror}. Name another folder with --results.") from None
    finally:
        os.close(lock)
    return Path(os.path.relpath(aside))


def _locked(root: Path) -> int:
    """The lock of a folder as an open file. Raises StoreError when another runner has it."""
    path, patience = root / "lock", time.monotonic() + LOCK_SECONDS
    try:
        while (lock := _try_lock(path)) is None:
            if time.monotonic() > patience:
                remedy = "Wait for it, or name another with --results."
                raise StoreError(f"{root}: another runner works on this folder. {remedy}")
            time.sleep(0.02)
    except OSError as error:
        remedy = "Name a folder on a local disk that can be written with --results."
        raise StoreError(f"{path}: cannot be locked: {error.strerror}. {remedy}") from None
    return lock


def _try_lock(path: Path) -> int | None:
    with contextlib.ExitStack() as stack:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        stack.callback(os.close, lock)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(path)):  # else the folder was set aside in between
                stack.pop_all()
                return lock
    return None


def _differences(known: Study, study: Study) -> Iterator[str]:
    if known.metadata.name != study.metadata.name:
        yield "name"
    old, new = known.spec.manifest(), study.spec.manifest()
    for field in sorted(old.keys() | new.keys()):
        if old.get(field) != new.get(field):
            yield field
