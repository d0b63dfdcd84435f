"""The GPUs of this machine: which may be handed out, and whether they suffice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from hpo_algorithms import Fault

from hpo_operator.local.program import GPU_RESOURCE, Program
from hpo_operator.validation import InvalidStudy

LIST_SECONDS = 30.0  # a driver that has to start first takes its time


@dataclass(frozen=True, slots=True)
class Devices:
    """The ids to hand out to Trials by CUDA_VISIBLE_DEVICES; None leaves that variable as it is. `notes` say what was decided."""

    ids: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def devices(asked: Sequence[str] | None, program: Program, parallelism: int) -> Devices:
    """What to hand out: what the user asks, else what the machine has where the template asks for GPUs.

    Raises InvalidStudy when a Trial asks for more than there are.
    """
    wanted = program.gpus
    if asked is not None and not wanted:
        return Devices((), (f"--gpus: the template asks for no {GPU_RESOURCE}, so Trials get no GPU.",))
    if not wanted:
        return Devices(None)
    found = list(asked) if asked is not None else visible()
    if found is None:
        note = f"The template asks for {GPU_RESOURCE}, but nvidia-smi shows none: Trials run without one of their own."
        return Devices(None, (note,))
    if wanted > len(found):
        place = f"{program.path}.resources.limits[{GPU_RESOURCE}]"
        named = f"{len(found)} ({', '.join(found)})"
        rule = f"is more than the {named} that " + ("--gpus names" if asked is not None else "this machine has")
        raise InvalidStudy([Fault(place, wanted, rule, "Ask for fewer a Trial, or name more by --gpus 0,1,….")])
    notes = [] if asked is not None else [f"Trials get the GPUs {', '.join(found)}; --gpus names others."]
    if (at_once := len(found) // wanted) < parallelism:
        here = "1 GPU" if len(found) == 1 else f"{len(found)} GPUs"
        notes.append(f"With {here} and {wanted} a Trial, {at_once} of {parallelism} Trials run at once; others wait.")
    return Devices(tuple(found), tuple(notes))


def visible() -> list[str] | None:
    """The ids of the GPUs here, as CUDA_VISIBLE_DEVICES or else nvidia-smi tells them; None where there are none."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [each.strip() for each in chosen.split(",") if each.strip()] or None
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=LIST_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    # "GPU 0: NVIDIA H200 (UUID: GPU-…)", and below it "  MIG 1g.18gb Device 0: (UUID: MIG-…)", which only goes by its UUID.
    slices = re.findall(r"\(UUID: (MIG-[^)]+)\)", listed)
    return slices or re.findall(r"^GPU (\d+):", listed, flags=re.MULTILINE) or None
