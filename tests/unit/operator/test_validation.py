"""A wrong Study is refused with path, value, rule and remedy, by a command that creates nothing and exits with 2."""

import copy
import json

import pytest
import yaml
from hpo_operator import cli
from hpo_operator.validation import InvalidStudy, notes, read_study

from tests.unit.operator.local_studies import REPORT, manifest

KERNEL = {"name": "kernel", "categorical": {"choices": ["rbf", "linear"]}}
UNDER = "spec.template.job.spec.template.spec.containers"


def x(**bounds):
    return {"name": "x", "float": {"min": 0, "max": 1, **bounds}}


def depending(parameter, *values):
    return {**x(), "when": [{"parameter": parameter, "in": list(values)}]}


# What is wrong -> the field of the spec that makes it so, and the whole message.
WRONG = {
    "min equal to max": (
        {"parameters": [x(min=1)]},
        "spec.parameters[0].float.min: 1: must be less than max (1). For a single value use an ordinal or a categorical.",
    ),
    "min above max": ({"parameters": [x(min=2)]}, "spec.parameters[0].float.min: 2: must be less than max (1)."),
    "a log scale from 0": (
        {"parameters": [x(scale="Log")]},
        "spec.parameters[0].float.min: 0: must be greater than 0 on a Log scale.",
    ),
    "a log scale from below 0": (
        {"parameters": [x(min=-1, scale="Log")]},
        "spec.parameters[0].float.min: -1: must be greater than 0 on a Log scale.",
    ),
    "steps on a log scale": (
        {"parameters": [x(min=0.1, scale="Log", step=0.1)]},
        "spec.parameters[0].float.step: 0.1: cannot be combined with a Log scale. Drop one, or list the values as an ordinal.",
    ),
    "a name twice": (
        {"parameters": [x(), x()]},
        "spec.parameters[1].name: 'x': stands twice. Give each parameter a name of its own.",
    ),
    "a condition on a later parameter": (
        {"parameters": [depending("kernel", "rbf"), KERNEL]},
        "spec.parameters[0].when[0].parameter: 'kernel': is not a parameter that stands earlier in the list. Move it before",
    ),
    "a condition on an unknown parameter": (
        {"parameters": [KERNEL, depending("kernl", "rbf")]},
        "spec.parameters[1].when[0].parameter: 'kernl': is not a parameter that stands earlier in the list. Did you mean 'kernel'?",
    ),
    "a condition on an impossible value": (
        {"parameters": [KERNEL, depending("kernel", "poly")]},
        "spec.parameters[1].when[0].in[0]: 'poly': is no value of 'kernel': it must be one of 'rbf', 'linear'.",
    ),
    "an unknown algorithm": ({"algorithm": {"tpee": {}}}, "spec.algorithm.tpee: is not a known algorithm. Did you mean 'tpe'?"),
    "an unknown setting": (
        {"algorithm": {"tpe": {"startupTrial": 3}}},
        "spec.algorithm.tpe.startupTrial: 3: is not a known setting. Did you mean 'startupTrials'?",
    ),
    "a setting of the wrong type": (
        {"algorithm": {"tpe": {"startupTrials": "3"}}},
        "spec.algorithm.tpe.startupTrials: '3': must be a",
    ),
    "two algorithms": ({"algorithm": {"tpe": {}, "random": {}}}, "must hold exactly one of auto,"),
    "an algorithm without braces": ({"algorithm": "tpe"}, "spec.algorithm: 'tpe': must hold exactly one of auto,"),
    "an unknown schedule": (
        {"schedule": {"hyperbnd": {}}, "budget": {"max": 3}},
        "spec.schedule.hyperbnd: is not a known schedule. Did you mean 'hyperband'?",
    ),
    "a schedule without a budget": (
        {"schedule": {"hyperband": {}}},
        "spec.schedule.hyperband: needs a budget, for it decides how far each Trial trains. Add budget: {min: 1, max: 27,",
    ),
    "a budget upside down": ({"budget": {"min": 5, "max": 3}}, "spec.budget.min: 5: must be at most max (3)."),
    "half an epoch": ({"budget": {"max": 3.5}}, "spec.budget.max: 3.5: must be a whole number."),
    "an unknown field": ({"paralelism": 4}, "spec.paralelism: 4: is not a known field. Did you mean 'parallelism'?"),
    "a number in quotes": ({"parallelism": "4"}, "spec.parallelism: '4': must be a whole number. Take away the quotes."),
    "a negative number": ({"parallelism": -1}, "spec.parallelism: -1: must be at least 0."),
    "no Trials": ({"limits": {"maxTrials": 0}}, "spec.limits.maxTrials: 0: must be at least 1."),
    "no objective": ({"objectives": []}, "spec.objectives: must have at least one entry."),
    "a goal in lower case": (
        {"objectives": [{"metric": "loss", "goal": "minimize"}]},
        "spec.objectives[0].goal: 'minimize': must be one of Minimize, Maximize. Did you mean 'Minimize'?",
    ),
    "an objective twice": (
        {"objectives": [{"metric": "loss"}, {"metric": "loss"}]},
        "spec.objectives[1].metric: 'loss': stands twice. Name each metric once.",
    ),
    "a target of one objective among several": (
        {"objectives": [{"metric": "loss", "target": 1.0}, {"metric": "size"}]},
        "spec.objectives[0].target: 1.0: is possible with one objective only. Remove it.",
    ),
    "no parameters": ({"parameters": []}, "spec.parameters: is empty. Name at least one parameter to search over."),
    "parameters that are no list": ({"parameters": {"x": {}}}, "spec.parameters: {'x': {}}: must be a list of parameters."),
    "an empty template": ({"template": {}}, "spec.template: needs exactly one of job, object."),
    "a template of two kinds": ({"template": {"job": {}, "object": {}}}, "spec.template: needs exactly one of job, object."),
    "a Job without containers": (
        {"template": {"job": {"spec": {}}}},
        f"{UNDER}: must be a list of at least one container. The fields are those of a Kubernetes Job.",
    ),
    "an unknown reporter": (
        {
            "template": {
                "job": {"spec": {"template": {"spec": {"containers": [{"name": "main"}]}}}},
                "reporter": {"container": "man"},
            }
        },
        "spec.template.reporter.container: 'man': is not the name of a container of the template. Did you mean 'main'?",
    ),
    "a pattern that is none": (
        {"metrics": {"logs": {"pattern": "("}}},
        "spec.metrics.logs.pattern: '(': is not a regular expression:",
    ),
    "a pattern that names no metric": (
        {"metrics": {"logs": {"pattern": "loss"}}},
        "spec.metrics.logs.pattern: 'loss': needs a named group for each metric, or the groups metric and value. For example",
    ),
    "a configuration of another space": (
        {"warmStart": {"configurations": [{"parameters": [{"name": "y", "value": "1"}]}]}},
        "spec.warmStart.configurations[0].y: '1': is not a parameter of this space. Known here: x.",
    ),
}


