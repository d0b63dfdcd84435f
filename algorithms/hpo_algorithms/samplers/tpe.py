"""Tree-structured Parzen estimator [Bergstra2011], as a mixture of product kernels over the whole space [Falkner2018].

[Bergstra2011] J. Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011.
[Falkner2018] S. Falkner et al., BOHB: robust and efficient hyperparameter optimization at scale, ICML 2018.
[Watanabe2023] S. Watanabe, Tree-structured Parzen estimator: understanding its algorithm components, arXiv 2304.11127.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from hpo_algorithms.encoding import among, encoded
from hpo_algorithms.errors import Fault
from hpo_algorithms.linear import Allowed
from hpo_algorithms.parzen import Parzen, apart, together
from hpo_algorithms.ranking import ranked
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.settings import setting
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem

MAX_GOOD = 25  # more would only blur the density of the good; with 7 in 100 this is reached at 350 Trials
SCARCE_SHARE = 0.25  # of the results, good while less than half keep the constraints, for where that is has to be learned, too
FAIR_SHARE = 0.35  # of the results, good enough to say where a parameter alone should be; 0.25 was a little worse
MAX_BAD = 150  # a sample of the others says as much about where they lie, and keeps 10,000 Trials as cheap as 1,000


@dataclass(frozen=True, slots=True)
class TPE:
    """Proposes what is likely among the good Trials and unlikely among the others.

    1. Until there are `startupTrials` results: uniform draws. Trials that are still running count for half of them at most.
    2. The best share of the results is called good, all others bad: also what failed, and what is still running, so that Trials
       at the same time go to different places. While less than half of the results keep the constraints, it is a quarter, for
       those that break them less stand behind those that keep them, and say where that is.
    3. Each set becomes a density: a mixture of one product kernel a Trial and of the uniform one. Kernels span all parameters,
       so what depends on each other is kept together; a parameter that a Trial does not have is uniform in its kernel.
    4. A few dozen Trials are too few for a density of many parameters together, but enough for each one alone: l(x) / g(x) is
       multiplied by the product over parameters of the same ratio, in which a third of the results is good. The more are good, the
       less this counts: what depends on each other, as a kernel and its width, must not be decided one by one for ever. Parameters
       on which others are conditional are left out: how good a kernel is shows only once its own parameters are right. So are
       Trials still running: together they keep to different places, but each value of theirs may well be a good one.
    5. Of `candidates` the one with the largest product is proposed. Half of them are drawn from the density l of the good, half
       with each parameter from another Trial of that third: what two have found in different parameters comes together.

    A proposal takes about two milliseconds. For less than a few hundred Trials that are expensive, `auto` and `gp` find more.
    """

    startup_trials: int = setting(
        6, "Results before the densities are used, half of them may be active; more are spent blindly.", minimum=1, maximum=1000
    )
    candidates: int = setting(
        128, "Draws that the best is taken of; fewer explore, more make no difference.", minimum=1, maximum=1000
    )
    good_share: float = setting(
        0.07, "The share of the results that is called good, 25 of them at most.", minimum=0.01, maximum=0.5
    )
    bandwidth: float = setting(
        0.7,
        "Width of the kernels, as a share of the deviation of the Trials they stand for; more explores.",
        minimum=0.01,
        maximum=1,
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        space = problem.space
        results = ranked(problem, history, least=self.startup_trials)
        n = len(results.trials)
        if results.told + min(results.told, len(results.active)) < self.startup_trials:
            return novel(
                problem, history, numbers, lambda k, attempt: Draw(space.sample(stream(problem.seed, k, f"tpe/{attempt}")))
            )
        counted = max(results.usable, results.told // 2)
        share = max(self.good_share, SCARCE_SHARE) if 2 * results.usable < results.told else self.good_share
        n_good = max(1, min(math.ceil(share * counted), MAX_GOOD))
        n_fair = max(n_good, min(math.ceil(FAIR_SHARE * counted), MAX_GOOD))
        # The others, sorted by rank, are thinned out evenly, so that their density keeps its shape whatever the number of Trials.
        seen = [*results.trials[:n_fair], *results.trials[n_fair :: max(1, math.ceil((n - n_fair) / MAX_BAD))], *results.active]
        X, ended = encoded(space, [trial.params for trial in seen]), len(seen) - len(results.active)
        good, fair = (Parzen(space, X[:count], self.bandwidth) for count in (n_good, n_fair))
        allowed = Allowed(space)
        parents = {condition.parameter for each in space.parameters for condition in each.when}
        alone = [j for j, name in enumerate(space.names) if name not in parents]

        @cache
        def known() -> np.ndarray:
            return encoded(space, [trial.params for trial in history])

        def one(number: int, attempt: int) -> Draw:
            nonlocal X
            rng, half = stream(problem.seed, number, f"tpe/{attempt}"), self.candidates // 2
            C = np.concatenate([good.sample(rng, self.candidates - half), fair.sample(rng, half, mixed=True)])
            near, far = good.kernels(C), Parzen(space, X[n_good:], self.bandwidth).kernels(C)
            scores = together(near) - together(far)
            if parents:
                near, far = near[alone], far[alone]
            more = n_fair - n_good
            scores += (apart(near, far[..., :more]) - apart(far[..., more : ended - n_good])) / math.cbrt(n_good)
            if space.size is not None:  # at first by those that are looked at, for most of what is drawn is new
                scores[among(C, np.concatenate([X, known()]) if attempt else X)] = -np.inf
            if space.constraints:
                scores[~allowed(C)] = -np.inf
            chosen = C[np.argmax(scores)]
            X = np.vstack([X, chosen])
            return Draw(space.decode(chosen))

        return novel(problem, history, numbers, one)
