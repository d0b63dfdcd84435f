"""Populations on a laptop: real programs, real checkpoints, what `hpo lineage` tells and what `hpo replay` trains again."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hpo_algorithms import Optimizer, Space
from hpo_operator import conditions as c
from hpo_operator.local import lineage, runner
from hpo_operator.local.store import open_for_reading

from tests.unit.operator.local_studies import Fork, Laptop, alive, kill_at, wait_until
from tests.unit.operator.test_local_checkpoints import TRAINING, began, kept

POPULATION = {
    "algorithm": {"pbt": {"population": 4, "truncation": 0.25}},
    "budget": {"min": 2, "max": 6},
    "checkpoints": {"volumeClaim": {"name": "weights"}},
    "limits": {"maxFailedTrials": 100},
    "parallelism": 2,
}
# A member that has come far is better: 1 / (1 + steps), and a large x is bad.


def run(laptop, program=TRAINING, **spec):
    laptop.write(laptop.script("train.py", program), **{**POPULATION, **spec})
    laptop.runner().run()
    return {trial.spec.number: trial for trial in laptop.trials()}


def member(trial):
    return trial.spec.slot.member


@pytest.mark.parametrize(
    "algorithm",
    [
        {"pbt": {"population": 4, "truncation": 0.25}},
        {"pbt": {"population": 4, "mode": "asynchronous", "exploit": "tournament"}},
        {"pb2": {"population": 4}},
        {"pb2": {"population": 4, "mode": "asynchronous"}},
    ],
    ids=["pbt", "asynchronous", "pb2", "asynchronous pb2"],
)
def test_the_loser_starts_from_the_winner_s_weights_to_the_last_bit(laptop, algorithm):
    trials = run(laptop, algorithm=algorithm)
    assert laptop.ended() == c.SCHEDULE_FINISHED
    assert set(laptop.reasons()) == {c.COMPLETED}
    assert len(trials) == 4 * 3
    copies = 0
    start = {number: (step, digest, whose) for number, step, digest, whose in began(laptop)}
    for number, trial in trials.items():
        restore = trial.spec.restore_from
        if trial.spec.slot.generation == 0:
            assert restore is None
            assert start[number][0] == 0
            continue
        donor = trials[restore.number]
        assert start[number] == (donor.spec.budget, donor.status.checkpoint.digest, donor.metadata.name)
        copies += member(donor) != member(trial)
    assert copies >= 2


def test_no_step_is_trained_twice_and_each_member_trains_the_whole_budget(laptop):
    run(laptop)
    assert len(laptop.lines("trained")) == 4 * 6
    (best, *_) = laptop.recorded().status.best
    weights = laptop.results / "checkpoints" / laptop.trials()[best.number].status.checkpoint.path / "weights.json"
    assert [step for _, step in json.loads(weights.read_text())] == [1, 2, 3, 4, 5, 6]


def test_weights_of_generations_that_are_over_go_from_the_disk_while_the_population_trains_on(laptop):
    (laptop.folder / "stop-9-6").touch()
    laptop.write(laptop.script("train.py", TRAINING), **{**POPULATION, "parallelism": 1})
    process = laptop.start("--quiet")
    wait_until(lambda: laptop.lines("waits"), "the last generation trains", process)
    wait_until(lambda: kept(laptop) == {*range(4, 10)}, "the first generation goes", process)
    process.kill()
    process.wait()
    (laptop.folder / "stop-9-6").unlink()
    laptop.runner().run()
    best = {each.number for each in laptop.recorded().status.best}
    assert kept(laptop) == best == {*range(8, 12)}
    states = {trial.spec.number: trial.status.checkpoint.state for trial in laptop.trials()}
    assert states == {number: "Kept" if number in best else "Collected" for number in range(12)}


@pytest.mark.parametrize("act", [12, 47, 80, 111])
def test_killed_at_any_act_the_population_comes_to_the_same_end(tmp_path, laptop, act):
    reference = run(laptop, parallelism=1)
    other = Laptop(tmp_path / "other")
    other.folder.mkdir()
    other.write(other.script("train.py", TRAINING), **{**POPULATION, "parallelism": 1})

    def work():
        kill_at(act, other.results)
        other.runner().run()
        return 0

    Fork(work).code()
    other.runner().run()
    assert [trial.spec.parameters for trial in other.trials()] == [trial.spec.parameters for trial in reference.values()]
    donors = [[t.spec.restore_from.number if t.spec.restore_from else None for t in each.trials()] for each in (laptop, other)]
    assert donors[0] == donors[1]


TAMPERING = """
import os, pathlib, shutil
folder = os.environ.get("HPO_RESTORE_DIR")
if folder and not os.path.exists("tampered"):
    open("tampered", "w").close()
    shutil.rmtree(pathlib.Path(folder).parent)
