"""A Trial's checkpoints in an object store: S3, Google Cloud Storage, Azure, and what speaks like them.

    s3://bucket/prefix/<uid of the Study>/<Trial>/step-27/model.bin
    s3://bucket/prefix/<uid of the Study>/<Trial>/step-27/manifest.json      uploaded last: without it there is no checkpoint

Programs write and read files, so each checkpoint is made in a folder of this machine first, and each that is loaded is brought
there, by the same steps as in a folder alone. An object appears whole or not at all; so whoever is killed while it uploads leaves
objects without a manifest, which nobody takes for a checkpoint, and which go with the next one.

Needs obstore: pip install 'hpo-operator-sdk[object-store]'. Credentials come from the environment, as AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL do for S3.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from hpo import _checkpoints_reading as reading
from hpo._checkpoints_manifest import MANIFEST, CopiedFrom, Entry, Manifest, parse_manifest, same_names
from hpo._checkpoints_reading import CHUNK, Damaged, Unreadable, is_away, read_on, waited_for
from hpo._checkpoints_store import Store, write_compared
from hpo._errors import CheckpointNotSaved, InvalidEnvironment
from hpo._notices import note, note_once

_OBJECT = re.compile(r"step-(0|[1-9]\d{0,15})/(.+)")

# Of obstore's own 30 s twelve parts of an upload at once would need 2 MiB/s, which many Trials that save together may not have.
REQUEST_SECONDS = 90.0

# An upload has at most so many parts, in S3 and Google Cloud Storage. Obstore's 5 MiB each would end at a file of 48.8 GiB.
MOST_PARTS, LEAST_PART = 10_000, 5 * CHUNK

# Where this process has saved to.
_saved_to: set[str] = set()


def is_url(place: str) -> bool:
    """Whether a place for checkpoints is in an object store and no folder."""
    return "://" in place


class Objects:
    """The objects below one URL; errors of the store are OSErrors."""

    def __init__(self, url: str) -> None:
        try:
            import obstore
        except ImportError:
            remedy = "pip install 'hpo-operator-sdk[object-store]'"
            raise InvalidEnvironment("HPO_CHECKPOINT_DIR", url, "is an object store, which needs obstore", remedy) from None
        self.url = url.rstrip("/")
        self._obstore: Any = obstore
        with self._no_faults():
            self._store = self._obstore.store.from_url(self.url, retry_config=_retries(), **_connection(url))

    def names(self, below: str = "") -> list[str]:
        """The names of all objects below one, relative to the URL."""
        with self._no_faults():
            return [each["path"] for page in self._obstore.list(self._store, prefix=below or None) for each in page]

    def pieces(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """An object's content from a byte on; FileNotFoundError where there is none.

        May break off, and is then to be called again: obstore goes on by itself, but only for so long after the first byte.
        """
        with self._no_faults():
            if offset and offset == self._obstore.head(self._store, name)["size"]:
                return  # no store gives the empty rest of an object
            options = {"range": {"offset": offset}} if offset else None
            for piece in self._obstore.get(self._store, name, options=options).stream(min_chunk_size=CHUNK):
                yield bytes(piece)

    def put(self, name: str, content: bytes | Path) -> None:
        """Makes an object of some bytes or of a file, which appears whole."""
        with self._no_faults():
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            part = max(LEAST_PART, -(-size // MOST_PARTS))
            self._obstore.put(self._store, name, content, chunk_size=part)

    def remove(self, names: list[str]) -> None:
        """Removes objects, in this order as far as the manifest is concerned: it goes before all others."""
        first = [name for name in names if name.endswith("/" + MANIFEST)]
        for some in (first, [name for name in names if name not in set(first)]):
            if some:  # obstore does not ask again when it has heard nothing, for it cannot know that this may be asked twice
                waited_for(self.url, partial(self._delete, some), is_away)

    def _delete(self, names: list[str]) -> None:
        with self._no_faults():
            self._obstore.delete(self._store, names)

    @contextmanager
    def _no_faults(self) -> Iterator[None]:
        exceptions = self._obstore.exceptions
        try:
            yield
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            raise FileNotFoundError(errno.ENOENT, f"no such object: {_first_line(error)}") from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise PermissionError(errno.EACCES, f"{self.url}: {_first_line(error)}") from None
        except exceptions.GenericError as error:
            raise OSError(errno.EIO, f"{self.url}: {_first_line(error)}") from None
        except exceptions.BaseError as error:
            raise OSError(errno.EINVAL, f"{self.url}: {_first_line(error)}") from None


class ObjectStore:
    """The checkpoints of one Trial in an object store, of which the newest `keep` are kept: what `Store` is for a folder."""

    def __init__(self, url: str, keep: int, *, is_first: bool = True) -> None:
        self.folder = url.rstrip("/")
        self._objects = Objects(url)
        self._keep = keep
        self._here = Store(_scratch(self.folder), 1, is_first=is_first)

    def path(self, step: int) -> str:
        """Where the files of a checkpoint that was saved or loaded are on this machine."""
        return self._here.path(step)

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, the newest first; raises `Unreadable`."""
        return sorted((step for step, names in self._by_step().items() if MANIFEST in names), reverse=True)

    def turn(self) -> AbstractContextManager[None]:
        """Keeps other threads and processes of this machine away meanwhile; on other machines only the first rank saves."""
        return self._here.turn()

    def manifest(self, step: int) -> Manifest:
        """The manifest of a complete checkpoint; raises `Damaged` and `Unreadable`."""
        return Checkpointed(f"{self.folder}/step-{step}").manifest()

    def newest_intact(self, at_least: int = 0) -> Manifest | None:
        """The newest checkpoint that is whole to the last bit, which is brought here; damaged ones are told and removed.

        Raises `Unreadable`.
        """
        for step in self.steps():
            if step < at_least:
                break
            source = Checkpointed(f"{self.folder}/step-{step}")
            try:
                manifest = source.manifest()
                if manifest.step != step:
                    raise Damaged(f"{MANIFEST} says step {manifest.step}")
                source.check_names(manifest)
                return self._brought(manifest, source.copy_file, partial(getattr, manifest, "copied_from"))
            except Damaged as damage:
                note(f"checkpoint {source.url} is damaged and not used: {damage}")
                self.remove(step)
        return None

    def write(self, step: int, writer: Callable[[Path], object]) -> Manifest:
        """Makes a checkpoint of what the writer leaves in the folder that it is given; it is uploaded when this returns."""
        if self.folder not in _saved_to:  # only at first: later a save may be interrupted by one of a signal handler
            _saved_to.add(self.folder)
            for left in self._here.steps():
                if left >= step:  # a killed program's, which had not uploaded it
                    self._here.remove(left)
        return self._uploaded(self._here.write(step, writer))

    def copy(self, source: Manifest, copy_file: Callable[[Entry, str], None], origin: Callable[[], CopiedFrom]) -> Manifest:
        """Makes one's own of another's checkpoint; raises `Damaged`, `Unreadable` and `CheckpointNotSaved`."""
        return self._uploaded(self._brought(source, copy_file, origin))

    def prune(self) -> None:
        """Removes all but the newest complete checkpoints, and what killed programs left before those."""
        self._here.prune()
        try:
            found, complete = self._by_step(), self.steps()
            for step in found:
                if complete and step not in complete[: self._keep] and step < complete[0]:
                    self.remove(step)
        except (CheckpointNotSaved, Unreadable) as error:
            note_once("prune", str(error))

    def remove(self, step: int) -> None:
        """Removes one checkpoint, its manifest first, so that there is never half of one."""
        with self._faults_told(f"still holds an old or damaged checkpoint of step {step}"):
            self._objects.remove(self._objects.names(f"step-{step}"))

    def _brought(
        self, source: Manifest, copy_file: Callable[[Entry, str], None], origin: Callable[[], CopiedFrom | None]
    ) -> Manifest:
        """The checkpoint in this machine's folder, where another process of the Trial may have brought it already."""
        here = self._here.newest_intact(at_least=source.step)
        if here is not None and here.digest == source.digest:
            return here
        if here is not None:
            self._here.remove(here.step)
        return self._here.copy(source, copy_file, origin)

    def _uploaded(self, manifest: Manifest) -> Manifest:
        step, folder = f"step-{manifest.step}", Path(self.path(manifest.step))
        with self._faults_told(f"could not take the checkpoint of step {manifest.step}"):
            there = self._objects.names(step)
            if f"{step}/{MANIFEST}" in there:
                return self.manifest(manifest.step)
            self._objects.remove(there)  # what a killed program left
            for entry in manifest.files:
                self._objects.put(f"{step}/{entry.path}", folder / entry.path)
            self._objects.put(f"{step}/{MANIFEST}", manifest.as_json())
        return manifest

    def _by_step(self) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for match in filter(None, map(_OBJECT.fullmatch, _listed(self._objects))):
            found.setdefault(int(match[1]), set()).add(match[2])
        return found

    @contextmanager
    def _faults_told(self, rule: str) -> Iterator[None]:
        try:
            yield
        except CheckpointNotSaved:
            raise
        except OSError as error:
            remedy = "Look at the store's address, its credentials and what they allow: list, get, put and delete below the prefix"
            raise CheckpointNotSaved("object store", self.folder, f"{rule} ({error.strerror})", remedy, error.errno) from error


