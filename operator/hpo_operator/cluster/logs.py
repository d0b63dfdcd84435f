"""A log searched for a Study's pattern, in a process of its own with limits on time and memory.

A pattern is the user's, and one that backtracks without end would hold the whole operator: Python's `re` lets nothing else run
meanwhile, and cannot be interrupted.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections.abc import Sequence

from hpo_operator.reports import Report, final_message, log_reports

CPU_SECONDS = 10
WALL_SECONDS = 60.0  # for a process that does not get its share of the processor
MEMORY_BYTES = 1 << 30
MAX_LINE = 65536  # what is longer is no metric
MAX_METRICS = 64  # of the names that a pattern takes from the log; those that the Study needs go first
MAX_NAME = 128  # characters of such a name: what is longer finds no place in a status
MAX_ANSWER = 1 << 20

_CHILD = (sys.executable, "-P", "-c", "from hpo_operator.cluster.logs import main; main()")


class SearchFailed(Exception):
    """A log could not be searched to its end."""


async def search(text: str, pattern: str, wanted: Sequence[str]) -> Report:
    """The report that a pattern finds in a log. Raises SearchFailed."""
    question = json.dumps({"pattern": pattern, "wanted": list(wanted), "text": text}).encode()
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*_CHILD, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(WALL_SECONDS):
            answer, _ = await child.communicate(question)
    except TimeoutError:
        raise SearchFailed(f"the log could not be searched within {WALL_SECONDS:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        why = f"takes more than {CPU_SECONDS} s or {MEMORY_BYTES >> 30} GiB, or fails"
        raise SearchFailed(f"metrics.logs.pattern {pattern!r} {why} on this log (status {child.returncode})")
    return final_message(answer[:MAX_ANSWER].decode()) or Report()


def main() -> None:
    """The process: a question as JSON on stdin, a final message as the SDK writes it on stdout."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    question = json.load(sys.stdin.buffer)
    print(found_in(question["text"], question["pattern"], question["wanted"]))


def found_in(text: str, pattern: str, wanted: Sequence[str]) -> str:
    """What a pattern finds in a log, as a final message."""
    report = Report()
    lines = (line for line in text.replace("\r", "\n").split("\n") if len(line) <= MAX_LINE)
    for step, found in log_reports(lines, pattern):
        longest = MAX_NAME if len(report.metrics) < MAX_METRICS else 0
        known = [name for name in found if name in wanted or name in report.metrics or len(name) <= longest]
        report = report.followed_by(step, {name: found[name] for name in known})
    metrics = {name: [repr(each.last), repr(each.lowest), repr(each.highest)] for name, each in report.metrics.items()}
    return json.dumps({"hpo": 1, "step": report.step, "metrics": metrics})
