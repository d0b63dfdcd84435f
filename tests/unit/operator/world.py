"""A world in virtual time that carries out plans, and holds each action against the laws.

There is a truth (Trials, workloads, pods) and what the operator knows of it, which is late, is dropped when the operator is killed,
and must be asked for where it is missing. Everything that happens is an event at a time; what a workload becomes is its Fate, which
depends on its Trial alone, so that runs which differ in their faults can be compared.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from hpo_algorithms import Algorithm, Answer, Problem, build
from hpo_algorithms import Trial as Seen
from hpo_operator import conditions as c
from hpo_operator.ledger import Ledger, is_terminal
from hpo_operator.planner import (
    Action,
    Ask,
    Cleanup,
    Collect,
    Consultation,
    CreateTrial,
    EndCleanup,
    LookForWorkload,
    Plan,
    Refusal,
    StartWorkload,
    StopWorkload,
    View,
    WriteCheckpoint,
    WriteStudy,
    WriteTrial,
    plan,
)
from hpo_operator.resources import CheckpointRecord, Study, Trial, TrialStatus
from hpo_operator.validation import problem_of
from hpo_operator.workloads import ABSENT, Phase, Workload

from tests.unit.operator.builders import START, StudyBuilder
from tests.unit.operator.fates import STEPS, Fate, Fates, Job, Losses, smooth, time

ALGORITHM_RETRY = 5.0
PLANS_A_MOMENT = 400  # more in one moment of virtual time is a loop that never becomes quiet
LATEST_NEWS = 7.0


class Killed(Exception):
    """The operator was killed in the middle of a plan."""


@dataclass(slots=True)
class Operator:
    """All that an operator's process remembers; dropped when it is killed."""

    ledger: Ledger
    workloads: dict[int, Workload] = field(default_factory=dict)
    consultation: Consultation | None = None
    busy: bool = False
    refusal: Refusal | None = None
    cleanup: Cleanup | None = None


