"""The termination file: whenever the program dies, its last complete line is the last report that returned."""

import json
import mmap
import os
import random
import signal
import time

import pytest
from hpo import _files, _report
from hpo._environment import Environment
from hpo._message import Summary, infeasible_line, result_line
from hpo._report import Reporter


def line_of(step, metrics=1):
    return result_line(step, {f"metric_{number}": Summary.of(step / 7) for number in range(metrics)}, [])


def test_a_file_that_is_not_there_is_made(tmp_path, message_in):
    _files.write_last_line(str(tmp_path / "file"), line_of(1))
    assert message_in(tmp_path / "file")["step"] == 1


@pytest.mark.parametrize("metrics", [1, 5, 50])
def test_the_file_stays_small_however_many_reports_there_are(tmp_path, message_in, metrics):
    path = tmp_path / "file"
    for step in range(1000):
        _files.write_last_line(str(path), line_of(step, metrics))
        assert message_in(path)["step"] == step
        assert path.stat().st_size <= 3 * 1024
    _files.settle(str(path), line_of(999, metrics))
    assert path.read_bytes() == line_of(999, metrics)


@pytest.mark.parametrize("before", [b"written before", b"written before\n", b"one\r\ntwo\n\nthree", b"x" * 1000])
def test_what_others_wrote_is_kept_in_front_and_the_message_on_a_line_of_its_own(tmp_path, message_in, before):
    path = tmp_path / "file"
    path.write_bytes(before)
    for step in range(200):
        _files.write_last_line(str(path), line_of(step))
        assert path.read_bytes().split(b'{"hpo"')[0].split() == before.split()
        assert message_in(path)["step"] == step
    _files.settle(str(path), line_of(199))
    assert path.read_bytes().split() == [*before.split(), line_of(199).strip()]
    assert path.stat().st_size <= _files.CROWDED


@pytest.mark.parametrize("before", [b"x" * 3000, b"line\n" * 100_000, b"\x00\xff" * 50_000, b"\n" * 5000])
def test_of_much_that_others_wrote_the_last_lines_are_kept_as_far_as_they_fit(tmp_path, message_in, before):
    path = tmp_path / "file"
    path.write_bytes(before)
    _files.write_last_line(str(path), line_of(1))
    assert path.stat().st_size <= _files.CROWDED
    assert before.endswith(path.read_bytes()[: -len(line_of(1))])
    assert message_in(path)["step"] == 1


def test_what_others_write_between_reports_and_after_the_last_does_not_hide_the_message(tmp_path, message_in):
    path = tmp_path / "file"
    for step in range(100):
        _files.write_last_line(str(path), line_of(step))
        with path.open("ab") as file:
            file.write(b"Traceback, without a line's end")
        _files.settle(str(path), line_of(step))
        assert message_in(path)["step"] == step


def test_a_line_that_a_full_disk_cut_short_does_not_spoil_the_next(tmp_path, message_in):
    path = tmp_path / "file"
    path.write_bytes(line_of(1) + line_of(2)[:20])
    _files.write_last_line(str(path), line_of(3))
    assert path.read_bytes().splitlines() == [line_of(1).strip(), line_of(2)[:20], line_of(3).strip()]


class Killed(BaseException):
    """As kill -9: nothing of the program runs after it."""


class DyingDisk:
    """The operating system of a process that is killed in its nth change of a file, after some bytes of it."""

    def __init__(self, dies_in, after_bytes):
        self.left, self.after_bytes = dies_in, after_bytes

    def __getattr__(self, name):
        return getattr(os, name)

    def _dies(self):
        self.left -= 1
        return self.left == 0

    def write(self, descriptor, data):
        if self._dies():
            os.write(descriptor, data[: self.after_bytes])
            raise Killed
        return os.write(descriptor, data)

    def pwrite(self, descriptor, data, offset):
        if self._dies():
            os.pwrite(descriptor, data[: self.after_bytes], offset)
            raise Killed
        return os.pwrite(descriptor, data, offset)

    def ftruncate(self, descriptor, size):
        if self._dies():
            raise Killed
        os.ftruncate(descriptor, size)


