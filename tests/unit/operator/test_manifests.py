"""Manifests are read as kubectl reads them, and refused with a sentence that says where and how to mend them."""

import json
import math
import os
import pickle
from pathlib import Path

import pytest
import yaml
from hpo_algorithms import InvalidInput
from hpo_operator import _kubectl_yaml, manifests
from hpo_operator.manifests import MAX_BYTES, InvalidManifest, read_documents, read_file, study_document
from hypothesis import given
from hypothesis import strategies as st

from tests.testbed.lacking import lacking

CASES = json.loads((Path(__file__).parent / "data" / "kubectl_yaml.json").read_text(encoding="utf-8"))

# What kubectl reads, but not as it stands there: this reader refuses it and says why.
REFUSED_THOUGH_KUBECTL_READS_IT = {
    "the value !!timestamp 2001-12-14",
    "the value !!binary aGVsbG8=",
    "the value !color red",
    "the value !!set {a: , b: }",
    "the key 1.5",
    "the key 1e3",
    "the key .inf",
    "an end marker, then text",
    "a byte order mark after the first separator",
    "a byte order mark inside",
    "a key twice",
    "a key twice in a nested mapping",
    "a key twice in a flow mapping",
    "a key twice after conversion",
    "a JSON key twice",
    "half a JSON surrogate pair",
    "JSON objects after a byte order mark",
    "a separator after an old Macintosh line end",
}
# What kubectl takes for true and false: this reader keeps the text, which is what was meant, and tells so.
TEXT_THOUGH_KUBECTL_READS_A_BOOLEAN = {
    "the value y": [{"v": "y"}],
    "the value Y": [{"v": "Y"}],
    "the value n": [{"v": "n"}],
    "the value N": [{"v": "N"}],
    "the key y": [{"y": "v"}],
    "a flow mapping as YAML": [{"a": 1e-05, "b": ["x", "y"]}],
}
# Where PyYAML comes without libyaml, its own parser refuses more tabs.
REFUSED_WITHOUT_LIBYAML = {
    "the value a\tb",
    "the value \ta",
    "a tab after the colon",
    "a tab before a comment",
    "tabs in a flow mapping",
}


def values(text):
    """What stands in a text, whatever its documents are."""
    reading = manifests.Reading("study.yaml")
    found = [value for value, _ in manifests._values(text.replace("\r\n", "\n"), reading)]
    if reading.faults:
        raise InvalidManifest(reading.faults)
    return [value for value in found if value is not None]


def as_in_go(value):
    """JSON knows one kind of number; in Go it is an int64 where it fits and a float64 otherwise."""
    if isinstance(value, dict):
        return {key: as_in_go(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_in_go(each) for each in value]
    return float(value) if type(value) is int and not -(2**63) <= value < 2**63 else value


def same(left, right):
    return json.dumps(as_in_go(left), sort_keys=True) == json.dumps(as_in_go(right), sort_keys=True)


@pytest.fixture(params=["libyaml", "pure Python"])
def parser(request, monkeypatch):
    loader = {"libyaml": getattr(yaml, "CSafeLoader", None), "pure Python": yaml.SafeLoader}[request.param]
    if loader is None:
        lacking("PyYAML was built without libyaml")
    monkeypatch.setattr(_kubectl_yaml, "_LOADER", loader)
    return request.param


@pytest.mark.parametrize("case", CASES, ids=[case["name"][:60] for case in CASES])
def test_a_text_means_what_it_means_to_kubectl(case, parser):
    refused = "error" in case or case["name"] in REFUSED_THOUGH_KUBECTL_READS_IT
    if refused or (parser == "pure Python" and case["name"] in REFUSED_WITHOUT_LIBYAML):
        with pytest.raises(InvalidManifest, match=r"^study\.yaml:\d+:\d+: "):
            values(case["text"])
    else:
        assert same(values(case["text"]), TEXT_THOUGH_KUBECTL_READS_A_BOOLEAN.get(case["name"], case["documents"]))


def test_the_table_names_each_case_once_and_every_deliberate_refusal_is_in_it():
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)
    read_by_kubectl = {case["name"] for case in CASES if "error" not in case}
    assert read_by_kubectl >= REFUSED_THOUGH_KUBECTL_READS_IT | REFUSED_WITHOUT_LIBYAML
    assert read_by_kubectl >= TEXT_THOUGH_KUBECTL_READS_A_BOOLEAN.keys()


def test_an_unquoted_y_is_text_and_its_place_is_noted_for_kubectl_would_read_true():
    first, second = read_documents("a: 1\n---\nparameters:\n- name: y\n- name: 'n'\n", "study.yaml")
    assert second.data == {"parameters": [{"name": "y"}, {"name": "n"}]}
    (note,) = second.notes
    assert note.startswith("study.yaml:4:9: kubectl reads an unquoted y as true")
    assert not first.notes


