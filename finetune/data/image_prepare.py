"""From an image recipe to prepared splits: found, decoded, labelled, divided, fingerprinted, and told in data.json.

The one place that knows the order of the data steps of images; splits, labels and leaks are those of documents.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune.data.blocks import Numbers, column_numbers
from finetune.data.data_report import told_of_families
from finetune.data.division import Division, divide
from finetune.data.image_families import family_notes, find_image_families, image_hash, image_similarity
from finetune.data.image_files import find_images
from finetune.data.image_pixels import Pixels, Shape
from finetune.data.image_store import Decoded, decode_images, part_rows
from finetune.data.labels import LabelMap, read_labels
from finetune.data.near_duplicates import Families
from finetune.data.row_streams import values
from finetune.data.store import cache_folder, code_version, fingerprint, replacing
from finetune.errors import Collector, DataError, GateFailed, Problem, listed
from finetune.progress import WARNING, Progress
from finetune.recipe import ImageRecipe, image_recipe
from finetune.recipe_data import Shares, Split
from finetune.recipe_file import LoadedRecipe
from finetune.runs import Json

IMAGES_AT_ONCE = 1_000
CHANNELS = {"grey": 1, "colour": 3}
# What the rooms of documents say of rows, lines and texts is said of images here.
_REWORDED = (
    (re.compile(r"(?<=[ (])row(s?)(?=[ ,.;:)]|$)"), r"image\1"),
    (re.compile(r"(?<=: )lines? "), ""),
    (re.compile(r"\btext or (a )?group\b"), r"image or \1group"),
    (re.compile(r"(?<=ame a )file\b"), "source"),
)


@dataclass(frozen=True)
class ImageTable:
    """The images of one split: pixels uint8 of shape (N, C, S, S), mapped where they are many.

    `labels` are class numbers, shape (N,), or None; `captions` the source's own texts, or None. A `group` may be None.
    """

    pixels: Pixels
    labels: NDArray[np.int64] | None
    captions: list[str] | None
    ids: list[str]
    groups: list[str | None]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PreparedImages:
    """The three splits. `families` numbers duplicate families, exact and near, over all of them; report is data.json.

    `labels` has no names where images have no labels.
    """

    splits: dict[str, ImageTable]
    labels: LabelMap
    families: dict[str, Numbers]
    fingerprint: str
    report: Json
    warnings: list[str]

    def split_table(self) -> dict[str, Any]:
        """Columns of splits.parquet: who went where, never an image."""
        tables = self.splits.values()
        hashes = (image_hash(image) for table in tables for image in table.pixels)
        rows = sum(map(len, tables))
        return {
            "id": pa.array([each for table in tables for each in table.ids], type=pa.string()),
            "group": pa.array([each for table in tables for each in table.groups], type=pa.string()),
            "content_hash": pa.array(hashes, type=pa.string()),
            "family": np.concatenate(list(self.families.values())),
            "split": np.repeat(list(self.splits), [len(table) for table in tables]),
            "fold": pa.nulls(rows, type=pa.int64()),
        }


def prepare_images(loaded: LoadedRecipe, *, progress: Progress) -> PreparedImages:
    """Run the data half of an image recipe. Writes nothing but the cache.

    Raises DataError, GateFailed for leaks into a test split that was brought, or EnvironmentFault.
    """
    recipe = image_recipe(loaded.recipe)
    try:
        return _prepared(recipe, loaded, progress=progress)
    except (DataError, GateFailed) as error:
        raise type(error).of([_of_images(problem, loaded) for problem in error.problems]) from None


def _prepared(recipe: ImageRecipe, loaded: LoadedRecipe, *, progress: Progress) -> PreparedImages:
    data, seed = recipe.data, image_split_seed(recipe)
    shape = Shape(recipe.image.size, CHANNELS[recipe.image.channels], recipe.image.resize, data.most_pixels)
    found = find_images(data.source, columns=data.columns, base=loaded.base, most_pixels=data.most_pixels)
    decoded = decode_images(found.parts, data=data, shape=shape, seed=seed, progress=progress)
    notes = [*found.notes, *decoded.notes]
    for note in notes:
        progress.say(note)
    parts = part_rows(decoded)
    labels, doubts = _labels(parts, recipe)
    _check_captions(parts, recipe)
    families = _families(decoded, similarity=data.near_duplicates, progress=progress)
    division = _divided(parts, families, decoded, recipe=recipe, labels=labels, seed=seed)
    splits = {name: _table(rows, decoded, labels=labels) for name, rows in division.splits.items()}
    rows = decoded.rows
    doubts += family_notes(families, rows["id"].to_pylist(), rows["label"].to_pylist())
    told = [WARNING + note for note in (*decoded.warnings, *doubts)] + [_reworded(note) for note in division.notes]
    report = _report(decoded, families, division, splits, labels=labels)
    return PreparedImages(
        splits=splits,
        labels=labels,
        families=division.family,
        fingerprint=_fingerprint(splits, labels),
        report=report | {"notes": notes, "warnings": told},
        warnings=told,
    )


def image_split_seed(recipe: ImageRecipe) -> int:
    """What decides who goes where: data.split.seed, or the recipe's seed."""
    return recipe.seed if recipe.data.split.seed is None else recipe.data.split.seed


