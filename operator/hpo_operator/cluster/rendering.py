"""From a Trial to the workload that runs it. The workload is the user's: what is added is said here, and nothing else is touched.

Added: labels, in place of those that a series could not tell from them; the environment, one owner reference; where the Study
keeps checkpoints on a volume, that volume, with the Trial's own folder of it and, read-only, that of the Trial which it starts
from, and with `restore: Copy` an init container that copies from the one to the other; where it keeps them in an object store, the
Secret with the credentials as environment; and for a Job those fields that are absent: backoffLimit, podReplacementPolicy, a
podFailurePolicy that ignores disruptions and fails at once on the exit codes of an infeasible configuration and of a checkpoint
that cannot be had, restartPolicy, and no API token. Where the Study names PriorityClasses by rung, a pod template without one gets
that of the Trial's rung.

In a workload of another kind, labels, environment and volume go to every pod template, which is whatever has a list
`spec.containers`. Two kinds have programs that stand in none: the steps of an Argo Workflow, whose volumes are the Workflow's, and
the trainer of a TrainJob, whose runtime has the pod template; this gets the environment, and can have no volume. An API token is
withheld in a JobSet too, but in no other kind: the pods of Ray, MPI and Argo talk to the API server themselves.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from hpo_algorithms import Space

from hpo_operator.environment import checkpoint_environment, is_copied_for, trial_environment
from hpo_operator.outcomes import checkpoint_folder
from hpo_operator.reports import DONOR_UNAVAILABLE_EXIT_CODE, INFEASIBLE_EXIT_CODE
from hpo_operator.resources import API_VERSION, GROUP, PARAMETERS_ANNOTATION, NamedValue, Study, Template, Trial

Object = dict[str, Any]

STUDY_LABEL = f"{GROUP}/study"
STUDY_UID_LABEL = f"{GROUP}/study-uid"
TRIAL_LABEL = f"{GROUP}/trial"
NUMBER_LABEL = f"{GROUP}/trial-number"
PLACES = ("bracket", "rung", "generation")  # of a Trial's slot, that are labels too
OWN_LABELS = (STUDY_LABEL, STUDY_UID_LABEL, TRIAL_LABEL, NUMBER_LABEL, *(f"{GROUP}/{name}" for name in PLACES))
METRICS_PORT = 9464
METRICS_PORT_NAME = "hpo-metrics"
TERMINATION_FILE = "/dev/termination-log"
VOLUME = "hpo-checkpoints"
OWN_FOLDER, DONOR_FOLDER = "/hpo/checkpoints", "/hpo/donor"
RESTORING = "hpo-restore"  # the init container that copies a checkpoint
RESTORE = ["python", "-m", "hpo.checkpoint", "restore"]
COPYING = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}
MAX_PARAMETERS_LINE = 120
MAX_SHOWN_VALUE = 20

_DECIMAL = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?")


def labels_of(study: Study, trial: Trial) -> dict[str, str]:
    """The labels by which all that belongs to a Trial is found; and its place, by which people and dashboards group."""
    number, slot = trial.spec.number, trial.spec.slot
    place = slot.model_dump(include={*PLACES}, exclude_none=True) if slot else {}
    return {
        STUDY_LABEL: study.metadata.name,
        STUDY_UID_LABEL: study.metadata.uid,
        TRIAL_LABEL: f"{study.metadata.name}-{number}",
        NUMBER_LABEL: str(number),
        **{f"{GROUP}/{name}": str(value) for name, value in place.items()},
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
            "labels": labels_of(study, trial),
            "annotations": {PARAMETERS_ANNOTATION: parameters_line(trial.spec.parameters)},
            "ownerReferences": [owner("Study", study.metadata.name, study.metadata.uid)],
        },
        "spec": manifest["spec"],
    }


def parameters_line(parameters: tuple[NamedValue, ...]) -> str:
    """What a Trial tries, short enough for a column: `lr=0.00312345 layers=2`."""
    line = " ".join(f"{each.name}={_shown(each.value)}" for each in parameters)
    return line if len(line) <= MAX_PARAMETERS_LINE else line[: MAX_PARAMETERS_LINE - 1] + "…"


def workload_manifest(study: Study, trial: Trial, space: Space, sdk_image: str | None = None) -> Object:
    """The workload of a Trial, of the kind that its Study asks for. `sdk_image` copies checkpoints, else the program's own."""
    if study.spec.template.object is None or _group_kind(study.spec.template.object) == ("batch", "Job"):
        return job_manifest(study, trial, space, sdk_image)
    wanted = copy.deepcopy(study.spec.template.object)
    wanted.pop("status", None)
    wanted["metadata"] = _metadata(wanted.get("metadata"), study, trial)
    pods = list(pod_templates(wanted))
    programs = _programs(wanted, study.spec.template)
    _add_environment(programs, study.spec.template, _variables(study, trial, space))
    _add_credentials(programs, study)
    _add_volume(wanted, study, trial)
    _add_restoring(wanted, study, trial, space, sdk_image)
    for pod in pods:
        pod["metadata"] = _labelled(pod.get("metadata"), study, trial)
        _set_priority(pod["spec"], study, trial)
        if _group_kind(wanted) == ("jobset.x-k8s.io", "JobSet"):
            pod["spec"].setdefault("automountServiceAccountToken", False)
    if _is_workflow(wanted) and isinstance(wanted.get("spec"), dict):
        wanted["spec"]["podMetadata"] = _labelled(wanted["spec"].get("podMetadata"), study, trial)
        for step in (each for each, _ in _steps(wanted) if _labels(each)):  # they go before those of podMetadata
            step["metadata"]["labels"] = _foreign(_labels(step))
    return wanted


