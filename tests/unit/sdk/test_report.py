"""`hpo.report`: what is taken, what is refused, and what reaches the runner."""

import json
import math
import pickle
from decimal import Decimal

import hpo
import pytest
from hpo import _environment
from hpo._environment import Environment
from hpo._report import Reporter

LAST, LOWEST, HIGHEST = 0, 1, 2


@pytest.fixture
def reporter(trial):
    return Reporter(Environment(trial.environment), clock=lambda: 1700000000.5)


def test_all_forms_of_a_report_mean_the_same(trial):
    done = trial.python("""
        import hpo
        hpo.report(step=1, val_loss=0.5)
        hpo.report({"val_loss": 0.4, "valid_1 auc": 0.9}, step=2)
        hpo.report({"val_loss": 0.3}, 3, accuracy=0.8)
        hpo.report({"val_loss": 0.2})
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [(report["step"], report["metrics"]) for report in trial.reports] == [
        (1, {"val_loss": "0.5"}),
        (2, {"val_loss": "0.4", "valid_1 auc": "0.9"}),
        (3, {"val_loss": "0.3", "accuracy": "0.8"}),
        (3, {"val_loss": "0.2"}),
    ]
    assert trial.message == {
        "hpo": 1,
        "step": 3,
        "metrics": {
            "val_loss": ["0.2", "0.2", "0.5"],
            "valid_1 auc": ["0.9", "0.9", "0.9"],
            "accuracy": ["0.8", "0.8", "0.8"],
        },
    }


def test_each_report_is_one_line_with_its_time_in_the_metrics_file(reporter, trial):
    reporter.report({"loss": 0.5}, 3)
    assert trial.metrics_file.read_text() == '{"time": 1700000000.5, "step": 3, "metrics": {"loss": "0.5"}}\n'


def test_values_are_whatever_float_makes_one_number_of(reporter, trial):
    numpy = pytest.importorskip("numpy")
    reporter.report({"i": 3, "f": numpy.float32(0.5), "n": numpy.int64(4), "d": Decimal("0.1"), "t": numpy.array(0.25)})
    assert trial.reports[0]["metrics"] == {"i": "3.0", "f": "0.5", "n": "4.0", "d": "0.1", "t": "0.25"}


def test_nan_and_infinities_are_told_as_they_are(reporter, trial):
    for value in (math.inf, 1.0, -math.inf, math.nan):
        reporter.report({"loss": value})
    assert [report["metrics"]["loss"] for report in trial.reports] == ["inf", "1.0", "-inf", "NaN"]
    assert trial.message["metrics"]["loss"] == ["NaN", "-inf", "inf"]


def test_the_lowest_and_highest_ignore_nan_wherever_it_comes(reporter, trial):
    for value in (math.nan, 2.0, math.nan, 1.0, 3.0, math.nan):
        reporter.report({"loss": value, "always": math.nan})
    assert trial.message["metrics"] == {"loss": ["NaN", "1.0", "3.0"], "always": ["NaN", "NaN", "NaN"]}


def test_numbers_are_read_back_as_they_were(reporter, trial):
    reporter.report({"a": 0.1 + 0.2, "b": 5e-324, "c": 1.7976931348623157e308})
    assert [float(texts[LAST]) for texts in trial.message["metrics"].values()] == [0.1 + 0.2, 5e-324, 1.7976931348623157e308]


@pytest.mark.parametrize("value", ["0.3", b"0.3", None, [0.1], {}, 1j, 10**400, object()])
def test_a_value_that_is_not_one_number_is_refused_with_its_name(reporter, value):
    with pytest.raises(hpo.InvalidMetricValue, match=r"metric 'loss' .*: must be") as caught:
        reporter.report({"loss": value})
    assert caught.value.value is value
    assert isinstance(caught.value, ValueError)


def test_a_truth_value_is_refused_because_a_number_was_meant(reporter):
    numpy = pytest.importorskip("numpy")
    for value in (True, numpy.True_, numpy.array(True)):
        with pytest.raises(hpo.InvalidMetricValue, match=r"not a truth value\. Write int\("):
            reporter.report({"loss": value})


def test_arrays_of_several_numbers_are_refused(reporter):
    numpy = pytest.importorskip("numpy")
    with pytest.raises(hpo.InvalidMetricValue, match="must be one number"):
        reporter.report({"loss": numpy.zeros(3)})


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x00", "\ud800", "x" * 201, 3, None, "step"])
def test_a_name_that_is_no_short_printable_text_is_refused(reporter, name):
    with pytest.raises(hpo.InvalidMetricName, match="metric name"):
        reporter.report({name: 0.5})


@pytest.mark.parametrize("metrics", [0.3, "loss", [("loss", 0.3)], {}])
def test_a_report_of_nothing_or_of_no_mapping_is_refused(metrics):
    with pytest.raises(hpo.InvalidReport, match=r"metrics .*hpo\.report\("):
        hpo.report(metrics)
    with pytest.raises(hpo.InvalidReport, match="at least one metric"):
        hpo.report(step=3)


@pytest.mark.parametrize("step", [-1, 2.5, "3", True, math.nan, math.inf, 2**53 + 1, [1], object()])
def test_a_step_that_is_no_whole_number_is_refused(reporter, step):
    with pytest.raises(hpo.InvalidStep, match=r"step .*must be a whole number from 0 to 2\^53"):
        reporter.report({"loss": 0.5}, step)


def test_whole_numbers_of_any_type_are_steps(reporter, trial):
    numpy = pytest.importorskip("numpy")
    for step in (0, 1.0, numpy.int32(2), numpy.float64(3.0), numpy.array(4), 2**53):
        reporter.report({"loss": 0.5}, step)
    assert [report["step"] for report in trial.reports] == [0, 1, 2, 3, 4, 2**53]


def test_a_step_that_goes_back_is_refused_and_a_step_that_stays_is_not(reporter, trial):
    reporter.report({"loss": 0.5}, 3)
    reporter.report({"loss": 0.4}, 3)
    with pytest.raises(hpo.InvalidStep, match=r"step 2: must not be smaller than 3.*Count on over all epochs"):
        reporter.report({"loss": 0.1}, 2)
    assert trial.message["metrics"]["loss"] == ["0.4", "0.4", "0.5"]


def test_a_refused_report_leaves_nothing_behind(reporter, trial):
    reporter.report({"loss": 0.5}, 1)
    with pytest.raises(hpo.InvalidReport):
        reporter.report({"loss": 0.1, "accuracy": "high"}, 2)
    assert trial.message == {"hpo": 1, "step": 1, "metrics": {"loss": ["0.5", "0.5", "0.5"]}}
    assert len(trial.reports) == 1


def test_reports_without_a_step_are_counted_on_from_the_start_step(trial):
    trial.environment["HPO_START_STEP"] = "9"
    reporter = Reporter(Environment(trial.environment))
    for _ in range(3):
        reporter.report({"loss": 0.5})
    assert [report["step"] for report in trial.reports] == [10, 11, 12]


def test_a_step_before_the_start_step_is_taken_and_told(trial):
    trial.environment["HPO_START_STEP"] = "9"
    done = trial.python("import hpo; hpo.report(step=1, loss=0.5); hpo.report(step=2, loss=0.4)")
    assert done.returncode == 0
    assert done.stderr.count(b"step 1 lies before this Trial's start step 9") == 1
    assert trial.message["step"] == 2


def test_errors_cross_process_boundaries(reporter):
    with pytest.raises(hpo.InvalidReport) as caught:
        reporter.report({"loss": "high"})
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (hpo.InvalidMetricValue, str(caught.value))


def test_a_process_that_is_handed_another_trial_begins_afresh(trial):
    second = trial.folder / "second"
    trial.python(
        """
        import os, sys, hpo
        hpo.report(step=9, loss=0.5)
        os.environ.update(HPO_TRIAL="digits-8", HPO_TERMINATION_FILE=sys.argv[1])
        hpo.report(step=1, loss=0.1)
        """,
        str(second),
    )
    assert trial.message["step"] == 9
    assert json.loads(second.read_text()) == {"hpo": 1, "step": 1, "metrics": {"loss": ["0.1", "0.1", "0.1"]}}


def test_a_trial_whose_reports_reach_nobody_says_so_once(trial):
    trial.environment = {"HPO_TRIAL": "digits-7"}
    done = trial.python("""
        import hpo, hpo._environment
        hpo._environment.KUBELET_TERMINATION_FILE = "/no/such/file"
        hpo.report(loss=0.5)
        hpo.report(loss=0.4)
    """)
    assert done.returncode == 0
    assert done.stderr == b"hpo: HPO_TERMINATION_FILE is not set: this Trial's reports reach nobody\n"


def test_in_a_pod_the_final_message_goes_where_the_kubelet_looks_for_it(trial, monkeypatch):
    monkeypatch.setattr(_environment, "KUBELET_TERMINATION_FILE", str(trial.termination_file))
    trial.environment.pop("HPO_TERMINATION_FILE")
    assert Environment(trial.environment).termination_file is None  # no kubelet made it
    trial.termination_file.touch()
    Reporter(Environment(trial.environment)).report({"val_loss": 0.5})
    assert trial.message["step"] == 1
    assert Environment({}).termination_file is None
