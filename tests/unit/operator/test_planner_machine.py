"""A Study in the hands of a user who does anything at any time, and of a cluster that does the same."""

from __future__ import annotations

from hpo_operator import conditions as c
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.operator.builders import StudyBuilder, a_study
from tests.unit.operator.test_planner_world import by_chance
from tests.unit.operator.world import World

LONGEST_GRACE = 70.0  # of a pod, and of the news of its end
METHODS = [
    a_study(),
    a_study().by("tpe"),
    a_study().by("random", "asha").budget(1, 9),
    a_study().by("random", "hyperband").budget(1, 9),
    a_study().by("random", "median", startupTrials=2).budget(1, 9),
]


class AnyStudy(RuleBasedStateMachine):
    """Each rule is something that a user or the cluster does; the world checks every action that follows from it."""

    world: World

    @initialize(
        study=st.sampled_from(METHODS),
        seed=st.integers(0, 10_000),
        parallelism=st.integers(0, 4),
        retries=st.integers(0, 2),
        timeout=st.sampled_from([None, 15]),
        settle=st.booleans(),
    )
    def apply(self, study: StudyBuilder, seed: int, parallelism: int, retries: int, timeout: int | None, settle: bool) -> None:
        limits = {"max_trials": 6, "max_retries": retries, "max_failed_trials": 1000, "trial_timeout_seconds": timeout}
        study = study.parallelism(parallelism).limits(**limits).ttl(100)
        self.ends_at: int | None = None
        self.world = World(study, by_chance(seed), seed=seed, kill=lambda action: action == self.ends_at, settle=settle)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 40.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.run(until=self.world.now + seconds)

    @rule()
    def operator_is_killed(self) -> None:
        self.world.kill()

    @rule(action=st.integers(1, 6), after=st.booleans())
    def operator_will_be_killed_soon(self, action: int, after: bool) -> None:
        self.ends_at = (self.world._carried_out + action) * (-1 if after else 1)

    @rule(parallelism=st.integers(0, 4))
    def parallelism_is_changed(self, parallelism: int) -> None:
        self.world.edit(lambda study: study.parallelism(parallelism))

    @rule(suspend=st.booleans())
    def study_is_suspended_or_resumed(self, suspend: bool) -> None:
        self.world.edit(lambda study: study.suspended(suspend))

    @rule(count=st.integers(1, 12))
    def max_trials_is_changed(self, count: int) -> None:
        self.world.edit(lambda study: study.limits(max_trials=count))

    @rule(seconds=st.sampled_from([50, 300, 10_000]))
    def a_deadline_is_set(self, seconds: int) -> None:
        self.world.edit(lambda study: study.limits(deadline_seconds=seconds))

    @rule(seconds=st.sampled_from([60, 300, 10_000]))
    def a_gpu_budget_is_set(self, seconds: int) -> None:
        self.world.edit(lambda study: study.limits(gpu_seconds=seconds))

    @precondition(lambda self: self.world.trials)
    @rule(choice=st.integers(0, 100))
    def a_trial_is_deleted(self, choice: int) -> None:
        numbers = sorted(self.world.trials)
        self.world.delete_trial(numbers[choice % len(numbers)])

    @precondition(lambda self: self.world.pods())
    @rule(choice=st.integers(0, 100), seconds=st.sampled_from([0.0, 2.0, 30.0]))
    def a_workload_is_deleted(self, choice: int, seconds: float) -> None:
        there = [job for job in self.world.jobs.values() if not job.ended(self.world.now)]
        self.world._delete_job(there[choice % len(there)])
        self.world.run(until=self.world.now + seconds)

    @rule(refused=st.sampled_from(["", "exceeded quota"]))
    def creations_are_refused_or_not(self, refused: str) -> None:
        self.world.refused = refused

    @rule(parallelism=st.integers(0, 3), killed=st.booleans())
    def a_suspended_study_comes_to_rest_and_goes_on(self, parallelism: int, killed: bool) -> None:
        self.world.edit(lambda study: study.suspended())
        self.world.run(until=self.world.now + LONGEST_GRACE)
        assert self.world.pods() == 0
        if killed:
            self.world.kill()
        self.world.edit(lambda study: study.suspended(False).parallelism(parallelism))

    @invariant()
    def the_status_tells_the_truth_about_numbers(self) -> None:
        assert self.world.study.status.trials.created <= len(self.world.ever)
        assert len(self.world.study.status.best) <= 10

    def teardown(self) -> None:
        """In the end, whatever was done, the Study can be brought to its end."""
        if not hasattr(self, "world"):
            return
        self.world.refused, self.ends_at = "", None
        self.world.run(until=self.world.now + LONGEST_GRACE)
        over_before, created = self.world.over, len(self.world.ever)
        self.world.edit(lambda study: study.suspended(False).parallelism(2))
        self.world.edit(lambda study: study.limits(max_trials=created + 2, deadline_seconds=None, gpu_seconds=None))
        self.world.run()
        assert self.world.over
        assert self.world.pods() == 0
        if not over_before or self.world.reason() in c.RAISABLE:
            assert len(self.world.ever) == created + 2
        assert not self.world.operator.ledger.active
        assert not self.world.operator.ledger.uncleaned
        assert not self.world.operator.ledger.removed
        assert not self.world.operator.ledger.kept


TestAnyStudy = AnyStudy.TestCase
TestAnyStudy.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
