"""The search: trials leave the test split closed, nothing is lost to a kill, and the winner is scored once."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_fits import tiny_bert, tiny_documents, tiny_plan

from finetune import experiment
from finetune.cli import main
from finetune.errors import CheckpointError, DataError, ModelError, RecipeError, Stopped, TrainingFailed
from finetune.recipe import ClassifierRecipe
from finetune.recipe_file import LoadedRecipe, check_recipe, load_recipe, override, searchable_settings
from finetune.run_files import RunInfo, Scores
from finetune.runs import Run, read_json_lines
from finetune.search_screen import best_first, render_search
from finetune.search_space import Search
from finetune.selection.search import SearchResult, TrialRow, search_settings
from finetune.selection.study import FileLock, JournalLock, Study, Taken, chosen, suggested
from finetune.training.plan import Pruned
from finetune.training.trainer import fit
from finetune.yaml_text import read_yaml

WORDS = {"good": ["fine", "lovely", "clean", "warm"], "bad": ["dirty", "cold", "rude", "broken"]}
RECIPE = """
task: text-classification
model:
  from_scratch: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, vocab_size: 120}
data: {source: reviews.csv}
windows: {max_tokens: 16, stride: 4}
training: {num_train_epochs: 2, per_device_train_batch_size: 16, warmup_steps: 0, use_cpu: true}
evaluation: {bootstrap: 50, baselines: [majority]}
search:
  trials: 3
  space:
    training.learning_rate: {low: 1.0e-4, high: 3.0e-2, log: true}
    training.per_device_train_batch_size: [8, 16]
