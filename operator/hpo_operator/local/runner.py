"""The loop that carries out plans without a cluster: processes for workloads, a folder for the record.

Killed at any moment and run again it ends what the earlier runner left behind, repeats no Trial that has its result, and goes on.
"""

from __future__ import annotations

import secrets
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hpo_algorithms import AlgorithmsError, Fault
from hpo_algorithms.registry import stops_early

from hpo_operator import conditions as c
from hpo_operator.consultant import Consultant, NoWorker
from hpo_operator.environment import trial_environment
from hpo_operator.ledger import Ledger, is_terminal
from hpo_operator.local.earlier import earlier_runs, refuse_unnamed
from hpo_operator.local.gpus import devices
from hpo_operator.local.leftovers import RECORD, end_leftovers
from hpo_operator.local.processes import Processes
from hpo_operator.local.program import Program
from hpo_operator.local.store import RunBroken, Store
from hpo_operator.local.weights import Weights
from hpo_operator.planner import (
    Action,
    Ask,
    Cleanup,
    Collect,
    Consultation,
    CreateTrial,
    EndCleanup,
    Plan,
    StartWorkload,
    StopWorkload,
    View,
    WriteCheckpoint,
    WriteStudy,
    WriteTrial,
    plan,
)
from hpo_operator.resources import Study, StudyStatus, Trial
from hpo_operator.validation import InvalidStudy, problem_of
from hpo_operator.workloads import ABSENT, Workload

