"""How a Trial comes by the checkpoint that it starts from: its own newest, else a copy of its donor's, else none.

A donor's checkpoint is a finished one of another Trial, mounted read-only, that never changes. It is copied aside, compared with
the digest that was recorded when the donor saved it, and only then gets its name. What is missing or differs
is `DonorUnavailable`: starting from nothing in silence would hand the algorithm a result that means something else. What merely
cannot be read says nothing of the donor, and nothing is held against it.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from hpo._checkpoints_manifest import CopiedFrom, Entry, Manifest, check_names, read_manifest
from hpo._checkpoints_objects import Checkpointed, ObjectStore, is_url
from hpo._checkpoints_reading import Damaged, chunks
from hpo._checkpoints_store import Store, write_compared
from hpo._environment import Donor
from hpo._notices import note


class Unavailable(Exception):
    """The donor's checkpoint cannot be had; `str()` says whose it is and why."""


class Start(NamedTuple):
    """What a Trial starts from."""

    manifest: Manifest
    copied_now: bool


def start_from(store: Store | ObjectStore, donor: Donor | None, start_step: int) -> Start | None:
    """The checkpoint to start from, in the Trial's own folder and checked to the last bit; None where it starts from nothing.

    Its own checkpoints go before the donor's, unless they are older. May be called as often as one likes, by several
    processes at once. Raises `Unavailable`, `Unreadable`, and `CheckpointNotSaved` where the own folder fails.
    """
    with store.turn():
        own = store.newest_intact(at_least=donor.step if donor else 0)
        if own is not None and donor is not None and own.copied_from is not None and own.digest != donor.digest:
            note(f"{store.path(own.step)} is not a copy of what {donor.trial or 'the donor'} recorded, and is copied anew")
            store.remove(own.step)
            own = None
        if own is not None:
            return Start(own, False)
        if donor is not None:
            return Start(copy(store, donor), True)
    if start_step > 0:
        raise Unavailable(f"the Trial starts from step {start_step}, but has no checkpoint of its own and is given none")
    return None


def copy(store: Store | ObjectStore, donor: Donor) -> Manifest:
    """Copies a donor's checkpoint into the Trial's own folder; raises `Unavailable`, `Unreadable` and `CheckpointNotSaved`."""
    begun = time.monotonic()
    try:
        source: Folder | Checkpointed = Checkpointed(donor.folder) if is_url(donor.folder) else Folder(donor.folder)
        manifest = source.manifest()
        if manifest.step != donor.step:
            raise Damaged(f"it is the checkpoint of step {manifest.step} instead of {donor.step}")
        if manifest.digest != donor.digest:
            raise Damaged(f"it has the digest {manifest.digest}, and {donor.digest[:80]} was recorded")
        source.check_names(manifest)
        return store.copy(
            manifest,
            source.copy_file,
            lambda: CopiedFrom(donor.trial, donor.step, manifest.size, round(time.monotonic() - begun, 3)),
        )
    except Damaged as damage:
        whose = donor.trial or "the donor"
        raise Unavailable(f"the checkpoint of {whose} after step {donor.step}, {donor.folder}: {damage}") from None


class Folder:
    """One checkpoint in a folder, to be read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def manifest(self) -> Manifest:
        """Its manifest; raises `Damaged`."""
        return read_manifest(self._folder)

    def check_names(self, manifest: Manifest) -> None:
        """Raises `Damaged` unless its files are those of the manifest."""
        check_names(self._folder, manifest)

    def copy_file(self, entry: Entry, path: str) -> None:
        """Copies one file and compares it on the way; raises `Damaged`, `Unreadable`, and `OSError` for the target's faults."""
        write_compared(chunks(os.path.join(self._folder, entry.path)), entry, path)