# JSON

finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | st.text()
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5), max_leaves=8
)


def whole_like(found, value):
    """Whether `found` is `value` after a way through Go's JSON: equal numbers may differ in kind."""
    if isinstance(value, dict):
        return found.keys() == value.keys() and all(whole_like(found[key], each) for key, each in value.items())
    if isinstance(value, list):
        return len(found) == len(value) and all(map(whole_like, found, value))
    if isinstance(value, float):
        return math.isclose(found, value, rel_tol=1e-15, abs_tol=0) and not (
            isinstance(found, float) and abs(found) < 2**53 and found.is_integer()
        )
    return type(found) is type(value) and found == value


@given(st.dictionaries(st.text(), trees, max_size=3), st.sampled_from([None, 2]))
def test_what_is_written_as_JSON_is_read_as_it_was(data, indent):
    (document,) = read_documents(json.dumps(data, indent=indent), "study.json")
    assert whole_like(document.data, data)


@given(st.dictionaries(st.text(), trees, max_size=3), st.booleans())
def test_what_PyYAML_writes_with_every_value_tagged_and_quoted_is_read_as_it_was(data, allow_unicode):
    text = yaml.safe_dump(data, default_style='"', allow_unicode=allow_unicode)
    (document,) = read_documents(text, "study.yaml")
    assert whole_like(document.data, data)


pieces = st.sampled_from([*"{}[]:,-?&*!|>'\"%@#~1.ea \n\t", "---\n", "...\n", "<<: ", "a: ", "&x ", "*x", '{"a": 1}', "\r\n"])


@given(st.text() | st.lists(pieces).map("".join))
def test_whatever_stands_in_a_text_it_is_read_or_told_as_faults(text):
    try:
        read = read_documents(text, "study.yaml")
    except InvalidManifest as error:
        told = error.faults
    else:
        told = [document.data for document in read]
    assert told


# Documents

STUDY = "apiVersion: hpo.dev/v1alpha1\nkind: Study\nmetadata: {name: digits}\n"


def test_each_document_tells_its_file_and_the_line_on_which_it_begins():
    text = "# A comment\n---\n\na: 1\n---\n# c\nb: 2\n---\n---\nc: 3\n"
    documents = read_documents(text, "folder/many.yaml")
    assert [(each.data, each.source, each.line) for each in documents] == [
        ({"a": 1}, "folder/many.yaml", 4),
        ({"b": 2}, "folder/many.yaml", 7),
        ({"c": 3}, "folder/many.yaml", 10),
    ]
    objects = read_documents('{"a": 1}\n\n  {"b":\n2}\n\n{"c": 3}\n', "many.json")
    assert [(each.data, each.line) for each in objects] == [({"a": 1}, 1), ({"b": 2}, 3), ({"c": 3}, 6)]
    both = read_documents('{"a":\n1}\n---\nb: 2\n', "both.json")
    assert [(each.data, each.line) for each in both] == [({"a": 1}, 1), ({"b": 2}, 4)]


