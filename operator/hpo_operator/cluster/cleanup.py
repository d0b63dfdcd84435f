"""Removing checkpoints: one Job for many Trials, which knows no other place than its Study's own.

On a volume it sees nothing but the Study's folder, names each Trial's in its command, and `rm` follows no link. In an object store
the SDK removes what lies below the Study's prefix and one of the names (`hpo.checkpoint remove`). That and its deterministic name
make it safe to be wanted twice, by an operator that was killed or by two at once. It runs as whoever wrote the files: the Trials'
own security context, and their image unless the installer names another (`cleanupImage`, `sdkImage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hpo_operator.cluster.kinds import JOB
from hpo_operator.cluster.rendering import (
    OWN_FOLDER,
    STUDY_LABEL,
    STUDY_UID_LABEL,
    VOLUME,
    credentials_of,
    owner,
    program_of,
    store_url,
    volume_of,
)
from hpo_operator.planner import Cleanup
from hpo_operator.resources import GROUP, Study

Object = dict[str, Any]

CLEANUP_LABEL = f"{GROUP}/cleanup"
RETRIES = 2
LONGEST_SECONDS = 3600
INHERITED = ("securityContext", "nodeSelector", "tolerations", "imagePullSecrets", "runtimeClassName")
RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}}

_RM = ["rm", "-rf", "--"]


def cleanup_name(study: Study) -> str:
    """The name of a Study's cleanup, of which there is one at a time."""
    return f"{study.metadata.name[:40]}-cleanup-{study.metadata.uid[:8]}"


def cleanup_manifest(study: Study, numbers: Sequence[int], image: str | None = None, sdk_image: str | None = None) -> Object:
    """The Job that removes the folders of these Trials: by an image with `rm`, or with the SDK, or else that of the programs."""
    pod, program = program_of(study)
    names = [f"{study.metadata.name}-{number}" for number in numbers]
    url, volume = store_url(study), volume_of(study)
    if url is not None:
        where: Object = {
            "image": sdk_image or program.get("image"),
            "command": ["python", "-m", "hpo.checkpoint", "remove", "--store", url, "--", *names],
            "envFrom": [*credentials_of(study), *(program.get("envFrom") or ())],
            "env": program.get("env") or [],
        }
    else:
        where = {
            "image": image or program.get("image"),
            "command": [*_RM, *names],
            "workingDir": OWN_FOLDER,
            "volumeMounts": [{"name": VOLUME, "mountPath": OWN_FOLDER, "subPath": study.metadata.uid}],
        }
    container: Object = {
        "name": "cleanup",
        **where,
        "resources": RESOURCES,
        **{field: program[field] for field in ("securityContext", "imagePullPolicy") if field in program},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": cleanup_name(study),
            "namespace": study.metadata.namespace,
            "labels": {STUDY_LABEL: study.metadata.name, STUDY_UID_LABEL: study.metadata.uid, CLEANUP_LABEL: "true"},
            "ownerReferences": [owner("Study", study.metadata.name, study.metadata.uid)],
        },
        "spec": {
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": LONGEST_SECONDS,
            "template": {
                "metadata": {"labels": {CLEANUP_LABEL: "true"}},  # not the Study's, by which pods of Trials are found
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    **{field: pod[field] for field in INHERITED if field in pod},
                    **({"volumes": [volume]} if volume is not None else _identity(pod)),
                    "containers": [container],
                },
            },
        },
    }


def _identity(pod: Object) -> Object:
    """By whose rights the programs come at an object store where no Secret is named: their service account's."""
    return {"serviceAccountName": pod["serviceAccountName"]} if "serviceAccountName" in pod else {}


def is_cleanup(raw: Mapping[str, Any]) -> bool:
    """Whether a Job is a Study's cleanup and not a Trial's."""
    return CLEANUP_LABEL in (raw["metadata"].get("labels") or {})


def seen_cleanup(job: Object) -> Cleanup:
    """What a cleanup's Job shows. Its command, which cannot change, says which Trials it is about."""
    command = job["spec"]["template"]["spec"]["containers"][0].get("command") or []
    last = [name.rpartition("-")[2] for name in command[command.index("--") + 1 :]] if "--" in command else []
    numbers = tuple(int(each) for each in last if each.isdecimal())
    end = JOB.end_of(job)
    if end is None:
        return Cleanup(numbers)
    return Cleanup(numbers, end.succeeded, end.time or datetime.now(UTC), f"{end.reason}: {end.message}")
