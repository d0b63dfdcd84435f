"""`hpo exec`: an unmodified program under it is what it is alone, and its metrics are reported."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

PYTHON = sys.executable


def test_the_metrics_that_a_program_prints_are_reported(trial):
    done = trial.exec("--", "sh", "-c", "for epoch in 1 2 3; do echo epoch $epoch val_loss=0.$epoch acc: .9; done")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"epoch 1 val_loss=0.1 acc: .9\nepoch 2 val_loss=0.2 acc: .9\nepoch 3 val_loss=0.3 acc: .9\n"
    assert trial.message == {"hpo": 1, "step": 3, "metrics": {"val_loss": ["0.3", "0.1", "0.3"], "acc": ["0.9"] * 3}}
    assert [report["step"] for report in trial.reports] == [1, 2, 3]


def test_metrics_on_stderr_count_too(trial):
    done = trial.exec("sh", "-c", "echo val_loss=0.5 >&2")
    assert (done.stdout, done.stderr) == (b"", b"val_loss=0.5\n")
    assert trial.message["metrics"] == {"val_loss": ["0.5", "0.5", "0.5"]}


def test_patterns_and_step_patterns_are_the_user_s(trial):
    done = trial.exec(
        *("--pattern", r"L=(?P<val_loss>\S+)", r"--pattern=A=(?P<acc>\S+)", r"--step-pattern=round (\d+)", "--"),
        *("printf", r"round 4\nL=0.5 A=0.9\nother=1\n"),
    )
    assert done.returncode == 0
    assert trial.message == {"hpo": 1, "step": 4, "metrics": {"val_loss": ["0.5"] * 3, "acc": ["0.9"] * 3}}


def test_the_program_has_the_parameters_in_its_environment(trial):
    assert trial.exec("--", "sh", "-c", "echo $HPO_PARAM_LR $HPO_PARAMETERS").stdout == (
        b'0.001 {"lr": 0.001, "layers": 3, "optimizer": "adam"}\n'
    )


def test_the_program_reads_the_standard_input(trial):
    assert trial.exec("--", "cat", stdin=subprocess.DEVNULL).stdout == b""
    process = trial.start(PYTHON, "-m", "hpo", "exec", "--", "cat")
    assert process.communicate(b"typed\n", timeout=30)[0] == b"typed\n"


def test_output_passes_through_byte_for_byte(trial):
    trial.environment["HPO_OBJECTIVES"] = ""
    content = random.Random(3).randbytes(3_000_000)
    (trial.folder / "content").write_bytes(content)
    done = trial.exec("--", "sh", "-c", "cat content; cat content >&2")
    assert done.returncode == 0
    assert done.stdout == done.stderr == content


def test_a_line_of_many_megabytes_is_harmless_and_the_next_one_is_found_in_little_memory(trial):
    program = """
        import resource, subprocess, sys
        code = subprocess.call([sys.executable, "-m", "hpo", "exec", "--", sys.executable, "-c",
            "import os\\nfor _ in range(100): os.write(1, b'loss=1 ' * 20000)\\nprint()\\nprint('val_loss=0.5')"])
        sys.stderr.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
        sys.exit(code)
    """
    done = trial.python(program)
    assert done.returncode == 0
    assert len(done.stdout) == 100 * 140_000 + len("\nval_loss=0.5\n")
    assert trial.message["metrics"] == {"val_loss": ["0.5", "0.5", "0.5"]}
    assert int(done.stderr) < 60_000  # kB, the interpreter itself included


def test_output_passes_through_at_once_and_is_reported_while_the_program_runs(trial):
    process = trial.start(PYTHON, "-m", "hpo", "exec", "--", PYTHON, "-c", "import sys; print('val_loss=0.5'); sys.stdin.read()")
    try:
        assert process.stdout.readline() == b"val_loss=0.5\n"
        wait_until(lambda: trial.termination_file.exists() and trial.message["metrics"] == {"val_loss": ["0.5"] * 3})
        process.communicate(b"\n", timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 1", 1), ("exit 86", 86), ("exit 255", 255)])
def test_the_exit_code_is_the_program_s(trial, script, code):
    assert trial.exec("--", "sh", "-c", script).returncode == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_a_program_ended_by_a_signal_makes_the_exit_code_that_a_shell_would_make(trial, number):
    assert trial.exec("--", "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_handed_on_and_the_program_ends_as_it_wants(trial, number):
    program = f"""if True:
        import signal, sys, time
        def end(number, frame):
            print("val_loss=0.25 after signal", number)
            sys.exit(3)
        signal.signal({int(number)}, end)
        print("ready")
        time.sleep(30)
    """
    process = trial.start(PYTHON, "-m", "hpo", "exec", "--", PYTHON, "-c", program, start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, number)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (3, f"val_loss=0.25 after signal {int(number)}\n".encode(), b"")
    assert trial.message["metrics"] == {"val_loss": ["0.25", "0.25", "0.25"]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_that_minds_no_signal_is_ended_by_it(trial, number):
    process = trial.start(PYTHON, "-m", "hpo", "exec", "--", "sh", "-c", "echo ready; exec sleep 30", start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + number


def test_a_signal_at_any_moment_is_never_lost(trial):
    for milliseconds in range(0, 240, 12):
        process = trial.start(PYTHON, "-m", "hpo", "exec", "--", "sleep", "30", start_new_session=True)
        time.sleep(milliseconds / 1000)
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)  # the latter before anything was set up


def test_a_signal_that_is_ignored_stays_ignored(trial):
    done = trial.run("sh", "-c", f"trap '' INT; {PYTHON} -m hpo exec -- sh -c 'kill -INT $PPID; kill -INT $$; echo val_loss=1'")
    assert (done.returncode, done.stdout) == (0, b"val_loss=1\n")


def test_a_ctrl_c_at_a_terminal_reaches_the_program_once(trial):
    program = f"""if True:
        import os, pty, re, sys
        child, terminal = pty.fork()
        if child == 0:
            os.execv({PYTHON!r}, [{PYTHON!r}, "-m", "hpo", "exec", "--", {PYTHON!r}, "-c", '''if True:
                import signal, time
                count = 0
                def interrupted(number, frame):
                    global count
                    count += 1
                signal.signal(signal.SIGINT, interrupted)
                print("ready")
                time.sleep(1.5)
                print("count", count)
            '''])
        seen = b""
        while not re.search(rb"count \\d", seen):  # a terminal hands over a line in pieces
            seen += os.read(terminal, 1000)
            if b"ready" in seen:
                os.write(terminal, b"\\x03")
                seen = seen.replace(b"ready", b"started")
        sys.stdout.write(seen.decode())
    """
    assert b"count 1" in trial.python(program).stdout


def test_a_program_that_is_not_found_is_127(trial):
    done = trial.exec("--", "no-such-program", "argument")
    assert (done.returncode, done.stdout) == (127, b"")
    assert b"hpo: exec: the program 'no-such-program' was not found" in done.stderr


def test_a_program_whose_interpreter_is_not_found_is_127(trial):
    script = trial.folder / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = trial.exec("--", "./script")
    assert done.returncode == 127
    assert b"the interpreter that its first line names was not found" in done.stderr


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_program_that_cannot_be_executed_is_126(trial, mode):
    script = trial.folder / "script"
    script.write_bytes(b"\x00\x01 no program")
    script.chmod(mode)
    done = trial.exec("--", "./script")
    assert done.returncode == 126
    assert b"hpo: exec: './script' cannot be run" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pattern", "(?P<loss>", "--", "true"], b"--pattern '(?P<loss>': must be a regular expression"),
        (["--pattern", r"(\d+)", "--", "true"], b"must have a named group for each metric"),
        (["--step-pattern", "epoch", "--", "true"], b"--step-pattern 'epoch': must have a group"),
        (["--pattern"], b"--pattern needs a regular expression"),
        (["--patern", "x", "--", "true"], b"unknown option --patern"),
        (["--"], b"no program is given"),
        ([], b"no program is given"),
    ],
)
def test_a_wrong_command_line_is_2_and_nothing_is_run(trial, arguments, message):
    done = trial.exec(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_help_tells_of_patterns_and_exit_codes(trial):
    done = trial.exec("--help")
    assert (done.returncode, done.stderr) == (0, b"")
    for word in (b"--pattern", b"--step-pattern", b"(?P<", b"HPO_PARAM_", b"127"):
        assert word in done.stdout


def test_what_a_program_leaves_behind_does_not_keep_the_trial_running(trial):
    """It goes on for as long as anybody reads, so that waiting for its end would never end."""
    done = trial.exec("--", "sh", "-c", "(while sleep 0.1; do echo left behind || exit; done) & echo val_loss=0.5")
    assert done.returncode == 0
    assert trial.message["metrics"] == {"val_loss": ["0.5", "0.5", "0.5"]}


def test_a_program_whose_reader_goes_away_meets_what_it_would_meet_alone(trial):
    done = trial.run("bash", "-c", f"set -o pipefail; {PYTHON} -m hpo exec -- yes | head -n 1")
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stdout == b"y\n"


def test_an_output_that_cannot_be_written_is_told_once_and_the_metrics_are_still_found(trial):
    done = trial.run("sh", "-c", f"{PYTHON} -m hpo exec -- sh -c 'echo val_loss=0.5; sleep 0.1; echo val_loss=0.4' > /dev/full")
    assert done.returncode == 0
    assert done.stderr.count(b"could not be passed on") == 1
    assert trial.message["metrics"] == {"val_loss": ["0.4", "0.4", "0.5"]}


def test_a_program_that_ends_well_without_an_objective_is_told_apart_by_a_line(trial):
    done = trial.exec("--", "echo", "loss=0.5")
    assert (done.returncode, done.stdout) == (0, b"loss=0.5\n")
    assert done.stderr.count(b"\n") == 1
    assert b"no number was found in the program's output for val_loss" in done.stderr


def test_outside_a_study_the_output_is_the_program_s_alone(no_study):
    done = no_study.exec("--", "sh", "-c", "echo epoch 1 loss=0.5; echo err >&2")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"epoch 1 loss=0.5\n", b"err\n")


def test_verbose_says_what_is_reported(no_study):
    done = no_study.exec("--verbose", "--", "echo", "epoch 1 loss=0.5")
    assert (done.returncode, done.stderr) == (0, b"hpo: step 1: loss=0.5\n")


def test_orphans_are_collected_by_the_first_process_of_a_container(trial):
    program = """
        import ctypes, sys
        ctypes.CDLL(None).prctl(36, 1)                      # PR_SET_CHILD_SUBREAPER, as the first process is by nature
        from hpo.__main__ import main
        sys.exit(main(["exec", "--", "sh", "-c",
            "(sh -c 'exit 3' & ) ; sleep 0.5; cat /proc/$PPID/task/$PPID/children; echo; echo val_loss=1; echo $$"]))
    """
    done = trial.python(program)
    assert done.returncode == 0
    children, _, own = done.stdout.decode().splitlines()
    assert children.split() == [own]


def test_nothing_heavy_is_imported(trial):
    done = trial.python("""
        import sys
        from hpo.__main__ import main
        main(["exec", "--", "echo", "val_loss=0.5"])
        print(*sys.modules, file=sys.stderr)
    """)
    assert not {b"prometheus_client", b"numpy", b"hpo_operator", b"argparse", b"logging"} & set(done.stderr.split())


def scrape(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read()
    except OSError:
        return b""


def test_metrics_are_served_while_the_program_runs(trial):
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
    trial.environment["HPO_METRICS_PORT"] = str(port)
    process = trial.start(PYTHON, "-m", "hpo", "exec", "--", PYTHON, "-c", "import sys; print('val_loss=0.5'); sys.stdin.read()")
    try:
        wait_until(lambda: b'hpo_trial_metric{metric="val_loss"} 0.5' in scrape(port))
        process.communicate(b"\n", timeout=30)
    finally:
        process.kill()


def test_a_metric_that_the_study_needs_is_found_behind_hundreds_of_others(trial):
    program = "for number in range(300): print(f'image_{number}.png: 0.9')\nprint('val_loss: 0.5')"
    trial.exec("--", sys.executable, "-c", program)
    assert trial.message["metrics"]["val_loss"] == ["0.5", "0.5", "0.5"]
