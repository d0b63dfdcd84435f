"""Weights on a real volume: a promoted Trial starts from its donor's, an evicted one from its own, and what nothing needs goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hpo._checkpoints_manifest import read_manifest, verify

from tests.cluster.building import PATIENCE, observed, pods, running, study
from tests.cluster.conftest import Begin
from tests.control_plane.building import end_of, number, reason, trials, wait_for_trials
from tests.testbed import Cluster, Object, wait_until
from tests.testbed.node import NODE

pytestmark = pytest.mark.cluster

# Reports what it began with; its weights are the steps that were ever trained, and by whom.
CONTINUING = """
import json, time, hpo

found = hpo.checkpoint.load()
weights = json.loads((found.path / "weights.json").read_text()) if found else []
begun = hpo.start_step()
hpo.report(step=begun, loss=hpo.parameters().x + 1 / (1 + len(weights)), begun=begun)
for step in range(begun + 1, hpo.budget() + 1):
    weights.append([hpo.trial().number, step])
    hpo.checkpoint.save(step, lambda folder: (folder / "weights.json").write_text(json.dumps(weights)))
    hpo.report(step=step, loss=hpo.parameters().x + 1 / (1 + len(weights)), begun=begun)
    time.sleep(%s)
"""

# Knows only its own folder, and that for reading: it notes what it began with, and keeps what it has been given.
UNKNOWING = """
import os, pathlib

folder, budget = pathlib.Path(os.environ["HPO_CHECKPOINT_DIR"]), int(os.environ["HPO_BUDGET"])
newest = max((int(each.name[5:]) for each in folder.glob("step-*")), default=0)
begun = (folder / f"step-{newest}" / "weights.json").read_text() if newest else ""
import hpo
for step in range(newest + 1, budget + 1):
    hpo.checkpoint.save(step, lambda to: (to / "weights.json").write_text(begun + f"{os.environ['HPO_TRIAL']} "))
