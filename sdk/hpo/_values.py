"""What may stand in a report: names, numbers and steps, checked at the door and written as text.

Numbers travel as text because JSON has neither NaN nor infinities, nor the difference of 1 and 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from operator import index
from typing import SupportsFloat, SupportsIndex, cast

from hpo._errors import InvalidMetricName, InvalidMetricValue, InvalidReport, InvalidStep

# A name and its three numbers must always fit the final message of 1,024 bytes.
LONGEST_NAME = 200

# What every reader of a step can hold: JSON readers know floats only, in which larger whole numbers change.
HIGHEST_STEP = 2**53


def checked_metrics(metrics: object) -> dict[str, float]:
    """One report's metrics, every one of them checked before any is kept."""
    if not isinstance(metrics, Mapping):
        rule = "must be a mapping of names to numbers"
        raise InvalidReport("metrics", metrics, rule, "Write hpo.report(val_loss=0.3) or hpo.report({'val loss': 0.3}, step=3)")
    if not metrics:
        raise InvalidReport("metrics", {}, "must hold at least one metric", "Write hpo.report(step=3, val_loss=0.3)")
    return {checked_name(name): checked_value(name, value) for name, value in metrics.items()}


def checked_name(name: object) -> str:
    """A metric's name: printable, not empty, at most 200 bytes."""
    if not isinstance(name, str):
        raise InvalidMetricName("metric name", name, "must be text", f"Use str(…), as in {str(name)[:20]!r}")
    if name == "step":
        rule = "is the word for where the training stands, not for a metric"
        raise InvalidMetricName("metric name", name, rule, "Give it as hpo.report(metrics, step=…)")
    if not name.strip() or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        rule = f"must be 1 to {LONGEST_NAME} bytes of printable text"
        raise InvalidMetricName("metric name", name, rule, "Choose a short name such as val_loss")
    return name


def checked_value(name: str, value: object) -> float:
    """A metric's value: whatever float() takes as one number, but neither text nor a truth value."""
    field = f"metric {name!r}"
    if isinstance(value, (str, bytes, bytearray)):
        raise InvalidMetricValue(field, value, "must be a number, not text", "Convert it by float(…)")
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        # Nearly always a comparison that was meant to be its left side.
        raise InvalidMetricValue(field, value, "must be a number, not a truth value", "Write int(…) where 0 or 1 is meant")
    try:
        return float(cast(SupportsFloat, value))
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: a tensor of several elements
        remedy = "Reduce it to one number, as .mean() or .item() do, or leave it out"
        raise InvalidMetricValue(field, value, f"must be one number ({error})", remedy) from None


def checked_step(value: object) -> int:
    """A step: a whole number from 0; 3.0 counts as one, 3.5 does not."""
    step = -1
    if not isinstance(value, (bool, str, bytes)):
        with suppress(TypeError, ValueError, OverflowError, RuntimeError):
            step = _whole(value)
    if not 0 <= step <= HIGHEST_STEP:
        rule = "must be a whole number from 0 to 2^53"
        raise InvalidStep("step", value, rule, "Count in another unit, such as batches, or write int(…)")
    return step


def _whole(value: object) -> int:
    if isinstance(value, float) or not hasattr(value, "__index__"):
        number = float(cast(SupportsFloat, value))
        return int(number) if number.is_integer() else -1
    return index(cast(SupportsIndex, value))


def as_text(value: float) -> str:
    """A number as every part of the project writes it: so that reading it gives the same number again."""
    return "NaN" if math.isnan(value) else repr(value)


def as_short_text(value: float) -> str:
    """The same to nine digits, more than a 32-bit float has, where the full text finds no room."""
    return "NaN" if math.isnan(value) else f"{value:.9g}"
