"""What a checkpoint is: a folder with a `manifest.json` that was written last, and the digest that names its content.

    {"hpo": 1, "step": 27, "digest": "sha256:…", "files": [{"path": "model.pt", "size": 1203, "sha256": "…"}]}

The digest is the SHA-256 of these lines, files sorted by path, each line ended by a line feed:

    step 27
    <sha256 of the file, 64 hexadecimal digits> <size in bytes> <path>

A copy has the digest of its original; `copiedFrom` in its manifest says whose it was. Folders count as far as files lie in
them. Links, devices and names that a terminal could not show are refused, wherever they come from.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from hpo._checkpoints_reading import CHUNK, Damaged, chunks, read
from hpo._values import HIGHEST_STEP

MANIFEST = "manifest.json"

# A manifest of a hundred thousand files takes 20 MB; more than this is none.
LARGEST_MANIFEST = 64 * 1024 * 1024

_LONGEST_PATH = 1024


class Irregular(Exception):
    """A name or a kind of file that no checkpoint may hold; `path` and `rule`."""

    def __init__(self, path: str, rule: str) -> None:
        super().__init__(f"{path!r} {rule}")
        self.path = path
        self.rule = rule


class Entry(NamedTuple):
    """One file; `path` is relative to the checkpoint's folder, with `/` between its parts."""

    path: str
    size: int
    sha256: str


class CopiedFrom(NamedTuple):
    """Whose checkpoint a copy is, and what copying it took."""

    trial: str
    step: int
    bytes: int
    seconds: float


class Manifest(NamedTuple):
    """What a checkpoint holds. `files` are sorted by path, and there is at least one."""

    step: int
    files: tuple[Entry, ...]
    copied_from: CopiedFrom | None = None

    @property
    def digest(self) -> str:
        """The name of this content: `sha256:` and 64 hexadecimal digits."""
        lines = [f"step {self.step}\n", *(f"{each.sha256} {each.size} {each.path}\n" for each in self.files)]
        return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size(self) -> int:
        """What all files take together, in bytes."""
        return sum(each.size for each in self.files)

    def as_json(self) -> bytes:
        """The content of `manifest.json`."""
        found: dict[str, Any] = {"hpo": 1, "step": self.step, "digest": self.digest}
        found["files"] = [each._asdict() for each in self.files]
        if self.copied_from is not None:
            found["copiedFrom"] = self.copied_from._asdict()
        return json.dumps(found, ensure_ascii=False).encode() + b"\n"


def read_manifest(folder: str) -> Manifest:
    """The manifest of a checkpoint's folder, itself consistent; raises `Damaged`, also where there is none, and `Unreadable`."""
    path = os.path.join(folder, MANIFEST)

    def content() -> bytes:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return _all_of(descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
        finally:
            os.close(descriptor)

    return parse_manifest(read(MANIFEST, path, content))


def parse_manifest(content: bytes) -> Manifest:
    """What stands in a `manifest.json`, itself consistent; raises `Damaged`."""
    try:
        found = json.loads(content.decode())
        manifest, digest = _understood(found), str(found["digest"])
    except Irregular as error:
        raise Damaged(f"{MANIFEST} names {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Damaged(f"{MANIFEST} is cut short or no manifest") from None
    if digest != manifest.digest:
        raise Damaged(f"{MANIFEST} contradicts itself: its files make {manifest.digest}, and it says {digest[:80]}")
    return manifest


def verify(folder: str, manifest: Manifest) -> None:
    """Reads all files of a checkpoint; raises `Damaged` unless they are the manifest's, no more, no fewer, to the last bit.

    Raises `Unreadable`, too, as all that reads here.
    """
    check_names(folder, manifest)
    for entry in manifest.files:
        check_content(entry, fingerprint(os.path.join(folder, entry.path)))


def check_names(folder: str, manifest: Manifest) -> None:
    """Raises `Damaged` unless the folder's files are those of the manifest."""
    try:
        names = read("the folder", folder, lambda: {path for path in tree(folder) if path != MANIFEST})
    except Irregular as error:
        raise Damaged(str(error)) from None
    same_names(manifest, names)


def same_names(manifest: Manifest, names: set[str]) -> None:
    """Raises `Damaged` unless these files are those of the manifest."""
    wanted = {entry.path for entry in manifest.files}
    if names != wanted:
        which, path = ("is missing", min(wanted - names)) if wanted - names else ("is not in the manifest", min(names - wanted))
        raise Damaged(f"{path!r} {which}")


def check_content(entry: Entry, found: tuple[int, str]) -> None:
    """Raises `Damaged` unless a file's size and SHA-256 are the manifest's."""
    if found[0] != entry.size:
        raise Damaged(f"{entry.path!r} has {found[0]} bytes instead of {entry.size}")
    if found[1] != entry.sha256:
        raise Damaged(f"the content of {entry.path!r} has changed")


def fingerprint(path: str) -> tuple[int, str]:
    """A file's size and SHA-256; raises `Damaged` where it is gone."""
    size, sha256 = 0, hashlib.sha256()
    for chunk in chunks(path):
        size += len(chunk)
        sha256.update(chunk)
    return size, sha256.hexdigest()


def tree(folder: str, prefix: str = "") -> Iterator[str]:
    """The relative paths of all files below a folder; raises `Irregular` at what no checkpoint may hold, and `OSError`."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            path = prefix + entry.name
            check_path(path)
            if entry.is_symlink():
                raise Irregular(path, "is a symbolic link; a checkpoint must hold the files themselves")
            if entry.is_dir(follow_symlinks=False):
                yield from tree(entry.path, path + "/")
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                raise Irregular(path, "is neither a file nor a folder")


def check_path(path: str) -> None:
    """Raises `Irregular` unless a path stays within its folder and a line of text."""
    if not path.isprintable() or len(path.encode()) > _LONGEST_PATH:  # what is not UTF-8 has surrogates, which cannot be printed
        raise Irregular(path, f"is no name for a file: at most {_LONGEST_PATH} bytes of printable text")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise Irregular(path, "leads out of its folder")


def _all_of(descriptor: int) -> bytes:
    content = bytearray()
    while (chunk := os.read(descriptor, CHUNK)) and len(content) <= LARGEST_MANIFEST:
        content += chunk
    return bytes(content)


def _understood(found: Any) -> Manifest:
    if found["hpo"] != 1:
        raise ValueError("another version")
    files = tuple(Entry(each["path"], _whole(each["size"]), each["sha256"]) for each in found["files"])
    for path, _, sha256 in files:
        check_path(path)
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ValueError("no SHA-256")
    paths = [each.path for each in files]
    if not paths or paths != sorted(set(paths)):
        raise ValueError("not sorted")
    origin = found.get("copiedFrom")
    copied_from = origin and CopiedFrom(
        str(origin["trial"]), _whole(origin["step"]), _whole(origin["bytes"]), float(origin["seconds"])
    )
    return Manifest(_whole(found["step"]), files, copied_from or None)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= HIGHEST_STEP:
        raise ValueError("no whole number")
    return value
