"""`finetune prepare`: the prepared splits as files for any other tool, beside what was done to them.

    DIR/train.FORMAT  validation.FORMAT  test.FORMAT  data.json  recipe.yaml  README.md

No model is loaded; texts are read, cleaned, divided and written in batches.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from finetune.data.exports import check_export, column_kinds, export
from finetune.data.own_functions import own_function_texts
from finetune.data.prepare import EXAMPLES_SHOWN, Prepared, prepare
from finetune.data.recipe_source import column_map, columns_of
from finetune.data.row_streams import progress_bars
from finetune.data.splits import FEWEST_FOLDS
from finetune.data.store import cache_folder, fingerprint
from finetune.data.text_steps import visible
from finetune.data.written_exports import as_written
from finetune.data_card import card
from finetune.errors import RecipeError
from finetune.progress import WARNING, Progress
from finetune.recipe import ClassifierRecipe, text_recipe
from finetune.recipe_data import ExportFormat
from finetune.recipe_file import LoadedRecipe, dump_recipe, relocate
from finetune.runs import Json, disk_faults

MOST_LABELS = 12  # on the screen; all are in data.json


@dataclass(frozen=True)
class DatasetFolder:
    """What was prepared, and the files of its splits where they were asked for."""

    prepared: Prepared
    report: Json
    files: list[Path]


def prepare_folder(
    loaded: LoadedRecipe,
    folder: Path | None,
    *,
    format: ExportFormat = "parquet",
    folds: int | None = None,
    examples: int = EXAMPLES_SHOWN,
    force: bool = False,
    progress: Progress,
) -> DatasetFolder:
    """Run the data half of a recipe and, with a `folder`, write it there; `folds` numbers folds over all rows.

    Raises RecipeError before any work when the folder cannot be taken, and the errors of `prepare` and `export`.
    """
    if folds is not None:
        _check_folds(loaded, folds)
    if folder is not None:
        check_export(folder, format=format, force=force)
    prepared = prepare(loaded, progress=progress, examples=examples, folds=folds)
    numbers, report = _numbers(prepared, with_folds=folds is not None), prepared.report
    files: list[Path] = []
    if folder is not None:
        recipe = dump_recipe(
            relocate(loaded, folder=folder), header="Every default filled in. `finetune prepare` runs it."
        )
        splits = {name: _with_columns(rows, numbers[name]) for name, rows in _named(loaded, prepared, format).items()}
        sizes = {name: len(rows) for name, rows in splits.items()}
        columns = column_kinds(splits["train"])
        beside = {
            "data.json": json.dumps(report, ensure_ascii=False, indent=1),
            "recipe.yaml": recipe,
            **own_function_texts(text_recipe(loaded.recipe).cleaning, loaded.base),
            "README.md": card(report, sizes=sizes, columns=columns, format=format, title=loaded.name),
        }
        files = export(splits, folder, format=format, beside=beside, force=force, progress=progress)
    return DatasetFolder(prepared, report, files)


def render_prepared(done: DatasetFolder, *, examples: int) -> list[str]:
    """The screen: rows by split and label, each cleaning step, duplicates, leaks; `examples` of every step."""
    report, lines = done.report, []
    for name, lengths in report["characters"].items():
        rows, counts = len(done.prepared.splits[name]), report.get("label_counts", {}).get(name, {})
        labels = ", ".join(f"{visible(label)} {count:,}" for label, count in list(counts.items())[:MOST_LABELS])
        more = f" and {len(counts) - MOST_LABELS} more" if len(counts) > MOST_LABELS else ""
        classes = f" ({labels}{more})" if counts else ""
        targets = report.get("target_characters", {}).get(name)
        written = f"; of targets: {_lengths(targets)}" if targets is not None else ""
        lines.append(f"{name}: {rows:,} rows{classes}; characters: {_lengths(lengths)}{written}")
    for step in report["cleaning"]:
        lines.append(f"{step['name']}: {step['changed']:,} rows changed, {step['dropped']:,} dropped")
        for example in step["examples"][:examples]:
            lines += [f"  {example['origin']}", f"    before: {example['before']}", f"    after:  {example['after']}"]
    lines += _learnt_from_train(report)
    twins = report["duplicate_families"]
    lines.append(
        f"duplicate families left: {twins['exact_families']:,} exact, {twins['near_families']:,} near, "
        f"{twins['rows_in_families']:,} rows in all; each stays in one split"
    )
    shared = sum(overlap["leaking"] for overlap in report["leaks"]["left"])
    lines.append(f"rows that a later split shares with an earlier one: {shared:,}")
    if "folds" in report:
        sizes = ", ".join(f"{name} {rows:,}" for name, rows in report["folds"]["sizes"].items())
        lines += [f"rows in each fold: {sizes}", *report["folds"]["notes"]]
    if "fold" in report:
        held = report["fold"]
        sizes = ", ".join(f"{name} {rows:,}" for name, rows in held["sizes"].items())
        lines.append(f"test is fold {held['fold']} of {held['folds']} (repeat {held['repeat']}); rows: {sizes}")
    lines += [note if note.startswith(WARNING) else f"note: {note}" for note in report["warnings"]]
    return lines


def _lengths(percentiles: Json) -> str:
    return f"median {percentiles['median']:,}, 95th percentile {percentiles['p95']:,}, longest {percentiles['max']:,}"


def _named(loaded: LoadedRecipe, prepared: Prepared, format: ExportFormat) -> dict[str, datasets.Dataset]:
    """The splits with the columns to export: text to write under the names of the recipe."""
    if prepared.form is None:
        return prepared.splits
    return as_written(prepared.splits, column_map(columns_of(text_recipe(loaded.recipe).data)), format=format)


def _learnt_from_train(report: Json) -> list[str]:
    lines = []
    for name, fitted in report.get("numeric", {}).items():
        lines.append(
            f"{name}: {fitted['scaling']} by train (mean {fitted['mean']:g}, deviation {fitted['std']:g}, "
            f"{fitted['minimum']:g} to {fitted['maximum']:g}), {fitted['missing']:,} missing there"
        )
    if "augmentation" in report:
        grown = report["augmentation"]
        lines.append(f"augmentation: {grown['copies']:,} changed copies of {grown['originals']:,} rows, all in train")
    return lines


def _check_folds(loaded: LoadedRecipe, folds: int) -> None:
    """Before any work. What is learnt from train knows rows of every fold, so it would leak into the one held out."""
    if folds < FEWEST_FOLDS:
        raise RecipeError("--folds", f"at least {FEWEST_FOLDS} are needed. Found: {folds}")
    recipe = loaded.recipe
    if not isinstance(recipe, ClassifierRecipe):
        return
    if recipe.data.fold is not None:
        what = "numbers the folds of all rows, and data.fold already holds one of its own out"
        raise RecipeError("--folds", what, "Leave one of them out.")
    learnt = {"augmentation": recipe.augmentation is not None, "data.numeric": bool(recipe.data.numeric)}
    for key in (key for key, used in learnt.items() if used):
        what = f"{key} learns from the training split, whose rows are in every fold"
        raise RecipeError("--folds", what, "Leave one of them out.")


def _numbers(prepared: Prepared, *, with_folds: bool) -> dict[str, dict[str, np.ndarray]]:
    """For each split the columns `family` and, where asked for, `fold`."""
    numbers = {name: {"family": family} for name, family in prepared.families.items()}
    if with_folds and prepared.folds is not None:
        for name, fold in prepared.folds.items():
            numbers[name]["fold"] = fold
    return numbers


def _with_columns(rows: datasets.Dataset, columns: dict[str, np.ndarray]) -> datasets.Dataset:
    """The rows with columns of whole numbers, which are read as they are needed."""
    features = datasets.Features({**rows.features, **{name: datasets.Value("int64") for name in columns}})

    def added(batch: pa.Table, indices: list[int]) -> pa.Table:
        for name, values in columns.items():
            batch = batch.append_column(name, pa.array(values[indices], type=pa.int64()))
        return batch

    key = [(name, hashlib.sha256(values.tobytes()).hexdigest()) for name, values in columns.items()]
    with progress_bars(False), disk_faults(cache_folder()):
        numbered = rows.with_format("arrow").map(
            added,
            batched=True,
            with_indices=True,
            features=features,
            new_fingerprint=fingerprint(rows._fingerprint, "numbering", key),
        )
    return numbered.with_format(None)
