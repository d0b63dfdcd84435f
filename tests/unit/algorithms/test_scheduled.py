"""The algorithm made of a sampler and a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hpo_algorithms import Draw, Origin, Place, Problem, Slot, State, Stop, Trial
from hpo_algorithms.errors import Fault
from hpo_algorithms.scheduled import Scheduled
from hpo_algorithms.trials import SEARCH_EXHAUSTED, History

from tests.unit.algorithms.spaces import CONTINUOUS, read

SPACE = read(CONTINUOUS)
PROBLEM = Problem(SPACE)


@dataclass
class Some:
    """A sampler with so many configurations left."""

    left: int = 100
    asked: list[list[int]] = field(default_factory=list)

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return [Fault("sampler", None, "is wrong")]

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        self.asked.append(list(numbers))
        return [Draw({"x": float(number), "lr": 0.01}, memo=f"memo {number}") for number in numbers[: self.left]]


@dataclass
class Fixed:
    """A schedule with these places, and others once the space has run out."""

    open: Sequence[Place] = (Place(),) * 100
    exhausted: Sequence[Place] = ()
    over: str = ""

    def errors(self, problem: Problem) -> Sequence[Fault]:
        return [Fault("schedule", None, "is wrong")]

    def places(self, problem: Problem, history: History, count: int, exhausted: bool) -> Sequence[Place]:
        return (self.exhausted if exhausted else self.open)[:count]

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return [Stop(1, "rule", 2)]

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return frozenset([7])

    def finished(self, problem: Problem, history: History) -> str:
        return self.over


def trial(number: int, state: State = State.DONE, restorable: bool = True) -> Trial:
    return Trial(number, {"x": -float(number), "lr": 0.1}, 1, state=state, restorable=restorable)


def test_new_places_get_draws_and_promotions_keep_their_configuration_and_checkpoint() -> None:
    history = [trial(0), trial(1, restorable=False)]
    places = [Place(3, Slot(rung=1, member=0), 0), Place(1, Slot(rung=0, member=2)), Place(3, Slot(rung=1, member=1), 1)]
    sampler = Some()
    first, second, third = Scheduled(sampler, Fixed(places)).propose(PROBLEM, history, 2, 8).proposals
    assert (first.params, first.budget, first.donor, first.origin) == (history[0].params, 3, 0, Origin.PROMOTED)
    assert (second.params["x"], second.budget, second.donor, second.origin) == (3.0, 1, None, Origin.SAMPLED)
    assert (second.memo, second.slot) == ("memo 3", Slot(rung=0, member=2))
    assert (third.params, third.donor) == (history[1].params, None), "without a checkpoint it starts anew"
    assert sampler.asked == [[3]], "a draw belongs to the number that its Trial will have"


def test_given_configurations_come_first_each_once() -> None:
    given = [{"x": 1.0, "lr": 0.1}, {"x": 2.0, "lr": 0.1}, {"x": 1.0, "lr": 0.1}]
    problem = Problem(SPACE, given=tuple(given))  # type: ignore[arg-type]
    method = Scheduled(Some(), Fixed())
    proposals = method.propose(problem, [], 0, 4).proposals
    assert [proposal.origin for proposal in proposals] == [Origin.GIVEN, Origin.GIVEN, Origin.SAMPLED, Origin.SAMPLED]
    assert [proposal.params["x"] for proposal in proposals] == [1.0, 2.0, 2.0, 3.0]
    history = [Trial(0, given[0], state=State.FAILED)]  # type: ignore[arg-type]
    assert [proposal.params for proposal in method.propose(problem, history, 1, 1).proposals] == [given[1]]


def test_a_sampler_that_runs_out_leaves_the_promotions() -> None:
    history = [trial(0), trial(1)]
    places = [Place(1), Place(3, Slot(rung=1), 0), Place(1), Place(3, Slot(rung=1), 1)]
    proposals = Scheduled(Some(left=1), Fixed(places)).propose(PROBLEM, history, 2, 8).proposals
    assert [proposal.origin for proposal in proposals] == [Origin.SAMPLED, Origin.PROMOTED, Origin.PROMOTED]


def test_an_exhausted_search_waits_for_what_runs_and_then_says_so() -> None:
    method = Scheduled(Some(left=0), Fixed())
    waiting = method.propose(PROBLEM, [trial(0), trial(1, State.ACTIVE)], 2, 4)
    assert (waiting.proposals, waiting.finished) == ((), "")
    assert method.propose(PROBLEM, [trial(0), trial(1)], 2, 4).finished == SEARCH_EXHAUSTED
    assert method.propose(PROBLEM, [], 0, 4).finished == SEARCH_EXHAUSTED


def test_an_exhausted_search_still_promotes() -> None:
    schedule = Fixed(exhausted=[Place(3, Slot(rung=1), 0), Place(1)])
    proposals = Scheduled(Some(left=0), schedule).propose(PROBLEM, [trial(0)], 1, 4).proposals
    assert [proposal.origin for proposal in proposals] == [Origin.PROMOTED]


def test_a_schedule_without_places_waits_and_one_that_is_over_says_why() -> None:
    waiting = Scheduled(Some(), Fixed(open=())).propose(PROBLEM, [trial(0, State.ACTIVE)], 1, 4)
    assert (waiting.proposals, waiting.finished) == ((), "")
    assert Scheduled(Some(), Fixed(over="Done")).propose(PROBLEM, [], 0, 4).finished == "Done"


def test_the_rest_is_the_schedules_business() -> None:
    method = Scheduled(Some(), Fixed())
    assert [fault.path for fault in method.errors(PROBLEM)] == ["sampler", "schedule"]
    assert method.stops(PROBLEM, []) == [Stop(1, "rule", 2)]
    assert method.donors(PROBLEM, []) == {7}


def test_a_sampler_with_generations_says_where_its_trial_stands() -> None:
    class Swarm(Some):
        def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
            return [Draw({"x": 0.0, "lr": 0.1}, slot=Slot(generation=3, member=number)) for number in numbers]

    (proposal,) = Scheduled(Swarm(), Fixed()).propose(PROBLEM, [], 5, 1).proposals
    assert proposal.slot == Slot(generation=3, member=5)
