"""The results folder: what is in it is never lost, never mixed with another Study's, and the machine's faults are said as such."""

import errno
import json
import os
import shutil
import subprocess

import pytest
from hpo_operator.consultant import Consultant
from hpo_operator.local import processes, runner
from hpo_operator.local.store import Store

from tests.unit.operator.local_studies import REPORT


def full_from(number, disk, then):
    """A program that fills the disk in Trial `number`, before or after its report."""
    fill = f'[ $HPO_TRIAL_NUMBER != {number} ] || head -c 2000000 /dev/zero > "{disk}/ballast" 2>/dev/null'
    return {"reports": f"{fill}; {REPORT}; true", "ends": f"{REPORT}; {fill}; true", "fails": f"{fill}; {REPORT}"}[then]


@pytest.mark.parametrize(("number", "then"), [(0, "ends"), (2, "ends"), (0, "reports"), (2, "reports"), (1, "fails")])
def test_on_a_full_disk_the_run_ends_with_a_clear_message_and_goes_on_without_loss_when_there_is_room(
    laptop, small_disk, capsys, number, then
):
    laptop.results = small_disk / "results"
    program = f"{full_from(number, small_disk, then)} && echo $HPO_TRIAL_NUMBER >> ended"
    laptop.write(program, limits={"maxTrials": 5})

    assert laptop.hpo("run") == 1

    err = capsys.readouterr().err
    assert "cannot be written: No space left on device." in err
    assert "make room and run the same command again" in err
    assert "Traceback" not in err
    before = [trial for trial in laptop.trials() if trial.status.completion_time]
    # A result that was reported may still find room where something else has gone.
    assert len(before) in (number, number + (then == "ends"))

    assert laptop.hpo("run") == 1  # nothing has changed
    assert laptop.trials()[: len(before)] == before

    (small_disk / "ballast").unlink()
    (small_disk / "ballast").mkdir()  # so that the same program cannot fill the disk again
    assert laptop.hpo("run") == 0
    assert laptop.trials()[: len(before)] == before
    assert laptop.reasons() == ["Completed"] * 5
    assert len([line for line in laptop.lines("ended") if int(line) < len(before)]) == len(before)


def test_a_disk_that_is_full_from_the_start_is_said_to_be_so(laptop, small_disk, capsys):
    laptop.results = small_disk / "results"
    laptop.results.mkdir()
    subprocess.run(f"head -c 2000000 /dev/zero > {small_disk}/ballast", shell=True, check=False, stderr=subprocess.DEVNULL)
    laptop.write(REPORT)
    assert laptop.hpo("run") in (1, 2)
    assert "No space left on device" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused(laptop, small_disk, capsys):
    laptop.results = small_disk / "results"
    laptop.write(REPORT)
    assert laptop.hpo("run") == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    assert laptop.hpo("run") == 2
    assert "cannot be locked: Read-only file system" in capsys.readouterr().err
    assert laptop.hpo("best", laptop.results) == 0  # reading needs no lock
    laptop.results = small_disk / "others"
    assert laptop.hpo("run") == 2
    assert "cannot be made: Read-only file system" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_system_without_room_for_a_process_ends_the_run_and_no_trial_is_blamed(laptop, capsys, monkeypatch, number):
    laptop.write(REPORT)

    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(processes.subprocess, "Popen", refuse)
        assert laptop.hpo("run") == 1
    assert f"No process can be started: {os.strerror(number)}." in capsys.readouterr().err
    assert laptop.hpo("run") == 0
    assert laptop.reasons() == ["Completed"] * 3


def test_a_study_that_has_ended_is_shown_again_and_runs_nothing(laptop, capsys):
    laptop.write(f"{REPORT}; echo >> ended")
    assert laptop.hpo("run") == 0
    first = capsys.readouterr().out
    assert laptop.hpo("run") == 0
    assert capsys.readouterr().out == first
    assert len(laptop.lines("ended")) == 3


