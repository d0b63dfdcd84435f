"""Killing the operator at any instant loses nothing and repeats nothing.

What "nothing" means is said in `Life.flaws`.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from tests.control_plane.building import (
    PATIENCE,
    POPULATION,
    VERSION,
    Result,
    claim,
    end_of,
    has_ended,
    reason,
    study,
    trials,
    wait_for_trials,
)
from tests.control_plane.conftest import Lives, Operators
from tests.control_plane.life import TRIALS, Life
from tests.control_plane.proxy import Call, Hold, Kill, Where, creates, writes
from tests.testbed import ControlPlane, Object, ProcessDied, wait_until
from tests.testbed.simulation import DELAY, MESSAGE, NEVER, SAVED, of_trial

pytestmark = pytest.mark.control_plane

WRITES = {("POST", "trials"), ("POST", "jobs"), ("PATCH", "trials"), ("PATCH", "studies"), ("DELETE", "jobs")}


def test_an_operator_killed_before_and_after_each_of_its_writes_carries_the_Study_to_the_same_end(
    lives: Lives, undisturbed: Result
) -> None:
    life, kills = lives(), list[Kill]()
    life.begin()
    life.operator.kill()
    for executed in itertools.cycle((False, True)):
        kill = life.kill_at(writes, executed=executed)
        life.operator.start()
        wait_until("a write, or the end", lambda kill=kill: kill.done.is_set() or life.is_over(), seconds=PATIENCE, every=0.1)
        if kill.call is None:
            break
        kill.done.wait(PATIENCE)
        kills.append(kill)
    life.proxy.mend()
    assert life.flaws(undisturbed) == []
    assert {(kill.call.method, kill.call.resource) for kill in kills if kill.call} == WRITES


def status_of(resource: str) -> Where:
    return lambda call: call.is_write and call.resource == resource and call.subresource == "status"


def removals(call: Call) -> bool:
    return call.method == "DELETE"


def ends(resource: str) -> Where:
    """Status writes that say how it ended."""
    return lambda call: status_of(resource)(call) and has_ended(call.object)


INSTANTS: dict[str, tuple[Where, int]] = {
    "the acceptance of the Study": (status_of("studies"), 0),
    "the creation of the first Trial": (creates("trials"), 0),
    "the creation of the third Trial": (creates("trials"), 2),
    "the creation of a workload": (creates("jobs"), 1),
    "the result of a Trial": (ends("trials"), 0),
    "the removal of a workload": (removals, 0),
    "the result of the last Trial": (ends("trials"), TRIALS - 1),
    "the end of the Study": (ends("studies"), 0),
}
"""Which write, and how many of its sort come before it."""


def killed_once(executed: bool) -> Callable[[Life, Where, int], None]:
    """A life in which the operator is killed at one write, before or after it is executed, and started again."""

    def live(life: Life, where: Where, skip: int) -> None:
        kill = life.kill_at(where, skip=skip, executed=executed)
        life.begin()
        wait_until("the write", kill.done.is_set, seconds=PATIENCE)
        life.proxy.mend()
        life.operator.start()

    return live


def overtaken(life: Life, where: Where, skip: int) -> None:
    """A life in which the operator's last request is still on its way when the next operator makes the same one."""
    hold = Hold()
    life.proxy.fault(hold, where=where, skip=skip, times=1)
    life.proxy.fault(hold.overtake, where=lambda call: bool(hold.held) and where(call), times=1)
    life.begin()
    wait_until("the write", lambda: hold.held, seconds=PATIENCE)
    life.operator.kill()
    life.operator.start()
    wait_until("the same write again", lambda: hold.passed, seconds=PATIENCE)


@pytest.mark.parametrize(
    "live",
    [
        pytest.param(killed_once(executed=False), id="before it is executed"),
        pytest.param(killed_once(executed=True), id="before it is answered"),
        pytest.param(overtaken, id="while it is still on its way"),
    ],
)
def test_an_operator_killed_at_a_write_carries_the_Study_to_the_same_end(
    live: Callable[[Life, Where, int], None], lives: Lives, undisturbed: Result
) -> None:
    def flaws(life: Life, where: Where, skip: int) -> list[str]:
        live(life, where, skip)
        return life.flaws(undisturbed)

    made = {instant: lives() for instant in INSTANTS}
    with ThreadPoolExecutor(4) as pool:
        running = {instant: pool.submit(flaws, made[instant], *INSTANTS[instant]) for instant in INSTANTS}
        found = {instant: each.result() for instant, each in running.items()}
    assert found == {instant: [] for instant in INSTANTS}


