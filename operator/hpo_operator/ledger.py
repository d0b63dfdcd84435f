"""The Trials of one Study, with what is counted over them kept up to date as they change.

A Trial that has ended never changes again, so a decision costs what the *active* Trials cost, however many have ended. Everything
here can be made again from the Trials alone.
"""

from __future__ import annotations

import bisect
import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import hpo_algorithms as algorithms
from hpo_algorithms import InvalidInput, State
from hpo_algorithms.space import Params, Space

from hpo_operator import conditions as c
from hpo_operator.outcomes import losses_of, violation_of
from hpo_operator.rankings import Rankings
from hpo_operator.reports import number as parsed
from hpo_operator.resources import NamedValue, RankedTrial, SlotSpec, StudySpec, Trial, TrialCounts, TrialStatus

STATES = {
    c.COMPLETED: State.DONE,
    c.EARLY_STOPPED: State.STOPPED,
    **dict.fromkeys(c.FAILURES, State.FAILED),
    **dict.fromkeys(c.INFEASIBILITIES, State.INFEASIBLE),
}


class Changes:
    """Which Trials have changed since when: `changed[version:]` are their numbers, each once, the latest change last."""

    def __init__(self) -> None:
        self._version = 0
        self._last: dict[int, int] = {}

    def append(self, number: int) -> None:
        self._version += 1
        self._last.pop(number, None)
        self._last[number] = self._version

    def __len__(self) -> int:
        return self._version

    def __getitem__(self, since: slice) -> list[int]:
        found = []
        for number in reversed(self._last):
            if self._last[number] <= (since.start or 0):
                break
            found.append(number)
        return found[::-1]


