"""New data for a finished run: read by the run's recipe, cleaned, and told apart from what the run has seen."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import datasets
import numpy as np

from finetune.data.cleaning import StepReport, check_texts, clean
from finetune.data.corpora import CORPUS_STAMPS
from finetune.data.duplicates import content_hash
from finetune.data.labels import LabelMap
from finetune.data.passages import cut_passages
from finetune.data.prepare import Prepared, prepare
from finetune.data.recipe_source import column_map, columns_of, form_of, watched_corpora
from finetune.data.row_streams import selected
from finetune.data.sources import Loaded, load_examples
from finetune.data.written_rows import whole_texts
from finetune.errors import DataError, FinetuneError, Problem, listed
from finetune.progress import WARNING, Progress
from finetune.recipe import text_recipe
from finetune.recipe_data import Form, LabelledData, TextData
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run, read_table, write_json
from finetune.scorer import Array

NEW, ALL = "new", "all"  # documents that took no part in training; these and those that did
TAUGHT = ("train", "validation")
OPTIONAL = {"data.columns.group": "group", "data.columns.id": "id", "evaluation.slices": "slices"}


@dataclass(frozen=True)
class NewScores:
    """Where the evaluation is, and its scores; `notes` also holds what reading and cleaning brought to light."""

    folder: Path
    scores: Scores
    notes: list[str]


@dataclass(frozen=True)
class NewExamples:
    """Cleaned rows; what was read; what to tell."""

    source: str
    rows: datasets.Dataset
    read: Loaded
    steps: list[StepReport]
    notes: list[str]

    @property
    def parts(self) -> dict[str, datasets.Dataset]:
        """As cleaning and labels want them."""
        return {NEW: self.rows}


def read_new(source: str, loaded: LoadedRecipe, *, progress: Progress) -> NewExamples:
    """The rows of a source that `data.source` can name, after the run's own steps. Raises DataError as `prepare`."""
    recipe, form = text_recipe(loaded.recipe), form_of(loaded.recipe)
    read, notes = _loaded(source, loaded, progress=progress)
    if len(read.splits) > 1:
        notes.append(f"{source} has splits of its own, which are scored together: {listed(read.splits)}")
    rows = datasets.concatenate_datasets(list(read.splits.values()))
    if (characters := _passage_characters(loaded)) is not None:
        documents, rows = len(rows), cut_passages(rows, characters=characters)
        notes.append(f"{source}: {documents:,} documents cut into {len(rows):,} passages")
    cleaned, steps = clean({NEW: rows}, recipe.cleaning, base=loaded.base, form=form)
    check_texts(cleaned, form)
    notes += [*read.notes, *map(warned, read.warnings)]
    notes += [warned(note) if step.dropped else note for step in steps for note in step.notes]
    return NewExamples(source, cleaned[NEW], read, steps, notes)


def warned(text: str) -> str:
    return text if text.startswith(WARNING) else WARNING + text


def known_splits(run: Run, rows: datasets.Dataset, form: Form | None = None) -> Array:
    """For each row the split of the run that has the same content, after folding, or an empty name. Shape (rows,).

    Raises DataError where none is left that the run was not taught.
    """
    table = read_table(run.splits)
    split_of: dict[str, str] = {}
    for split in ("test", *reversed(TAUGHT)):  # what taught counts first
        pairs = zip(table["content_hash"], table["split"], strict=True)
        split_of |= {content: split for content, which in pairs if which == split}
    known = np.array([split_of.get(content_hash(text), "") for text in whole_texts(rows, form)], dtype="<U10")
    if is_taught(known).all():
        what = f"all {len(known):,} documents are in this run's train or validation split"
        raise DataError(str(run.folder), what, "Name data that the model has not seen.")
    return known


def is_taught(known: Array) -> Array:
    return np.isin(known, TAUGHT)


def prepared_new(rows: datasets.Dataset, known: Array, *, labels: LabelMap, form: Form | None = None) -> Prepared:
    """The new data as splits of its own: `all` rows, and `new` ones; without numbers of labels."""
    unseen = np.flatnonzero(~is_taught(known))
    splits = {ALL: rows, NEW: rows if len(unseen) == len(rows) else selected(rows, unseen)}
    return Prepared(
        splits=splits, labels=labels, encoded={}, families={}, fingerprint="", report={}, warnings=[], form=form
    )


def shown_splits(prepared: Prepared) -> list[str]:
    """`new` first; `all` only where it is more."""
    rows = prepared.splits
    return [NEW, ALL] if len(rows[ALL]) > len(rows[NEW]) else [NEW]


