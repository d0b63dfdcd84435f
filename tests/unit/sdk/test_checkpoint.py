"""Checkpoints in a Trial's own folder: complete or not there, the newest kept, told in the final message."""

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from hashlib import sha256

import hpo
import pytest
from hpo import _checkpoints_store, _report, checkpoint
from hpo._checkpoints_manifest import read_manifest, verify
from hpo._message import LONGEST_CHECKPOINTS, LONGEST_LINE, Restored, Saved, Summary, result_line

from tests.unit.sdk.conftest import anew


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The Trial's own folder, in a process that is new to it."""
    monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("HPO_TRIAL", "digits-7")
    monkeypatch.setenv("HPO_TERMINATION_FILE", str(tmp_path / "termination"))
    for variable in ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(variable, raising=False)
    anew(monkeypatch)
    return tmp_path / "own"


def text(content):
    return lambda folder: (folder / "model.txt").write_text(content)


def names(folder):
    return sorted(each.name for each in folder.iterdir() if each.name != ".lock")


def test_what_was_saved_is_found_again_with_its_step_and_digest(own, monkeypatch):
    def writer(folder):
        (folder / "model.txt").write_text("weights")
        (folder / "moments" / "of layers").mkdir(parents=True)
        (folder / "moments" / "of layers" / ".first ü").write_bytes(b"\0" * 3_000_000)
        (folder / "empty").write_bytes(b"")

    saved = checkpoint.save(3, writer)
    anew(monkeypatch)
    found = hpo.checkpoint.load()
    assert found == saved
    assert (found.step, found.path, found.copied_from, found.content) == (3, own / "step-3", None, None)
    assert (found.path / "model.txt").read_text() == "weights"
    assert (found.path / "moments" / "of layers" / ".first ü").stat().st_size == 3_000_000


def test_the_digest_can_be_computed_by_any_language(own):
    def writer(folder):
        (folder / "b").mkdir()
        (folder / "b" / "model").write_text("weights")
        (folder / "b.txt").write_text("")

    saved = checkpoint.save(27, writer)
    lines = f"step 27\n{sha256(b'').hexdigest()} 0 b.txt\n{sha256(b'weights').hexdigest()} 7 b/model\n"
    assert saved.digest == f"sha256:{sha256(lines.encode()).hexdigest()}"
    assert json.loads((own / "step-27" / "manifest.json").read_text())["digest"] == saved.digest


def test_at_a_fresh_start_nothing_is_found(own):
    assert checkpoint.load() is None
    assert hpo.start_step() == 0


def test_the_start_step_and_reports_without_steps_go_on_from_what_was_loaded(own, tmp_path, monkeypatch, message_in):
    monkeypatch.setenv("HPO_START_STEP", "2")
    checkpoint.save(7, text("a"))
    anew(monkeypatch)
    assert hpo.start_step() == 2
    checkpoint.load()
    assert hpo.start_step() == 7
    hpo.report(loss=0.5)
    assert message_in(tmp_path / "termination")["step"] == 8


def test_only_the_newest_are_kept(own, monkeypatch):
    for step in range(1, 6):
        checkpoint.save(step, text(str(step)))
    assert names(own) == ["step-4", "step-5"]
    monkeypatch.setenv("HPO_CHECKPOINT_KEEP", "1")
    checkpoint.save(10, text("10"))
    assert names(own) == ["step-10"]


def test_the_final_message_names_the_newest_from_the_moment_it_stands(own, tmp_path, message_in):
    saved = checkpoint.save(3, text("a"))
    record = {"step": 3, "digest": saved.digest, "path": "step-3", "bytes": 1}
    assert message_in(tmp_path / "termination") == {"hpo": 1, "checkpoint": record}
    hpo.report(step=3, loss=0.5)
    assert message_in(tmp_path / "termination") == {
        "hpo": 1,
        "step": 3,
        "metrics": {"loss": ["0.5", "0.5", "0.5"]},
        "checkpoint": record,
    }
    assert message_in(tmp_path / "termination")["checkpoint"]["digest"] == saved.digest
    checkpoint.save(4, text("b"))
    assert message_in(tmp_path / "termination")["checkpoint"]["step"] == 4


