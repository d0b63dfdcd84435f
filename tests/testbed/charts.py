"""Helm on a control plane of the test bed.

helm = Helm(control_plane)
helm("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM, values={"crds": {"keep": False}})
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .binaries import program
from .control_plane import ControlPlane
from .namespaces import ROOT
from .processes import run

CHART = ROOT / "helm" / "hpo-operator"
RELEASE, SYSTEM = "hpo-operator", "hpo-system"


class Helm:
    """The program helm, as administrator of a control plane, or without one for what needs none."""

    def __init__(self, plane: ControlPlane | None = None) -> None:
        self._environment = {"HOME": str(plane.state), "KUBECONFIG": str(plane.kubeconfig())} if plane else {}

    def __call__(self, *arguments: str, values: Mapping[str, Any] | Path | None = None) -> str:
        """Runs helm and returns what it printed. Raises CommandFailed."""
        if values is None:
            return run([program("helm"), *arguments], environment=self._environment)
        if isinstance(values, Path):
            return self(*arguments, "--values", str(values))
        command = [program("helm"), *arguments, "--values", "-"]
        return run(command, input=yaml.safe_dump(dict(values)), environment=self._environment)

    def template(
        self,
        *arguments: str,
        values: Mapping[str, Any] | Path | None = None,
        release: str = RELEASE,
        namespace: str = SYSTEM,
    ) -> list[dict[str, Any]]:
        """The objects of the chart. Raises ConstructorError where one has a key twice: helm takes the last, others refuse it."""
        text = self("template", release, str(CHART), "--namespace", namespace, *arguments, values=values)
        return [each for each in yaml.load_all(text, _Strict) if each]


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"keys given twice: {', '.join(sorted(twice))}", node.start_mark)
        return super().construct_mapping(node, deep)
