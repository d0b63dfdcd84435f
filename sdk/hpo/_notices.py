"""Lines for a person on stderr, which never stop the training that they interrupt."""

from __future__ import annotations

import sys

_told: set[str] = set()


def note(text: str) -> None:
    """Prints one line to stderr, if there is one that can be written to."""
    try:
        sys.stderr.write(f"hpo: {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # full or broken, closed, or None as under pythonw
        pass


def note_once(key: str, text: str) -> None:
    """The same, but once a process for each key: a fault that each report meets is told at the first."""
    if key not in _told:
        _told.add(key)
        note(text)