class World:
    """One Study and its operator.

    Args:
        study: the Study, as applied.
        fates: what becomes of the n-th workload (from 0) of a Trial.
        losses: what a Trial reports.
        algorithm: scripted, or the Study's own.
        seed: of all delays; None for none.
        kill: whether to kill the operator just before its n-th action, or (as -n) just after it.
        settle: whether the executor tells the ledger of ended Trials whose pods have ended.
        cleanups: whether the n-th removal of checkpoints succeeds.
    """

    def __init__(
        self,
        study: StudyBuilder,
        fates: Fates = lambda trial, attempt: Fate(),
        losses: Losses = smooth,
        *,
        algorithm: Algorithm | None = None,
        seed: int | None = None,
        kill: Callable[[int], bool] = lambda action: False,
        settle: bool = False,
        cleanups: Callable[[int], bool] = lambda number: True,
    ) -> None:
        self.builder = study
        self.study: Study = study.build()
        self.problem: Problem = problem_of(self.study.spec, 0)
        self.algorithm = algorithm or build(self.problem, self.study.spec.algorithm, self.study.spec.schedule)
        self.stopping = self.study.spec.schedule is not None
        self.fates, self.losses, self.settles, self._kill = fates, losses, settle, kill
        self._random = random.Random(seed) if seed is not None else None
        self._ticket = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._carried_out = 0
        self.now = 0.0
        self.trials: dict[int, Trial] = {}
        self.ever: dict[int, Trial] = {}
        self.jobs: dict[int, Job] = {}
        self.past: list[Job] = []
        self.refused: str = ""
        self.kills = self._checks = self._checked = 0
        self.creates: Counter[tuple[str, int]] = Counter()
        self.writes: Counter[int] = Counter()
        self.deletes: Counter[int] = Counter()
        self.study_writes = 0
        self.ends: list[str] = []
        self.keeps = self.study.spec.checkpoints is not None
        self.disk: set[int] = set()  # whose folder of checkpoints is there
        self.cleanup: Cleanup | None = None
        self.cleanups, self._cleans = 0, cleanups
        self.resume_from_kill()

    # What a user sees

    @property
    def over(self) -> bool:
        found = c.condition(self.study.status.conditions, c.SUCCEEDED)
        return found is not None and found.status != "Unknown"

    def reason(self, type_: str = c.SUCCEEDED) -> str:
        return c.reason(self.study.status.conditions, type_)

    def reasons(self) -> dict[int, str]:
        return {number: c.reason(trial.status.conditions, c.SUCCEEDED) for number, trial in sorted(self.trials.items())}

    def losses_by_number(self) -> dict[int, str]:
        """What stands in the completed Trials."""
        return {
            number: trial.status.observation.metrics[0].value
            for number, trial in sorted(self.trials.items())
            if self.reasons()[number] == c.COMPLETED and trial.status.observation
        }

    def parameters(self) -> dict[int, tuple[str, ...]]:
        return {n: tuple(pair.value for pair in trial.spec.parameters) for n, trial in sorted(self.ever.items())}

    def donors(self) -> dict[int, tuple[int, int] | None]:
        """Whose checkpoint each Trial starts from, and of which step."""
        starts = {n: trial.spec.restore_from for n, trial in sorted(self.ever.items())}
        return {n: (start.number, start.step) if start else None for n, start in starts.items()}

    # What a user does

    def edit(self, change: Callable[[StudyBuilder], StudyBuilder]) -> None:
        """Apply the Study again, changed."""
        self.builder = change(self.builder)
        edited = self.builder.build()
        metadata = edited.metadata.model_copy(update={"generation": self.study.metadata.generation + 1})
        self.study = edited.model_copy(update={"metadata": metadata, "status": self.study.status})
        self.operator.ledger.spec = self.study.spec

    def delete_trial(self, number: int) -> None:
        """kubectl delete trial: its workload goes with it, and the operator hears of it later."""
        del self.trials[number]
        job = self.jobs.get(number)
        if job is not None:
            job.orphan = True
            self._delete_job(job)
        self._after(self._delay(), lambda: self._notice_deletion(number))

    # What happens to the operator

    def resume_from_kill(self) -> None:
        """A new process, which has listed Trials and Studies, and knows nothing of what is missing."""
        self.operator = Operator(
            Ledger(self.study.spec, self.problem.space, self.trials.values(), self.study.status.trials.created),
            cleanup=self.cleanup,
        )
        for job in self._all_jobs():
            if job.number not in self.trials and not job.ended(self.now):
                self.operator.ledger.remove(job.number)  # its pods are listed, and their Trial is not
        for number in self.jobs:
            self._notice_later(number)

    def kill(self) -> None:
        self.kills += 1
        self.resume_from_kill()

    # Time

    def run(self, until: float = 1e6) -> World:
        """Go on until nothing can happen any more, or the time has come."""
        again = self.settle()
        while self.now < until:
            later = [event[0] for event in self._events[:1]] + ([self._seconds(again)] if again is not None else [])
            if not later:
                self._check_stall()
                return self
            if min(later) > until:
                break
            again = self.advance(min(later))
        self.now = max(self.now, until) if until < 1e6 else self.now
        if until < 1e6:
            self.settle()
        return self

    def advance(self, to: float) -> datetime | None:
        """Let what is due happen, then plan; gives when to plan again."""
        self.now = max(self.now, to)
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()
        return self.settle()

    def next_event(self) -> float | None:
        return self._events[0][0] if self._events else None

    def settle(self) -> datetime | None:
        """Plan and carry out until there is nothing more to do now."""
        for _ in range(PLANS_A_MOMENT):
            self._forget_the_gone()
            decided = self.plan()
            try:
                if not self._carry_out(decided.actions):
                    self.check()
                    assert decided.again_at is None or self._seconds(decided.again_at) > self.now, "plans to plan in the past"
                    return decided.again_at
            except Killed:
                self.kill()
        raise AssertionError(f"never quiet: {decided.actions}")

    def plan(self) -> Plan:
        op = self.operator
        asked, stopping, refusal = op.consultation, self.stopping, op.refusal
        return plan(View(self.study, op.ledger, op.workloads, time(self.now), asked, stopping, refusal, cleanup=op.cleanup))

    # Invariants

    def check(self) -> None:
        """What holds at any moment."""
        for number, trial in self.trials.items():
            assert trial.metadata.name == f"digits-{number}"
        known = self.operator.ledger
        self._checks += 1
        if self._checks % 30 and len(self.ends) == self._checked:
            return  # what follows costs as much as all Trials
        self._checked = len(self.ends)
        fresh = Ledger(self.study.spec, self.problem.space, known.trials.values(), known.created)
        assert known.counts(0) == fresh.counts(0)
        assert known.best() == fresh.best()
        assert known.gpu_seconds == fresh.gpu_seconds
        used: Counter[int] = Counter()
        for job in self._all_jobs():
            seconds = max(min(job.pods_end(self.now), self.now) - job.started, 0.0)
            used[job.number] += round((seconds + LATEST_NEWS) * job.fate.gpus) + 1
        for number, trial in self.trials.items():
            assert trial.status.gpu_seconds <= used[number], "GPU-seconds are counted twice"
        best = known.best()
        completed = [t for t in known.trials.values() if c.reason(t.status.conditions, c.SUCCEEDED) == c.COMPLETED]
        assert bool(best) == bool(completed)
        if best:
            highest = max(trial.spec.budget or 0 for trial in completed)
            value = {t.spec.number: float(t.status.observation.metrics[0].value) for t in completed if t.status.observation}
            assert {entry.budget or 0 for entry in best} == {highest}
            assert value[best[0].number] == min(value[t.spec.number] for t in completed if (t.spec.budget or 0) == highest)
            assert -100.0 not in value.values(), "a program that was stopped has been believed"

    def places(self) -> int:
        """How many places are truly taken: by Trials without a result, and by whatever pods still run."""
        running = {job.number for job in self._all_jobs() if not job.ended(self.now)}
        return len(running | {number for number, trial in self.trials.items() if not is_terminal(trial)})

    def pods(self) -> int:
        return sum(1 for job in self._all_jobs() if not job.ended(self.now))

    # Carrying out

    def _carry_out(self, actions: list[Action]) -> bool:
        changed = False
        for action in actions:
            self._carried_out += 1
            if self._kill(self._carried_out):
                raise Killed
            changed |= self._act(action)
            if self._kill(-self._carried_out):
                raise Killed
        return changed

    def _act(self, action: Action) -> bool:
        match action:
            case Ask(first, count):
                return self._ask(first, count)
            case CreateTrial(trial):
                return self._create_trial(trial)
            case StartWorkload(number):
                return self._start(number)
            case StopWorkload(number):
                return self._stop(number)
            case LookForWorkload(number):
                assert number not in self.operator.workloads, "looks for what it knows"
                self._notice(number)
                return True
            case WriteTrial(number, status):
                return self._write_trial(number, status)
            case WriteCheckpoint(number, record):
                return self._write_checkpoint(number, record)
            case Collect(numbers):
                return self._collect(numbers)
            case EndCleanup():
                assert self.operator.cleanup is not None
                assert self.operator.cleanup.ended is not None, "puts away what is at work"
                self.cleanup = self.operator.cleanup = None
                return True
            case WriteStudy(status):
                assert status != self.study.status, "writes what stands there"
                if self.over:
                    before = c.condition(self.study.status.conditions, c.SUCCEEDED)
                    after = c.condition(status.conditions, c.SUCCEEDED)
                    assert before and after
                    assert (before.status, before.reason) == (after.status, after.reason) or before.reason in c.RAISABLE
                self.study_writes += 1
                self.study = self.study.model_copy(update={"status": status})
                if self.over:
                    self.ends.append(self.reason())
                return True
        raise AssertionError(action)

    def _ask(self, first: int, count: int) -> bool:
        op = self.operator
        assert first == op.ledger.created
        if op.busy:
            return False
        op.busy = True
        history, version = op.ledger.history(), op.ledger.version
        self._after(self._delay(), lambda: self._answer(op, history, version, first, count))
        return False

    def _answer(self, op: Operator, history: list[Seen], version: int, first: int, count: int) -> None:
        if op is not self.operator:
            return  # asked by a process that was killed
        op.busy, error = False, ""
        answer = self.algorithm.propose(self.problem, history, first, count) if count else Answer()
        assert len(answer.proposals) <= count
        stops = tuple(self.algorithm.stops(self.problem, history))
        if count and not (answer.proposals or answer.finished or any(seen.active for seen in history)):
            error = "it proposes nothing although no Trial is active"
            self._after(ALGORITHM_RETRY, lambda: setattr(op, "consultation", None))
        donors = self.algorithm.donors(self.problem, history) if self.keeps else None
        op.consultation = Consultation(version, first, answer.proposals, answer.finished, stops, error, count, donors)

    def _create_trial(self, trial: Trial) -> bool:
        number, spec = trial.spec.number, self.study.spec
        if self._refuses():
            return True
        if number in self.trials:  # of a process that was killed before it heard of the success
            raise AssertionError("a new process has listed all Trials")
        assert number not in self.ever, "a number is used twice"
        assert number == len(self.ever), "numbers ascend without holes"
        assert not spec.suspend
        assert not self.over
        assert spec.limits.max_trials is None or number < spec.limits.max_trials
        assert self.places() < spec.parallelism, "a place is taken twice"
        self._check_start(trial)
        created = trial.model_copy(
            update={"metadata": trial.metadata.model_copy(update={"uid": f"t{number}", "creation_timestamp": time(self.now)})}
        )
        self.creates["trial", number] += 1
        self.trials[number] = self.ever[number] = created
        self.operator.ledger.put(created)
        return True

    def _start(self, number: int) -> bool:
        op = self.operator
        if self._refuses() or number not in op.ledger.trials:
            return True
        if number not in self.trials:
            op.ledger.remove(number)
            return True
        trial = self.trials[number]
        job = self.jobs.get(number)
        assert not is_terminal(trial)
        assert not self.study.spec.suspend
        if job is not None and job.there(self.now):
            self._notice(number)  # 409: it is adopted
            return True
        others = self.pods()
        assert job is None or job.ended(self.now), "two pods of one Trial at once"
        assert others < self.study.spec.parallelism, f"{others} workloads have pods already"
        attempt = sum(1 for each in self._all_jobs() if each.number == number and each.fate.end != "rejected")
        fate, restore = self.fates(trial, attempt), trial.spec.restore_from
        if restore is not None:
            assert restore.number in self.disk, "its donor's checkpoint has been removed"
        if fate.end == "unavailable" and (restore is None or attempt > 0):
            fate = replace(fate, end="done")
        if self.keeps and fate.end != "rejected":
            self.disk.add(number)
        new = Job(f"j{number}-{attempt}", number, fate, self.losses(trial), self.now)
        if job is not None:
            self.past.append(job)
        self.jobs[number] = new
        self.creates["workload", number] += 1
        self._notice(number)
        self._watch(new)
        op.refusal = None
        return True

    def _stop(self, number: int) -> bool:
        job, trial = self.jobs.get(number), self.trials.get(number)
        assert number in self.operator.workloads, "decides on a workload that it has not looked for"
        if trial is not None and not is_terminal(trial):
            assert job is not None
            assert c.reason(trial.status.conditions, c.RUNNING) in c.GIVEN_UP, "a workload is stopped before that is written"
            assert trial.status.workload is not None
            assert trial.status.workload.uid == job.uid
        if job is not None and job.deleted is None and job.there(self.now):
            self.deletes[number] += 1
            self._delete_job(job)
        else:
            known = self.operator.workloads.get(number)
            assert known is None or not known.deleting, "a delete is repeated"
        self._notice(number)
        return True

    def _write_trial(self, number: int, status: TrialStatus) -> bool:
        op = self.operator
        if number not in self.trials:
            op.ledger.remove(number)
            return True
        trial = self.trials[number]
        assert number in op.workloads, "decides on a workload that it has not looked for"
        assert not is_terminal(trial), "a result has changed"
        assert status != trial.status, "writes what stands there"
        self.writes[number] += 1
        ended = trial.model_copy(update={"status": status})
        self.trials[number] = self.ever[number] = ended
        op.ledger.put(ended)
        return True

    def _check_start(self, trial: Trial) -> None:
        """A promoted Trial goes on from where its configuration stands, and from nothing only where nothing was ever saved."""
        restore, place = trial.spec.restore_from, trial.spec.slot
        assert restore is not None or place is None or not place.generation, "a member starts from nothing"
        if restore is not None:
            donor = self.ever[restore.number]
            assert donor.status.checkpoint is not None
            assert (donor.status.checkpoint.state, donor.status.checkpoint.digest) == ("Kept", restore.digest)
        elif self.keeps and trial.spec.origin == "Promoted":
            assert place is not None
            same = [t for t in self.trials.values() if t.spec.parameters == trial.spec.parameters and t.spec.slot is not None]
            below = [t for t in same if t.spec.slot and t.spec.slot.rung == (place.rung or 0) - 1]
            assert not any(t.status.checkpoint and t.status.checkpoint.digest for t in below), "a silent start from nothing"

    def _write_checkpoint(self, number: int, record: CheckpointRecord) -> bool:
        if number not in self.trials:
            self.operator.ledger.remove(number)
            return True
        trial = self.trials[number]
        before = trial.status.checkpoint
        assert is_terminal(trial)
        assert before is not None
        assert record == before.model_copy(update={"state": record.state})
        assert (before.state, record.state) in (("Kept", "Collecting"), ("Collecting", "Collected"))
        assert (record.state == "Collected") <= (number not in self.disk), "said to be gone, and is there"
        if record.state == "Collecting":
            self._check_needless(number)
        self.writes[number] += 1
        changed = trial.model_copy(update={"status": trial.status.model_copy(update={"checkpoint": record})})
        self.trials[number] = self.ever[number] = changed
        self.operator.ledger.put(changed)
        return True

    def _check_needless(self, number: int) -> None:
        assert number not in {each.number for each in self.operator.ledger.best()}, "one of the best"
        for other in self.trials.values():
            restore = other.spec.restore_from
            assert is_terminal(other) or restore is None or restore.number != number, "an active Trial starts from it"

    def _collect(self, numbers: tuple[int, ...]) -> bool:
        op = self.operator
        assert op.cleanup is None
        assert numbers
        if self.cleanup is None:
            for number in numbers:
                assert number not in self.trials or self.trials[number].status.checkpoint.state == "Collecting"  # type: ignore[union-attr]
                self._check_needless(number)
                assert all(j.ended(self.now) for j in self._all_jobs() if j.number == number), "a program may still write there"
            self.cleanups += 1
            self.cleanup = Cleanup(numbers)
            good = self._cleans(self.cleanups)
            self._after(5.0, lambda: self._clean(good))
        op.cleanup = self.cleanup
        return True

    def _clean(self, good: bool) -> None:
        assert self.cleanup is not None
        if good:
            self.disk -= set(self.cleanup.numbers)
        self.cleanup = replace(self.cleanup, succeeded=good, ended=time(self.now))
        op = self.operator
        self._after(self._delay(), lambda: self._notice_cleanup(op))

    def _notice_cleanup(self, op: Operator) -> None:
        if op is self.operator and op.cleanup is not None:
            op.cleanup = self.cleanup

    def _refuses(self) -> bool:
        if self.refused:
            self.operator.refusal = Refusal(c.CREATION_REFUSED, self.refused, time(self.now + 10))
        return bool(self.refused)

    # Noticing

    def _notice(self, number: int) -> None:
        """Show the operator a workload as it is now."""
        job = self.jobs.get(number)
        seen = ABSENT if job is None else job.look(self.now)
        if job is not None and job.orphan and not job.there(self.now):
            seen = replace(seen, phase=Phase.ABSENT)
        self.operator.workloads[number] = seen
        self.operator.ledger.observe(number, seen.curve)

    def _notice_later(self, number: int) -> None:
        op = self.operator
        self._after(self._delay(), lambda: self._notice(number) if op is self.operator else None)

    def _notice_deletion(self, number: int) -> None:
        if number in self.operator.ledger.trials and number not in self.trials:
            self.operator.ledger.remove(number)

    def _watch(self, job: Job) -> None:
        """Its changes are noticed some time after they happen."""
        times = [job.started, job.stops, job.pods_end(self.now)]
        if job.fate.end == "late":
            times.append(job.stops + 40)
        if self.stopping and job.fate.end != "forever":
            times += [job.started + job.fate.run * step / STEPS for step in range(1, STEPS)]
        for each in sorted({t for t in times if t < 1e6}):
            self._after(each - self.now + self._delay(), lambda: self._notice(job.number))

    def _delete_job(self, job: Job) -> None:
        if job.deleted is None and job.there(self.now):
            job.deleted = self.now
            for each in (0.0, job.fate.grace / 2, job.pods_end(self.now) - self.now):
                self._after(each + self._delay(), lambda: self._notice(job.number))

    def _forget_the_gone(self) -> None:
        op = self.operator
        for number in [*op.ledger.uncleaned, *op.ledger.removed, *(number for _, number in op.ledger.kept)]:
            seen = op.workloads.get(number)
            if seen is None:
                continue
            if seen.ended and (seen.phase is Phase.ABSENT or seen.ref is None):
                op.ledger.cleaned(number)
                del op.workloads[number]
            elif seen.at_rest and self.settles and number in op.ledger.uncleaned:
                op.ledger.settle(number)

    # Pieces

    def _all_jobs(self) -> list[Job]:
        return [*self.past, *self.jobs.values()]

    def _after(self, seconds: float, act: Callable[[], Any]) -> None:
        heapq.heappush(self._events, (self.now + max(seconds, 0.0), next(self._ticket), act))

    def at(self, when: float, act: Callable[[], Any]) -> None:
        """Let something happen at a time."""
        heapq.heappush(self._events, (when, next(self._ticket), act))

    def _delay(self) -> float:
        return self._random.choice((0.0, 0.1, 1.0, LATEST_NEWS)) if self._random else 0.0

    def _seconds(self, when: datetime) -> float:
        return (when - START).total_seconds()

    def _check_stall(self) -> None:
        """Nothing will ever happen again: then the Study is over, or says why it waits."""
        spec = self.study.spec
        waits = spec.suspend or spec.parallelism == 0 or self.reason(c.PROGRESSING) in (c.ALGORITHM_ERROR, c.CREATION_REFUSED)
        hangs = any(job.fate.end == "forever" and not job.ended(self.now) for job in self._all_jobs())
        assert self.over or waits or hangs, f"a silent stall: {self.reason(c.PROGRESSING)}, {self.reasons()}"
