"""Cross-validation: every document is held out once, the numbers are those of the folds, folders are gone on with."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from tiny_series import forbid_training, write_recipe, write_reviews

from finetune import experiment
from finetune.cli import main
from finetune.crossval_screen import render_crossval
from finetune.data.prepare import Prepared, prepare
from finetune.errors import CheckpointError, DataError, FinetuneError, ModelError, RecipeError, Stopped
from finetune.progress import SILENT
from finetune.recipe_file import load_recipe
from finetune.report.many_sentences import crossval_sentences
from finetune.run_files import Scores
from finetune.runs import Run, read_table, write_table
from finetune.scores.resampled import corrected_interval, corrected_paired_test
from finetune.selection.crossval import CrossValidation, cross_validate
from finetune.selection.out_of_fold import FoldRun

FOLDS = 3


def crossval(
    *recipes: Path, folder: Path, folds: int = FOLDS, repeats: int = 1, fold: int | None = None, overrides: Any = ()
) -> CrossValidation | None:
    loaded = [load_recipe(recipe, overrides) for recipe in recipes]
    result, there = cross_validate(loaded, folds=folds, repeats=repeats, only_fold=fold, folder=folder, progress=SILENT)
    assert there == folder
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, its reviews, and `cv`: three folds of it, and what they came to in crossval.json."""
    folder = tmp_path_factory.mktemp("crossval")
    recipe = write_recipe(folder)
    assert crossval(recipe, folder=folder / "cv") is not None
    return folder


@pytest.fixture(scope="module")
def result(home: Path) -> CrossValidation:
    return CrossValidation.model_validate_json((home / "cv" / "crossval.json").read_text("utf-8"))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_training(monkeypatch)


def runs(folder: Path) -> list[Run]:
    return [Run(folder / "folds" / str(fold)) for fold in range(1, FOLDS + 1)]


def known(value: float | None) -> float:
    assert value is not None
    return value


def test_every_document_is_held_out_once_and_groups_stay_together(home: Path, result: CrossValidation) -> None:
    table = read_table(home / "cv" / "predictions" / "out_of_fold.parquet")
    assert list(table) == ["id", "group", "fold", "repeat", "reference", "prediction", "probabilities"]
    assert len(table["id"]) == len(set(table["id"])) == result.documents == 90
    assert len(set(zip(table["group"], table["fold"], strict=True))) == len(set(table["group"])) == result.groups == 30
    for number, run in enumerate(runs(home / "cv"), start=1):
        splits = read_table(run.splits)
        held = {id for id, split in zip(splits["id"], splits["split"], strict=True) if split == "test"}
        assert held == {id for id, fold in zip(table["id"], table["fold"], strict=True) if fold == number}
        assert set(splits["fold"]) == {1, 2, 3} and len(splits["id"]) == 90


def test_the_headline_is_the_mean_of_the_folds_with_every_value(home: Path, result: CrossValidation) -> None:
    recipe = result.recipes[0]
    scores = [run.read(run.scores, Scores) for run in runs(home / "cv")]
    f1 = [known(each.splits["test"].scores["f1_macro"].value) for each in scores]
    ours = recipe.scores["f1_macro"]
    assert ours.values == f1 and ours.mean == pytest.approx(np.mean(f1)) and len(set(f1)) > 1
    assert ours.deviation == pytest.approx(np.std(f1, ddof=1))
    sizes = {
        "train_documents": [fold.train_documents for fold in recipe.folds],
        "test_documents": [fold.held_out_documents for fold in recipe.folds],
    }
    low, high = corrected_interval(f1, **sizes)
    assert (ours.low, ours.high) == (max(low, 0.0), min(high, 1.0))
    theirs = [known(each.baselines["naive_bayes"]["test"].scores["f1_macro"].value) for each in scores]
    assert recipe.baselines["naive_bayes"]["f1_macro"] == pytest.approx(np.mean(theirs))
    test = recipe.baseline_tests["naive_bayes"]
    differences = [one - other for one, other in zip(f1, theirs, strict=True)]
    assert (test.difference, test.low, test.high, test.p) == corrected_paired_test(differences, **sizes)
    assert recipe.beats_baselines is all(each.better for each in recipe.baseline_tests.values())
    assert recipe.strongest_baseline == "naive_bayes"
    for fold in recipe.folds:
        assert fold.train_documents + fold.validation_documents + fold.held_out_documents == 90
        assert fold.folder == f"folds/{fold.fold}" and fold.best_epoch in (1, 2, 3, 4)


