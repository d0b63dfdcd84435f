"""What is stopped stops, keeps what it has found, and goes on where it may: suspension, parallelism, deletion, time to live."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.control_plane.building import PATIENCE, VERSION, Result, has_ended, no_workloads, reason, wait_for_condition
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.crowd import JOB, Crowd, runs, status_of
from tests.testbed import ControlPlane, Object, wait_until
from tests.testbed.fixtures import Bed
from tests.testbed.simulation import DELAY, DELETION_DELAY, NEVER, of_trial

pytestmark = pytest.mark.control_plane

FOR_EVER = {DELAY: NEVER}


@pytest.fixture(scope="module")
def operating(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    with Crowd(bed(ControlPlane, ControlPlane), "stopping", tmp_path_factory.mktemp("operator")) as crowd:
        yield crowd


@pytest.fixture
def crowd(operating: Crowd) -> Iterator[Crowd]:
    with operating.watched():
        yield operating


def let_end(crowd: Crowd, of: Object, number: int) -> None:
    """Ends the pod of a Trial that would run for ever, with a result, as its kubelet would."""
    (pod,) = crowd.wait_for_pods(of, number, "a pod that runs", lambda found: len(found) == 1 and runs(found[0]))
    metadata, now = pod["metadata"], pod["status"]["startTime"]
    report = '{"hpo":1,"step":1,"metrics":{"loss":["0.5","0.5","0.5"]}}'
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now, "message": report}
    statuses = [{**each, "ready": False, "state": {"terminated": ended}} for each in pod["status"]["containerStatuses"]]
    status = {"phase": "Succeeded", "containerStatuses": statuses}
    crowd.api.patch("v1", "Pod", metadata["name"], {"status": status}, metadata["namespace"], "status")


def names(crowd: Crowd, of: Object) -> dict[str, str]:
    """The Trials of a Study and their uids."""
    return {each["metadata"]["name"]: each["metadata"]["uid"] for each in crowd.trials(of)}


def attempts(crowd: Crowd, of: Object) -> list[int]:
    return [each["status"]["attempts"] for each in crowd.trials(of)]


# Suspension


def test_suspension_ends_the_workloads_and_keeps_the_Trials_which_go_on_with_new_ones(crowd: Crowd) -> None:
    wanted = crowd.apply("paused", trials=2, says=FOR_EVER)
    namespace = wanted["metadata"]["namespace"]
    crowd.wait_for_running(wanted, 0, 1)
    before, jobs = names(crowd, wanted), {number: crowd.job(wanted, number)["metadata"]["uid"] for number in (0, 1)}  # type: ignore[index]

    crowd.edit(wanted, suspend=True)
    no_workloads(crowd.plane, namespace)
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "Suspended")
    assert status_of(found, "Progressing") == ("False", "Suspended")
    assert status_of(found, "Succeeded") == ("Unknown", "InProgress")
    assert names(crowd, wanted) == before
    for trial in crowd.trials(wanted):
        assert status_of(trial, "Running") == ("False", "StudySuspended")
        assert status_of(trial, "Succeeded") == ("Unknown", "Pending")

    crowd.edit(wanted, suspend=False)
    crowd.wait_for_running(wanted, 0, 1)
    assert names(crowd, wanted) == before
    assert {number: crowd.job(wanted, number)["metadata"]["uid"] for number in (0, 1)}.items().isdisjoint(jobs.items())  # type: ignore[index]
    for number in (0, 1):
        let_end(crowd, wanted, number)
    ended = crowd.end_of(wanted)
    assert (reason(ended), attempts(crowd, wanted)) == ("MaxTrialsReached", [1, 1])


def test_a_Trial_that_ends_as_its_Study_is_suspended_has_its_result(crowd: Crowd) -> None:
    wanted = crowd.apply("late", trials=1, parallelism=1, says=FOR_EVER)
    crowd.wait_for_running(wanted, 0)
    let_end(crowd, wanted, 0)
    crowd.edit(wanted, suspend=True)
    assert reason(crowd.wait_for_trial(wanted, 0, "a result", has_ended)) == "Completed"
    assert reason(crowd.end_of(wanted)) == "MaxTrialsReached"


# Parallelism


def scale(crowd: Crowd, of: Object, replicas: int) -> None:
    namespace = of["metadata"]["namespace"]
    crowd.plane.kubectl("scale", f"studies.hpo.dev/{of['metadata']['name']}", f"--replicas={replicas}", "--namespace", namespace)


def test_places_are_added_and_taken_away_by_kubectl_scale_and_what_runs_goes_on(crowd: Crowd) -> None:
    wanted = crowd.apply("scaled", trials=6, parallelism=1, says=FOR_EVER)
    with Chronicle(crowd.plane, wanted["metadata"]["namespace"]) as chronicle:
        crowd.wait_for_running(wanted, 0)
        scale(crowd, wanted, 3)
        crowd.wait_for_running(wanted, 0, 1, 2)

        scale(crowd, wanted, 1)  # nothing new until two of them have ended
        let_end(crowd, wanted, 0)
        crowd.wait_for_running(wanted, 1, 2)
        let_end(crowd, wanted, 1)
        crowd.wait_for_running(wanted, 2)
        assert len(crowd.trials(wanted)) == 3
        let_end(crowd, wanted, 2)
        crowd.wait_for_running(wanted, 3)

        scale(crowd, wanted, 0)  # what runs ends, and nothing follows
        let_end(crowd, wanted, 3)
        wait_for_condition(crowd.plane, wanted, "Progressing", "TrialsPending")
        assert len(crowd.trials(wanted)) == 4

        scale(crowd, wanted, 2)
        crowd.wait_for_running(wanted, 4, 5)
        let_end(crowd, wanted, 4)
        let_end(crowd, wanted, 5)
        ended = crowd.end_of(wanted)
        chronicle.catch_up()
    assert reason(ended) == "MaxTrialsReached"
    assert attempts(crowd, wanted) == [1] * 6
    assert chronicle.created("Trial") == chronicle.created("Job") == dict.fromkeys(range(6), 1)
    assert chronicle.most_running() == 3


def test_the_selector_of_the_scale_is_that_of_the_pods(crowd: Crowd) -> None:
    wanted = crowd.apply("selected", trials=2, says=FOR_EVER)
    crowd.wait_for_running(wanted, 0, 1)
    namespace = wanted["metadata"]["namespace"]
    seen = crowd.api.get(VERSION, "Study", "selected", namespace, "scale")
    pods = crowd.api.objects("v1", "Pod", namespace, labelSelector=seen["status"]["selector"])
    assert len(pods) == len(crowd.pods(wanted)) == 2


def test_pods_that_take_long_to_end_keep_their_place(crowd: Crowd) -> None:
    wanted = crowd.apply("slow", trials=4, says={DELETION_DELAY: "2s", of_trial(DELAY, 0): NEVER, of_trial(DELAY, 1): NEVER})
    namespace = wanted["metadata"]["namespace"]
    with Chronicle(crowd.plane, namespace) as chronicle:
        crowd.wait_for_running(wanted, 0, 1)
        crowd.edit(
            wanted, limits={"trialTimeoutSeconds": 1}
        )  # both have run longer: their pods are asked to go, and take their time
        crowd.wait_for_trials(wanted, "two that have timed out", lambda found: [*map(reason, found)][:2] == ["TimedOut"] * 2)
        crowd.edit(wanted, limits={"trialTimeoutSeconds": None})
        ended = crowd.end_of(wanted)
        chronicle.catch_up()
    assert (reason(ended), ended["status"]["trials"]["completed"]) == ("MaxTrialsReached", 2)
    assert chronicle.most_running() <= 2
    assert_after_the_pods_of(chronicle, {0, 1}, {2, 3})


def assert_after_the_pods_of(chronicle: Chronicle, before: set[int], after: set[int]) -> None:
    """That some Trials' workloads were only created when the pods of as many others had ended; they may go a little later."""
    gone: dict[str, int] = {}
    for each in chronicle.events("Pod"):
        over = each.type == "DELETED" or each.object["status"].get("phase") in ("Succeeded", "Failed")
        if over and number_of(each.object) in before:
            gone.setdefault(each.object["metadata"]["name"], each.revision)
    made = [each.revision for each in chronicle.events("Job") if each.type == "ADDED" and number_of(each.object) in after]
    assert len(made) == len(after)
    for place, revision in enumerate(sorted(made)):
        assert sum(earlier < revision for earlier in gone.values()) > place