def test_the_one_that_the_final_message_names_is_never_the_one_that_goes(own, tmp_path, monkeypatch, message_in):
    monkeypatch.setenv("HPO_CHECKPOINT_KEEP", "1")
    checkpoint.save(1, text("a"))
    at_removal = []
    prune = checkpoint.Store.prune

    def watched(store):
        at_removal.append((message_in(tmp_path / "termination")["checkpoint"]["step"], names(own)))
        prune(store)

    monkeypatch.setattr(checkpoint.Store, "prune", watched)
    checkpoint.save(2, text("b"))
    assert at_removal == [(2, ["step-1", "step-2"])]


def test_after_infeasible_no_checkpoint_changes_the_final_message(own, tmp_path, message_in):
    with pytest.raises(hpo.Infeasible):
        hpo.infeasible("too large")
    checkpoint.save(1, text("a"))
    assert message_in(tmp_path / "termination") == {"hpo": 1, "infeasible": "too large"}


def test_records_of_checkpoints_push_no_objective_out_of_the_final_message():
    summaries = {f"metric_number_{number:02}": Summary.of(1e-300 / 3) for number in range(12)}
    without = json.loads(result_line(3, summaries, list(summaries)))
    saved = Saved(2**33, "sha256:" + "f" * 64, f"step-{2**33}", 10**12)
    line = result_line(3, summaries, list(summaries), saved, Restored("d" * 63, 2**33, 2**40, 12345.6789))
    assert len(line) <= LONGEST_LINE + LONGEST_CHECKPOINTS
    found = json.loads(line)
    assert found["metrics"] == without["metrics"]
    assert found["checkpoint"] == saved._asdict()
    assert found["restored"] == {"from": "d" * 63, "step": 2**33, "bytes": 2**40, "seconds": 12345.679}


def test_where_room_is_short_the_newest_checkpoint_goes_before_the_origin_of_the_first():
    saved = Saved(2**53, "sha256:" + "f" * 64, f"step-{2**53}", 10**12)
    found = json.loads(result_line(3, {}, [], saved, Restored("d" * 253, 2**53, 2**53, 1.0)))
    assert found["checkpoint"] == saved._asdict()
    assert "restored" not in found


def test_the_termination_file_stays_small_enough_with_checkpoints(own, tmp_path, message_in):
    (tmp_path / "termination").write_bytes(b"others\n" * 150)
    checkpoint.save(1, text("a"))
    for step in range(300):
        hpo.report({f"metric_{number}": step / 7 for number in range(40)}, step=step)
        assert message_in(tmp_path / "termination")["checkpoint"]["step"] == 1
        assert (tmp_path / "termination").stat().st_size <= 4608
    _report.reporter().close()
    assert (tmp_path / "termination").stat().st_size <= 2048


def test_without_a_folder_nothing_is_saved_and_that_is_said_once(own, monkeypatch, capsys):
    monkeypatch.delenv("HPO_CHECKPOINT_DIR")
    assert [checkpoint.save(step, None) for step in (1, 2)] == [None, None]
    assert checkpoint.load() is None
    assert capsys.readouterr().err == "hpo: HPO_CHECKPOINT_DIR is not set: checkpoints are neither saved nor found\n"


@pytest.mark.parametrize("variable", ["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"])
def test_other_ranks_than_the_first_save_nothing_and_find_what_the_first_saved(own, monkeypatch, variable):
    monkeypatch.setenv(variable, "0")
    saved = checkpoint.save(1, text("a"))
    monkeypatch.setenv(variable, "1")
    assert checkpoint.save(2, None) is None
    assert checkpoint.load() == saved
    assert names(own) == ["step-1"]


def test_a_step_that_goes_back_or_is_none_is_refused(own):
    checkpoint.save(5, text("a"))
    for step in (4, -1, 1.5, "6", None):
        with pytest.raises(hpo.InvalidStep):
            checkpoint.save(step, text("b"))
    assert names(own) == ["step-5"]


def test_a_checkpoint_never_changes_saving_its_step_again_does_nothing(own, capsys):
    checkpoint.save(5, text("a"))
    assert checkpoint.save(5, text("b")) is None
    assert (own / "step-5" / "model.txt").read_text() == "a"
    assert "step 5 is not saved: " in capsys.readouterr().err


def test_a_program_that_does_not_load_after_a_restart_harms_nothing_and_is_told(own, monkeypatch, capsys):
    checkpoint.save(5, text("a"))
    anew(monkeypatch)
    assert [checkpoint.save(step, text("b")) for step in (1, 2, 5)] == [None] * 3
    assert capsys.readouterr().err.count("was it loaded?") == 1
    assert checkpoint.save(6, text("b")).step == 6


