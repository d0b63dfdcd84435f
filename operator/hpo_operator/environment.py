"""What a Trial's program finds in its environment, in a pod and on a laptop alike."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from hpo_algorithms import Space

from hpo_operator.ledger import params_of
from hpo_operator.outcomes import metrics_wanted
from hpo_operator.resources import Study, Trial

PARAMETER_PREFIX = "HPO_PARAM_"
CONTRACT = frozenset({
    "HPO_STUDY", "HPO_STUDY_UID", "HPO_TRIAL", "HPO_TRIAL_NUMBER", "HPO_PARAMETERS", "HPO_PARAMETERS_FILE", "HPO_OBJECTIVES",
    "HPO_START_STEP", "HPO_BUDGET", "HPO_CHECKPOINT_DIR", "HPO_RESTORE_DIR", "HPO_RESTORE_TRIAL", "HPO_RESTORE_STEP",
    "HPO_RESTORE_DIGEST", "HPO_TERMINATION_FILE", "HPO_METRICS_FILE", "HPO_METRICS_PORT",
})  # fmt: skip

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")


def trial_environment(study: Study, trial: Trial, space: Space) -> dict[str, str]:
    """The variables that tell a program its Trial; see docs/sdk.md for their meaning."""
    params = params_of(space, trial.spec.parameters)
    found = {
        "HPO_STUDY": study.metadata.name,
        "HPO_STUDY_UID": study.metadata.uid,
        "HPO_TRIAL": trial.metadata.name,
        "HPO_TRIAL_NUMBER": str(trial.spec.number),
        "HPO_PARAMETERS": json.dumps(params),
        "HPO_OBJECTIVES": ",".join(metrics_wanted(study.spec)),
        "HPO_START_STEP": str(trial.spec.restore_from.step if trial.spec.restore_from else 0),
    }
    if trial.spec.budget is not None:
        found["HPO_BUDGET"] = str(trial.spec.budget)
    for pair in trial.spec.parameters:
        found[parameter_variable(pair.name)] = pair.value
    return found


def checkpoint_environment(trial: Trial, own: str, donors: str) -> dict[str, str]:
    """The variables that tell a program where checkpoints are: its Trial's own folder, and that of the Trial it starts from."""
    found = {"HPO_CHECKPOINT_DIR": own}
    if (restore := trial.spec.restore_from) is not None:
        found |= {
            "HPO_RESTORE_DIR": f"{donors}/step-{restore.step}",
            "HPO_RESTORE_TRIAL": restore.trial_name,
            "HPO_RESTORE_STEP": str(restore.step),
            "HPO_RESTORE_DIGEST": restore.digest,
        }
    return found


def is_copied_for(study: Study, trial: Trial) -> bool:
    """Whether the checkpoint that a Trial starts from is copied before its program starts, and not by the program."""
    kept = study.spec.checkpoints
    return kept is not None and kept.restore == "Copy" and trial.spec.restore_from is not None


def parameter_variable(name: str) -> str:
    """The variable that holds one parameter's value, for programs that are told by their command line."""
    return PARAMETER_PREFIX + re.sub(r"[^A-Z0-9_]", "_", name.upper())


def is_ours(name: str) -> bool:
    """Whether a variable belongs to the contract between a Trial and its program; see docs/sdk.md."""
    return name in CONTRACT or name.startswith(PARAMETER_PREFIX)


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` replaced as the kubelet does: unknown names stay as they are, and `$$` is one dollar."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return _REFERENCE.sub(replaced, text)
