"""What a watch makes of what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest
from hpo_operator.cluster.client import JOBS, Client
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

    watch = Watch(cast(Client, Told()), JOBS, None, "", take, woken.append, lambda: None, lambda: None)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch.run(60, 60))
    assert woken == ["a", "b", "c"]
    assert "Job team-a/broken cannot be taken in" in caplog.text
