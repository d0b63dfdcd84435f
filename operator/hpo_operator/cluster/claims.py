"""GPUs that a pod gets by resource claims: it names a ResourceClaimTemplate, and only that says how many devices of which class.

What a template asks for counts once for each pod that names it, as `nvidia.com/gpu` in a container's limits does. A ResourceClaim
that pods name by itself is shared between them, and held by none of them alone: it does not count.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hpo_operator.cluster.client import DEVICE_CLAIMS, Client, RequestFailed
from hpo_operator.cluster.rendering import pod_templates
from hpo_operator.resources import Study

Object = Mapping[str, Any]

GPU_CLASSES = ("gpu.nvidia.com", "mig.nvidia.com")
"""The device classes of NVIDIA's driver for dynamic resource allocation: whole GPUs, and slices of them, which count as one."""


async def claimed_gpus(client: Client, study: Study, classes: Collection[str]) -> dict[str, int | None]:
    """How many GPUs each ResourceClaimTemplate asks for that a Study's pods name; None for one that there is not.

    Where the operator may not read them they count for nothing, for its right to do so is younger than clusters that run it.
    """
    wanted = {name for pod in pod_templates(study.spec.template.manifest()) for name in _names(pod["spec"])}
    found: dict[str, int | None] = {}
    for name in sorted(wanted):
        try:
            template = await client.get(DEVICE_CLAIMS, study.metadata.namespace, name)
        except RequestFailed as failure:
            if failure.transient:
                raise
            found[name] = 0
        else:
            found[name] = gpus_in(template, classes) if template is not None else None
    return found


def gpus_in(template: Object, classes: Collection[str]) -> int:
    """How many devices of these classes a ResourceClaimTemplate asks for; of alternatives the first, which is preferred."""
    requests = ((template.get("spec") or {}).get("spec") or {}).get("devices", {}).get("requests") or ()
    first: list[Object] = [each.get("exactly") or next(iter(each.get("firstAvailable") or ()), {}) for each in requests]
    return sum(each.get("count") or 1 for each in first if each.get("deviceClassName") in classes)


def claimed_by(pod: Object, gpus: Mapping[str, int | None]) -> int:
    """How many GPUs a pod gets by its claims."""
    return sum(gpus.get(name) or 0 for name in _names(pod["spec"]))


def _names(pod_spec: Object) -> list[str]:
    claims = pod_spec.get("resourceClaims")
    found = [each for each in claims if isinstance(each, Mapping)] if isinstance(claims, list) else []
    return [name for each in found if isinstance(name := each.get("resourceClaimTemplateName"), str)]