"""


def test_a_donor_deleted_by_hand_frees_the_slot_and_another_one_gives_its_weights(laptop):
    trials = run(laptop, TAMPERING + TRAINING, parallelism=1)
    (freed,) = [t for t in trials.values() if c.reason(t.status.conditions, c.SUCCEEDED) == c.DONOR_UNAVAILABLE]
    assert laptop.ended() == c.SCHEDULE_FINISHED
    (again,) = [t for t in trials.values() if t.spec.slot == freed.spec.slot and t is not freed]
    assert again.spec.restore_from.number != freed.spec.restore_from.number
    assert all(step > 0 for number, step, *_ in began(laptop) if trials[number].spec.slot.generation > 0), "none from nothing"
    assert len(trials) == 4 * 3 + 1


def test_a_member_that_fails_every_generation_is_replaced_by_a_copy_of_a_good_one_every_time(laptop):
    program = "import os\nif os.environ['HPO_TRIAL_NUMBER'] in ('3', '7'): raise SystemExit(1)\n" + TRAINING
    trials = run(laptop, program, parallelism=1)
    assert laptop.ended() == c.SCHEDULE_FINISHED
    for number in (7, 11):
        assert trials[number].spec.origin == "Perturbed"
        assert member(trials[trials[number].spec.restore_from.number]) != 3


HANGING = """
import os, time
if os.environ["HPO_TRIAL_NUMBER"] == "3":
    with open("aside", "w") as file:
        file.write(str(os.getpid()))
    os.rename("aside", "hangs")
    time.sleep(600)
