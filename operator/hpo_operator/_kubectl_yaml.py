"""One YAML document as kubectl reads it, or a fault for each thing to mend.

kubectl turns YAML into JSON by sigs.k8s.io/yaml, which knows YAML 1.1 in Go's own way: `1e-5` and `0o17` are numbers, `yes` and
`on` are booleans, `1:30` and dates are strings, a merge key takes effect where it stands. What comes back here is what the API
server would see: whole numbers of 64 bits are int (1.0 too, for Go writes it as 1), all others float. The table in
tests/unit/operator/data/kubectl_yaml.json holds what kubectl's own modules answer.

Where kubectl would silently lose or alter what was written, this reader is stricter: it refuses a key that stands twice, text after
an end marker, a float as a key, an unknown tag. And in one thing it is kinder: `y` and `n`, which kubectl takes for true and false,
are the strings that whoever names a parameter `y` means; a note says that on a cluster they need quotes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NoReturn

import yaml
from hpo_algorithms import Fault, InvalidInput

MAX_VALUES = 200_000  # scalars, lists and mappings of a file, aliases counted each time: an alias bomb has billions
MAX_DEPTH = 100  # lists and mappings within each other; keeps every later recursion within Python's limit
MAX_FAULTS = 20  # told at once
TOO_DEEP = f"lists and mappings are nested more than {MAX_DEPTH} deep"

Value = object  # None, bool, int, float, str, or a list or dict of such


class InvalidManifest(InvalidInput):
    """A file that cannot be read as manifests, or that does not hold exactly one Study."""


class Reading:
    """What is found while one file is read: its faults, and how many values it holds so far, of how many at most."""

    def __init__(self, source: str, most: int = MAX_VALUES) -> None:
        self.source, self.most = source, most
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.values = 0

    @property
    def too_many(self) -> str:
        """What is said of a file with more values than that."""
        return f"from here on the file holds more than {self.most:,} values, aliases counted each time"

    def fault(self, line: int, column: int, value: object, rule: str, remedy: str = "") -> None:
        self.faults.append(Fault(f"{self.source}:{line}:{column}", value, rule, remedy))
        if len(self.faults) == MAX_FAULTS:
            raise InvalidManifest(self.faults)

    def note(self, line: int, column: int, text: str) -> None:
        """Tell what can be read, but means something else to kubectl."""
        self.notes.append(f"{self.source}:{line}:{column}: {text}")

    def fail(self, line: int, column: int, value: object, rule: str, remedy: str = "") -> NoReturn:
        """Tell a fault beyond which nothing can be read."""
        self.fault(line, column, value, rule, remedy)
        raise InvalidManifest(self.faults)


def parse(text: str, above: int, reading: Reading) -> tuple[Value, int] | None:
    """The value of a document and the line on which it begins, from 1; None where it is empty.

    `above` is the number of lines that stand above the text in its file.
    """
    text = text.removeprefix("\ufeff")
    _refuse_controls(text, above, reading)
    document = _Document(text, above, reading)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            document.take(event)
    except yaml.MarkedYAMLError as error:
        mark = _mark(error)
        lines = text.split("\n")
        row = min(mark.line, max(len(lines) - 2, 0))  # what is not closed is missed only below the last line
        rule, remedy = _sentence(error, lines[row][mark.column : mark.column + 1] if row == mark.line else "", above)
        reading.fail(above + row + 1, mark.column + 1 if row == mark.line else 1, lines[row].strip() or None, rule, remedy)
    return None if document.line is None else (document.value, document.line)


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _refuse_controls(text: str, above: int, reading: Reading) -> None:
    if found := _CONTROL.search(text):
        row, start = text.count("\n", 0, found.start()), text.rfind("\n", 0, found.start())
        rule = f"is an invisible character (U+{ord(found[0]):04X}), which cannot stand in a manifest"
        reading.fail(above + row + 1, found.start() - start, found[0], rule, "Take it out.")


# Scalars

_LETTERS = {"y": "true", "Y": "true", "n": "false", "N": "false"}
_WORDS: dict[str, Any] = {
    word: value
    for value, words in (
        (True, "yes Yes YES true True TRUE on On ON"),
        (False, "no No NO false False FALSE off Off OFF"),
        (None, "~ null Null NULL"),
        (math.nan, ".nan .NaN .NAN"),
        (math.inf, ".inf .Inf .INF +.inf +.Inf +.INF"),
        (-math.inf, "-.inf -.Inf -.INF"),
    )
    for word in words.split()
} | {"": None}
_INT = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_FLOAT_FROM_POINT = re.compile(r"\.[0-9]+(_[0-9]+)*([eE][-+]?[0-9]+(_[0-9]+)*)?")
_LONGEST_INT = 80  # characters: 64 bits in base 2 and some zeros


def plain(text: str) -> Value:
    """The value of a scalar that has neither quotes nor a tag."""
    if text in _WORDS:
        return _WORDS[text]
    number: float | None = None
    if text[0] in "+-0123456789":
        digits = text.replace("_", "")
        number = _whole(digits)
        if number is None and _FLOAT.fullmatch(digits):
            number = float(digits)
    elif _FLOAT_FROM_POINT.fullmatch(text):
        number = float(text)
    return text if number is None or abs(number) == math.inf else number


def settled(number: float) -> int | float:
    """A finite number as it comes out of the JSON that Go writes: in its shortest digits, and whole where it has no fraction."""
    if isinstance(number, int):
        whole = number
    elif number.is_integer() and abs(number) < 1e21:
        whole = int(Decimal(repr(number)))
    else:
        return number
    return whole if -(2**63) <= whole < 2**63 else float(whole)


def _whole(digits: str) -> int | float | None:
    """Go's ParseInt, then ParseUint: beyond 64 bits nothing is a whole number, and what needs the 64th is a float in JSON."""
    match = _INT.fullmatch(digits) if len(digits) <= _LONGEST_INT else None
    if match is None:
        return None
    sign, *parts = match.groups()
    value = next(int(part, base) for part, base in zip(parts, (16, 2, 8, 10), strict=True) if part is not None)
    value = -value if sign == "-" else value
    if -(2**63) <= value < 2**63:
        return value
    return float(value) if not sign and value < 2**64 else None