def test_the_pooled_score_is_that_of_all_out_of_fold_predictions(home: Path, result: CrossValidation) -> None:
    table = read_table(home / "cv" / "predictions" / "out_of_fold.parquet")
    scores = result.recipes[0].scores
    assert scores["f1_macro"].pooled == pytest.approx(
        f1_score(table["reference"], table["prediction"], average="macro")
    )
    assert scores["accuracy"].pooled == pytest.approx(accuracy_score(table["reference"], table["prediction"]))
    assert scores["f1_macro"].pooled != pytest.approx(scores["f1_macro"].mean)
    assert scores["loss"].pooled is None
    assert any("the pooled score takes" in note for note in result.notes)
    assert any("a heuristic" in note for note in result.notes)


def test_a_fold_is_an_ordinary_run_without_checkpoints(home: Path, tmp_path: Path) -> None:
    for run in runs(home / "cv"):
        assert not run.checkpoints.exists() and (run.best / "model.safetensors").is_file() and run.last.is_dir()
    assert load_recipe(runs(home / "cv")[1].recipe).recipe.data.fold is not None
    again = experiment.train(load_recipe(runs(home / "cv")[1].recipe), folder=tmp_path / "again", progress=SILENT)
    first, second = (read_table(run.predictions("test")) for run in (runs(home / "cv")[1], again))
    assert first == second


def test_the_screen_says_first_whether_the_baselines_are_beaten(home: Path, result: CrossValidation) -> None:
    lines = render_crossval(result, home / "cv").splitlines()
    beaten = result.recipes[0].beats_baselines
    assert lines[0].startswith("small beats every baseline" if beaten else "small does NOT beat every baseline")
    assert "3 folds: 90 documents in 30 groups, each held out once." in lines
    assert sum(line.startswith(("1   ", "2   ", "3   ")) for line in lines) == FOLDS
    assert any(line.startswith("pooled (out of fold)") for line in lines)