# ---- labels and captions ----


def _labels(parts: dict[str, datasets.Dataset], recipe: ImageRecipe) -> tuple[LabelMap, list[str]]:
    """The label names of all parts, and doubts. Raises DataError, also where labels are needed and there are none."""
    every = [label for rows in parts.values() for label in values(rows, "label")]
    distinct = set(every) - {None}
    needs_labels = recipe.image.condition == "label" or bool(recipe.image.captions)
    if not distinct:
        if needs_labels:
            what = f"'{recipe.image.condition}' is made of labels, and no image has one"
            do = "Put the images of each class into a folder of its name, or set image.condition: none."
            raise DataError("image.condition", what, do)
        return LabelMap(names=()), []
    if len(distinct) == 1 and None not in every and not needs_labels:
        return LabelMap(names=(str(next(iter(distinct))),)), []
    # Messages about labels take the file before the colon and the place behind it from an origin.
    apart = {name: rows.remove_columns("origin").rename_column("apart", "origin") for name, rows in parts.items()}
    labels, doubts = read_labels(apart, multi_label=False)
    return labels, [_reworded(doubt.partition(". Read the macro-F1")[0]) for doubt in doubts]


def _check_captions(parts: dict[str, datasets.Dataset], recipe: ImageRecipe) -> None:
    if recipe.data.columns.caption is None:
        return
    problems = Collector(DataError)
    for rows in parts.values():
        texts = zip(values(rows, "origin"), values(rows, "caption"), strict=True)
        missing = [origin for origin, text in texts if not text]
        if missing:
            what = f"{len(missing):,} of {len(rows):,} images have no caption: {listed(missing, most=5)}"
            problems.add("data.columns.caption", what, "Write them, or remove the images.")
    problems.raise_if_any()


# ---- families and splits ----


def _families(decoded: Decoded, *, similarity: float | None, progress: Progress) -> Families:
    """The families of all images, from the cache where they were found before."""
    key = fingerprint(decoded.folder.name, similarity, code_version("image_families.py"))
    path = cache_folder() / f"families-{key}.npz"
    if not path.exists():
        found = find_image_families(decoded.pixels, similarity=similarity, progress=progress)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, family=found.family, exact=found.exact, similarity=found.similarity, short=np.array(found.short)
            )
    with np.load(path) as stored:
        return Families(stored["family"], stored["exact"], stored["similarity"], int(stored["short"]))


def _divided(
    parts: dict[str, datasets.Dataset],
    families: Families,
    decoded: Decoded,
    *,
    recipe: ImageRecipe,
    labels: LabelMap,
    seed: int,
) -> Division:
    numbers: dict[str, int] = {}

    def similarity(one: str, other: str) -> float:
        """Of the images of two ids."""
        if not numbers:
            numbers.update(zip(decoded.rows["id"].to_pylist(), range(len(decoded.rows)), strict=True))
        return image_similarity(decoded.pixels[numbers[one]], decoded.pixels[numbers[other]])

    settings = recipe.data.split
    shares = Split(**settings.model_dump()) if labels.names else Shares(**settings.model_dump(exclude={"stratify"}))
    leaks = recipe.data.leaks
    return divide(parts, families, settings=shares, leaks=leaks, seed=seed, similarity=similarity)


