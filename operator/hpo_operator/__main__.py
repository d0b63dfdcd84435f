"""`python -m hpo_operator`: the operator process."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from hpo_algorithms import InvalidInput

from hpo_operator.cluster.process import run
from hpo_operator.cluster.settings import Settings, read_settings

KEYS = ("study", "trial")  # of a log line, beside its message


def main(given: Sequence[str] | None = None) -> int:
    """Run the operator until SIGTERM or SIGINT. Exits with 2 when its configuration is wrong."""
    parser = argparse.ArgumentParser("python -m hpo_operator", description="The hpo-operator process.")
    parser.add_argument("--config", type=Path, help="a YAML file with the installer's settings")
    parser.add_argument("--namespace", action="append", default=[], help="watch only this namespace; may be repeated")
    parser.add_argument("--port", type=int, help="of /metrics and /healthz; 0 for none (8080)")
    parser.add_argument("--prometheus-url", help="where metrics are read")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--verbose", action="store_true", help="log debug messages")
    arguments = parser.parse_args(given)
    flags = {
        "namespaces": arguments.namespace or None,
        "port": arguments.port,
        "prometheus": {"url": arguments.prometheus_url} if arguments.prometheus_url else None,
    }
    try:
        settings = read_settings(arguments.config, {name: value for name, value in flags.items() if value is not None})
    except InvalidInput as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return 2
    _log(arguments.log_format, logging.DEBUG if arguments.verbose else logging.INFO)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(settings))
    return 0


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    await run(settings, stop)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # kopf's watches mind being closed, and say so at each stop


def _log(form: str, level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines() if form == "json" else _Text("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("kopf").setLevel(logging.WARNING)


class _Text(logging.Formatter):
    """A line for people, its keys at the end."""

    def format(self, record: logging.LogRecord) -> str:
        keys = " ".join(f"{key}={vars(record)[key]}" for key in KEYS if key in vars(record))
        return f"{super().format(record)} {keys}".rstrip()


class _Lines(logging.Formatter):
    """A line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": self.formatTime(record), "level": record.levelname, "message": record.getMessage()}
        line |= {key: vars(record)[key] for key in KEYS if key in vars(record)}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


if __name__ == "__main__":
    sys.exit(main())
