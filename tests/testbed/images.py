"""Container images without a registry: a base from Debian packages, images built on it, archives for containerd.

    images.build_base(PYTHON)                                       # once, outside of the enclosure: needs the package archive
    archive = images.build(Path("examples/digits"), "hpo.dev/digits:test", base=PYTHON)
    with Cluster(images=[archive]) as cluster: ...

A Dockerfile says `ARG BASE=python:3.12-slim` and `FROM ${BASE}`; here BASE is one of the bases below, so that the Dockerfile
that people use is the one that is tested.
"""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from .binaries import cache_directory, program
from .errors import MissingTool
from .processes import run

PAUSE = "localhost/hpo-testbed/pause:1"

_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot"}  # the machine may be a container itself

_RUNROOT = Path("/run/hpo-testbed-images")
"""What buildah has mounted now. In the enclosure it goes with the mounts, as it must."""

_UNWANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/include/*", "/usr/lib/gcc/*", "/usr/lib/*.a")
"""Left out of a base. SciPy's packages pull in compilers, which are two thirds of what they install."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base image: a release of Debian with some packages. It stands for `python:…-slim` in a Dockerfile."""

    name: str
    packages: tuple[str, ...]
    release: str = "bookworm"

    @property
    def tag(self) -> str:
        """Its name for `FROM`; the tag is a hash, so that changed packages give another image."""
        wanted = f"{self.release} {self.packages} {_UNWANTED}"
        return f"localhost/hpo-testbed/{self.name}:{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


PYTHON = Base("python", ("python3", "python-is-python3", "python3-pip"))
_LEARNING = ("python3-numpy", "python3-scipy", "python3-sklearn", "python3-prometheus-client")
TORCH = Base("torch", (*PYTHON.packages, *_LEARNING, "python3-torch"), release="trixie")
"""With torch for processors: what a package index has is built for GPUs, and ten times as large."""

BASES = {base.name: base for base in (PYTHON, TORCH)}


def build_base(base: Base, say: Callable[[str], None] = print) -> str:
    """Builds the base unless it is there, and returns its tag. Needs the package archive: call it outside of the enclosure."""
    if _exists(base.tag):
        return base.tag
    say(f"image {base.name}: installing {', '.join(base.packages)}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_fast()) as folder:
        archive = Path(folder) / "base.tar"
        _bootstrap(base, archive, Path(folder))
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("add", "--quiet", container, str(archive), "/")
            _buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "--cmd", "python3", container)
            _buildah("commit", "--quiet", container, base.tag)
        finally:
            _buildah("rm", container)
    say(f"image {base.name}: {time.monotonic() - started:.0f} s")
    return base.tag


def build(
    context: Path,
    tag: str,
    *,
    base: Base = PYTHON,
    dockerfile: Path | None = None,
    arguments: Mapping[str, str] | None = None,
) -> Path:
    """Builds an image and returns its archive, for `Cluster(images=…)`. What did not change is not built again.

    The base must have been built. A Dockerfile that runs pip needs a package index, so it is built outside of the enclosure.
    """
    _require(base)
    dockerfile = dockerfile or context / "Dockerfile"
    if "--mount=type=bind,from=" in dockerfile.read_text():
        raise ValueError(f"{dockerfile}: mounts another stage, whose changes buildah would not see. COPY --from it.")
    command = ["bud", "--quiet", "--layers", "--tag", tag, "--file", str(dockerfile)]
    for name, value in {"BASE": base.tag, **(arguments or {})}.items():
        command += ["--build-arg", f"{name}={value}"]
    with tempfile.TemporaryDirectory() as folder:
        _buildah(*command, *_trust(Path(folder)), str(context))
    return _archive(tag)


def base_archive(base: Base) -> Path:
    """The archive of a base itself, for pods that run a few lines of Python. The base must have been built."""
    _require(base)
    return _archive(base.tag)


def pause_image() -> Path:
    """The archive of the pause image."""
    return program_image("pause", PAUSE)


def program_image(name: str, tag: str) -> Path:
    """The archive of an image that is made of one static program of the test bed, for pods that run what upstream publishes."""
    if not _exists(tag):
        container = _buildah("from", "scratch").strip()
        try:
            _buildah("copy", "--quiet", container, str(program(name)), f"/bin/{name}")
            _buildah("config", "--entrypoint", f'["/bin/{name}"]', container)
            _buildah("commit", "--quiet", container, tag)
        finally:
            _buildah("rm", container)
    return _archive(tag)


def tag_of(archive: Path) -> str:
    """The name of the image in an archive."""
    with tarfile.open(archive) as opened:
        (found,) = _manifest(opened)["RepoTags"]
    return str(found)


def labels(archive: Path) -> dict[str, str]:
    """The labels of the image in an archive."""
    with tarfile.open(archive) as opened:
        configuration = json.load(_member(opened, _manifest(opened)["Config"]))
    found: dict[str, str] = configuration["config"].get("Labels") or {}
    return found


def compressed_bytes(archive: Path) -> int:
    """What the layers take at most as a registry keeps them and a node fetches them: compressed, but quickly here."""
    with tarfile.open(archive) as opened:
        return sum(_compressed(_member(opened, layer)) for layer in _manifest(opened)["Layers"])


def _compressed(layer: IO[bytes]) -> int:
    pressing = zlib.compressobj(1)
    pressed = sum(len(pressing.compress(chunk)) for chunk in iter(lambda: layer.read(1 << 20), b""))
    return pressed + len(pressing.flush())


def _manifest(opened: tarfile.TarFile) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = json.load(_member(opened, "manifest.json"))
    return found


def _member(opened: tarfile.TarFile, name: str) -> IO[bytes]:
    found = opened.extractfile(name)
    assert found is not None
    return found


def _require(base: Base) -> None:
    if not _exists(base.tag):
        raise MissingTool(f"the image {base.name}", f"build it with: python -m tests.testbed build {base.name}")


def _archive(tag: str) -> Path:
    """The image as a docker archive: uncompressed layers, fast to write and to unpack. Kept by the id of the image."""
    identity = _buildah("images", "--quiet", "--no-trunc", tag).strip().removeprefix("sha256:")
    path = cache_directory() / "archives" / f"{hashlib.sha256(f'{tag} {identity}'.encode()).hexdigest()[:24]}.tar"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        _buildah("push", "--quiet", tag, f"docker-archive:{aside}:{tag}")
        aside.rename(path)
    return path


def _bootstrap(base: Base, archive: Path, scratch: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(base.packages)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _UNWANTED]
    # The Dockerfiles install with pip into the image's own Python, as one may in python:…-slim.
    command += ["--customize-hook=rm -f $1/usr/lib/python3*/EXTERNALLY-MANAGED"]
    run([*command, base.release, archive], environment={"TMPDIR": str(scratch)})


