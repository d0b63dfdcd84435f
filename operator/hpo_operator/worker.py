"""The process in which a Study's algorithm runs: the other end of a Consultant, which explains why there is one.

Over its standard input come an Opening and then Questions, each answered by a Reply on its standard output; all are pickles behind
their length. It imports the algorithms and nothing else of this package, so that it is soon ready.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import select
import struct
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from hpo_algorithms import Algorithm, Answer, Origin, Problem, Stop, Trial, build
from hpo_algorithms.registry import default_schedule

FALLBACK: dict[str, dict[str, Any]] = {"sobol": {}}
HEADER = struct.Struct(">Q")
NOTHING = Answer()
MAX_MEMO = 2048  # bytes; it stands in the Trial's spec


@dataclass(frozen=True, slots=True)
class Opening:
    """What stays the same for all questions; `memory` is a limit in bytes, 0 for none; with `donors` these are told, too."""

    problem: Problem
    algorithm: Mapping[str, Any]
    schedule: Mapping[str, Any] | None
    memory: int
    donors: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """Proposals for `count` Trials from number `first`, and whom to stop.

    `changes` are the Trials that have changed since the last question, None for those that no longer count; they are all there are
    when it is `whole`. With `fallback` the algorithm itself is left alone.
    """

    changes: tuple[tuple[int, Trial | None], ...]
    first: int
    count: int
    whole: bool
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, from the fallback where `error` says why the algorithm has none. A process that is `broken` is used no more."""

    answer: Answer = NOTHING
    stops: tuple[Stop, ...] = ()
    error: str = ""
    broken: bool = False
    donors: frozenset[int] | None = None


class Method:
    """A Study's algorithm, with the history that it has been told and the fallback for when it fails."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._history: dict[int, Trial] = {}
        self._own: Algorithm | None = None

    def history(self) -> list[Trial]:
        """What has been told, by number."""
        return [self._history[number] for number in sorted(self._history)]

    def reply(self, question: Question) -> Reply:
        """Take in what has changed, and answer."""
        if question.whole:
            self._history.clear()
        for number, seen in question.changes:
            if seen is None:
                self._history.pop(number, None)
            else:
                self._history[number] = seen
        known, error = self.history(), ""
        if not question.fallback:
            try:
                return self._answered(known, question)
            except MemoryError as failure:
                return Reply(error=f"{_named(failure)} (its limit is {self._opening.memory / 2**30:.1f} GiB)", broken=True)
            except Exception as failure:
                traceback.print_exc()
                error = _named(failure)
        try:
            return self._fallen_back(known, question, error)
        except Exception as failure:
            traceback.print_exc()
            return Reply(error=f"{error or 'It failed before'}; and the fallback failed: {_named(failure)}")

    def _answered(self, known: Sequence[Trial], question: Question) -> Reply:
        opening = self._opening
        if self._own is None:
            self._own = build(opening.problem, opening.algorithm, opening.schedule)
        answer = NOTHING
        if question.count:
            answer = _legal(opening.problem, self._own.propose(opening.problem, known, question.first, question.count), known)
        donors = self._own.donors(opening.problem, known) if opening.donors else None
        return Reply(answer, tuple(self._own.stops(opening.problem, known)), donors=donors)

    def _fallen_back(self, known: Sequence[Trial], question: Question, error: str) -> Reply:
        """Quasi-random configurations in the places that the schedule names, marked as what they are.

        A fallback's memo would be taken for the algorithm's own. So its place in the sequence is the Trial's number instead.
        """
        opening = self._opening
        name = next(iter(opening.algorithm))
        schedule = opening.schedule or {default_schedule(name, opening.problem): {}}
        method = build(opening.problem, FALLBACK, schedule)
        numbered = [replace(trial, memo=str(trial.number)) for trial in known]
        answer = NOTHING
        if question.count:
            answer = method.propose(opening.problem, numbered, question.first, question.count)
        proposals = tuple(
            replace(each, memo="", origin=Origin.FALLBACK) if each.origin is Origin.SAMPLED else each for each in answer.proposals
        )
        return Reply(replace(answer, proposals=proposals), tuple(method.stops(opening.problem, known)), error)


def _legal(problem: Problem, answer: Answer, known: Sequence[Trial]) -> Answer:
    """The answer, if the planner can make Trials of it; raises ValueError otherwise."""
    if not answer.proposals and not answer.finished and not any(trial.active for trial in known):
        raise ValueError("it proposes nothing although no Trial is active")
    numbers = {trial.number for trial in known}
    for proposal in answer.proposals:
        problem.space.validate(proposal.params)
        if proposal.budget is not None and not 1 <= proposal.budget <= (problem.max_budget or proposal.budget):
            raise ValueError(f"it proposes budget {proposal.budget}, which is not between 1 and {problem.max_budget}")
        if proposal.donor is not None and proposal.donor not in numbers:
            raise ValueError(f"it proposes to go on from Trial {proposal.donor}, which there is not")
        if len(proposal.memo.encode()) > MAX_MEMO:
            raise ValueError(f"it proposes a memo of {len(proposal.memo.encode())} bytes, more than {MAX_MEMO}")
    return answer


def _named(failure: BaseException) -> str:
    text = str(failure)
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__


def main() -> None:
    """The worker's entry point."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an algorithm prints must not get among the answers
    threading.Thread(target=_end_with_caller, args=(sys.stdin.fileno(),), daemon=True).start()
    serve(sys.stdin.buffer, replies)


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer until the caller is gone."""
    opening: Opening | None = receive(requests)
    if opening is None:
        return
    if opening.memory:
        with contextlib.suppress(ValueError, OSError):  # a stricter limit may be in force, or none be supported
            resource.setrlimit(resource.RLIMIT_DATA, (opening.memory, opening.memory))
    method = Method(opening)
    while (question := receive(requests)) is not None:
        replies.write(framed(method.reply(question)))
        replies.flush()


def framed(value: object) -> bytes:
    """A value as it goes over a pipe."""
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(data)) + data


def receive(stream: IO[bytes]) -> Any:
    """The next value of a pipe; None at its end."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    data = stream.read(size)
    return pickle.loads(data) if len(data) == size else None


def _end_with_caller(requests: int) -> None:
    """An algorithm that never comes to an end must not outlive the runner that was killed meanwhile."""
    poller = select.poll()
    poller.register(requests, 0)  # only that the other end was closed
    poller.poll()
    os._exit(0)
