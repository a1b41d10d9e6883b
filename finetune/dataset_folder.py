"""`finetune prepare`: the prepared splits as files for any other tool, beside what was done to them.

    DIR/train.FORMAT  validation.FORMAT  test.FORMAT  data.json  recipe.yaml  README.md

No model is loaded; texts are read, cleaned, divided and written in batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from finetune.data.blocks import RowLabels, column_numbers
from finetune.data.exports import check_export, column_kinds, export
from finetune.data.prepare import EXAMPLES_SHOWN, Prepared, prepare
from finetune.data.splits import assign_folds, fold_report
from finetune.data.store import fingerprint
from finetune.data_card import card
from finetune.progress import Progress
from finetune.recipe import ExportFormat
from finetune.recipe_file import LoadedRecipe, dump_recipe, relocate
from finetune.runs import Json

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
    if folder is not None:
        check_export(folder, format=format, force=force)
    prepared = prepare(loaded, progress=progress, examples=examples)
    splits, report = _numbered(
        prepared, folds=folds, stratify=loaded.recipe.data.split.stratify, seed=loaded.recipe.seed
    )
    files: list[Path] = []
    if folder is not None:
        recipe = dump_recipe(
            relocate(loaded, folder=folder), header="Every default filled in. `finetune prepare` runs it."
        )
        sizes = {name: len(rows) for name, rows in splits.items()}
        columns = column_kinds(splits["train"])
        beside = {
            "data.json": json.dumps(report, ensure_ascii=False, indent=1),
            "recipe.yaml": recipe,
            "README.md": card(report, sizes=sizes, columns=columns, format=format, title=loaded.name),
        }
        files = export(splits, folder, format=format, beside=beside, force=force, progress=progress)
    return DatasetFolder(prepared, report, files)


def render_prepared(done: DatasetFolder, *, examples: int) -> list[str]:
    """The screen: rows by split and label, each cleaning step, duplicates, leaks; `examples` of every step."""
    report, lines = done.report, []
    for name, counts in report["label_counts"].items():
        rows = len(done.prepared.splits[name])
        lengths = report["characters"][name]
        labels = ", ".join(f"{label} {count:,}" for label, count in list(counts.items())[:MOST_LABELS])
        more = f" and {len(counts) - MOST_LABELS} more" if len(counts) > MOST_LABELS else ""
        lines.append(
            f"{name}: {rows:,} rows ({labels}{more}); characters: median {lengths['median']:,}, "
            f"95th percentile {lengths['p95']:,}, longest {lengths['max']:,}"
        )
    for step in report["cleaning"]:
        lines.append(f"{step['name']}: {step['changed']:,} rows changed, {step['dropped']:,} dropped")
        for example in step["examples"][:examples]:
            lines += [f"  {example['origin']}", f"    before: {example['before']}", f"    after:  {example['after']}"]
    twins = report["duplicate_families"]
    lines.append(
        f"duplicate families left: {twins['exact_families']:,} exact, {twins['near_families']:,} near, "
        f"{twins['rows_in_families']:,} rows in all; each stays in one split"
    )
    shared = sum(overlap["leaking"] for overlap in report["leaks"]["left"])
    lines.append(f"rows that a later split shares with an earlier one: {shared:,}")
    lines += [warning if warning.startswith("warning: ") else f"note: {warning}" for warning in report["warnings"]]
    return lines


def _numbered(
    prepared: Prepared, *, folds: int | None, stratify: bool, seed: int
) -> tuple[dict[str, datasets.Dataset], Json]:
    """The splits with the columns `family` and, where asked for, `fold`; and what data.json says."""
    numbers, report = {name: {"family": family} for name, family in prepared.families.items()}, dict(prepared.report)
    if folds is not None:
        parts = list(prepared.splits.values())
        family = np.concatenate(list(prepared.families.values()))
        groups, labels = column_numbers(parts, "group"), RowLabels.read(parts)
        assigned = assign_folds(labels, folds=folds, groups=groups, families=family, stratify=stratify, seed=seed)
        report["folds"] = fold_report(assigned, labels=labels, folds=folds, groups=groups, families=family)
        bounds = np.cumsum([len(rows) for rows in parts])[:-1]
        for name, fold in zip(prepared.splits, np.split(assigned, bounds), strict=True):
            numbers[name]["fold"] = fold
    return {name: _with_columns(rows, numbers[name]) for name, rows in prepared.splits.items()}, report


def _with_columns(rows: datasets.Dataset, columns: dict[str, np.ndarray]) -> datasets.Dataset:
    """The rows with columns of whole numbers, which are read as they are needed."""
    features = datasets.Features({**rows.features, **{name: datasets.Value("int64") for name in columns}})

    def added(batch: pa.Table, indices: list[int]) -> pa.Table:
        for name, values in columns.items():
            batch = batch.append_column(name, pa.array(values[indices], type=pa.int64()))
        return batch

    key: list[Any] = [rows._fingerprint, *(fingerprint(name, values.tobytes()) for name, values in columns.items())]
    return (
        rows.with_format("arrow")
        .map(
            added,
            batched=True,
            with_indices=True,
            features=features,
            new_fingerprint=fingerprint(*key),
            desc="numbering",
        )
        .with_format(None)
    )
