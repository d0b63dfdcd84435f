"""Bayesian optimisation with BoTorch's acquisitions, for noise, batches and several objectives. Needs the extra `torch`.

[Balandat2020] M. Balandat et al., BoTorch: a framework for efficient Monte-Carlo Bayesian optimization, NeurIPS 2020.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from hpo_algorithms.encoding import Snapping, among
from hpo_algorithms.errors import Fault
from hpo_algorithms.ranking import nondomination
from hpo_algorithms.samplers.gp import INCUMBENTS, Search, earlier_models, earlier_results, searched
from hpo_algorithms.settings import setting
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem

if TYPE_CHECKING:
    from hpo_algorithms.gp.search import Score
    from hpo_algorithms.gp.surrogate import Results, Surrogate

NEEDED = ("torch", "gpytorch", "botorch")
ACQUISITIONS = ("logEI", "knowledgeGradient", "jointEntropySearch")
EFFORT = {
    "uniform": 200,
    "near": 100,
    "starts": 3,
    "tries": 16,
    "rounds": 6,
}  # less than of `gp`: a point costs a hundred times as much
CHOICES = 256  # configurations among which an optimum is looked for, where an acquisition asks for it at each point


@dataclass(frozen=True, slots=True)
class BoTorch:
    """Proposes what BoTorch's acquisitions value most on the Gaussian processes of `gp` [Balandat2020].

    1. The first `startupTrials` are spread evenly over the space.
    2. The three models of `gp` are fitted to all Trials, with its treatment of conditions, categoricals, budgets and Trials that
       failed. Trials that break an outcome constraint count as the worst known; until `startupTrials` keep them, what the models
       learn is the order of all, in which who breaks them less stands before who breaks them more.
    3. Each point is valued, and the mean over the models taken. `logEI`: by how much it will be better than the best of what is
       known and of what is active, all of which are uncertain. `knowledgeGradient`: by how much the best expectation will
       improve, wherever it is. `jointEntropySearch`: what it tells about the optimum.
    4. The search for the largest value is that of `gp`.

    With several objectives a model each is fitted, and the value of a point is the expected growth of the volume that the Trials
    dominate. A proposal takes 0.2 to 1 s, the first one a few seconds besides. `gp` has closed forms, and takes 20 ms.
    """

    startup_trials: int = setting(
        8, "Trials before the model is used: fewer mislead it, more are spent blindly.", minimum=2, maximum=1000
    )
    acquisition: str = setting(
        "logEI",
        "What a proposal maximises; with several objectives logEI is the expected hypervolume improvement.",
        choices=ACQUISITIONS,
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            rule = f"needs {' and '.join(missing)}, which cannot be imported here"
            remedy = "Install the extra: pip install 'hpo-operator[torch]'; on a cluster, the operator's image with torch."
            return [Fault("algorithm.botorch", None, rule, remedy)]
        if problem.objectives > 1 and self.acquisition != "logEI":
            remedy = "Leave it out, for the expected hypervolume improvement."
            return [Fault("algorithm.botorch.acquisition", self.acquisition, "works with one objective only", remedy)]
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        def searcher(results: Results) -> Search:
            from hpo_algorithms.gp.surrogate import Surrogate

            known, each = earlier_results(problem), np.eye(problem.objectives)
            if results.usable < self.startup_trials:
                results, known = results.ranked(), []
            one_each = [
                Surrogate(problem.space, results, losses, earlier_models(problem, known, each[j]))
                for j, losses in enumerate(results.Y.T)
            ]
            return lambda number, active: self._search(problem, one_each, active, number)

        return searched(problem, history, numbers, self.startup_trials, searcher)

    def _search(self, problem: Problem, surrogates: Sequence[Surrogate], active: np.ndarray, number: int) -> np.ndarray:
        from hpo_algorithms.gp.region import region
        from hpo_algorithms.gp.search import Effort, maximum

        b = _loaded()
        rng = stream(problem.seed, number, "botorch/search")
        first = surrogates[0]
        results = first.results
        best, losses = first.best(INCUMBENTS), results.weighted(np.full(problem.objectives, 1 / problem.objectives))
        if len(surrogates) > 1:
            usable = np.flatnonzero(np.isfinite(losses))
            best = results.X[usable[np.argsort(nondomination(results.Y[usable]), kind="stable")[:INCUMBENTS]]]
        known = np.vstack([results.X, active])
        scales = np.exp(np.mean([model.theta for model in first.ensemble.models], axis=0))[: len(problem.space)]
        box = region(losses, best[0], scales)
        with b.undisturbed(int(rng.integers(2**31))):
            value = self._value(problem, surrogates, active, best, rng)

            def score(C: np.ndarray) -> np.ndarray:
                values = value(first.features(C))
                values[among(C, known) | ~np.isfinite(values)] = -np.inf
                return values

            return maximum(problem.space, score, best, rng, Effort(**EFFORT), box)

    def _value(
        self, problem: Problem, surrogates: Sequence[Surrogate], active: np.ndarray, best: np.ndarray, rng: np.random.Generator
    ) -> Score:
        b, first, seed = _loaded(), surrogates[0], int(rng.integers(2**31))
        value: Score
        F = first.features(active)
        if len(surrogates) > 1:
            points = first.features(first.results.X[np.isfinite(first.losses)])
            value = b.expected_hypervolume([each.ensemble.models[0] for each in surrogates], F, points)
            return value
        models = first.ensemble.models
        if self.acquisition == "logEI":
            logs = [b.noisy_log_ei(model, F, seed) for model in models]
            return lambda C: np.asarray(np.logaddexp.reduce([log(C) for log in logs]))
        somewhere = Snapping(problem.space)(rng.random((CHOICES - len(best), len(problem.space))))
        choices = first.features(np.vstack([best, somewhere]))
        worth = b.knowledge_gradient if self.acquisition == "knowledgeGradient" else b.joint_entropy
        values = [worth(model, F, choices) for model in models]
        return lambda C: np.asarray(np.mean([value(C) for value in values], axis=0))


def _loaded() -> ModuleType:
    """The module that imports BoTorch, which takes seconds, and warns of what other packages do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hpo_algorithms.gp import botorch
    return botorch
