"""The best of the completed Trials, kept in order as results come in, in whatever order they do."""

from __future__ import annotations

import bisect

import numpy as np

from hpo_operator.outcomes import thinned

MAX_BEST = 10
MAX_FRONT = 100


class Rankings:
    """The best Trials by the first objective at each budget, and the Pareto front of all objectives."""

    def __init__(self) -> None:
        self._best: dict[int, list[tuple[float, int]]] = {}
        self._front_losses: np.ndarray | None = None  # shape (members, objectives)
        self._front: list[int] = []

    def add(self, number: int, budget: int, losses: tuple[float, ...]) -> None:
        """Take in a completed Trial whose losses are all finite."""
        ranking = self._best.setdefault(budget, [])
        bisect.insort(ranking, (losses[0], number))
        del ranking[MAX_BEST:]
        if len(losses) > 1:
            self._join_front(number, np.array([losses]))

    def __contains__(self, number: int) -> bool:
        return number in self._front or any(number == each for ranking in self._best.values() for _, each in ranking)

    def best(self) -> list[tuple[float, int]]:
        """(loss, number) at the highest budget that any Trial has completed, best first, equal ones by number."""
        return self._best[max(self._best)] if self._best else []

    def front(self) -> list[int]:
        """The Trials that no other beats, by their losses; of more than can be shown, an even choice with both ends."""
        if self._front_losses is None:
            return []
        ordered = sorted(zip(self._front_losses.tolist(), self._front, strict=True))
        return list(thinned([number for _, number in ordered], MAX_FRONT))

    def _join_front(self, number: int, losses: np.ndarray) -> None:
        """One Trial beats another when it is nowhere worse and somewhere better; equal ones stand side by side."""
        if self._front_losses is None:
            self._front_losses, self._front = losses, [number]
            return
        known = self._front_losses
        if ((known <= losses).all(axis=1) & (known < losses).any(axis=1)).any():
            return
        kept = np.flatnonzero(~((losses <= known).all(axis=1) & (losses < known).any(axis=1)))
        self._front_losses = np.vstack([known[kept], losses])
        self._front = [*(self._front[place] for place in kept), number]
