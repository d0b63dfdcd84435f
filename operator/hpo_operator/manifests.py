"""Files of manifests, read as kubectl reads them, and the one Study that a file is about.

YAML as kubectl reads it is not quite YAML: `_kubectl_yaml` knows the values. Here stands how a file is cut into documents: it is
JSON as long as it can be, then YAML, separated by lines that begin with `---`.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from hpo_algorithms import Fault
from hpo_algorithms.errors import nearest

from hpo_operator import _kubectl_yaml
from hpo_operator._kubectl_yaml import MAX_DEPTH, MAX_VALUES, TOO_DEEP, InvalidManifest, Reading, Value
from hpo_operator.resources import API_VERSION, GROUP

__all__ = [
    "MAX_BYTES",
    "Document",
    "InvalidManifest",
    "is_experiment",
    "read_documents",
    "read_file",
    "read_given",
    "read_stream",
    "study_document",
]

MAX_BYTES = 4 * 2**20  # more than twice what etcd takes for one object
KIND = "Study"


@dataclass(frozen=True, slots=True)
class Document:
    """One manifest, the name of the file that it comes from, and the line on which it begins there, from 1."""

    data: dict[str, Any]
    source: str
    line: int
    others: int = 0  # documents of other kinds beside it, once it is picked as the Study
    notes: tuple[str, ...] = ()  # what means something else to kubectl

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.source}:{self.line}"


def read_file(path: str | Path, times: int = 1) -> list[Document]:
    """The documents of a YAML or JSON file. Raises InvalidManifest with every fault found, at least one where it holds nothing.

    `times` says how many times as large it may be as what people write.
    """
    source = str(path)
    try:
        with Path(path).open("rb") as file:
            return read_stream(file, source, times)
    except InvalidManifest:
        raise  # is a ValueError, too
    except FileNotFoundError:
        _refuse(source, "there is no such file", _neighbours(Path(path)))
    except IsADirectoryError:
        _refuse(source, "is a directory, not a file", _inside(Path(path)))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        _refuse(source, f"cannot be read: {reason}", "Check its path and its permissions.")


def read_given(path: str | Path, times: int = 1) -> list[Document]:
    """The same, or the documents of standard input where the path is `-`."""
    return read_stream(sys.stdin.buffer, "standard input", times) if str(path) == "-" else read_file(path, times)


def read_stream(file: BinaryIO, source: str, times: int = 1) -> list[Document]:
    """The documents of an open file. Raises InvalidManifest as `read_file` does."""
    content, most = file.read(times * MAX_BYTES + 1), times * MAX_BYTES
    if len(content) > most:
        _refuse(source, f"is larger than {most // 2**20} MiB, the most that a file of manifests may have", "Split the file.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        what = "is UTF-16" if wide else f"is not UTF-8: a byte 0x{content[error.start]:02x} cannot stand here"
        _refuse(source if wide else f"{source}:{line}:{column}", what, "Save it as UTF-8.")
    return read_documents(text, source, times)


def read_documents(text: str, source: str, times: int = 1) -> list[Document]:
    """The documents of a text, empty ones left out; `source` is the name that messages tell.

    Raises InvalidManifest with every fault found, at least one where there is no document.
    """
    reading, most = Reading(source, times * MAX_VALUES), times * MAX_BYTES
    if len(text) > most:
        _refuse(source, f"is longer than {most:,} characters", "Split it.")
    documents: list[Document] = []
    for value, line in _values(text.replace("\r\n", "\n"), reading):
        notes, reading.notes = tuple(reading.notes), []
        if isinstance(value, dict):
            documents.append(Document(value, source, line, notes=notes))
        elif value is not None:
            what = "a list" if isinstance(value, list) else "a single value"
            remedy = "Does a space lack after a ':'?" if isinstance(value, str) and ":" in value else ""
            shown = None if isinstance(value, list) else value
            reading.fault(line, 1, shown, f"this document is {what}; a manifest is a mapping of keys to values", remedy)
    if reading.faults:
        raise InvalidManifest(reading.faults)
    if not documents:
        rule = "holds nothing but comments and blank lines" if text.strip("\ufeff \n") else "is empty"
        _refuse(source, rule, f"A Study begins with 'apiVersion: {API_VERSION}' and 'kind: {KIND}'.")
    return documents


def study_document(documents: Sequence[Document], source: str) -> Document:
    """The one Study among the documents of a file; `others` tells how many documents of other kinds stand beside it.

    Raises InvalidManifest where there is none, more than one, or one of an unknown version.
    """
    studies = [each for each in documents if _group(each) == GROUP and each.data.get("kind") == KIND]
    if not studies:
        raise InvalidManifest(_missing(documents, source))
    if len(studies) > 1:
        lines = ", ".join(str(each.line) for each in studies[:-1])
        rule = f"holds {len(studies)} Studies, on lines {lines} and {studies[-1].line}; exactly one is needed"
        _refuse(source, rule, "Put each of them into a file of its own.")
    study = studies[0]
    if study.data["apiVersion"] != API_VERSION:
        rule = "is a version that is not known here"
        raise InvalidManifest([Fault(f"{study.place}: apiVersion", study.data["apiVersion"], rule, f"Write {API_VERSION}.")])
    return replace(study, others=len(documents) - 1)


def is_experiment(document: Document) -> bool:
    """Whether it is an Experiment of Katib's."""
    return document.data.get("kind") == "Experiment" and _group(document) == "kubeflow.org"