"""


def test_a_member_that_hangs_is_timed_out_counted_as_failed_and_replaced_by_a_copy_of_a_good_one(laptop, monkeypatch):
    """An hour goes by for the runner while it hangs, and nothing else runs."""
    hangs = laptop.folder / "hangs"

    def now():
        waiting = hangs.exists() and alive(int(hangs.read_text()))
        return datetime.now(UTC) + timedelta(hours=waiting)

    monkeypatch.setattr(runner, "_now", now)
    trials = run(laptop, HANGING + TRAINING, parallelism=1, limits={"trialTimeoutSeconds": 1800, "maxFailedTrials": 1})
    assert laptop.ended() == c.SCHEDULE_FINISHED
    assert laptop.reasons() == [c.TIMED_OUT if number == 3 else c.COMPLETED for number in range(12)]
    assert laptop.recorded().status.trials.failed == 1
    assert trials[7].spec.origin == "Perturbed"
    assert member(trials[trials[7].spec.restore_from.number]) != 3


def test_a_population_of_which_all_members_fail_in_one_generation_is_lost(laptop):
    trials = run(laptop, "import hpo\nif hpo.budget() == 4: raise SystemExit(1)\n" + TRAINING)
    assert laptop.ended() == c.POPULATION_LOST
    assert laptop.reasons() == [c.COMPLETED] * 4 + [c.PROGRAM_FAILED] * 4
    assert {trial.spec.budget for trial in trials.values()} == {2, 4}
    assert kept(laptop) == {each.number for each in laptop.recorded().status.best} == set(range(4))


def test_a_population_that_leaves_no_checkpoint_is_lost_and_says_what_is_missing(laptop):
    run(laptop, "import hpo; hpo.report(step=hpo.budget(), loss=hpo.parameters().x)")
    assert laptop.ended() == c.POPULATION_LOST
    succeeded = c.condition(laptop.recorded().status.conditions, c.SUCCEEDED)
    assert succeeded.status == "False"
    assert "a checkpoint to go on from" in succeeded.message


def test_a_study_without_a_store_of_checkpoints_is_refused(laptop, capsys):
    laptop.write(laptop.script("train.py", TRAINING), **{**POPULATION, "checkpoints": None})
    assert laptop.hpo("validate", laptop.folder / "study.json") == 2
    assert "spec.algorithm.pbt: needs a store of checkpoints" in capsys.readouterr().err


# Generations without weights: where a particle is, and in which generation a child, stands in the memos alone


def wanting(x, y):
    """What the program below reports."""
    return (x - 0.3) ** 2 + 2 * (y - 0.6) ** 2


SWARM = {"pso": {"mode": "generational", "swarm": 4}}
BREED = {"ga": {"mode": "generational", "population": 4, "tournament": 2}}
PLANE = [{"name": name, "float": {"min": 0, "max": 1}} for name in "xy"]


@pytest.mark.parametrize("algorithm", [SWARM, BREED], ids=["pso", "ga"])
def test_three_generations_are_those_of_the_library_with_the_same_seed_also_when_the_runner_begins_anew(laptop, algorithm):
    program = """
    import hpo
    x, y = hpo.parameters().x, hpo.parameters().y
    hpo.report(loss=(x - 0.3) ** 2 + 2 * (y - 0.6) ** 2)
    """
    for most in (6, 12):
        limits = {"maxTrials": most}
        laptop.write(
            laptop.script("train.py", program), algorithm=algorithm, parameters=PLANE, limits=limits, parallelism=1, seed=3
        )
        laptop.runner().run()
    optimizer = Optimizer(Space.from_spec(PLANE), algorithm, seed=3)
    for _ in range(12):
        asked = optimizer.ask()
        optimizer.tell(asked.number, wanting(**asked.params))
    found = laptop.trials()
    assert [{pair.name: float(pair.value) for pair in trial.spec.parameters} for trial in found] == [
        dict(trial.params) for trial in optimizer.history
    ]
    assert [trial.spec.memo for trial in found] == [trial.memo for trial in optimizer.history]
    generations = [int(trial.spec.memo.split()[2 if "pso" in algorithm else 1]) for trial in found]
    assert generations == [0] * 4 + [1] * 4 + [2] * 4


# Lineage


def test_the_lineage_tells_who_has_copied_whom_from_which_step_with_which_parameters(laptop, capsys):
    trials = run(laptop)
    assert laptop.hpo("lineage", laptop.results, "-o", "json") == 0
    rows = {row["trial"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(trials)
    copied = [row for row in rows.values() if row["copied"] is not None]
    assert copied
    for row in copied:
        donor = rows[row["donor"]]
        assert (row["copied"], row["from"]) == (donor["member"], donor["to"])
        assert row["changed"] == ["x"]
    assert all(row["changed"] == [] for row in rows.values() if row["copied"] is None)
    assert laptop.hpo("lineage", laptop.results) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("member ") for line in lines) == 4
    assert sum("copied by member" in line for line in lines) == len(copied)
    assert sum(line.endswith("*") for line in lines) == 1, "the best"


def test_a_tree_of_a_thousand_generations_is_no_deeper_than_the_machine_can_go(laptop):
    run(laptop)
    study, (first, *_) = open_for_reading(laptop.results)
    line = [first]
    for number in range(1, 1500):
        restore = {"trialName": f"tiny-{number - 1}", "number": number - 1, "step": number, "path": "p", "digest": "d"}
        spec = {
            **first.spec.manifest(),
            "number": number,
            "restoreFrom": restore,
            "slot": {"generation": number, "member": number % 2},
        }
        line.append(first.model_copy(update={"spec": type(first.spec).model_validate(spec)}))
    assert len(list(lineage.tree(study, line))) == 1500
    assert [trial.spec.number for trial in lineage.ancestors(line, 1499)] == list(range(1500))


def test_the_schedule_of_the_best_is_the_parameters_of_its_ancestors_in_their_order(laptop, capsys):
    run(laptop)
    best = laptop.recorded().status.best[0].number
    assert laptop.hpo("lineage", laptop.results, "--schedule") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("from 0: x=")
    assert lines[-1].startswith("at 6: loss=")
    assert lines[-1].endswith(f"(Trial {best})")
    assert laptop.hpo("lineage", laptop.results, "--schedule", "-o", "yaml") == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert document["spec"]["algorithm"] == {"replay": {}}
    assert len(document["spec"]["warmStart"]["configurations"]) == 3


def test_the_best_schedule_replayed_as_one_training_reaches_the_same_result(laptop, capsys):
    trials = run(laptop)
    best = laptop.recorded().status.best[0].number
    study = laptop.folder / "study.json"
    again = laptop.folder / "again"
    assert laptop.hpo("replay", study, "--of", laptop.results, "--results", again, "--quiet") == 0
    assert f"(Trial {best})" in capsys.readouterr().out
    _, replayed = open_for_reading(again)
    line = lineage.ancestors(trials.values(), best)
    assert [t.spec.parameters for t in replayed] == [t.spec.parameters for t in line]
    assert [t.spec.budget for t in replayed] == [2, 4, 6]
    assert [t.status.observation.metrics for t in replayed] == [t.status.observation.metrics for t in line]
    assert {t.spec.origin for t in replayed} == {"Given"}


@pytest.mark.parametrize(("inside", "named"), [(".", "."), ("trials", "..")])
def test_a_run_that_is_named_by_dots_is_replayed_into_the_folder_beside_it(laptop, monkeypatch, inside, named):
    run(laptop)
    monkeypatch.chdir(laptop.results / inside)
    assert laptop.hpo("replay", laptop.folder / "study.json", "--of", named, "--quiet") == 0
    assert (laptop.folder / "results-replay" / "study.json").exists()


def test_of_the_first_generation_there_is_no_schedule_to_replay_and_the_trial_is_named(laptop, capsys):
    run(laptop)
    for command in (["replay", laptop.folder / "study.json", "--of"], ["lineage", "--schedule", "-o", "yaml"]):
        assert laptop.hpo(*command, laptop.results, "--trial", "1") == 2
        told = "Trial 1: is of the first generation: its schedule is its own parameters, from nothing to 2. Name one of a later"
        assert told in capsys.readouterr().err
    assert not list(laptop.folder.glob("*-replay"))


def test_what_is_no_population_cannot_be_replayed_and_says_so(laptop, capsys):
    laptop.write(laptop.script("train.py", TRAINING), budget={"min": 1, "max": 2})
    laptop.runner().run()
    assert laptop.hpo("replay", laptop.folder / "study.json", "--of", laptop.results, "--quiet") == 2
    assert "Only what pbt, pb2 and replay have trained can be replayed." in capsys.readouterr().err
    assert laptop.hpo("lineage", laptop.results, "--trial", "99") == 2
    assert "there is no such Trial" in capsys.readouterr().err
