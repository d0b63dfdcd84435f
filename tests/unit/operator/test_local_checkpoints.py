"""Trainings that continue on a laptop: a promoted Trial starts from its donor's weights, to the last bit, or not at all."""

import json
import os
import signal
import sys

import pytest
from hpo._checkpoints_manifest import read_manifest, verify
from hpo_algorithms import Answer, Origin, Proposal
from hpo_algorithms.trials import SCHEDULE_FINISHED
from hpo_operator import conditions as c
from hpo_operator import worker

from tests.unit.operator.local_studies import Fork, Laptop, kill_at, wait_until

STORE = {"checkpoints": {"volumeClaim": {"name": "weights"}}}
HALVING = {
    "schedule": {"halving": {"eta": 2, "iterations": 1}},
    "budget": {"min": 1, "max": 4},
    "limits": {"maxFailedTrials": 0},
}

# Four configurations, of which the first is the best, and so on.
ORDERED = {"algorithm": {"grid": {}}, "parameters": [{"name": "x", "ordinal": {"values": [0, 1, 2, 3]}}]}

# Its weights are the steps that were ever trained, by whom. It notes what it began with, and each step that it has trained.
TRAINING = """
import json, os, sys
import hpo

def note(name, *words):
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, (" ".join(map(str, words)) + "\\n").encode())

number = hpo.trial().number
found = hpo.checkpoint.load()
weights = json.loads((found.path / "weights.json").read_text()) if found else []
note("began", number, found.step if found else 0, found.digest if found else "-", found.copied_from or "-" if found else "-")
loss = hpo.parameters().x + 1 / (1 + len(weights))
if found:
    hpo.report(step=found.step, loss=loss)
for step in range(hpo.start_step() + 1, hpo.budget() + 1):
    weights.append([number, step])
    note("trained", number, step)
    hpo.checkpoint.save(step, lambda folder: (folder / "weights.json").write_text(json.dumps(weights)))
    hpo.report(step=step, loss=hpo.parameters().x + 1 / (1 + len(weights)))
    if os.path.exists(f"stop-{number}-{step}"):
        import time
        note("waits", number, step)
        time.sleep(600)
"""


def write(laptop, program=TRAINING, **spec):
    laptop.write(laptop.script("train.py", program), **{"parallelism": 2, **HALVING, **STORE, **spec})


def run(laptop):
    laptop.runner().run()
    return {trial.spec.number: trial for trial in laptop.trials()}


def began(laptop):
    """What each Trial's program has begun with: (number, step, digest, whose it was)."""
    return [(int(n), int(step), digest, whose) for n, step, digest, whose in (line.split() for line in laptop.lines("began"))]


def outcomes(trials):
    """What each configuration brought on each budget: who of two rises first hangs on who ends first."""
    return {str((each.spec.parameters, each.spec.budget)): each.status.observation.metrics for each in trials.values()}


def steps(laptop):
    return len(laptop.lines("trained"))


def store(laptop):
    return laptop.results / "checkpoints" / laptop.recorded().metadata.uid


def kept(laptop):
    """The Trials whose folders of checkpoints are there."""
    return {int(each.name.rpartition("-")[2]) for each in store(laptop).iterdir()}


def promoted(trials):
    return [trial for trial in trials.values() if trial.spec.origin == "Promoted"]


def test_a_promoted_trial_starts_from_what_its_donor_ended_with_to_the_last_bit(laptop):
    write(laptop)
    trials = run(laptop)
    assert set(laptop.reasons()) == {c.COMPLETED}
    assert len(promoted(trials)) == 2 + 1
    for trial in promoted(trials):
        restore = trial.spec.restore_from
        donor = trials[restore.number]
        assert donor.spec.parameters == trial.spec.parameters
        assert (restore.step, restore.digest) == (donor.spec.budget, donor.status.checkpoint.digest)
        own = [each[1:] for each in began(laptop) if each[0] == trial.spec.number]
        assert own == [(donor.spec.budget, donor.status.checkpoint.digest, donor.metadata.name)]
        assert trial.status.restored.trial_name == donor.metadata.name
        assert trial.status.restored.size > 0


