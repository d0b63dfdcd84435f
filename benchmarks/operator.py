"""What the operator costs on a real control plane: a Study against the same Jobs kept in flight by a bare loop, in the same run.

    python -m tests.testbed build            # once: etcd, API server, controllers, simulated nodes
    python -m benchmarks.operator [--cases 1000@100 200@50] [--generations 20x40] [--repeats 1] [--node]

`1000@100` is 1,000 Trials, 100 at once, each a one-GPU pod of 0.5 s on a simulated node. Both sides take turns on the same API
server, which is the scarce part on a small machine. What is printed:

    rate        workloads a second, and the Study's as a share of the loop's
    refill      from a Job's completion to the creation of the one that takes its place, first in first out: p50 and p99. A Study
                goes on when the pod has ended, which is a second earlier, so that this can be negative
    idle        the same from the pod's end, which is when its GPU is free: what the Job controller takes is in it, for both sides
    requests    of the operator, by verb and kind, a Trial; all requests to the API server by verb a workload, for both
    CPU         of the operator with its workers, and of the API server, a Trial
    memory      of the operator, and of the workers in which its algorithms run, at the end
    restart     from the start of a new operator process to its first decision on a Study of so many Trials, when all is quiet

`--generations 20x40` is a population of 20 for 40 generations, all at once on idle nodes, each member of which starts from a
checkpoint of the generation before. What is printed of it is what the barrier between them costs:

    refill      from the completion of a generation's last Job to the creation of the next one's first; `idle` as above

With `--node`, which leaves the cases out, its members are real pods on the test bed's real node.

Goals at 1000@100: rate 0.65 of the loop's, refill p50 150 ms and p99 800 ms, at most 4 writes a Trial, restart at 3,000 in 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import ssl
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from hpo_operator.cluster.cleanup import CLEANUP_LABEL
from hpo_operator.cluster.client import JOBS, Client
from hpo_operator.cluster.process import CONNECTIONS, with_environment_read_once
from hpo_operator.cluster.rendering import STUDY_UID_LABEL, job_manifest
from hpo_operator.ledger import pairs_of
from hpo_operator.resources import Metadata, StudyRef, Trial, TrialSpec
from hpo_operator.validation import problem_of, read_study
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from tests.cluster.building import make_volume
from tests.testbed import Cluster, ControlPlane, images
from tests.testbed.namespaces import enclose, enclosed
from tests.testbed.processes import wait_until
from tests.testbed.simulation import MESSAGE, SAVED, SimulatedNode

Object = dict[str, Any]

NODES = [SimulatedNode(f"simulated-{i}", gpus=128, pods=4000) for i in range(4)]
STUDY, TRIAL = ("hpo.dev/v1alpha1", "Study"), ("hpo.dev/v1alpha1", "Trial")
POD_MILLISECONDS = 500
FOREVER = aiohttp.ClientTimeout(total=None)
CASES = ("1000@100", "200@50", "3000@300", "1000@500")
WARM = 200
WRITES = ("create", "patch", "delete")
POD = {"containers": [{"name": "main", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}
TELLING = SAVED.replace("{budget}", "$HPO_BUDGET").replace("{objective}", "$HPO_PARAM_X")
REAL = {"name": "main", "image": images.PYTHON.tag, "command": ["sh", "-c", f"cat > $HPO_TERMINATION_FILE << END\n{TELLING}\nEND"]}


@dataclass
class Side:
    """What was measured of one side."""

    seconds: float = 0.0
    ended: list[float] = field(default_factory=list)
    completed: list[float] = field(default_factory=list)
    created: list[float] = field(default_factory=list)
    api_cpu: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)

    def waits(self, parallelism: int, at_once: int = 1) -> Object:
        """What passed from each end but the last ones to the creation of another workload, in seconds.

        Where `at_once` are created together when as many have ended: from the last of those to the first of these.
        """
        later = sorted(self.created)[parallelism::at_once]
        from_ = {"refill": self.completed, "idle": self.ended}
        before = {name: sorted(ends)[at_once - 1 :: at_once] for name, ends in from_.items()}
        return {name: percentiles([b - a for a, b in zip(ends, later, strict=False)]) for name, ends in before.items()}


class Watcher:
    """Takes the times at which Jobs are created and completed, and pods end, as any client would see them, at little cost."""

    def __init__(self, bed: ControlPlane, namespace: str, side: Side) -> None:
        self._bed, self._namespace, self._side = bed, namespace, side

    def start(self) -> None:
        for arguments in (
            ("batch/v1", "jobs", "", self._side.created),
            ("batch/v1", "jobs", "status.successful=1", self._side.completed),
            ("v1", "pods", "status.phase=Succeeded", self._side.ended),
        ):
            threading.Thread(target=self._watch, args=arguments, daemon=True).start()

    def _watch(self, version: str, plural: str, fields: str, times: list[float]) -> None:
        api, seen = self._bed.api, ""
        tls = ssl.create_default_context(cafile=str(self._bed.certificate))
        root = "/apis/" if "/" in version else "/api/"
        query = f"watch=1&timeoutSeconds=3000&labelSelector=!{CLEANUP_LABEL}{'&fieldSelector=' + fields if fields else ''}"
        headers = {
            "Authorization": f"Bearer {api.token}",
            "Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        }
        while True:  # the API server ends the watch of whoever is too slow for it
            connection = http.client.HTTPSConnection(api.host, api.port, context=tls)
            path = f"{root}{version}/namespaces/{self._namespace}/{plural}?{query}&resourceVersion={seen}"
            try:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
            except OSError:
                return  # the API server is gone, with the whole test bed
            with suppress(OSError, http.client.HTTPException):
                for line in answer:
                    if line.startswith(b'{"type":"ADDED"'):
                        times.append(time.time())
                    seen = version_in(line)


def version_in(line: bytes) -> str:
    """The version to go on from after an event of a watch."""
    found = re.search(rb'"resourceVersion":"(\d+)"', line)
    if found is None or line.startswith(b'{"type":"ERROR"'):
        raise RuntimeError(f"a watch of the benchmark's own: {line.decode()}")
    return found[1].decode()


def bare_jobs(namespace: str, count: int) -> list[Object]:
    """The same Jobs as the Study's, environment included, for a program must be told its parameters; but without an owner, and
    without the label by which the operator would watch them.
    """
    asked = read_study(study("bare", namespace, count, 1))
    space = problem_of(asked.spec, 0).space
    found = []
    for number in range(count):
        pairs = pairs_of(space.format(space.sample(np.random.default_rng(number))))
        spec = TrialSpec(study_ref=StudyRef(name="bare", uid="bare"), number=number, parameters=pairs)
        trial = Trial(metadata=Metadata(name=f"bare-{number}", namespace=namespace), spec=spec)
        made = job_manifest(asked, trial, space)
        del made["metadata"]["ownerReferences"]
        for labelled in (made["metadata"], made["spec"]["template"]["metadata"]):
            del labelled["labels"][STUDY_UID_LABEL]
        found.append(made)
    return found


def study(name: str, namespace: str, trials: int, parallelism: int) -> Object:
    return {
        "apiVersion": "hpo.dev/v1alpha1",
        "kind": "Study",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "objectives": [{"metric": "loss"}],
            "parameters": [{"name": name, "float": {"min": -1, "max": 1}} for name in "xyz"],
            "algorithm": {"random": {}},
            "seed": 0,
            "parallelism": parallelism,
            "limits": {"maxTrials": trials},
            "template": {"job": {"spec": {"template": {"spec": POD}}}},
        },
    }


@contextmanager
def measured(bed: ControlPlane, side: Side) -> Iterator[None]:
    """Wall time, and what the API server did meanwhile."""
    server = psutil.Process(bed.component("kube-apiserver").pid)
    before, asked, start = sum(server.cpu_times()[:2]), answered(bed), time.monotonic()
    yield
    side.seconds = time.monotonic() - start
    side.api_cpu, side.requests = sum(server.cpu_times()[:2]) - before, answered(bed) - asked


def answered(bed: ControlPlane) -> Counter[str]:
    """All requests that the API server has answered, by verb; watches when they end."""
    found: Counter[str] = Counter()
    for labels, value in re.findall(r"^apiserver_request_total\{(.*)\} ([0-9.e+]+)$", bed.api.text("/metrics"), re.MULTILINE):
        found[dict(re.findall(r'(\w+)="([^"]*)"', labels))["verb"].lower()] += int(float(value))
    return found


async def loop(bed: ControlPlane, namespace: str, jobs: list[Object], parallelism: int) -> None:
    """The peer: keeps so many Jobs in flight through a watch, and does nothing else."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(bed.kubeconfig()), client_configuration=configuration)
    configuration.connection_pool_maxsize = CONNECTIONS
    tls = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(bed.certificate)))
    headers = {"Authorization": f"Bearer {bed.api.token}"}
    url = f"{bed.server}{JOBS.path(namespace)}?watch=1&timeoutSeconds=3000&resourceVersion="
    async with (
        ApiClient(with_environment_read_once(configuration)) as api,
        aiohttp.ClientSession(connector=tls, headers=headers, timeout=FOREVER) as session,
    ):
        client, count, made, version, finished = Client(api), len(jobs), 0, "", set[str]()
        async with asyncio.TaskGroup() as group:
            while len(finished) < count:  # the API server ends the watch of whoever is too slow for it
                async with session.get(url + version) as stream:
                    stream.raise_for_status()
                    while made < min(parallelism, count):
                        group.create_task(client.create(JOBS, namespace, jobs[made]))
                        made += 1
                    rest = b""
                    async for chunk in stream.content.iter_any():
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            version, seen = version_in(line), json.loads(line)["object"]
                            conditions = (seen.get("status") or {}).get("conditions") or ()
                            name = seen["metadata"]["name"]
                            if name in finished or not any(c["type"] == "Complete" and c["status"] == "True" for c in conditions):
                                continue
                            finished.add(name)
                            if made < count:
                                group.create_task(client.create(JOBS, namespace, jobs[made]))
                                made += 1
                        if len(finished) == count:
                            break


