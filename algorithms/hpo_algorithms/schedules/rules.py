"""Rules that end a Trial early beside the median rule, each on the learning curves alone.

All give each Trial the largest budget, need curves and no budget, and judge a Trial at its latest step, never at its last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms.errors import Fault
from hpo_algorithms.schedules.median import behind, best_of, judged, latest_steps, running
from hpo_algorithms.schedules.requirements import one_objective
from hpo_algorithms.settings import setting
from hpo_algorithms.trials import History, Place, Problem, State, Stop

MIN_STEPS = "No Trial is stopped before this step of its own; raise it where early steps say little."


@dataclass(frozen=True, slots=True)
class _Rule:
    """A schedule that only stops."""

    def errors(self, problem: Problem) -> Sequence[Fault]:
        name = type(self).__name__
        return one_objective(problem, name[0].lower() + name[1:])

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        return [Place(problem.max_budget)] * count

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return frozenset()

    def finished(self, problem: Problem, history: History) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Percentile(_Rule):
    """Stops a Trial that is not among the best `percentile` per cent of those before it.

    As the median rule, which is 50: its best loss so far against that percentile of the running means of the ended Trials. 25
    stops sooner, and stops more that would have come up late.
    """

    percentile: float = setting(25.0, "The share that is let go on, in per cent.", minimum=0.0, maximum=100.0)
    startup_trials: int = setting(5, "Ended Trials with a curve before the first is stopped.", minimum=1, maximum=10_000)
    min_steps: int = setting(1, MIN_STEPS, minimum=0, maximum=2**53)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return behind(history, self.percentile / 100, self.startup_trials, self.min_steps, "percentile")


@dataclass(frozen=True, slots=True)
class Extrapolation(_Rule):
    """Stops a Trial that would have to gain more on the rest of its way than nearly all before it did, to become the best.

    At its latest step an active Trial is stopped when its best loss so far, less the `quantile` of what the Trials that have ended
    gained from there to their ends, is still above the best result. It is the learning curve's continuation, taken from those of
    others: late bloomers among them keep the next one alive.
    """

    quantile: float = setting(
        0.9, "How much gain a Trial is believed capable of: that of all but a tenth. Less stops sooner.", minimum=0.0, maximum=1.0
    )
    startup_trials: int = setting(5, "Trials that came to their end before the first is stopped.", minimum=1, maximum=10_000)
    min_steps: int = setting(1, MIN_STEPS, minimum=0, maximum=2**53)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        ended = [trial for trial in history if trial.state is State.DONE and trial.curve and math.isfinite(trial.loss)]
        best = min((trial.loss for trial in ended if trial.violation <= 0), default=math.inf)
        if len(ended) < self.startup_trials:
            return ()
        active = list(judged(history, self.min_steps))
        gains: dict[int, list[float]] = {step: [] for step in latest_steps(active)}
        for other in ended:
            for step, _, _, lowest in running(other, gains):
                gains[step].append(lowest - other.loss)
        for each in gains.values():
            each.sort()
        found = []
        for trial in active:
            step = trial.curve[-1][0]
            known = gains[step]
            if best_of(trial) - known[math.ceil(self.quantile * (len(known) - 1))] > best:
                found.append(Stop(trial.number, "extrapolation", step))
        return found


@dataclass(frozen=True, slots=True)
class Threshold(_Rule):
    """Stops a Trial whose latest loss is above a bound, or not a number: one that has diverged costs no more.

    The bound is a loss: of a metric that is maximised, its value with the sign turned.
    """

    above: float | None = setting(
        None, "Latest losses above it are stopped; without it only those that are not a number.", minimum=-1e15, maximum=1e15
    )
    min_steps: int = setting(1, MIN_STEPS, minimum=0, maximum=2**53)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        bound = math.inf if self.above is None else self.above
        latest = ((trial.number, *trial.curve[-1]) for trial in judged(history, self.min_steps))
        return [Stop(number, "threshold", step) for number, step, loss in latest if math.isnan(loss) or loss > bound]


@dataclass(frozen=True, slots=True)
class NoImprovement(_Rule):
    """Stops a Trial whose best loss has not become better for `patience` steps, as early stopping does inside a training.

    What it has found by then is its result so far; it is never the Study's best, as no stopped Trial is. Where a training should
    end well at its plateau, let the program stop itself.
    """

    patience: int = setting(10, "Steps without a better loss after which a Trial is stopped.", minimum=1, maximum=2**53)
    min_delta: float = setting(0.0, "By how much a loss must be lower to be better.", minimum=0.0, maximum=1e15)
    min_steps: int = setting(1, MIN_STEPS, minimum=0, maximum=2**53)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        found = []
        for trial in judged(history, self.min_steps):
            step = trial.curve[-1][0]
            before = [point for point in trial.curve if point[0] <= step - self.patience]
            if not before:
                continue
            earlier = min(math.inf if math.isnan(loss) else loss for _, loss in before)
            if not best_of(trial) < earlier - self.min_delta:
                found.append(Stop(trial.number, "noImprovement", step))
        return found
