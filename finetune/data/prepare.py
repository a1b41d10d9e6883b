"""From a recipe to prepared splits: read, cleaned, labelled, divided, fingerprinted, and told in data.json.

Text to write has no labels: its rows have a target, and passages of plain text may be divided in file order.

The one place that knows the order of the data steps. It needs no model and no torch; windows are cut later, by the
model's own tokenizer. Texts stay in Arrow files: nothing here holds a column of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune.data.augment import augment
from finetune.data.blocks import column_numbers
from finetune.data.cleaning import check_steps, check_texts, clean
from finetune.data.data_report import data_report
from finetune.data.division import Division, divide
from finetune.data.duplicates import content_hash
from finetune.data.example_families import compared_rows, find_example_families
from finetune.data.examples import SLICE_PREFIX
from finetune.data.family_notes import large_family_notes, near_conflict_notes
from finetune.data.file_order import in_file_order
from finetune.data.labels import LabelMap, encoded_labels, read_labels, with_label_names
from finetune.data.near_duplicates import Families, find_families
from finetune.data.numbers import apply_scaling, fit_scaling
from finetune.data.parts import WHOLE
from finetune.data.recipe_source import (
    column_map,
    columns_of,
    documents_of,
    form_of,
    read_source,
    split_seed,
)
from finetune.data.repeats import conflict_notes
from finetune.data.row_streams import batches, progress_bars, values
from finetune.data.sources import Loaded
from finetune.data.streams import DocumentStream
from finetune.data.written_rows import whole_texts
from finetune.errors import DataError, FinetuneError, GateFailed, Problem, RecipeError, listed
from finetune.progress import WARNING, Progress
from finetune.recipe import ClassifierRecipe, text_recipe
from finetune.recipe_data import (
    SPLITS,
    Data,
    Form,
    LabelledData,
    TextData,
    TextSplit,
)
from finetune.recipe_file import LoadedRecipe
from finetune.runs import Json

ROWS_WORTH_A_BAR = 10_000  # fewer are cleaned in about a second
ROWS_WORTH_PROCESSES = 20_000  # below this, starting a second process costs more than it saves
EXAMPLES_SHOWN = 3


@dataclass(frozen=True)
class Prepared:
    """The three splits. Each dataset has id, text, label, group, origin, numeric columns, and `slice:NAME` for each
    column of evaluation.slices; `encoded` has their label numbers, row by row.

    `form` is that of text to write: rows then have id, text, target, label (null), group and origin, `labels` has no
    names and `encoded` is empty. It is None for labelled documents.
    `stream` is where training goes on after the rows of train, which are only its first ones; None but for streaming.
    `families` numbers duplicate families, exact and near, over all splits. `folds` is the fold of each row, from 0, or
    -1 for a changed copy; None where there are no folds. `report` is data.json.
    """

    splits: dict[str, datasets.Dataset]
    labels: LabelMap
    encoded: dict[str, list[Any]]
    families: dict[str, npt.NDArray[np.int64]]
    fingerprint: str
    report: Json
    warnings: list[str]
    folds: dict[str, npt.NDArray[np.int64]] | None = None
    form: Form | None = None
    stream: DocumentStream | None = None

    def split_table(self) -> dict[str, Any]:
        """Columns of splits.parquet: who went where, never a text."""
        parts = self.splits.values()
        folds = np.concatenate(list(self.folds.values())) if self.folds else np.full(sum(map(len, parts)), -1)
        hashes = (content_hash(text) for rows in self.splits.values() for text in whole_texts(rows, self.form))
        return {
            **{name: pa.chunked_array(_chunks(parts, name), type=pa.string()) for name in ("id", "group")},
            "content_hash": pa.array(hashes, type=pa.string()),
            "family": np.concatenate(list(self.families.values())),
            "split": np.repeat(list(self.splits), [len(rows) for rows in self.splits.values()]),
            "fold": pa.array(folds + 1, mask=folds < 0, type=pa.int64()),
        }


def prepare(
    loaded: LoadedRecipe, *, progress: Progress, examples: int = EXAMPLES_SHOWN, folds: int | None = None
) -> Prepared:
    """Run the data half of a recipe; of each cleaning step as many `examples` are kept for the report.

    `folds` numbers as many folds over all rows; the recipe's data.fold holds one of them out as the test split.
    Raises DataError, GateFailed for leaks, or EnvironmentFault. Writes nothing but the cache.
    """
    recipe, form = text_recipe(loaded.recipe), form_of(loaded.recipe)
    check_steps(recipe.cleaning, form)
    source, stream = read_source(loaded, progress=progress)
    cores, bars = _effort(source, recipe.data, progress)
    cleaned, steps = clean(
        source.splits, recipe.cleaning, base=loaded.base, num_proc=cores, progress=bars, examples=examples, form=form
    )
    check_texts(cleaned, form)
    with progress_bars(bars):
        known = _with_families(cleaned, loaded, num_proc=cores, progress=progress)
        division = _divided(known, loaded, folds=folds)
    finished = _finished(loaded, division, num_proc=cores, bars=bars)
    told = [
        *map(_warning, source.warnings),
        *(_warning(note) if step.dropped else note for step in steps for note in step.notes),
        *known.notes,
        *division.notes,
        *finished.notes,
    ]
    report = data_report(source, steps, known.families, division, finished.splits, labels=known.labels, form=form)
    return Prepared(
        splits=finished.splits,
        labels=known.labels,
        encoded={name: encoded_labels(rows, known.labels) for name, rows in finished.splits.items() if form is None},
        families=finished.family,
        fingerprint=_fingerprint(finished.splits),
        report=report | finished.report | {"warnings": told},
        warnings=told,
        folds=_folds(division, finished),
        form=form,
        stream=documents_of(stream, finished.splits, loaded) if stream is not None else None,
    )


def _folds(division: Division, finished: _Finished) -> dict[str, npt.NDArray[np.int64]] | None:
    """The folds of the rows as they are in the end: the copies that train was given stand after its rows."""
    if division.folds is None:
        return None
    return {
        name: np.pad(numbers, (0, len(finished.splits[name]) - len(numbers)), constant_values=-1)
        for name, numbers in division.folds.items()
    }


def _warning(text: str) -> str:
    """Marked as what is shown even when quiet: something of the data is gone, doubtful or wrong."""
    return text if text.startswith(WARNING) else WARNING + text


def _effort(source: Loaded, data: Data, progress: Progress) -> tuple[int, bool]:
    """Processes worth starting, and whether the work is long enough for bars."""
    rows = sum(map(len, source.splits.values()))
    # Every process of a launch prepares the data, so they share the cores.
    own_share = max(1, (os.cpu_count() or 1) // int(os.environ.get("WORLD_SIZE", "1")))
    cores = data.num_proc or (own_share if rows > ROWS_WORTH_PROCESSES else 1)
    return cores, rows > ROWS_WORTH_A_BAR and not progress.quiet


@dataclass(frozen=True)
class _Known:
    """The cleaned parts with labels written alike, their duplicate families, and what to tell of both."""

    parts: dict[str, datasets.Dataset]
    labels: LabelMap
    families: Families
    notes: list[str]


def _with_families(
    cleaned: dict[str, datasets.Dataset], loaded: LoadedRecipe, *, num_proc: int, progress: Progress
) -> _Known:
    data, form, parts = text_recipe(loaded.recipe).data, form_of(loaded.recipe), dict(cleaned)
    labels, warnings = LabelMap(names=()), list[str]()
    if isinstance(data, LabelledData):
        labels, warnings = read_labels(cleaned, multi_label=data.multi_label, expected=data.labels)
        parts = {name: with_label_names(rows, labels) for name, rows in cleaned.items()}
    whole = datasets.concatenate_datasets(list(parts.values()))
    options: Any = {"similarity": data.near_duplicates, "num_proc": num_proc, "progress": progress}
    if form is None:
        families = find_families(whole, **options)
        notes = conflict_notes(whole, families.exact)
        doubtful = [*large_family_notes(families, whole), *near_conflict_notes(families, whole)]
    else:
        compared = compared_rows(whole, form)
        families, notes = find_example_families(whole, compared, form, **options)
        doubtful = large_family_notes(families, compared)
    return _Known(parts, labels, families, [*map(_warning, warnings), *notes, *map(_warning, doubtful)])


def _divided(known: _Known, loaded: LoadedRecipe, *, folds: int | None) -> Division:
    recipe = text_recipe(loaded.recipe)
    data, parts = recipe.data, known.parts
    in_order = isinstance(data.split, TextSplit) and data.split.contiguous
    if in_order and WHOLE not in parts:
        what = f"divides one source by position, and this one brings its parts: {listed(parts)}"
        raise RecipeError(loaded.where("data", "split", "contiguous"), what, "Leave it out, or name one source.")
    if isinstance(data, TextData) and WHOLE in parts:
        _check_documents(parts[WHOLE], data)
    if in_order:
        own_groups = column_map(columns_of(data)).group is not None
        parts = in_file_order(parts[WHOLE], data.split.shares, own_groups=own_groups)
    try:
        return divide(
            parts,
            known.families,
            settings=data.split,
            leaks=data.leaks,
            seed=split_seed(recipe),
            fold=data.fold if isinstance(data, LabelledData) else None,
            folds=folds,
            form=form_of(recipe),
        )
    except GateFailed as failure:
        raise (_in_order_failed(failure) if in_order else failure) from None


def _check_documents(rows: datasets.Dataset, data: TextData) -> None:
    """Raises DataError where plain texts are too few to be divided and something in the recipe would help."""
    numbers = column_numbers([rows], "group")
    documents = len(np.unique(numbers[numbers >= 0])) + int((numbers < 0).sum())
    if data.columns.form != "text" or data.columns.group is not None or documents >= len(SPLITS):
        return
    found = f"{documents} document{'s' if documents > 1 else ''}"
    if data.passage_characters is None:
        what = f"{found} cannot be divided into train, validation and test"
        raise DataError("data.split", what, "Set data.passage_characters, or name a file for every split.")
    if not data.split.contiguous:
        what = f"the {len(rows):,} passages are of {found}, and a document stays in one split"
        do = "Set data.split.contiguous: true to divide by position, or name a file for every split."
        raise DataError("data.split", what, do)


def _in_order_failed(failure: GateFailed) -> FinetuneError:
    """The same leaks, told of the border and not of files that nobody named."""
    key = "data.split.contiguous"
    return GateFailed.of(
        [
            Problem(key, f"{problem.where.rpartition('.')[2]}: {problem.what}", problem.do)
            if problem.where.startswith("data.source.")
            else problem
            for problem in failure.problems
        ]
    )


@dataclass(frozen=True)
class _Finished:
    """The splits with what was learnt from train, their families, what data.json says of it, and notes for the user."""

    splits: dict[str, datasets.Dataset]
    family: dict[str, npt.NDArray[np.int64]]
    report: Json
    notes: list[str]


def _finished(loaded: LoadedRecipe, division: Division, *, num_proc: int, bars: bool) -> _Finished:
    """What is learnt from the training split alone: scaled numbers in every split, changed copies in train."""
    recipe, splits, family = loaded.recipe, dict(division.splits), dict(division.family)
    report: Json = {}
    notes: list[str] = []
    if not isinstance(recipe, ClassifierRecipe):
        return _Finished(splits, family, report, notes)
    if recipe.data.numeric:
        fitted = fit_scaling(splits["train"], recipe.data.numeric)
        with progress_bars(bars):
            splits = {name: apply_scaling(rows, fitted) for name, rows in splits.items()}
        report["numeric"] = {name: column.to_json() for name, column in fitted.items()}
        notes += [f"{name}: {told['note']}" for name, told in report["numeric"].items() if "note" in told]
    if recipe.augmentation is not None:
        grown = augment(
            splits["train"],
            family["train"],
            settings=recipe.augmentation,
            seed=recipe.seed,
            base=loaded.base,
            num_proc=num_proc if num_proc > 1 else None,
            progress=bars,
        )
        splits["train"], family["train"] = grown.rows, grown.families
        report["augmentation"] = asdict(grown.report)
        notes += [*grown.report.notes, *map(_warning, grown.report.warnings)]
    return _Finished(splits, family, report, notes)


def _fingerprint(splits: dict[str, datasets.Dataset]) -> str:
    """sha256 over every row's split, id, text, label, group and numbers, in order; a slice touches no weight."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        columns = [each for each in rows.column_names if each != "origin" and not each.startswith(SLICE_PREFIX)]
        digest.update(f"{name} {columns}".encode())
        for row in zip(*(values(rows, column) for column in columns), strict=True):
            digest.update(repr(row).encode("utf-8", errors="surrogatepass") + b"\x1e")
    return digest.hexdigest()


def _chunks(parts: Iterable[datasets.Dataset], column: str) -> Iterator[pa.Array]:
    return (chunk for rows in parts for batch in batches(rows, column) for chunk in batch.cast(pa.string()).chunks)
