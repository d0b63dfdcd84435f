"""Two operators at once do no harm: a rolling update may overlap, and a node that is cut off goes on for a while."""

import pytest

from tests.control_plane.building import end_of, reason, study, trials
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.conftest import Operators
from tests.control_plane.proxy import Proxy, delay
from tests.testbed import ControlPlane, Object

pytestmark = pytest.mark.control_plane

TRIALS = 20
PARALLELISM = 4


@pytest.mark.parametrize("ttl", [pytest.param(0, id="removed at once"), pytest.param(3600, id="kept")])
@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param({"random": {}}, id="who propose the same"),
        pytest.param({"tpe": {"startupTrials": 2}}, id="who propose by what each has seen"),
    ],
)
def test_two_operators_make_each_Trial_and_its_workload_once(
    algorithm: Object, ttl: int, studies: ControlPlane, namespace: str, operators: Operators, chronicle: Chronicle, proxy: Proxy
) -> None:
    """One of them is a little behind, so that each is overtaken by the other in all that it does."""
    wanted = study("shared", namespace, trials=TRIALS, parallelism=PARALLELISM, algorithm=algorithm, workloadTTLSeconds=ttl)
    proxy.fault(delay(0.02))
    with operators(namespace), operators(namespace, through=proxy):
        studies.apply([wanted])
        ended = end_of(studies, wanted)
    chronicle.catch_up()
    each_once = dict.fromkeys(range(TRIALS), 1)
    assert reason(ended) == "MaxTrialsReached"
    assert [reason(trial) for trial in trials(studies, wanted)] == ["Completed"] * TRIALS
    assert ended["status"]["trials"]["completed"] == TRIALS
    assert chronicle.created("Trial") == chronicle.created("Job") == each_once
    assert chronicle.most_running() <= PARALLELISM
    assert chronicle.most_active() <= PARALLELISM
