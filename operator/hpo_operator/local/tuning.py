"""`tune`: a Python function as a Study, run by the local runner, for scripts and notebooks."""

from __future__ import annotations

import functools
import inspect
import math
import pickle
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from hpo_algorithms import AlgorithmsError, Fault, InvalidInput, Space
from hpo_algorithms.parameters import Categorical, Float, Int, Ordinal, Parameter

from hpo_operator.local.display import display_for
from hpo_operator.local.function import FUNCTION
from hpo_operator.local.program import GPU_RESOURCE
from hpo_operator.local.results import Result, StudyFailed, Table
from hpo_operator.local.runner import AlgorithmFailed, LocalRunner
from hpo_operator.local.store import RunBroken
from hpo_operator.resources import API_VERSION, MAX_STUDY_NAME
from hpo_operator.validation import InvalidStudy, is_endless, problem_of, read_study

__all__ = ["InvalidFunction", "Result", "StudyFailed", "Table", "tune"]

Named = str | Mapping[str, Any] | None
GOALS = {"min": "Minimize", "minimize": "Minimize", "max": "Maximize", "maximize": "Maximize"}


ARGUMENTS = {  # of `tune`, instead of the options of `hpo run` that the runner's messages name
    "Run with --fresh to set them aside and start anew, or name": "Name",
    " with --fresh": " and another folder with results=",
    "--results": "results=",
    ", or use --parallelism": "",
    "--parallelism": "parallelism=",
    "run the same command again": "make the same call again",
}


class InvalidFunction(InvalidInput):
    """A function cannot be tuned: it does not take the parameters, or cannot be sent to another process."""


def tune(
    function: Callable[..., Any],
    space: Space | Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]],
    *,
    metric: str = "loss",
    goal: str = "Minimize",
    algorithm: Named = None,
    schedule: Named = None,
    budget: int | tuple[int, int] | None = None,
    trials: int | None = 30,
    parallelism: int = 1,
    timeout: float | None = None,
    seed: int | None = None,
    results: str | Path | None = None,
    gpus: Sequence[int | str] | None = None,
    progress: bool = True,
) -> Result:
    """Find the parameters with which a function is best.

        from hpo_operator import tune

        def loss(x, y):
            return (x - 1) ** 2 + y

        result = tune(loss, {"x": {"float": {"min": -5, "max": 5}}, "y": {"int": {"min": 0, "max": 3}}}, trials=50, parallelism=4)
        result.best_params, result.best_value, result.table.to_frame()

    Each call runs in a process of its own, so that one that crashes or leaks harms no other, and several can run at once. Any
    function will do that can be sent there: one of a notebook, a lambda, a closure over data, a method. What it changes in
    this process is not seen here.

    Args:
        function: called with the parameters as keyword arguments, `loss(x=0.5, y=2)`, if it can take them all; else with one dict
            of them. Parameters that are not active are left out, so give those a default. It returns the metric, or a dict of
            metrics with it, or nothing when it has called `hpo.report(step=…, loss=…)` itself. `hpo.budget()` says how far to
            train, `hpo.infeasible(reason)` that these parameters cannot be tried. An exception fails the Trial, not the search.
        space: as in `Study.spec.parameters`: a list of `{"name": …, "float": {…}}`, or a dict from names to the rest; or a Space.
        metric: what the returned number is called, or which of the reported metrics counts.
        goal: "Minimize" or "Maximize".
        algorithm: "tpe", or with settings {"tpe": {"startupTrials": 10}}; chosen for you when left out.
        schedule: "median", "asha", "hyperband", or with settings; every call runs to its end when left out.
        budget: (min, max), or max alone, in a unit of your own; needed by "asha" and "hyperband".
        trials: how many calls at most; None when a schedule, a grid, a finite space or `timeout` brings the end.
        parallelism: how many run at once.
        timeout: seconds after which no more are made and those that run are ended.
        seed: the same seed, results and parallelism 1 give the same parameters again; a new one is drawn when left out.
        results: a folder to keep logs and results in. The same call with the same folder goes on where it ended, with the function
            as it is then, unless the search has failed: take another folder then. Without it they are kept as long as the Result.
        gpus: ids of GPUs; each call gets one of its own, and waits for it.
        progress: a live picture on a terminal, else a line for each call.

    Raises InvalidInput for what cannot work (InvalidFunction, InvalidStudy), and StudyFailed, which carries the Result, when no
    call has given a result or more than ten have failed. On KeyboardInterrupt the running calls are ended.
    """
    limits = {"maxTrials": trials, "deadlineSeconds": _seconds(timeout)}
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "Study",
        "metadata": {"name": _study_name(function)},
        "spec": {
            "objectives": [{"metric": metric, "goal": GOALS.get(str(goal).lower(), goal)}],
            "parameters": _parameters(space),
            "parameterConstraints": _constraints(space),
            **_given("algorithm", _settings(algorithm)),
            **_given("schedule", _settings(schedule)),
            **_given("budget", _budget(budget)),
            **_given("seed", seed),
            "parallelism": parallelism,
            "limits": {name: value for name, value in limits.items() if value is not None},
            "template": _template(gpus is not None),
        },
    }
    study = read_study(_plain(manifest))
    if trials is None and timeout is None and is_endless(study.spec):
        raise InvalidInput([Fault("trials", None, "is needed, for nothing else ends the search", "Give trials or timeout.")])
    space_ = problem_of(study.spec, 0).space
    call = _packed(function, metric, _by_name(function, space_.names))
    folder = Path(results) if results is not None else Path(tempfile.mkdtemp(prefix="hpo-tune-"))
    display = display_for("text", quiet=not progress)
    with tempfile.TemporaryDirectory(prefix="hpo-function-") as here, _kept_or_removed(folder, results is not None), _reworded():
        (Path(here) / "function.pickle").write_bytes(call)
        runner = LocalRunner(
            study,
            Path.cwd(),
            folder,
            gpus=_ids(gpus),
            watch=display,
            environment={FUNCTION: f"{here}/function.pickle"},
        )
        with display:
            ended = runner.run()
    result = Result(ended, space_, runner.trials, folder)
    if results is None:
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    if not result.succeeded:
        raise StudyFailed(result)
    return result


