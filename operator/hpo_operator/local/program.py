"""What a Study's template says about the program to run, as far as it has a meaning without a cluster."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo_algorithms import Fault

from hpo_operator.environment import expanded, is_ours
from hpo_operator.local.leftovers import OUTER_TRIALS, trials_of
from hpo_operator.resources import StudySpec
from hpo_operator.validation import InvalidStudy

GPU_RESOURCE = "nvidia.com/gpu"
POD = "spec.template.job.spec.template.spec"
CONTAINERS = f"{POD}.containers"
GRACE_SECONDS = 10.0  # less than the 30 of Kubernetes, for somebody is waiting


@dataclass(frozen=True, slots=True)
class Program:
    """A command line with its environment. Images, volumes and the rest of a pod have no meaning here and are left alone.

    `path` is where the container stands in the Study; `notes` say what of it is left out and may be missed. `surroundings` are
    variables of this run that the Study does not name.
    """

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    folder: Path
    gpus: int
    grace_seconds: float
    path: str
    notes: tuple[str, ...] = ()
    surroundings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, spec: StudySpec, folder: Path, surroundings: Mapping[str, str]) -> Program:
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
            env=tuple(_env(container, path)),
            folder=folder,
            gpus=_gpus(container, path),
            grace_seconds=_grace(pod),
            path=path,
            notes=tuple(_notes(pod["containers"], container, path)),
            surroundings=tuple(surroundings.items()),
        )
        program.check()
        return program

    def check(self) -> None:
        """Raise InvalidStudy when the program cannot be found or executed, before any Trial fails for it."""
        name, path = self.command[0], f"{self.path}.command[0]"
        if "$(" in name or self._found(name):
            return
        here = self.folder / name if os.sep in name else None
        if here is not None and here.is_dir():
            raise InvalidStudy([Fault(path, name, "is a directory, not a program")])
        if here is not None and here.exists():
            raise InvalidStudy([Fault(path, name, "is not executable", f"Run: chmod +x {name}")])
        remedy = f"Relative paths start at the Study file's folder, {self.folder}; other names are looked up in PATH."
        raise InvalidStudy([Fault(path, name, "is not a program that can be found", remedy)])

    def resolved(self, trial: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """The command line and the environment of one Trial: first the Trial's variables, then the template's, then $(NAME)s."""
        variables = dict(trial)
        for name, value in self.env:
            variables[name] = expanded(value, variables)
        # What says which Trial *this* process is part of, if it is, would be taken for the Trial's own.
        inherited = {name: value for name, value in os.environ.items() if not is_ours(name)}
        if outer := trials_of(os.environ):  # which is only to end this one with it
            inherited[OUTER_TRIALS] = outer
        environment = {**inherited, "PATH": _search_path(), **dict(self.surroundings), **variables}
        return [expanded(word, variables) for word in self.command], environment

    def _found(self, name: str) -> bool:
        if os.sep in name:
            found = self.folder / name
            return found.is_file() and os.access(found, os.X_OK)
        return shutil.which(name, path=dict(self.env).get("PATH", _search_path())) is not None


def gpus_of(spec: StudySpec) -> int:
    """How many GPUs each Trial asks for in its reporting container; 0 where that cannot be told."""
    if spec.template.job is None:
        return 0
    place, container = _reporter(spec.template.job["spec"]["template"]["spec"]["containers"], spec)
    return _gpus(container, f"{CONTAINERS}[{place}]")


def _search_path() -> str:
    """The interpreter's own folder comes first, so that `python` and `hpo` in a Study are those that run it."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _reporter(containers: Sequence[Mapping[str, Any]], spec: StudySpec) -> tuple[int, Mapping[str, Any]]:
    wanted = spec.template.reporter.container if spec.template.reporter else None
    return next(((i, each) for i, each in enumerate(containers) if each.get("name") == wanted), (0, containers[0]))


def _strings(container: Mapping[str, Any], field: str, path: str) -> list[str]:
    values = container.get(field) or []
    if not isinstance(values, list):
        raise InvalidStudy([Fault(f"{path}.{field}", values, "must be a list of strings")])
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise InvalidStudy([Fault(f"{path}.{field}[{place}]", value, "must be a string", f"Quote it: '{value}'.")])
        if "\0" in value:
            raise InvalidStudy([Fault(f"{path}.{field}[{place}]", value, "must not hold a NUL character")])
    return values


def _env(container: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    entries = container.get("env") or []
    if not isinstance(entries, list) or not all(isinstance(each, Mapping) for each in entries):
        raise InvalidStudy([Fault(f"{path}.env", entries, "must be a list of mappings", "As {name: X, value: 'y'}.")])
    for place, entry in enumerate(entries):
        name, value = entry.get("name"), entry.get("value")
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise InvalidStudy([Fault(f"{path}.env[{place}].name", name, "must be the name of a variable")])
        if value is None and entry.get("valueFrom"):
            continue
        if not isinstance(value, str | None) or "\0" in (value or ""):
            raise InvalidStudy([Fault(f"{path}.env[{place}].value", value, "must be a string", f"Quote it: '{value}'.")])
        yield name, value or ""


def _gpus(container: Mapping[str, Any], path: str) -> int:
    resources = container.get("resources") or {}
    for field in ("limits", "requests"):
        asked = resources.get(field) if isinstance(resources, Mapping) else None
        wanted = asked.get(GPU_RESOURCE) if isinstance(asked, Mapping) else None
        if wanted is None:
            continue
        if isinstance(wanted, bool) or not re.fullmatch(r"\d{1,4}", str(wanted)):
            raise InvalidStudy([Fault(f"{path}.resources.{field}[{GPU_RESOURCE}]", wanted, "must be a whole number")])
        return int(wanted)
    return 0


def _grace(pod: Mapping[str, Any]) -> float:
    seconds = pod.get("terminationGracePeriodSeconds")
    if seconds is None:
        return GRACE_SECONDS
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
        rule = "must be a whole number of seconds, 0 or more"
        raise InvalidStudy([Fault(f"{POD}.terminationGracePeriodSeconds", seconds, rule)])
    return float(seconds)


def _notes(containers: Sequence[Mapping[str, Any]], reporter: Mapping[str, Any], path: str) -> Iterator[str]:
    """What the program would have in a cluster and lacks here."""
    others = [str(each.get("name")) for each in containers if each is not reporter]
    if others:
        yield f"{CONTAINERS}: only {reporter.get('name', 'the first one')} is run without a cluster, not {', '.join(others)}."
    unknown = [str(each["name"]) for each in reporter.get("env") or () if each.get("valueFrom") and each.get("value") is None]
    if unknown:
        yield f"{path}.env: {', '.join(unknown)}: valueFrom has no meaning without a cluster; the variable is inherited, if at all."
    if reporter.get("envFrom"):
        yield f"{path}.envFrom: has no meaning without a cluster; set its variables before you start the Study."
