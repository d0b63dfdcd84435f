"""Programs of all kinds as Trials: what they do wrong is said of them, in words that help, and never hurts the Study."""

import textwrap
from typing import NamedTuple

import pytest

from tests.unit.operator.local_studies import REPORT, Laptop, wait_until, without_a_worker


class Case(NamedTuple):
    does: str
    program: str
    reason: str
    message: str
    value: str | None = None


CASES = [
    Case("reports a loss", "hpo.report(loss=0.25)", "Completed", "loss = 0.25.", "0.25"),
    Case("reports nothing", "pass", "ObjectiveMissing", "reported nothing; 'loss' was expected. Call hpo.report(loss=…)."),
    Case("reports another metric", "hpo.report(accuracy=1)", "ObjectiveMissing", "reported accuracy, but not 'loss'."),
    Case("reports NaN", "hpo.report(loss=float('nan'))", "ObjectiveNotFinite", "loss is NaN.", "NaN"),
    Case("reports an infinity", "hpo.report(loss=float('-inf'))", "ObjectiveNotFinite", "loss is -inf.", "-inf"),
    Case(
        "reports from another thread",
        "import threading; t = threading.Thread(target=hpo.report, kwargs={'loss': 2.0}); t.start(); t.join()",
        "Completed",
        "loss = 2.0.",
        "2.0",
    ),
    Case(
        "reports as the interpreter ends", "import atexit; atexit.register(hpo.report, loss=3.0)", "Completed", "loss = 3.0.", "3.0"
    ),
    Case(
        "has a child that reports after its end",
        """
        import os, time
        hpo.report(loss=4.0)
        running = os.path.dirname(os.environ["HPO_METRICS_FILE"]) + "/process.json"
        while not os.path.exists(running):
            time.sleep(0.001)
        if os.fork() == 0:
            os.setsid()
            while os.path.exists(running):
                time.sleep(0.001)
            for _ in range(1000):
                hpo.report(loss=-99.0)
                time.sleep(0.01)
        os._exit(0)
        """,
        "Completed",
        "loss = 4.0.",
        "4.0",
    ),
    Case(
        "reports, then crashes",
        "hpo.report(loss=1.0); raise ValueError('no such optimizer: sdg')",
        "ProgramFailed",
        "The program ended with exit code 1; its last words: ValueError: no such optimizer: sdg.",
        "1.0",
    ),
    Case("fails without a word", "raise SystemExit(3)", "ProgramFailed", "The program ended with exit code 3; it printed nothing."),
    Case(
        "is killed",
        "import os; print('loading', flush=True); os.kill(os.getpid(), 9)",
        "ProgramFailed",
        "was killed by SIGKILL (the system kills so when memory runs out); its last words: loading.",
    ),
    Case(
        "is ended by a signal without a name",
        "import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 3)",
        "ProgramFailed",
        "was killed by signal 37; it printed nothing.",
    ),
    Case("cannot be run so", "hpo.infeasible('batch 4096 does not fit')", "Infeasible", "batch 4096 does not fit"),
    Case(
        "prints bytes that are no text, and fails",
        "import sys; sys.stdout.buffer.write(bytes(range(256)) * 8 + b'\\x1b[31mred\\x00\\xff'); sys.exit(1)",
        "ProgramFailed",
        "�[31mred��.",
    ),
    Case(
        "prints a line of ten megabytes",
        "print('x' * 10_000_000); hpo.report(loss=5.0)",
        "Completed",
        "loss = 5.0.",
        "5.0",
    ),
    Case(
        "writes nonsense where reports belong",
        """
        import os
        for name in ("HPO_TERMINATION_FILE", "HPO_METRICS_FILE"):
            with open(os.environ[name], "wb") as file:
                file.write(b"\\xff\\x00{[" * 1_000_000 + b'\\n{"hpo": 1}\\n[1]\\n{"metrics": 3}\\n')
        """,
        "ObjectiveMissing",
        "reported nothing",
    ),
    Case("closes its output", "import os; os.close(1); os.close(2); hpo.report(loss=6.0)", "Completed", "loss = 6.0.", "6.0"),
    Case("removes its folder", "import shutil, os; shutil.rmtree(os.path.dirname(os.environ['HPO_METRICS_FILE']))",
         "ObjectiveMissing", "reported nothing"),
]  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """All cases as the Trials of one Study."""
    laptop = Laptop(tmp_path_factory.mktemp("programs"))
    text = "import os\ncase = int(os.environ['HPO_TRIAL_NUMBER'])\nimport hpo\n"
    for number, case in enumerate(CASES):
        text += f"if case == {number}:\n" + textwrap.indent(textwrap.dedent(case.program).strip() + "\n", "    ")
    command = laptop.script("all.py", text)
    laptop.write(command, limits={"maxTrials": len(CASES), "maxFailedTrials": 100}, parallelism=2)
    with pytest.MonkeyPatch.context() as patch:
        without_a_worker(patch)
        assert laptop.hpo("run") == 0
    yield laptop
    laptop.clean_up()


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.does for case in CASES])
def test_a_program_that(number, ran):
    case, trial = CASES[number], ran.trials()[number]
    reason, message = ran.outcomes()[number]
    assert (reason, case.message in message) == (case.reason, True), message
    observed = trial.status.observation
    assert (observed.metrics[0].value if observed and observed.metrics and case.value else None) == case.value


