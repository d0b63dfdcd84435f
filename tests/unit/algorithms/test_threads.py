"""Linear algebra runs on one thread while a sampler draws, whatever the process around it has set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import scipy.linalg  # noqa: F401  so that its library is there to be looked at
from hpo_algorithms import Draw, Fault, Problem
from hpo_algorithms.population import pb2
from hpo_algorithms.scheduled import Scheduled
from hpo_algorithms.schedules.flat import Flat
from hpo_algorithms.trials import History
from threadpoolctl import threadpool_info, threadpool_limits

from tests.unit.algorithms.spaces import CONTINUOUS, read

PROPOSALS = """
import numpy as np
from hpo_algorithms import Problem, State, Trial, build
from tests.unit.algorithms.spaces import WIDE, read

space, rng = read(WIDE[:28]), np.random.default_rng(0)
history = []
for number in range(60):
    params = space.sample(rng)
    u = np.nan_to_num(space.encode(params), nan=0.1)
    history.append(Trial(number, params, state=State.DONE, losses=(float(((u - 0.3) ** 2).sum()),)))
print(build(Problem(space, seed=3), {"gp": {}}).propose(Problem(space, seed=3), history, 60, 3).proposals)
"""

DRAWS_AT_ONCE = """
import threading
import scipy.linalg
from hpo_algorithms.threads import one_thread
from tests.unit.algorithms.test_threads import threads

entered, leave, seen = threading.Event(), threading.Event(), [threads()]

def draw():
    with one_thread():
        entered.set()
        leave.wait(60)
        seen.append(threads())

other = threading.Thread(target=draw)
with one_thread():
    other.start()
    entered.wait(0.2)  # which may have to wait for this one
leave.set()
other.join()
print([*seen, threads()])
"""


def answered(program: str, count: str) -> str:
    """What a program prints that has `count` threads."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, check=True, text=True).stdout


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threadpool_limits(2, user_api="blas"):
        yield


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_proposals_do_not_depend_on_how_many_threads_the_process_has() -> None:
    """The first draw loads SciPy, and with it a second library that is to have one thread."""
    answers = [answered(PROPOSALS, count) for count in ("1", "2")]
    assert answers[0].count("Proposal(") == 3
    assert answers[0] == answers[1]


@dataclass(frozen=True)
class Counting:
    """A sampler that looks at how many threads it has."""

    seen: list[set[int]] = field(default_factory=list)

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return ()

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        self.seen.append(threads())
        return [Draw(problem.space.decode([0.5, 0.5]))]


@pytest.mark.usefixtures("two_threads")
def test_a_sampler_has_one_thread_and_afterwards_the_process_has_those_that_it_had() -> None:
    sampler, problem, before = Counting(), Problem(read(CONTINUOUS)), threads()
    Scheduled(sampler, Flat()).propose(problem, [], 0, 1)
    assert sampler.seen == [{1}]
    assert threads() == before


@pytest.mark.usefixtures("two_threads")
def test_pb2_which_is_no_sampler_has_one_thread_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(pb2, "answer", lambda *arguments: seen.append(threads()))
    pb2.PB2().propose(Problem(read(CONTINUOUS), 1, 1, 9), [], 0, 1)
    assert seen == [{1}]


def test_a_draw_that_ends_leaves_another_one_its_one_thread() -> None:
    """In a process of its own: in this one a fixture has the limits in its hand."""
    assert answered(DRAWS_AT_ONCE, "2") == "[{2}, {1}, {2}]\n"
