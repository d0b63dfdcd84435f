"""Populations on a laptop: real programs, real checkpoints, what `hpo lineage` tells and what `hpo replay` trains again."""

import json

import pytest
import yaml
from hpo_operator import conditions as c
from hpo_operator.local import lineage
from hpo_operator.local.store import open_for_reading

from tests.unit.operator.local_studies import Fork, Laptop, kill_at, without_a_worker
from tests.unit.operator.test_local_checkpoints import TRAINING, began

POPULATION = {
    "algorithm": {"pbt": {"population": 4, "truncation": 0.25}},
    "budget": {"min": 2, "max": 6},
    "checkpoints": {"volumeClaim": {"name": "weights"}},
    "limits": {"maxFailedTrials": 100},
    "parallelism": 2,
}
# A member that has come far is better: 1 / (1 + steps), and a large x is bad.


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    without_a_worker(monkeypatch)
    laptop = Laptop(tmp_path)
    yield laptop
    laptop.clean_up()


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
    ],
    ids=["pbt", "asynchronous", "pb2"],
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


def test_what_is_no_population_cannot_be_replayed_and_says_so(laptop, capsys):
    laptop.write(laptop.script("train.py", TRAINING), budget={"min": 1, "max": 2})
    laptop.runner().run()
    assert laptop.hpo("replay", laptop.folder / "study.json", "--of", laptop.results, "--quiet") == 2
    assert "Only what pbt, pb2 and replay have trained can be replayed." in capsys.readouterr().err
    assert laptop.hpo("lineage", laptop.results, "--trial", "99") == 2
    assert "there is no such Trial" in capsys.readouterr().err