# Values out of the parser's events

_TAG = "tag:yaml.org,2002:"
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)}


@dataclass(slots=True)
class _Anchor:
    """What an alias stands for; open until its end is reached, for what lies between cannot refer to it."""

    open: bool = True
    value: Value = None
    size: int = 1
    height: int = 0


@dataclass(slots=True)
class _Frame:
    """A list or mapping under construction, and what is known of the next value in it."""

    value: list[Value] | dict[str, Value]
    anchor: _Anchor | None
    before: int  # values read before it
    height: int = 1
    key: str | None = None
    merging: bool = False
    lines: dict[str, int] = field(default_factory=dict)  # of the keys that were written in this mapping itself

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None and not self.merging


class _Document:
    """Takes the events of one document, in order, and builds its value without recursion."""

    def __init__(self, text: str, above: int, reading: Reading) -> None:
        self.value: Value = None
        self.line: int | None = None
        self._text = text
        self._above = above
        self._reading = reading
        self._stack: list[_Frame] = []
        self._anchors: dict[str, _Anchor] = {}

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.NodeEvent):
            self.line = self.line or self._place(event)[0]
            self._node(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end(event)
        elif isinstance(event, yaml.DocumentStartEvent) and self.line is not None:
            self._fail(
                event, None, "another document begins here, which kubectl does not read", "Separate documents by a line '---'."
            )

    def _place(self, event: Any) -> tuple[int, int]:
        return self._above + event.start_mark.line + 1, event.start_mark.column + 1

    def _fault(self, event: Any, value: object, rule: str, remedy: str = "") -> None:
        self._reading.fault(*self._place(event), value, rule, remedy)

    def _fail(self, event: Any, value: object, rule: str, remedy: str = "") -> NoReturn:
        self._reading.fail(*self._place(event), value, rule, remedy)

    def _node(self, event: Any) -> None:
        """A scalar, an alias, or the beginning of a list or mapping."""
        if isinstance(event, yaml.AliasEvent):
            known = self._alias(event)
            self._count(event, known.size, known.height)
            self._put(event, _copy(known.value), known.height)
            return
        self._count(event, 1, 0)
        anchor = _Anchor() if event.anchor is not None else None
        if anchor is not None:
            self._anchors[event.anchor] = anchor
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
            if anchor is not None:
                anchor.open, anchor.value = False, value
            self._put(event, value, 0)
            return
        if self._stack and self._stack[-1].wants_key:
            self._fail(event, None, "a list or mapping stands where a key is expected", "A key must be a string.")
        if event.tag not in (None, "!", f"{_TAG}map", f"{_TAG}seq"):
            self._refuse_tag(event)
        mapping = isinstance(event, yaml.MappingStartEvent)
        self._stack.append(_Frame({} if mapping else [], anchor, self._reading.values - 1))

    def _end(self, event: Any) -> None:
        frame = self._stack.pop()
        if frame.anchor is not None:
            frame.anchor.open, frame.anchor.value = False, frame.value
            frame.anchor.size, frame.anchor.height = self._reading.values - frame.before, frame.height
        self._put(event, frame.value, frame.height)

    def _put(self, event: Any, value: Value, height: int) -> None:
        """A value that is complete goes where the innermost list or mapping wants it."""
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.wants_key:
            self._key(event, frame, value)
            return
        if isinstance(value, float):
            value = self._number(event, value)
        if frame is None:
            self.value = value
            return
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.merging:
            frame.value.update(self._merged(event, value))
            frame.merging = False
        elif frame.key is not None:
            frame.value[frame.key] = value
            frame.key = None

    def _count(self, event: Any, size: int, height: int) -> None:
        self._reading.values += size
        if self._reading.values > self._reading.most:
            self._fail(event, None, self._reading.too_many, "Split the file.")
        if len(self._stack) + height > MAX_DEPTH:
            self._fail(event, None, TOO_DEEP)

    def _alias(self, event: Any) -> _Anchor:
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            rule = f"refers to an anchor that does not stand above it in the same document (&{event.anchor})"
            self._fail(event, f"*{event.anchor}", rule, "Quote it to mean the text.")
        if anchor.open:
            self._fail(event, f"*{event.anchor}", "stands inside the value that it refers to")
        return anchor

    def _scalar(self, event: Any) -> Value:
        text: str = event.value
        if event.style == '"':
            self._refuse_escapes(event)
        if event.tag is None:
            if not event.implicit[0]:
                return text
            if text in _LETTERS:
                rule = f"kubectl reads an unquoted {text} as {_LETTERS[text]}, here it is the text"
                self._reading.note(*self._place(event), f"{rule}. Quote it for use on a cluster: '{text}'.")
            return plain(text)
        if event.tag in ("!", f"{_TAG}str", f"{_TAG}merge"):
            return text
        name = event.tag.removeprefix(_TAG)
        if name not in _TYPES:
            self._refuse_tag(event)
            return text
        value = plain(text)
        if not isinstance(value, _TYPES[name]) or (isinstance(value, bool) and name != "bool"):
            self._fault(event, text, f"is no !!{name}, which its tag says it is", "Take the tag away.")
        return value

    def _refuse_escapes(self, event: Any) -> None:
        """What the parser takes in double quotes and kubectl does not."""
        written = self._text[event.start_mark.index : event.end_mark.index]
        if "/" in event.value and (found := _SLASH.search(written)) and found[1]:
            self._fault(event, "\\/", *_NO_ESCAPE)
        if _SURROGATE.search(event.value):
            self._fault(event, written, *_NO_CHARACTER)

    def _refuse_tag(self, event: Any) -> None:
        self._fault(event, event.tag.replace(_TAG, "!!"), "is a tag that has no meaning in a manifest", "Take it away.")

    def _number(self, event: Any, number: float) -> int | float | None:
        if math.isfinite(number):
            return settled(number)
        shown = getattr(event, "value", str(number))
        rule = "cannot stand in a manifest: Kubernetes keeps JSON, which has neither infinity nor NaN"
        self._fault(event, shown, rule, "Write a finite number, or quote it to mean the text.")
        return None

    def _key(self, event: Any, frame: _Frame, value: Value) -> None:
        if getattr(event, "value", None) == "<<" and (event.implicit[0] or event.tag == f"{_TAG}merge"):
            frame.merging = True
            return
        match value:
            case bool():
                key = "true" if value else "false"
            case int() | str():
                key = str(value)
            case _:
                key = getattr(event, "value", str(value))
                self._fault(event, key, "cannot be a key: it is not a string", "Quote it.")
        if key in frame.lines:
            rule = f"stands twice in one mapping, first on line {frame.lines[key]}"
            self._fault(event, key, rule, "Take one of them away.")
        frame.lines.setdefault(key, self._place(event)[0])
        frame.key = key

    def _merged(self, event: Any, value: Value) -> dict[str, Value]:
        if isinstance(value, dict):
            return value
        merged: dict[str, Value] = {}
        if isinstance(value, list) and not isinstance(event, yaml.AliasEvent) and all(isinstance(each, dict) for each in value):
            for each in reversed(value):
                merged.update(each)
        else:
            self._fault(event, None, "'<<' merges a mapping, an alias of one, or a list of these, and nothing else")
        return merged


def _copy(value: Value) -> Value:
    """Each alias is a value of its own, so that changing one place of a manifest changes no other."""
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list) else value