class Checkpointed:
    """One checkpoint in an object store, to be read; what is gone or differs is `Damaged`, a store that is away `Unreadable`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._objects = Objects(url)

    def manifest(self) -> Manifest:
        """Its manifest."""
        return parse_manifest(b"".join(self._chunks(MANIFEST)))

    def check_names(self, manifest: Manifest) -> None:
        """Raises `Damaged` unless its files are those of the manifest."""
        same_names(manifest, set(_listed(self._objects)) - {MANIFEST})

    def copy_file(self, entry: Entry, path: str) -> None:
        """Brings one file here and compares it on the way; raises `OSError` for the target's faults."""
        write_compared(self._chunks(entry.path), entry, path)

    def _chunks(self, name: str) -> Iterator[bytes]:
        return read_on(repr(name), f"{self.url}/{name}", partial(self._objects.pieces, name))


def _listed(objects: Objects) -> list[str]:
    """The names of all objects; raises `Unreadable`."""
    try:
        return objects.names()
    except OSError as error:
        raise Unreadable(objects.url, error) from error


def remove_below(url: str, names: list[str]) -> None:
    """Removes what lies below these names, and nothing else; raises OSError."""
    objects = Objects(url)
    for name in names:
        if name in ("", ".", "..") or "/" in name:
            raise OSError(22, f"{name!r} is not the name of a Trial's folder")
        found = objects.names(name)
        while found:
            objects.remove(found)
            found = objects.names(name)


