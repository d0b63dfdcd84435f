"""Whatever a Study's algorithm does in its process, the Study gets an answer: its own, or a fallback that is marked as one."""

import os
import select
import signal
import subprocess
import sys
import threading

import pytest
from hpo_algorithms import Origin, registry
from hpo_operator import consultant as module
from hpo_operator.consultant import Consultant
from hpo_operator.ledger import Ledger
from hpo_operator.planner import View, trial_of
from hpo_operator.validation import problem_of, read_study
from hpo_operator.worker import serve
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.builders import START, a_trial
from tests.unit.operator.local_studies import REPORT, Laptop, alive, manifest, wait_until

# Methods that go wrong, each in another way, in a module that the worker imports before it begins.
BAD = """
import os, time
from dataclasses import dataclass
from hpo_algorithms import Answer, Proposal, Stop, registry

@dataclass(frozen=True)
class Bad:
    def errors(self, problem):
        return ()
    def propose(self, problem, history, first, count):
        return Answer((Proposal({"x": 0.125}),) * count)
    def stops(self, problem, history):
        return ()
    def donors(self, problem, history):
        return frozenset()

def bad(method):
    registry.ALGORITHMS[method.__name__.lower()] = f"bad:{method.__name__}"
    return dataclass(frozen=True)(method)

@bad
class Raises(Bad):
    def propose(self, problem, history, first, count):
        raise ZeroDivisionError("of all things")

@bad
class Raises_Sometimes(Bad):
    def propose(self, problem, history, first, count):
        if first % 2:
            raise ZeroDivisionError("an odd number")
        return super().propose(problem, history, first, count)

@bad
class Hangs(Bad):
    def propose(self, problem, history, first, count):
        open("hanging", "w").write(str(os.getpid()))
        while True:
            pass

@bad
class Eats(Bad):
    def propose(self, problem, history, first, count):
        eaten = []
        while True:
            eaten.append(bytearray(10_000_000))

@bad
class Exits(Bad):
    def propose(self, problem, history, first, count):
        os._exit(3)

@bad
class Quits(Bad):
    def propose(self, problem, history, first, count):
        raise SystemExit(4)

@bad
class Dies(Bad):
    def propose(self, problem, history, first, count):
        os.kill(os.getpid(), 11)

@bad
class Nothing(Bad):
    def propose(self, problem, history, first, count):
        return Answer()

@bad
class Strays(Bad):
    def propose(self, problem, history, first, count):
        return Answer((Proposal({"x": 2.0}),) * count)

@bad
class Overspends(Bad):
    def propose(self, problem, history, first, count):
        return Answer((Proposal({"x": 0.5}, budget=100, donor=None),) * count)

@bad
class Inherits(Bad):
    def propose(self, problem, history, first, count):
        return Answer((Proposal({"x": 0.5}, donor=7),) * count)

@bad
class Mistakes(Bad):
    def propose(self, problem, history, first, count):
        return [{"x": 0.5}]

class Unknown:
    def __reduce__(self):
        return eval, ("1 / 0",)

@bad
class Garbles(Bad):
    def stops(self, problem, history):
        return (Unknown(),)

@bad
class Prints(Bad):
    def propose(self, problem, history, first, count):
        print("to stdout")
        os.write(1, b"to its descriptor")
        os.system("echo by a child")
        return super().propose(problem, history, first, count)

@bad
class Remembers(Bad):
    def stops(self, problem, history):
        return tuple(Stop(trial.number, repr(trial), 0) for trial in history)
"""

WHY = {
    "raises": "ZeroDivisionError: of all things",
    "eats": "MemoryError",
    "exits": "its process ended with exit code 3",
    "quits": "its process ended with exit code 4",
    "dies": "its process was killed by SIGSEGV",
    "nothing": "ValueError: it proposes nothing although no Trial is active",
    "strays": "InvalidParameters: x: 2.0",
    "overspends": "ValueError: it proposes budget 100, which is not between 1 and 9",
    "inherits": "ValueError: it proposes to go on from Trial 7, which there is not",
    "mistakes": "AttributeError",
    "garbles": "its answer cannot be read: division by zero",
}


