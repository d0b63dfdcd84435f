"""The algorithm of one Study in a process of its own, with limits on time and memory.

A method that loops, leaks or crashes takes its worker with it and nothing else: the answer is then a quasi-random fallback, and the
next question goes to a new worker. The worker keeps the history that it has been sent, so that a question carries only what has
changed; that memory is a cache, which a new worker simply gets whole.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

from hpo_algorithms import Answer, Origin, Problem, Stop, build
from hpo_algorithms import Trial as Seen
from hpo_algorithms.registry import DEFAULT_ALGORITHM

from hpo_operator.ledger import Ledger
from hpo_operator.planner import Consultation

TIMEOUT_SECONDS = 120.0
MEMORY_BYTES = 8 * 2**30
FALLBACK: dict[str, dict[str, Any]] = {"sobol": {}}

NOTHING = Answer()
_HEADER = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class _Question:
    version: int
    changes: tuple[tuple[int, Seen | None], ...]
    first: int
    count: int
    whole: bool


@dataclass(frozen=True, slots=True)
class _Reply:
    answer: Answer = NOTHING
    stops: tuple[Stop, ...] = ()
    error: str = ""


class Consultant:
    """Asks a Study's algorithm without waiting for it: `ask`, then `poll` until it gives a Consultation.

    `fileno()` becomes readable when an answer is there, for a selector.
    """

    def __init__(
        self,
        problem: Problem,
        algorithm: Mapping[str, Any] | None,
        schedule: Mapping[str, Any] | None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        memory: int = MEMORY_BYTES,
    ) -> None:
        self._problem, self._algorithm, self._schedule = problem, algorithm or {DEFAULT_ALGORITHM: {}}, schedule
        self._timeout, self._memory = timeout, memory
        self._sent = 0
        self._asked: tuple[Ledger, _Question, float] | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._start()

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        return self._asked is not None

    def fileno(self) -> int:
        assert self._worker is not None and self._worker.stdout is not None
        return self._worker.stdout.fileno()

    def ask(self, ledger: Ledger, first: int, count: int) -> None:
        """Put a question; at most one at a time."""
        assert self._asked is None
        if self._worker is None:
            self._start()
        numbers = dict.fromkeys(ledger.changed[self._sent :])
        question = _Question(ledger.version, tuple((n, ledger.view(n)) for n in numbers), first, count, self._sent == 0)
        self._asked = (ledger, question, time.monotonic())
        self._sent = ledger.version
        with contextlib.suppress(OSError):  # a worker that has died is found by poll, at the end of its output
            self._send(question)

    def poll(self) -> Consultation | None:
        """The answer, if it is there, or a fallback, if the worker has failed or taken too long."""
        if self._asked is None:
            return None
        ledger, question, since = self._asked
        reply, failure = self._receive(), ""
        if isinstance(reply, str):
            failure = reply
        elif reply is not None and reply.error:
            failure = reply.error
        elif reply is None and time.monotonic() - since > self._timeout:
            failure = f"no answer within {self._timeout:g} s"
        elif reply is None:
            return None
        self._asked = None
        if isinstance(reply, _Reply) and not failure:
            return Consultation(question.version, question.first, reply.answer.proposals, reply.answer.finished, reply.stops)
        self.close()
        return self._fallback(ledger, question, failure)

    def close(self) -> None:
        """End the worker; a later question starts a new one."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            for pipe in (self._worker.stdin, self._worker.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._worker, self._sent, self._buffer, self._asked = None, 0, b"", None

    def _start(self) -> None:
        # Threads of the linear algebra library would fight over the cores with the Trials themselves.
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._worker = subprocess.Popen(
            [sys.executable, "-c", "from hpo_operator.consultant import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **single},
            start_new_session=True,  # an interrupt at the keyboard is the runner's to handle
            bufsize=0,
        )
        assert self._worker.stdout is not None
        os.set_blocking(self._worker.stdout.fileno(), False)
        self._send((self._problem, self._algorithm, self._schedule, self._memory))

    def _send(self, value: object) -> None:
        assert self._worker is not None and self._worker.stdin is not None
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        view = memoryview(_HEADER.pack(len(data)) + data)
        while view:
            view = view[self._worker.stdin.write(view) or 0 :]

    def _receive(self) -> _Reply | str | None:
        """A reply, None while it is not complete, or a string that says how the worker ended."""
        assert self._worker is not None and self._worker.stdout is not None
        while True:
            try:
                data = os.read(self._worker.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return None
            if not data:
                code = self._worker.wait()
                return f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
            self._buffer += data
            if len(self._buffer) >= _HEADER.size:
                (size,) = _HEADER.unpack_from(self._buffer)
                if len(self._buffer) >= _HEADER.size + size:
                    reply: _Reply = pickle.loads(self._buffer[_HEADER.size : _HEADER.size + size])
                    self._buffer = self._buffer[_HEADER.size + size :]
                    return reply

    def _fallback(self, ledger: Ledger, question: _Question, failure: str) -> Consultation:
        """Quasi-random configurations in the places that the schedule names, marked as what they are."""
        nothing = Consultation(ledger.version, question.first, error=failure)
        if question.count == 0:
            return nothing
        try:
            answer = build(self._problem, FALLBACK, self._schedule).propose(
                self._problem, ledger.history(), question.first, question.count
            )
        except Exception as error:
            return replace(nothing, error=f"{failure}; and the fallback failed: {error!r}")
        marked = tuple(replace(p, origin=Origin.FALLBACK) if p.origin is Origin.SAMPLED else p for p in answer.proposals)
        return Consultation(ledger.version, question.first, marked, answer.finished, error=failure)


def answer_questions(requests: IO[bytes], replies: IO[bytes]) -> None:
    """The worker: reads the problem, then questions, until its caller is gone."""
    opened = _read(requests)
    if opened is None:
        return
    problem, algorithm, schedule, memory = opened
    with contextlib.suppress(ValueError, OSError):  # a stricter limit may be in force, or none be supported
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    method = build(problem, algorithm, schedule)
    history: dict[int, Seen] = {}
    while (question := _read(requests)) is not None:
        history = {} if question.whole else history
        for number, seen in question.changes:
            if seen is None:
                history.pop(number, None)
            else:
                history[number] = seen
        try:
            known = [history[number] for number in sorted(history)]
            answer = method.propose(problem, known, question.first, question.count) if question.count else NOTHING
            reply = _Reply(answer, tuple(method.stops(problem, known)))
            legal = answer.proposals or answer.finished or not question.count or any(seen.active for seen in known)
            if not legal:
                reply = _Reply(error="it proposes nothing although no Trial is active")
        except Exception as error:
            reply = _Reply(error=f"{type(error).__name__}: {error}")
        data = pickle.dumps(reply, pickle.HIGHEST_PROTOCOL)
        replies.write(_HEADER.pack(len(data)) + data)
        replies.flush()


def _read(requests: IO[bytes]) -> Any:
    header = requests.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    data = requests.read(_HEADER.unpack(header)[0])
    return pickle.loads(data)


def main() -> None:
    """The worker's entry point."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an algorithm prints must not get among the answers
    answer_questions(sys.stdin.buffer, replies)