class Operator:
    """The operator process, as it is installed."""

    def __init__(self, bed: ControlPlane, log: Path) -> None:
        self._environment = {**os.environ, "KUBECONFIG": str(bed.kubeconfig())}
        self._environment.pop("KUBERNETES_SERVICE_HOST", None)
        self._log = log

    def __enter__(self) -> Operator:
        command = [sys.executable, "-m", "hpo_operator", "--port", "18080"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self._whole = psutil.Process(self._process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def cpu(self) -> tuple[float, float]:
        """CPU seconds of the process, and of its workers."""
        return sum(self._whole.cpu_times()[:2]), sum(sum(each.cpu_times()[:2]) for each in self._whole.children(recursive=True))

    def megabytes(self) -> Object:
        """Resident memory of the process, and of its workers together."""
        workers = self._whole.children(recursive=True)
        return {
            "operator": self._whole.memory_info().rss / 2**20,
            "workers": sum(each.memory_info().rss for each in workers) / 2**20,
        }

    def requests(self) -> Counter[tuple[str, str]]:
        try:
            with urllib.request.urlopen("http://127.0.0.1:18080/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return Counter()
        found: Counter[tuple[str, str]] = Counter()
        for labels, value in re.findall(r"^hpo_apiserver_requests_total\{(.*)\} ([0-9.e+]+)$", text, re.MULTILINE):
            of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            found[of["verb"], of["kind"]] += int(float(value))
        return found


def run_case(bed: ControlPlane, count: int, parallelism: int, operator: Operator) -> Object:
    """One case, both sides; gives its figures."""
    mark = f"{count}-{parallelism}-{int(time.time())}"
    bare, ours = Side(), Side()
    namespace = bed.create_namespace(f"bare-{mark}")
    Watcher(bed, namespace, bare).start()
    jobs = bare_jobs(namespace, count)
    with measured(bed, bare):
        asyncio.run(loop(bed, namespace, jobs, parallelism))
    clear(bed, namespace)
    namespace = bed.create_namespace(f"study-{mark}")
    Watcher(bed, namespace, ours).start()
    asked, (cpu, worker) = operator.requests(), operator.cpu()
    with measured(bed, ours):
        run(bed, study("s", namespace, count, parallelism))
    spent, helped = operator.cpu()
    requests = operator.requests() - asked
    found = {
        "case": f"{count}@{parallelism}",
        "loop": {"seconds": bare.seconds, "rate": count / bare.seconds, **bare.waits(parallelism)},
        "study": {"seconds": ours.seconds, "rate": count / ours.seconds, **ours.waits(parallelism)},
        "ratio": bare.seconds / ours.seconds,
        "writes": sum(n for (verb, _), n in requests.items() if verb in WRITES) / count,
        "requests": {f"{verb} {kind}": round(n / count, 3) for (verb, kind), n in sorted(requests.items())},
        "all": {side: per_workload(of.requests, count) for side, of in (("loop", bare), ("study", ours))},
        "milliseconds": {
            "operator": 1000 * (spent - cpu) / count,
            "worker": 1000 * (helped - worker) / count,
            "api server": 1000 * ours.api_cpu / count,
            "api server, loop": 1000 * bare.api_cpu / count,
        },
        "megabytes": operator.megabytes(),
        "at once": most_at_once(ours),
    }
    return {**found, "namespace": namespace}


def per_workload(requests: Counter[str], count: int) -> Object:
    return {verb: round(number / count, 3) for verb, number in sorted(requests.items()) if number}


def run_generations(bed: ControlPlane, members: int, generations: int) -> Object:
    """What passes between the generations of a population."""
    namespace = bed.create_namespace(f"population-{members}-{generations}-{int(time.time())}")
    side, count = Side(), members * generations
    Watcher(bed, namespace, side).start()
    asked = study("s", namespace, count, members)
    asked["spec"] |= {
        "algorithm": {"pbt": {"population": members}},
        "budget": {"min": 1, "max": generations},
        "checkpoints": {"objectStore": {"uri": "s3://nowhere/weights"}},
    }
    template = asked["spec"]["template"]["job"]["spec"]["template"]
    template["metadata"] = {"annotations": {MESSAGE: SAVED}}
    if isinstance(bed, Cluster):
        make_volume(bed, namespace)
        asked["spec"]["checkpoints"] = {"volumeClaim": {"name": "weights"}}
        template["spec"] = {"terminationGracePeriodSeconds": 1, "containers": [REAL]}
    run(bed, asked)
    return {"generations": f"{members}x{generations}", **side.waits(members, members)}


def run(bed: ControlPlane, asked: Object) -> None:
    """Create a Study, and wait until all its Trials have completed."""
    name, namespace = asked["metadata"]["name"], asked["metadata"]["namespace"]
    bed.api.create(asked)
    wait_until("the Study's end", lambda: is_over(bed.api.get(*STUDY, name, namespace)), seconds=1800, every=0.5)
    status = bed.api.get(*STUDY, name, namespace)["status"]
    assert status["trials"]["completed"] == asked["spec"]["limits"]["maxTrials"], status


def is_over(seen: Object) -> bool:
    conditions = (seen.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Succeeded" and each["status"] != "Unknown" for each in conditions)


def most_at_once(side: Side) -> int:
    """How many workloads were ever unfinished at the same time, as a client sees it."""
    most = now = 0
    for _, change in sorted([*((t, 1) for t in side.created), *((t, -1) for t in side.ended)]):
        now += change
        most = max(most, now)
    return most


def percentiles(values: list[float]) -> Object:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "of": len(values)}


def clear(bed: ControlPlane, namespace: str) -> None:
    bed.kubectl("delete", "jobs", "--all", "--wait=false", "--namespace", namespace)  # one by one: thousands at once take too long
    wait_until("the end of the bare Jobs", lambda: not bed.api.objects("v1", "Pod", namespace), seconds=300, every=1.0)


def settle(bed: ControlPlane) -> None:
    """Waits until the API server has nothing left to do: controllers go on for a while after the last Job."""
    server = psutil.Process(bed.component("kube-apiserver").pid)
    wait_until("an idle API server", lambda: server.cpu_percent(1.0) < 10, seconds=300)


def restart(bed: ControlPlane, namespace: str, trials: int, log: Path) -> float:
    """From the start of a new process to the creation of the next Trial of a Study that has so many."""
    settle(bed)
    bed.api.patch(*STUDY, "s", {"spec": {"limits": {"maxTrials": trials + 1}}}, namespace=namespace)
    start = time.monotonic()
    with Operator(bed, log):
        api = bed.api
        wait_until("the next Trial", lambda: api.find(*TRIAL, f"s-{trials}", namespace), seconds=120, every=0.02)
        return time.monotonic() - start


def main() -> int:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.operator", description=__doc__, formatter_class=form)
    parser.add_argument("--cases", nargs="*", default=CASES)
    parser.add_argument("--generations", nargs="*", default=())
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--node", action="store_true")
    parser.add_argument("--logs", type=Path, default=Path("/tmp/hpo-benchmark"))
    asked = parser.parse_args()
    if not enclosed():
        return enclose([sys.executable, "-m", "benchmarks.operator", *sys.argv[1:]])
    asked.logs.mkdir(parents=True, exist_ok=True)
    simulated = partial(ControlPlane, nodes=NODES, delay_milliseconds=POD_MILLISECONDS, audit=False)
    real = partial(Cluster, images=[images.base_archive(images.PYTHON)]) if asked.node else None
    with (real or simulated)(logs=asked.logs) as bed:
        bed.define_studies()
        log = asked.logs / "operator.log"
        if not real:
            warm = bed.create_namespace("warm")  # the API server's first requests are slower, and would all be the loop's
            asyncio.run(loop(bed, warm, bare_jobs(warm, WARM), WARM // 4))
            clear(bed, warm)
        for case in () if real else asked.cases:
            count, parallelism = map(int, case.split("@"))
            for _ in range(asked.repeats):
                with Operator(bed, log) as operator:
                    wait_until("the operator", lambda: operator.requests() is not None, seconds=30)
                    time.sleep(5)  # its imports, which are no Study's cost
                    found = run_case(bed, count, parallelism, operator)
                seconds = restart(bed, found.pop("namespace"), count, log)
                print(json.dumps({**found, "restart": seconds}, indent=2, default=lambda x: round(x, 3)), flush=True)
        for each in asked.generations:
            members, generations = map(int, each.split("x"))
            with Operator(bed, log):
                print(json.dumps(run_generations(bed, members, generations), indent=2, default=lambda x: round(x, 3)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
