"""The control groups of a run's real node: the one thing that outlives namespaces.

The kubelet puts its pods below `/sys/fs/cgroup/…/hpo-testbed-<pid of the outer process>`. Folders of killed runs stay, empty,
until the next run removes them.
"""

import contextlib
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
PREFIX = "hpo-testbed-"

RUN = "HPO_TESTBED_RUN"
"""The environment variable that tells runs apart: the process id of the outer process, after a dot behind that of the run
around it where one enclosure is inside another (process ids mean something only on their own level)."""


def controllers() -> list[Path]:
    """The roots below which groups are made: one for cgroup v2, one for each controller for v1."""
    if (CGROUP_ROOT / "cgroup.controllers").exists():
        return [CGROUP_ROOT]
    return [folder for folder in CGROUP_ROOT.iterdir() if folder.is_dir() and not folder.is_symlink()]


def name_of_new_run() -> str:
    """The name of the run whose outer process this is."""
    return ".".join(filter(None, [os.environ.get(RUN), str(os.getpid())]))


def group_of_this_run() -> str:
    """The name of the group below which this run's pods live."""
    return PREFIX + os.environ[RUN]


def remove_cgroups_of_the_dead() -> None:
    """Removes the groups of the run whose outer process this is, which is over, and of runs whose outer process is gone."""
    level = PREFIX + (f"{os.environ[RUN]}." if RUN in os.environ else "")
    try:
        groups = [group for root in controllers() for group in root.glob(f"{level}*")]
    except OSError:
        return
    for group in groups:
        run = group.name.removeprefix(level).partition(".")[0]
        if run == str(os.getpid()) or not Path(f"/proc/{run}").exists():
            _remove(group)


def create(name: str) -> None:
    """Makes the group in every hierarchy. The kubelet refuses a root group that is not there."""
    for root in controllers():
        group = root / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # a new v1 group has none, and then takes no process
            if (group / setting).exists() and not (group / setting).read_text().strip():
                (group / setting).write_text((root / setting).read_text())


def remove(name: str) -> None:
    """Removes the group, whose processes have ended, from every hierarchy."""
    for root in controllers():
        _remove(root / name)


def _remove(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):  # not allowed, or its last process has not gone yet: the next run's work
            os.rmdir(folder)