hpo.report(step=budget, loss=hpo.parameters().x + 1 / budget, begun=newest, words=len(begun.split()))
"""
STORE = {"volumeClaim": {"name": "weights"}}


@pytest.fixture(scope="module")
def volume(cluster: Cluster, namespace: str) -> Iterator[Path]:
    """A folder that every pod may write to, as a ReadWriteMany volume behind the claim `weights`."""
    folder = cluster.state / "weights"
    folder.mkdir()
    folder.chmod(0o777)
    size, name = {"storage": "1Gi"}, f"weights-of-{namespace}"
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    claimed = {"namespace": namespace, "name": "weights"}
    place = {"capacity": size, "hostPath": {"path": str(folder)}, "claimRef": claimed, **common}
    cluster.apply(
        [
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": place},
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": claimed,
                "spec": {"resources": {"requests": size}, "volumeName": name, **common},
            },
        ]
    )
    yield folder
    cluster.api.delete("v1", "PersistentVolume", name, namespace="")


@pytest.fixture(scope="module")
def begun(namespace: str, begin: Begin, volume: Path) -> dict[str, Object]:
    halving = {
        "schedule": {"halving": {"eta": 2, "iterations": 1}},
        "budget": {"min": 1, "max": 4},
        "limits": {"maxTrials": 20, "maxFailedTrials": 0},
        "parallelism": 2,
    }
    studies = [
        study("rising", namespace, CONTINUING % 0, checkpoints=STORE, **halving),
        study("copied", namespace, UNKNOWING, checkpoints={**STORE, "restore": "Copy"}, **halving),
        study("evicted", namespace, CONTINUING % 1, checkpoints=STORE, budget={"max": 30}),
    ]
    return {each["metadata"]["name"]: begin(each) for each in studies}


@pytest.fixture(scope="module")
def drained(cluster: Cluster, begun: dict[str, Object], volume: Path) -> int:
    """The newest step that the evicted Trial had saved when its node was drained."""
    uid = begun["evicted"]["metadata"]["uid"]

    def saved() -> int:
        return max((int(each.name[5:]) for each in (volume / uid / "evicted-0").glob("step-*")), default=0)

    wait_until("three epochs", lambda: saved() >= 3 and running(pods(cluster, begun["evicted"])), seconds=PATIENCE)
    try:
        cluster.kubectl("drain", NODE, "--ignore-daemonsets", "--pod-selector=hpo.dev/study=evicted", "--timeout=60s")
    finally:
        cluster.kubectl("uncordon", NODE)
    return saved()


def test_an_evicted_trial_goes_on_from_its_own_newest_checkpoint(cluster: Cluster, begun: dict[str, Object], drained: int) -> None:
    ended = end_of(cluster, begun["evicted"], PATIENCE)
    (trial,) = trials(cluster, ended)
    assert (reason(trial), observed(trial)["step"]) == ("Completed", 30)
    assert int(float(observed(trial)["metrics"]["begun"])) == drained >= 3
    assert ended["status"]["trials"]["failed"] == 0


def test_a_promoted_trial_starts_from_its_donor_s_weights_on_the_volume(
    cluster: Cluster, begun: dict[str, Object], drained: int
) -> None:
    ended = end_of(cluster, begun["rising"], PATIENCE)
    assert reason(ended) == "ScheduleFinished"
    found = trials(cluster, ended)
    promoted = [each for each in found if each["spec"]["origin"] == "Promoted"]
    assert len(promoted) == 3
    for trial in promoted:
        restore, donor = trial["spec"]["restoreFrom"], found[trial["spec"]["restoreFrom"]["number"]]
        assert restore["digest"] == donor["status"]["checkpoint"]["digest"]
        assert trial["status"]["restored"]["trialName"] == donor["metadata"]["name"]
        assert int(float(observed(trial)["metrics"]["begun"])) == donor["spec"]["budget"]


def test_a_program_that_knows_only_its_own_folder_finds_its_donor_s_weights_there(
    cluster: Cluster, begun: dict[str, Object], drained: int
) -> None:
    ended = end_of(cluster, begun["copied"], PATIENCE)
    assert reason(ended) == "ScheduleFinished"
    found = trials(cluster, ended)
    promoted = [each for each in found if each["spec"]["origin"] == "Promoted"]
    assert len(promoted) == 3
    for trial in promoted:
        donor = found[trial["spec"]["restoreFrom"]["number"]]
        begun_with = observed(trial)["metrics"]
        assert int(float(begun_with["begun"])) == donor["spec"]["budget"]
        assert int(float(begun_with["words"])) == (2 if donor["spec"].get("restoreFrom") else 1)
        assert trial["status"]["restored"]["trialName"] == donor["metadata"]["name"]


def test_the_best_s_weights_stay_whole_and_the_others_are_gone_from_the_volume(
    cluster: Cluster, begun: dict[str, Object], drained: int, volume: Path
) -> None:
    ended = end_of(cluster, begun["rising"], PATIENCE)
    best = {each["number"] for each in ended["status"]["best"]}

    def settled(all_: list[Object]) -> bool:
        return all(each["status"]["checkpoint"]["state"] != "Collecting" for each in all_)

    found = wait_for_trials(cluster, ended, "the end of the cleanup", settled)
    states = {number(each): each["status"]["checkpoint"]["state"] for each in found}
    assert states == {each: "Kept" if each in best else "Collected" for each in states}
    below = volume / ended["metadata"]["uid"]
    names = {each["metadata"]["name"] for each in found if number(each) in best}
    left = {each.name for each in below.iterdir() if any(each.iterdir())}
    assert left == names
    for trial in found:
        if number(trial) in best:
            kept = trial["status"]["checkpoint"]
            manifest = read_manifest(str(volume / kept["path"]))
            verify(str(volume / kept["path"]), manifest)
            assert (manifest.digest, manifest.size) == (kept["digest"], kept["bytes"])
