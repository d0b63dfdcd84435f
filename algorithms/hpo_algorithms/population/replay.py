"""A schedule of hyperparameters, run once more: what a population has found, as one training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms.errors import Fault
from hpo_algorithms.population.generations import Population, Rules, donors, ends, faults
from hpo_algorithms.settings import setting
from hpo_algorithms.trials import Answer, History, Origin, Problem, Proposal, Slot, Stop


@dataclass(frozen=True, slots=True)
class Replay:
    """Trains a single member through the given configurations, one a generation, each from the checkpoint of the one before.

    It searches nothing. `hpo lineage --schedule -o yaml` writes such a Study of what `pbt` or `pb2` has found, and `hpo replay`
    runs it. The generations are those of `pbt`: the first ends at budget.min, the others `interval` further, the last at
    budget.max.
    """

    interval: int | None = setting(
        None, "Length of a generation in units of the budget; budget.min where not given.", minimum=1, maximum=1_000_000
    )

    def errors(self, problem: Problem) -> Sequence[Fault]:
        if found := faults(problem, self._rules):
            return found
        wanted, given = len(ends(problem, self.interval)), len(problem.given)
        if wanted == given:
            return ()
        rule = f"has {wanted} generations by its budget, but warmStart.configurations holds {given}"
        return [Fault("algorithm.replay", None, rule, "Give one configuration a generation, in their order.")]

    def propose(self, problem: Problem, history: History, first: int, count: int) -> Answer:
        population = Population(problem, history, self._rules)
        if reason := population.finished():
            return Answer(finished=reason)
        return Answer(
            tuple(
                Proposal(
                    problem.given[step.generation],
                    population.ends[step.generation],
                    Slot(generation=step.generation, member=step.member),
                    step.donor.number if step.donor else None,
                    origin=Origin.GIVEN,
                )
                for step in population.steps(first, count)
            )
        )

    def stops(self, problem: Problem, history: History) -> Sequence[Stop]:
        return ()

    def donors(self, problem: Problem, history: History) -> frozenset[int]:
        return donors(problem, history, self._rules)

    @property
    def _rules(self) -> Rules:
        return Rules("replay", 1, self.interval, "truncation", 0.5, "synchronous")
