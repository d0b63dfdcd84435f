"""Samplers that break one promise of the contract each, by which the contract suite is tested itself."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from hpo_algorithms import Draw, Problem
from hpo_algorithms.samplers.random import Random
from hpo_algorithms.streams import stream
from hpo_algorithms.trials import History


@dataclasses.dataclass
class Honest:
    """Breaks none; the others change one thing in it."""

    def errors(self, problem: Problem) -> Sequence[Any]:
        return Random().errors(problem)

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return Random().draw(problem, history, numbers)


class OnTheGlobalStream(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return Random().draw(dataclasses.replace(problem, seed=np.random.randint(2**31)), history, numbers)


class SeedingTheGlobalStream(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        random.seed(problem.seed)
        return super().draw(problem, history, numbers)


class WithAMemory(Honest):
    calls = 0

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        self.calls += 1
        return Random().draw(dataclasses.replace(problem, seed=self.calls), history, numbers)


class ByHash(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return Random().draw(dataclasses.replace(problem, seed=hash("seed")), history, numbers)


class Repeating(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return [Draw(problem.space.sample(stream(problem.seed, number, "x"))) for number in numbers]


class WithInactiveParameters(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return [Draw({each.name: each.decode(0.9) for each in problem.space.parameters}) for _ in numbers]


class GivingUp(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return super().draw(problem, history, numbers) if len(history) < 12 else []


class Verbose(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return [dataclasses.replace(draw, memo="µ" * 1500) for draw in super().draw(problem, history, numbers)]


class Generous(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return super().draw(problem, history, numbers)[:1] * len(numbers)


class Trusting(Honest):
    """Divides by what is zero where all losses are the same."""

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        losses = np.array([trial.losses[0] for trial in history if trial.losses and not trial.active])
        _ = (losses - losses.mean()) / losses.std() if len(losses) > 1 else losses
        return super().draw(problem, history, numbers)


class ComparingEachWithEach(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        for trial in history:
            for other in history:
                assert (trial is other) == (trial.number == other.number)
        return super().draw(problem, history, numbers)


class ComparingEachWithEachInAnArray(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        all_numbers = np.array([float(trial.number) for trial in history])
        assert np.subtract.outer(all_numbers, all_numbers).shape == (len(history),) * 2
        return super().draw(problem, history, numbers)


class Meddling(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        for trial in history:
            trial.params.pop("momentum", None)  # type: ignore[attr-defined]
        return super().draw(problem, history, numbers)


class Normalising(Honest):
    """Divides by the range of each parameter, in which there may be but one value."""

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        if history:
            X = problem.space.encode_all([trial.params for trial in history])
            _ = (X - X.min(axis=0)) / np.ptp(X, axis=0)
        return super().draw(problem, history, numbers)


class Multiplying(Honest):
    """Multiplies densities, one a parameter, to a number that is too large where parameters are many."""

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        np.prod(np.full(len(problem.space), 1e4))
        return super().draw(problem, history, numbers)


class Averaging(Honest):
    """Adds up losses that may be infinite, up and down."""

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        np.sum([trial.losses[0] for trial in history if trial.losses and not math.isnan(trial.losses[0])])
        return super().draw(problem, history, numbers)


class Unconstrained(Honest):
    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return [Draw(problem.space.decode(stream(problem.seed, k, "x").random(len(problem.space)))) for k in numbers]


class Recording(Honest):
    """Writes about each Trial into the next one's memo."""

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        return [dataclasses.replace(draw, memo="." * (len(history) // 4)) for draw in super().draw(problem, history, numbers)]


class Dormant(Honest):
    """Keeps all promises, and waits for more results than it is ever told before it learns from them."""

    def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
        told = [trial.losses[0] for trial in history if trial.losses]
        seed = problem.seed if len(told) < 10**6 else int(1e6 * min(told))
        return super().draw(dataclasses.replace(problem, seed=seed), history, numbers)


def late(saboteur: type) -> type:
    """The same, but honest until there are results enough for any model: what breaks the promise is the model."""

    class Late(saboteur):  # type: ignore[misc, valid-type]  # the base is an argument
        def draw(self, problem: Problem, history: History, numbers: Sequence[int]) -> Sequence[Draw]:
            told = sum(bool(trial.losses) and math.isfinite(trial.losses[0]) for trial in history)
            return super().draw(problem, history, numbers) if told >= ENOUGH else Random().draw(problem, history, numbers)

    Late.__name__ = Late.__qualname__ = f"Late{saboteur.__name__}"
    globals()[Late.__name__] = Late  # where another process looks for it
    return Late


ENOUGH = 25  # results

# Saboteur -> the promise whose check must fail
SABOTEURS: dict[type, str] = {
    OnTheGlobalStream: "the_answer_depends_on_the_arguments_alone",
    SeedingTheGlobalStream: "the_answer_depends_on_the_arguments_alone",
    WithAMemory: "a_run_that_is_killed_at_every_step_goes_on_to_the_same_end",
    ByHash: "another_process_answers_the_same",
    Repeating: "a_finite_space_is_tried_wholly_and_once_and_then_the_search_is_exhausted",
    WithInactiveParameters: "proposals_are_valid_whatever_the_order_of_results",
    GivingUp: "several_are_proposed_at_once",
    Verbose: "proposals_are_valid_whatever_the_order_of_results",
    Generous: "several_are_proposed_at_once",
    Trusting: "a_constant_objective_is_taken",
    ComparingEachWithEach: "a_proposal_costs_no_more_than_its_share_of_a_long_study",
    ComparingEachWithEachInAnArray: "a_proposal_costs_no_more_than_its_share_of_a_long_study",
    Meddling: "proposals_are_valid_whatever_the_order_of_results",
    Normalising: "parameters_of_a_single_value_are_taken",
    Multiplying: "a_hundred_parameters_are_taken",
    Averaging: "results_of_every_kind_are_taken",
    Unconstrained: "constraints_between_parameters_are_kept",
    Recording: "ten_thousand_trials_give_a_proposal",
}
SABOTEURS |= {late(saboteur): promise for saboteur, promise in SABOTEURS.items()}
