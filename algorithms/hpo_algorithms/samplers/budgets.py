"""What `auto` does where Trials have run at several budgets: Gaussian processes, kernel densities and chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpo_algorithms.encoding import among
from hpo_algorithms.samplers.gp import INCUMBENTS, RANKED_AT_ONCE
from hpo_algorithms.samplers.kde import KDE
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem, Trial

# Insight from which the Gaussian processes decide alone, and below which they are not asked. Training curves of networks that
# neither diverge nor stand on plateaus have .75 to .95 from the fortieth result on, those of the others .2 to .5.
TRUSTED, DOUBTED = 0.75, 0.5
UNIFORM = 0.1  # share of uniform draws, which cost one short training each and show what a model would not


def draw(problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
    """A configuration for each number; at least two results must be usable, and there is one objective."""
    from hpo_algorithms.gp.rungs import RungSurrogate
    from hpo_algorithms.gp.surrogate import Results

    results = Results.of(problem, history)
    surrogate = RungSurrogate.of(problem.space, results)
    share = kde_share(surrogate.insight)
    draws: list[Draw] = []
    known = list(history)
    for number in numbers:
        u = stream(problem.seed, number, "auto/budgets").random()
        if u < UNIFORM:
            found = novel(problem, known, [number], lambda k, attempt: _uniform(problem, k, attempt))
        elif u < UNIFORM + (1 - UNIFORM) * share:
            found = KDE().draw(problem, known, [number])
        else:
            ranked = _ranked(problem, surrogate, results.X, known, number)
            found = novel(problem, known, [number], lambda k, attempt, ranked=ranked: _of(problem, ranked, k, attempt))  # type: ignore[misc]
        draws += found
        known += [Trial(number, each.params, problem.min_budget) for each in found]
    return draws


def kde_share(insight: float) -> float:
    """The share of proposals that the kernel densities make instead of the Gaussian processes."""
    return min(max((TRUSTED - insight) / (TRUSTED - DOUBTED), 0.0), 1.0)


def _ranked(problem: Problem, surrogate: object, X: np.ndarray, known: History, number: int) -> np.ndarray:
    """The best few points for one proposal, best first: where the largest improvement at the full budget is expected."""
    from hpo_algorithms.encoding import encoded
    from hpo_algorithms.gp.acquisition import log_ei
    from hpo_algorithms.gp.region import region
    from hpo_algorithms.gp.rungs import RungSurrogate
    from hpo_algorithms.gp.search import Effort, maximum

    assert isinstance(surrogate, RungSurrogate)
    active = encoded(problem.space, [trial.params for trial in known if trial.active])
    fresh = active[~among(active, X)] if len(active) else active  # what is trained on has results already
    ensemble = surrogate.ensemble.pending(surrogate.features(fresh))
    tried = np.vstack([X, fresh])

    def score(C: np.ndarray) -> np.ndarray:
        F = surrogate.features(C)
        values = ensemble.score(F, lambda i, mean, deviation, best: log_ei(mean, deviation, best))
        if surrogate.feasibility is not None:
            values += surrogate.feasibility.log_probability(F)
        if problem.space.size is not None:
            values[among(C, tried)] = -np.inf
        return values

    effort = Effort(uniform=150, near=150, starts=2, tries=12, rounds=4)
    rng = stream(problem.seed, number, "auto/search")
    best = surrogate.best(INCUMBENTS)
    box = region(surrogate.losses, best[0], surrogate.ensemble.scales[: len(problem.space)])
    return maximum(problem.space, score, best, rng, effort, box)[:RANKED_AT_ONCE]


def _of(problem: Problem, ranked: np.ndarray, number: int, attempt: int) -> Draw:
    return Draw(problem.space.decode(ranked[attempt])) if attempt < len(ranked) else _uniform(problem, number, attempt)


def _uniform(problem: Problem, number: int, attempt: int) -> Draw:
    return Draw(problem.space.sample(stream(problem.seed, number, f"auto/{attempt}")))