def test_a_raised_limit_lets_a_study_go_on(laptop):
    laptop.write(f"{REPORT}; echo >> ended")
    assert laptop.hpo("run") == 0
    laptop.write(f"{REPORT}; echo >> ended", limits={"maxTrials": 5}, parallelism=2)
    assert laptop.hpo("run") == 0
    assert len(laptop.lines("ended")) == 5
    assert laptop.recorded().status.trials.completed == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "other"}, "name"),
        ({"seed": 4}, "seed"),
        ({"parameters": [{"name": "x", "float": {"min": 0, "max": 2}}], "algorithm": {"sobol": {}}}, "algorithm and parameters"),
    ],
)
def test_the_folder_of_another_study_is_refused_and_left_as_it_is(laptop, capsys, change, named):
    laptop.write(REPORT)
    assert laptop.hpo("run") == 0
    before = {path: path.read_bytes() for path in laptop.results.rglob("*") if path.is_file()}
    laptop.write(REPORT, **change)
    assert laptop.hpo("run") == 2
    err = capsys.readouterr().err
    assert f"holds the results of a Study with another {named}. Run with --fresh to set them aside" in err
    assert {path: path.read_bytes() for path in laptop.results.rglob("*") if path.is_file()} == before


def test_fresh_sets_earlier_results_aside_and_deletes_nothing(laptop, capsys):
    laptop.write(REPORT)
    for _ in range(3):
        assert laptop.hpo("run", "--fresh") == 0
    assert "earlier results were set aside as" in capsys.readouterr().err
    kept = sorted(path.name for path in laptop.folder.glob("results*"))
    assert kept == ["results", "results.1", "results.2"]
    assert len({json.loads((laptop.folder / name / "study.json").read_text())["metadata"]["uid"] for name in kept}) == 3


def test_fresh_does_not_touch_a_folder_without_results(laptop, capsys):
    laptop.results.mkdir()
    (laptop.results / "thesis.tex").touch()
    laptop.write(REPORT)
    assert laptop.hpo("run", "--fresh") == 2
    assert "holds no results of a Study, and is not touched" in capsys.readouterr().err
    assert (laptop.results / "thesis.tex").exists()


def damaged(name, change):
    def damage(laptop):
        path = laptop.results / name
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    return damage


NO_NAME = "x" * 300  # the system can look at no such path, as at one whose folder is somebody else's


def out_of_reach(laptop):
    shutil.rmtree(laptop.results / "trials" / "0001")
    (laptop.results / "trials" / "0001").symlink_to(NO_NAME)


def foreign(laptop):
    shutil.copytree(laptop.results / "trials" / "0000", laptop.results / "trials" / "0007")


