"""What a Study would do, without doing it: how many Trials, on which rungs, for how much, and the first proposals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hpo_algorithms import Problem, Trial, build
from hpo_algorithms.registry import CONTINUING, DEFAULT_ALGORITHM, default_schedule
from hpo_algorithms.trials import State

from hpo_operator.resources import StudySpec
from hpo_operator.validation import problem_of

MAX_SIMULATED = 1000  # Trials; a Study without an end is looked at this far
FIRST_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Preview:
    """A Study played through with made-up results.

    `rungs` counts Trials by budget. `units` is what they train in sum, `continued` what they would if promoted Trials go on from
    their checkpoints. `complete` is False when the Study has no end of its own, or one beyond what was played.
    """

    problem: Problem
    algorithm: str
    schedule: str
    trials: int
    complete: bool
    finished: str
    rungs: tuple[tuple[int | None, int], ...]
    units: int
    continued: int
    first: tuple[Trial, ...]


def preview(spec: StudySpec, seed: int) -> Preview:
    """Play a Study through, each Trial as good as its number is small: the counts do not depend on the results."""
    problem = problem_of(spec, seed)
    name = next(iter(spec.algorithm))
    own = "generations" if name in CONTINUING else default_schedule(name, problem)
    schedule = next(iter(spec.schedule)) if spec.schedule else own
    real = build(problem, spec.algorithm, spec.schedule)
    first = real.propose(problem, (), 0, min(FIRST_SHOWN, max(spec.parallelism, 1), spec.limits.max_trials or FIRST_SHOWN))
    # The counts come from the schedule alone, so a cheap sampler stands in where it is the same for the schedule.
    timing = spec.schedule or ({schedule: {}} if name not in CONTINUING else None)
    method = real if name == "grid" or name in CONTINUING else build(problem, {"random": {}}, timing)
    limit = min(spec.limits.max_trials or MAX_SIMULATED, MAX_SIMULATED)
    history: list[Trial] = []
    finished = ""
    while len(history) < limit and not finished:
        answer = method.propose(problem, history, len(history), min(max(spec.parallelism, 1), limit - len(history)))
        finished = answer.finished
        if not answer.proposals:
            break
        for proposal in answer.proposals[: limit - len(history)]:
            number = len(history)
            history.append(
                Trial(
                    number, proposal.params, proposal.budget, proposal.slot, proposal.donor, proposal.memo,
                    State.DONE, losses=(float(number),), step=proposal.budget, restorable=True,
                )
            )  # fmt: skip
    budgets = Counter(trial.budget for trial in history)
    continued = sum((t.budget or 0) - ((history[t.donor].budget or 0) if t.donor is not None else 0) for t in history)
    return Preview(
        problem=problem,
        algorithm=name if name != DEFAULT_ALGORITHM else "auto",
        schedule=schedule,
        trials=len(history),
        complete=bool(finished) or len(history) == spec.limits.max_trials,
        finished=finished,
        rungs=tuple(sorted(budgets.items(), key=lambda pair: pair[0] or 0)),
        units=sum((trial.budget or 0) for trial in history),
        continued=continued,
        first=tuple(Trial(n, p.params, p.budget, p.slot, p.donor, p.memo) for n, p in enumerate(first.proposals)),
    )
