"""How long a result is waited for, and what a Study says of its source of metrics."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hpo_operator import conditions as c
from hpo_operator.cluster.sources import Source, is_scraped

from tests.unit.operator.builders import START, at

INTERVAL = timedelta(seconds=15)
SOURCE = Source(configured=True)
STANDING = c.condition(c.put((), c.METRICS_AVAILABLE, "True", "SourceAnswers", "", START), c.METRICS_AVAILABLE)


def down(since: float, until: float, source: Source = SOURCE) -> Source:
    """After questions each interval that were not answered."""
    for seconds in range(int(since), int(until) + 1, 15):
        source = source.failed(at(seconds), f"no answer at {seconds}", refused=False)
    return source


@pytest.mark.parametrize(
    ("source", "more"),
    [
        (Source(), False),
        (SOURCE, True),
        (SOURCE.answered(at(100), None), True),
        (SOURCE.answered(at(129), None), True),
        (SOURCE.answered(at(130), None), False),
        (down(120, 150), True),
        (down(120, 240), True),
        (down(120, 270), False),
        (down(120, 240).answered(at(255), None), False),
        (down(0, 105), True),
        (down(0, 240), True),
        (down(0, 255), False),
        (down(3600, 3600), True),
        (down(3600, 3600 + 135), True),
        (down(3600, 3600 + 150), False),
        (down(120, 120, SOURCE.answered(at(130), None)), False),
    ],
    ids=[
        "without a source there is nothing to wait for",
        "a source that was not asked yet is waited for, after a restart too",
        "an answer at the end may miss the last sample",
        "so may one before two intervals have passed",
        "one after two intervals does not",
        "a source that is away is waited for",
        "for nearly ten intervals",
        "and not for more",
        "an answer after that ends the wait",
        "a source that was away before the end is not given up at the end",
        "nor for nearly ten intervals after it",
        "but then",
        "intervals in which nobody asked do not count",
        "nearly ten in which somebody did",
        "ten are enough",
        "a source that has answered late enough may go away",
    ],
)
def test_a_result_of_a_program_that_ended_at_100_is_waited_for(source: Source, more: bool) -> None:
    assert source.has_more(at(100), INTERVAL) is more


def test_without_an_end_there_is_nothing_to_wait_for() -> None:
    assert not SOURCE.has_more(None, INTERVAL)


def test_a_missing_result_is_excused_while_the_source_is_away() -> None:
    assert SOURCE.excuse() == SOURCE.answered(at(0), None).excuse() == ""
    assert down(0, 30).excuse() == "Prometheus has not answered since 00:00:00 UTC: no answer at 0"


def test_a_study_says_how_its_source_is() -> None:
    answering = SOURCE.answered(at(0), scraped=True)

    assert reason(Source()) == ("Unknown", "NotConfigured")
    assert reason(SOURCE) == ("Unknown", "NotNeeded")
    assert reason(answering) == ("True", "SourceAnswers")
    assert reason(SOURCE.answered(at(0), scraped=False)) == ("False", "NoSamples")
    assert reason(down(15, 60)) == ("False", "SourceUnreachable")
    refusing = SOURCE.failed(at(0), "401", refused=True).failed(at(45), "401", refused=True)
    assert reason(refusing) == ("False", "SourceRefuses")
    assert reason(refusing.answered(at(60), None)) == ("True", "SourceAnswers")


def test_a_restart_leaves_what_a_study_said_until_more_is_known() -> None:
    assert SOURCE.availability(INTERVAL, STANDING) is None
    assert SOURCE.failed(at(0), "no", refused=False).availability(INTERVAL, STANDING) is None


def test_a_source_that_flaps_changes_nothing_that_is_said() -> None:
    source, said, standing = SOURCE.answered(at(0), scraped=True), set(), None
    for seconds in range(15, 1500, 15):
        asked = at(seconds)
        source = source.failed(asked, f"error {seconds}", refused=False) if seconds % 45 else source.answered(asked, None)
        if (found := source.availability(INTERVAL, standing)) is not None:
            said.add(found)
            standing = STANDING

    assert said == {("True", "SourceAnswers", "")}


def test_a_source_that_stays_away_says_always_the_same() -> None:
    said = {down(0, until).availability(INTERVAL, STANDING) for until in range(45, 1500, 15)}

    assert said == {("False", "SourceUnreachable", "no answer at 0")}


@pytest.mark.parametrize(
    ("since", "newest", "expected"),
    [
        (0, 995, True),
        (None, 995, True),
        (0, None, False),
        (0, 100, False),
        (990, None, None),
        (990, 100, None),
        (None, None, None),
    ],
)
def test_pods_are_scraped_if_there_is_a_new_sample_and_not_if_there_is_none_for_long(
    since: float | None, newest: float | None, expected: bool | None
) -> None:
    times = [None if each is None else at(each) for each in (since, newest)]

    assert is_scraped(*times, INTERVAL, at(1000)) is expected


def reason(source: Source) -> tuple[str, str]:
    found = source.availability(INTERVAL)
    assert found is not None
    return found[:2]
