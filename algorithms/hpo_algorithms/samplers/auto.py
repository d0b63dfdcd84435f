"""The algorithm of a Study that names none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers import budgets
from hpo_algorithms.samplers.gp import GaussianProcess
from hpo_algorithms.samplers.tpe import TPE
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem, State, Trial

# Insight, as a share of what noise leaves to be seen, plus its standard error: from TRUSTED on the Gaussian processes alone
# decide, which nearly all tasks reach after 20 Trials; below DOUBTED most of the Trials are TPE's, as far as it is not noise.
TRUSTED, DOUBTED = 1.0, 0.8
MOST = 0.75  # never all: each finds what the other does not
LEAST_SIGNAL = 0.1
MANY = 1000  # results from which a coin chooses between the two, for the Gaussian processes look at some hundred of them


@dataclass(frozen=True, slots=True)
class Auto:
    """Chooses by what the Study asks and by what its Trials have shown.

    1. Where Trials have run at several budgets (under `asha`, unless another schedule is named): Gaussian processes over
       configuration and budget; kernel densities, as `kde`, where those see little; and a tenth of uniform draws.
    2. Where a rule has stopped Trials of a Study with a budget: TPE.
    3. Otherwise Gaussian processes, as `gp`. After each result they are asked what each Trial's loss should be, given all others.
       Where the order of the answers is not that of the results, a share of the Trials, at most three quarters, is TPE's, which
       assumes less: training that diverges or stands on plateaus misleads Gaussian processes for long.

    What is measured, and why, is in docs/algorithms/auto.md.
    """

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        if problem.max_budget is not None and any(trial.state is State.STOPPED for trial in history):
            return TPE().draw(problem, history, numbers)
        if _several_budgets(history) and problem.objectives == 1:
            return budgets.draw(problem, history, numbers)
        share, known = tpe_share(problem, history), list(history)
        draws: list[Draw] = []
        for number in numbers:
            sampler = TPE() if stream(problem.seed, number, "auto").random() < share else GaussianProcess()
            found = sampler.draw(problem, known, [number])
            draws += found
            known += [Trial(number, each.params) for each in found]
        return draws


def _several_budgets(history: History) -> bool:
    """Whether there are enough results, and not all at one budget."""
    usable = (trial for trial in history if trial.state is State.DONE and trial.violation <= 0)
    seen = [trial.budget for trial in usable if math.isfinite(trial.loss)]
    return len(seen) >= GaussianProcess().startup_trials and len(set(seen)) > 1


def tpe_share(problem: Problem, history: History) -> float:
    """The share of proposals that is left to TPE, between 0 and 3/4."""
    from hpo_algorithms.gp.surrogate import Results, Surrogate

    results = Results.of(problem, history)
    if results.usable < GaussianProcess().startup_trials:
        return 0.0
    if results.usable > MANY:
        return 0.5
    if problem.objectives > 1:
        return 0.0
    ensemble = Surrogate(problem.space, results, results.weighted(np.ones(1), broken=True)).ensemble
    signal = 1 - ensemble.models[0].noise  # noise nobody foresees, and the Gaussian processes bear it better than TPE
    hoped = ensemble.insight / math.sqrt(max(signal, LEAST_SIGNAL)) + 1 / math.sqrt(results.known)
    return MOST * signal * min(max((TRUSTED - hoped) / (TRUSTED - DOUBTED), 0.0), 1.0)
