"""A store that cannot be read for a while, or for good: it is waited for, nothing is removed, and nobody starts from nothing."""

import errno
import os
import shutil
import sys

import hpo
import pytest
from hpo import _checkpoints_command, _checkpoints_reading, _report, checkpoint

from tests.unit.sdk.conftest import anew

MODEL = os.urandom(3 * _checkpoints_reading.CHUNK + 5)
READS = ("open", "read", "listdir", "scandir", "stat")
FAULTS = {name: getattr(errno, name) for name in ("EIO", "ESTALE", "ETIMEDOUT", "EACCES")}
FOR_GOOD = 10**9


class Clock:
    """Stands in for the module `time`: whoever sleeps is woken at once, later."""

    def __init__(self):
        self.pauses = []

    def monotonic(self):
        return sum(self.pauses)

    def sleep(self, seconds):
        self.pauses.append(seconds)


class Server:
    """Makes all reading below a folder fail: by one call of the system, with one error, so often, and not before so many."""

    def __init__(self, monkeypatch, folder):
        self._monkeypatch, self._folder = monkeypatch, str(folder)

    def fails(self, call, number, times, after=0):
        left, untouched, real = [times], [after], getattr(os, call)

        def failing(place, *arguments, **options):
            path = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.fspath(place)
            if not path.startswith(self._folder) or (arguments and call == "open" and arguments[0] & os.O_CREAT):
                return real(place, *arguments, **options)
            if untouched[0]:
                untouched[0] -= 1
            elif left[0]:
                left[0] -= 1
                raise OSError(number, os.strerror(number), path)
            return real(place, *arguments, **options)

        self._monkeypatch.setattr(os, call, failing)

    def answers(self):
        self._monkeypatch.undo()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_checkpoints_reading, "time", clock)
    return clock


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of digits-7, which has saved steps 1 and 2; its process begins anew."""
    monkeypatch.setenv("HPO_TRIAL", "digits-7")
    monkeypatch.setenv("HPO_TERMINATION_FILE", str(tmp_path / "termination"))
    monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(tmp_path / "digits-7"))
    anew(monkeypatch)
    for step in (1, 2):
        checkpoint.save(step, writer)
    anew(monkeypatch)
    return tmp_path / "digits-7"


@pytest.fixture
def donor(tmp_path, monkeypatch):
    """The checkpoint of digits-3 after step 4, from which digits-7 is to start, which has none of its own."""
    monkeypatch.setenv("HPO_TRIAL", "digits-7")
    monkeypatch.setenv("HPO_TERMINATION_FILE", str(tmp_path / "termination"))
    monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(tmp_path / "digits-3"))
    anew(monkeypatch)
    saved = checkpoint.save(4, writer)
    (tmp_path / "termination").unlink()
    restore = {"DIR": saved.path, "TRIAL": "digits-3", "STEP": 4, "DIGEST": saved.digest}
    for name, value in {"HPO_CHECKPOINT_DIR": tmp_path / "digits-7", "HPO_START_STEP": 4}.items():
        monkeypatch.setenv(name, str(value))
    for name, value in restore.items():
        monkeypatch.setenv(f"HPO_RESTORE_{name}", str(value))
    anew(monkeypatch)
    return saved


@pytest.fixture
def server(tmp_path):
    """A function that gives the server of a folder, which fails as it is told; what it was told ends with the test."""
    patches = []

    def of(folder):
        patches.append(pytest.MonkeyPatch())
        return Server(patches[-1], folder)

    yield of
    for each in patches:
        each.undo()


def writer(folder):
    (folder / "below").mkdir()
    (folder / "below" / "moments").write_text("moments")
    (folder / "model").write_bytes(MODEL)


def names(folder):
    return sorted(each.name for each in folder.iterdir() if each.name != ".lock") if folder.exists() else []


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("call", READS)
def test_of_its_own_the_newest_is_loaded_once_the_store_answers_and_that_is_told_once(own, server, clock, capsys, call, fault):
    server(own).fails(call, fault, times=3)
    assert checkpoint.load().step == hpo.start_step() == 2
    assert names(own) == ["step-1", "step-2"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "does not answer" in told[0]
    assert os.strerror(fault) in told[0]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("call", READS)
def test_of_its_own_nothing_is_removed_when_the_store_stays_away_and_the_program_ends(own, server, clock, capsys, call, fault):
    away = server(own)
    away.fails(call, fault, FOR_GOOD)
    with pytest.raises(checkpoint.CheckpointNotLoaded) as end:
        checkpoint.load()
    assert end.value.code == 1
    assert str(own) in end.value.reason
    assert os.strerror(fault) in end.value.reason
    assert "nothing was removed" in end.value.reason
    assert capsys.readouterr().err.endswith(f"hpo: checkpoint not loaded: {end.value.reason}\n")
    assert 180 <= sum(clock.pauses) < 181
    assert max(clock.pauses) <= 10
    away.answers()
    assert names(own) == ["step-1", "step-2"]
    assert checkpoint.load().step == 2


@pytest.mark.parametrize("after", range(1, 10))
def test_whichever_read_it_is_that_fails_a_checkpoint_that_is_whole_stays(own, server, clock, after):
    server(own).fails("read", errno.EIO, times=2, after=after)
    assert checkpoint.load().step == 2
    assert names(own) == ["step-1", "step-2"]


def test_what_is_damaged_is_found_so_though_the_store_was_away_before(own, server, clock, capsys):
    os.truncate(own / "step-2" / "model", 7)
    server(own).fails("read", errno.ESTALE, times=2)
    assert checkpoint.load().step == 1
    assert "step-2 is damaged and not used: 'model' has 7 bytes" in capsys.readouterr().err
    assert names(own) == ["step-1"]


def test_a_folder_that_is_away_before_anything_is_read_is_waited_for(own, clock):
    real, left = os.open, [2]

    def away(path, *arguments, **options):
        if left[0] and str(path).endswith("/.lock"):
            left[0] -= 1
            raise OSError(errno.EHOSTDOWN, os.strerror(errno.EHOSTDOWN))
        return real(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", away)
        assert checkpoint.load().step == 2
        left[0] = FOR_GOOD
        with pytest.raises(checkpoint.CheckpointNotLoaded):
            checkpoint.load()
    assert names(own) == ["step-1", "step-2"]


def test_who_saves_while_the_store_is_away_is_told_and_may_go_on_without(own, server, clock):
    checkpoint.load()
    away = server(own)
    away.fails("listdir", errno.EIO, FOR_GOOD)
    with pytest.raises(checkpoint.CheckpointNotSaved, match="cannot be read") as refused:
        checkpoint.save(3, writer)
    assert refused.value.errno == errno.EIO
    away.answers()
    assert names(own) == ["step-1", "step-2"]
    assert checkpoint.save(3, writer).step == 3


def test_nobody_who_cannot_see_a_manifest_takes_its_checkpoint_for_half_of_one(own, server, clock):
    """Under the name of what is saved a checkpoint stands, of another process; whether it is whole cannot be seen."""
    checkpoint.load()
    standing = (own / "step-2" / "model").stat().st_ino

    def saves(folder):
        (own / "step-2").rename(own / "step-3")
        writer(folder)
        away.fails("stat", errno.EIO, FOR_GOOD)

    away = server(own / "step-3")
    with pytest.raises(checkpoint.CheckpointNotSaved):
        checkpoint.save(3, saves)
    away.answers()
    assert (own / "step-3" / "model").stat().st_ino == standing


# Another Trial's


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("call", ["open", "read", "scandir"])
def test_a_donor_whose_store_is_away_for_a_while_is_copied_to_the_last_bit(donor, server, clock, tmp_path, call, fault):
    server(donor.path).fails(call, fault, times=3)
    found = checkpoint.load()
    assert (found.digest, found.copied_from) == (donor.digest, "digits-3")
    assert (found.path / "model").read_bytes() == MODEL
    assert names(tmp_path / "digits-7") == ["step-4"]


@pytest.mark.parametrize("after", range(1, 10))
def test_a_copy_that_was_broken_off_goes_on_where_it_was(donor, server, clock, after):
    server(donor.path).fails("read", errno.ESTALE, times=1, after=after)
    assert (checkpoint.load().path / "model").read_bytes() == MODEL


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("call", ["open", "read", "scandir"])
def test_a_donor_whose_store_stays_away_is_not_to_blame(donor, server, clock, tmp_path, call, fault):
    """Exit code 87 would have the operator offer that checkpoint to nobody any more."""
    away = server(donor.path)
    away.fails(call, fault, FOR_GOOD)
    with pytest.raises(checkpoint.CheckpointNotLoaded) as end:
        checkpoint.load()
    assert end.value.code == 1
    assert str(donor.path) in end.value.reason
    assert not (tmp_path / "termination").exists(), "no word of a donor that is unavailable"
    assert names(tmp_path / "digits-7") == []
    away.answers()
    assert checkpoint.load().copied_from == "digits-3"


def test_a_handle_that_is_stale_is_opened_anew_and_what_is_gone_by_then_is_the_donor_s_fault(donor, server, clock):
    server(donor.path).fails("read", errno.ESTALE, times=1, after=3)
    (real, clock.sleep) = clock.sleep, lambda seconds: (real(seconds), shutil.rmtree(donor.path))
    with pytest.raises(checkpoint.DonorUnavailable, match="87"):
        checkpoint.load()
    assert len(clock.pauses) == 1


def test_what_is_gone_is_not_waited_for(donor, clock):
    shutil.rmtree(donor.path)
    with pytest.raises(checkpoint.DonorUnavailable):
        checkpoint.load()
    assert clock.pauses == []


def test_the_command_ends_with_1_and_does_not_become_the_program(donor, server, clock, tmp_path, capsys):
    server(donor.path).fails("read", errno.EIO, FOR_GOOD)
    with pytest.raises(checkpoint.CheckpointNotLoaded) as end:
        _checkpoints_command.main(["restore", "--", "touch", str(tmp_path / "ran")])
    assert end.value.code == 1
    assert not (tmp_path / "ran").exists()
    assert capsys.readouterr().out == ""


# Programs

AWAY = """
    import errno, os, sys
    from hpo import _checkpoints_reading
    _checkpoints_reading.PATIENCE_SECONDS = 0
    read = os.read
    def away(descriptor, count):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/model"):
            raise OSError(errno.EIO, "Input/output error")
        return read(descriptor, count)
    os.read = away
