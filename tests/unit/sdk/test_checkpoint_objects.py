"""Checkpoints in an object store: the same promises as in a folder, kept on a real S3 server."""

import json
import socket
import socketserver
import sys
import threading
import time
import uuid
from contextlib import suppress

import pytest
from hpo._checkpoints_objects import Objects

from tests.unit.sdk.objects import CREDENTIALS, free_port, s3_server

TRAINING = """
import hpo, sys
found = hpo.checkpoint.load()
print("began with", found.step if found else 0, found.copied_from if found else None)
words = (found.path / "words").read_text() if found else ""
for step in map(int, sys.argv[1:]):
    words += f"{step} "
    def writer(folder):
        (folder / "below").mkdir()
        (folder / "below" / "more").write_bytes(b"m" * 100_000)
        (folder / "words").write_text(words)
    print(hpo.checkpoint.save(step, writer).digest)
"""

# Is killed in the middle of an upload: at the n-th object.
KILLED = (
    """
import os, signal
from hpo._checkpoints_objects import Objects
put, left = Objects.put, [%d]
def dying(self, name, content):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, name, content)
Objects.put = dying
"""
    + TRAINING
)


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def store(server, monkeypatch):
    """A Study's own place in the bucket, and the variables by which it is found."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    return f"s3://weights/team-a/{uuid.uuid4().hex}"


@pytest.fixture
def trial(trial, store, tmp_path, monkeypatch):
    """The Trial digits-7, with temporary files of its own: another machine, as far as the store can tell."""
    trial.environment |= {"HPO_CHECKPOINT_DIR": f"{store}/digits-7", "TMPDIR": str(tmp_path / "here")}
    (tmp_path / "here").mkdir()
    return trial


def on_another_machine(trial):
    there = trial.folder / uuid.uuid4().hex
    there.mkdir()
    trial.environment["TMPDIR"] = str(there)


def names(url):
    return sorted(Objects(url).names())


def digest(done):
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split()[-1]


def restoring(trial, store, recorded):
    trial.environment |= {
        "HPO_TRIAL": "digits-8",
        "HPO_CHECKPOINT_DIR": f"{store}/digits-8",
        "HPO_RESTORE_DIR": f"{store}/digits-7/step-2",
        "HPO_RESTORE_TRIAL": "digits-7",
        "HPO_RESTORE_STEP": "2",
        "HPO_RESTORE_DIGEST": recorded,
        "HPO_START_STEP": "2",
    }
    on_another_machine(trial)


def test_what_was_saved_is_found_on_another_machine_and_stands_in_the_final_message(trial, store):
    saved = digest(trial.python(TRAINING, "1", "2"))
    assert names(f"{store}/digits-7/step-2") == ["below/more", "manifest.json", "words"]
    assert trial.message["checkpoint"] == {"step": 2, "digest": saved, "path": "step-2", "bytes": 100_004}
    on_another_machine(trial)
    done = trial.python(TRAINING)
    assert done.stdout == b"began with 2 None\n"
    assert trial.message["checkpoint"]["digest"] == saved


def test_the_newest_are_kept_and_a_step_is_not_taken_for_one_with_a_longer_number(trial, store):
    digest(trial.python(TRAINING, *map(str, range(1, 13))))
    assert {each.split("/")[0] for each in names(f"{store}/digits-7")} == {"step-11", "step-12"}
    digest(trial.python(TRAINING, "120"))
    assert {each.split("/")[0] for each in names(f"{store}/digits-7")} == {"step-12", "step-120"}


@pytest.mark.parametrize("at", [1, 2, 3], ids=["before the first object", "between two", "before the manifest"])
def test_killed_during_an_upload_no_complete_step_is_seen_and_the_next_save_leaves_nothing_of_it(trial, store, at):
    digest(trial.python(TRAINING, "1"))
    assert trial.python(KILLED % at, "2").returncode == -9
    assert "step-2/manifest.json" not in names(f"{store}/digits-7")
    on_another_machine(trial)
    done = trial.python(TRAINING, "2")
    assert done.stdout.startswith(b"began with 1 None\n")
    assert names(f"{store}/digits-7/step-2") == ["below/more", "manifest.json", "words"]
    digest(trial.python(TRAINING, "3", "4"))
    assert {each.split("/")[0] for each in names(f"{store}/digits-7")} == {"step-3", "step-4"}


def test_what_a_killed_program_had_begun_with_other_files_is_no_part_of_the_checkpoint(trial, store):
    Objects(f"{store}/digits-7").put("step-1/left-over", b"of a killed program")
    digest(trial.python(TRAINING, "1"))
    on_another_machine(trial)
    assert trial.python(TRAINING).stdout == b"began with 1 None\n"


def test_another_trial_s_checkpoint_is_copied_compared_and_becomes_its_own(trial, store):
    recorded = digest(trial.python(TRAINING, "1", "2"))
    restoring(trial, store, recorded)
    assert trial.python(TRAINING).stdout == b"began with 2 digits-7\n"
    message = trial.message
    assert message["checkpoint"]["digest"] == recorded
    assert (message["restored"]["from"], message["restored"]["step"]) == ("digits-7", 2)
    assert "step-2/manifest.json" in names(f"{store}/digits-8"), "others may start from it, too"
    digest(trial.python(TRAINING, "3"))
    on_another_machine(trial)
    assert trial.python(TRAINING).stdout == b"began with 3 None\n", "its own goes before the donor's"


FAULTS = {
    "deleted": lambda donor: donor.remove(donor.names("step-2")),
    "without one of its files": lambda donor: donor.remove(["step-2/words"]),
    "corrupt": lambda donor: donor.put("step-2/words", b"1 3 "),
    "longer": lambda donor: donor.put("step-2/words", b"1 2 3 "),
    "with a manifest cut short": lambda donor: donor.put("step-2/manifest.json", b'{"hpo": 1'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_donor_s_checkpoint_that_is_gone_or_not_what_was_recorded_is_87(trial, store, fault):
    recorded = digest(trial.python(TRAINING, "1", "2"))
    FAULTS[fault](Objects(f"{store}/digits-7"))
    restoring(trial, store, recorded)
    done = trial.python(TRAINING)
    assert (done.returncode, done.stdout) == (87, b"")
    assert "digits-7 after step 2" in trial.message["donorUnavailable"]
    assert names(f"{store}/digits-8") == []


@pytest.mark.parametrize("fault", FAULTS)
def test_of_its_own_a_damaged_one_is_told_and_the_one_before_it_taken(trial, store, fault):
    digest(trial.python(TRAINING, "1", "2"))
    FAULTS[fault](Objects(f"{store}/digits-7"))
    on_another_machine(trial)
    done = trial.python(TRAINING)
    assert done.stdout == b"began with 1 None\n"
    assert (b"is damaged and not used" in done.stderr) == (fault != "deleted")


def test_a_bucket_that_is_not_there_is_told_with_what_to_look_at(trial):
    trial.environment["HPO_CHECKPOINT_DIR"] = "s3://no-such-bucket/digits-7"
    done = trial.python("import hpo\ntry: hpo.checkpoint.load()\nexcept OSError as error: print(error)")
    assert b"s3://no-such-bucket/digits-7" in done.stdout
    assert b"credentials" in done.stdout


def test_a_store_that_is_away_for_a_while_is_waited_for(trial, server):
    """Nobody answers at its address, until the program has tried for two seconds."""

    class Forwarding(socketserver.StreamRequestHandler):
        def handle(self):
            with socket.create_connection(("127.0.0.1", int(server.rpartition(":")[2]))) as there:
                back = threading.Thread(target=passed_on, args=(there, self.connection))
                back.start()
                passed_on(self.connection, there)
                back.join()

    port = free_port()
    trial.environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    process = trial.start(sys.executable, "-c", TRAINING, "1")
    try:
        time.sleep(2)
        with socketserver.ThreadingTCPServer(("127.0.0.1", port), Forwarding) as gate:
            gate.daemon_threads = True
            threading.Thread(target=gate.serve_forever, daemon=True).start()
            output, errors = process.communicate(timeout=120)
            gate.shutdown()
    finally:
        process.kill()
    assert process.returncode == 0, errors.decode()
    assert b"sha256:" in output


def passed_on(source, target):
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def test_under_exec_what_the_program_has_saved_stands_in_the_final_message(trial):
    done = trial.exec("--", sys.executable, "-c", TRAINING + "print('val_loss=0.5')", "1", "2")
    assert done.returncode == 0, done.stderr.decode()
    assert (trial.message["metrics"], trial.message["checkpoint"]["step"]) == ({"val_loss": ["0.5"] * 3}, 2)


def test_trials_are_removed_by_name_and_nothing_else_is(trial, store):
    for name in ("digits-1", "digits-12", "digits-2"):
        Objects(f"{store}/{name}").put("step-1/words", b"1 ")
    beside = f"{store}-of-another"
    Objects(f"{beside}/digits-1").put("step-1/words", b"1 ")

    def remove(*arguments):
        return trial.run(sys.executable, "-m", "hpo.checkpoint", "remove", *arguments)

    assert remove("--store", store, "--", "digits-1", "digits-2", "digits-77").returncode == 0
    assert names(store) == ["digits-12/step-1/words"]
    for wrong in ("../x", "", ".", "..", "digits-12/step-1"):
        done = remove("--store", store, "--", wrong)
        assert (done.returncode, b"is not the name of a Trial's folder" in done.stderr) == (1, True)
    assert remove("--store", "/tmp", "--", "x").returncode == remove("--store", store).returncode == 2
    assert names(store) == ["digits-12/step-1/words"]
    assert names(beside) == ["digits-1/step-1/words"]


def test_without_its_library_the_remedy_is_told_and_nothing_else_needs_it(no_study, tmp_path):
    imported = no_study.python("import hpo, hpo.checkpoint, sys; print('obstore' in sys.modules)")
    assert imported.stdout == b"False\n"
    no_study.environment["HPO_CHECKPOINT_DIR"] = "s3://weights/x"
    done = no_study.python("import sys; sys.modules['obstore'] = None\nimport hpo; hpo.checkpoint.load()")
    assert done.returncode == 1
    assert b"pip install 'hpo-operator-sdk[object-store]'" in done.stderr


def test_where_nothing_can_be_written_the_remedy_is_told(no_study):
    """As in a pod whose root file system is read-only."""
    no_study.environment["HPO_CHECKPOINT_DIR"] = "s3://weights/x"
    done = no_study.python(
        "import tempfile\ndef none(): raise FileNotFoundError\ntempfile.gettempdir = none\nimport hpo; hpo.checkpoint.load()"
    )
    assert done.returncode == 1
    assert b"InvalidEnvironment: TMPDIR '/tmp': must be a folder that can be written to. Mount a volume there" in done.stderr


def test_a_folder_of_the_same_message_is_the_same_checkpoint(trial, tmp_path):
    """The digest is of the content, wherever it lies."""
    there = digest(trial.python(TRAINING, "1"))
    trial.environment["HPO_CHECKPOINT_DIR"] = str(tmp_path / "folder")
    assert digest(trial.python(TRAINING, "1")) == there
    assert json.loads((tmp_path / "folder" / "step-1" / "manifest.json").read_text())["digest"] == there
