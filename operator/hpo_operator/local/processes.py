"""Trials as processes: each a session of its own, so that all its children can be ended with it.

A process stands for a pod. Its output goes straight into a file, so that nothing it prints can block or fill this process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hpo_algorithms import Fault

from hpo_operator import conditions as c
from hpo_operator.local.leftovers import LOG, end_leftovers, forget, remember
from hpo_operator.local.program import Program
from hpo_operator.local.store import RunBroken, WriteFailed
from hpo_operator.local.tail import Tail, end_of, last_line, stands_for
from hpo_operator.reports import Report, final_message, final_weights, live_reports, log_reports
from hpo_operator.resources import StudySpec, WorkloadRef
from hpo_operator.workloads import Phase, Workload

CURVE_LIMIT = 4096  # points kept of a running Trial's curve; the last ones win
SWEEP_SECONDS = 5.0  # how long what a Trial left behind may outlive it
SWEEP_PATIENCE = 1.0
GPU_PATIENCE = 10.0  # what was killed holds its GPU until the driver has taken back all memory: seconds, where that is much
METRICS, TERMINATION, PARAMETERS = "metrics.jsonl", "termination.log", "parameters.json"
ROOM = 1 << 16  # bytes; more than a program's final message, with what else it writes at its end
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
EXHAUSTED = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@dataclass(slots=True)
class _Run:
    """One process, from its start until its result has been taken."""

    name: str
    folder: Path
    gpus: tuple[str, ...]
    started: datetime
    ref: WorkloadRef = field(init=False)
    process: subprocess.Popen[bytes] | None = None
    handle: int | None = None
    refused: str = ""
    terminating: float | None = None
    ended: Workload | None = None
    live: Report = field(default_factory=Report)
    curve: list[tuple[int, float]] = field(default_factory=list)
    shown: tuple[tuple[int, float], ...] = ()
    metrics: Tail = field(init=False)
    log: Tail = field(init=False)

    def __post_init__(self) -> None:
        uid = f"{self.name}-{self.started.timestamp():.6f}"
        self.ref = WorkloadRef(api_version="v1", kind="Process", name=self.name, uid=uid)
        self.metrics, self.log = Tail(self.folder / METRICS), Tail(self.folder / LOG)

    @property
    def running(self) -> bool:
        return self.process is not None and self.ended is None


class Processes:
    """The running Trials of one Study by number, and the GPUs that they hold."""

    def __init__(self, spec: StudySpec, uid: str, program: Program, gpus: Sequence[str] | None) -> None:
        self._spec, self._uid, self._program = spec, uid, program
        self._free = list(gpus) if gpus is not None else []
        self._hand_out = gpus is not None
        self._runs: dict[int, _Run] = {}
        self._waiting: dict[int, tuple[str, Path, Mapping[str, str], Sequence[str]]] = {}
        self._unswept: list[Path] = []
        self._swept = time.monotonic()

    def __len__(self) -> int:
        return len(self._runs)

    def handles(self) -> list[int]:
        """File descriptors that become readable when a process ends; fewer than processes where the system has none."""
        return [run.handle for run in self._runs.values() if run.handle is not None]

    def start(self, number: int, name: str, folder: Path, trial: Mapping[str, str], before: Sequence[str] = ()) -> None:
        """Start a Trial's program, or let it wait for a GPU. `before` is a command that becomes the one which follows it.

        Raises RunBroken when that is not the program's fault: the disk is full, or the system has no room for a process.
        """
        if number in self._runs or number in self._waiting:
            return
        if self._hand_out and len(self._free) < self._program.gpus:
            self._waiting[number] = (name, folder, trial, before)
            return
        taken = tuple(self._free.pop(0) for _ in range(self._program.gpus)) if self._hand_out else ()
        self._launch(number, _Run(name, folder, taken, datetime.now(UTC)), trial, before)

    def stop(self, number: int) -> None:
        """Ask a Trial's processes to end, and make them when the grace period is over; forget one that has ended."""
        self._waiting.pop(number, None)
        run = self._runs.get(number)
        if run is None:
            return
        if run.process is None or run.ended is not None:
            self._release(self._runs.pop(number))
        elif run.terminating is None:
            run.terminating = time.monotonic()
            _signal(run.process, signal.SIGTERM)

    def look(self) -> dict[int, Workload]:
        """What can be seen of all Trials here, after ending those whose grace period is over."""
        for number, wanted in list(self._waiting.items()):
            if len(self._free) >= self._program.gpus:
                del self._waiting[number]
                self.start(number, *wanted)
        seen = {number: self._seen(run) for number, run in self._runs.items()}
        if self._unswept and time.monotonic() - self._swept >= SWEEP_SECONDS:
            self.sweep()
        waiting = Workload(Phase.PENDING, ended=True, reason=c.UNSCHEDULABLE, message="Waits for a free GPU.")
        return seen | dict.fromkeys(self._waiting, waiting)

    def measure(self) -> None:
        """Read what running programs have reported since the last time."""
        for run in self._runs.values():
            if run.running:
                self._read(run, last=False)

    def sweep(self, patience: float = SWEEP_PATIENCE) -> None:
        """End what ended Trials have left behind out of their groups, as the end of a container would."""
        running = [number for number, run in self._runs.items() if run.running]
        end_leftovers(self._uid, self._unswept, running, patience)
        self._unswept, self._swept = [], time.monotonic()

    def end_all(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End every process: all are asked at once, and wait for the same grace period, or no longer once `hurry()`."""
        alive = bool(self._runs)
        for number in [*self._waiting, *self._runs]:
            self.stop(number)
        try:
            while any(run.running for run in self._runs.values()) and not hurry():
                self.look()
                time.sleep(0.01)
        finally:
            for run in self._runs.values():
                if run.running and run.process is not None:
                    _signal(run.process, signal.SIGKILL)
                    run.process.wait()
                    forget(run.folder)
                    self._unswept.append(run.folder)
                self._release(run)
            self._runs.clear()
            if alive or self._unswept:
                self.sweep()

    def _launch(self, number: int, run: _Run, trial: Mapping[str, str], before: Sequence[str]) -> None:
        variables = {
            **trial,
            "HPO_PARAMETERS_FILE": str(run.folder / PARAMETERS),
            "HPO_TERMINATION_FILE": str(run.folder / TERMINATION),
            "HPO_METRICS_FILE": str(run.folder / METRICS),
        }
        command, environment = self._program.resolved(variables)
        if self._hand_out:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(run.gpus)
        log = _prepare(run.folder, trial["HPO_PARAMETERS"])
        self._runs[number] = run
        try:
            run.process = subprocess.Popen(
                [*before, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._program.folder,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            run.refused = f"{command[0]}: {_refusal(error)}"
            return
        finally:
            os.close(log)
        with contextlib.suppress(AttributeError, OSError):  # not on every system; the runner then looks at intervals
            run.handle = os.pidfd_open(run.process.pid)
        try:
            remember(run.folder, run.process.pid)
        except OSError as error:
            raise WriteFailed(run.folder, error) from None

    def _seen(self, run: _Run) -> Workload:
        if run.ended is not None:
            return run.ended
        if run.process is None:
            message = f"The program could not be started: {run.refused}."
            run.ended = Workload(Phase.FAILED, run.ref, True, c.PROGRAM_FAILED, message, 127, False, run.started, run.started)
            return run.ended
        if _has_ended(run.process):
            run.ended = self._finished(run, run.process)
            return run.ended
        if run.terminating is not None and time.monotonic() - run.terminating > self._program.grace_seconds:
            _signal(run.process, signal.SIGKILL)
        gpus = self._program.gpus
        return Workload(Phase.RUNNING, run.ref, started=run.started, gpus=gpus, report=run.live, curve=run.shown)

    def _finished(self, run: _Run, process: subprocess.Popen[bytes]) -> Workload:
        _signal(process, signal.SIGKILL)  # like a container, a Trial ends with its first process
        finished = datetime.now(UTC)
        self._unswept.append(run.folder)
        if run.gpus or run.terminating is not None:
            # Before the GPU is somebody else's; and what had to be stopped is more likely to leave something. Before the process is
            # reaped, too: until then its session is known by its number.
            self.sweep(GPU_PATIENCE if run.gpus else SWEEP_PATIENCE)
        code = process.wait()
        self._release(run)
        self._read(run, last=True)
        told = end_of(run.folder / TERMINATION)
        forget(run.folder)
        report = final_message(told)
        if code != 0 or report is None:
            _refuse_full_disk(run.folder)
        return Workload(
            phase=Phase.SUCCEEDED if code == 0 else Phase.FAILED,
            ref=run.ref,
            ended=True,
            message=_unread(run.folder) if code == 0 else _why(code, run.folder),
            exit_code=code if code >= 0 else 128 - code,
            started=run.started,
            finished=finished,
            gpus=self._program.gpus,
            report=run.live if report is None else report,
            source="TerminationMessage" if report is not None else "Log" if self._spec.metrics.logs else "Report",
            curve=run.shown,
            weights=final_weights(told),
        )

    def _read(self, run: _Run, *, last: bool) -> None:
        objective = self._spec.objectives[0].metric
        before = run.live
        reports = [*live_reports("\n".join(run.metrics.lines(last=last)))]
        logs = self._spec.metrics.logs
        for step, metrics in (*reports, *(log_reports(run.log.lines(last=last), logs.pattern) if logs else ())):
            run.live = run.live.followed_by(step, metrics)
            if objective in metrics:
                reached = step if step is not None else (run.curve[-1][0] + 1 if run.curve else 0)
                while run.curve and run.curve[-1][0] >= reached:
                    run.curve.pop()
                run.curve.append((reached, metrics[objective]))
        if run.live is not before:
            del run.curve[:-CURVE_LIMIT]
            run.shown = tuple(run.curve)

    def _release(self, run: _Run) -> None:
        self._free += run.gpus
        run.gpus = ()
        if run.handle is not None:
            os.close(run.handle)
            run.handle = None


def _prepare(folder: Path, parameters: str) -> int:
    """Make a Trial's folder as its program finds it; gives the open log. Raises WriteFailed."""
    try:
        for leftover in (METRICS, TERMINATION):
            _remove(folder / leftover)  # of an earlier attempt, whose result this one's must not be taken for
        for written in (PARAMETERS, LOG):
            if stands_for(folder / written):
                _remove(folder / written)  # an earlier attempt has put it in the file's place
        (folder / TERMINATION).touch()
        (folder / PARAMETERS).write_text(parameters)
        return os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WriteFailed(folder, error) from None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _refuse_full_disk(folder: Path) -> None:
    """Raise WriteFailed where a program may lack its result because there was no room for it: that is not the program's fault."""
    probe = folder / "room.tmp"
    try:
        probe.write_bytes(b"." * ROOM)
    except OSError as error:
        if error.errno in FULL:
            raise WriteFailed(folder, error) from None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _refusal(error: OSError | ValueError) -> str:
    """Why a program could not be started; raises RunBroken when any other could not be either."""
    number = error.errno if isinstance(error, OSError) else None
    if number in EXHAUSTED | FULL:
        raise RunBroken(
            f"No process can be started: {os.strerror(number or 0)}. Nothing that was recorded is lost: "
            "when there is room, or with a smaller --parallelism, run the same command again."
        ) from None
    if number == errno.ENOEXEC:
        return "it is no program that this machine can run, or a script without a first line that names its interpreter"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, without reaping it: until then its number, which is its group's too, is given to no other."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """Signal a process and all its group, whose number is its own until it has been reaped."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, what)


def _unread(folder: Path) -> str:
    """What a program has put where its reports are read from files; empty where all are files."""
    places = {"HPO_METRICS_FILE": METRICS, "HPO_TERMINATION_FILE": TERMINATION, "its log": LOG}
    found = [(place, name, what) for place, name in places.items() if (what := stands_for(folder / name))]
    remedy = "Let the program, or hpo.report, append lines to a file."
    return " ".join(str(Fault(place, name, f"is {what}, must be a regular file", remedy)) for place, name, what in found)


def _why(code: int, folder: Path) -> str:
    how = f"ended with exit code {code}"
    if code < 0:
        known = {each.value: each.name for each in signal.Signals}
        how = f"was killed by {known.get(-code, f'signal {-code}')}"
        how += " (the system kills so when memory runs out)" if -code == signal.SIGKILL else ""
    line = last_line(folder / LOG)
    return f"The program {how}" + (f"; its last words: {line}" if line else "; it printed nothing") + "."
