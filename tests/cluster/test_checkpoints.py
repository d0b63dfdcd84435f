"""Weights on a real volume and in a real bucket: a promoted Trial starts from its donor's, an evicted one from its own, a member of
a population from the better one's, and what nothing needs goes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hpo._checkpoints_manifest import read_manifest, verify

from tests.cluster.building import PATIENCE, observed, pods, running, study, with_scratch
from tests.cluster.conftest import STORE, Begin
from tests.cluster.images import TORCH_TRIAL
from tests.control_plane.building import end_of, number, reason, trials, wait_for_trials
from tests.testbed import Cluster, Object, network, wait_until
from tests.testbed.controllers import KUEUE, install
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
# A network, its moments and its learning rate; the digest of its weights is a number that a metric can hold to the last bit.
LEARNING = """
import hashlib, hpo, torch

torch.manual_seed(0)
x = torch.linspace(-1, 1, 32).unsqueeze(1)
net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=hpo.parameters().rate)

def weights():
    found = hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in net.parameters()))
    return int.from_bytes(found.digest()[:6], "big")

hpo.checkpoint.load_torch(net=net, optimizer=optimizer)
begun = weights()
for step in range(hpo.start_step() + 1, hpo.budget() + 1):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(net(x), torch.sin(3 * x))
    loss.backward()
    optimizer.step()
hpo.checkpoint.save_torch(step, net=net, optimizer=optimizer)
hpo.report(step=step, loss=loss.item(), begun=begun, ended=weights())
"""
EPOCHS = 45  # of a second each: time for somebody to interfere
PROMOTED = 2  # of two rungs, the lower of which has two Trials
QUEUES = "kueue.x-k8s.io/v1beta1"
BUCKET = {"objectStore": {"uri": "s3://weights/team", "secretName": "rights"}}
RIGHTS = {"AWS_ACCESS_KEY_ID": "team", "AWS_SECRET_ACCESS_KEY": "a secret of the team", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bucket(cluster: Cluster, namespace: str) -> Path:
    """The folder of a bucket, whose server is beside the cluster; pods have their rights from the Secret `rights`."""
    folder, port = cluster.state / "buckets", 7070
    (folder / "weights").mkdir(parents=True)
    address = f"{network.NODE_ADDRESS}:{port}"
    rights = (f"--access={RIGHTS['AWS_ACCESS_KEY_ID']}", f"--secret={RIGHTS['AWS_SECRET_ACCESS_KEY']}")
    cluster.run_program("versitygw", *rights, f"--port={address}", "posix", "--nometa", folder)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "rights", "namespace": namespace}}
    cluster.api.create({**secret, "stringData": {**RIGHTS, "AWS_ENDPOINT_URL": f"http://{address}"}})
    return folder / "weights"


@pytest.fixture(scope="module")
def queue(cluster: Cluster, namespace: str) -> dict[str, str]:
    """The label of what goes through a queue of Kueue, which has room for all."""
    install(cluster, KUEUE)
    quota = [{"name": name, "nominalQuota": "100Gi"} for name in ("cpu", "memory")]
    groups = [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": "default", "resources": quota}]}]
    objects: dict[str, Object] = {
        "ResourceFlavor": {},
        "ClusterQueue": {"spec": {"namespaceSelector": {}, "resourceGroups": groups}},
        "LocalQueue": {"spec": {"clusterQueue": "default"}},
    }
    for kind, rest in objects.items():
        metadata = {"name": "default", **({"namespace": namespace} if kind == "LocalQueue" else {})}
        cluster.apply([{"apiVersion": QUEUES, "kind": kind, "metadata": metadata, **rest}])
    return {"kueue.x-k8s.io/queue-name": "default"}


@pytest.fixture(scope="module")
def begun(namespace: str, begin: Begin, volume: Path, bucket: Path, queue: dict[str, str]) -> dict[str, Object]:
    halving = {
        "schedule": {"halving": {"eta": 2, "iterations": 1}},
        "budget": {"min": 1, "max": 4},
        "limits": {"maxTrials": 20, "maxFailedTrials": 0},
        "parallelism": 2,
    }
    slow_at_last = {**halving, "budget": {"min": EPOCHS, "max": 2 * EPOCHS}}
    queued = study("queued", namespace, CONTINUING % 1, checkpoints=STORE, budget={"max": EPOCHS})
    queued["spec"]["template"]["job"]["metadata"] = {"labels": queue}
    studies = [
        queued,
        study("rising", namespace, CONTINUING % 0, checkpoints=STORE, **halving),
        with_scratch(study("stored", namespace, CONTINUING % 0, checkpoints=BUCKET, **halving)),
        study("copied", namespace, UNKNOWING, checkpoints={**STORE, "restore": "Copy"}, **halving),
        study("promoted", namespace, CONTINUING % f"hpo.budget() > {EPOCHS}", checkpoints=STORE, **slow_at_last),
        study("evicted", namespace, CONTINUING % 1, checkpoints=STORE, budget={"max": EPOCHS}),
        with_scratch(
            study(
                "learning",
                namespace,
                LEARNING,
                container={"image": TORCH_TRIAL},
                parameters=[{"name": "rate", "float": {"min": 1e-4, "max": 1e-1, "scale": "Log"}}],
                algorithm={"pbt": {"population": 4}},
                budget={"min": 2, "max": 6},
                checkpoints=STORE,
                limits={"maxFailedTrials": 0},
                parallelism=4,
            )
        ),
    ]
    return {each["metadata"]["name"]: begin(each) for each in studies}


def saved(volume: Path, study: Object, trial: int = 0) -> int:
    """The newest step that a Study's first Trial, or another one, has saved."""
    name, uid = study["metadata"]["name"], study["metadata"]["uid"]
    return max((int(each.name[5:]) for each in (volume / uid / f"{name}-{trial}").glob("step-*")), default=0)