class Ledger:
    """All Trials of a Study by number.

    `active` are those without a result, `uncleaned` those that have one but whose workload may still be there, `removed` the
    numbers of those that were deleted by hand and whose workload may still be there. `kept` holds (completion time, number), in
    this order, of ended Trials whose workloads are known to be at rest, and only wait for their time to live to pass. `restorable`
    are ended Trials whose checkpoints are kept, which take `checkpoint_bytes`, `collecting` those whose folders of checkpoints are
    to be removed. `finished` counts all that are known to have ended, by the reason of `Succeeded`: what is deleted stays in it.

    `version` grows with each change that an algorithm could see; `changed[version:]` are the numbers of the Trials behind it.
    """

    def __init__(self, spec: StudySpec, space: Space, trials: Iterable[Trial] = (), created: int = 0) -> None:
        self.spec = spec
        self.space = space
        self.trials: dict[int, Trial] = {}
        self.active: dict[int, Trial] = {}
        self.uncleaned: dict[int, Trial] = {}
        self.removed: set[int] = set()
        self.kept: list[tuple[datetime, int]] = []
        self.restorable: set[int] = set()
        self.collecting: set[int] = set()
        self.checkpoint_bytes = 0
        self._sizes: dict[int, int] = {}  # of the checkpoints that are kept
        self.changed = Changes()
        self.gpu_seconds = 0
        self.finished: Counter[str] = Counter()
        self._created = created
        self._reasons: Counter[str] = Counter()
        self._views: dict[int, algorithms.Trial] = {}
        self._timed = 0
        self._time = timedelta()
        self._rankings: Rankings | None = Rankings()  # None: to be made again
        self._best: tuple[RankedTrial, ...] | None = ()
        self._front: tuple[RankedTrial, ...] | None = ()
        self._bad: set[tuple[int, str | None]] = set()  # (number, digest) of checkpoints that a Trial could not start from
        for trial in sorted(trials, key=lambda each: each.spec.number):
            self.put(trial)

    # What is counted

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

    @property
    def mean_seconds(self) -> float:
        """How long an ended Trial took in the mean; 0 while none has."""
        return self._time.total_seconds() / self._timed if self._timed else 0.0

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

    def best(self) -> tuple[RankedTrial, ...]:
        """The best Trials at the highest budget that any has completed, best first."""
        if self._best is None:
            self._best = tuple(self._ranked(number) for _, number in self._ranking().best())
        return self._best

    def best_loss(self) -> float:
        """The loss of the best Trial; infinite while there is none."""
        return next((loss for loss, _ in self._ranking().best()), math.inf)

    def front(self) -> tuple[RankedTrial, ...]:
        """The Trials that no other beats in every objective."""
        if self._front is None:
            self._front = tuple(self._ranked(number) for number in self._ranking().front())
        return self._front

    # How it changes

    def put(self, trial: Trial) -> None:
        """Add a Trial, or replace it by a later state of itself."""
        number = trial.spec.number
        known = self.trials.get(number)
        if known is not None and number not in self.active:
            self._amend(known, trial)
            return
        self._created = max(self._created, number + 1)
        self.trials[number] = trial
        self.gpu_seconds += trial.status.gpu_seconds - (known.status.gpu_seconds if known else 0)
        if not is_terminal(trial):
            self.active[number] = trial
            if known is None:
                self._show(number, trial)
            return
        self.active.pop(number, None)
        self.uncleaned[number] = trial
        self.finished[c.reason(trial.status.conditions, c.SUCCEEDED)] += 1
        self._count(trial, 1)
        if self._rankings is not None:
            self._rank(self._rankings, trial)
        self._file(trial)
        self._show(number, trial)
        self._blame(trial)

    def remove(self, number: int) -> None:
        """Forget a Trial that was deleted. Its number is not given again, and its place is free once its workload has ended."""
        if number in self.active or number in self.uncleaned or number not in self.trials:
            self.removed.add(number)
        self._created = max(self._created, number + 1)
        trial = self.trials.pop(number, None)
        ended = self.active.pop(number, None) is None
        self.uncleaned.pop(number, None)
        self._drop_kept(number, trial)
        self.restorable.discard(number)
        self.collecting.discard(number)
        self.checkpoint_bytes -= self._sizes.pop(number, 0)
        if self._views.pop(number, None):
            self.changed.append(number)
        if trial is None:
            return
        self.gpu_seconds -= trial.status.gpu_seconds
        if ended:
            self._count(trial, -1)
            if self._rankings is not None and number in self._rankings:
                self._rankings = self._best = self._front = None  # others come up; made again when it is next asked for

    def settle(self, number: int) -> None:
        """An ended Trial's workload is at rest: its place is free, and it stays until its time to live is over."""
        trial = self.uncleaned.get(number)
        if trial is not None and trial.status.completion_time is not None:
            del self.uncleaned[number]
            bisect.insort(self.kept, (trial.status.completion_time, number))

    def reopen(self, number: int) -> None:
        """An ended Trial has a workload again, which is to be stopped."""
        self._drop_kept(number, self.trials[number])
        self.uncleaned[number] = self.trials[number]

    def cleaned(self, number: int) -> None:
        """A Trial's workload is gone for good."""
        self.uncleaned.pop(number, None)
        self.removed.discard(number)
        self._drop_kept(number, self.trials.get(number))

    def observe(self, number: int, curve: tuple[tuple[int, float], ...]) -> None:
        """A learning curve of an active Trial, as values of the first objective's metric."""
        view = self._views.get(number)
        if view is None or not view.active or not curve:
            return
        sign = 1.0 if self.spec.objectives[0].goal == "Minimize" else -1.0
        losses = tuple((step, math.nan if math.isnan(value) else sign * value) for step, value in curve)  # one NaN equals itself
        if losses != view.curve:
            self._views[number] = _replaced(view, losses)
            self.changed.append(number)

    # What algorithms see

    def view(self, number: int) -> algorithms.Trial | None:
        """A Trial as algorithms see it; None where they do not."""
        return self._views.get(number)

    def history(self) -> list[algorithms.Trial]:
        """All Trials that algorithms see, by number. Those that were canceled or deleted leave holes."""
        return [self._views[number] for number in sorted(self._views)]

    def _show(self, number: int, trial: Trial) -> None:
        self._views.pop(number, None)
        if c.reason(trial.status.conditions, c.SUCCEEDED) not in c.FREED:
            # One with parameters of another version, which this one does not take, is a hole like a deleted one.
            with contextlib.suppress(InvalidInput):
                bad = trial.status.checkpoint is not None and (number, trial.status.checkpoint.digest) in self._bad
                self._views[number] = view_of(self.space, trial, self.spec if is_terminal(trial) else None, bad=bad)
        self.changed.append(number)

    def _amend(self, known: Trial, later: Trial) -> None:
        """A result never changes. What may change about a Trial that has one is that its checkpoint is collected."""
        if not is_terminal(later):
            return  # an old state of it
        status = known.status.model_copy(update={"checkpoint": later.status.checkpoint})
        self.trials[known.spec.number] = later.model_copy(update={"spec": known.spec, "status": status})
        if later.status.checkpoint != known.status.checkpoint:
            self._file(self.trials[known.spec.number])
            self._show(known.spec.number, self.trials[known.spec.number])

    def _file(self, trial: Trial) -> None:
        """Take in what has become of an ended Trial's checkpoint."""
        number, kept = trial.spec.number, trial.status.checkpoint
        for state, numbers in (("Kept", self.restorable), ("Collecting", self.collecting)):
            (numbers.add if kept is not None and kept.state == state else numbers.discard)(number)
        self.checkpoint_bytes -= self._sizes.pop(number, 0)
        if kept is not None and kept.state == "Kept" and kept.size:
            self._sizes[number] = kept.size
            self.checkpoint_bytes += kept.size

    def _blame(self, trial: Trial) -> None:
        """Remember which checkpoint a Trial could not start from: nobody else is to try."""
        restore = trial.spec.restore_from
        if restore is None or c.reason(trial.status.conditions, c.SUCCEEDED) != c.DONOR_UNAVAILABLE:
            return
        self._bad.add((restore.number, restore.digest))
        if restore.number in self.trials:
            self._show(restore.number, self.trials[restore.number])

    def _count(self, trial: Trial, sign: int) -> None:
        """Take an ended Trial into what is counted, or with -1 out of it."""
        status = trial.status
        self._reasons[c.reason(status.conditions, c.SUCCEEDED)] += sign
        if status.start_time and status.completion_time:
            self._timed += sign
            self._time += sign * max(status.completion_time - status.start_time, timedelta())

    def _rank(self, rankings: Rankings, trial: Trial) -> None:
        if c.reason(trial.status.conditions, c.SUCCEEDED) != c.COMPLETED:
            return
        metrics = metrics_of(trial)
        losses = losses_of(self.spec, metrics)
        if all(map(math.isfinite, losses)) and violation_of(self.spec.constraints, metrics) <= 0:
            rankings.add(trial.spec.number, trial.spec.budget or 0, losses)
            self._best = self._front = None

    def _ranking(self) -> Rankings:
        if self._rankings is None:
            self._rankings = Rankings()
            for number, trial in self.trials.items():
                if number not in self.active:
                    self._rank(self._rankings, trial)
        return self._rankings

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

    def _drop_kept(self, number: int, trial: Trial | None) -> None:
        if trial is None or trial.status.completion_time is None:
            return
        place = bisect.bisect_left(self.kept, (trial.status.completion_time, number))
        if place < len(self.kept) and self.kept[place][1] == number:
            del self.kept[place]


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


