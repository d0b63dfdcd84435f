"""What an undisturbed Study costs the API server: counted in its audit log, not in the operator's own books."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import pytest
from hpo_operator.cluster.rendering import STUDY_UID_LABEL

from tests.control_plane.building import end_of, no_workloads, study, trials, wait_for_study
from tests.control_plane.conftest import Operators
from tests.control_plane.operator_process import USER
from tests.testbed import ControlPlane, Request
from tests.testbed.simulation import DELAY

pytestmark = pytest.mark.control_plane

TRIALS, AT_ONCE = 20, 10


@dataclass(frozen=True)
class Undisturbed:
    """A Study that has run to its end, and what the operator has asked for meanwhile, in order."""

    requests: list[Request]

    def count(self, verb: str, resource: str, subresource: str = "") -> int:
        return sum((each.verb, each.resource, each.subresource) == (verb, resource, subresource) for each in self.requests)

    def status_writes(self, resource: str) -> list[Request]:
        return [each for each in self.requests if (each.resource, each.subresource, each.verb) == (resource, "status", "patch")]


_ran: list[Undisturbed] = []


@pytest.fixture
def undisturbed(studies: ControlPlane, namespace: str, operators: Operators) -> Undisturbed:
    """A Study of Trials long enough to be seen running, whose workloads are removed as soon as they have ended; run once."""
    if not _ran:
        wanted = study("counted", namespace, trials=TRIALS, parallelism=AT_ONCE, workloadTTLSeconds=0, says={DELAY: "3s"})
        with operators(namespace) as operator:
            studies.apply([wanted])
            end_of(studies, wanted)
            no_workloads(studies, namespace)
            operator.stop()
        _ran.append(Undisturbed(logged(studies, namespace)))
    return _ran[0]


def logged(plane: ControlPlane, namespace: str) -> list[Request]:
    """What an operator that has ended asked for: an API server answers no request before it stands in the log."""
    return [each for each in plane.requests() if each.user == USER and each.namespace == namespace]


def test_an_undisturbed_Trial_costs_two_creations_at_most_two_status_writes_and_one_removal(undisturbed: Undisturbed) -> None:
    dry_run = 1  # of the first workload, before the Study is accepted
    assert undisturbed.count("create", "trials") == TRIALS
    assert undisturbed.count("create", "jobs") == TRIALS + dry_run
    assert undisturbed.count("delete", "jobs") == TRIALS
    writes = Counter(each.name for each in undisturbed.status_writes("trials"))
    assert writes.keys() == {f"counted-{number}" for number in range(TRIALS)}
    assert max(writes.values()) == 2  # that it runs, and its result; one that ends at once has the latter only


def test_no_request_of_an_undisturbed_Study_is_refused(undisturbed: Undisturbed) -> None:
    assert [each for each in undisturbed.requests if each.code >= 400] == []


def test_nothing_is_read_that_the_watches_tell(undisturbed: Undisturbed) -> None:
    first = next(place for place, each in enumerate(undisturbed.requests) if each.verb == "create" and each.resource == "trials")
    assert undisturbed.count("get", "trials") + undisturbed.count("get", "jobs") + undisturbed.count("get", "pods") == 0
    assert [each for each in undisturbed.requests[first:] if each.verb in ("get", "list")] == []


def test_of_workloads_and_pods_the_operator_hears_of_its_own_only(undisturbed: Undisturbed) -> None:
    others = [each for each in undisturbed.requests if each.verb in ("list", "watch") and each.resource in ("jobs", "pods")]
    assert {each.verb for each in others} == {"list", "watch"}
    assert {each.selector.partition("=")[0] for each in others} == {STUDY_UID_LABEL}


def test_the_first_Trials_all_stand_before_the_first_workload(undisturbed: Undisturbed) -> None:
    """Only eight were once, and the other places waited until the API server was done with the pods of these."""
    created = [each.resource for each in undisturbed.requests if each.verb == "create" and each.resource in ("trials", "jobs")]
    assert created[: AT_ONCE + 2] == ["jobs", *["trials"] * AT_ONCE, "jobs"]  # the first is the dry run


def test_the_status_of_a_Study_is_written_at_most_once_a_second(undisturbed: Undisturbed) -> None:
    """The last write does not wait: it tells the end."""
    writes = undisturbed.status_writes("studies")
    times = [datetime.fromisoformat(each.time) for each in writes]
    assert all((later - earlier).total_seconds() >= 1 for earlier, later in pairwise(times[:-1]))
    assert len(writes) <= (times[-1] - times[0]).total_seconds() + 2


def test_a_Study_that_waits_costs_nothing(studies: ControlPlane, namespace: str, operators: Operators) -> None:
    """Events of others wake the operator: it looks, and writes nothing."""
    waiting = study("waiting", namespace, suspend=True)
    busy = study("busy", namespace, trials=3)
    with operators(namespace) as operator:
        studies.apply([waiting])
        wait_for_study(studies, waiting, "its suspension", lambda seen: seen.get("status", {}).get("conditions"))
        studies.apply([busy])
        end_of(studies, busy)
        operator.stop()

    requests = logged(studies, namespace)
    assert len([each for each in requests if each.is_write and each.name == "waiting"]) <= 2  # accepted, suspended
    assert trials(studies, waiting) == []
