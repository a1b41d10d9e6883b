"""Files of texts in, files of predictions out. Rows keep the order of the input."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from finetune.data.sources import ColumnMap, load_examples
from finetune.errors import DataError, Problem, RecipeError
from finetune.predict import Prediction, Predictor
from finetune.progress import Progress
from finetune.runs import disk_faults, write_json_lines, write_table, write_text

OUTPUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
PASSAGE_CHARACTERS = 200
Row = dict[str, Any]


def predict_texts(folder: str | Path, texts: list[str], *, progress: Progress) -> list[Row]:
    """Texts from the command line -> rows of text, label, probabilities and, for several windows, passage."""
    predictor = Predictor.load(folder)
    predictions = predictor.predict(texts, origins=[f"--text {number}" for number in range(1, len(texts) + 1)])
    _warn_of_cuts(predictions, progress)
    return [{"text": text, **_plain(one)} for text, one in zip(texts, predictions, strict=True)]


def predict_file(
    folder: str | Path,
    path: Path,
    *,
    output: Path | None,
    text_column: str | None,
    force: bool,
    encoding: str | None = None,
    progress: Progress,
) -> Path | list[Row]:
    """Predict every row of a file; writes `output` or returns the rows. Refuses to replace a file without `force`."""
    check_output(output, force=force)
    predictor = Predictor.load(folder)
    table = read_texts(path, ColumnMap(text=text_column or predictor.text_column), encoding=encoding, progress=progress)
    with progress.bar(total=len(table), desc="predicting", unit="document") as bar:
        predictions = predictor.predict(table["text"][:], origins=table["origin"][:], on_documents=bar.update)
    _warn_of_cuts(predictions, progress)
    rows = [
        {"id": id_, "text": text, **_plain(one)}
        for id_, text, one in zip(table["id"], table["text"], predictions, strict=True)
    ]
    if output is None:
        return rows
    with disk_faults(output):
        _write(output, rows)
    return output


def read_texts(path: Path, columns: ColumnMap, *, encoding: str | None, progress: Progress) -> datasets.Dataset:
    """The rows of a file, without labels and targets. Raises DataError in the words of the command line."""
    with option_words():
        loaded = load_examples(str(path), columns=columns, base=Path.cwd(), labelled=False, encoding=encoding)
    for note in loaded.notes:
        progress.say(note)
    for warning in loaded.warnings:
        progress.warn(warning)
    return datasets.concatenate_datasets(list(loaded.splits.values()))  # a folder may hold train, validation and test


@contextlib.contextmanager
def option_words() -> Iterator[None]:
    """The remedy for a recipe is none here: in a DataError the options of the command line, in place of its keys."""
    try:
        yield
    except DataError as error:
        raise DataError.of(
            [Problem(*map(_for_predict, (one.where, one.what, one.do))) for one in error.problems]
        ) from error


def _for_predict(message: str) -> str:
    message = re.sub(r"data\.columns\.(text|prompt|messages|source)\b", "--column", message)
    return re.sub(r"data\.encoding\b:?", "--encoding", message)


def _warn_of_cuts(predictions: Sequence[Prediction], progress: Progress) -> None:
    cut = [one.tokens_cut for one in predictions if one.tokens_cut]
    if cut:
        documents = f"{len(cut):,} of {len(predictions):,} documents"
        progress.warn(f"{sum(cut):,} tokens of {documents} were not read: the model's windows are limited")


def check_output(output: Path | None, *, force: bool) -> None:
    """Raises RecipeError for a file that cannot be written, or is there already."""
    if output is None:
        return
    if output.suffix not in OUTPUT_SUFFIXES:
        raise RecipeError(f"--output {output}", f"the name must end in one of {', '.join(OUTPUT_SUFFIXES)}")
    if output.exists() and not force:
        raise RecipeError(f"--output {output}", "exists already", "Add --force to replace it.")
    if not output.absolute().parent.is_dir():
        raise RecipeError(f"--output {output}", f"no such folder: {output.parent}")


def _plain(one: Prediction) -> Row:
    row: Row = {
        "label": one.label,
        "probabilities": {name: round(value, 6) for name, value in one.probabilities.items()},
    }
    return row if one.passage is None else row | {"windows": one.windows, "passage": _shortened(one.passage)}


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= PASSAGE_CHARACTERS else line[: PASSAGE_CHARACTERS - 1] + "…"


def _passage(row: Row) -> Row:
    """The two columns that every row of a file has, also of a document of one window."""
    return {"windows": row.get("windows", 1), "passage": row.get("passage")}


def _write(output: Path, rows: list[Row]) -> None:
    if output.suffix == ".jsonl":
        write_json_lines(output, [{**row, **_passage(row)} for row in rows])
        return
    names = list(rows[0]["probabilities"]) if rows else []
    flat = {
        "id": [row["id"] for row in rows],
        "text": [row["text"] for row in rows],
        "label": [row["label"] for row in rows],
        "windows": [_passage(row)["windows"] for row in rows],
        "passage": [_passage(row)["passage"] for row in rows],
        **{f"probability_{name}": [row["probabilities"][name] for row in rows] for name in names},
    }
    write_columns(output, flat)


def write_columns(output: Path, flat: Mapping[str, Sequence[Any]]) -> None:
    """A parquet or csv file of these columns."""
    if output.suffix == ".parquet":
        write_table(output, flat)
        return
    buffer = io.StringIO()
    # In quotes: a lone carriage return inside a text would end the row.
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(flat)
    for values in zip(*flat.values(), strict=True):
        writer.writerow("|".join(value) if isinstance(value, list) else value for value in values)
    write_text(output, buffer.getvalue())
