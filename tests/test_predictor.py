"""Predictions of new texts: the passage that decided, files with bad rows, and models that know their cleaning."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from tiny_models import tiny_bert_folder

from finetune import prediction_files
from finetune.errors import DataError
from finetune.predict import Predictor
from finetune.prediction_files import predict_file, predict_texts
from finetune.progress import SILENT
from finetune.runs import MODEL_SETTINGS

WORDS = [f"word{number}" for number in range(20)]
LONG = " ".join(WORDS[:12]) + ".\n\n" + " ".join(WORDS[9:]) + "."
WINDOWS = {"max_tokens": 16, "stride": 2, "aggregate": "mean"}


def model_folder(folder: Path, *, cleaning: Sequence[Any] = ("normalize_whitespace",), **windows: Any) -> Path:
    tiny_bert_folder(folder, texts=[" ".join(WORDS), "."], num_labels=2)
    settings = {
        "format_version": 1, "task": "text-classification", "multi_label": False, "cleaning": list(cleaning),
        "windows": WINDOWS | windows, "text_column": "review",
    }  # fmt: skip
    (folder / MODEL_SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model") / "best", boundary="sentence")


def test_the_passage_is_the_window_that_is_surest(model: Path) -> None:
    predictor = Predictor.load(model)
    one, other = predictor.predict([LONG, "word1 word2"])
    assert (other.windows, other.passage) == (1, None)
    assert one.windows == 2 and one.passage in LONG
    assert isinstance(one.label, str) and one.passage is not None
    parts = [LONG.split("\n\n")[0], LONG[LONG.index("word11.") :]]
    surest = max(parts, key=lambda part: predictor.predict([part])[0].probabilities[str(one.label)])
    assert one.passage == surest


def test_row_predictions_point_into_the_cleaned_text(model: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": [LONG, "word3"], "origin": ["a", "b"]})
    found = Predictor.load(model).predict_rows(rows, labels=[0, 1])
    assert found.windows.tolist() == [2, 1] and found.loss is not None
    assert found.passages[1].tolist() == [0, 5]
    start, end = found.passages[0]
    assert LONG[start:end] == Predictor.load(model).predict([LONG])[0].passage


def test_texts_show_the_passage_of_several_windows_only(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_files, "PASSAGE_CHARACTERS", 20)
    long, short = predict_texts(model, [LONG, "word1"], progress=SILENT)
    assert long["windows"] == 2 and len(long["passage"]) == 20 and long["passage"].endswith("…")
    assert "windows" not in short and "passage" not in short


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_carry_the_text_and_the_passage_in_every_row(model: Path, tmp_path: Path, suffix: str) -> None:
    source, output = tmp_path / "new.jsonl", tmp_path / f"out{suffix}"
    source.write_text("".join(json.dumps({"review": text}) + "\n" for text in (LONG, "word1")), encoding="utf-8")
    predict_file(model, source, output=output, text_column=None, force=False, progress=SILENT)
    if suffix == ".csv":
        with open(output, encoding="utf-8", newline="") as handle:
            rows: list[dict[str, Any]] = [row | {"passage": row["passage"] or None} for row in csv.DictReader(handle)]
    elif suffix == ".jsonl":
        rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    else:
        rows = pyarrow.parquet.read_table(output).to_pylist()
    assert [row["text"] for row in rows] == [LONG, "word1"]
    assert [int(row["windows"]) for row in rows] == [2, 1]
    assert rows[0]["passage"] and rows[1]["passage"] is None


def test_every_row_without_text_is_named_in_one_message(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "new.jsonl"
    texts = ["word1", None, "word2", "  ", "\n"]
    source.write_text("".join(json.dumps({"review": text}) + "\n" for text in texts), encoding="utf-8")
    with pytest.raises(DataError) as error:
        predict_file(model, source, output=None, text_column=None, force=False, progress=SILENT)
    assert len(error.value.problems) == 1
    assert "new.jsonl:2: text is empty in 3 places: new.jsonl:2, new.jsonl:4, new.jsonl:5" in error.value.render()


def test_a_wrong_column_is_told_as_the_option(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "new.csv"
    source.write_text("comment,n\nword1,1\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        predict_file(model, source, output=None, text_column=None, force=False, progress=SILENT)
    message = error.value.render()
    assert "error: --column: no column 'review'" in message and "comment" in message
    assert "data.columns" not in message


def test_cleaning_is_rebuilt_from_the_models_settings(tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = model_folder(run / "best", cleaning=["lowercase", {"drop_short": 5}, "ours_here:doubled"])
    (run / "run.json").write_text("{}", encoding="utf-8")
    (run / "ours_here.py").write_text("def doubled(text):\n    return text + ' ' + text\n", encoding="utf-8")
    predictor = Predictor.load(folder)
    assert [step.name for step in predictor.cleaning] == ["lowercase", "drop_short", "ours_here:doubled"]
    assert predictor.function_folders[0] == run
    plain = Predictor.load(model_folder(tmp_path / "plain"))
    ours, theirs = predictor.predict(["WORD1"])[0], plain.predict(["word1 word1"])[0]
    assert ours.probabilities == theirs.probabilities


def test_an_older_model_cuts_as_it_was_trained(tmp_path: Path) -> None:
    assert Predictor.load(model_folder(tmp_path / "old")).windows.boundary == "token"
