"""`tune`: any function of a script, a notebook or a test is a Study, and its result a table."""

import errno
import functools
import importlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import hpo
import hpo_operator
import numpy as np
import pytest
from hpo_algorithms import AlgorithmsError, InvalidInput, Space
from hpo_operator import InvalidFunction, StudyFailed, tune
from hpo_operator.local import runner, store, tuning
from hpo_operator.local.tuning import _parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.algorithms.spaces import spaces
from tests.unit.operator.local_studies import Immediate, ended, wait_until, without_a_worker

X = {"x": {"float": {"min": -5, "max": 5}}}
XY = {**X, "y": {"int": {"min": 0, "max": 3}}}
SCALE = 2


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_a_worker(monkeypatch)


def run(function, space=X, **options):
    return tune(function, space, **{"trials": 3, "seed": 1, "progress": False, "algorithm": "random", **options})


def squared(x):
    return SCALE * x**2


# Goes along with its code, where a call of `squared` has to import this whole file first.
parabola = lambda x: SCALE * x**2  # noqa: E731


class Model:
    def __init__(self, factor):
        self.factor = factor

    def loss(self, x):
        return self.factor * x

    def __call__(self, parameters):
        return self.factor * parameters["x"]


# What comes back


def test_the_best_parameters_and_all_trials_come_back(tmp_path):
    result = run(lambda x, y: (x - 1) ** 2 + y, XY, trials=8, parallelism=2)
    losses = [row["loss"] for row in result.table]
    best = losses.index(min(losses))
    row = result.table[best]
    assert (result.best_trial, result.best_value) == (best, losses[best])
    assert result.best_params == {"x": row["x"], "y": row["y"]}
    assert isinstance(result.best_params["y"], int)
    assert list(row) == ["trial", "state", "loss", "x", "y", "seconds", "message"]
    assert [row["trial"] for row in result.table] == list(range(8))
    assert {row["state"] for row in result.table} == {"Completed"}
    assert [trial.spec.number for trial in result.trials] == list(range(8))
    assert result.reason == "MaxTrialsReached"
    assert repr(result).startswith("Study 'lambda' succeeded (MaxTrialsReached) after ")


def test_the_table_becomes_a_data_frame():
    frame = run(parabola).table.to_frame()
    assert list(frame.columns) == ["trial", "state", "loss", "x", "seconds", "message"]
    assert len(frame) == 3
    assert frame["loss"].dtype == float


def test_without_pandas_the_table_says_what_is_missing(monkeypatch):
    result = run(parabola)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.table.to_frame()


def test_in_a_notebook_the_result_is_a_table_with_the_best_first():
    result = run(lambda x: {"loss": x, "a<b": 1})
    shown = result._repr_html_()
    assert shown.split("<td>")[1] == f"{result.best_trial}</td>"
    assert "<p>loss: Minimize</p>" in shown
    assert "<th>a&lt;b</th>" in shown
    assert shown.count("<tr>") == 4


def test_metrics_beside_the_objective_stand_in_the_table():
    result = run(lambda x: {"accuracy": -abs(x), "size": 3}, metric="accuracy", goal="max")
    assert [row["size"] for row in result.table] == [3.0] * 3
    assert result.best_value == max(row["accuracy"] for row in result.table)


def test_parameters_named_like_a_column_get_a_name_of_their_own():
    result = run(lambda p: p["loss"] + p["trial"], {"loss": X["x"], "trial": X["x"]})
    row = result.table[0]
    assert row["loss"] == pytest.approx(row["param.loss"] + row["param.trial"])
    assert set(result.best_params) == {"loss", "trial"}


# What may be tuned


def adding(offset):
    def loss(x):
        return abs(x) + offset

    return loss


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (squared, lambda x: 2 * x * x),
        (lambda x: x + 7, lambda x: x + 7),
        (adding(3), lambda x: abs(x) + 3),
        (lambda parameters: parameters["x"], lambda x: x),
        (lambda **parameters: parameters["x"], lambda x: x),
        (lambda x, verbose=False: x, lambda x: x),
        (Model(4).loss, lambda x: 4 * x),
        (Model(5), lambda x: 5 * x),
        (functools.partial(lambda a, x: a - x, 1), lambda x: 1 - x),
    ],
    ids=["function", "lambda", "closure", "dict", "any keywords", "defaults", "method", "callable", "partial"],
)
def test_any_callable_can_be_tuned(function, expected):
    for row in run(function, trials=2).table:
        assert row["loss"] == pytest.approx(expected(row["x"])), row["message"]