def job_manifest(study: Study, trial: Trial, space: Space, sdk_image: str | None = None) -> Object:
    """The Job of a Trial."""
    template = study.spec.template
    wanted: Object = copy.deepcopy(template.job or template.object or {})
    job: Object = {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(wanted.get("metadata"), study, trial)}
    spec = job["spec"] = wanted.get("spec")
    if not isinstance(spec, dict):
        return job
    for pod in pod_templates(spec.get("template")):
        spec.setdefault("backoffLimit", 0)
        spec.setdefault("podReplacementPolicy", "Failed")
        pod_spec = pod["spec"]
        pod_spec.setdefault("restartPolicy", "Never")
        pod_spec.setdefault("automountServiceAccountToken", False)
        if pod_spec["restartPolicy"] == "Never":  # the only one with which a podFailurePolicy is allowed
            spec.setdefault("podFailurePolicy", _failure_policy())
        programs = _programs(pod, template)
        _add_environment(programs, template, _variables(study, trial, space))
        _add_credentials(programs, study)
        _add_volume(pod, study, trial)
        _add_restoring(pod, study, trial, space, sdk_image)
        pod["metadata"] = _labelled(pod.get("metadata"), study, trial)
        _set_priority(pod_spec, study, trial)
    return job


def pod_templates(value: Any) -> Iterator[Object]:
    """Every pod template within an object: each mapping whose `spec` has a list of containers."""
    if isinstance(value, list):
        for each in value:
            yield from pod_templates(each)
    elif isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and _containers(spec):
            yield value
        else:
            for each in value.values():
                yield from pod_templates(each)


def pods_of(value: Any) -> int:
    """How many pods a workload has at a time, by what its manifest says of replicas and parallelism around its pod templates."""
    if isinstance(value, list):
        return sum(map(pods_of, value))
    if not isinstance(value, dict):
        return 0
    if _is_mapping(spec := value.get("spec")) and _containers(spec):
        return 1
    times: list[int] = [value[each] for each in ("replicas", "parallelism") if isinstance(value.get(each), int)]
    return math.prod(times) * sum(map(pods_of, value.values()))


def volume_of(study: Study) -> Object | None:
    """The volume of a Study's checkpoints; None where it keeps none on a volume."""
    claim = study.spec.checkpoints.volume_claim if study.spec.checkpoints else None
    return {"name": VOLUME, "persistentVolumeClaim": {"claimName": claim.name}} if claim else None


def store_url(study: Study) -> str | None:
    """The place of a Study's checkpoints in an object store; None where it keeps them elsewhere, or none."""
    there = study.spec.checkpoints.object_store if study.spec.checkpoints else None
    return f"{there.uri.rstrip('/')}/{study.metadata.uid}" if there else None


def credentials_of(study: Study) -> list[Object]:
    """Where containers take the credentials of an object store from: their own entries, which stand behind, go before."""
    there = study.spec.checkpoints.object_store if study.spec.checkpoints else None
    return [{"secretRef": {"name": there.secret_name}}] if there and there.secret_name else []


def can_mount(study: Study) -> bool:
    """Whether there is anywhere in a Study's workload where a volume can be added."""
    return has_pods(study) or _is_workflow(study.spec.template.object or {})


def has_pods(study: Study) -> bool:
    """Whether a Study's workload has pod templates."""
    return any(True for _ in pod_templates(study.spec.template.manifest()))


def program_of(study: Study) -> tuple[Object, Object]:
    """The container that reports, and what stands beside it in its pod's spec; empty as far as the template does not say."""
    template = study.spec.template
    for pod in pod_templates(template.manifest()):
        return pod["spec"], reporting_container(pod["spec"], template)
    wanted = copy.deepcopy(template.object or {})
    found = next(iter(_programs(wanted, template)), None)
    # A Workflow has these fields, for all of its pods, under the names that a pod has them.
    return wanted["spec"] if _is_workflow(wanted) else {}, found.reporter if found else {}


