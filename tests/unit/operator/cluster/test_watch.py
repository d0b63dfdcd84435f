"""What a watch makes of what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from hpo_operator.cluster.client import JOBS, Client, RequestFailed
from hpo_operator.cluster.watch import Watch

from tests.unit.operator.cluster.objects import Object


def named(name: str) -> Object:
    return {"metadata": {"name": name, "namespace": "team-a", "resourceVersion": "2"}}


class Told:
    """A client of the API server with one list and one watch; then nothing more is heard of it."""

    async def pages(self, *_: Any) -> AsyncIterator[Object]:
        yield {"items": [named("a"), named("broken"), named("b")], "metadata": {"resourceVersion": "1"}}

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[Sequence[bytes]]:
        yield [json.dumps({"type": "MODIFIED", "object": named(each)}).encode() for each in ("broken", "c")]
        raise asyncio.CancelledError


def test_an_object_that_cannot_be_taken_in_keeps_nothing_from_being_heard_of_all_others(caplog: pytest.LogCaptureFixture) -> None:
    woken: list[str] = []

    def take(type_: str | None, seen: Object) -> str:
        if seen["metadata"]["name"] == "broken":
            raise ValueError("Invalid isoformat string: 'yesterday'")
        return str(seen["metadata"]["name"])

    watch = Watch(cast(Client, Told()), JOBS, None, "", take, woken.append, *[lambda: None] * 3)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch.run(60, 60))
    assert woken == ["a", "b", "c"]
    assert "Job team-a/broken cannot be taken in" in caplog.text


class Unserved:
    """A client of an API server on which the kind is not installed."""

    def __init__(self) -> None:
        self.tries = 0

    async def pages(self, *_: Any) -> AsyncIterator[Object]:
        self.tries += 1
        if self.tries > 1:
            raise asyncio.CancelledError
        raise RequestFailed("list", 404, "NotFound", "the server could not find the requested resource")
        yield {}


def test_a_kind_that_is_not_installed_is_told_of_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo_operator.cluster.watch.FIRST_PAUSE", 0.0)
    told: list[str] = []
    names = ("woken", "heard", "unserved", "gap")
    watch = Watch(
        cast(Client, Unserved()), JOBS, None, "", lambda *_: None, *[lambda *_, name=name: told.append(name) for name in names]
    )
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch.run(60, 60))
    assert told == ["unserved"]