"""
SPACE = Search.model_validate(
    {
        "space": {
            "training.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
            "training.num_train_epochs": {"low": 1, "high": 4},
            "training.weight_decay": {"low": 0, "high": 0.3, "step": 0.1},
            "training.optim": ["sgd", "adafactor"],
        }
    }
)


def written(folder: Path, recipe: str = RECIPE) -> Path:
    chance = random.Random(5)
    with open(folder / "reviews.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        for row in range(90):
            label = chance.choice(list(WORDS))
            other = "bad" if label == "good" else "good"
            words = [chance.choice(WORDS[label if chance.random() < 0.8 else other]) for _ in range(5)]
            writer.writerow([f"{row} {' '.join(words)}", label])
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, Path, Path]:
    """A finished search, its folder and its recipe."""
    recipe = written(tmp_path_factory.mktemp("search"))
    result, folder = search_settings(load_recipe(recipe), folder=recipe.parent / "found")
    assert result is not None
    return result, folder, recipe


# ---- the recipe's section


def problems(space: str, *overrides: str) -> list[str]:
    text = f"task: text-classification\ndata: {{source: r.csv}}\nsearch:\n  space:\n    {space}\n"
    with pytest.raises(RecipeError) as caught:
        check_recipe(read_yaml(text, name="r.yaml"), overrides, base=Path(), name="r")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("training.learning_rat: {low: 1e-5, high: 1e-3}", "Did you mean 'training.learning_rate'?"),
        ("learning_rate: [1e-5, 1e-3]", "Did you mean 'training.learning_rate'?"),
        ("lr: [1e-5, 1e-3]", "Write training.learning_rate."),
        ("training.extra.adam_beta1: [0.8, 0.9]", "is no setting that can be searched"),
        ("training: [a, b]", "is no setting that can be searched"),
        ("data.limit: [10, 20]", "is the same in every trial"),
        ("data.split.seed: [1, 2]", "is the same in every trial"),
        ("seed: [1, 2]", "is the same in every trial"),
        ("evaluation.bootstrap: [1, 2]", "is the same in every trial"),
        ("training.metric_for_best_model: [loss, f1_macro]", "is the same in every trial"),
        ("training.learning_rate: {low: 0, high: 1}", "learning_rate=0.0 is refused: must be greater than 0"),
        ("training.optim: [sgd, adam]", "optim=adam is refused: 'adam' is not known"),
        ("windows.stride: [8, 600]", "stride=600 is refused"),
        ("training.optim: {low: 1, high: 2}", "takes no range"),
        ("windows.truncate: {low: 0, high: 1}", "takes no range"),
        ("training.num_train_epochs: {low: 1, high: 2.5}", "whole numbers"),
        ("training.weight_decay: {low: 0, high: 0.1, step: 0.03}", "do not end at high 0.1"),
        ("training.weight_decay: {low: 3, high: 1}", "low 3 must be below high 1"),
        ("training.weight_decay: {low: 0, hig: 1}", "Did you mean 'high'?"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_with_its_line(space: str, told: str) -> None:
    found = problems(space)
    assert any(told in problem for problem in found), found
    assert all(problem.startswith("r.yaml:5: ") for problem in found)


def test_all_problems_of_a_space_are_told_together() -> None:
    assert len(problems("seed: [1, 2]\n    training.optim: [adam, adamw]\n    lr: [1, 2]")) == 4


def test_what_can_be_searched() -> None:
    settings = searchable_settings(ClassifierRecipe)
    assert settings["training.learning_rate"] == {float} and settings["training.optim"] == {str}
    assert settings["windows.max_per_document"] == {int, type(None)}
    assert not [name for name in settings if name.startswith(("data", "evaluation", "search", "seed", "cleaning"))]


@pytest.mark.parametrize("value", [True, 3, 1e-5, 0.1, "sgd", "1e5", "no", "true", "a: b", "#x", " x", "", "[a", "文"])
def test_an_override_is_read_as_the_value_it_was_written_from(value: Any) -> None:
    name, _, text = override("a", value).partition("=")
    read = read_yaml(f"value: {text}", name="").values["value"]
    assert name == "a" and read == value and type(read) is type(value)


# ---- the study that processes share


def objective(values: Mapping[str, Any]) -> float:
    return -abs(float(values["training.learning_rate"]) - 1e-3) + 0.001 * int(values["training.num_train_epochs"])


def step(study: Study, *, total: int = 1000, end: bool = True) -> tuple[Taken, dict[str, Any]] | None:
    """One made-up trial, ended or left as a killed process leaves it."""
    with study.deciding():
        taken = study.next(total)
    if taken is None:
        return None
    values = suggested(taken.trial, SPACE, ClassifierRecipe)
    if end:
        study.tell(taken, objective(values), state="COMPLETE")
    taken.claim.release()
    return taken, values


def opened(folder: Path) -> Study:
    folder.mkdir(exist_ok=True)
    return Study.open(folder, seed=3, greater_is_better=True)


def test_a_study_that_was_interrupted_tries_what_an_uninterrupted_one_tries(tmp_path: Path) -> None:
    study = opened(tmp_path / "whole")
    whole = [values for _ in range(14) if (done := step(study)) for values in [done[1]]]
    parts = []
    for number in range(14):
        again = opened(tmp_path / "parts")
        if number % 3 == 2:  # a process that was killed in the middle of this trial
            left = step(again, end=False)
            assert left is not None and left[0].trial.number == number
            again = opened(tmp_path / "parts")
        done = step(again)
        assert done is not None and done[0].trial.number == number
        parts.append(done[1])
    assert parts == whole
    assert len({json.dumps(values) for values in whole}) > 10


def test_values_lie_in_the_space_and_can_be_pasted(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for _ in range(12):
        done = step(study)
        assert done is not None
        values = done[1]
        assert 1e-5 <= values["training.learning_rate"] <= 1e-1
        assert float(f"{values['training.learning_rate']:.4g}") == values["training.learning_rate"]
        assert values["training.weight_decay"] in (0.0, 0.1, 0.2, 0.3)
        assert type(values["training.num_train_epochs"]) is int and 1 <= values["training.num_train_epochs"] <= 4
    assert [chosen(trial.params, SPACE) for trial in study.trials()][-1] == values


def test_the_total_holds_over_all_processes(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    assert [step(study, total=3) is not None for study in (one, other, one, other)] == [True, True, True, False]
    assert one.all_ended() and one.best() == other.best()


def test_a_trial_belongs_to_the_process_that_lives(tmp_path: Path) -> None:
    """A forked child takes trial 0 and holds it; once it is killed, trial 0 is taken over."""
    study = opened(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        step(opened(tmp_path), end=True)
        with opened(tmp_path).deciding():
            kept = opened(tmp_path).next(9)  # held until the end
        os.write(writing, b"x" if kept else b"-")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"x"
        with study.deciding():
            taken = study.next(9)
        assert taken is not None and taken.trial.number == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    taken.claim.release()
    with study.deciding():
        again = study.next(9)
    assert again is not None and again.trial.number == 1


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        lock.acquire()
        os.write(writing, b"x")
        signal.pause()
    os.read(reading, 1)
    held = not lock.acquire(wait=False)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert held and lock.acquire(wait=False)


def test_half_a_line_in_the_journal_does_not_block_it(tmp_path: Path) -> None:
    study = opened(tmp_path)
    step(study)
    with open(tmp_path / "study.log", "ab") as handle:
        handle.write(b'{"op_code":4,"worker_id":"kil')
    again = opened(tmp_path)
    assert step(again) is not None
    assert [trial.state.name for trial in opened(tmp_path).trials()] == ["COMPLETE"] * 2
    lock = JournalLock(tmp_path / "study.log")
    before = (tmp_path / "study.log").read_bytes()
    lock.acquire()
    lock.release()
    assert (tmp_path / "study.log").read_bytes() == before


def test_importance_finds_the_setting_that_decides(tmp_path: Path) -> None:
    study = opened(tmp_path)
    for _ in range(9):
        step(study)
    assert study.importances()[0] is None and "too few" in str(study.importances()[1])
    for _ in range(9):
        step(study)
    found, note = study.importances()
    assert found is not None and note is None
    assert next(iter(found)) == "training.learning_rate" and sum(found.values()) == pytest.approx(1, abs=1e-3)
    assert study.importances()[0] == found


def test_no_importance_of_a_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "objective", lambda values: 0.5)
    study = opened(tmp_path)
    for _ in range(10):
        step(study)
    assert study.importances() == (None, "all complete trials have the same value")


def test_a_trial_below_the_median_is_pruned_after_its_epoch(tmp_path: Path) -> None:
    study = opened(tmp_path)

    def trained(first: float, *, prune: bool = True) -> None:
        with study.deciding():
            taken = study.next(99)
        assert taken is not None
        tell = study.listener(taken.trial, "f1", prune=prune)
        try:
            tell(0.5, {"f1": 0.0})  # in the middle of an epoch
            tell(1.0, {"accuracy": 0.0})  # the metric is undefined
            tell(1.2, {"f1": first})
            tell(1.7, {"f1": 0.0})  # the same epoch counts once
            study.tell(taken, first, state="COMPLETE")
        except Pruned:
            study.tell(taken, None, state="PRUNED")
        taken.claim.release()

    for value in (0.1, 0.5, 0.6, 0.7, 0.8):
        trained(value)
    trained(0.3)
    trained(0.3, prune=False)
    trained(0.9)
    trials = study.trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE", "COMPLETE"]
    assert trials[5].intermediate_values == {1: 0.3}
    assert study.best() == 7


# ---- the training of a trial


def test_a_listener_hears_every_evaluation_and_ends_the_training(tmp_path: Path) -> None:
    heard: list[tuple[float, set[str]]] = []

    def listen(epoch: float, scores: Mapping[str, float]) -> None:
        heard.append((epoch, {*scores}))
        if epoch >= 2:
            raise Pruned

    plan = tiny_plan(tmp_path, train=tiny_documents(20), validation=tiny_documents(8, seed=1), num_train_epochs=3)
    with pytest.raises(Pruned, match="epoch 2"):
        fit(tiny_bert(3), type(plan)(**{**vars(plan), "on_evaluation": listen}))
    assert heard == [(1.0, {"loss", "f1_macro"}), (2.0, {"loss", "f1_macro"})]


def test_a_pruned_run_says_so_and_can_be_gone_on_with(tmp_path: Path) -> None:
    loaded = load_recipe(written(tmp_path))

    def stop(epoch: float, scores: Mapping[str, float]) -> None:
        if epoch >= 2:
            raise Pruned

    with pytest.raises(Pruned):
        experiment.train(loaded, folder=tmp_path / "run", open_test=False, on_evaluation=stop)
    run = Run(tmp_path / "run")
    info = run.read(run.info, RunInfo)
    assert info.status == "pruned" and info.failure == "after epoch 2" and not run.best.exists()
    with pytest.raises(CheckpointError, match="no scores"):
        experiment.score_test(run.folder)
    experiment.resume(run.folder, open_test=False)
    scores = run.read(run.scores, Scores)
    assert run.read(run.info, RunInfo).status == "complete"
    assert {*scores.splits} == {*scores.last} == {"validation"} and not scores.baselines
    assert not run.test_openings.exists()
    opened_scores = experiment.score_test(run.folder)
    assert {*opened_scores.splits} == {"validation", "test"} and "majority" in opened_scores.baselines
    assert opened_scores.splits["validation"] == scores.splits["validation"]
    assert opened_scores.calibration is not None and opened_scores.calibration.after is not None
    assert len(read_json_lines(run.test_openings)) == 1
    with pytest.raises(CheckpointError, match="already"):
        experiment.score_test(run.folder)


# ---- a whole search


def test_the_winner_is_the_best_on_validation(searched: tuple[SearchResult, Path, Path]) -> None:
    result, folder, _ = searched
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    values = [trial.value for trial in result.trials if trial.value is not None]
    assert len(values) == 3 and result.trials[result.winner].value == max(values)
    for trial in result.trials:
        run = Run(folder / "trials" / str(trial.number))
        assert run.read(run.scores, Scores).splits["validation"].scores["f1_macro"].value == trial.value
        made = load_recipe(run.recipe).recipe
        assert made.search is None and made.training.learning_rate == trial.params["training.learning_rate"]


def test_only_the_winner_opened_the_test_split_once(searched: tuple[SearchResult, Path, Path]) -> None:
    result, folder, _ = searched
    for trial in result.trials:
        run = Run(folder / "trials" / str(trial.number))
        won = trial.number == result.winner
        assert len(read_json_lines(run.test_openings)) == won
        assert ("test" in run.read(run.scores, Scores).splits) == won
        assert run.predictions("test").exists() == won
        if won:
            assert result.test == run.read(run.scores, Scores).splits["test"].scores
            assert result.test["f1_macro"].low is not None


def test_only_the_winner_keeps_its_models(searched: tuple[SearchResult, Path, Path]) -> None:
    result, folder, _ = searched
    for trial in result.trials:
        run = Run(folder / "trials" / str(trial.number))
        assert run.best.exists() == run.last.exists() == (trial.number == result.winner)
        assert not run.checkpoints.exists()


def test_the_overrides_train_the_winner_again(searched: tuple[SearchResult, Path, Path], tmp_path: Path) -> None:
    result, folder, _ = searched
    again = experiment.train(load_recipe(folder / "recipe.yaml", result.overrides), folder=tmp_path / "again")
    weights = "best/model.safetensors"
    won = folder / "trials" / str(result.winner)
    assert (again.folder / weights).read_bytes() == (won / weights).read_bytes()


def test_a_finished_search_is_read_and_never_extended(
    searched: tuple[SearchResult, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result, folder, recipe = searched
    before = sorted(path.name for path in folder.rglob("*"))
    assert search_settings(load_recipe(recipe), folder=folder) == (result, folder)
    assert sorted(path.name for path in folder.rglob("*")) == before
    for other, told in {
        "search.trials=9": "search.trials 3, now 9",
        "training.weight_decay=0.5": "training.weight_decay 0.01, now 0.5",
        "training.metric_for_best_model=accuracy": "metric_for_best_model",
        "seed=4": "seed 13, now 4",
        "search.prune=false": "search.prune",
        "evaluation.calibrate=false": "evaluation.calibrate true, now false",
    }.items():
        with pytest.raises(CheckpointError, match="belongs to another search") as caught:
            search_settings(load_recipe(recipe, [other]), folder=folder)
        assert told in str(caught.value)


def test_what_stands_beside_the_scores_may_change(searched: tuple[SearchResult, Path, Path]) -> None:
    result, folder, recipe = searched
    overrides = ["evaluation.bootstrap=10", "report.language=zh", "training.learning_rate=0.5"]
    assert search_settings(load_recipe(recipe, overrides), folder=folder)[0] == result


def test_the_screen_says_the_verdict_and_the_test_score_first(searched: tuple[SearchResult, Path, Path]) -> None:
    result, folder, _ = searched
    text = render_search(result, folder)
    assert text.startswith("This model "), "the winner against the baselines comes first"
    assert f"\nTrial {result.winner} wins: test f1_macro " in text
    for part in ("optimistic", "opened once", "too few", *result.overrides, str(folder), "finetune train"):
        assert part in text


def test_the_screen_ranks_by_the_direction_and_hides_the_rest() -> None:
    rows = [
        TrialRow(number=n, status="complete", params={"training.optim": "sgd"}, value=float(n), seconds=1.0)
        for n in range(30)
    ]
    rows.append(TrialRow(number=30, status="failed", params={"training.optim": "sgd"}, value=None, failure="broke"))
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    result = SearchResult.model_validate(
        {
            "metric": "loss", "direction": "minimize", "trials": [row.model_dump() for row in rows], "winner": 0,
            "importance": {"training.optim": 1.0}, "overrides": ["training.optim=sgd"], "test": {"loss": score},
            "notes": [],
        }
    )  # fmt: skip
    assert [row.number for row in best_first(result)][:2] == [0, 1] and best_first(result)[-1].status == "failed"
    text = render_search(result, Path("runs/x"))
    assert "Trial 0 wins: test loss 0.500 [0.400, 0.600] (10 documents)" in text and "(11 more trials" in text


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    loaded = load_recipe(written(tmp_path))
    with pytest.raises(RecipeError, match="not empty"):
        search_settings(loaded, folder=tmp_path)


def test_bad_data_and_models_leave_nothing_behind(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    with pytest.raises(DataError, match="lable"):
        search_settings(load_recipe(recipe, ["data.columns.label=lable"]), folder=tmp_path / "found")
    (tmp_path / "nothing").mkdir()
    models = (
        "task: text-classification\ndata: {source: reviews.csv}\nsearch: {space: {model.name: [./nothing, ./none]}}\n"
    )
    recipe.write_text(models, encoding="utf-8")
    with pytest.raises(ModelError, match="nothing"):
        search_settings(load_recipe(recipe), folder=tmp_path / "found")
    assert not (tmp_path / "found").exists()


def test_a_trial_that_fails_is_told_and_not_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = written(tmp_path)
    real, calls = experiment.train, []

    def train(loaded: LoadedRecipe, **named: Any) -> Run:
        calls.append(named["folder"])
        if len(calls) == 1:
            raise TrainingFailed("step 3", "the loss is not finite")
        return real(loaded, **named)

    monkeypatch.setattr(experiment, "train", train)
    result, _ = search_settings(load_recipe(recipe, ["search.trials=2"]), folder=tmp_path / "found")
    assert result is not None and [trial.status for trial in result.trials] == ["failed", "complete"]
    assert "not finite" in str(result.trials[0].failure) and result.winner == 1
    assert "1 of 2 trials failed" in result.notes and "trial 0 failed" in capsys.readouterr().err


def test_a_stopped_search_goes_on_with_the_same_command_and_may_get_more_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, real, folders = written(tmp_path), experiment.train, []

    def train(loaded: LoadedRecipe, **named: Any) -> Run:
        folders.append(named["folder"].name)
        if len(folders) == 1:
            raise Stopped("trials/0", "stopped by SIGTERM", "Go on with: finetune train trials/0 --resume")
        return real(loaded, **named)

    monkeypatch.setattr(experiment, "train", train)
    with pytest.raises(Stopped, match="Go on with the same command and --run") as caught:
        search_settings(load_recipe(recipe, ["search.trials=2"]), folder=tmp_path / "found")
    assert caught.value.exit_status == 75
    with pytest.raises(CheckpointError, match="num_train_epochs 2, now 1"):
        search_settings(load_recipe(recipe, ["training.num_train_epochs=1"]), folder=tmp_path / "found")
    result, _ = search_settings(load_recipe(recipe), folder=tmp_path / "found")
    assert result is not None and len(result.trials) == 3 and folders == ["0", "0", "1", "2"]


def test_when_every_trial_fails_the_search_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(loaded: LoadedRecipe, **named: Any) -> Run:
        raise TrainingFailed("step 3", "the loss is not finite")

    monkeypatch.setattr(experiment, "train", train)
    with pytest.raises(TrainingFailed, match=r"none of 3 trials could be completed.*not finite"):
        search_settings(load_recipe(written(tmp_path)), folder=tmp_path / "found")


def test_several_launched_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        search_settings(load_recipe(written(tmp_path)), folder=tmp_path / "found")


def test_help_and_the_models_of_a_search_need_neither_optuna_nor_torch() -> None:
    code = "import sys, finetune.search_screen, finetune.cli; print({'optuna', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


# ---- real processes

SCRIPT = """
import sys
from pathlib import Path
from finetune.recipe_file import load_recipe
from finetune.selection.search import search_settings
result, _ = search_settings(load_recipe(sys.argv[1]), folder=Path(sys.argv[2]))
print("none" if result is None else result.winner)
"""


def started(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(recipe), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out.strip()


@pytest.mark.slow
def test_a_killed_search_ends_like_one_that_was_left_alone(
    searched: tuple[SearchResult, Path, Path], tmp_path: Path
) -> None:
    result, _, recipe = searched
    process = started(recipe, tmp_path / "found")
    history, last = tmp_path / "found/trials/1/history.jsonl", time.monotonic() + 240
    while not (history.exists() and "eval_loss" in history.read_text()) and time.monotonic() < last:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert history.exists() and not (tmp_path / "found/search.json").exists()
    assert finished(started(recipe, tmp_path / "found")) == str(result.winner)
    again = SearchResult.model_validate_json((tmp_path / "found/search.json").read_text(encoding="utf-8"))
    plain = {"seconds": True}
    assert [row.model_dump(exclude=plain) for row in again.trials] == [
        row.model_dump(exclude=plain) for row in result.trials
    ]
    assert again.test == result.test


@pytest.mark.slow
def test_two_processes_share_the_trials_and_one_scores_the_winner(
    searched: tuple[SearchResult, Path, Path], tmp_path: Path
) -> None:
    _, _, recipe = searched
    both = [started(recipe, tmp_path / "found") for _ in range(2)]
    answers = [finished(process) for process in both]
    result = SearchResult.model_validate_json((tmp_path / "found/search.json").read_text(encoding="utf-8"))
    assert {*answers} <= {"none", str(result.winner)} and str(result.winner) in answers
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    opened_by = [path.parent.name for path in (tmp_path / "found").rglob("test_openings.jsonl")]
    assert opened_by == [str(result.winner)]
    assert len(read_json_lines(tmp_path / "found/trials" / opened_by[0] / "test_openings.jsonl")) == 1


def test_a_trial_is_not_gone_on_with_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = tmp_path / "trials" / "3"
    trial.mkdir(parents=True)
    (tmp_path / "study.log").touch()
    assert main(["train", str(trial), "--resume"]) == 2
    assert "is a trial of a search" in capsys.readouterr().err