@pytest.fixture(autouse=True)
def bad_methods(tmp_path, monkeypatch):
    """The bad methods, here for validation and in every worker."""
    (tmp_path / "bad.py").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "ALGORITHMS", dict(registry.ALGORITHMS))
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    __import__("bad")
    begin = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import bad; from hpo_operator import worker"
    cheap = "worker.FALLBACK = {'random': {}}"  # the real one takes half a second to import, and has a test of its own
    monkeypatch.setattr(module, "WORKER", (sys.executable, "-P", "-c", f"{begin}; {cheap}; worker.main()"))


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def study_by(name, **spec):
    return read_study(manifest(REPORT, algorithm={name: {}}, **{"budget": {"min": 1, "max": 9}, **spec}))


class Asking:
    """A Consultant, its Study, and its ledger."""

    def __init__(self, name, tmp_path, **options):
        self.study = study_by(name)
        self.problem = problem_of(self.study.spec, 3)
        self.ledger = Ledger(self.study.spec, self.problem.space)
        self.clock = Clock()
        schedule = options.pop("schedule", None)
        log = tmp_path / "algorithm.log"
        self.consultant = Consultant(self.problem, {name: {}}, schedule, clock=self.clock, log=log, **options)

    def ask(self, count=2):
        self.consultant.ask(self.ledger, self.ledger.created, count)
        return self.answer()

    def answer(self):
        """The answer, waited for as the runner and the operator do: until the one file descriptor is readable."""
        poller = select.poll()
        poller.register(self.consultant.fileno(), select.POLLIN)
        while (answer := self.consultant.poll()) is None:
            assert poller.poll(60_000), "the descriptor never became readable"
        return answer

    def create(self, answer):
        """Make Trials of an answer's proposals."""
        for proposal in answer.proposals:
            view = View(self.study, self.ledger, {}, START)
            self.ledger.put(trial_of(view, self.ledger.created, proposal))


@pytest.fixture
def asking(tmp_path):
    opened = []

    def ask(name, **options):
        opened.append(Asking(name, tmp_path, **options))
        return opened[-1]

    yield ask
    for each in opened:
        each.consultant.close()


@pytest.mark.parametrize("name", WHY)
def test_when_the_algorithm_fails_its_places_are_filled_quasi_randomly_and_the_reason_is_told(asking, tmp_path, name):
    study = asking(name, memory=2**29 if name == "eats" else 0)
    seen = set()
    for _ in range(2 if name in ("raises", "exits") else 1):
        answer = study.ask()
        assert WHY[name] in answer.error
        assert name != "raises" or 'raise ZeroDivisionError("of all things")' in (tmp_path / "algorithm.log").read_text()
        assert [p.origin for p in answer.proposals] == [Origin.FALLBACK] * 2
        assert [(p.memo, p.budget) for p in answer.proposals] == [("", 9)] * 2
        seen |= {p.params["x"] for p in answer.proposals}
        study.create(answer)
    assert len(seen) == study.ledger.created  # no configuration is repeated


def test_an_algorithm_that_hangs_is_ended_after_its_time_and_the_next_question_is_its_own_again(asking, tmp_path):
    study = asking("hangs", timeout=120)
    file = tmp_path / "hanging"
    study.consultant.ask(study.ledger, 0, 2)
    for times in (1, 2):
        wait_until(lambda: study.consultant.poll() is None and file.exists() and file.read_text(), "the algorithm hangs")
        pid = int(file.read_text())
        file.unlink()
        study.clock.now += 119
        assert study.consultant.poll() is None
        study.clock.now += 2
        answer = study.answer()
        assert answer.error == "no answer within 120 s"
        assert [p.origin for p in answer.proposals] == [Origin.FALLBACK] * 2
        assert not alive(pid)
        if times == 1:
            study.consultant.ask(study.ledger, 0, 2)


def test_an_algorithm_that_keeps_taking_its_process_along_is_asked_ever_more_rarely(asking):
    study = asking("exits")
    workers = []
    started = subprocess.Popen
    begun = lambda: len(workers)  # noqa: E731

    class Counted(started):
        def __init__(self, *arguments, **options):
            workers.append(arguments)
            super().__init__(*arguments, **options)

    counts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.subprocess, "Popen", Counted)
        for _ in range(6):
            before = begun()
            assert "exit code 3" in study.ask(1).error
            counts.append(begun() - before)
    # One worker dies by each attempt, another answers. Attempts are at questions 0, 1, 3 (and 7).
    assert counts == [2, 1, 0, 1, 0, 0]