def number_of(obj: Object) -> int:
    return int(obj["metadata"]["labels"]["hpo.dev/trial-number"])


# Deletion


def test_with_a_Study_all_that_belongs_to_it_goes_and_the_others_go_on(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    doomed = crowd.apply("doomed", namespace, says=FOR_EVER)
    other = crowd.apply("other", namespace, trials=3, says={of_trial(DELAY, 2): NEVER})
    crowd.wait_for_running(doomed, 0, 1)
    crowd.wait_for_trial(other, 2, "pods", lambda _: crowd.pods(other, 2))
    crowd.plane.kubectl("delete", "study", "doomed", "--namespace", namespace, "--timeout=60s")
    wait_until("the end of its Trials", lambda: not crowd.trials(doomed), seconds=PATIENCE)
    wait_until("the end of its workloads", lambda: not crowd.jobs(doomed) and not crowd.pods(doomed), seconds=PATIENCE)
    let_end(crowd, other, 2)
    assert reason(crowd.end_of(other)) == "MaxTrialsReached"


def test_the_worker_of_a_Study_that_is_deleted_ends_with_it(crowd: Crowd) -> None:
    before = {each.pid for each in crowd.operator.workers()}
    wanted = crowd.apply("employer", says=FOR_EVER)
    crowd.wait_for_running(wanted, 0, 1)
    own = {each.pid for each in crowd.operator.workers()} - before
    assert own
    crowd.api.delete(VERSION, "Study", "employer", wanted["metadata"]["namespace"])
    wait_until("the end of its worker", lambda: own.isdisjoint(each.pid for each in crowd.operator.workers()), seconds=PATIENCE)


def test_a_Study_that_is_applied_again_at_once_is_another_one_and_has_its_own_results(crowd: Crowd) -> None:
    wanted = crowd.apply("again", trials=3, parallelism=1, says={of_trial(DELAY, 1): NEVER})
    namespace = wanted["metadata"]["namespace"]
    crowd.wait_for_trial(wanted, 1, "pods", lambda _: any(map(runs, crowd.pods(wanted, 1))))
    first, old = crowd.now(wanted), names(crowd, wanted)
    crowd.api.delete(VERSION, "Study", "again", namespace)
    crowd.apply("again", namespace, trials=3, seed=8)
    ended = crowd.end_of(wanted)
    undisturbed = crowd.apply("again", trials=3, seed=8)
    assert Result.of(crowd.plane, ended) == Result.of(crowd.plane, crowd.end_of(undisturbed))
    assert ended["metadata"]["uid"] != first["metadata"]["uid"]
    assert {each["spec"]["studyRef"]["uid"] for each in crowd.trials(wanted)} == {ended["metadata"]["uid"]}
    assert set(old.values()).isdisjoint(names(crowd, wanted).values())


def test_a_Trial_that_somebody_deletes_goes_with_its_workload_and_its_number_is_not_given_again(crowd: Crowd) -> None:
    wanted = crowd.apply("holed", trials=4, says={of_trial(DELAY, 1): NEVER})
    namespace = wanted["metadata"]["namespace"]
    with Chronicle(crowd.plane, namespace) as chronicle:
        crowd.wait_for_trial(wanted, 1, "a pod that runs", lambda _: any(map(runs, crowd.pods(wanted, 1))))
        crowd.api.delete(VERSION, "Trial", "holed-1", namespace)
        ended = crowd.end_of(wanted)
        wait_until("the end of its workload", lambda: 1 not in crowd.jobs(wanted) and not crowd.pods(wanted, 1), seconds=PATIENCE)
        chronicle.catch_up()
    assert reason(ended) == "MaxTrialsReached"
    assert [each["spec"]["number"] for each in crowd.trials(wanted)] == [0, 2, 3]
    assert (ended["status"]["trials"]["created"], ended["status"]["trials"]["completed"]) == (4, 3)
    assert chronicle.created("Trial") == dict.fromkeys(range(4), 1)


def test_a_Job_that_somebody_deletes_is_lost_and_its_Trial_starts_again(crowd: Crowd) -> None:
    wanted = crowd.apply("robbed", trials=1, parallelism=1, says=FOR_EVER)
    namespace = wanted["metadata"]["namespace"]
    with Chronicle(crowd.plane, namespace) as chronicle:
        crowd.wait_for_running(wanted, 0)
        crowd.api.delete(*JOB, "robbed-0", namespace)
        crowd.wait_for_trial(wanted, 0, "another attempt", lambda seen: seen.get("status", {}).get("attempts") == 2)
        crowd.wait_for_running(wanted, 0)
        let_end(crowd, wanted, 0)
        ended = crowd.end_of(wanted)
        chronicle.catch_up()
    assert reason(ended) == "MaxTrialsReached"
    (trial,) = crowd.trials(wanted)
    assert (reason(trial), trial["status"]["attempts"]) == ("Completed", 2)
    assert trial["status"]["workload"]["uid"] == crowd.job(wanted, 0)["metadata"]["uid"]  # type: ignore[index]
    assert chronicle.created("Job") == {0: 2}
    assert chronicle.most_running() == 1


# Time to live


def test_a_finished_workload_is_kept_for_its_time_and_then_deleted_and_its_result_remains(crowd: Crowd) -> None:
    kept = crowd.apply("kept", trials=2)
    brief = crowd.apply("brief", trials=2, workloadTTLSeconds=3)
    none = crowd.apply("none", trials=2, workloadTTLSeconds=0)
    with Chronicle(crowd.plane, brief["metadata"]["namespace"]) as chronicle:
        before = {}
        for each in (kept, brief, none):
            before[each["metadata"]["name"]] = Result.of(crowd.plane, crowd.end_of(each))
        for each in (brief, none):
            no_workloads(crowd.plane, each["metadata"]["namespace"])
            assert Result.of(crowd.plane, crowd.now(each)) == before[each["metadata"]["name"]]
        chronicle.catch_up()
    ended = max(event.revision for event in chronicle.events("Trial") if has_ended(event.object))
    gone = [
        event for event in chronicle.events("Job") if "deletionTimestamp" in event.object["metadata"] or event.type == "DELETED"
    ]
    assert all(event.revision > ended for event in gone)  # each has been there for longer than the other Trial has taken
    assert crowd.jobs(kept) == [0, 1]
    crowd.edit(kept, workloadTTLSeconds=0)
    no_workloads(crowd.plane, kept["metadata"]["namespace"])
    assert Result.of(crowd.plane, crowd.now(kept)) == before["kept"]
