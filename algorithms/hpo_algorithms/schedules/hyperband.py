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
    2. When all Trials of a rung have ended, the best floor(n / eta^i) of the n that the bracket started rise to rung i.
    3. While a rung is waited for, free places go to the next bracket, so that no worker idles.

    With budgets 1 to 81 and eta 3 the brackets start 81, 34, 15, 8 and 5 configurations. Published implementations round in
    three ways; this is the paper's, and with `rounding: hpbandster` that of HpBandSter: 81, 27, 9, 6 and 5. What has been decided
    is read from the slots: a Trial on rung i + 1 says that rung i was complete, and counts against the places there, however the
    ranking would come out now. Failed Trials never rise, in place of one whose checkpoint is lost the next best does, and a bracket
    none of whose Trials can rise is over. `asha` keeps more workers busy on the same bracket.
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
        return self._frontier(exhausted=False) is None

    def places(self, exhausted: bool, count: int) -> list[Place]:
        """Up to `count` places that are open now."""
        rung = self._frontier(exhausted)
        if rung is None:
            return []
        if rung > 0:
            rising = self._rising(rung)[:count]
            return [Place(self.budgets[rung], Slot(self.number, rung, member=each.slot.member), each.number) for each in rising]
        vacant = () if exhausted else self._vacant()
        return [Place(self.budgets[0], Slot(self.number, 0, member=member)) for member in islice(vacant, count)]

    def donors(self) -> set[int]:
        """The Trials that rise now, or may when the rung that is waited for is complete.

        For each of them, until it has ended, so may one of the next best: whose checkpoint turns out damaged gives its place away.
        """
        rung = self._frontier(exhausted=False)
        if rung is None:
            return set()
        rising: list[Trial] = []
        if rung > 0:
            begun = sum(trial.active and trial.donor is not None for trial in self.trials[rung])
            rising = self._rising(rung, spare=begun + len(self._rising(rung)))
        waiting = unless_lost(fit_to_rise(self.trials[rung])) if rung + 1 < len(self.budgets) else []
        return {trial.number for trial in (*rising, *waiting)}

    def _frontier(self, exhausted: bool) -> int | None:
        """The first rung that is not complete; None where all are, or where the one before sent nothing up."""
        for rung, here in enumerate(self.trials[: len(self.budgets)]):
            if rung + 1 < len(self.budgets) and self.trials[rung + 1]:
                continue
            to_come = bool(self._rising(rung)) if rung > 0 else not exhausted and any(True for _ in self._vacant())
            if to_come or any(trial.active for trial in here):
                return rung
            if not here:
                return None
        return None

    def _vacant(self) -> Iterator[int]:
        """Members that have no Trial yet; not listed, for a large budget in small units starts millions."""
        taken = {trial.slot.member for trial in self.trials[0]}
        return (member for member in range(self.width) if member not in taken)

    def _rising(self, rung: int, spare: int = 0) -> list[Trial]:
        """The Trials of the rung below that still have a place here, and so many more. In a space that ran out, `trials[0]` are
        less than `width`."""
        room = max(len(self.trials[0]) // self.eta**rung, 1) - len(self.trials[rung]) + spare
        if room <= 0:
            return []
        taken = {trial.slot.member for trial in self.trials[rung]}
        return [trial for trial in unless_lost(fit_to_rise(self.trials[rung - 1])) if trial.slot.member not in taken][:room]