def test_an_algorithm_that_has_recovered_is_asked_each_time_again(asking):
    study = asking("raises_sometimes")
    errors = []
    for _ in range(4):
        answer = study.ask(1)
        errors.append(bool(answer.error))
        study.create(answer)
    assert errors == [False, True, False, True]


def test_what_an_algorithm_prints_is_in_its_log_and_not_among_its_answers(asking, tmp_path):
    study = asking("prints")
    answer = study.ask()
    assert answer.error == ""
    assert [p.params for p in answer.proposals] == [{"x": 0.125}] * 2
    assert set((tmp_path / "algorithm.log").read_text().split()) >= {"to", "stdout", "descriptorby", "child"}


def test_a_question_larger_than_a_pipe_blocks_nobody(asking):
    study = asking("random")
    for number in range(5000):
        study.ledger.put(a_trial(number).with_parameters(x="0.5").completed(loss=0.5).build())
    answer = study.ask()
    assert answer.error == ""
    assert len(answer.proposals) == 2


def test_a_fallback_has_the_places_of_the_schedule(asking):
    study = asking("random", schedule={"hyperband": {"eta": 3}})
    study.consultant._reason, study.consultant._passes = "it failed before", 1
    answer = study.ask(3)
    assert answer.error == "it failed before"
    assert [(p.origin, p.budget, p.slot.bracket, p.slot.rung, p.slot.member) for p in answer.proposals] == [
        (Origin.FALLBACK, 1, 0, 0, member) for member in range(3)
    ]


def test_fallbacks_are_quasi_random_and_do_not_move_an_algorithm_that_keeps_its_place_in_memos(asking, monkeypatch):
    monkeypatch.setattr(module, "WORKER", (*module.WORKER[:-1], "from hpo_operator.worker import main; main()"))
    study = asking("sobol")
    own = study.ask(2)
    study.create(own)
    study.consultant._reason, study.consultant._passes = "it failed before", 1
    fallen_back = study.ask(3)
    study.create(fallen_back)
    following = study.ask(1)
    assert [p.memo for p in (*own.proposals, *following.proposals)] == ["0", "1", "2"]
    # Trials 0 to 3 of one sequence: two of them in each half of the range, one in each quarter.
    places = [int(4 * p.params["x"]) for p in (*own.proposals, *fallen_back.proposals)]
    assert sorted(places[:4]) == [0, 1, 2, 3]


def test_a_worker_that_cannot_start_is_an_error_with_its_reason(asking, monkeypatch):
    monkeypatch.setattr(module, "WORKER", (sys.executable, "-c", "raise SystemExit(5)"))
    answer = asking("random").ask()
    assert answer.proposals == ()
    assert answer.error == "its process ended with exit code 5; and the fallback failed: its process ended with exit code 5"


