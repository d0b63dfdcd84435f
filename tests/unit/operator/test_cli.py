"""The `hpo` command as people and scripts use it: what it prints where, and its exit codes."""

import json
import os
import pty
import re
import select
import subprocess
import sys

import pytest
import yaml
from hpo_operator import cli

from tests.unit.operator.local_studies import REPORT, Laptop, ended, without_a_worker

LOSS = """echo '{"hpo":1,"step":1,"metrics":{"loss":"'$HPO_PARAM_X'","size":"'$HPO_TRIAL_NUMBER'"}}' > "$HPO_TERMINATION_FILE" """
KINDS = [
    {"name": "x", "float": {"min": 0, "max": 1}},
    {"name": "layers", "int": {"min": 1, "max": 4}},
    {"name": "kind of.net", "categorical": {"choices": ["it's", "a b"]}},
]


ESCAPES = r"\x1b\[[0-9;?]*[a-zA-Z]"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A Study of three Trials that has been run."""
    laptop = Laptop(tmp_path_factory.mktemp("done"))
    parameters = [*KINDS[:2], {**KINDS[2], "name": "kind-of.net"}]
    laptop.write(LOSS, parameters=parameters)
    with pytest.MonkeyPatch.context() as patch:
        without_a_worker(patch)
        assert laptop.hpo("run") == 0
    return laptop


def run(*arguments, **options):
    """`hpo` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo", *map(str, arguments)], **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    )
    return ended(process)


# hpo run