def test_parameters_whose_names_are_no_keywords_come_as_a_dict():
    space = [{"name": "weight-decay", "float": {"min": 0, "max": 1}}]
    assert run(lambda p: p["weight-decay"], space).best_value >= 0


def test_a_space_object_or_a_list_will_do():
    as_list = [{"name": "x", **X["x"]}]
    assert run(parabola, Space.from_spec(as_list)).best_params == run(parabola, as_list).best_params == run(parabola).best_params


@settings(max_examples=50, deadline=None)
@given(space=spaces(), u=st.floats(0, 1))
def test_a_space_is_written_as_a_study_has_it_without_loss(space, u):
    again = Space.from_spec(_parameters(space))
    assert [(type(p), p.name, p.when) for p in again.parameters] == [(type(p), p.name, p.when) for p in space.parameters]
    for point in ([u] * len(space), [0.0] * len(space), [1.0] * len(space)):
        assert again.decode(point) == pytest.approx(space.decode(point))  # one step alone may be off by its last digit


def test_the_constraints_of_a_space_are_kept():
    plane = Space.from_spec([{"name": name, "int": {"min": 0, "max": 9}} for name in ("x", "y")])
    few = plane.constrained([{"terms": [{"parameter": "x"}, {"parameter": "y"}], "max": 3}])
    found = run(lambda x, y: -x - y, few, trials=5, algorithm="random", seed=1)
    assert all(row["x"] + row["y"] <= 3 for row in found.table)


def test_inactive_parameters_are_left_out():
    space = [
        {"name": "kind", "categorical": {"choices": ["a", "b"]}},
        {"name": "x", "float": {"min": 1, "max": 2}, "when": [{"parameter": "kind", "in": ["a"]}]},
    ]
    for row in run(lambda kind, x=-1.0: x, space, trials=8).table:
        assert (row["loss"] == -1.0) == (row["x"] is None) == (row["kind"] == "b")


def test_a_function_can_report_as_it_trains_and_be_stopped_early():
    def train(x):
        for step in range(1, hpo.budget() + 1):
            hpo.report(step=step, loss=abs(x) / step)

    result = run(train, schedule={"hyperband": {"iterations": 1}}, budget=(1, 9), trials=None)
    assert result.reason == "ScheduleFinished"
    assert {row["budget"] for row in result.table} == {1, 3, 9}
    assert [point.step for point in result.trials[-1].status.observation.curve] == list(range(1, 10))


def test_a_configuration_can_be_called_infeasible():
    def choosy(x):
        if x < 0:
            hpo.infeasible("negative")
        return x

    result = run(choosy, trials=6)
    states = {row["trial"]: (row["state"], row["message"]) for row in result.table if row["x"] < 0}
    assert states and set(states.values()) == {("Infeasible", "negative")}


# What goes wrong


def test_a_call_that_fails_is_a_failed_trial_with_its_last_words_and_its_log():
    def fragile(x):
        if x < 0:
            raise ValueError(f"no root of {x}")
        return x

    result = run(fragile, trials=6)
    failed = [row for row in result.table if row["state"] == "ProgramFailed"]
    assert failed
    for row in failed:
        assert f"its last words: ValueError: no root of {row['x']}" in row["message"]
        assert "in fragile" in result.log(row["trial"])
    assert result.best_params["x"] >= 0


def test_when_every_call_fails_the_error_says_why_and_carries_the_trials():
    def broken(x):
        raise KeyError("data.csv")

    with pytest.raises(StudyFailed, match=r"its last words: KeyError: 'data.csv'") as caught:
        run(broken)
    assert [row["state"] for row in caught.value.result.table] == ["ProgramFailed"] * 3
    assert caught.value.result.best_params is None
    assert "in broken" in caught.value.result.log(0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: None, "reported nothing; 'loss' was expected"),
        (lambda x: {"accuracy": 1.0}, "reported accuracy, but not 'loss'"),
        (lambda x: "0.5", "must be a number, not text"),
        (lambda x: x < 0, "must be a number, not a truth value"),
        (lambda x: float("nan"), "loss is NaN"),
        (lambda x: os._exit(5), "ended with exit code 5"),
    ],
)
def test_what_is_no_result_is_said_to_be_none(function, message):
    with pytest.raises(StudyFailed, match=message):
        run(function, trials=1)


