"""What becomes of the workloads of a simulated world: as each truly is, and as the API server would show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hpo_operator import conditions as c
from hpo_operator.reports import Report, Saved, Weights
from hpo_operator.resources import Trial
from hpo_operator.workloads import Phase, Workload

from tests.unit.operator.builders import DIGEST, START, measured, ref

STEPS = 5


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one workload: seconds until its pod runs, and that it then runs, how it ends, and how slowly its pods go.

    Ends: done, crash, infeasible, nan, silent (reports nothing), late (its result comes after its end), disrupted (preempted),
    vanish (deleted by somebody), lost (succeeds, but is gone with its result), rejected (the API server refuses it), forever,
    unavailable (where it starts from a checkpoint, that is damaged; else as done).
    `foreground` ones stay visible while they are being deleted, and say then that they have succeeded.
    """

    wait: float = 1.0
    run: float = 10.0
    end: str = "done"
    grace: float = 2.0
    foreground: bool = False
    gpus: int = 1


Fates = Callable[[Trial, int], Fate]
Losses = Callable[[Trial], float]


def smooth(trial: Trial) -> float:
    """A loss that is best at x = 0.3, and gets better with the budget."""
    values = {pair.name: pair.value for pair in trial.spec.parameters}
    return (float(values["x"]) - 0.3) ** 2 + 1.0 / (trial.spec.budget or 1)


@dataclass(slots=True)
class Job:
    """One workload as it truly is."""

    uid: str
    number: int
    fate: Fate
    loss: float
    created: float
    deleted: float | None = None
    orphan: bool = False

    @property
    def started(self) -> float:
        return self.created + self.fate.wait

    @property
    def stops(self) -> float:
        """When its pods end by themselves."""
        return float("inf") if self.fate.end == "forever" else self.started + self.fate.run

    def vanished(self, now: float) -> bool:
        return self.fate.end == "vanish" and now >= self.stops

    def pods_end(self, now: float) -> float:
        """When no pod runs any more."""
        if self.fate.end == "rejected":
            return self.created
        end = self.stops + self.fate.grace if self.fate.end == "vanish" else self.stops
        if self.deleted is None:
            return end
        return min(end, max(self.deleted, self.created) + (self.fate.grace if self.started <= self.deleted else 0))

    def ended(self, now: float) -> bool:
        return now >= self.pods_end(now)

    def there(self, now: float) -> bool:
        """Whether the object itself is there."""
        if self.fate.end == "rejected" or self.vanished(now):
            return False
        return self.deleted is None or (self.fate.foreground and not self.ended(now))

    def look(self, now: float) -> Workload:
        """What the API server would show of it."""
        if self.fate.end == "rejected":
            return Workload(Phase.FAILED, None, True, c.WORKLOAD_REJECTED, "admission webhook denied the request")
        seen = Workload(Phase.PENDING, ref(self.uid), ended=True, created=time(self.created), gpus=self.fate.gpus)
        if self.started <= now:
            seen = replace(seen, phase=Phase.RUNNING, ended=False, started=time(self.started), curve=self._curve(now))
        if not self.there(now):
            finished = time(self.pods_end(now)) if self.started <= now and self.ended(now) else None
            return replace(seen, phase=Phase.ABSENT, ended=self.ended(now), finished=finished)
        if self.deleted is not None:
            # A program that is asked to stop may well say that all went fine, with what it had.
            half = now >= self.deleted + self.fate.grace / 2
            partial = replace(seen, phase=Phase.SUCCEEDED, report=measured(1, loss=-100.0))
            return replace(partial if half and self.started <= now else seen, deleting=True, ended=self.ended(now))
        return self._finished(seen, now) if now >= self.stops else seen

    def _finished(self, seen: Workload, now: float) -> Workload:
        seen = replace(seen, ended=True, finished=time(self.stops), source="TerminationMessage")
        good = replace(seen, phase=Phase.SUCCEEDED, exit_code=0, weights=Weights(Saved(STEPS, DIGEST)))
        bad = replace(seen, phase=Phase.FAILED, exit_code=1, message="The program ended with exit code 1.")
        awaited = now < self.stops + 40
        return {
            "done": replace(good, report=measured(STEPS, loss=self.loss)),
            "nan": replace(good, report=measured(STEPS, loss=float("nan"))),
            "silent": good,
            "late": replace(good, awaiting=True) if awaited else replace(good, report=measured(STEPS, loss=self.loss)),
            "crash": bad,
            "unavailable": replace(bad, exit_code=87, report=Report(donor_unavailable="the content of 'w' has changed")),
            "infeasible": replace(bad, exit_code=86, report=Report(infeasible="too large")),
            "disrupted": replace(bad, disrupted=True, message="Preempted by a pod of higher priority."),
            "lost": replace(good, disrupted=True, reason=c.RESULT_LOST),
        }[self.fate.end]

    def _curve(self, now: float) -> tuple[tuple[int, float], ...]:
        share = min((now - self.started) / max(self.fate.run, 1e-9), 1.0) if self.fate.end != "forever" else 1.0
        return tuple((step, self.loss + 1.0 / step) for step in range(1, int(share * STEPS) + 1))


def time(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)
