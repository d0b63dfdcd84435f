"""GPUs are handed out one Trial at a time, as the template asks for them."""

import pytest

from tests.unit.operator.local_studies import REPORT

# Takes its GPUs, and complains when somebody else has one of them or when CUDA_VISIBLE_DEVICES names one twice.
PROGRAM = f"""
for gpu in $(echo $CUDA_VISIBLE_DEVICES | tr , ' '); do mkdir "gpu-$gpu" || echo "$gpu is taken" >> complaints; done
echo "$CUDA_VISIBLE_DEVICES" >> given
sleep 0.03
for gpu in $(echo $CUDA_VISIBLE_DEVICES | tr , ' '); do rmdir "gpu-$gpu"; done
{REPORT}
"""
FIELD = "spec.template.job.spec.template.spec.containers[0].resources.limits[nvidia.com/gpu]"


@pytest.fixture
def laptop(laptop, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return laptop


def asking_for(count):
    return {"container": {"resources": {"limits": {"nvidia.com/gpu": count}}}}


def nvidia_smi(laptop, monkeypatch, output, code=0):
    """A machine whose nvidia-smi says this; without output, one that has none."""
    folder = laptop.folder / "driver"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] || exit 9\ncat <<'EOF'\n{output}\nEOF\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize("count", [1, "2"])
def test_no_gpu_is_given_to_two_trials_at_once_and_those_without_one_wait(laptop, count, capsys):
    laptop.write(PROGRAM, parallelism=4, limits={"maxTrials": 8}, **asking_for(count))
    assert laptop.hpo("run", "--gpus", "0,1,GPU-7f") == 0
    assert laptop.reasons() == ["Completed"] * 8
    assert laptop.lines("complaints") == []
    given = laptop.lines("given")
    assert len(given) == 8
    assert all(len(line.split(",")) == int(count) for line in given)
    assert "Trials run at once; others wait." in capsys.readouterr().err


def test_more_gpus_a_trial_than_there_are_is_refused_with_field_and_remedy(laptop, capsys):
    laptop.write(PROGRAM, **asking_for(4))
    assert laptop.hpo("run", "--gpus", "0,1") == 2
    err = capsys.readouterr().err
    assert f"{FIELD}: 4: is more than the 2 (0, 1) that --gpus names. Ask for fewer a Trial, or name more by --gpus" in err
    assert not laptop.results.exists()


def test_without_the_option_all_gpus_of_the_machine_are_used(laptop, monkeypatch, capsys):
    nvidia_smi(laptop, monkeypatch, "GPU 0: NVIDIA H200 (UUID: GPU-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)")
    laptop.write(PROGRAM, parallelism=2, limits={"maxTrials": 4}, **asking_for(1))
    assert laptop.hpo("run") == 0
    assert set(laptop.lines("given")) == {"0", "1"}
    assert "Trials get the GPUs 0, 1; --gpus names others." in capsys.readouterr().err
    laptop.write(PROGRAM, **asking_for(3))
    assert laptop.hpo("run", "--fresh") == 2
    assert "is more than the 2 (0, 1) that this machine has" in capsys.readouterr().err


def test_slices_of_a_gpu_go_by_their_own_names(laptop, monkeypatch):
    listed = "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-a)\n  MIG 1g.18gb Device 1: (UUID: MIG-b)"
    nvidia_smi(laptop, monkeypatch, listed)
    laptop.write(PROGRAM, parallelism=2, limits={"maxTrials": 4}, **asking_for(1))
    assert laptop.hpo("run") == 0
    assert set(laptop.lines("given")) == {"MIG-a", "MIG-b"}


def test_gpus_that_this_process_may_not_see_are_not_handed_out(laptop, monkeypatch):
    nvidia_smi(laptop, monkeypatch, "GPU 0: NVIDIA H200 (UUID: GPU-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    laptop.write(PROGRAM, parallelism=2, **asking_for(1))
    assert laptop.hpo("run") == 0
    assert set(laptop.lines("given")) == {"1"}


@pytest.mark.parametrize(("output", "code"), [("No devices found.", 0), ("NVIDIA-SMI has failed", 9), (None, 0)])
def test_on_a_machine_without_gpus_a_note_says_so_and_trials_run(laptop, monkeypatch, capsys, output, code):
    if output is None:
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
    else:
        nvidia_smi(laptop, monkeypatch, output, code)
    laptop.write(PROGRAM, **asking_for(1))
    assert laptop.hpo("run") == 0
    assert laptop.lines("given") == [""] * 3
    assert "nvidia-smi shows none: Trials run without one of their own" in capsys.readouterr().err


def test_gpus_that_nobody_asks_for_are_not_given(laptop, capsys):
    laptop.write(PROGRAM)
    assert laptop.hpo("run", "--gpus", "0") == 0
    assert laptop.lines("given") == [""] * 3
    assert "--gpus: the template asks for no nvidia.com/gpu, so Trials get no GPU." in capsys.readouterr().err


@pytest.mark.parametrize("wanted", ["one", -1, 1.5, True])
def test_a_number_of_gpus_that_is_none_is_refused(laptop, capsys, wanted):
    laptop.write(PROGRAM, **asking_for(wanted))
    assert laptop.hpo("run", "--gpus", "0") == 2
    assert f"{FIELD}: {wanted!r}: must be a whole number" in capsys.readouterr().err
