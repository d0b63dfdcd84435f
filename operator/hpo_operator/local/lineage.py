"""Who has copied whom: the lineage of a Study whose Trials start from each other's checkpoints, read from the Trials alone.

A Trial says in `restoreFrom` whose checkpoint it starts from, and in its slot which member it is. It is a copy where its donor is
another member. What ran before a Trial, from its first ancestor on, is the schedule of hyperparameters that made its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hpo_algorithms import Fault, InvalidInput

from hpo_operator import conditions as c
from hpo_operator.local.display import rounded, short_parameters, state_of
from hpo_operator.resources import API_VERSION, MAX_STUDY_NAME, Study, Trial
from hpo_operator.validation import read_study

MORE, LAST = "├─", "└─"
SUFFIX = "-replay"
KEPT_LIMITS = ("trialTimeoutSeconds", "maxRetries")  # those of a Trial; what ends a search ends no replay


class NoLineage(InvalidInput):
    """There is no schedule to be told or replayed."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Trials of one member that follow each other with the same parameters; `trials` in their order, never none.

    `onto` are the stretches that start from its checkpoints: the member's own next one, and copies of it.
    """

    trials: tuple[Trial, ...]
    onto: tuple[Stretch, ...] = ()

    @property
    def start(self) -> int:
        return start_of(self.trials[0])

    @property
    def end(self) -> int | None:
        return self.trials[-1].spec.budget

    @property
    def member(self) -> int:
        return member_of(self.trials[0])


def forest(trials: Iterable[Trial]) -> tuple[Stretch, ...]:
    """All lineages, each from a Trial that started from nothing, or from one that is not there any more."""
    counting = [trial for trial in trials if c.reason(trial.status.conditions, c.SUCCEEDED) not in c.FREED]
    known = {trial.spec.number for trial in counting}
    after: dict[int, list[Trial]] = {}
    for trial in counting:
        if trial.spec.restore_from is not None:
            after.setdefault(trial.spec.restore_from.number, []).append(trial)

    begun: dict[int, Stretch] = {}
    for trial in sorted(counting, key=lambda each: -each.spec.number):  # whoever starts from it has a higher number
        onto = [begun[each.spec.number] for each in after.get(trial.spec.number, ())]
        same = [each for each in onto if _goes_on(trial, each)][:1]
        rest = tuple(each for each in onto if each not in same)
        begun[trial.spec.number] = Stretch((trial, *same[0].trials), (*rest, *same[0].onto)) if same else Stretch((trial,), rest)
    first = [t for t in counting if t.spec.restore_from is None or t.spec.restore_from.number not in known]
    return tuple(begun[trial.spec.number] for trial in first)


def _goes_on(trial: Trial, later: Stretch) -> bool:
    return later.member == member_of(trial) and later.trials[0].spec.parameters == trial.spec.parameters


def ancestors(trials: Iterable[Trial], number: int) -> list[Trial]:
    """The Trials whose weights became those of one, from the first to itself.

    Raises NoLineage when it, or one of them, is not there any more.
    """
    known = {trial.spec.number: trial for trial in trials}
    found: list[Trial] = []
    wanted: int | None = number
    while wanted is not None:
        if wanted not in known:
            what = "there is no such Trial" if not found else f"Trial {found[0].spec.number} started from it, and it was deleted"
            raise NoLineage([Fault(f"Trial {wanted}", None, what)])
        found.insert(0, known[wanted])
        restore = known[wanted].spec.restore_from
        wanted = restore.number if restore else None
    return found


def best_number(study: Study) -> int:
    """The Trial that a Study's status ranks first. Raises NoLineage where there is none yet."""
    if not study.status.best:
        raise NoLineage([Fault(study.metadata.name, None, "no Trial has given a result yet")])
    return study.status.best[0].number


def replaying(study: Study, trials: Iterable[Trial], number: int) -> Study:
    """The Study that runs the schedule of one Trial once more.

    Raises NoLineage where the Trial is no member of a population or started from nothing, InvalidStudy where its schedule is too
    long for a Study.
    """
    line, spec = ancestors(trials, number), study.manifest()["spec"]
    if "budget" not in spec or any(t.spec.slot is None or t.spec.slot.generation != place for place, t in enumerate(line)):
        remedy = "Only what pbt, pb2 and replay have trained can be replayed."
        raise NoLineage([Fault(f"Trial {number}", None, "is not a member of a population", remedy)])
    if len(line) == 1:
        rule = f"is of the first generation: its schedule is its own parameters, from nothing to {line[0].spec.budget}"
        raise NoLineage([Fault(f"Trial {number}", None, rule, "Name one of a later generation with --trial.")])
    settings: Mapping[str, Any] = next(iter(study.spec.algorithm.values())) or {}
    limits = {field: value for field, value in spec.get("limits", {}).items() if field in KEPT_LIMITS}
    spec |= {
        "algorithm": {"replay": {"interval": settings["interval"]} if settings.get("interval") else {}},
        "budget": {**spec["budget"], "min": line[0].spec.budget, "max": line[-1].spec.budget},
        "warmStart": {"configurations": [{"parameters": [p.manifest() for p in trial.spec.parameters]} for trial in line]},
        "limits": {**limits, "maxFailedTrials": 0},
        "parallelism": 1,
    }
    name = f"{study.metadata.name[: MAX_STUDY_NAME - len(SUFFIX)].rstrip('-')}{SUFFIX}"
    return read_study({"apiVersion": API_VERSION, "kind": "Study", "metadata": {"name": name}, "spec": spec})