"""

LOADS = """
    import hpo
    try:
        hpo.checkpoint.load()
    except Exception:
        pass
    hpo.report(step=5, val_loss=0.1)
    print("trained")
"""


@pytest.fixture
def started(trial, donor):
    """The Trial digits-7, whose donor's store is away."""
    trial.environment |= {name: value for name, value in os.environ.items() if name.startswith("HPO_")}
    return trial


def test_a_program_that_catches_all_exceptions_ends_all_the_same(started):
    done = started.python(AWAY + LOADS)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"hpo: checkpoint not loaded: ")
    assert not started.termination_file.exists()


def test_a_program_that_goes_on_all_the_same_has_no_result(started):
    done = started.python(AWAY + LOADS.replace("except Exception", "except BaseException"))
    assert (done.returncode, done.stdout) == (0, b"trained\n")
    assert not started.termination_file.exists()


def test_in_a_thread_the_whole_program_ends(started):
    loads = "\n    import hpo, threading, time\n    threading.Thread(target=hpo.checkpoint.load).start()\n    time.sleep(50)"
    assert started.python(AWAY + loads).returncode == 1


def test_under_exec_what_stands_when_the_program_has_ended_is_waited_for(own, server, clock, tmp_path, message_in):
    from hpo._exec import main

    server(own).fails("listdir", errno.EIO, times=3)
    assert main(["--", sys.executable, "-c", "print('val_loss=0.5')"]) == 0
    _report.reporter().close()
    assert message_in(tmp_path / "termination")["checkpoint"]["step"] == 2