def test_rungs_that_continue_cost_only_what_they_add_and_come_to_the_same_best(tmp_path, laptop):
    write(laptop)
    trials = run(laptop)
    assert steps(laptop) == 4 * 1 + 2 * 1 + 1 * 2
    folder = tmp_path / "without"
    folder.mkdir()
    without = Laptop(folder)
    write(without, checkpoints=None)
    others = run(without)
    assert steps(without) == 4 * 1 + 2 * 2 + 1 * 4
    assert all(trial.spec.restore_from is None and trial.status.checkpoint is None for trial in others.values())
    assert not (without.results / "checkpoints").exists()
    best, other = laptop.recorded().status.best[0], without.recorded().status.best[0]
    assert (best.number, best.metrics) == (other.number, other.metrics)
    assert outcomes(trials) == outcomes(others)


def test_in_the_end_only_the_best_are_left_and_the_rest_is_gone_from_the_disk(laptop):
    write(laptop)
    trials = run(laptop)
    best = {each.number for each in laptop.recorded().status.best}
    assert kept(laptop) == best
    for number, trial in trials.items():
        assert trial.status.checkpoint.state == ("Kept" if number in best else "Collected")
        if number in best:
            folder = laptop.results / "checkpoints" / trial.status.checkpoint.path
            manifest = read_manifest(str(folder))
            verify(str(folder), manifest)
            assert (manifest.digest, manifest.size) == (trial.status.checkpoint.digest, trial.status.checkpoint.size)


def test_checkpoints_that_nothing_needs_go_while_the_study_still_runs(laptop):
    """Of four Trials on the lowest rung two rise; when these have ended, nobody starts from the lowest rung any more."""
    write(laptop, parallelism=1)
    (laptop.folder / "stop-6-4").touch()
    process = laptop.start("--quiet")
    wait_until(lambda: laptop.lines("waits"), "the last rung trains", process)
    wait_until(lambda: kept(laptop) <= {4, 5, 6}, "the lowest rung is collected", process)
    process.kill()


def test_a_study_whose_limit_may_be_raised_keeps_what_it_would_go_on_from(laptop):
    write(laptop, limits={"maxTrials": 4}, schedule={"halving": {"eta": 2}})
    run(laptop)
    assert laptop.ended() == c.MAX_TRIALS_REACHED
    assert kept(laptop) == set(range(4))
    write(laptop, limits={"maxTrials": 6}, schedule={"halving": {"eta": 2}})
    trials = run(laptop)
    assert all(trial.spec.restore_from is not None for trial in promoted(trials))
    assert len(promoted(trials)) == 2


def test_a_program_that_saves_nothing_is_trained_from_the_beginning_on_each_rung(laptop):
    """There is nothing to continue from, and nothing was lost."""
    write(laptop, 'import hpo; hpo.report(step=hpo.budget(), loss=hpo.parameters().x); open("began", "a").write("x\\n")')
    trials = run(laptop)
    assert set(laptop.reasons()) == {c.COMPLETED}
    assert len(promoted(trials)) == 3
    assert all(trial.spec.restore_from is None for trial in trials.values())


class Population:
    """One Trial, and then two that both start from its checkpoint."""

    def errors(self, problem):
        return ()

    def propose(self, problem, history, first, count):
        if not history:
            return Answer((Proposal({"x": 0.5}, 1),))
        if any(trial.active for trial in history):
            return Answer()
        if len(history) > 1:
            return Answer(finished=SCHEDULE_FINISHED)
        return Answer(tuple(Proposal({"x": x}, 2, donor=0, origin=Origin.PERTURBED) for x in (0.25, 0.75)))

    def stops(self, problem, history):
        return ()

    def donors(self, problem, history):
        return frozenset({0})


def test_two_trials_that_start_from_one_donor_at_once_both_get_its_weights(laptop, monkeypatch):
    monkeypatch.setattr(worker, "build", lambda problem, algorithm, schedule: Population())
    write(laptop, schedule=None, limits={"maxTrials": 9})
    trials = run(laptop)
    assert [reason(trial) for trial in trials.values()] == [c.COMPLETED] * 3
    digest = trials[0].status.checkpoint.digest
    assert sorted(began(laptop))[1:] == [(1, 1, digest, "tiny-0"), (2, 1, digest, "tiny-0")]
    assert trials[1].status.checkpoint.digest != trials[2].status.checkpoint.digest, "then each goes its own way"


