"""kill -9 at every change of a file: what stands under a checkpoint's name is always whole, and nothing that returned is lost."""

import errno
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest
from hpo import _checkpoints_command, _checkpoints_store, _environment, _report, checkpoint
from hpo._checkpoints_manifest import read_manifest, verify

# All by which this package and shutil change files; `open` only where it may make one.
CHANGES = ("mkdir", "open", "write", "fsync", "chmod", "replace", "rename", "rmdir", "unlink", "ftruncate", "pwrite")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Steps:
    """Counts the changes of files in this process, and kills it in the nth: before it is made, or in the middle of a write."""

    def __init__(self, dies_in=None):
        self.count = 0
        self.dies_in = dies_in
        for name in CHANGES:
            setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, call):
        def change(*arguments, **options):
            if name == "open" and not arguments[1] & os.O_CREAT:
                return call(*arguments, **options)
            self.count += 1
            if self.count == self.dies_in:
                if name in ("write", "pwrite"):
                    call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], *arguments[2:])
                die()
            return call(*arguments, **options)

        return change


def in_a_process(act, folder, dies_in=None, **environment):
    """Runs `act` in a process of its own; returns what it printed last (JSON), how many changes it made, and how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 9
        try:
            variables = {"HPO_TRIAL": "digits-7", "HPO_CHECKPOINT_DIR": str(folder / "own"), **environment}
            variables["HPO_TERMINATION_FILE"] = str(folder / "termination")
            os.environ.update({name: str(value) for name, value in variables.items()})
            checkpoint._reached, _environment._gone_on_from = {}, {}
            _report._reporter, _checkpoints_store._turns = None, _checkpoints_store._Turns()
            with open(writing, "wb", buffering=0, closefd=False) as pipe:
                tell, steps = pipe.write, Steps(dies_in)
                returned = act(lambda value: tell(json.dumps([value, steps.count]).encode() + b"\n"))
                tell(json.dumps([returned, steps.count]).encode() + b"\n")
            code = 0
        except SystemExit as way_out:
            code = way_out.code
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    told, count = json.loads(lines[-1]) if lines else (None, 0)
    return told, count, -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def saves_four(tell):
    """A program that goes on from what it finds and saves up to step 4; tells each step whose save has returned."""
    found = checkpoint.load()
    for step in range((found.step if found else 0) + 1, 5):
        checkpoint.save(step, lambda folder, step=step: write_two_files(folder, step))
        tell(step)
    return 4


def write_two_files(folder, step):
    (folder / "below").mkdir()
    for path in (folder / "model", folder / "below" / "moments"):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, b"%d" % step)
        os.write(descriptor, b" weights")
        os.close(descriptor)


def loads(tell):
    found = checkpoint.load()
    _checkpoints_store.wait_until_flushed()
    return found and [found.step, found.copied_from, found.digest]


def assert_whole(own):
    """All that has a checkpoint's name is one."""
    for each in own.glob("step-*"):
        manifest = read_manifest(str(each))
        assert f"step-{manifest.step}" == each.name
        verify(str(each), manifest)


def hidden(own):
    return [each.name for each in own.iterdir() if each.name.startswith(".step")]


def last_message(folder, message_in):
    file = folder / "termination"
    return message_in(file) if file.exists() and b"\n" in file.read_bytes() else {}