def test_without_a_terminal_each_ended_trial_is_a_line_that_counts_up(laptop, capsys):
    laptop.write(f"{LOSS}; [ $HPO_TRIAL_NUMBER != 3 ]", limits={"maxTrials": 5}, parallelism=3)
    assert cli.main(["run", str(laptop.folder / "study.json"), "--results", str(laptop.results)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in lines] == [f"[{n}/5" for n in range(1, 6)]
    assert sorted(re.search(r"Trial (\d)", line)[1] for line in lines) == list("01234")
    failed = next(line for line in lines if "Trial 3" in line)
    assert "Trial 3: ProgramFailed, The program ended with exit code 1; it printed nothing  (" in failed
    assert all("Completed, loss = 0." in line for line in lines if line is not failed)


def test_lines_go_on_counting_after_an_earlier_run(laptop, capsys):
    laptop.write(REPORT, limits={"maxTrials": 2})
    assert laptop.hpo("run") == 0
    laptop.write(REPORT, limits={"maxTrials": 4})
    capsys.readouterr()
    assert cli.main(["run", str(laptop.folder / "study.json"), "--results", str(laptop.results)]) == 0
    out = capsys.readouterr().out
    assert "tiny: going on after 2 ended Trials" in out
    assert re.findall(r"^\[(\d/\d)\] Trial (\d)", out, re.MULTILINE) == [("3/4", "2"), ("4/4", "3")]


def test_the_end_tells_the_best_trials_and_where_everything_is(laptop, capsys):
    laptop.write(LOSS)
    assert laptop.hpo("run") == 0
    out = capsys.readouterr().out
    assert "Best 3 of 3 completed Trials" in out
    assert re.search(r"Study 'tiny' succeeded \(MaxTrialsReached\) after [\d.]+s: 3 completed\.", out)
    best = min(laptop.parameters().items(), key=lambda pair: float(pair[1]))
    assert f"Best: loss = {best[1]} by Trial {best[0]}:  x={best[1]}" in out
    assert f"Results: {laptop.results}    logs: {laptop.results}/trials/*/log.txt" in out


def test_a_study_with_several_objectives_ends_with_its_pareto_front(laptop, capsys):
    laptop.write(LOSS, objectives=[{"metric": "loss"}, {"metric": "size", "goal": "Maximize"}])
    assert laptop.hpo("run") == 0
    front = laptop.recorded().status.pareto_front
    assert f"{len(front)} Trials on the Pareto front of 3 completed Trials" in capsys.readouterr().out
    assert laptop.hpo("best", laptop.results, "-o", "json") == 0
    assert f"the best in 'loss' of {len(front)} Trials on the Pareto front" in capsys.readouterr().err


def test_json_is_all_that_stands_on_stdout_when_it_is_asked_for(laptop, capsys):
    laptop.write(LOSS)
    assert cli.main(["run", str(laptop.folder / "study.json"), "--results", str(laptop.results), "--output", "json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["study"], told["succeeded"], told["reason"]) == ("tiny", True, "MaxTrialsReached")
    assert told["trials"]["completed"] == 3
    assert told["best"][0]["parameters"][0]["name"] == "x"
    assert told["results"] == str(laptop.results)
    assert "[3/3] Trial" in err


def test_a_failed_study_exits_with_1_and_says_why_in_json_too(laptop, capsys):
    laptop.write("exit 7", limits={"maxTrials": 3, "maxFailedTrials": 0})
    assert laptop.hpo("run", "--output", "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["succeeded"], told["reason"]) == (False, "TooManyFailures")
    assert "exit code 7" in told["message"]


def test_results_go_to_a_folder_named_after_the_study_where_the_command_is_run(laptop, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    laptop.write(f"pwd; {REPORT}", limits={"maxTrials": 1})
    assert cli.main(["run", str(laptop.folder / "study.json"), "--quiet"]) == 0
    log = elsewhere / "hpo-runs" / "tiny" / "trials" / "0000" / "log.txt"
    assert log.read_text() == f"{laptop.folder}\n"  # while programs run beside the Study file


def test_parallelism_can_be_set_for_one_run(laptop):
    meet = f"mkdir here-$HPO_TRIAL_NUMBER; while [ $(ls -d here-* | wc -l) -lt 3 ]; do sleep 0.01; done; {REPORT}"
    laptop.write(meet, parallelism=1)
    assert laptop.hpo("run", "--parallelism", "3") == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"parallelism": 0}, "spec.parallelism: 0: would never start a Trial here. Set it to 1 or more, or use --parallelism."),
        ({"suspend": True}, "spec.suspend: True: would never start here. Set it to false."),
        (
            {"template": {"object": {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet"}}},
            "spec.template.object: 'JobSet': needs a cluster. Use template.job,",
        ),
        ({"container": {"command": []}}, "containers[0].command: is required to run without a cluster."),
        ({"container": {"command": "python x"}}, "containers[0].command: 'python x': must be a list of strings."),
        ({"container": {"args": ["--lr", 1]}}, "containers[0].args[1]: 1: must be a string. Quote it: '1'."),
        ({"container": {"env": {"A": "1"}}}, "containers[0].env: {'A': '1'}: must be a list of mappings."),
        ({"container": {"env": [{"name": "A", "value": 1}]}}, "containers[0].env[0].value: 1: must be a string. Quote it: '1'."),
        ({"container": {"env": [{"value": "1"}]}}, "containers[0].env[0].name: must be the name of a variable."),
        ({"pod": {"terminationGracePeriodSeconds": "5"}}, "terminationGracePeriodSeconds: '5': must be a whole number of seconds"),
        ({"container": {"command": ["no-such-program"]}}, "command[0]: 'no-such-program': is not a program that can be found."),
        (
            {"container": {"command": ["./study.json"]}},
            "'./study.json': is not executable. Run: chmod +x ./study.json",
        ),
        ({"container": {"command": ["./"]}}, "command[0]: './': is a directory, not a program."),
    ],
)
def test_what_cannot_be_run_here_is_refused_before_anything_is_created(laptop, capsys, spec, message):
    laptop.write(REPORT, **spec)
    assert laptop.hpo("run") == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in laptop.folder.iterdir()] == ["study.json"]


@pytest.mark.parametrize(
    "words",
    [["--parallelism", "0"], ["--parallelism", "²"], ["--gpus", ","], ["--gpus", "0,0"], ["--output", "xml"], ["--colour"]],
)
def test_options_that_make_no_sense_are_refused(laptop, capsys, words):
    laptop.write(REPORT)
    assert laptop.hpo("run", *words) == 2
    assert "usage: hpo" in capsys.readouterr().err
    assert not laptop.results.exists()


def test_a_reader_who_goes_away_does_not_end_the_study(laptop):
    laptop.write(f"while [ ! -e gone ]; do sleep 0.01; done; {REPORT}")
    process = laptop.start()
    process.stdout.close()
    (laptop.folder / "gone").touch()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
    assert laptop.ended() == "MaxTrialsReached"


@pytest.mark.parametrize("where", [">&-", ">&- 2>&-", "> /dev/full"])
def test_an_output_that_cannot_be_written_does_not_change_how_the_study_ends(laptop, where):
    if where == "> /dev/full" and not os.path.exists("/dev/full"):
        pytest.skip("needs a device that is always full")
    laptop.write(REPORT)
    run = f'exec "{sys.executable}" -m hpo run study.json --results results {where}'
    process = subprocess.Popen(["sh", "-c", run], cwd=laptop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    code, _, err = ended(process)
    assert code == 0
    assert err == ("note: the end could not be printed: No space left on device\n" if "full" in where else "")
    assert laptop.ended() == "MaxTrialsReached"


@pytest.mark.parametrize("words", [["best"], ["best", "-o", "yaml"], ["best", "-o", "json"], ["trials"]], ids=" ".join)
def test_a_result_that_cannot_be_written_is_an_error_and_no_traceback(done, words):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs a device that is always full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "hpo", *words, done.results]
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (told.returncode, told.stderr) == (1, "error: the result could not be printed: No space left on device\n")


def test_a_closed_standard_input_holds_nothing(tmp_path):
    code, _, err = run("lineage", "-", preexec_fn=lambda: os.close(0))
    assert code == 2
    assert err.startswith("error: standard input: is empty.")


def test_a_terminal_that_cannot_redraw_gets_lines(laptop):
    laptop.write(REPORT, limits={"maxTrials": 1})
    ours, theirs = pty.openpty()
    process = laptop.start(stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "dumb"})
    os.close(theirs)
    shown = ""
    try:
        while chunk := os.read(ours, 1 << 16):
            shown += chunk.decode(errors="replace")
    except OSError:  # its other end was closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    assert "[1/1] Trial 0: Completed" in shown


def test_what_the_encoding_of_the_output_lacks_does_not_end_the_study(laptop):
    kind = {"name": "kind", "categorical": {"choices": ["日本"]}}
    laptop.write(f"{REPORT}; echo 日本; [ $HPO_TRIAL_NUMBER != 0 ]", parameters=[*KINDS[:1], kind])
    code, out, err = ended(laptop.start(env={**os.environ, "PYTHONIOENCODING": "latin-1"}))
    assert (code, err) == (0, "")
    assert "its last words: \\u65e5\\u672c" in out
    assert len(re.findall(r"Completed .* \\u65e5\\u672c ", out)) == 2


def test_on_a_terminal_the_run_is_a_live_picture(laptop):
    program = laptop.script(
        "train.py",
        """
        import os, time, hpo
        hpo.report(step=2, loss=0.125)
        while not os.path.exists("seen"):
            time.sleep(0.01)
        """,
    )
    laptop.write(program, parallelism=2, budget={"max": 7}, limits={"maxTrials": 2})
    ours, theirs = pty.openpty()
    process = laptop.start(stdout=theirs, stderr=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(theirs)
    shown, plain, poller = "", "", select.poll()
    row = r"0 +[\d.]+s +2/7 +0\.125 +x="  # of Trial 0, which the other one may be ahead of
    poller.register(ours, select.POLLIN)
    try:
        while poller.poll(60_000):
            try:
                shown += os.read(ours, 1 << 16).decode(errors="replace")
            except OSError:  # its other end was closed
                break
            plain = re.sub(ESCAPES, "", shown)
            if re.search(row, plain) and "2 running" in plain:
                (laptop.folder / "seen").touch()
        assert process.wait(60) == 0
    finally:
        process.kill()
        os.close(ours)
    assert re.search(r"tiny  0/2 Trials · 2 running", plain)
    assert re.search(r"Trial +Time +Step +loss +Parameters", plain)
    assert re.search(row, plain)
    assert "━" in plain
    assert "[1/2] Trial" not in plain
    assert "Study 'tiny' succeeded" in plain


# hpo plan


def test_the_plan_says_how_much_there_is_to_do_and_does_nothing(laptop, capsys):
    laptop.write(
        ["no-such-program"],
        schedule={"hyperband": {"eta": 3, "iterations": 1}},
        budget={"min": 1, "max": 9},
        limits={},
        container={"resources": {"limits": {"nvidia.com/gpu": 2}}},
    )
    path = laptop.folder / "study.json"
    assert cli.main(["plan", str(path), "--unit-seconds", "60"]) == 0
    out = capsys.readouterr().out
    assert "Trials: 22, 1 at a time" in out
    assert re.search(r"9 to 1 epochs\n +8 to 3 epochs\n +5 to 9 epochs", out)
    assert "GPUs: 2 a Trial, 2.60 GPU-hours" in out
    assert "Nothing was run." in out
    for output, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert cli.main(["plan", str(path), "-o", output]) == 0
        told = load(capsys.readouterr().out)
        assert told["trials"] == 22
        assert told["rungs"] == [{"budget": 1, "trials": 9}, {"budget": 3, "trials": 8}, {"budget": 9, "trials": 5}]
        assert told["budgetUnits"] == 78
        assert told["gpuHours"] is None
        assert told["first"][0]["parameters"].keys() == {"x"}
    assert [each.name for each in laptop.folder.iterdir()] == ["study.json"]


def test_the_plan_shows_the_proposals_that_the_run_then_makes(laptop, capsys):
    laptop.write(REPORT, parallelism=3, algorithm={"sobol": {}})
    assert cli.main(["plan", str(laptop.folder / "study.json"), "-o", "json"]) == 0
    planned = {each["number"]: str(each["parameters"]["x"]) for each in json.loads(capsys.readouterr().out)["first"]}
    assert laptop.hpo("run") == 0
    assert laptop.parameters() == planned


def test_the_plan_counts_a_grid_over_floats_to_its_end(laptop, capsys):
    laptop.write(REPORT, algorithm={"grid": {"points": 7}}, limits={})
    assert cli.main(["plan", str(laptop.folder / "study.json")]) == 0
    assert "Trials: 7, 1 at a time" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_duration_that_is_none_is_refused(laptop, capsys, seconds):
    laptop.write(REPORT)
    assert laptop.hpo("plan", laptop.folder / "study.json", f"--unit-seconds={seconds}") == 2
    assert "must be a number greater than 0" in capsys.readouterr().err


# hpo trials, hpo best


def test_trials_are_listed_as_a_table_or_as_they_are(done, capsys):
    assert done.hpo("trials", done.results) == 0
    table = capsys.readouterr().out
    assert re.search(r"Trial +State +loss +x +layers +kind-of\.net +Time", table)
    assert len(re.findall(r"^\d +Completed", table, re.MULTILINE)) == 3
    for output, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert done.hpo("trials", done.results, "-o", output) == 0
        told = load(capsys.readouterr().out)
        assert [each["spec"]["number"] for each in told] == [0, 1, 2]
        assert told == [trial.manifest() for trial in done.trials()]


def test_the_best_parameters_can_be_had_in_every_form(done, capfd):
    best = done.recorded().status.best[0]
    values = {pair.name: pair.value for pair in best.parameters}

    def said(output):
        assert done.hpo("best", done.results, "-o", output) == 0
        return capfd.readouterr().out

    typed = json.loads(said("json"))
    assert typed == {"x": float(values["x"]), "layers": int(values["layers"]), "kind-of.net": values["kind-of.net"]}
    assert list(typed) == ["x", "layers", "kind-of.net"]
    assert yaml.safe_load(said("yaml")) == typed
    assert said("text").startswith(f"Trial {best.number}: loss = {values['x']}")
    script = f"{said('env')}\n" + 'echo "$HPO_PARAM_X|$HPO_PARAM_LAYERS|$HPO_PARAM_KIND_OF_NET"'
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stdout.strip().split("|") == [values["x"], values["layers"], values["kind-of.net"]]


@pytest.fixture(scope="module")
def in_japanese(tmp_path_factory):
    """The results of a Study whose best has a value that few encodings have."""
    laptop = Laptop(tmp_path_factory.mktemp("japanese"))
    laptop.write(REPORT, parameters=[{"name": "kind", "categorical": {"choices": ["日本é"]}}], limits={"maxTrials": 1})
    with pytest.MonkeyPatch.context() as patch:
        without_a_worker(patch)
        assert laptop.hpo("run") == 0
    return laptop.results


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_best_parameters_read_back_as_they_are_whatever_the_encoding_of_the_output(in_japanese, encoding):
    def said(output):
        command = [sys.executable, "-m", "hpo", "best", in_japanese, "-o", output]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "PYTHONIOENCODING": encoding}).stdout

    assert yaml.safe_load(said("yaml").decode(encoding)) == {"kind": "日本é"}
    script = said("env") + b'printf %s "$HPO_PARAM_KIND"'
    assert subprocess.run(["sh"], input=script, stdout=subprocess.PIPE, check=True).stdout == os.fsencode("日本é")


def test_a_value_that_no_variable_can_hold_where_it_is_printed_is_said_to_be_one(in_japanese):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, out, err = run("best", in_japanese, "-o", "env", env={**os.environ, **ascii_only})
    assert (code, out) == (1, "")
    assert "cannot be written in this locale's encoding (ascii). Use -o json." in err
    assert "Traceback" not in err


def test_a_study_without_a_result_has_no_best(laptop, capsys):
    laptop.write("exit 1", limits={"maxTrials": 1})
    assert laptop.hpo("run") == 1
    assert "hpo best" not in capsys.readouterr().out
    assert laptop.hpo("best", laptop.results) == 1
    assert "no Trial has given a result yet" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["trials", "best"])
