"""The order in which samplers with a model see a history."""

from __future__ import annotations

from hpo_algorithms import Problem, Space, State, Trial
from hpo_algorithms.ranking import ranked

LINE = Space.from_spec([{"name": "x", "float": {"min": 0, "max": 1}}])


def test_behind_the_results_at_one_budget_stands_the_worse_half_of_the_others_that_were_not_trained_on() -> None:
    def at(number: int, x: float, budget: int, loss: float) -> Trial:
        return Trial(number, {"x": x}, budget, state=State.DONE, losses=(loss,))

    low = [at(number, number / 10, 1, float(number)) for number in range(6)]
    high = [at(6, 0.0, 9, 3.0), at(7, 0.4, 9, 2.0), Trial(8, {"x": 0.9}, 9, state=State.FAILED)]
    found = ranked(Problem(LINE, min_budget=1, max_budget=9), [*low, *high], least=2)
    assert [trial.number for trial in found.trials] == [7, 6, 3, 5, 8]
    assert (found.usable, found.told) == (2, 2)