def test_a_function_that_cannot_take_the_parameters_is_refused_before_anything_runs():
    with pytest.raises(InvalidFunction, match=r"function: 'squared': takes neither .* Define it as squared\(x, y\)"):
        run(squared, XY)
    with pytest.raises(InvalidFunction, match="must be callable"):
        run(3.0)


def test_a_function_that_cannot_be_sent_elsewhere_is_refused_with_a_remedy():
    lock = threading.Lock()

    def locked(x):
        with lock:
            return x

    with pytest.raises(InvalidFunction, match=r"cannot be sent to another process: .*lock.*inside the function"):
        run(locked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "smallest"}, "spec.objectives[0].goal: 'smallest': must be one of Minimize, Maximize"),
        ({"algorithm": "tpee"}, "spec.algorithm.tpee: is not a known algorithm. Did you mean 'tpe'?"),
        ({"schedule": "asha"}, "spec.schedule.asha: needs a budget"),
        ({"trials": None}, "trials: is needed, for nothing else ends the search. Give trials or timeout."),
        ({"trials": 0}, "spec.limits.maxTrials: 0: must be at least 1"),
        ({"parallelism": 0}, "spec.parallelism: 0: would never start a Trial here. Set it to 1 or more."),
        ({"space": {"x": {"float": {"min": 1, "max": 0}}}}, "spec.parameters[0].float.min: 1: must be less than max (0)"),
        ({"space": {"x": 3}}, "spec.parameters[0]: 3: must be a mapping"),
        ({"space": {"x": {"float": 3}}, "trials": None}, "spec.parameters[0].float: 3: must be a mapping"),
        ({"space": 3}, "spec.parameters[0]: 3: must be a mapping"),
        ({"goal": 3}, "spec.objectives[0].goal: 3: must be one of Minimize, Maximize"),
        ({"budget": "9"}, "spec.budget.max: '9': must be a whole number"),
        ({"budget": (1, 3, 9)}, "spec.budget.max: must be a whole number"),
        ({"timeout": "5"}, "spec.limits.deadlineSeconds: '5': must be a whole number"),
        ({"timeout": math.inf}, "spec.limits.deadlineSeconds: inf: must be a whole number"),
        ({"timeout": math.nan}, "spec.limits.deadlineSeconds: nan: must be a whole number"),
        ({"gpus": "0,1"}, "gpus: '0,1': must be a list of different GPU ids. For example [0, 1]."),
        ({"gpus": 0}, "gpus: 0: must be a list"),
        ({"gpus": [0, 0]}, "gpus: [0, 0]: must be a list of different GPU ids"),
        ({"algorithm": {"tpe": {"startupTrials": 1j}}}, "spec.algorithm.tpe.startupTrials: 1j: cannot stand in a Study"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(InvalidInput) as caught:
        run(parabola, **options)
    assert message in str(caught.value)


def test_numbers_and_arrays_of_numpy_are_taken_as_they_are():
    space = {
        "x": {"float": {"min": np.float32(-0.5), "max": np.float64(1)}},
        "n": {"int": {"min": np.int64(1), "max": np.arange(8).max()}},
        "kind": {"categorical": {"choices": np.array(["a", "b"])}},
    }
    options = {
        "trials": np.int64(2),
        "seed": np.int32(1),
        "parallelism": np.int8(1),
        "budget": np.int64(9),
        "timeout": np.float32(60),
    }
    plain = {
        "x": {"float": {"min": -0.5, "max": 1}},
        "n": {"int": {"min": 1, "max": 7}},
        "kind": {"categorical": {"choices": ["a", "b"]}},
    }
    found = run(lambda x, n, kind: x * n, space, **options).best_params
    assert found == run(lambda x, n, kind: x * n, plain, trials=2, budget=9).best_params


# Where results are


def test_named_results_are_kept_and_the_same_call_goes_on(tmp_path):
    calls = tmp_path / "calls"

    def counted(x):
        with open(calls, "a") as file:
            file.write(".")
        return x

    first = run(counted, results=tmp_path / "results")
    again = run(counted, results=tmp_path / "results", trials=5)
    assert calls.read_text() == "....."
    assert [row["x"] for row in again.table[:3]] == [row["x"] for row in first.table]
    assert (tmp_path / "results" / "trials" / "0004" / "log.txt").exists()


class Failing(Immediate):
    """An algorithm that proposes nothing, and has no fallback."""

    def poll(self):
        return replace(super().poll(), proposals=(), error="It fails")


def no_process(monkeypatch, folder):
    def refuse(*arguments, **options):
        raise OSError(errno.EAGAIN, "no room")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def no_proposal(monkeypatch, folder):
    monkeypatch.setattr(runner, "Consultant", Failing)
    monkeypatch.setattr(runner, "ALGORITHM_RETRY_SECONDS", 0.0)


def another_runner(monkeypatch, folder):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.0)
    monkeypatch.setattr(store, "_try_lock", lambda path: None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda patch, folder: run(parabola, {"x": {"int": {"min": 0, "max": 9}}}, results=folder),
            "another parameters. Name another folder with results=.",
        ),
        (lambda patch, folder: (folder / "trials/0000").mkdir(parents=True), "no study.json. Name another folder with results=."),
        (lambda patch, folder: folder.write_text(""), "Not a directory. Name another folder with results=."),
        (lambda patch, folder: (folder / "lock").mkdir(parents=True), "a local disk that can be written with results=."),
        (another_runner, "Wait for it, or name another with results=."),
        (no_process, "or with a smaller parallelism=, make the same call again."),
        (
            no_proposal,
            "Name another algorithm or schedule and another folder with results=, or mend it and make the same call again.",
        ),
    ],
)
def test_what_is_wrong_with_results_is_said_in_the_words_of_the_call_and_not_of_the_command(tmp_path, monkeypatch, fault, message):
    fault(monkeypatch, tmp_path / "results")
    with pytest.raises(AlgorithmsError) as caught:
        run(parabola, results=tmp_path / "results")
    assert str(caught.value).endswith(message)


