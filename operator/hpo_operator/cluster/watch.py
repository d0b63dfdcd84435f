"""Watching Trials and what they run, workloads and pods, of which there are a dozen events a Trial and more.

A list, then what changes after it. A watch that ends, or is cut, goes on from the last version that it has heard of. Only where the
API server does not remember that any more (410) is everything listed again; what was deleted in between is then not told of, and
the caller learns that there is a gap.

Studies, which are few, come through kopf. Its machinery for handlers, which are not needed here, costs half a millisecond of CPU an
event: for these that was more than a third of all that the operator used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import orjson

from hpo_operator.cluster.client import Client, Kind, Object, RequestFailed

log = logging.getLogger("hpo_operator")

FIRST_PAUSE, LAST_PAUSE = 1.0, 15.0  # seconds between tries; what the API server asks for goes before

NOT_SERVED, GONE = 404, 410

Take = Callable[[str | None, Object], str | None]


class Watch:
    """One kind of object, in one namespace or in all, by a label unless that is empty.

    Args:
        take: is told of each object, with None as it was listed, with ADDED, MODIFIED or DELETED as it changed; gives the uid of
            the Study that it is news for.
        wake: is called with that.
        heard: is called whenever the API server has said anything.
        unserved: is called when it says that it has no such kind, which may be installed later.
        gap: is called when deletions may have been missed.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind,
        namespace: str | None,
        label: str,
        take: Take,
        wake: Callable[[str], None],
        heard: Callable[[], None],
        unserved: Callable[[], None],
        gap: Callable[[], None],
    ) -> None:
        self._client, self._kind, self._namespace, self._label = client, kind, namespace, label
        self._take, self._wake, self._heard = take, wake, heard
        self._unserved, self._gap = unserved, gap
        self._version = ""

    async def run(self, seconds: int, inactive: float) -> None:
        """Watch until canceled: each watch for so many seconds at most, and none that says nothing for longer than `inactive`."""
        pause, listed, said = 0.0, False, ""
        while True:
            try:
                if not self._version:
                    await self._list()
                    if listed:
                        self._gap()
                    listed = True
                where = (self._kind, self._namespace, self._label, self._version)
                async for lines in self._client.watch(*where, seconds=seconds, inactive=inactive):
                    self._heard()
                    for line in lines:
                        self._hear(line)
                    pause = 0.0
            except RequestFailed as failure:
                if failure.status == GONE:
                    self._version = ""
                elif failure.status == NOT_SERVED:
                    self._unserved()
                pause = max(min(2 * pause, LAST_PAUSE), FIRST_PAUSE)
                if str(failure) != said:
                    log.warning("watching %s: %s", self._kind.resource, failure)
                    said = str(failure)
                await asyncio.sleep(max(pause, failure.retry_after))

    async def _list(self) -> None:
        async for page in self._client.pages(self._kind, self._namespace, self._label):
            self._heard()
            for item in page["items"]:
                self._tell(None, item)
            version = page["metadata"]["resourceVersion"]  # the same for all pages of one list
        self._version = version

    def _hear(self, line: bytes) -> None:
        event = orjson.loads(line)
        type_, seen = event["type"], event["object"]
        if type_ == "ERROR":
            raise RequestFailed("watch", int(seen.get("code") or 0), str(seen.get("reason")), str(seen.get("message")))
        self._version = seen["metadata"]["resourceVersion"]
        if type_ != "BOOKMARK":
            self._tell(type_, seen)

    def _tell(self, type_: str | None, seen: Object) -> None:
        try:
            uid = self._take(type_, seen)
        except Exception:  # whoever may write such an object must not bring down what all others need
            metadata = seen["metadata"]
            log.exception("%s %s/%s cannot be taken in", self._kind.kind, metadata.get("namespace"), metadata.get("name"))
            return
        if uid is not None:
            self._wake(uid)
