"""`python -m hpo.checkpoint restore`: prepares a Trial's folder before its program starts, for programs that know only that."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from hpo._environment import Environment
from hpo._errors import HPOError
from hpo._notices import note

USAGE = """\
usage: python -m hpo.checkpoint restore [--own DIR] [--donor DIR --step N --digest DIGEST [--trial NAME]] [-- PROGRAM [ARGUMENT]...]
       python -m hpo.checkpoint remove --store URL -- NAME...

`restore` makes sure that the Trial's own folder holds the checkpoint that it starts from, as step-N: its own newest complete one if
there is one, or else a copy of the donor's, compared with the digest. May be run any number of times.

  --own DIR        the Trial's own folder           HPO_CHECKPOINT_DIR if left out
  --donor DIR      the donor's checkpoint           HPO_RESTORE_DIR
  --step N         the step that it stands for      HPO_RESTORE_STEP
  --digest DIGEST  what its content must make       HPO_RESTORE_DIGEST
  --trial NAME     whose it is                      HPO_RESTORE_TRIAL
  -- PROGRAM       becomes this program afterwards, in the same process

`remove` removes the checkpoints of these Trials from below a URL in an object store, and nothing else.

`restore` prints the final message, one line of JSON; it is the last line of HPO_TERMINATION_FILE, too. The exit code is 0; 87 if
the donor's checkpoint is missing or damaged, 1 if the own folder is full or fails, or if a store stays away for three minutes, 2 if
the command line is wrong, 127 if there is no such program.
"""

_OPTIONS = {
    "--own": "HPO_CHECKPOINT_DIR",
    "--donor": "HPO_RESTORE_DIR",
    "--step": "HPO_RESTORE_STEP",
    "--digest": "HPO_RESTORE_DIGEST",
    "--trial": "HPO_RESTORE_TRIAL",
}

_BAD_INPUT, _FAULT, _NO_PROGRAM = 2, 1, 127


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit code; `DonorUnavailable` and `CheckpointNotLoaded` are a SystemExit with their own."""
    if list(arguments) in (["-h"], ["--help"], ["restore", "-h"], ["restore", "--help"]):
        print(USAGE, end="")
        return 0
    if arguments[:1] == ["remove"]:
        return _remove(list(arguments[1:]))
    options, program = _parted(list(arguments))
    problem = _into_environment(options) if program is None or program else "no program follows --"
    if problem is None and Environment().checkpoint_dir is None:
        problem = "--own is missing, and HPO_CHECKPOINT_DIR is not set"
    if problem is not None:
        note(f"checkpoint: {problem}; `python -m hpo.checkpoint --help` shows all")
        return _BAD_INPUT
    code = _restore(quiet=program is not None)
    return _become(program) if program and code == 0 else code


def _code_of(work: Callable[[], object]) -> int:
    """The exit code of a piece of work, whose errors are told."""
    try:
        work()
    except (OSError, HPOError) as error:
        note(f"checkpoint: {error}")
        return _FAULT if isinstance(error, OSError) else _BAD_INPUT
    return 0


def _remove(arguments: list[str]) -> int:
    from hpo._checkpoints_objects import is_url, remove_below

    if arguments[:1] != ["--store"] or arguments[2:3] != ["--"] or not is_url(arguments[1]):
        note("checkpoint: remove needs --store URL -- NAME...; `python -m hpo.checkpoint --help` shows all")
        return _BAD_INPUT
    return _code_of(lambda: remove_below(arguments[1], arguments[3:]))


def _parted(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """The command's own arguments and the program that follows them, if any does."""
    if "--" not in arguments:
        return arguments, None
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _restore(quiet: bool) -> int:
    from hpo._report import reporter

    try:
        return _code_of(_prepare)
    finally:
        line = reporter().line
        if line is not None and not quiet:
            sys.stdout.write(line.decode())
            sys.stdout.flush()


def _prepare() -> None:
    from hpo._checkpoints_store import hand_over, wait_until_flushed
    from hpo.checkpoint import load

    found = load()
    if found is not None and found.copied_from is not None:
        hand_over(found.path)
        wait_until_flushed()


def _become(program: list[str]) -> int:
    try:
        os.execvp(program[0], program)
    except OSError as error:
        note(f"checkpoint: {program[0]} could not be started: {error.strerror}")
    return _NO_PROGRAM


def _into_environment(arguments: Sequence[str]) -> str | None:
    """Reads the command line into the variables that it stands for; returns what is wrong with it."""
    rest = list(arguments)
    if rest[:1] != ["restore"]:
        return "the command is missing: restore" if not rest else f"there is no command {rest[0]!r}"
    del rest[0]
    while rest:
        option, joined, value = rest.pop(0).partition("=")
        if option not in _OPTIONS:
            return f"there is no option {option}"
        if not joined:
            if not rest:
                return f"{option} needs a value"
            value = rest.pop(0)
        os.environ[_OPTIONS[option]] = value
    return None
