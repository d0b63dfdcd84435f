"""The program of a Trial that is a Python function: what `tune` runs, once in a process of its own for each Trial.

It imports nothing of this project but the SDK, so that a Trial costs hardly more than the function.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

FUNCTION = "HPO_FUNCTION"  # the variable that names the file with the function


def main() -> None:
    """Call the function with the Trial's parameters, and report what it returns."""
    with open(os.environ[FUNCTION], "rb") as file:
        call: dict[str, Any] = pickle.load(file)
    sys.path[:] = call["path"]  # as it was where the function was made, so that what it needs is found again
    function = pickle.loads(call["function"])

    import hpo

    parameters = dict(hpo.parameters())
    result = function(**parameters) if call["by_name"] else function(parameters)
    if result is not None:
        hpo.report(result if isinstance(result, Mapping) else {call["metric"]: result})


if __name__ == "__main__":
    main()
