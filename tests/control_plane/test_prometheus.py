"""What a real Prometheus that scrapes real programs lets the operator know of their Trials."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
import yaml
from hpo_operator.cluster import prometheus
from hpo_operator.cluster.client import Client
from hpo_operator.cluster.prometheus import Answer, Measured, Prometheus, PrometheusSettings, Run, SourceFailed, expression
from hpo_operator.cluster.results import Gatherer
from hpo_operator.resources import Metrics, StudySpec

from tests.testbed import Component, NotEnclosed, enclosed, wait_until
from tests.testbed.binaries import program
from tests.testbed.namespaces import ROOT
from tests.unit.operator.builders import a_study, measured
from tests.unit.operator.cluster.gathering import UID, Cluster, Logs

pytestmark = pytest.mark.control_plane

ADDRESS = "127.0.0.1:9091"  # beside the one of a cluster of the test bed
OTHER_UID = "another-uid"
INTERVAL = timedelta(seconds=1)

# Reports what it is told, line by line: the program of a Trial under the test's control.
SDK = """
import json, sys, hpo
for line in sys.stdin:
    told = json.loads(line)
    hpo.report(told["metrics"], step=told["step"])
    print("reported", flush=True)
"""

# Reports as fast as it can; at step k its loss is k.
FAST = """
import hpo, itertools
for k in itertools.count():
    hpo.report(step=k, loss=k)
"""

# Exports its own names, without the SDK.
OWN = """
import json, sys
from prometheus_client import CollectorRegistry, Gauge, start_http_server
registry, gauges = CollectorRegistry(), {}
start_http_server(int(sys.argv[1]), addr="127.0.0.1", registry=registry)
for line in sys.stdin:
    told = json.loads(line)
    for name, value in {**told["metrics"], "epoch": told["step"]}.items():
        if name not in gauges:
            gauges[name] = Gauge(name, name, registry=registry)
        gauges[name].set(value)
    print("reported", flush=True)
"""


class Scraped:
    """The program of one pod, which Prometheus scrapes with the labels that the pod of a Trial has."""

    def __init__(self, source: Bed, port: int, code: str, *, number: object, pod: str, uid: str) -> None:
        self.labels = {"study_uid": uid, "trial_number": str(number), "pod": pod, "namespace": "team-a", "study": "digits"}
        self.port = port
        self.started = datetime.now(UTC)
        environment = {"HPO_METRICS_PORT": str(port), "HPO_TRIAL": f"digits-{number}", "HPO_STUDY": "digits"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(port)],
            env={**environment, "PYTHONPATH": f"{ROOT / 'sdk'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._source = source

    def report(self, step: int, **metrics: float | str) -> None:
        """Has the program report, and waits until Prometheus holds that, and holds it at the end of a stretch that is measured."""
        self.tell(step, {name: float(value) for name, value in metrics.items()})
        told, selector = time.time(), self._selector()
        self._source.wait_for(f"max(timestamp(hpo_trial_step{selector}) or timestamp(epoch{selector})) > {told}")
        over = math.ceil(time.time())
        wait_until("the next second", lambda: time.time() > over)

    def tell(self, step: int, metrics: Mapping[str, float]) -> None:
        """Has the program report."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"step": step, "metrics": metrics}) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "reported\n"

    def end(self) -> datetime:
        """Ends the program, its pod too, and says when; Prometheus has noticed when this returns."""
        finished = datetime.now(UTC)
        self.kill()
        self._source.wait_for(f"absent(hpo_trial_step{self._selector()})")
        return finished

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _selector(self) -> str:
        return json.dumps(self.labels["pod"]).join(("{pod=", "}"))