@pytest.mark.usefixtures("untrained")
def test_finished_folds_are_kept_and_can_be_brought_together(
    home: Path, result: CrossValidation, tmp_path: Path
) -> None:
    for name, fold in (("here", 1), ("there", 2), ("there", 3)):
        (tmp_path / name / "folds").mkdir(parents=True, exist_ok=True)
        shutil.copy(home / "cv" / "plan.json", tmp_path / name)
        shutil.copytree(home / "cv" / "folds" / str(fold), tmp_path / name / "folds" / str(fold))
    shutil.copy(home / "reviews.csv", tmp_path)  # as on a second machine
    assert crossval(home / "small.yaml", folder=tmp_path / "here", fold=1) is None
    assert not (tmp_path / "here" / "crossval.json").exists()
    shutil.copytree(tmp_path / "there", tmp_path / "here", dirs_exist_ok=True)
    assert crossval(home / "small.yaml", folder=tmp_path / "here", fold=1) == result
    assert crossval(home / "small.yaml", folder=tmp_path / "here") == result
    assert (tmp_path / "here" / "predictions" / "out_of_fold.parquet").is_file()


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 2}, r"has another plan \(folds 3, now 2; "),
        ({"repeats": 2}, r"has another plan \(repeats 1, now 2\)"),
        ({"overrides": ["training.learning_rate=0.1"]}, r"small: training.learning_rate 0.02, now 0.1"),
        ({"overrides": ["evaluation.baselines=[majority]"]}, r"small: evaluation.baselines"),
    ],
    ids=["folds", "repeats", "settings", "baselines"],
)
def test_another_plan_is_refused(home: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        crossval(home / "small.yaml", folder=home / "cv", **settings)


def _change_data(folder: Path) -> None:
    path = folder / "reviews.csv"
    path.write_text(path.read_text("utf-8").replace("lovely", "lovelier"), encoding="utf-8")


def _lose_scores(folder: Path) -> None:
    (folder / "cv" / "folds" / "2" / "scores.json").unlink()


def _break_run(folder: Path) -> None:
    (folder / "cv" / "folds" / "2" / "run.json").write_text("{", encoding="utf-8")


def _exchange_folds(folder: Path) -> None:
    folds = folder / "cv" / "folds"
    (folds / "1").rename(folds / "x")
    (folds / "2").rename(folds / "1")
    (folds / "x").rename(folds / "2")


def _forge_predictions(folder: Path) -> None:
    path = folder / "cv" / "folds" / "2" / "predictions" / "test.parquet"
    write_table(path, {name: column[1:] for name, column in read_table(path).items()})


def _move_a_document(folder: Path) -> None:
    path = folder / "cv" / "folds" / "3" / "splits.parquet"
    table = read_table(path)
    table["fold"][0] = table["fold"][0] % FOLDS + 1
    write_table(path, table)


def _change_a_text(folder: Path) -> None:
    path = folder / "cv" / "folds" / "3" / "splits.parquet"
    table = read_table(path)
    table["content_hash"][0] = "0" * 16
    write_table(path, table)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_change_data, "has another plan .small: data"),
        (_lose_scores, "folds/2: is complete, but its scores.json is gone"),
        (_break_run, "run.json: is not a run.json of this version"),
        (_exchange_folds, r"folds/1: was trained with other settings \(data.fold.fold 2, now 1\)"),
        (_forge_predictions, "folds/2: has predictions of other documents than those of fold 2"),
        (_move_a_document, "folds/3: divides the documents otherwise than .*folds/1"),
        (_change_a_text, "folds/3: has other documents than .*folds/1"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_damaged_or_foreign_fold_is_refused(home: Path, tmp_path: Path, damage: Any, message: str) -> None:
    shutil.copytree(home, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(CheckpointError, match=message):
        crossval(tmp_path / "copy" / "small.yaml", folder=tmp_path / "copy" / "cv")


def test_the_best_of_two_recipes_over_repeats_is_tested_with_holm(tmp_path: Path) -> None:
    slow = {"num_train_epochs": 1, "learning_rate": 1e-6, "use_cpu": True, "per_device_train_batch_size": 8}
    recipes = [write_recipe(tmp_path, rows=60), write_recipe(tmp_path, "slow", training=slow)]
    result = crossval(*recipes, folder=tmp_path / "cv", folds=2, repeats=2)
    assert result is not None and [each.name for each in result.recipes] == ["small", "slow"]
    means = {each.name: each.scores["f1_macro"].mean for each in result.recipes}
    assert result.best == max(means, key=lambda name: means[name] or 0.0)
    other = next(name for name in means if name != result.best)
    test = result.tests[other]
    assert list(result.tests) == [other] and test.p_holm == test.p
    assert test.first == pytest.approx(means[result.best]) and test.second == pytest.approx(means[other])
    assert any("was chosen by these very folds" in note for note in result.notes)
    for name in ("small", "slow"):
        assert (tmp_path / "cv" / "folds" / name / "repeat-2" / "1" / "run.json").is_file()
        table = read_table(tmp_path / "cv" / "predictions" / f"{name}-out_of_fold.parquet")
        assert Counter(table["repeat"]) == {1: 60, 2: 60}
        assert set(Counter(zip(table["id"], table["repeat"], strict=True)).values()) == {1}
        of_id = {repeat: {id: fold for id, fold, own in zip(table["id"], table["fold"], table["repeat"], strict=True)
                          if own == repeat} for repeat in (1, 2)}  # fmt: skip
        assert of_id[1] != of_id[2], "each repeat divides anew"
    scores = result.recipes[0].scores["accuracy"]
    assert len(scores.values) == 4 and len(scores.pooled_by_repeat) == 2
    assert scores.pooled == pytest.approx(np.mean([value for value in scores.pooled_by_repeat if value is not None]))
    screen = render_crossval(result, tmp_path / "cv")
    assert screen.splitlines()[:2] == crossval_sentences(result)
    assert "p (Holm)" in screen and "2 folds, 2 times: 60 documents in 20 groups" in screen


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("sections", "settings", "error", "message"),
    [
        ({}, {"folds": 31}, DataError, "too few to split into 31 folds. Found: 90 rows in 30 blocks"),
        ({"data": {"source": "reviews.csv", "fold": {"folds": 3, "fold": 1}}}, {}, RecipeError,
         "recipe.yaml:1: data.fold: holds out one fold already"),
        ({"data": {"source": "reviews.csv", "numeric": {"row": "min_max"}}}, {}, RecipeError, "numeric columns"),
        ({"data": {"source": "nowhere.csv"}}, {}, DataError, "nowhere.csv: no such file"),
    ],
    ids=["too few groups", "a fold of its own", "numbers", "no data"],
)  # fmt: skip
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, sections: dict[str, Any], settings: dict[str, Any], error: type[FinetuneError], message: str
) -> None:
    recipe = write_recipe(tmp_path, "recipe", **sections)
    with pytest.raises(error, match=message):
        crossval(recipe, folder=tmp_path / "cv", **settings)
    assert not (tmp_path / "cv").exists()