def test_what_ended_before_the_machine_failed_is_not_lost_with_an_unnamed_folder(monkeypatch, capsys):
    no_process(monkeypatch, None)
    with pytest.raises(AlgorithmsError, match="Nothing that was recorded is lost"):
        run(parabola)
    folder = re.search(r"What has ended stands in (.+); the same call with results='(.+)' goes on.", capsys.readouterr().err)
    assert (Path(folder[1]) / "study.json").exists()
    assert folder[1] == folder[2]
    shutil.rmtree(folder[1])


def test_unnamed_results_live_as_long_as_the_result():
    def talking(x):
        print("x is", x)
        return x

    result = run(talking, trials=1)
    folder = result.results
    assert result.log(0) == f"x is {result.table[0]['x']}\n"
    del result
    assert not folder.exists()


def test_each_call_has_a_gpu_of_its_own():
    result = run(lambda x: int(os.environ["CUDA_VISIBLE_DEVICES"]), gpus=[4, 7], parallelism=2, trials=4)
    assert {row["loss"] for row in result.table} <= {4.0, 7.0}


def test_a_grid_ends_the_search_by_itself():
    assert [row["x"] for row in run(parabola, algorithm={"grid": {"points": 1}}, trials=None).table] == [0.0]


def test_a_timeout_ends_the_search_with_what_there_is():
    def slow(x):
        import time

        if x > 0:
            time.sleep(1000)
        return x

    result = run(slow, trials=None, timeout=3, parallelism=4, seed=3)
    assert result.reason == "DeadlineReached"
    assert result.best_value <= 0
    assert "Canceled" in {row["state"] for row in result.table}


def test_progress_is_told_in_lines_where_there_is_no_terminal(capsys):
    run(parabola, progress=True)
    assert [line[:6] for line in capsys.readouterr().out.splitlines()] == ["[1/3] ", "[2/3] ", "[3/3] "]
    run(parabola)
    assert capsys.readouterr() == ("", "")


def test_progress_is_told_in_whatever_encoding_there_is(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    run(lambda x, kind: x, {**X, "kind": {"categorical": {"choices": ["größe"]}}}, progress=True, trials=1)
    assert rb"kind=gr\xf6\xdfe" in out.buffer.getvalue()


def test_without_a_standard_output_there_is_no_progress(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert len(run(parabola, progress=True, trials=1).table) == 1


def test_several_searches_can_run_at_once_in_threads():
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda seed: run(parabola, seed=seed).best_params["x"], [1, 2, 3]))
    assert found == [run(parabola, seed=seed).best_params["x"] for seed in (1, 2, 3)]