def reporting_container(pod_spec: Mapping[str, Any], template: Template) -> Object:
    """The container whose result counts: the one that is named, else the first; in a Workflow's pods, `main`."""
    wanted = template.reporter.container if template.reporter else None
    if wanted is None and template.object is not None and _is_workflow(template.object):
        wanted = "main"  # Argo puts a container of its own before it
    containers: list[Object] = pod_spec["containers"]
    return next((each for each in containers if each.get("name") == wanted), containers[0])


@dataclass(frozen=True, slots=True)
class _Program:
    """Containers that run together in a pod, the one that reports, and the labels that their pod has from the template."""

    containers: list[Object]
    reporter: Object
    labels: Mapping[str, Any]
    ports: bool = True


def _programs(wanted: Object, template: Template) -> list[_Program]:
    found = [
        _Program(_containers(pod["spec"]), reporting_container(pod["spec"], template), _labels(pod))
        for pod in pod_templates(wanted)
    ]
    spec = wanted.get("spec")
    if not isinstance(spec, dict):
        return found
    for step, containers in _steps(wanted):
        found.append(_Program(containers, reporting_container({"containers": containers}, template), _labels(step)))
    if _group_kind(wanted) == ("trainer.kubeflow.org", "TrainJob") and _is_mapping(trainer := spec.setdefault("trainer", {})):
        found.append(_Program([trainer], trainer, {}, ports=False))
    return found


def _steps(wanted: Object) -> Iterator[tuple[Object, list[Object]]]:
    """The steps of a Workflow that run programs, each with its containers."""
    if not _is_workflow(wanted) or not isinstance(wanted.get("spec"), dict):
        return
    for step in filter(_is_mapping, wanted["spec"].get("templates") or ()):
        together = step["containerSet"] if _is_mapping(step.get("containerSet")) else {}
        alone = [step[field] for field in ("container", "script") if _is_mapping(step.get(field))]
        if containers := [*alone, *_containers(together)]:
            yield step, containers


def _add_environment(programs: list[_Program], template: Template, variables: Mapping[str, str]) -> None:
    """The Trial's variables, before each container's own, so that these may refer to them as $(HPO_PARAM_LR).

    Where none of the programs has the labels of the reporter, whose pod may get them only from its controller, any may report.
    """
    selector = (template.reporter.pod_selector if template.reporter else None) or {}
    reporting = [each for each in programs if selector.items() <= dict(each.labels).items()] or programs
    for program in programs:
        for container in program.containers:
            added = dict(variables)
            if container is program.reporter and any(program is each for each in reporting):
                added["HPO_METRICS_PORT"] = str(METRICS_PORT)
                added["HPO_TERMINATION_FILE"] = str(container.get("terminationMessagePath") or TERMINATION_FILE)
                if program.ports:
                    _add_port(container)
            own = container.get("env") or []
            if isinstance(own, list):  # anything else is for the API server to refuse
                taken = {each.get("name") for each in filter(_is_mapping, own)}
                container["env"] = [{"name": n, "value": _literal(v)} for n, v in added.items() if n not in taken] + own


def _variables(study: Study, trial: Trial, space: Space) -> dict[str, str]:
    stored: dict[str, str] = {}
    if volume_of(study) is not None:
        stored = checkpoint_environment(trial, OWN_FOLDER, DONOR_FOLDER)
    elif (url := store_url(study)) is not None:
        donor = trial.spec.restore_from.trial_name if trial.spec.restore_from else ""
        stored = checkpoint_environment(trial, f"{url}/{trial.metadata.name}", f"{url}/{donor}")
    return trial_environment(study, trial, space) | stored


def _add_credentials(programs: list[_Program], study: Study) -> None:
    for container in (each for program in programs for each in program.containers):
        own = container.get("envFrom") or []
        if isinstance(own, list) and (added := credentials_of(study)):  # anything else is for the API server to refuse
            container["envFrom"] = [*added, *own]


def _add_volume(wanted: Object, study: Study, trial: Trial) -> None:
    """The volume of checkpoints, in each pod, of which a program sees the Trial's folder and its donor's, and no other."""
    volume = volume_of(study)
    if volume is None:
        return
    for pod in pod_templates(wanted):
        _append(pod["spec"], "volumes", [volume])
        for container in _containers(pod["spec"]):
            _append(container, "volumeMounts", _mounts(study, trial))
    steps = list(_steps(wanted))
    if steps:
        _append(wanted["spec"], "volumes", [volume])
    for container in (each for _, containers in steps for each in containers):
        _append(container, "volumeMounts", _mounts(study, trial))


