"""`finetune train` on small files: the same twice, and what the files in best/ say, for labels of every kind."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_bert_folder, tiny_distilbert_folder, tiny_roberta_folder
from tokenizers import Tokenizer, processors
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from finetune.branches import build_learner
from finetune.cli import main
from finetune.data.windows import cut_windows
from finetune.progress import SILENT, Progress
from finetune.recipe_file import load_recipe
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run, read_json_lines, read_table

WORDS = {0: ["fine", "lovely", "clean"], 1: ["dirty", "cold", "rude"], 2: ["late", "early", "soon"]}
FILLER = ["the", "room", "was", "very", "and", "we", "found", "it"]
RECIPE: dict[str, Any] = {
    "task": "text-classification",
    "model": {"name": "bert"},
    "data": {"source": "rows.jsonl"},
    "windows": {"max_tokens": 16, "stride": 4},
    "training": {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 5e-3, "use_cpu": True,
        "tokens_per_micro_batch": 128,
    },
    "evaluation": {"baselines": [], "bootstrap": 0},
}  # fmt: skip


def write_rows(path: Path, labels: Mapping[int, Any], *, rows: int = 60, longest: int = 30) -> list[dict[str, Any]]:
    """Texts of one to `longest` words; class k has words of its own; `labels` says how class k is written."""
    chance = random.Random(7)
    written = []
    for row in range(rows):
        kind = row % len(labels)
        words = [chance.choice(WORDS[kind] + FILLER) for _ in range(chance.randint(3, longest))]
        written.append({"text": " ".join([chance.choice(WORDS[kind]), *words]), "label": labels[kind]})
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in written), encoding="utf-8")
    return written


def train(folder: Path, name: str = "run", **sections: Any) -> Run:
    recipe = RECIPE | sections
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    assert main(["train", str(folder / "recipe.yaml"), "--run", str(folder / name), "--quiet"]) == 0
    return Run(folder / name)


def every_word() -> list[str]:
    return [*FILLER, *(word for words in WORDS.values() for word in words)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT and three-class rows, the longest of two or three windows."""
    folder = tmp_path_factory.mktemp("end-to-end")
    tiny_bert_folder(folder / "bert", texts=every_word())
    write_rows(folder / "rows.jsonl", {0: "好", 1: "bad", 2: "Middling one"}, rows=90)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return train(folder)


def test_the_same_recipe_twice_gives_identical_predictions(folder: Path, run: Run) -> None:
    torch.rand(3)
    again = train(folder, "again")
    for split in ("validation", "test"):
        assert read_table(again.predictions(split)) == read_table(run.predictions(split))
    losses = [[row.get("loss", row.get("eval_loss")) for row in read_json_lines(r.history)] for r in (run, again)]
    assert losses[0] == losses[1]
    one, other = (r.best.joinpath("model.safetensors").read_bytes() for r in (run, again))
    assert one == other


