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
from finetune.errors import DataError, ModelError
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


def test_a_lone_carriage_return_ends_no_row_of_a_csv_file(model: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "new.jsonl", tmp_path / "out.csv"
    source.write_text(json.dumps({"review": "word1\rword2"}) + "\n", encoding="utf-8")
    predict_file(model, source, output=output, text_column=None, force=False, progress=SILENT)
    with open(output, encoding="utf-8", newline="") as handle:
        assert [row["text"] for row in csv.DictReader(handle, strict=True)] == ["word1\rword2"]


def test_a_folder_of_splits_is_predicted_whole(model: Path, tmp_path: Path) -> None:
    for name in ("train/a/1.txt", "train/b/2.txt", "test/a/3.txt"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text("word1 word2", encoding="utf-8")
    rows = predict_file(model, tmp_path / "texts", output=None, text_column="text", force=False, progress=SILENT)
    assert isinstance(rows, list)
    assert [row["id"] for row in rows] == ["texts/train/a/1.txt", "texts/train/b/2.txt", "texts/test/a/3.txt"]


def test_warnings_of_reading_are_shown(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_text('{"review": "word1"}\n', encoding="utf-8")
    predict_file(model, tmp_path / "texts", output=None, text_column=None, force=False, progress=SILENT)
    assert "warning: texts: files that are named like splits are read as one" in capsys.readouterr().err


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


@pytest.mark.parametrize("windows", [{"truncate": True}, {"max_per_document": 1, "keep": "spread"}])
def test_what_a_model_does_not_read_is_told(
    windows: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_folder(tmp_path / "best", **windows)
    long, short = Predictor.load(folder).predict([LONG, "word1"])
    assert long.tokens_cut > 0 == short.tokens_cut
    predict_texts(folder, [LONG, "word1"], progress=SILENT)
    told = f"warning: {long.tokens_cut} tokens of 1 of 2 documents were not read: the model's windows are limited"
    assert told in capsys.readouterr().err


def test_a_file_in_another_encoding_is_refused_and_then_read(model: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes("review\nword1 caf\xe9\nword2 d\xe9j\xe0\n".encode("latin-1"))

    def predicted(encoding: str | None) -> Any:
        return predict_file(
            model, tmp_path / "d.csv", output=None, text_column=None, force=False, encoding=encoding, progress=SILENT
        )

    with pytest.raises(DataError, match=r"d\.csv:2: byte 0xE9 .*such as --encoding latin-1"):
        predicted(None)
    assert [row["text"] for row in predicted("latin-1")] == ["word1 café", "word2 déjà"]


def test_settings_of_a_model_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "best")
    settings = json.loads((folder / MODEL_SETTINGS).read_text(encoding="utf-8"))
    del settings["multi_label"]
    (folder / MODEL_SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ModelError, match=r"finetune\.json: cannot be read"):
        Predictor.load(folder)
