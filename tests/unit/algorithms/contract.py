"""What every algorithm must keep under every schedule: one function a promise, run by test_contract.py.

A new algorithm is covered by its line in the registry; here only one that looks at no result is named. `World` in
simulation.py checks each answer on the way: parameters, budgets, slots, checkpoints, stalls. Most promises are checked on Studies
that begin with Trials drawn at random: an algorithm has to keep them with its model, not by what it does until it has one.
`midway` sees to that.
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

import numpy as np
from hpo_algorithms import (
    ALGORITHMS,
    Answer,
    Fault,
    InvalidSettings,
    Optimizer,
    Origin,
    Problem,
    Slot,
    Space,
    State,
    Trial,
)
from hpo_algorithms.registry import default_schedule
from hpo_algorithms.trials import POPULATION_LOST, SCHEDULE_FINISHED, SEARCH_EXHAUSTED

from tests.unit.algorithms.simulation import (
    HUGE,
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
    huge,
    methods,
    problem_on,
    smooth,
    unstopped,
)
from tests.unit.algorithms.spaces import CONTINUOUS, FINITE, FINITE_SIZE, LATTICE, LATTICE_SIZE, MIXED, SINGLE, WIDE, read
from tests.unit.work import assert_linear, memory

SHIPPED = {name: where for name, where in ALGORITHMS.items() if name != "replay"}  # that one searches nothing
SHORT = 500  # Trials of a Study, against one of four times as many
SPARE = 16 * 2**20  # bytes that any proposal may take: some turn to a larger model when there is enough to learn from
ON_TORCH = {"botorch"}  # what is not there unless it was asked for
UNTAUGHT = {"random", "sobol", "grid"}  # which look at no result


# Promises


Promise = Callable[[Method], None]
Study = tuple[Problem, tuple[Trial, ...]]
PROMISES: list[Promise] = []
UNDER_EVERY_SCHEDULE: set[Promise] = set()
OF_SAMPLERS: set[Promise] = set()

BEGUN = 40  # Trials drawn at random, after which every model is in use, whatever became of half of them
LEFT = 12  # configurations of a finite space that are left to a model
ENOUGH = 24  # Trials more, among them a generation from which an evolution strategy learns
FEWER = {"botorch": 6, "smac": 8, "gp": 12, "auto": 12}  # whose proposals take long enough


def promise(check: Promise) -> Promise:
    """Checked of every algorithm, also under its usual schedule, and of every schedule with random draws."""
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
        if method.schedule in (None, "flat", usual(method)) or method.algorithm == "random" or promised in UNDER_EVERY_SCHEDULE
        if method.schedule is not None or promised not in OF_SAMPLERS
        if method.algorithm not in ON_TORCH or method.schedule in ("flat", "asha")  # which takes long enough
    ]


def usual(method: Method) -> str:
    """The schedule of an algorithm in a Study that names none."""
    return default_schedule(method.algorithm, problem_on(read(CONTINUOUS)))


def midway(
    method: Method, problem: Problem | None = None, ending: Ending = smooth, begun: int = BEGUN, restarts: bool = False
) -> World:
    """A Study that goes on, first with several Trials at once, then one by one, and in which the method learns from the results."""
    world, enough = World(method, problem or problem_on(read(MIXED)), ending, restarts), FEWER.get(method.algorithm, ENOUGH)
    world.begin(begun).run(begun + 2 * enough // 3).run(begun + enough, workers=1)
    if method.schedule is None:  # who is still training would be waited for
        for trial in world.active:
            world.end(trial)
    learning = method.algorithm in SHIPPED.keys() - UNTAUGHT
    assert not learning or world.learns(), "what is proposed does not depend on the results: a promise kept without the model"
    return world


def several(method: Method) -> int:
    """So many proposals that there are new configurations among them, which are not the first ones of what promotes or copies."""
    return 3 if method.schedule == "flat" else 8


def refusals(method: Method, problem: Problem) -> tuple[Fault, ...]:
    """Why a method will not take a problem; empty if it will."""
    try:
        method.build(problem)
    except InvalidSettings as error:
        return error.faults
    return ()


@joint_promise
def proposals_are_valid_whatever_the_order_of_results(method: Method) -> None:
    World(method, problem_on(read(MIXED), seed=3)).run(24 if method.algorithm in FEWER else 40, workers=5, seed=3)


@promise
def the_answer_depends_on_the_arguments_alone(method: Method) -> None:
    """On neither global random state, which is also left as it was, nor on what the method was asked before."""
    problem, history = _undisturbed(method)
    before = repr((problem.space.parameters, problem.given, history))
    answers = []
    for seed in (1, 2):
        np.random.seed(seed)
        random.seed(seed)
        states = pickle.dumps((np.random.get_state(), random.getstate()))
        fresh = method.build(problem)
        answers.append(fresh.propose(problem, history, len(history), several(method)))
        answers.append(fresh.propose(problem, history, len(history), several(method)))
        fresh.propose(problem, history[:10], 10, several(method))
        assert pickle.dumps((np.random.get_state(), random.getstate())) == states
    assert answers == answers[:1] * 4
    assert repr((problem.space.parameters, problem.given, history)) == before


@promise
def another_process_answers_the_same(method: Method) -> None:
    cases = _cases(method)
    here = [method.build(problem).propose(problem, history, len(history), several(method)) for problem, history in cases]
    alone = method.algorithm not in SHIPPED or method.algorithm in ON_TORCH
    names = {method.algorithm} if alone else SHIPPED.keys() - ON_TORCH
    together = {name: ALGORITHMS[name] for name in ALGORITHMS if name in names}
    there = _elsewhere(tuple(together.items()))[method]
    assert there == here


@joint_promise
def trials_that_were_deleted_leave_holes_that_change_nothing_else(method: Method) -> None:
    """Numbers are not positions: the Study goes on to valid proposals, promotions among them, from what is left."""
    problem, history = _undisturbed(method)
    last = history[-1].number
    for lost in ({0}, {3, 4, last - 11}, set(range(0, last, 2)), {last}):
        left = [trial for trial in history if trial.number not in lost]
        known = {trial.number: trial for trial in left}
        answer = method.build(problem).propose(problem, left, len(history), 4)
        assert answer.proposals or answer.finished or any(trial.active for trial in left)
        for proposal in answer.proposals:
            problem.space.validate(proposal.params)
            if proposal.donor is not None:
                assert known[proposal.donor].params == proposal.params or proposal.origin is Origin.PERTURBED


@joint_promise
def a_run_that_is_killed_at_every_step_goes_on_to_the_same_end(method: Method) -> None:
    _, history = _undisturbed(method)
    assert repr(tuple(midway(method, restarts=True).history)) == repr(history)


@promise
def a_run_that_is_killed_between_two_creations_goes_on(method: Method) -> None:
    begun, rng = LATTICE_SIZE - LEFT, random.Random(2)
    world = World(method, problem_on(read(LATTICE)), restarts=True).begin(begun)
    while not world.finished and len(world.history) < begun + 40:
        world.ask(4, create=rng.randint(0, 4))
        for trial in world.active[: rng.randint(0, 4)]:
            world.end(trial)


@promise
def the_order_of_results_does_not_matter_where_the_same_are_known(method: Method) -> None:
    """Nor what was answered on the way."""
    answers = []
    for order in (1, -1):
        world = World(method, problem_on(read(MIXED))).begin(BEGUN)
        for trial in world.ask(10)[::order]:
            world.end(trial)
            if trial.number % 4 == 0:
                world.ask(create=0)
        answers.append(world.ask(4))
    assert answers[0] == answers[1]


@joint_promise
@of_samplers
def a_finite_space_is_tried_wholly_and_once_and_then_the_search_is_exhausted(method: Method) -> None:
    cases = [(LATTICE, LATTICE_SIZE, LATTICE_SIZE - LEFT), (FINITE, FINITE_SIZE, 0)]
    for spec, size, begun in cases if method.schedule == "flat" else cases[:1]:
        world = World(method, problem_on(read(spec))).begin(begun).run(500, workers=3)
        assert world.finished == SEARCH_EXHAUSTED
        space = world.problem.space
        assert len({space.key(trial.params) for trial in world.history}) == size
        assert sum(trial.slot.rung in (None, 0) for trial in world.history) == size


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
        midway(method, problem_on(read(spec).constrained(constraints)))


@promise
@of_samplers
def of_a_finite_space_all_that_keeps_the_constraints_is_tried(method: Method) -> None:
    space = read(LATTICE).constrained([{"terms": [{"parameter": "degree"}, {"parameter": "cost"}], "max": 4}])
    kept = {space.key(params) for params in map(space.enumeration.at, range(LATTICE_SIZE)) if space.allows(params)}
    assert len(kept) == 42
    world = World(method, problem_on(space)).begin(len(kept) - LEFT).run(200, workers=3)
    assert world.finished == SEARCH_EXHAUSTED
    assert {space.key(trial.params) for trial in world.history} == kept


@joint_promise
def results_of_every_kind_are_taken(method: Method) -> None:
    midway(method, ending=anything)
    midway(method, problem_on(read(CONTINUOUS)), unstopped)
    midway(method, problem_on(read(CONTINUOUS)), huge)


@promise
def studies_in_which_nothing_succeeds_go_on(method: Method) -> None:
    """Or end with the reason, where there is nobody to go on from."""
    for ending in (all_fail, all_infeasible, all_stopped, all_break_constraints):
        world = World(method, problem_on(read(CONTINUOUS)), ending).begin(BEGUN).run(BEGUN + 8)
        assert len(world.history) == BEGUN + 8 or (method.schedule is None and world.finished == POPULATION_LOST)
    for ending, end in ((all_fail, POPULATION_LOST), (anything, SCHEDULE_FINISHED)):
        for spec, begun in ((FINITE, 0), (LATTICE, LATTICE_SIZE - LEFT)):
            world = World(method, problem_on(read(spec)), ending).begin(begun).run(200)
            assert world.finished == (SEARCH_EXHAUSTED if method.schedule else end)


@promise
def a_constant_objective_is_taken(method: Method) -> None:
    for spec in (MIXED, CONTINUOUS):
        midway(method, problem_on(read(spec)), constant)


@promise
def parameters_of_a_single_value_are_taken(method: Method) -> None:
    midway(method, problem_on(read(SINGLE)))
    world = World(method, problem_on(read(SINGLE[:2]))).run(20)
    assert world.finished == (SEARCH_EXHAUSTED if method.schedule else SCHEDULE_FINISHED)
    assert len({trial.params["fixed"] for trial in world.history}) == 1


@promise
def a_hundred_parameters_are_taken(method: Method) -> None:
    begun = {"flat": 120, None: BEGUN}.get(method.schedule, 300)  # a density needs more at one budget than there are parameters
    midway(method, problem_on(read(WIDE)), begun=begun)


@promise
def a_proposal_costs_no_more_than_its_share_of_a_long_study(method: Method) -> None:
    count = 1 if method.schedule == "flat" else several(method)

    def propose(spec: str, trials: int) -> Callable[[], object]:
        problem, history = _long(method, spec, trials)
        assert method.build(problem).propose(problem, history, len(history), count).proposals  # and what is imported late, is
        return lambda: method.build(problem).propose(problem, history, len(history), count)

    for spec in ("mixed", "finite"):
        assert_linear(functools.partial(propose, spec), SHORT)
        assert_linear(functools.partial(propose, spec), SHORT, memory, spare=SPARE)


@promise
def ten_thousand_trials_give_a_proposal(method: Method) -> None:
    problem, history = _long(method, "mixed", 10_000)
    world = World(method, problem)
    world.history = list(history)
    assert world.ask(several(method))


@promise
def several_are_proposed_at_once(method: Method) -> None:
    for begun in (0, BEGUN):
        world = World(method, problem_on(read(MIXED))).begin(begun)
        first = world.ask(8)
        assert len(first) == 8
        assert len({world.problem.space.key(trial.params) for trial in first}) == 8
        for trial in first[:4]:
            world.end(trial)
        assert world.ask(8) or method.schedule is None, "only what trains in generations may wait for the others"


@promise
def trials_that_others_placed_disturb_nothing(method: Method) -> None:
    """Such as those by which the operator fills places when an algorithm fails."""
    for spec in (MIXED, LATTICE):
        world, rng = World(method, problem_on(read(spec))).begin(BEGUN), random.Random(3)
        for turn in range(6):
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
    midway(method, problem_on(space, prior=(prior[:9], odd)))


@promise
def several_objectives_are_taken_or_refused_with_the_reason(method: Method) -> None:
    problem = problem_on(read(MIXED), objectives=2)
    if faults := refusals(method, problem):
        assert all(fault.path and fault.rule for fault in faults)
        return

    def two(first: Ending, problem: Problem, trial: Trial) -> Trial:
        whole = first(problem, trial)
        second = (HUGE, -HUGE, trial.number * 0.618 % 1)[min(trial.number % 7, 2)]
        return dataclasses.replace(whole, losses=(*whole.losses, second) if whole.losses else ())

    for first in (anything, unstopped):
        midway(method, problem, functools.partial(two, first))


@promise
def it_works_without_a_budget_or_says_that_it_needs_one(method: Method) -> None:
    problem = Problem(read(MIXED), seed=1)
    if faults := refusals(method, problem):
        path = f"schedule.{method.schedule}" if method.schedule else f"algorithm.{method.algorithm}"
        assert all(fault.path == path and fault.remedy for fault in faults)
        return
    assert {trial.budget for trial in midway(method, problem).history} == {None}


# Prepared once


@functools.cache
def _space(spec: str) -> Space:
    """Of two: a finite one is nearly used up after 2,000 Trials."""
    levels = [{"name": f"p{i}", "ordinal": {"values": list(range(7))}} for i in range(4)]  # 2,401 configurations
    return read(MIXED if spec == "mixed" else levels)


def _long(method: Method, spec: str, trials: int) -> Study:
    """The history of a long Study, drawn at random; its own of an algorithm that reads what its memos say."""
    if method.schedule is None:
        return _generations(spec, trials)
    first = method.build(problem := problem_on(_space(spec))).propose(problem, [], 0, BEGUN).proposals
    own = spec == "mixed" and any(each.memo for each in first)  # of a finite space hardly anything is left for its own draws
    return _asked(method if own else method.drawn_at_random(), spec, trials)


@functools.cache
def _asked(method: Method, spec: str, trials: int) -> Study:
    optimizer = Optimizer(_space(spec), *method.specs, (MIN_BUDGET, MAX_BUDGET), seed=5)
    while len(optimizer.history) < trials:
        at_the_end = len(optimizer.history) >= trials - 200  # ten at once there, after which few promotions are due
        for trial in optimizer.ask(10 if at_the_end and method.schedule != "flat" else 200):
            optimizer.tell(trial.number, _loss(optimizer.problem, trial))
    return optimizer.problem, optimizer.history


@functools.cache
def _generations(spec: str, trials: int) -> Study:
    """Those of eight members, none of which has become a copy, and each of which changes all the same."""
    problem, history = problem_on(_space(spec), max_budget=trials // 8 + 1), []
    for number in range(trials):
        generation, member = divmod(number, 8)
        params, donor = problem.space.sample(np.random.default_rng(number)), number - 8 if generation else None
        trial = Trial(number, params, generation + 1, Slot(generation=generation, member=member), donor, restorable=True)
        history.append(dataclasses.replace(trial, state=State.DONE, losses=(_loss(problem, trial),)))
    return problem, tuple(history)


def _loss(problem: Problem, trial: Trial) -> float:
    """Mostly of the first parameter."""
    first = problem.space.parameters[0]
    return abs(first.encode(trial.params[first.name]) - 0.3) + trial.number * 0.618 % 1 / 10


def _undisturbed(method: Method, ending: Ending = smooth) -> Study:
    return _midway(method, ending, ALGORITHMS[method.algorithm])


@functools.cache
def _midway(method: Method, ending: Ending, where: str) -> Study:
    world = midway(method, ending=ending)
    return world.problem, tuple(world.history)


def _cases(method: Method) -> list[Study]:
    return [_undisturbed(method, ending) for ending in (smooth, unstopped)]


@functools.cache
def _elsewhere(algorithms: tuple[tuple[str, str], ...]) -> dict[Method, list[Answer] | str]:
    """What one process with other hash seeds answers to the cases of these algorithms."""
    known = [method for method, promised in pairs(name for name, _ in algorithms) if promised is another_process_answers_the_same]
    cases = [(method.specs, several(method), _cases(method)) for method in known]
    payload = pickle.dumps((dict(algorithms), cases))
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-c", CHILD], input=payload, capture_output=True, env=environment, check=False)
    assert child.returncode == 0, child.stderr.decode()
    return dict(zip(known, pickle.loads(child.stdout), strict=True))


CHILD = """
import pickle, sys, traceback
from hpo_algorithms import ALGORITHMS, build

def answer(specs, count, cases):
    try:
        methods = [build(problem, *specs) for problem, _ in cases]
        return [method.propose(*case, len(case[1]), count) for method, case in zip(methods, cases)]
    except Exception:
        return traceback.format_exc()

algorithms, cases = pickle.load(sys.stdin.buffer)
ALGORITHMS.update(algorithms)
sys.stdout.buffer.write(pickle.dumps([answer(*case) for case in cases]))
"""
