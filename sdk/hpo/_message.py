"""The final message: one line of JSON, the last of the termination file, that says how far a Trial came and how good it is.

    {"hpo":1,"step":27,"metrics":{"val_loss":["0.031","0.029","0.9"]}}       [last, lowest, highest] of this run
    {"hpo":1,"step":27,"metrics":{…},"checkpoint":{"step":27,"digest":"sha256:…","path":"step-27","bytes":1203},"restored":{…}}
    {"hpo":1,"infeasible":"batch 4096 does not fit the GPU"}
    {"hpo":1,"donorUnavailable":"digits-3: 'model.pt' is missing"}

It never takes more than 1,024 bytes, and 312 more where a checkpoint was saved or restored. The kubelet keeps 4 kB of the
file, but shares 12 kB among all containers of a pod, so that 1 kB is what a pod with twelve of them still delivers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from hpo._values import as_short_text, as_text

LONGEST_LINE = 1024

# With the comma behind it, `"a":["0","0","0"],` in a result; below that there is no need to look at thousands of metrics more.
_SHORTEST_ENTRY = 18

# What a line may take in addition for checkpoints, so that they never push an objective out: the newest one's record with a
# step of ten digits and a terabyte, and where the first came from, with a name of 63 bytes.
LONGEST_CHECKPOINTS = 312

# How a line of ours begins, for those who look for it between what others wrote.
MARK = b'{"hpo":1,'


class Saved(NamedTuple):
    """The newest complete checkpoint; `path` is relative to the Trial's own folder, `bytes` what its files take together."""

    step: int
    digest: str
    path: str
    bytes: int


class Restored(NamedTuple):
    """Which other Trial's checkpoint this Trial began from, and what copying it took."""

    trial: str
    step: int
    bytes: int
    seconds: float


class Summary(NamedTuple):
    """One metric over the reports of this run; NaN never becomes the lowest or highest while a number was seen."""

    last: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, value: float) -> Summary:
        """After the first report."""
        return cls(value, value, value)

    def then(self, value: float) -> Summary:
        """After one report more."""
        if math.isnan(value):
            return self._replace(last=value)
        if math.isnan(self.lowest):
            return Summary.of(value)
        return Summary(value, min(self.lowest, value), max(self.highest, value))


def result_line(
    step: int,
    summaries: Mapping[str, Summary],
    objectives: Iterable[str],
    saved: Saved | None = None,
    restored: Restored | None = None,
) -> bytes:
    """The line for what was reported so far; `objectives` are kept before all others, most important first.

    Where even these do not fit, they are shortened to nine digits; then, as all other metrics, left out if there is no room.
    """
    checkpoints = _checkpoints(saved, restored)
    head, tail = f'{MARK.decode()}"step":{step},"metrics":{{'.encode(), b"}}\n"
    room = LONGEST_LINE - len(head) - len(tail)
    needed = [name for name in objectives if name in summaries]
    entries = [_entry(name, summaries[name], as_text) for name in needed]
    if _length(entries) > room:
        entries = _that_fit([_entry(name, summaries[name], as_short_text) for name in needed], room)
    others = (_entry(name, summary, as_text) for name, summary in summaries.items() if name not in needed)
    metrics = b",".join([*entries, *_that_fit(others, room - _length(entries))])
    return b",".join([head + metrics + b"}", *checkpoints]) + b"}\n"


def checkpoints_line(saved: Saved | None, restored: Restored | None) -> bytes:
    """The line before anything was reported: of checkpoints alone, so that nobody takes it for a result without metrics."""
    return MARK + b",".join(_checkpoints(saved, restored)) + b"}\n"


def donor_unavailable_line(reason: str) -> bytes:
    """The line that ends a Trial which cannot have the checkpoint that it should start from; a long reason is cut."""
    return _told("donorUnavailable", reason)


def infeasible_line(reason: str) -> bytes:
    """The line that ends a Trial whose parameters cannot be run; a long reason is cut."""
    return _told("infeasible", reason)


def _told(what: str, reason: str) -> bytes:
    text = reason.encode("utf-8", "replace").decode()
    kept = min(len(text), LONGEST_LINE)
    while True:
        shown = text if kept == len(text) else text[:kept] + "…"
        line = MARK + f'"{what}":{json.dumps(shown, ensure_ascii=False)}}}\n'.encode()
        excess = len(line) - LONGEST_LINE
        if excess <= 0:
            return line
        kept -= max(1, excess // 6)  # no character takes more than six bytes: never more is cut than must be


def _checkpoints(saved: Saved | None, restored: Restored | None) -> list[bytes]:
    """The newest checkpoint's record, and where the first came from if there is room for that, too."""
    parts = []
    if saved is not None:
        parts.append(f'"checkpoint":{_compact(saved._asdict())}'.encode())
    if restored is not None:
        origin = {"from": restored.trial, "step": restored.step, "bytes": restored.bytes, "seconds": round(restored.seconds, 3)}
        parts.append(f'"restored":{_compact(origin)}'.encode())
    return _that_fit(parts, LONGEST_CHECKPOINTS)


def _compact(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _entry(name: str, summary: Summary, text: Callable[[float], str]) -> bytes:
    last, lowest, highest = (text(value) for value in summary)
    return f'{json.dumps(name, ensure_ascii=False)}:["{last}","{lowest}","{highest}"]'.encode()


def _length(entries: Sequence[bytes]) -> int:
    """Bytes that the entries take, each with the comma before what follows."""
    return sum(len(entry) + 1 for entry in entries)


def _that_fit(entries: Iterable[bytes], room: int) -> list[bytes]:
    kept = []
    for entry in entries:
        if room < _SHORTEST_ENTRY:
            break
        if len(entry) + 1 <= room:
            kept.append(entry)
            room -= len(entry) + 1
    return kept
