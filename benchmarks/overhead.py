"""What the local runner costs: a Study of empty programs against the bare loop that starts the same programs, in the same run.

    python -m benchmarks.overhead [--trials 200] [--repeats 5] [--program python|sh]

Both sides run the same command with the same environment and output files, two at a time. The Study's side is the whole command
`hpo run`, from its start to its end. The sides take turns, so that whatever else the machine does falls on both; the ratio is
that of the medians. CPU time is that of all processes of a side together, and says more than wall time where the machine is busy.

The goal is a wall-time ratio of at most 1.25 for an empty Python program.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = {
    "python": ["python", "-c", "import hpo; hpo.report(loss=0.0)"],
    "sh": ["sh", "-c", 'echo \'{"hpo":1,"metrics":{"loss":"0.0"}}\' > "$HPO_TERMINATION_FILE"'],
}
AT_ONCE = 2
GOAL = 1.25


def study(program: list[str], trials: int) -> dict[str, object]:
    container = {"name": "main", "command": program}
    return {
        "apiVersion": "hpo.dev/v1alpha1",
        "kind": "Study",
        "metadata": {"name": "empty"},
        "spec": {
            "objectives": [{"metric": "loss"}],
            "parameters": [{"name": "x", "float": {"min": 0, "max": 1}}],
            "algorithm": {"random": {}},
            "seed": 0,
            "parallelism": AT_ONCE,
            "limits": {"maxTrials": trials},
            "template": {"job": {"spec": {"template": {"spec": {"containers": [container]}}}}},
        },
    }


def run_study(program: list[str], trials: int, folder: Path) -> None:
    """`hpo run`, from its first import to its last line."""
    (folder / "study.json").write_text(json.dumps(study(program, trials)))
    command = [sys.executable, "-m", "hpo", "run", "study.json", "--quiet", "--output", "json"]
    ended = json.loads(subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True).stdout)
    assert ended["succeeded"], ended
    assert ended["trials"]["completed"] == trials, ended


def run_bare(program: list[str], trials: int, folder: Path) -> None:
    """The loop that anyone would write: start a program whenever one of two has ended."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    running: set[int] = set()
    for number in range(trials):
        if len(running) == AT_ONCE:
            running.remove(ended_one())
        place = folder / f"{number:04d}"
        place.mkdir()
        environment = {**os.environ, "PATH": path, **variables(number, place)}
        with open(place / "log.txt", "wb") as log:
            process = subprocess.Popen(
                program, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        process.returncode = 0  # it is reaped by `ended_one`
        running.add(process.pid)
    while running:
        running.remove(ended_one())


def ended_one() -> int:
    pid, status = os.wait()
    assert status == 0, f"the empty program failed: {status}"
    return pid


def variables(number: int, place: Path) -> dict[str, str]:
    return {
        "HPO_STUDY": "empty",
        "HPO_STUDY_UID": "bare",
        "HPO_TRIAL": f"empty-{number}",
        "HPO_TRIAL_NUMBER": str(number),
        "HPO_PARAMETERS": '{"x": 0.5}',
        "HPO_PARAM_X": "0.5",
        "HPO_OBJECTIVES": "loss",
        "HPO_START_STEP": "0",
        "HPO_TERMINATION_FILE": str(place / "termination.log"),
        "HPO_METRICS_FILE": str(place / "metrics.jsonl"),
    }


def measured(side: Callable[[list[str], int, Path], None], program: list[str], trials: int) -> tuple[float, float]:
    """Wall and CPU seconds of one run of a side, everything that it starts included."""
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = cpu_seconds(), time.perf_counter()
        side(program, trials, Path(folder))
        return time.perf_counter() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    return sum(each.ru_utime + each.ru_stime for each in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what the local runner adds to the programs that it runs.")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--program", choices=PROGRAMS, default="python")
    asked = parser.parse_args()
    program, trials = PROGRAMS[asked.program], asked.trials
    runs: dict[str, list[tuple[float, float]]] = {"bare": [], "study": []}
    for repeat in range(asked.repeats):
        sides = [("bare", run_bare), ("study", run_study)]
        for name, side in sides if repeat % 2 == 0 else reversed(sides):
            runs[name].append(measured(side, program, trials))
            print(f"{name:>6}: {runs[name][-1][0]:7.2f} s wall {runs[name][-1][1]:7.2f} s CPU", flush=True)
    print(f"{trials} Trials of an empty {asked.program} program, {AT_ONCE} at a time, {asked.repeats} runs of each side")
    ratios = {}
    for name, of in (("median", statistics.median), ("minimum", min)):
        (bare_wall, bare_cpu), (wall, cpu) = ([of(each) for each in zip(*runs[side], strict=True)] for side in ("bare", "study"))
        ratios[name] = wall / bare_wall
        print(f"{name:>8} wall: {told(wall, bare_wall, trials)}")
        print(f"{name:>8}  CPU: {told(cpu, bare_cpu, trials)}")
    if asked.program == "python":
        print(f"goal for the median wall time: {GOAL}  {'reached' if ratios['median'] <= GOAL else 'MISSED'}")


def told(study_seconds: float, bare_seconds: float, trials: int) -> str:
    more = (study_seconds - bare_seconds) / trials * 1000
    return f"{study_seconds:.2f} s / {bare_seconds:.2f} s = {study_seconds / bare_seconds:.3f}   ({more:+.1f} ms a Trial)"


if __name__ == "__main__":
    main()
