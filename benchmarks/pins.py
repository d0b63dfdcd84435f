"""The versions that peers are compared in, so that a figure says of what it is and a run is read again for no other version."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent


def _pins() -> dict[str, str]:
    extras = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [*(HERE / "peers-hpbandster.txt").read_text().splitlines(), *extras["peers"]]  # what both have is of the extra
    return dict(line.split("==") for line in lines if "==" in line)


PINS = _pins()


def check(package: str) -> None:
    """Refuse to measure a peer that is not there, or that is another one than is pinned."""
    wanted = "benchmarks/peers-hpbandster.txt" if package == "hpbandster" else "the extra `peers`"
    try:
        found = version(package)
    except PackageNotFoundError:
        raise SystemExit(f"{package}: not installed; install {wanted}, see benchmarks/README.md") from None
    if found != PINS[package]:
        raise SystemExit(f"{package}: {found} is installed, not {PINS[package]}; install {wanted}, see benchmarks/README.md")
