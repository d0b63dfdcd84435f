"""The final message: one line of JSON, the last of the termination file, that says how far a Trial came and how good it is.

    {"hpo":1,"step":27,"metrics":{"val_loss":["0.031","0.029","0.9"]}}       [last, lowest, highest] of this run
    {"hpo":1,"infeasible":"batch 4096 does not fit the GPU"}

It never takes more than 1,024 bytes. The kubelet keeps 4 kB of the file, but shares 12 kB among all containers of a pod, so
that 1 kB is what a pod with twelve of them still delivers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from hpo._values import as_short_text, as_text

LONGEST_LINE = 1024

# How a line of ours begins, for those who look for it between what others wrote.
MARK = b'{"hpo":1,'


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


def result_line(step: int, summaries: Mapping[str, Summary], objectives: Iterable[str]) -> bytes:
    """The line for what was reported so far; `objectives` are kept before all others, most important first.

    Where even these do not fit, they are shortened to nine digits; then, as all other metrics, left out if there is no room.
    """
    head, tail = f'{MARK.decode()}"step":{step},"metrics":{{'.encode(), b"}}\n"
    room = LONGEST_LINE - len(head) - len(tail)
    needed = [name for name in objectives if name in summaries]
    entries = [_entry(name, summaries[name], as_text) for name in needed]
    if _length(entries) > room:
        entries = _that_fit([_entry(name, summaries[name], as_short_text) for name in needed], room)
    others = (_entry(name, summary, as_text) for name, summary in summaries.items() if name not in needed)
    return head + b",".join([*entries, *_that_fit(others, room - _length(entries))]) + tail


def infeasible_line(reason: str) -> bytes:
    """The line that ends a Trial whose parameters cannot be run; a long reason is cut."""
    text = reason.encode("utf-8", "replace").decode()
    kept = min(len(text), LONGEST_LINE)
    while True:
        shown = text if kept == len(text) else text[:kept] + "…"
        line = MARK + f'"infeasible":{json.dumps(shown, ensure_ascii=False)}}}\n'.encode()
        excess = len(line) - LONGEST_LINE
        if excess <= 0:
            return line
        kept -= max(1, excess // 6)  # no character takes more than six bytes: never more is cut than must be


def _entry(name: str, summary: Summary, text: Callable[[float], str]) -> bytes:
    last, lowest, highest = (text(value) for value in summary)
    return f'{json.dumps(name, ensure_ascii=False)}:["{last}","{lowest}","{highest}"]'.encode()


def _length(entries: Sequence[bytes]) -> int:
    """Bytes that the entries take, each with the comma before what follows."""
    return sum(len(entry) + 1 for entry in entries)


def _that_fit(entries: Iterable[bytes], room: int) -> list[bytes]:
    kept = []
    for entry in entries:
        if len(entry) + 1 <= room:
            kept.append(entry)
            room -= len(entry) + 1
    return kept
