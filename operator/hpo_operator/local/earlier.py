"""What earlier runs on this machine have found, for a Study that names them in warmStart.studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hpo_algorithms as algorithms
from hpo_algorithms import Fault

from hpo_operator.ledger import earlier_trials, nothing_to_learn
from hpo_operator.local.store import open_for_reading, study_in
from hpo_operator.resources import Study
from hpo_operator.validation import InvalidStudy, problem_of


def refuse_unnamed(study: Study, folders: Sequence[Path]) -> None:
    """Raise InvalidStudy for a results folder that is given without need, StoreError for one that cannot be read."""
    named = [each.name for each in study.spec.warm_start.studies] if study.spec.warm_start else []
    faults = []
    for folder in folders:
        name = study_in(folder).metadata.name
        if name not in named:
            rule = f"holds Study {name}, which spec.warmStart.studies does not name"
            faults.append(Fault(f"--earlier {folder}", None, rule, f"Add warmStart: {{studies: [{{name: {name}}}]}}."))
    if faults:
        raise InvalidStudy(faults)


def earlier_runs(study: Study, results: Path, folders: Sequence[Path] = ()) -> list[list[algorithms.Trial]]:
    """The Trials of each earlier Study that had ended when this one was created.

    A Study is looked for among the results folders that are given, then beside this one's by its name. Raises StoreError for a
    folder that cannot be read, InvalidStudy for a Study that is not found, or has found nothing.
    """
    named = study.spec.warm_start.studies if study.spec.warm_start else ()
    if not named:
        return []
    space = problem_of(study.spec, 0).space
    given = {found.metadata.name: (found, trials) for found, trials in map(open_for_reading, folders)}
    earlier, faults = [], []
    for place, each in enumerate(named):
        path, beside = f"spec.warmStart.studies[{place}].name", results.parent / each.name
        if each.name not in given and not (beside / "study.json").exists():
            remedy = "Run it first, or name its results folder with --earlier."
            faults.append(Fault(path, each.name, f"has no results in {beside}", remedy))
            continue
        _, trials = given[each.name] if each.name in given else open_for_reading(beside)
        found = earlier_trials(space, study.spec, trials, study.metadata.creation_timestamp)
        if rule := nothing_to_learn(study.spec, each.name, found):
            faults.append(Fault(path, each.name, rule.removesuffix(".")))
        earlier.append(found)
    if faults:
        raise InvalidStudy(faults)
    return earlier
