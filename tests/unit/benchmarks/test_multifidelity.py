"""The multi-fidelity benchmark counts as it says."""

from __future__ import annotations

import pytest

from benchmarks.multifidelity import regret_at, run
from benchmarks.searchers import Job, parsed, searcher
from benchmarks.tasks import Task, load_tasks

TASK = Task("line", [], lambda params: params["x"], 0.0, 10.0, (1, 10), lambda params, budget, seed: params["x"] + 10 / budget)

SPEC = [{"name": "x", "float": {"min": 0, "max": 1}}]


class Scripted:
    """Jobs in a given order."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs, self.told = list(jobs), []

    def ask(self) -> Job | None:
        return self.jobs.pop(0) if self.jobs else None

    def tell(self, job: Job, loss: float) -> None:
        self.told.append((job.configuration, loss))


def test_going_on_with_a_configuration_costs_the_difference() -> None:
    row = run(Scripted(Job(0, {"x": 5.0}, 1), Job(0, {"x": 5.0}, 5), Job(1, {"x": 4.0}, 5)), TASK, 0, 10, 1)
    assert row["spent"] == pytest.approx([0.1, 0.5, 1.0])
    assert row["losses"] == [5.0, 5.0, 4.0]


def test_the_incumbent_is_the_lowest_loss_at_the_highest_fidelity_scored_at_full_fidelity() -> None:
    row = run(Scripted(Job(0, {"x": 5.0}, 10), Job(1, {"x": 1.0}, 5), Job(2, {"x": 7.0}, 10)), TASK, 0, 10, 1)
    assert row["losses"] == [5.0]
    assert [regret_at(TASK, row, spent) for spent in (0.5, 1, 5)] == [1.0, 0.5, 0.5]


def test_what_ends_beyond_the_budget_does_not_count() -> None:
    row = run(Scripted(Job(0, {"x": 5.0}, 10), Job(1, {"x": 1.0}, 10)), TASK, 0, 1, 1)
    assert row["losses"] == [5.0]


def test_several_workers_get_results_out_of_order_and_pay_for_all_of_their_time() -> None:
    script = Scripted(*(Job(i, {"x": 9.0 - i}, 10) for i in range(8)))
    row = run(script, TASK, 3, 100, 4)
    assert sorted(script.told) != script.told
    assert 2.0 <= row["spent"][0] < 4.0


@pytest.mark.parametrize("name", ["random@hyperband", "random@asha"])
def test_ours_goes_on_from_its_own_trials(name: str) -> None:
    """Each configuration is asked for at rising budgets."""
    task = load_tasks(["counting8_mf"])[0]
    search, seen = searcher(name, task, 0), {}
    for _ in range(300):
        job = search.ask()
        assert job is not None
        before = seen.get(job.configuration)
        assert before is None or (before[0] < job.budget and before[1] == job.params)
        seen[job.configuration] = job.budget, job.params
        search.tell(job, task.partial(job.params, job.budget, 0))  # type: ignore[misc]
    assert max(budget for budget, _ in seen.values()) == 729


@pytest.mark.parametrize("schedule", ["median", "percentile[percentile=40]", "noImprovement[patience=3]", "asha[form=stopping]"])
def test_what_judges_curves_hears_of_each_unit_of_the_budget_and_some_trials_are_stopped(schedule: str) -> None:
    task = Task("level", SPEC, lambda params: params["x"], 0.0, 1.0, (1, 10), lambda params, budget, seed: params["x"])
    search, heard = searcher(f"random@{schedule}", task, 0), {}
    for _ in range(200):
        job = search.ask()
        assert job is not None
        heard.setdefault(job.configuration, []).append(job.budget)
        search.tell(job, job.params["x"])
    *ended, _ = heard.values()
    assert all(budgets == list(range(1, budgets[-1] + 1)) for budgets in ended)
    assert len(ended) >= 20 and min(map(len, ended)) < 10


def test_what_judges_no_curves_hears_of_the_end_alone() -> None:
    task = Task("level", SPEC, lambda params: params["x"], 0.0, 1.0, (1, 10), lambda params, budget, seed: params["x"])
    job = searcher("random@flat", task, 0).ask()
    assert job is not None and job.budget == 10


def test_names_hold_settings_in_brackets() -> None:
    assert parsed("kde[goodShare=0.2]@hyperband[eta=4;rounding=hpbandster]") == (
        {"kde": {"goodShare": 0.2}},
        {"hyperband": {"eta": 4, "rounding": "hpbandster"}},
    )
    assert parsed("bohb") == ({"bohb": {}}, None)
