"""How many GPUs a pod gets by its resource claims."""

from __future__ import annotations

from typing import Any

from hpo_operator.cluster.claims import GPU_CLASSES, claimed_by, gpus_in
from hpo_operator.cluster.observing import gpus_of
from hpo_operator.cluster.store import slim_pod

from tests.unit.operator.cluster.objects import Object, a_pod


def one(count: int | None = None, of: str = "gpu.nvidia.com") -> Object:
    return {"deviceClassName": of, **({"count": count} if count else {})}


def asking(*requests: Object) -> Object:
    return {"spec": {"spec": {"devices": {"requests": list(requests)}}}}


def test_a_claim_asks_for_the_devices_of_the_classes_that_are_GPUs() -> None:
    assert gpus_in(asking({"exactly": one()}, {"exactly": one(3)}, {"exactly": one(8, "rdma.example.com")}), GPU_CLASSES) == 4
    assert gpus_in(asking({"exactly": one(2)}), ["mig.nvidia.com"]) == 0
    assert gpus_in({}, GPU_CLASSES) == 0


def test_of_alternatives_the_one_that_is_preferred_counts() -> None:
    assert gpus_in(asking({"firstAvailable": [one(2), one(7, "mig.nvidia.com")]}), GPU_CLASSES) == 2


def test_a_pod_holds_the_GPUs_of_the_claims_that_are_its_own_and_of_no_shared_one() -> None:
    names = ("two", "two", "none", "unknown")
    claims: list[Any] = [{"name": f"c{n}", "resourceClaimTemplateName": name} for n, name in enumerate(names)]
    claims.append({"name": "shared", "resourceClaimName": "two"})
    pod = a_pod("p").gpus(1).having("spec", "resourceClaims", value=claims).build()
    claimed = claimed_by(pod, {"two": 2, "none": 0, "missing": None})
    assert claimed == 4
    assert gpus_of(slim_pod(pod, claimed=claimed)) == 5


def test_what_is_no_list_of_claims_is_for_the_API_server_to_refuse() -> None:
    for broken in ("a", {"name": "a"}, [1, None, {"resourceClaimTemplateName": 7}]):
        assert claimed_by(a_pod("p").having("spec", "resourceClaims", value=broken).build(), {"a": 1}) == 0
