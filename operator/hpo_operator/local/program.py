"""What a Study's template says about the program to run, as far as it has a meaning without a cluster."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo_algorithms import Fault

from hpo_operator.environment import expanded
from hpo_operator.resources import StudySpec
from hpo_operator.validation import InvalidStudy

GPU_RESOURCE = "nvidia.com/gpu"
CONTAINERS = "spec.template.job.spec.template.spec.containers"


@dataclass(frozen=True, slots=True)
class Program:
    """A command line with its environment. Images, volumes and the rest of a pod have no meaning here and are left alone."""

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    folder: Path
    gpus: int
    grace_seconds: float

    @classmethod
    def of(cls, spec: StudySpec, folder: Path) -> Program:
        """The reporting container's program, to be run in a folder. Raises InvalidStudy when it cannot be run here."""
        if spec.template.job is None:
            kind = (spec.template.object or {}).get("kind")
            remedy = "Use template.job, whose container command can run anywhere."
            raise InvalidStudy([Fault("spec.template.object", kind, "needs a cluster", remedy)])
        pod: Mapping[str, Any] = spec.template.job["spec"]["template"]["spec"]
        place, container = _reporter(pod["containers"], spec)
        path = f"{CONTAINERS}[{place}]"
        command = [*_strings(container, "command", path), *_strings(container, "args", path)]
        if not container.get("command"):
            remedy = "Without a cluster the image's entrypoint is not known: write it down."
            raise InvalidStudy([Fault(f"{path}.command", None, "is required to run without a cluster", remedy)])
        program = cls(
            command=tuple(command),
            env=tuple(
                (str(each.get("name")), str(each["value"]))
                for each in container.get("env") or ()
                if isinstance(each, Mapping) and each.get("value") is not None
            ),
            folder=folder,
            gpus=_gpus(container, path),
            grace_seconds=float(pod.get("terminationGracePeriodSeconds", 10)),
        )
        program.check(f"{path}.command[0]")
        return program

    def check(self, path: str) -> None:
        """Raise InvalidStudy when the program cannot be found or executed, before any Trial fails for it."""
        name = self.command[0]
        if "$(" in name or self._found(name):
            return
        exists = (self.folder / name).exists() if os.sep in name else False
        if exists:
            raise InvalidStudy([Fault(path, name, "is not executable", f"Run: chmod +x {name}")])
        remedy = f"Relative paths start at the Study file's folder, {self.folder}; other names are looked up in PATH."
        raise InvalidStudy([Fault(path, name, "is not a program that can be found", remedy)])

    def resolved(self, trial: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """The command line and the environment of one Trial: first the Trial's variables, then the template's, then $(NAME)s."""
        variables = dict(trial)
        for name, value in self.env:
            variables[name] = expanded(value, variables)
        # The interpreter's own folder comes first, so that `python` and `hpo` in a Study are those that run it.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = {**os.environ, "PATH": path, **variables}
        return [expanded(word, variables) for word in self.command], environment

    def _found(self, name: str) -> bool:
        if os.sep in name:
            found = self.folder / name
            return found.is_file() and os.access(found, os.X_OK)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return shutil.which(name, path=path) is not None


def gpus_of(spec: StudySpec) -> int:
    """How many GPUs each Trial asks for in its reporting container; 0 where that cannot be told."""
    if spec.template.job is None:
        return 0
    place, container = _reporter(spec.template.job["spec"]["template"]["spec"]["containers"], spec)
    return _gpus(container, f"{CONTAINERS}[{place}]")


def _reporter(containers: Sequence[Mapping[str, Any]], spec: StudySpec) -> tuple[int, Mapping[str, Any]]:
    wanted = spec.template.reporter.container if spec.template.reporter else None
    return next(((i, each) for i, each in enumerate(containers) if each.get("name") == wanted), (0, containers[0]))


def _strings(container: Mapping[str, Any], field: str, path: str) -> list[str]:
    values = container.get(field) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidStudy([Fault(f"{path}.{field}", values, "must be a list of strings", "Quote numbers.")])
    return values


def _gpus(container: Mapping[str, Any], path: str) -> int:
    resources = container.get("resources") or {}
    wanted = (resources.get("limits") or {}).get(GPU_RESOURCE) or (resources.get("requests") or {}).get(GPU_RESOURCE) or 0
    if not re.fullmatch(r"\d{1,4}", str(wanted)):
        raise InvalidStudy([Fault(f"{path}.resources.limits[{GPU_RESOURCE}]", wanted, "must be a whole number")])
    return int(wanted)