@pytest.mark.parametrize("metrics", [1, 4, 50])
@pytest.mark.parametrize("before", [b"", b"others\n" * 40, b"x" * 1010])
def test_death_in_any_write_after_any_byte_leaves_the_last_report_that_returned(tmp_path, monkeypatch, message_in, metrics, before):
    path = tmp_path / "file"
    lines = [line_of(step, metrics) for step in range(2048 // len(line_of(1, metrics)) + 6)]
    for dies_in in range(2, len(lines) + 8):
        for after_bytes in (0, 1, 30, len(lines[0]) - 1, len(lines[0]), len(before) + len(lines[0]) - 1, 5000):
            path.write_bytes(before)
            monkeypatch.setattr(_files, "os", DyingDisk(dies_in, after_bytes))
            returned = None
            try:
                for step, line in enumerate(lines):
                    _files.write_last_line(str(path), line)
                    returned = step
                _files.settle(str(path), lines[-1])
            except Killed:
                pass
            assert message_in(path)["step"] in (returned, returned + 1)


def test_kill_9_at_random_instants_always_leaves_the_last_report_that_returned(tmp_path, message_in):
    random_instants = random.Random(7)
    for attempt in range(300):
        path = tmp_path / f"termination-{attempt}"
        path.write_bytes(b"others\n" * random_instants.choice((0, 20, 500)))
        returned = mmap.mmap(-1, 8)
        child = os.fork()
        if child == 0:
            report_until_killed(path, returned, metrics=random_instants.choice((1, 3, 12, 50)))
        while int.from_bytes(returned[:], "little") == 0:
            time.sleep(0.0005)
        time.sleep(random_instants.uniform(0, 0.005))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        last = int.from_bytes(returned[:], "little")
        assert message_in(path)["step"] in (last, last + 1)


def report_until_killed(path, returned, metrics):
    """Never comes back: what runs here is a copy of the test run."""
    try:
        reporter = Reporter(Environment({"HPO_TRIAL": "t-1", "HPO_TERMINATION_FILE": str(path)}))
        step = 0
        while True:
            step += 1
            reporter.report({f"metric_{number}": step / 7 for number in range(metrics)}, step)
            returned[:] = step.to_bytes(8, "little")
    finally:
        os._exit(1)


def test_processes_that_all_report_leave_one_of_their_messages(tmp_path, message_in):
    path = tmp_path / "file"
    ranks = []
    for rank in range(4):
        child = os.fork()
        if child == 0:
            try:
                for step in range(1, 301):
                    _files.write_last_line(str(path), line_of(step, 1 + 3 * rank))
            finally:
                os._exit(0)
        ranks.append(child)
    for child in ranks:
        os.waitpid(child, 0)
    assert message_in(path)["step"] > 1
    for line in path.read_bytes().split():
        json.loads(line)


def test_of_a_file_that_others_filled_with_messages_no_half_line_is_kept(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"others\n" + line_of(1, 3) * 200)
    _files.write_last_line(str(path), line_of(2))
    assert path.read_bytes() == line_of(2)


def test_at_the_program_s_end_the_file_holds_the_message_alone(trial):
    trial.termination_file.write_text("others\n")
    trial.python("import hpo\nfor step in range(5): hpo.report(step=step, loss=0.5)")
    assert trial.termination_file.read_text() == 'others\n{"hpo":1,"step":4,"metrics":{"loss":["0.5","0.5","0.5"]}}\n'


def test_infeasible_is_the_last_line_whatever_is_reported_after_it(trial):
    trial.python("""
        import hpo
        hpo.report(step=1, loss=0.5)
        try:
            hpo.infeasible("batch too large")
        except SystemExit:
            hpo.report(step=2, loss=0.4)
    """)
    assert trial.termination_file.read_bytes() == infeasible_line("batch too large")


@pytest.mark.parametrize("path", ["missing/folder/file", "a folder", "/proc/version"])
def test_a_file_that_cannot_be_written_is_told_once_and_training_goes_on(trial, path):
    (trial.folder / "a folder").mkdir()
    trial.environment["HPO_TERMINATION_FILE"] = trial.environment["HPO_METRICS_FILE"] = path
    done = trial.python("import hpo\nfor step in range(9): hpo.report(step=step, loss=0.5)\nprint('trained')")
    assert (done.returncode, done.stdout) == (0, b"trained\n")
    assert done.stderr.count(b"the final message could not be written to") == 1
    assert done.stderr.count(b"reports could not be appended to") == 1
    assert done.stderr.count(b"training goes on") == 2


@pytest.mark.parametrize("path", ["/dev/null", "/dev/stdout"])
def test_a_device_may_stand_in_the_file_s_place(trial, path):
    trial.environment["HPO_TERMINATION_FILE"] = path
    done = trial.python("import hpo\nfor step in range(9): hpo.report(step=step, loss=0.5)\nprint('trained')")
    assert done.returncode == 0
    assert done.stdout.endswith(b"trained\n")


def fill(folder):
    try:
        with (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
    except OSError:
        pass


def test_a_disk_full_from_the_start_is_told_once_and_training_goes_on_and_reports_once_there_is_room(trial, full_disk):
    fill(full_disk)
    trial.environment["HPO_TERMINATION_FILE"] = str(full_disk / "termination")
    trial.environment["HPO_METRICS_FILE"] = str(full_disk / "metrics.jsonl")
    done = trial.python("""
        import hpo, os
        for step in range(1, 20):
            if step == 10:
                os.remove(os.environ["HPO_TERMINATION_FILE"][:-len("termination")] + "filler")
            hpo.report(step=step, loss=0.5)
        print("trained")
    """)
    assert (done.returncode, done.stdout) == (0, b"trained\n")
    assert done.stderr.count(b"No space left on device") == 2
    assert json.loads((full_disk / "termination").read_text())["step"] == 19
    steps = [json.loads(line)["step"] for line in (full_disk / "metrics.jsonl").read_text().splitlines() if line]
    assert steps == list(range(10, 20))


def test_on_a_disk_that_becomes_full_the_message_is_still_kept_up_to_date(trial, full_disk, message_in):
    trial.environment["HPO_TERMINATION_FILE"] = str(full_disk / "termination")
    reporter = Reporter(Environment(trial.environment))
    reporter.report({"loss": 0.5}, 1)
    fill(full_disk)
    for step in range(2, 200):
        reporter.report({"loss": 0.5}, step)
        assert message_in(full_disk / "termination")["step"] == step


def test_a_last_report_that_found_no_room_is_written_at_the_end_and_not_taken_for_another_process_s(trial, monkeypatch):
    reporter = Reporter(Environment(trial.environment))
    reporter.report({"val_loss": 0.5}, 1)

    def full(path, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_report, "write_last_line", full)
    reporter.report({"val_loss": 0.4}, 2)
    assert trial.message["step"] == 1
    reporter.close()
    assert trial.message["step"] == 2
