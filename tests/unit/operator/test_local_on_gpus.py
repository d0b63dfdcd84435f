"""Studies on the GPUs of this machine, as nvidia-smi shows them: real trainings, and what goes wrong with memory that is scarce."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
from hpo_operator import conditions as c
from hpo_operator import tune
from hpo_operator.local.gpus import visible
from hpo_operator.manifests import read_file, study_document

from tests.unit.operator.local_studies import Laptop, alive, ended, wait_until
from tests.unit.operator.test_examples import ROOT

pytestmark = pytest.mark.gpu

EXAMPLE = ROOT / "examples" / "digits-cnn"
ON_A_GPU = {"container": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
SHARE = 0.6  # of a GPU's memory: two of them are too much

# Signs in at its GPU, by the name that the driver has for it, works there, and signs out.
SIGNING_IN = """
import os, hpo, torch
assert torch.cuda.device_count() == 1
gpu = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
try:
    os.mkdir(gpu)
except FileExistsError:
    open("complaints", "a").write(f"{gpu} is taken\\n")
open("used", "a").write(f"{gpu}\\n")
x = torch.rand(512, 512, device="cuda")
for _ in range(1000):
    x = torch.nn.functional.normalize(x @ x)
hpo.report(step=1, loss=x.sum().item())
os.rmdir(gpu)
"""

# Has a child take its share of the GPU, and leaves it when it ends; the first of all does not end.
LAUNCHING = """
import subprocess, sys, time
import hpo
from pathlib import Path
first = not Path("pids").exists()
child = subprocess.Popen([sys.executable, "holding.py"], stdout=subprocess.PIPE)
Path("pids").open("a").write(f"{child.pid}\\n")
if not child.stdout.readline():
    sys.exit(child.wait())
if first:
    Path("hangs").touch()
    time.sleep(1000)
hpo.report(step=1, loss=1.0)
"""
HOLDING = f"""
import time, torch
whole = torch.cuda.mem_get_info()[1]
held = torch.empty(int({SHARE} * whole), dtype=torch.uint8, device="cuda").fill_(1)
torch.cuda.synchronize()
print("holds", flush=True)
time.sleep(1000)
"""

FULL = """
import hpo, torch
held = []
while hpo.trial().number == 0:
    held.append(torch.empty(1 << 30, dtype=torch.uint8, device="cuda"))
hpo.report(step=1, loss=torch.ones(1, device="cuda").item())
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that makes a folder on a machine whose GPUs may all be used. Algorithms have processes of their own, as users'."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made = []

    def make(name="study"):
        folder = tmp_path / name
        folder.mkdir()
        made.append(Laptop(folder))
        return made[-1]

    yield make
    for each in made:
        each.clean_up()


@pytest.fixture
def laptop(machine):
    return machine()


def training(laptop, **spec):
    """The example in this folder, with another specification."""
    shutil.copy(EXAMPLE / "train.py", laptop.folder)
    data = study_document(read_file(EXAMPLE / "study.yaml"), "study.yaml").data
    (laptop.folder / "study.json").write_text(json.dumps({**data, "spec": {**data["spec"], **spec}}))
    return laptop


def test_a_trial_sees_one_gpu_which_no_other_has_meanwhile_and_the_seconds_that_it_is_held_end_the_study(laptop, capsys):
    ids = visible()
    study = {"parallelism": len(ids) + 2, **ON_A_GPU}
    laptop.write(laptop.script("train.py", SIGNING_IN), limits={"maxTrials": len(ids) + 2}, **study)
    assert laptop.hpo("run") == 0
    told = capsys.readouterr().err
    assert f"Trials get the GPUs {', '.join(ids)}; --gpus names others." in told
    assert f"{len(ids)} of {len(ids) + 2} Trials run at once" in told
    assert laptop.lines("complaints") == []
    assert len({*laptop.lines("used")}) == len(ids)
    assert laptop.reasons() == [c.COMPLETED] * (len(ids) + 2)
    spent = laptop.recorded().status.gpu_seconds
    assert spent == sum(trial.status.gpu_seconds for trial in laptop.trials()) > 0

    laptop.write(["python", "train.py"], limits={"gpuSeconds": spent + 2 * len(ids)}, **study)
    assert laptop.hpo("run") == 0
    assert laptop.ended() == c.GPU_BUDGET_SPENT
    assert laptop.recorded().status.gpu_seconds == sum(trial.status.gpu_seconds for trial in laptop.trials()) > spent


def test_a_function_trains_on_a_gpu_that_the_notebook_already_uses(tmp_path):
    """CUDA that has begun in a process cannot begin again in a fork of it."""
    import torch

    kept = torch.arange(4.0, device="cuda")

    def loss(x):
        import torch

        return (torch.tensor(x, device="cuda") - 0.5).square().item() + torch.cuda.device_count() - 1

    result = tune(loss, {"x": {"float": {"min": 0, "max": 1}}}, trials=3, gpus=visible()[:1], results=tmp_path, progress=False)
    assert [row["loss"] for row in result.table] == pytest.approx([(row["x"] - 0.5) ** 2 for row in result.table], abs=1e-6)
    assert kept.sum().item() == 6


