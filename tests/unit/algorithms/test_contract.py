"""Every algorithm of the registry, under every schedule that it can be combined with, keeps every promise of the seam."""

from __future__ import annotations

import pytest
from hpo_algorithms import ALGORITHMS, InvalidParameters

from tests.unit.algorithms.contract import ON_TORCH, PROMISES, Method, Promise, pairs
from tests.unit.algorithms.saboteurs import SABOTEURS, Dormant, Honest

pytestmark = pytest.mark.filterwarnings("error")


CASES = [
    pytest.param(method, promised, marks=[pytest.mark.torch] if method.algorithm in ON_TORCH else [])
    for method, promised in pairs()
]


@pytest.mark.parametrize(("method", "promised"), CASES, ids=lambda each: getattr(each, "__name__", str(each)))
def test_contract(method: Method, promised: Promise) -> None:
    promised(method)


# The suite itself


BY_NAME = {promised.__name__: promised for promised in PROMISES}


@pytest.mark.parametrize(("saboteur", "name"), SABOTEURS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_a_sampler_that_breaks_a_promise_is_found_out(saboteur: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "saboteur", f"{saboteur.__module__}:{saboteur.__name__}")
    with pytest.raises((AssertionError, InvalidParameters, RuntimeWarning)):
        BY_NAME[name](Method("saboteur", "flat"))


def test_a_sampler_that_breaks_none_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "saboteur", f"{Honest.__module__}:{Honest.__name__}")
    for name in set(SABOTEURS.values()):
        BY_NAME[name](Method("saboteur", "flat"))


def test_a_promise_that_is_kept_without_the_model_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALGORITHMS, "tpe", f"{Dormant.__module__}:{Dormant.__name__}")
    with pytest.raises(AssertionError, match="without the model"):
        BY_NAME["a_constant_objective_is_taken"](Method("tpe", "flat"))


def test_every_algorithm_and_every_schedule_of_the_registry_is_covered() -> None:
    covered = {str(method) for method, _ in pairs()}
    assert {name.split("-")[0] for name in covered} == set(ALGORITHMS) - {"replay"}, "which has tests of its own"
    assert {"random-hyperband", "grid-median", "tpe-asha"} <= covered
