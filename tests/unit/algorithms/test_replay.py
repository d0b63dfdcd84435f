"""Replay: one member through the given configurations, in their order."""

from __future__ import annotations

import dataclasses

import pytest
from hpo_algorithms import InvalidSettings, Origin, Problem, build
from hpo_algorithms.population.replay import Replay
from hpo_algorithms.trials import POPULATION_LOST, SCHEDULE_FINISHED

from tests.unit.algorithms.populations import LINE, Run, done, failed, training


def replayed(values: list[float], high: int = 3) -> Run:
    problem = dataclasses.replace(training(1, high), given=tuple({"x": x} for x in values))
    return Run(build(problem, {"replay": {}}), problem)


def test_each_generation_has_its_configuration_and_goes_on_from_the_one_before() -> None:
    run = replayed([0.3, 0.3, 0.1])
    while not run.finished:
        run.start()
        run.end_all(lambda trial: 1.0)
    assert run.finished == SCHEDULE_FINISHED
    assert [(t.params["x"], t.budget, t.donor) for t in run.history] == [(0.3, 1, None), (0.3, 2, 0), (0.1, 3, 1)]
    answer = run.method.propose(run.problem, run.history[:1], 1, 5)
    assert [proposal.origin for proposal in answer.proposals] == [Origin.GIVEN]


def test_a_slot_that_became_free_is_filled_as_it_was_and_a_failure_is_the_end() -> None:
    run = replayed([0.3, 0.2, 0.1])
    (first,) = run.start()
    run.end(first, lambda trial: done(trial, 1.0))
    (second,) = run.start()
    run.free(second)
    (again,) = run.start()
    assert (again.params, again.donor, again.slot) == (second.params, second.donor, second.slot)
    run.end(again, failed)
    run.start()
    assert run.finished == POPULATION_LOST


def test_a_schedule_that_does_not_fit_the_budget_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"algorithm.replay: has 9 generations by its budget, but warmStart.configurations "
                                              r"holds 0. Give one configuration a generation, in their order."):  # fmt: skip
        build(Problem(LINE, 1, 1, 9), {"replay": {}})
    assert Replay(interval=4).errors(Problem(LINE, 1, 1, 9, given=({"x": 0.1},) * 3)) == ()