def test_an_alias_is_a_value_of_its_own():
    data = read_documents("a: &x {b: [1]}\nc: *x\nd: {<<: *x}\n", "study.yaml")[0].data
    data["a"]["b"].append(2)
    assert data["c"] == {"b": [1]}


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "study.yaml", "is empty. A Study begins with 'apiVersion: hpo.dev/v1alpha1' and 'kind: Study'"),
        ("# todo\n---\n", "study.yaml", "holds nothing but comments and blank lines"),
        ("a: 1\nb: 2\na: 3\n", "study.yaml:3:1", "'a': stands twice in one mapping, first on line 1. Take one of them away"),
        ("x: 1\n---\n- a\n", "study.yaml:3:1", "this document is a list; a manifest is a mapping of keys to values"),
        ("hello\n", "study.yaml:1:1", "'hello': this document is a single value"),
        ("kind:Study\n", "study.yaml:1:1", "Does a space lack after a ':'?"),
        ("a:\n\tb: 1\n", "study.yaml:2:1", "a tab stands where YAML takes only spaces. Indent by spaces"),
        ("a: 1\n  b: 2\n", "study.yaml:2:4", "a ':' stands where no key can. Quote what contains ': ', or mend the indentation"),
        ("a:\n    b: 1\n  c: 2\n", "study.yaml:3:3", "'c: 2': does not continue the mapping on line 1. Mend the indentation"),
        ("a: 1\nb\nc: 2\n", "study.yaml:2:1", "'b': has no ':' and value"),
        ("a: [1, 2\nb: 3\n", "study.yaml:2:2", "a '[' is opened on line 1 and not closed"),
        ("a:\n- b: 1\n  c: {d: 1\n", "study.yaml:3:1", "a '{' is opened on line 3 and not closed"),
        ('a: 1\nb: "c\nd: 2\n', "study.yaml:2:4", "a quote is opened here and not closed. Close it"),
        ("a: @b\n", "study.yaml:1:4", "a value cannot begin with @. Quote it"),
        ("a: 1\n---\nb: *c\n", "study.yaml:3:4", "'*c': refers to an anchor that does not stand above it in the same document"),
        ("a: 1\n--- b: 2\n", "study.yaml:2:4", "'b: 2': stands after a separator ('---'), where kubectl takes only a comment"),
        ("%YAML 1.2\n---\na: 1\n", "study.yaml:1:1", "take away directives ('%YAML')"),
        ("a: 1\n...\nb: 2\n", "study.yaml:3:1", "Separate documents by a line '---'"),
        ("max: .inf\n", "study.yaml:1:6", "'.inf': cannot stand in a manifest: Kubernetes keeps JSON"),
        ("0.5: x\n", "study.yaml:1:1", "'0.5': cannot be a key: it is not a string. Quote it"),
        ("a: !Ref b\n", "study.yaml:1:4", "'!Ref': is a tag that has no meaning in a manifest. Take it away"),
        ("a: b\x07\n", "study.yaml:1:5", "is an invisible character (U+0007), which cannot stand in a manifest. Take it out"),
        ('{"a": 1e999}', "study.yaml:1:1", "'1e999': is beyond the numbers that a program can hold"),
        ('{"a": 1}\n{"b": 2}\n{"c": ,}\n', "study.yaml:3:7", "this is no JSON, as all above it is: expecting value"),
    ],
)
def test_a_fault_tells_place_value_rule_and_remedy(text, place, words):
    with pytest.raises(InvalidManifest) as caught:
        read_documents(text, "study.yaml")
    assert caught.value.faults[0].path == place
    assert words in str(caught.value)


def test_independent_faults_of_a_file_are_told_together():
    with pytest.raises(InvalidManifest) as caught:
        read_documents("a: 1\na: 2\nb: .nan\n---\n- c\n", "study.yaml")
    assert [fault.path for fault in caught.value.faults] == ["study.yaml:2:1", "study.yaml:3:4", "study.yaml:5:1"]


def test_the_error_is_a_mistake_of_the_user_like_any_other_and_crosses_processes():
    with pytest.raises(InvalidInput) as caught:
        read_documents("- a\n", "study.yaml")
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, InvalidManifest)
    assert again.faults == caught.value.faults


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "the file holds more than 200,000 values, aliases counted each time. Split the file"),
        ("- " * 101 + "a\n", "nested more than 100 deep"),
        ("[" * 100_000, "nested more than 100 deep"),
        ('{"a": ' * 100_000, "nested more than 100 deep"),
        ('{"a": ' * 200 + "1" + "}" * 200, "nested more than 100 deep"),
        ("a: &a " + "[" * 60 + "]" * 60 + "\nb: " + "[" * 60 + "*a" + "]" * 60 + "\n", "nested more than 100 deep"),
        ("{}" * 1_500_000, "more than 200,000 values"),
        ("a\n---\n" * 600_000, "this document is a single value"),
        ("[" + "1," * 300_000 + "1]", "more than 200,000 values"),
        ('{"a": [' + "1," * 300_000 + "1]}", "more than 200,000 values"),
        ("a: " + "9" * 1_000_000 + "x\n---\n-", "this document is a list"),
        ("x" * (MAX_BYTES + 1), "is longer than 4,194,304 characters"),
    ],
    ids=lambda text: f"{text[:20]!r}, {len(text)} characters",
)
def test_a_text_made_to_exhaust_the_reader_is_refused(text, words):
    """In a second or two; a reader that goes back over what it has read would take days."""
    with pytest.raises(InvalidManifest) as caught:
        read_documents(text, "study.yaml")
    assert words in str(caught.value)


# Files