def link(folder):
    (folder / "link").symlink_to("/etc/passwd")


def linked_folder(folder):
    (folder / "below").mkdir()
    (folder / "below" / "link").symlink_to("..")


def pipe(folder):
    os.mkfifo(folder / "pipe")


def listening(folder):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(folder / "socket"))


def unprintable(folder):
    (folder / "two\nlines").write_text("")


def not_utf8(folder):
    open(os.fsencode(folder) + b"/\xff", "w").close()


def own_manifest(folder):
    (folder / "manifest.json").write_text("{}")


def elsewhere(folder):
    folder.rename("elsewhere")
    folder.symlink_to(os.path.abspath("elsewhere"))
    (folder / "model.txt").write_text("a")


def nothing(folder):
    (folder / "empty folder").mkdir()


@pytest.mark.parametrize("writer", [link, linked_folder, pipe, listening, unprintable, not_utf8, own_manifest, elsewhere, nothing])
def test_what_no_checkpoint_may_hold_is_refused_and_nothing_is_left(own, monkeypatch, tmp_path, writer):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(checkpoint.InvalidCheckpoint) as refused:
        checkpoint.save(1, writer)
    assert refused.value.remedy
    assert names(own) == []


def test_more_files_than_a_manifest_is_read_with_are_refused_and_not_found_damaged_later(own, monkeypatch):
    monkeypatch.setattr(_checkpoints_store, "LARGEST_MANIFEST", 1024)
    checkpoint.save(1, lambda folder: (folder / "one").touch())
    with pytest.raises(checkpoint.InvalidCheckpoint, match=r"has 20 files.*Pack them into fewer files"):
        checkpoint.save(2, lambda folder: [(folder / str(number)).touch() for number in range(20)])
    assert names(own) == ["step-1"]


def test_a_writer_s_own_error_comes_through_and_nothing_is_left(own):
    def writer(folder):
        (folder / "model").write_text("half")
        raise KeyError("layer3")

    with pytest.raises(KeyError):
        checkpoint.save(1, writer)
    assert names(own) == []
    assert checkpoint.save(1, text("a")).step == 1


def test_modes_are_the_same_whatever_the_writer_s_are(own):
    def writer(folder):
        (folder / "below").mkdir(mode=0o700)
        (folder / "below" / "model").write_text("a")
        (folder / "below" / "model").chmod(0o4600)

    checkpoint.save(1, writer)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (own / "step-1").rglob("*")}
    assert modes == {"below": 0o755, "model": 0o644, "manifest.json": 0o644}
    assert stat.S_IMODE((own / "step-1").stat().st_mode) == 0o755


def test_of_a_damaged_checkpoint_the_one_before_is_taken_and_that_is_said(own, monkeypatch, capsys):
    for step in (1, 2):
        checkpoint.save(step, text("weights"))
    (own / "step-2" / "model.txt").write_text("weighty")
    anew(monkeypatch)
    assert checkpoint.load().step == 1
    assert f"{own}/step-2 is damaged and not used: the content of 'model.txt' has changed" in capsys.readouterr().err
    assert names(own) == ["step-1"]
    assert checkpoint.save(2, text("again")).step == 2


def test_a_folder_of_that_name_without_a_manifest_is_no_checkpoint_and_makes_room_for_one(own, monkeypatch):
    (own / "step-3").mkdir(parents=True)
    (own / "step-3" / "model.txt").write_text("half")
    assert checkpoint.load() is None
    checkpoint.save(3, text("whole"))
    assert (own / "step-3" / "model.txt").read_text() == "whole"
    assert names(own) == ["step-3"]


def test_what_killed_programs_left_is_removed_and_what_is_the_user_s_stays(own):
    for name in (".step-3.tmp-0a1b", ".step-1.gone-0a1b", "step-x", ".step-3", "logs", ".step-3.tmp-"):
        (own / name).mkdir(parents=True)
        (own / name / "file").write_text("a")
    (own / ".step-4.gone-00ff").write_text("a file")
    checkpoint.load()
    assert names(own) == [".step-3", ".step-3.tmp-", "logs", "step-x"]


def test_a_program_that_writes_the_layout_itself_is_understood(own):
    folder = own / "step-4"
    folder.mkdir(parents=True)
    (folder / "model").write_text("weights")
    digest = sha256(b"weights").hexdigest()
    whole = sha256(f"step 4\n{digest} 7 model\n".encode()).hexdigest()
    files = [{"path": "model", "size": 7, "sha256": digest}]
    (folder / "manifest.json").write_text(json.dumps({"hpo": 1, "step": 4, "digest": f"sha256:{whole}", "files": files}))
    assert checkpoint.load().step == 4


