"""A small client of the API server for tests: no cache, no retries, one connection a thread.

Objects are plain dictionaries, named by kind as in a manifest:

    api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}})
    api.get("v1", "ConfigMap", "a", namespace="default")
"""

import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from .errors import ApiError

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

REQUEST_SECONDS = 30.0
IDLE_SECONDS = 30.0


class Resource(NamedTuple):
    """Where the objects of a kind are found: the last part of the path, and whether a namespace stands before it."""

    plural: str
    namespaced: bool


class Api:
    """Requests to one API server as one user."""

    def __init__(self, host: str, port: int, token: str, certificate: Path, field_manager: str = "testbed") -> None:
        self.host, self.port, self.token, self.field_manager = host, port, token, field_manager
        self._tls = ssl.create_default_context(cafile=str(certificate))
        self._local = threading.local()
        self._resources: dict[tuple[str, str], Resource] = {}

    def create(self, obj: Mapping[str, Any]) -> Object:
        """Creates the object and returns it as stored."""
        metadata = obj["metadata"]
        path = self.path(obj["apiVersion"], obj["kind"], namespace=metadata.get("namespace", "default"))
        return self.request("POST", path, body=obj)

    def apply(self, obj: Mapping[str, Any], *, subresource: str = "") -> Object:
        """Creates the object or changes it to this (server-side apply, by force)."""
        metadata = obj["metadata"]
        path = self.path(obj["apiVersion"], obj["kind"], metadata["name"], metadata.get("namespace", "default"), subresource)
        query = {"fieldManager": self.field_manager, "force": "true"}
        return self.request("PATCH", path, body=obj, query=query, content_type=APPLY_PATCH)

    def get(self, api_version: str, kind: str, name: str, namespace: str = "default", subresource: str = "") -> Object:
        """Reads one object. Raises ApiError 404 when there is none."""
        return self.request("GET", self.path(api_version, kind, name, namespace, subresource))

    def find(self, api_version: str, kind: str, name: str, namespace: str = "default") -> Object | None:
        """Reads one object, or None when there is none."""
        try:
            return self.get(api_version, kind, name, namespace)
        except ApiError as error:
            if error.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise

    def objects(self, api_version: str, kind: str, namespace: str = "", **query: str) -> list[Object]:
        """Reads all objects of a kind, of one namespace or of all; `labelSelector` and the like go into the query."""
        answer = self.request("GET", self.path(api_version, kind, namespace=namespace), query=query)
        items: list[Object] = answer["items"]
        return items

    def patch(
        self,
        api_version: str,
        kind: str,
        name: str,
        patch: object,
        namespace: str = "default",
        subresource: str = "",
        content_type: str = MERGE_PATCH,
    ) -> Object:
        """Changes one object."""
        path = self.path(api_version, kind, name, namespace, subresource)
        return self.request("PATCH", path, body=patch, content_type=content_type)

    def delete(self, api_version: str, kind: str, name: str, namespace: str = "default", **options: Any) -> Object:
        """Deletes one object in the background (Kubernetes' own default orphans the pods of a Job)."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", **options}
        return self.request("DELETE", self.path(api_version, kind, name, namespace), body=body)

    def delete_all(self, api_version: str, kind: str, namespace: str, **options: Any) -> None:
        """Deletes all objects of a kind in one namespace."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background", **options}
        self.request("DELETE", self.path(api_version, kind, namespace=namespace), body=body)

    def watch(
        self, api_version: str, kind: str, namespace: str = "", *, seconds: int = 300, **query: str
    ) -> Iterator[tuple[str, Object]]:
        """Yields (ADDED | MODIFIED | DELETED | …, object) over a connection of its own until `seconds` have passed."""
        path = self.path(api_version, kind, namespace=namespace)
        asked = urlencode({"watch": "1", "timeoutSeconds": str(seconds), **query})
        connection = http.client.HTTPSConnection(self.host, self.port, context=self._tls, timeout=seconds + 5)
        try:
            connection.request("GET", f"{path}?{asked}", headers=self._headers())
            response = connection.getresponse()
            if response.status >= http.HTTPStatus.BAD_REQUEST:
                raise _api_error(response.status, response.read())
            for line in response:
                event = json.loads(line)
                yield event["type"], event["object"]
        finally:
            connection.close()

    def path(self, api_version: str, kind: str, name: str = "", namespace: str = "", subresource: str = "") -> str:
        """The path of an object, or of the collection where no name is given."""
        resource = self._resource(api_version, kind)
        parts = [_group_path(api_version)]
        if resource.namespaced and namespace:
            parts += ["namespaces", quote(namespace)]
        parts += [resource.plural, quote(name), subresource]
        return "/".join(part for part in parts if part)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Sends one request and returns the answer, parsed. Raises ApiError, or OSError when nobody answers."""
        status, text = self._send(method, path, body, query, content_type)
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise _api_error(status, text)
        answer: Object = json.loads(text)
        return answer

    def text(self, path: str, **query: str) -> str:
        """Reads what is no JSON: a pod's log, /readyz, /metrics."""
        status, text = self._send("GET", path, None, query, "application/json")
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise _api_error(status, text)
        return text.decode(errors="replace")

    def _send(self, method: str, path: str, body: object, query: Mapping[str, str] | None, content_type: str) -> tuple[int, bytes]:
        connection = self._connection()
        target = f"{path}?{urlencode(query)}" if query else path
        payload = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, target, body=payload, headers={**self._headers(), "Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        except http.client.HTTPException as error:
            connection.close()
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        except OSError:
            connection.close()
            raise

    def _connection(self) -> http.client.HTTPSConnection:
        idle = time.monotonic() - getattr(self._local, "used", 0.0)
        self._local.used = time.monotonic()
        if idle > IDLE_SECONDS and hasattr(self._local, "connection"):
            self._local.connection.close()  # the server may have done so, and it opens anew by itself
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPSConnection(self.host, self.port, context=self._tls, timeout=REQUEST_SECONDS)
        connection: http.client.HTTPSConnection = self._local.connection
        return connection

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}

    def _resource(self, api_version: str, kind: str) -> Resource:
        if (api_version, kind) not in self._resources:
            for entry in self.request("GET", _group_path(api_version))["resources"]:
                if "/" not in entry["name"]:
                    self._resources[api_version, entry["kind"]] = Resource(entry["name"], entry["namespaced"])
        try:
            return self._resources[api_version, kind]
        except KeyError:
            raise ApiError(404, "UnknownKind", f"the API server knows no {kind} in {api_version}") from None


def _group_path(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _api_error(status: int, body: bytes) -> ApiError:
    try:
        answer = json.loads(body)
        return ApiError(status, answer.get("reason", ""), answer.get("message", ""))
    except (ValueError, AttributeError):
        return ApiError(status, "", body.decode(errors="replace")[:500])
