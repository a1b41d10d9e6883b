"""One tiny run, end to end: what the folder holds, that best/ gives the reported score, predict and evaluate."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pyarrow.parquet
import pytest

import finetune
from finetune.cli import main
from finetune.report.sentences import verdict_sentences
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run, read_json_lines
from finetune.scores.classification import score_predictions
from finetune.summary import render_summary, table

WORDS = {"good": ["fine", "lovely", "clean", "warm"], "bad": ["dirty", "cold", "rude", "broken"]}
RECIPE = """
task: text-classification
model:
  from_scratch: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, vocab_size: 200}
data: {source: reviews.csv, columns: {text: text, label: label, group: author}}
windows: {max_tokens: 16, stride: 4}
training: {num_train_epochs: 3, per_device_train_batch_size: 16, learning_rate: 3.0e-3}
evaluation: {bootstrap: 200}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("experiment")
    write_reviews(folder / "reviews.csv", rows=240)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    assert main(["train", str(folder / "recipe.yaml"), "--run", str(folder / "run"), "--quiet"]) == 0
    return Run(folder / "run")


def write_reviews(path: Path, *, rows: int) -> None:
    chance = random.Random(5)
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label", "author"])
        for row in range(rows):
            label = chance.choice(list(WORDS))
            other = "bad" if label == "good" else "good"
            long = chance.random() < 0.3
            words = [chance.choice(WORDS[label if chance.random() < 0.8 else other]) for _ in range(40 if long else 5)]
            writer.writerow([f"{row} {' '.join(words)}", label, f"author {row // 3}"])