def test_a_module_of_the_user_in_the_working_directory_is_not_taken_for_one_of_the_library(tmp_path, monkeypatch, asking):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for name in ("random", "struct", "numpy", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken for the library')")
    assert asking("sobol").ask().error == ""


@pytest.mark.parametrize("name", ["random", "hangs"])
def test_a_worker_ends_when_its_caller_is_killed_even_in_the_middle_of_an_answer(asking, tmp_path, name):
    pid = os.fork()
    if pid == 0:
        study = Asking(name, tmp_path)
        study.consultant.ask(study.ledger, 0, 1)
        (tmp_path / "worker").write_text(str(study.consultant._worker.pid))
        while True:
            study.consultant.poll()
            signal.sigtimedwait([], 0.01)
    file = tmp_path / ("hanging" if name == "hangs" else "worker")
    worker = int(wait_until(lambda: file.exists() and file.read_text(), "the worker works"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_until(lambda: not alive(worker), "the worker ends")


# In a whole Study


@pytest.mark.parametrize("name", ["exits", "raises_sometimes"])
def test_a_study_whose_algorithm_fails_ends_well_and_says_what_has_happened(tmp_path, capsys, name):
    laptop = Laptop(tmp_path)
    laptop.write(REPORT, algorithm={name: {}})
    other = Laptop(tmp_path / "other")
    other.folder.mkdir()
    other.write(REPORT, name="other")
    process = other.start()
    assert laptop.hpo("run", "--output", "json") == 0
    origins = [trial.spec.origin for trial in laptop.trials()]
    assert origins == {"exits": ["Fallback"] * 3, "raises_sometimes": ["Sampled", "Fallback", "Sampled"]}[name]
    assert laptop.ended() == "MaxTrialsReached"
    assert process.wait(60) == 0
    process.communicate()
    assert [trial.spec.origin for trial in other.trials()] == ["Sampled"] * 3


def test_a_study_that_gets_no_proposal_at_all_ends_with_an_error_and_does_not_wait_for_ever(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "WORKER", ("false",))
    monkeypatch.setattr("hpo_operator.local.runner.ALGORITHM_RETRY_SECONDS", 0.01)
    laptop = Laptop(tmp_path)
    laptop.write(REPORT)
    assert laptop.hpo("run") == 1
    err = capsys.readouterr().err
    assert "The algorithm cannot go on: its process ended with exit code 1" in err
    assert "algorithm.log has more" in err
    assert laptop.trials() == []


# The history in the worker


class Thread:
    """A worker's process for the Consultant, that is a thread of this one."""

    def __init__(self, command, **options):
        requests, self.stdin = (os.fdopen(end, mode, 0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        self.stdout, replies = (os.fdopen(end, mode, 0) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
        self._thread = threading.Thread(target=self._run, args=(requests, replies))
        self._thread.start()

    @staticmethod
    def _run(requests, replies):
        with requests, replies:
            serve(os.fdopen(os.dup(requests.fileno()), "rb"), replies)

    def kill(self):
        self.stdin.close()

    def wait(self, timeout=None):
        self._thread.join(60)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["complete", "cancel", "fail", "stop", "remove"]), st.integers(0, 20)),
        st.tuples(st.just("report"), st.tuples(st.integers(0, 20), st.integers(1, 5))),
        st.tuples(st.sampled_from(["ask", "ask", "restart"]), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_what_the_worker_knows_after_any_changes_is_what_the_ledger_knows(tmp_path_factory, events):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.subprocess, "Popen", Thread)
        study = Asking("remembers", tmp_path_factory.mktemp("log"))
        study.consultant._opening = module.Opening(study.problem, {"remembers": {}}, None, 0)
        ledger = study.ledger
        try:
            for event, value in [*events, ("ask", None)]:
                active = sorted(ledger.active)
                if event == "create":
                    for _ in range(value):
                        ledger.put(a_trial(ledger.created).with_parameters(x="0.5").build())
                elif event == "ask":
                    study.consultant.ask(ledger, ledger.created, 0)
                    told = study.answer().stops
                    assert [stop.rule for stop in told] == [repr(trial) for trial in ledger.history()]
                elif event == "restart":
                    study.consultant.close()
                elif event == "report" and active:
                    number, points = value
                    ledger.observe(active[number % len(active)], tuple((step, 1 / step) for step in range(1, points + 1)))
                elif event == "remove" and ledger.trials:
                    ledger.remove(sorted(ledger.trials)[value % len(ledger.trials)])
                elif active:
                    trial = a_trial(active[value % len(active)]).with_parameters(x="0.5")
                    ends = {
                        "complete": lambda t: t.completed(loss=0.25),
                        "cancel": lambda t: t.over("Canceled"),
                        "fail": lambda t: t.over("ProgramFailed"),
                        "stop": lambda t: t.stopped_early(loss=0.5),
                    }
                    ledger.put(ends[event](trial).build())
        finally:
            study.consultant.close()


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "2147483648\n"}, 1 << 30),
        ({"memory/memory.limit_in_bytes": "2147483648\n"}, 1 << 30),
        ({"memory.max": "1048576\n"}, 1 << 19),
    ],
)
def test_a_worker_may_have_half_of_what_its_container_may(files, limit, tmp_path):
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert module._memory(tmp_path) == limit


def test_without_a_limit_a_worker_may_have_half_of_the_machine(tmp_path):
    whole = module._memory(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert module._memory(tmp_path) == whole > 0