DAMAGES = {
    "another format": (damaged("study.json", lambda d: d.update(format=2)), "has format 2, this version reads 1"),
    "no format": (damaged("study.json", lambda d: d.pop("format")), "has no format, this version reads 1"),
    "no spec": (damaged("study.json", lambda d: d.pop("spec")), "study.json: spec: Field required"),
    "a Study lost": (lambda laptop: (laptop.results / "study.json").unlink(), "holds trials but no study.json"),
    "no seed": (damaged("study.json", lambda d: d["status"].pop("seed")), "study.json: status.seed: Field required"),
    "a Trial cut short": (
        lambda laptop: (laptop.results / "trials/0001/trial.json").write_text('{"apiVersion": "hpo'),
        "trials/0001/trial.json: is not JSON",
    ),
    "an empty Trial": (
        lambda laptop: (laptop.results / "trials/0001/trial.json").write_text(""),
        "trials/0001/trial.json: is not JSON",
    ),
    "a Trial of bytes": (
        lambda laptop: (laptop.results / "trials/0001/trial.json").write_bytes(bytes(range(256))),
        "trials/0001/trial.json: is not JSON",
    ),
    "a Trial that is a list": (
        lambda laptop: (laptop.results / "trials/0001/trial.json").write_text("[]"),
        "trials/0001/trial.json: the whole: ",
    ),
    "a Trial without parameters": (
        damaged("trials/0001/trial.json", lambda d: d["spec"].pop("parameters")),
        "trials/0001/trial.json: spec.parameters: Field required",
    ),
    "a Trial out of reach": (out_of_reach, "trials/0001/trial.json: cannot be read: File name too long."),
    "a Trial twice": (foreign, "trials/0007/trial.json: holds Trial tiny-0"),
    "a Trial of another Study": (
        damaged("trials/0001/trial.json", lambda d: d["spec"]["studyRef"].update(uid="6f2c")),
        "of the Study with uid 6f2c",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_results_that_were_damaged_are_refused_by_name(laptop, capsys, damage):
    act, message = DAMAGES[damage]
    laptop.write(REPORT)
    assert laptop.hpo("run") == 0
    act(laptop)
    capsys.readouterr()
    assert laptop.hpo("run") == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    if "lost" not in damage:
        assert laptop.hpo("trials", laptop.results) == 2
        assert laptop.hpo("best", laptop.results) == 2


@pytest.mark.parametrize("command", ["trials", "best", "lineage"])
def test_results_without_the_folder_of_trials_are_refused_by_name(laptop, capsys, command):
    laptop.write(REPORT)
    assert laptop.hpo("run") == 0
    shutil.rmtree(laptop.results / "trials")
    assert laptop.hpo(command, laptop.results) == 2
    assert f"{laptop.results}/trials: cannot be read: No such file or directory." in capsys.readouterr().err
    (laptop.results / "trials").mkdir()


@pytest.mark.parametrize("words", [["lineage"], ["replay", "study.json", "--of"], ["run", "--fresh", "--results"]], ids=" ".join)
def test_results_that_cannot_be_looked_at_are_refused_by_name(laptop, capsys, monkeypatch, words):
    monkeypatch.chdir(laptop.folder)
    laptop.write(REPORT)
    assert laptop.hpo(*words, NO_NAME) == 2
    assert "File name too long" in capsys.readouterr().err


def test_an_algorithm_whose_process_cannot_be_started_ends_the_run_with_a_clear_message(laptop, capsys, monkeypatch):
    monkeypatch.setattr(runner, "Consultant", Consultant)
    log = laptop.results / "algorithm.log"
    for trials in (1, 2):  # of a new Study it is started at once, of one that had ended when it is asked
        laptop.write(REPORT, limits={"maxTrials": trials})
        log.mkdir(parents=True)
        assert laptop.hpo("run") == 1
        assert f"The algorithm's process cannot be started: {log}: Is a directory. Nothing" in capsys.readouterr().err
        log.rmdir()
        assert laptop.hpo("run") == 0
        log.unlink()


def test_folders_that_are_no_trials_are_left_alone(laptop):
    laptop.write(REPORT)
    assert laptop.hpo("run") == 0
    shutil.copytree(laptop.results / "trials" / "0000", laptop.results / "trials" / "0000 copy")
    (laptop.results / "trials" / "0042").mkdir()  # a runner was killed before it had recorded this Trial
    assert laptop.hpo("run") == 0
    assert [trial.spec.number for trial in laptop.trials()] == [0, 1, 2]


def test_trials_are_in_the_order_of_their_numbers_beyond_ten_thousand(tmp_path, laptop):
    laptop.write(REPORT, limits={"maxTrials": 1})
    assert laptop.hpo("run") == 0
    store, trial = Store(laptop.results), laptop.trials()[0]
    for number in (10_000, 9_999, 200):
        store.create(trial.model_copy(update={"spec": trial.spec.model_copy(update={"number": number})}))
    assert [each.spec.number for each in laptop.trials()] == [0, 200, 9_999, 10_000]
