"""From a Trial to the workload that runs it. The workload is the user's: what is added is said here, and nothing else is touched.

Added: labels, the environment, one owner reference; and for a Job those fields that are absent: backoffLimit,
podReplacementPolicy, a podFailurePolicy that ignores disruptions and fails at once on the infeasible exit code, restartPolicy, and
no API token.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hpo_algorithms import Space

from hpo_operator.environment import trial_environment
from hpo_operator.reports import INFEASIBLE_EXIT_CODE
from hpo_operator.resources import API_VERSION, GROUP, Study, Template, Trial

Object = dict[str, Any]

STUDY_LABEL = f"{GROUP}/study"
STUDY_UID_LABEL = f"{GROUP}/study-uid"
TRIAL_LABEL = f"{GROUP}/trial"
NUMBER_LABEL = f"{GROUP}/trial-number"
METRICS_PORT = 9464
METRICS_PORT_NAME = "hpo-metrics"


def labels_of(study: Study, number: int) -> dict[str, str]:
    """The labels by which all that belongs to a Trial is found."""
    return {
        STUDY_LABEL: study.metadata.name,
        STUDY_UID_LABEL: study.metadata.uid,
        TRIAL_LABEL: f"{study.metadata.name}-{number}",
        NUMBER_LABEL: str(number),
    }


def owner(kind: str, name: str, uid: str) -> Object:
    """A controller's owner reference, by which garbage collection follows."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def trial_manifest(study: Study, trial: Trial) -> Object:
    """A new Trial as it is created."""
    manifest = trial.manifest()
    return {
        "apiVersion": API_VERSION,
        "kind": "Trial",
        "metadata": {
            "name": trial.metadata.name,
            "namespace": study.metadata.namespace,
            "labels": labels_of(study, trial.spec.number),
            "ownerReferences": [owner("Study", study.metadata.name, study.metadata.uid)],
        },
        "spec": manifest["spec"],
    }


def job_manifest(study: Study, trial: Trial, space: Space) -> Object:
    """The Job of a Trial."""
    template = study.spec.template
    assert template.job is not None
    wanted = copy.deepcopy(template.job)
    job: Object = {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(wanted.get("metadata"), study, trial)}
    spec = job["spec"] = wanted["spec"]
    spec.setdefault("backoffLimit", 0)
    spec.setdefault("podReplacementPolicy", "Failed")
    pod = spec["template"]
    pod["metadata"] = _labelled(pod.get("metadata"), study, trial)
    pod_spec = pod["spec"]
    pod_spec.setdefault("restartPolicy", "Never")
    pod_spec.setdefault("automountServiceAccountToken", False)
    if pod_spec["restartPolicy"] == "Never":  # the only one with which a podFailurePolicy is allowed
        spec.setdefault("podFailurePolicy", _failure_policy())
    _add_environment(pod_spec, template, trial_environment(study, trial, space))
    return job


def reporting_container(pod_spec: Mapping[str, Any], template: Template) -> Object:
    """The container whose result counts: the one that is named, else the first."""
    wanted = template.reporter.container if template.reporter else None
    containers: list[Object] = pod_spec["containers"]
    return next((each for each in containers if each.get("name") == wanted), containers[0])


def _metadata(given: Any, study: Study, trial: Trial) -> Object:
    metadata = _labelled(given, study, trial)
    # The namespace is forced, and the name is the Trial's: a Study's author may create Jobs here, and no more.
    for field in ("generateName", "uid", "resourceVersion", "creationTimestamp", "finalizers", "managedFields"):
        metadata.pop(field, None)
    metadata |= {
        "name": trial.metadata.name,
        "namespace": study.metadata.namespace,
        "ownerReferences": [owner("Trial", trial.metadata.name, trial.metadata.uid)],
    }
    return metadata


def _labelled(given: Any, study: Study, trial: Trial) -> Object:
    metadata: Object = dict(given or {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels_of(study, trial.spec.number)}
    return metadata


def _failure_policy() -> Object:
    infeasible = {"operator": "In", "values": [INFEASIBLE_EXIT_CODE]}
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": infeasible},
        ]
    }


def _add_environment(pod_spec: Object, template: Template, variables: Mapping[str, str]) -> None:
    """The Trial's variables, before the container's own, so that these may refer to them as $(HPO_PARAM_LR)."""
    reporter = reporting_container(pod_spec, template)
    for container in pod_spec["containers"]:
        added = dict(variables)
        if container is reporter:
            added["HPO_METRICS_PORT"] = str(METRICS_PORT)
            added["HPO_TERMINATION_FILE"] = container.get("terminationMessagePath", "/dev/termination-log")
            ports = container.setdefault("ports", [])
            if not any(each.get("name") == METRICS_PORT_NAME for each in ports):
                ports.append({"name": METRICS_PORT_NAME, "containerPort": METRICS_PORT})
        own = container.get("env") or []
        taken = {each.get("name") for each in own}
        container["env"] = [{"name": n, "value": _literal(v)} for n, v in added.items() if n not in taken] + own


def _literal(value: str) -> str:
    """A value that the kubelet leaves as it is: it would read `$(NAME)` as a reference, and `$$` as one dollar."""
    return value.replace("$", "$$")