def _table(rows: datasets.Dataset, decoded: Decoded, *, labels: LabelMap) -> ImageTable:
    captions = list(values(rows, "caption"))
    return ImageTable(
        pixels=decoded.chosen(np.fromiter(values(rows, "number"), dtype=np.int64, count=len(rows))),
        labels=_encoded(list(values(rows, "label")), labels) if labels.names else None,
        captions=captions if all(captions) else None,
        ids=list(values(rows, "id")),
        groups=list(values(rows, "group")),
    )


def _encoded(names: Sequence[str], labels: LabelMap) -> NDArray[np.int64]:
    number = {name: labels.encode(name) for name in set(names)}
    return np.array([number[name] for name in names], dtype=np.int64)


# ---- what is told ----


def _report(
    decoded: Decoded, families: Families, division: Division, splits: dict[str, ImageTable], *, labels: LabelMap
) -> Json:
    """data.json but for its notes; the parts that documents have too are named as there."""
    told, shape = decoded.told, decoded.shape
    report: Json = {
        "format_version": 1,
        "files": told["files"],
        "labels": list(labels.names),
        "multi_label": False,
        "images": {
            "size": shape.size,
            "channels": shape.channels,
            "resize": shape.resize,
            "resizing": shape.in_words(),
            "values": "whole numbers 0 to 255; a network is given them divided by 255",
            "changed": told["changes"],
            "skipped": told["skipped"],
            "smallest": told["smallest"],
            "largest": told["largest"],
            **_pixel_facts(splits["train"].pixels),
        },
        "splits": division.report | {"notes": [_reworded(note) for note in division.report["notes"]]},
        "groups": {name: int(column_numbers([rows], "group").max(initial=-1)) + 1
                   for name, rows in division.splits.items()},
        "duplicate_families": told_of_families(families, uncompared="rows_too_plain_to_compare"),
        "leaks": division.leaks,
    }  # fmt: skip
    if labels.names:
        report["label_counts"] = {name: _label_counts(table, labels) for name, table in splits.items()}
    return report


def _pixel_facts(pixels: Pixels) -> Json:
    """Mean and standard deviation of the training pixels of each channel, as shares of white."""
    sums = np.zeros((2, pixels.shape[1]))
    for start in range(0, len(pixels), IMAGES_AT_ONCE):
        values = pixels[start : start + IMAGES_AT_ONCE].astype(np.float64) / 255
        sums += [values.sum(axis=(0, 2, 3)), (values**2).sum(axis=(0, 2, 3))]
    mean, square = sums / (len(pixels) * pixels.shape[2] * pixels.shape[3])
    return {"train_mean": mean.tolist(), "train_deviation": np.sqrt(np.maximum(square - mean**2, 0)).tolist()}


def _label_counts(table: ImageTable, labels: LabelMap) -> dict[str, int]:
    assert table.labels is not None
    counts = Counter(labels.names[number] for number in table.labels.tolist())
    return {name: counts[name] for name in labels.names if counts[name]}


def _fingerprint(splits: dict[str, ImageTable], labels: LabelMap) -> str:
    """sha256 over every split's ids, labels, groups, captions and pixels, in order."""
    digest = hashlib.sha256(repr(labels.names).encode("utf-8", "surrogatepass"))
    for name, table in splits.items():
        numbers = None if table.labels is None else table.labels.tolist()
        told = (name, table.ids, numbers, table.groups, table.captions, table.pixels.shape)
        digest.update(repr(told).encode("utf-8", "surrogatepass"))
        for start in range(0, len(table), IMAGES_AT_ONCE):
            digest.update(table.pixels[start : start + IMAGES_AT_ONCE].tobytes())
    return digest.hexdigest()


def _of_images(problem: Problem, loaded: LoadedRecipe) -> Problem:
    """A problem in the words of images; of a key that the recipe has, with the line where it stands."""
    key = tuple(problem.where.split("."))
    where = loaded.where(*key) if key in loaded.text.lines else problem.where
    return replace(problem, where=where, what=_reworded(problem.what), do=_reworded(problem.do))


def _reworded(sentence: str) -> str:
    for pattern, words in _REWORDED:
        sentence = pattern.sub(words, sentence)
    return sentence
