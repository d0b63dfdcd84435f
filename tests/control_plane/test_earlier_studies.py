"""Studies that begin with what others in their namespace have found (warmStart.studies)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.control_plane.building import condition, wait_for_condition
from tests.control_plane.crowd import Crowd
from tests.testbed import ControlPlane, wait_until
from tests.testbed.fixtures import Bed

pytestmark = pytest.mark.control_plane


@pytest.fixture(scope="module")
def running(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    with Crowd(bed(ControlPlane, ControlPlane), "earlier", tmp_path_factory.mktemp("operator")) as crowd:
        yield crowd


@pytest.fixture
def crowd(running: Crowd) -> Iterator[Crowd]:
    with running.watched():
        yield running


def test_the_best_of_an_earlier_study_are_tried_first_and_the_study_goes_on_when_that_one_is_deleted(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    first = crowd.apply("first", namespace, trials=6)
    crowd.end_of(first)
    known = [(float(t["status"]["observation"]["metrics"][0]["value"]), t["spec"]["parameters"]) for t in crowd.trials(first)]
    best = [parameters for _, parameters in sorted(known, key=lambda each: each[0])]
    last = max(datetime.fromisoformat(trial["status"]["completionTime"]) for trial in crowd.trials(first))
    # Times of creation are whole seconds.
    wait_until("a later second", lambda: datetime.now(UTC) > last + timedelta(seconds=1.1), seconds=10)
    warm = {"warmStart": {"studies": [{"name": "first"}]}}
    second = crowd.apply("second", namespace, trials=12, algorithm={"gp": {}}, parallelism=1, **warm)
    crowd.wait_for_trials(second, "the first Trials", lambda found: len(found) >= 2)
    crowd.api.delete("hpo.dev/v1alpha1", "Study", "first", namespace=namespace)
    crowd.operator.kill()
    crowd.operator.start()
    crowd.end_of(second)
    found = crowd.trials(second)
    assert [trial["spec"]["parameters"] for trial in found[:2]] == best[:2]
    assert {trial["spec"]["origin"] for trial in found[:2]} == {"Given"}
    assert len(found) == 12
    assert "Fallback" not in {trial["spec"]["origin"] for trial in found}


def test_an_earlier_study_that_is_not_there_or_has_found_nothing_is_refused_with_the_remedy(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    missing = crowd.apply("missing", namespace, warmStart={"studies": [{"name": "nobody"}]})
    itself = crowd.apply("itself", namespace, warmStart={"studies": [{"name": "itself"}]})
    seen = condition(wait_for_condition(crowd.plane, missing, "Accepted", "WarmStartUnusable"), "Accepted")
    assert seen["status"] == "False"
    assert "spec.warmStart.studies[0].name: nobody: there is no such Study in this namespace. Create it first" in seen["message"]
    seen = condition(wait_for_condition(crowd.plane, itself, "Accepted", "WarmStartUnusable"), "Accepted")
    assert "no Trial of Study itself had ended with loss" in seen["message"]
    assert crowd.trials(missing) == crowd.trials(itself) == []
