"""Checkpoints that survive kill -9, and that another Trial may start from.

    found = hpo.checkpoint.load()                       # None where the Trial starts from nothing
    if found:
        model.load(found.path / "model.bin")
    for epoch in range(hpo.start_step() + 1, hpo.budget() + 1):
        ...
        hpo.checkpoint.save(epoch, lambda folder: model.save(folder / "model.bin"))

`load` finds the Trial's own newest checkpoint after a restart, and otherwise that of the Trial which it goes on from, copied
and compared with the digest that was recorded. Of torch, numpy and scikit-learn the pairs `save_torch` and `load_torch`,
`save_arrays` and `load_arrays`, `save_estimator` and `load_estimator` do the reading and writing, too.

HPO_CHECKPOINT_DIR is a folder, or a URL in an object store (s3://bucket/…, gs://…, az://…): the same calls then upload and
download. Without HPO_CHECKPOINT_DIR nothing is saved and nothing found, so that a program needs no second path outside any Study.
Of several processes that train one model the first rank alone saves (RANK, OMPI_COMM_WORLD_RANK, PMI_RANK); all may load.

As a command, `python -m hpo.checkpoint restore` prepares the folder for programs that know nothing but their own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from hpo._checkpoints_objects import ObjectStore, is_url
from hpo._checkpoints_reading import Damaged, Unreadable
from hpo._checkpoints_restore import Unavailable, start_from
from hpo._checkpoints_store import Store
from hpo._environment import Environment, go_on_from
from hpo._errors import CheckpointNotSaved, InvalidCheckpoint, InvalidStep
from hpo._infeasible import end
from hpo._message import Restored, Saved
from hpo._notices import note_once
from hpo._report import reporter
from hpo._values import checked_step

if TYPE_CHECKING:
    from hpo._checkpoints_manifest import Manifest

__all__ = [
    "DONOR_UNAVAILABLE_EXIT_CODE",
    "Checkpoint",
    "CheckpointNotLoaded",
    "CheckpointNotSaved",
    "DonorUnavailable",
    "InvalidCheckpoint",
    "load",
    "load_arrays",
    "load_estimator",
    "load_torch",
    "save",
    "save_arrays",
    "save_estimator",
    "save_torch",
]

# What the program exits with when it cannot have the checkpoint that it should start from.
DONOR_UNAVAILABLE_EXIT_CODE = 87

_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")

# The last step that this process has loaded or saved, by folder.
_reached: dict[str, int] = {}


class Checkpoint(NamedTuple):
    """A complete checkpoint in the Trial's own folder. Its files are never to be changed, and go when newer ones have come.

    `copied_from` names the Trial whose checkpoint it is a copy of, None for one's own. `content` is what a helper loaded.
    """

    step: int
    path: Path
    digest: str
    copied_from: str | None = None
    content: Any = None


class DonorUnavailable(SystemExit):
    """Ends the program with exit code 87: the checkpoint that the Trial should start from is missing or damaged.

    No `Exception`, so that nothing which catches those starts from nothing in silence; `reason` says what is wrong.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(DONOR_UNAVAILABLE_EXIT_CODE)
        self.reason = reason