def test_all_that_a_program_prints_stands_in_its_log(ran):
    number = next(number for number, case in enumerate(CASES) if "megabytes" in case.does)
    assert len(ran.log(number)) == 10_000_001


def test_each_failed_trial_counts_and_the_best_is_none_of_them(ran):
    status = ran.recorded().status
    reasons = [case.reason for case in CASES]
    assert status.trials.completed == reasons.count("Completed")
    assert status.trials.failed == reasons.count("ProgramFailed") + reasons.count("ObjectiveMissing")
    assert status.trials.infeasible == reasons.count("Infeasible") + reasons.count("ObjectiveNotFinite")
    assert status.best[0].metrics[0].value == "0.25"


# Studies of one kind of Trial


def test_a_study_whose_trials_all_fail_fails_and_says_what_to_look_at(laptop, capsys):
    laptop.write("echo no such file: data.csv; exit 4", limits={"maxTrials": 30, "maxFailedTrials": 2})
    assert laptop.hpo("run") == 1
    assert laptop.ended() == "TooManyFailures"
    out = capsys.readouterr().out
    assert "3 Trials have failed" in out
    assert "its last words: no such file: data.csv" in out


def test_a_study_that_has_failed_says_how_to_start_anew_when_the_program_is_mended(laptop, capsys):
    laptop.write("exit 4", limits={"maxTrials": 1})
    for _ in range(2):
        assert laptop.hpo("run") == 1
        assert "It does not go on: mend it, and start anew with --fresh, which keeps these results." in capsys.readouterr().out
    laptop.write(REPORT, limits={"maxTrials": 1})
    assert laptop.hpo("run", "--fresh") == 0
    assert "--fresh" not in capsys.readouterr().out


def test_what_is_no_file_where_reports_belong_is_named_and_not_waited_for(laptop):
    laptop.write(
        """cd "${HPO_METRICS_FILE%/*}"; rm termination.log log.txt; mkfifo metrics.jsonl termination.log; mkdir log.txt""",
        metrics={"logs": {"pattern": "loss=(?P<loss>.*)"}},
        limits={"maxTrials": 1},
    )
    assert laptop.fork().code() == 1
    ((reason, message),) = laptop.outcomes()
    assert reason == "ObjectiveMissing"
    for place in (
        "HPO_METRICS_FILE: 'metrics.jsonl': is a FIFO, must be a regular file. Let the program, or hpo.report, append lines",
        "HPO_TERMINATION_FILE: 'termination.log': is a FIFO",
        "its log: 'log.txt': is a directory",
    ):
        assert place in message


def test_what_a_program_has_put_in_the_place_of_files_does_not_stand_in_the_way_of_its_next_attempt(laptop):
    laptop.write(
        f"""if [ -e again ]; then {REPORT}; exit; fi
        here="${{HPO_METRICS_FILE%/*}}"; rm "$here"/log.txt "$here"/parameters.json "$here"/termination.log
        mkfifo "$here"/log.txt "$here"/parameters.json; mkdir "$here"/termination.log; touch again; exec sleep 60""",
        limits={"maxTrials": 1},
    )
    runner = laptop.fork()
    wait_until((laptop.folder / "again").exists, "the first attempt")
    runner.kill()
    runner.code()
    assert laptop.fork().code() == 0
    assert laptop.reasons() == ["Completed"]


def test_a_program_that_vanishes_during_the_study_fails_its_trials(laptop):
    program = laptop.folder / "train.sh"
    program.write_text(f"#!/bin/sh\nrm train.sh\n{REPORT}\n")
    program.chmod(0o755)
    laptop.write(["./train.sh"])
    assert laptop.hpo("run") == 0
    assert laptop.reasons() == ["Completed", "ProgramFailed", "ProgramFailed"]
    assert laptop.outcomes()[1][1] == "The program could not be started: ./train.sh: No such file or directory."


def test_a_script_that_names_no_interpreter_fails_with_a_word_about_it(laptop):
    program = laptop.folder / "train"
    program.write_bytes(b"\x00\x01")
    program.chmod(0o755)
    laptop.write(["./train"], limits={"maxTrials": 1})
    assert laptop.hpo("run") == 1
    assert "a script without a first line that names its interpreter" in laptop.outcomes()[0][1]


