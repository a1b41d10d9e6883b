"""Files of texts in, files of predictions out. Rows keep the order of the input."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from finetune.data.sources import ColumnMap, load_examples
from finetune.errors import RecipeError
from finetune.predict import Prediction, Predictor
from finetune.progress import Progress
from finetune.runs import disk_faults, write_table, write_text

OUTPUT_SUFFIXES = (".csv", ".jsonl", ".parquet")
Row = dict[str, Any]


def predict_texts(folder: str | Path, texts: list[str], *, progress: Progress) -> list[Row]:
    """Texts from the command line -> rows of text, label, probabilities."""
    predictor = Predictor.load(folder)
    predictions = predictor.predict(texts, origins=[f"--text {number}" for number in range(1, len(texts) + 1)])
    return [{"text": text, **_plain(one)} for text, one in zip(texts, predictions, strict=True)]


def predict_file(
    folder: str | Path, path: Path, *, output: Path | None, text_column: str | None, force: bool, progress: Progress
) -> Path | list[Row]:
    """Predict every row of a file; writes `output` or returns the rows. Refuses to replace a file without `force`."""
    _check_output(output, force=force)
    predictor = Predictor.load(folder)
    loaded = load_examples(
        str(path), columns=ColumnMap(text=text_column or predictor.text_column), base=Path.cwd(), labelled=False
    )
    for note in loaded.notes:
        progress.say(note)
    table = next(iter(loaded.splits.values()))
    with progress.bar(total=len(table), desc="predicting", unit="document") as bar:
        predictions = predictor.predict(table["text"][:], origins=table["origin"][:], on_documents=bar.update)
    rows = [{"id": id_, **_plain(one)} for id_, one in zip(table["id"], predictions, strict=True)]
    if output is None:
        return rows
    with disk_faults(output):
        _write(output, rows)
    return output


def _check_output(output: Path | None, *, force: bool) -> None:
    if output is None:
        return
    if output.suffix not in OUTPUT_SUFFIXES:
        raise RecipeError(f"--output {output}", f"the name must end in one of {', '.join(OUTPUT_SUFFIXES)}")
    if output.exists() and not force:
        raise RecipeError(f"--output {output}", "exists already", "Add --force to replace it.")
    if not output.absolute().parent.is_dir():
        raise RecipeError(f"--output {output}", f"no such folder: {output.parent}")


def _plain(one: Prediction) -> Row:
    return {"label": one.label, "probabilities": {name: round(value, 6) for name, value in one.probabilities.items()}}


def _write(output: Path, rows: list[Row]) -> None:
    if output.suffix == ".jsonl":
        write_text(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    names = list(rows[0]["probabilities"]) if rows else []
    flat = {
        "id": [row["id"] for row in rows],
        "label": [row["label"] for row in rows],
        **{f"probability_{name}": [row["probabilities"][name] for row in rows] for name in names},
    }
    if output.suffix == ".parquet":
        write_table(output, flat)
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(flat)
    for values in zip(*flat.values(), strict=True):
        writer.writerow("|".join(value) if isinstance(value, list) else value for value in values)
    write_text(output, buffer.getvalue())
