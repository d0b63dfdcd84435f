"""/metrics: what a Prometheus sees of a Trial that trains."""

import math
import socket
import subprocess
import sys
import textwrap
import urllib.request
from contextlib import closing, contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def port(trial):
    with closing(socket.socket()) as probe:
        probe.bind(("0.0.0.0", 0))
        number = probe.getsockname()[1]
    trial.environment["HPO_METRICS_PORT"] = str(number)
    return number


@contextmanager
def running(trial, program):
    """A program that has said `ready` and ends when its input does."""
    process = trial.start(sys.executable, "-c", textwrap.dedent(program), stderr=subprocess.STDOUT)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()


def scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()) if sample.labels else (sample.name, None): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_shows_the_last_value_of_each_metric_the_step_the_parameters_and_nothing_else(trial, port):
    program = """
        import sys, hpo
        hpo.report({"val_loss": 0.5, "valid_1 \\"auc\\" ü": 0.75}, step=3)
        hpo.report(val_loss=float("nan"), worst=float("-inf"), step=4)
        print("ready", flush=True)
        sys.stdin.read()
    """
    with running(trial, program):
        samples = scrape(port)
    assert math.isnan(samples.pop(("hpo_trial_metric", "val_loss")))
    assert math.isnan(samples.pop(("hpo_trial_parameter", "optimizer", "adam")))
    assert samples == {
        ("hpo_trial_parameter", "lr", "0.001"): 0.001,
        ("hpo_trial_parameter", "layers", "3"): 3,
        ("hpo_trial_step", None): 4,
        ("hpo_trial_metric", 'valid_1 "auc" ü'): 0.75,
        ("hpo_trial_metric", "worst"): -math.inf,
    }


def test_a_scrape_in_the_middle_of_reports_shows_one_moment(trial, port):
    program = """
        import sys, threading, hpo
        def work():
            step = 0
            while True:
                step += 1
                hpo.report(step=step, a=step, b=step)
        hpo.report(step=0, a=0, b=0)
        threading.Thread(target=work, daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()
    """
    with running(trial, program):
        seen = [scrape(port) for _ in range(20)]
    assert len({tuple(samples.values()) for samples in seen}) > 1
    for samples in seen:
        assert len({value for (name, *_), value in samples.items() if name != "hpo_trial_parameter"}) == 1


def test_a_port_in_use_is_told_once_and_training_goes_on(trial, port):
    with closing(socket.socket()) as other:
        other.bind(("0.0.0.0", port))
        other.listen()
        done = trial.python("import hpo\nfor step in range(5): hpo.report(step=step, loss=0.5)\nprint('trained')")
    assert (done.returncode, done.stdout) == (0, b"trained\n")
    assert done.stderr.count(b"training goes on") == 1
    assert f"/metrics could not be served on port {port}".encode() in done.stderr
    assert trial.message["step"] == 4


def test_without_prometheus_client_training_goes_on(trial, port):
    done = trial.python("""
        import sys
        sys.modules["prometheus_client"] = None
        import hpo
        hpo.report(loss=0.5)
    """)
    assert done.returncode == 0
    assert done.stderr.count(b"training goes on") == 1
    assert trial.message["step"] == 1


def test_only_the_process_that_reports_takes_the_port(trial, port):
    program = """
        import subprocess, sys, hpo
        hpo.parameters()
        hpo.budget()
        rank_0 = "import sys, hpo; hpo.report(loss=0.5); print('ready', flush=True); sys.stdin.read()"
        sys.exit(subprocess.run([sys.executable, "-c", rank_0]).returncode)
    """
    with running(trial, program):
        assert scrape(port)["hpo_trial_metric", "loss"] == 0.5


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1"])
def test_a_port_that_is_none_is_refused(trial, text):
    trial.environment["HPO_METRICS_PORT"] = text
    done = trial.python("import hpo; hpo.report(loss=0.5)")
    assert b"InvalidEnvironment: HPO_METRICS_PORT" in done.stderr
    assert b"must be a whole number from 1 to 65535" in done.stderr