def test_a_gpu_may_go_by_the_name_that_the_driver_has_for_it(laptop):
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    name = re.findall(r"^GPU .*\(UUID: (.*)\)", listed, re.MULTILINE)[-1]
    laptop.write(laptop.script("train.py", SIGNING_IN), limits={"maxTrials": 1}, **ON_A_GPU)
    assert laptop.hpo("run", "--gpus", name) == 0
    assert laptop.lines("used") == [name]


def test_a_member_of_a_population_goes_on_from_another_s_weights_with_its_own_learning_rate(laptop):
    parameters = [{"name": "learning_rate", "float": {"min": 1e-4, "max": 1e-1, "scale": "Log"}}]
    budget = {"min": 2, "max": 4, "unit": "epochs"}
    training(laptop, algorithm={"pbt": {"population": 2}}, schedule=None, budget=budget, parameters=parameters)
    assert laptop.hpo("run") == 0
    assert laptop.reasons() == [c.COMPLETED] * 4
    trials = laptop.trials()
    assert all(laptop.log(number).startswith("training on NVIDIA") for number in range(4))
    (copying,) = (each for each in trials[2:] if trials[each.spec.restore_from.number].spec.slot.member != each.spec.slot.member)
    donor = trials[copying.spec.restore_from.number]
    assert (copying.status.restored.trial_name, copying.status.restored.step) == (donor.metadata.name, 2)
    own, other = (float(trial.spec.parameters[0].value) for trial in (copying, donor))
    assert own != other
    observed = {each.name: float(each.value) for each in copying.status.observation.metrics}
    assert observed["learning_rate"] == pytest.approx(own * 0.95**4)


def test_a_training_that_was_killed_comes_to_the_numbers_of_one_that_was_not(machine):
    one = {"algorithm": {"random": {}}, "schedule": None, "budget": {"max": 30, "unit": "epochs"}, "limits": {"maxTrials": 1}}
    undisturbed, killed = training(machine("undisturbed"), **one), training(machine("killed"), **one)
    assert undisturbed.hpo("run") == 0

    runner = killed.start("--quiet")
    trial = killed.results / "trials" / "0000"
    wait_until(lambda: reported(killed)[2:], "it trains", runner)
    runner.kill()
    runner.communicate()
    os.kill(json.loads((trial / "process.json").read_text())["pid"], signal.SIGSTOP)  # it would go on without its runner
    before = reported(killed)
    assert killed.hpo("run") == 0

    after = reported(killed)
    assert before[-1][0] < 30
    assert 1 < after[0][0] <= before[-1][0] + 1
    assert [*before[: after[0][0] - 1], *after] == reported(undisturbed)
    assert killed.trials()[0].status.observation.metrics == undisturbed.trials()[0].status.observation.metrics


def reported(laptop):
    """What the only Trial has reported in its last attempt: steps and losses as they were written."""
    path = laptop.results / "trials" / "0000" / "metrics.jsonl"
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []
    return [(each["step"], each["metrics"]["val_loss"]) for each in map(json.loads, whole)]


def test_memory_that_a_killed_run_or_an_ended_trial_held_is_free_when_the_next_trial_begins(laptop):
    import torch

    (laptop.folder / "holding.py").write_text(HOLDING)
    laptop.write(laptop.script("train.py", LAUNCHING), limits={"maxTrials": 3}, **ON_A_GPU)
    free, whole = torch.cuda.mem_get_info()
    runner = laptop.start("--gpus", visible()[0])
    wait_until((laptop.folder / "hangs").exists, "a Trial holds memory", runner)
    runner.kill()
    runner.communicate()
    assert all(map(alive, pids(laptop)))

    assert laptop.hpo("run", "--gpus", visible()[0]) == 0

    assert laptop.reasons() == [c.COMPLETED] * 3, laptop.outcomes()
    assert len(pids(laptop)) == 4
    assert not any(map(alive, pids(laptop)))
    assert torch.cuda.mem_get_info()[0] > free - SHARE / 2 * whole


def pids(laptop):
    return [int(line) for line in laptop.lines("pids")]


def test_a_trial_that_runs_out_of_its_gpu_s_memory_has_failed_and_says_so(laptop):
    laptop.write(laptop.script("train.py", FULL), limits={"maxTrials": 2}, **ON_A_GPU)
    code, out, err = ended(laptop.start("--gpus", visible()[0]))
    assert code == 0, err
    assert re.search(r"Trial 0: ProgramFailed, The program ended with exit code 1; its last words: .*CUDA out of memory", out)
    assert laptop.reasons() == [c.PROGRAM_FAILED, c.COMPLETED]