# Documents out of text


def _values(text: str, reading: Reading) -> Iterator[tuple[Value, int]]:
    """The value of each document and its line. JSON objects may follow each other without a separator."""
    start = 0
    if text.lstrip().startswith("{"):
        objects, start = _objects(text, reading)
        yield from objects
        _refuse_rest(text, start, reading)
    for part, above in _parts(text, start, reading):
        if (found := _kubectl_yaml.parse(part, above, reading)) is not None:
            yield found


def _parts(text: str, start: int, reading: Reading) -> Iterator[tuple[str, int]]:
    """The parts of a YAML text between separators, each with the number of lines above it."""
    above = text.count("\n", 0, start)
    part: list[str] = []
    for number, line in enumerate(text[start:].removesuffix("\n").split("\n"), start=above):
        if line.startswith("---"):
            after = line[3:].strip()
            if after and not after.startswith("#"):
                remedy = "Put it on the next line."
                reading.fail(number + 1, 4, after, "stands after a separator ('---'), where kubectl takes only a comment", remedy)
            if part:
                yield "\n".join(part) + "\n", above
                part, above = [], number + 1
                continue
        part.append(line)
    if part:
        yield "\n".join(part) + "\n", above


def _objects(text: str, reading: Reading) -> tuple[list[tuple[Value, int]], int]:
    """The JSON values at the beginning of a text, and where in it YAML begins: a single one may turn out to be YAML after all."""
    found: list[tuple[Value, int]] = []
    position = seen = margin = 0
    line = 1
    while (start := _next_ink(text, position)) < len(text):
        line += text.count("\n", seen, start)
        margin = max(margin, text.rfind("\n", seen, start) + 1)
        column, seen = start - margin + 1, start
        strict = _StrictJSON()
        try:
            value, position = strict.raw_decode(text, start)
        except RecursionError:
            reading.fail(line, column, None, TOO_DEEP)
        except ValueError as error:
            if len(found) > 1:
                at = (error.lineno, error.colno) if isinstance(error, json.JSONDecodeError) else (line, column)
                said = str(error).partition(":")[0]
                reading.fail(*at, None, f"this is no JSON, as all above it is: {said[:1].lower()}{said[1:]}")
            return found, position
        for refused, rule, remedy in strict.faults:
            reading.fault(line, column, refused, rule, remedy)
        _measure(value, line, column, reading)
        found.append((value, line))
    return found, len(text)


def _next_ink(text: str, position: int) -> int:
    """Where the next character stands that is not one of JSON's blanks."""
    match = _INK.search(text, position)
    return match.start() if match else len(text)


_INK = re.compile(r"[^ \t\n\r]")


def _refuse_rest(text: str, start: int, reading: Reading) -> None:
    """After a JSON object only a comment may fill its line; what kubectl makes of anything else is an accident."""
    rest = text[start:].partition("\n")[0].strip()
    if start and rest and not rest.startswith("#"):
        line, column = text.count("\n", 0, start) + 1, text.index(rest, start) - text.rfind("\n", 0, start)
        reading.fail(line, column, rest, "stands after a JSON object", "Separate documents by a line '---'.")


