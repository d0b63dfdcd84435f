"""A Study of a cluster and its Trials as kubectl prints them, for commands that else read the results folder of a run.

(kubectl get study digits -o json; kubectl get trials -l hpo.dev/study=digits -o json) | hpo lineage -
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from hpo_algorithms import Fault
from pydantic import ValidationError

from hpo_operator.local.store import open_for_reading
from hpo_operator.manifests import Document, InvalidManifest, read_given
from hpo_operator.resources import API_VERSION, Study, Trial
from hpo_operator.validation import faults_of

TIMES = 32  # as large as a file that people write: ten thousand Trials with their learning curves
EXPORT = "Write both: (kubectl get study {0} -o json; kubectl get trials -l hpo.dev/study={0} -o json)."


def open_run(where: Path) -> tuple[Study, list[Trial]]:
    """The Study and the Trials of a results folder, of a file that kubectl has printed, or of standard input where it is `-`.

    Raises StoreError for a folder that cannot be read, InvalidManifest for a file.
    """
    if str(where) == "-" or (os.path.exists(where) and not os.path.isdir(where)):  # a pipe, too, as a shell's <(…)
        documents = read_given(where, TIMES)
        return exported(documents, documents[0].source)
    return open_for_reading(where)


def exported(documents: Sequence[Document], source: str) -> tuple[Study, list[Trial]]:
    """The one Study among manifests, and its Trials by number; those of other Studies are left out.

    Raises InvalidManifest where there is no Study, more than one, no Trial of it, or one that cannot be read.
    """
    found = [(place, raw) for document in documents for place, raw in _objects(document)]
    studies = [(place, raw) for place, raw in found if _kind(raw) == "Study"]
    if len(studies) != 1:
        names = ", ".join(str(raw["metadata"].get("name")) for _, raw in studies)
        kinds = ", ".join(dict.fromkeys(str(raw.get("kind") or "an object without kind") for _, raw in found))
        what = f"{len(studies)} Studies ({names})" if studies else f"no Study, only {kinds or 'empty lists'}"
        _refuse(source, f"holds {what}; exactly one is needed, with its Trials", EXPORT.format("NAME"))
    study: Study = _read(*studies[0], Study)
    name, uid = study.metadata.name, study.metadata.uid
    trials = [_read(place, raw, Trial) for place, raw in found if _kind(raw) == "Trial" and _uid_of_study(raw) == uid]
    if not trials:
        _refuse(source, f"holds no Trial of the Study {name} (uid {uid or 'unknown'})", EXPORT.format(name))
    return study, sorted(trials, key=lambda trial: trial.spec.number)


def _objects(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a document, which may be a list of them, each with its place for messages."""
    items = document.data.get("items")
    if not str(document.data.get("kind")).endswith("List") or not isinstance(items, list):
        yield f"{document.place}: {document.data.get('kind')}", document.data
        return
    yield from ((f"{document.place}: items[{place}]", raw) for place, raw in enumerate(items) if isinstance(raw, dict))


def _kind(raw: dict[str, Any]) -> str:
    """The kind of one of our objects; empty for others, and for what has no metadata."""
    ours = raw.get("apiVersion") == API_VERSION and isinstance(raw.get("metadata"), dict)
    return str(raw.get("kind")) if ours else ""


def _uid_of_study(raw: dict[str, Any]) -> str | None:
    spec = raw.get("spec")
    owner = spec.get("studyRef") if isinstance(spec, dict) else None
    return owner.get("uid") if isinstance(owner, dict) else None


def _read(place: str, raw: dict[str, Any], kind: type[Any]) -> Any:
    try:
        return kind.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        remedy = "It was changed by hand, or written by another version: print it again with kubectl, or use that version."
        faults = [replace(fault, remedy=fault.remedy or remedy).under(place) for fault in faults_of(error, kind)]
        raise InvalidManifest(faults or [Fault(place, None, "cannot be read", remedy)]) from None


def _refuse(path: str, rule: str, remedy: str) -> NoReturn:
    raise InvalidManifest([Fault(path, None, rule, remedy)])
