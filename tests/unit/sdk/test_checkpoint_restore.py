"""Starting from another Trial's checkpoint: copied, compared with what was recorded, and an error with a name if it is not that."""

import json
import os
import shutil
import stat
import sys

import hpo
import pytest
from hpo import _checkpoints_reading, _report, checkpoint

from tests.unit.sdk.conftest import anew


def writer(folder):
    (folder / "below").mkdir()
    (folder / "below" / "moments").write_bytes(b"\1" * 100_000)
    (folder / "model").write_text("weights")


@pytest.fixture
def donor(tmp_path, monkeypatch):
    """A complete checkpoint of digits-3 after step 4, which the environment tells digits-7 to start from."""
    monkeypatch.setattr(_report, "_reporter", None)
    monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(tmp_path / "6f2c" / "digits-3"))
    saved = checkpoint.save(4, writer)
    variables = {
        "HPO_TRIAL": "digits-7",
        "HPO_TERMINATION_FILE": tmp_path / "termination",
        "HPO_CHECKPOINT_DIR": tmp_path / "6f2c" / "digits-7",
        "HPO_RESTORE_DIR": saved.path,
        "HPO_RESTORE_TRIAL": "digits-3",
        "HPO_RESTORE_STEP": 4,
        "HPO_RESTORE_DIGEST": saved.digest,
        "HPO_START_STEP": 4,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    anew(monkeypatch)
    return saved


@pytest.fixture
def own(tmp_path):
    return tmp_path / "6f2c" / "digits-7"


def names(folder):
    return sorted(each.name for each in folder.iterdir() if each.name != ".lock") if folder.exists() else []


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_donor_s_checkpoint_becomes_one_s_own_and_says_where_it_came_from(donor, own, tmp_path, message_in):
    before = content(donor.path)
    found = checkpoint.load()
    assert found == donor._replace(path=own / "step-4", copied_from="digits-3")
    copied = content(found.path)
    assert copied.pop("manifest.json") != before.pop("manifest.json")
    assert copied == before
    assert hpo.start_step() == 4
    message = message_in(tmp_path / "termination")
    assert message["checkpoint"] == {"step": 4, "digest": donor.digest, "path": "step-4", "bytes": 100_007}
    assert message["restored"].pop("seconds") >= 0
    assert message["restored"] == {"from": "digits-3", "step": 4, "bytes": 100_007}


def test_where_it_came_from_stands_in_the_result_after_newer_ones_and_after_a_restart(
    donor, own, tmp_path, monkeypatch, message_in
):
    checkpoint.load()
    checkpoint.save(5, writer)
    hpo.report(step=5, loss=0.5)
    message = message_in(tmp_path / "termination")
    assert (message["step"], message["checkpoint"]["step"], message["restored"]["from"]) == (5, 5, "digits-3")
    anew(monkeypatch)
    assert checkpoint.load()[::3] == (5, None)
    assert names(own) == ["step-4", "step-5"]


def test_the_copy_stays_until_a_newer_one_is_complete(donor, own, monkeypatch):
    monkeypatch.setenv("HPO_CHECKPOINT_KEEP", "1")
    checkpoint.load()

    def fails(folder):
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  the test's own
        checkpoint.save(5, fails)
    assert names(own) == ["step-4"]
    checkpoint.save(5, writer)
    assert names(own) == ["step-5"]


def test_the_donor_may_go_once_it_was_copied(donor, own, monkeypatch):
    checkpoint.load()
    shutil.rmtree(donor.path)
    anew(monkeypatch)
    assert checkpoint.load().copied_from == "digits-3"


def test_the_trial_s_own_newer_checkpoint_goes_first(donor, own, monkeypatch):
    checkpoint.load()
    checkpoint.save(9, writer)
    anew(monkeypatch)
    found = checkpoint.load()
    assert (found.step, found.copied_from, hpo.start_step()) == (9, None, 9)


def test_a_copy_that_was_damaged_is_made_anew(donor, own, monkeypatch, capsys):
    checkpoint.load()
    (own / "step-4" / "model").write_text("weighty")
    anew(monkeypatch)
    assert content(checkpoint.load().path)["model"] == b"weights"
    assert "is damaged and not used" in capsys.readouterr().err


def flip_a_byte(folder):
    data = bytearray((folder / "below" / "moments").read_bytes())
    data[50_000] ^= 1
    (folder / "below" / "moments").write_bytes(data)


def cut_a_file(folder):
    os.truncate(folder / "below" / "moments", 99_999)


def lengthen_a_file(folder):
    os.truncate(folder / "below" / "moments", 100_001)


def remove_a_file(folder):
    (folder / "model").unlink()


def add_a_file(folder):
    (folder / "below" / "extra").write_text("")


def add_a_link(folder):
    (folder / "extra").symlink_to("model")


def replace_by_a_link(folder):
    (folder / "model").rename(folder.parent / "model")
    (folder / "model").symlink_to("../model")


def replace_by_a_pipe(folder):
    (folder / "model").unlink()
    os.mkfifo(folder / "model")


def remove_the_manifest(folder):
    (folder / "manifest.json").unlink()


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def cut_the_manifest(folder):
    os.truncate(folder / "manifest.json", 150)


def nonsense_manifest(folder):
    (folder / "manifest.json").write_text("[]")


def changed_manifest(**changes):
    def change(folder):
        found = json.loads((folder / "manifest.json").read_text())
        for name, value in changes.items():
            found[name] = value(found[name])
        (folder / "manifest.json").write_text(json.dumps(found))

    return change


def leads_out(files):
    return [{**files[0], "path": "../model"}, *files[1:]]


def absolute(files):
    return [{**files[0], "path": "/etc/passwd"}, *files[1:]]


DAMAGES = {
    "a flipped byte": flip_a_byte,
    "a file cut short": cut_a_file,
    "a file that grew": lengthen_a_file,
    "a file missing": remove_a_file,
    "a file too many": add_a_file,
    "a link too many": add_a_link,
    "a link instead of a file": replace_by_a_link,
    "a pipe instead of a file": replace_by_a_pipe,
    "no manifest": remove_the_manifest,
    "a manifest cut short": cut_the_manifest,
    "another manifest": nonsense_manifest,
    "an empty folder": empty,
    "no folder": shutil.rmtree,
    "another step": changed_manifest(step=lambda step: 5),
    "another digest": changed_manifest(digest=lambda digest: digest[:-1] + "x"),
    "no files": changed_manifest(files=lambda files: []),
    "files in another order": changed_manifest(files=lambda files: files[::-1]),
    "a file named twice": changed_manifest(files=lambda files: files[:1] + files),
    "a path that leads out": changed_manifest(files=leads_out),
    "an absolute path": changed_manifest(files=absolute),
    "a path that is no text": changed_manifest(files=lambda files: [{**files[0], "path": 3}]),
    "a size that is none": changed_manifest(files=lambda files: [{**files[0], "size": -1}]),
    "a newer version": changed_manifest(hpo=lambda version: 2),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_donor_ends_the_program_with_a_name_and_leaves_nothing(donor, own, tmp_path, message_in, capsys, damage):
    damage(donor.path)
    with pytest.raises(checkpoint.DonorUnavailable) as end:
        checkpoint.load()
    assert end.value.code == checkpoint.DONOR_UNAVAILABLE_EXIT_CODE == 87
    assert end.value.reason.startswith(f"the checkpoint of digits-3 after step 4, {donor.path}: ")
    assert names(own) == []
    assert message_in(tmp_path / "termination") == {"hpo": 1, "donorUnavailable": end.value.reason}
    assert capsys.readouterr().err == f"hpo: donor unavailable: {end.value.reason}\n"


@pytest.mark.parametrize(("variable", "value"), [("HPO_RESTORE_DIGEST", "sha256:" + "0" * 64), ("HPO_RESTORE_STEP", "3")])
def test_a_whole_checkpoint_that_is_not_the_recorded_one_is_refused(donor, own, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(checkpoint.DonorUnavailable):
        checkpoint.load()
    assert names(own) == []


def test_a_donor_removed_while_it_is_copied_is_unavailable_and_leaves_nothing(donor, own, monkeypatch):
    chunks = _checkpoints_reading.chunks

    def removed_meanwhile(path):
        for chunk in chunks(path):
            shutil.rmtree(donor.path, ignore_errors=True)
            yield chunk

    monkeypatch.setattr("hpo._checkpoints_restore.chunks", removed_meanwhile)
    with pytest.raises(checkpoint.DonorUnavailable) as end:
        checkpoint.load()
    assert end.value.reason.endswith("'model' cannot be read (No such file or directory)")
    assert names(own) == []


def test_a_write_that_fails_is_the_own_folder_s_fault_and_not_the_donor_s(donor, own, monkeypatch):
    write = os.write

    def full(descriptor, data):
        if "digits-7" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(checkpoint.CheckpointNotSaved, match="No space left on device"):
        checkpoint.load()
    assert names(own) == []
    monkeypatch.setattr(os, "write", write)
    assert checkpoint.load().step == 4


def test_a_trial_that_should_start_from_a_step_never_starts_from_nothing(donor, monkeypatch):
    for name in ("HPO_RESTORE_DIR", "HPO_RESTORE_STEP", "HPO_RESTORE_DIGEST"):
        monkeypatch.delenv(name)
    with pytest.raises(checkpoint.DonorUnavailable) as end:
        checkpoint.load()
    assert end.value.reason == "the Trial starts from step 4, but has no checkpoint of its own and is given none"
    monkeypatch.delenv("HPO_CHECKPOINT_DIR")
    with pytest.raises(checkpoint.DonorUnavailable) as end:
        checkpoint.load()
    assert end.value.reason == "HPO_START_STEP is 4, but HPO_CHECKPOINT_DIR is not set"


@pytest.mark.parametrize("variable", ["HPO_RESTORE_DIR", "HPO_RESTORE_STEP", "HPO_RESTORE_DIGEST", "HPO_CHECKPOINT_DIR"])
def test_half_an_order_to_restore_is_refused(donor, monkeypatch, variable):
    monkeypatch.delenv(variable)
    with pytest.raises(hpo.InvalidEnvironment, match=variable):
        checkpoint.load()


def test_several_processes_that_start_at_once_share_one_copy(donor, own):
    ranks = []
    for rank in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ["RANK"] = str(rank)
                code = 0 if checkpoint.load().step == 4 else 1
            finally:
                os._exit(code)
        ranks.append(child)
    assert [os.waitpid(child, 0)[1] for child in ranks] == [0, 0, 0, 0]
    assert names(own) == ["step-4"]


LOADS = """
    import hpo
    try:
        hpo.checkpoint.load()
    except Exception:
        pass
    hpo.report(step=5, val_loss=0.1)
    print("trained")
"""


def given(trial, donor, folder):
    trial.environment.update(
        HPO_CHECKPOINT_DIR=str(folder / "own"),
        HPO_RESTORE_DIR=str(donor.path),
        HPO_RESTORE_TRIAL="digits-3",
        HPO_RESTORE_STEP="4",
        HPO_RESTORE_DIGEST=donor.digest,
        HPO_START_STEP="4",
    )


def test_a_program_whose_donor_is_gone_ends_with_87_even_if_it_catches_all_exceptions(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    remove_a_file(donor.path)
    done = trial.python(LOADS)
    assert (done.returncode, done.stdout) == (87, b"")
    assert trial.message["donorUnavailable"].endswith("'model' is missing")


def test_a_program_that_goes_on_all_the_same_has_no_result(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    remove_a_file(donor.path)
    done = trial.python(LOADS.replace("except Exception", "except BaseException"))
    assert (done.returncode, done.stdout) == (0, b"trained\n")
    assert "donorUnavailable" in trial.message


def test_in_a_thread_the_whole_program_ends(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    remove_a_file(donor.path)
    done = trial.python("import hpo, threading, time\nthreading.Thread(target=hpo.checkpoint.load).start()\ntime.sleep(50)")
    assert done.returncode == 87


def restore(trial, donor, *arguments):
    return trial.run(sys.executable, "-m", "hpo.checkpoint", "restore", *arguments)


def test_the_command_prepares_the_folder_and_may_be_run_again(trial, donor, tmp_path):
    options = ["--own", tmp_path / "o", "--donor", donor.path, "--step=4", "--digest", donor.digest, "--trial", "digits-3"]
    for _ in range(2):
        done = restore(trial, donor, *options)
        assert (done.returncode, done.stderr) == (0, b"")
        told = json.loads(done.stdout)
        assert told["checkpoint"] == {"step": 4, "digest": donor.digest, "path": "step-4", "bytes": 100_007}
        assert told["restored"]["from"] == "digits-3"
        assert trial.message == told
    assert names(tmp_path / "o") == ["step-4"]


def test_the_command_takes_from_the_environment_what_it_is_not_told(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    assert restore(trial, donor).returncode == 0
    assert names(tmp_path / "own") == ["step-4"]
    done = trial.python("import hpo\nprint(hpo.checkpoint.load().copied_from)")
    assert done.stdout == b"digits-3\n"


def test_the_command_without_a_donor_has_nothing_to_do(trial, tmp_path):
    done = restore(trial, None, "--own", tmp_path / "own")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_command_says_what_is_wrong_by_its_exit_code(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    done = restore(trial, donor, "--digest", "sha256:0")
    assert done.returncode == 87
    assert json.loads(done.stdout) == trial.message
    shutil.rmtree(tmp_path / "own")
    (tmp_path / "own").write_text("a file")
    done = restore(trial, donor)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"cannot be written to" in done.stderr
    for arguments in (["--nonsense"], ["--own"], ["--step", "x"]):
        assert restore(trial, donor, *arguments).returncode == 2
    assert trial.run(sys.executable, "-m", "hpo.checkpoint").returncode == 2
    assert trial.run(sys.executable, "-m", "hpo.checkpoint", "--help").stdout.startswith(b"usage: ")


def test_the_command_becomes_the_program_once_the_folder_is_prepared(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    done = restore(trial, donor, "--", "sh", "-c", f'echo "$0 $@" $$; ls {tmp_path}/own; exit 5', "a", "--b")
    assert (done.returncode, done.stderr) == (5, b"")
    assert done.stdout.split()[:2] == [b"a", b"--b"]
    assert done.stdout.endswith(b"\nstep-4\n")
    assert trial.message["restored"]["from"] == "digits-3"


def test_without_its_checkpoint_the_program_is_not_run(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    remove_a_file(donor.path)
    done = restore(trial, donor, "--", "touch", tmp_path / "ran")
    assert (done.returncode, (tmp_path / "ran").exists()) == (87, False)
    assert "donorUnavailable" in trial.message


def test_a_program_that_is_missing_is_told(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    done = restore(trial, donor, "--", "no-such-program")
    assert (done.returncode, done.stdout) == (127, b"")
    assert b"no-such-program could not be started: No such file" in done.stderr
    assert restore(trial, donor, "--").returncode == 2


def test_a_program_that_finds_by_itself_what_was_copied_for_it_is_known_to_go_on_from_there(trial, donor, tmp_path):
    given(trial, donor, tmp_path)
    assert restore(trial, donor).returncode == 0
    saving = "import hpo; hpo.checkpoint.save(5, lambda folder: (folder / 'w').write_text('w'))"
    assert trial.python(saving).returncode == 0
    assert (trial.message["checkpoint"]["step"], trial.message["restored"]["from"]) == (5, "digits-3")


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o775, 0o664), (0o777, 0o666), (0o707, 0o646)], ids=oct)
def test_what_the_command_has_copied_may_be_changed_by_whoever_may_write_to_the_folder(trial, donor, tmp_path, folder, file):
    given(trial, donor, tmp_path)
    own, group = tmp_path / "own", 12345 if os.geteuid() == 0 else os.getegid()
    own.mkdir()
    os.chown(own, -1, group)
    own.chmod(folder)
    for _ in range(2):  # a pod's containers may be started anew
        assert restore(trial, donor).returncode == 0
        of_files = {each: each.stat() for each in (own / ".lock", *own.rglob("step-4/**/*")) if each.is_file()}
        of_folders = {each: each.stat() for each in (own / "step-4", own / "step-4" / "below")}
        assert len(of_files) == 4
        assert {stat.S_IMODE(each.st_mode) for each in of_files.values()} == {file}
        assert {stat.S_IMODE(each.st_mode) for each in of_folders.values()} == {folder | 0o055}
        if folder != 0o755:
            assert {each.st_gid for each in (of_files | of_folders).values()} == {group}
        assert stat.S_IMODE(own.stat().st_mode) == folder
    assert stat.S_IMODE((donor.path / "model").stat().st_mode) == 0o644


@pytest.mark.parametrize(("whose", "act"), [("own", "write"), ("donor", "read")])
def test_where_only_another_user_may_the_remedy_names_who_this_is(donor, own, monkeypatch, capsys, whose, act):
    place, open_ = str({"own": own, "donor": donor.path}[whose]), os.open

    def forbidden(path, *arguments):
        if str(path).startswith(place):
            raise PermissionError(13, "Permission denied", path)
        return open_(path, *arguments)

    monkeypatch.setattr(_checkpoints_reading, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(os, "geteuid", lambda: 65532)
    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises((checkpoint.CheckpointNotSaved, checkpoint.CheckpointNotLoaded)) as fault:
        checkpoint.load()
    remedy = f"User 65532 may not {act} there: run as the one who may (securityContext.runAsUser of the pod), or let others"
    assert remedy in f"{fault.value}{capsys.readouterr().err}"