# Faults


def tampering(number, what):
    """The training, with something done to a Trial's checkpoint by the first one that starts from it."""
    return f"""
import os, pathlib, shutil
folder = pathlib.Path(os.environ.get("HPO_RESTORE_DIR", "/nowhere"))
if folder.parent.name == "tiny-{number}" and not os.path.exists("tampered"):
    open("tampered", "w").close()
    {what}
{TRAINING}"""


FAULTS = {
    "deleted": "shutil.rmtree(folder.parent)",
    "emptied": "os.unlink(folder / 'weights.json')",
    "corrupt": "(folder / 'weights.json').write_text('[[8, 1]]')",
    "another's": "shutil.rmtree(folder); shutil.copytree(next(folder.parent.parent.glob('tiny-[1-3]/step-1')), folder)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_donor_s_checkpoint_that_is_gone_or_not_what_was_recorded_frees_the_place_for_the_next_best(laptop, fault):
    write(laptop, tampering(0, FAULTS[fault]), **ORDERED)
    trials = run(laptop)
    unavailable = [trial for trial in trials.values() if reason(trial) == c.DONOR_UNAVAILABLE]
    assert [trial.spec.restore_from.number for trial in unavailable] == [0]
    assert laptop.ended() == c.SCHEDULE_FINISHED
    continued = [trial for trial in promoted(trials) if reason(trial) == c.COMPLETED]
    assert len(continued) == 3, "another one has taken the place"
    assert all(trial.spec.restore_from is not None for trial in continued)
    assert 0 not in {trial.spec.restore_from.number for trial in continued}
    assert all(each[1] > 0 for each in began(laptop) if trials[each[0]].spec.origin == "Promoted"), "none from nothing"


def reason(trial):
    return c.reason(trial.status.conditions, c.SUCCEEDED)


def test_a_program_that_ends_as_if_its_donor_was_gone_though_it_has_none_has_failed(laptop):
    write(laptop, "raise SystemExit(87)", limits={"maxFailedTrials": 1})
    run(laptop)
    assert laptop.ended() == c.TOO_MANY_FAILURES
    assert set(laptop.reasons()) <= {c.PROGRAM_FAILED, c.CANCELED}


# Interruptions


@pytest.mark.parametrize("program_too", [False, True], ids=["the runner", "both"])
def test_after_kill_9_a_trial_goes_on_from_its_own_newest_checkpoint(laptop, program_too):
    write(laptop, schedule=None, limits={"maxTrials": 1}, parallelism=1)
    (laptop.folder / "stop-0-2").touch()
    process = laptop.start("--quiet")
    wait_until(lambda: laptop.lines("waits"), "the training is under way", process)
    process.kill()
    process.wait()
    if program_too:  # else the next runner ends it
        os.kill(json.loads((laptop.results / "trials" / "0000" / "process.json").read_text())["pid"], signal.SIGKILL)
    (laptop.folder / "stop-0-2").unlink()
    trials = run(laptop)
    assert [each[1] for each in began(laptop)] == [0, 2]
    assert laptop.lines("trained") == [f"0 {step}" for step in range(1, 5)], "no step was trained twice, none left out"
    assert reason(trials[0]) == c.COMPLETED
    assert trials[0].status.checkpoint.step == 4


def kill_in_the_last_trial(laptop):
    """Runs the Study until Trial 6 has saved its third step, and kills the runner."""
    (laptop.folder / "stop-6-3").touch()
    process = laptop.start("--quiet")
    wait_until(lambda: laptop.lines("waits"), "the last Trial trains", process)
    process.kill()
    process.wait()
    (laptop.folder / "stop-6-3").unlink()


def test_after_kill_9_a_promoted_trial_goes_on_from_its_own_newest_checkpoint_and_no_more_from_its_donor_s(laptop):
    write(laptop, parallelism=1)
    kill_in_the_last_trial(laptop)
    trials = run(laptop)
    donor = trials[trials[6].spec.restore_from.number]
    first, again = (each for each in began(laptop) if each[0] == 6)
    assert first == (6, 2, donor.status.checkpoint.digest, donor.metadata.name)
    assert (again[1], again[3]) == (3, "-"), "its own, which is nobody's copy"
    assert again[2] != donor.status.checkpoint.digest
    assert steps(laptop) == 4 * 1 + 2 * 1 + 1 * 2, "no step was trained twice"
    assert (reason(trials[6]), trials[6].status.checkpoint.step) == (c.COMPLETED, 4)


@pytest.mark.parametrize("act", [9, 41, 70, 92, 115, 130])
def test_killed_at_any_act_the_runner_comes_to_the_same_end_and_the_same_store(tmp_path, laptop, act):
    write(laptop, parallelism=1, **ORDERED)
    laptop.results = tmp_path / "results"

    def work():
        kill_at(act, laptop.results)
        laptop.runner().run()
        return 0

    Fork(work).code()
    trials = run(laptop)
    assert set(laptop.reasons()) == {c.COMPLETED}
    assert len(promoted(trials)) == 3
    assert all(each[1] > 0 for each in began(laptop) if trials[each[0]].spec.origin == "Promoted"), "none from nothing"
    assert kept(laptop) == {each.number for each in laptop.recorded().status.best}


# What is removed


def test_nothing_outside_a_study_s_own_folder_can_be_removed_and_no_link_is_followed(tmp_path):
    from hpo_operator.local.weights import remove

    outside = tmp_path / "outside"
    (outside / "precious").mkdir(parents=True)
    below = tmp_path / "store" / "uid"
    (below / "tiny-0" / "step-1").mkdir(parents=True)
    (below / "tiny-0" / "step-1" / "link").symlink_to(outside)
    (below / "tiny-1").symlink_to(outside)
    for name in ("..", ".", "", "../../outside", str(outside), "a/../../../outside"):
        with pytest.raises(OSError, match="is not the name"):
            remove(below, [name])
    remove(below, ["tiny-0", "tiny-1", "tiny-2"])
    assert list(below.iterdir()) == []
    assert (outside / "precious").is_dir()
    (tmp_path / "linked").symlink_to(outside)
    with pytest.raises(OSError, match="linked"):
        remove(tmp_path / "linked", ["precious"])
    assert (outside / "precious").is_dir()


@pytest.mark.parametrize("act", range(1, 7))
def test_a_remover_that_was_killed_half_way_is_run_again_and_nothing_is_left_but_what_was_not_named(tmp_path, act):
    from hpo_operator.local.weights import remove

    for name in ("tiny-0", "tiny-1", "tiny-2"):
        for step in (1, 2):
            folder = tmp_path / name / f"step-{step}"
            folder.mkdir(parents=True)
            (folder / "weights.json").write_text("[]")
            (folder / "manifest.json").write_text("{}")

    def work():
        kill_at(act, tmp_path)
        remove(tmp_path, ["tiny-0", "tiny-1"])
        return 0

    assert Fork(work).code() == -signal.SIGKILL
    assert (tmp_path / "tiny-1").exists()
    remove(tmp_path, ["tiny-0", "tiny-1"])
    assert [each.name for each in tmp_path.iterdir()] == ["tiny-2"]
    assert len(list((tmp_path / "tiny-2").glob("*/*.json"))) == 4


# A volume that is full

TOO_LARGE = TRAINING.replace("json.dumps(weights))", "json.dumps(weights) + ' ' * 100_000 * (number == 0))")


def test_a_trial_whose_volume_is_full_fails_with_its_folder_s_name_and_the_next_one_goes_on(laptop, full_disk):
    """It leaves nothing on the volume, or those after it would fail as well."""
    assert TOO_LARGE != TRAINING
    laptop.results.mkdir()
    (laptop.results / "checkpoints").symlink_to(full_disk)
    write(laptop, TOO_LARGE, schedule=None, parallelism=1, limits={"maxTrials": 2, "maxFailedTrials": 1})
    trials = run(laptop)
    assert laptop.reasons() == [c.PROGRAM_FAILED, c.COMPLETED]
    message = laptop.outcomes()[0][1]
    assert str(store(laptop) / "tiny-0") in message
    assert "No space left on device" in message
    assert trials[0].status.checkpoint.step is None
    assert trials[1].status.checkpoint.step == 4
    assert kept(laptop) == {1}


# Programs that know only their own folder

# It never hears of the SDK: it looks for the newest step in the folder that it is told of, and writes there as any language can.
UNKNOWING = """
import hashlib, json, os, pathlib, sys

folder, number = pathlib.Path(os.environ["HPO_CHECKPOINT_DIR"]), int(os.environ["HPO_TRIAL_NUMBER"])
assert "hpo" not in sys.modules
folder.mkdir(parents=True, exist_ok=True)
newest = max((int(each.name[5:]) for each in folder.glob("step-*")), default=0)
weights = json.loads((folder / f"step-{newest}" / "weights.json").read_text()) if newest else []
with open("began", "a") as file:
    print(number, newest, file=file)
for step in range(newest + 1, int(os.environ["HPO_BUDGET"]) + 1):
    weights.append([number, step])
    draft = folder / f"draft-{step}"
    draft.mkdir()
    content = json.dumps(weights).encode()
    (draft / "weights.json").write_bytes(content)
    line = f"{hashlib.sha256(content).hexdigest()} {len(content)} weights.json\\n"
    digest = "sha256:" + hashlib.sha256(f"step {step}\\n{line}".encode()).hexdigest()
    files = [{"path": "weights.json", "size": len(content), "sha256": line[:64]}]
    (draft / "manifest.json").write_text(json.dumps({"hpo": 1, "step": step, "digest": digest, "files": files}))
    draft.rename(folder / f"step-{step}")
    if os.path.exists(f"stop-{number}-{step}"):
        import time
        open("waits", "w").write("waits\\n")
        time.sleep(600)
print("loss =", float(os.environ["HPO_PARAM_X"]) + 1 / (1 + len(weights)))
"""


def write_unknowing(laptop):
    """Under `hpo exec`, which tells what stands in the folder."""
    command = [sys.executable, "-m", "hpo", "exec", "--", *laptop.script("train.py", UNKNOWING)]
    copying = {"checkpoints": {**STORE["checkpoints"], "restore": "Copy"}}
    laptop.write(command, **{"parallelism": 2, **HALVING, **ORDERED, **copying})


def newest_weights(laptop, trial):
    return json.loads((store(laptop).parent / trial.status.checkpoint.path / "weights.json").read_text())


def test_a_program_that_knows_only_its_own_folder_goes_on_from_its_donor_s_weights(laptop):
    write_unknowing(laptop)
    trials = run(laptop)
    assert set(laptop.reasons()) == {c.COMPLETED}
    assert len(promoted(trials)) == 2 + 1
    for trial in promoted(trials):
        donor = trials[trial.spec.restore_from.number]
        assert f"{trial.spec.number} {donor.spec.budget}" in laptop.lines("began")
        assert (trial.status.restored.trial_name, trial.status.restored.step) == (donor.metadata.name, donor.spec.budget)
    best = trials[laptop.recorded().status.best[0].number]
    lineage = [trials[best.spec.restore_from.number].spec.restore_from.number, best.spec.restore_from.number, best.spec.number]
    assert newest_weights(laptop, best) == [[lineage[0], 1], [lineage[1], 2], [lineage[2], 3], [lineage[2], 4]]


def test_after_kill_9_such_a_program_s_own_newest_checkpoint_goes_before_its_donor_s(laptop):
    write_unknowing(laptop)
    kill_in_the_last_trial(laptop)
    trials = run(laptop)
    assert laptop.lines("began")[-2:] == ["6 2", "6 3"]
    assert [step for number, step in newest_weights(laptop, trials[6]) if number == 6] == [3, 4]


def test_such_a_program_is_not_run_without_its_donor_s_checkpoint(laptop):
    write_unknowing(laptop)
    program = laptop.folder / "train.py"
    program.write_text(program.read_text() + "\nif number == 0:\n    (folder / 'step-1' / 'weights.json').write_text('[[9, 9]]')\n")
    trials = run(laptop)
    (lost,) = [trial for trial in trials.values() if reason(trial) == c.DONOR_UNAVAILABLE]
    assert lost.spec.restore_from.number == 0
    assert str(lost.spec.number) not in {line.split()[0] for line in laptop.lines("began")}
    assert laptop.ended() == c.SCHEDULE_FINISHED