def test_a_file_is_read_by_its_path(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xef\xbb\xbfapiVersion: hpo.dev/v1alpha1\r\nkind: Study\r\n")
    (document,) = read_file(path)
    assert document.data == {"apiVersion": "hpo.dev/v1alpha1", "kind": "Study"}
    assert document.source == str(path)


def test_a_missing_file_is_told_with_the_one_that_was_meant(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(InvalidManifest, match=r"stduy\.yaml: there is no such file\. Did you mean 'study\.yaml'\?"):
        read_file(tmp_path / "stduy.yaml")
    with pytest.raises(InvalidManifest, match="there is no such file"):
        read_file(tmp_path / "nowhere" / "study.yaml")


def test_a_folder_is_told_with_the_manifests_in_it(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(InvalidManifest, match=r"is a directory, not a file\. Name one of its files: .*study\.yaml\.$"):
        read_file(tmp_path)


def test_what_cannot_be_read_is_told_with_the_reason(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(InvalidManifest, match=r"cannot be read: Not a directory\. Check its path and its permissions"):
        read_file(tmp_path / "study.yaml" / "more.yaml")
    with pytest.raises(InvalidManifest, match="cannot be read: embedded null byte"):
        read_file("study\0.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every file")
def test_a_file_without_read_permission_is_told_so(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    path.chmod(0)
    with pytest.raises(InvalidManifest, match="cannot be read: Permission denied"):
        read_file(path)


def test_each_fault_in_a_file_is_told_by_itself_and_not_as_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("a: 1\na: 2\n---\n- 3\n")
    with pytest.raises(InvalidManifest) as caught:
        read_file(path)
    assert [fault.path for fault in caught.value.faults] == [f"{path}:2:1", f"{path}:4:1"]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device without end")
def test_a_file_larger_than_4_MiB_is_refused_without_reading_all_of_it():
    with pytest.raises(InvalidManifest, match="is larger than 4 MiB, the most that a file of manifests may have"):
        read_file("/dev/zero")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\nb: caf\xe9\n", r"study\.yaml:2:7: is not UTF-8: a byte 0xe9 cannot stand here\. Save it as UTF-8"),
        ("a: 1\n".encode("utf-16"), r"study\.yaml: is UTF-16\. Save it as UTF-8"),
        (b"", r"study\.yaml: is empty"),
        (b"\x7fELF\x02\x01", r"study\.yaml:1:1: .* is an invisible character \(U\+007F\)"),
    ],
)
def test_a_file_that_is_no_text_in_UTF_8_is_told_so(tmp_path, content, words):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidManifest, match=words):
        read_file(path)


# The Study of a file


def pick(text):
    return study_document(read_documents(text, "study.yaml"), "study.yaml")


def test_the_Study_is_found_among_documents_of_other_kinds_and_these_are_counted():
    config = "apiVersion: v1\nkind: ConfigMap\n"
    study = pick(f"{config}---\n{STUDY}---\n{config}---\nno: kind\n")
    assert study.data["metadata"] == {"name": "digits"}
    assert (study.place, study.others) == ("study.yaml:4", 3)
    assert pick(STUDY).others == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "apiVersion: v1\nkind: ConfigMap\n---\napiVersion: v1\nkind: Secret\n---\nkind: Secret\n---\nx: 1\n",
            "study.yaml: holds no Study, only ConfigMap, Secret, a document without kind. "
            "A Study begins with 'apiVersion: hpo.dev/v1alpha1' and 'kind: Study'.",
        ),
        (
            f"{STUDY}---\n{STUDY}---\n{STUDY}",
            "study.yaml: holds 3 Studies, on lines 1, 5 and 9; exactly one is needed. Put each of them into a file of its own.",
        ),
        (
            "apiVersion: hpo.dev/v1\nkind: Study\n",
            "study.yaml:1: apiVersion: 'hpo.dev/v1': is a version that is not known here. Write hpo.dev/v1alpha1.",
        ),
        ("kind: Study\n", "study.yaml:1: apiVersion: is required. Write hpo.dev/v1alpha1."),
        (
            "apiVersion: hpo.io/v1alpha1\nkind: Study\n",
            "study.yaml:1: apiVersion: 'hpo.io/v1alpha1': is not the group of a Study. Write hpo.dev/v1alpha1.",
        ),
        ("apiVersion: hpo.dev/v1alpha1\nkind: study\n", "study.yaml:1: kind: 'study': is no kind of hpo.dev. Write Study."),
        ("apiVersion: hpo.dev/v1alpha1\nspec: {}\n", "study.yaml:1: kind: is required. Write Study."),
        (
            "apiVersion: hpo.dev/v1alpha1\nkind: Trial\n",
            "study.yaml:1: kind: 'Trial': is written by the operator alone. Name the file of its Study.",
        ),
        (
            "apiVersion: kubeflow.org/v1beta1\nkind: Experiment\n",
            "study.yaml:1: kind: 'Experiment': is Katib's, and cannot be read as a Study. "
            "`hpo convert study.yaml` prints it as a Study.",
        ),
    ],
)
def test_a_file_without_exactly_one_known_Study_is_refused_with_what_stands_there(text, message):
    with pytest.raises(InvalidManifest) as caught:
        pick(text)
    assert str(caught.value) == message
