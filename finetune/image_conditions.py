"""What is asked for when images are drawn to be scored: as many, of the same kinds, as the real images beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from finetune.data.image_prepare import ImageTable, PreparedImages
from finetune.image.captions import caption_of, embed_texts
from finetune.image_predictor import Asked, ImagePredictor
from finetune.recipe import ImageRecipe

MOST_DRAWN = 10_000  # for one evaluation, and to train a classifier on
# What images are drawn for; each has latents of its own.
SEEDS = {"validation": 1, "test": 2, "synthetic": 3}

Pixels = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Wanted:
    """What to draw: `count` images of `seed`, image i as entry i of `labels` (names) or `texts` asks.

    classes: (count,) class numbers of what is asked for, where they are known.
    """

    count: int
    seed: int
    classes: Classes | None = None
    labels: list[str] | None = None
    texts: list[str] | None = None


Draw = Callable[[Wanted], Pixels]  # -> uint8 (count, C, S, S)


def wanted_for(prepared: PreparedImages, recipe: ImageRecipe, split: str) -> Wanted:
    """What to ask for when drawing for a split: labels in the proportions it has them, or captions of its images."""
    table = prepared.splits[split]
    count = recipe.evaluation.count or min(len(table), MOST_DRAWN)
    return _wanted(prepared, recipe, table, count, seed=recipe.seed + SEEDS[split])


def wanted_to_teach(prepared: PreparedImages, recipe: ImageRecipe) -> Wanted:
    """What to draw to train a classifier on: as many images as there are for training, at most 10,000."""
    table = prepared.splits["train"]
    return _wanted(prepared, recipe, table, min(len(table), MOST_DRAWN), seed=recipe.seed + SEEDS["synthetic"])


def rows_by_class(wanted: Wanted, train: ImageTable) -> Iterator[tuple[Classes, Classes]]:
    """For each class asked for its places in the wish, and the rows of its training images; without classes, all."""
    if wanted.classes is None or train.labels is None:
        yield np.arange(wanted.count), np.arange(len(train))
        return
    for each in np.unique(wanted.classes):
        rows = np.flatnonzero(train.labels == each)
        yield np.flatnonzero(wanted.classes == each), rows if len(rows) else np.arange(len(train))


def training_rows(wanted: Wanted, train: ImageTable, *, seed: int) -> Classes:
    """(count,) rows of training images of the classes asked for, each once before any comes twice."""
    random, chosen = np.random.default_rng(seed), np.empty(wanted.count, dtype=np.int64)
    for places, rows in rows_by_class(wanted, train):
        order = np.concatenate([random.permutation(rows) for _ in range(-(-len(places) // len(rows)))])
        chosen[places] = order[: len(places)]
    return chosen


def drawing(predictor: ImagePredictor) -> Draw:
    """How a model, as its predictor asks it, draws what is wanted."""

    def draw(wanted: Wanted) -> Pixels:
        return predictor.draw(wanted.count, seed=wanted.seed, asked=Asked(labels=wanted.labels, texts=wanted.texts))

    return draw


def told_of(prepared: PreparedImages, recipe: ImageRecipe, split: str, *, base: Path) -> torch.Tensor | None:
    """What a model is told of each image of a split: nothing, class numbers (N,), or embedded captions (N, D)."""
    table = prepared.splits[split]
    if recipe.image.condition == "label":
        return torch.from_numpy(np.array(table.labels))
    if recipe.image.condition == "caption":
        texts = _texts(prepared, recipe, table, np.arange(len(table)))
        return torch.from_numpy(embed_texts(texts, encoder_name=recipe.image.text_encoder, base=base))
    return None


def group_numbers(table: ImageTable) -> npt.NDArray[np.int64] | None:
    """(images,) group numbers, an image without a group being a group of its own; None where none has one."""
    if all(group is None for group in table.groups):
        return None
    named = [f"g{group}" if group is not None else f"i{row}" for row, group in enumerate(table.groups)]
    numbers: npt.NDArray[np.int64] = np.unique(named, return_inverse=True)[1]
    return numbers


def _wanted(prepared: PreparedImages, recipe: ImageRecipe, table: ImageTable, count: int, *, seed: int) -> Wanted:
    if recipe.image.condition == "none":
        return Wanted(count, seed)
    order = np.arange(len(table)) if table.labels is None else np.argsort(table.labels, kind="stable")
    # Evenly through the images in the order of their labels: of each label its share, to within one.
    rows = order[np.arange(count) * len(table) // count]
    classes = None if table.labels is None else table.labels[rows]
    if recipe.image.condition == "caption":
        return Wanted(count, seed, classes=classes, texts=_texts(prepared, recipe, table, rows))
    assert classes is not None
    return Wanted(count, seed, classes=classes, labels=[prepared.labels.names[each] for each in classes])


def _texts(prepared: PreparedImages, recipe: ImageRecipe, table: ImageTable, rows: npt.NDArray[np.int64]) -> list[str]:
    """Captions of these images: their own, or templates of their labels, each in turn."""
    if table.captions is not None:
        return [table.captions[row] for row in rows]
    assert table.labels is not None
    image = recipe.image
    labels = [prepared.labels.names[table.labels[row]] for row in rows]
    turns = (image.captions[place % len(image.captions)] for place in range(len(rows)))
    return [caption_of(turn, label, words=image.label_words) for turn, label in zip(turns, labels, strict=True)]