@contextmanager
def _kept_or_removed(folder: Path, named: bool) -> Iterator[None]:
    """A search that can go on may be wanted with what it has found so far; after other failures an unnamed folder is of no use."""
    try:
        yield
    except (KeyboardInterrupt, RunBroken, AlgorithmFailed) as error:
        why = "Interrupted. " if isinstance(error, KeyboardInterrupt) else ""
        print(f"{why}What has ended stands in {folder}; the same call with results={str(folder)!r} goes on.", file=sys.stderr)
        raise
    except BaseException:
        if not named:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _reworded() -> Iterator[None]:
    """The runner's errors in the words of a caller of `tune`."""

    def words(text: str) -> str:
        for option, argument in ARGUMENTS.items():
            text = text.replace(option, argument)
        return text

    try:
        yield
    except InvalidStudy as error:
        raise InvalidStudy(replace(fault, remedy=words(fault.remedy)) for fault in error.faults) from None
    except AlgorithmsError as error:
        error.args = (words(str(error)),)
        raise


# What the user gives, as a Study has it


def _parameters(space: Any) -> list[Any]:
    if isinstance(space, Space):
        return [_entry(each) for each in space.parameters]
    if isinstance(space, Mapping):
        return [{"name": name, **entry} if isinstance(entry, Mapping) else entry for name, entry in space.items()]
    return list(space) if isinstance(space, Iterable) else [space]


def _constraints(space: Any) -> list[Any]:
    """Those of a Space as they stand in a Study."""
    constraints = space.constraints if isinstance(space, Space) else ()
    return [
        {"terms": [{"parameter": name, "weight": weight} for name, weight in constraint.weights], "max": constraint.bound}
        for constraint in constraints
    ]


def _entry(parameter: Parameter) -> dict[str, Any]:
    """A parameter as it stands in a Study."""
    kind: dict[str, Any]
    if isinstance(parameter, Float | Int):
        step = parameter.step if isinstance(parameter, Float) or parameter.step != 1 else None
        name = "float" if isinstance(parameter, Float) else "int"
        high = max(parameter.high, parameter.low + (step or 0))  # which a single step may miss by its last digit
        kind = {name: {"min": parameter.low, "max": high, **_scale(parameter.log), **_given("step", step)}}
    elif isinstance(parameter, Ordinal):
        kind = {"ordinal": {"values": list(parameter.values)}}
    elif isinstance(parameter, Categorical):
        kind = {"categorical": {"choices": list(parameter.choices)}}
    else:
        raise TypeError(f"{type(parameter).__name__} cannot be written as a parameter of a Study")
    conditions = [{"parameter": each.parameter, "in": list(each.values)} for each in parameter.when]
    return {"name": parameter.name, **kind, **({"when": conditions} if conditions else {})}


def _scale(log: bool) -> dict[str, str]:
    return {"scale": "Log"} if log else {}


def _given(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}


def _settings(named: Named) -> Any:
    return {named: {}} if isinstance(named, str) else named


def _budget(budget: Any) -> Any:
    if isinstance(budget, tuple | list) and len(budget) == 2:
        return {"min": budget[0], "max": budget[1]}
    return None if budget is None else {"max": budget}


