"""What a recipe's section `data` names, read: its examples as they stand, and where a stream of them goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import datasets

from finetune.data.corpora import CORPORA, CORPUS_STAMPS
from finetune.data.duplicates import content_hash
from finetune.data.examples import ColumnMap, Reading
from finetune.data.parts import Search
from finetune.data.passages import cut_passages
from finetune.data.sources import Loaded, load_examples
from finetune.data.streams import DocumentStream, RowStream, open_stream, with_first_rows, without_train
from finetune.data.written_examples import KEYS
from finetune.data.written_rows import whole_texts
from finetune.errors import DataError, Problem
from finetune.progress import Progress
from finetune.recipe import ImageRecipe, Recipe, TextRecipe, WriterRecipe, text_recipe
from finetune.recipe_data import (
    Columns,
    Data,
    Form,
    LabelledData,
    PairColumns,
    PairData,
    TextColumns,
    TextData,
    WrittenData,
)
from finetune.recipe_file import LoadedRecipe


def read_source(loaded: LoadedRecipe, *, progress: Progress) -> tuple[Loaded, RowStream | None]:
    """The source as it stands, plain text in passages where the recipe asks for them; of a stream the first rows."""
    recipe = text_recipe(loaded.recipe)
    data = recipe.data
    labelled = data if isinstance(data, LabelledData) else None
    characters = passage_characters(data)
    read, stream = data.source, None
    try:
        if isinstance(data, WrittenData) and data.streaming:
            read, stream = without_train(data.source), _stream(data, loaded, progress=progress)
        source = load_examples(
            read,
            columns=column_map(columns_of(data)),
            base=loaded.base,
            multi_label=labelled is not None and labelled.multi_label,
            encoding=data.encoding,
            limit=data.limit,
            seed=split_seed(recipe),
            most_characters=data.most_characters if characters is None else None,
            numeric=tuple(labelled.numeric) if labelled is not None else (),
            slices=tuple(recipe.evaluation.slices),
            corpora=watched_corpora(progress),
            stamps=CORPUS_STAMPS,
            progress=progress,
        )
        if stream is not None:
            assert isinstance(data, WrittenData)
            source = with_first_rows(source, stream, rows=data.epoch_examples)
    except DataError as error:
        raise DataError.of([_at_its_line(problem, loaded) for problem in error.problems]) from error
    if characters is not None:
        source = _in_passages(source, characters=characters)
    for note in source.notes:
        progress.say(note)
    return source, stream


def _stream(data: WrittenData, loaded: LoadedRecipe, *, progress: Progress) -> RowStream:
    columns = columns_of(data)
    most = data.most_characters if passage_characters(data) is None else None
    reading = Reading(column_map(columns), encoding=data.encoding, most_characters=most)
    plain_text = isinstance(columns, TextColumns) and columns.form == "text"
    search = Search(base=loaded.base, corpora=watched_corpora(progress), plain_text=plain_text)
    return open_stream(data.source, reading=reading, search=search)


def documents_of(stream: RowStream, splits: dict[str, datasets.Dataset], loaded: LoadedRecipe) -> DocumentStream:
    """The stream as documents. Under data.leaks `warn`, texts that are in validation or test stay in train."""
    recipe, form = text_recipe(loaded.recipe), form_of(loaded.recipe)
    guarded = [] if recipe.data.leaks == "warn" else [splits["validation"], splits["test"]]
    held_out = frozenset(content_hash(text) for rows in guarded for text in whole_texts(rows, form))
    characters = passage_characters(recipe.data)
    return DocumentStream(stream, recipe.cleaning, loaded.base, form, held_out, characters=characters)


def form_of(recipe: Recipe) -> Form | None:
    """How text to write is written down; None for labelled documents."""
    return recipe.form if isinstance(recipe, WriterRecipe) else None


def split_seed(recipe: Recipe) -> int:
    """What decides who goes where: data.split.seed, or the recipe's seed."""
    assert isinstance(recipe, TextRecipe | ImageRecipe)
    return recipe.seed if recipe.data.split.seed is None else recipe.data.split.seed


def column_map(columns: Columns | TextColumns | PairColumns) -> ColumnMap:
    """The columns of a recipe as reading wants them."""
    if isinstance(columns, Columns):
        return ColumnMap(text=columns.text, label=columns.label, group=columns.group, id=columns.id)
    read, written = KEYS[columns.form]
    text, target = getattr(columns, read), getattr(columns, written) if written is not None else None
    return ColumnMap(text=text, target=target, group=columns.group, id=columns.id, form=columns.form)


def columns_of(data: Data) -> Columns | TextColumns | PairColumns:
    """The section `columns` of a task's data."""
    assert isinstance(data, LabelledData | TextData | PairData)
    return data.columns


def passage_characters(data: Data) -> int | None:
    """How long the passages are that plain texts are cut into; None where they are not."""
    return data.passage_characters if isinstance(data, TextData) else None


def watched_corpora(progress: Progress) -> dict[str, Callable[[], Iterable[dict[str, str]]]]:
    """The built-in corpora, each behind a bar: reading a library takes seconds."""

    def watched(name: str) -> Callable[[], Iterable[dict[str, str]]]:
        return lambda: progress.bar(iterable=CORPORA[name](), desc=f"reading {name}", unit="text", leave=False)

    return {name: watched(name) for name in CORPORA}


def _in_passages(source: Loaded, *, characters: int) -> Loaded:
    splits, notes = {}, list(source.notes)
    for name, rows in source.splits.items():
        splits[name] = cut_passages(rows, characters=characters)
        notes.append(f"{name}: {len(rows):,} documents cut into {len(splits[name]):,} passages")
    return replace(source, splits=splits, notes=notes)


def _at_its_line(problem: Problem, loaded: LoadedRecipe) -> Problem:
    """A problem of a key that the recipe has, with the line where it stands."""
    key = tuple(problem.where.split("."))
    return replace(problem, where=loaded.where(*key)) if key in loaded.text.lines else problem
