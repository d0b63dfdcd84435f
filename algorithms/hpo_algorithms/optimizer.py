"""Ask and tell: the front of this package for programs that run their Trials themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from hpo_algorithms._reading import plain
from hpo_algorithms.errors import Fault, InvalidReport, InvalidSettings
from hpo_algorithms.prior import warm
from hpo_algorithms.registry import build
from hpo_algorithms.seams import Algorithm
from hpo_algorithms.space import Space
from hpo_algorithms.trials import Problem, State, Stop, Trial

ENDINGS = {
    "done": State.DONE,
    "stopped": State.STOPPED,
    "failed": State.FAILED,
    "infeasible": State.INFEASIBLE,
}


class Optimizer:
    """Proposes Trials, and learns from what is told about them. Losses are to be minimised.

    Args:
        space: what may be tried.
        algorithm: as in `Study.spec.algorithm`, `{"tpe": {"startupTrials": 10}}`; `auto` when left out.
        schedule: as in `Study.spec.schedule`, `{"hyperband": {"eta": 3}}`; every Trial runs to the full budget when left out.
        budget: (min, max), whole numbers in a unit of your own; needed by schedules that divide it.
        seed: the same seed and the same results give the same proposals, in any process.
        objectives: how many losses each result has.
        given: configurations to try first.
        earlier: histories of other optimizers on the same parameters: their best are tried next, and models learn from all.

    Raises InvalidSettings with every fault found, InvalidParameters where a given configuration is none of the space.

    >>> space = Space.from_spec([{"name": "x", "float": {"min": -5, "max": 5}}])
    >>> optimizer = Optimizer(space, algorithm={"random": {}}, seed=0)
    >>> for _ in range(20):
    ...     trial = optimizer.ask()
    ...     optimizer.tell(trial.number, (trial.params["x"] - 2) ** 2)
    >>> abs(optimizer.best.params["x"] - 2) < 1
    True
    """

    def __init__(
        self,
        space: Space,
        algorithm: Mapping[str, Any] | None = None,
        schedule: Mapping[str, Any] | None = None,
        budget: Sequence[int] | None = None,
        seed: int = 0,
        *,
        objectives: int = 1,
        given: Iterable[Mapping[str, object]] = (),
        earlier: Iterable[Iterable[Trial]] = (),
    ) -> None:
        low, high = _budget(budget)
        if not _whole(objectives) or objectives < 1:
            raise InvalidSettings([Fault("objectives", objectives, "must be a whole number of at least 1")])
        configurations = tuple(space.validate(params, f"given[{i}]") for i, params in enumerate(given))
        self.problem = warm(Problem(space, int(objectives), low, high, seed, configurations), earlier)
        self.finished = ""
        self._method: Algorithm = build(self.problem, algorithm, schedule)
        self._history: list[Trial] = []

    @overload
    def ask(self) -> Trial | None: ...
    @overload
    def ask(self, count: int) -> list[Trial]: ...

    def ask(self, count: int | None = None) -> Trial | list[Trial] | None:
        """The next Trial, or up to `count` of them, decided jointly.

        None, or an empty list, means one of two things: wait until more is told about the active Trials, or, when `finished` says
        why, that there will be no more.
        """
        if count is not None and count < 1:
            raise ValueError(f"count: {count}: must be at least 1")
        asked: list[Trial] = []
        if not self.finished:
            answer = self._method.propose(self.problem, self._history, len(self._history), count or 1)
            self.finished = answer.finished
            for number, p in enumerate(answer.proposals[: count or 1], start=len(self._history)):
                asked.append(Trial(number, p.params, p.budget, p.slot, p.donor, p.memo))
        self._history += asked
        return asked if count is not None else next(iter(asked), None)

    def tell(
        self,
        number: int,
        losses: float | Sequence[float] | None = None,
        *,
        step: int | None = None,
        state: str | None = None,
        violation: float = 0.0,
    ) -> None:
        """Report on a Trial.

        Args:
            number: the Trial's number.
            losses: its loss, or one for each objective; NaN counts as infeasible. May be left out with a `state`.
            step: how far it has trained. Below the Trial's budget this is a point of its learning curve, and the Trial stays
                active; at the budget, or where there is no budget, it ends the Trial.
            state: ends the Trial in another way: "failed", "infeasible" or "stopped"; "done" ends it at any step.
            violation: by how much outcome constraints are broken in sum; 0 when they hold, or, which tells models more, less
                than 0 by how far the nearest is from being broken.

        Raises InvalidReport when the Trial is unknown or has ended, or the losses are not as many as the objectives.
        """
        number = plain(number)
        trial = self._active(number)
        values = _losses(losses, self.problem.objectives, number)
        if state is not None and state not in list(ENDINGS):
            raise InvalidReport(f"state: {state!r}: must be one of {', '.join(ENDINGS)}")
        if step is not None and (not _whole(step) or step < 0):
            raise InvalidReport(f"step: {step!r}: must be a whole number of at least 0")
        try:
            violation = float(violation)
        except (TypeError, ValueError, OverflowError):
            raise InvalidReport(f"violation: {violation!r}: must be a number") from None
        if values is None and state in (None, "done"):
            raise InvalidReport(f"losses: Trial {number} needs a loss. For one without a result say state='failed'.")
        curve, reached = trial.curve, trial.budget if state in (None, "done") else trial.step
        if step is not None:
            step, reached = int(step), max(int(step), trial.step or 0)
        if values is not None and step is not None:
            # A point told again replaces the first one: a program that was restarted goes through some steps twice.
            curve = tuple(sorted({**dict(curve), step: values[0]}.items()))
        if state is None and step is not None and trial.budget is not None and step < trial.budget:
            self._history[number] = dataclasses.replace(trial, curve=curve, step=reached)
            return
        ending = ENDINGS[state or "done"]
        if values is None and ending is State.STOPPED and curve:
            values = (curve[-1][1],) + (math.nan,) * (self.problem.objectives - 1)
        if ending is State.DONE and values is not None and any(math.isnan(value) for value in values):
            ending = State.INFEASIBLE
        self._history[number] = dataclasses.replace(
            trial,
            state=ending,
            curve=curve,
            losses=values or (),
            step=reached,
            violation=violation,
            restorable=ending is State.DONE,
        )

    def stops(self) -> Sequence[Stop]:
        """The active Trials that the schedule would end early now; end them, and tell `state="stopped"`."""
        return self._method.stops(self.problem, self._history)

    @property
    def history(self) -> tuple[Trial, ...]:
        """All Trials by number, active ones included."""
        return tuple(self._history)

    @property
    def best(self) -> Trial | None:
        """The Trial with the lowest first loss among those done at the highest budget reached; None before the first."""
        done = [t for t in self._history if t.state is State.DONE and math.isfinite(t.loss) and t.violation <= 0]
        highest = max((trial.budget or 0 for trial in done), default=0)
        ranked = [trial for trial in done if (trial.budget or 0) == highest]
        return min(ranked, key=lambda trial: (trial.loss, trial.number), default=None)

    def _active(self, number: int) -> Trial:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self._history):
            raise InvalidReport(f"number: {number!r}: no such Trial; {len(self._history)} have been asked for")
        trial = self._history[number]
        if not trial.active:
            raise InvalidReport(f"number: {number}: this Trial has ended already ({trial.state.value})")
        return trial


def _whole(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer):
        return False
    return not isinstance(value, float) or value.is_integer()


def _budget(budget: Sequence[int] | None) -> tuple[int | None, int | None]:
    if budget is None:
        return None, None
    pair = tuple(budget) if isinstance(budget, Iterable) else ()
    if len(pair) != 2 or not all(_whole(each) for each in pair) or not 1 <= pair[0] <= pair[1]:
        raise InvalidSettings([Fault("budget", budget, "must be two whole numbers, 1 <= min <= max", "For example (1, 27).")])
    return int(pair[0]), int(pair[1])


def _losses(losses: float | Sequence[float] | None, objectives: int, number: int) -> tuple[float, ...] | None:
    if losses is None:
        return None
    try:
        several: Sequence[Any] = losses if np.ndim(losses) else [losses]  # type: ignore[assignment]
        values = tuple(float(loss) for loss in several)
    except (TypeError, ValueError, OverflowError):
        raise InvalidReport(f"losses: {losses!r}: must be a number, or one for each objective") from None
    if len(values) != objectives:
        raise InvalidReport(f"losses: Trial {number} was told {len(values)}, but there are {objectives} objectives")
    return values