def _mounts(study: Study, trial: Trial) -> list[Object]:
    uid, restore = study.metadata.uid, trial.spec.restore_from
    mounts: list[Object] = [{"name": VOLUME, "mountPath": OWN_FOLDER, "subPath": checkpoint_folder(uid, trial.metadata.name)}]
    if restore is not None:
        donors = {"name": VOLUME, "mountPath": DONOR_FOLDER, "subPath": checkpoint_folder(uid, restore.trial_name)}
        mounts.append({**donors, "readOnly": True})
    return mounts


def _add_restoring(wanted: Object, study: Study, trial: Trial, space: Space, image: str | None) -> None:
    """What copies the donor's checkpoint before the programs of a pod start; several pods may at once.

    It runs as whom the template names, be it a restricted pod or not, and as the image's own user where only the program's image
    names one: by the folder's rights the SDK lets the program change what was copied. What is wrong it says on its log.
    """
    if not is_copied_for(study, trial):
        return
    variables = {**_variables(study, trial, space), "HPO_TERMINATION_FILE": TERMINATION_FILE}
    for pod in pod_templates(wanted):
        program = reporting_container(pod["spec"], study.spec.template)
        inherited = ("securityContext",) if image else ("securityContext", "imagePullPolicy")
        container = {
            "name": RESTORING,
            "image": image or program.get("image"),
            "command": RESTORE,
            "env": [{"name": name, "value": _literal(value)} for name, value in variables.items()],
            "volumeMounts": _mounts(study, trial),
            "resources": COPYING,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            **{field: program[field] for field in inherited if field in program},
        }
        _append(pod["spec"], "initContainers", [container])


def _set_priority(pod_spec: Object, study: Study, trial: Trial) -> None:
    """The class of a Trial's rung, so that what was promoted goes before what is only tried."""
    classes, slot = study.spec.template.priority_classes, trial.spec.slot
    if classes and "priority" not in pod_spec:
        rung = slot.rung or 0 if slot else 0
        pod_spec.setdefault("priorityClassName", classes[min(rung, len(classes) - 1)])


def _append(place: Object, field: str, added: list[Object]) -> None:
    known = place.get(field) or []
    if isinstance(known, list):  # anything else is for the API server to refuse
        place[field] = [*known, *added]


def _add_port(container: Object) -> None:
    ports = container.get("ports") or []
    if isinstance(ports, list) and not any(each.get("name") == METRICS_PORT_NAME for each in filter(_is_mapping, ports)):
        container["ports"] = [*ports, {"name": METRICS_PORT_NAME, "containerPort": METRICS_PORT}]


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
    metadata: Object = dict(given) if _is_mapping(given) else {}
    metadata["labels"] = {**_foreign(metadata.get("labels")), **labels_of(study, trial)}
    return metadata


def label_of_series(name: str) -> str:
    """The name of a pod's label as Prometheus has it, for which a dot, a slash, a dash and an underscore are the same."""
    return re.sub("[^a-zA-Z0-9_]", "_", name)


_OURS = {label_of_series(each) for each in OWN_LABELS}


def _foreign(labels: Any) -> Object:
    """Labels of a template but those that are ours, or that Prometheus could take for ours."""
    given = labels if _is_mapping(labels) else {}
    return {name: value for name, value in given.items() if label_of_series(name) not in _OURS}


def _labels(pod: Object) -> Mapping[str, Any]:
    metadata = pod.get("metadata")
    labels = metadata.get("labels") if _is_mapping(metadata) else None
    return labels if _is_mapping(labels) else {}


def _containers(spec: Object) -> list[Object]:
    found = spec.get("containers")
    return found if isinstance(found, list) and all(map(_is_mapping, found)) else []


def _group_kind(wanted: Mapping[str, Any]) -> tuple[str, str]:
    return str(wanted.get("apiVersion")).rpartition("/")[0], str(wanted.get("kind"))


def _is_workflow(wanted: Mapping[str, Any]) -> bool:
    return _group_kind(wanted) == ("argoproj.io", "Workflow")


def _is_mapping(value: Any) -> TypeGuard[Object]:
    return isinstance(value, dict)


def _failure_policy() -> Object:
    useless = {"operator": "In", "values": [INFEASIBLE_EXIT_CODE, DONOR_UNAVAILABLE_EXIT_CODE]}
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": useless},
        ]
    }


def _literal(value: str) -> str:
    """A value that the kubelet leaves as it is: it would read `$(NAME)` as a reference, and `$$` as one dollar."""
    return value.replace("$", "$$")


def _shown(value: str) -> str:
    """A value for people: six digits of a number, the beginning of a long text."""
    if _DECIMAL.fullmatch(value) and not value.lstrip("+-").isdigit():
        return f"{float(value):.6g}"
    text = " ".join(value.split())
    return text if len(text) <= MAX_SHOWN_VALUE else text[: MAX_SHOWN_VALUE - 1] + "…"