def overlap_notes(known: Array, rows: datasets.Dataset, run: Run) -> list[str]:
    """What the run has seen of the new data."""
    counts, notes = Counter(known.tolist()), []
    for split in (each for each in TAUGHT if counts[each]):
        notes.append(
            f"{WARNING}{counts[split]:,} of {len(known):,} documents are in this run's {split} split; "
            f"they count in `{ALL}` alone, not in `{NEW}`"
        )
    if counts["test"]:
        notes.append(
            f"{counts['test']:,} of {len(known):,} documents are in this run's test split; this was recorded as an "
            "opening of it"
        )
    table = read_table(run.splits)
    taught = {group for group, split in zip(table["group"], table["split"], strict=True) if split in TAUGHT} - {None}
    groups = np.array([group in taught for group in rows["group"][:]]) & ~is_taught(known)
    if groups.any():
        notes.append(
            f"{WARNING}{int(groups.sum()):,} of the new documents belong to a group that taught the model: their "
            "scores say little about new groups"
        )
    return notes


def own_data(run: Run, loaded: LoadedRecipe, *, progress: Progress) -> tuple[Prepared | None, str]:
    """What the run was trained on, or None and why it is not there any more."""
    try:
        own = prepare(loaded, progress=progress)
    except FinetuneError as error:
        return None, f"no baselines: the run's own data cannot be prepared ({error.problems[0]})"
    if own.fingerprint != run.read(run.info, RunInfo).data_fingerprint:
        return None, "no baselines: the data that the run was trained on has changed since"
    return own, ""


def record_opening(run: Run, known: Array) -> None:
    """Scores of documents of the run's test split are an opening of it."""
    if met := int((known == "test").sum()):
        run.record_test_opening(by="evaluate --data", documents=met)


def write_told(made: Run, data: NewExamples, known: Array, *, model: str) -> None:
    """data.json of an evaluation."""
    counts = Counter(known.tolist())
    write_json(
        made.data,
        {
            "format_version": 1,
            "source": data.source,
            "model": model,
            "files": [asdict(file) for file in data.read.files],
            "cleaning": [asdict(step) | {"examples": []} for step in data.steps],
            "documents": len(known),
            "known_from": {split: counts[split] for split in (*TAUGHT, "test")},
        },
    )


def source_name(source: str) -> str:
    """`reviews` of data/reviews.csv.gz."""
    return Path(source.removeprefix("builtin:")).name.split(".")[0] or "data"


@contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name when all of it is written."""
    begun = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(begun, ignore_errors=True)
    try:
        begun.mkdir(parents=True)
        yield begun
        os.replace(begun, folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _passage_characters(loaded: LoadedRecipe) -> int | None:
    data = text_recipe(loaded.recipe).data
    return data.passage_characters if isinstance(data, TextData) else None


def _loaded(source: str, loaded: LoadedRecipe, *, progress: Progress) -> tuple[Loaded, list[str]]:
    """The examples; columns that scoring can do without are left out where the new data has them not."""
    recipe = text_recipe(loaded.recipe)
    data = recipe.data
    columns, slices, notes = column_map(columns_of(data)), tuple(recipe.evaluation.slices), list[str]()
    while True:
        try:
            read = load_examples(
                source,
                columns=columns,
                base=Path.cwd(),
                multi_label=isinstance(data, LabelledData) and data.multi_label,
                encoding=data.encoding,
                most_characters=data.most_characters if _passage_characters(loaded) is None else None,
                slices=slices,
                corpora=watched_corpora(progress),
                stamps=CORPUS_STAMPS,
                progress=progress,
            )
            return read, notes
        except DataError as error:
            absent = {
                one.where for one in error.problems if one.where in OPTIONAL and one.what.startswith("no column ")
            }
            if grave := [_of_columns(problem) for problem in error.problems if problem.where not in absent]:
                raise DataError.of(grave) from error
        for key in sorted(absent):
            notes.append(f"{WARNING}{source} lacks a column that {key} names: {_consequence(OPTIONAL[key])}")
        columns = replace(
            columns,
            group=None if "data.columns.group" in absent else columns.group,
            id=None if "data.columns.id" in absent else columns.id,
        )
        slices = () if "evaluation.slices" in absent else slices


def _consequence(role: str) -> str:
    return {
        "group": "every document counts on its own, so intervals are too narrow if some belong together",
        "id": "documents are named by file and row",
        "slices": "there are no scores by column",
    }[role]


def _of_columns(problem: Problem) -> Problem:
    do = f"Is the header missing? Else name the column in {problem.where}."
    return replace(problem, do=problem.do.replace(do, "Name the column as the run's recipe does."))
