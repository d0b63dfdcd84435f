"""Many Studies of one module of tests under one operator, which watches all namespaces as an installed one does.

    @pytest.fixture(scope="module")
    def crowd(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
        with Crowd(bed(ControlPlane, ControlPlane), "stopping", tmp_path_factory.mktemp("operator")) as running:
            yield running

An operator and the worker of a Study take a second each to start; a module that creates its Studies first and looks at them later
waits for all of them at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.control_plane.building import PATIENCE, VERSION, condition, end_of, study, trials, wait_for_study, wait_for_trials
from tests.control_plane.operator_process import OperatorAccount, OperatorProcess
from tests.testbed import ControlPlane, Object, wait_until

JOB, POD = ("batch/v1", "Job"), ("v1", "Pod")
NUMBER = "hpo.dev/trial-number"


class Crowd:
    """An operator and the namespaces of a module, inside the `with` block.

    Args:
        name: what the namespaces are called, before their numbers.
        arguments: of the operator.
    """

    def __init__(self, plane: ControlPlane, name: str, folder: Path, *arguments: str) -> None:
        self.plane, self.api = plane, plane.api
        self._name, self._numbers = name, itertools.count()
        self._namespaces: list[str] = []
        plane.define_studies()
        self.operator = OperatorProcess(OperatorAccount(plane).kubeconfig(), *arguments, log=folder / "operator.log")

    def __enter__(self) -> Self:
        self.operator.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.operator.kill()
        for namespace in self._namespaces:
            for version, kind_ in ((VERSION, "Study"), (VERSION, "Trial"), JOB):
                self.api.delete_all(version, kind_, namespace)
            self.api.delete("v1", "Namespace", namespace, namespace="")
            self.api.delete_all(*POD, namespace, gracePeriodSeconds=0)
        # Their GPUs are free when the next module begins.
        wait_until(
            "the end of all pods", lambda: not any(self.api.objects(*POD, each) for each in self._namespaces), seconds=PATIENCE
        )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """What the operator says during a test is shown with one that fails, and an error that it did not expect fails it."""
        before = len(self.operator.said())
        yield
        said = self.operator.said()[before:]
        print(said[-20_000:])
        self.operator.require_running()
        assert "Traceback" not in said

    # What is made

    def namespace(self) -> str:
        """A new namespace."""
        self._namespaces.append(self.plane.create_namespace(f"{self._name}-{next(self._numbers)}"))
        return self._namespaces[-1]

    def apply(self, name: str, namespace: str = "", **spec: Any) -> Object:
        """Applies a Study as `building.study` makes it, in a namespace of its own when none is named."""
        wanted = study(name, namespace or self.namespace(), **spec)
        self.plane.apply([wanted])
        return wanted

    def edit(self, of: Object, **spec: Any) -> Object:
        """Changes fields of a Study's spec, as `kubectl patch` does."""
        name, namespace = of["metadata"]["name"], of["metadata"]["namespace"]
        return self.api.patch(VERSION, "Study", name, {"spec": spec}, namespace)

    # What is seen

    def now(self, of: Object) -> Object:
        """A Study as it stands."""
        return self.api.get(VERSION, "Study", of["metadata"]["name"], of["metadata"]["namespace"])

    def trials(self, of: Object) -> list[Object]:
        """A Study's Trials by number."""
        return trials(self.plane, of)

    def end_of(self, of: Object) -> Object:
        """Waits for the end of a Study."""
        return end_of(self.plane, of)

    def wait_for(self, of: Object, what: str, seen: Callable[[Object], object]) -> Object:
        """Waits until something is true of a Study."""
        return wait_for_study(self.plane, of, what, seen)

    def wait_for_trials(self, of: Object, what: str, seen: Callable[[list[Object]], object]) -> list[Object]:
        """Waits until something is true of a Study's Trials."""
        return wait_for_trials(self.plane, of, what, seen)

    def wait_for_trial(self, of: Object, number: int, what: str, seen: Callable[[Object], object]) -> Object:
        """Waits until a Trial is there and something is true of it."""
        found = self.wait_for_trials(of, f"{what} of Trial {number}", lambda all_: any(map(seen, _numbered(all_, number))))
        return _numbered(found, number)[0]

    def job(self, of: Object, number: int) -> Object | None:
        """The Job of a Trial, if it is there."""
        return self.api.find(*JOB, f"{of['metadata']['name']}-{number}", of["metadata"]["namespace"])

    def jobs(self, of: Object) -> list[int]:
        """The numbers of the Trials of which there is a Job."""
        labelled = f"hpo.dev/study={of['metadata']['name']}"
        found = self.api.objects(*JOB, of["metadata"]["namespace"], labelSelector=labelled)
        return sorted(int(each["metadata"]["labels"][NUMBER]) for each in found)

    def pods(self, of: Object, number: int | None = None) -> list[Object]:
        """The pods of a Study or of one of its Trials."""
        labelled = f"hpo.dev/study={of['metadata']['name']}" + ("" if number is None else f",{NUMBER}={number}")
        return self.api.objects(*POD, of["metadata"]["namespace"], labelSelector=labelled)

    def wait_for_pods(self, of: Object, number: int, what: str, seen: Callable[[list[Object]], object]) -> list[Object]:
        """Waits until something is true of a Trial's pods; there must be some."""

        def look() -> list[Object]:
            found = self.pods(of, number)
            return found if found and seen(found) else []

        return wait_until(f"{what} of Trial {number}", look, seconds=PATIENCE)

    def wait_for_running(self, of: Object, *numbers: int) -> None:
        """Waits until exactly these Trials have pods that run, and the operator has written so."""

        def look() -> bool:
            found = {each["spec"]["number"] for each in self.trials(of) if condition(each, "Running").get("status") == "True"}
            return found == {*numbers} and all(any(map(runs, self.pods(of, each))) for each in numbers)

        wait_until(f"running Trials {numbers} of {of['metadata']['name']}", look, seconds=PATIENCE)


def runs(pod: Object) -> bool:
    """Whether a pod runs."""
    return bool(pod["status"].get("phase") == "Running") and "deletionTimestamp" not in pod["metadata"]


def status_of(obj: Object, type_: str) -> tuple[str, str]:
    """A condition of an object: its status and reason."""
    found = condition(obj, type_)
    return found.get("status", ""), found.get("reason", "")


def message_of(obj: Object, type_: str) -> str:
    """What a condition of an object says."""
    found: str = condition(obj, type_).get("message", "")
    return found


def metrics_of(trial: Object) -> Mapping[str, str]:
    """What a Trial has given."""
    return {each["name"]: each["value"] for each in trial["status"].get("observation", {}).get("metrics") or ()}


def _numbered(found: list[Object], number: int) -> list[Object]:
    return [each for each in found if each["spec"]["number"] == number]