def view_of(space: Space, trial: Trial, spec: StudySpec | None = None, *, bad: bool = False) -> algorithms.Trial:
    """A Trial as algorithms see it; with the spec also its result. Nothing can be continued from a `bad` checkpoint."""
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
    state, checkpoint = _state_of(status), status.checkpoint
    had = checkpoint is not None and checkpoint.digest is not None
    restorable = had and not bad and checkpoint.state == "Kept"  # type: ignore[union-attr]
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
        restorable=restorable,
        lost=had and not restorable,
    )


def earlier_trials(space: Space, spec: StudySpec, trials: Iterable[Trial], before: datetime | None) -> list[algorithms.Trial]:
    """What another Study had found by a time, as the algorithm of this one sees it: by this one's metrics, goals and constraints.

    What ended later is left out, so that the answer stays the same while the other Study goes on. So are configurations that are
    none of the space.
    """
    found = []
    for trial in trials:
        ended = trial.status.completion_time
        if not is_terminal(trial) or ended is None or (before is not None and ended > before):
            continue
        if c.reason(trial.status.conditions, c.SUCCEEDED) not in c.FREED:
            with contextlib.suppress(InvalidInput):
                found.append(view_of(space, trial, spec))
    return sorted(found, key=lambda each: each.number)


def nothing_to_learn(spec: StudySpec, name: str, found: Iterable[algorithms.Trial]) -> str:
    """Why the Trials of an earlier Study are of no use; empty where they are of some."""
    if any(trial.state is State.DONE and math.isfinite(trial.loss) for trial in found):
        return ""
    metrics = ", ".join(objective.metric for objective in spec.objectives)
    rule = f"no Trial of Study {name} had ended with {metrics} and with a configuration within these parameters"
    return f"{rule} when this Study was created. Name one that has, or leave it out."


def _state_of(status: TrialStatus) -> State:
    """What an ended Trial is to algorithms; for a reason of a newer version, what its truth says."""
    succeeded = c.condition(status.conditions, c.SUCCEEDED)
    assert succeeded is not None
    return STATES.get(succeeded.reason, State.STOPPED if succeeded.status == "True" else State.FAILED)


def _replaced(view: algorithms.Trial, curve: tuple[tuple[int, float], ...]) -> algorithms.Trial:
    return algorithms.Trial(
        view.number, view.params, view.budget, view.slot, view.donor, view.memo, view.state, curve, step=curve[-1][0]
    )


def pairs_of(values: Mapping[str, str]) -> tuple[NamedValue, ...]:
    """A mapping as the API writes it: a list of named values."""
    return tuple(NamedValue(name=name, value=value) for name, value in values.items())
