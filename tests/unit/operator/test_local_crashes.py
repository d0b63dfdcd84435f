"""A runner that is killed at any moment loses nothing and repeats nothing."""

import random
import signal
import subprocess
from contextlib import suppress

import pytest
from hpo_operator.ledger import is_terminal

from tests.unit.operator.local_studies import (
    Fork,
    Laptop,
    condition,
    ended,
    kill_at,
    numbered,
    wait_until,
)

PARALLELISM = 2

# Each program signs in, counts those beside it that run, works for a moment, reports, and signs out when it has run to its end.
PROGRAM = """
mkdir -p here; : > here/$$
others=-1
for each in here/*; do
    if read -r _ _ state _ 2>/dev/null < "/proc/${each#here/}/stat" && [ "$state" != Z ]; then others=$((others + 1)); fi
done
[ $others -lt 2 ] || echo "$HPO_TRIAL_NUMBER beside $others" >> crowded
[ ! -e "terminal-$HPO_TRIAL_NUMBER" ] || echo "$HPO_TRIAL_NUMBER" >> repeated
sleep 0.01
echo '{"hpo":1,"step":1,"metrics":{"loss":"'$HPO_PARAM_X'"}}' > "$HPO_TERMINATION_FILE"
echo "$HPO_TRIAL_NUMBER" >> ended
"""

ALGORITHMS = {
    "random": {},
    "sobol": {},
    "grid": {"parameters": [{"name": "x", "ordinal": {"values": [1, 2, 3, 4, 5, 6, 7]}}]},
}


def write(laptop, algorithm="random", trials=3):
    laptop.write(PROGRAM, algorithm={algorithm: {}}, parallelism=PARALLELISM, limits={"maxTrials": trials}, **ALGORITHMS[algorithm])


def run_until(laptop, act=None):
    """Run the Study in a copy of this process, which is killed at its n-th act; whether it came to its end before."""

    def work():
        if act is not None:
            kill_at(act, laptop.results)
        laptop.runner().run()
        return 0

    code = Fork(work).code()
    assert code in (0, -signal.SIGKILL)
    mark_terminal(laptop)
    return code == 0


def mark_terminal(laptop):
    """Note which Trials have their result, for the programs themselves to complain when they are run again."""
    if (laptop.results / "study.json").exists():
        for trial in laptop.trials():
            if is_terminal(trial):
                (laptop.folder / f"terminal-{trial.spec.number}").touch()


def undisturbed(tmp_path, algorithm="random", trials=3):
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    other = Laptop(folder)
    write(other, algorithm, trials)
    other.runner().run()
    return other


def assert_as_if_nothing_had_happened(laptop, reference):
    assert laptop.lines("crowded") == []
    assert laptop.lines("repeated") == []
    assert laptop.parameters() == reference.parameters()
    assert laptop.reasons() == reference.reasons()
    assert set(numbered(laptop.lines("ended"))) == set(reference.parameters())
    assert [condition(laptop.recorded()).reason, laptop.recorded().status.best] == [
        condition(reference.recorded()).reason,
        reference.recorded().status.best,
    ]
    assert laptop.recorded().status.trials == reference.recorded().status.trials


def test_killed_right_before_any_of_its_acts_the_runner_goes_on_to_the_same_end(tmp_path, laptop):
    reference = undisturbed(tmp_path)
    act, complete = 0, False
    while not complete:
        act += 1
        folder = tmp_path / f"{act}"
        folder.mkdir()
        again = Laptop(folder)
        write(again)
        complete = run_until(again, act)
        assert run_until(again)
        assert_as_if_nothing_had_happened(again, reference)
    assert act > 40  # else the acts are not seen, and nothing was tested


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_killed_again_and_again_the_runner_goes_on_to_the_same_end(tmp_path, laptop, algorithm):
    reference = undisturbed(tmp_path, algorithm, trials=6)
    write(laptop, algorithm, trials=6)
    dice = random.Random(1)
    kills = 0
    while not run_until(laptop, dice.randint(1, 45)):
        kills += 1
    assert kills > 3
    assert_as_if_nothing_had_happened(laptop, reference)


def test_killed_at_odd_moments_the_command_goes_on_to_the_same_end(tmp_path, laptop):
    reference = undisturbed(tmp_path, "sobol", trials=5)
    write(laptop, "sobol", trials=5)
    dice = random.Random(2)
    for starts in (1, 3):
        process = laptop.start("--quiet")
        wait_until(
            lambda wanted=starts, run=process: len(list(laptop.folder.glob("here/*"))) >= wanted or run.poll() is not None,
            "programs start",
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(dice.random() / 20)
        process.kill()
        process.communicate()
        mark_terminal(laptop)
    code, out, err = ended(laptop.start("--quiet"))
    assert code == 0, err
    assert "succeeded (MaxTrialsReached)" in out
    assert_as_if_nothing_had_happened(laptop, reference)
