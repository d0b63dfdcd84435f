"""The `hpo` command, for people: run, check and read Studies without a cluster.

Exit codes: 0 the Study succeeded, 1 it failed, 2 the input was bad, 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hpo_algorithms import AlgorithmsError, InvalidInput

from hpo_operator import conditions as c
from hpo_operator import manifests
from hpo_operator.resources import RankedTrial, Study, Trial
from hpo_operator.validation import notes, read_study

SUCCEEDED, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
BEST_SHOWN = 10

DESCRIPTION = """\
Hyperparameter optimization: run a Study to its end on this machine.

  hpo run study.yaml            run it; run it again to go on after an interruption
  hpo plan study.yaml           what it would do, without doing it
  hpo validate study.yaml       check it
  hpo trials DIR                the Trials of a results folder
  hpo best DIR -o env           the best parameters, for use elsewhere
  hpo exec -- program args      inside a Trial: report what an unmodified program prints
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except InvalidInput as error:
        print("\n".join(f"error: {fault}" for fault in error.faults), file=sys.stderr)
        return BAD_INPUT
    except AlgorithmsError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe has had enough
        return SUCCEEDED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("hpo", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"hpo {version('hpo-operator')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run a Study to its end", description="Run a Study to its end on this machine.")
    _study_argument(run)
    run.add_argument("--parallelism", type=_count, metavar="N", help="Trials at once, instead of spec.parallelism")
    run.add_argument("--gpus", type=_gpus, metavar="0,1", help="GPUs to hand out to Trials that ask for nvidia.com/gpu")
    run.add_argument("--results", type=Path, metavar="DIR", help="results folder (default: hpo-runs/<name of the Study>)")
    run.add_argument("--fresh", action="store_true", help="set earlier results aside and start anew")
    run.add_argument("--output", choices=["text", "json"], default="text", help="what to print at the end (default: text)")
    run.add_argument("--quiet", action="store_true", help="no progress, only the end")
    run.set_defaults(run=_run)

    validate = commands.add_parser("validate", help="check a Study file", description="Check a Study file; nothing is run.")
    _study_argument(validate)
    validate.set_defaults(run=_validate)

    plan = commands.add_parser("plan", help="what a Study would do", description="Play a Study through; nothing is run.")
    _study_argument(plan)
    plan.add_argument(
        "--unit-seconds", type=float, metavar="S", help="seconds that a budget unit (or a Trial) takes, for GPU-hours"
    )
    plan.add_argument("--output", choices=["text", "json"], default="text", help="how to print it (default: text)")
    plan.set_defaults(run=_plan)

    trials = commands.add_parser("trials", help="the Trials of a results folder")
    trials.add_argument("results", type=Path, metavar="DIR", help="results folder of `hpo run`")
    trials.add_argument("--output", "-o", choices=["text", "json"], default="text", help="how to print them (default: text)")
    trials.set_defaults(run=_trials)

    best = commands.add_parser("best", help="the best parameters of a results folder")
    best.add_argument("results", type=Path, metavar="DIR", help="results folder of `hpo run`")
    best.add_argument("--output", "-o", choices=["text", "yaml", "json", "env"], default="text", help="how to print them")
    best.set_defaults(run=_best)

    execute = commands.add_parser("exec", help="run an unmodified program and report what it prints", add_help=False)
    execute.set_defaults(run=lambda arguments: _unreachable())
    return parser


def _study_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, metavar="STUDY", help="a YAML file with one Study")


# Commands


