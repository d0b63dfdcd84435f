"""What goes wrong between the operator and the API server, and that a Study ends all the same as if nothing had."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hpo_operator.cluster.client import REQUEST_SECONDS

from tests.control_plane.building import (
    PATIENCE,
    VERSION,
    Result,
    end_of,
    has_ended,
    number,
    reason,
    study,
    trials,
    wait_for_condition,
    wait_for_trials,
)
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.conftest import Lives, Operators
from tests.control_plane.operator_process import USER, write_settings
from tests.control_plane.proxy import Call, Fault, Proxy, Where, any_call, creates, cut, delay, refuse, watches, writes
from tests.testbed import ApiError, ControlPlane, Object, wait_until
from tests.testbed.simulation import DELAY, NEVER, of_trial

pytestmark = pytest.mark.control_plane

WATCHED = {"studies", "trials", "jobs", "pods"}


# Requests


def first_of_each_sort(where: Where) -> Where:
    """The first creation of a Trial, the first one of a workload, the first result of a Trial, and so on."""
    seen = set[object]()

    def chosen(call: Call) -> bool:
        if not where(call):
            return False
        sort = (call.method, call.resource, call.subresource, call.subresource == "status" and has_ended(call.object))
        known = sort in seen
        seen.add(sort)
        return not known

    return chosen


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(refuse(500), id="answered 500"),
        pytest.param(refuse(500, executed=True), id="carried out and answered 500"),
        pytest.param(refuse(429, retry_after=1), id="answered 429"),
        pytest.param(refuse(403, reason="Forbidden"), id="answered 403"),
        pytest.param(cut(), id="cut off"),
        pytest.param(cut(executed=True), id="carried out and cut off"),
    ],
)
def test_a_Study_ends_the_same_when_each_sort_of_write_fails_the_first_time(
    fault: Fault, lives: Lives, undisturbed: Result
) -> None:
    life = lives()
    life.proxy.fault(fault, where=first_of_each_sort(writes))
    life.begin()
    assert life.flaws(undisturbed) == []


def test_a_Study_ends_the_same_when_each_sort_of_write_meets_a_conflict_the_first_time(lives: Lives, undisturbed: Result) -> None:
    """A removal names the uid of what it removes, and can meet nothing else."""
    life = lives()
    first = first_of_each_sort(lambda call: writes(call) and call.method != "DELETE")
    life.proxy.fault(refuse(409, reason="Conflict"), where=first)
    life.begin()
    assert life.flaws(undisturbed) == []


def test_a_Study_ends_the_same_when_every_answer_is_slow(lives: Lives, undisturbed: Result) -> None:
    life = lives()
    life.proxy.fault(delay(0.1), where=any_call)
    life.begin()
    assert life.flaws(undisturbed) == []


@pytest.mark.parametrize("resource", ["trials", "jobs"])
def test_nothing_is_created_before_the_time_that_the_API_server_asks_to_wait(
    resource: str, lives: Lives, undisturbed: Result
) -> None:
    life = lives()
    life.proxy.fault(refuse(429, retry_after=3, reason="TooManyRequests"), where=creates(resource), skip=1, times=1)
    life.begin()
    assert life.flaws(undisturbed) == []
    (refused,) = (call for call in life.proxy.calls if call.status == 429)
    made = [call for call in life.proxy.calls if creates(resource)(call)]  # what is under way beside it may still be asked
    later = [call for call in made if call.asked > refused.answered]
    assert later
    assert [str(call) for call in later if call.asked < refused.answered + 3] == []


def test_no_watch_is_opened_before_the_time_that_the_API_server_asks_to_wait(lives: Lives, undisturbed: Result) -> None:
    life = lives()
    life.proxy.fault(refuse(429, retry_after=2, reason="TooManyRequests"), where=watches("jobs"), times=1)
    life.begin()
    wait_until("another watch", lambda: life.proxy.count(watches("jobs")) > 1, seconds=PATIENCE)
    assert life.flaws(undisturbed) == []
    refused, again = [call for call in life.proxy.calls if watches("jobs")(call)][:2]
    assert refused.status == 429
    assert again.asked >= refused.answered + 2


# Watches


@pytest.mark.parametrize(
    "end", [pytest.param(Proxy.cut_watches, id="cut off"), pytest.param(Proxy.expire_watches, id="410 Expired")]
)
def test_a_Study_ends_the_same_when_its_watches_end_again_and_again(
    end: Callable[[Proxy], int], lives: Lives, undisturbed: Result
) -> None:
    life = lives()
    life.begin()
    ended = 0
    while not life.is_over():
        wait_until("watches, or the end", lambda: life.proxy.watching == WATCHED or life.is_over(), seconds=PATIENCE)
        ended += end(life.proxy)
    assert ended >= len(WATCHED)
    assert life.flaws(undisturbed) == []


def is_deletion(type_: str, obj: Object) -> bool:
    return type_ == "DELETED"


@pytest.fixture
def comparing(tmp_path: Path) -> list[str]:
    """Arguments of an operator that looks every second for what its watches have missed."""
    return ["--config", str(write_settings(tmp_path / "settings.yaml", resyncSeconds=1))]


def test_a_workload_whose_deletion_was_not_heard_of_is_started_again(
    studies: ControlPlane, namespace: str, operators: Operators, proxy: Proxy, comparing: list[str]
) -> None:
    wanted = study("unheard", namespace, says={DELAY: NEVER})
    proxy.lose(is_deletion)
    with operators(namespace, *comparing, through=proxy):
        studies.apply([wanted])
        wait_for_trials(studies, wanted, "two Trials that run", lambda seen: [*map(runs, seen)] == [True, True])
        before = studies.api.get("batch/v1", "Job", "unheard-0", namespace)
        studies.api.delete("batch/v1", "Job", "unheard-0", namespace)

        def started_again() -> bool:
            job = studies.api.find("batch/v1", "Job", "unheard-0", namespace)
            return job is not None and job["metadata"]["uid"] != before["metadata"]["uid"]

        wait_until("another Job", started_again, seconds=PATIENCE)


def test_a_Trial_whose_deletion_was_not_heard_of_is_replaced_by_another(
    studies: ControlPlane, namespace: str, operators: Operators, proxy: Proxy, comparing: list[str]
) -> None:
    wanted = study("unheard", namespace, says={of_trial(DELAY, 0): NEVER})
    proxy.lose(is_deletion)
    with operators(namespace, *comparing, through=proxy):
        studies.apply([wanted])
        wait_for_trials(studies, wanted, "a Trial that runs", lambda seen: seen and runs(seen[0]))
        studies.api.delete(VERSION, "Trial", "unheard-0", namespace)
        ended = end_of(studies, wanted)
    assert reason(ended) == "MaxTrialsReached"
    assert 0 not in map(number, trials(studies, wanted))


def test_nothing_is_made_for_a_Study_whose_deletion_was_not_heard_of(
    studies: ControlPlane, namespace: str, operators: Operators, proxy: Proxy, comparing: list[str]
) -> None:
    wanted = study("unheard", namespace, trials=1000)
    proxy.lose(is_deletion)
    with operators(namespace, *comparing, through=proxy):
        studies.apply([wanted])
        wait_for_trials(studies, wanted, "a result", lambda seen: any(map(has_ended, seen)))
        studies.api.delete(VERSION, "Study", "unheard", namespace)

        def lists(call: Call) -> bool:
            return call.is_list and call.resource == "studies"

        compared = proxy.count(lists)
        wait_until("a comparison", lambda: proxy.count(lists) >= compared + 2, seconds=PATIENCE)
        made = proxy.count(creates("trials"))
        compared = proxy.count(lists)
        wait_until("another comparison", lambda: proxy.count(lists) >= compared + 2, seconds=PATIENCE)
        assert proxy.count(creates("trials")) == made
        wait_until("the end of its Trials", lambda: not trials(studies, wanted), seconds=PATIENCE)


def runs(trial: Object) -> bool:
    return reason(trial, "Running") == "PodsActive"


# The API server itself


def test_a_Study_goes_on_after_a_crash_of_the_API_server(
    studies: ControlPlane, namespace: str, operators: Operators, chronicle: Chronicle
) -> None:
    wanted = study("crashed", namespace, trials=8)
    with operators(namespace) as operator:
        studies.apply([wanted])
        for ended in (2, 5):
            wait_for_trials(studies, wanted, "results", lambda seen, ended=ended: sum(map(has_ended, seen)) >= ended)
            studies.restart("kube-apiserver")
        assert reason(end_of(studies, wanted)) == "MaxTrialsReached"
        assert "Traceback" not in operator.said()
    assert [reason(trial) for trial in trials(studies, wanted)] == ["Completed"] * 8
    chronicle.catch_up()
    assert chronicle.created("Trial") == chronicle.created("Job") == dict.fromkeys(range(8), 1)


@pytest.fixture
def stopped_etcd(studies: ControlPlane) -> Iterator[Callable[[float], None]]:
    """Stops etcd for so many seconds: requests wait inside the API server, which carries them out when etcd goes on."""
    etcd = psutil.Process(studies.component("etcd").pid)

    def stop(seconds: float) -> None:
        etcd.suspend()
        time.sleep(seconds)
        etcd.resume()

    yield stop
    etcd.resume()
    studies.wait_until_ready()


def test_a_Study_ends_the_same_when_etcd_halts_again_and_again(
    lives: Lives, undisturbed: Result, stopped_etcd: Callable[[float], None]
) -> None:
    life, halts = lives(), 0
    life.begin()
    while not life.is_over():
        stopped_etcd((0.3, 1.0, 3.0)[halts % 3])
        halts += 1
        time.sleep(0.2)
    assert halts >= 3
    assert life.flaws(undisturbed) == []


def test_a_Study_ends_the_same_when_writes_are_carried_out_after_the_operator_has_given_them_up(
    lives: Lives, undisturbed: Result, stopped_etcd: Callable[[float], None]
) -> None:
    life = lives()
    life.begin()
    wait_until("a workload", lambda: life.proxy.count(creates("jobs")), seconds=PATIENCE, every=0.01)
    stopped_etcd(REQUEST_SECONDS + 4)
    assert life.flaws(undisturbed) == []
    assert [call for call in life.proxy.calls if writes(call) and call.executed and not call.status]


def test_an_operator_that_starts_before_the_API_server_answers_waits_for_it(
    studies: ControlPlane, namespace: str, operators: Operators, proxy: Proxy
) -> None:
    wanted = study("early", namespace)
    studies.apply([wanted])
    proxy.fault(refuse(503, reason="ServiceUnavailable"), where=lambda call: True, times=6)
    with operators(namespace, through=proxy) as operator:
        end_of(studies, wanted)
        operator.require_running()


# The algorithm


def test_a_Study_whose_algorithm_cannot_even_be_started_says_so_and_goes_on_when_it_can(
    studies: ControlPlane, namespace: str, operators: Operators
) -> None:
    wanted = study("dumb", namespace)
    studies.apply([wanted])
    with operators(namespace, environment={"PYTHONHOME": "/nowhere"}) as operator:  # in which no other Python starts
        found = wait_for_condition(studies, wanted, "Progressing", "AlgorithmError")
        (said,) = (each for each in found["status"]["conditions"] if each["type"] == "Progressing")
        assert said["status"] == "False"
        assert "the fallback failed" in said["message"]
        assert trials(studies, wanted) == []
        operator.kill()
    with operators(namespace):
        assert reason(end_of(studies, wanted)) == "MaxTrialsReached"


# Refusals


def quota(namespace: str, jobs: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few-jobs", "namespace": namespace},
        "spec": {"hard": {"count/jobs.batch": str(jobs)}},
    }


def enforced(plane: ControlPlane, wanted: Object) -> None:
    """Applies a quota and waits until it is in force."""
    plane.apply([wanted])
    namespace = wanted["metadata"]["namespace"]
    plane.wait_for(
        "the quota",
        "v1",
        "ResourceQuota",
        "few-jobs",
        lambda seen: seen.get("status", {}).get("hard") == wanted["spec"]["hard"],
        namespace=namespace,
    )


def test_a_Study_whose_workloads_are_refused_says_so_tries_ever_more_rarely_and_holds_up_no_other(
    studies: ControlPlane, namespaces: Callable[[], str], operators: Operators
) -> None:
    refused, other = study("refused", namespaces()), study("other", namespaces(), trials=12)
    inside = refused["metadata"]["namespace"]
    enforced(studies, quota(inside, 1))  # enough for the dry run of the first workload, and for that
    with operators(inside, "--namespace", other["metadata"]["namespace"]):
        studies.apply([refused])
        wait_for_condition(studies, refused, "Progressing", "CreationRefused")
        studies.apply([other])
        end_of(studies, other)
        assert reason(studies.api.get(VERSION, "Study", "refused", inside), "Progressing") == "CreationRefused"
        attempts = sum(
            (each.user, each.namespace, each.verb, each.resource, each.code) == (USER, inside, "create", "jobs", 403)
            for each in studies.requests()
        )
        assert attempts <= 16  # in ten seconds they are six, in ten minutes 16
        enforced(studies, quota(inside, 100))
        assert reason(end_of(studies, refused)) == "MaxTrialsReached"


def test_a_Study_that_is_applied_while_a_quota_is_used_up_starts_when_there_is_room(
    studies: ControlPlane, namespace: str, operators: Operators
) -> None:
    wanted = study("early", namespace)
    enforced(studies, quota(namespace, 0))
    with operators(namespace):
        studies.apply([wanted])
        wait_for_condition(studies, wanted, "Progressing", "CreationRefused")
        enforced(studies, quota(namespace, 100))
        assert reason(end_of(studies, wanted)) == "MaxTrialsReached"


def test_a_Study_whose_workloads_a_policy_refuses_holds_up_no_other(
    studies: ControlPlane, namespaces: Callable[[], str], operators: Operators
) -> None:
    refused, other = study("refused", namespaces()), study("other", namespaces())
    inside = refused["metadata"]["namespace"]
    rule: dict[str, Any] = {
        "resourceRules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": inside}},
    }
    name = f"none-in-{inside}"
    policy = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    validations = [{"expression": "request.dryRun || !object.metadata.name.endsWith('-1')", "message": "no number one here"}]
    studies.apply(
        [
            {
                **policy,
                "kind": "ValidatingAdmissionPolicy",
                "spec": {"matchConstraints": rule, "validations": validations, "failurePolicy": "Fail"},
            },
            {
                **policy,
                "kind": "ValidatingAdmissionPolicyBinding",
                "spec": {"policyName": name, "validationActions": ["Deny"]},
            },
        ]
    )
    probe = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "probe-1", "namespace": inside}}
    pod = {"containers": [{"name": "main", "image": "none"}], "restartPolicy": "Never"}

    def in_force() -> bool:
        try:
            made = studies.api.create({**probe, "spec": {"template": {"spec": pod}}})
        except ApiError as error:
            return "no number one here" in error.message
        studies.api.delete("batch/v1", "Job", made["metadata"]["name"], inside)
        return False

    wait_until("the policy", in_force)
    with operators(inside, "--namespace", other["metadata"]["namespace"]):
        studies.apply([refused, other])
        end_of(studies, other)
        ended = end_of(studies, refused)
    # 422: the object itself is refused, so that its Trial has failed, and the next one has its turn.
    assert {number(each): reason(each) for each in trials(studies, ended)}[1] == "WorkloadRejected"
