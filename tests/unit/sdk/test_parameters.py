"""`hpo.parameters`, `hpo.budget`, `hpo.start_step` and `hpo.trial`: what a Trial is told."""

import copy
import pickle

import hpo
import pytest


@pytest.fixture
def given(monkeypatch):
    def give(text):
        monkeypatch.setenv("HPO_PARAMETERS", text)

    return give


def test_parameters_keep_their_types(given):
    given('{"lr": 1e-05, "momentum": 1.0, "layers": 3, "optimizer": "adam"}')
    parameters = hpo.parameters()
    assert dict(parameters) == {"lr": 1e-05, "momentum": 1.0, "layers": 3, "optimizer": "adam"}
    assert [type(parameters[name]) for name in ("lr", "momentum", "layers", "optimizer")] == [float, float, int, str]


def test_parameters_are_read_by_item_by_attribute_and_as_a_mapping(given):
    given('{"lr": 0.1, "weight-decay": 0.01, "items": 3}')
    parameters = hpo.parameters()
    assert parameters["lr"] == parameters.lr == parameters.get("lr") == 0.1
    assert parameters["weight-decay"] == 0.01
    assert parameters["items"] == 3
    assert "lr" in dir(parameters)
    assert len(parameters) == 3
    assert list(parameters) == ["lr", "weight-decay", "items"]
    assert {**parameters} == {"lr": 0.1, "weight-decay": 0.01, "items": 3}


def test_parameters_cannot_be_changed(given):
    given('{"lr": 0.1}')
    parameters = hpo.parameters()
    with pytest.raises(TypeError):
        parameters["lr"] = 0.2
    with pytest.raises(AttributeError):
        parameters.lr = 0.2


def test_parameters_are_copied_and_sent_to_other_processes_whole(given):
    given('{"lr": 0.1}')
    parameters = hpo.parameters()
    assert pickle.loads(pickle.dumps(parameters)) == copy.deepcopy(parameters) == {"lr": 0.1}


def test_the_trial_s_values_stand_over_the_defaults(given):
    given('{"lr": 0.1}')
    assert hpo.parameters(lr=0.5, layers=2) == {"lr": 0.1, "layers": 2}
    assert hpo.parameters({"weight-decay": 0.01}, lr=0.5) == {"weight-decay": 0.01, "lr": 0.1}


def test_a_parameter_that_is_not_there_is_an_error_that_says_which_are(given):
    given('{"lr": 0.1, "layers": 2}')
    parameters = hpo.parameters()
    for ask in (lambda: parameters["learning_rate"], lambda: parameters.learning_rate):
        with pytest.raises(hpo.UnknownParameter, match=r"'learning_rate'.*it has lr, layers.*\.get\(\)") as caught:
            ask()
        assert caught.value.value == "learning_rate"
        assert isinstance(caught.value, KeyError)
    assert not hasattr(parameters, "learning_rate")
    assert parameters.get("learning_rate", 1) == 1


def test_parameters_come_from_a_file_where_the_variable_is_absent(tmp_path, monkeypatch):
    path = tmp_path / "parameters.json"
    path.write_text('{"choice": "größer"}', "utf-8")
    monkeypatch.setenv("HPO_PARAMETERS_FILE", str(path))
    assert hpo.parameters() == {"choice": "größer"}
    monkeypatch.setenv("HPO_PARAMETERS", '{"choice": "variable"}')
    assert hpo.parameters() == {"choice": "variable"}


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"lr"', "null"])
def test_parameters_that_are_no_json_object_are_refused_by_the_variable_s_name(given, text):
    given(text)
    with pytest.raises(hpo.InvalidEnvironment, match=r"HPO_PARAMETERS .*must be"):
        hpo.parameters()


def test_a_parameter_file_that_cannot_be_read_is_refused_by_its_name(monkeypatch):
    monkeypatch.setenv("HPO_PARAMETERS_FILE", "/no/such/file")
    with pytest.raises(hpo.InvalidEnvironment, match="HPO_PARAMETERS_FILE '/no/such/file': cannot be read"):
        hpo.parameters()


def test_budget_start_step_and_trial_are_what_the_environment_says(monkeypatch):
    for name, value in trial_variables.items():
        monkeypatch.setenv(name, value)
    assert hpo.budget() == 27
    assert hpo.start_step() == 9
    assert hpo.trial() == hpo.Trial(study="digits", name="digits-7", number=7, study_uid="6f2c")


trial_variables = {
    "HPO_BUDGET": "27",
    "HPO_START_STEP": "9",
    "HPO_STUDY": "digits",
    "HPO_STUDY_UID": "6f2c",
    "HPO_TRIAL": "digits-7",
    "HPO_TRIAL_NUMBER": "7",
}


def test_outside_a_study_there_is_no_budget_no_trial_and_training_starts_at_zero():
    assert hpo.budget() is None
    assert hpo.trial() is None
    assert hpo.start_step() == 0


def test_a_variable_set_to_nothing_counts_as_absent(monkeypatch):
    for name in trial_variables:
        monkeypatch.setenv(name, "")
    assert (hpo.budget(), hpo.start_step(), hpo.trial()) == (None, 0, None)


@pytest.mark.parametrize("text", ["ten", "2.5", "-1", "0", "1e3", "²", "9" * 5000])
def test_a_budget_that_is_no_whole_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("HPO_BUDGET", text)
    with pytest.raises(hpo.InvalidEnvironment, match=r"HPO_BUDGET .*must be a whole number of 1 or more"):
        hpo.budget()
