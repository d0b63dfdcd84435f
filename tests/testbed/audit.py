"""Counting requests: what the API server's audit log says about each user's writes and reads.

The components of Kubernetes are not logged; only those are whom a test may want to count: the operator's ServiceAccount, users
of the token file whose name does not begin with `system:`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

SERVICE_ACCOUNT = "system:serviceaccount:"

POLICY = yaml.safe_dump(
    {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "None", "userGroups": ["system:nodes"]},
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]},
            {
                "level": "None",
                "users": ["system:kwok", "system:kube-proxy", "system:coredns", "system:prometheus", "system:anonymous"],
            },
            {"level": "None", "nonResourceURLs": ["/*"]},
            {"level": "Metadata"},
        ],
    },
    sort_keys=False,
)


@dataclass(frozen=True, slots=True)
class Request:
    """One finished request. `time` is RFC 3339 with microseconds; `subresource` is "status" for a status write.

    `selector` are the labels by which a list or a watch chooses.
    """

    user: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    time: str
    selector: str

    @property
    def is_write(self) -> bool:
        """Whether it asked for a change."""
        return self.verb not in {"get", "list", "watch"}


def read(log: Path) -> Iterator[Request]:
    """All requests logged so far, in the order in which they ended."""
    if not log.exists():
        return
    with log.open() as lines:
        for line in lines:
            if not line.endswith("\n"):
                return  # still being written
            yield _request(json.loads(line))


def _request(event: dict[str, Any]) -> Request:
    subject = event.get("objectRef", {})
    return Request(
        user=event["user"]["username"],
        verb=event["verb"],
        resource=subject.get("resource", ""),
        subresource=subject.get("subresource", ""),
        namespace=subject.get("namespace", ""),
        name=subject.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        time=event["stageTimestamp"],
        selector=parse_qs(urlsplit(event["requestURI"]).query).get("labelSelector", [""])[0],
    )
