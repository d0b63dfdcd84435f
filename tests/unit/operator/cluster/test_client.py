"""What is asked of the API server, where one answer does not do."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hpo_operator.cluster import client as module
from hpo_operator.cluster.client import Client, Kind, Object
from kubernetes.aio.client import ApiClient


class Kubelet(Client):
    """Serves a log as a kubelet does: so many of its last lines, and of these so many bytes from their beginning."""

    def __init__(self, text: str) -> None:
        super().__init__(cast(ApiClient, None))
        self._text = text

    async def _data(
        self, verb: str, method: str, kind: Kind, path: str, body: Object | None = None, query: Any = None, *_: Any
    ) -> bytes:
        lines = self._text.encode().splitlines(keepends=True)[-int(query["tailLines"]) :]
        return b"".join(lines)[: int(query["limitBytes"])]


@pytest.mark.parametrize("width", [10, 400, 5000], ids=["short lines", "long ones", "none fits"])
def test_the_end_of_a_log_is_read_however_long_its_lines_are(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 4000)
    text = "".join(f"{'.' * width} loss={number}\n" for number in range(100))
    read = asyncio.run(Kubelet(text).log("team-a", "digits-0-a", "main", 100))
    assert len(read) <= 4000
    assert read.endswith(" loss=99\n") or width == 5000
