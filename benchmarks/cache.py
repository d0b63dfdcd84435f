"""Runs that have been made, kept as JSON lines so that asking again costs nothing."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

CACHE = Path(__file__).parent / ".cache"
ALGORITHMS = Path(__file__).resolve().parents[1] / "algorithms"


class Runs:
    """One file of the cache: what came out, by a key that names all that it depends on."""

    def __init__(self, name: str, folder: Path = CACHE) -> None:
        folder.mkdir(exist_ok=True)
        self._path = folder / f"{name}.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._known = {row["key"]: row for row in map(json.loads, lines)}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._known.values())

    def get(self, key: str) -> dict[str, Any] | None:
        return self._known.get(key)

    def put(self, key: str, made: Mapping[str, Any]) -> dict[str, Any]:
        row = {"key": key, **made}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._known[key] = row
        return row


@cache
def source_of(*references: str) -> str:
    """A digest of the source of our modules, as the registry names them, and of all of ours that they import.

    It changes whenever what they do may have changed, so that stale results are never read.
    """
    found: dict[str, bytes] = {}
    to_do = [reference.partition(":")[0] for reference in references]
    while to_do:
        module = to_do.pop()
        path = ALGORITHMS / Path(*module.split("."))
        path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        if module in found or not path.exists():
            continue
        found[module] = path.read_bytes()
        for node in ast.walk(ast.parse(found[module])):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hpo_algorithms"):
                to_do += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    digest = hashlib.blake2b(digest_size=6)
    for module in sorted(found):
        digest.update(found[module])
    return digest.hexdigest()
