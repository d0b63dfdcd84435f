"""The images of operator and examples, built as their Dockerfiles say, and built again only when something in them has changed.

python -m tests.cluster.images   # once, outside of the enclosure: pip needs a package index
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

from tests.testbed import images
from tests.testbed.binaries import cache_directory
from tests.testbed.errors import MissingTool
from tests.testbed.namespaces import ROOT, enclosed

VERSION = "0.1.0"
TORCH_VERSION = f"{VERSION}-torch"
EXAMPLES = ("digits-svm", "pso-svm", "digits-mlp", "digits-pb2", "command-line-program")

SOURCES = {
    "examples": (
        *("images/trial/Dockerfile", "constraints.txt", ".dockerignore"),
        *("sdk/pyproject.toml", "sdk/README.md", "sdk/hpo/*.py", "sdk/hpo/py.typed"),
        *(f"examples/{name}/{what}" for name in EXAMPLES for what in ("Dockerfile", "*.py")),
    ),
    "chart": (
        "tests/cluster/plain.Dockerfile",
        *("images/operator/Dockerfile", "constraints*.txt", "pyproject.toml", "sdk/pyproject.toml", ".dockerignore"),
        *("algorithms/**/*.py", "operator/**/*.py", "sdk/hpo/*.py"),
    ),
}
"""What goes into the images, by what they are for."""
KEPT_SECONDS = 86400.0
"""How long archives of older sources are kept: another working tree may use them. One is half a gigabyte."""


def tag(name: str, version: str = VERSION) -> str:
    """The whole name of an image, as the kubelet reads what the examples write."""
    return f"docker.io/hpo-operator/{name}:{version}"


TRIAL = tag("trial")
"""Python with the SDK and scikit-learn: the base of the examples' images."""
TORCH_TRIAL = tag("trial", TORCH_VERSION)
OPERATOR, TORCH_OPERATOR = tag("operator"), tag("operator", TORCH_VERSION)
PLAIN = tag("plain")
"""Python alone, for the chart's own image beside it: a program that knows nothing of the SDK, and is another user."""
_VALUES = yaml.safe_load((ROOT / "helm" / "hpo-operator" / "values.yaml").read_text())
PROMETHEUS = f"docker.io/prom/prometheus:{_VALUES['bundledPrometheus']['image']['tag']}"
"""By the name that the chart has for it; made of the test bed's own program."""
RELOADER = "quay.io/prometheus-operator/prometheus-config-reloader:v0.85.0"
"""Beside each Prometheus that the Prometheus operator runs; made of the same module as that."""


def archives() -> list[Path]:
    """The archives of the examples' images. Raises MissingTool inside the enclosure when they must be built first, outside."""
    return _kept("examples", (images.PYTHON, images.TORCH), _examples)


def of_the_chart() -> list[Path]:
    """The archives of what the chart runs. Raises MissingTool as `archives` does."""
    return _kept("chart", (images.PYTHON, images.TORCH), _chart)


def archive_of(wanted: str) -> Path:
    """The archive of one of these images."""
    return next(each for each in (*archives(), *of_the_chart()) if images.tag_of(each) == wanted)


def _examples() -> Iterator[Path]:
    dockerfile = ROOT / "images" / "trial" / "Dockerfile"
    yield images.build(ROOT, TRIAL, base=images.PYTHON, dockerfile=dockerfile)
    # What the base has of the same packages, which fits its torch.
    yield images.build(ROOT, TORCH_TRIAL, base=images.TORCH, dockerfile=dockerfile, arguments={"CONSTRAINTS": "/dev/null"})
    for name in EXAMPLES:
        yield images.build(ROOT / "examples" / name, tag(name), base=images.PYTHON, arguments={"BASE": TRIAL})


def _chart() -> Iterator[Path]:
    dockerfile = ROOT / "images" / "operator" / "Dockerfile"
    yield images.build(ROOT, OPERATOR, base=images.PYTHON, dockerfile=dockerfile)
    # The base's torch, and no other index.
    arguments = {"EXTRAS": "operator,torch", "TORCH_INDEX": "", "TORCH_CONSTRAINTS": ""}
    yield images.build(ROOT, TORCH_OPERATOR, base=images.TORCH, dockerfile=dockerfile, arguments=arguments)
    plain = Path(__file__).with_name("plain.Dockerfile")
    yield images.build(plain.parent, PLAIN, base=images.PYTHON, dockerfile=plain)
    yield images.program_image("prometheus", PROMETHEUS)
    yield images.program_image("prometheus-config-reloader", RELOADER)


def _kept(what: str, bases: Sequence[images.Base], build: Callable[[], Iterator[Path]]) -> list[Path]:
    stamps = cache_directory() / what
    stamp = stamps / _digest(what, bases)
    if stamp.exists():
        found = [Path(line) for line in stamp.read_text().splitlines()]
        if all(archive.exists() for archive in found):
            return found
    if enclosed():
        raise MissingTool(f"the images ({what}) as they are now", "build them with: python -m tests.cluster.images")
    for base in bases:
        images.build_base(base)
    built = [*build()]
    stamps.mkdir(parents=True, exist_ok=True)
    stamp.write_text("".join(f"{archive}\n" for archive in built))
    _forget_the_old(stamps, {*built})
    return built


def _digest(what: str, bases: Sequence[images.Base]) -> str:
    """A hash of all that goes into the images."""
    found = hashlib.sha256(f"{[base.tag for base in bases]} {(PROMETHEUS, RELOADER) if what == 'chart' else ''}".encode())
    for path in sorted(path for pattern in SOURCES[what] for path in ROOT.glob(pattern)):
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
    for each in (*archives(), *of_the_chart()):
        print(each)
