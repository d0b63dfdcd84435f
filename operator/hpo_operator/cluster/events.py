"""Events that a user can read with `kubectl describe`, repeats folded into one whose count grows.

They are a courtesy, never the record: one that cannot be written is dropped, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from hpo_operator.cluster.client import EVENTS, Client, RequestFailed

log = logging.getLogger("hpo_operator")

COMPONENT = "hpo-operator"
FOLD_SECONDS = 30.0  # a repeat is written at most this often
FORGET_SECONDS = 3600.0  # the API server forgets an Event after an hour
MAX_WAITING = 1000
MAX_MESSAGE = 1024

Type = Literal["Normal", "Warning"]
Key = tuple[str, str]


@dataclass(slots=True)
class _Known:
    """An Event that was written, and how often it has happened since."""

    namespace: str
    name: str
    message: str
    written: float
    count: int = 1
    told: bool = True


class Recorder:
    """Writes Events in the background. One Event an object and reason: what repeats is counted."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[Key, _Known] = {}
        self._queue: asyncio.Queue[tuple[Mapping[str, Any], Type, str, str]] = asyncio.Queue(MAX_WAITING)

    def record(self, about: Mapping[str, Any], type: Type, reason: str, message: str) -> None:
        """Say something about an object, given as the API server has it."""
        try:
            self._queue.put_nowait((about, type, reason, message[:MAX_MESSAGE]))
        except asyncio.QueueFull:
            log.debug("an Event is dropped: %s %s", reason, message)

    async def run(self) -> None:
        """Write until canceled."""
        while True:
            try:
                async with asyncio.timeout(FOLD_SECONDS):
                    said = await self._queue.get()
                await self._write(*said)
            except TimeoutError:
                await self._tell_repeats()
            except RequestFailed as failure:
                log.debug("an Event could not be written: %s", failure)
            except Exception:
                log.exception("an Event could not be written")

    async def _write(self, about: Mapping[str, Any], type_: Type, reason: str, message: str) -> None:
        metadata = about["metadata"]
        known = self._known.get((metadata["uid"], reason))
        if known is None:
            name = f"{metadata['name']}.{secrets.token_hex(8)}"
            await self._client.create(EVENTS, metadata["namespace"], _event(about, name, type_, reason, message))
            self._known[metadata["uid"], reason] = _Known(metadata["namespace"], name, message, time.monotonic())
        else:
            known.count, known.message, known.told = known.count + 1, message, False
        await self._tell_repeats()

    async def _tell_repeats(self) -> None:
        now = time.monotonic()
        for key, each in list(self._known.items()):
            if now - each.written > FORGET_SECONDS:
                del self._known[key]
            elif not each.told and now - each.written >= FOLD_SECONDS:
                each.told, each.written = True, now
                patch = {"count": each.count, "message": each.message, "lastTimestamp": _now()}
                await self._client.patch(EVENTS, each.namespace, each.name, patch)


def _event(about: Mapping[str, Any], name: str, type_: Type, reason: str, message: str) -> dict[str, Any]:
    metadata, now = about["metadata"], _now()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": type_,
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
