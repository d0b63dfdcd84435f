"""Ask and tell, as a program outside of this project uses it."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil

import hpo_algorithms
import numpy as np
import pytest
from hpo_algorithms import InvalidParameters, InvalidReport, InvalidSettings, Slot, State

from tests.unit.algorithms.spaces import CONTINUOUS, FINITE, read

LINE = [{"name": "x", "float": {"min": 0, "max": 1}}]


def test_the_lines_of_the_design_work_word_for_word() -> None:
    # fmt: off
    from hpo_algorithms import Optimizer, Space
    space = Space.from_spec([{"name": "lr", "float": {"min": 1e-5, "max": 0.1, "scale": "Log"}}])   # as in Study.spec.parameters
    optimizer = Optimizer(space, algorithm={"tpe": {}}, schedule=None, budget=None, seed=0)            # budget=(min, max)
    trial = optimizer.ask()                     # .number .params (typed, active only) .budget .donor .slot; None = wait or finished
    trials = optimizer.ask(8)                   # up to eight, decided jointly; empty = wait, or optimizer.finished says why it ended  # noqa: E501
    optimizer.tell(trial.number, 0.31)          # loss, or losses; step=…, state="failed" | "infeasible" | "stopped"
    # fmt: on
    assert (trial.number, trial.budget, trial.donor, trial.slot) == (0, None, None, Slot())
    assert list(trial.params) == ["lr"]
    assert isinstance(trial.params["lr"], float)
    assert [each.number for each in trials] == list(range(1, 9))
    assert optimizer.finished == ""
    assert optimizer.best.number == 0


def optimizer(**kwargs: object) -> hpo_algorithms.Optimizer:
    return hpo_algorithms.Optimizer(read(LINE), **{"algorithm": {"random": {}}, **kwargs})  # type: ignore[arg-type]


def test_the_same_seed_and_results_give_the_same_proposals() -> None:
    runs = []
    for seed in (3, 3, 4):
        run = optimizer(seed=seed)
        for _ in range(10):
            trial = run.ask()
            assert trial is not None
            run.tell(trial.number, trial.params["x"])  # type: ignore[arg-type]
        runs.append([trial.params for trial in run.history])
    assert runs[0] == runs[1] != runs[2]


def test_without_a_budget_a_loss_ends_a_trial() -> None:
    run = optimizer()
    run.ask(2)
    run.tell(0, 0.5)
    run.tell(1, 0.25, step=7)
    assert [(trial.state, trial.loss, trial.step, trial.curve) for trial in run.history] == [
        (State.DONE, 0.5, None, ()),
        (State.DONE, 0.25, 7, ((7, 0.25),)),
    ]


def test_below_the_budget_a_loss_is_a_point_of_the_curve() -> None:
    run = optimizer(budget=(1, 10))
    assert run.ask().budget == 10  # type: ignore[union-attr]
    run.tell(0, 0.9, step=2)
    run.tell(0, math.nan, step=5)
    (trial,) = run.history
    assert trial.active
    assert (trial.step, trial.losses) == (5, ())
    assert str(trial.curve) == "((2, 0.9), (5, nan))"
    run.tell(0, 0.1, step=10)
    assert (run.history[0].state, run.history[0].loss, run.history[0].step) == (State.DONE, 0.1, 10)
    assert [step for step, _ in run.history[0].curve] == [2, 5, 10]
    assert run.history[0].restorable


def test_a_point_told_again_replaces_the_first_and_a_late_one_loses_none() -> None:
    run = optimizer(budget=(1, 10))
    run.ask()
    for step, loss in ((2, 0.9), (6, 0.5), (4, 0.7), (2, 0.8)):
        run.tell(0, loss, step=step)
    assert run.history[0].curve == ((2, 0.8), (4, 0.7), (6, 0.5))
    assert run.history[0].step == 6


def test_a_loss_without_a_step_is_the_result_at_the_budget() -> None:
    run = optimizer(budget=(1, 10))
    run.ask(2)
    run.tell(0, 0.1)
    run.tell(1, 0.2, step=4, state="done")
    assert [(trial.state, trial.step) for trial in run.history] == [(State.DONE, 10), (State.DONE, 4)]


def test_trials_can_fail_be_infeasible_or_be_stopped() -> None:
    run = optimizer(budget=(1, 10))
    run.ask(5)
    run.tell(0, state="failed")
    run.tell(1, state="infeasible")
    run.tell(2, 0.4, step=3)
    run.tell(2, state="stopped")
    run.tell(3, 0.3, step=5, state="stopped")
    run.tell(4, math.nan)
    found = [(trial.state, trial.losses, trial.step, trial.loss, trial.restorable) for trial in run.history[:4]]
    assert found == [
        (State.FAILED, (), None, math.inf, False),
        (State.INFEASIBLE, (), None, math.inf, False),
        (State.STOPPED, (0.4,), 3, 0.4, False),
        (State.STOPPED, (0.3,), 5, 0.3, False),
    ]
    assert (run.history[4].state, run.history[4].loss) == (State.INFEASIBLE, math.inf)
    assert run.best is None


def test_numbers_of_numpy_are_numbers() -> None:
    run = optimizer(budget=(np.int64(1), np.int32(9)))
    run.ask()
    run.tell(np.int64(0), np.float32(0.5), step=np.int64(3))
    run.tell(0, np.array([0.25]), violation=np.float32(0.5))
    assert run.history[0].curve == ((3, 0.5),)
    assert type(run.history[0].curve[0][0]) is int
    assert (run.history[0].losses, run.history[0].budget) == ((0.25,), 9)
    assert type(run.history[0].violation) is float
    given = [{"x": np.float32(0.5), "lr": np.float64(0.1)}]
    run = hpo_algorithms.Optimizer(read(CONTINUOUS), {"grid": {"points": np.int64(3)}}, given=given)
    asked = run.ask()
    assert asked is not None
    assert repr(asked.params) == repr({"x": 0.5, "lr": 0.1})


def test_the_best_is_the_lowest_loss_at_the_highest_budget_that_keeps_the_constraints() -> None:
    run = optimizer(schedule={"asha": {}}, budget=(1, 3))
    run.ask(3)
    for number in range(3):
        run.tell(number, float(number))
    assert run.best == run.history[0]
    assert run.ask().budget == 3  # type: ignore[union-attr]
    run.tell(3, 5.0)
    assert run.best == run.history[3]
    run.ask(6)
    for number in range(4, 10):
        run.tell(number, 0.0)
    assert run.ask().budget == 3  # type: ignore[union-attr]
    run.tell(10, 1.0, violation=0.1)
    assert run.best == run.history[3]


def test_several_objectives_have_several_losses() -> None:
    run = optimizer(objectives=2)
    run.ask(3)
    run.tell(0, [0.1, 0.2])
    run.tell(1, (0.1, math.nan))
    run.tell(2, state="stopped")
    assert [trial.state for trial in run.history] == [State.DONE, State.INFEASIBLE, State.STOPPED]
    run.ask()
    with pytest.raises(InvalidReport, match="Trial 3 was told 1, but there are 2 objectives"):
        run.tell(3, 0.1)


@pytest.mark.parametrize(
    ("number", "losses", "kwargs", "message"),
    [
        (9, 0.1, {}, "number: 9: no such Trial; 2 have been asked for"),
        (-1, 0.1, {}, "number: -1: no such Trial"),
        (True, 0.1, {}, "number: True: no such Trial"),
        ("0", 0.1, {}, "number: '0': no such Trial"),
        (1, 0.1, {}, r"number: 1: this Trial has ended already \(done\)"),
        (0, None, {}, "losses: Trial 0 needs a loss. For one without a result say state='failed'"),
        (0, None, {"state": "done"}, "losses: Trial 0 needs a loss"),
        (0, None, {"step": 3}, "losses: Trial 0 needs a loss"),
        (0, [0.1, 0.2], {}, "was told 2, but there are 1 objectives"),
        (0, [], {}, "was told 0"),
        (0, 0.1, {"state": "crashed"}, "state: 'crashed': must be one of done, stopped, failed, infeasible"),
        (0, 0.1, {"step": -1}, "step: -1: must be a whole number of at least 0"),
        (0, 0.1, {"step": 1.5}, "step: 1.5: must be a whole number"),
        (0, 0.1, {"step": math.nan}, "step: nan: must be a whole number"),
        (0, 0.1, {"step": math.inf}, "step: inf: must be a whole number"),
        (0, 0.1, {"step": True}, "step: True: must be a whole number"),
        (0, 0.1, {"step": "3"}, "step: '3': must be a whole number"),
        (0, "low", {}, "losses: 'low': must be a number"),
        (0, [None], {}, "must be a number"),
        (0, 10**400, {}, "must be a number"),
        (0, 0.1, {"state": ["done"]}, r"state: \['done'\]: must be one of done"),
        (0, 0.1, {"violation": None}, "violation: None: must be a number"),
        (0, 0.1, {"violation": "much"}, "violation: 'much': must be a number"),
    ],
    ids=str,
)
def test_a_report_that_cannot_be_taken_is_refused_and_changes_nothing(
    number: object, losses: object, kwargs: dict[str, object], message: str
) -> None:
    run = optimizer(budget=(1, 10))
    run.ask(2)
    run.tell(1, 0.5)
    before = run.history
    with pytest.raises(InvalidReport, match=message):
        run.tell(number, losses, **kwargs)  # type: ignore[arg-type]
    assert run.history == before


def test_a_finite_space_ends_with_the_reason() -> None:
    run = hpo_algorithms.Optimizer(read(FINITE), {"random": {}})
    first = run.ask(12)
    assert len(run.ask(12)) == 8
    assert (run.ask(), run.ask(3), run.finished) == (None, [], ""), "wait: twenty are active"
    for trial in run.history:
        run.tell(trial.number, 1.0)
    assert (run.ask(), run.ask(3), run.finished) == (None, [], "SearchExhausted")
    assert len(first) == 12


def test_a_schedule_ends_with_the_reason() -> None:
    run = optimizer(schedule={"hyperband": {"iterations": 1}}, budget=(1, 3))
    while trials := run.ask(4):
        for trial in trials:
            run.tell(trial.number, 1.0)
    assert run.finished == "ScheduleFinished"
    assert run.ask() is None
    assert [trial.budget for trial in run.history] == [1, 1, 1, 3, 3, 3]


def test_hopeless_trials_are_named_and_told_as_stopped() -> None:
    run = optimizer(schedule={"median": {"startupTrials": 3}}, budget=(1, 4))
    run.ask(4)
    for number in range(3):
        for step in range(1, 5):
            run.tell(number, 1.0 / step, step=step)
    assert run.stops() == []
    run.tell(3, 2.0, step=1)
    (stop,) = run.stops()
    assert (stop.number, stop.rule, stop.step) == (3, "median", 1)
    run.tell(stop.number, state="stopped")
    assert run.stops() == []
    assert run.history[3].state is State.STOPPED


def test_given_configurations_come_first_typed() -> None:
    run = hpo_algorithms.Optimizer(read(CONTINUOUS), {"random": {}}, given=[{"lr": 0.1, "x": 1}])
    assert list(run.ask().params.items()) == [("x", 1.0), ("lr", 0.1)]  # type: ignore[union-attr]
    with pytest.raises(InvalidParameters, match=r"given\[1\]\.x: 99: must lie in \[-5\.0, 10\.0\]"):
        hpo_algorithms.Optimizer(read(CONTINUOUS), given=[{"lr": 0.1, "x": 1}, {"lr": 0.1, "x": 99}])
    with pytest.raises(InvalidParameters, match=r"given\[0\]: 'x': must be a mapping"):
        hpo_algorithms.Optimizer(read(CONTINUOUS), given=["x"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "budget", [(0, 9), (9, 1), (1,), (1, 2, 3), (1.5, 3), (1, math.inf), (1, math.nan), "19", 9, (True, 9), (None, 3)]
)
def test_a_wrong_budget_is_refused(budget: object) -> None:
    with pytest.raises(InvalidSettings, match=r"budget: .* must be two whole numbers, 1 <= min <= max. For example \(1, 27\)."):
        optimizer(budget=budget)


@pytest.mark.parametrize("objectives", [0, -1, 1.5, "2", None])
def test_a_wrong_number_of_objectives_is_refused(objectives: object) -> None:
    with pytest.raises(InvalidSettings, match=r"objectives: .*must be a whole number of at least 1\."):
        optimizer(objectives=objectives)


@pytest.mark.parametrize(
    ("algorithm", "schedule", "message"),
    [
        ({"randon": {}}, None, "algorithm.randon: is not a known algorithm. Did you mean 'random'?"),
        ({"random": {}, "grid": {}}, None, "must hold exactly one of auto, random"),
        ("random", None, "algorithm: 'random': must hold exactly one"),
        ({"random": {"seed": 3}}, None, "algorithm.random.seed: 3: is not a known setting. It has no settings."),
        ({"": {}}, None, "algorithm: {'': {}}: must hold exactly one of auto, random"),
        ({"random": 3}, None, "algorithm.random: 3: must be a mapping of settings"),
        ({"random": {}}, {"hyperbands": {}}, "schedule.hyperbands: is not a known schedule. Did you mean 'hyperband'?"),
        ({"random": {}}, {"asha": {"eta": 1}}, "schedule.asha.eta: 1: must be at least 2"),
        ({"random": {}}, {"hyperband": {"eta": 2.5}}, "schedule.hyperband.eta: 2.5: must be a whole number"),
        ({"random": {}}, {"hyperband": {"iterations": 0}}, "schedule.hyperband.iterations: 0: must be at least 1"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(algorithm: object, schedule: object, message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        optimizer(algorithm=algorithm, schedule=schedule, budget=(1, 9))
    assert message in str(caught.value)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        optimizer(algorithm={"grid": {"points": 0, "order": "random"}}, schedule={"asha": {"eta": 0}})
    assert [fault.path for fault in caught.value.faults] == [
        "algorithm.grid.points",
        "algorithm.grid.order",
        "schedule.asha.eta",
    ]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("algorithm", ["auto", "gp", "tpe"])
def test_losses_whose_differences_are_no_numbers_are_taken_and_stay_as_they_were_told(algorithm: str, objectives: int) -> None:
    run = optimizer(algorithm={algorithm: {}}, objectives=objectives)
    told = [[(1e308, -1e308, 0.1, 1e308)[(i + 2 * j) % 4] for j in range(objectives)] for i in range(30)]
    for losses in told:
        trial = run.ask()
        assert trial is not None
        run.tell(trial.number, losses)
    assert [list(trial.losses) for trial in run.history] == told
    assert run.best == run.history[1]


@pytest.mark.parametrize("count", [0, -1])
def test_asking_for_less_than_one_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        optimizer().ask(count)


def test_the_examples_in_the_docstrings_are_true() -> None:
    found = [info.name for info in pkgutil.walk_packages(hpo_algorithms.__path__, "hpo_algorithms.")]
    names = [name for name in found if name != "hpo_algorithms.gp.botorch"]  # which needs torch, and has no examples
    results = [doctest.testmod(importlib.import_module(name)) for name in ["hpo_algorithms", *names]]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 8