def written(tmp_path, manifest):
    path = tmp_path / "study.yaml"
    path.write_text(manifest if isinstance(manifest, str) else yaml.safe_dump(manifest))
    return path


def refused(path, capsys, *options):
    """The message with which a Study file is refused."""
    before = sorted(path.parent.rglob("*"))
    assert cli.main(["validate", str(path), *options]) == 2
    assert sorted(path.parent.rglob("*")) == before
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert options or not out
    return err


@pytest.mark.parametrize("what", WRONG)
def test_a_study_is_refused_for(what, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec, message = WRONG[what]
    path = written(tmp_path, manifest(REPORT, **copy.deepcopy(spec)))
    said = refused(path, capsys)
    assert message in said
    assert all(line.startswith("error: ") for line in said.splitlines())
    assert len(said.splitlines()) == (2 if "another space" in what else 1)
    for command in ("run", "plan"):  # nothing else takes it either, nor creates anything
        assert cli.main([command, str(path)]) == 2
        assert capsys.readouterr().err == said
    assert [each.name for each in tmp_path.iterdir()] == ["study.yaml"]


FILES = {
    "nothing": ("", "is empty"),
    "comments only": ("# to do\n---\n", "holds nothing but comments"),
    "two Studies": (json.dumps(manifest(REPORT)) + "\n---\n" + json.dumps(manifest(REPORT)), "holds 2 Studies, on lines 1 and 3"),
    "another kind": ("apiVersion: hpo.dev/v1alpha1\nkind: Stduy\nmetadata: {name: a}\n", "Write Study."),
    "another group": ("apiVersion: v1\nkind: Study\nmetadata: {name: a}\n", "Write hpo.dev/v1alpha1."),
    "a ConfigMap": ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "holds no Study, only ConfigMap"),
    "no spec": ("apiVersion: hpo.dev/v1alpha1\nkind: Study\nmetadata: {name: a}\n", "spec: must be a mapping"),
    "a name that is none": (json.dumps(manifest(REPORT, name="My Study")), "metadata.name: 'My Study': must be 1 to 50 lower-case"),
    "YAML that is none": ("apiVersion: [\n", "study.yaml:"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_is_refused_that_holds(what, tmp_path, capsys):
    text, message = FILES[what]
    assert message in refused(written(tmp_path, text), capsys)


def test_a_file_that_is_not_there_is_refused_with_the_nearest_name(tmp_path, capsys):
    written(tmp_path, "")
    assert "study.yml: there is no such file. Did you mean 'study.yaml'?" in refused(tmp_path / "study.yml", capsys)


def test_every_fault_of_a_study_is_told_at_once(tmp_path, capsys):
    spec = {"seed": -1, "parameters": [x(min=2)], "objectives": [{"metric": ""}]}
    paths = [line.split(": ")[1] for line in refused(written(tmp_path, manifest(REPORT, **spec)), capsys).splitlines()]
    assert sorted(paths) == ["spec.objectives[0].metric", "spec.parameters[0].float.min", "spec.seed"]


def test_faults_can_be_had_as_values(tmp_path, capsys):
    path = written(tmp_path, manifest(REPORT, parallelism="4"))
    assert cli.main(["validate", str(path), "-o", "json"]) == 2
    assert json.loads(capsys.readouterr().out) == {
        "valid": False,
        "faults": [{"path": "spec.parallelism", "value": "4", "rule": "must be a whole number", "remedy": "Take away the quotes."}],
    }
    assert cli.main(["validate", str(written(tmp_path, manifest(REPORT))), "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {"valid": True, "study": "tiny", "notes": []}


def test_more_places_than_trials_are_fine_and_worth_a_note(tmp_path, capsys):
    path = written(tmp_path, manifest(REPORT, parallelism=10))
    assert cli.main(["validate", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{path}: Study 'tiny' is valid.\n"
    assert err == "note: spec.parallelism: 10: only 3 Trials will ever run (limits.maxTrials).\n"


def test_a_study_without_an_end_is_worth_a_note():
    spec = read_study(manifest(REPORT, limits={})).spec
    assert notes(spec) == ["spec.limits: nothing ends this Study but its target or you; set maxTrials or deadlineSeconds."]
    grid = read_study(manifest(REPORT, limits={}, parameters=[KERNEL])).spec
    assert notes(grid) == []
    for schedule in ("hyperband", "halving"):
        bounded = {"schedule": {schedule: {"iterations": 1}}, "budget": {"max": 9}}
        assert notes(read_study(manifest(REPORT, limits={}, **bounded)).spec) == []
    assert notes(read_study(manifest(REPORT, limits={}, algorithm={"grid": {}})).spec) == []


def test_a_step_that_does_not_divide_its_range_is_worth_a_note():
    assert "steps of 0.3 from 0" in notes(read_study(manifest(REPORT, parameters=[x(step=0.3)])).spec)[0]


def test_the_error_carries_its_faults_for_programs():
    with pytest.raises(InvalidStudy) as caught:
        read_study(manifest(REPORT, parallelism="4"))
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("spec.parallelism", "4")


@pytest.mark.parametrize(
    "change",
    [{"parallelism": None}, {"limits": {"maxTrials": None}}, {"limits": None}, {"algorithm": {"tpe": {"startupTrials": None}}}],
    ids=str,
)
def test_null_is_the_same_as_leaving_a_field_with_a_default_out_as_on_the_server(change):
    bare = manifest(REPORT)
    for field in change:
        bare["spec"].pop(field, None)
    nulled = {**bare, "spec": {**bare["spec"], **change}}
    if "algorithm" in change:
        bare["spec"]["algorithm"] = {"tpe": {}}
    assert read_study(nulled).spec == read_study(bare).spec


def test_so_it_is_within_lists():
    """`hpo validate` refused `goal: null` and `weight: null`, which the API server takes."""
    terms = {"terms": [{"parameter": "x"}], "max": 1}
    bare = manifest(REPORT, objectives=[{"metric": "loss"}], parameterConstraints=[terms])
    nulled = copy.deepcopy(bare)
    nulled["spec"]["objectives"][0] |= {"goal": None, "aggregate": None}
    nulled["spec"]["parameterConstraints"][0]["terms"][0]["weight"] = None
    assert read_study(nulled).spec == read_study(bare).spec


def test_a_parameter_may_be_called_y_and_a_note_says_that_kubectl_needs_quotes(tmp_path, capsys):
    study = manifest(REPORT)
    study["spec"]["parameters"] = [x(), {"name": "SECOND", "float": {"min": 0, "max": 1}}]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study).replace("SECOND", "y"))
    assert cli.main(["validate", str(path)]) == 0
    assert "kubectl reads an unquoted y as true" in capsys.readouterr().err


def test_a_field_is_known_by_its_name_in_the_api_alone():
    study = manifest(REPORT)
    study["spec"]["limits"] = {"max_trials": 5}
    with pytest.raises(InvalidStudy, match=r"spec\.limits\.max_trials: .*Did you mean 'maxTrials'"):
        read_study(study)
