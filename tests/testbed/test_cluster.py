"""What a test may rely on when it runs on a cluster with a real node."""

from pathlib import Path

import pytest

from tests.testbed import Cluster, Object, images, wait_until
from tests.testbed.fixtures import Bed

pytestmark = pytest.mark.cluster

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}

ASK_THE_API_SERVER = """
import ssl, sys, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
host = sys.argv[1]
request = urllib.request.Request(f"https://{host}/api/v1/namespaces/default/pods")
request.add_header("Authorization", "Bearer " + open(folder + "/token").read())
try:
    urllib.request.urlopen(request, context=ssl.create_default_context(cafile=folder + "/ca.crt"), timeout=10)
except urllib.error.HTTPError as error:
    open("/dev/termination-log", "w").write(error.read().decode())
"""

SERVE_A_METRIC = """
import http.server
class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b'val_loss{step="3"} 0.25\\n')
http.server.HTTPServer(("", 9000), Metrics).serve_forever()
"""


@pytest.fixture(scope="module")
def cluster(bed: Bed) -> Cluster:
    running = bed(Cluster, Cluster)
    running.load_images([images.base_archive(images.PYTHON)])
    return running


DOCKERFILE = """
ARG BASE=python:3.12-slim
FROM ${BASE}
COPY program.py /app/program.py
RUN python -m compileall -q /app
USER 65532
"""


def make_pod(name: str, program: str, *arguments: str, gpus: int = 0, labels: dict[str, str] | None = None) -> Object:
    container = {
        "name": "main",
        "image": images.PYTHON.tag,
        "command": ["python3", "-c", program, *arguments],
        "ports": [{"name": "hpo-metrics", "containerPort": 9000}],
        "resources": {"limits": {"cpu": "1", "memory": "256Mi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}},
        "securityContext": RESTRICTED,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]},
    }


def ended(cluster: Cluster, name: str, phase: str = "Succeeded") -> Object:
    return cluster.wait_for(f"pod {name}", "v1", "Pod", name, lambda pod: pod["status"]["phase"] == phase, seconds=60)


def message(pod: Object) -> str:
    said: str = pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    return said


def test_a_restricted_pod_runs_and_its_termination_message_and_log_are_read(cluster: Cluster) -> None:
    program = "print('a log line'); open('/dev/termination-log', 'w').write('loss=0.5')"
    cluster.apply([make_pod("restricted", program)])
    assert message(ended(cluster, "restricted")) == "loss=0.5"
    assert cluster.kubectl("logs", "restricted") == "a log line\n"


@pytest.mark.parametrize(("pod", "host"), [("by-address", "10.96.0.1"), ("by-name", "kubernetes.default.svc")])
def test_a_pod_reaches_the_api_server_as_a_service_with_its_own_token(cluster: Cluster, pod: str, host: str) -> None:
    cluster.apply([make_pod(pod, ASK_THE_API_SERVER, host)])
    assert 'User \\"system:serviceaccount:default:default\\" cannot list' in message(ended(cluster, pod))


def test_of_four_pods_of_one_gpu_two_run_at_a_time(cluster: Cluster) -> None:
    names = [f"gpu-{number}" for number in range(4)]
    cluster.apply([make_pod(name, "import time; time.sleep(3)", gpus=1, labels={"test": "gpus"}) for name in names])

    def phases() -> list[str]:
        pods = cluster.api.objects("v1", "Pod", "default", labelSelector="test=gpus")
        return sorted(pod["status"]["phase"] for pod in pods)

    wait_until("two running pods", lambda: phases() == ["Pending", "Pending", "Running", "Running"], seconds=60)
    most = 0
    while (seen := phases()) != ["Succeeded"] * 4:
        most = max(most, seen.count("Running"))
    assert most == 2


def test_prometheus_scrapes_a_pod_of_a_study_at_its_port_for_metrics(cluster: Cluster) -> None:
    labels = {"hpo.dev/study": "digits", "hpo.dev/trial": "digits-0"}
    cluster.apply([make_pod("scraped", SERVE_A_METRIC, labels=labels)])
    (sample,) = wait_until("a sample", lambda: cluster.query("val_loss"), seconds=60)
    assert sample["value"][1] == "0.25"
    assert {name: sample["metric"][name] for name in ("study", "trial", "pod", "step")} == {
        "study": "digits",
        "trial": "digits-0",
        "pod": "scraped",
        "step": "3",
    }
    cluster.api.delete("v1", "Pod", "scraped")


def test_an_image_built_from_a_dockerfile_runs(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "program.py").write_text("open('/dev/termination-log', 'w').write('from the image')")
    cluster.load_images([images.build(tmp_path, "localhost/hpo-testbed/test:1")])
    pod = make_pod("built", "import runpy; runpy.run_path('/app/program.py')")
    pod["spec"]["containers"][0]["image"] = "localhost/hpo-testbed/test:1"
    cluster.apply([pod])
    assert message(ended(cluster, "built")) == "from the image"