@pytest.mark.parametrize("keep", [1, 2])
def test_killed_in_any_change_of_a_file_nothing_that_was_saved_is_lost_and_the_next_program_goes_on(tmp_path, message_in, keep):
    _, changes, _ = in_a_process(saves_four, tmp_path, HPO_CHECKPOINT_KEEP=keep)
    assert changes > 100
    for dies_in in range(1, changes + 1):
        folder = tmp_path / str(dies_in)
        folder.mkdir()
        returned, _, end = in_a_process(saves_four, folder, dies_in, HPO_CHECKPOINT_KEEP=keep)
        assert end == -signal.SIGKILL
        own = folder / "own"
        told = last_message(folder, message_in).get("checkpoint")
        if own.exists():
            assert_whole(own)
        if told:  # what the operator has been told is there, and is what it was told
            assert read_manifest(str(own / told["path"])).digest == told["digest"]
        assert (told["step"] if told else 0) >= (returned or 0)
        found, _, end = in_a_process(loads, folder, HPO_CHECKPOINT_KEEP=keep)
        assert end == 0
        assert (found[0] if found else 0) in (returned or 0, (returned or 0) + 1)
        assert hidden(own) == []
        assert in_a_process(saves_four, folder, HPO_CHECKPOINT_KEEP=keep)[::2] == (4, 0)
        assert_whole(own)
        assert last_message(folder, message_in)["checkpoint"]["step"] == 4
        shutil.rmtree(folder)


def test_killed_in_any_change_of_a_file_while_restoring_the_donor_stays_and_the_next_program_has_its_copy(tmp_path, message_in):
    donor_folder = tmp_path / "donor"
    donor_folder.mkdir()
    in_a_process(saves_four, donor_folder)
    donor = donor_folder / "own" / "step-4"
    manifest = read_manifest(str(donor))
    environment = {
        "HPO_RESTORE_DIR": donor,
        "HPO_RESTORE_TRIAL": "digits-3",
        "HPO_RESTORE_STEP": 4,
        "HPO_RESTORE_DIGEST": manifest.digest,
        "HPO_START_STEP": 4,
    }
    (tmp_path / "undisturbed").mkdir()
    _, changes, _ = in_a_process(loads, tmp_path / "undisturbed", **environment)
    assert changes > 15
    for dies_in in range(1, changes + 1):
        folder = tmp_path / str(dies_in)
        folder.mkdir()
        assert in_a_process(loads, folder, dies_in, **environment)[2] == -signal.SIGKILL
        if (folder / "own").exists():
            assert_whole(folder / "own")
        found, _, end = in_a_process(loads, folder, **environment)
        assert (found, end) == ([4, "digits-3", manifest.digest], 0)
        assert hidden(folder / "own") == []
        message = last_message(folder, message_in)
        assert message["checkpoint"] == {"step": 4, "digest": manifest.digest, "path": "step-4", "bytes": manifest.size}
        assert (message["restored"]["from"], message["restored"]["bytes"]) == ("digits-3", manifest.size)
        verify(str(donor), manifest)


def test_killed_at_random_instants_nothing_that_was_saved_is_lost(tmp_path, message_in):
    instants = random.Random(7)
    for attempt in range(60):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        last = 0
        for _ in range(3):
            last = until_killed(folder, instants.uniform(0, 0.05), last)
            assert_whole(folder / "own")
            told = last_message(folder, message_in)["checkpoint"]
            assert read_manifest(str(folder / "own" / told["path"])).digest == told["digest"]
        shutil.rmtree(folder)


