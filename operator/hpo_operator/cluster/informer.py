"""kopf as the informer of Studies: it lists and watches, each event updates the store and names the Study to look at.

kopf neither writes nor decides anything here: no stateful handlers, no timers, no finalizers, no peering. Of Trials, and of what
they run, there are many more events: these `watch` tells.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf

from hpo_operator.cluster.client import STUDIES, Request
from hpo_operator.cluster.store import Store

SERVER_SECONDS = 240  # a watch ends and begins anew, before load balancers cut it off without a word
INACTIVE_SECONDS = 70  # bookmarks come each minute: a watch that is silent for longer is dead, and kopf makes a new one
SILENT_SECONDS = SERVER_SECONDS + 2 * INACTIVE_SECONDS  # none was opened for so long: it cannot be


class Watches:
    """When each watch was last opened or said something, by what is watched and the namespace, empty where it is of all."""

    def __init__(self, namespaces: Sequence[str] = ()) -> None:
        self.namespaces = tuple(namespaces)
        self.heard: dict[tuple[str, str], float] = {}
        self._unserved: set[tuple[str, str]] = set()

    def begin(self, resource: str) -> None:
        """From now on something is to be heard of a kind."""
        for namespace in self.namespaces or ("",):
            self.hear(resource, namespace)

    def hear(self, resource: str, namespace: str) -> None:
        """An object of this namespace was told of, or its watch was opened."""
        watched = resource, namespace if self.namespaces else ""
        self.heard[watched] = time.monotonic()
        self._unserved.discard(watched)

    def miss(self, resource: str, namespace: str) -> None:
        """The API server has answered that it serves no such objects, which a new process would not change."""
        self._unserved.add((resource, namespace))

    def silent(self) -> Mapping[tuple[str, str], float]:
        """The watches that cannot be alive any more, and for how many seconds nothing was heard of them."""
        now = time.monotonic()
        quiet = {watched: now - heard for watched, heard in self.heard.items() if watched not in self._unserved}
        return {watched: seconds for watched, seconds in quiet.items() if seconds > SILENT_SECONDS}


def registry(store: Store, watches: Watches, wake: Callable[[str], None], requests: Counter[Request]) -> kopf.OperatorRegistry:
    """The handler of Studies. `wake` is called with the uid of each one that has news; `requests` counts what kopf asks for."""
    found = kopf.OperatorRegistry()
    kopf.on.login(registry=found)(_login(watches, requests))
    watches.begin(STUDIES.plural)
    group, _, version = STUDIES.api_version.rpartition("/")
    kopf.on.event(group, version, STUDIES.plural, id="watch-studies", registry=found)(_handler(store, watches, wake))
    return found


def settings() -> kopf.OperatorSettings:
    """kopf's settings for a plain informer: see each one's reason."""
    found = kopf.OperatorSettings()
    found.peering.standalone = True  # kopf's peering pauses; it does not elect
    found.scanning.disabled = True  # nobody else's CRDs and namespaces need be known
    found.posting.enabled = False  # Events are the executor's
    found.persistence.diffbase_storage = _NoEssence()
    found.persistence.progress_storage = _NoProgress()
    found.watching.chunk_size = 500
    found.watching.server_timeout = SERVER_SECONDS
    found.watching.client_timeout = SERVER_SECONDS + 20
    found.watching.connect_timeout = 10
    found.watching.inactivity_timeout = INACTIVE_SECONDS
    found.networking.request_timeout = 30
    found.networking.enforce_retry_after = True
    return found


def in_cluster() -> bool:
    """Whether the process runs in a pod, and is not told otherwise."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and not os.environ.get("KUBECONFIG")


def _handler(store: Store, watches: Watches, wake: Callable[[str], None]) -> Any:
    async def handler(type: str | None, body: kopf.Body, **_: Any) -> None:
        watches.hear(STUDIES.plural, body.metadata.namespace or "")
        wake(store.study(type, dict(body)))

    return handler


def _login(watches: Watches, requests: Counter[Request]) -> Any:
    """kopf's own login, with a session that counts its requests and tells when a watch has been opened."""

    async def login(**kwargs: Any) -> kopf.AiohttpSession | None:
        find: Any = kopf.login_with_service_account if in_cluster() else kopf.login_with_kubeconfig
        info: kopf.ConnectionInfo | None = find(**kwargs)
        if info is None:
            return None
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(answered)
        trace.on_request_exception.append(failed)
        connector = aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context())
        session = aiohttp.ClientSession(connector=connector, headers=info.as_http_headers(), trace_configs=[trace])
        return kopf.AiohttpSession(server=info.server, default_namespace=info.default_namespace, aiohttp_session=session)

    async def answered(_: aiohttp.ClientSession, __: SimpleNamespace, ended: aiohttp.TraceRequestEndParams) -> None:
        verb, kind = _asked(ended)
        requests[verb, kind, ended.response.status] += 1
        if verb == "watch" and ended.response.status == 200:
            namespace = ended.url.path.partition("/namespaces/")[2].partition("/")[0]
            watches.hear(STUDIES.plural, namespace)

    async def failed(_: aiohttp.ClientSession, __: SimpleNamespace, ended: aiohttp.TraceRequestExceptionParams) -> None:
        requests[*_asked(ended), 0] += 1

    return login


def _asked(ended: aiohttp.TraceRequestEndParams | aiohttp.TraceRequestExceptionParams) -> tuple[str, str]:
    """The verb and the kind of a request of kopf's: Studies, or what the API server serves."""
    if ended.url.path.rpartition("/")[2] != STUDIES.plural:
        return "get", "APIResourceList"
    return "watch" if ended.url.query.get("watch") == "true" else "list", STUDIES.kind


class _NoEssence(kopf.DiffBaseStorage):
    """Nothing is compared: kopf would copy each object twice for a difference that only its stateful handlers look at."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        return _NOTHING

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """Nothing is persisted: a handler that only takes in an event has no progress."""

    def fetch(self, *, key: Any, body: kopf.Body) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        return None

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        return None

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        return None

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence


_NOTHING: kopf.BodyEssence = {}