def test_a_full_disk_is_a_clear_error_and_leaves_what_was_there(full_disk, monkeypatch):
    monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(full_disk / "own"))
    anew(monkeypatch)
    checkpoint.save(1, text("weights"))
    with pytest.raises(checkpoint.CheckpointNotSaved, match=r"could not take the checkpoint of step 2 \(.*No space left") as full:
        checkpoint.save(2, lambda folder: (folder / "model").write_bytes(b"\1" * 100_000))
    assert isinstance(full.value, OSError)
    assert full.value.errno == 28
    assert names(full_disk / "own") == ["step-1"]
    assert checkpoint.save(2, text("small")).step == 2


def test_a_fault_of_the_disk_while_a_large_file_is_flushed_is_not_lost(tmp_path, monkeypatch):
    failed, fsync, read = threading.Event(), os.fsync, os.read

    def fails_once(descriptor):  # as Linux does: who flushes next is told that all is well
        if not failed.is_set():
            failed.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    def reads_when_it_has_failed(descriptor, size):
        assert failed.wait(60)
        return read(descriptor, size)

    (tmp_path / "model").write_bytes(bytes(_checkpoints_store._LARGE))
    monkeypatch.setattr("os.fsync", fails_once)
    monkeypatch.setattr("os.read", reads_when_it_has_failed)
    with pytest.raises(OSError, match="Input/output error"):
        _checkpoints_store._flushed(str(tmp_path))


def test_a_folder_that_cannot_be_written_is_a_clear_error(own, tmp_path):
    own.write_text("a file")
    with pytest.raises(checkpoint.CheckpointNotSaved, match="cannot be written to"):
        checkpoint.save(1, text("a"))


def test_threads_that_save_at_once_take_turns(own):
    def saves():
        for step in range(20):
            with suppress(hpo.InvalidStep):  # another one is ahead
                checkpoint.save(step, text(str(step) * 100_000))

    threads = [threading.Thread(target=saves) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(own) == ["step-18", "step-19"]
    for step in (18, 19):
        verify(str(own / f"step-{step}"), read_manifest(str(own / f"step-{step}")))


def test_a_signal_handler_may_save_in_the_middle_of_a_save(own):
    def writer(folder):
        (folder / "model").write_text("outer")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda number, frame: checkpoint.save(1, text("inner")))
    try:
        outer = checkpoint.save(1, writer)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert names(own) == ["step-1"]
    assert outer.digest == read_manifest(str(own / "step-1")).digest


def test_a_child_that_was_forked_in_the_middle_of_a_save_does_not_keep_the_folder(own):
    children = []

    def writer(folder):
        (folder / "model").write_text("a")
        children.append(os.fork())
        if children[-1] == 0:
            signal.pause()

    try:
        checkpoint.save(1, writer)
        assert subprocess.run(
            [sys.executable, "-c", "import hpo; print(hpo.checkpoint.load().step)"], stdout=subprocess.PIPE, timeout=30, check=True
        ).stdout.startswith(b"1\n")
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)


def test_where_the_file_system_has_no_locks_it_works_without(own, monkeypatch):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    checkpoint.save(1, text("a"))
    assert checkpoint.load().step == 1


def test_a_program_under_hpo_exec_has_its_checkpoints_in_the_result(trial):
    trial.environment["HPO_CHECKPOINT_DIR"] = str(trial.folder / "own")
    program = "import hpo; hpo.checkpoint.save(4, lambda folder: (folder / 'model').write_text('a')); print('epoch 4 val_loss=0.5')"
    done = trial.exec("--", sys.executable, "-c", program)
    assert (done.returncode, done.stderr) == (0, b"")
    assert trial.message["metrics"] == {"val_loss": ["0.5"] * 3}
    assert trial.message["checkpoint"]["step"] == 4


def test_importing_the_package_does_not_import_checkpoints(no_study):
    done = no_study.python("""
        import sys, hpo
        print([name for name in sys.modules if "checkpoint" in name or name == "shutil"], hpo.checkpoint.save.__name__)
        try:
            hpo.nonsense
        except AttributeError as error:
            print(error)
    """)
    assert done.stdout == b"[] save\nmodule 'hpo' has no attribute 'nonsense'\n"
