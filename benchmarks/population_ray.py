"""Ray Tune's PBT and PB2 on the tasks of `benchmarks.training`: run by `benchmarks.population` in a Python that has Ray.

Ray's own schedulers decide who copies whom and with which hyperparameters, at their defaults. Only what carries that out is
here, since actors take minutes for what takes seconds: all members train an interval, then each of the lower quantile gets the
weights of a random one of the upper, as `PopulationBasedTraining` does with `synch=True`.

`python -m benchmarks.population_ray ray_pb2 quadratic 4 0 1 2`: its last line is a JSON list of losses, one a seed.
"""

from __future__ import annotations

import json
import logging
import math
import random
import sys
import warnings
from typing import Any

import numpy as np

from benchmarks.training import TASKS, Task

FAILED = 1e12  # what is told of a loss that is not a number, which Ray's schedulers cannot take


class Member:
    """What Ray's schedulers look at of a Trial."""

    def __init__(self, name: int, config: dict[str, float], weights: Any) -> None:
        self.name, self.config, self.weights, self.loss = name, config, weights, math.inf
        self.experiment_tag = str(name)

    def __str__(self) -> str:
        return f"member_{self.name}"

    def is_finished(self) -> bool:
        return False


def run(name: str, task: Task, members: int, seed: int) -> float:
    """The best loss at the end."""
    from ray import tune
    from ray.tune.schedulers.pb2 import PB2
    from ray.tune.schedulers.pbt import PopulationBasedTraining, _PBTTrialState

    np.random.seed(seed)
    random.seed(seed)
    ranges = {each["name"]: each["float"] for each in task.spec}
    draws = {
        n: (tune.loguniform if each.get("scale") == "Log" else tune.uniform)(each["min"], each["max"]) for n, each in ranges.items()
    }
    common: dict[str, Any] = {"time_attr": "step", "perturbation_interval": task.interval, "synch": True}
    scheduler: Any = (
        PB2(hyperparam_bounds={n: [each["min"], each["max"]] for n, each in ranges.items()}, **common)
        if name == "ray_pb2"
        else PopulationBasedTraining(hyperparam_mutations=draws, **common)
    )
    scheduler.set_search_properties("loss", "min")
    first = task.given if len(task.given) == members else [{n: draw.sample() for n, draw in draws.items()} for _ in range(members)]
    population = [Member(i, dict(config), task.start()) for i, config in enumerate(first)]
    for member in population:
        scheduler._trial_state[member] = _PBTTrialState(member)
    for start in range(0, task.steps, task.interval):
        end = start + task.interval
        for member in population:
            member.weights, loss = task.train(member.weights, start, end, member.config, (seed, start, member.name))
            member.loss = loss if math.isfinite(loss) else FAILED
            scheduler._save_trial_state(scheduler._trial_state[member], end, {"step": end, "loss": member.loss}, member)
        if end < task.steps:
            lower, upper = scheduler._quantiles()
            for loser in lower:
                winner = random.choice(upper)
                loser.config, _ = scheduler._get_new_config(loser, winner)
                loser.weights = winner.weights
    return min(member.loss for member in population)


def main() -> None:
    name, task, members, *seeds = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    print(json.dumps([run(name, TASKS[task], int(members), int(seed)) for seed in seeds]))


if __name__ == "__main__":
    main()