def test_the_folder_holds_what_the_design_promises(run: Run) -> None:
    info, scores = run.read(run.info, RunInfo), run.read(run.scores, Scores)
    assert info.status == "complete" and info.steps == 33 and info.parameters == info.trainable_parameters
    assert info.padding_share is not None and 0 <= info.padding_share < 0.5
    assert scores.best_epoch in (1.0, 2.0, 3.0)
    for path in (run.recipe, run.data, run.splits, run.history, run.figures / "curves.png", run.best, run.last):
        assert path.exists(), path
    assert (run.figures / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    assert len(read_json_lines(run.test_openings)) >= 1
    evaluations = [row for row in run.history_rows() if "eval_loss" in row]
    assert [row["epoch"] for row in evaluations] == [1.0, 2.0, 3.0]
    assert not list(run.folder.rglob("training_args.bin")) and not list(run.best.rglob("*.bin"))


def test_groups_stay_on_one_side(run: Run) -> None:
    splits = pyarrow.parquet.read_table(run.splits).to_pydict()
    sides: dict[str, set[str]] = {}
    for group, split in zip(splits["group"], splits["split"], strict=True):
        sides.setdefault(group, set()).add(split)
    assert all(len(names) == 1 for names in sides.values())
    assert "text" not in splits


def test_it_learned_more_than_majority(run: Run) -> None:
    scores = run.read(run.scores, Scores)
    f1 = scores.splits["test"].scores["f1_macro"]
    majority = scores.baselines["majority"]["test"].scores["f1_macro"]
    assert f1.value is not None and majority.value is not None and f1.low is not None
    assert f1.low > majority.value


def test_scores_are_those_of_the_stored_predictions(run: Run) -> None:
    rows = pyarrow.parquet.read_table(run.predictions("test")).to_pydict()
    scores = run.read(run.scores, Scores).splits["test"]
    number = {name: index for index, name in enumerate(scores.label_names)}
    again = score_predictions(
        [number[name] for name in rows["reference"]],
        [number[name] for name in rows["prediction"]],
        label_names=scores.label_names,
    )
    assert again.values["f1_macro"] == pytest.approx(scores.scores["f1_macro"].value, abs=1e-12)
    assert again.n == len(rows["id"]) == scores.scores["f1_macro"].n


def test_evaluate_gives_the_reported_score_and_is_recorded(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(read_json_lines(run.test_openings))
    assert main(["evaluate", str(run.folder), "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)["scores"]
    reported = run.read(run.scores, Scores).splits["test"].scores
    for name in ("f1_macro", "accuracy", "loss", "log_loss"):
        assert again[name]["value"] == pytest.approx(reported[name].value, abs=1e-6)
    assert len(read_json_lines(run.test_openings)) == before + 1
    assert main(["evaluate", str(run.folder), "--split", "validation", "--model", "last", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "f1_macro" in shown and "this model (last/)" in shown and "best/" not in shown
    assert len(read_json_lines(run.test_openings)) == before + 1


def test_evaluate_refuses_changed_data(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    source = run.folder.parent / "reviews.csv"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("lovely", "lovelier"), encoding="utf-8")
    try:
        assert main(["evaluate", str(run.folder), "--quiet"]) == 2
        assert "the data has changed" in capsys.readouterr().err
    finally:
        source.write_text(text, encoding="utf-8")


def test_the_recipe_in_the_run_trains_again(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    assert main(["train", str(run.recipe), "--run", str(folder), "--quiet"]) == 0
    assert (folder / "best/model.safetensors").read_bytes() == (run.best / "model.safetensors").read_bytes()
    ours, theirs = (pyarrow.parquet.read_table(one.predictions("test")) for one in (run, Run(folder)))
    assert ours.equals(theirs)


def test_predict_texts_and_files(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run.folder), "--text", "lovely warm clean fine", "--json", "--quiet"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["label"] == "good" and sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    source = tmp_path / "new.csv"
    source.write_text("text\nrude cold dirty broken\n" + " ".join(["lovely clean"] * 60) + "\n", encoding="utf-8")
    for suffix in (".csv", ".jsonl", ".parquet"):
        output = tmp_path / f"out{suffix}"
        assert main(["predict", str(run.folder), "--input", str(source), "--output", str(output), "--quiet"]) == 0
        assert output.stat().st_size > 0
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as handle:
        assert [row["label"] for row in csv.DictReader(handle)] == ["bad", "good"]
    capsys.readouterr()
    assert main(["predict", str(run.folder), "--input", str(source), "--output", str(output), "--quiet"]) == 2
    assert "--force" in capsys.readouterr().err


def test_predict_refuses_missing_and_empty_texts(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run.folder), "--text", " ", "--quiet"]) == 2
    assert "--text 1: text is empty" in capsys.readouterr().err
    source = tmp_path / "new.jsonl"
    source.write_text('{"text": "fine"}\n{"text": null}\n', encoding="utf-8")
    assert main(["predict", str(run.folder), "--input", str(source), "--quiet"]) == 2
    assert "new.jsonl:2" in capsys.readouterr().err


def test_predictor_is_the_same_from_python(run: Run) -> None:
    predictor = finetune.Predictor.load(run.best)
    one, other = predictor.predict(["lovely warm", "rude cold dirty"])
    assert (one.label, other.label) == ("good", "bad")
    assert predictor.predict([]) == []


def test_summary_shows_model_beside_baselines(run: Run) -> None:
    text = render_summary(run)
    for part in ("this model", "majority", "naive_bayes", "tfidf_logistic", "Best epoch", str(run.folder), "support"):
        assert part in text


def test_the_verdict_comes_first_and_says_when_a_baseline_wins(run: Run) -> None:
    scores = run.read(run.scores, Scores)
    assert set(scores.baseline_tests) == set(scores.baselines) and scores.strongest_baseline in scores.baselines
    assert scores.beats_baselines == all(test.better for test in scores.baseline_tests.values())
    text = render_summary(run)
    assert text.startswith(verdict_sentences(scores)[0]) and text.startswith("This model")

    beaten = scores.model_copy(deep=True)
    beaten.beats_baselines = False
    for test in beaten.baseline_tests.values():
        test.better, test.p, test.difference, test.low, test.high = False, 0.4, -0.02, -0.08, 0.04
    assert "does NOT beat the strongest baseline" in verdict_sentences(beaten)[0]


def test_table_counts_chinese_characters_as_two_cells() -> None:
    lines = table(["label", "n"], [["体育", "1"], ["sports", "20"]]).splitlines()
    assert lines[2] == "体育     1" and lines[3] == "sports  20"
