"""The operator as a process: how it starts and stops, and what it says of itself and of its Studies."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import psutil
import pytest
import yaml
from hpo_operator.__main__ import main
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.control_plane.building import PATIENCE, VERSION, end_of, reason, study, trials, wait_for_condition
from tests.control_plane.conftest import Operators
from tests.control_plane.crowd import JOB, Crowd, metrics_of
from tests.control_plane.operator_process import NAME, RBAC, USER, OperatorProcess
from tests.testbed import CommandFailed, ControlPlane, MissingTool, Object, ProcessDied, wait_until
from tests.testbed.binaries import program
from tests.testbed.fixtures import Bed
from tests.testbed.lacking import lacking
from tests.testbed.namespaces import ROOT
from tests.testbed.processes import run
from tests.testbed.simulation import DELAY, EXIT_CODE, MESSAGE, NEVER, of_trial

pytestmark = pytest.mark.control_plane

PORT = 18080
NAMESPACE = "process-0"  # the first of the module's operator, which watches no other
NAMESPACED_RBAC = ROOT / "deploy" / "rbac-namespaced.yaml"


# Start and stop


BAD_SETTINGS = {
    "a port that is none": ("port: 70000", "port: 70000: must be at most 65535"),
    "a string for a number": ("port: '8080'", "port: '8080': must be a whole number. Take away the quotes."),
    "a field that is none": ("prot: 8080", "prot: 8080: is not a known field. Did you mean 'port'?"),
    "an address without a host": ("prometheus: {url: 'prometheus:9090'}", "prometheus.url: 'prometheus:9090': "),
    "a kind that is none": (
        "workloadKinds: [{apiVersion: ray.io/v1, kind: ray jobs}]",
        "workloadKinds[0].kind: 'ray jobs': must be",
    ),
    "a comparison that never comes": ("resyncSeconds: 0", "resyncSeconds: 0: must be"),
    "a list": ("- port: 8080", "must be a mapping. For example port: 8080."),
    "no YAML": ("port: [8080", "is no YAML"),
}


@pytest.mark.parametrize("fault", BAD_SETTINGS)
def test_an_operator_whose_settings_are_wrong_says_which_and_what_to_do(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, expected = BAD_SETTINGS[fault]
    (tmp_path / "settings.yaml").write_text(text)
    assert expected in refused(capsys, "--config", str(tmp_path / "settings.yaml"))


def test_an_operator_says_of_all_faults_in_its_settings_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.yaml").write_text("port: -1\nprot: 1\nresyncSeconds: often\n")
    assert len(refused(capsys, "--config", str(tmp_path / "settings.yaml")).splitlines()) == 3


def test_an_operator_whose_settings_are_not_there_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = f"{tmp_path}/none.yaml: cannot be read: No such file or directory"
    assert expected in refused(capsys, "--config", f"{tmp_path}/none.yaml")


def test_a_wrong_flag_is_refused_as_a_wrong_setting_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert "port: 70000: must be at most 65535" in refused(capsys, "--port", "70000")


def test_the_command_of_an_operator_that_does_not_start_exits_with_2_and_says_no_more_than_why() -> None:
    command = [sys.executable, "-m", "hpo_operator", "--port", "70000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "port: 70000: must be at most 65535.\n")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What an operator says that does not start."""
    assert main(arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_an_operator_that_is_asked_to_stop_ends_well_and_leaves_no_process(
    signal_: signal.Signals, studies: ControlPlane, namespace: str, operators: Operators
) -> None:
    wanted = study("going-on", namespace, says={of_trial(DELAY, 1): NEVER})
    with operators(namespace, fresh=True) as operator:
        studies.apply([wanted])
        wait_until("its Trials", lambda: len(trials(studies, wanted)) > 1, seconds=PATIENCE)
        workers = operator.workers()
        assert workers
        psutil.Process(operator.pid).send_signal(signal_)
        wait_until("its end", lambda: not operator.running, seconds=PATIENCE)
        with pytest.raises(ProcessDied) as ended:
            operator.require_running()
        assert ended.value.status == 0
        assert [each for each in workers if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
        assert "Traceback" not in operator.said()


# Rights


def rules(path: Path) -> list[Object]:
    (role,) = (each for each in yaml.safe_load_all(path.read_text()) if each["kind"] in ("Role", "ClusterRole"))
    found: list[Object] = role["rules"]
    return found


def test_an_operator_of_one_namespace_needs_no_other_rights_than_one_of_all() -> None:
    assert rules(NAMESPACED_RBAC) == rules(RBAC)


def test_an_operator_of_one_namespace_works_with_a_Role_and_leaves_other_namespaces_alone(
    studies: ControlPlane, namespace: str, namespaces: Callable[[], str], tmp_path: Path
) -> None:
    elsewhere = namespaces()
    studies.kubectl("apply", "--namespace", namespace, "-f", str(NAMESPACED_RBAC))
    studies.kubectl("create", "serviceaccount", NAME, "--namespace", namespace)
    who = f"--serviceaccount={namespace}:{NAME}"
    studies.kubectl("create", "rolebinding", NAME, "--namespace", namespace, "--role", NAME, who)
    kubeconfig = studies.kubeconfig_of_service_account(NAME, namespace=namespace)
    user = f"system:serviceaccount:{namespace}:{NAME}"
    other = study("other", elsewhere, trials=1)
    wanted = study("here", namespace, workloadTTLSeconds=0, says={of_trial(EXIT_CODE, 1): "3", of_trial(DELAY, 2): "3s"})
    pattern = {"logs": {"pattern": r"loss=(?P<loss>\S+)"}}
    logged = study("logged", namespace, trials=1, metrics=pattern, says={MESSAGE: "see the log"})

    def asked_for_the_log() -> bool:
        return any(each.user == user and each.subresource == "log" for each in studies.requests())

    with OperatorProcess(kubeconfig, "--namespace", namespace, log=tmp_path / "operator.log") as operator:
        studies.apply([other, wanted, logged])
        assert reason(end_of(studies, wanted)) == "MaxTrialsReached"
        wait_until("the end of its Jobs", lambda: jobs_of(studies, namespace) == {"logged"}, seconds=PATIENCE)
        wait_until("a request for a log", asked_for_the_log, seconds=PATIENCE)
        wait_until("an Event", lambda: studies.api.objects("v1", "Event", namespace), seconds=PATIENCE)
        operator.stop()
        print(operator.said())
    refused = [each for each in studies.requests() if each.user == user and each.code in (401, 403)]
    assert refused == []
    assert "conditions" not in studies.api.get(VERSION, "Study", "other", elsewhere).get("status", {})
    assert trials(studies, other) == []


def jobs_of(plane: ControlPlane, namespace: str) -> set[str]:
    """The Studies of which there are Jobs."""
    return {each["metadata"]["labels"]["hpo.dev/study"] for each in plane.api.objects(*JOB, namespace)}


# What it says


class Told(NamedTuple):
    """Studies that have ended, and one that goes on."""

    crowd: Crowd
    ended: Object
    failing: Object
    going: Object


@pytest.fixture(scope="module")
def told(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    plane, arguments = bed(ControlPlane, ControlPlane), ("--namespace", NAMESPACE, "--port", str(PORT), "--log-format", "json")
    with Crowd(plane, "process", tmp_path_factory.mktemp("operator"), *arguments) as crowd:
        assert crowd.namespace() == NAMESPACE
        failing = crowd.apply("failing", NAMESPACE, trials=5, says={EXIT_CODE: "3"})
        ended = crowd.apply("ended", NAMESPACE, trials=4, template=gpu_template(**{DELAY: "1s", of_trial(EXIT_CODE, 1): "3"}))
        going = crowd.apply("going", NAMESPACE, says={DELAY: NEVER})
        crowd.wait_for_running(going, 0, 1)
        yield Told(crowd, crowd.end_of(ended), crowd.end_of(failing), going)


@pytest.fixture
def crowd(told: Told) -> Iterator[Crowd]:
    with told.crowd.watched():
        yield told.crowd


def gpu_template(**says: str) -> Object:
    containers = [{"name": "main", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]
    return {"job": {"spec": {"template": {"metadata": {"annotations": says}, "spec": {"containers": containers}}}}}


def ask(path: str) -> str:
    with urlopen(f"http://127.0.0.1:{PORT}{path}") as answer:
        text: str = answer.read().decode()
        return text


def families() -> dict[str, Metric]:
    """What /metrics says now, by the names of the documentation."""
    found = {}
    for each in text_string_to_metric_families(ask("/metrics")):
        suffix = {"counter": "_total", "info": "_info"}.get(each.type, "")
        found[each.name if each.name.endswith(suffix) else each.name + suffix] = each
    return found


def value(found: dict[str, Metric], family: str, **labels: str) -> float | None:
    return next(
        (each.value for each in found[family].samples if each.labels == labels and not each.name.endswith("_created")), None
    )


def test_healthz_says_that_the_operator_is_well(crowd: Crowd) -> None:
    assert json.loads(ask("/healthz")) == {"healthy": True, "reason": ""}


def test_the_series_are_those_of_the_documentation(crowd: Crowd) -> None:
    table = re.findall(r"^\| `(hpo_\w+)` \| (.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in table if not name.startswith("hpo_trial_")}
    assert documented
    found = families()
    own = {name: each for name, each in found.items() if name.startswith("hpo_") and not name.endswith("_created")}
    assert own.keys() == documented.keys()
    for name, each in own.items():
        labels = {label for sample in each.samples for label in sample.labels} - {"le"}
        assert labels == documented[name], name


def test_the_values_are_those_of_the_status_of_each_Study(told: Told, crowd: Crowd) -> None:
    found = families()
    names = {"early_stopped": "earlyStopped"}
    for wanted in (told.ended, told.failing, told.going):
        status = crowd.now(wanted)["status"]
        key = {"namespace": NAMESPACE, "study": wanted["metadata"]["name"]}
        for state in ("active", "running", "completed", "early_stopped", "failed", "infeasible"):
            assert value(found, "hpo_trials", **key, state=state) == status["trials"][names.get(state, state)]
        for why in ("Completed", "ProgramFailed"):
            count = sum(reason(each) == why for each in crowd.trials(wanted))
            assert (value(found, "hpo_trials_finished_total", **key, reason=why) or 0) == count
        assert value(found, "hpo_gpu_seconds_total", **key) == status["gpuSeconds"]
    assert told.ended["status"]["gpuSeconds"] > 0
    best = float(told.ended["status"]["best"][0]["metrics"][0]["value"])
    assert value(found, "hpo_study_best_objective", namespace=NAMESPACE, study="ended") == best
    assert value(found, "hpo_study_best_objective", namespace=NAMESPACE, study="failing") is None
    assert value(found, "hpo_studies", namespace=NAMESPACE, reason="InProgress") == 1
    assert value(found, "hpo_studies", namespace=NAMESPACE, reason=reason(told.ended)) == 1


RESOURCES = {"Study": "studies", "Trial": "trials", "Job": "jobs", "Pod": "pods", "Event": "events"}


def test_requests_are_counted_as_the_API_server_counts_them(crowd: Crowd) -> None:
    def counted() -> Counter[tuple[str, str, str]]:
        found: Counter[tuple[str, str, str]] = Counter()
        for each in families()["hpo_apiserver_requests_total"].samples:
            if not each.name.endswith("_created") and each.labels["kind"] in RESOURCES:
                found[each.labels["verb"], RESOURCES[each.labels["kind"]], each.labels["code"]] += int(each.value)
        return found

    def answered() -> Counter[tuple[str, str, str]]:
        own = [each for each in crowd.plane.requests() if (each.user, each.namespace) == (USER, NAMESPACE)]
        return Counter((each.verb, each.resource, str(each.code)) for each in own if each.verb != "watch")

    def agree() -> Counter[tuple[str, str, str]] | None:
        before, found, after = answered(), counted(), answered()
        seen = Counter({key: count for key, count in found.items() if key[0] != "watch"})
        return found if before == seen == after else None

    found = wait_until("the same counts", agree, seconds=PATIENCE)
    assert found["create", "trials", "201"] >= 4 + 5
    assert all(found["watch", each, "200"] for each in ("studies", "trials", "jobs", "pods"))  # told of before they end


def test_each_watch_is_heard_in_each_namespace_that_is_named(crowd: Crowd) -> None:
    heard = [each.labels for each in families()["hpo_watch_silent_seconds"].samples]
    assert sorted(each["resource"] for each in heard) == ["jobs", "pods", "studies", "trials"]
    assert {each["namespace"] for each in heard} == {NAMESPACE}


def test_looks_and_proposals_are_timed(crowd: Crowd) -> None:
    found = families()
    for name, labels in (("hpo_reconcile_duration_seconds", {}), ("hpo_proposal_duration_seconds", {"algorithm": "random"})):
        sums = {each.name: each.value for each in found[name].samples if each.labels == labels}
        assert sums[f"{name}_count"] >= 3
        assert 0 < sums[f"{name}_sum"] / sums[f"{name}_count"] < PATIENCE


def test_no_label_names_a_Trial(crowd: Crowd) -> None:
    labels = {label for each in families().values() for sample in each.samples for label in sample.labels.values()}
    assert [each for each in labels if re.search(r"(ended|failing|going)-\d", each)] == []


def test_promtool_has_nothing_to_say_against_the_metrics(crowd: Crowd) -> None:
    try:
        said = run([program("promtool"), "check", "metrics"], input=ask("/metrics"))
    except MissingTool as error:
        lacking(error)
    except CommandFailed as error:
        said = str(error)
    assert said == ""


def test_the_series_of_a_Study_go_with_it(crowd: Crowd) -> None:
    key = {"namespace": NAMESPACE, "study": "brief"}
    wanted = crowd.apply("brief", NAMESPACE, trials=1)
    crowd.end_of(wanted)
    wait_until("its series", lambda: value(families(), "hpo_trials", **key, state="completed") == 1, seconds=PATIENCE)
    crowd.api.delete(VERSION, "Study", "brief", NAMESPACE)
    wait_until("their end", lambda: '"brief"' not in ask("/metrics"), seconds=PATIENCE)


def test_a_Study_that_is_not_accepted_is_counted_as_such(crowd: Crowd) -> None:
    wanted = crowd.apply("wrong", NAMESPACE, metrics={"logs": {"pattern": "("}})
    wait_for_condition(crowd.plane, wanted, "Accepted", "InvalidSettings")
    labels = {"namespace": NAMESPACE, "reason": "NotAccepted"}
    wait_until("it in the metrics", lambda: value(families(), "hpo_studies", **labels) == 1, seconds=PATIENCE)
    crowd.api.delete(VERSION, "Study", "wrong", NAMESPACE)


def table(crowd: Crowd, *arguments: str) -> dict[str, dict[str, str]]:
    """What `kubectl get` prints: the columns of each row, by name. Columns stand at least two spaces apart."""
    heading, *rows = crowd.plane.kubectl("get", *arguments, "--namespace", NAMESPACE).splitlines()
    starts = [found.start() for found in re.finditer(r"\S+(?: \S+)*", heading)]
    cut = [slice(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]
    found = [{heading[each].strip(): row[each].strip() for each in cut} for row in rows]
    return {each["NAME"]: each for each in found}


def test_kubectl_get_studies_says_how_far_how_good_and_how_long(told: Told, crowd: Crowd) -> None:
    seen = table(crowd, "studies")
    best = told.ended["status"]["best"][0]
    row = seen["ended"]
    assert (row["STATE"], row["TRIALS"], row["RUNNING"], row["FAILED"]) == ("MaxTrialsReached", "4/4", "0", "1")
    assert row["BEST"] == best["metrics"][0]["value"]
    assert (seen["going"]["STATE"], seen["going"]["TRIALS"], seen["going"]["RUNNING"]) == ("InProgress", "0/4", "2")
    wide = table(crowd, "studies", "--output=wide")["ended"]
    assert (wide["ACCEPTED"], wide["PROGRESSING"], wide["METRIC"]) == ("Valid", "Finished", "loss")
    assert wide["BEST TRIAL"] == best["trialName"]


def test_kubectl_get_trials_says_what_was_tried_and_what_came_of_it(told: Told, crowd: Crowd) -> None:
    seen = table(crowd, "trials", "--selector=hpo.dev/study=ended", "--output=wide")
    for trial in crowd.trials(told.ended):
        row = seen[trial["metadata"]["name"]]
        assert row["STATE"] == reason(trial)
        assert row["OBJECTIVE"] == metrics_of(trial).get("loss", "")
        assert [each.split("=")[0] for each in row["PARAMETERS"].split()] == [each["name"] for each in trial["spec"]["parameters"]]
        assert (row["RUNNING"], row["ORIGIN"], row["ATTEMPTS"]) == ("Finished", "Sampled", "1")


def log_of(crowd: Crowd) -> list[Object]:
    """The operator's log, line by line, without what the harness adds."""
    return [json.loads(line) for line in crowd.operator.said().splitlines() if not line.startswith("---")]


def test_every_line_of_the_log_is_JSON_and_names_the_Study_that_it_is_about(crowd: Crowd) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}
    metadata = {"name": "taken-0", "namespace": NAMESPACE}
    foreign = {"metadata": metadata, "spec": {"suspend": True, "template": {"spec": pod}}}
    crowd.api.create({"apiVersion": "batch/v1", "kind": "Job", **foreign})
    wanted = crowd.apply("taken", NAMESPACE, trials=1)
    wait_for_condition(crowd.plane, wanted, "Progressing", "NameConflict")
    crowd.api.delete(*JOB, "taken-0", NAMESPACE)
    crowd.end_of(wanted)
    lines = log_of(crowd)
    assert all(line.keys() >= {"time", "level", "message"} for line in lines)
    about = [line for line in lines if line.get("study") == f"{NAMESPACE}/taken" and line["level"] == "WARNING"]
    refused = [line for line in about if "trying again in" in line["message"]]
    assert {line.get("trial") for line in refused} == {f"{NAMESPACE}/taken-0"}
    assert all("Job taken-0 belongs to somebody else" in line["message"] for line in about)


def test_the_log_tells_of_each_Trial_that_ends_and_names_it(told: Told, crowd: Crowd) -> None:
    def ends() -> dict[str, str]:
        about = [line for line in log_of(crowd) if line.get("study") == f"{NAMESPACE}/ended" and "trial" in line]
        return {line["trial"]: line["message"].partition(":")[0] for line in about}

    wanted = {f"{NAMESPACE}/{each['metadata']['name']}": reason(each) for each in crowd.trials(told.ended)}
    wait_until("all lines", lambda: ends() == wanted, seconds=PATIENCE)


# Last, since repeats are told only after half a minute


def test_kubectl_describe_tells_what_has_become_of_a_Study_in_a_few_lines(told: Told, crowd: Crowd) -> None:
    def described() -> str:
        text = crowd.plane.kubectl("describe", "study", "failing", "--namespace", NAMESPACE).partition("Events:")[2]
        return text if re.search(r"ProgramFailed +.*\(x5 over ", text) else ""

    text = wait_until("an Event that counts the failures", described, seconds=PATIENCE)
    assert re.search(r"Normal +Accepted +.* hpo-operator +The Study is accepted; its seed is 7\.", text)
    assert re.search(r"Warning +ProgramFailed +.*failing-\d: The program ended with exit code 3\.", text)
    assert re.search(r"Warning +NoResult +.*No Trial has given a result", text)
    assert len(text.strip().splitlines()) == 5  # with two lines of heading
