"""States of torch in one file, and what becomes of them in a Trial with other hyperparameters.

What a Trial learned is in `state`: weights, moments, how far a schedule has come. What it was told is in the options of its
optimizer's parameter groups and in the arguments of its scheduler. A state of torch mixes both; here they are told apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo._errors import InvalidCheckpoint
from hpo._notices import note_once

if TYPE_CHECKING:
    from hpo.checkpoint import Checkpoint

FILE = "torch.pt"

# An argument of every scheduler, and yet no hyperparameter: how far it has come.
_PROGRESS = "last_epoch"


def writer(parts: Mapping[str, Any], extra: object) -> Callable[[Path], None]:
    """Writes the states of all parts. They are asked for when the writer is called: on the rank that saves, and no other."""
    for name, part in parts.items():
        if not callable(getattr(part, "state_dict", None)):
            remedy = "Give modules, optimizers and schedulers by name, and plain data as extra"
            raise InvalidCheckpoint(f"part {name}", type(part).__name__, "has no state_dict()", remedy)

    def write(folder: Path) -> None:
        states = {name: _plain(part.state_dict()) for name, part in parts.items()}
        torch = import_module("torch")
        torch.save({"parts": states, "extra": _plain(extra)}, folder / FILE)
        unread: Callable[[Path], list[str]] = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda path: [])
        with _numpy_too(torch):
            others = ", ".join(sorted(unread(folder / FILE)))
        if others:
            note_once(others, f"{others}: no plain data; what holds it is loaded with load_torch(weights_only=False) alone")

    return write


def _plain(value: Any) -> Any:
    """Numbers and texts of numpy as Python's own, which torch loads as plain data."""
    if type(value) is dict:
        return {_plain(name): _plain(each) for name, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    is_single = type(value).__module__ == "numpy" and type(value).__name__ != "ndarray" and getattr(value, "shape", None) == ()
    return value.item() if is_single and value.dtype.kind in "biufcSU" else value


def _numpy_too(torch: Any) -> Any:
    """Lets torch load arrays of numpy as plain data: what makes them again runs no code that came with them."""
    allowed = getattr(torch.serialization, "safe_globals", None)
    try:
        numpy = import_module("numpy")
    except ImportError:
        allowed = None
    if allowed is None:  # no numpy, or torch before 2.5
        return nullcontext()
    makers = [each.__reduce__()[0] for each in (numpy.empty(0), numpy.float64())]
    kinds = {type(numpy.dtype(code)) for code in numpy.typecodes["All"]}
    return allowed([numpy.ndarray, numpy.dtype, bytes, *makers, *kinds])


def restore(found: Checkpoint, parts: Mapping[str, Any], map_location: object, weights_only: bool) -> Any:
    """Loads all parts, and returns `extra`; raises `InvalidCheckpoint` before any is changed if one is not there."""
    path = found.path / FILE
    if not path.exists():
        raise InvalidCheckpoint("checkpoint", str(found.path), f"has no {FILE}", "Load it by what it was saved by")
    torch = import_module("torch")
    with _numpy_too(torch):
        content = torch.load(path, map_location=map_location, weights_only=weights_only)
    states = content["parts"]
    for name in parts:
        if name not in states:
            rule = f"is not in the checkpoint, which has {', '.join(states) or 'none'}"
            raise InvalidCheckpoint("part", name, rule, "Use the names that it was saved with")
    adapted = {name: states[name] if found.copied_from is None else _adapted(parts[name], states[name]) for name in parts}
    for name, part in parts.items():
        _load(part, adapted[name])
    if found.copied_from is not None:
        for part in parts.values():
            if _is_scheduler(part):
                _show_rates(part, [group["lr"] for group in part.optimizer.param_groups])
    return content["extra"]


def _load(part: Any, state: Any) -> None:
    """Loads a part's state, which torch itself moves to the weights' device: all but the options of an optimizer that are tensors.

    Those are moved here: a step that is captured into a graph has to find its learning rate on the device.
    """
    groups = getattr(part, "param_groups", ())
    devices = [{name: value.device for name, value in group.items() if hasattr(value, "device")} for group in groups]
    part.load_state_dict(state)
    for group, known in zip(getattr(part, "param_groups", ()), devices):  # noqa: B905  Python 3.9 has no `strict`
        group.update({name: group[name].to(device) for name, device in known.items() if hasattr(group.get(name), "to")})


def _adapted(part: Any, state: Any) -> Any:
    """Another Trial's state of a part, with this Trial's hyperparameters."""
    if _is_scheduler(part):
        return adapted_schedule(part, state)
    if hasattr(part, "param_groups") and isinstance(state, Mapping) and "param_groups" in state:
        return {**state, "param_groups": adapted_groups(part.param_groups, state["param_groups"])}
    return state


def adapted_groups(own: Sequence[Mapping[str, Any]], donors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The donor's parameter groups with this Trial's options.

    Where both have an `initial_lr`, a scheduler is at work, and the learning rate keeps the part of it that the donor's had.
    That groups differ in number is left to torch to say.
    """
    groups = [dict(group) for group in donors]
    for group, options in zip(groups, own):  # noqa: B905  Python 3.9 has no `strict`
        donor_rate, donor_initial = group.get("lr"), group.get("initial_lr")
        group.update({name: value for name, value in options.items() if name != "params"})
        if donor_initial and donor_rate is not None and "initial_lr" in options:
            group["lr"] = options["initial_lr"] * (donor_rate / donor_initial)
    return groups


def adapted_schedule(scheduler: Any, donors: Mapping[str, Any]) -> dict[str, Any]:
    """The donor's state of a scheduler with what this Trial's was made with; nested schedulers each for itself."""
    own = scheduler.state_dict()
    told = {name for name in inspect.signature(type(scheduler)).parameters if name != _PROGRESS} | {"base_lrs"}
    state = {name: own[name] if name in told and name in own else value for name, value in donors.items()}
    nested = getattr(scheduler, "_schedulers", None)
    if nested and "_schedulers" in donors:
        pairs = zip(nested, donors["_schedulers"])  # noqa: B905  as above
        state["_schedulers"] = [adapted_schedule(each, given) for each, given in pairs]
    return state


def _is_scheduler(part: Any) -> bool:
    return hasattr(part, "optimizer") and hasattr(part, "last_epoch")


def _show_rates(scheduler: Any, rates: list[Any]) -> None:
    """Makes `get_last_lr()` say the learning rates that are in force."""
    for each in (scheduler, *getattr(scheduler, "_schedulers", ())):
        if hasattr(each, "_last_lr"):
            each._last_lr = list(rates)
