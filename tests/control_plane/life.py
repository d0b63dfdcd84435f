"""The life of one small Study under an operator that is disturbed, and what must be true of it all the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tests.control_plane.building import Result, end_of, has_ended, no_workloads, study
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.operator_process import OperatorProcess
from tests.control_plane.proxy import Kill, Proxy, Where, writes
from tests.testbed import ControlPlane, Object

TRIALS = 4
PARALLELISM = 2


class Life:
    """One Study in a namespace of its own, whose operator is behind a proxy; `spec` is what it has of its own."""

    def __init__(
        self, plane: ControlPlane, namespace: str, make: Callable[..., OperatorProcess], stack: ExitStack, **spec: Any
    ) -> None:
        self._plane = plane
        self.study = study("small", namespace, **{"trials": TRIALS, "parallelism": PARALLELISM, "workloadTTLSeconds": 0, **spec})
        self.proxy = stack.enter_context(Proxy(plane.server, plane.certificate))
        self.chronicle = stack.enter_context(Chronicle(plane, namespace))
        self.operator = make(namespace, through=self.proxy)
        stack.callback(self.operator.kill)
        self.namespace = namespace

    def begin(self) -> None:
        """Applies the Study and starts the operator."""
        self._plane.apply([self.study])
        self.operator.start()

    def kill_at(self, where: Where, *, skip: int = 0, executed: bool) -> Kill:
        """Has the operator killed at its next write of a sort, or `skip` later."""
        kill = Kill(self.operator.kill, where=where, skip=skip, executed=executed)
        self.proxy.mend()
        self.proxy.fault(kill, where=writes)
        return kill

    def is_over(self) -> bool:
        """Whether the Study has ended and its workloads are removed."""
        return has_ended(self.now()) and not self._plane.api.objects("batch/v1", "Job", self.namespace)

    def finish(self) -> Result:
        """Waits until the Study is over, and gives what it has found."""
        ended = end_of(self._plane, self.study)
        no_workloads(self._plane, self.namespace)
        self.chronicle.catch_up()
        return Result.of(self._plane, ended)

    def flaws(self, undisturbed: Result) -> list[str]:
        """All that is wrong with this life, given the result of one without disturbance.

        Nothing is, if it ended with the same Trials, results and best, each Trial was created once and had one workload, there were
        never more at once than the Study allows, and nothing is left over.
        """
        result, seen = self.finish(), self.chronicle
        each_once = dict.fromkeys(range(TRIALS), 1)
        wrong = {
            f"the result is {result}, undisturbed it is {undisturbed}": result != undisturbed,
            f"Trials created, by number: {seen.created('Trial')}": seen.created("Trial") != each_once,
            f"Jobs created, by number: {seen.created('Job')}": seen.created("Job") != each_once,
            f"{seen.most_running()} workloads ran at once": seen.most_running() > PARALLELISM,
            f"{seen.most_active()} Trials were active at once": seen.most_active() > PARALLELISM,
            f"the log tells of an error:\n{self.operator.said()}": "Traceback" in self.operator.said(),
        }
        return [flaw for flaw, is_so in wrong.items() if is_so]

    def now(self) -> Object:
        """The Study as it stands."""
        return self._plane.api.get("hpo.dev/v1alpha1", "Study", self.study["metadata"]["name"], self.namespace)
