"""The verbs of image models alone: `sample` draws, `augment` draws a labelled folder and measures what it is worth.

As in verbs.py, heavy imports wait until nothing more can be refused without them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import RecipeError
from finetune.progress import write
from finetune.verbs import fetch_model, progress_of
from finetune.verbs_of_predicting import as_typed

if TYPE_CHECKING:
    from finetune.image_requests import SampleRequest

DEFAULT_COUNT = 64
DEFAULT_STEPS = 8
DEFAULT_SEED = 0
DEFAULT_MEASURED_SEEDS = 3  # trainings of each classifier


def sample(arguments: argparse.Namespace) -> int:
    from finetune.image_requests import SAMPLES_RECORD, check_request
    from finetune.output_folder import check_output_folder

    _check_ways(arguments)
    fetch_model(arguments)
    target = Path(arguments.run_folder).expanduser()
    request = _request(arguments)
    check_request(request, target=target)
    folder = Path(arguments.output).expanduser() if arguments.output else _new_folder(target)
    check_output_folder(folder, record=SAMPLES_RECORD, force=arguments.force)
    from finetune.image_samples import write_samples

    done = write_samples(target, request, folder, progress=progress_of(arguments))
    if arguments.json:
        told = {"folder": str(done.folder), "grid": str(done.grid), **done.record}
        write(sys.stdout, json.dumps(told, ensure_ascii=False))
    else:
        write(sys.stdout, f"{len(done.files):,} images and {done.grid.name} are in {done.folder}")
    return 0


def _request(arguments: argparse.Namespace) -> SampleRequest:
    from finetune.image_requests import SampleRequest

    asked: dict[str, Any] = {
        "labels": tuple(arguments.label),
        "prompts": tuple(map(as_typed, arguments.prompt)),
        "truncation": arguments.truncation,
    }
    if arguments.mix:
        return SampleRequest(way="mix", seeds=tuple(arguments.mix), count=1, **asked)
    if arguments.interpolate:
        count = _given(arguments.steps, DEFAULT_STEPS)
        return SampleRequest(way="interpolate", seeds=tuple(arguments.interpolate), count=count, **asked)
    seed, count = _given(arguments.seed, DEFAULT_SEED), _given(arguments.count, DEFAULT_COUNT)
    return SampleRequest(way="draw", seeds=(seed,), count=count, **asked)


def _new_folder(target: Path) -> Path:
    from finetune.image_requests import model_name
    from finetune.runs import new_run_folder

    return new_run_folder(f"{model_name(target)}-samples")


def _check_ways(arguments: argparse.Namespace) -> None:
    """Options of one way of drawing do nothing beside another, and what does nothing is refused."""
    if arguments.mix and arguments.interpolate:
        raise RecipeError("command line", "--mix and --interpolate are two ways of drawing", "Leave one of them out.")
    if arguments.steps is not None and not arguments.interpolate:
        raise RecipeError("--steps", "goes with --interpolate", "Leave it out.")
    way = "--mix" if arguments.mix else "--interpolate" if arguments.interpolate else None
    for option, value in (("--count", arguments.count), ("--seed", arguments.seed)):
        if way and value is not None:
            raise RecipeError(option, f"does nothing beside {way}, which names two seeds", "Leave it out.")


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def augment(arguments: argparse.Namespace) -> int:
    from finetune.image_requests import AUGMENTATION_RECORD, AugmentRequest, check_augment
    from finetune.output_folder import check_output_folder

    if arguments.seeds is not None and not arguments.measure:
        raise RecipeError("--seeds", "says how often --measure trains", "Add --measure, or leave it out.")
    fetch_model(arguments)
    target, folder = Path(arguments.run_folder).expanduser(), Path(arguments.output).expanduser()
    request = AugmentRequest(
        count=arguments.count,
        seed=_given(arguments.seed, DEFAULT_SEED),
        labels=tuple(arguments.label),
        truncation=arguments.truncation,
        measured_seeds=_given(arguments.seeds, DEFAULT_MEASURED_SEEDS) if arguments.measure else 0,
    )
    if arguments.measure and request.measured_seeds < 1:
        raise RecipeError("--seeds", "must be 1 or more, found 0")
    check_augment(request, target=target)
    check_output_folder(folder, record=AUGMENTATION_RECORD, force=arguments.force)
    from finetune.image_augmenting import augmentation_lines, write_augmentation

    record = write_augmentation(target, request, folder, progress=progress_of(arguments))
    if arguments.json:
        write(sys.stdout, json.dumps({"folder": str(folder), **record.model_dump(mode="json")}, ensure_ascii=False))
    else:
        for line in augmentation_lines(record, folder):
            write(sys.stdout, line)
    return 0
