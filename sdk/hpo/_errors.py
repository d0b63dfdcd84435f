"""What a caller of this package can do wrong, drawn as one tree.

HPOError                    carries field, value, rule and remedy
├── InvalidEnvironment      a variable HPO_* says what the contract does not allow (ValueError)
├── InvalidPattern          a regular expression of `hpo exec` cannot be used (ValueError)
├── UnknownParameter        this Trial has no such parameter (KeyError and AttributeError)
├── InvalidCheckpoint       what was written cannot be a checkpoint, or what was found is not what was asked for (ValueError)
├── CheckpointNotSaved      the checkpoints' folder failed: full, read-only, gone (OSError)
└── InvalidReport           a report was refused, as a whole (ValueError)
    ├── InvalidMetricName
    ├── InvalidMetricValue
    └── InvalidStep

`Infeasible`, `DonorUnavailable` and `CheckpointNotLoaded` stand outside: they are no mistakes but ends of the program, and a
SystemExit each. Faults of the machine (a full disk, a port in use) raise nothing at all: they are told once on stderr, and training
goes on. The one exception is a checkpoint: whoever saves one must know whether it is there.
"""

from __future__ import annotations


class HPOError(Exception):
    """Root of all errors that this package raises on purpose."""

    def __init__(self, field: str, value: object, rule: str, remedy: str) -> None:
        super().__init__(field, value, rule, remedy)
        self.field = field
        self.value = value
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field} {_short(self.value)}: {self.rule}. {self.remedy}."


class InvalidEnvironment(HPOError, ValueError):
    """A variable HPO_* says what the contract does not allow."""


class InvalidPattern(HPOError, ValueError):
    """A regular expression of `hpo exec` cannot be used."""


class UnknownParameter(HPOError, KeyError, AttributeError):
    """This Trial has no such parameter: its name is another, or the Study's conditions left it out."""


class InvalidCheckpoint(HPOError, ValueError):
    """What was written cannot be a checkpoint, or what was found is not what was asked for."""


class CheckpointNotSaved(HPOError, OSError):
    """The folder of checkpoints failed; nothing of this checkpoint was left there, and the ones before it stand."""

    def __init__(self, field: str, value: object, rule: str, remedy: str, number: int | None = None) -> None:
        super().__init__(field, value, rule, remedy)
        self.errno = number
        self.args = field, value, rule, remedy, number

    def __str__(self) -> str:
        return f"{self.field} {self.value!r}: {self.rule}. {self.remedy}."  # the end of a long path says which Trial's it is


class InvalidReport(HPOError, ValueError):
    """A report was refused; nothing of it was kept."""


class InvalidMetricName(InvalidReport):
    """A metric's name is not a short printable text."""


class InvalidMetricValue(InvalidReport):
    """A metric's value is not one number."""


class InvalidStep(InvalidReport):
    """A step is not a whole number, or it goes back."""


def _short(value: object) -> str:
    """A value as a message shows it: on one line, and never a whole tensor."""
    shown = " ".join(repr(value).split())
    return shown if len(shown) <= 80 else shown[:77] + "..."