def test_a_folder_that_holds_no_results_is_refused(tmp_path, capsys, command):
    for folder in (tmp_path, tmp_path / "missing"):
        assert cli.main([command, str(folder)]) == 2
        assert "study.json: cannot be read: No such file or directory. Is this the results folder" in capsys.readouterr().err


# The command itself


@pytest.mark.parametrize("command", ["run", "replay", "trials", "plan"])
def test_that_the_working_directory_was_deleted_is_said_with_what_to_do_and_no_traceback(laptop, monkeypatch, capsys, command):
    study = laptop.write(REPORT)
    gone = laptop.folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    argument = {"run": study, "replay": study, "trials": "results", "plan": "study.yaml"}[command]
    assert cli.main([command, str(argument)]) == 2
    assert "the working directory was deleted: change to one that exists" in capsys.readouterr().err


def test_the_help_names_every_command_and_the_exit_codes():
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for command in ("run", "plan", "validate", "trials", "best", "exec"):
        assert f"hpo {command} " in out
    assert "130 it was interrupted" in out


def test_the_version_is_that_of_the_package():
    from importlib.metadata import version

    code, out, _ = run("--version")
    assert (code, out) == (0, f"hpo {version('hpo-operator')}\n")


def test_a_list_that_is_cut_off_by_its_reader_is_no_error(done):
    reader = f"{sys.executable} -m hpo trials {done.results} -o json; echo $? > {done.folder}/code"
    subprocess.run(["sh", "-c", f"({reader}) | true"], check=True, capture_output=True)
    process = subprocess.run(["sh", "-c", f"({reader}) 2>&1 >/dev/null | cat"], check=True, capture_output=True)
    assert process.stdout == b""
    assert (done.folder / "code").read_text() == "0\n"


def test_commands_that_need_none_of_it_import_neither_kopf_nor_kubernetes_nor_the_display():
    code = "import sys, hpo_operator.cli, hpo_operator.local.runner; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"kopf", "kubernetes", "rich", "scipy.stats", "sklearn", "pandas", "prometheus_client", "psutil"}
