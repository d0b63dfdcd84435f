"""Simulated nodes and what simulated pods do: the Stages of KWOK.

A pod on a simulated node starts at once, and unless its restartPolicy is Always it ends after a delay with a termination message
computed from its parameters, as the SDK writes it: a trial that returns a real number. What it does is said by annotations of
the pod, so that a test says it in the template of its Study or Job:

    testbed.hpo.dev/delay            how long it runs: a Go duration ("500ms", the default), or "never": until it is deleted
    testbed.hpo.dev/exit-code        of every container; "0" is the default, anything else fails the pod
    testbed.hpo.dev/message          the termination message. "{report}", the default, stands for the SDK's line,
                                     "{objective}" for Σ (x − x*)² over the numeric parameters plus gap / budget,
                                     "{budget}" for the budget, "{name}" for the parameter `name`
    testbed.hpo.dev/optimum          x*, a JSON object by parameter; 0 where it says nothing
    testbed.hpo.dev/gap              what a trial of budget 1 lacks; "0" is the default
    testbed.hpo.dev/reporter         the container that writes the message; the first is the default
    testbed.hpo.dev/waiting          never starts, and gives this reason ("ImagePullBackOff")
    testbed.hpo.dev/deletion-delay   how long it takes to go once it is deleted; "0s" is the default

All trials of a Study share its template. Delay, exit code, message, waiting and deletion delay with a number behind a dot
("testbed.hpo.dev/exit-code.3") are for the trial of that number alone.

The parameters are those of HPO_PARAMETERS, the budget is HPO_BUDGET, the metrics reported are HPO_OBJECTIVES.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .api import Object

STAGES = Path(__file__).parent / "stages"
"""The Stages as KWOK reads them, one a file."""

PREFIX = "testbed.hpo.dev/"
NEVER = "never"

DELAY = f"{PREFIX}delay"
EXIT_CODE = f"{PREFIX}exit-code"
MESSAGE = f"{PREFIX}message"
OPTIMUM = f"{PREFIX}optimum"
GAP = f"{PREFIX}gap"
REPORTER = f"{PREFIX}reporter"
WAITING = f"{PREFIX}waiting"
DELETION_DELAY = f"{PREFIX}deletion-delay"

SAVED_DIGEST, SAVED_BYTES = "sha256:" + "0" * 64, 48_211
SAVED = (
    '{"hpo":1,"step":{budget},"metrics":{"loss":"{objective}"},'
    f'"checkpoint":{{"step":{{budget}},"digest":"{SAVED_DIGEST}","path":"step-{{budget}}",'
    f'"bytes":{SAVED_BYTES}}}}}'
)
"""The message of a trial that has kept its weights."""

SIMULATED = "kwok.x-k8s.io/node"
"""The annotation (value "fake") of the nodes that KWOK plays; a real node beside them is left alone."""


def configuration(delay_milliseconds: int = 500) -> str:
    """The file for `kwok --config`, in which a pod that says nothing itself runs for so long."""
    stages = "---\n".join(stage.read_text() for stage in sorted(STAGES.glob("*.yaml")))
    return stages.replace("@delay@", str(delay_milliseconds))


def of_trial(annotation: str, number: int) -> str:
    """The annotation that is for one trial of a Study alone."""
    return f"{annotation}.{number}"


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A node that KWOK plays. `gpus` are `nvidia.com/gpu`, sizes are quantities as in a manifest."""

    name: str
    gpus: int = 8
    cpu: str = "128"
    memory: str = "1Ti"
    ephemeral_storage: str = "10Ti"
    pods: int = 1000
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Mapping[str, str], ...] = ()

    def manifest(self) -> Object:
        """The Node, which needs its status from the start: the scheduler looks at nothing else."""
        size = {
            "cpu": self.cpu,
            "memory": self.memory,
            "ephemeral-storage": self.ephemeral_storage,
            "pods": str(self.pods),
            "nvidia.com/gpu": str(self.gpus),
        }
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux", "type": "kwok", **self.labels}
        spec: dict[str, Any] = {"taints": [dict(taint) for taint in self.taints]} if self.taints else {}
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": labels, "annotations": {SIMULATED: "fake"}},
            "spec": spec,
            "status": {"capacity": size, "allocatable": size},
        }
