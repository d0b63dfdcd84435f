"""Events: one an object and reason, repeats counted, and nothing waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hpo_operator.cluster import events
from hpo_operator.cluster.client import Client, Kind, RequestFailed
from hpo_operator.cluster.events import Recorder

STUDY = {
    "apiVersion": "hpo.dev/v1alpha1",
    "kind": "Study",
    "metadata": {"name": "digits", "namespace": "team-a", "uid": "u", "resourceVersion": "5"},
}


class ApiServer:
    """Keeps what is written, and refuses when it is told to."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.patched: list[dict[str, Any]] = []
        self.refuses, self.refused = False, 0

    async def create(self, kind: Kind, namespace: str, body: dict[str, Any]) -> None:
        if self.refuses:
            self.refused += 1
            raise RequestFailed("create", 403, "Forbidden", "no")
        self.created.append(body)

    async def patch(self, kind: Kind, namespace: str, name: str, patch: dict[str, Any]) -> None:
        self.patched.append(patch)


async def seen(something: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not something():
            await asyncio.sleep(0.01)


def written(said: list[tuple[str, str]], server: ApiServer, until: Callable[[ApiServer], object]) -> ApiServer:
    """What stands in the API server after these (reason, message), once that is true of it."""

    async def run() -> None:
        recorder = Recorder(cast(Client, server))
        writing = asyncio.create_task(recorder.run())
        for reason, message in said:
            recorder.record(STUDY, "Warning", reason, message)
        await seen(lambda: until(server))
        writing.cancel()

    asyncio.run(run())
    return server


def _has_counted_five(server: ApiServer) -> bool:
    return any(each["count"] == 5 for each in server.patched)


def test_an_event_is_about_its_object_and_comes_from_the_operator() -> None:
    (event,) = written([("ProgramFailed", "digits-3: exit code 1.")], ApiServer(), lambda server: server.created).created
    assert event["involvedObject"]["uid"] == "u"
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "ProgramFailed", "digits-3: exit code 1.")
    assert event["source"] == {"component": "hpo-operator"}
    assert event["metadata"]["namespace"] == "team-a"


def test_repeats_are_folded_and_told_with_their_count_and_the_last_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "FOLD_SECONDS", 0.1)
    server = written([("ProgramFailed", f"digits-{n}: exit code 1.") for n in range(5)], ApiServer(), _has_counted_five)
    assert len(server.created) == 1
    assert server.patched[-1]["count"] == 5
    assert server.patched[-1]["message"] == "digits-4: exit code 1."


def test_different_reasons_are_different_events() -> None:
    server = written([("ProgramFailed", "a"), ("EarlyStopped", "b")], ApiServer(), lambda server: len(server.created) > 1)
    assert [each["reason"] for each in server.created] == ["ProgramFailed", "EarlyStopped"]


def test_an_event_that_is_refused_is_dropped_and_the_next_one_is_written() -> None:
    server = ApiServer()

    async def run() -> None:
        recorder = Recorder(cast(Client, server))
        writing = asyncio.create_task(recorder.run())
        server.refuses = True
        recorder.record(STUDY, "Normal", "A", "")
        await seen(lambda: server.refused)
        server.refuses = False
        recorder.record(STUDY, "Normal", "B", "")
        await seen(lambda: server.created)
        writing.cancel()

    asyncio.run(run())
    assert [each["reason"] for each in server.created] == ["B"]


def test_a_flood_of_events_is_cut_off_and_nobody_waits() -> None:
    async def run() -> None:
        recorder = Recorder(cast(Client, ApiServer()))
        for number in range(events.MAX_WAITING + 10):
            recorder.record(STUDY, "Normal", f"Reason{number}", "")

    asyncio.run(run())
