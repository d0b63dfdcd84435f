"""Makes the checkpoints of a program that `hpo exec` runs stand in the final message, whoever saved them and in what language."""

from __future__ import annotations

import os
from collections.abc import Mapping

from hpo._checkpoints_manifest import Damaged
from hpo._checkpoints_objects import ObjectStore
from hpo._checkpoints_store import Store
from hpo._message import Restored, Saved
from hpo._report import Reporter


class CheckpointWatch:
    """Hands reports on, each with the newest checkpoint that stands in the Trial's folder by then."""

    def __init__(self, reports: Reporter, store: Store | ObjectStore) -> None:
        self._reports = reports
        self._store = store
        self._seen: int | None = None

    def report(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Sends one report of the program."""
        if isinstance(self._store, Store):  # another one is asked when the program has ended, and not with each report
            self.look()
        self._reports.report(metrics, step)

    def look(self) -> None:
        """Looks for a new checkpoint if the folder has changed; one that is not readable yet is looked for next time."""
        try:
            changed = os.stat(self._store.folder).st_mtime_ns if isinstance(self._store, Store) else None
            if changed is not None and changed == self._seen:
                return
            newest = max(self._store.steps(), default=None)
            if newest is not None:
                found = self._store.manifest(newest)
                restored = Restored(*found.copied_from) if found.copied_from else None
                self._reports.saved(Saved(newest, found.digest, f"step-{newest}", found.size), restored)
            self._seen = changed
        except (OSError, Damaged):
            return