STUDY_WRITE_SECONDS = 1.0  # the Study's status is written at most once in this time, its end at once
MEASURE_SECONDS = 0.25  # how often live metrics are read and the display is brought up to date
IDLE_SECONDS = 0.02  # between looks at processes where the system cannot tell when they end
ALGORITHM_RETRY_SECONDS = 2.0
ALGORITHM_TRIES = 3  # without a single proposal and with nothing running, before the run is given up
ALGORITHM_LOG = "algorithm.log"
INTERRUPTED_CODES = {128 + each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


class Interrupted(Exception):
    """The runner was asked to stop; everything that ran has been ended, and the Study can be taken up again."""


class AlgorithmFailed(AlgorithmsError):
    """Neither the algorithm nor its fallback proposes anything, and nothing runs any more."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a running Study, for a display."""

    study: Study
    ledger: Ledger
    workloads: dict[int, Workload]
    now: datetime


Watcher = Callable[[Progress], None]


class LocalRunner:
    """Runs one Study to its end in a results folder.

    Args:
        study: a valid Study.
        folder: where the Study file stands, and its programs run.
        results: the results folder; taken up when it holds an unfinished run of the same Study.
        gpus: ids to hand out to Trials that ask for GPUs; those of this machine when left out.
        watch: called with each change and a few times a second.
        parallelism: overrides the Study's own, for this machine.
        environment: more variables for the programs of this run, which are no part of the Study.

    Raises InvalidStudy when the Study cannot be run here. `notes` say what will not be quite as in a cluster.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        results: Path,
        *,
        gpus: Sequence[str] | None = None,
        watch: Watcher = lambda progress: None,
        parallelism: int | None = None,
        environment: Mapping[str, str] | None = None,
        earlier: Sequence[Path] = (),
    ) -> None:
        if parallelism is not None:
            study = study.model_copy(update={"spec": study.spec.model_copy(update={"parallelism": parallelism})})
        _refuse_what_never_starts(study)
        refuse_unnamed(study, earlier)
        self._program = Program.of(study.spec, folder, environment or {})
        handed_out = devices(gpus, self._program, study.spec.parallelism)
        self._gpus = handed_out.ids
        self.notes = (*self._program.notes, *handed_out.notes)
        self._asked_for = study
        self._results = results.absolute()
        self._earlier = earlier
        self._watch = watch
        self._interrupts = 0

    @property
    def trials(self) -> dict[int, Trial]:
        """The Trials by number, as they stand after `run`."""
        return self._ledger.trials

    def interrupt(self) -> None:
        """Ask the runner to end its Trials and return; may be called from a signal handler or another thread.

        Called again it waits for them no longer.
        """
        self._interrupts += 1

    def run(self) -> Study:
        """Run to the end, and give the Study with its last status.

        Raises StoreError when the folder cannot be used or written, InvalidStudy when an earlier Study
        is not found, AlgorithmFailed, and Interrupted after `interrupt`.
        """
        with ExitStack() as stack, _said_as_the_machine_s_fault():
            self._store, self._study = Store.open(self._results, self._asked_for, secrets.randbelow(2**31))
            stack.callback(self._store.close)
            spec, status = self._study.spec, self._study.status
            assert status.seed is not None
            problem = problem_of(spec, status.seed, earlier_runs(self._study, self._results, self._earlier))
            log = self._results / ALGORITHM_LOG
            self._consultant = Consultant(problem, spec.algorithm, spec.schedule, donors=spec.checkpoints is not None, log=log)
            stack.callback(self._consultant.close)
            if c.reason(status.conditions, c.SUCCEEDED) in ("", c.IN_PROGRESS):
                self._consultant.start()  # gets ready while this process does; a Study that has ended needs none
            self._ledger = Ledger(spec, problem.space, created=status.trials.created)
            self._weights = Weights(self._results, self._study.metadata.uid)
            self._processes = Processes(spec, self._study.metadata.uid, self._program, self._gpus)
            stack.callback(self._processes.end_all, lambda: self._interrupts > 1)
            self._recover()
            ended = self._loop()
        if not ended:
            raise Interrupted
        return self._study

    def _recover(self) -> None:
        """Take up what an earlier runner has left: end its processes, and put its Trials in the ledger."""
        uid = self._study.metadata.uid
        trials = list(self._store.trials(uid))
        folders = {trial.spec.number: self._store.folder(trial.spec.number) for trial in trials}
        left = [folders[t.spec.number] for t in trials if not is_terminal(t) or (folders[t.spec.number] / RECORD).exists()]
        if left and (alive := end_leftovers(uid, left)):
            which = ", ".join(map(str, alive))
            raise RunBroken(f"Processes of an earlier run cannot be ended: {which}. End them, then run the same command again.")
        for trial in trials:
            if not is_terminal(trial) and trial.status.workload is not None:
                # That the runner was not there is not the Trial's fault, and must not use up its retries.
                found = c.put(trial.status.conditions, c.RUNNING, "False", c.STUDY_SUSPENDED, "The runner was away.", _now())
                status = trial.status.model_copy(update={"conditions": found})
                trial = self._store.write_trial(trial, status)  # noqa: PLW2901
            self._ledger.put(trial)
            if is_terminal(trial):
                self._ledger.cleaned(trial.spec.number)

    def _loop(self) -> bool:
        """Plan and carry out until the Study has ended, or an interrupt; whether it has ended."""
        self._consultation: Consultation | None = None
        self._cleanup: Cleanup | None = None
        self._pending: StudyStatus | None = None
        self._written = 0.0
        self._failures = 0
        self._retry_at: float | None = None
        measured, ended = 0.0, False
        while not ended and not self._interrupts:
            workloads = self._workloads()
            decided = plan(self._view(workloads))
            if self._execute(decided.actions):
                continue
            if time.monotonic() - measured >= MEASURE_SECONDS:
                measured = time.monotonic()
                self._processes.measure()
                self._observe(self._processes.look())
                self._watch(Progress(self._study, self._ledger, workloads, _now()))
            self._flush()
            # Of a Study that is over it is only asked which checkpoints may go.
            ended = self._over() and not any(isinstance(each, Ask) for each in decided.actions)
            if not ended:
                self._wait(decided)
        if not ended:
            self._suspend()
        self._flush(at_once=True)
        self._watch(Progress(self._study, self._ledger, {}, _now()))
        return ended

    def _view(self, workloads: dict[int, Workload]) -> View:
        stopping = stops_early(self._study.spec.schedule)
        return View(self._study, self._ledger, workloads, _now(), self._consultation, stopping, cleanup=self._cleanup)

    def _workloads(self) -> dict[int, Workload]:
        """Everything that is known; what has no process here has none anywhere, for this runner holds the folder's lock."""
        seen = self._processes.look()
        self._observe(seen)
        for number in list(self._ledger.uncleaned):
            if number not in seen or seen[number].ended:
                self._processes.stop(number)
                self._ledger.cleaned(number)
                seen.pop(number, None)
        return {number: seen.get(number, ABSENT) for number in (*self._ledger.active, *self._ledger.uncleaned)}

    def _observe(self, seen: dict[int, Workload]) -> None:
        for number, workload in seen.items():
            self._ledger.observe(number, workload.curve)

    def _execute(self, actions: Sequence[Action]) -> bool:
        """Carry out actions in their order; whether anything has changed that calls for another plan."""
        changed = False
        for action in actions:
            match action:
                case Ask(first, count) if not self._consultant.busy:
                    self._consultant.ask(self._ledger, first, count)
                case CreateTrial(trial):
                    self._ledger.put(self._store.create(trial))
                    changed = True
                case StartWorkload(number):
                    self._start(self._ledger.trials[number])
                    changed = True
                case StopWorkload(number):
                    self._processes.stop(number)
                case WriteTrial(number, status):
                    self._ledger.put(self._store.write_trial(self._ledger.trials[number], status))
                    changed = True
                case WriteCheckpoint(number, record):
                    trial = self._ledger.trials[number]
                    status = trial.status.model_copy(update={"checkpoint": record})
                    self._ledger.put(self._store.write_trial(trial, status))
                    changed = True
                case Collect(numbers):
                    self._cleanup = self._weights.collect(self._ledger.trials[number] for number in numbers)
                    changed = True
                case EndCleanup():
                    self._cleanup = None
                    changed = True
                case WriteStudy(status):
                    self._study = self._study.model_copy(update={"status": status})
                    self._pending = status
                    changed = changed or self._over()  # then what only a running Study needed may go
        return changed

    def _start(self, trial: Trial) -> None:
        environment = trial_environment(self._study, trial, self._ledger.space)
        if self._study.spec.checkpoints is not None:
            environment |= self._weights.environment(trial)
        folder, before = self._store.folder(trial.spec.number), self._weights.restoring(self._study, trial)
        self._processes.start(trial.spec.number, trial.metadata.name, folder, environment, before)

    def _over(self) -> bool:
        succeeded = c.condition(self._study.status.conditions, c.SUCCEEDED)
        return succeeded is not None and succeeded.status != "Unknown" and not len(self._processes)

    def _suspend(self) -> None:
        """Record what has ended by itself, then end the rest: a program that is told to end may do so as if it had succeeded."""
        workloads = self._workloads()
        # A terminal interrupts all its processes, and so a program that was just being started and had no session of its own yet.
        hit = {number for number, workload in workloads.items() if workload.exit_code in INTERRUPTED_CODES}
        writes = [action for action in plan(self._view(workloads)).actions if isinstance(action, WriteTrial)]
        failed = {each.number for each in writes if c.reason(each.status.conditions, c.SUCCEEDED) == c.PROGRAM_FAILED}
        self._execute([each for each in writes if each.number not in hit & failed])
        self._processes.end_all(lambda: self._interrupts > 1)
        message = "The runner was interrupted; run the same command again to go on."
        found = c.put(self._study.status.conditions, c.PROGRESSING, "False", c.SUSPENDED, message, _now())
        self._pending = self._study.status.model_copy(update={"conditions": found})

    def _flush(self, *, at_once: bool = False) -> None:
        due = at_once or time.monotonic() - self._written >= STUDY_WRITE_SECONDS
        if self._pending is not None and due:
            self._study = self._store.write_study(self._study, self._pending)
            self._pending, self._written = None, time.monotonic()

    def _wait(self, decided: Plan) -> None:
        """Until a process or the algorithm has something to say, or it is time to look anyway."""
        timeout = timedelta(seconds=MEASURE_SECONDS)
        if decided.again_at is not None:
            timeout = min(timeout, max(decided.again_at - _now(), timedelta()))
        handles = self._processes.handles()
        seconds = timeout.total_seconds() if len(handles) == len(self._processes) else IDLE_SECONDS
        poller = select.poll()
        for handle in (*handles, *([self._consultant.fileno()] if self._consultant.busy else [])):
            poller.register(handle, select.POLLIN)
        poller.poll(max(seconds, 0.001) * 1000)
        if self._consultant.busy and (answer := self._consultant.poll()) is not None:
            self._take(answer)
        elif self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._consultation, self._retry_at = None, None

    def _take(self, answer: Consultation) -> None:
        self._consultation = answer
        failed = bool(answer.error) and not answer.proposals and not answer.finished
        self._retry_at = time.monotonic() + ALGORITHM_RETRY_SECONDS if failed else None
        self._failures = self._failures + 1 if failed and not self._ledger.active else 0
        if self._failures >= ALGORITHM_TRIES:
            remedy = "Name another algorithm or schedule with --fresh, or mend it and run the same command again."
            raise AlgorithmFailed(f"The algorithm cannot go on: {answer.error}. {self._results / ALGORITHM_LOG} has more. {remedy}")


@contextmanager
def _said_as_the_machine_s_fault() -> Iterator[None]:
    try:
        yield
    except NoWorker as error:
        remedy = "Nothing that was recorded is lost: mend that and run the same command again."
        raise RunBroken(f"The algorithm's process cannot be started: {error}. {remedy}") from None


def _refuse_what_never_starts(study: Study) -> None:
    """Without a cluster nobody changes a running Study, so that these would stay as they are for ever."""
    if study.spec.suspend:
        raise InvalidStudy([Fault("spec.suspend", True, "would never start here", "Set it to false.")])
    if study.spec.parallelism == 0:
        remedy = "Set it to 1 or more, or use --parallelism."
        raise InvalidStudy([Fault("spec.parallelism", 0, "would never start a Trial here", remedy)])


def _now() -> datetime:
    return datetime.now(UTC)
