"""The Trials of one Study, with what is counted over them kept up to date as they change.

A Trial that has ended never changes again, so a decision costs what the *active* Trials cost, however many have ended. Everything
here can be made again from the Trials alone.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import hpo_algorithms as algorithms
from hpo_algorithms import State
from hpo_algorithms.space import Params, Space

from hpo_operator import conditions as c
from hpo_operator.outcomes import losses_of, violation_of
from hpo_operator.reports import number as parsed
from hpo_operator.resources import NamedValue, RankedTrial, SlotSpec, StudySpec, Trial, TrialCounts

MAX_BEST = 10
MAX_FRONT = 100

STATES = {
    c.COMPLETED: State.DONE,
    c.EARLY_STOPPED: State.STOPPED,
    **dict.fromkeys(c.FAILURES, State.FAILED),
    **dict.fromkeys(c.INFEASIBILITIES, State.INFEASIBLE),
}


class Ledger:
    """All Trials of a Study by number.

    `active` are those without a result, `uncleaned` those that have one but whose workload may still be there. `version` grows with
    each change that an algorithm could see; `changed` lists the numbers of the Trials behind each version.
    """

    def __init__(self, spec: StudySpec, space: Space, trials: Iterable[Trial] = (), created: int = 0) -> None:
        self.spec = spec
        self.space = space
        self.trials: dict[int, Trial] = {}
        self.active: dict[int, Trial] = {}
        self.uncleaned: dict[int, Trial] = {}
        self.changed: list[int] = []
        self.gpu_seconds = 0
        self.mean_seconds = 0.0
        self._created = created
        self._reasons: Counter[str] = Counter()
        self._views: dict[int, algorithms.Trial] = {}
        self._best: dict[int, list[tuple[float, int]]] = {}
        self._front: list[tuple[tuple[float, ...], int]] = []
        self._timed = 0
        for trial in sorted(trials, key=lambda each: each.spec.number):
            self.put(trial)

    @property
    def version(self) -> int:
        return len(self.changed)

    @property
    def created(self) -> int:
        """How many Trials have ever been created, deleted ones included: the number that the next one gets."""
        return self._created

    @property
    def ended(self) -> int:
        return len(self.trials) - len(self.active)

    @property
    def failed(self) -> int:
        """Trials that count against maxFailedTrials."""
        return sum(self._reasons[reason] for reason in c.FAILURES)

    def counts(self, running: int) -> TrialCounts:
        return TrialCounts(
            created=self.created,
            active=len(self.active),
            running=running,
            completed=self._reasons[c.COMPLETED],
            early_stopped=self._reasons[c.EARLY_STOPPED],
            failed=self.failed,
            infeasible=sum(self._reasons[reason] for reason in c.INFEASIBILITIES),
        )

    def put(self, trial: Trial) -> None:
        """Add a Trial, or replace it by a later state of itself."""
        number = trial.spec.number
        known = number in self.trials
        if known and number not in self.active:
            self.trials[number] = trial  # ended before: nothing that counts can have changed
            return
        self._created = max(self._created, number + 1)
        self.trials[number] = trial
        ended = is_terminal(trial)
        if not ended:
            self.active[number] = trial
            if not known:
                self._show(number, view_of(self.space, trial))
            return
        self.active.pop(number, None)
        self.uncleaned[number] = trial
        self._count(trial)
        reason = c.reason(trial.status.conditions, c.SUCCEEDED)
        if reason in c.FREED:
            self._views.pop(number, None)
            self.changed.append(number)
        else:
            self._show(number, view_of(self.space, trial, self.spec))

    def remove(self, number: int) -> None:
        """Forget a Trial that was deleted. Its number is not given again."""
        self.trials.pop(number, None)
        self.active.pop(number, None)
        self.uncleaned.pop(number, None)
        if self._views.pop(number, None):
            self.changed.append(number)

    def cleaned(self, number: int) -> None:
        """A Trial's workload is gone for good."""
        self.uncleaned.pop(number, None)

    def observe(self, number: int, curve: tuple[tuple[int, float], ...]) -> None:
        """A learning curve of an active Trial, as values of the first objective's metric."""
        view = self._views.get(number)
        if view is None or not view.active or not curve:
            return
        sign = 1.0 if self.spec.objectives[0].goal == "Minimize" else -1.0
        losses = tuple((step, sign * value) for step, value in curve)
        if losses != view.curve:
            self._show(number, _replaced(view, losses))

    def view(self, number: int) -> algorithms.Trial | None:
        """A Trial as algorithms see it; None where they do not."""
        return self._views.get(number)

    def history(self) -> list[algorithms.Trial]:
        """All Trials that algorithms see, by number."""
        return [self._views[number] for number in sorted(self._views)]

    def best(self) -> tuple[RankedTrial, ...]:
        """The best Trials at the highest budget that any has completed, best first."""
        if not self._best:
            return ()
        return tuple(self._ranked(number) for _, number in self._best[max(self._best)])

    def best_loss(self) -> float:
        """The loss of the best Trial; infinite while there is none."""
        return self._best[max(self._best)][0][0] if self._best else math.inf

    def front(self) -> tuple[RankedTrial, ...]:
        """The Trials that no other beats in every objective."""
        return tuple(self._ranked(number) for _, number in self._front)

    def _show(self, number: int, view: algorithms.Trial) -> None:
        self._views[number] = view
        self.changed.append(number)

    def _count(self, trial: Trial) -> None:
        status = trial.status
        reason = c.reason(status.conditions, c.SUCCEEDED)
        self._reasons[reason] += 1
        self.gpu_seconds += status.gpu_seconds
        if status.start_time and status.completion_time:
            self._timed += 1
            seconds = (status.completion_time - status.start_time).total_seconds()
            self.mean_seconds += (seconds - self.mean_seconds) / self._timed
        if reason != c.COMPLETED:
            return
        metrics = metrics_of(trial)
        losses = losses_of(self.spec, metrics)
        if not all(map(math.isfinite, losses)) or violation_of(self.spec.constraints, metrics) > 0:
            return
        if len(losses) > 1:
            self._join_front(losses, trial.spec.number)
        ranking = self._best.setdefault(trial.spec.budget or 0, [])
        bisect.insort(ranking, (losses[0], trial.spec.number))
        del ranking[MAX_BEST:]

    def _join_front(self, losses: tuple[float, ...], number: int) -> None:
        if any(all(a <= b for a, b in zip(other, losses, strict=True)) for other, _ in self._front):
            return
        kept = [(o, n) for o, n in self._front if not all(a <= b for a, b in zip(losses, o, strict=True))]
        self._front = sorted([*kept, (losses, number)])[:MAX_FRONT]

    def _ranked(self, number: int) -> RankedTrial:
        trial = self.trials[number]
        observed = trial.status.observation
        return RankedTrial(
            trial_name=trial.metadata.name,
            number=number,
            budget=trial.spec.budget,
            parameters=trial.spec.parameters,
            metrics=observed.metrics[:16] if observed else (),
        )

    def __iter__(self) -> Iterator[Trial]:
        return (self.trials[number] for number in sorted(self.trials))


