"""Checkpoints in an object store: the same promises as in a folder, kept on a real S3 server."""

import json
import os
import sys
import time
import uuid
from types import SimpleNamespace

import pytest
from hpo._checkpoints_objects import Objects

from tests.unit.sdk.objects import CREDENTIALS, PATIENCE, Gate, s3_server

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


def test_what_a_killed_program_had_not_uploaded_is_not_taken_for_what_the_next_one_saves(trial):
    assert trial.python(KILLED % 1, "1").returncode == -9
    saved = digest(trial.python(TRAINING.replace("100_000", "100_001"), "1"))
    assert trial.message["checkpoint"] == {"step": 1, "digest": saved, "path": "step-1", "bytes": 100_003}


def test_a_signal_handler_may_save_in_the_middle_of_an_upload(trial):
    done = trial.python("""
        import hpo
        from hpo._checkpoints_objects import Objects
        put, calls = Objects.put, []
        def interrupted(self, name, content):
            calls.append(name)
            if len(calls) == 2:
                hpo.checkpoint.save(1, writer)
            put(self, name, content)
        def writer(folder):
            for name in "abc":
                (folder / name).write_text(f"{name} {len(calls)}")
        Objects.put = interrupted
        hpo.checkpoint.save(1, writer)
    """)
    assert (done.returncode, done.stderr) == (0, b"")
    on_another_machine(trial)
    assert trial.python("import hpo; print(hpo.checkpoint.load().step)").stdout == b"1\n"


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
    done = trial.python("import hpo\nhpo.checkpoint.load()")
    assert done.returncode == 1
    assert b"s3://no-such-bucket/digits-7" in done.stderr
    assert b"credentials" in done.stderr


# A store that is away

AWAY_SECONDS = 1.0  # the faults are the same in a minute

# Saves and loads twelve megabytes, which are more than one part of an upload.
LARGE = """
import hashlib, hpo, random, sys
from hpo import _checkpoints_reading
content = random.Random(7).randbytes(12_000_000)
found = hpo.checkpoint.load()
if found:
    assert (found.path / "model").read_bytes() == content
print("began with", found.step if found else 0)
for step in map(int, sys.argv[1:]):
    print(hpo.checkpoint.save(step, lambda folder: (folder / "model").write_bytes(content)).digest)
"""

IMPATIENT = "from hpo import _checkpoints_reading\n_checkpoints_reading.PATIENCE_SECONDS = 2.0\n"
HASTY = "from hpo import _checkpoints_objects\n_checkpoints_objects.REQUEST_SECONDS = 1.0\n"
REMOVES = "from hpo._checkpoints_command import main\nsys.exit(main(['remove', '--store', sys.argv[1], '--', *sys.argv[2:]]))"


@pytest.fixture
def gate(trial, server):
    """An open gate before the server, through which the Trial comes to its store."""
    gate = Gate(server)
    trial.environment["AWS_ENDPOINT_URL"] = gate.address
    gate.open()
    yield gate
    gate.shut()


def shut_after(gate, count, *, upwards):
    """Shuts the gate when so many bytes have passed in one direction."""
    passed = [0]

    def watch(is_upwards, data):
        passed[0] += len(data) if is_upwards == upwards else 0
        if passed[0] > count and gate.is_open:
            gate.watch = lambda *_: None
            gate.shut()

    gate.watch = watch


