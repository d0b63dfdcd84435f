"""The programs of the test bed, built from Go modules by `go build` and kept by the hash of what they are built from.

Upstream publishes images and archives; a machine that reaches only a Go module proxy can still build them all. Each
component has a module of its own in `modules/` (their requirements conflict in one), with `tool` lines, so that
`go install tool` by hand gives the same programs. A program found in `KUBEBUILDER_ASSETS` (the convention of envtest: etcd,
kube-apiserver, kubectl) is taken from there and not built.

Where they are kept: `~/.cache/hpo-operator/testbed/<module>-<hash>/`, or below `HPO_TESTBED_CACHE`.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .errors import BuildFailed, MissingTool

CACHE = "HPO_TESTBED_CACHE"
ASSETS = "KUBEBUILDER_ASSETS"
MODULES = Path(__file__).parent / "modules"

PROGRESS_SECONDS = 15.0
"""How often a build that goes on says how far it is."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program: its name here, the folder of its module, its package, and how it is to be linked."""

    name: str
    module: str
    package: str
    variables: tuple[tuple[str, str], ...] = field(default=())
    tags: str = ""

    def directory(self) -> Path:
        """Where the module's programs are kept: a hash of all that decides what they are."""
        digest = hashlib.sha256()
        for part in sorted((MODULES / self.module).iterdir()):
            digest.update(part.read_bytes())
        digest.update(f"{self.variables} {self.tags} {sys.platform} {os.uname().machine}".encode())
        return cache_directory() / f"{self.module}-{digest.hexdigest()[:12]}"

    def path(self) -> Path:
        """Where the program lies once it is built, or where KUBEBUILDER_ASSETS has it."""
        assets = os.environ.get(ASSETS, "")
        if assets and (given := Path(assets) / self.name).exists():
            return given
        return self.directory() / self.name


_KUBERNETES_VERSION = tuple(
    (f"k8s.io/component-base/version.{name}", value)
    for name, value in (("gitVersion", "v1.37.2"), ("gitMajor", "1"), ("gitMinor", "37"), ("gitTreeState", "clean"))
)


def _kubernetes(name: str) -> Program:
    return Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _KUBERNETES_VERSION)


def _prometheus_operator(name: str, folder: str) -> Program:
    return Program(name, "prometheus-operator", f"github.com/prometheus-operator/prometheus-operator/cmd/{folder}")


_PROMETHEUS_TAGS = "remove_all_sd,enable_kubernetes_sd,enable_file_sd"  # halve the build; trial pods need no other

_PROMETHEUS = tuple(
    Program(name, "prometheus", f"github.com/prometheus/prometheus/cmd/{name}", tags=_PROMETHEUS_TAGS)
    for name in ("prometheus", "promtool")
)

