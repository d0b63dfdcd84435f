"""Ray Tune's PBT and PB2 on the tasks of `benchmarks.training`: run by `benchmarks.population` in a Python that has Ray.

`python -m benchmarks.population_ray ray_pb2 quadratic 4 0 1 2`: its last line is a JSON list of losses, one a seed.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training import TASKS

FAILED = 1e12  # what is told of a loss that is not a number, which Ray's schedulers cannot take


def run(name: str, task_name: str, members: int, seed: int) -> float:
    """The best loss at the end: Ray's own defaults for PBT and PB2, but for the interval."""
    from ray import tune
    from ray.tune.schedulers import PopulationBasedTraining
    from ray.tune.schedulers.pb2 import PB2

    task = TASKS[task_name]
    np.random.seed(seed)
    import random

    random.seed(seed)
    bounds = {each["name"]: (each["float"]["min"], each["float"]["max"]) for each in task.spec}
    logs = {each["name"] for each in task.spec if each["float"].get("scale") == "Log"}

    def trainable(config: dict[str, Any]) -> None:
        state, step = task.start(), 0
        if checkpoint := tune.get_checkpoint():
            with checkpoint.as_directory() as folder:
                step, state = pickle.loads((Path(folder) / "state").read_bytes())
        while step < task.steps:
            state, loss = task.train(state, step, step + task.interval, config, (seed, os.getpid() % 997))
            step += task.interval
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "state").write_bytes(pickle.dumps((step, state)))
                loss = loss if math.isfinite(loss) else FAILED
                tune.report({"loss": loss, "step": step}, checkpoint=tune.Checkpoint.from_directory(folder))

    common: dict[str, Any] = {"time_attr": "training_iteration", "perturbation_interval": 1, "synch": True}
    draws = {n: tune.loguniform(*bounds[n]) if n in logs else tune.uniform(*bounds[n]) for n in bounds}
    if name == "ray_pb2":
        scheduler: Any = PB2(hyperparam_bounds={n: list(pair) for n, pair in bounds.items()}, **common)
    else:
        scheduler = PopulationBasedTraining(hyperparam_mutations=draws, **common)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        results = tune.Tuner(
            trainable,
            param_space=draws,
            tune_config=tune.TuneConfig(num_samples=members, metric="loss", mode="min", scheduler=scheduler, reuse_actors=True),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, stop={"step": task.steps}),
        ).fit()
    ends = [result.metrics["loss"] for result in results if result.metrics and result.metrics.get("step") == task.steps]
    return min(ends, default=FAILED)


def main() -> None:
    import ray

    name, task, members, *seeds = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    ray.init(num_cpus=int(members), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    losses = [run(name, task, int(members), int(seed)) for seed in seeds]
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
