"""The algorithm made of a sampler, which says what to try, and a schedule, which says how long."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms.errors import Fault
from hpo_algorithms.seams import Sampler, Schedule
from hpo_algorithms.space import Params
from hpo_algorithms.threads import one_thread
from hpo_algorithms.trials import SEARCH_EXHAUSTED, Answer, Draw, History, Origin, Place, Problem, Proposal, Stop, Trial


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Any sampler under any schedule.

    1. The schedule names places: new configurations, or known ones to be trained further.
    2. Places for new configurations get those that the user gave, then the sampler's draws.
    3. Where the sampler has no more, the schedule goes on with what there is; when that is done too, the search is exhausted.
    """

    sampler: Sampler
    schedule: Schedule

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return [*self.sampler.errors(problem), *self.schedule.errors(problem)]

    def propose(self, problem: Problem, history: History, first: int, count: int) -> Answer:
        if finished := self.schedule.finished(problem, history):
            return Answer(finished=finished)
        places = self.schedule.places(problem, history, count, exhausted=False)
        numbers = [first + i for i, place in enumerate(places) if place.source is None]
        drawn = self._configurations(problem, history, numbers)
        if len(drawn) < len(numbers):
            # What is left of the places are promotions, and the draws that there are; both keep their numbers, for only the
            # places behind the last draw fall away.
            places = [p for i, p in enumerate(places) if p.source is not None or first + i in numbers[: len(drawn)]]
            if not places:
                places = self.schedule.places(problem, history, count, exhausted=True)
                places = [place for place in places if place.source is not None]
                if not places and not any(trial.active for trial in history):
                    return Answer(finished=SEARCH_EXHAUSTED)
        draws = iter(drawn)
        return Answer(tuple(self._proposal(history, place, draws) for place in places))

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return self.schedule.stops(problem, history)

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return self.schedule.donors(problem, history)

    def _configurations(self, problem: Problem, history: History, numbers: Sequence[int]) -> list[tuple[Draw, Origin]]:
        given = [(Draw(params), Origin.GIVEN) for params in untried(problem, history)][: len(numbers)]
        if len(given) == len(numbers):
            return given
        with one_thread():
            draws = self.sampler.draw(problem, history, numbers[len(given) :])
        return given + [(draw, Origin.SAMPLED) for draw in draws]

    def _proposal(self, history: History, place: Place, draws: object) -> Proposal:
        if place.source is not None:
            source = numbered(history, place.source)
            donor = source.number if source.restorable else None
            return Proposal(source.params, place.budget, place.slot, donor, origin=Origin.PROMOTED)
        draw, origin = next(draws)  # type: ignore[call-overload]
        slot = place.slot if draw.slot is None else draw.slot
        return Proposal(draw.params, place.budget, slot, memo=draw.memo, origin=origin)


def numbered(history: History, number: int) -> Trial:
    """The Trial of a number, which must be there; its position may be another one, for deleted Trials leave holes."""
    found = history[bisect.bisect_left(history, number, key=lambda trial: trial.number)]
    assert found.number == number
    return found


def untried(problem: Problem, history: History) -> list[Params]:
    """The user's own configurations that no Trial has yet, in their order, each once."""
    if not problem.given:
        return []
    seen = {problem.space.key(trial.params) for trial in history}
    fresh = {problem.space.key(params): params for params in problem.given}
    return [params for key, params in fresh.items() if key not in seen]
