"""The `hpo` command, for people: run, check and read Studies without a cluster.

Exit codes: 0 the Study succeeded, 1 it failed, 2 the input was bad, 130 it was interrupted.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpo_algorithms import AlgorithmsError, Fault, InvalidInput

from hpo_operator import manifests
from hpo_operator.resources import Study
from hpo_operator.validation import notes, read_study

SUCCEEDED, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
BEST_SHOWN = 10
UNPRINTABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
WIDTH = 160  # of tables where there is no terminal

DESCRIPTION = """\
Hyperparameter optimization: run a Study to its end on this machine.

  hpo run study.yaml            run it; run it again to go on after an interruption
  hpo plan study.yaml           what it would do, without doing it
  hpo validate study.yaml       check it
  hpo trials DIR                the Trials of a results folder
  hpo best DIR -o env           the best parameters, for use elsewhere
  hpo lineage RUN               who has copied whom in a population
  hpo replay study.yaml         train the best member's schedule once more
  hpo convert experiment.yaml   Katib's Experiment as a Study
  hpo exec -- program args      inside a Trial: report what an unmodified program prints
"""
EXPORTED = "results folder of `hpo run`, or a file (- for standard input) with a cluster's Study and Trials as kubectl prints them"
NOWHERE = 'the working directory was deleted: change to one that exists, or cd "$PWD" where it was made anew.'
CODES = "Exit codes: 0 the Study succeeded, 1 it failed, 2 the input was bad, 130 it was interrupted."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    # A stream that was closed is None; what stands for it is left open to the end, as the others are.
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115
    sys.stdout, sys.stderr = (each or open(os.devnull, "w") for each in (sys.stdout, sys.stderr))  # noqa: SIM115
    try:
        arguments = _parser().parse_args(argv)
        if isinstance(sys.stdout, io.TextIOWrapper) and getattr(arguments, "output", "") == "text":
            sys.stdout.reconfigure(errors="backslashreplace")  # names and a program's words may hold what its encoding has not
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except AlgorithmsError as error:
        faults = error.faults if isinstance(error, InvalidInput) else [error]
        print("\n".join(f"error: {fault}" for fault in faults), file=sys.stderr)
        if _is_nowhere():
            _tell([NOWHERE])
        return BAD_INPUT
    except FileNotFoundError:
        if not _is_nowhere():
            raise
        print(f"error: {NOWHERE}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        _silence()
        return SUCCEEDED
    except OSError as error:
        if error.filename is not None or error.errno not in UNPRINTABLE:
            raise
        _silence()
        print(f"error: the result could not be printed: {error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "hpo", description=DESCRIPTION, epilog=CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run", help="run a Study to its end", description="Run a Study to its end on this machine.", epilog=CODES
    )
    _study_argument(run)
    run.add_argument("--parallelism", type=_count, metavar="N", help="Trials at once, instead of spec.parallelism")
    run.add_argument(
        "--gpus", type=_gpus, metavar="0,1", help="GPUs for Trials that ask for nvidia.com/gpu (default: all that nvidia-smi lists)"
    )
    run.add_argument("--results", type=Path, metavar="DIR", help="results folder (default: hpo-runs/<name of the Study>)")
    run.add_argument("--fresh", action="store_true", help="set earlier results aside and start anew")
    run.add_argument(
        "--earlier",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="results folder of a Study in warmStart.studies (default: beside this one's, by its name); may be repeated",
    )
    _output_argument(run, "text", "json")
    run.add_argument("--quiet", action="store_true", help="no progress, only the end")
    run.set_defaults(run=_run)

    validate = commands.add_parser("validate", help="check a Study file", description="Check a Study file; nothing is run.")
    _study_argument(validate)
    _output_argument(validate, "text", "json", "yaml")
    validate.set_defaults(run=_validate)

    plan = commands.add_parser("plan", help="what a Study would do", description="Play a Study through; nothing is run.")
    _study_argument(plan)
    plan.add_argument(
        "--unit-seconds", type=_positive, metavar="S", help="seconds that a budget unit (or a Trial) takes, for GPU-hours"
    )
    _output_argument(plan, "text", "json", "yaml")
    plan.set_defaults(run=_plan)

    trials = commands.add_parser("trials", help="the Trials of a results folder")
    trials.add_argument("results", type=Path, metavar="DIR", help="results folder of `hpo run`")
    _output_argument(trials, "text", "json", "yaml")
    trials.set_defaults(run=_trials)

    best = commands.add_parser("best", help="the best parameters of a results folder")
    best.add_argument("results", type=Path, metavar="DIR", help="results folder of `hpo run`")
    _output_argument(best, "text", "yaml", "json", "env")
    best.set_defaults(run=_best)

    lineage = commands.add_parser(
        "lineage", help="who has copied whom in a population", description="The lineages of a population, the best marked by *."
    )
    lineage.add_argument("source", type=Path, metavar="RUN", help=EXPORTED)
    lineage.add_argument("--trial", type=int, metavar="N", help="only the ancestors of this Trial")
    lineage.add_argument(
        "--schedule", action="store_true", help="the schedule of the best Trial, or of --trial; as YAML the Study that replays it"
    )
    _output_argument(lineage, "text", "json", "yaml")
    lineage.set_defaults(run=_lineage)

    replay = commands.add_parser(
        "replay",
        help="train the best schedule of a population once more",
        description="Train the schedule of a population's best member once more, from nothing, as one training.",
        epilog=CODES,
    )
    _study_argument(replay)
    replay.add_argument("--of", type=Path, metavar="RUN", help=f"{EXPORTED} (default: hpo-runs/<name of the Study>)")
    replay.add_argument("--trial", type=int, metavar="N", help="the Trial whose schedule to replay (default: the best)")
    replay.add_argument(
        "--results", type=Path, metavar="DIR", help="results folder (default: that of the run, or hpo-runs/<name>, with -replay)"
    )
    replay.add_argument("--fresh", action="store_true", help="set an earlier replay aside and start anew")
    _output_argument(replay, "text", "json")
    replay.add_argument("--quiet", action="store_true", help="no progress, only the end")
    replay.set_defaults(run=_replay)

    _convert_command(commands)

    execute = commands.add_parser("exec", help="run an unmodified program and report what it prints", add_help=False)
    execute.set_defaults(run=lambda arguments: _unreachable())
    return parser


def _convert_command(commands: Any) -> None:
    convert = commands.add_parser(
        "convert",
        help="Katib's Experiment as a Study",
        description="Print the Study that does what an Experiment of Katib's did. What is different is said on standard error.",
        epilog="Exit codes: 0 the Study is valid, 2 something is to be mended first, or the input was bad.",
    )
    convert.add_argument(
        "experiment", type=Path, metavar="EXPERIMENT", help="a YAML file with one Experiment, or - for standard input"
    )
    convert.add_argument("--output", "-o", choices=("yaml", "json"), default="yaml", help="how to print it (default: yaml)")
    convert.set_defaults(run=_convert)


def _study_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, metavar="STUDY", help="a YAML file with one Study")


def _output_argument(parser: argparse.ArgumentParser, *formats: str) -> None:
    parser.add_argument("--output", "-o", choices=formats, default="text", help="how to print the result (default: text)")


# Commands


def _run(arguments: argparse.Namespace) -> int:
    study, found = _load(arguments.study)
    results: Path = arguments.results or Path("hpo-runs") / study.metadata.name
    return _run_here(
        study, found, results, arguments, gpus=arguments.gpus, parallelism=arguments.parallelism, earlier=arguments.earlier
    )


def _run_here(study: Study, found: Sequence[str], results: Path, arguments: argparse.Namespace, **options: Any) -> int:
    from hpo_operator.local.display import display_for
    from hpo_operator.local.runner import AlgorithmFailed, Interrupted, LocalRunner
    from hpo_operator.local.store import RunBroken, set_aside
    from hpo_operator.local.summary import succeeded

    display = display_for(arguments.output, arguments.quiet)
    runner = LocalRunner(study, arguments.study.resolve().parent, results, watch=display, **options)
    _tell([*found, *runner.notes])
    try:
        if arguments.fresh and (aside := set_aside(results)):
            _tell([f"earlier results were set aside as {aside}"])
        with display, _interrupts(runner.interrupt):
            ended = runner.run()
    except Interrupted:
        print(f"\nInterrupted. What has ended stands in {results}; run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED
    except (RunBroken, AlgorithmFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    try:
        _report(ended, runner, results, arguments.output)
        sys.stdout.flush()
    except OSError as error:  # nobody reads, or the disk is full; but somebody may ask how it ended
        _silence()
        if not isinstance(error, BrokenPipeError):
            _tell([f"the end could not be printed: {error.strerror}"])
    return SUCCEEDED if succeeded(ended) else FAILED


def _replay(arguments: argparse.Namespace) -> int:
    from hpo_operator.local.exported import open_run
    from hpo_operator.local.lineage import best_number, replaying, result_of
    from hpo_operator.local.store import open_for_reading

    asked, _ = _load(arguments.study)
    here = Path("hpo-runs") / asked.metadata.name
    source: Path = arguments.of or here
    study, trials = open_run(source)
    number = best_number(study) if arguments.trial is None else arguments.trial
    again = replaying(study, trials, number)
    beside = source if source.is_dir() else here
    if beside.name in ("", ".."):  # as . and .. end, which are no names
        beside = Path(os.path.abspath(beside))
    results: Path = arguments.results or beside.with_name(f"{beside.name}-replay")
    code = _run_here(again, [], results, arguments)
    if code == SUCCEEDED and arguments.output == "text":
        metric = study.spec.objectives[0].metric
        before = next(result_of(study, trial) for trial in trials if trial.spec.number == number)
        after = result_of(study, open_for_reading(results)[1][-1])
        print(f"{metric}: {before} when it was found (Trial {number}), {after} replayed.")
    return code


def _lineage(arguments: argparse.Namespace) -> int:
    from hpo_operator.local import lineage
    from hpo_operator.local.exported import open_run

    study, trials = open_run(arguments.source)
    number = arguments.trial
    if arguments.schedule:
        number = lineage.best_number(study) if number is None else number
        if arguments.output == "yaml":
            again = lineage.replaying(study, trials, number)
            document = again.manifest()
            _print_values({**document, "metadata": {"name": again.metadata.name}}, "yaml")
            return SUCCEEDED
    shown = trials if number is None else lineage.ancestors(trials, number)
    if arguments.output != "text":
        _print_values(lineage.rows(study, shown), arguments.output)
    elif number is not None:
        print("\n".join(lineage.schedule(study, shown)))
    else:
        print("\n".join(lineage.tree(study, trials)))
    return SUCCEEDED


def _validate(arguments: argparse.Namespace) -> int:
    try:
        study, found = _load(arguments.study)
    except InvalidInput as error:
        if arguments.output == "text":
            raise
        faults = [{"path": f.path, "value": f.value, "rule": f.rule, "remedy": f.remedy} for f in error.faults]
        _print_values({"valid": False, "faults": faults}, arguments.output)
        return BAD_INPUT
    if arguments.output == "text":
        _tell(found)
        print(f"{arguments.study}: Study '{study.metadata.name}' is valid.")
    else:
        _print_values({"valid": True, "study": study.metadata.name, "notes": found}, arguments.output)
    return SUCCEEDED


def _plan(arguments: argparse.Namespace) -> int:
    from hpo_operator.local.preview import preview
    from hpo_operator.local.preview_text import as_json, as_text

    study, _ = _load(arguments.study)
    shown = preview(study.spec, study.spec.seed or 0)
    if arguments.output == "text":
        print(as_text(study, shown, arguments.unit_seconds))
    else:
        _print_values(as_json(study, shown, arguments.unit_seconds), arguments.output)
    return SUCCEEDED


def _trials(arguments: argparse.Namespace) -> int:
    from hpo_operator.local.store import open_for_reading

    study, trials = open_for_reading(arguments.results)
    if arguments.output == "text":
        _print_table(study, trials)
    else:
        _print_values([trial.manifest() for trial in trials], arguments.output)
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
    if len(study.spec.objectives) > 1:
        _tell([f"the best in '{study.spec.objectives[0].metric}' of {len(ledger.front())} Trials on the Pareto front"])
    if arguments.output == "env":
        import shlex

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding=sys.getfilesystemencoding())  # as programs have their variables
        try:
            print("\n".join(f"{parameter_variable(pair.name)}={shlex.quote(pair.value)}" for pair in best.parameters))
        except UnicodeEncodeError as error:
            lacking, known = error.object[error.start : error.end], error.encoding
            print(f"error: '{lacking}': cannot be written in this locale's encoding ({known}). Use -o json.", file=sys.stderr)
            return FAILED
    elif arguments.output == "text":
        metrics = ", ".join(f"{pair.name} = {pair.value}" for pair in best.metrics)
        print("\n".join([f"Trial {best.number}: {metrics}", *(f"  {pair.name} = {pair.value}" for pair in best.parameters)]))
    else:
        _print_values(space.parse({pair.name: pair.value for pair in best.parameters}), arguments.output)
    return SUCCEEDED


def _convert(arguments: argparse.Namespace) -> int:
    from hpo_operator.katib import converted

    documents = manifests.read_given(arguments.experiment)
    experiments = [each for each in documents if manifests.is_experiment(each)]
    if len(experiments) != 1:
        rule = f"holds {len(experiments)} Experiments of kubeflow.org; exactly one is needed"
        raise InvalidInput([Fault(documents[0].source, None, rule, "Put each of them into a file of its own.")])
    found = converted(experiments[0].data)
    _print_values(found.study, arguments.output)
    _tell([*experiments[0].notes, *map(str, found.notes)])
    for fault in found.faults:
        print(f"error: {fault}", file=sys.stderr)
    return BAD_INPUT if found.faults else SUCCEEDED


# Pieces


def _load(path: Path) -> tuple[Study, list[str]]:
    """The Study of a file, and what should be said about it."""
    document = manifests.study_document(manifests.read_file(path), str(path))
    study = read_study(document.data)
    found = [*document.notes, *notes(study.spec)]
    if document.others:
        found.append(f"{path}: {document.others} documents of other kinds are left out.")
    return study, found


def _tell(found: Sequence[str]) -> None:
    for note in found:
        print(f"note: {note}", file=sys.stderr)


def _report(study: Study, runner: Any, results: Path, output: str) -> None:
    from hpo_operator.local.summary import as_json, best_trials, sentences, succeeded

    if output == "json":
        print(json.dumps(as_json(study, results), indent=2))
        return
    if best := best_trials(study, runner.trials, BEST_SHOWN):
        several = len(study.spec.objectives) > 1
        which = f"{len(best)} Trials on the Pareto front" if several else f"Best {len(best)}"
        print(f"{which} of {study.status.trials.completed} completed Trials")
        _print_table(study, best)
    print()
    print(sentences(study))
    if not succeeded(study):
        print("It does not go on: mend it, and start anew with --fresh, which keeps these results.")
    places = f"Results: {results}    logs: {results}/trials/*/log.txt"
    print(f"{places}    best parameters: hpo best {results} -o yaml" if study.status.best else places)


def _print_table(study: Study, trials: Sequence[Any]) -> None:
    from rich.console import Console

    from hpo_operator.local.live import trials_table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    with console.capture() as captured:  # rich would end the whole process when nobody reads any more
        console.print(trials_table(study, trials))
    print(captured.get(), end="")


def _print_values(values: Any, output: str) -> None:
    if output == "json":
        print(json.dumps(values, indent=2))
        return
    import yaml

    any_character = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"  # what others have may be read as other ones
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=any_character), end="")


@contextmanager
def _interrupts(interrupt: Callable[[], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and a closed terminal end the Trials first; a second signal does not wait for them, a third is as usual."""
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {each: signal.getsignal(each) for each in wanted}
    previous = {each: handler for each, handler in previous.items() if handler is not signal.SIG_IGN}  # as nohup sets it
    received = 0

    def handler(number: int, frame: object) -> None:
        nonlocal received
        received += 1
        if received > 1:
            for each in previous:
                signal.signal(each, previous[each])
        # Not by print, which must not be entered a second time when the signal comes in the middle of one.
        words = "Ending the running Trials …" if received == 1 else "Killing them."
        with suppress(OSError):
            os.write(2, f"\n{words}\n".encode())
        interrupt()

    for each in previous:
        signal.signal(each, handler)
    try:
        yield
    finally:
        for each in previous:
            signal.signal(each, previous[each])


def _is_nowhere() -> bool:
    """Whether there is no working directory any more, in which relative paths begin."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _silence() -> None:
    """The reader of a pipe has had enough; Python must not find that out again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        from importlib.metadata import version

        print(f"hpo {version('hpo-operator')}")
        parser.exit()


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 1 to 10000")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number greater than 0")
    return number


def _gpus(text: str) -> list[str]:
    ids = [each.strip() for each in text.split(",") if each.strip()]
    if not ids or len(set(ids)) != len(ids):
        raise argparse.ArgumentTypeError(f"{text!r}: must be different GPU ids with commas between them, as 0,1")
    return ids


def _unreachable() -> int:
    print("error: `hpo exec` belongs to the SDK: pip install hpo-operator-sdk", file=sys.stderr)
    return BAD_INPUT
