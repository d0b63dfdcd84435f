"""A cluster's Study as kubectl prints it: read as a results folder is, or refused with what is missing and how to get it."""

import copy
import io
import json
import os
from functools import partial
from pathlib import Path

import pytest
import yaml
from hpo_algorithms import InvalidInput
from hpo_operator.local.exported import exported
from hpo_operator.manifests import read_documents

from tests.unit.operator.test_local_checkpoints import TRAINING
from tests.unit.operator.test_local_populations import POPULATION

# Printed by `kubectl get study members -o yaml`, and below `---` by `kubectl get trials -l hpo.dev/study=members -o yaml`.
PRINTED = (Path(__file__).parent / "data" / "population.yaml").read_text()
STUDY, TRIALS = (document.data for document in read_documents(PRINTED, "printed"))


def read(*objects):
    return exported(read_documents("---\n".join(yaml.safe_dump(each) for each in objects), "printed.yaml"), "printed.yaml")


def test_what_kubectl_has_printed_of_a_cluster_s_population_is_its_study_and_trials(tmp_path, capsys, laptop):
    path = tmp_path / "members.yaml"
    path.write_text(PRINTED)
    assert laptop.hpo("lineage", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("member ") for line in lines].count(True) == 2
    assert sum("copied by member" in line for line in lines) == 1
    assert laptop.hpo("lineage", path, "-o", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["trial"], row["generation"], row["member"]) for row in rows] == [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]
    for row, trial in zip(rows, TRIALS["items"], strict=True):
        assert row["donor"] == trial["spec"].get("restoreFrom", {}).get("number")
        assert row["created"].replace("+00:00", "Z") == trial["metadata"]["creationTimestamp"]
        assert row["state"] == "Completed"


def test_what_a_shell_names_as_a_pipe_is_a_file_and_no_folder(laptop, capsys):
    ours, theirs = os.pipe()
    with open(ours, "rb"), open(theirs, "w") as file:
        file.write(PRINTED)
        file.close()
        assert laptop.hpo("lineage", f"/dev/fd/{ours}") == 0
    assert capsys.readouterr().out.startswith("member 0 ")


@pytest.mark.parametrize("write", [json.dumps, partial(yaml.safe_dump, sort_keys=False)], ids=["JSON", "YAML"])
def test_it_says_the_same_as_the_results_folder_from_a_file_and_a_pipe_and_is_replayed(laptop, capsys, monkeypatch, write):
    laptop.write(laptop.script("train.py", TRAINING), **POPULATION)
    laptop.runner().run()
    objects = [laptop.recorded().manifest(), *(trial.manifest() for trial in laptop.trials())]
    printed = write({"apiVersion": "v1", "kind": "List", "items": objects})
    path = laptop.folder / "printed"
    path.write_text(printed)
    for more in ((), ("-o", "json"), ("--schedule", "-o", "yaml"), ("--trial", "9")):
        assert laptop.hpo("lineage", laptop.results, *more) == 0
        wanted = capsys.readouterr().out
        assert laptop.hpo("lineage", path, *more) == 0
        assert capsys.readouterr().out == wanted
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(printed.encode())))
        assert laptop.hpo("lineage", "-", *more) == 0
        assert capsys.readouterr().out == wanted
    if write is json.dumps:
        monkeypatch.chdir(laptop.folder)
        assert laptop.hpo("replay", "study.json", "--of", path, "--quiet") == 0
        assert "when it was found" in capsys.readouterr().out
        assert (laptop.folder / "hpo-runs" / "tiny-replay" / "study.json").exists()


def test_trials_of_other_studies_and_objects_of_other_kinds_are_left_out():
    other = copy.deepcopy(TRIALS["items"][0])
    other["spec"]["studyRef"]["uid"] = "another"
    study, trials = read({"apiVersion": "v1", "kind": "List", "items": [other, STUDY, *reversed(TRIALS["items"])]}, {"kind": "Pod"})
    assert study.metadata.name == "members"
    assert [trial.spec.number for trial in trials] == [0, 1, 2, 3]


GET = "Write both: (kubectl get study {0} -o json; kubectl get trials -l hpo.dev/study={0} -o json)."


def without_number():
    spoilt = copy.deepcopy(TRIALS)
    del spoilt["items"][2]["spec"]["number"]
    return spoilt


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([TRIALS], "printed.yaml: holds no Study, only Trial; exactly one is needed, with its Trials. " + GET.format("NAME")),
        ([STUDY, STUDY, TRIALS], "printed.yaml: holds 2 Studies (members, members); exactly one is needed, with its Trials. "),
        ([STUDY], "printed.yaml: holds no Trial of the Study members (uid "),
        ([STUDY], GET.format("members")),
        ([{**TRIALS, "items": []}], "printed.yaml: holds no Study, only empty lists; exactly one is needed"),
        ([{"kind": "Deployment"}], "printed.yaml: holds no Study, only Deployment; "),
        ([without_number(), STUDY], "items[2].spec.number: is required. It was changed by hand, or written by another version: "),
        ([TRIALS, {**STUDY, "spec": {**STUDY["spec"], "seed": "x"}}], ": Study.spec.seed: 'x': must be a whole number"),
    ],
    ids=[
        "no Study",
        "two",
        "no Trials",
        "the remedy",
        "nothing",
        "another kind",
        "a Trial without number",
        "a Study with another seed",
    ],
)
def test_what_is_missing_or_cannot_be_read_is_told_with_the_remedy(objects, message):
    with pytest.raises(InvalidInput) as caught:
        read(*objects)
    assert message in str(caught.value)


def test_a_folder_that_is_none_is_told_as_before(laptop, capsys):
    assert laptop.hpo("lineage", laptop.folder / "nowhere") == 2
    assert "Is this the results folder of a Study?" in capsys.readouterr().err
