"""That an algorithm on torch works where algorithms run: in a process of its own, with a limit on its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.operator.local_studies import Laptop

PROGRAM = """echo "{\\"hpo\\":1,\\"step\\":1,\\"metrics\\":{\\"loss\\":\\"$HPO_PARAM_X\\"}}" > "$HPO_TERMINATION_FILE" """


@pytest.mark.torch
def test_a_study_runs_to_its_end_on_proposals_of_botorch_alone(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path)
    laptop.write(PROGRAM, algorithm={"botorch": {"startupTrials": 3}}, limits={"maxTrials": 7})
    assert laptop.hpo("run") == 0
    assert [trial.spec.origin for trial in laptop.trials()] == ["Sampled"] * 7
    assert min(float(trial.spec.parameters[0].value) for trial in laptop.trials()) < 0.02