def is_terminal(trial: Trial) -> bool:
    """Whether a Trial has its result, which then never changes."""
    succeeded = c.condition(trial.status.conditions, c.SUCCEEDED)
    return succeeded is not None and succeeded.status != "Unknown"


def metrics_of(trial: Trial) -> dict[str, float]:
    """What a Trial was observed to have reported."""
    observed = trial.status.observation
    pairs = observed.metrics if observed else ()
    return {pair.name: value for pair in pairs if (value := parsed(pair.value)) is not None}


def params_of(space: Space, pairs: Iterable[NamedValue]) -> Params:
    """A Trial's parameters, typed by the Study's space."""
    return space.parse({pair.name: pair.value for pair in pairs})


def view_of(space: Space, trial: Trial, spec: StudySpec | None = None) -> algorithms.Trial:
    """A Trial as algorithms see it; with the spec also its result."""
    slot = trial.spec.slot or SlotSpec()
    view = algorithms.Trial(
        number=trial.spec.number,
        params=params_of(space, trial.spec.parameters),
        budget=trial.spec.budget,
        slot=algorithms.Slot(slot.bracket, slot.rung, slot.generation, slot.member),
        donor=trial.spec.restore_from.number if trial.spec.restore_from else None,
        memo=trial.spec.memo or "",
    )
    if spec is None:
        return view
    status, metrics = trial.status, metrics_of(trial)
    observed = status.observation
    sign = 1.0 if spec.objectives[0].goal == "Minimize" else -1.0
    curve = tuple((p.step, sign * v) for p in (observed.curve if observed else ()) if (v := parsed(p.value)) is not None)
    state = STATES[c.reason(status.conditions, c.SUCCEEDED)]
    has_result = state is State.DONE or (state is not State.FAILED and bool(metrics))
    return algorithms.Trial(
        number=view.number,
        params=view.params,
        budget=view.budget,
        slot=view.slot,
        donor=view.donor,
        memo=view.memo,
        state=state,
        curve=curve,
        losses=losses_of(spec, metrics) if has_result else (),
        step=status.stop.step if status.stop else (observed.step if observed else None),
        violation=violation_of(spec.constraints, metrics) if has_result else 0.0,
        restorable=status.checkpoint is not None and status.checkpoint.state == "Kept",
    )


def _replaced(view: algorithms.Trial, curve: tuple[tuple[int, float], ...]) -> algorithms.Trial:
    return algorithms.Trial(
        view.number, view.params, view.budget, view.slot, view.donor, view.memo, view.state, curve, step=curve[-1][0]
    )


def pairs_of(values: Mapping[str, str]) -> tuple[NamedValue, ...]:
    """A mapping as the API writes it: a list of named values."""
    return tuple(NamedValue(name=name, value=value) for name, value in values.items())
