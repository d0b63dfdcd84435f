"""What a look at a Study comes to when something happens in the midst of it."""

from __future__ import annotations

import asyncio

import pytest
from hpo_operator.cluster.client import RequestFailed
from hpo_operator.resources import StudyName, WarmStart

from tests.unit.operator.builders import a_study, a_trial
from tests.unit.operator.cluster.api import Bench


def test_earlier_studies_that_cannot_be_read_for_now_are_read_when_it_is_tried_again() -> None:
    bench = Bench(a_study())
    assert bench.state.study is not None
    spec = bench.state.study.spec.model_copy(update={"warm_start": WarmStart(studies=(StudyName(name="earlier"),))})
    bench.state.study = bench.state.study.model_copy(update={"spec": spec})
    bench.api.put({"kind": "Study", "metadata": {"name": "earlier"}})
    bench.api.put({"kind": "Trial", **a_trial(0).completed(loss=0.5).build().manifest()})

    def fail(verb: str, kind: str, name: str) -> None:
        if (verb, name) == ("get", "earlier") and bench.api.did("get", "Study") == ["earlier"]:
            raise RequestFailed("get", 500, "InternalError", "etcdserver: leader changed")

    bench.api.meanwhile = fail
    with pytest.raises(RequestFailed):
        asyncio.run(bench.controller._prepare(bench.state))
    assert asyncio.run(bench.controller._prepare(bench.state))
    assert bench.state.earlier is not None
    assert [[trial.loss for trial in found] for found in bench.state.earlier] == [[0.5]]