def _seconds(timeout: Any) -> Any:
    """Whole ones; what is no number stays, and is refused by its name as all of a Study is."""
    try:
        return math.ceil(timeout)
    except (TypeError, ValueError, OverflowError):
        return timeout


def _ids(gpus: Any) -> list[str] | None:
    if gpus is None:
        return None
    ids = [str(each) for each in gpus] if isinstance(gpus, Iterable) and not isinstance(gpus, str) else []
    if not ids or len(set(ids)) != len(ids):
        raise InvalidInput([Fault("gpus", gpus, "must be a list of different GPU ids", "For example [0, 1].")])
    return ids


def _plain(value: Any, path: str = "") -> Any:
    """What a Study can hold, with numbers and arrays of numpy as Python's own. Raises InvalidInput for anything else."""
    if isinstance(value, Mapping):
        return {name: _plain(each, f"{path}.{name}".lstrip(".")) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, f"{path}[{place}]") for place, each in enumerate(value)]
    if hasattr(value, "tolist"):
        return value.tolist()
    if value is None or isinstance(value, str | int | float):
        return value
    raise InvalidInput([Fault(path, value, "cannot stand in a Study", "Give text, numbers, lists or dicts.")])


def _template(gpu: bool) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "function",
        "command": [Path(sys.executable).name, "-u", "-P", "-m", "hpo_operator.local.function"],
    }
    if gpu:
        container["resources"] = {"limits": {GPU_RESOURCE: 1}}
    return {"job": {"spec": {"template": {"spec": {"containers": [container]}}}}}


def _study_name(function: object) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_STUDY_NAME].strip("-") or "function"


# The function


def _by_name(function: Callable[..., Any], names: Sequence[str]) -> bool:
    """Whether a function takes the parameters by their names; False when it takes them as one dict. Raises InvalidFunction."""
    shown = getattr(function, "__name__", repr(function))
    if not callable(function):
        raise InvalidFunction([Fault("function", function, "must be callable")])
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True  # of a builtin nothing is known; the first call will tell
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        try:
            taken = signature.bind({}).arguments  # the name of its one argument
        except TypeError:
            taken = {names[0]: None}
        if not set(names).isdisjoint(taken):
            rule = f"takes neither the parameters by name ({error}) nor one dict of them"
            raise InvalidFunction([Fault("function", shown, rule, f"Define it as {shown}({', '.join(names)}).")]) from None
        return False
    return True


def _packed(function: Callable[..., Any], metric: str, by_name: bool) -> bytes:
    """The function with all that it needs in another process. Raises InvalidFunction when it cannot be sent there."""
    try:
        import cloudpickle  # type: ignore[import-untyped, unused-ignore]
    except ImportError:  # scikit-learn brings joblib, which before 1.6 has its own copy of it
        from joblib.externals import cloudpickle  # type: ignore[import-untyped, no-redef, unused-ignore]

    made = function
    while isinstance(made, functools.partial):
        made = made.func
    by_value = _by_value(inspect.getmodule(made))
    if by_value is not None:
        cloudpickle.register_pickle_by_value(by_value)
    try:
        data = cloudpickle.dumps(function)
    except Exception as error:
        remedy = "Open files, connections and locks inside the function, not outside."
        shown = getattr(function, "__name__", repr(function))
        raise InvalidFunction([Fault("function", shown, f"cannot be sent to another process: {error}", remedy)]) from error
    finally:
        if by_value is not None:
            cloudpickle.unregister_pickle_by_value(by_value)
    return pickle.dumps({"function": data, "path": list(sys.path), "metric": metric, "by_name": by_name})


def _by_value(module: ModuleType | None) -> ModuleType | None:
    """The module that goes along with its code, as in a notebook, since another process would not find the same by its name.

    Or since it is still being imported, with what it is part of: a call that imported it would tune once more, without end.
    """
    if module is None or module.__name__ == "__main__":
        return None
    parts = module.__name__.split(".")
    for end in range(1, len(parts) + 1):
        around = sys.modules.get(".".join(parts[:end]))
        if getattr(getattr(around, "__spec__", None), "_initializing", False):
            return around
    return None if _is_found_by_name(module) else module


def _is_found_by_name(module: ModuleType) -> bool:
    """Whether a new process with this one's path would import the same file under a module's name."""
    path: Any = None
    spec = None
    parts = module.__name__.split(".")
    for end in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:end]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return spec is not None and spec.origin in (getattr(module, "__file__", None), "built-in", "frozen")


def _spec(name: str, path: Any) -> ModuleSpec | None:
    """What the finders say, not what has been loaded here under that name."""
    for finder in sys.meta_path:
        with suppress(ImportError, AttributeError, ValueError):
            if (found := finder.find_spec(name, path)) is not None:
                return found
    return None