def _retries() -> dict[str, Any]:
    """How long obstore tries a request again: as long as is waited for a folder. By itself it gives up after two seconds."""
    first, longest = reading.FIRST_PAUSE_SECONDS, reading.LONGEST_PAUSE_SECONDS
    return {
        "max_retries": 100,
        "retry_timeout": timedelta(seconds=reading.PATIENCE_SECONDS),
        "backoff": {"init_backoff": timedelta(seconds=first), "max_backoff": timedelta(seconds=longest), "base": 2},
    }


def _connection(url: str) -> dict[str, Any]:
    """How long one request may take, and of an S3 endpoint what obstore does not take from the environment by itself.

    That is one for this service alone, and one without TLS.
    """
    options: dict[str, Any] = {"timeout": timedelta(seconds=REQUEST_SECONDS)}
    if not url.startswith("s3:"):
        return {"client_options": options}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and endpoint.startswith("http://"):
        options["allow_http"] = True
    return {"client_options": options, **({"endpoint": endpoint} if endpoint else {})}


def _scratch(url: str) -> str:
    """A folder of this user's alone, the same for all processes of the Trial on this machine."""
    try:
        temporary = tempfile.gettempdir()
    except FileNotFoundError:  # as where the root file system is read-only
        given, remedy = os.environ.get("TMPDIR"), "Mount a volume there, such as an emptyDir, or name another folder by TMPDIR"
        raise InvalidEnvironment("TMPDIR", given or "/tmp", "must be a folder that can be written to", remedy) from None
    below = os.path.join(temporary, f"hpo-checkpoints-{os.getuid()}")
    os.makedirs(below, 0o700, exist_ok=True)
    if os.stat(below, follow_symlinks=False).st_uid != os.getuid():
        raise InvalidEnvironment("TMPDIR", temporary, f"holds {below}, which is another user's", "Choose another folder")
    return os.path.join(below, hashlib.sha256(url.encode()).hexdigest()[:32])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
