"""The examples are what a newcomer copies: each is read without a fault or a warning, and names only what exists."""

import re
import warnings
from pathlib import Path

import pytest
import yaml
from hpo_algorithms import Space
from hpo_operator import conditions as c
from hpo_operator.cluster.rendering import workload_manifest
from hpo_operator.environment import parameter_variable
from hpo_operator.local.runner import LocalRunner
from hpo_operator.manifests import read_documents, read_file, study_document
from hpo_operator.validation import notes, read_study

from tests.unit.operator.builders import a_study, a_trial
from tests.unit.operator.local_studies import without_a_worker

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(ROOT.glob("examples/*/study.yaml"))
SHOWN = {"digits-svm", "pso-svm", "digits-mlp", "digits-pbt", "digits-pb2", "digits-cnn", "command-line-program"}


@pytest.fixture(params=EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def path(request):
    return request.param


@pytest.fixture
def data(path):
    return study_document(read_file(path), str(path)).data


def container(data):
    (only,) = data["spec"]["template"]["job"]["spec"]["template"]["spec"]["containers"]
    return only


def shown_in(page):
    """The blocks of YAML that a page shows."""
    return re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md", "docs/katib.md"])
def test_the_Study_that_a_page_shows_is_valid(page):
    (study,) = (each for each in shown_in(page) if "kind: Study\n" in each)
    assert notes(read_study(study_document(read_documents(study, page), page).data).spec) == []


def test_the_Study_that_was_an_Experiment_has_its_parameters_and_hands_each_to_the_program():
    experiment, study = (yaml.safe_load(each)["spec"] for each in shown_in("docs/katib.md"))
    names = [each["name"] for each in experiment["parameters"]]
    assert [each["name"] for each in study["parameters"]] == names
    asked = re.findall(r"\$\((\w+)\)", str(study["template"]))
    assert asked == [parameter_variable(each) for each in names]


WORKLOADS = [yaml.safe_load(each)["template"] for each in shown_in("docs/workloads.md") if each.startswith("template:")]


@pytest.mark.parametrize("template", WORKLOADS, ids=[each["object"]["kind"] for each in WORKLOADS])
def test_a_workload_that_the_documentation_shows_gets_its_Trials_parameters_and_the_pod_that_it_names_reports(template):
    spec = a_study().over({"name": "lr", "float": {"min": 0, "max": 1}}).limits(max_trials=2).build().spec
    data = {**spec.model_dump(mode="json", by_alias=True, exclude_none=True), "template": template}
    study = read_study({"apiVersion": "hpo.dev/v1alpha1", "kind": "Study", "metadata": {"name": "digits"}, "spec": data})
    assert notes(study.spec) == []
    made = workload_manifest(study, a_trial(0).with_parameters(lr="0.5").build(), Space.from_spec(data["parameters"]))
    assert len(variables_in(made)) > 1 or template["object"]["kind"] == "JobSet"
    assert all("HPO_PARAM_LR" in each for each in variables_in(made))
    named = template.get("reporter", {}).get("podSelector", {}).items()
    pods = [each for each in mappings(made["spec"]) if (each.get("metadata") or {}).get("labels", {}).items() >= named]
    for place in (made, *(pods if named else ())):
        assert ["HPO_METRICS_PORT" in each for each in variables_in(place)].count(True) == 1


def variables_in(value):
    """The variables of each program in a workload."""
    return [{each["name"] for each in found["env"]} for found in mappings(value) if isinstance(found.get("env"), list)]


def mappings(value):
    """All mappings in a value, itself too."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(each)


def test_the_examples_that_the_documentation_shows_are_there():
    assert {path.parent.name for path in EXAMPLES} >= SHOWN


def test_an_example_holds_one_Study_named_like_its_folder(path, data):
    assert data["metadata"] == {"name": path.parent.name}
    assert study_document(read_file(path), str(path)).others == 0


def test_its_parameters_are_a_search_space_as_they_stand(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space = Space.from_spec(data["spec"]["parameters"])
    assert space.warnings == ()
    assert len(space) == len(data["spec"]["parameters"])


def test_it_is_a_valid_Study_that_ends_by_itself_and_nothing_in_it_is_remarkable(data):
    assert notes(read_study(data).spec) == []


def test_its_command_names_programs_and_parameters_that_exist(path, data):
    command = container(data)["command"]
    programs = [part for part in command if part.endswith(".py")]
    assert programs
    assert all((path.parent / program).is_file() for program in programs)
    variables = set(re.findall(r"\$\(HPO_PARAM_(\w+)\)", " ".join(command)))
    names = {parameter["name"].upper() for parameter in data["spec"]["parameters"]}
    assert variables in (set(), names)


def test_a_Trial_of_it_asks_for_one_core_and_uses_no_more(data):
    trial = container(data)
    assert trial["resources"]["limits"]["cpu"] == "1"
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in trial["env"]


def test_it_is_explained_on_half_a_page(path):
    lines = (path.parent / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert 5 <= len(lines) <= 20


def test_the_population_of_networks_trains_on_here_from_what_its_members_have_saved(tmp_path, monkeypatch):
    """Two members for two generations of two epochs. The program is that of digits-pb2, which runs on a cluster."""
    without_a_worker(monkeypatch)
    (path,) = (each for each in EXAMPLES if each.parent.name == "digits-pbt")
    assert (path.parent / "train.py").read_bytes() == (path.parents[1] / "digits-pb2" / "train.py").read_bytes()
    data = study_document(read_file(path), str(path)).data
    shorter = {"algorithm": {"pbt": {"population": 2}}, "budget": {"min": 2, "max": 4, "unit": "epochs"}, "parallelism": 1}
    runner = LocalRunner(read_study({**data, "spec": {**data["spec"], **shorter}}), path.parent, tmp_path / "results")
    ended = runner.run()
    assert c.reason(ended.status.conditions, c.SUCCEEDED) == c.SCHEDULE_FINISHED
    trials = [runner.trials[number] for number in range(4)]
    assert {c.reason(each.status.conditions, c.SUCCEEDED) for each in trials} == {c.COMPLETED}
    copied = 0
    for trial in trials[2:]:
        donor = trials[trial.spec.restore_from.number]
        assert (trial.status.restored.trial_name, trial.status.restored.step) == (donor.metadata.name, 2)
        assert trial.status.observation.step == 4
        copied += donor.spec.slot.member != trial.spec.slot.member
    assert copied == 1


@pytest.mark.parametrize(
    "device", [pytest.param("the processor", marks=pytest.mark.torch), pytest.param("NVIDIA", marks=pytest.mark.gpu)]
)
def test_the_convolutional_network_goes_on_where_the_Trial_below_it_has_ended(tmp_path, monkeypatch, device):
    """Two Trials of one epoch; the better one is promoted to a second."""
    without_a_worker(monkeypatch)
    if device == "the processor":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (path,) = (each for each in EXAMPLES if each.parent.name == "digits-cnn")
    data = study_document(read_file(path), str(path)).data
    shorter = {"schedule": {"halving": {"eta": 2, "iterations": 1}}, "budget": {"min": 1, "max": 2, "unit": "epochs"}}
    runner = LocalRunner(read_study({**data, "spec": {**data["spec"], **shorter}}), path.parent, tmp_path)
    ended = runner.run()
    *below, promoted = trials = [runner.trials[number] for number in range(3)]
    assert c.reason(ended.status.conditions, c.SUCCEEDED) == c.SCHEDULE_FINISHED
    assert [c.reason(each.status.conditions, c.SUCCEEDED) for each in trials] == [c.COMPLETED] * 3
    donor = below[promoted.spec.restore_from.number]
    assert (promoted.status.restored.trial_name, promoted.status.restored.step) == (donor.metadata.name, 1)
    (reached, loss), (after, smaller) = ((each.step, float(each.value)) for each in promoted.status.observation.curve)
    assert (reached, loss) == (1, float(metrics(donor)["val_loss"]))
    assert after == 2
    assert smaller < loss
    logs = [(tmp_path / "trials" / f"{number:04d}" / "log.txt").read_text() for number in range(3)]
    assert all(log.startswith(f"training on {device}") for log in logs)


def metrics(trial):
    return {each.name: each.value for each in trial.status.observation.metrics}
