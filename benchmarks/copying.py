"""How fast a checkpoint is copied, beside plain `cp` and a digest of the same file, on the disk that is named.

    python -m benchmarks.copying [--folder /mnt/weights] [--mebibytes 512] [--rounds 7]

`hpo.checkpoint` copies a donor's checkpoint aside, compares it on the way with the digest that was recorded, and renames it;
then the program goes on, while the copy is flushed to the disk. By hand the former is `cp` and a digest of the copy, and all of it
has `sync` between them. All are done in turn in one run, so that the ratio of their medians says the same on a machine that is busy
or has a slow disk. 0.7 or more of plain `cp` with a digest is wanted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hpo._checkpoints_manifest import Manifest
from hpo._checkpoints_restore import copy
from hpo._checkpoints_store import Store, wait_until_flushed
from hpo._environment import Donor

BY_HAND = {"hpo.checkpoint": "cp, digest", "hpo.checkpoint, flushed": "cp, sync, digest"}


def by_hand(source: Path, target: Path, *, flushed: bool) -> None:
    """cp, sync if it is to be flushed, and the SHA-256 of what was written."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        subprocess.run(["cp", file, target / file.name], check=True)
        if flushed:
            subprocess.run(["sync", target / file.name], check=True)
        with open(target / file.name, "rb") as written:
            hashlib.file_digest(written, "sha256")


def by_the_sdk(source: Path, target: Path, manifest: Manifest, *, flushed: bool) -> None:
    """What `hpo.checkpoint.load()` does in a Trial that starts from another, and what follows while that one goes on."""
    copy(Store(str(target), 2), Donor("donor", str(source), manifest.step, manifest.digest))
    if flushed:
        wait_until_flushed()


def seconds(action: Callable[[], None]) -> float:
    """How long something takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def main(given: Sequence[str] | None = None) -> float:
    """Measure and print; the ratio."""
    parser = argparse.ArgumentParser(prog="benchmarks.copying", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where to copy; the temporary folder by default")
    parser.add_argument("--mebibytes", type=int, default=512, help="of one checkpoint, in four files")
    parser.add_argument("--rounds", type=int, default=7, help="each copies both ways")
    wanted = parser.parse_args(given)
    with tempfile.TemporaryDirectory(dir=wanted.folder) as name:
        folder, there = Path(name), Path(name) / "there"
        (folder / "donor").mkdir()
        (folder / "own").mkdir()

        def write(into: Path) -> None:
            for part in range(4):
                (into / f"part-{part}.bin").write_bytes(os.urandom(wanted.mebibytes * 2**18))

        manifest = Store(str(folder / "donor"), 2).write(1, write)
        donor = folder / "donor" / "step-1"
        ways: dict[str, Callable[[], None]] = {
            "cp, digest": lambda: by_hand(donor, there, flushed=False),
            "hpo.checkpoint": lambda: by_the_sdk(donor, folder / "own", manifest, flushed=False),
            "cp, sync, digest": lambda: by_hand(donor, there, flushed=True),
            "hpo.checkpoint, flushed": lambda: by_the_sdk(donor, folder / "own", manifest, flushed=True),
        }
        times: dict[str, list[float]] = {label: [] for label in ways}
        for turn in range(wanted.rounds + 1):
            for label, way in ways.items():
                taken = seconds(way)
                wait_until_flushed()  # it is not to slow down the next
                shutil.rmtree(there if there.exists() else folder / "own" / "step-1")
                if turn:  # the first reads what is not in memory yet
                    times[label].append(taken)
    speeds = {label: wanted.mebibytes / statistics.median(each) for label, each in times.items()}
    print("| | MiB/s, median | slowest to fastest | of what is done by hand |\n|---|---|---|---|")
    shares = {label: speeds[label] / speeds[hand] for label, hand in BY_HAND.items()}
    for label, each in times.items():
        slowest, fastest = wanted.mebibytes / max(each), wanted.mebibytes / min(each)
        share = f"{shares[label]:.2f}" if label in shares else ""
        print(f"| {label} | {speeds[label]:.0f} | {slowest:.0f} to {fastest:.0f} | {share} |")
    return shares["hpo.checkpoint"]


if __name__ == "__main__":
    main()
