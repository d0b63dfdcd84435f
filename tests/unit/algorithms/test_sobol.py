"""Quasi-random search: one scrambled Sobol sequence, walked on from where the Trials say that it stands."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
from hpo_algorithms import Optimizer, Problem, Trial
from hpo_algorithms.samplers.sobol import Sobol

from tests.unit.algorithms.spaces import CONTINUOUS, WIDE, read
from tests.unit.work import lines

SQUARE = [{"name": name, "float": {"min": 0, "max": 1}} for name in "xy"]


def test_sixteen_trials_stand_in_sixteen_strips_of_each_parameter_and_in_all_cells_of_four_by_four() -> None:
    for seed in range(5):
        trials = Optimizer(read(SQUARE), {"sobol": {}}, seed=seed).ask(16)
        points = np.array([[trial.params["x"], trial.params["y"]] for trial in trials])
        for column in points.T:
            assert sorted(np.floor(column * 16)) == list(range(16))
        assert len({(int(x * 4), int(y * 4)) for x, y in points}) == 16


def test_seeds_give_different_sequences() -> None:
    first = [Optimizer(read(SQUARE), {"sobol": {}}, seed=seed).ask().params["x"] for seed in range(20)]  # type: ignore[union-attr]
    assert len(set(first)) == 20
    assert 0.2 < np.mean(first) < 0.8


def test_the_sequence_goes_on_behind_the_last_position_in_the_memos() -> None:
    sobol, problem = Sobol(), Problem(read(CONTINUOUS))
    drawn = sobol.draw(problem, [], range(12))
    assert [draw.memo for draw in drawn] == [str(i) for i in range(12)]
    history = [Trial(i, draw.params, memo=draw.memo) for i, draw in enumerate(drawn[:5])]
    assert sobol.draw(problem, history, range(5, 12)) == drawn[5:]
    history.append(Trial(5, {"x": 0.0, "lr": 0.01}))  # given, promoted or fallback: no position
    assert sobol.draw(problem, history, range(6, 13)) == drawn[5:]


def test_no_number_of_draws_makes_scipy_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for count in (1, 3, 5, 7):
            assert len(Sobol().draw(Problem(read(WIDE)), [], range(count))) == count


def test_a_late_position_costs_no_more_than_an_early_one() -> None:
    def from_position(position: int) -> int:
        return lines(lambda: Sobol().draw(Problem(read(WIDE)), [Trial(0, {}, memo=str(position))], range(1, 9)))

    from_position(10)  # imports scipy.stats
    assert from_position(100_000) < 2 * from_position(10)


def test_the_package_is_imported_without_scipy_stats() -> None:
    """It takes longer to import than everything else together, and only some samplers need it."""
    code = "import sys, hpo_algorithms; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