SETS: dict[str, tuple[Program, ...]] = {
    "control-plane": (
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubectl"),
        Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok"),
    ),
    "cluster": (
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        *(
            Program(name, "containerd", f"github.com/containerd/containerd/v2/cmd/{name}")
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        ),
        *_PROMETHEUS,
        Program("pause", "pause", "hpo.dev/testbed/pause"),
        Program("coredns", "coredns", "github.com/coredns/coredns"),
        Program("versitygw", "versitygw", "github.com/versity/versitygw/cmd/versitygw"),
        _prometheus_operator("prometheus-config-reloader", "prometheus-config-reloader"),
    ),
    "metrics": _PROMETHEUS,
    "chart": (
        Program("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
        _prometheus_operator("prometheus-operator", "operator"),
    ),
    "queues": (
        Program("kueue", "queues", "sigs.k8s.io/kueue/cmd/kueue"),
        Program("jobset", "queues", "sigs.k8s.io/jobset"),
    ),
}
"""What is built together, by the level of tests that needs it."""

MANIFESTS = {"control-plane": ("jobset", "trainer", "kuberay"), "queues": ("kueue", "jobset")}
"""Of which programs the manifests are needed, by the same levels: their modules are downloaded even if they are built already."""

_PACKAGES = (
    Program("trainer", "queues", "github.com/kubeflow/trainer/v2/pkg/apis/trainer/v1alpha1"),
    Program("kuberay", "queues", "github.com/ray-project/kuberay/ray-operator/apis/ray/v1"),
)
"""No programs: packages of modules whose manifests alone are needed. Kueue, which knows these kinds, brings them."""

PROGRAMS = {program.name: program for programs in SETS.values() for program in programs}


def cache_directory() -> Path:
    """Where everything that is slow to make is kept between runs."""
    given = os.environ.get(CACHE, "")
    return Path(given) if given else Path.home() / ".cache" / "hpo-operator" / "testbed"


def program(name: str) -> Path:
    """The path of a program that has been built. Raises MissingTool with the command that builds it."""
    found = PROGRAMS[name].path()
    if not found.exists():
        of = next(level for level, programs in SETS.items() if any(each.name == name for each in programs))
        raise MissingTool(name, f"build it with: python -m tests.testbed build {of}")
    return found


def sources(name: str) -> Path:
    """The folder of the module of a program, or of a package of kinds, in Go's module cache: the manifests of its CRDs lie there.

    Downloads the module where it is not there yet, so call it outside of the enclosure first.
    """
    wanted = next(each for each in (*PROGRAMS.values(), *_PACKAGES) if each.name == name)
    if shutil.which("go") is None:
        raise MissingTool("go", f"install Go ≥ {_go_version_wanted()}")
    command = ["go", "list", "-mod=readonly", "-f", "{{.Module.Dir}}", wanted.package]
    done = subprocess.run(command, cwd=MODULES / wanted.module, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildFailed(wanted.module, done.stderr)
    return Path(done.stdout.strip())


def build(levels: Iterable[str] = ("control-plane",), say: Callable[[str], None] = print) -> None:
    """Builds what is missing of these sets, one module at a time, and says line by line what it does.

    Raises MissingTool without go, BuildFailed with what go said. Builds of two callers wait for each other.
    """
    levels = list(levels)
    for name in [each for level in levels for each in MANIFESTS.get(level, ())]:
        if shutil.which("go") is not None:
            say(f"{name}: manifests in {sources(name)}")
    wanted = [*dict.fromkeys(each for level in levels for each in SETS[level] if not each.path().exists())]  # sets overlap
    if not wanted:
        return
    if shutil.which("go") is None:
        raise MissingTool("go", f"install Go ≥ {_go_version_wanted()}, or set {ASSETS} and put the programs there")
    started = time.monotonic()
    with _lock():
        for directory, programs in _by_directory(wanted).items():
            _build_module(directory, [each for each in programs if not each.path().exists()], say)
    say(f"built {', '.join(each.name for each in wanted)} in {time.monotonic() - started:.0f} s")


def _by_directory(programs: Iterable[Program]) -> dict[Path, list[Program]]:
    grouped: dict[Path, list[Program]] = {}
    for each in programs:
        grouped.setdefault(each.directory(), []).append(each)
    return grouped


def _build_module(directory: Path, programs: list[Program], say: Callable[[str], None]) -> None:
    """Builds into a folder aside and renames, so that a killed build leaves no half a program."""
    if not programs:
        return
    module, names = programs[0].module, ", ".join(each.name for each in programs)
    flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in programs[0].variables)])
    command = ["go", "build", "-v", "-trimpath", "-ldflags", flags]
    if programs[0].tags:
        command += ["-tags", programs[0].tags]
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob("tmp*"):  # by a build that was killed; the lock is ours
        shutil.rmtree(left)
    say(f"{module}: building {names}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=directory) as aside:
        command += ["-o", f"{aside}{os.sep}", *(each.package for each in programs)]
        _run_go(command, module, started, say)
        for each in programs:
            (Path(aside) / _default_name(each.package)).rename(directory / each.name)
    say(f"{module}: {time.monotonic() - started:.0f} s")


def _run_go(command: list[str], module: str, started: float, say: Callable[[str], None]) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    process = subprocess.Popen(
        command, cwd=MODULES / module, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    complaints: list[str] = []
    packages, said = 0, started
    for line in process.stdout:
        if _is_package(line.strip()):
            packages += 1
        else:
            complaints.append(line)
        if (now := time.monotonic()) - said >= PROGRESS_SECONDS:
            said = now
            say(f"{module}: {packages} packages compiled, {now - started:.0f} s")
    if process.wait() != 0:
        raise BuildFailed(module, "".join(complaints))


def _is_package(line: str) -> bool:
    """`go build -v` prints the bare import path of each package; what it complains about has spaces."""
    return bool(line) and " " not in line and not line.endswith(":")


def _default_name(package: str) -> str:
    """What `go build` calls the program of a package: the last part of its path that is no version."""
    parts = package.split("/")
    return parts[-2] if parts[-1].removeprefix("v").isdigit() else parts[-1]


@cache
def _go_version_wanted() -> str:
    text = (MODULES / "kubernetes" / "go.mod").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith("go "))


@contextmanager
def _lock() -> Iterator[None]:
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "build.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
