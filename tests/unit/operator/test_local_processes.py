"""What a Trial has started ends with it: at its own end, at an interrupt, at a timeout, and after the runner was killed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hpo_operator import conditions as c
from hpo_operator.local import runner as local_runner
from hpo_operator.local.runner import Interrupted

from tests.unit.operator.builders import at
from tests.unit.operator.local_studies import REPORT, Fork, Immediate, alive, ended, wait_until

HANG = 'trap "" TERM; echo $$ >> pids; exec sleep 1000'

# On its first attempt Trial 0 starts six others that ignore SIGTERM, each out of reach in another way, and hangs with them.
# Any other attempt complains of those that still run.
FAMILY = f"""
for pid in $(cat pids 2>/dev/null); do
    if read -r _ _ state _ 2>/dev/null < /proc/$pid/stat && [ "$state" != Z ]; then echo "$pid runs" >> complaints; fi
done
if [ $HPO_TRIAL_NUMBER = 0 ] && mkdir first 2>/dev/null; then
    sh -c '{HANG}' &
    (sh -c '{HANG}' &)
    setsid sh -c '{HANG}' &
    env -i PATH="$PATH" setsid sh -c '{HANG}' &
    env -i PATH="$PATH" sh -c '{HANG}' > /dev/null 2>&1 &
    {HANG}
