"""Requests to the API server: plain JSON over the official asynchronous client, counted, with one kind of failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from kubernetes.aio.client import ApiClient

from hpo_operator.resources import GROUP

Object = dict[str, Any]
Request = tuple[str, str, int]  # verb, kind, and the status of the answer, 0 where there was none

CONNECT_SECONDS, REQUEST_SECONDS = 10.0, 30.0
PAGE = 500
LOG_BYTES = 16 << 20  # of a log at most: the API server counts them from the first line that is asked for
MERGE_PATCH = "application/merge-patch+json"


class RequestFailed(Exception):
    """The API server refused a request, or could not be reached (`status` 0).

    `retry_after` is what the server asked for in seconds, 0 when it asked for nothing.
    """

    def __init__(self, verb: str, status: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{verb}: {status} {reason}: {message}")
        self.verb, self.status, self.reason, self.message, self.retry_after = verb, status, reason, message, retry_after

    @property
    def transient(self) -> bool:
        """Whether the same request may well succeed later."""
        return self.status in (0, 429) or self.status >= 500

    @property
    def refused(self) -> bool:
        """Whether it was a creation that somebody must do something about: a webhook out of reach is a 500 without a time."""
        return self.verb == "create" and (not self.transient or (self.status == 500 and not self.retry_after))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object and where it is served."""

    api_version: str
    kind: str
    plural: str

    @property
    def resource(self) -> str:
        """Its name among those that are watched: as kubectl takes it, with the group where it is a stranger's."""
        group = self.api_version.rpartition("/")[0]
        return f"{self.plural}.{group}" if "." in group and group != GROUP else self.plural

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [root, *(["namespaces", namespace] if namespace else []), self.plural, name, subresource]
        return "/".join(part for part in parts if part)


STUDIES = Kind("hpo.dev/v1alpha1", "Study", "studies")
TRIALS = Kind("hpo.dev/v1alpha1", "Trial", "trials")
JOBS = Kind("batch/v1", "Job", "jobs")
PODS = Kind("v1", "Pod", "pods")
CLAIMS = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
DEVICE_CLAIMS = Kind("resource.k8s.io/v1", "ResourceClaimTemplate", "resourceclaimtemplates")
EVENTS = Kind("v1", "Event", "events")


