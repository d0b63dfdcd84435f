"""Bayesian optimisation by Gaussian processes [Jones1998], in numpy and scipy.

[Jones1998] D. Jones et al., Efficient global optimization of expensive black-box functions, J. Glob. Optim. 13, 1998.
[Knowles2006] J. Knowles, ParEGO: a hybrid algorithm with on-line landscape approximation, IEEE Trans. Evol. Comp. 10, 2006.
[Thompson1933] W. Thompson, On the likelihood that one unknown probability exceeds another, Biometrika 25, 1933.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.special  # noqa: F401  which loads scipy's BLAS: `one_thread` limits what is loaded before a draw

from hpo_algorithms.encoding import Snapping, among
from hpo_algorithms.errors import Fault
from hpo_algorithms.samplers.novelty import novel
from hpo_algorithms.settings import setting
from hpo_algorithms.space import Params
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import Draw, History, Problem

if TYPE_CHECKING:  # scipy.optimize takes a fifth of a second to import, which only those who use it should wait for
    from hpo_algorithms.gp.ensemble import Ensemble
    from hpo_algorithms.gp.feasibility import Feasibility
    from hpo_algorithms.gp.model import GP
    from hpo_algorithms.gp.search import Score
    from hpo_algorithms.gp.surrogate import Results, Surrogate

Search = Callable[[int, np.ndarray], np.ndarray]
ACQUISITIONS = ("logEI", "EI", "PI", "UCB", "thompson", "maxValueEntropy", "twoStep")
# After a stagnation one of these is drawn for each proposal: whether the models are doubted, and the improvement that is asked for,
# in standard deviations of the targets. None is to go where the surest model has its minimum.
NO_DOUBT = (False, 0.0)
DOUBTS = (None, (False, 0.1), (False, 0.3), (True, 0.0))
# Results, and as many as are active, within which the best must improve by this share of its distance from the median: the last
# ones were proposed before those before them had ended.
PATIENCE, PROGRESS = 10, 0.01
FINE = 12  # rounds of local search for the last digits: its last steps are a hundred-thousandth of a range
INCUMBENTS = 10  # best Trials around which the search looks closer
SECOND = 256  # configurations among which a second step of `twoStep` is chosen
EFFORTS = {  # of the search, where it is another than for the expected improvement
    "thompson": {"rounds": 0, "uniform": 600, "near": 400},  # a draw is of all points at once
    "twoStep": {"uniform": 200, "near": 100, "starts": 3, "tries": 16, "rounds": 6},  # each point costs several hundred others
}
RANKED_AT_ONCE = 8  # proposals kept from one search, for finite spaces whose first choice is taken


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """Proposes where three Gaussian processes together expect the largest improvement.

    1. The first `startupTrials` are spread evenly over the space by a low-discrepancy sequence.
    2. Three models are fitted to all Trials (`hpo_algorithms.gp`): Matern-5/2, one length scale a parameter, the most likely
       hyperparameters. Failed and infeasible Trials count as the worst known; active ones as if they had brought what is expected.
       Trials that break an outcome constraint teach the models like others, and a fourth one where constraints are kept.
    3. The acquisition is the mean over the models; it is maximised over candidates all over the space and around the best
       Trials, then by local search.
    4. When the last ten Trials have brought next to nothing, three proposals of four ask for a larger improvement or doubt the
       models, with shorter length scales: a small gain that is sure must not outbid a large one that is not for ever. The fourth
       goes where the model that knows the good Trials best has its minimum, for the last digits.
    5. Where the models call the losses noise, and what they foresee of each Trial from the others is in no better order than chance
       would have it, the proposal is a uniform draw: they know least of the corners, and would stay there.
    6. With several objectives each proposal weighs them at random [Knowles2006]. With more than 20 parameters the search keeps to
       a trust region.

    A proposal takes about 30 ms at 100 Trials. Use `tpe` for thousands of cheap Trials.
    """

    startup_trials: int = setting(
        8, "Trials before the model is used: fewer mislead it, more are spent blindly.", minimum=2, maximum=1000
    )
    acquisition: str = setting(
        "logEI", "What a proposal maximises; the expected improvement won on most of the tasks measured.", choices=ACQUISITIONS
    )
    beta: float = setting(2.0, "How many standard deviations UCB hopes for.", minimum=0.0, maximum=100.0)

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        def searcher(results: Results) -> Search:
            from hpo_algorithms.gp.surrogate import Surrogate

            known = earlier_results(problem)

            def search(number: int, active: np.ndarray) -> np.ndarray:
                weights = stream(problem.seed, number, "gp/weights").dirichlet(np.ones(problem.objectives))
                earlier = earlier_models(problem, known, weights)
                surrogate = Surrogate(problem.space, results, results.weighted(weights, broken=True), earlier)
                return self._search(problem, surrogate, active, number)

            return search

        return searched(problem, history, numbers, self.startup_trials, searcher)

    def _search(self, problem: Problem, surrogate: Surrogate, active: np.ndarray, number: int) -> np.ndarray:
        """The best few points for one proposal, best first, none of them known already."""
        from hpo_algorithms.gp.region import region
        from hpo_algorithms.gp.search import Effort, maximum

        rng = stream(problem.seed, number, "gp/search")
        feasibility = surrogate.feasibility()
        if feasibility is None and surrogate.ensemble.blind:
            return problem.space.encode_all([problem.space.sample(rng)])
        ensemble = surrogate.ensemble.pending(surrogate.features(active))
        best = surrogate.best(INCUMBENTS)
        known = np.vstack([surrogate.results.X, active])
        effort = Effort(**EFFORTS.get(self.acquisition, {})).shared(len(known))
        doubt: tuple[bool, float] | None = NO_DOUBT
        if stagnating(surrogate.losses, PATIENCE + len(active)):
            doubt = DOUBTS[int(rng.integers(len(DOUBTS)))]
        if doubt is None and len(active):
            doubt = NO_DOUBT  # the expected improvement keeps away from what is under way; the minimum is where it is
        if doubt is None:
            value, effort = _lowest(ensemble.surest), replace(effort, rounds=FINE)
        else:
            doubted, improvement = doubt
            ensemble = (ensemble.doubting() if doubted else ensemble).demanding(improvement)
            value = self._acquisition(ensemble, surrogate, rng)
        if feasibility is not None:
            value = _feasible(value, feasibility, surrogate.losses)

        def score(C: np.ndarray) -> np.ndarray:
            values = value(surrogate.features(C))
            values[among(C, known)] = -np.inf
            return values

        box = region(surrogate.losses, best[0], ensemble.scales[: len(problem.space)])
        return maximum(problem.space, score, best, rng, effort, box)

    def _acquisition(self, ensemble: Ensemble, surrogate: Surrogate, rng: np.random.Generator) -> Score:
        from hpo_algorithms.gp import acquisition as a

        models = ensemble.models
        if self.acquisition == "thompson":
            model = models[int(rng.integers(len(models)))]
            return lambda F: -model.sample(F, rng)
        if self.acquisition == "UCB":
            return lambda F: np.mean([a.ucb(*model.predict(F), self.beta) for model in models], axis=0)
        if self.acquisition == "maxValueEntropy":
            F = surrogate.features(surrogate.results.X)
            minima = [a.drawn_minima(*model.predict(F), rng, 16) for model in models]
            return lambda F: ensemble.score(F, lambda i, mean, deviation, best: a.log_mes(mean, deviation, minima[i]))
        if self.acquisition == "twoStep":
            from hpo_algorithms.gp.lookahead import log_two_step

            space = surrogate.space
            somewhere = Snapping(space)(rng.random((SECOND - INCUMBENTS, len(space))))
            second = surrogate.features(np.vstack([surrogate.best(INCUMBENTS), somewhere]))
            pairs = list(zip(models, ensemble.bests, strict=True))
            return lambda F: np.logaddexp.reduce([log_two_step(model, F, second, best) for model, best in pairs])
        log = a.log_pi if self.acquisition == "PI" else a.log_ei
        return lambda F: ensemble.score(F, lambda i, mean, deviation, best: log(mean, deviation, best))


def earlier_results(problem: Problem) -> list[Results]:
    """What earlier Studies have found, of each what was trained furthest."""
    from hpo_algorithms.gp.surrogate import Results

    found = []
    for study in problem.prior:
        longest = max(trial.budget or 0 for trial in study)
        found.append(Results.of(problem, [trial for trial in study if (trial.budget or 0) == longest]))
    return found


def earlier_models(problem: Problem, known: Sequence[Results], weights: np.ndarray) -> list[GP]:
    """Models of earlier Studies, of several objectives weighed as those of this one are."""
    from hpo_algorithms.gp.earlier import model_of

    models = (model_of(problem.space, results.X, results.weighted(weights)) for results in known if results.usable)
    return [model for model in models if model is not None]


def searched(
    problem: Problem,
    history: History,
    numbers: Sequence[int],
    startup: int,
    searcher: Callable[[Results], Search],
) -> Sequence[Draw]:
    """The draws of a sampler with a model: spread evenly until there are `startup` results, then where its search leads.

    Results that break a constraint count, too. `searcher` is asked once, with the results. What it gives maps a number and the
    encodings of all active Trials, shape (m, d), to the best few points for that number, best first.
    """
    from hpo_algorithms.gp.surrogate import Results

    results = Results.of(problem, history)
    if results.known < startup:
        return novel(problem, history, numbers, lambda number, attempt: Draw(spread(problem, number, attempt)))
    search = searcher(results)
    active, ranked = results.active, (-1, np.empty((0, 0)))

    def one(number: int, attempt: int) -> Draw:
        nonlocal active, ranked
        if ranked[0] != number:
            ranked = number, search(number, active)[:RANKED_AT_ONCE]
            active = np.vstack([active, ranked[1][:1]])
        choices = ranked[1]
        if attempt >= len(choices):
            return Draw(problem.space.sample(stream(problem.seed, number, f"gp/{attempt}")))
        active[-1] = choices[attempt]
        return Draw(problem.space.decode(choices[attempt]))

    return novel(problem, history, numbers, one)


def _feasible(value: Score, feasibility: Feasibility, losses: np.ndarray) -> Score:
    """An acquisition times the probability that the constraints are kept; until a Trial has kept them, the way there."""
    if not np.isfinite(losses).any():
        return feasibility.log_improvement
    return lambda F: value(F) + feasibility.log_probability(F)


def _lowest(model: GP) -> Score:
    """What is highest where a model has its minimum."""
    return lambda F: -model.predict(F)[0]


def stagnating(losses: np.ndarray, patience: int = PATIENCE) -> bool:
    """Whether the last results, in the order of their numbers, have brought next to nothing.

    The expected improvement goes on refining a place to the last digit, for a small gain that is sure beats a large one that is
    not. Asking for a larger one now and then is how the search leaves a local minimum.
    """
    if len(losses) <= patience or not np.isfinite(losses[:-patience]).any():
        return False
    before, now = losses[:-patience].min(), losses.min()
    median = np.median(losses[np.isfinite(losses)])
    return bool(before - now <= PROGRESS * (median - now))


def spread(problem: Problem, number: int, attempt: int) -> Params:
    """A point of the generalised golden-ratio sequence, shifted by the seed; any run of its numbers is spread evenly.

    Its generator is the root of x^(d+1) = x + 1 (M. Roberts, The unreasonable effectiveness of quasirandom sequences, 2018).
    """
    if attempt:
        return problem.space.sample(stream(problem.seed, number, f"gp/{attempt}"))
    d = len(problem.space)
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (d + 1))
    shift = stream(problem.seed, 0, "gp/shift").random(d)
    return problem.space.decode((shift + (number + 1) * root ** -np.arange(1.0, d + 1)) % 1.0)