def opened_again(gate, process):
    """Waits until the gate is shut, and opens it after a while; what the program has said when it has ended."""
    try:
        wait_until(lambda: not gate.is_open or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        time.sleep(AWAY_SECONDS)
        gate.open()
        output, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, errors.decode()
    return output


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_store_that_is_away_at_the_start_is_waited_for(trial, gate):
    gate.shut()
    assert b"sha256:" in opened_again(gate, trial.start(sys.executable, "-c", LARGE, "1"))


@pytest.mark.parametrize("megabytes", [1, 6, 11])
def test_away_in_the_middle_of_an_upload_it_goes_on_to_the_last_bit(trial, store, gate, megabytes):
    shut_after(gate, megabytes * 1_000_000, upwards=True)
    assert b"sha256:" in opened_again(gate, trial.start(sys.executable, "-c", LARGE, "1"))
    assert names(f"{store}/digits-7/step-1") == ["manifest.json", "model"]
    on_another_machine(trial)
    assert trial.python(LARGE).stdout == b"began with 1\n"


@pytest.mark.parametrize("megabytes", [1, 6, 11])
def test_away_in_the_middle_of_a_download_it_goes_on_to_the_last_bit(trial, store, gate, megabytes):
    digest(trial.python(LARGE, "1"))
    on_another_machine(trial)
    shut_after(gate, megabytes * 1_000_000, upwards=False)
    assert opened_again(gate, trial.start(sys.executable, "-c", LARGE)) == b"began with 1\n"
    assert names(f"{store}/digits-7/step-1") == ["manifest.json", "model"]


def at_a_removal(gate, upwards, act):
    """Does something once, when the request to delete objects is about to pass, or else its answer."""
    asked = []

    def watch(is_upwards, data):
        asked.extend([data] if is_upwards and b"?delete" in data else [])
        if asked and is_upwards == upwards:
            gate.watch = lambda *_: None
            act()

    gate.watch = watch


@pytest.fixture
def removing(trial, store):
    """Starts removing one of two Trials; what is said before makes it impatient."""
    for number in (1, 2):
        Objects(f"{store}/digits-{number}").put("step-1/words", b"1 ")
        Objects(f"{store}/digits-{number}").put("step-1/manifest.json", b"{}")
    return lambda said="": trial.start(sys.executable, "-c", said + "import sys\n" + REMOVES, store, "digits-1")


@pytest.mark.parametrize("upwards", [True, False], ids=["before it", "before its answer"])
def test_away_in_the_middle_of_a_removal_it_is_done_all_the_same(removing, store, gate, upwards):
    at_a_removal(gate, upwards, gate.shut)
    opened_again(gate, removing())
    assert names(store) == ["digits-2/step-1/manifest.json", "digits-2/step-1/words"]


@pytest.mark.parametrize("upwards", [True, False], ids=["it", "its answer"])
def test_a_removal_of_which_nothing_is_heard_is_asked_for_again(removing, store, gate, upwards):
    at_a_removal(gate, upwards, lambda: time.sleep(2 * AWAY_SECONDS))
    process = removing(HASTY)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()
    assert errors.count(b"does not answer") == 1
    assert names(store) == ["digits-2/step-1/manifest.json", "digits-2/step-1/words"]


def test_a_slow_store_is_slow_and_nothing_else(trial, store, gate):
    """Loading takes longer than one request may, and than is waited for a store that brings nothing."""
    gate.watch = lambda upwards, data: time.sleep(len(data) / 3_000_000)
    digest(trial.python(LARGE, "1"))
    on_another_machine(trial)
    done = trial.python(IMPATIENT + HASTY + LARGE)
    assert done.stdout == b"began with 1\n", done.stderr.decode()


@pytest.mark.parametrize("whose", ["its own", "another's"])
def test_a_store_that_stays_away_ends_the_program_with_1_and_nothing_is_removed(trial, store, gate, whose):
    recorded = digest(trial.python(LARGE, "1", "2"))
    before = names(f"{store}/digits-7")
    if whose == "another's":
        restoring(trial, store, recorded)
    else:
        on_another_machine(trial)
    shut_after(gate, 5_000_000, upwards=False)
    trial.termination_file.unlink()
    done = trial.python(IMPATIENT + LARGE)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"hpo: checkpoint not loaded: " in done.stderr
    assert not trial.termination_file.exists()
    gate.open()
    assert names(f"{store}/digits-7") == before
    assert names(f"{store}/digits-8") == []
    assert trial.python(LARGE).stdout == b"began with 2\n"


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


# Is killed when it removes objects: right before the n-th request, or right after.
REMOVER = """
import obstore, os, signal, sys
delete, left = obstore.delete, [%d]
def dying(store, names):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    delete(store, names)
obstore.delete = dying
"""


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_remover_that_was_killed_leaves_no_half_checkpoint_under_its_name_and_the_next_one_removes_the_rest(trial, store, at):
    for name in ("digits-1", "digits-2", "digits-3"):
        for file in ("words", "below/more", "manifest.json"):
            Objects(f"{store}/{name}").put(f"step-1/{file}", b"1 ")
    assert trial.python(REMOVER % at + REMOVES, store, "digits-1", "digits-2").returncode == -9
    left = names(store)
    for name in ("digits-1", "digits-2"):
        files = {each for each in left if each.startswith(f"{name}/")}
        assert len(files) == 3 or f"{name}/step-1/manifest.json" not in files
    assert trial.python("import sys\n" + REMOVES, store, "digits-1", "digits-2").returncode == 0
    assert {each.split("/")[0] for each in names(store)} == {"digits-3"}


@pytest.mark.parametrize("at", [1, 2])
def test_killed_while_old_checkpoints_go_the_next_save_removes_the_rest(trial, store, at):
    digest(trial.python(TRAINING, "1", "2"))
    assert trial.python(REMOVER % at + TRAINING, "3").returncode == -9
    assert "step-3/manifest.json" in names(f"{store}/digits-7")
    on_another_machine(trial)
    done = trial.python(TRAINING, "4")
    assert done.stdout.startswith(b"began with 3 None\n")
    assert {each.split("/")[0] for each in names(f"{store}/digits-7")} == {"step-3", "step-4"}


def test_a_file_of_a_hundred_gigabytes_has_no_more_parts_than_a_store_takes(store, tmp_path, monkeypatch):
    objects, parts = Objects(store), []
    weights = tmp_path / "weights"
    weights.touch()
    os.truncate(weights, 100 * 10**9)  # it takes no room
    monkeypatch.setattr(
        objects, "_obstore", SimpleNamespace(exceptions=objects._obstore.exceptions, put=lambda *_, **more: parts.append(more))
    )
    objects.put("weights", weights)
    assert 10_000 * parts[0]["chunk_size"] >= 100 * 10**9


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
