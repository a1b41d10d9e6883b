"""From a recipe to prepared splits: read, cleaned, labelled, divided, fingerprinted, and told in data.json.

The one place that knows the order of the data steps. It needs no model and no torch; windows are cut later, by the
model's own tokenizer. Texts stay in Arrow files: nothing here holds a column of them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finetune.data.augment import augment
from finetune.data.blocks import column_numbers
from finetune.data.cleaning import StepReport, check_texts, clean
from finetune.data.corpora import CORPORA, CORPUS_STAMPS
from finetune.data.division import Division, divide
from finetune.data.duplicates import content_hash
from finetune.data.examples import SLICE_PREFIX, ColumnMap
from finetune.data.family_notes import large_family_notes, near_conflict_notes
from finetune.data.labels import LabelMap, encoded_labels, read_labels, with_label_names
from finetune.data.near_duplicates import Families, find_families
from finetune.data.numbers import apply_scaling, fit_scaling
from finetune.data.row_steps import conflict_notes
from finetune.data.row_streams import batches, progress_bars, values
from finetune.data.sources import Loaded, load_examples
from finetune.errors import DataError, Problem
from finetune.progress import WARNING, Progress
from finetune.recipe import Columns, Data, Recipe
from finetune.recipe_file import LoadedRecipe
from finetune.runs import Json

ROWS_WORTH_A_BAR = 10_000  # fewer are cleaned in about a second
ROWS_WORTH_PROCESSES = 20_000  # below this, starting a second process costs more than it saves
EXAMPLES_SHOWN = 3
LENGTH_PERCENTILES = {"median": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}


@dataclass(frozen=True)
class Prepared:
    """The three splits. Each dataset has id, text, label, group, origin, numeric columns, and `slice:NAME` for each
    column of evaluation.slices; `encoded` has their label numbers, row by row.

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

    def split_table(self) -> dict[str, Any]:
        """Columns of splits.parquet: who went where, never a text."""
        parts = self.splits.values()
        folds = np.concatenate(list(self.folds.values())) if self.folds else np.full(sum(map(len, parts)), -1)
        hashes = (content_hash(text) for rows in self.splits.values() for text in values(rows, "text"))
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
    recipe, data = loaded.recipe, loaded.recipe.data
    source = _read(loaded, progress)
    cores, bars = _effort(source, data, progress)
    cleaned, steps = clean(
        source.splits, recipe.cleaning, base=loaded.base, num_proc=cores, progress=bars, examples=examples
    )
    check_texts(cleaned)
    labels, label_warnings = read_labels(cleaned, multi_label=data.multi_label, expected=data.labels)
    with progress_bars(bars):
        parts = {name: with_label_names(rows, labels) for name, rows in cleaned.items()}
    whole = datasets.concatenate_datasets(list(parts.values()))
    families = find_families(whole, similarity=data.near_duplicates, num_proc=cores, progress=progress)
    division = divide(
        parts,
        families,
        settings=data.split,
        leaks=data.leaks,
        seed=split_seed(recipe),
        fold=data.fold,
        folds=folds,
    )
    finished = _finished(loaded, division, num_proc=cores, bars=bars)
    told = [
        *map(_warning, (*source.warnings, *label_warnings)),
        *(_warning(note) if step.dropped else note for step in steps for note in step.notes),
        *conflict_notes(whole, families.exact),
        *map(_warning, large_family_notes(families, whole)),
        *map(_warning, near_conflict_notes(families, whole)),
        *division.notes,
        *finished.notes,
    ]
    return Prepared(
        splits=finished.splits,
        labels=labels,
        encoded={name: encoded_labels(rows, labels) for name, rows in finished.splits.items()},
        families=finished.family,
        fingerprint=_fingerprint(finished.splits),
        report=_report(source, steps, labels, families, division, finished) | {"warnings": told},
        warnings=told,
        folds=_folds(division, finished),
    )


def split_seed(recipe: Recipe) -> int:
    """What decides who goes where: data.split.seed, or the recipe's seed."""
    return recipe.seed if recipe.data.split.seed is None else recipe.data.split.seed


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


def column_map(columns: Columns) -> ColumnMap:
    return ColumnMap(text=columns.text, label=columns.label, group=columns.group, id=columns.id)


