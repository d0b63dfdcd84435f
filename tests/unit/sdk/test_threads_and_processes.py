"""Reports from threads, from forked processes, from signal handlers, and after the program's end."""

import hpo
import pytest


def test_reports_from_many_threads_are_all_kept_one_after_another(trial):
    done = trial.python("""
        import threading, hpo
        def work(name):
            for number in range(200):
                hpo.report({name: number, "loss": 0.5})
        threads = [threading.Thread(target=work, args=(f"thread_{number}",)) for number in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [report["step"] for report in trial.reports] == list(range(1, 1601))
    assert trial.message["step"] == 1600
    assert {name: texts[2] for name, texts in trial.message["metrics"].items() if name != "loss"} == {
        f"thread_{number}": "199.0" for number in range(8)
    }


def test_a_fork_in_the_middle_of_reports_stops_neither_process(trial):
    done = trial.python("""
        import os, signal, threading, hpo
        signal.alarm(50)
        over = threading.Event()
        def work():
            while not over.is_set():
                hpo.report(loss=0.5)
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads: thread.start()
        for number in range(60):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                hpo.report(loss=0.25)
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        over.set()
        for thread in threads: thread.join()
        hpo.report(loss=0.125)
    """)
    assert done.returncode == 0, done.stderr
    assert b"hpo:" not in done.stderr
    assert trial.message["metrics"]["loss"][0] == "0.125"


def test_a_program_that_trains_in_a_forked_child_reports_from_there(trial):
    done = trial.python("""
        import multiprocessing, hpo
        def train():
            for step in range(1, 4):
                hpo.report(step=step, loss=1 / step)
        parameters = hpo.parameters()
        process = multiprocessing.get_context("fork").Process(target=train)
        process.start()
        process.join()
    """)
    assert (done.returncode, done.stderr) == (0, b"")
    assert trial.message["step"] == 3


def test_a_child_that_ends_does_not_put_its_parent_s_old_report_over_a_newer_one(trial):
    trial.python("""
        import os, sys, hpo
        hpo.report(step=1, loss=0.5)
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.read(reading, 1)
            sys.exit()
        hpo.report(step=2, loss=0.4)
        os.write(writing, b".")
        os.wait()
        os._exit(0)
    """)
    assert trial.message["step"] == 2


TRAINS = {
    "by a fork": "import os\nif os.fork() == 0:\n    %s\n    os._exit(0)\nos.wait()",
    "by a process": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import hpo; %s'])",
}


@pytest.mark.parametrize("how", TRAINS)
def test_a_program_that_reported_before_its_child_trained_does_not_put_that_over_the_child_s_result(trial, how):
    trial.python("import hpo\nhpo.report(step=0, val_loss=2.0)\n" + TRAINS[how] % "hpo.report(step=9, val_loss=0.5)")
    assert (trial.message["step"], trial.message["metrics"]["val_loss"][0]) == (9, "0.5")


@pytest.mark.parametrize("how", TRAINS)
def test_what_a_child_says_of_its_parameters_stands_though_its_parent_has_reported(trial, how):
    trial.python("import hpo\nhpo.report(step=0, val_loss=2.0)\n" + TRAINS[how] % "hpo.infeasible(86)")
    assert trial.message == {"hpo": 1, "infeasible": "86"}


def test_a_child_that_reports_less_or_before_its_parent_does_not_take_its_result_away(trial):
    def after(parent, child, rest=""):
        trial.python(f"import hpo\n{parent}\n{TRAINS['by a process'] % child}\n{rest}")
        return trial.message

    told = after("hpo.report(step=1, val_loss=2.0)", "hpo.report(step=9, test_accuracy=0.5)")
    assert told["metrics"]["val_loss"][0] == "2.0"
    told = after("hpo.report(step=1, val_loss=3.0)", "hpo.report(step=0, val_loss=9.0)", "hpo.report(step=2, val_loss=1.0)")
    assert told["metrics"]["val_loss"][0] == "1.0"
    trial.environment["HPO_CHECKPOINT_DIR"] = str(trial.folder / "own")
    saved = "hpo.report(step=1, val_loss=4.0)\nhpo.checkpoint.save(1, lambda folder: (folder / 'w').touch())"
    assert after(saved, "hpo.report(step=9, val_loss=0.5)")["checkpoint"]["step"] == 1


def test_a_signal_handler_may_report_in_the_middle_of_a_report(trial):
    done = trial.python("""
        import signal, hpo
        signal.signal(signal.SIGALRM, lambda number, frame: hpo.report(from_handler=1))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for _ in range(2000):
            hpo.report(loss=0.5)
        signal.setitimer(signal.ITIMER_REAL, 0)
        hpo.report(loss=0.25)
    """)
    assert (done.returncode, done.stderr) == (0, b"")
    assert trial.message["metrics"]["loss"][0] == "0.25"


@pytest.mark.parametrize("variables", [{}, {"HPO_METRICS_PORT": "1"}])
def test_reports_at_the_program_s_end_and_from_threads_that_outlive_it_are_kept(trial, variables):
    trial.environment.update(variables)
    done = trial.python("""
        import atexit, threading, time, hpo
        def work():
            time.sleep(0.3)
            hpo.report(from_thread=1, step=1)
        atexit.register(lambda: hpo.report(at_exit=1, step=2))
        threading.Thread(target=work).start()
    """)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert trial.message["step"] == 2
    assert list(trial.message["metrics"]) == ["from_thread", "at_exit"]


def test_a_daemon_thread_that_reports_on_as_the_interpreter_ends_disturbs_nothing(trial):
    done = trial.python("""
        import threading, hpo
        def work():
            while True:
                hpo.report(loss=0.5)
        threading.Thread(target=work, daemon=True).start()
        hpo.report(loss=0.5)
    """)
    assert (done.returncode, done.stderr) == (0, b"")
    assert trial.message["metrics"] == {"loss": ["0.5", "0.5", "0.5"]}


def test_infeasible_ends_the_program_with_its_exit_code_and_says_why(trial):
    done = trial.python("""
        import hpo
        hpo.report(loss=0.5)
        try:
            hpo.infeasible("batch 4096 does not fit the GPU")
        except Exception:
            print("no error handler takes it for an error")
        finally:
            print("cleaned up")
        print("not reached")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (hpo.INFEASIBLE_EXIT_CODE, b"cleaned up\n", b"")
    assert hpo.INFEASIBLE_EXIT_CODE == 86
    assert trial.message == {"hpo": 1, "infeasible": "batch 4096 does not fit the GPU"}


def test_infeasible_ends_the_program_from_any_thread(trial):
    done = trial.python("""
        import threading, time, hpo
        print("output is not lost")
        threading.Thread(target=hpo.infeasible, args=("no such layer",)).start()
        time.sleep(30)
    """)
    assert (done.returncode, done.stdout) == (86, b"output is not lost\n")
    assert trial.message == {"hpo": 1, "infeasible": "no such layer"}