fi
{REPORT}
"""
MEMBERS = 6


@pytest.fixture
def laptop(laptop):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup, whose wish a runner respects
    yield laptop
    signal.signal(signal.SIGHUP, before)


def pids(laptop):
    return [int(line) for line in laptop.lines("pids")]


def family_gathers(laptop):
    wait_until(lambda: len(pids(laptop)) == MEMBERS, "the family gathers")
    assert all(map(alive, pids(laptop)))


def test_all_that_a_killed_runner_has_left_running_is_ended_before_it_goes_on(laptop):
    laptop.write(FAMILY)
    runner = laptop.fork()
    family_gathers(laptop)
    runner.kill()
    runner.code()
    assert all(map(alive, pids(laptop)))

    assert laptop.hpo("run") == 0

    assert laptop.lines("complaints") == []
    assert not any(map(alive, pids(laptop)))


def test_a_process_of_somebody_else_with_the_number_of_a_lost_one_is_left_alone(laptop):
    laptop.write(FAMILY)
    runner = laptop.fork()
    family_gathers(laptop)
    runner.kill()
    runner.code()
    bystander = Fork(lambda: signal.pause() or 0)
    record = laptop.results / "trials" / "0000" / "process.json"
    record.write_text(record.read_text().replace(record.read_text().split(",")[0], f'{{"pid": {bystander.pid}'))

    assert laptop.hpo("run") == 0

    assert alive(bystander.pid)
    assert not any(map(alive, pids(laptop)))
    bystander.kill()
    bystander.code()


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda what: what.name)
def test_an_interrupt_ends_all_children_says_how_to_go_on_and_going_on_works(laptop, capfd, what):
    laptop.write(FAMILY, parallelism=2)
    runner = laptop.fork()
    family_gathers(laptop)
    wait_until((laptop.results / "trials/0002/trial.json").exists, "another Trial has ended meanwhile")

    runner.kill(what)

    assert runner.code() == 130
    assert "run the same command again to go on" in capfd.readouterr().err
    assert not any(map(alive, pids(laptop)))
    before = {t.spec.number: t for t in laptop.trials() if t.status.completion_time}
    assert 1 in before
    (laptop.folder / "complaints").unlink(missing_ok=True)  # Trial 1, which ran beside the family, may have seen it
    assert laptop.hpo("run") == 0
    assert laptop.lines("complaints") == []
    assert laptop.reasons() == ["Completed"] * 3
    assert {number: laptop.trials()[number] for number in before} == before


def test_a_second_interrupt_does_not_wait_for_the_grace_period(laptop, capfd):
    laptop.write(FAMILY, pod={"terminationGracePeriodSeconds": 3600})
    runner = laptop.fork()
    family_gathers(laptop)
    runner.kill(signal.SIGINT)
    wait_until(lambda: "Ending the running Trials" in capfd.readouterr().err, "the first is heard")
    runner.kill(signal.SIGINT)
    assert runner.code() == 130
    assert not any(map(alive, pids(laptop)))


def test_a_program_that_ends_well_when_it_is_told_to_end_has_not_finished(laptop):
    saves = f"""
        trap '{REPORT.replace("'", "'" + '"' + "'" + '"' + "'")}; exit 0' TERM
        mkdir first 2>/dev/null || {{ {REPORT}; exit 0; }}
        echo $$ >> pids; while :; do sleep 0.01; done
    """
    laptop.write(saves, pod={"terminationGracePeriodSeconds": 600}, limits={"maxTrials": 1})
    runner = laptop.fork()
    wait_until(lambda: pids(laptop), "the program runs")
    runner.kill(signal.SIGINT)
    assert runner.code() == 130
    assert laptop.trials()[0].status.completion_time is None
    assert laptop.hpo("run") == 0
    assert laptop.reasons() == ["Completed"]


def test_a_program_that_the_interrupt_ended_before_it_had_a_session_of_its_own_is_run_again(laptop, monkeypatch):
    laptop.write(f"mkdir first 2>/dev/null && exec sleep 1000; {REPORT}", limits={"maxTrials": 1})
    runner, start = laptop.runner(), subprocess.Popen

    def started_while_the_terminal_interrupts(*arguments, **options):
        process = start(*arguments, **options)
        process.send_signal(signal.SIGTERM)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        runner.interrupt()
        return process

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", started_while_the_terminal_interrupts)
        with pytest.raises(Interrupted):
            runner.run()
    (laptop.folder / "first").mkdir(exist_ok=True)
    assert laptop.hpo("run") == 0
    assert laptop.reasons() == ["Completed"]


def test_the_clock_of_a_study_that_made_no_progress_stands_still_from_the_interrupt_on_and_not_before(laptop, monkeypatch):
    """It makes none since its algorithm fails: the time at which that began is not the one of the interrupt."""

    class Failing(Immediate):
        def poll(self):
            return replace(super().poll(), proposals=(), error="It fails.")

    now = at(0)

    def interrupts(progress):
        nonlocal now
        if c.reason(progress.study.status.conditions, c.PROGRESSING) == c.ALGORITHM_ERROR:
            now = at(100)
            runner.interrupt()

    monkeypatch.setattr(local_runner, "_now", lambda: now)
    laptop.write(REPORT, limits={"maxTrials": 1, "deadlineSeconds": 10_000})
    runner = laptop.runner(watch=interrupts)
    with monkeypatch.context() as patch:
        patch.setattr(local_runner, "Consultant", Failing)
        with pytest.raises(Interrupted):
            runner.run()
    now = at(1000)
    assert laptop.hpo("run") == 0
    assert laptop.recorded().status.start_time == at(900)


def test_a_hanging_program_that_ignores_the_request_to_end_is_killed_after_its_timeout_and_grace_period(laptop):
    laptop.write(FAMILY, limits={"maxTrials": 1, "trialTimeoutSeconds": 1})
    assert laptop.hpo("run") == 1
    assert laptop.outcomes() == [("TimedOut", "Ran longer than limits.trialTimeoutSeconds (1).")]
    assert len(pids(laptop)) == MEMBERS
    assert not any(map(alive, pids(laptop)))


def test_the_calls_of_a_search_within_a_trial_end_with_it(laptop):
    """They have sessions, logs and a Study of their own, and when the program is ended first they descend from it no more."""
    command = laptop.script(
        "train.py",
        """
        import os, time
        from hpo_operator import tune
        def hang(x):
            open("pids", "a").write(f"{os.getpid()}\\n")
            time.sleep(1000)
        space = {"x": {"float": {"min": 0, "max": 1}}}
        tune(hang, space, trials=2, parallelism=2, progress=False, algorithm="random", results="inner")
        """,
    )
    laptop.write(command, limits={"maxTrials": 1}, container={"env": [{"name": "TMPDIR", "value": str(laptop.folder)}]})
    runner = laptop.fork()
    wait_until(lambda: len(pids(laptop)) == 2, "the inner search runs")
    runner.kill(signal.SIGINT)
    assert runner.code() == 130
    assert not any(map(alive, pids(laptop)))


def test_what_a_program_leaves_running_ends_with_it(laptop):
    laptop.write(
        f": > pids; sh -c '{HANG}' & setsid sh -c '{HANG}' & while [ $(wc -l < pids) -lt 2 ]; do sleep 0.01; done; {REPORT}",
        limits={"maxTrials": 1},
    )
    assert laptop.hpo("run") == 0
    assert laptop.reasons() == ["Completed"]
    assert len(pids(laptop)) == 2
    assert not any(map(alive, pids(laptop)))


def test_what_a_Trial_has_left_in_its_session_alone_ends_before_its_gpu_is_another_s(laptop):
    """A child in a group of its own, with nothing in its environment and its output elsewhere."""
    command = laptop.script(
        "train.py",
        """
        import os, subprocess, hpo
        from pathlib import Path
        for pid in Path("pids").read_text().split() if Path("pids").exists() else ():
            state = Path(f"/proc/{pid}/stat")
            if state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
                open("complaints", "a").write(f"{pid} runs\\n")
        elsewhere = {"env": {}, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "process_group": 0}
        child = subprocess.Popen(["/bin/sleep", "1000"], **elsewhere)
        open("pids", "a").write(f"{child.pid}\\n")
        hpo.report(step=1, loss=1.0)
        """,
    )
    laptop.write(command, limits={"maxTrials": 2}, container={"resources": {"limits": {"nvidia.com/gpu": 1}}})
    assert laptop.hpo("run", "--gpus", "0") == 0
    assert laptop.lines("complaints") == []
    assert len(pids(laptop)) == 2
    assert not any(map(alive, pids(laptop)))


def test_a_process_that_a_killed_runner_has_left_is_seen_though_its_main_thread_has_ended(laptop):
    """Such a process looks as if it had ended. So does, for seconds, one that gives much memory back."""
    command = laptop.script(
        "train.py",
        """
        import ctypes, os, threading, time, hpo
        if not os.path.exists("pids"):
            open("pids", "w").write(f"{os.getpid()}\\n")
            threading.Thread(target=time.sleep, args=(1000,)).start()
            ctypes.CDLL(None).pthread_exit(None)
        hpo.report(step=1, loss=1.0)
        """,
    )
    laptop.write(command)
    runner = laptop.fork()
    wait_until(lambda: pids(laptop) and not alive(pids(laptop)[0]), "the main thread ends")
    runner.kill()
    runner.code()
    threads = Path(f"/proc/{pids(laptop)[0]}/task")
    assert len(list(threads.iterdir())) == 2

    assert laptop.hpo("run") == 0

    assert not threads.exists() or len(list(threads.iterdir())) == 1


def test_the_median_rule_ends_a_whole_process_group_early(laptop):
    command = laptop.script(
        "train.py",
        """
        import os, subprocess, time, hpo
        if hpo.trial().number < 5:
            for step in range(1, 4):
                hpo.report(step=step, loss=0.1)
        else:
            child = subprocess.Popen(["sh", "-c", 'trap "" TERM; exec sleep 1000'])
            open("pids", "a").write(f"{child.pid}\\n{os.getpid()}\\n")
            hpo.report(step=2, loss=9.0)
            time.sleep(1000)
        """,
    )
    laptop.write(command, limits={"maxTrials": 6}, schedule={"median": {}}, budget={"max": 3}, parallelism=2)
    assert laptop.hpo("run") == 0
    assert laptop.outcomes()[5] == ("EarlyStopped", "Stopped by rule 'median' at step 2.")
    assert len(pids(laptop)) == 2
    assert not any(map(alive, pids(laptop)))
    stopped = laptop.trials()[5].status
    assert (stopped.stop.rule, stopped.stop.step) == ("median", 2)
    assert laptop.recorded().status.trials.early_stopped == 1


def test_never_do_two_runners_work_on_one_folder(laptop, capsys):
    laptop.write(FAMILY)
    first = laptop.fork()
    family_gathers(laptop)
    for arguments in ((), ("--fresh",)):
        assert laptop.hpo("run", *arguments) == 2
        assert "another runner works on this folder" in capsys.readouterr().err
    first.kill(signal.SIGTERM)
    assert first.code() == 130


def test_an_interrupt_while_modules_are_imported_ends_the_command_without_a_traceback(laptop):
    """A module may make another error of the interrupt, as pydantic does."""
    (laptop.folder / "pydantic.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    signal.pause()\n"
        "except KeyboardInterrupt as error:\n"
        "    raise ValueError('cannot be imported') from error\n"
    )
    path = os.pathsep.join([str(laptop.folder), *filter(None, sys.path)])
    assert ended(laptop.start(env={**os.environ, "PYTHONPATH": path})) == (130, "", "")


def test_the_command_in_a_process_of_its_own_exits_with_130_after_an_interrupt(laptop):
    laptop.write(FAMILY)
    process = laptop.start()
    family_gathers(laptop)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130
    assert "Interrupted. What has ended stands in" in err
    assert "Traceback" not in out + err
    assert not any(map(alive, pids(laptop)))
