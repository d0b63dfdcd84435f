"""Everything that the test bed raises on purpose.

TestbedError
├── NotEnclosed       asked to start outside of namespaces of its own
├── MissingTool       a program that this machine lacks, and how to get it
├── BuildFailed       `go build` refused
├── CommandFailed     a program that ran and exited with something else than 0
├── ProcessDied       a component ended although nobody stopped it
├── TimedOut          something waited for did not come
└── ApiError          the API server answered with an error
"""

from collections.abc import Sequence


class TestbedError(Exception):
    """The root of the tree."""

    __test__ = False  # pytest collects classes named Test… otherwise


class NotEnclosed(TestbedError):
    """The caller is not inside namespaces of its own, where the ports are free and nothing can leak."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} starts only inside namespaces of its own. Run the whole command inside: "
            "python -m tests.testbed.enclose -- python -m pytest tests/control_plane"
        )


class MissingTool(TestbedError):
    """A program is not on this machine; `remedy` says what to do."""

    def __init__(self, tool: str, remedy: str) -> None:
        super().__init__(f"{tool} is missing: {remedy}")
        self.tool, self.remedy = tool, remedy


class BuildFailed(TestbedError):
    """`go build` refused; the message ends with what it said."""

    def __init__(self, module: str, output: str) -> None:
        super().__init__(
            f"building {module} failed. The Go module proxy must be reachable (go env GOPROXY) and go must be as new as "
            f"the go line of tests/testbed/modules/{module}/go.mod. It said:\n{tail(output, 30)}"
        )
        self.module, self.output = module, output


class CommandFailed(TestbedError):
    """A program exited with another status than 0."""

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"{' '.join(command)} exited with {status}:\n{tail(output, 30)}")
        self.command, self.status, self.output = tuple(command), status, output


class ProcessDied(TestbedError):
    """A component ended by itself; the message ends with the tail of its log."""

    def __init__(self, name: str, status: int, log: str) -> None:
        super().__init__(f"{name} ended with {status}. The end of its log:\n{tail(log, 20)}")
        self.name, self.status = name, status


class TimedOut(TestbedError):
    """What was waited for did not come in time; `last` is what was seen last."""

    def __init__(self, what: str, seconds: float, last: object = None) -> None:
        super().__init__(f"waited {seconds:g} s for {what}" + (f"; last seen: {last}" if last is not None else ""))
        self.what, self.seconds, self.last = what, seconds, last


class ApiError(TestbedError):
    """The API server refused a request: HTTP `status`, CamelCase `reason`, `message`."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


def tail(text: str, lines: int) -> str:
    """The last lines of a long text."""
    return "\n".join(text.rstrip().splitlines()[-lines:])
