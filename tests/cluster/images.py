"""The images of operator and examples, built as their Dockerfiles say, and built again only when something in them has changed.

python -m tests.cluster.images   # once, outside of the enclosure: pip needs a package index
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.testbed import images
from tests.testbed.binaries import cache_directory
from tests.testbed.errors import MissingTool
from tests.testbed.namespaces import ROOT, enclosed

VERSION = "0.1.0"
EXAMPLES = ("digits-svm", "digits-mlp", "command-line-program")
BASE = images.LEARNING

SOURCES = (
    *("images/*/Dockerfile", "constraints.txt", "pyproject.toml", "README.md", ".dockerignore"),
    *(f"{package}/**/*.{suffix}" for package in ("algorithms", "operator", "sdk") for suffix in ("py", "toml", "md", "typed")),
)
KEPT_SECONDS = 86400.0
"""How long archives of older sources are kept: another working tree may use them. One is half a gigabyte."""


def tag(name: str) -> str:
    """The whole name of an image, as the kubelet reads what the examples write."""
    return f"docker.io/hpo-operator/{name}:{VERSION}"


TRIAL = tag("trial")
"""Python with the SDK and scikit-learn: the base of the examples' images."""
OPERATOR = tag("operator")
_VALUES = yaml.safe_load((ROOT / "helm" / "hpo-operator" / "values.yaml").read_text())
PROMETHEUS = f"docker.io/prom/prometheus:{_VALUES['bundledPrometheus']['image']['tag']}"
"""By the name that the chart has for it; made of the test bed's own program."""


def archives() -> list[Path]:
    """The archives of all images. Raises MissingTool inside the enclosure, when they must be built outside of it first."""
    stamps = cache_directory() / "examples"
    stamp = stamps / _digest()
    if stamp.exists():
        found = [Path(line) for line in stamp.read_text().splitlines()]
        if all(archive.exists() for archive in found):
            return found
    if enclosed():
        raise MissingTool("the image of the examples as they are now", "build it with: python -m tests.cluster.images")
    for base in (BASE, images.PYTHON):
        images.build_base(base)
    built = [*_build()]
    stamps.mkdir(parents=True, exist_ok=True)
    stamp.write_text("".join(f"{archive}\n" for archive in built))
    _forget_the_old(stamps, {*built})
    return built


def _build() -> Iterator[Path]:
    yield images.build(ROOT, OPERATOR, base=images.PYTHON, dockerfile=ROOT / "images" / "operator" / "Dockerfile")
    yield images.program_image("prometheus", PROMETHEUS)
    yield images.build(ROOT / "sdk", TRIAL, base=BASE, dockerfile=ROOT / "images" / "trial" / "Dockerfile")
    for name in EXAMPLES:
        yield images.build(ROOT / "examples" / name, tag(name), base=BASE, arguments={"BASE": TRIAL})


def _digest() -> str:
    """A hash of all that goes into the images."""
    found = hashlib.sha256(f"{BASE.tag} {images.PYTHON.tag} {PROMETHEUS}".encode())
    patterns = [*SOURCES, *(f"examples/{name}/{what}" for name in EXAMPLES for what in ("Dockerfile", "*.py"))]
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        content = path.read_bytes()
        found.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return found.hexdigest()[:24]


def _forget_the_old(stamps: Path, used: set[Path]) -> None:
    for stamp in stamps.iterdir():
        if time.time() - stamp.stat().st_mtime > KEPT_SECONDS:
            for archive in {Path(line) for line in stamp.read_text().splitlines()} - used:
                archive.unlink(missing_ok=True)
            stamp.unlink()


if __name__ == "__main__":
    for each in archives():
        print(each)