def test_parameters_reach_the_command_line_as_the_kubelet_would_put_them_there(laptop):
    words = ["lr=$(HPO_PARAM_X)", "$$(HPO_PARAM_X)", "$(UNKNOWN)", "$(GREETING)", "$(HPO_PARAM_X"]
    program = f'for word; do echo "$word"; done; {REPORT}'.replace("$", "$$")
    laptop.write(
        ["sh", "-c", program, "sh"],
        container={"args": words, "env": [{"name": "GREETING", "value": "trial $(HPO_TRIAL_NUMBER)"}]},
        limits={"maxTrials": 1},
    )
    assert laptop.hpo("run") == 0
    x = laptop.parameters()[0]
    assert laptop.log().splitlines() == [f"lr={x}", "$(HPO_PARAM_X)", "$(UNKNOWN)", "trial 0", "$(HPO_PARAM_X"]


def test_a_program_finds_its_trial_and_nothing_of_the_one_that_the_runner_is_part_of(laptop, monkeypatch):
    monkeypatch.setenv("HPO_BUDGET", "7")
    monkeypatch.setenv("HPO_PARAM_OUTER", "1")
    monkeypatch.setenv("HPO_METRICS_PORT", "9000")
    monkeypatch.setenv("HPO_CACHE_OF_THE_USER", "kept")
    laptop.write(f"pwd; env | grep ^HPO_ | sort; {REPORT}", limits={"maxTrials": 1})
    assert laptop.hpo("run") == 0
    folder, x = laptop.results / "trials" / "0000", laptop.parameters()[0]
    where, *variables = laptop.log().splitlines()
    assert where == str(laptop.folder)
    assert variables == [
        "HPO_CACHE_OF_THE_USER=kept",
        f"HPO_METRICS_FILE={folder}/metrics.jsonl",
        "HPO_OBJECTIVES=loss",
        f'HPO_PARAMETERS={{"x": {x}}}',
        f"HPO_PARAMETERS_FILE={folder}/parameters.json",
        f"HPO_PARAM_X={x}",
        "HPO_START_STEP=0",
        "HPO_STUDY=tiny",
        f"HPO_STUDY_UID={laptop.recorded().metadata.uid}",
        f"HPO_TERMINATION_FILE={folder}/termination.log",
        "HPO_TRIAL=tiny-0",
        "HPO_TRIAL_NUMBER=0",
    ]


def test_python_and_hpo_are_those_that_run_the_study(laptop):
    laptop.write(
        ["hpo", "exec", "--", "python", "-c", "import sys; print('loss: 0.5'); print(sys.executable)"], limits={"maxTrials": 1}
    )
    assert laptop.hpo("run") == 0
    import sys

    assert laptop.log().splitlines()[-1] == sys.executable


def test_a_path_in_the_template_is_the_one_that_counts(laptop, capsys):
    folder = laptop.folder / "bin"
    folder.mkdir()
    (folder / "own-program").write_text(f"#!/bin/sh\n{REPORT}")
    (folder / "own-program").chmod(0o755)
    laptop.write(["own-program"], limits={"maxTrials": 1})
    assert laptop.hpo("run") == 2
    laptop.write(
        ["own-program"], limits={"maxTrials": 1}, container={"env": [{"name": "PATH", "value": f"{folder}:/usr/bin:/bin"}]}
    )
    assert laptop.hpo("run") == 0


def test_results_are_read_from_the_log_where_the_study_has_a_pattern_for_it(laptop):
    noise = "head -c 3000000 /dev/zero | tr '\\\\0' x"
    laptop.write(
        f"echo epoch 1 loss 0.75; echo epoch 2 loss 0.5; {noise}; echo; echo epoch 3 loss 0.625; printf 'epoch 4 loss nan'",
        metrics={"logs": {"pattern": r"epoch (?P<step>\d+) loss (?P<loss>\S+)"}},
        objectives=[{"metric": "loss", "aggregate": "Best"}],
        limits={"maxTrials": 1},
    )
    assert laptop.hpo("run") == 0
    observed = laptop.trials()[0].status.observation
    assert (observed.source, observed.step, observed.metrics[0].value) == ("Log", 4, "0.5")
    assert [(p.step, p.value) for p in observed.curve] == [(1, "0.75"), (2, "0.5"), (3, "0.625"), (4, "NaN")]


def test_of_a_progress_bar_in_the_log_each_state_is_a_line_with_its_own_step(laptop):
    laptop.write(
        r"printf '\015epoch 1 | loss 0.75\015epoch 2 | loss \033[1m0.5\033[0m\033[K\n'",
        metrics={"logs": {"pattern": r"epoch (?P<step>\d+).* loss (?P<loss>\S+)"}},
        limits={"maxTrials": 1},
    )
    assert laptop.hpo("run") == 0
    assert [(p.step, p.value) for p in laptop.trials()[0].status.observation.curve] == [(1, "0.75"), (2, "0.5")]


def test_what_stands_in_the_template_and_has_no_meaning_here_is_named(laptop, capsys):
    laptop.write(
        REPORT,
        container={
            "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "s"}}],
        },
        limits={"maxTrials": 1},
    )
    assert laptop.hpo("run") == 0
    err = capsys.readouterr().err
    assert "containers[0].env: TOKEN: valueFrom has no meaning without a cluster" in err
    assert "containers[0].envFrom: has no meaning" in err
