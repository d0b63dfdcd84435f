"""Runs one command, and all that it starts, in namespaces of its own (see namespaces.py).

    python -m tests.testbed.enclose -- python -m pytest tests/control_plane

Exits with the command's status, or 128 + n when signal n ended it.
"""

import sys
from collections.abc import Sequence

from .errors import TestbedError
from .namespaces import enclose, init


def main(arguments: Sequence[str]) -> int:
    """`[--init] -- command …`; the flag is for the test bed's own use: it is process 1 inside."""
    inside = arguments[:1] == ["--init"]
    command = [*arguments[1:]] if inside else [*arguments]
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        print("usage: python -m tests.testbed.enclose -- command [argument …]", file=sys.stderr)
        return 2
    try:
        return init(command) if inside else enclose(command)
    except TestbedError as error:
        print(f"enclose: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