# What is shown


def rows(study: Study, trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """All Trials that count, as JSON values: where each stands, whom it has copied, and with which parameters it went on."""
    known = {trial.spec.number: trial for trial in trials}
    return [row_of(study, trial, known) for _, trial in sorted(known.items()) if state_of(trial) not in c.FREED]


def row_of(study: Study, trial: Trial, known: dict[int, Trial]) -> dict[str, Any]:
    """One Trial as JSON values."""
    restore, slot = trial.spec.restore_from, trial.spec.slot
    donor = known.get(restore.number) if restore else None
    copied = donor is not None and member_of(donor) != member_of(trial)
    before = {pair.name: pair.value for pair in donor.spec.parameters} if donor else {}
    parameters = {pair.name: pair.value for pair in trial.spec.parameters}
    created = trial.metadata.creation_timestamp
    return {
        "trial": trial.spec.number,
        "generation": slot.generation if slot else None,
        "member": slot.member if slot else None,
        "from": start_of(trial),
        "to": trial.spec.budget,
        "donor": restore.number if restore else None,
        "copied": member_of(donor) if copied and donor is not None else None,
        "parameters": parameters,
        "changed": [name for name, value in parameters.items() if before.get(name) != value] if donor else [],
        "created": created.isoformat() if created else None,
        "state": state_of(trial),
        study.spec.objectives[0].metric: result_of(study, trial),
    }


def tree(study: Study, trials: Iterable[Trial]) -> Iterator[str]:
    """The lineages as lines of text: a stretch each, under the one whose checkpoint it starts from; the best has a star."""
    best = study.status.best[0].number if study.status.best else None
    for root in forest(trials):
        yield f"member {root.member}  {_words(study, root, best)}"
        waiting = _branches(root, "")
        while waiting:
            indent, branch, mine, each = waiting.pop()
            who = "" if mine else f"copied by member {each.member}: "
            yield f"{indent}{branch} {who}{_words(study, each, best)}"
            waiting += _branches(each, indent + ("   " if branch == LAST else "│  "))


def _branches(root: Stretch, indent: str) -> list[tuple[str, str, bool, Stretch]]:
    """What stands under a stretch, the last of it first."""
    onto = sorted(root.onto, key=lambda each: (-each.start, -each.trials[0].spec.number))
    return [(indent, MORE if place else LAST, each.member == root.member, each) for place, each in enumerate(onto)]


def schedule(study: Study, line: Iterable[Trial]) -> Iterator[str]:
    """The schedule of one Trial as lines of text: from which step on with which parameters, and where another one was copied."""
    before: Trial | None = None
    for trial in line:
        copied = before is not None and member_of(before) != member_of(trial)
        if before is None or copied or before.spec.parameters != trial.spec.parameters:
            who = f"  (member {member_of(trial)}{f' copied {member_of(before)}' if copied and before else ''})"
            yield f"from {start_of(trial)}: {short_parameters(trial.spec.parameters)}{who}"
        before = trial
    if before is not None and (value := result_of(study, before)) is not None:
        yield f"at {before.spec.budget}: {study.spec.objectives[0].metric}={value}  (Trial {before.spec.number})"


def _words(study: Study, stretch: Stretch, best: int | None) -> str:
    metric, last = study.spec.objectives[0].metric, stretch.trials[-1]
    value = result_of(study, last)
    ending = f"{metric}={rounded(value)}" if value is not None else state_of(last)
    mark = "  *" if any(trial.spec.number == best for trial in stretch.trials) else ""
    return f"{stretch.start}-{stretch.end}  {short_parameters(stretch.trials[0].spec.parameters)}  {ending}{mark}"


def start_of(trial: Trial) -> int:
    """The step from which a Trial trains."""
    return trial.spec.restore_from.step if trial.spec.restore_from else 0


def member_of(trial: Trial) -> int:
    """Which member a Trial is of; one that has no place in a population is one of its own."""
    member = trial.spec.slot.member if trial.spec.slot else None
    return trial.spec.number if member is None else member


def result_of(study: Study, trial: Trial) -> str | None:
    """The first objective, as it was reported."""
    observed, metric = trial.status.observation, study.spec.objectives[0].metric
    return next((pair.value for pair in observed.metrics if pair.name == metric), None) if observed else None
