"""The algorithm of one Study in a process of its own, with limits on time and memory.

A method that loops, leaks or crashes takes its worker with it and nothing else: the same question then goes to a new worker, which
answers it by a quasi-random fallback, and the next one to the algorithm again. One that keeps failing so is asked ever more rarely.
The worker keeps the history that it has been sent, so that a question carries only what has changed; that memory is a cache, which
a new worker simply gets whole.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo_algorithms import Problem
from hpo_algorithms.registry import DEFAULT_ALGORITHM

from hpo_operator.actions import Consultation
from hpo_operator.ledger import Ledger
from hpo_operator.worker import HEADER, Opening, Question, Reply, framed

TIMEOUT_SECONDS = 120.0
MEMORY_BYTES = 8 * 2**30
MEMORY_SHARE = 0.5  # of this machine's, where that is less: the Trials need the rest
MAX_PASSED_OVER = 63
# -P: a user's own random.py in the working directory must not become a part of the algorithm.
WORKER = (sys.executable, "-P", "-c", "from hpo_operator.worker import main; main()")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question on its way: `failure` is why it goes to the fallback."""

    ledger: Ledger
    version: int
    first: int
    count: int
    since: float
    failure: str = ""


class NoWorker(OSError):
    """The system gives no process, or no log for it; the message says why."""