def test_an_operator_killed_before_and_after_each_write_between_two_generations_carries_a_population_to_the_same_end(
    studies: ControlPlane, lives: Lives
) -> None:
    """From the result of the first generation's last member to the workload of the second one's."""

    def population() -> Life:
        life = lives(says={MESSAGE: SAVED}, **POPULATION)
        claim(studies, life.namespace)
        return life

    plain, life = population(), population()
    plain.begin()
    undisturbed = plain.finish()
    assert plain.flaws(undisturbed) == []
    assert [trial[-1] is None for trial in undisturbed.trials] == [True, True, False, False], "the second generation has donors"
    plain.operator.kill()

    kills = [life.kill_at(ends("trials"), skip=1, executed=False)]
    life.begin()
    for executed in itertools.cycle((True, False)):
        assert kills[-1].done.wait(PATIENCE)
        call = kills[-1].call
        if call and not executed and creates("jobs")(call) and call.object["metadata"]["name"] == "small-3":
            break
        kills.append(life.kill_at(writes, executed=executed))
        life.operator.start()
    life.proxy.mend()
    life.operator.start()
    assert life.flaws(undisturbed) == []
    killed = {(kill.call.method, kill.call.resource) for kill in kills if kill.call}
    assert killed >= {("PATCH", "trials"), ("POST", "trials"), ("POST", "jobs")}


EVENTFUL: dict[str, Any] = {
    "parallelism": 1,
    "limits": {"maxTrials": 2, "trialTimeoutSeconds": 20},
    "says": {of_trial(DELAY, 0): NEVER, of_trial(DELAY, 1): NEVER},
}
REPORT = '{"hpo":1,"step":1,"metrics":{"loss":["0.5","0.5","0.5"]}}'


def befall(plane: ControlPlane, life: Life) -> None:
    """What happens to an eventful life: its first Trial loses its workload, then the Study is suspended while that runs again, and
    goes on; the program ends; the second one runs out of time; and when the Study has ended it may have one Trial more.
    """
    api, namespace = plane.api, life.namespace

    def runs(attempt: int) -> Callable[[], bool]:
        return lambda: any(running(each) and each["status"]["attempts"] == attempt for each in trials(plane, life.study))

    def edit(**spec: Any) -> None:
        api.patch(VERSION, "Study", "small", {"spec": spec}, namespace)

    wait_until("a Trial that runs", runs(1), seconds=PATIENCE)
    api.delete("batch/v1", "Job", "small-0", namespace)
    wait_until("its second attempt", runs(2), seconds=PATIENCE)
    edit(suspend=True)
    wait_until("the end of its Job", lambda: api.find("batch/v1", "Job", "small-0", namespace) is None, seconds=PATIENCE)
    edit(suspend=False)
    wait_until("a Trial that runs again", runs(2), seconds=PATIENCE)
    end_program(plane, namespace, "small-0")
    end_of(plane, life.study)
    edit(limits={"maxTrials": 3})
    wait_until("the end of one Trial more", lambda: has_ended(life.now()) and len(trials(plane, life.study)) == 3, seconds=PATIENCE)