def _exists(tag: str) -> bool:
    return bool(_buildah("images", "--quiet", "--filter", f"reference={tag}").strip())


def _buildah(*arguments: str) -> str:
    if shutil.which("buildah") is None:
        raise MissingTool("buildah", "install it with: apt-get install buildah")
    driver = _storage_driver()
    storage = cache_directory() / f"images-{driver}"
    places = ["--root", str(storage), "--runroot", str(_RUNROOT), "--storage-driver", driver]
    return run(["buildah", *places, *arguments], environment=_ENVIRONMENT)


@cache
def _storage_driver() -> str:
    """`overlay` shares layers; `vfs` copies all files for each, and works where the cache lies in an overlay itself."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    beneath = run(["stat", "--file-system", "--format=%T", cache_directory()]).strip()
    return "overlay" if os.geteuid() == 0 and beneath != "overlayfs" else "vfs"


def _trust(folder: Path) -> Sequence[str]:
    """Options that let pip inside a build trust what pip trusts outside, where a certificate authority of its own is set."""
    bundle = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or ""
    if not bundle or not Path(bundle).exists():
        return []
    settings = folder / "pip.conf"
    settings.write_text("[global]\ncert = /etc/testbed-authorities.crt\n")
    return ["--volume", f"{settings}:/etc/pip.conf:ro", "--volume", f"{bundle}:/etc/testbed-authorities.crt:ro"]


def _fast() -> Path | None:
    """Memory, where there is plenty of it: dpkg syncs every file, which a slow disk makes minutes of."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30 else None