def test_a_model_that_cannot_be_found_leaves_nothing_behind(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, model={"name": "./nowhere"})
    with pytest.raises(ModelError):
        crossval(recipe, folder=tmp_path / "cv")
    assert not (tmp_path / "cv").exists()


@pytest.mark.usefixtures("untrained")
def test_recipes_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = write_recipe(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(RecipeError, match="two recipes are named small"):
        crossval(one, write_recipe(tmp_path / "b"), folder=tmp_path / "cv")
    accuracy = write_recipe(tmp_path, "other", training={"metric_for_best_model": "accuracy"})
    with pytest.raises(RecipeError, match="choose by different metrics: small f1_macro, other accuracy"):
        crossval(one, accuracy, folder=tmp_path / "cv")
    shorter = write_recipe(tmp_path, "shorter", cleaning=[{"drop_short": 34}])
    with pytest.raises(RecipeError, match="shorter: has other documents than small"):
        crossval(one, shorter, folder=tmp_path / "cv")
    assert not (tmp_path / "cv").exists()


@pytest.mark.usefixtures("untrained")
def test_several_processes_and_a_folder_of_something_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"is not empty and has no plan.json"):
        crossval(recipe, folder=tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match=r"runs in one process, and was launched in 2\. Give each process a fold"):
        crossval(recipe, folder=tmp_path / "cv")


def test_a_stop_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(loaded: Any, *, folder: Path, **settings: Any) -> Run:
        folder.mkdir(parents=True)
        raise Stopped(str(folder), "stopped by SIGINT; checkpoint-3 saved", "Go on with --resume", by_user=True)

    monkeypatch.setattr(experiment, "train", stopped)
    with pytest.raises(Stopped) as caught:
        crossval(write_recipe(tmp_path), folder=tmp_path / "cv")
    assert caught.value.exit_status == 130
    assert str(caught.value).endswith(f"checkpoint-3 saved. Go on with the same command and --run {tmp_path / 'cv'}")
    assert (tmp_path / "cv" / "plan.json").is_file()