def _run(arguments: argparse.Namespace) -> int:
    from hpo_operator.local.display import display_for
    from hpo_operator.local.runner import Interrupted, LocalRunner
    from hpo_operator.local.store import WriteFailed

    study = _load(arguments.study)
    for note in notes(study.spec):
        print(f"note: {note}", file=sys.stderr)
    results: Path = arguments.results or Path("hpo-runs") / study.metadata.name
    if arguments.fresh:
        _set_aside(results)
    try:
        with display_for(arguments.output, arguments.quiet) as display:
            runner = LocalRunner(
                study,
                arguments.study.resolve().parent,
                results,
                gpus=arguments.gpus,
                watch=display,
                parallelism=arguments.parallelism,
            )
            with _interrupts(runner.interrupt):
                ended = runner.run()
    except Interrupted:
        print(f"\nInterrupted. What has ended stands in {results}; run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED
    except WriteFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    return _report(ended, results, arguments.output)


def _validate(arguments: argparse.Namespace) -> int:
    study = _load(arguments.study)
    for note in notes(study.spec):
        print(f"note: {note}", file=sys.stderr)
    print(f"{arguments.study}: Study '{study.metadata.name}' is valid.")
    return SUCCEEDED


def _plan(arguments: argparse.Namespace) -> int:
    from hpo_operator.local.preview import preview
    from hpo_operator.local.preview_text import as_json, as_text

    study = _load(arguments.study)
    shown = preview(study.spec, study.spec.seed or 0)
    if arguments.output == "json":
        print(json.dumps(as_json(study, shown, arguments.unit_seconds), indent=2))
    else:
        print(as_text(study, shown, arguments.unit_seconds))
    return SUCCEEDED


def _trials(arguments: argparse.Namespace) -> int:
    from hpo_operator.local.store import open_for_reading

    study, trials = open_for_reading(arguments.results)
    if arguments.output == "json":
        print(json.dumps([trial.manifest() for trial in trials], indent=2))
    else:
        from rich.console import Console

        from hpo_operator.local.display import trials_table

        Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(trials_table(study, trials))
    return SUCCEEDED


def _best(arguments: argparse.Namespace) -> int:
    from hpo_operator.environment import parameter_variable
    from hpo_operator.ledger import Ledger
    from hpo_operator.local.store import open_for_reading
    from hpo_operator.validation import problem_of

    study, trials = open_for_reading(arguments.results)
    space = problem_of(study.spec, 0).space
    ledger = Ledger(study.spec, space, trials)
    if not ledger.best():
        print(f"error: {arguments.results}: no Trial has given a result yet.", file=sys.stderr)
        return FAILED
    best = ledger.best()[0]
    params = space.parse({pair.name: pair.value for pair in best.parameters})
    if arguments.output == "json":
        print(json.dumps(params, indent=2))
    elif arguments.output == "yaml":
        import yaml

        print(yaml.safe_dump(params, sort_keys=False), end="")
    elif arguments.output == "env":
        import shlex

        print("\n".join(f"{parameter_variable(pair.name)}={shlex.quote(pair.value)}" for pair in best.parameters))
    else:
        metrics = ", ".join(f"{pair.name} = {pair.value}" for pair in best.metrics)
        print("\n".join([f"Trial {best.number}: {metrics}", *(f"  {pair.name} = {pair.value}" for pair in best.parameters)]))
    return SUCCEEDED


# Pieces


def _load(path: Path) -> Study:
    document = manifests.study_document(manifests.read_file(path), str(path))
    return read_study(document.data)


def _report(study: Study, results: Path, output: str) -> int:
    found = c.condition(study.status.conditions, c.SUCCEEDED)
    assert found is not None
    code = SUCCEEDED if found.status == "True" else FAILED
    if output == "json":
        print(json.dumps(_summary(study, results), indent=2))
        return code
    from rich.console import Console

    from hpo_operator.local.display import trials_table
    from hpo_operator.local.store import open_for_reading

    best = study.status.best
    _, trials = open_for_reading(results)
    by_number = {trial.spec.number: trial for trial in trials}
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if best:
        shown = [by_number[each.number] for each in best[:BEST_SHOWN] if each.number in by_number]
        console.print(trials_table(study, shown, title=f"Best {len(shown)} of {study.status.trials.completed} completed Trials"))
    print()
    print(_sentence(study, found.status == "True", found.reason, found.message))
    if best:
        print(_best_lines(study, best[0], by_number))
    print(f"Results: {results}    logs: {results}/trials/*/log.txt    best parameters: hpo best {results} -o yaml")
    return code


def _sentence(study: Study, succeeded: bool, reason: str, message: str) -> str:
    counts, status = study.status.trials, study.status
    parts = [f"{counts.completed} completed"]
    parts += [f"{n} {word}" for n, word in (
        (counts.early_stopped, "stopped early"), (counts.infeasible, "infeasible"), (counts.failed, "failed")
    ) if n]  # fmt: skip
    took = _seconds(status.start_time, status.completion_time)
    sentence = (
        f"Study '{study.metadata.name}' {'succeeded' if succeeded else 'FAILED'} ({reason}) after {took}: {', '.join(parts)}."
    )
    return f"{sentence}\n{message}" if message and not succeeded else sentence


def _best_lines(study: Study, best: RankedTrial, trials: dict[int, Trial]) -> str:
    objective = study.spec.objectives[0].metric
    value = next((pair.value for pair in best.metrics if pair.name == objective), "")
    parameters = "  ".join(f"{pair.name}={pair.value}" for pair in best.parameters)
    return f"Best: {objective} = {value} by Trial {best.number}:  {parameters}"


def _summary(study: Study, results: Path) -> dict[str, Any]:
    found = c.condition(study.status.conditions, c.SUCCEEDED)
    assert found is not None
    return {
        "study": study.metadata.name,
        "succeeded": found.status == "True",
        "reason": found.reason,
        "message": found.message,
        "trials": study.status.trials.manifest(),
        "best": [each.manifest() for each in study.status.best],
        "paretoFront": [each.manifest() for each in study.status.pareto_front],
        "results": str(results),
    }


def _seconds(start: datetime | None, end: datetime | None) -> str:
    return f"{(end - start).total_seconds():.1f} s" if start and end else "no time"


def _set_aside(results: Path) -> None:
    """Rename an earlier results folder to the first free name, for results are never deleted."""
    if not results.exists():
        return
    number = 1
    while (aside := results.with_name(f"{results.name}.{number}")).exists():
        number += 1
    results.rename(aside)
    print(f"note: earlier results were set aside as {aside}", file=sys.stderr)


@contextmanager
def _interrupts(interrupt: Any) -> Iterator[None]:
    """SIGINT and SIGTERM end the Trials first; a second one ends this process as usual."""

    def handler(number: int, frame: object) -> None:
        print("\nEnding the running Trials …", file=sys.stderr)
        for each in signals:
            signal.signal(each, previous[each])
        interrupt()

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {each: signal.signal(each, handler) for each in signals}
    try:
        yield
    finally:
        for each in signals:
            signal.signal(each, previous[each])


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 1 to 10000")
    return int(text)


def _gpus(text: str) -> list[str]:
    ids = [each.strip() for each in text.split(",") if each.strip()]
    if not ids or len(set(ids)) != len(ids):
        raise argparse.ArgumentTypeError(f"{text!r}: must be different GPU ids with commas between them, as 0,1")
    return ids


def _unreachable() -> int:
    print("error: `hpo exec` belongs to the SDK: pip install hpo-operator-sdk", file=sys.stderr)
    return BAD_INPUT
