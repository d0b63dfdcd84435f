"""Whether a Study's source of metrics answers, and how long the result of an ended program is waited for: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from hpo_operator.conditions import Truth
from hpo_operator.resources import Condition

SOURCE_ANSWERS = "SourceAnswers"
SOURCE_UNREACHABLE = "SourceUnreachable"
SOURCE_REFUSES = "SourceRefuses"
NO_SAMPLES = "NoSamples"
NOT_CONFIGURED = "NotConfigured"
NOT_NEEDED = "NotNeeded"

AWAITED_INTERVALS = 2  # how long a last sample may take to arrive after its program has ended, while the source answers
AWAY_INTERVALS = 10  # how long an ended Trial waits for a source that does not answer
TOLD_INTERVALS = 3  # how long a source must have been away before the Study says so: one that flaps causes no writes
UNSEEN_INTERVALS = 4  # how long pods run without a sample before they are taken not to be scraped …
UNSEEN_AT_LEAST = timedelta(minutes=2)  # … for Prometheus may scrape more rarely than the Study is measured

_NOT_CONFIGURED = "The operator knows no Prometheus: results come from termination messages and logs alone."
_NOT_NEEDED = "Nothing has been measured yet."
_NO_SAMPLES = (
    "Prometheus answers, but holds nothing of this Study's running pods: they are not scraped, or without the label study_uid. "
    "Learning curves are missing; results in termination messages are not concerned."
)


@dataclass(frozen=True, slots=True)
class Source:
    """What asking the source for one Study has come to.

    `answered_at` is when the last question was put that was answered. `away_since` and `failed_at` are when the first and the last
    were put that have not been answered since; `error` says why not, and `refused` that there was an answer, only not the one
    asked for. `scraped` says whether the source holds anything of the Study's running pods.
    """

    configured: bool = False
    answered_at: datetime | None = None
    away_since: datetime | None = None
    failed_at: datetime | None = None
    error: str = ""
    refused: bool = False
    scraped: bool = True

    def answered(self, asked_at: datetime, scraped: bool | None) -> Source:
        """After an answer; `scraped` None where it does not tell, since no pod has run for long."""
        return Source(self.configured, asked_at, scraped=self.scraped if scraped is None else scraped)

    def failed(self, asked_at: datetime, error: str, refused: bool) -> Source:
        """After a question without an answer. The first error of its kind stays: texts that differ each time would be writes."""
        if self.away_since is not None and self.refused == refused:
            error = self.error
        return replace(self, away_since=self.away_since or asked_at, failed_at=asked_at, error=error, refused=refused)

    def has_more(self, finished: datetime | None, interval: timedelta) -> bool:
        """Whether a last sample of a program that ended at `finished` may still be found.

        While the source answers, until it has been asked two intervals after the end. While it does not, until it does, but for at
        most ten intervals; none counts in which nobody asked, because the operator itself was away.
        """
        if not self.configured or finished is None:
            return False
        if self.answered_at is not None and self.answered_at >= finished + AWAITED_INTERVALS * interval:
            return False
        if self.away_since is None or self.failed_at is None:
            return True
        return self.failed_at < max(finished, self.away_since) + AWAY_INTERVALS * interval

    def excuse(self) -> str:
        """A sentence for a Trial whose result is missing while the source is away; empty while it answers."""
        return f"Prometheus has not answered since {self.away_since:%H:%M:%S} UTC: {self.error}" if self.away_since else ""

    def availability(self, interval: timedelta, standing: Condition | None = None) -> tuple[Truth, str, str] | None:
        """Status, reason and message of the Study's condition `MetricsAvailable`; None to leave it as it stands."""
        if not self.configured:
            return "Unknown", NOT_CONFIGURED, _NOT_CONFIGURED
        if self.away_since and self.failed_at and self.failed_at >= self.away_since + TOLD_INTERVALS * interval:
            return "False", SOURCE_REFUSES if self.refused else SOURCE_UNREACHABLE, self.error
        if self.answered_at is None:
            return None if standing else ("Unknown", NOT_NEEDED, _NOT_NEEDED)
        if not self.scraped:
            return "False", NO_SAMPLES, _NO_SAMPLES
        # One that has just failed is not yet said to be away, nor one that was said to be away to be back.
        return None if self.away_since and standing else ("True", SOURCE_ANSWERS, "")


UNCONFIGURED = Source()


def is_scraped(running_since: datetime | None, newest: datetime | None, interval: timedelta, now: datetime) -> bool | None:
    """Whether pods that have run since then are scraped, by the newest sample of any; None where that is too early to tell."""
    patience = max(UNSEEN_INTERVALS * interval, UNSEEN_AT_LEAST)
    if newest is not None and newest >= now - patience:
        return True
    return False if running_since is not None and running_since <= now - patience else None
