"""Conditions: set like those of Kubernetes, and of the words that the design names."""

from __future__ import annotations

import functools
import json
import re

from hpo_operator import conditions as c
from hpo_operator.cluster import sources
from hpo_operator.resources import Condition
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.testbed.namespaces import ROOT
from tests.unit.operator.builders import at

STEADY = functools.partial(settings, deadline=None, derandomize=True)

WORD = re.compile(r"[A-Z][A-Za-z]*")


def test_a_condition_s_time_moves_with_its_status_only() -> None:
    found = c.put((), c.RUNNING, "False", c.CREATING, "", at(0))
    found = c.put(found, c.RUNNING, "False", c.IMAGE_PULL, "ErrImagePull", at(10))
    assert found[0].last_transition_time == at(0)
    assert (found[0].reason, found[0].message) == (c.IMAGE_PULL, "ErrImagePull")
    found = c.put(found, c.RUNNING, "True", c.PODS_ACTIVE, "", at(20))
    assert found[0].last_transition_time == at(20)


def test_setting_what_stands_changes_nothing() -> None:
    found = c.put((), c.RUNNING, "True", c.PODS_ACTIVE, "", at(0), 3)
    assert c.put(found, c.RUNNING, "True", c.PODS_ACTIVE, "", at(99), 3) == found


def test_conditions_keep_their_places_and_the_others() -> None:
    found = c.put(c.put((), c.RUNNING, "True", "A", "", at(0)), c.SUCCEEDED, "Unknown", "B", "", at(0))
    found = c.put(found, c.RUNNING, "False", "C", "", at(1))
    assert [(each.type, each.reason) for each in found] == [(c.RUNNING, "C"), (c.SUCCEEDED, "B")]


def test_what_has_not_been_set_has_no_reason() -> None:
    assert c.condition((), c.RUNNING) is None
    assert c.reason((), c.RUNNING) == ""


@STEADY()
@given(st.text(st.characters()) | st.text(st.characters(categories=["Cs", "Cc", "L"])))
def test_any_text_becomes_a_message_that_the_api_can_take(text: str) -> None:
    (found,) = c.put((), c.RUNNING, "False", c.CREATING, text, at(0))
    assert len(found.message) <= c.MAX_MESSAGE
    assert Condition.model_validate_json(found.model_dump_json()) == found
    json.dumps(found.message).encode()


def test_what_to_do_about_every_reason_stands_in_the_page_on_troubleshooting() -> None:
    types = {c.ACCEPTED, c.PROGRESSING, c.METRICS_AVAILABLE, c.SUCCEEDED, c.RUNNING}
    reasons = {value for name, value in vars(c).items() if name.isupper() and isinstance(value, str)} - types
    assert len(reasons) > 40
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert reasons - {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set()


def test_what_every_reason_of_a_source_of_metrics_means_stands_in_the_page_on_metrics() -> None:
    reasons = {value for value in vars(sources).values() if isinstance(value, str) and WORD.fullmatch(value)}
    assert len(reasons) == 6
    rows = re.findall(r"^\| \w+ \| `(\w+)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert reasons == set(rows)


def test_every_reason_is_one_word_and_stands_in_one_group_only() -> None:
    words = [value for name, value in vars(c).items() if name.isupper() and isinstance(value, str)]
    assert all(WORD.fullmatch(word) for word in words)
    groups = [c.GIVEN_UP, c.WAITS, c.FAILURES, c.INFEASIBILITIES, c.FREED, c.REJECTIONS, c.RAISABLE]
    assert sum(map(len, groups)) == len(frozenset().union(*groups))
    assert c.LOSSES < c.GIVEN_UP
