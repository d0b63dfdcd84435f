"""A Study's store of checkpoints on this machine: a folder beside its record.

    checkpoints/<uid of the Study>/<Trial>/step-27/

As on a volume in a cluster: see docs/sdk.md. The folder `checkpoints` may be a link to a larger disk.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from hpo_operator.environment import checkpoint_environment, is_copied_for
from hpo_operator.outcomes import checkpoint_folder
from hpo_operator.planner import Cleanup
from hpo_operator.resources import Study, Trial

FOLDER = "checkpoints"


class Weights:
    """The checkpoints of one Study in a results folder."""

    def __init__(self, results: Path, uid: str) -> None:
        self._root, self._uid = results / FOLDER, uid

    def environment(self, trial: Trial) -> dict[str, str]:
        """The variables that tell a Trial's program where checkpoints are."""
        restore = trial.spec.restore_from
        return checkpoint_environment(trial, self._folder(trial.metadata.name), self._folder(restore.trial_name) if restore else "")

    def restoring(self, study: Study, trial: Trial) -> tuple[str, ...]:
        """The command that copies the checkpoint which a Trial starts from and then becomes its program, where that does not.

        `-P`: it is to find the SDK, and not what has the same name beside the program.
        """
        copied = is_copied_for(study, trial)
        return (sys.executable, "-P", "-m", "hpo.checkpoint", "restore", "--") if copied else ()

    def collect(self, trials: Iterable[Trial]) -> Cleanup:
        """Remove the folders of these Trials."""
        names = {trial.spec.number: trial.metadata.name for trial in trials}
        try:
            remove(self._root / self._uid, names.values())
        except OSError as error:
            return Cleanup(tuple(names), ended=datetime.now(UTC), message=str(error))
        return Cleanup(tuple(names), succeeded=True, ended=datetime.now(UTC))

    def _folder(self, trial_name: str) -> str:
        return str(self._root / checkpoint_folder(self._uid, trial_name))


def remove(below: Path, names: Iterable[str]) -> None:
    """Remove folders, with all that is in them, from another one and from nowhere else: no name leads out, no link is followed.

    Those that are gone already are fine. Raises OSError.
    """
    try:
        place = os.open(below, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        for name in names:
            if name in ("", ".", "..") or "/" in name:
                raise OSError(f"{name!r} is not the name of a Trial's folder")
            try:
                shutil.rmtree(name, dir_fd=place)
            except FileNotFoundError:
                continue
            except OSError:
                if not _is_link(name, place):
                    raise
                os.unlink(name, dir_fd=place)
    finally:
        os.close(place)


def _is_link(name: str, place: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)