def _read(loaded: LoadedRecipe, progress: Progress) -> Loaded:
    data = loaded.recipe.data
    try:
        source = load_examples(
            data.source,
            columns=column_map(data.columns),
            base=loaded.base,
            multi_label=data.multi_label,
            encoding=data.encoding,
            limit=data.limit,
            seed=split_seed(loaded.recipe),
            most_characters=data.most_characters,
            numeric=tuple(data.numeric),
            slices=tuple(loaded.recipe.evaluation.slices),
            corpora=watched_corpora(progress),
            stamps=CORPUS_STAMPS,
            progress=progress,
        )
    except DataError as error:
        raise DataError.of([_at_its_line(problem, loaded) for problem in error.problems]) from error
    for note in source.notes:
        progress.say(note)
    return source


def _at_its_line(problem: Problem, loaded: LoadedRecipe) -> Problem:
    """A problem of a key that the recipe has, with the line where it stands."""
    key = tuple(problem.where.split("."))
    return replace(problem, where=loaded.where(*key)) if key in loaded.text.lines else problem


def _effort(source: Loaded, data: Data, progress: Progress) -> tuple[int, bool]:
    """Processes worth starting, and whether the work is long enough for bars."""
    rows = sum(map(len, source.splits.values()))
    # Every process of a launch prepares the data, so they share the cores.
    own_share = max(1, (os.cpu_count() or 1) // int(os.environ.get("WORLD_SIZE", "1")))
    cores = data.num_proc or (own_share if rows > ROWS_WORTH_PROCESSES else 1)
    return cores, rows > ROWS_WORTH_A_BAR and not progress.quiet


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


def watched_corpora(progress: Progress) -> dict[str, Callable[[], Iterable[dict[str, str]]]]:
    """The built-in corpora, each behind a bar: reading a library takes seconds."""

    def watched(name: str) -> Callable[[], Iterable[dict[str, str]]]:
        return lambda: progress.bar(iterable=CORPORA[name](), desc=f"reading {name}", unit="text", leave=False)

    return {name: watched(name) for name in CORPORA}


def _fingerprint(splits: dict[str, datasets.Dataset]) -> str:
    """sha256 over every row's split, id, text, label, group and numbers, in order; a slice touches no weight."""
    digest = hashlib.sha256()
    for name, rows in splits.items():
        columns = [each for each in rows.column_names if each != "origin" and not each.startswith(SLICE_PREFIX)]
        digest.update(f"{name} {columns}".encode())
        for row in zip(*(values(rows, column) for column in columns), strict=True):
            digest.update(repr(row).encode("utf-8", errors="surrogatepass") + b"\x1e")
    return digest.hexdigest()


def _report(
    source: Loaded,
    steps: list[StepReport],
    labels: LabelMap,
    families: Families,
    division: Division,
    finished: _Finished,
) -> Json:
    """data.json. What `splits`, `duplicate_families` and `leaks` say is of the rows before copies were added."""
    splits = finished.splits
    exact_rows = np.bincount(families.exact, minlength=1)
    return {
        "format_version": 1,
        "files": [asdict(item) for item in source.files],
        "notes": source.notes,
        "cleaning": [asdict(step) for step in steps],
        "labels": list(labels.names),
        "multi_label": labels.multi_label,
        "splits": division.report,
        "label_counts": {name: _label_counts(rows) for name, rows in splits.items()},
        "groups": {name: int(column_numbers([rows], "group").max(initial=-1)) + 1 for name, rows in splits.items()},
        "characters": {name: _lengths(rows) for name, rows in splits.items()},
        "duplicate_families": {
            "exact_families": families.exact_families,
            "rows_in_exact_families": int(exact_rows[exact_rows > 1].sum()),
            "near_families": families.near_families,
            "rows_in_families": int(families.sizes[families.sizes > 1].sum()),
            "largest": families.largest,
            "rows_too_short_to_compare": families.short,
        },
        "leaks": division.leaks,
        **_told_of_folds(division),
        **finished.report,
    }


def _told_of_folds(division: Division) -> Json:
    """`fold` tells of the one held out, counted from 1; `folds` of folds that are only a column, counted from 0."""
    report = division.fold_report
    return {} if report is None else {"fold" if "fold" in report else "folds": report}


def _label_counts(rows: datasets.Dataset) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for label in values(rows, "label"):
        counts.update(label if isinstance(label, list) else [label])
    return dict(sorted(counts.items()))


def _lengths(rows: datasets.Dataset) -> dict[str, int]:
    """Percentiles of the texts' lengths in characters."""
    lengths = np.concatenate([pc.utf8_length(texts).to_numpy() for texts in batches(rows, "text")])
    return {name: int(np.percentile(lengths, share)) for name, share in LENGTH_PERCENTILES.items()}


def _chunks(parts: Iterable[datasets.Dataset], column: str) -> Iterator[pa.Array]:
    return (chunk for rows in parts for batch in batches(rows, column) for chunk in batch.cast(pa.string()).chunks)
