"""`evaluate RUN --data` and gates: new data is read, told and scored as carefully as the run's own test split."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune import new_data
from finetune.cli import main
from finetune.errors import GateFailed, RecipeError
from finetune.experiment import train
from finetune.new_data import evaluate_new
from finetune.recipe_file import load_recipe
from finetune.recipe_training import LabelMetric
from finetune.run_files import Analysis, Score, Scores
from finetune.runs import Run, read_json_lines, read_table
from finetune.scores.classification import score_predictions
from finetune.scores.gates import check_gates, judge_gates, parse_gate

WORDS = {"good": ["fine", "lovely", "clean", "warm"], "bad": ["dirty", "cold", "rude", "broken"]}
RECIPE = """
task: text-classification
model:
  from_scratch: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64, vocab_size: 200}
data: {source: reviews.csv, columns: {text: text, label: label, group: author}}
windows: {max_tokens: 16, stride: 4}
training: {num_train_epochs: 2, per_device_train_batch_size: 16, learning_rate: 3.0e-3, use_cpu: true}
evaluation: {bootstrap: 100, baselines: [majority, naive_bayes, tfidf_logistic], slices: [city]}
report: {examples: 3}
"""
HEADER = "text,label,author,city"


def reviews(rows: int, *, seed: int, prefix: str = "row") -> list[str]:
    chance = random.Random(seed)
    lines = []
    for row in range(rows):
        label = chance.choice(list(WORDS))
        words = [
            chance.choice(WORDS[label if chance.random() < 0.85 else "bad"]) for _ in range(chance.choice([5, 30]))
        ]
        lines.append(f"{prefix} {row} {' '.join(words)},{label},{prefix} {row // 2},{'PB'[row % 2]}")
    return lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("new-data")
    (folder / "reviews.csv").write_text("\n".join([HEADER, *reviews(200, seed=1)]), encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return train(load_recipe(folder / "recipe.yaml"), folder=folder / "run")


@pytest.fixture
def run(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy, from whose folder the new data is named."""
    shutil.copytree(trained.folder.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run("run")


def write(name: str, lines: list[str], *, header: str = HEADER) -> str:
    Path(name).write_text("\n".join([header, *lines]), encoding="utf-8")
    return name


def rows_of_split(run: Run, split: str) -> list[str]:
    """Lines of reviews.csv that are in a split."""
    table = read_table(run.splits)
    lines = Path("reviews.csv").read_text(encoding="utf-8").splitlines()
    places = zip(table["id"], table["split"], strict=True)
    return [lines[int(name.partition(":")[2]) - 1] for name, where in places if where == split]


def test_new_data_is_scored_beside_baselines_and_written_down(run: Run) -> None:
    openings = len(read_json_lines(run.test_openings))
    done = evaluate_new(run.folder, write("later.csv", reviews(80, seed=2, prefix="new")))
    assert done.folder == run.folder / "evaluations" / "later-1"
    made = Run(done.folder)
    scores = made.read(made.scores, Scores)
    assert scores == done.scores and list(scores.splits) == ["new"] and scores.last == {}
    new = scores.splits["new"]
    f1 = new.scores["f1_macro"]
    assert f1.n == 80 and f1.low is not None and f1.value is not None and f1.low < f1.value
    assert set(scores.baselines) == set(scores.baseline_tests) == {"majority", "naive_bayes", "tfidf_logistic"}
    assert scores.baseline_tests["majority"].documents == 80 and scores.baseline_tests["majority"].groups == 40
    assert scores.strongest_baseline in scores.baselines and scores.beats_baselines is not None
    assert scores.calibration is not None and scores.calibration.after is not None
    assert sum(part.documents for part in scores.calibration.after.bins) == 80
    assert scores.weights["best"] == run.read(run.scores, Scores).weights["best"]
    rows = read_table(made.predictions("new"))
    number = {name: place for place, name in enumerate(new.label_names)}
    again = score_predictions(
        np.array([number[name] for name in rows["reference"]]),
        np.array([number[name] for name in rows["prediction"]]),
        label_names=new.label_names,
    )
    assert again.values["f1_macro"] == pytest.approx(f1.value, abs=1e-12)
    assert made.baseline_predictions("majority", "new").exists()
    analysis = made.read(made.analysis, Analysis)
    assert {one.by for one in analysis.slices} == {"length", "column:city"} and len(analysis.hesitant) == 3
    assert json.loads(made.data.read_text(encoding="utf-8"))["documents"] == 80
    assert len(read_json_lines(run.test_openings)) == openings
    assert evaluate_new(run.folder, "later.csv", model="last").folder.name == "later-2"
    assert not [path for path in (run.folder / "evaluations").iterdir() if path.name.startswith(".")]


def test_the_test_split_as_new_data_gives_the_reported_scores_and_is_an_opening(run: Run) -> None:
    openings = len(read_json_lines(run.test_openings))
    lines = rows_of_split(run, "test")
    done = evaluate_new(run.folder, write("again.csv", lines))
    reported = run.read(run.scores, Scores)
    for name in ("f1_macro", "accuracy", "loss"):
        again = done.scores.splits["new"].scores[name]
        assert again.value == pytest.approx(reported.splits["test"].scores[name].value, abs=1e-6)
    for name, by_split in done.scores.baselines.items():
        theirs = reported.baselines[name]["test"].scores["f1_macro"].value
        assert by_split["new"].scores["f1_macro"].value == pytest.approx(theirs, abs=1e-12)
    assert f"{len(lines)} of {len(lines)} documents are in this run's test split" in "\n".join(done.notes)
    recorded = read_json_lines(run.test_openings)
    assert len(recorded) == openings + 1
    assert (recorded[-1]["by"], recorded[-1]["documents"]) == ("evaluate --data", len(lines))


def test_beating_those_that_are_there_is_not_beating_every_baseline(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write("new.csv", reviews(60, seed=9, prefix="new"))
    for missing, beats, said in (((), True, True), (("naive_bayes",), True, None), (("naive_bayes",), False, False)):
        monkeypatch.setattr(new_data, "NEEDS_A_MODEL", missing)
        monkeypatch.setattr(new_data, "beats_all", lambda tests, beats=beats: beats)
        scores = evaluate_new("run", source).scores
        assert scores.beats_baselines is said and len(scores.baseline_tests) == 3 - len(missing)


def test_documents_that_taught_the_model_are_told_and_not_in_the_headline(run: Run) -> None:
    known = [line.replace(" ", "  ", 1).replace("row", "ROW") for line in rows_of_split(run, "train")[:15]]
    known += rows_of_split(run, "validation")[:5]
    of_a_known_author = "quite new lovely words,good," + rows_of_split(run, "train")[0].split(",")[2] + ",P"
    done = evaluate_new(run.folder, write("mixed.csv", [*reviews(40, seed=3, prefix="new"), *known, of_a_known_author]))
    splits = done.scores.splits
    assert splits["new"].scores["accuracy"].n == 41 and splits["all"].scores["accuracy"].n == 61
    notes = "\n".join(done.notes)
    assert "warning: 15 of 61 documents are in this run's train split" in notes
    assert "warning: 5 of 61 documents are in this run's validation split" in notes
    assert "warning: 1 of the new documents belong to a group that taught the model" in notes
    made = Run(done.folder)
    assert [len(read_table(made.predictions(name))["id"]) for name in ("new", "all")] == [41, 61]
    told = json.loads(made.data.read_text(encoding="utf-8"))
    assert told["known_from"] == {"train": 15, "validation": 5, "test": 0}


def test_cleaning_is_the_runs_and_what_it_drops_is_told(run: Run) -> None:
    lines = reviews(40, seed=4, prefix="new")
    done = evaluate_new(run.folder, write("rough.csv", [*lines, lines[0], "  ,good,x,P"]))
    assert done.scores.splits["new"].scores["accuracy"].n == 40
    notes = "\n".join(done.notes)
    assert "warning: new: 1 row repeats an earlier row and was removed" in notes
    assert "1 empty texts dropped" in notes


def test_group_and_slice_columns_may_be_missing(run: Run) -> None:
    lines = [",".join(line.split(",")[:2]) for line in reviews(40, seed=5, prefix="new")]
    done = evaluate_new(run.folder, write("plain.csv", lines, header="text,label"))
    notes = "\n".join(done.notes)
    assert "warning: plain.csv lacks a column that data.columns.group names" in notes
    assert "warning: plain.csv lacks a column that evaluation.slices names" in notes
    assert done.scores.baseline_tests["majority"].groups is None


def test_a_folder_of_texts_with_splits_of_its_own_is_scored_as_one(run: Run) -> None:
    for number, line in enumerate(reviews(24, seed=8, prefix="new")):
        text, label = line.split(",")[:2]
        path = Path("texts") / ("train" if number % 3 else "test") / label / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    done = evaluate_new(run.folder, "texts")
    assert done.folder.name == "texts-1" and done.scores.splits["new"].scores["accuracy"].n == 24
    assert "texts has splits of its own, which are scored together: train, test" in done.notes


def test_several_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, rows, seed in (("old.csv", 200, 1), ("new.csv", 40, 9)):
        chance = random.Random(seed)
        chosen = [[label for label in WORDS if chance.random() < 0.6] for _ in range(rows)]
        texts = [f"{name} {row} " + " ".join(chance.choice(WORDS[label]) for label in labels * 4)
                 for row, labels in enumerate(chosen)]  # fmt: skip
        write(
            name,
            [f"{text},{'|'.join(labels)}" for text, labels in zip(texts, chosen, strict=True)],
            header="text,label",
        )
    recipe = RECIPE.replace("reviews.csv", "old.csv, multi_label: true").replace(", group: author", "")
    Path("recipe.yaml").write_text(recipe.replace(", slices: [city]", ""), encoding="utf-8")
    train(load_recipe("recipe.yaml"), folder="run")
    done = evaluate_new("run", "new.csv")
    assert done.scores.splits["new"].scores["f1_macro"].n == 40 and done.scores.splits["new"].confusion is None
    assert isinstance(read_table(Run(done.folder).predictions("new"))["prediction"][0], list)
    assert set(done.scores.baseline_tests) == {"majority", "naive_bayes", "tfidf_logistic"}


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (
            ["x y,good", "z,awful", "w,bad"],
            "text,label",
            "new.csv: label 'awful' (1 row: line 3) is none of the labels",
        ),
        (["x,good"], "text,sentiment", "Columns found: 'text', 'sentiment'. Name the column as the run's recipe does."),
        (["x y,good", "z,"], "text,label", "new.csv: 1 row without label"),
    ],
)
def test_faulty_data_is_refused_and_nothing_is_written(
    run: Run, lines: list[str], header: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("new.csv", lines, header=header)
    assert main(["evaluate", "run", "--data", "new.csv", "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert not (run.folder / "evaluations").exists()


def test_data_that_is_all_known_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("known.csv", rows_of_split(run, "train"))
    assert main(["evaluate", "run", "--data", "known.csv", "--quiet"]) == 2
    assert "documents are in this run's train or validation split" in capsys.readouterr().err


def test_without_the_runs_own_data_there_are_no_baselines(run: Run) -> None:
    Path("reviews.csv").write_text("\n".join([HEADER, *reviews(190, seed=1)]), encoding="utf-8")
    source = write("later.csv", reviews(30, seed=6, prefix="new"))
    changed = evaluate_new(run.folder, source)
    assert changed.scores.baselines == {} and changed.scores.beats_baselines is None
    assert "no baselines: the data that the run was trained on has changed since" in changed.notes
    Path("reviews.csv").unlink()
    assert any(
        "no baselines: the run's own data cannot be prepared" in note for note in evaluate_new("run", source).notes
    )


def test_the_verb_prints_the_results_before_a_gate_decides(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write("later.csv", reviews(40, seed=7, prefix="new"))
    command = ["evaluate", "run", "--data", "later.csv", "--quiet"]
    assert main([*command, "--gate", "accuracy>=0.0", "--gate", "f1_macro<0.0", "--gate", "roc_auc>1"]) == 1
    shown = capsys.readouterr()
    assert "40 documents that taught this run nothing" in shown.out and "tfidf_logistic" in shown.out
    assert len(shown.err.strip().splitlines()) == 2 and "error: --gate 'f1_macro<0.0': f1_macro is" in shown.err
    assert main([*command, "--json", "--gate", "accuracy>=0", "--gate-on", "interval"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["split"] == "new" and told["splits"]["new"]["scores"]["accuracy"]["n"] == 40
    (gate,) = told["gates"]
    assert gate["passed"] and gate["held"] == told["splits"]["new"]["scores"]["accuracy"]["low"]
    assert Path(told["evaluation"]).is_dir()


def test_a_faulty_gate_costs_no_opening_and_a_split_is_no_new_data(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    openings = len(read_json_lines(run.test_openings))
    assert main(["evaluate", "run", "--gate", "f1_marco>=0.8", "--quiet"]) == 2
    assert "no score is called 'f1_marco'. Did you mean 'f1_macro'?" in capsys.readouterr().err
    assert len(read_json_lines(run.test_openings)) == openings
    assert main(["evaluate", "run", "--split", "validation", "--data", "x.csv", "--quiet"]) == 2
    assert "--split names a split of the run" in capsys.readouterr().err
    assert main(["evaluate", "run", "--gate", "accuracy<=0", "--split", "validation", "--quiet"]) == 1
    shown = capsys.readouterr()
    assert "validation split of run" in shown.out and "error: --gate 'accuracy<=0': accuracy is" in shown.err


# --- gates -------------------------------------------------------------------------------------------------------

METRICS: list[str] = list(LabelMetric.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("f1_macro", "is not a score, one of >= > <= <, and a number"),
        ("f1_macro=0.8", "is not a score"),
        ("f1_macro>=", "is not a score"),
        ("f1_macro>=high", "'high' is not a number"),
        ("f1_macro>=nan", "'nan' is not a number"),
        ("f1_macro>=80", "f1_macro is between 0 and 1, found 80"),
        ("loss<=-1", "loss is never below 0, found -1"),
        ("bleu>=0.3", "no score is called 'bleu'. Known: "),
    ],
)
def test_faulty_rules_are_refused(rule: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_gate(rule, metrics=METRICS)
    assert message in str(caught.value) and f"--gate '{rule}'" in str(caught.value)


@pytest.mark.parametrize(
    ("rule", "on", "passed", "held"),
    [
        ("accuracy>=0.80", "value", True, 0.80),
        ("accuracy>0.80", "value", False, 0.80),
        (" accuracy <= 0.8 ", "value", True, 0.80),
        ("accuracy<8e-1", "value", False, 0.80),
        ("accuracy>=0.80", "interval", False, 0.75),
        ("accuracy>=0.75", "interval", True, 0.75),
        ("accuracy<=0.80", "interval", False, 0.86),
        ("accuracy<0.9", "interval", True, 0.86),
        ("loss<=2.5", "value", True, 2.0),
        ("loss<=2.5", "interval", False, None),
        ("roc_auc>=0", "value", False, None),
        ("matthews>=-1", "value", False, None),
    ],
)
def test_gates_hold_the_value_or_the_worse_end(rule: str, on: Any, passed: bool, held: float | None) -> None:
    scores = {
        "accuracy": Score(value=0.80, low=0.75, high=0.86, n=100),
        "loss": Score(value=2.0, n=100),
        "roc_auc": Score(value=None, n=100, note="undefined for a class"),
    }
    (outcome,) = judge_gates([parse_gate(rule, metrics=METRICS)], scores, on=on)
    assert (outcome.passed, outcome.held) == (passed, held)
    assert (outcome.reason is None) == passed
    if not passed:
        with pytest.raises(GateFailed) as caught:
            check_gates([outcome])
        assert rule in str(caught.value) and str(outcome.reason) in str(caught.value)


def test_every_failing_rule_is_told_with_its_interval() -> None:
    scores = {"accuracy": Score(value=0.8, low=0.75, high=0.86, n=9), "f1_macro": Score(value=0.7, n=9)}
    rules = ["accuracy>=0.78", "f1_macro>=0.9", "accuracy>=0.9"]
    outcomes = judge_gates([parse_gate(rule, metrics=METRICS) for rule in rules], scores, on="value")
    with pytest.raises(GateFailed) as caught:
        check_gates(outcomes)
    assert caught.value.exit_code == 1 and len(caught.value.problems) == 2
    assert "accuracy is 0.8 [0.75, 0.86]: it is not >= 0.9" in str(caught.value)
    check_gates(outcomes[:1])