def test_the_files_in_best_give_the_reported_score(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    scores = run.read(run.scores, Scores)
    for split in ("validation", "test"):
        assert main(["evaluate", str(run.folder), "--split", split, "--json", "--quiet"]) == 0
        again = json.loads(capsys.readouterr().out)["scores"]
        for name, score in scores.splits[split].scores.items():
            assert again[name]["value"] == score.value, (split, name)
    evaluations = {row["epoch"]: row for row in read_json_lines(run.history) if "eval_loss" in row}
    best = max(row["eval_f1_macro"] for row in evaluations.values())
    assert scores.best_epoch == min(epoch for epoch, row in evaluations.items() if row["eval_f1_macro"] == best)
    chosen = evaluations[scores.best_epoch]
    reported = scores.splits["validation"].scores
    assert scores.calibration is not None and not scores.calibration.folded, "the history is of the model as trained"
    assert reported["f1_macro"].value == pytest.approx(best, abs=1e-12)
    assert reported["loss"].value == pytest.approx(chosen["eval_loss"], rel=1e-5)


def test_plain_transformers_gives_our_probabilities(run: Run) -> None:
    """For documents of one window, by the folder best/ alone and without this library."""
    classify = pipeline("text-classification", model=str(run.best), tokenizer=str(run.best), device="cpu", top_k=None)
    texts = ["the room was lovely", "cold and rude", "soon"]
    assert main(["predict", str(run.folder), *(f"--text={text}" for text in texts), "--json", "--quiet"]) == 0
    from finetune.predict import Predictor

    for text, ours in zip(texts, Predictor.load(run.folder).predict(texts), strict=True):
        theirs = {item["label"]: item["score"] for item in classify([text])[0]}
        assert theirs == pytest.approx(ours.probabilities, abs=1e-6)
        assert max(theirs, key=theirs.__getitem__) == ours.label


def test_a_document_of_several_windows_is_their_mean(run: Run) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run.best)
    model = AutoModelForSequenceClassification.from_pretrained(run.best).eval()
    text = " ".join(["cold", *FILLER] * 4)
    windows = tokenizer(
        text, truncation=True, max_length=16, stride=4, return_overflowing_tokens=True
    )["input_ids"]  # fmt: skip
    assert len(windows) > 2
    with torch.no_grad():
        rows = torch.cat([model(input_ids=torch.tensor([window])).logits.softmax(-1) for window in windows])
    from finetune.predict import Predictor

    ours = Predictor.load(run.folder).predict([text])[0].probabilities
    np.testing.assert_allclose(list(ours.values()), rows.mean(0).numpy(), rtol=1e-4)


KINDS = {
    "words": ({0: "good", 1: "bad", 2: "So so"}, ["So so", "bad", "good"]),
    "integers": ({0: 10, 1: 2, 2: 1}, ["1", "2", "10"]),
    "booleans": ({0: True, 1: False}, ["false", "true"]),
}


@pytest.mark.parametrize(("labels", "names"), KINDS.values(), ids=KINDS)
def test_labels_of_every_kind(tmp_path: Path, labels: dict[int, Any], names: list[str]) -> None:
    tiny_bert_folder(tmp_path / "bert", texts=every_word())
    write_rows(tmp_path / "rows.jsonl", labels)
    run = train(tmp_path)
    config = json.loads((run.best / "config.json").read_text(encoding="utf-8"))
    assert [config["id2label"][str(number)] for number in range(len(names))] == names
    assert config["label2id"] == {name: number for number, name in enumerate(names)}
    assert config["problem_type"] == "single_label_classification"
    table = read_table(run.predictions("test"))
    assert set(table["reference"]) | set(table["prediction"]) <= set(names)
    chosen = [names[int(np.argmax(row))] for row in table["probabilities"]]
    assert chosen == table["prediction"]
    right = np.mean([a == b for a, b in zip(table["reference"], table["prediction"], strict=True)])
    assert run.read(run.scores, Scores).splits["test"].scores["accuracy"].value == pytest.approx(right)


def test_several_labels(tmp_path: Path) -> None:
    tiny_bert_folder(tmp_path / "bert", texts=every_word())
    write_rows(tmp_path / "rows.jsonl", {0: ["good", "warm"], 1: ["bad"], 2: []})
    training = RECIPE["training"] | {"class_weights": "balanced", "label_smoothing_factor": 0.1}
    run = train(tmp_path, data={"source": "rows.jsonl", "multi_label": True}, training=training)
    config = json.loads((run.best / "config.json").read_text(encoding="utf-8"))
    names = ["bad", "good", "warm"]
    assert list(config["id2label"].values()) == names
    assert config["problem_type"] == "multi_label_classification"
    table = read_table(run.predictions("test"))
    for probabilities, prediction in zip(table["probabilities"], table["prediction"], strict=True):
        assert prediction == [name for name, p in zip(names, probabilities, strict=True) if p >= 0.5]
    classify = pipeline("text-classification", model=str(run.best), tokenizer=str(run.best), device="cpu", top_k=None)
    from finetune.predict import Predictor

    ours = Predictor.load(run.folder).predict(["lovely room"])[0]
    theirs = {item["label"]: item["score"] for item in classify(["lovely room"])[0]}
    assert theirs == pytest.approx(ours.probabilities, abs=1e-6)