# From scripts, notebooks and modules

SCRIPT = """
import json
import helper                   # beside the script
from hpo_operator import tune

factor = 3

def loss(x):
    return factor * helper.shifted(x)

result = tune(loss, {"x": {"float": {"min": 1, "max": 2}}}, trials=2, progress=False, algorithm="random", seed=1)
print(json.dumps([[row["x"], row["loss"]] for row in result.table]))
"""


@pytest.mark.parametrize("way", ["script", "command", "notebook"])
def test_it_works_from_the_main_module_however_that_is_run(tmp_path, way):
    (tmp_path / "helper.py").write_text("def shifted(x):\n    return x + 1\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = {
        "script": ["script.py"],
        "command": ["-c", SCRIPT],
        # As a kernel does: the cell is compiled under a name that is no file, in a __main__ that is no module on disk.
        "notebook": ["-c", f"exec(compile({SCRIPT!r}, '<ipython-input-1>', 'exec'), globals())"],
    }[way]
    process = subprocess.Popen([sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    code, out, err = ended(process)
    assert code == 0, err
    rows = json.loads(out)
    assert len(rows) == 2
    assert all(loss == pytest.approx(3 * (x + 1)) for x, loss in rows)


def test_a_module_that_no_other_process_can_import_goes_along_with_its_code(tmp_path):
    path = tmp_path / "hidden.py"
    path.write_text("OFFSET = 10\ndef shifted(x):\n    return other(x)\ndef other(x):\n    return x + OFFSET\n")
    spec = importlib.util.spec_from_file_location("hidden", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["hidden"] = module
    try:
        spec.loader.exec_module(module)
        assert all(row["loss"] == pytest.approx(row["x"] + 10) for row in run(module.shifted).table)
    finally:
        del sys.modules["hidden"]


TUNES = """
import os, sys
from hpo_operator import tune
if "HPO_FUNCTION" in os.environ:
    sys.exit("imported by a call, which would tune once more")
DEFINED
print(tune(loss, {"x": {"float": {"min": 1, "max": 2}}}, trials=2, progress=False, algorithm="random", seed=1).reason)
"""
LOSS = "def shifted(x):\n    return x + 1\ndef loss(x):\n    return shifted(x)\n"


@pytest.mark.parametrize(
    "files",
    [
        {"eager.py": TUNES.replace("DEFINED", LOSS)},
        {"eager/part.py": LOSS, "eager/__init__.py": TUNES.replace("DEFINED", "from eager.part import loss")},
    ],
    ids=["module", "package"],
)
def test_a_module_that_tunes_while_it_is_imported_is_not_imported_by_its_calls(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-c", "import eager"]
    code, out, err = ended(subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    assert (code, out) == (0, "MaxTrialsReached\n"), err


def test_an_interrupt_ends_the_calls_and_says_where_the_results_are(tmp_path):
    script = f"""
    from hpo_operator import tune
    def hang(x):
        import os, time
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
        time.sleep(1000)
    tune(hang, {X!r}, trials=2, progress=False, algorithm="random")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pid = tmp_path / "pid"
    child = int(wait_until(lambda: pid.exists() and pid.read_text(), "the call runs", process))
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code != 0
    assert "Interrupted. What has ended stands in" in err
    assert "KeyboardInterrupt" in err
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_page_of_the_library_can_be_run_as_it_stands(capsys):
    page = (Path(__file__).parents[3] / "docs" / "library.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)).replace("trials=50", "trials=2")
    names = {"train": lambda lr, optimizer, momentum=0.0: lr + momentum}
    exec(code, names)
    assert names["optimizer"].history
    assert len(names["result"].table) == 2


def test_the_names_that_the_package_promises_are_there_and_cost_nothing_until_they_are_used():
    assert set(hpo_operator.__all__) == {"InvalidFunction", "Result", "StudyFailed", "Table", "tune"}
    assert all(getattr(hpo_operator, name) is getattr(tuning, name) for name in hpo_operator.__all__)
    code = "import sys, hpo_operator; assert 'hpo_operator.local' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        hpo_operator.tuna  # noqa: B018