class Bed:
    """A Prometheus, and the programs that it scrapes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs: list[Scraped] = []
        self._gatherers: dict[Cluster, Gatherer] = {}
        self._ports = iter(range(9500, 9600))
        (folder / "targets.json").write_text("[]")
        scraped = {"job_name": "trials", "file_sd_configs": [{"files": [str(folder / "targets.json")], "refresh_interval": "1s"}]}
        often = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump({"global": often, "scrape_configs": [scraped]}))
        command = [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={ADDRESS}",
            "--log.level=warn",
        ]
        self.server = Component("prometheus", command, folder)
        self.start()

    def start(self) -> None:
        self.server.start()
        wait_until("Prometheus", lambda: asyncio.run(self._get("/-/ready")), components=[self.server])

    def program(self, code: str = SDK, *, number: object = 0, pod: str = "digits-0-a", uid: str = UID) -> Scraped:
        """Starts the program of a pod."""
        self._programs.append(Scraped(self, next(self._ports), code, number=number, pod=pod, uid=uid))
        targets = [{"targets": [f"127.0.0.1:{each.port}"], "labels": each.labels} for each in self._programs]
        aside = self.folder / "targets.new"
        aside.write_text(json.dumps(targets))
        aside.rename(self.folder / "targets.json")  # never half a file
        return self._programs[-1]

    def ask(self, runs: Mapping[int, Run], spec: StudySpec | None = None, uid: str = UID) -> Answer:
        """Measures as the operator does."""
        return asyncio.run(self.measure(spec or a_spec(), uid, runs, datetime.now(UTC)))

    def gather(self, cluster: Cluster) -> None:
        """Has the operator measure the Study once."""
        if cluster not in self._gatherers:
            source = cast(Prometheus, self)
            self._gatherers[cluster] = Gatherer(cast(Client, Logs("")), cluster.store, source, lambda uid: None)
        asyncio.run(self._gatherers[cluster].measure(cluster.state))

    def wait_for(self, query: str) -> None:
        """Waits until an instant query has a result."""
        wait_until(query, lambda: self.answer(query)["data"]["result"], components=[self.server])

    def answer(self, query: str) -> Any:
        return json.loads(asyncio.run(self._get("/api/v1/query", query=query)))

    def kill_programs(self) -> None:
        for each in self._programs:
            each.kill()

    async def measure(self, *asked: Any) -> Answer:
        """As `Prometheus.measure`, in whichever loop."""
        async with aiohttp.ClientSession() as session:
            return await Prometheus(PrometheusSettings(url=f"http://{ADDRESS}"), session).measure(*asked)

    async def _get(self, path: str, **query: str) -> bytes:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://{ADDRESS}{path}", params=query) as answer:
                return await answer.read() if answer.status == 200 else b""
        except aiohttp.ClientError:
            return b""


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    if not enclosed():
        pytest.skip(str(NotEnclosed("a Prometheus")))
    running = Bed(tmp_path)
    yield running
    running.kill_programs()
    running.server.kill()


def a_spec(metric: str = "loss", step: str | None = None) -> StudySpec:
    metrics = Metrics(interval_seconds=1, step=step)
    return a_study().minimizing(metric).build().spec.model_copy(update={"metrics": metrics})


def of(answer: Answer, number: int = 0) -> Measured:
    return answer.trials.get(number, Measured())


def test_a_curve_holds_each_step_with_the_value_that_was_reported_at_it(bed: Bed) -> None:
    trial = bed.program()
    for step, loss in ((1, 0.9), (2, 0.5), (2, 0.4), (3, "nan"), (5, 0.7), (6, "-inf")):
        trial.report(step, loss=loss, other=1.0)

    found = bed.ask({0: Run(trial.started, pods=frozenset({"digits-0-a"}))})

    assert str(of(found).curve) == "((1, 0.9), (2, 0.4), (3, nan), (5, 0.7), (6, -inf))"
    assert of(found).report.step == 6
    assert list(of(found).report.metrics) == ["loss"]
    assert found.newest is not None
    assert found.warnings == ()


def test_a_scrape_never_shows_a_step_with_the_value_of_another(bed: Bed) -> None:
    trial = bed.program(FAST)
    bed.wait_for("count_over_time(hpo_trial_step[1m]) > 20")

    curve = of(bed.ask({0: Run(trial.started)})).curve

    assert len(curve) > 2
    assert all(step == value for step, value in curve)


def test_the_last_sample_before_the_end_is_found_although_prometheus_knows_that_the_pod_is_gone(bed: Bed) -> None:
    trial = bed.program()
    trial.report(1, loss=0.9)
    trial.report(2, loss=0.1)
    finished = trial.end()
    bed.wait_for("absent(hpo_trial_metric)")

    assert of(bed.ask({0: Run(trial.started, finished)})).report == measured(2, loss=(0.1, 0.1, 0.9))


def test_two_pods_of_a_trial_are_told_apart(bed: Bed) -> None:
    first = bed.program(pod="digits-0-a")
    first.report(7, loss=0.1)
    second = bed.program(pod="digits-0-b")
    second.report(1, loss=0.9)  # while the first one is still scraped

    curves = {pod: of(bed.ask({0: Run(first.started, pods=frozenset({pod}))})).curve for pod in ("digits-0-a", "digits-0-b")}

    assert curves == {"digits-0-a": ((7, 0.1),), "digits-0-b": ((1, 0.9),)}
    assert of(bed.ask({0: Run(first.started)})).curve == ((1, 0.9),)


def test_trials_of_one_study_and_of_others_are_told_apart(bed: Bed) -> None:
    trials = [bed.program(number=number, pod=f"digits-{number}") for number in (0, 1)]
    stranger = bed.program(number=0, pod="stranger", uid=OTHER_UID)
    for place, each in enumerate([*trials, stranger]):
        each.report(1, loss=place)

    found = bed.ask({number: Run(each.started) for number, each in enumerate(trials)})

    assert {number: each.curve for number, each in found.trials.items()} == {0: ((1, 0.0),), 1: ((1, 1.0),)}


def test_a_program_without_the_sdk_is_measured_by_its_own_names(bed: Bed) -> None:
    trial = bed.program(OWN)
    trial.report(1, val_loss=0.9)
    trial.report(2, val_loss=0.8)

    assert of(bed.ask({0: Run(trial.started)}, a_spec("val_loss", "epoch"))).curve == ((1, 0.9), (2, 0.8))
    assert of(bed.ask({0: Run(trial.started)}, a_spec("val_loss"))) == Measured((), measured(None, val_loss=(0.8, 0.8, 0.9)))


NAMES = ('loss"} or up{a="', ".*", "loss|other", "loss[5m]) or vector(1", "val loss", "größe", "a\\", "{}", "#", "`", "\\x{6c}oss")


def test_no_name_of_a_metric_asks_for_anything_but_itself(bed: Bed) -> None:
    trial, stranger = bed.program(), bed.program(pod="stranger", uid=OTHER_UID)
    stranger.report(1, loss=0.5)
    trial.report(1, loss=0.9, other=0.1, **{name: place for place, name in enumerate(NAMES)})

    for place, name in enumerate(NAMES):
        spec = a_spec()
        objective = spec.objectives[0].model_copy(update={"metric": name})
        spec = spec.model_copy(update={"objectives": (objective,)})

        assert of(bed.ask({0: Run(trial.started)}, spec)) == Measured(((1, place),), measured(1, **{name: place}))
        series = [each["metric"] for each in bed.answer(expression(spec, UID, 60))["data"]["result"]]
        assert {(each["study_uid"], each.get("metric")) for each in series} == {(UID, None), (UID, name)}


def test_no_uid_asks_for_another_study(bed: Bed) -> None:
    bed.program(uid=OTHER_UID).report(1, loss=0.5)

    assert bed.ask({0: Run(datetime.now(UTC) - timedelta(minutes=1))}, uid='x"} or {study_uid=~".*') == Answer({})


def test_a_program_that_is_scraped_but_has_not_reported_is_told_from_one_that_is_not_scraped(bed: Bed) -> None:
    runs = {0: Run(datetime.now(UTC))}
    assert bed.ask(runs) == Answer({})
    bed.program()  # serves from its first report on
    bed.wait_for("up == 0")

    found = bed.ask(runs)

    assert found.trials == {}
    assert found.newest is not None


def test_a_source_that_refuses_says_why(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MAX_POINTS", 100_000)
    monkeypatch.setattr(prometheus, "MAX_SAMPLES", 100_000_000)

    with pytest.raises(SourceFailed, match=r"bad_data: .*exceeded maximum resolution") as raised:
        bed.ask({0: Run(datetime.now(UTC) - timedelta(days=1))})

    assert raised.value.refused


# As the operator gathers it


def test_an_ended_trial_has_its_result_once_the_source_was_asked_two_intervals_after_the_end(bed: Bed) -> None:
    trial = bed.program()
    trial.report(1, loss=0.9)
    cluster = Cluster(trial.started)
    bed.gather(cluster)
    assert cluster.workload.curve == ((1, 0.9),)
    trial.report(2, loss=0.4)
    cluster.succeed(trial.end())
    assert cluster.workload.awaiting
    assert cluster.workload.report is None  # what is known may not be the last

    def settled() -> bool:
        bed.gather(cluster)
        return not cluster.workload.awaiting

    wait_until("two intervals", settled)

    assert cluster.workload.report == measured(2, loss=(0.4, 0.4, 0.9))
    assert cluster.workload.source == "Prometheus"


def test_a_trial_that_begins_to_report_late_is_measured_from_then_on(bed: Bed) -> None:
    trial = bed.program()
    cluster = Cluster(trial.started)
    bed.gather(cluster)
    assert cluster.workload.report is None
    trial.report(1, loss=0.9)

    bed.gather(cluster)

    assert cluster.workload.curve == ((1, 0.9),)


def test_what_was_reported_while_the_source_was_out_of_reach_is_known_when_it_is_back(bed: Bed) -> None:
    trial = bed.program()
    trial.report(1, loss=0.9)
    cluster = Cluster(trial.started)
    bed.gather(cluster)
    bed.server.kill()
    cluster.succeed(datetime.now(UTC))

    for _ in range(5):  # as often as it may: what counts is time
        bed.gather(cluster)

    assert cluster.state.source.away_since is not None
    assert "127.0.0.1:9091" in cluster.state.source.excuse()
    assert cluster.workload.awaiting
    assert cluster.workload.curve == ((1, 0.9),)
    bed.start()

    def settled() -> bool:
        bed.gather(cluster)
        return not cluster.workload.awaiting

    wait_until("two intervals", settled)
    assert cluster.state.source.away_since is None
    assert cluster.workload.report == measured(1, loss=0.9)


def test_what_a_lost_pod_has_reported_is_not_the_result_of_the_next_one(bed: Bed) -> None:
    first = bed.program(pod="digits-0-a")
    first.report(9, loss=0.1)
    cluster = Cluster(first.started)
    bed.gather(cluster)
    assert cluster.workload.curve == ((9, 0.1),)
    first.end()
    cluster.replace_pod("digits-0-b", datetime.now(UTC))

    bed.gather(cluster)

    assert cluster.workload.report is None
    bed.program(pod="digits-0-b").report(1, loss=0.9)
    bed.gather(cluster)
    assert cluster.workload.curve == ((1, 0.9),)
