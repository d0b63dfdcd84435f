"""`hpo exec`: runs a program that knows nothing of Studies, and reports the metrics that it prints.

The program's output passes through unchanged and at once, its signals and its exit code too: whoever runs `hpo exec program`
sees what running the program would show. As the first process of a container it also collects orphans, as an init would.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple

from hpo._environment import Environment
from hpo._errors import HPOError
from hpo._notices import note, note_once
from hpo._report import Reporter, reporter
from hpo._scan import Lines, Pattern, StepPattern, Steps, StepWords, Watch

if TYPE_CHECKING:
    from hpo._checkpoints_watch import CheckpointWatch

USAGE = """\
usage: hpo exec [--pattern REGEX]... [--step-pattern REGEX] [--verbose] -- PROGRAM [ARGUMENT]...

Runs a program that only prints, and reports the metrics found in its output.

  --pattern REGEX       what to look for in each line; may be given several times. Its named groups are the metrics:
                          --pattern 'loss (?P<val_loss>\\S+)'
                        or `metric` and `value` for metrics of any name, and `step` for the step:
                          --pattern '\\[(?P<step>\\d+)\\] (?P<metric>\\w+) -> (?P<value>\\S+)'
                        Left out: name=number and name: number, as in `val_loss: 0.31`.
  --step-pattern REGEX  lines that say where the training stands, by a group: --step-pattern 'round (\\d+)'
                        Left out: the number after the word epoch, step or iteration.
  --verbose             say on stderr what is reported
  -h, --help            show this

