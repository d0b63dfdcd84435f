"""What every algorithm must keep under every schedule: one function a promise, run by test_contract.py.

A new algorithm is covered by its line in the registry; nothing is to be added here. `World` in simulation.py checks
each answer on the way: parameters, budgets, slots, checkpoints, stalls.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from hpo_algorithms import (
    ALGORITHMS,
    Answer,
    Fault,
    InvalidSettings,
    Optimizer,
    Origin,
    Problem,
    State,
    Trial,
)
from hpo_algorithms.trials import POPULATION_LOST, SCHEDULE_FINISHED, SEARCH_EXHAUSTED

from tests.unit.algorithms.simulation import (
    MAX_BUDGET,
    MIN_BUDGET,
    Ending,
    Method,
    World,
    all_break_constraints,
    all_fail,
    all_infeasible,
    all_stopped,
    anything,
    constant,
    methods,
    problem_on,
    smooth,
)
from tests.unit.algorithms.spaces import CONTINUOUS, FINITE, FINITE_SIZE, MIXED, SINGLE, WIDE, read
from tests.unit.work import assert_linear, memory

SHIPPED = {name: where for name, where in ALGORITHMS.items() if name != "replay"}  # that one searches nothing
SHORT = 500  # Trials of a Study, against one of four times as many
SPARE = 16 * 2**20  # bytes that any proposal may take: some turn to a larger model when there is enough to learn from
ON_TORCH = {"botorch"}  # what is not there unless it was asked for


# Promises


Promise = Callable[[Method], None]
PROMISES: list[Promise] = []
UNDER_EVERY_SCHEDULE: set[Promise] = set()
OF_SAMPLERS: set[Promise] = set()

ENOUGH = 26  # Trials after which a model has been used many times; models start after about ten results


def promise(check: Promise) -> Promise:
    """Checked of every algorithm, and of every schedule with random draws."""
    PROMISES.append(check)
    return check


def joint_promise(check: Promise) -> Promise:
    """One that an algorithm and a schedule keep together: checked of every algorithm under every schedule."""
    UNDER_EVERY_SCHEDULE.add(check)
    return promise(check)


def of_samplers(check: Promise) -> Promise:
    """One that an algorithm which decides itself how long its Trials run does not give: its Studies end otherwise."""
    OF_SAMPLERS.add(check)
    return check


def pairs(algorithms: Iterable[str] | None = None) -> list[tuple[Method, Promise]]:
    """What is to be checked of what."""
    return [
        (method, promised)
        for method in methods(algorithms)
        for promised in PROMISES
        if method.schedule in (None, "flat") or method.algorithm == "random" or promised in UNDER_EVERY_SCHEDULE
        if method.schedule is not None or promised not in OF_SAMPLERS
        if method.algorithm not in ON_TORCH or method.schedule in ("flat", "asha")  # which takes long enough
    ]


def midway(method: Method, spec: list[dict[str, Any]] = MIXED, trials: int = ENOUGH, ending: Ending = smooth) -> World:
    return World(method, problem_on(read(spec)), ending).run(trials)


def refusals(method: Method, problem: Problem) -> tuple[Fault, ...]:
    """Why a method will not take a problem; empty if it will."""
    try:
        method.build(problem)
    except InvalidSettings as error:
        return error.faults
    return ()


@joint_promise
def proposals_are_valid_whatever_the_order_of_results(method: Method) -> None:
    World(method, problem_on(read(MIXED), seed=3)).run(40, workers=5, seed=3)


@promise
def the_answer_depends_on_the_arguments_alone(method: Method) -> None:
    """On neither global random state, which is also left as it was, nor on what the method was asked before."""
    world = midway(method)
    problem, history = world.problem, tuple(world.history)
    before = repr((problem.space.parameters, problem.given, history))
    answers = []
    for seed in (1, 2):
        np.random.seed(seed)
        random.seed(seed)
        states = pickle.dumps((np.random.get_state(), random.getstate()))
        fresh = method.build(problem)
        answers.append(fresh.propose(problem, history, len(history), 3))
        answers.append(fresh.propose(problem, history, len(history), 3))
        fresh.propose(problem, history[:10], 10, 3)
        assert pickle.dumps((np.random.get_state(), random.getstate())) == states
    assert answers == answers[:1] * 4
    assert repr((problem.space.parameters, problem.given, history)) == before


@promise
def another_process_answers_the_same(method: Method) -> None:
    problem, history = _case(method)
    here = method.build(problem).propose(problem, history, len(history), 3)
    alone = method.algorithm not in SHIPPED or method.algorithm in ON_TORCH
    names = {method.algorithm} if alone else SHIPPED.keys() - ON_TORCH
    together = {name: ALGORITHMS[name] for name in ALGORITHMS if name in names}
    there = _elsewhere(tuple(together.items()))[method]
    assert there == here


@joint_promise
def trials_that_were_deleted_leave_holes_that_change_nothing_else(method: Method) -> None:
    """Numbers are not positions: the Study goes on to valid proposals, promotions among them, from what is left."""
    world = midway(method)
    for lost in ({0}, {3, 4, 11}, set(range(0, ENOUGH, 2)), {ENOUGH - 1}):
        left = [trial for trial in world.history if trial.number not in lost]
        known = {trial.number: trial for trial in left}
        answer = method.build(world.problem).propose(world.problem, left, len(world.history), 4)
        assert answer.proposals or answer.finished
        for proposal in answer.proposals:
            world.problem.space.validate(proposal.params)
            if proposal.donor is not None:
                assert known[proposal.donor].params == proposal.params or proposal.origin is Origin.PERTURBED


@joint_promise
def a_run_that_is_killed_at_every_step_goes_on_to_the_same_end(method: Method) -> None:
    runs = [World(method, problem_on(read(MIXED)), restarts=restarts).run(ENOUGH, seed=1) for restarts in (False, True)]
    assert repr(runs[0].history) == repr(runs[1].history)


@promise
def a_run_that_is_killed_between_two_creations_goes_on(method: Method) -> None:
    world, rng = World(method, problem_on(read(FINITE)), restarts=True), random.Random(2)
    while not world.finished and len(world.history) < 40:
        world.ask(5, create=rng.randint(0, 4))
        for trial in world.active[: rng.randint(0, 4)]:
            world.end(trial)


@promise
def the_order_of_results_does_not_matter_where_the_same_are_known(method: Method) -> None:
    asked = []
    for order in (1, -1):
        schedule = {method.schedule: {}} if method.schedule else None
        optimizer = Optimizer(read(MIXED), {method.algorithm: {}}, schedule, (MIN_BUDGET, MAX_BUDGET), seed=9)
        for _ in range(3):
            for trial in optimizer.ask(8)[::order]:
                loss = float(np.nansum(optimizer.problem.space.encode(trial.params)))
                optimizer.tell(trial.number, loss)
        asked.append(optimizer.ask(8))
    assert asked[0] == asked[1]


@joint_promise
@of_samplers
def a_finite_space_is_tried_wholly_and_once_and_then_the_search_is_exhausted(method: Method) -> None:
    world = World(method, problem_on(read(FINITE))).run(500, workers=3)
    assert world.finished == SEARCH_EXHAUSTED
    space = world.problem.space
    assert len({space.key(trial.params) for trial in world.history}) == FINITE_SIZE
    assert sum(trial.slot.rung in (None, 0) for trial in world.history) == FINITE_SIZE


@promise
def given_configurations_are_tried_first_and_once(method: Method) -> None:
    space = read(FINITE)
    given = ({"kernel": "linear", "cost": 1.0}, {"kernel": "rbf", "gamma": 1, "cost": 0.5})
    world = World(method, problem_on(space, given=given))
    assert [trial.params for trial in world.ask(1)] == [given[0]]
    assert world.ask(3)[0].params == given[1]
    world.run(500)
    assert world.finished == (SEARCH_EXHAUSTED if method.schedule else SCHEDULE_FINISHED)


@promise
def constraints_between_parameters_are_kept(method: Method) -> None:
    """World validates each proposal, and nine draws of ten would break these."""
    tight = [{"terms": [{"parameter": "layers"}, {"parameter": "width", "weight": 0.01}, {"parameter": "warmup"}], "max": 2}]
    for spec, constraints in ((MIXED, tight), (CONTINUOUS, [{"terms": [{"parameter": "x"}], "max": -4}])):
        World(method, problem_on(read(spec).constrained(constraints))).run(ENOUGH)


@promise
@of_samplers
def of_a_finite_space_all_that_keeps_the_constraints_is_tried(method: Method) -> None:
    space = read(FINITE).constrained([{"terms": [{"parameter": "degree"}, {"parameter": "cost"}], "max": 2.5}])
    kept = {space.key(params) for params in map(space.enumeration.at, range(FINITE_SIZE)) if space.allows(params)}
    world = World(method, problem_on(space)).run(200, workers=3)
    assert world.finished == SEARCH_EXHAUSTED
    assert {space.key(trial.params) for trial in world.history} == kept
    assert len(kept) == 11


@joint_promise
def results_of_every_kind_are_taken(method: Method) -> None:
    for spec in (MIXED, CONTINUOUS):
        midway(method, spec, ENOUGH, anything)


@promise
def studies_in_which_nothing_succeeds_go_on(method: Method) -> None:
    """Or end with the reason, where there is nobody to go on from."""
    for ending in (all_fail, all_infeasible, all_stopped, all_break_constraints):
        world = midway(method, CONTINUOUS, 20, ending)
        assert len(world.history) == 20 or (method.schedule is None and world.finished == POPULATION_LOST)
    assert midway(method, FINITE, 100, all_fail).finished == (SEARCH_EXHAUSTED if method.schedule else POPULATION_LOST)
    assert midway(method, FINITE, 100, anything).finished == (SEARCH_EXHAUSTED if method.schedule else SCHEDULE_FINISHED)


@promise
def a_constant_objective_is_taken(method: Method) -> None:
    for spec in (MIXED, CONTINUOUS):
        midway(method, spec, 20, constant)


@promise
def parameters_of_a_single_value_are_taken(method: Method) -> None:
    midway(method, SINGLE, 20)
    world = World(method, problem_on(read(SINGLE[:2]))).run(20)
    assert world.finished == (SEARCH_EXHAUSTED if method.schedule else SCHEDULE_FINISHED)
    assert len({trial.params["fixed"] for trial in world.history}) == 1


@promise
def a_hundred_parameters_are_taken(method: Method) -> None:
    midway(method, WIDE, 20)


@promise
def a_proposal_costs_no_more_than_its_share_of_a_long_study(method: Method) -> None:
    def propose(spec: str, trials: int) -> Callable[[], object]:
        problem, history = _long(method.schedule or "flat", spec, trials)
        assert method.build(problem).propose(problem, history, len(history), 1).proposals  # and what is imported late, is
        return lambda: method.build(problem).propose(problem, history, len(history), 1)

    for spec in ("mixed", "finite"):
        assert_linear(functools.partial(propose, spec), SHORT)
        assert_linear(functools.partial(propose, spec), SHORT, memory, spare=SPARE)


@promise
def several_are_proposed_at_once(method: Method) -> None:
    world = World(method, problem_on(read(MIXED)))
    first = world.ask(8)
    assert len(first) == 8
    assert len({world.problem.space.key(trial.params) for trial in first}) == 8
    for trial in first[:4]:
        world.end(trial)
    assert world.ask(8) or method.schedule is None, "only what trains in generations may wait for the others"
    world.run(ENOUGH, workers=12)
    assert world.ask(8) or method.schedule is None


@promise
def trials_that_others_placed_disturb_nothing(method: Method) -> None:
    """Such as those by which the operator fills places when an algorithm fails."""
    for spec in (MIXED, FINITE):
        world, rng = World(method, problem_on(read(spec))), random.Random(3)
        for turn in range(12):
            if turn % 3 == 1:
                params = world.problem.space.decode([rng.random() for _ in world.problem.space.names])
                world.history.append(Trial(len(world.history), params, MAX_BUDGET))
            if not world.finished:
                world.ask(2)
            for trial in world.active[: rng.randint(0, 4)]:
                world.end(trial)


@promise
def trials_of_earlier_studies_are_taken(method: Method) -> None:
    """They are known beforehand, and no configuration of theirs is forbidden or counted."""
    space = read(MIXED)
    prior = tuple(World(Method("random", "flat"), problem_on(space)).run(20).history)
    World(method, problem_on(space, prior=(prior,))).run(16)
    odd = tuple(anything(problem_on(space), dataclasses.replace(trial, state=State.ACTIVE)) for trial in prior)
    World(method, problem_on(space, prior=(prior[:9], odd))).run(12)


@promise
def several_objectives_are_taken_or_refused_with_the_reason(method: Method) -> None:
    problem = problem_on(read(MIXED), objectives=2)
    if faults := refusals(method, problem):
        assert all(fault.path and fault.rule for fault in faults)
        return

    def two(problem: Problem, trial: Trial) -> Trial:
        whole = anything(problem, trial)
        return dataclasses.replace(whole, losses=(*whole.losses, 1.0) if whole.losses else ())

    World(method, problem, two).run(ENOUGH)


@promise
def it_works_without_a_budget_or_says_that_it_needs_one(method: Method) -> None:
    problem = Problem(read(MIXED), seed=1)
    if faults := refusals(method, problem):
        path = f"schedule.{method.schedule}" if method.schedule else f"algorithm.{method.algorithm}"
        assert all(fault.path == path and fault.remedy for fault in faults)
        return
    answer = method.build(problem).propose(problem, [], 0, 4)
    assert [proposal.budget for proposal in answer.proposals] == [None] * 4


# Prepared once


@functools.cache
def _long(schedule: str, spec: str, trials: int) -> tuple[Problem, tuple[Trial, ...]]:
    """The history of a long Study under a schedule, drawn at random; the finite space is nearly used up by then."""
    levels = [{"name": f"p{i}", "ordinal": {"values": list(range(7))}} for i in range(4)]  # 2,401 configurations
    space = read(MIXED if spec == "mixed" else levels)
    optimizer = Optimizer(space, {"random": {}}, {schedule: {}}, (MIN_BUDGET, MAX_BUDGET), seed=5)
    while len(optimizer.history) < trials:
        for trial in optimizer.ask(200):
            optimizer.tell(trial.number, trial.number * 0.618 % 1)
    return optimizer.problem, optimizer.history


def _case(method: Method) -> tuple[Problem, tuple[Trial, ...]]:
    world = midway(method, trials=20, ending=anything)
    return world.problem, tuple(world.history)


@functools.cache
def _elsewhere(algorithms: tuple[tuple[str, str], ...]) -> dict[Method, Answer | str]:
    """What one process with other hash seeds answers to the cases of these algorithms."""
    known = methods(name for name, _ in algorithms)
    cases = [(method.algorithm, method.schedule, *_case(method)) for method in known]
    payload = pickle.dumps((dict(algorithms), cases))
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", CHILD], input=payload, capture_output=True, env=environment, check=False)
    assert child.returncode == 0, child.stderr.decode()
    return dict(zip(known, pickle.loads(child.stdout), strict=True))


CHILD = """
import pickle, sys, traceback
from hpo_algorithms import ALGORITHMS, build

def answer(algorithm, schedule, problem, history):
    try:
        method = build(problem, {algorithm: {}}, {schedule: {}} if schedule else None)
        return method.propose(problem, history, len(history), 3)
    except Exception:
        return traceback.format_exc()

algorithms, cases = pickle.load(sys.stdin.buffer)
ALGORITHMS.update(algorithms)
sys.stdout.buffer.write(pickle.dumps([answer(*case) for case in cases]))
"""