@pytest.mark.parametrize(("build", "aggregate"), [(tiny_distilbert_folder, "mean"), (tiny_roberta_folder, "max")])
def test_other_encoders_and_aggregates(tmp_path: Path, build: Any, aggregate: str) -> None:
    build(tmp_path / "bert", texts=every_word())
    write_rows(tmp_path / "rows.jsonl", KINDS["words"][0])
    windows = {"max_tokens": 16, "stride": 4, "aggregate": aggregate, "max_per_document": 2}
    run = train(tmp_path, windows=windows, training=RECIPE["training"] | {"class_weights": "balanced"})
    assert run.read(run.info, RunInfo).status == "complete"
    table = read_table(run.predictions("test"))
    np.testing.assert_allclose(np.sum(table["probabilities"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "setting"),
    [({"truncate": True}, "windows.truncate"), ({"max_per_document": 2}, "windows.max_per_document 2")],
)
def test_what_is_cut_is_printed_and_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], chosen: dict[str, Any], setting: str
) -> None:
    recipe = folder / f"{tmp_path.name}.yaml"
    windows = {"max_tokens": 16, "stride": 4} | chosen
    recipe.write_text(json.dumps(RECIPE | {"windows": windows}), encoding="utf-8")
    assert main(["train", str(recipe), "--run", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().err
    run = Run(tmp_path / "run")
    counts = json.loads(run.data.read_text(encoding="utf-8"))["windows"]["train"]
    assert 0 < counts["documents_cut"] < counts["documents"] and counts["tokens_cut"] > counts["documents_cut"]
    documents = f"{counts['documents_cut']} of {counts['documents']} documents"
    note = f"train: {setting} cuts {counts['tokens_cut']} tokens from {documents}"
    assert note in printed and note in run.read(run.info, RunInfo).notes
    assert "Map" not in printed, "no bars of other libraries"
    assert len(printed.splitlines()) < 20


def test_all_windows_of_a_document_are_trained(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
    loaded = load_recipe(folder / "recipe.yaml")
    from finetune.data.prepare import prepare

    prepared = prepare(loaded, progress=SILENT)
    learner = build_learner(loaded, prepared, progress=Progress(quiet=True))
    for split, rows in prepared.splits.items():
        expected, _ = cut_windows(rows, learner.tokenizer, settings=loaded.recipe.windows)
        assert learner.windows[split].to_dict() == expected.select_columns(["windows"]).to_dict()
        assert learner.counts[split].documents_cut == 0 < learner.counts[split].documents_over_one_window


def with_other_special_tokens(folder: Path, *, single: str) -> None:
    """Give the tiny BERT's tokenizer another template."""
    path = folder / "bert" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    tokenizer.save(str(path))


@pytest.mark.parametrize(
    ("single", "windows", "message"),
    [
        ("[CLS] [CLS] $A [SEP] [SEP]", {"max_tokens": 12, "stride": 9}, "holds 8 besides its special tokens"),
        ("$A:0 [SEP]:0 [CLS]:2", {"max_tokens": 12, "stride": 2}, "token types"),
    ],
)
def test_tokenizers_that_windows_cannot_serve_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], single: str, windows: dict[str, int], message: str
) -> None:
    tiny_bert_folder(tmp_path / "bert", texts=every_word())
    with_other_special_tokens(tmp_path, single=single)
    write_rows(tmp_path / "rows.jsonl", KINDS["words"][0])
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE | {"windows": windows}), encoding="utf-8")
    assert main(["check", str(tmp_path / "recipe.yaml")]) == 2
    said = capsys.readouterr().err
    assert message in said and "recipe.yaml" in said


def test_a_tokenizer_with_other_special_tokens_works(tmp_path: Path) -> None:
    tiny_bert_folder(tmp_path / "bert", texts=every_word())
    with_other_special_tokens(tmp_path, single="[CLS] [CLS] $A [SEP] [SEP]")
    write_rows(tmp_path / "rows.jsonl", KINDS["words"][0])
    run = train(tmp_path, windows={"max_tokens": 12, "stride": 7})
    assert run.read(run.info, RunInfo).status == "complete"
