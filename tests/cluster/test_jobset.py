"""A Trial of two pods, a leader and a worker, as a JobSet: by the real controller and on a real node."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.building import PATIENCE, study
from tests.cluster.conftest import Begin
from tests.control_plane.building import end_of, reason, trials
from tests.control_plane.operator_process import OperatorAccount, OperatorProcess, grant, write_settings
from tests.testbed import Cluster, Object
from tests.testbed.controllers import JOBSET, install

pytestmark = pytest.mark.cluster

KIND = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}


@pytest.fixture(scope="module")
def operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """An operator that may make JobSets, in a cluster whose controller runs them."""
    install(cluster, JOBSET)
    grant(cluster, "jobset.x-k8s.io", "jobsets")
    folder = tmp_path_factory.mktemp("operator")
    config = write_settings(folder / "settings.yaml", workloadKinds=[KIND])
    arguments = ("--config", str(config))
    log = folder / "operator.log"
    with OperatorProcess(OperatorAccount(cluster).kubeconfig(), *arguments, log=log, fresh=True) as running:
        yield running
        running.stop()


def test_the_leader_of_a_JobSet_reports_for_its_Trial(cluster: Cluster, namespace: str, begin: Begin) -> None:
    wanted = study("pairs", namespace, "import hpo; hpo.report(step=1, loss=hpo.parameters().x)", limits={"maxTrials": 2})
    pod = wanted["spec"]["template"]["job"]["spec"]["template"]

    def role(name: str, **container: Any) -> Object:
        template = copy.deepcopy(pod)
        template.setdefault("metadata", {}).setdefault("labels", {})["role"] = name
        template["spec"]["containers"][0] |= container
        return {"name": name, "replicas": 1, "template": {"spec": {"backoffLimit": 0, "template": template}}}

    roles = [role("leader"), role("worker", command=["python", "-c", "print('works')"])]
    made = {**KIND, "spec": {"replicatedJobs": roles}}
    wanted["spec"]["template"] = {"object": made, "reporter": {"podSelector": {"role": "leader"}}}
    ended = end_of(cluster, begin(wanted), PATIENCE)
    assert reason(ended) == "MaxTrialsReached"
    for trial in trials(cluster, ended):
        assert reason(trial) == "Completed"
        assert trial["status"]["workload"]["kind"] == "JobSet"
        assert trial["status"]["observation"]["source"] == "TerminationMessage"
        assert trial["status"]["observation"]["objective"] == trial["spec"]["parameters"][0]["value"]
    pods = cluster.api.objects("v1", "Pod", namespace)
    assert sorted(each["metadata"]["labels"]["role"] for each in pods) == ["leader", "leader", "worker", "worker"]
