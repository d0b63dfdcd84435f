"""What may be edited while a Study runs, and after its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.control_plane.building import PATIENCE, has_ended, reason, wait_for_condition
from tests.control_plane.crowd import JOB, Crowd, message_of, runs, status_of
from tests.testbed import ControlPlane, Object, wait_until
from tests.testbed.fixtures import Bed
from tests.testbed.simulation import DELAY, EXIT_CODE, NEVER, of_trial

pytestmark = pytest.mark.control_plane

LONG = 100_000


@pytest.fixture(scope="module")
def operating(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    with Crowd(bed(ControlPlane, ControlPlane), "edits", tmp_path_factory.mktemp("operator")) as crowd:
        yield crowd


@pytest.fixture
def crowd(operating: Crowd) -> Iterator[Crowd]:
    with operating.watched():
        yield operating


def gpu_template(**says: str) -> Object:
    containers = [{"name": "main", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]
    return {"job": {"spec": {"template": {"metadata": {"annotations": says}, "spec": {"containers": containers}}}}}


# After the end


def test_a_Study_goes_on_when_more_Trials_are_allowed(crowd: Crowd) -> None:
    wanted = crowd.apply("more", trials=2)
    first = crowd.end_of(wanted)
    before = {each["metadata"]["name"]: each for each in crowd.trials(wanted)}
    crowd.edit(wanted, limits={"maxTrials": 5})
    ended = crowd.wait_for(wanted, "its second end", lambda seen: has_ended(seen) and seen["status"]["trials"]["created"] == 5)
    assert status_of(ended, "Succeeded") == ("True", "MaxTrialsReached")
    assert message_of(ended, "Succeeded") == "limits.maxTrials (5) is reached."
    assert ended["status"]["trials"]["completed"] == 5
    assert ended["status"]["observedGeneration"] == ended["metadata"]["generation"]
    assert ended["status"]["completionTime"] >= first["status"]["completionTime"]
    after = {each["metadata"]["name"]: each for each in crowd.trials(wanted)}
    assert {name: after[name]["status"] for name in before} == {name: each["status"] for name, each in before.items()}
    assert len(after) == 5


def test_what_goes_on_finds_what_it_would_have_found_at_once(crowd: Crowd) -> None:
    wanted = crowd.apply("parted", trials=2, algorithm={"tpe": {"startupTrials": 2}}, parallelism=1)
    whole = crowd.apply("whole", trials=4, algorithm={"tpe": {"startupTrials": 2}}, parallelism=1)
    crowd.end_of(wanted)
    crowd.edit(wanted, limits={"maxTrials": 4})
    crowd.wait_for(wanted, "its second end", lambda seen: has_ended(seen) and seen["status"]["trials"]["created"] == 4)
    crowd.end_of(whole)
    assert [each["spec"]["parameters"] for each in crowd.trials(wanted)] == [
        each["spec"]["parameters"] for each in crowd.trials(whole)
    ]


GENERATIONAL: dict[str, Object] = {
    "particles": {"pso": {"mode": "generational", "swarm": 4}},
    "children": {"ga": {"mode": "generational", "population": 4, "tournament": 2}},
}


def test_generations_that_were_parted_go_on_from_the_memos_of_their_Trials(crowd: Crowd) -> None:
    wanted = {
        name: [
            crowd.apply(f"{name}-{way}", trials=trials, algorithm=algorithm, parallelism=1)
            for way, trials in (("parted", 6), ("whole", 12))
        ]
        for name, algorithm in GENERATIONAL.items()
    }
    for parted, _ in wanted.values():
        crowd.end_of(parted)
        crowd.edit(parted, limits={"maxTrials": 12})
    for parted, whole in wanted.values():
        crowd.wait_for(parted, "its second end", lambda seen: has_ended(seen) and seen["status"]["trials"]["created"] == 12)
        crowd.end_of(whole)
        found, expected = ([each["spec"] for each in crowd.trials(of)] for of in (parted, whole))
        for field in ("parameters", "memo"):
            assert [each[field] for each in found] == [each[field] for each in expected]
        assert len({str(each["parameters"]) for each in found}) == 12


def test_a_Study_ends_at_a_nearer_deadline_and_goes_on_with_a_later_one(crowd: Crowd) -> None:
    wanted = crowd.apply("timely", parallelism=1, limits={"deadlineSeconds": LONG}, says={of_trial(DELAY, 1): NEVER})
    crowd.wait_for_trial(wanted, 1, "a pod that runs", lambda _: any(map(runs, crowd.pods(wanted, 1))))
    crowd.edit(wanted, limits={"deadlineSeconds": 1})
    ended = crowd.end_of(wanted)
    assert status_of(ended, "Succeeded") == ("True", "DeadlineReached")
    assert message_of(ended, "Succeeded") == "limits.deadlineSeconds (1) have passed."
    assert [reason(each) for each in crowd.trials(wanted)] == ["Completed", "Canceled"]
    crowd.edit(wanted, limits={"deadlineSeconds": LONG, "maxTrials": 3})
    ended = crowd.wait_for(wanted, "another end", lambda seen: reason(seen) == "MaxTrialsReached")
    assert [reason(each) for each in crowd.trials(wanted)] == ["Completed", "Canceled", "Completed"]


def test_a_Study_that_has_spent_its_GPU_seconds_goes_on_with_more(crowd: Crowd) -> None:
    wanted = crowd.apply("rich", limits={"gpuSeconds": LONG, "maxTrials": 2}, template=gpu_template(**{DELAY: "2s"}))
    spent = crowd.end_of(wanted)["status"]["gpuSeconds"]
    assert spent == sum(each["status"]["gpuSeconds"] for each in crowd.trials(wanted)) > 0
    crowd.edit(wanted, limits={"gpuSeconds": spent, "maxTrials": 3})
    ended = crowd.wait_for(wanted, "the end of its budget", lambda seen: reason(seen) == "GPUBudgetSpent")
    assert ended["status"]["trials"]["created"] == 2
    crowd.edit(wanted, limits={"gpuSeconds": LONG})
    ended = crowd.wait_for(wanted, "another end", lambda seen: reason(seen) == "MaxTrialsReached")
    assert ended["status"]["trials"]["completed"] == 3


def test_a_Study_that_has_failed_stays_so_whatever_is_allowed_later(crowd: Crowd) -> None:
    wanted = crowd.apply("failed", parallelism=1, says={EXIT_CODE: "3"}, limits={"maxTrials": 5, "maxFailedTrials": 0})
    other = crowd.apply("beside", trials=1)
    before = crowd.end_of(wanted)
    assert reason(before) == "TooManyFailures"
    crowd.edit(wanted, limits={"maxFailedTrials": 10})
    crowd.end_of(other)
    seen = crowd.wait_for(wanted, "the edit in its status", _is_up_to_date)
    assert reason(seen) == "TooManyFailures"
    assert len(crowd.trials(wanted)) == 1


def _is_up_to_date(study: Object) -> bool:
    return bool(study["status"].get("observedGeneration") == study["metadata"]["generation"])


# While it runs


def test_a_limit_is_lowered_beneath_what_was_already_started_and_what_runs_ends_well(crowd: Crowd) -> None:
    wanted = crowd.apply("fewer", trials=10, parallelism=3, says={DELAY: "2s"})
    crowd.wait_for_trials(wanted, "three Trials", lambda found: len(found) == 3)
    crowd.edit(wanted, limits={"maxTrials": 1})
    ended = crowd.end_of(wanted)
    assert message_of(ended, "Succeeded") == "limits.maxTrials (1) is reached."
    assert [reason(each) for each in crowd.trials(wanted)] == ["Completed"] * 3


def test_a_timeout_that_is_set_later_counts_from_the_start_of_each_Trial(crowd: Crowd) -> None:
    wanted = crowd.apply("timed", trials=2, says={of_trial(DELAY, 0): NEVER})
    crowd.wait_for_running(wanted, 0)
    crowd.edit(wanted, limits={"trialTimeoutSeconds": 1})
    crowd.wait_for_trial(wanted, 0, "its end", has_ended)
    ended = crowd.end_of(wanted)
    assert reason(crowd.trials(wanted)[0]) == "TimedOut"
    assert ended["status"]["trials"]["failed"] >= 1


def test_fewer_failures_may_be_allowed_at_any_time(crowd: Crowd) -> None:
    wanted = crowd.apply("strict", parallelism=1, says={EXIT_CODE: "3", of_trial(DELAY, 2): NEVER}, limits={"maxTrials": 9})
    crowd.wait_for_trials(wanted, "two failures", lambda found: [*map(reason, found)][:2] == ["ProgramFailed"] * 2)
    crowd.edit(wanted, limits={"maxFailedTrials": 1})
    ended = crowd.end_of(wanted)
    assert reason(ended) == "TooManyFailures"
    assert [reason(each) for each in crowd.trials(wanted)][:2] == ["ProgramFailed"] * 2


def test_retries_may_be_forbidden_at_any_time(crowd: Crowd) -> None:
    wanted = crowd.apply("fragile", trials=1, parallelism=1, says={DELAY: NEVER}, limits={"maxTrials": 1})
    crowd.wait_for_running(wanted, 0)
    crowd.edit(wanted, limits={"maxRetries": 0})
    crowd.wait_for(wanted, "the edit in its status", _is_up_to_date)
    crowd.api.delete(*JOB, "fragile-0", wanted["metadata"]["namespace"])
    ended = crowd.end_of(wanted)
    assert reason(crowd.trials(wanted)[0]) == "RetriesExhausted"
    assert status_of(ended, "Succeeded") == ("False", "NoResult")


def test_the_clock_of_a_deadline_stands_still_while_a_Study_is_suspended(crowd: Crowd) -> None:
    wanted = crowd.apply("asleep", suspend=True, trials=1, limits={"maxTrials": 1, "deadlineSeconds": 3600})
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "Suspended")
    other = crowd.apply("awake", trials=3, parallelism=1, says={DELAY: "1s"})
    crowd.end_of(other)
    crowd.edit(wanted, suspend=False)
    ended = crowd.end_of(wanted)
    assert reason(ended) == "MaxTrialsReached"
    assert ended["status"]["startTime"] > found["status"]["startTime"]


def test_an_edit_that_changes_nothing_is_taken_note_of(crowd: Crowd) -> None:
    wanted = crowd.apply("noted", parallelism=0)
    wait_for_condition(crowd.plane, wanted, "Progressing", "TrialsPending")
    edited = crowd.edit(wanted, workloadTTLSeconds=17)
    found = wait_until(
        "the edit in its status", lambda: now if _is_up_to_date(now := crowd.now(wanted)) else None, seconds=PATIENCE
    )
    assert (
        found["status"]["observedGeneration"] == edited["metadata"]["generation"] > wanted.get("metadata", {}).get("generation", 0)
    )


def test_edits_at_any_moment_do_no_harm(crowd: Crowd) -> None:
    wanted = crowd.apply("restless", trials=40, parallelism=8)
    for edits in range(60):
        crowd.edit(wanted, workloadTTLSeconds=3600 + edits)
    crowd.end_of(wanted)
    found = crowd.wait_for(wanted, "the last edit in its status", _is_up_to_date)
    assert reason(found) == "MaxTrialsReached"
    assert [reason(each) for each in crowd.trials(wanted)] == ["Completed"] * 40
    assert [each["status"]["attempts"] for each in crowd.trials(wanted)] == [1] * 40