def until_killed(folder, seconds, last):
    """Saves without end in another process and kills it; returns the last step whose save returned, none of which is lost."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(HPO_TRIAL="digits-7", HPO_CHECKPOINT_DIR=str(folder / "own"))
            os.environ["HPO_TERMINATION_FILE"] = str(folder / "termination")
            checkpoint._reached, _environment._gone_on_from, _report._reporter = {}, {}, None
            found = checkpoint.load()
            step = found.step if found else 0
            assert step >= last
            while True:
                step += 1
                checkpoint.save(step, lambda folder, step=step: write_two_files(folder, step))
                os.write(writing, b"%d\n" % step)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        first = pipe.readline()
        assert first, "the program lost what was saved, or failed"
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        steps = [first, *pipe.read().split()]
    assert -os.waitpid(child, 0)[1] == -signal.SIGKILL
    newest = int(steps[-1])
    found, _, _ = in_a_process(loads, folder)
    assert found[0] in (newest, newest + 1)
    return newest


@pytest.fixture
def happened(tmp_path, monkeypatch):
    """What is flushed and what is renamed in the Trial's own folder, in this order."""
    monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(tmp_path / "own"))
    monkeypatch.setattr(checkpoint, "_reached", {})
    happened = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def place(path):
        return os.path.relpath(path, tmp_path / "own").partition("/")[2] or "/"

    def watched_fsync(descriptor):
        happened.append(("flushed", place(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def watched_rename(source, target):
        happened.append(("renamed", os.path.basename(target)))
        rename(source, target)

    def watched_replace(source, target):
        happened.append(("renamed", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_rename)
    monkeypatch.setattr(os, "replace", watched_replace)
    return happened


IN_ORDER = [
    ("flushed", "below/moments"),
    ("flushed", "model"),
    ("flushed", ".manifest.json.tmp"),
    ("renamed", "manifest.json"),
    ("flushed", "below"),
    ("flushed", "/"),
    ("renamed", "step-1"),
    ("flushed", "/"),
]


def test_the_folder_gets_its_name_when_every_file_the_manifest_and_every_folder_are_on_the_disk(tmp_path, happened):
    checkpoint.save(1, lambda folder: write_two_files(folder, 1))
    assert happened == IN_ORDER
    assert stat.S_ISDIR((tmp_path / "own" / "step-1").stat().st_mode)


@pytest.fixture
def donor(tmp_path, happened, monkeypatch):
    """The folder of a checkpoint that this Trial starts from; what has happened to make it is forgotten."""
    saved = checkpoint.save(1, lambda folder: write_two_files(folder, 1))
    saved.path.rename(tmp_path / "donor")
    for name, value in {"DIR": tmp_path / "donor", "STEP": 1, "DIGEST": saved.digest}.items():
        monkeypatch.setenv(f"HPO_RESTORE_{name}", str(value))
    happened.clear()
    return tmp_path / "donor"


COPIED = {"model", "below/moments", "manifest.json", "below", ""}


ENDS_AT_ONCE = """
import os, time
import hpo.checkpoint

def slow(descriptor, fsync=os.fsync):
    time.sleep(0.1)
    fsync(descriptor)
    print(os.readlink(f"/proc/self/fd/{descriptor}"))

os.fsync = slow
print("begun from", hpo.checkpoint.load().step)
"""


def test_a_program_begins_before_its_copy_is_on_the_disk_and_its_process_does_not_end_before(tmp_path, donor):
    done = subprocess.run([sys.executable, "-c", ENDS_AT_ONCE], capture_output=True, text=True, check=True)
    begun, *flushed = done.stdout.splitlines()
    assert begun == "begun from 1"
    own = str(tmp_path / "own")
    assert set(flushed) == {own, *(os.path.normpath(f"{own}/step-1/{path}") for path in COPIED)}


def test_a_program_that_knows_only_its_folder_begins_when_its_copy_is_on_the_disk(happened, donor):
    assert _checkpoints_command._restore(quiet=True) == 0
    assert {path for what, path in happened if what == "flushed"} == {path or "/" for path in COPIED}


@pytest.mark.parametrize("lost", [["manifest.json"], ["model"], ["model", "manifest.json"], ["below/moments"]])
def test_of_a_copy_that_a_machine_took_with_it_before_it_was_on_the_disk_nothing_is_believed(tmp_path, donor, lost, monkeypatch):
    copied = checkpoint.load()
    _checkpoints_store.wait_until_flushed()
    for name in lost:  # what is left of files that were renamed and not flushed
        (copied.path / name).chmod(0o600)
        (copied.path / name).write_bytes(b"")
    monkeypatch.setattr(checkpoint, "_reached", {})
    assert checkpoint.load().digest == copied.digest
    assert_whole(tmp_path / "own")


def test_a_copy_that_cannot_be_flushed_is_told_of(donor, monkeypatch, capfd):
    def fails(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    assert checkpoint.load().step == 1
    _checkpoints_store.wait_until_flushed()
    assert "step-1 may not survive this machine" in capfd.readouterr().err