def wait_for_three_epochs(cluster: Cluster, volume: Path, study: Object, trial: int = 0, begun: int = 0) -> None:
    wait_until("three epochs", lambda: saved(volume, study, trial) >= begun + 3 and running(pods(cluster, study)), seconds=PATIENCE)


@pytest.fixture(scope="module")
def requeued(cluster: Cluster, namespace: str, begun: dict[str, Object], volume: Path) -> int:
    """The newest step that the queued Trial had saved when its queue took its place away, and then gave it another."""
    queued = begun["queued"]
    wait_for_three_epochs(cluster, volume, queued)
    found = cluster.api.objects(QUEUES, "Workload", namespace)
    (name,) = (each["metadata"]["name"] for each in found if each["metadata"]["name"].startswith("job-queued-0-"))
    cluster.api.patch(QUEUES, "Workload", name, {"spec": {"active": False}}, namespace)
    wait_until("the end of its pods", lambda: not pods(cluster, queued), seconds=PATIENCE)
    newest = saved(volume, queued)
    cluster.api.patch(QUEUES, "Workload", name, {"spec": {"active": True}}, namespace)
    return newest


@pytest.fixture(scope="module")
def drained(cluster: Cluster, begun: dict[str, Object], requeued: int, volume: Path) -> dict[str, int]:
    """The newest steps that the evicted Trial and the promoted one had saved when their node was drained."""
    wait_for_three_epochs(cluster, volume, begun["promoted"], PROMOTED, EPOCHS)
    wait_for_three_epochs(cluster, volume, begun["evicted"])
    try:
        selector = "--pod-selector=hpo.dev/study in (evicted, promoted)"
        cluster.kubectl("drain", NODE, "--ignore-daemonsets", selector, "--timeout=60s")
    finally:
        cluster.kubectl("uncordon", NODE)
    return {"evicted": saved(volume, begun["evicted"]), "promoted": saved(volume, begun["promoted"], PROMOTED)}


def test_an_evicted_trial_goes_on_from_its_own_newest_checkpoint(
    cluster: Cluster, begun: dict[str, Object], drained: dict[str, int]
) -> None:
    ended = end_of(cluster, begun["evicted"], PATIENCE)
    (trial,) = trials(cluster, ended)
    assert (reason(trial), observed(trial)["step"]) == ("Completed", EPOCHS)
    assert int(float(observed(trial)["metrics"]["begun"])) == drained["evicted"] >= 3
    assert ended["status"]["trials"]["failed"] == 0


def test_a_promoted_trial_that_is_evicted_goes_on_from_its_own_newest_checkpoint_and_not_from_its_donor_s(
    cluster: Cluster, begun: dict[str, Object], drained: dict[str, int], volume: Path
) -> None:
    ended = end_of(cluster, begun["promoted"], PATIENCE)
    assert (reason(ended), ended["status"]["trials"]["failed"]) == ("ScheduleFinished", 0)
    found = trials(cluster, ended)
    trial, donor = found[PROMOTED], found[PROMOTED]["spec"]["restoreFrom"]["number"]
    assert len(found) == PROMOTED + 1
    assert (reason(trial), observed(trial)["step"], trial["status"]["attempts"]) == ("Completed", 2 * EPOCHS, 2)
    assert int(float(observed(trial)["metrics"]["begun"])) == drained["promoted"] >= EPOCHS + 3
    weights = json.loads((volume / trial["status"]["checkpoint"]["path"] / "weights.json").read_text())
    by_whom = [*((donor, step) for step in range(1, EPOCHS + 1)), *((PROMOTED, step) for step in range(EPOCHS + 1, 2 * EPOCHS + 1))]
    assert [(who, step) for who, step in weights] == by_whom, "each step once"