class Consultant:
    """Asks a Study's algorithm without waiting for it: `ask`, then `poll` until it gives a Consultation.

    `fileno()` becomes readable whenever `poll` has something to do but to look at the clock, and stays the same for life.

    Args:
        timeout: seconds that an answer may take.
        memory: bytes that the worker may allocate, 0 for no limit; half of this machine's and at most 8 GiB when left out.
        donors: whether answers say which checkpoints may still be needed.
        log: a file for what the algorithm prints and for its tracebacks; the caller's stderr when left out.
    """

    def __init__(
        self,
        problem: Problem,
        algorithm: Mapping[str, Any] | None,
        schedule: Mapping[str, Any] | None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        memory: int | None = None,
        donors: bool = False,
        log: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        memory = _memory() if memory is None else memory
        self._opening = Opening(problem, algorithm or {DEFAULT_ALGORITHM: {}}, schedule, memory, donors)
        self.timeout = timeout
        self._log, self._clock = log, clock
        self._sent = 0
        self._selector = selectors.DefaultSelector()
        self._asked: _Asked | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._incoming = bytearray()
        self._outgoing = memoryview(b"")
        self._strikes = 0  # how often in a row the worker has been lost
        self._passes = 0  # how many questions now pass the algorithm over, and why
        self._reason = ""

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        return self._asked is not None

    def start(self) -> None:
        """Start the worker before it is needed."""
        if self._worker is None:
            self._start()

    def fileno(self) -> int:
        return self._selector.fileno()

    def ask(self, ledger: Ledger, first: int, count: int) -> None:
        """Put a question; at most one at a time."""
        assert self._asked is None
        passed_over = self._passes > 0
        self._passes -= passed_over
        self._put(ledger, first, count, self._reason if passed_over else "")

    def poll(self) -> Consultation | None:
        """The answer, if it is there; it is a fallback if the worker has failed or taken too long."""
        asked = self._asked
        if asked is None:
            return None
        self._send()
        reply = self._receive()
        if reply is None:
            if self._clock() - asked.since <= self.timeout:
                return None
            reply = Reply(error=f"no answer within {self.timeout:g} s", broken=True)
        if not reply.broken:
            self._asked = None
            if not asked.failure:
                self._strikes = 0
            answer, error = reply.answer, "; ".join(each for each in (asked.failure, reply.error) if each)
            told = (answer.proposals, answer.finished, reply.stops, error, asked.count, reply.donors)
            return Consultation(asked.version, asked.first, *told)
        self.close()
        if asked.failure:
            error = f"{asked.failure}; and the fallback failed: {reply.error}"
            return Consultation(asked.version, asked.first, error=error, count=asked.count)
        self._strikes += 1
        self._passes, self._reason = min(2 ** (self._strikes - 1) - 1, MAX_PASSED_OVER), reply.error
        self._put(asked.ledger, asked.first, asked.count, reply.error)
        return None

    def close(self) -> None:
        """End the worker; a later question starts a new one."""
        if self._worker is not None:
            for key in list(self._selector.get_map().values()):
                self._selector.unregister(key.fileobj)
            self._worker.kill()
            self._worker.wait()
            for pipe in (self._worker.stdin, self._worker.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._worker, self._sent, self._asked = None, 0, None
        self._incoming, self._outgoing = bytearray(), memoryview(b"")

    def _start(self) -> None:
        # Threads of the linear algebra library would fight over the cores with the Trials themselves.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            with contextlib.ExitStack() as stack:
                errors = stack.enter_context(open(self._log, "ab")) if self._log is not None else None
                self._worker = subprocess.Popen(
                    WORKER,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**os.environ, **single},
                    start_new_session=True,  # an interrupt at the keyboard is the runner's to handle
                    bufsize=0,
                )
        except OSError as error:
            raise NoWorker(": ".join(filter(None, (error.filename and str(error.filename), error.strerror)))) from error
        assert self._worker.stdin is not None and self._worker.stdout is not None
        for pipe in (self._worker.stdin, self._worker.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._selector.register(self._worker.stdout, selectors.EVENT_READ)
        self._outgoing = memoryview(framed(self._opening))
        self._send()

    def _put(self, ledger: Ledger, first: int, count: int, failure: str) -> None:
        self.start()
        numbers = dict.fromkeys(ledger.changed[self._sent :])
        changes = tuple((number, ledger.view(number)) for number in numbers)
        question = Question(changes, first, count, whole=self._sent == 0, fallback=bool(failure))
        self._asked = _Asked(ledger, ledger.version, first, count, self._clock(), failure)
        self._sent = ledger.version
        self._outgoing = memoryview(bytes(self._outgoing) + framed(question))
        self._send()

    def _send(self) -> None:
        """Write as much as the worker takes now: it may be busy, or never read again."""
        assert self._worker is not None and self._worker.stdin is not None
        pipe = self._worker.stdin
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[os.write(pipe.fileno(), self._outgoing) :]
        except BlockingIOError:
            if pipe not in self._selector.get_map():
                self._selector.register(pipe, selectors.EVENT_WRITE)
            return
        except OSError:
            self._outgoing = memoryview(b"")  # the worker has died, which the end of its output tells
        if pipe in self._selector.get_map():
            self._selector.unregister(pipe)

    def _receive(self) -> Reply | None:
        """A reply, None while it is not complete; one that is broken when the worker has ended."""
        assert self._worker is not None and self._worker.stdout is not None
        while True:
            try:
                data = os.read(self._worker.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return None
            if not data:
                return Reply(error=f"its process {_ended(self._worker)}", broken=True)
            self._incoming += data
            if len(self._incoming) >= HEADER.size:
                (size,) = HEADER.unpack_from(self._incoming)
                if len(self._incoming) >= HEADER.size + size:
                    whole = bytes(self._incoming[HEADER.size : HEADER.size + size])
                    del self._incoming[: HEADER.size + size]
                    return _reply(whole)


def _reply(data: bytes) -> Reply:
    try:
        found = pickle.loads(data)
    except Exception as error:  # of a class that this process cannot import, say
        return Reply(error=f"its answer cannot be read: {error}", broken=True)
    return found if isinstance(found, Reply) else Reply(error="it has given no answer", broken=True)


def _ended(worker: subprocess.Popen[bytes]) -> str:
    try:
        code = worker.wait(1)
    except subprocess.TimeoutExpired:
        return "has closed its output"
    if code >= 0:
        return f"ended with exit code {code}"
    known = {each.value: each.name for each in signal.Signals}
    return f"was killed by {known.get(-code, f'signal {-code}')}"


def _memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The limit on a worker's memory in bytes: on this machine, and in this container where that has less."""
    found = []
    with contextlib.suppress(ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # of either version; "max" is no limit
        with contextlib.suppress(ValueError, OSError):
            found.append(int((groups / file).read_text()))
    whole = min((each for each in found if each > 0), default=0)
    return min(MEMORY_BYTES, int(whole * MEMORY_SHARE)) if whole else MEMORY_BYTES
