"""Grid search: each combination once, in a seeded order that is never listed."""

from __future__ import annotations

import pytest
from hpo_algorithms import InvalidSettings, Optimizer, Problem, Trial, build
from hpo_algorithms.samplers.grid import Grid
from hpo_algorithms.trials import SEARCH_EXHAUSTED

from tests.unit.algorithms.spaces import CONTINUOUS, FINITE, FINITE_SIZE, WIDE, read

GOLDEN = [
    {"kernel": "poly", "gamma": 0.1, "degree": 3, "cost": 1.0},
    {"kernel": "linear", "cost": 0.5},
    {"kernel": "rbf", "gamma": 10, "cost": 0.5},
]


def whole_grid(optimizer: Optimizer, count: int = 7) -> list[dict[str, object]]:
    found = []
    while trials := optimizer.ask(count):
        for trial in trials:
            optimizer.tell(trial.number, 1.0)
            found.append(dict(trial.params))
    assert optimizer.finished == SEARCH_EXHAUSTED
    return found


def test_each_combination_is_tried_once_and_then_the_search_is_exhausted() -> None:
    space = read(FINITE)
    found = whole_grid(Optimizer(space, {"grid": {}}))
    assert len(found) == FINITE_SIZE
    assert {space.key(params) for params in found} == {space.key(space.enumeration.at(i)) for i in range(FINITE_SIZE)}  # type: ignore[arg-type]


def test_a_continuous_range_is_tried_at_points_on_its_scale() -> None:
    found = whole_grid(Optimizer(read(CONTINUOUS), {"grid": {"points": 4}}))
    assert len(found) == 16
    assert sorted({params["x"] for params in found}) == [-5.0, 0.0, 5.0, 10.0]
    assert sorted({params["lr"] for params in found}) == pytest.approx([1e-5, 1e-5 * 10 ** (4 / 3), 1e-5 * 10 ** (8 / 3), 1e-1])
    assert len(whole_grid(Optimizer(read(CONTINUOUS), {"grid": {}}))) == 25


def test_the_seed_decides_the_order_and_no_corner_comes_first() -> None:
    orders = [whole_grid(Optimizer(read(CONTINUOUS), {"grid": {}}, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert len({params["x"] for params in orders[0][:8]}) >= 4


def test_the_order_of_a_seed_never_changes() -> None:
    """Golden values: a change here would make running Studies repeat themselves or leave points out."""
    found = [dict(trial.params) for trial in Optimizer(read(FINITE), {"grid": {}}, seed=7).ask(3)]
    assert found == GOLDEN


def test_asking_for_many_is_the_same_as_asking_one_by_one() -> None:
    space = read(FINITE)
    assert whole_grid(Optimizer(space, {"grid": {}}), 1) == whole_grid(Optimizer(space, {"grid": {}}), 50)


def test_what_the_user_gave_is_tried_first_and_not_again() -> None:
    space = read(CONTINUOUS)
    given = [{"x": 10, "lr": 0.1}, {"x": 2.5000000000000004, "lr": 0.001}, {"x": 3.3, "lr": 0.02}]
    found = whole_grid(Optimizer(space, {"grid": {"points": 3}}, given=given))
    assert found[:3] == given
    assert len(found) == 9 + 1, "two of the three stand on the grid, one of them but for the last digit"


def test_a_configuration_that_a_fallback_has_tried_is_not_tried_again() -> None:
    space = read(FINITE)
    grid, problem = Grid(), Problem(space)
    fallback = Trial(0, grid.draw(problem, [], [0])[0].params)
    assert fallback.params not in [draw.params for draw in grid.draw(problem, [fallback], range(1, 40))]
    assert len(grid.draw(problem, [fallback], range(1, 40))) == FINITE_SIZE - 1


def test_the_place_on_the_grid_is_read_from_the_memos_alone() -> None:
    grid, problem = Grid(), Problem(read(CONTINUOUS))
    drawn = grid.draw(problem, [], range(6))
    history = [Trial(i, draw.params, memo=draw.memo) for i, draw in enumerate(drawn[:4])]
    assert grid.draw(problem, history, [4, 5]) == drawn[4:]
    history.insert(2, Trial(9, {"x": 0.1, "lr": 0.02}))
    assert grid.draw(problem, history, [4, 5]) == drawn[4:], "a Trial that somebody else placed moves nothing"


def test_a_grid_of_a_thousand_million_points_is_entered_at_its_end() -> None:
    """Walking there would take hours."""
    space = read([{"name": f"p{i}", "ordinal": {"values": list(range(10))}} for i in range(9)])
    draws = Grid().draw(Problem(space), [Trial(0, {}, memo="999999000")], range(50))
    assert len({space.key(draw.params) for draw in draws}) == 50
    assert Grid().draw(Problem(space), [Trial(0, {}, memo="999999999")], [1]) == []
    assert len(Grid(points=1000).draw(Problem(read(WIDE)), [], range(8))) == 8


def test_each_parameter_varies_however_many_points_the_grid_has() -> None:
    """The first ones of a hundred stood still: what permutes the grid mixed 256 bits of its size and no more."""
    space = read([{"name": f"p{i}", "ordinal": {"values": list(range(20))}} for i in range(100)])
    draws = Grid().draw(Problem(space), [], range(100))
    assert min(len({draw.params[name] for draw in draws}) for name in space.names) > 10


def test_conditions_too_entangled_for_a_grid_are_refused() -> None:
    flag = {"categorical": {"choices": ["on", "off"]}}
    spec = [{"name": f"parent{i}", **flag} for i in range(50)]
    for i in range(49):
        parents = sorted({i, (7 * i + 3) % 50, (11 * i + 5) % 50})
        spec.append({"name": f"child{i}", **flag, "when": [{"parameter": f"parent{j}", "in": ["on"]} for j in parents]})
    spec.append({"name": "x", "float": {"min": 0, "max": 1}})  # type: ignore[dict-item]
    build(Problem(read(spec)), {"random": {}})
    with pytest.raises(InvalidSettings, match="parameters: has conditions too entangled"):
        build(Problem(read(spec)), {"grid": {}})


@pytest.mark.parametrize("points", [0, 1001, 2.5, "5", True])
def test_wrong_settings_are_refused(points: object) -> None:
    with pytest.raises(InvalidSettings, match=r"algorithm\.grid\.points"):
        Optimizer(read(CONTINUOUS), {"grid": {"points": points}})
