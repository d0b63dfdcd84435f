"""The contract with whoever runs a Trial: environment variables named HPO_*, the same in a pod and on a laptop.

Each is read when it is asked for and not before, so that importing costs nothing, and so that a variable which says
nonsense fails only the call that needs it. A variable set to nothing counts as absent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from hpo._errors import InvalidEnvironment

# Where the kubelet mounts the file whose tail it copies into the pod's status.
KUBELET_TERMINATION_FILE = "/dev/termination-log"

# The step of the checkpoint that this process has loaded, by the Trial's name.
_gone_on_from: dict[str | None, int] = {}

_REMEDY = "Whoever runs the Trial sets it; outside a Study leave it unset"


class Trial(NamedTuple):
    """Which Trial of which Study a program runs for."""

    study: str
    name: str
    number: int
    study_uid: str


class Donor(NamedTuple):
    """Another Trial's checkpoint to start from: its folder, to be read only, and the digest that its content must have."""

    trial: str
    folder: str
    step: int
    digest: str


class Environment:
    """The variables of one process, typed; errors are `InvalidEnvironment` and name the variable."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables

    @property
    def trial_name(self) -> str | None:
        """HPO_TRIAL: set in every Trial and nowhere else."""
        return self._text("HPO_TRIAL")

    @property
    def trial(self) -> Trial | None:
        """HPO_STUDY, HPO_STUDY_UID, HPO_TRIAL and HPO_TRIAL_NUMBER."""
        name = self.trial_name
        if name is None:
            return None
        number = self._whole_number("HPO_TRIAL_NUMBER", least=0)
        if number is None:
            raise InvalidEnvironment("HPO_TRIAL_NUMBER", None, "must be set where HPO_TRIAL is", _REMEDY)
        return Trial(self._text("HPO_STUDY") or "", name, number, self._text("HPO_STUDY_UID") or "")

    @property
    def parameters(self) -> dict[str, Any] | None:
        """HPO_PARAMETERS, or what stands in HPO_PARAMETERS_FILE; None where neither is set."""
        field, text = "HPO_PARAMETERS", self._text("HPO_PARAMETERS")
        path = self._text("HPO_PARAMETERS_FILE")
        if text is None and path is not None:
            field = "HPO_PARAMETERS_FILE"
            try:
                with open(path, encoding="utf-8") as file:
                    text = file.read()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidEnvironment(field, path, f"cannot be read ({error})", _REMEDY) from None
        if text is None:
            return None
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InvalidEnvironment(field, text, f"must be JSON ({error})", _REMEDY) from None
        if not isinstance(values, dict):
            raise InvalidEnvironment(field, text, "must be one JSON object, names to values", _REMEDY)
        return values

    @property
    def budget(self) -> int | None:
        """HPO_BUDGET: the step to train to."""
        return self._whole_number("HPO_BUDGET", least=1)

    @property
    def start_step(self) -> int:
        """HPO_START_STEP: the step that the Trial starts from."""
        return self._whole_number("HPO_START_STEP", least=0) or 0

    @property
    def checkpoint_dir(self) -> str | None:
        """HPO_CHECKPOINT_DIR: the Trial's own folder of checkpoints, to read and to write."""
        return self._text("HPO_CHECKPOINT_DIR")

    @property
    def checkpoint_keep(self) -> int:
        """HPO_CHECKPOINT_KEEP: how many checkpoints are kept, the newest ones; two, as the newest may turn out damaged."""
        return self._whole_number("HPO_CHECKPOINT_KEEP", least=1) or 2

    @property
    def donor(self) -> Donor | None:
        """HPO_RESTORE_DIR, HPO_RESTORE_TRIAL, HPO_RESTORE_STEP and HPO_RESTORE_DIGEST."""
        folder = self._text("HPO_RESTORE_DIR")
        step = self._whole_number("HPO_RESTORE_STEP", least=0)
        digest = self._text("HPO_RESTORE_DIGEST")
        if folder is None and step is None and digest is None:
            return None
        needed = {"HPO_RESTORE_DIR": folder, "HPO_RESTORE_STEP": step, "HPO_RESTORE_DIGEST": digest}
        needed["HPO_CHECKPOINT_DIR"] = self.checkpoint_dir
        for name, value in needed.items():
            if value is None:
                raise InvalidEnvironment(name, None, "must be set where another Trial's checkpoint is to be restored", _REMEDY)
        assert folder is not None and step is not None and digest is not None
        return Donor(self._text("HPO_RESTORE_TRIAL") or "", folder, step, digest)

    @property
    def objectives(self) -> tuple[str, ...]:
        """HPO_OBJECTIVES: the metrics that the Study needs, most important first."""
        names = (name.strip() for name in (self._text("HPO_OBJECTIVES") or "").split(","))
        return tuple(name for name in names if name)

    @property
    def termination_file(self) -> str | None:
        """HPO_TERMINATION_FILE, or the kubelet's own place where a Trial finds it there."""
        path = self._text("HPO_TERMINATION_FILE")
        if path is None and self.trial_name is not None and os.path.exists(KUBELET_TERMINATION_FILE):
            return KUBELET_TERMINATION_FILE
        return path

    @property
    def metrics_file(self) -> str | None:
        """HPO_METRICS_FILE: where each report is appended as one line."""
        return self._text("HPO_METRICS_FILE")

    @property
    def metrics_port(self) -> int | None:
        """HPO_METRICS_PORT: where /metrics is served."""
        return self._whole_number("HPO_METRICS_PORT", least=1, most=65535)

    def _text(self, name: str) -> str | None:
        return self._variables.get(name) or None

    def _whole_number(self, name: str, least: int, most: int | None = None) -> int | None:
        text = self._text(name)
        if text is None:
            return None
        bounds = f"of {least} or more" if most is None else f"from {least} to {most}"
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else -1
        if number < least or (most is not None and number > most):
            raise InvalidEnvironment(name, text, f"must be a whole number {bounds}", _REMEDY)
        return number


def budget() -> int | None:
    """The step to train to, in the Study's own unit (epochs, steps, samples); None where nothing limits it."""
    return Environment().budget


def start_step() -> int:
    """The step that this Trial starts from: 0, or the step of the checkpoint that it goes on from.

    After a checkpoint was loaded by `hpo.checkpoint` this is that checkpoint's step: of the Trial's own one after a restart.
    """
    environment = Environment()
    return _gone_on_from.get(environment.trial_name, environment.start_step)


def go_on_from(step: int) -> None:
    """Makes this process's start step that of the checkpoint that it has loaded."""
    _gone_on_from[Environment().trial_name] = step


def trial() -> Trial | None:
    """Which Trial of which Study this is: `study`, `name`, `number`, `study_uid`; None outside any Study."""
    return Environment().trial