class _StrictJSON(json.JSONDecoder):
    """JSON as Go reads it, with numbers as the API server sees them; remembers what must be refused."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object, parse_float=self._number, parse_int=self._number, parse_constant=_no_json)
        self.faults: list[tuple[object, str, str]] = []

    def _object(self, pairs: list[tuple[str, Value]]) -> dict[str, Value]:
        data = dict(pairs)
        if len(data) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            self.faults.append((twice, "stands twice in one object of this document", "Take one of them away."))
        return data

    def _number(self, text: str) -> int | float:
        number = float(text) if len(text) > 20 or not text.lstrip("-").isdigit() else int(text)
        if math.isinf(number):
            self.faults.append((text, "is beyond the numbers that a program can hold", ""))
            return 0
        return _kubectl_yaml.settled(number)


def _no_json(text: str) -> NoReturn:
    raise ValueError(f"it has no {text}")


def _measure(value: Value, line: int, column: int, reading: Reading) -> None:
    """Count the values of a JSON document and refuse what is too much, too deep, or half a character."""
    level: list[Value] = [value]
    depth = 0
    while level:
        reading.values += len(level)
        depth += 1
        if reading.values > reading.most:
            reading.fail(line, column, None, reading.too_many, "Split the file.")
        if depth > MAX_DEPTH + 1:
            reading.fail(line, column, None, TOO_DEEP)
        inner: list[Value] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
                inner += (key for key in each if not key.isascii())
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str) and not each.isascii() and _SURROGATE.search(each):
                reading.fault(line, column, each, "holds half of a surrogate pair, which is no character", "Write both halves.")
        level = inner


_SURROGATE = re.compile("[\ud800-\udfff]")


# Refusals


def _refuse(path: str, rule: str, remedy: str = "") -> NoReturn:
    raise InvalidManifest([Fault(path, None, rule, remedy)])


def _neighbours(path: Path) -> str:
    """The manifest that was probably meant."""
    names = _manifests_in(path.parent)
    remedy = nearest(path.name, names)
    return remedy if remedy.startswith("Did") or len(names) <= 5 else ""


def _inside(path: Path) -> str:
    names = [str(path / name) for name in _manifests_in(path)]
    return f"Name one of its files: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}." if names else "Name a file."


def _manifests_in(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.suffix in (".yaml", ".yml", ".json"))
    except OSError:
        return []


def _group(document: Document) -> str | None:
    version = document.data.get("apiVersion")
    return version.partition("/")[0] if isinstance(version, str) and "/" in version else None


def _missing(documents: Sequence[Document], source: str) -> list[Fault]:
    """Why no document is a Study: for each one that was probably meant as one what to mend, else the kinds that were found."""
    if faults := [fault for each in documents for fault in _meant(each)]:
        return faults
    kinds = [str(each.data.get("kind") or "a document without kind") for each in documents]
    rule = f"holds no Study, only {', '.join(dict.fromkeys(kinds))}"
    return [Fault(source, None, rule, f"A Study begins with 'apiVersion: {API_VERSION}' and 'kind: {KIND}'.")]


def _meant(document: Document) -> Iterator[Fault]:
    """What to mend in a document that looks like a Study, and is none."""
    kind, version = document.data.get("kind"), document.data.get("apiVersion")
    if is_experiment(document):
        remedy = f"`hpo convert {document.source}` prints it as a Study."
        yield Fault(f"{document.place}: kind", kind, "is Katib's, and cannot be read as a Study", remedy)
    elif kind == KIND:
        rule = "is required" if version is None else "is not the group of a Study"
        yield Fault(f"{document.place}: apiVersion", version, rule, f"Write {API_VERSION}.")
    elif kind == "Trial" and _group(document) == GROUP:
        yield Fault(f"{document.place}: kind", kind, "is written by the operator alone", "Name the file of its Study.")
    elif _group(document) == GROUP or (kind is not None and nearest(kind, [KIND]).startswith("Did")):
        rule = "is required" if kind is None else f"is no kind of {GROUP}"
        yield Fault(f"{document.place}: kind", kind, rule, f"Write {KIND}.")
