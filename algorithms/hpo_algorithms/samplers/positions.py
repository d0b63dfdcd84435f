"""How far a Study has come in a fixed sequence: each draw writes its position into its Trial's memo, and is found there again."""

from __future__ import annotations

from hpo_algorithms.trials import History


def following(history: History) -> int:
    """The first position behind all that Trials have taken. Trials without a position (given, promoted, fallback) do not count."""
    return 1 + max((int(trial.memo) for trial in history if trial.memo.isdecimal()), default=-1)
