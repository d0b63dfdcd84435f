"""What a Study says of its source of metrics, and of Trials whose results or curves come from there: a real Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.control_plane.building import PATIENCE, wait_for_condition
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.crowd import JOB, Crowd, message_of, runs, status_of
from tests.control_plane.scraping import ADDRESS, Bed, Scraped
from tests.testbed import ControlPlane, Object, fixtures, wait_until
from tests.testbed.simulation import DELAY, MESSAGE, NEVER

pytestmark = pytest.mark.control_plane

EACH_SECOND = {"intervalSeconds": 1}
FOR_EVER = {DELAY: NEVER}


@pytest.fixture(scope="module")
def source(bed: fixtures.Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    bed(ControlPlane, ControlPlane)
    running = Bed(tmp_path_factory.mktemp("prometheus"))
    yield running
    running.kill_programs()
    running.server.kill()


@pytest.fixture(scope="module")
def operated(bed: fixtures.Bed, source: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    plane, arguments = bed(ControlPlane, ControlPlane), ("--prometheus-url", f"http://{ADDRESS}")
    with Crowd(plane, "sources", tmp_path_factory.mktemp("operator"), *arguments) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def unscraped(operated: Crowd) -> Object:
    """A Study that is there from the first test on, of whose pod Prometheus hears nothing."""
    return measured(operated, "unscraped", trials=1, parallelism=1)


@pytest.fixture
def crowd(operated: Crowd, source: Bed) -> Iterator[Crowd]:
    source.start()
    with operated.watched():
        yield operated


def measured(crowd: Crowd, name: str, **spec: Any) -> Object:
    """A Study, as it stands on the API server, whose Trials are measured each second."""
    wanted = crowd.apply(name, **{"metrics": EACH_SECOND, "says": FOR_EVER, **spec})
    return crowd.now(wanted)


def program_of(crowd: Crowd, source: Bed, of: Object, number: int) -> Scraped:
    """A program with the labels of a Trial's pod, which KWOK only pretends to run."""
    (pod,) = crowd.wait_for_pods(of, number, "a pod that runs", lambda found: any(map(runs, found)))
    name, namespace, uid = pod["metadata"]["name"], of["metadata"]["namespace"], of["metadata"]["uid"]
    return source.program(number=number, pod=name, uid=uid, namespace=namespace)


def test_a_Study_of_which_nothing_was_measured_yet_says_so(crowd: Crowd) -> None:
    found = wait_for_condition(crowd.plane, measured(crowd, "quiet", suspend=True), "MetricsAvailable", "NotNeeded")
    assert status_of(found, "MetricsAvailable") == ("Unknown", "NotNeeded")


def test_a_Trial_whose_curve_is_hopeless_is_stopped_early_and_its_pods_go(crowd: Crowd, source: Bed) -> None:
    wanted = measured(crowd, "hopeless", trials=2, schedule={"threshold": {"above": 10}})
    for number, loss in ((0, 0.5), (1, 100.0)):
        program_of(crowd, source, wanted, number).report(1, loss=loss)
    stopped = crowd.wait_for_trial(wanted, 1, "its end", lambda seen: status_of(seen, "Succeeded") == ("True", "EarlyStopped"))
    assert stopped["status"]["stop"] == {"rule": "threshold", "step": 1}
    assert stopped["status"]["observation"]["source"] == "Prometheus"
    wait_until("the end of its pods", lambda: not crowd.pods(wanted, 1), seconds=PATIENCE)
    found = wait_for_condition(crowd.plane, wanted, "MetricsAvailable", "SourceAnswers")
    assert status_of(found, "MetricsAvailable") == ("True", "SourceAnswers")
    assert found["status"]["trials"]["earlyStopped"] == 1
    assert [number for number in (0, 1) if crowd.pods(wanted, number)] == [0]


def test_a_Study_says_that_its_source_is_away_then_that_it_refuses_then_that_it_answers_again(crowd: Crowd, source: Bed) -> None:
    wanted = measured(crowd, "measured", trials=1, parallelism=1)
    program_of(crowd, source, wanted, 0).report(1, loss=0.5)
    wait_for_condition(crowd.plane, wanted, "MetricsAvailable", "SourceAnswers")
    source.server.kill()
    found = wait_for_condition(crowd.plane, wanted, "MetricsAvailable", "SourceUnreachable")
    assert status_of(found, "MetricsAvailable") == ("False", "SourceUnreachable")
    assert ADDRESS in message_of(found, "MetricsAvailable")
    source.start("--query.max-samples=1")
    found = wait_for_condition(crowd.plane, wanted, "MetricsAvailable", "SourceRefuses")
    assert status_of(found, "MetricsAvailable") == ("False", "SourceRefuses")
    assert "too many samples" in message_of(found, "MetricsAvailable")
    source.server.kill()
    source.start()
    found = wait_for_condition(crowd.plane, wanted, "MetricsAvailable", "SourceAnswers")
    assert status_of(found, "MetricsAvailable") == ("True", "SourceAnswers")
    assert status_of(found, "Progressing") == ("True", "TrialsActive")  # all the while
    line = f"INFO SourceAnswers study={wanted['metadata']['namespace']}/measured\n"  # of which there is no more to say
    wait_until("a line that says so", lambda: line in crowd.operator.said(), seconds=PATIENCE)


def test_a_result_that_is_awaited_for_long_is_shown_so_and_lost_with_its_workload(crowd: Crowd, source: Bed) -> None:
    source.server.kill()
    namespace = crowd.namespace()
    with Chronicle(crowd.plane, namespace) as chronicle:
        says = {MESSAGE: "all is well"}  # which is no report
        wanted = crowd.apply("awaited", namespace, trials=1, parallelism=1, metrics={"intervalSeconds": 30}, says=says)
        shown = crowd.wait_for_trial(
            wanted, 0, "that it is awaited", lambda seen: status_of(seen, "Succeeded") == ("Unknown", "AwaitingResult")
        )
        assert status_of(shown, "Running") == ("False", "Finished")
        crowd.api.delete(*JOB, "awaited-0", namespace)
        crowd.wait_for_trial(wanted, 0, "another attempt", lambda seen: seen["status"]["attempts"] == 2)
        chronicle.catch_up()
        assert ("False", "ResultLost") in {status_of(each.object, "Running") for each in chronicle.events("Trial")}


# Last, since it is said only after two minutes


def test_a_Study_whose_pods_have_long_run_and_are_not_scraped_says_so(crowd: Crowd, unscraped: Object) -> None:
    found = wait_for_condition(crowd.plane, unscraped, "MetricsAvailable", "NoSamples")
    assert status_of(found, "MetricsAvailable") == ("False", "NoSamples")
    assert "study_uid" in message_of(found, "MetricsAvailable")