# From the parser's words to a sentence

_SLASH = re.compile(r"(?:[^\\]|\\[^/])*(\\/)?")
_NO_ESCAPE = ("is an escape that double quotes do not know", "Write '\\\\' for a backslash, or use single quotes.")
_NO_CHARACTER = ("stands for no character", "Write the character itself.")

_TABS = ("a tab stands where YAML takes only spaces", "Indent by spaces.")
_SENTENCES = (
    # what the parser says, the rule, the remedy
    ("maximum nesting depth", TOO_DEEP, ""),
    ("unknown escape", "holds an escape that double quotes do not know", "Write '\\\\' for a backslash, or use single quotes."),
    ("escape code", "holds an escape that stands for no character", "Write the character itself."),
    ("mapping values are not allowed", "a ':' stands where no key can", "Quote what contains ': ', or mend the indentation."),
    ("could not find expected ':'", "has no ':' and value", "Write 'key: value'."),
    ("quoted scalar", "a quote is opened here and not closed", "Close it."),
    ("flow sequence", "a '[' is opened{since} and not closed, or a ',' is missing", "Close it by ']'."),
    ("flow mapping", "a '{{' is opened{since} and not closed, or a ',' is missing", "Close it by '}}'."),
    ("<document start>", "no document can begin here", "Separate documents by a line '---'; take away directives ('%YAML')."),
    ("sequence entries are not allowed", "a list cannot begin here", "Give each '- ' a line of its own below the key."),
    ("undefined tag handle", "a tag here has an unknown prefix", "Take the tag away, or quote the value."),
    ("block mapping", "does not continue the mapping{since}", "Mend the indentation, or quote what holds special characters."),
    ("block collection", "does not continue the list{since}", "Mend the indentation; every entry begins with '- '."),
)
_TOLD_AT_THE_BEGINNING = ("could not find expected ':'", "found unexpected end of stream")


def _mark(error: yaml.MarkedYAMLError) -> yaml.Mark:
    """Where to look: what is never closed is missed far below, so that its beginning tells more."""
    earlier = error.context_mark if error.problem in _TOLD_AT_THE_BEGINNING else None
    mark = earlier or error.problem_mark or error.context_mark
    assert mark is not None
    return mark


def _sentence(error: yaml.MarkedYAMLError, character: str, above: int) -> tuple[str, str]:
    """A rule and a remedy, as a Fault wants them; `character` is the one at which the parser stopped."""
    said = f"{error.problem} {error.context}"
    if "tab character" in said or (character == "\t" and "cannot start any token" in said):
        return _TABS
    if "cannot start any token" in said:
        return f"a value cannot begin with {character}", "Quote it."
    since = f" on line {above + error.context_mark.line + 1}" if error.context_mark is not None else ""
    for words, rule, remedy in _SENTENCES:
        if words in said:
            return rule.format(since=since), remedy.format()
    return f"this is no YAML: {error.problem or error.context}", ""
