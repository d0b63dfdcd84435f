"""Checkpoints on a volume: which claims are accepted, what the workloads of promoted Trials get, and what is removed when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from hpo_operator import cli
from prometheus_client.parser import text_string_to_metric_families

from tests.control_plane.building import POPULATION, VERSION, claim, condition, number, reason, study, wait_for_condition
from tests.control_plane.crowd import JOB, Crowd
from tests.testbed import ControlPlane, Object, wait_until
from tests.testbed.fixtures import Bed
from tests.testbed.simulation import EXIT_CODE, MESSAGE, SAVED, SAVED_BYTES, SAVED_DIGEST, of_trial

pytestmark = pytest.mark.control_plane

SAVES = {MESSAGE: SAVED}
# Of four Trials on the lowest rung two rise, and one of these again.
HALVING: dict[str, Any] = {
    "schedule": {"halving": {"eta": 2, "iterations": 1}},
    "budget": {"min": 1, "max": 4},
    "limits": {"maxTrials": 20},
    "checkpoints": {"volumeClaim": {"name": "weights"}},
}
CLEANUP = "hpo.dev/cleanup"
PORT = 18081
SDK_IMAGE = "registry.example/hpo-operator/operator:1"


@pytest.fixture(scope="module")
def running(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    folder = tmp_path_factory.mktemp("operator")
    settings = folder / "settings.yaml"
    settings.write_text(f"{{port: {PORT}, sdkImage: {SDK_IMAGE}}}")
    with Crowd(bed(ControlPlane, ControlPlane), "checkpoints", folder, "--config", str(settings)) as crowd:
        yield crowd


@pytest.fixture
def crowd(running: Crowd) -> Iterator[Crowd]:
    with running.watched():
        yield running


def continuing(crowd: Crowd, name: str, says: dict[str, str] | None = None, **spec: Any) -> Object:
    """A Study of two rungs whose pods say that they have saved."""
    namespace = crowd.namespace()
    claim(crowd.plane, namespace)
    return crowd.apply(name, namespace, says=SAVES | (says or {}), **{**HALVING, **spec})


def states(crowd: Crowd, of: Object) -> dict[int, str]:
    return {number(each): each["status"].get("checkpoint", {}).get("state", "") for each in crowd.trials(of)}


def cleanups(crowd: Crowd, of: Object) -> list[Object]:
    return crowd.api.objects(*JOB, of["metadata"]["namespace"], labelSelector=CLEANUP)


def wait_until_clean(crowd: Crowd, of: Object) -> dict[int, str]:
    """Waits until nothing is left to be removed; gives the states of all checkpoints."""

    def look() -> dict[int, str]:
        found = states(crowd, of)
        return found if not cleanups(crowd, of) and "Collecting" not in found.values() else {}

    return wait_until("the end of all cleanups", look, seconds=60)


def mounts(job: Object) -> dict[str, tuple[str, bool]]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {each["mountPath"]: (each["subPath"], each.get("readOnly", False)) for each in container["volumeMounts"]}


def bytes_in_metrics(of: Object) -> float | None:
    """What /metrics says that a Study's checkpoints take."""
    labels = {"namespace": of["metadata"]["namespace"], "study": of["metadata"]["name"]}
    with urlopen(f"http://127.0.0.1:{PORT}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for each in families if each.name == "hpo_checkpoint_bytes" for sample in each.samples]
    return next((sample.value for sample in samples if sample.labels == labels), None)


def test_a_claim_that_is_missing_or_not_shared_is_refused_with_the_remedy(crowd: Crowd) -> None:
    missing = crowd.apply("missing", **HALVING)
    namespace = crowd.namespace()
    claim(crowd.plane, namespace, "ReadWriteOnce")
    alone = crowd.apply("alone", namespace, **HALVING)
    seen = condition(wait_for_condition(crowd.plane, missing, "Accepted", "CheckpointStoreUnusable"), "Accepted")
    assert seen["status"] == "False"
    assert "there is no such PersistentVolumeClaim in this namespace. Create it" in seen["message"]
    seen = condition(wait_for_condition(crowd.plane, alone, "Accepted", "CheckpointStoreUnusable"), "Accepted")
    assert "must be ReadWriteMany, and is ReadWriteOnce" in seen["message"]
    assert crowd.trials(missing) == crowd.trials(alone) == []


def test_a_promoted_trial_s_pod_sees_its_donor_s_folder_read_only_and_what_to_expect_there(crowd: Crowd) -> None:
    wanted = continuing(crowd, "rising")
    crowd.end_of(wanted)
    found = crowd.trials(wanted)
    promoted = [each for each in found if each["spec"]["origin"] == "Promoted"]
    assert len(promoted) == 3
    uid = crowd.now(wanted)["metadata"]["uid"]
    for trial in promoted:
        restore = trial["spec"]["restoreFrom"]
        donor = found[restore["number"]]
        assert restore["digest"] == SAVED_DIGEST
        assert restore["path"] == donor["status"]["checkpoint"]["path"] == f"{uid}/{restore['trialName']}/step-{restore['step']}"
        job = crowd.job(wanted, number(trial))
        assert job is not None
        assert mounts(job) == {
            "/hpo/checkpoints": (f"{uid}/{trial['metadata']['name']}", False),
            "/hpo/donor": (f"{uid}/{restore['trialName']}", True),
        }


def test_where_it_is_to_be_copied_a_namespace_of_restricted_pods_takes_one_that_copies_before_it_starts(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    claim(crowd.plane, namespace)
    restricted = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    crowd.api.patch("v1", "Namespace", namespace, restricted, namespace="")
    kept = {"volumeClaim": {"name": "weights"}, "restore": "Copy"}
    manifest = study("copying", namespace, says=SAVES, **{**HALVING, "checkpoints": kept})
    pod = manifest["spec"]["template"]["job"]["spec"]["template"]["spec"]
    pod["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    alone = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod["containers"][0]["securityContext"] = alone
    crowd.plane.apply([manifest])
    wanted = crowd.api.get(VERSION, "Study", "copying", namespace)
    crowd.end_of(wanted)
    copied = {}
    for trial in crowd.trials(wanted):
        job = crowd.job(wanted, number(trial))
        assert job is not None
        pod = job["spec"]["template"]["spec"]
        copied[number(trial)] = [each["command"][-1] for each in pod.get("initContainers", ())]
        for each in pod.get("initContainers", ()):
            assert each["volumeMounts"] == pod["containers"][0]["volumeMounts"]
            assert (each["image"], each["securityContext"]) == (SDK_IMAGE, alone)
    assert copied == {each: ["restore"] if each > 3 else [] for each in range(7)}


def test_in_an_object_store_trials_continue_by_its_secret_and_what_nothing_needs_is_removed_there(crowd: Crowd) -> None:
    kept = {"objectStore": {"uri": "s3://bucket/weights", "secretName": "s3-rights"}}
    wanted = continuing(crowd, "objects", checkpoints=kept)
    ended = crowd.end_of(wanted)
    uid = ended["metadata"]["uid"]
    promoted = [each for each in crowd.trials(wanted) if each["spec"]["origin"] == "Promoted"]
    assert len(promoted) == 3
    for trial in promoted:
        restore, job = trial["spec"]["restoreFrom"], crowd.job(wanted, number(trial))
        assert job is not None
        (container,) = job["spec"]["template"]["spec"]["containers"]
        found = {each["name"]: each["value"] for each in container["env"]}
        assert found["HPO_CHECKPOINT_DIR"] == f"s3://bucket/weights/{uid}/{trial['metadata']['name']}"
        assert found["HPO_RESTORE_DIR"] == f"s3://bucket/weights/{uid}/{restore['trialName']}/step-{restore['step']}"
        assert container["envFrom"] == [{"secretRef": {"name": "s3-rights"}}]
    best = {each["number"] for each in ended["status"]["best"]}
    assert wait_until_clean(crowd, wanted) == {each: "Kept" if each in best else "Collected" for each in range(7)}


def test_what_nothing_needs_is_removed_by_few_jobs_and_the_best_stays_and_is_counted(crowd: Crowd) -> None:
    wanted = continuing(crowd, "removing")
    seen = crowd.wait_for(wanted, "some bytes", lambda study: study.get("status", {}).get("checkpointBytes"))
    assert seen["status"]["checkpointBytes"] % SAVED_BYTES == 0
    ended = crowd.end_of(wanted)
    found = wait_until_clean(crowd, wanted)
    best = {each["number"] for each in ended["status"]["best"]}
    assert found == {each: "Kept" if each in best else "Collected" for each in range(7)}
    made = [
        e for e in crowd.api.objects("v1", "Event", wanted["metadata"]["namespace"]) if "cleanup" in e["involvedObject"]["name"]
    ]
    jobs = {each["involvedObject"]["uid"] for each in made if each["involvedObject"]["kind"] == "Job"}
    assert 1 <= len(jobs) <= 3, "one for many"
    crowd.wait_for(wanted, "what is left", lambda study: study["status"]["checkpointBytes"] == len(best) * SAVED_BYTES)
    wait_until("the same in the metrics", lambda: bytes_in_metrics(wanted) == len(best) * SAVED_BYTES)


def test_a_checkpoint_that_cannot_be_had_frees_the_place_for_the_next_best_and_is_offered_no_more(crowd: Crowd) -> None:
    lost = '{"hpo":1,"donorUnavailable":"the content of \'w\' has changed"}'
    wanted = continuing(crowd, "damaged", {of_trial(EXIT_CODE, 4): "87", of_trial(MESSAGE, 4): lost})
    ended = crowd.end_of(wanted)
    assert reason(ended) == "ScheduleFinished"
    found = crowd.trials(wanted)
    assert reason(found[4]) == "DonorUnavailable"
    assert "has changed" in condition(found[4], "Succeeded")["message"]
    damaged = found[4]["spec"]["restoreFrom"]["number"]
    others = [each for each in found if each["spec"]["origin"] == "Promoted" and number(each) != 4]
    assert len(others) == 3
    assert damaged not in {each["spec"]["restoreFrom"]["number"] for each in others}
    assert ended["status"]["trials"]["failed"] == 0


def test_an_operator_that_is_killed_while_checkpoints_are_removed_goes_on_with_it(crowd: Crowd) -> None:
    wanted = continuing(crowd, "killed", parallelism=1)
    crowd.wait_for(wanted, "a cleanup", lambda _: cleanups(crowd, wanted))
    crowd.operator.kill()
    crowd.operator.start()
    ended = crowd.end_of(wanted)
    assert {each["number"] for each in ended["status"]["best"]} == {
        each for each, s in wait_until_clean(crowd, wanted).items() if s == "Kept"
    }


def test_a_cleanup_that_somebody_deletes_is_made_again(crowd: Crowd) -> None:
    wanted = continuing(crowd, "again", parallelism=1)
    first = crowd.wait_for(wanted, "a cleanup", lambda _: cleanups(crowd, wanted)) and cleanups(crowd, wanted)
    for job in first:
        crowd.api.delete(*JOB, job["metadata"]["name"], job["metadata"]["namespace"])
    crowd.end_of(wanted)
    assert list(wait_until_clean(crowd, wanted).values()).count("Kept") == 1


def test_a_suspended_study_goes_on_from_the_checkpoints_that_it_has(crowd: Crowd) -> None:
    wanted = continuing(crowd, "paused", parallelism=1)
    crowd.wait_for_trials(wanted, "a promotion", lambda all_: any(each["spec"]["origin"] == "Promoted" for each in all_))
    crowd.edit(wanted, suspend=True)
    wait_for_condition(crowd.plane, wanted, "Progressing", "Suspended")
    crowd.edit(wanted, suspend=False)
    crowd.end_of(wanted)
    promoted = [each for each in crowd.trials(wanted) if each["spec"]["origin"] == "Promoted"]
    assert len(promoted) == 3
    assert all(each["spec"].get("restoreFrom") for each in promoted)


def test_a_population_is_drawn_and_its_best_schedule_made_a_study_from_what_kubectl_prints(
    crowd: Crowd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = crowd.namespace()
    claim(crowd.plane, namespace)
    wanted = crowd.apply("members", namespace, says=SAVES, **POPULATION)
    ended = crowd.end_of(wanted)
    assert reason(ended) == "ScheduleFinished"
    best = {each["number"] for each in ended["status"]["best"]}
    assert wait_until_clean(crowd, wanted) == {each: "Kept" if each in best else "Collected" for each in range(4)}

    kubectl, dump = partial(crowd.plane.kubectl, "--namespace", namespace), tmp_path / "members"
    of_trials = ("trials", "--selector", "hpo.dev/study=members")
    for output, between in (("json", ""), ("yaml", "---\n")):
        dump.write_text(between.join(kubectl("get", *what, "--output", output) for what in (("study", "members"), of_trials)))
        assert cli.main(["lineage", str(dump), "--output", "json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        found = crowd.trials(wanted)
        assert [row["trial"] for row in rows] == [number(trial) for trial in found] == [0, 1, 2, 3]
        for row, trial in zip(rows, found, strict=True):
            assert row["donor"] == trial["spec"].get("restoreFrom", {}).get("number")
            assert row["created"].replace("+00:00", "Z") == trial["metadata"]["creationTimestamp"]
    (copy,) = [row for row in rows if row["copied"] is not None]
    shown = {line.split()[0]: line.split()[1:] for line in kubectl("get", *of_trials, "--output", "wide").splitlines()}
    assert f"members-{copy['donor']}" in shown[f"members-{copy['trial']}"]

    assert cli.main(["lineage", str(dump), "--schedule", "--output", "yaml"]) == 0
    replay = yaml.safe_load(capsys.readouterr().out)
    created = json.loads(kubectl("create", "--dry-run=server", "--filename", "-", "--output", "json", input=json.dumps(replay)))
    assert created["spec"]["algorithm"] == {"replay": {}}
