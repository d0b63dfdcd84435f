"""Trials as processes: each a session of its own, so that all its children can be ended with it.

A process stands for a pod. Its output goes straight into a file, so that nothing it prints can block or fill this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil

from hpo_operator import conditions as c
from hpo_operator.local.program import Program
from hpo_operator.local.tail import Tail, end_of, last_line
from hpo_operator.reports import Report, final_message, live_reports, log_reports
from hpo_operator.resources import StudySpec, WorkloadRef
from hpo_operator.workloads import ABSENT, Phase, Workload

CURVE_LIMIT = 4096  # points kept of a running Trial's curve; the last ones win


@dataclass(slots=True)
class _Run:
    """One process, from its start until its result has been taken."""

    name: str
    folder: Path
    gpus: tuple[str, ...]
    started: datetime
    process: subprocess.Popen[bytes] | None = None
    handle: int | None = None
    refused: str = ""
    terminating: float | None = None
    finished: datetime | None = None
    workload: Workload | None = None
    live: Report = field(default_factory=Report)
    curve: list[tuple[int, float]] = field(default_factory=list)
    metrics: Tail = field(init=False)
    log: Tail = field(init=False)

    def __post_init__(self) -> None:
        self.metrics, self.log = Tail(self.folder / "metrics.jsonl"), Tail(self.folder / "log.txt")


class Processes:
    """The running Trials of one Study by number, and the GPUs that they hold."""

    def __init__(self, spec: StudySpec, program: Program, gpus: Sequence[str] | None) -> None:
        self._spec, self._program = spec, program
        self._free = list(gpus) if gpus is not None else []
        self._hand_out = gpus is not None
        self._runs: dict[int, _Run] = {}
        self._waiting: dict[int, tuple[str, Path, Mapping[str, str]]] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def handles(self) -> list[int]:
        """File descriptors that become readable when a process ends; fewer than processes where the system has none."""
        return [run.handle for run in self._runs.values() if run.handle is not None]

    def start(self, number: int, name: str, folder: Path, trial: Mapping[str, str]) -> None:
        """Start a Trial's program, or let it wait for a GPU."""
        if number in self._runs or number in self._waiting:
            return
        if self._hand_out and len(self._free) < self._program.gpus:
            self._waiting[number] = (name, folder, trial)
            return
        taken = tuple(self._free.pop(0) for _ in range(self._program.gpus)) if self._hand_out else ()
        self._runs[number] = self._launch(name, folder, trial, taken)

    def stop(self, number: int) -> None:
        """Ask a Trial's processes to end, and make them when the grace period is over; forget one that has ended."""
        self._waiting.pop(number, None)
        run = self._runs.get(number)
        if run is None:
            return
        if run.process is None or run.finished is not None:
            self._forget(number)
        elif run.terminating is None:
            run.terminating = time.monotonic()
            _signal(run.process.pid, signal.SIGTERM)

    def look(self) -> dict[int, Workload]:
        """What can be seen of all Trials here, after ending those whose grace period is over."""
        for number, (name, folder, trial) in list(self._waiting.items()):
            if len(self._free) >= self._program.gpus:
                del self._waiting[number]
                self.start(number, name, folder, trial)
        seen = {number: self._seen(run) for number, run in self._runs.items()}
        waiting = Workload(Phase.PENDING, ended=True, reason=c.UNSCHEDULABLE, message="Waits for a free GPU.")
        return seen | dict.fromkeys(self._waiting, waiting)

    def measure(self) -> None:
        """Read what running programs have reported since the last time."""
        for run in self._runs.values():
            if run.finished is None:
                self._read(run, last=False)

    def end_all(self) -> None:
        """End every process: all are asked at once, and wait for the same grace period."""
        for number in [*self._waiting, *self._runs]:
            self.stop(number)
        while any(run.finished is None and run.process for run in self._runs.values()):
            self.look()
            time.sleep(0.02)
        self._runs.clear()

    def _launch(self, name: str, folder: Path, trial: Mapping[str, str], gpus: tuple[str, ...]) -> _Run:
        for leftover in ("metrics.jsonl", "termination.log"):
            with contextlib.suppress(FileNotFoundError):
                (folder / leftover).unlink()  # of an earlier attempt, whose result this one's must not be taken for
        (folder / "termination.log").touch()
        (folder / "parameters.json").write_text(trial["HPO_PARAMETERS"])
        variables = {
            **trial,
            "HPO_PARAMETERS_FILE": str(folder / "parameters.json"),
            "HPO_TERMINATION_FILE": str(folder / "termination.log"),
            "HPO_METRICS_FILE": str(folder / "metrics.jsonl"),
        }
        command, environment = self._program.resolved(variables)
        if self._hand_out:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        run = _Run(name, folder, gpus, datetime.now(UTC))
        try:
            with open(folder / "log.txt", "wb") as log:
                run.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._program.folder,
                    env=environment,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            run.refused = f"{command[0]}: {reason}"
            return run
        with contextlib.suppress(AttributeError, OSError):  # not on every system; the runner then looks at intervals
            run.handle = os.pidfd_open(run.process.pid)
        with contextlib.suppress(psutil.Error):
            born = psutil.Process(run.process.pid).create_time()
            (folder / "process.json").write_text(json.dumps({"pid": run.process.pid, "created": born}))
        return run

    def _seen(self, run: _Run) -> Workload:
        if run.workload is not None:
            return run.workload
        ref = WorkloadRef(api_version="v1", kind="Process", name=run.name, uid=f"{run.name}-{run.started.timestamp():.6f}")
        if run.process is None:
            message = f"The program could not be started: {run.refused}."
            found = Workload(Phase.FAILED, ref, True, c.PROGRAM_FAILED, message, 127, started=run.started, finished=run.started)
        elif _has_ended(run.process):
            found = self._finished(run, ref)
        else:
            if run.terminating is not None and time.monotonic() - run.terminating > self._program.grace_seconds:
                _signal(run.process.pid, signal.SIGKILL)
            return Workload(
                Phase.RUNNING, ref, started=run.started, gpus=self._program.gpus, report=run.live, curve=tuple(run.curve)
            )
        run.workload = found
        return found

    def _finished(self, run: _Run, ref: WorkloadRef) -> Workload:
        assert run.process is not None
        _signal(run.process.pid, signal.SIGKILL)  # like a container, a Trial ends with its first process
        code = run.process.wait()
        run.finished = datetime.now(UTC)
        self._release(run)
        self._read(run, last=True)
        message = end_of(run.folder / "termination.log")
        report, source = final_message(message), "TerminationMessage"
        if report is None:
            report, source = run.live, "Log" if self._spec.metrics.logs else "Report"
        return Workload(
            phase=Phase.SUCCEEDED if code == 0 else Phase.FAILED,
            ref=ref,
            ended=True,
            message="" if code == 0 else _why(code, run.folder),
            exit_code=code if code >= 0 else 128 - code,
            started=run.started,
            finished=run.finished,
            gpus=self._program.gpus,
            report=report,
            source=source,  # type: ignore[arg-type]
            curve=tuple(run.curve),
        )

    def _read(self, run: _Run, *, last: bool) -> None:
        reports = list(live_reports("\n".join(run.metrics.lines(last=last))))
        if self._spec.metrics.logs and (lines := run.log.lines(last=last)):
            reports += log_reports(lines, self._spec.metrics.logs.pattern)
        objective = self._spec.objectives[0].metric
        for step, metrics in reports:
            run.live = run.live.followed_by(step, metrics)
            if objective in metrics:
                reached = step if step is not None else (run.curve[-1][0] + 1 if run.curve else 0)
                while run.curve and run.curve[-1][0] >= reached:
                    run.curve.pop()
                run.curve.append((reached, metrics[objective]))
        del run.curve[:-CURVE_LIMIT]

    def _release(self, run: _Run) -> None:
        self._free += run.gpus
        run.gpus = ()
        if run.handle is not None:
            os.close(run.handle)
            run.handle = None

    def _forget(self, number: int) -> None:
        self._release(self._runs.pop(number))


def kill_orphans(uid: str, folders: Iterator[Path]) -> int:
    """End the processes that an earlier runner of a Study has left behind; gives how many there were.

    They are known by the process that stands in a Trial's folder, and by the Study's uid in their environment, which also
    finds what they have started, and what was started just before the runner was killed.
    """
    victims: dict[int, psutil.Process] = {}
    for folder in folders:
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            known = json.loads((folder / "process.json").read_text())
            process = psutil.Process(known["pid"])
            if abs(process.create_time() - known["created"]) < 1:  # else the number has been given to another process
                for each in (process, *process.children(recursive=True)):
                    victims[each.pid] = each
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("HPO_STUDY_UID") == uid and process.pid != os.getpid():
                victims[process.pid] = process
    for process in victims.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(victims.values()), timeout=10)
    return len(victims)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has ended, without reaping it: until then its number, which is its group's too, is given to no other."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal(group: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, what)


def _why(code: int, folder: Path) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    line = last_line(folder / "log.txt")
    return f"The program {how}" + (f"; its last words: {line}" if line else "; it printed nothing") + "."


__all__ = ["ABSENT", "Processes", "kill_orphans"]