class Client:
    """The few verbs that the operator needs. `requests` counts what was asked since the start."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self.requests: Counter[Request] = Counter()

    async def create(self, kind: Kind, namespace: str, body: Object, *, dry_run: bool = False) -> Object:
        query = {"dryRun": "All"} if dry_run else {}
        return await self._request("create", "POST", kind, kind.path(namespace), body, query)

    async def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """The object, or None when there is none."""
        try:
            return await self._request("get", "GET", kind, kind.path(namespace, name))
        except RequestFailed as failure:
            if failure.status == 404:
                return None
            raise

    async def list(self, kind: Kind, namespace: str | None, selector: str = "", fields: str = "") -> AsyncIterator[Object]:
        """All objects that a label selector names, and a field selector."""
        async for page in self.pages(kind, namespace, selector, fields):
            for item in page["items"]:
                yield item

    async def pages(self, kind: Kind, namespace: str | None, selector: str = "", fields: str = "") -> AsyncIterator[Object]:
        """The same by pages, each a list as the API server gives it."""
        selectors = {"labelSelector": selector, "fieldSelector": fields}
        query = {"limit": str(PAGE), **{name: value for name, value in selectors.items() if value}}
        while True:
            page = await self._request("list", "GET", kind, kind.path(namespace), None, query)
            # Items of a list carry neither; whoever looks at an object should not need to know where it came from.
            page["items"] = [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page["items"]]
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            query = {**query, "continue": token}

    async def watch(
        self, kind: Kind, namespace: str | None, selector: str, version: str, *, seconds: int, inactive: float
    ) -> AsyncIterator[Sequence[bytes]]:
        """What changes after a version, as lines of JSON: those that have come together, at first none.

        The API server ends a watch after `seconds`; one that says nothing for longer than `inactive`, bookmarks included, fails.
        """
        query = {"watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=inactive)
        path, rest = kind.path(namespace), b""
        answer = await self._answer("watch", "GET", kind, path, None, {**query, "labelSelector": selector}, timeout=limits)
        try:
            yield []
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                yield lines
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise _unreachable("watch", "GET", path, error) from error
        finally:
            answer.close()

    async def patch_status(self, kind: Kind, namespace: str, name: str, version: str, status: Object) -> Object:
        """Replace fields of a status; fails with 409 when the object is not at `version` any more."""
        body = {"metadata": {"resourceVersion": version}, "status": status}
        return await self._request("patch", "PATCH", kind, kind.path(namespace, name, "status"), body, {}, MERGE_PATCH)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Object) -> Object:
        """Change fields of an object (a merge patch)."""
        return await self._request("patch", "PATCH", kind, kind.path(namespace, name), patch, {}, MERGE_PATCH)

    async def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Delete exactly this object, its dependents after it; that it is gone already is fine."""
        body = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        try:
            await self._request("delete", "DELETE", kind, kind.path(namespace, name), body)
        except RequestFailed as failure:
            if failure.status == 409:  # another object has the name now, or so it should be
                found = await self.get(kind, namespace, name)
                if found is None or found["metadata"]["uid"] != uid:
                    return
            if failure.status != 404:
                raise

    async def log(self, namespace: str, pod: str, container: str, lines: int) -> str:
        """The last lines of a container's log, fewer where so many are too long; empty when there is none."""
        query = {"container": container, "limitBytes": str(LOG_BYTES)}
        try:
            while True:
                about = PODS.path(namespace, pod, "log"), None, {**query, "tailLines": str(lines)}
                data = await self._data("get", "GET", PODS, *about)
                if len(data) < LOG_BYTES or lines <= 1:
                    return str(data, "utf-8", "replace")
                lines = max(lines // 10, 1)  # the end was cut off
        except RequestFailed as failure:
            if failure.status in (400, 404):
                return ""
            raise

    async def _request(
        self,
        verb: str,
        method: str,
        kind: Kind,
        path: str,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        found: Object = orjson.loads(await self._data(verb, method, kind, path, body, query, content_type))
        return found

    async def _data(self, verb: str, method: str, kind: Kind, path: str, *about: Any) -> bytes:
        answer = await self._answer(verb, method, kind, path, *about)
        try:
            return await answer.read()
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            raise _unreachable(verb, method, path, error) from error

    async def _answer(
        self,
        verb: str,
        method: str,
        kind: Kind,
        path: str,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout: float | aiohttp.ClientTimeout = REQUEST_SECONDS,
    ) -> aiohttp.ClientResponse:
        """An answer that says that all is well; its body is still to be read."""
        url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers: dict[str, str] = {"Accept": "application/json, */*", "Content-Type": content_type}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        try:
            answered = await self._api.rest_client.request(method, url, headers, body, None, timeout)
            answer: aiohttp.ClientResponse = answered.response
            self.requests[verb, kind.kind, answer.status] += 1
            if 200 <= answer.status < 300:
                return answer
            data = await answer.read()
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            self.requests[verb, kind.kind, 0] += 1
            raise _unreachable(verb, method, path, error) from error
        raise _failure(verb, kind, answer.status, data, answer.headers.get("Retry-After"))


def _unreachable(verb: str, method: str, path: str, error: Exception) -> RequestFailed:
    return RequestFailed(verb, 0, "Unreachable", f"{method} {path}: {error!r}")


def _failure(verb: str, kind: Kind, status: int, data: bytes, retry_after: str | None) -> RequestFailed:
    seconds = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
    try:
        answer = orjson.loads(data)
        return RequestFailed(verb, status, answer.get("reason", ""), answer.get("message", ""), seconds)
    except (ValueError, AttributeError):
        if status == 404:  # of an object that is not there it speaks as of all else
            lacking = f"The API server serves no {kind.kind} of {kind.api_version}. Install it, or name a version that is served."
            return RequestFailed(verb, status, "NotServed", lacking, seconds)
        return RequestFailed(verb, status, "", data[:300].decode(errors="replace"), seconds)
