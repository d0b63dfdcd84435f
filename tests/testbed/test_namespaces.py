"""Nothing is left behind: not by a command that ends, nor by one that is killed."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.control_plane.building import study
from tests.testbed import binaries, cgroups
from tests.testbed.namespaces import ROOT
from tests.testbed.processes import wait_until

pytestmark = pytest.mark.control_plane

RUNS = "from tests.testbed import {kind}; import os, time\nwith {kind}():\n print('ready', flush=True); time.sleep(600)"


def components() -> set[int]:
    """The processes of test beds, our own and those nested in it."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "exe").startswith(str(binaries.cache_directory())):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def groups() -> set[Path]:
    return {group for root in cgroups.controllers() for group in root.glob(f"{cgroups.PREFIX}*")}


@contextmanager
def enclosed_python(program: str) -> Iterator["subprocess.Popen[str]"]:
    """A program in an enclosure of its own that says something once it is ready."""
    command = [sys.executable, "-m", "tests.testbed.enclose", "--", sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(each for child in children for each in descendants(child))]


def program_inside(outer: int) -> int:
    """The enclosed program as seen from here: below the outer process, unshare and init."""
    return descendants(outer)[3]


@pytest.mark.parametrize(
    ("kind", "whom", "number"),
    [
        ("ControlPlane", "the program", signal.SIGKILL),
        ("ControlPlane", "the outer process", signal.SIGKILL),
        ("ControlPlane", "the outer process", signal.SIGTERM),
        pytest.param("Cluster", "the program", signal.SIGKILL, marks=pytest.mark.cluster),
    ],
)
def test_nothing_is_left_after(kind: str, whom: str, number: signal.Signals) -> None:
    before = components(), groups(), mounts(), set(os.listdir("/sys/class/net"))
    with enclosed_python(RUNS.format(kind=kind)) as process:
        started = components() - before[0]
        assert len(started) >= 5
        os.kill(program_inside(process.pid) if whom == "the program" else process.pid, number)
        process.wait(20)
    wait_until("the end of all components", lambda: not started & components(), seconds=20)
    assert (components(), groups(), mounts(), set(os.listdir("/sys/class/net"))) == before


def mounts() -> set[str]:
    """What is mounted, but for what the pods of a cluster beside it come and go with."""
    points = (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    return {point for point in points if not point.startswith(("/run/", "/var/lib/kubelet/"))}


def test_the_status_of_the_command_is_the_status_of_the_enclosure() -> None:
    command = [sys.executable, "-m", "tests.testbed.enclose", "--", "sh", "-c", "exit 7"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 7


def test_inside_there_is_no_network_but_loopback_and_no_process_but_ours() -> None:
    command = [sys.executable, "-m", "tests.testbed.enclose", "--", "sh", "-c", "ip -o link | wc -l; ls -d /proc/[0-9]* | wc -l"]
    links, processes = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert int(links) == 1
    assert int(processes) <= 5


def test_the_shell_of_make_cluster_has_kubectl_and_an_operator_that_runs_Studies_and_leaves_nothing(tmp_path: Path) -> None:
    asked = ["make", "--no-print-directory", "--dry-run", "--always-make", "cluster"]
    made = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made.splitlines()[-1].endswith("-m tests.testbed shell")
    (tmp_path / "study.json").write_text(json.dumps(study("by-hand", "default", trials=2)))
    typed = f"""
        kubectl get nodes --output=name
        kubectl apply --filename {tmp_path}/study.json
        kubectl wait --for='jsonpath={{.status.conditions[?(@.type=="Succeeded")].status}}=True' --timeout=90s study/by-hand
        kubectl get studies
    """
    before = components(), groups(), mounts()
    command = [sys.executable, "-m", "tests.testbed.enclose", "--", sys.executable, "-m", "tests.testbed", "shell"]
    done = subprocess.run(command, cwd=ROOT, input=typed, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "node/simulated-0" in done.stdout.splitlines()
    assert re.search(r"^by-hand +MaxTrialsReached +Valid +2/2 ", done.stdout, re.MULTILINE)
    assert (components(), groups(), mounts()) == before


def test_a_command_is_ended_by_sigterm_and_may_clean_up() -> None:
    program = "import signal, time, sys\nsignal.signal(15, lambda *_: sys.exit(3))\nprint('ready', flush=True)\ntime.sleep(600)"
    with enclosed_python(program) as process:
        process.terminate()
        assert process.wait(60) == 3