class CheckpointNotLoaded(SystemExit):
    """Ends the program with exit code 1: the checkpoint that the Trial should start from may be whole, but cannot be read.

    No `Exception` either, for the same reason; `reason` says what could not be read, and what to look at.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.reason = reason


def save(step: int, writer: Callable[[Path], object]) -> Checkpoint | None:
    """Makes a checkpoint of the files that `writer(folder)` writes into the empty folder that it is given.

        hpo.checkpoint.save(epoch, lambda folder: np.save(folder / "weights.npy", weights))

    When the call returns, the checkpoint is on the disk, complete, and stands in the final message; before that, nothing of it
    can be mistaken for one. Of the checkpoints before, the newest are kept, two in all unless HPO_CHECKPOINT_KEEP says more.

    Returns None, and does not call the writer, where HPO_CHECKPOINT_DIR is not set, on other ranks than the first, and where a
    checkpoint of this step or a later one stands already. Raises what the writer raises, `InvalidCheckpoint` for links,
    devices and strange names, `InvalidStep` if the step goes back, and `CheckpointNotSaved` if the folder is full or fails.
    """
    store = _store()
    if store is None:
        note_once("no checkpoints", "HPO_CHECKPOINT_DIR is not set: checkpoints are neither saved nor found")
        return None
    if not _first_rank():
        return None
    number = checked_step(step)
    with _in_turn(store):
        reached = _reached.get(store.folder)
        if reached is not None and number < reached:
            rule = f"must not be smaller than {reached}, the step of the checkpoint before"
            raise InvalidStep("step", step, rule, "Count on over all epochs and folds")
        newest = max(store.steps(), default=None)
        if newest is not None and number <= newest:
            question = "" if newest == reached else "; was it loaded?"
            note_once("stands", f"step {number} is not saved: {store.path(newest)} stands already{question}")
            return None
        if reached is None and newest is not None:
            _tell_of_what_was_not_loaded(store, newest)
        manifest = store.write(number, writer)
        _reached[store.folder] = number
        _tell(manifest)  # before older ones go: the one that the final message names is always there
        store.prune()
    return _as_checkpoint(store, manifest)


def load() -> Checkpoint | None:
    """The checkpoint to go on from, checked to the last bit; None where the Trial starts from nothing.

    That is the Trial's own newest one, as after a restart; a damaged one is told on stderr, removed, and the one before it
    taken. Otherwise it is that of the Trial which this one goes on from, copied into the Trial's own folder. From then on
    `hpo.start_step()` is its step.

    If the donor's is missing or not what was recorded, the final message says so and `DonorUnavailable` is raised, a
    SystemExit: the Trial is then neither run again nor counted as failed. A store that is away is tried again for three minutes;
    then `CheckpointNotLoaded` is raised, a SystemExit too, nothing is removed, and the Trial has failed.

    Raises `InvalidEnvironment` if the variables HPO_RESTORE_* contradict each other, `CheckpointNotSaved` if the own folder is
    full or cannot be written to.
    """
    store, environment = _store(), Environment()
    donor = environment.donor
    if store is None:
        if environment.start_step > 0:
            _unavailable(f"HPO_START_STEP is {environment.start_step}, but HPO_CHECKPOINT_DIR is not set")
        return None  # then there is no donor either: Environment.donor asks for both
    try:
        start = start_from(store, donor, environment.start_step)
    except Unavailable as error:
        _unavailable(str(error))
    except Unreadable as error:
        reporter().checkpoint_not_loaded(str(error))
        end(CheckpointNotLoaded(str(error)))
    if start is None:
        return None
    step = start.manifest.step
    _reached[store.folder] = step
    go_on_from(step)
    reporter().start_from(step)
    if _first_rank():
        _tell(start.manifest)
    return _as_checkpoint(store, start.manifest)


def save_torch(step: int, *, extra: object = None, **parts: Any) -> Checkpoint | None:
    """Saves the states of whatever has a `state_dict()`: modules, optimizers, schedulers, scalers, by the names given here.

        hpo.checkpoint.save_torch(epoch, model=model, optimizer=optimizer, scheduler=scheduler, extra={"best": best})

    `extra` is plain data: numbers, texts, tensors, arrays of numpy, lists and mappings of them. Of anything else stderr says that
    it takes `load_torch(weights_only=False)`. Returns and raises as `save`.
    """
    from hpo._checkpoints_torch import writer

    return save(step, writer(parts, extra))


def load_torch(*, map_location: object = "cpu", weights_only: bool = True, **parts: Any) -> Checkpoint | None:
    """Loads the states that `save_torch` saved into these parts, by the same names; `extra` is the checkpoint's `content`.

        found = hpo.checkpoint.load_torch(model=model, optimizer=optimizer, scheduler=scheduler)

    From one's own checkpoint everything is taken as it was. From another Trial's, weights, moments and the place in the
    schedule are taken, and *this* Trial's hyperparameters stay as the parts were made with them: of optimizers all options of
    their parameter groups (lr, momentum, betas, weight_decay), of schedulers the arguments of their constructors. Where a
    scheduler has changed the donor's learning rate, this Trial's is changed by the same factor.

    `weights_only=False` allows states of any Python object, as torch.load does. Returns and raises as `load`; besides,
    `InvalidCheckpoint` if a part is not in the checkpoint, and what torch raises if shapes differ.
    """
    found = load()
    if found is None:
        return None
    from hpo._checkpoints_torch import restore

    return found._replace(content=restore(found, parts, map_location, weights_only))


def save_arrays(step: int, arrays: Mapping[str, object] | None = None, /, **more_arrays: object) -> Checkpoint | None:
    """Saves arrays of numpy, or what numpy makes arrays of, by name. Arrays of Python objects are refused.

        hpo.checkpoint.save_arrays(epoch, weights=weights, momentum=momentum)

    Returns and raises as `save`, and `InvalidCheckpoint`.
    """
    from hpo._checkpoints_arrays import writer

    return save(step, writer({**(arrays or {}), **more_arrays}))


def load_arrays() -> Checkpoint | None:
    """Loads what `save_arrays` saved; the checkpoint's `content` is a dict of arrays. Returns and raises as `load`."""
    found = load()
    if found is None:
        return None
    from hpo._checkpoints_arrays import arrays

    return found._replace(content=arrays(found))


