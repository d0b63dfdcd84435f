"""Answers of Prometheus as learning curves: what belongs together is joined, and what is none, or not this Trial's, is left out."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from hpo_operator.cluster import prometheus as module
from hpo_operator.cluster.prometheus import (
    Answer,
    Grid,
    Measured,
    Prometheus,
    PrometheusSettings,
    Run,
    SourceFailed,
    expression,
    read,
)
from hpo_operator.resources import StudySpec
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.testbed import prometheus as testbed
from tests.testbed.credentials import write_certificate
from tests.testbed.namespaces import ROOT
from tests.unit.operator.builders import TEMPLATE, X, a_study, measured

START = datetime(2030, 1, 1, tzinfo=UTC)
DOCS = ROOT / "docs" / "metrics.md"
UID = "0b5e5a3e-7e0a-4a51-9a57-5c6e6d6d2f00"
SPEC = a_study().minimizing("loss").build().spec
OWN = StudySpec.model_validate(
    {"objectives": [{"metric": "loss"}], "parameters": [X], "metrics": {"step": "epoch"}, "template": TEMPLATE}, strict=False
)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


class Series:
    """Series as Prometheus answers them, one sample each fifteen seconds."""

    def __init__(self) -> None:
        self.found: list[Mapping[str, Any]] = []

    def add(self, name: str, values: Mapping[float, object], trial: object = 0, **labels: str) -> Series:
        metric = {"__name__": name, "trial_number": str(trial), "study_uid": UID, "instance": "10.0.0.1:9464", **labels}
        pairs = [[START.timestamp() + seconds, str(value)] for seconds, value in values.items()]
        self.found.append({"metric": metric, "values": pairs})
        return self

    def steps(self, values: Mapping[float, object], **labels: str) -> Series:
        return self.add("hpo_trial_step", values, **labels)

    def losses(self, values: Mapping[float, object], **labels: str) -> Series:
        return self.add("hpo_trial_metric", values, metric="loss", **labels)

    def text(self, **more: Any) -> bytes:
        return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": self.found}, **more}).encode()

    def answer(self, runs: Mapping[int, Run] | None = None, spec: StudySpec = SPEC) -> Answer:
        return read(self.text(), spec, runs or {0: Run(at(0))}, 15)

    def curve(self, runs: Mapping[int, Run] | None = None, spec: StudySpec = SPEC) -> list[tuple[int, float]]:
        found = self.answer(runs, spec).trials.get(0, Measured())
        return list(found.curve)


# Joining


def test_a_value_belongs_to_the_step_that_was_scraped_with_it() -> None:
    series = Series().steps({15: 1, 30: 2, 45: 2, 60: 3}).losses({15: 0.9, 30: 0.8, 45: 0.7, 60: 0.6})

    found = series.answer().trials[0]

    assert found.curve == ((1, 0.9), (2, 0.7), (3, 0.6))
    assert found.report == measured(3, loss=(0.6, 0.6, 0.9))


def test_a_value_without_a_step_counts_for_the_result_and_not_for_the_curve() -> None:
    found = Series().steps({15: 1}).losses({15: 0.9, 30: 0.8}).answer().trials[0]

    assert found.curve == ((1, 0.9),)
    assert found.report == measured(1, loss=(0.8, 0.8, 0.9))


def test_a_step_without_a_value_makes_no_point() -> None:
    assert Series().steps({15: 1, 30: 2}).losses({30: 0.8}).curve() == [(2, 0.8)]
    assert Series().steps({15: 1}).answer().trials == {}


def test_samples_of_a_pod_in_another_namespace_are_not_the_Trials_whatever_its_labels_say() -> None:
    runs = {0: Run(at(0), namespace="team-a")}
    forged = Series().steps({15: 1}, namespace="team-b").losses({15: 0.0}, namespace="team-b")
    assert forged.answer(runs).trials == {}
    assert Series().steps({15: 1}, namespace="team-a").losses({15: 0.9}, namespace="team-a").curve(runs) == [(1, 0.9)]
    assert Series().steps({15: 1}).losses({15: 0.9}).curve(runs) == [(1, 0.9)]


def test_without_any_step_there_is_no_curve_for_scrapes_are_no_steps() -> None:
    found = Series().losses({15: 0.9, 30: 0.8}).answer().trials[0]

    assert found.curve == ()
    assert found.report == measured(None, loss=(0.8, 0.8, 0.9))


def test_a_program_of_its_own_names_its_step() -> None:
    assert Series().add("epoch", {15: 1, 30: 2}).add("loss", {15: 0.9, 30: 0.8}).curve(spec=OWN) == [(1, 0.9), (2, 0.8)]


def test_nan_and_infinities_are_values() -> None:
    found = Series().steps({15: 1, 30: 2, 45: 3}).losses({15: "+Inf", 30: "NaN", 45: "-Inf"}).answer().trials[0]

    assert [step for step, _ in found.curve] == [1, 2, 3]
    assert found.curve[0][1] == math.inf and math.isnan(found.curve[1][1]) and found.curve[2][1] == -math.inf
    assert found.report.metrics["loss"].lowest == -math.inf


def test_a_program_that_begins_anew_replaces_what_it_does_again() -> None:
    steps, losses = {15: 1, 30: 2, 45: 3, 60: 2}, {15: 0.9, 30: 0.8, 45: 0.7, 60: 0.75}

    assert Series().steps(steps).losses(losses).curve() == [(1, 0.9), (2, 0.75)]


@pytest.mark.parametrize("step", ["-1", "NaN", "+Inf", "1e300", str(2**60)])
def test_a_step_that_is_none_makes_no_point(step: str) -> None:
    found = Series().steps({15: step, 30: 2}).losses({15: 0.9, 30: 0.8}).answer().trials[0]

    assert found.curve == ((2, 0.8),)
    assert found.report.step == 2


def test_of_a_step_that_is_a_fraction_the_last_whole_one_counts() -> None:
    assert Series().steps({15: 1.5}).losses({15: 0.9}).curve() == [(1, 0.9)]


# Which series count


@pytest.mark.parametrize("trial", ["1", "-0", "²", "0x0", "", "9" * 5000, "0 or 1"])
def test_trials_that_were_not_asked_for_do_not_count(trial: str) -> None:
    assert Series().steps({15: 1}, trial=trial).losses({15: 0.9}, trial=trial).answer().trials == {}


def test_only_the_present_pod_of_a_trial_counts() -> None:
    series = Series().steps({15: 7}, pod="old").losses({15: 0.1}, pod="old")
    runs = {0: Run(at(0), pods=frozenset({"new"}))}

    assert series.curve(runs) == []
    assert series.steps({30: 1}, pod="new").losses({30: 0.9}, pod="new").curve(runs) == [(1, 0.9)]


def test_where_pods_are_not_told_the_latest_program_counts() -> None:
    series = Series().steps({15: 7, 30: 8, 45: 9}, instance="old").losses({15: 0.3, 30: 0.2, 45: 0.1}, instance="old")
    series.steps({30: 1, 45: 2}, instance="new").losses({30: 0.9, 45: 0.8}, instance="new")

    assert series.curve() == [(1, 0.9), (2, 0.8)]


def test_steps_and_values_of_two_programs_are_not_mixed() -> None:
    series = Series().steps({15: 1, 30: 2}, container="a").losses({15: 0.9, 30: 0.8}, container="a")
    series.steps({15: 100, 30: 200}, container="b")

    assert series.curve() == [(1, 0.9), (2, 0.8)]


def test_two_servers_that_scrape_the_same_program_count_once() -> None:
    series = Series().steps({15: 1, 30: 2}, replica="a").losses({15: 0.9, 30: 0.8}, replica="a")
    series.steps({15: 1, 30: 1}, replica="b").losses({15: 0.9, 30: 0.9}, replica="b")

    assert series.curve() in ([(1, 0.9), (2, 0.8)], [(1, 0.9)])


def test_of_two_series_that_claim_to_be_a_metric_none_is_chosen() -> None:
    series = Series().add("epoch", {15: 1}).add("loss", {15: 0.9}, phase="train").add("loss", {15: 0.1}, phase="test")

    assert series.answer(spec=OWN).trials == {}


def test_samples_long_before_the_start_and_after_the_end_do_not_count() -> None:
    times = {-300: 1, 15: 2, 30: 3, 300: 4}
    series = Series().steps(times).losses({time: step / 10 for time, step in times.items()})

    assert series.curve({0: Run(at(0), at(25))}) == [(2, 0.2), (3, 0.3)]


def test_the_newest_sample_of_any_pod_is_known_even_where_it_tells_no_metric() -> None:
    answer = Series().add("up", {15: 1, 45: 0}).answer()

    assert answer.trials == {}
    assert answer.newest == at(45)


def test_warnings_are_passed_on_and_the_rest_counts() -> None:
    answer = read(Series().steps({15: 1}).losses({15: 0.9}).text(warnings=["a store is away"]), SPEC, {0: Run(at(0))}, 15)

    assert answer.warnings == ("a store is away",)
    assert answer.trials[0].curve == ((1, 0.9),)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"status":"success"}',
        b'{"status":"error","errorType":"bad_data","error":"no","data":{"resultType":"matrix","result":[]}}',
        b'{"status":"success","data":{"resultType":"vector","result":[]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":7,"values":[]}]}}',
        b'{"status":"success","data":{"resultType":"matrix","result":7}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_refused(text: bytes) -> None:
    with pytest.raises(SourceFailed) as raised:
        read(text, SPEC, {0: Run(at(0))}, 15)

    assert raised.value.refused


_LABELS = st.dictionaries(st.sampled_from(["__name__", "metric", "trial_number", "pod", "instance"]), st.sampled_from(
    ["hpo_trial_metric", "hpo_trial_step", "loss", "epoch", "0", "1", "", "a"]
))  # fmt: skip
_NUMBERS = st.one_of(st.floats().map(str), st.integers().map(str), st.none(), st.booleans(), st.lists(st.integers()), st.text())
_PAIRS = st.lists(st.tuples(st.floats() | st.integers() | st.none(), _NUMBERS).map(list) | st.none(), max_size=8)


@given(st.lists(st.tuples(_LABELS, _PAIRS), max_size=8))
@settings(deadline=None, derandomize=True)
def test_whatever_a_source_answers_curves_ascend_and_fit_a_status(series: list[tuple[dict[str, str], list[Any]]]) -> None:
    result = [{"metric": labels, "values": values} for labels, values in series]
    text = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()

    for found in read(text, OWN, {0: Run(at(0)), 1: Run(at(0), at(9), frozenset({"a"}))}, 15).trials.values():
        steps = [step for step, _ in found.curve]
        assert steps == sorted(set(steps))
        assert all(0 <= step <= 2**53 for step in steps)


# What is asked


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        ("loss", "loss"),
        ("val loss", r"val\\x{20}loss"),
        ("a.b", r"a\\x{2e}b"),
        ("a|up", r"a\\x{7c}up"),
        (".*", r"\\x{2e}\\x{2a}"),
        ("x[5m])", r"x\\x{5b}5m\\x{5d}\\x{29}"),
        ("größe", "größe"),
    ],
)
def test_a_name_is_asked_for_as_it_stands(name: str, literal: str) -> None:
    asked = expression(a_study().minimizing(name).build().spec, UID, 15)

    assert f'__name__=~"hpo_trial_metric|hpo_trial_step|up|{literal}"' in asked
    assert f'metric=~"|{literal}"' in asked


def test_a_query_holds_no_quote_or_line_end_of_a_name() -> None:
    spec = SPEC.model_copy(update={"metrics": SPEC.metrics.model_copy(update={"step": 'e"} or up{a="\n\\'})})

    asked = expression(spec, 'uid"} or up', 15)

    assert asked.count('"') - asked.count('\\"') == 6
    assert "\n" not in asked


def test_only_the_trials_that_are_measured_are_asked_for_however_many_have_ended_meanwhile() -> None:
    """All of them would soon be more than an answer may hold, and then none would be measured."""
    assert expression(SPEC, UID, 15, [25_000, 3]).endswith(',trial_number=~"3|25000"}[15s])')
    assert len(expression(SPEC, UID, 15, range(999_000, 1_000_000))) < 16_000
    assert expression(SPEC, UID, 15, range(1001)) == expression(SPEC, UID, 15)


@pytest.mark.parametrize(
    ("seconds", "step"), [(0, 15), (100, 15), (15 * 1000, 15), (15 * 1000 + 1, 30), (86400, 120), (30 * 86400, 3840)]
)
def test_the_grid_is_the_interval_apart_and_coarser_where_that_would_be_too_many(seconds: int, step: int) -> None:
    grid = Grid.over(at(0), at(seconds), 15)

    assert grid.step == step
    assert (grid.last - grid.first) / grid.step <= 1000


@given(st.floats(0, 1e7), st.floats(0, 1e7), st.integers(1, 3600), st.integers(64, 1000))
@settings(deadline=None, derandomize=True)
def test_the_stretches_of_a_grid_cover_all_from_start_to_end(start: float, length: float, interval: int, points: int) -> None:
    begin, end = at(start), at(start) + timedelta(seconds=length)

    grid = Grid.over(begin, end, interval, points)

    assert grid.first - grid.step < begin.timestamp() <= grid.first
    assert grid.last >= end.timestamp()
    assert (grid.last - grid.first) / grid.step <= points + 1
    assert grid.first % grid.step == grid.last % grid.step == 0


# The server

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def measuring(handler: Handler, path: str = "/api/v1/query_range", tls: ssl.SSLContext | None = None, **more: Any) -> Answer:
    """Measures against a server that answers so."""

    async def inside() -> Answer:
        app = web.Application()
        app.add_routes([web.post(path, handler)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await (site := web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)).start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        try:
            async with aiohttp.ClientSession() as session:
                url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
                given = PrometheusSettings.model_validate({"url": url, **more})
                return await Prometheus(given, session).measure(SPEC, UID, {0: Run(at(0))}, at(60))
        finally:
            await runner.cleanup()

    return asyncio.run(inside())


def test_one_question_covers_all_trials_from_the_oldest_start_until_now() -> None:
    asked: dict[str, object] = {}

    async def handler(request: web.Request) -> web.Response:
        asked.update(await request.post())
        return web.Response(body=Series().steps({15: 1}).losses({15: 0.9}).text())

    answer = measuring(handler)

    assert answer.trials[0].curve == ((1, 0.9),)
    first = int(START.timestamp())
    assert asked == {
        "query": expression(SPEC, UID, 15, [0]),
        "start": str(first),
        "end": str(first + 60),
        "step": "15",
        "timeout": "10s",
    }


def test_a_token_is_read_anew_for_each_question(tmp_path: Path) -> None:
    token, seen = tmp_path / "token", []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(body=Series().text())

    for each in ("one", "two"):
        token.write_text(f"{each}\n")
        measuring(handler, bearerTokenFile=str(token))

    assert seen == ["Bearer one", "Bearer two"]


def test_a_name_and_password_and_more_headers_are_sent(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    seen: dict[str, str] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(request.headers)
        return web.Response(body=Series().text())

    basic = {"username": "hpo", "passwordFile": str(tmp_path / "password")}
    measuring(handler, basicAuth=basic, headers={"X-Scope-OrgID": "team-a"})

    assert seen["Authorization"] == "Basic " + base64.b64encode(b"hpo:secret").decode()
    assert seen["X-Scope-OrgID"] == "team-a"


@pytest.mark.parametrize(
    ("status", "body", "refused", "said"),
    [
        (400, {"status": "error", "errorType": "bad_data", "error": "invalid parameter"}, True, "bad_data: invalid parameter"),
        (401, "Unauthorized", True, "Unauthorized"),
        (404, "404 page not found", True, "404"),
        (302, "", True, "to https://elsewhere/"),
        (429, "slow down", False, "slow down"),
        (503, {"status": "error", "errorType": "timeout", "error": "query timed out"}, False, "query timed out"),
        (502, "<html>bad gateway</html>", False, "bad gateway"),
    ],
)
def test_an_error_says_whether_the_source_refuses_and_in_which_words(status: int, body: Any, refused: bool, said: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        headers = {"Location": "https://elsewhere/"} if status == 302 else {}
        return web.Response(status=status, text=body if isinstance(body, str) else json.dumps(body), headers=headers)

    with pytest.raises(SourceFailed) as raised:
        measuring(handler)

    assert raised.value.refused is refused
    assert said in str(raised.value)
    assert len(str(raised.value)) < 400


def test_an_answer_that_does_not_come_in_time_is_none() -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    with pytest.raises(SourceFailed, match=r"no answer within 0\.2 s"):
        measuring(handler, queryTimeoutSeconds=0.2)


def test_an_answer_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1 << 20)

    async def handler(request: web.Request) -> web.StreamResponse:
        endless = web.StreamResponse()
        endless.enable_compression()  # a small answer on the wire may be a large one
        await endless.prepare(request)
        while True:
            await endless.write(b" " * (1 << 16))

    with pytest.raises(SourceFailed, match="more than 1 MiB") as raised:
        measuring(handler)

    assert raised.value.refused


@pytest.mark.parametrize("more", [{"bearerTokenFile": "/nowhere/t"}, {"url": "https://127.0.0.1:1", "caFile": "/nowhere/ca"}])
def test_a_file_that_cannot_be_read_is_named(more: dict[str, str]) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=Series().text())

    with pytest.raises(SourceFailed, match="/nowhere/"):
        measuring(handler, **more)


def test_a_server_with_a_certificate_of_the_installer_s_authority_is_trusted_by_caFile_and_else_is_told_nothing(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("secret")
    for name in ("own", "other"):
        write_certificate(tmp_path / f"{name}.crt", tmp_path / f"{name}.key", ["127.0.0.1"], ["localhost"])
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "own.crt", tmp_path / "own.key")
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response(body=Series().steps({15: 1}).losses({15: 0.9}).text())

    def asking(**more: str) -> Answer:
        return measuring(handler, tls=server, bearerTokenFile=str(tmp_path / "token"), **more)

    assert asking(caFile=str(tmp_path / "own.crt")).trials[0].curve == ((1, 0.9),)
    assert seen == ["Bearer secret"]
    for untrusted in ({}, {"caFile": str(tmp_path / "other.crt")}):
        with pytest.raises(SourceFailed, match="certificate verify failed"):
            asking(**untrusted)
    assert len(seen) == 1, "the token goes to nobody whose certificate is not trusted"


def test_a_server_that_is_not_there_is_away() -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError

    with pytest.raises(SourceFailed) as raised:
        measuring(handler, url="http://127.0.0.1:1")

    assert not raised.value.refused
    assert "http://127.0.0.1:1/api/v1/query_range" in str(raised.value)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"url": "prometheus:9090"},
        {"url": "http://user:password@prometheus:9090"},
        {"url": "http://p", "bearerTokenFile": "/t", "basicAuth": {"username": "u", "passwordFile": "/p"}},
        {"url": "http://p", "token": "secret"},
        {"url": "http://p", "queryTimeoutSeconds": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PrometheusSettings.model_validate(given)


# The page for users


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)


def test_the_recorded_query_is_the_one_that_is_sent_and_its_answer_gives_the_curve_that_is_told() -> None:
    spec, uid = a_study().minimizing("val_loss").build().spec, "3f0d3a52-5f0c-4a5e-9f3a-0d6f6f0f8f11"

    found = read(blocks("json")[0].encode(), spec, {0: Run(datetime.fromtimestamp(1795483416, UTC))}, 1).trials[0]

    assert blocks("promql") == [expression(spec, uid, 1, [0]) + "\n"]
    assert f"the curve {', '.join(map(str, found.curve))}:" in DOCS.read_text()


def test_the_pods_are_scraped_as_the_page_says() -> None:
    documented = next(each for each in map(yaml.safe_load, blocks("yaml")) if "relabel_configs" in each)
    monitor = next(each for each in map(yaml.safe_load, blocks("yaml")) if each.get("kind") == "PodMonitor")
    tested = yaml.safe_load(testbed.configuration(Path("kubeconfig")))["scrape_configs"][0]

    endpoint = monitor["spec"]["podMetricsEndpoints"][0]
    assert documented["relabel_configs"] == tested["relabel_configs"]
    assert endpoint["relabelings"] == [each for each in tested["relabel_configs"] if each.get("action") == "labelmap"]
    assert documented["metric_relabel_configs"] == tested["metric_relabel_configs"]
    assert [each["regex"] for each in endpoint["metricRelabelings"]] == [testbed.OPERATORS_SERIES]


def test_the_page_tells_each_field_of_the_settings() -> None:
    for field in PrometheusSettings.model_json_schema(by_alias=True)["properties"]:
        assert f"| `{field}` |" in DOCS.read_text()
