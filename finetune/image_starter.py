"""A first recipe for drawing images, from a look at a folder, an archive or idx files of them, or the built-in digits.

As in starter.py every line says why it stands there. The model is a VAE, which trains without a game and on any
machine; the comment above it names the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.data.image_archives import is_archive
from finetune.data.image_entries import ImageSource, is_image
from finetune.data.image_files import DIGITS, find_images, pixels_of
from finetune.data.image_idx import is_idx
from finetune.data.image_pixels import Changes, Shape, Unreadable
from finetune.data.image_tables import METADATA
from finetune.data.tables import format_of
from finetune.errors import DataError, RecipeError
from finetune.recipe_image import ImageColumns, ImageData
from finetune.recipe_lines import as_comment, scalar, shown, source_line

LOOKED_AT = 100  # images, spread over all
SIZES = (8, 16, 28, 32, 48, 64)  # a larger one costs four times as much with every doubling
SMALL = 16  # pixels a side, where wide networks are still quick
MOST_PASSES = 20  # an epoch
BATCH, EPOCHS, STEPS = 32, 10, 2_000
TRAINED_SHARE = 0.7  # of the images, as data.split has it
MOST_LABELS_NAMED = 10


@dataclass(frozen=True)
class ImageChoices:
    """What the recipe will be about, and what it was found by: images, their labels, sides of the looked-at ones."""

    images: int
    labels: list[str]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    size: int
    channels: Literal["grey", "colour"]
    task: Literal["image-generation"] = "image-generation"

    @property
    def condition(self) -> Literal["none", "label"]:
        return "label" if len(self.labels) > 1 else "none"


def holds_images(data: Path) -> bool:
    """Whether `data` is images: the built-in digits, an archive, an idx file, or a folder of more images than texts."""
    if str(data) == DIGITS:
        return True
    if data.is_file():
        return is_archive(data) or is_idx(data) or is_image(data.name)
    if not data.is_dir() or _has_tables(data):
        return False
    files = [Path(name) for _, _, names in os.walk(data) for name in names]
    images = sum(is_idx(file) or is_image(file.name) for file in files)
    return images > sum(file.suffix.lower() == ".txt" for file in files)


def first_image_recipe(data: Path, target: Path, flags: Mapping[str, str | None]) -> tuple[ImageChoices, str]:
    """The choices and the text of a commented recipe that stands at `target`.

    Raises DataError as `find_images` does, and where no image could be read; RecipeError for a flag about columns.
    """
    for name in ("text", "label", "group"):
        if flags.get(name):
            what = f"names a column, and {data.name} holds images"
            raise RecipeError(f"--{name}", what, "Leave it out; a folder is the label of its images.")
    found = find_images(
        str(data), columns=ImageColumns(), base=Path.cwd(), most_pixels=ImageData.model_fields["most_pixels"].default
    )
    sources = [source for part in found.parts.values() for source in part]
    choices = _look(sources, name=data.name)
    return choices, write_image_recipe(data, target, choices)


def write_image_recipe(data: Path, target: Path, choices: ImageChoices) -> str:
    """The text of the recipe."""
    passes = round(STEPS * BATCH / EPOCHS / max(1, choices.images * TRAINED_SHARE))
    width = 32 if choices.size <= SMALL else 16
    source = f"  source: {DIGITS}" if str(data) == DIGITS else source_line(data, target)
    asked = (
        f"  condition: label  # asked for by label: finetune sample RUN --label {scalar(choices.labels[0])}"
        if choices.condition == "label"
        else "  condition: none  # there are no labels to ask for; a folder for each class makes some"
    )
    larger = " A larger size costs four times as much with every doubling." if choices.size == SIZES[-1] else ""
    return "\n".join(
        [
            as_comment(_head(data, target, choices)),
            "task: image-generation",
            "# Sharper and harder to train: gan: {width: 16, discriminator_learning_rate: 4.0e-3}, or a `style` model.",
            "model:",
            f"  vae: {{latent_size: 32, width: {width}, likelihood: learned_variance}}",
            "data:",
            source,
            "  split: {validation: 0.15, test: 0.15}  # near duplicates stay on one side",
            "image:",
            f"  size: {choices.size}  # pixels a side; images are {_sides(choices)}.{larger}",
            f"  channels: {choices.channels}",
            "  resize: crop  # of an image that is not square the middle; or pad, or stretch",
            asked,
            "training:",
            f"  num_train_epochs: {EPOCHS}  # each ends with scores and a grid of drawn images",
            f"  passes_per_epoch: {min(max(1, passes), MOST_PASSES)}  # over the training images; few want many",
            "  learning_rate: 2.0e-3",
            "  lr_scheduler_type: linear",
            f"  per_device_train_batch_size: {BATCH}",
            "seed: 13  # of the split, the order, new weights and what is drawn",
            "",
        ]
    )


def _head(data: Path, target: Path, choices: ImageChoices) -> list[str]:
    labels = ", ".join(shown(name) for name in choices.labels[:MOST_LABELS_NAMED])
    more = ", ..." if len(choices.labels) > MOST_LABELS_NAMED else ""
    told = f"{len(choices.labels)} labels: {labels}{more}" if choices.labels else "no labels"
    return [
        f"Draw images like those of {shown(data.name)}: {choices.images:,} images, {told}.",
        f"  finetune check {shown(target.name)}   # every image is read, and what is wrong with one is said",
        f"  finetune train {shown(target.name)}",
    ]


def _sides(choices: ImageChoices) -> str:
    smallest, largest = (f"{width}x{height}" for width, height in (choices.smallest, choices.largest))
    return smallest if smallest == largest else f"{smallest} to {largest}"


def _look(sources: list[ImageSource], *, name: str) -> ImageChoices:
    """Labels of all entries; sizes and colours of some images, spread over all. Broken ones are left to `check`."""
    changes, shape, sides, coloured = Changes(), Shape(SIZES[-1], 3), list[int](), False
    total = sum(len(source.entries) for source in sources)
    for source in sources:
        step = max(1, -(-total // LOOKED_AT))
        for content in source.contents(range(0, len(source.entries), step)):
            seen = Changes()
            try:
                pixels = pixels_of(content, shape=shape, changes=seen)
            except Unreadable:
                continue
            assert seen.smallest is not None
            changes.saw(seen.smallest)
            sides.append(min(seen.smallest))
            coloured = coloured or bool((pixels != pixels[:1]).any())
    if changes.smallest is None or changes.largest is None:
        raise DataError(name, "none of the images looked at can be read", "finetune check says why of each.")
    middle = float(np.median(sides))
    return ImageChoices(
        images=total,
        labels=sorted({entry.label for source in sources for entry in source.entries if entry.label is not None}),
        smallest=changes.smallest,
        largest=changes.largest,
        size=max((size for size in SIZES if size <= middle), default=SIZES[0]),
        channels="colour" if coloured else "grey",
    )


def _has_tables(folder: Path) -> bool:
    """Whether tables lie right in the folder, other than a list of its images."""
    return any(format_of(path) and path.name not in METADATA for path in folder.iterdir() if path.is_file())
