"""What the population methods share: who stands where among the ended, first points, and vectors that fit into a memo."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np

from hpo_algorithms.ranking import FRONTS_UP_TO, ranked
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import History, Problem, Trial


def settled(problem: Problem, history: History) -> list[Trial]:
    """The ended Trials, each configuration once: as the first Trial that had it, with the result at its highest budget.

    A schedule trains some configurations further. The Trials that do so have no memo, and their results belong to the first.
    """
    ended = [trial for trial in history if not trial.active]
    if len({trial.budget for trial in ended}) <= 1:
        return ended
    found: dict[Hashable, Trial] = {}
    for trial in ended:
        key = problem.space.key(trial.params)
        known = found.setdefault(key, trial)
        if (trial.budget or 0) > (known.budget or 0) and trial.loss < math.inf:
            found[key] = dataclasses.replace(trial, number=known.number, memo=known.memo)
    return list(found.values())


def best_first(problem: Problem, ended: Sequence[Trial], enough: int = FRONTS_UP_TO) -> tuple[list[Trial], int]:
    """Ended Trials, best first, and how many of them have a result; those at a higher budget stand before those at a lower.

    What reached a higher budget was among the best below. Within a budget the order is that of `ranked`, with several objectives in
    the first `enough` places.
    """
    budgets = sorted({trial.budget or 0 for trial in ended}, reverse=True)
    rungs = [ranked(problem, [trial for trial in ended if (trial.budget or 0) == budget], 1, enough) for budget in budgets]
    with_result = [trial for rung in rungs for trial in rung.trials[: rung.usable]]
    return with_result + [trial for rung in rungs for trial in rung.trials[rung.usable :]], len(with_result)


def first_point(problem: Problem, index: int) -> np.ndarray:
    """A point of the unit cube, shape (d,), to start from while nothing is known: those of neighbouring indices lie apart."""
    from scipy.stats import qmc  # takes longer to import than all of this package

    seed = int(stream(problem.seed, 0, "population/scramble").integers(2**63))
    sequence = qmc.Sobol(len(problem.space), scramble=True, rng=seed)
    if index:  # scipy cannot advance by nothing
        sequence.fast_forward(index)
    return np.asarray(sequence.random(1)[0])


def packed(vector: np.ndarray) -> str:
    """A vector in single precision as text, four characters for three bytes: 536 for 100 numbers."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """The vector that `packed` wrote."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(float)