def end_program(plane: ControlPlane, namespace: str, job: str) -> None:
    """Has the program of a Job's pod report and end, as its node would tell."""
    (pod,) = (
        each
        for each in plane.api.objects("v1", "Pod", namespace, labelSelector=f"job-name={job}")
        if "deletionTimestamp" not in each["metadata"]
    )
    (container,) = pod["status"]["containerStatuses"]
    began = container["state"]["running"]["startedAt"]
    ended = {"exitCode": 0, "message": REPORT, "startedAt": began, "finishedAt": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    status = {"phase": "Succeeded", "containerStatuses": [{**container, "state": {"running": None, "terminated": ended}}]}
    plane.api.patch("v1", "Pod", pod["metadata"]["name"], {"status": status}, namespace, "status")


def test_an_operator_killed_before_and_after_each_write_of_an_eventful_life_carries_the_Study_to_the_same_end(
    studies: ControlPlane, lives: Lives
) -> None:
    """A workload lost, a suspension, a Trial out of time, a limit raised after the end; pods run long enough to be seen running."""
    plain, life, kills = lives(**EVENTFUL), lives(**EVENTFUL), list[Kill]()
    with ThreadPoolExecutor(2) as pool:
        plain.begin()
        undisturbed = pool.submit(befall, studies, plain)
        kills.append(life.kill_at(writes, executed=False))
        life.begin()
        over = pool.submit(befall, studies, life)
        for executed in itertools.cycle((True, False)):
            wait_until("a write, or the end", lambda: kills[-1].done.is_set() or over.done(), seconds=PATIENCE, every=0.1)
            if kills[-1].call is None:
                break
            kills[-1].done.wait(PATIENCE)
            kills.append(life.kill_at(writes, executed=executed))
            life.operator.start()
        life.proxy.mend()
        undisturbed.result()
        over.result()
    wanted, found = plain.finish(), life.finish()
    assert [trial[4] for trial in wanted.trials] == ["Completed", "TimedOut", "Completed"]
    assert found == wanted
    for kind, made in (("Trial", {0: 1, 1: 1, 2: 1}), ("Job", {0: 3, 1: 1, 2: 1})):
        assert plain.chronicle.created(kind) == life.chronicle.created(kind) == made
    assert plain.chronicle.most_running() == life.chronicle.most_running() == 1
    assert "Traceback" not in life.operator.said()
    told = {each["reason"] for kill in kills if kill.call and status_of("trials")(kill.call) for each in conditions(kill.call)}
    assert told >= {"PodsActive", "Preempted", "StudySuspended", "TimedOut", "Completed"}


def conditions(call: Call) -> list[Object]:
    found: list[Object] = call.object["status"].get("conditions", [])
    return found


def test_a_killed_operator_leaves_no_process_behind(studies: ControlPlane, namespace: str, operators: Operators) -> None:
    wanted = study("long", namespace, says={DELAY: NEVER})
    with operators(namespace) as operator:
        studies.apply([wanted])
        workers = wait_until("the worker of the Study", operator.workers, seconds=PATIENCE)
        wait_for_trials(studies, wanted, "a Trial", bool)
        operator.kill()
        wait_until("the end of its workers", lambda: not any(map(is_alive, workers)))


def test_an_operator_that_is_killed_while_its_algorithm_computes_leaves_no_process_behind(
    studies: ControlPlane, namespace: str, operators: Operators
) -> None:
    with operators(namespace) as operator:
        studies.apply([study("computing", namespace)])
        workers = wait_until("the worker of the Study", operator.workers, seconds=PATIENCE, every=0.01)
        operator.kill()
        wait_until("the end of its workers", lambda: not any(map(is_alive, workers)))


def test_an_operator_that_is_told_to_end_does_so_at_once_and_well(
    studies: ControlPlane, namespace: str, operators: Operators
) -> None:
    wanted = study("long", namespace, says={DELAY: NEVER})
    with operators(namespace, fresh=True) as operator:  # as `python -m hpo_operator`
        studies.apply([wanted])
        wait_for_trials(
            studies, wanted, "two Trials that run", lambda seen: sum(reason(each, "Running") == "PodsActive" for each in seen) == 2
        )
        workers = operator.workers()
        os.kill(operator.pid, signal.SIGTERM)
        wait_until("its end", lambda: not operator.running)
        with pytest.raises(ProcessDied) as ended:
            operator.require_running()
    assert ended.value.status == 0
    assert "Traceback" not in operator.said()
    wait_until("the end of its workers", lambda: not any(map(is_alive, workers)))


def running(trial: Object) -> bool:
    return reason(trial, "Running") == "PodsActive"


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that nobody has waited for yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