def test_prepare_numbers_the_same_folds_and_can_hold_one_out(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(home / "small.yaml")
    assert main(["prepare", recipe, "--folds", "3", "--output", str(tmp_path / "numbered"), "--quiet"]) == 0
    tables = [read_table(tmp_path / "numbered" / f"{split}.parquet") for split in ("train", "validation", "test")]
    numbered = {id: fold for table in tables for id, fold in zip(table["id"], table["fold"], strict=True)}
    splits = read_table(runs(home / "cv")[0].splits)
    assert {id: fold + 1 for id, fold in numbered.items()} == dict(zip(splits["id"], splits["fold"], strict=True))
    capsys.readouterr()
    fold = "data.fold={folds: 3, fold: 2}"
    assert main(["prepare", recipe, fold, "--output", str(tmp_path / "held"), "--quiet"]) == 0
    assert "test is fold 2 of 3 (repeat 1); rows: fold 1 30, fold 2 30, fold 3 30" in capsys.readouterr().out
    held = read_table(tmp_path / "held" / "test.parquet")["id"]
    assert sorted(held) == sorted(id for id, number in numbered.items() if number == 1)
    assert main(["prepare", recipe, fold, "--folds", "3", "--quiet"]) == 2
    assert "--folds: numbers the folds of all rows, and data.fold already holds" in capsys.readouterr().err
    assert main(["prepare", recipe, "data.fold={folds: 3, fold: 4}", "--quiet"]) == 2
    assert "fold 4 of 3 folds does not exist" in capsys.readouterr().err


def prepared(recipe: Path, *, fold: int) -> Prepared:
    return prepare(load_recipe(recipe, [f"data.fold={{folds: 2, fold: {fold}}}"]), progress=SILENT)


def test_a_brought_test_part_stays_closed(tmp_path: Path) -> None:
    write_reviews(tmp_path / "reviews.csv", rows=90)
    lines = (tmp_path / "reviews.csv").read_text("utf-8").splitlines()
    for name, rows in (("train", lines[1:61]), ("validation", lines[61:76]), ("test", lines[76:])):
        (tmp_path / f"{name}.csv").write_text("\n".join([lines[0], *rows]), encoding="utf-8")
    source = {name: f"{name}.csv" for name in ("train", "validation", "test")}
    recipe = write_recipe(tmp_path, data={"source": source})
    held: list[str] = []
    for fold in (1, 2):
        data = prepared(recipe, fold=fold)
        assert "the test part that was brought stays closed: its 15 rows take no part in the folds" in data.warnings
        table = data.split_table()
        assert len(table["id"]) == 75 and not any(id.startswith("test") for id in table["id"].to_pylist())
        held += data.splits["test"]["id"][:]
    assert len(held) == len(set(held)) == 75


def test_augmentation_grows_train_alone_and_its_copies_are_no_documents(tmp_path: Path) -> None:
    data = prepared(write_recipe(tmp_path, augmentation={"delete": 0.3}), fold=1)
    run = Run(tmp_path)
    write_table(run.splits, data.split_table())
    fold = FoldRun(run, fold=1, repeat=1)
    assert [fold.documents(split) for split in ("validation", "test")] == [
        len(data.splits[name]) for name in ("validation", "test")
    ]
    assert fold.documents("train") == 90 - fold.documents("validation") - fold.documents("test")
    assert len(data.splits["train"]) > fold.documents("train") and not any("#copy" in id for id in fold.folds)


KILLED = """
import sys
from pathlib import Path
from finetune.cli import EXIT_INTERRUPTED
from finetune.errors import Stopped
from finetune.progress import Progress
from finetune.recipe_file import load_recipe
from finetune.selection.crossval import cross_validate
from finetune.training import trainer
import os, signal
home, folder, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
seen = 0
logged = trainer.append_json_line
def append(path, row):
    global seen
    logged(path, row)
    seen += path.parent.name == "2"
    if seen == 3:
        os.kill(os.getpid(), number)
trainer.append_json_line = append
try:
    cross_validate([load_recipe(home / "small.yaml")], folds=3, repeats=1, only_fold=None, folder=folder,
                   progress=Progress(quiet=True))
except Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_killed_cross_validation_goes_on_to_the_same_result(
    home: Path, result: CrossValidation, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "cv"
    words = [sys.executable, "-c", KILLED, str(home), str(folder), str(number.value)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    expected = {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 130}
    assert done.returncode == expected[number], done.stderr
    if number != signal.SIGKILL:
        assert f"Go on with the same command and --run {folder}" in done.stderr
    assert not (folder / "folds" / "3").exists() and not (folder / "crossval.json").exists()
    again = crossval(home / "small.yaml", folder=folder)
    assert again == result