def test_a_trial_that_its_queue_has_evicted_goes_on_from_its_own_newest_checkpoint_once_it_is_admitted_again(
    cluster: Cluster, begun: dict[str, Object], requeued: int
) -> None:
    ended = end_of(cluster, begun["queued"], PATIENCE)
    (trial,) = trials(cluster, ended)
    assert (trial["metadata"]["name"], reason(trial), observed(trial)["step"]) == ("queued-0", "Completed", EPOCHS)
    assert int(float(observed(trial)["metrics"]["begun"])) == requeued >= 3
    assert (trial["status"]["attempts"], trial["status"]["evictions"]) == (2, 1)
    assert ended["status"]["trials"]["failed"] == 0


def donor_of(trial: Object, found: list[Object]) -> Object:
    """The Trial that another one was to start from, and has: by the digest of its checkpoint, and by what the program says."""
    restore = trial["spec"]["restoreFrom"]
    donor = found[restore["number"]]
    assert restore["digest"] == donor["status"]["checkpoint"]["digest"]
    assert trial["status"]["restored"]["trialName"] == donor["metadata"]["name"]
    return donor


@pytest.mark.parametrize("name", ["rising", "stored"])
def test_a_promoted_trial_starts_from_its_donor_s_weights(
    cluster: Cluster, begun: dict[str, Object], drained: dict[str, int], name: str
) -> None:
    ended = end_of(cluster, begun[name], PATIENCE)
    assert reason(ended) == "ScheduleFinished"
    found = trials(cluster, ended)
    promoted = [each for each in found if each["spec"]["origin"] == "Promoted"]
    assert len(promoted) == 3
    for trial in promoted:
        donor = donor_of(trial, found)
        assert int(float(observed(trial)["metrics"]["begun"])) == donor["spec"]["budget"]


def test_a_member_of_a_population_starts_from_the_better_one_s_network_to_the_last_bit(
    cluster: Cluster, begun: dict[str, Object], drained: dict[str, int]
) -> None:
    ended = end_of(cluster, begun["learning"], PATIENCE)
    assert reason(ended) == "ScheduleFinished"
    found = trials(cluster, ended)
    assert (len(found), {reason(each) for each in found}) == (12, {"Completed"})
    copied = 0
    for trial in found[4:]:
        donor = donor_of(trial, found)
        assert observed(trial)["metrics"]["begun"] == observed(donor)["metrics"]["ended"]
        copied += donor["spec"]["slot"]["member"] != trial["spec"]["slot"]["member"]
    assert copied > 0
    assert len({observed(each)["metrics"]["ended"] for each in found}) > 8


def test_a_program_that_knows_only_its_own_folder_finds_its_donor_s_weights_there(
    cluster: Cluster, begun: dict[str, Object], drained: dict[str, int]
) -> None:
    ended = end_of(cluster, begun["copied"], PATIENCE)
    assert reason(ended) == "ScheduleFinished"
    found = trials(cluster, ended)
    promoted = [each for each in found if each["spec"]["origin"] == "Promoted"]
    assert len(promoted) == 3
    for trial in promoted:
        donor = donor_of(trial, found)
        begun_with = observed(trial)["metrics"]
        assert int(float(begun_with["begun"])) == donor["spec"]["budget"]
        assert int(float(begun_with["words"])) == (2 if donor["spec"].get("restoreFrom") else 1)


@pytest.mark.parametrize("name", ["rising", "stored", "learning"])
def test_the_best_s_weights_stay_whole_and_the_others_are_gone(
    cluster: Cluster, begun: dict[str, Object], drained: dict[str, int], volume: Path, bucket: Path, name: str
) -> None:
    ended = end_of(cluster, begun[name], PATIENCE)
    best = {each["number"] for each in ended["status"]["best"]}

    def settled(all_: list[Object]) -> bool:
        return all(each["status"]["checkpoint"]["state"] != "Collecting" for each in all_)

    found = wait_for_trials(cluster, ended, "the end of the cleanup", settled)
    states = {number(each): each["status"]["checkpoint"]["state"] for each in found}
    assert states == {each: "Kept" if each in best else "Collected" for each in states}
    store = bucket / "team" if name == "stored" else volume
    below = store / ended["metadata"]["uid"]
    names = {each["metadata"]["name"] for each in found if number(each) in best}
    left = {each.name for each in below.iterdir() if any(each.iterdir())}
    assert left == names
    for trial in found:
        if number(trial) in best:
            kept = trial["status"]["checkpoint"]
            manifest = read_manifest(str(store / kept["path"]))
            verify(str(store / kept["path"]), manifest)
            assert (manifest.digest, manifest.size) == (kept["digest"], kept["bytes"])
