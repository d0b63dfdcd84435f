"""Makes the checkpoints of a program that `hpo exec` runs stand in the final message, whoever saved them and in what language."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hpo._checkpoints_objects import ObjectStore
from hpo._checkpoints_reading import Damaged, Unreadable
from hpo._checkpoints_store import Store
from hpo._message import Restored, Saved
from hpo._notices import note_once
from hpo._report import Reporter


class CheckpointWatch:
    """Hands reports on, each with the newest checkpoint that stands in the Trial's folder by then."""

    def __init__(self, reports: Reporter, store: Store | ObjectStore) -> None:
        self._reports = reports
        self._store = store
        self._seen: int | None = None

    def report(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Sends one report of the program."""
        modified = self._modified()
        if modified is not None and modified != self._seen:
            self.look()
        self._reports.report(metrics, step)

    def look(self) -> None:
        """Looks for the newest checkpoint, and waits for a store that is away; one that is not whole yet is left for later."""
        modified = self._modified()
        try:
            newest = max(self._store.steps(), default=None)
            if newest is not None:
                found = self._store.manifest(newest)
                restored = Restored(*found.copied_from) if found.copied_from else None
                self._reports.saved(Saved(newest, found.digest, f"step-{newest}", found.size), restored)
            self._seen = modified
        except Damaged:
            return
        except Unreadable as error:
            note_once("look", f"what was saved does not stand in the final message: {error}")

    def _modified(self) -> int | None:
        """When a folder was changed last; None of an object store, which is asked when the program has ended and not before."""
        if not isinstance(self._store, Store):
            return None
        try:
            return os.stat(self._store.folder).st_mtime_ns
        except OSError:
            return None
