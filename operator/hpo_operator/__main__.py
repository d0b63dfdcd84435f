"""`python -m hpo_operator`: the operator process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys

from hpo_operator.cluster.process import Settings, run


def main() -> int:
    """Run the operator until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser("python -m hpo_operator", description="The hpo-operator process.")
    parser.add_argument("--namespace", action="append", default=[], help="watch only this namespace; may be repeated")
    parser.add_argument("--verbose", action="store_true", help="log debug messages")
    arguments = parser.parse_args()
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    asyncio.run(_main(Settings(namespaces=tuple(arguments.namespace))))
    return 0


async def _main(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    await run(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