The parameters are in the environment, as HPO_PARAM_<NAME> each and as JSON in HPO_PARAMETERS.
The exit code is the program's, or 128 + N if signal N ended it; 127 if it is not found, 126 if it cannot be run, 2 if the
command line is wrong.
"""

NOT_FOUND, NOT_EXECUTABLE, BAD_INPUT = 127, 126, 2

_CHUNK = 64 * 1024

# How soon the program's end is noticed by those who copy its output, if something that it left behind holds the pipe open.
_LOOK_SECONDS = 0.5

# What the program can have written before its end and is not yet read.
_LARGEST_PIPE = 1024 * 1024


class Request(NamedTuple):
    """What the command line asks for."""

    patterns: list[Pattern]
    steps: Steps | None
    verbose: bool
    command: list[str]


class UsageError(Exception):
    """The command line cannot be understood."""


def main(arguments: Sequence[str]) -> int:
    """Runs `hpo exec` and returns its exit code."""
    if list(arguments[:1]) in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    try:
        request = parse(arguments)
        reports = reporter(echo=request.verbose)
    except (UsageError, HPOError) as error:
        note(f"exec: {error}")
        return BAD_INPUT
    checkpoints = _checkpoints(reports)
    if checkpoints:
        checkpoints.look()  # what was copied for the program, before newer ones hide it
    report = checkpoints.report if checkpoints else reports.report
    code = run(request.command, Watch(request.patterns, request.steps, report, Environment().objectives))
    if checkpoints:
        checkpoints.look()
    missing = [name for name in Environment().objectives if name not in reports.summaries]
    if code == 0 and missing:
        note(f"exec: no number was found in the program's output for {', '.join(missing)}; `hpo exec --help` tells of --pattern")
    return code


def _checkpoints(reports: Reporter) -> CheckpointWatch | None:
    environment = Environment()
    if environment.checkpoint_dir is None:
        return None
    from hpo._checkpoints_objects import ObjectStore, is_url
    from hpo._checkpoints_store import Store
    from hpo._checkpoints_watch import CheckpointWatch

    kind = ObjectStore if is_url(environment.checkpoint_dir) else Store
    return CheckpointWatch(reports, kind(environment.checkpoint_dir, environment.checkpoint_keep))


def parse(arguments: Sequence[str]) -> Request:
    """Reads the command line; raises `UsageError` or `InvalidPattern`."""
    patterns: list[Pattern] = []
    steps: Steps | None = None
    verbose = False
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        option, joined, value = rest.pop(0).partition("=")
        if option == "--":
            break
        if option == "--verbose" and not joined:
            verbose = True
        elif option in ("--pattern", "--step-pattern"):
            if not joined and not rest:
                raise UsageError(f"{option} needs a regular expression")
            text = value if joined else rest.pop(0)
            if option == "--pattern":
                patterns.append(Pattern(text))
            else:
                steps = StepPattern(text)
        else:
            raise UsageError(f"unknown option {option}; `hpo exec --help` shows all, and the program stands after --")
    if not rest:
        raise UsageError("no program is given: hpo exec [options] -- program arguments")
    if steps is None and not any(pattern.has_step for pattern in patterns):
        steps = StepWords()
    return Request(patterns or [Pattern()], steps, verbose, rest)


def run(command: Sequence[str], watch: Watch) -> int:
    """Runs the program to its end, and returns what it exited with as a shell would say it."""
    # Signals come as bytes through a pipe: none is lost before the program has started, nor between looking and waiting.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        if number == signal.SIGCHLD or signal.getsignal(number) != signal.SIG_IGN:  # nohup and & mean the program, too
            signal.signal(number, lambda number, frame: None)
    # Python programs would otherwise keep their lines back until some kilobytes are full; the bytes are the same.
    environment = {"PYTHONUNBUFFERED": "1", **os.environ}
    try:
        program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment)
    except OSError as error:
        return _not_started(command[0], error)
    assert program.stdout and program.stderr
    ended = threading.Event()
    pumps = [
        threading.Thread(target=_pump, args=(source, target, watch, ended), daemon=True)
        for source, target in ((program.stdout, 1), (program.stderr, 2))
    ]
    for pump in pumps:
        pump.start()
    program.returncode = _wait(program.pid, reading)
    ended.set()
    for pump in pumps:
        pump.join()
    return program.returncode if program.returncode >= 0 else 128 - program.returncode


def _wait(program: int, signals: int) -> int:
    """Hands signals on until the program has ended, and collects what else ends meanwhile."""
    while True:
        for number in os.read(signals, 64):
            if number != signal.SIGCHLD:
                if not (number == signal.SIGINT and _at_terminal()):
                    os.kill(program, number)
                continue
            for ended, status in iter(_collect, (0, 0)):
                if ended == program:
                    return os.waitstatus_to_exitcode(status)


def _collect() -> tuple[int, int]:
    return os.waitpid(-1, os.WNOHANG)


def _at_terminal() -> bool:
    """Whether a key was pressed rather than this process signalled: then the program has got the signal, too."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _pump(source: IO[bytes], target: int, watch: Watch, ended: threading.Event) -> None:
    """Copies one stream to its end, and searches it; at the program's own end, only what is still in the pipe."""
    lines = Lines()
    left_over = _LARGEST_PIPE
    while left_over > 0:
        over = ended.is_set()  # asked before looking, so that all that was written before the end is seen
        if not select.select([source], [], [], 0 if over else _LOOK_SECONDS)[0]:
            if over:
                break  # something that the program left behind holds the stream open
            continue
        data = os.read(source.fileno(), _CHUNK)
        if not data:
            break
        left_over -= len(data) if over else 0
        try:
            _copy(data, target)
        except BrokenPipeError:
            source.close()  # as nobody reads on, the program shall meet the same
            return
        except OSError as error:
            note_once(f"output {target}", f"exec: the program's output could not be passed on ({error})")
        _search(lines.feed(data), watch)
    _search(lines.finish(), watch)


def _copy(data: bytes, target: int) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:  # whoever made our output a pipe made it a non-blocking one
            select.select([], [target], [])


def _search(lines: Iterator[str], watch: Watch) -> None:
    for line in lines:
        try:
            watch.line(line)
        except Exception as error:  # whatever it is: a pump that stops would stop the program at its next full pipe
            note_once("search", f"exec: a line could not be searched ({type(error).__name__}: {error})")


def _not_started(program: str, error: OSError) -> int:
    if error.errno != errno.ENOENT:
        note(f"exec: {program!r} cannot be run ({error.strerror}); is it an executable file, with the right first line?")
        return NOT_EXECUTABLE
    if os.path.exists(program):
        note(f"exec: {program!r} cannot be run: the interpreter that its first line names was not found")
    else:
        note(f"exec: the program {program!r} was not found; it must be a path or stand in one of the folders of PATH")
    return NOT_FOUND
