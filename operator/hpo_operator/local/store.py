"""The record of a Study that runs without a cluster: a folder with one file for the Study and one for each Trial.

    study.json                  the Study with its status
    lock                        held while a runner works on the folder
    trials/0007/trial.json      a Trial with its status
    trials/0007/log.txt         what its program printed
    trials/0007/…               parameters, live metrics, final message

A file is written aside and renamed over the old one, so that a reader, or a runner after a crash, finds the old state or the
new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpo_algorithms import AlgorithmsError
from pydantic import ValidationError

from hpo_operator.resources import Study, StudyStatus, Trial, TrialStatus

FORMAT = 1
MUTABLE = ("parallelism", "limits", "suspend", "workloadTTLSeconds")  # spec fields that may change during a Study


class StoreError(AlgorithmsError):
    """A results folder cannot be used; the message says which, why, and what to do."""


class WriteFailed(StoreError):
    """A file of a results folder could not be written during a run, most often because the disk is full."""


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
        store._acquire()
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

    def trials(self) -> Iterator[Trial]:
        """All Trials of the folder."""
        for path in sorted((self.root / "trials").glob("*/trial.json")):
            yield read(path, Trial)

    def create(self, trial: Trial) -> Trial:
        """Record a new Trial."""
        self.folder(trial.spec.number).mkdir(parents=True, exist_ok=True)
        self._write(self.folder(trial.spec.number) / "trial.json", trial.manifest())
        return trial

    def write_trial(self, trial: Trial, status: TrialStatus) -> Trial:
        """Record a Trial's status."""
        return self.create(trial.model_copy(update={"status": status}))

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

    def _acquire(self) -> None:
        self._lock = os.open(self.root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StoreError(
                f"{self.root}: another runner works on this folder. Wait for it, or name another with --results."
            ) from None

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

    def _write(self, path: Path, data: dict[str, Any]) -> None:
        aside = path.with_suffix(".tmp")
        try:
            with open(aside, "w", encoding="utf-8") as file:
                json.dump(data, file, ensure_ascii=False)
            os.replace(aside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            remedy = "Nothing that was recorded is lost: make room and run the same command again."
            raise WriteFailed(f"{path}: cannot be written: {error.strerror}. {remedy}") from None


def read(path: Path, kind: type[Any]) -> Any:
    """A Study or a Trial from its file. Raises StoreError when it is none, or of another version of this program."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}. Is this the results folder of a Study?") from None
    except ValueError as error:
        raise StoreError(f"{path}: is not JSON ({error}). It was not written by this program; name another folder.") from None
    format_ = data.pop("format", FORMAT) if isinstance(data, dict) else None
    if format_ != FORMAT:
        raise StoreError(
            f"{path}: has format {format_}, this version reads {FORMAT}. Use the version of hpo-operator that wrote it."
        )
    try:
        return kind.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path}: {where}: {first['msg']}. It was changed by hand, or written by another version.") from None


def open_for_reading(root: Path) -> tuple[Study, list[Trial]]:
    """The Study and the Trials of a results folder, as they stand, without its lock."""
    study: Study = read(root / "study.json", Study)
    return study, list(Store(root).trials())


def _differences(known: Study, study: Study) -> Iterator[str]:
    if known.metadata.name != study.metadata.name:
        yield "name"
    old, new = known.spec.manifest(), study.spec.manifest()
    for field in sorted(old.keys() | new.keys()):
        if old.get(field) != new.get(field):
            yield field
