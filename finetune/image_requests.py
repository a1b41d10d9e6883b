"""What the verbs of images can be asked, and what is refused before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.errors import RecipeError
from finetune.image_settings import ImageSettings, check_asked, read_image_settings
from finetune.output_folder import check_output_folder
from finetune.saved_models import saved_model

SAMPLES_RECORD = "samples.json"
RECONSTRUCTIONS_RECORD = "reconstructions.json"
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
AUGMENTATION_RECORD = "augmentation.json"
MOST_TRUNCATION = 1.0
MOST_MEASURED_SEEDS = 100

Way = Literal["draw", "mix", "interpolate"]


@dataclass(frozen=True)
class SampleRequest:
    """What to draw: `count` images of one seed, or what lies between two seeds, or their styles crossed."""

    way: Way
    seeds: tuple[int, ...]
    count: int
    labels: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    truncation: float = 1.0


@dataclass(frozen=True)
class AugmentRequest:
    """How many images to draw, spread evenly over the labels, and how many seeds to measure them with (0: none)."""

    count: int
    seed: int
    labels: tuple[str, ...] = ()
    truncation: float = 1.0
    measured_seeds: int = 0


def check_request(request: SampleRequest, *, target: Path) -> ImageSettings:
    """Whether a saved model can do this, before it is loaded. Raises RecipeError, ModelError and CheckpointError."""
    settings = read_image_settings(saved_model(target))
    check_asked(settings, labels=request.labels, prompts=request.prompts, name=str(target))
    if request.count < 1:
        option = "--steps" if request.way == "interpolate" else "--count"
        raise RecipeError(option, f"must be 1 or more, found {request.count}")
    if request.way == "interpolate" and request.count < 2:
        raise RecipeError("--steps", "must be 2 or more: both ends are among them")
    _check_truncation(request.truncation)
    if request.way == "mix" and settings.kind != "style":
        what = f"{target} is a {settings.kind}, which has no styles to mix"
        raise RecipeError("--mix", what, "Draw what lies between two seeds with --interpolate.")
    if request.way != "draw" and len({*request.labels, *request.prompts}) > 1:
        raise RecipeError(f"--{request.way}", "shows one label or text", "Name one.")
    if settings.image.condition == "caption" and not (settings.askable or request.prompts):
        raise RecipeError("command line", f"{target} draws what a text says, and there is none", "Write --prompt.")
    return settings


def check_augment(request: AugmentRequest, *, target: Path) -> ImageSettings:
    """The same for a labelled folder. Raises RecipeError also where there are no labels to write images under."""
    settings = read_image_settings(saved_model(target))
    if not settings.askable:
        what = f"{target} draws nothing by label, so that what it draws has none"
        raise RecipeError("augment", what, "Train with image.condition: label.")
    check_asked(settings, labels=request.labels, prompts=(), name=str(target))
    names = request.labels or settings.labels
    if request.count < len(names):
        what = f"must be {len(names)} or more, one image a label at least; found {request.count}"
        raise RecipeError("--count", what)
    _check_truncation(request.truncation)
    if request.measured_seeds:
        _check_measurable(request, target=target)
    strange = [name for name in names if name != name.strip() or name.startswith(".") or set(name) & set("/\\\0")]
    if strange:
        what = f"the label '{strange[0]}' is no name for a folder"
        raise RecipeError("augment", what, "Name others with --label.")
    return settings


def check_looking(
    target: Path, *, label: str | None, caption: str | None, output: Path | None, force: bool
) -> ImageSettings:
    """Whether a model can look at given images so: under this label or caption, and into this file or folder."""
    settings = read_image_settings(saved_model(target))
    labels, captions = ([each] if each is not None else [] for each in (label, caption))
    check_asked(settings, labels=labels, prompts=captions, name=str(target), prompt_option="--caption")
    if settings.image.condition == "caption" and not (settings.askable or captions):
        raise RecipeError(
            "command line", f"{target} judges an image by its caption, and there is none", "Write --caption."
        )
    if output is None:
        return settings
    if not output.suffix:
        if settings.kind != "vae":
            what = f"{target} is a {settings.kind}, which rebuilds no image"
            raise RecipeError(f"--output {output}", what, "Name a csv, jsonl or parquet file for its scores.")
        check_output_folder(output, record=RECONSTRUCTIONS_RECORD, force=force)
        return settings
    if output.suffix not in TABLE_SUFFIXES:
        what = f"the name must end in one of {', '.join(TABLE_SUFFIXES)}, or be that of a folder"
        raise RecipeError(f"--output {output}", what)
    if output.exists() and not force:
        raise RecipeError(f"--output {output}", "exists already", "Add --force to replace it.")
    if not output.absolute().parent.is_dir():
        raise RecipeError(f"--output {output}", f"no such folder: {output.parent}")
    return settings


def model_name(target: Path) -> str:
    """The name of a run, also where its best/ or last/ is named."""
    place = target.absolute()
    return place.parent.name if (place.parent / "run.json").is_file() and place.name in ("best", "last") else place.name


def _check_measurable(request: AugmentRequest, *, target: Path) -> None:
    if not (target / "recipe.yaml").is_file():
        what = f"trains on the run's own images, and {target} is no run folder"
        raise RecipeError("--measure", what, "Name the run folder.")
    if request.measured_seeds > MOST_MEASURED_SEEDS:
        raise RecipeError("--seeds", f"must be {MOST_MEASURED_SEEDS} or less, found {request.measured_seeds}")


def _check_truncation(truncation: float) -> None:
    if not 0 <= truncation <= MOST_TRUNCATION:
        raise RecipeError("--truncation", f"must be between 0 and 1, found {truncation:g}")
