"""What a launcher (torchrun, accelerate launch, mpirun, srun) told this process of the others, and whether it holds.

Read from the environment alone, so that a refusal costs no import of torch. Joining is in training/company.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from finetune.errors import EnvironmentFault, RecipeError

# Set for each process by launchers that leave it to the program to find the others.
COUNTS_OF_OTHER_LAUNCHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "MV2_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpirun",
                             "SLURM_STEP_NUM_TASKS": "srun"}  # fmt: skip
LAUNCH = "accelerate launch --multi_gpu --num_processes {count} -m finetune train RECIPE"
ON_CPU = f"Use: {LAUNCH}, without GPUs also training.use_cpu=true"

TOLD = "the writing process has told this"  # the note on an error that another process prints


def process_count() -> int:
    """How many processes train together; 1 without a launcher. Raises EnvironmentFault for what is no number."""
    return _number("WORLD_SIZE", least=1, otherwise=1)


def process_number() -> int:
    """This one's number, from 0. Raises EnvironmentFault for what is no number."""
    return _number("RANK", least=0, otherwise=0)


def is_writer() -> bool:
    """One process writes and speaks; the others compute."""
    return process_number() == 0


def resume_hint(folder: Path, *, processes: int | None = None) -> str:
    """What to type so that the run goes on, with the processes that there are now, or as many as it began with."""
    count, command = processes or process_count(), f"train {shlex.quote(str(folder))} --resume"
    if count == 1:
        return f"Go on with: finetune {command}"
    return f"Go on with the launcher, {count} processes and: -m finetune {command}"


def refuse_lost_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Several were asked for and this one was started alone: each would train everything. Raises RecipeError."""
    if "WORLD_SIZE" in environment:
        return
    where = "command line"
    # accelerate's launcher of a single process sets a port only if it was asked for several.
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_PORT" in environment:
        what = "accelerate launch was asked for several processes and started 1, as it does for --cpu and MULTI_CPU"
        raise RecipeError(where, what, ON_CPU.format(count="N") + ".")
    for variable, launcher in COUNTS_OF_OTHER_LAUNCHERS.items():
        asked = environment.get(variable, "1")
        if asked.isdecimal() and int(asked) > 1:
            what = f"{launcher} started {asked} processes, and none was told of the others (WORLD_SIZE is not set)"
            raise RecipeError(where, what, ON_CPU.format(count=asked) + ".")


def refuse_unlike_launch(
    *,
    use_cpu: bool,
    precision: str,
    extra: Mapping[str, object],
    gpus: int,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """What the launcher was configured for and the recipe says otherwise, which transformers would pass over.

    `precision` is no, bf16 or fp16, as the recipe has it; `gpus` how many this machine has. Raises RecipeError.
    """
    on_cpu = use_cpu or not gpus
    if on_cpu and (_yes(environment, "ACCELERATE_USE_FSDP") or extra.get("fsdp")):
        what = "FSDP was asked for without a GPU; it would silently train whole copies"
        raise RecipeError("training.fsdp", what, "Leave it out, or train where GPUs are.")
    if on_cpu and (_yes(environment, "ACCELERATE_USE_DEEPSPEED") or extra.get("deepspeed")):
        raise RecipeError("training.deepspeed", "DeepSpeed was asked for without a GPU", "Leave it out.")
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        what = f"accelerate's configuration asks for mixed_precision {asked}, the recipe for {precision}"
        raise RecipeError(
            f"training.{asked}", what, f"Say it in one place: training.{asked}=true, or 'no' in the other."
        )
    count = int(environment.get("WORLD_SIZE", "1"))
    if count == 1:
        return
    if not gpus and not use_cpu:
        what = f"{count} processes were started on a machine without a GPU; each would take itself for the only one"
        raise RecipeError("training.use_cpu", what, "Add training.use_cpu=true.")
    here = int(environment.get("LOCAL_WORLD_SIZE", str(count)))
    if not on_cpu and here > gpus:
        what = f"{here} processes were started on a machine with {gpus} GPU{'s' if gpus > 1 else ''}"
        raise RecipeError("command line", what, f"Start {gpus}, or add training.use_cpu=true.")


def tell_launcher(message: str) -> None:
    """The launcher prints this beside the number of the process that ended first. Its format is torch's."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        told = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError), open(file, "x", encoding="utf-8") as handle:
            json.dump({"message": told}, handle)


def _yes(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("1", "true", "yes")


def _number(variable: str, *, least: int, otherwise: int) -> int:
    text = os.environ.get(variable)
    if text is None:
        return otherwise
    if not text.isdecimal() or int(text) < least:
        what = f"is {text!r}, not a number from {least}"
        raise EnvironmentFault(variable, what, "Unset it, or start with torchrun or accelerate launch.")
    return int(text)
