"""Arrays of numpy in one file of numpy's own format."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo._errors import InvalidCheckpoint

if TYPE_CHECKING:
    from hpo.checkpoint import Checkpoint

FILE = "arrays.npz"


def writer(arrays: Mapping[str, object]) -> Callable[[Path], None]:
    """Writes the arrays as numpy.savez would, but under any name, `file` included."""

    def write(folder: Path) -> None:
        numpy = import_module("numpy")  # a program that has no arrays needs no numpy
        with zipfile.ZipFile(folder / FILE, "w", allowZip64=True) as archive:
            for name, value in arrays.items():
                array = numpy.asanyarray(value)
                if array.dtype.hasobject:
                    raise InvalidCheckpoint("array", name, "holds Python objects, not numbers", "Give it a dtype of numbers")
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    numpy.lib.format.write_array(file, array, allow_pickle=False)

    return write


def arrays(found: Checkpoint) -> dict[str, Any]:
    """The arrays of a checkpoint by name; raises `InvalidCheckpoint` if `save_arrays` did not write it."""
    path = found.path / FILE
    if not path.exists():
        raise InvalidCheckpoint("checkpoint", str(found.path), f"has no {FILE}", "Load it by what it was saved by")
    with import_module("numpy").load(path, allow_pickle=False) as archive:
        return dict(archive)
