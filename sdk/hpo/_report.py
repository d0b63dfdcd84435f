"""Reports: how far the training has come, and how good it is there.

A report goes to each place that the environment names: the final message, which is the Trial's result; a file of all reports,
which the local runner follows; /metrics, which Prometheus scrapes; and, outside any Study, a line on stderr. A place that
fails is told once and tried again at the next report; it never stops the training.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from hpo._environment import Environment
from hpo._errors import InvalidEnvironment, InvalidStep
from hpo._files import append_line, newest_line, settle, write_last_line
from hpo._message import (
    Restored,
    Saved,
    Summary,
    checkpoints_line,
    donor_unavailable_line,
    infeasible_line,
    result_line,
)
from hpo._notices import note, note_once
from hpo._values import as_text, checked_metrics, checked_step

# One lock a process. Reentrant, since a signal handler may report in the middle of a report; and held during a fork, so
# that a child never inherits half a report or a lock that nobody will release.
_lock = threading.RLock()
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class Reporter:
    """All reports of one process for one Trial; `echo` prints each, by default outside any Study."""

    def __init__(self, environment: Environment, *, echo: bool | None = None, clock: Callable[[], float] = time.time) -> None:
        self.trial_name = environment.trial_name
        self.summaries: dict[str, Summary] = {}
        self._objectives = environment.objectives
        self._start_step = environment.start_step
        self._termination_file = environment.termination_file
        self._metrics_file = environment.metrics_file
        self._metrics_port = environment.metrics_port
        self._echo = self.trial_name is None if echo is None else echo
        self._clock = clock
        self._step: int | None = None
        self._steps_are_given = False
        self._latest: tuple[int, Mapping[str, float]] = (self._start_step, {})
        self._saved: Saved | None = None
        self._restored: Restored | None = None
        self._line: bytes | None = None
        self._written: bytes | None = None
        self._ended = False
        self._process = os.getpid()

    def report(self, metrics: object, step: object = None) -> None:
        """Keeps and sends one report; raises `InvalidReport`, and then keeps nothing of it."""
        values = checked_metrics(metrics)
        with _lock:
            if self._ended:
                return  # the parameters were called infeasible, and that stands
            self._step = self._next_step(step)
            for name, value in values.items():
                seen = self.summaries.get(name)
                self.summaries[name] = seen.then(value) if seen else Summary.of(value)
            self._compose(self._step)
            self._send(self._step, values)

    @property
    def line(self) -> bytes | None:
        """The final message as it stands; None before anything was told."""
        return self._line

    def saved(self, checkpoint: Saved, restored: Restored | None = None) -> None:
        """Makes a complete checkpoint stand in the final message, and where the Trial's first one came from."""
        with _lock:
            if self._ended:
                return
            self._saved, self._restored = checkpoint, restored or self._restored
            self._compose(self._step)
            self._write_final_message()

    def start_from(self, step: int) -> None:
        """Counts reports without a step on from the checkpoint that was loaded, if nothing was reported yet."""
        with _lock:
            self._start_step = step
            if self._step is None:
                self._latest = step, {}

    def infeasible(self, reason: str) -> None:
        """Makes the final message say that these parameters cannot be run; reports after it change nothing."""
        self._end(infeasible_line(reason))
        if self.trial_name is None:
            note(f"infeasible: {reason}")

    def donor_unavailable(self, reason: str) -> None:
        """Makes the final message say that the Trial cannot start from its donor; reports after it change nothing."""
        self._end(donor_unavailable_line(reason))
        note(f"donor unavailable: {reason}")

    def checkpoint_not_loaded(self, reason: str) -> None:
        """Says that the Trial cannot read what it should start from; reports after it change nothing, nor is this a result."""
        with _lock:
            self._ended = True
        note(f"checkpoint not loaded: {reason}")

    def close(self) -> None:
        """Leaves the final message as short as it can be. Reports may still follow."""
        with _lock:
            # A child that was forked holds what its parent reported, and must not write it once more.
            if self._termination_file and self._line and self._process == os.getpid():
                path, line = self._termination_file, self._line
                _attempt(f"the final message could not be written to {path}", lambda: settle(path, self._that_counts(path, line)))

    def _that_counts(self, path: str, line: bytes) -> bytes:
        """The line to leave: ours, unless another process, as a child that trains, has told all that is needed since."""
        if self._ended or self._written is not line:
            return line
        newer = newest_line(path)
        with suppress(ValueError, TypeError):
            told = json.loads(newer)
            needed = {name for name in self._objectives or self.summaries if name in self.summaries}
            is_result = needed <= set(told.get("metrics", ())) and (self._saved is None or "checkpoint" in told)
            if is_result or "infeasible" in told or "donorUnavailable" in told:
                return newer
        return line

    def _end(self, line: bytes) -> None:
        with _lock:
            self._ended = True
            self._line = line
            self._process = os.getpid()
            self._write_final_message()

    def _compose(self, step: int | None) -> None:
        """Puts the final message together of all that is known."""
        seen_so_far = dict(self.summaries)  # a signal handler may add a metric while these are gone through
        if step is None:
            self._line = checkpoints_line(self._saved, self._restored)
        else:
            self._latest = step, {name: summary.last for name, summary in seen_so_far.items()}
            self._line = result_line(step, seen_so_far, self._objectives, self._saved, self._restored)
        self._process = os.getpid()

    def _next_step(self, given: object) -> int:
        if given is None:
            if self._step is None:
                return self._start_step + 1
            return self._step if self._steps_are_given else self._step + 1
        step = checked_step(given)
        if self._step is not None and step < self._step:
            rule = f"must not be smaller than {self._step}, the step of the report before"
            remedy = "Count on over all epochs and folds; leave the step out to report at the same step again"
            raise InvalidStep("step", given, rule, remedy)
        if self._step is None and step < self._start_step:
            remedy = "was the checkpoint restored, and does the loop begin after hpo.start_step()?"
            note_once("start step", f"step {step} lies before this Trial's start step {self._start_step}: {remedy}")
        self._steps_are_given = True
        return step

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        self._write_final_message()
        if self._metrics_file:
            path, record = self._metrics_file, {"time": self._clock(), "step": step, "metrics": _as_texts(values)}
            line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
            _attempt(f"reports could not be appended to {path}", lambda: append_line(path, line))
        if self._metrics_port:
            port, self._metrics_port = self._metrics_port, None
            _attempt(f"/metrics could not be served on port {port}", lambda: self._serve(port))
        if self._echo:
            note(f"step {step}: " + ", ".join(f"{name}={value:g}" for name, value in values.items()))

    def _write_final_message(self) -> None:
        if self._termination_file and self._line:
            path, line = self._termination_file, self._line

            def write() -> None:
                write_last_line(path, line)
                self._written = line

            _attempt(f"the final message could not be written to {path}", write)
        elif self.trial_name is not None and not self._metrics_file:
            note_once("nowhere", "HPO_TERMINATION_FILE is not set: this Trial's reports reach nobody")

    def _serve(self, port: int) -> None:
        try:
            from hpo._exposition import serve

            serve(port, lambda: self._latest, self._parameters())
        except (ImportError, RuntimeError) as error:  # no prometheus-client; no new threads as the interpreter ends
            raise OSError(str(error)) from error

    def _parameters(self) -> Mapping[str, object]:
        try:
            return Environment().parameters or {}
        except InvalidEnvironment:  # whoever asks for them is told
            return {}


