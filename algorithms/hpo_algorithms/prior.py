"""What a Study knows from earlier ones on the same parameters: Trials to learn from, and configurations to begin with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from hpo_algorithms.errors import InvalidParameters
from hpo_algorithms.ranking import ranked
from hpo_algorithms.space import Params, Space
from hpo_algorithms.trials import Problem, Trial

FIRST = 4  # configurations of earlier Studies that are tried first


def warm(problem: Problem, earlier: Iterable[Iterable[Trial]]) -> Problem:
    """The problem with the ended Trials of earlier Studies as its prior, and the best of each behind the configurations given.

    Trials whose configuration is none of the space, where an earlier Study has looked further, are left out.
    """
    prior = tuple(tuple(_within(problem.space, study)) for study in earlier)
    prior = tuple(study for study in prior if study)
    warmer = dataclasses.replace(problem, prior=prior)
    return dataclasses.replace(warmer, given=(*problem.given, *_first(warmer)))


def _within(space: Space, study: Iterable[Trial]) -> Iterable[Trial]:
    for trial in study:
        if not trial.active:
            try:
                yield dataclasses.replace(trial, params=space.validate(trial.params))
            except InvalidParameters:
                continue


def _first(problem: Problem) -> Sequence[Params]:
    """The best configuration of each earlier Study, then the second best of each, and so on."""
    bests = []
    for study in problem.prior:
        order = ranked(problem, study, 1)
        bests.append([trial.params for trial in order.trials[: order.usable]])
    known = {problem.space.key(params) for params in problem.given}
    found: list[Params] = []
    for place in range(max(map(len, bests), default=0)):
        for best in bests:
            if place < len(best) and (key := problem.space.key(best[place])) not in known:
                known.add(key)
                found.append(best[place])
            if len(found) == FIRST:
                return found
    return found
