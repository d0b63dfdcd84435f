"""The median stopping rule [Golovin2017vizier]: ends a Trial that does worse than half of those before it.

[Golovin2017vizier] D. Golovin et al., Google Vizier: a service for black-box optimization, KDD 2017.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hpo_algorithms.errors import Fault
from hpo_algorithms.schedules.requirements import one_objective
from hpo_algorithms.settings import setting
from hpo_algorithms.trials import History, Place, Problem, State, Stop, Trial

RULE = "median"


@dataclass(frozen=True, slots=True)
class Median:
    """Gives each Trial the largest budget, and stops those whose learning curve is behind.

    At its latest step s an active Trial is stopped when its best loss so far is strictly worse than the median, over the ended
    Trials that came as far as s, of the mean of their losses up to s: min y(t <= s) > median_j mean y_j(t <= s). Trials that were
    stopped count as far as they came, for without them the median would be that of survivors and grow harsher with every stop.
    Failed and infeasible ones do not count. A loss that is not a number is worse than all others.

    It needs curves and no budget: where a program reports only at its end, no Trial is ever stopped. For runs of which one shows
    early how good it will become, `hyperband` and `asha` save far more.
    """

    startup_trials: int = setting(5, "Ended Trials with a curve before the first is stopped.", minimum=1, maximum=10_000)
    min_steps: int = setting(
        1, "No Trial is stopped before this step of its own; raise it where early steps say little.", minimum=0, maximum=2**53
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return one_objective(problem, RULE)

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        return [Place(problem.max_budget)] * count

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return behind(history, 0.5, self.startup_trials, self.min_steps, RULE)

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return frozenset()

    def finished(self, problem: Problem, history: History) -> str:
        return ""


def behind(history: History, share: float, startup_trials: int, min_steps: int, rule: str) -> list[Stop]:
    """The active Trials whose best so far is worse than this quantile of the running means of those that ended."""
    ended = [trial for trial in history if trial.state in (State.DONE, State.STOPPED) and trial.curve]
    active = list(judged(history, min_steps))
    means: dict[int, list[float]] = {step: [] for step in latest_steps(active)}
    for trial in ended:
        for step, points, total, lowest in running(trial, means):
            if points and not (trial.state is State.STOPPED and trial.curve[-1][0] < step):
                # By rounding alone the mean of equal losses may be below them, and whoever has the same would be stopped.
                means[step].append(max(_worst_if_nan(total / points), lowest))
    bounds = {step: _quantile(sorted(each), share) for step, each in means.items() if len(each) >= startup_trials}
    found = []
    for trial in active:
        step = trial.curve[-1][0]
        if step in bounds and best_of(trial) > bounds[step]:
            found.append(Stop(trial.number, rule, step))
    return found


def judged(history: History, min_steps: int) -> Iterator[Trial]:
    """The active Trials with a curve that has come far enough, and not to their end."""
    for trial in history:
        if trial.active and trial.curve:
            step = trial.curve[-1][0]
            if step >= min_steps and (trial.budget is None or step < trial.budget):
                yield trial


def latest_steps(trials: Sequence[Trial]) -> list[int]:
    """The steps at which Trials stand, each once, in ascending order."""
    return sorted({trial.curve[-1][0] for trial in trials})


def best_of(trial: Trial, step: float = math.inf) -> float:
    """The lowest loss up to a step, infinite before the first; one that is not a number is worse than all others."""
    points = bisect_right(trial.curve, step, key=lambda point: point[0])
    return min((_worst_if_nan(loss) for _, loss in trial.curve[:points]), default=math.inf)


def running(trial: Trial, steps: Iterable[int]) -> Iterator[tuple[int, int, float, float]]:
    """For each of these steps, which ascend: how many losses a Trial had told by then, their sum and the lowest, in one pass."""
    points, total, lowest = 0, 0.0, math.inf
    for step in steps:
        while points < len(trial.curve) and trial.curve[points][0] <= step:
            loss = _worst_if_nan(trial.curve[points][1])
            points, total, lowest = points + 1, total + loss, min(lowest, loss)
        yield step, points, total, lowest


def _quantile(ascending: Sequence[float], share: float) -> float:
    """Linear between neighbours, and sound where they are infinite."""
    place = share * (len(ascending) - 1)
    low, high = ascending[math.floor(place)], ascending[math.ceil(place)]
    part = place - math.floor(place)
    return low if part == 0 or low == high else low * (1 - part) + high * part


def _worst_if_nan(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss
