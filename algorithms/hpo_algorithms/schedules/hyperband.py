"""Hyperband [Li2018hyperband]: successive halving from several starting budgets, as a hedge against misleading small ones.

[Li2018hyperband] L. Li et al., Hyperband: a novel bandit-based approach to hyperparameter optimization, JMLR 18, 2018.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counting
from itertools import islice

from hpo_algorithms.errors import Fault
from hpo_algorithms.schedules.requirements import budget_needed, one_objective
from hpo_algorithms.schedules.rungs import fit_to_rise, rungs, unless_lost
from hpo_algorithms.settings import setting
from hpo_algorithms.trials import SCHEDULE_FINISHED, History, Place, Problem, Slot, Stop, Trial


@dataclass(frozen=True, slots=True)
class Hyperband:
    """Runs brackets s = s_max … 0, over and over; each starts many Trials small and trains the best 1/eta of every rung on.

    1. Bracket s starts ceil((s_max + 1) eta^s / (s + 1)) configurations on budget max / eta^s.
    2. Of the n that the bracket started the best floor(n / eta^i) rise to rung i: each as soon as no result that is still out
       can take its place, so that a straggler holds back only what depends on it, and who rises does not depend on who is faster.
    3. While results are waited for, free places go to the next bracket, so that no worker idles.

    With budgets 1 to 81 and eta 3 the brackets start 81, 34, 15, 8 and 5 configurations. Published implementations round in
    three ways; this is the paper's, and with `rounding: hpbandster` that of HpBandSter: 81, 27, 9, 6 and 5. What has been decided
    is read from the slots: a Trial on rung i + 1 counts against the places there, however the ranking would come out now. Failed
    Trials never rise, in place of one whose checkpoint is lost the next best does, and a bracket none of whose Trials can rise is
    over. `asha` keeps more workers busy on the same bracket.
    """

    eta: int = setting(3, "One in eta rises; also the ratio of neighbouring budgets.", minimum=2, maximum=16)
    rounding: str = setting(
        "li2018",
        "How many configurations a bracket starts: as the paper says, or as HpBandSter, which rounds down and spends less.",
        choices=("li2018", "hpbandster"),
    )
    iterations: int | None = setting(
        None,
        "Passes over all brackets, after which the Study is finished; without it only a limit ends the Study.",
        minimum=1,
        maximum=10_000,
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return [*budget_needed(problem, "hyperband"), *one_objective(problem, "hyperband")]

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        return open_places(self._brackets(problem, history), count, exhausted)

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return still_needed(self._brackets(problem, history))

    def finished(self, problem: Problem, history: History) -> str:
        if self.iterations is None:
            return ""
        return SCHEDULE_FINISHED if all(each.over for each in self._brackets(problem, history)) else ""

    def _brackets(self, problem: Problem, history: History) -> Iterator[Bracket]:
        """All brackets in their order, without end unless `iterations` says so; those behind the last started are empty."""
        assert problem.min_budget is not None and problem.max_budget is not None
        budgets = rungs(problem.min_budget, problem.max_budget, self.eta)
        s_max = len(budgets) - 1
        nothing: list[list[Trial]] = [[] for _ in budgets]
        trials = bracket_trials(history, len(budgets))
        for number in counting() if self.iterations is None else range(self.iterations * (s_max + 1)):
            s = s_max - number % (s_max + 1)
            wide = width(s_max, s, self.eta, self.rounding)
            yield Bracket(number, self.eta, wide, budgets[-1 - s :], trials.get(number, nothing))


def width(s_max: int, s: int, eta: int, rounding: str = "li2018") -> int:
    """How many configurations bracket s starts: ceil((s_max + 1) * eta^s / (s + 1)), in integers.

    HpBandSter has floor((s_max + 1) / (s + 1)) * eta^s.

    >>> [width(4, s, 3) for s in (4, 3, 2, 1, 0)]
    [81, 34, 15, 8, 5]
    >>> [width(4, s, 3, "hpbandster") for s in (4, 3, 2, 1, 0)]
    [81, 27, 9, 6, 5]
    """
    if rounding == "hpbandster":
        rounded: int = (s_max + 1) // (s + 1) * eta**s
        return rounded
    shared: int = (s_max + 1) * eta**s
    return -(-shared // (s + 1))


def bracket_trials(history: History, count: int) -> dict[int, list[list[Trial]]]:
    """The Trials of each bracket by rung; those without a place, or with one on a rung that there is not, are in none."""
    found: dict[int, list[list[Trial]]] = {}
    for trial in history:
        bracket, rung = trial.slot.bracket, trial.slot.rung
        if bracket is not None and rung is not None and rung < count:
            found.setdefault(bracket, [[] for _ in range(count)])[rung].append(trial)
    return found


def open_places(brackets: Iterable[Bracket], count: int, exhausted: bool) -> list[Place]:
    """Up to `count` places that are open now, those of the earlier brackets first."""
    found: list[Place] = []
    for bracket in brackets:
        if len(found) >= count or (exhausted and not bracket.started):
            break
        found += bracket.places(exhausted, count - len(found))
    return found


def still_needed(brackets: Iterable[Bracket]) -> frozenset[int]:
    """The Trials whose checkpoints a promotion may still start from."""
    found: set[int] = set()
    for bracket in brackets:
        if not bracket.started:
            break
        found |= bracket.donors()
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Bracket:
    """One bracket as its Trials show it: `trials[i]` are those on rung i, which train to `budgets[i]`."""

    number: int
    eta: int
    width: int
    budgets: tuple[int, ...]
    trials: Sequence[Sequence[Trial]]

    @property
    def started(self) -> bool:
        return any(self.trials)

    @property
    def over(self) -> bool:
        """Whether nothing runs here, nor will."""
        return not any(self._to_come(exhausted=False)) and not any(map(_active, self.trials[: len(self.budgets)]))

    def places(self, exhausted: bool, count: int) -> list[Place]:
        """Up to `count` places that are open now, those of the lower rungs first."""
        to_come = self._to_come(exhausted)
        vacant = islice(self._vacant(), min(to_come[0], count))
        found = [Place(self.budgets[0], Slot(self.number, 0, member=member)) for member in vacant]
        for rung in range(1, len(self.budgets)):
            certain = to_come[rung] - to_come[rung - 1] - _active(self.trials[rung - 1])  # whatever those still out bring
            if certain > 0 and len(found) < count:
                rising = self._next_best(rung)[:certain]
                found += [
                    Place(self.budgets[rung], Slot(self.number, rung, member=each.slot.member), each.number) for each in rising
                ]
        return found[:count]

    def donors(self) -> set[int]:
        """The Trials that rise now, or may when what is waited for has ended.

        For each of them, until it has ended, so may one of the next best: whose checkpoint turns out damaged gives its place away.
        """
        found: set[int] = set()
        for rung, to_come in enumerate(self._to_come(exhausted=False)):
            begun = sum(trial.active and trial.donor is not None for trial in self.trials[rung])
            if rung > 0 and (needed := 2 * to_come + begun):
                found |= {trial.number for trial in self._next_best(rung)[:needed]}
        return found

    def _to_come(self, exhausted: bool) -> list[int]:
        """How many Trials each rung still gets at most: as many as if all that are still out below brought a result.

        The lowest takes no more once one has risen: where the space ran out, or one was canceled later, it has less than `width`.
        Nor does a rung from which more have risen than could if it still got some: it was complete.
        """
        trials = self.trials[: len(self.budgets)]
        filled = exhausted or any(trials[1:2])
        size = len(trials[0]) if filled else max(len(trials[0]), self.width)
        room = [size, *(max(size // self.eta**rung, 1) for rung in range(1, len(trials)))]
        found: list[int] = []
        out = 0
        for rung, here in enumerate(trials):
            to_come = max(room[rung] - len(here), 0)
            if rung > 0 and to_come > 0:
                to_come = min(to_come, len(self._next_best(rung)) + out)
            out = to_come + _active(here)
            above = len(trials[rung + 1]) if rung + 1 < len(trials) else 0
            if above > 0 and above + out > room[rung + 1]:
                out, to_come = out - to_come, 0
            found.append(to_come)
        return found

    def _vacant(self) -> Iterator[int]:
        """Members that have no Trial yet; not listed, for a large budget in small units starts millions."""
        taken = {trial.slot.member for trial in self.trials[0]}
        return (member for member in range(self.width) if member not in taken)

    def _next_best(self, rung: int) -> list[Trial]:
        """The Trials of the rung below that may still rise to this one, best first."""
        taken = {trial.slot.member for trial in self.trials[rung]}
        return [trial for trial in unless_lost(fit_to_rise(self.trials[rung - 1])) if trial.slot.member not in taken]


def _active(trials: Iterable[Trial]) -> int:
    return sum(trial.active for trial in trials)
