"""What a real Prometheus that scrapes real programs lets the operator know of their Trials."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hpo_operator.cluster import prometheus
from hpo_operator.cluster.prometheus import Answer, Measured, Run, SourceFailed, expression

from tests.control_plane.scraping import FAST, OWN, Bed, a_spec
from tests.testbed import NotEnclosed, enclosed, wait_until
from tests.testbed.lacking import lacking
from tests.unit.operator.builders import measured
from tests.unit.operator.cluster.gathering import UID, Cluster

pytestmark = pytest.mark.control_plane

OTHER_UID = "another-uid"


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    if not enclosed():
        lacking(NotEnclosed("a Prometheus"))
    running = Bed(tmp_path)
    yield running
    running.kill_programs()
    running.server.kill()


def of(answer: Answer, number: int = 0) -> Measured:
    return answer.trials.get(number, Measured())


def test_a_curve_holds_each_step_with_the_value_that_was_reported_at_it(bed: Bed) -> None:
    trial = bed.program()
    for step, loss in ((1, 0.9), (2, 0.5), (2, 0.4), (3, "nan"), (5, 0.7), (6, "-inf")):
        trial.report(step, loss=loss, other=1.0)

    found = bed.ask({0: Run(trial.started, pods=frozenset({"digits-0-a"}))})

    assert str(of(found).curve) == "((1, 0.9), (2, 0.4), (3, nan), (5, 0.7), (6, -inf))"
    assert of(found).report.step == 6
    assert list(of(found).report.metrics) == ["loss"]
    assert found.newest is not None
    assert found.warnings == ()


def test_a_scrape_never_shows_a_step_with_the_value_of_another(bed: Bed) -> None:
    trial = bed.program(FAST)
    bed.wait_for("count_over_time(hpo_trial_step[1m]) > 20")

    curve = of(bed.ask({0: Run(trial.started)})).curve

    assert len(curve) > 2
    assert all(step == value for step, value in curve)


def test_the_last_sample_before_the_end_is_found_although_prometheus_knows_that_the_pod_is_gone(bed: Bed) -> None:
    trial = bed.program()
    trial.report(1, loss=0.9)
    trial.report(2, loss=0.1)
    finished = trial.end()
    bed.wait_for("absent(hpo_trial_metric)")

    assert of(bed.ask({0: Run(trial.started, finished)})).report == measured(2, loss=(0.1, 0.1, 0.9))


def test_two_pods_of_a_trial_are_told_apart(bed: Bed) -> None:
    first = bed.program(pod="digits-0-a")
    first.report(7, loss=0.1)
    second = bed.program(pod="digits-0-b")
    second.report(1, loss=0.9)  # while the first one is still scraped

    curves = {pod: of(bed.ask({0: Run(first.started, pods=frozenset({pod}))})).curve for pod in ("digits-0-a", "digits-0-b")}

    assert curves == {"digits-0-a": ((7, 0.1),), "digits-0-b": ((1, 0.9),)}
    assert of(bed.ask({0: Run(first.started)})).curve == ((1, 0.9),)


def test_trials_of_one_study_and_of_others_are_told_apart(bed: Bed) -> None:
    trials = [bed.program(number=number, pod=f"digits-{number}") for number in (0, 1)]
    stranger = bed.program(number=0, pod="stranger", uid=OTHER_UID)
    for place, each in enumerate([*trials, stranger]):
        each.report(1, loss=place)

    found = bed.ask({number: Run(each.started) for number, each in enumerate(trials)})

    assert {number: each.curve for number, each in found.trials.items()} == {0: ((1, 0.0),), 1: ((1, 1.0),)}


def test_a_program_without_the_sdk_is_measured_by_its_own_names(bed: Bed) -> None:
    trial = bed.program(OWN)
    trial.report(1, val_loss=0.9)
    trial.report(2, val_loss=0.8)

    assert of(bed.ask({0: Run(trial.started)}, a_spec("val_loss", "epoch"))).curve == ((1, 0.9), (2, 0.8))
    assert of(bed.ask({0: Run(trial.started)}, a_spec("val_loss"))) == Measured((), measured(None, val_loss=(0.8, 0.8, 0.9)))


NAMES = ('loss"} or up{a="', ".*", "loss|other", "loss[5m]) or vector(1", "val loss", "größe", "a\\", "{}", "#", "`", "\\x{6c}oss")


def test_no_name_of_a_metric_asks_for_anything_but_itself(bed: Bed) -> None:
    trial, stranger = bed.program(), bed.program(pod="stranger", uid=OTHER_UID)
    stranger.report(1, loss=0.5)
    trial.report(1, loss=0.9, other=0.1, **{name: place for place, name in enumerate(NAMES)})

    for place, name in enumerate(NAMES):
        spec = a_spec()
        objective = spec.objectives[0].model_copy(update={"metric": name})
        spec = spec.model_copy(update={"objectives": (objective,)})

        assert of(bed.ask({0: Run(trial.started)}, spec)) == Measured(((1, place),), measured(1, **{name: place}))
        series = [each["metric"] for each in bed.answer(expression(spec, UID, 60))["data"]["result"]]
        assert {(each["study_uid"], each.get("metric")) for each in series} == {(UID, None), (UID, name)}


def test_no_uid_asks_for_another_study(bed: Bed) -> None:
    bed.program(uid=OTHER_UID).report(1, loss=0.5)

    assert bed.ask({0: Run(datetime.now(UTC) - timedelta(minutes=1))}, uid='x"} or {study_uid=~".*') == Answer({})


def test_a_program_that_is_scraped_but_has_not_reported_is_told_from_one_that_is_not_scraped(bed: Bed) -> None:
    runs = {0: Run(datetime.now(UTC))}
    assert bed.ask(runs) == Answer({})
    bed.program()  # serves from its first report on
    bed.wait_for("up == 0")

    found = bed.ask(runs)

    assert found.trials == {}
    assert found.newest is not None


def test_a_source_that_refuses_says_why(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MAX_POINTS", 100_000)
    monkeypatch.setattr(prometheus, "MAX_SAMPLES", 100_000_000)

    with pytest.raises(SourceFailed, match=r"bad_data: .*exceeded maximum resolution") as raised:
        bed.ask({0: Run(datetime.now(UTC) - timedelta(days=1))})

    assert raised.value.refused


# As the operator gathers it


def test_an_ended_trial_has_its_result_once_the_source_was_asked_two_intervals_after_the_end(bed: Bed) -> None:
    trial = bed.program()
    trial.report(1, loss=0.9)
    cluster = Cluster(trial.started)
    bed.gather(cluster)
    assert cluster.workload.curve == ((1, 0.9),)
    trial.report(2, loss=0.4)
    cluster.succeed(trial.end())
    assert cluster.workload.awaiting
    assert cluster.workload.report is None  # what is known may not be the last

    def settled() -> bool:
        bed.gather(cluster)
        return not cluster.workload.awaiting

    wait_until("two intervals", settled)

    assert cluster.workload.report == measured(2, loss=(0.4, 0.4, 0.9))
    assert cluster.workload.source == "Prometheus"


def test_a_trial_that_begins_to_report_late_is_measured_from_then_on(bed: Bed) -> None:
    trial = bed.program()
    cluster = Cluster(trial.started)
    bed.gather(cluster)
    assert cluster.workload.report is None
    trial.report(1, loss=0.9)

    bed.gather(cluster)

    assert cluster.workload.curve == ((1, 0.9),)


def test_what_was_reported_while_the_source_was_out_of_reach_is_known_when_it_is_back(bed: Bed) -> None:
    trial = bed.program()
    trial.report(1, loss=0.9)
    cluster = Cluster(trial.started)
    bed.gather(cluster)
    bed.server.kill()
    cluster.succeed(datetime.now(UTC))

    for _ in range(5):  # as often as it may: what counts is time
        bed.gather(cluster)

    assert cluster.state.source.away_since is not None
    assert "127.0.0.1:9091" in cluster.state.source.excuse()
    assert cluster.workload.awaiting
    assert cluster.workload.curve == ((1, 0.9),)
    bed.start()

    def settled() -> bool:
        bed.gather(cluster)
        return not cluster.workload.awaiting

    wait_until("two intervals", settled)
    assert cluster.state.source.away_since is None
    assert cluster.workload.report == measured(1, loss=0.9)


def test_what_a_lost_pod_has_reported_is_not_the_result_of_the_next_one(bed: Bed) -> None:
    first = bed.program(pod="digits-0-a")
    first.report(9, loss=0.1)
    cluster = Cluster(first.started)
    bed.gather(cluster)
    assert cluster.workload.curve == ((9, 0.1),)
    first.end()
    cluster.replace_pod("digits-0-b", datetime.now(UTC))

    bed.gather(cluster)

    assert cluster.workload.report is None
    bed.program(pod="digits-0-b").report(1, loss=0.9)
    bed.gather(cluster)
    assert cluster.workload.curve == ((1, 0.9),)
