"""An estimator of scikit-learn in a file of joblib, and the versions that wrote it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo._errors import InvalidCheckpoint

if TYPE_CHECKING:
    from hpo.checkpoint import Checkpoint

FILE, VERSIONS = "estimator.joblib", "versions.json"

# An estimator's attributes change from one version to the next, and so may the meaning of what is read.
_MUST_AGREE = ("sklearn",)

_TOLD = (*_MUST_AGREE, "numpy", "joblib")


def writer(estimator: object) -> Callable[[Path], None]:
    """Writes the estimator, and which versions did."""

    def write(folder: Path) -> None:
        import_module("joblib").dump(estimator, folder / FILE)
        (folder / VERSIONS).write_text(json.dumps({"python": sys.version.split()[0], **_versions()}), encoding="utf-8")

    return write


def estimator(found: Checkpoint) -> Any:
    """The estimator of a checkpoint; raises `InvalidCheckpoint` if another version of scikit-learn wrote it."""
    path = found.path / FILE
    if not path.exists():
        raise InvalidCheckpoint("checkpoint", str(found.path), f"has no {FILE}", "Load it by what it was saved by")
    written, here = json.loads((found.path / VERSIONS).read_text(encoding="utf-8")), _versions()
    for name in _MUST_AGREE:
        if written.get(name) != here.get(name):
            rule = f"was written by {name} {written.get(name)}, and here is {here.get(name)}"
            raise InvalidCheckpoint("estimator", str(path), rule, "Run all Trials of a Study in one image")
    return import_module("joblib").load(path)


def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in _TOLD}


def _version(name: str) -> str | None:
    try:
        return str(import_module(name).__version__)
    except ImportError:  # joblib saves other objects, too
        return None
