"""A real Prometheus of a test's own, and the programs that it scrapes as if they ran in the pods of Trials."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import aiohttp
import yaml
from hpo_operator.cluster.client import Client
from hpo_operator.cluster.prometheus import Answer, Prometheus, PrometheusSettings, Run
from hpo_operator.cluster.results import Gatherer
from hpo_operator.resources import Metrics, StudySpec

from tests.testbed import Component, wait_until
from tests.testbed.binaries import program
from tests.testbed.namespaces import ROOT
from tests.unit.operator.builders import a_study
from tests.unit.operator.cluster.gathering import UID, Cluster, Logs

ADDRESS = "127.0.0.1:9091"  # beside the one of a cluster of the test bed

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

    def __init__(self, source: Bed, port: int, code: str, *, number: object, pod: str, uid: str, namespace: str = "team-a") -> None:
        self.labels = {"study_uid": uid, "trial_number": str(number), "pod": pod, "namespace": namespace, "study": "digits"}
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
        self._command = self.server.command
        self.start()

    def start(self, *flags: str) -> None:
        """Starts the server, with flags beside its own."""
        self.server.command = [*self._command, *flags]
        self.server.start()
        wait_until("Prometheus", lambda: asyncio.run(self._get("/-/ready")), components=[self.server])

    def program(self, code: str = SDK, *, number: object = 0, pod: str = "digits-0-a", uid: str = UID, **more: str) -> Scraped:
        """Starts the program of a pod."""
        self._programs.append(Scraped(self, next(self._ports), code, number=number, pod=pod, uid=uid, **more))
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


def a_spec(metric: str = "loss", step: str | None = None) -> StudySpec:
    metrics = Metrics(interval_seconds=1, step=step)
    return a_study().minimizing(metric).build().spec.model_copy(update={"metrics": metrics})