_reporter: Reporter | None = None


def reporter(*, echo: bool | None = None) -> Reporter:
    """This process's reporter, made at its first use; another one where the process was handed another Trial."""
    global _reporter  # noqa: PLW0603  one Trial a process: its reports belong together wherever they are made
    with _lock:
        environment = Environment()
        if _reporter is None or _reporter.trial_name != environment.trial_name:
            _reporter = Reporter(environment, echo=echo)
            atexit.register(_reporter.close)
        return _reporter


def report(metrics: Mapping[str, object] | None = None, /, step: object = None, **more_metrics: object) -> None:
    """Reports metrics, in any of these forms and from any thread.

        hpo.report(step=epoch, val_loss=0.31, accuracy=0.9)
        hpo.report(val_loss=0.31)
        hpo.report({"valid_1 auc": 0.9}, step=3)            # names that are no Python names

    A value is whatever float() makes one number of: NaN and infinities, numbers of numpy, tensors of one element. A step is a
    whole number that never gets smaller. Without a step, reports are counted on from the start step; once steps are given,
    a report without one belongs to the last of them.

    Of several processes that train one model only the first rank should report. Raises `InvalidReport`.
    """
    if metrics is not None and not isinstance(metrics, Mapping):
        checked_metrics(metrics)  # says what is wrong with it
    reporter().report({**(metrics or {}), **more_metrics}, step)


def _as_texts(values: Mapping[str, float]) -> dict[str, str]:
    return {name: as_text(value) for name, value in values.items()}


def _attempt(failure: str, act: Callable[[], None]) -> None:
    try:
        act()
    except OSError as error:
        note_once(failure, f"{failure} ({error}); training goes on")