def save_estimator(step: int, estimator: object) -> Checkpoint | None:
    """Saves an estimator of scikit-learn, or anything else that joblib can; returns and raises as `save`."""
    from hpo._checkpoints_estimator import writer

    return save(step, writer(estimator))


def load_estimator() -> Checkpoint | None:
    """Loads what `save_estimator` saved; the checkpoint's `content` is the estimator.

    The version of scikit-learn must be the same, since others may read the numbers wrongly; `InvalidCheckpoint` names both.
    Returns and raises as `load`.
    """
    found = load()
    if found is None:
        return None
    from hpo._checkpoints_estimator import estimator

    return found._replace(content=estimator(found))


def _store() -> Store | ObjectStore | None:
    environment = Environment()
    place = environment.checkpoint_dir
    if place is None:
        return None
    kind = ObjectStore if is_url(place) else Store
    return kind(place, environment.checkpoint_keep, is_first=_first_rank())


@contextmanager
def _in_turn(store: Store | ObjectStore) -> Iterator[None]:
    """A turn of saving, whatever fails in it: nobody saves who cannot see what stands there."""
    try:
        with store.turn():
            yield
    except Unreadable as error:
        raise CheckpointNotSaved("checkpoint folder", error.place, error.rule, error.remedy, error.errno) from error


def _first_rank() -> bool:
    ranks = (os.environ.get(name) for name in _RANKS)
    return next((rank for rank in ranks if rank), "0").strip() == "0"


def _tell(manifest: Manifest) -> None:
    restored = Restored(*manifest.copied_from) if manifest.copied_from else None
    reporter().saved(Saved(manifest.step, manifest.digest, f"step-{manifest.step}", manifest.size), restored)


def _tell_of_what_was_not_loaded(store: Store | ObjectStore, step: int) -> None:
    """A program that finds its checkpoint by itself, copied for it or its own, goes on from there as if it had loaded it."""
    with suppress(Damaged):
        _tell(store.manifest(step))


def _as_checkpoint(store: Store | ObjectStore, manifest: Manifest) -> Checkpoint:
    origin = manifest.copied_from.trial if manifest.copied_from else None
    return Checkpoint(manifest.step, Path(store.path(manifest.step)), manifest.digest, origin)


def _unavailable(reason: str) -> NoReturn:
    reporter().donor_unavailable(reason)
    end(DonorUnavailable(reason))


if __name__ == "__main__":
    from hpo._checkpoints_command import main

    sys.exit(main(sys.argv[1:]))
