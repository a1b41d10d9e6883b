"""Writers in many runs, end to end: compared, repeated with seeds, searched, and scored on new data with gates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_writers import questions, write_recipe

from finetune import new_texts
from finetune.cli import main
from finetune.errors import DataError, RecipeError
from finetune.new_data import evaluate_new
from finetune.progress import SILENT
from finetune.recipe_file import check_recipe
from finetune.run_files import Analysis, Scores
from finetune.runs import Run, read_json_lines, read_table
from finetune.scores.gates import judge_gates, parse_gate
from finetune.scores.text_metrics import LOSS_METRICS, TEXT_METRICS
from finetune.selection import search as search_module
from finetune.selection.search import SearchResult
from finetune.selection.seeds import SeedStudy
from finetune.yaml_text import read_yaml

ONE_EPOCH = {"num_train_epochs": 1}
BASELINES = {"baselines": ["copy_source", "ngram", "nearest_neighbour"], "bootstrap": 50}


def train(folder: Path, form: str, name: str, *words: str, **changes: Any) -> Run:
    recipe = write_recipe(folder, form, **{"training": ONE_EPOCH} | changes)
    assert main(["train", recipe, "--run", str(folder / name), "--quiet", *words]) == 0
    return Run(folder / name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same pairs, and one of plain text."""
    folder = tmp_path_factory.mktemp("writers")
    train(folder, "pairs", "a", evaluation=BASELINES)
    train(folder, "pairs", "b", "seed=14", "data.split.seed=13", "training.learning_rate=1e-5")
    train(folder, "text", "plain", evaluation={"baselines": ["ngram"], "bootstrap": 50, "sample": 6})
    return folder


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, from whose folder things are named."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    rows = [{"question": question, "answer": answer} for question, answer in pairs]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def unseen(rows: int, seed: int = 77) -> list[tuple[str, str]]:
    known = {question for question, _ in questions()}
    return [pair for pair in questions(rows + 90, seed) if pair[0] not in known][:rows]


def of_split(run: Run, split: str) -> list[tuple[str, str]]:
    table, pairs = read_table(run.splits), questions()
    places = zip(table["id"], table["split"], strict=True)
    return [pairs[int(id.partition(":")[2]) - 1] for id, where in places if where == split]


# ---- comparing


def test_real_runs_are_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "b", "--output", "out"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("a is better than b: test loss ") and "each document by its own loss" in shown
    told = json.loads(Path("out/comparison.json").read_text("utf-8"))
    test = read_table(Run("a").predictions("test"))
    assert told["documents"] == len(test["id"]) == told["changed"][0]["only_first_right"]
    reported = Run("a").read(Run("a").scores, Scores).splits["test"].scores
    for name, score in told["runs"][0]["scores"].items():
        assert score["value"] == pytest.approx(reported[name].value), name


def test_another_model_of_the_same_texts_is_no_same_document(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a", "plain", "--output", "out"]) == 2
    assert "share no test document" in capsys.readouterr().err and not Path("out").exists()


# ---- seeds


def test_seeds_of_a_writer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, "pairs", training=ONE_EPOCH, evaluation={"baselines": ["ngram"], "sample": 7})
    assert main(["train", recipe, "--seeds", "2", "--run", str(tmp_path / "study"), "--quiet"]) == 0
    shown = capsys.readouterr().out
    study = SeedStudy.model_validate_json((tmp_path / "study/seeds.json").read_text("utf-8"))
    assert study.metric == "loss" and study.documents == len(
        read_table(tmp_path / "study/seeds/13/predictions/test.parquet")["id"]
    )
    assert {"loss", "perplexity", "bleu", "chrf", "length_ratio"} <= set(study.scores)
    loss = study.scores["loss"]
    assert None not in loss.values and loss.mean is not None and loss.deviation is not None and loss.deviation > 0
    runs = [Run(tmp_path / "study" / run.folder) for run in study.runs]
    for run, value in zip(runs, loss.values, strict=True):
        assert run.read(run.scores, Scores).splits["test"].scores["loss"].value == value
    perplexity = study.scores["perplexity"].mean
    assert perplexity is not None and f"{perplexity:,.0f}" in shown and "deviation" in shown and "ngram" in shown
    tables = [read_table(run.predictions("test")) for run in runs]
    texts_of = [{id for id, text in zip(each["id"], each["prediction"], strict=True) if text} for each in tables]
    assert texts_of[0] == texts_of[1] and len(texts_of[0]) <= 7  # the same sample for every seed
    assert (tmp_path / "study/report.html").is_file()


# ---- search


SEARCH = {"trials": 2, "space": {"training.learning_rate": [1e-5, 1e-2]}}


def test_a_search_over_a_writer_opens_test_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, "seq2seq", training=ONE_EPOCH | {"metric_for_best_model": "loss"}, search=SEARCH)
    assert main(["search", recipe, "--run", str(tmp_path / "found"), "--quiet"]) == 0
    shown = capsys.readouterr().out
    result = SearchResult.model_validate_json((tmp_path / "found/search.json").read_text("utf-8"))
    assert (result.metric, result.direction) == ("loss", "minimize")
    values = {trial.number: trial.value or 0.0 for trial in result.trials}
    assert values[result.winner] == min(values.values()) > 0
    openings = [len(read_json_lines(Run(tmp_path / f"found/trials/{number}").test_openings)) for number in (0, 1)]
    assert sorted(openings) == [0, 1] and openings[result.winner] == 1
    assert result.test["loss"].value is not None and "test loss " in shown
    assert (tmp_path / "found/report.html").is_file()


def space_problems(space: dict[str, Any], metric: str, task: str = "text-generation", **columns: str) -> list[str]:
    from finetune.selection.text_space import check_text_space

    values = {
        "task": task, "model": {"from_scratch": {}}, "data": {"source": "x.jsonl", "columns": columns},
        "training": {"metric_for_best_model": metric}, "search": {"space": space},
    }  # fmt: skip
    loaded = check_recipe(read_yaml(json.dumps(values), name="r.yaml"), base=Path(), name="r")
    assert loaded.recipe.search is not None
    try:
        check_text_space(loaded, loaded.recipe.search)
    except RecipeError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("name", "choices", "metric", "says"),
    [
        ("model.from_scratch.vocab_size", [300, 400], "loss", "loss is per token, and these models cut text into"),
        ("model.from_scratch.vocab_size", [300, 400], "nats_per_character", ""),
        ("model.from_scratch.tokenizer", ["bytes", "characters"], "perplexity", "nats_per_character."),
        ("windows.completions_only", [True, False], "loss", "would be over other text in each trial"),
        ("windows.completions_only", [True, False], "bleu", ""),
        ("generation.num_beams", [1, 4], "loss", "does not change loss"),
        ("generation.num_beams", [1, 4], "chrf", ""),
        ("generation.seed", [1, 4], "chrf", "is luck"),
        ("training.learning_rate", [1e-3, 1e-2], "loss", ""),
    ],
)
def test_what_trials_could_not_be_compared_by_is_refused(name: str, choices: list[Any], metric: str, says: str) -> None:
    found = space_problems({name: choices}, metric, prompt="question", completion="answer")
    assert [says in problem and f"search.space.{name}" in problem for problem in found] == ([True] if says else [])


def test_prompts_of_other_lengths_have_other_references() -> None:
    assert "of other texts" in space_problems({"generation.prompt_tokens": [4, 8]}, "bleu", text="text")[0]


def test_a_space_that_cannot_be_compared_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"space": {"model.from_scratch.vocab_size": [280, 300]}}
    recipe = write_recipe(tmp_path, "pairs", search=space)
    assert main(["search", recipe, "--run", str(tmp_path / "found"), "--quiet"]) == 2
    assert "loss is per token" in capsys.readouterr().err and not (tmp_path / "found").exists()


def test_a_trial_whose_settings_hold_no_text_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = {"trials": 2, "prune": False, "space": {"windows.max_tokens": [8, 48]}}
    recipe = write_recipe(
        tmp_path, "pairs", search=search, windows={"too_long": "refuse"},
        training=ONE_EPOCH | {"metric_for_best_model": "chrf"},
    )  # fmt: skip
    monkeypatch.setattr(search_module, "_pasted", _both_in_turn(search_module._pasted))
    assert main(["search", recipe, "--run", str(tmp_path / "found"), "--quiet"]) == 0
    result = SearchResult.model_validate_json((tmp_path / "found/search.json").read_text("utf-8"))
    assert sorted(trial.status for trial in result.trials) == ["complete", "failed"]
    assert result.direction == "maximize" and result.trials[result.winner].status == "complete"
    failed = next(trial for trial in result.trials if trial.status == "failed")
    assert failed.failure is not None and "longer than windows.max_tokens" in failed.failure


def _both_in_turn(pasted: Any) -> Any:
    """The sampler may draw the same choice twice; here each is drawn once."""
    drawn: list[int] = []

    def in_turn(params: Any) -> Any:
        if len(drawn) < 2:
            drawn.append([8, 48][len(drawn)])
            return pasted({"windows.max_tokens": drawn[-1]})
        return pasted(params)

    return in_turn


# ---- crossval


def test_crossval_of_a_writer_is_refused_before_any_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for form, task in (("pairs", "text-generation"), ("seq2seq", "seq2seq")):
        recipe = write_recipe(tmp_path, form)
        for words in ([], ["--run", "out"]):
            assert main(["crossval", recipe, "--folds", "3", "--quiet", *words]) == 2
            told = capsys.readouterr()
            assert f"cross-validation is of text-classification, found {task}" in told.err and told.out == ""
            assert "finetune train --seeds 5" in told.err
    assert not Path("out").exists() and not Path("runs").exists()


# ---- new data


def test_new_texts_are_scored_beside_baselines(here: Path) -> None:
    run, source = Run("a"), write("later.jsonl", unseen(30))
    openings = len(read_json_lines(run.test_openings))
    done = evaluate_new("a", source)
    made = Run(done.folder)
    assert done.folder == Path("a/evaluations/later-1") and made.read(made.scores, Scores) == done.scores
    new = done.scores.splits["new"]
    assert list(done.scores.splits) == ["new"] and done.scores.calibration is None
    assert new.scores["bleu"].n == new.scores["loss"].n == 30 and new.scores["loss"].low is not None
    assert new.signatures == run.read(run.scores, Scores).splits["test"].signatures
    assert (
        set(done.scores.baselines) == set(done.scores.baseline_tests) == {"copy_source", "ngram", "nearest_neighbour"}
    )
    assert done.scores.baseline_tests["ngram"].metric == "loss"
    assert done.scores.baseline_tests["copy_source"].metric == "chrf"
    table = read_table(made.predictions("new"))
    assert [pair[1] for pair in unseen(30)] == list(table["reference"])
    assert made.baseline_predictions("ngram", "new").is_file()
    analysis = made.read(made.analysis, Analysis)
    assert {one.by for one in analysis.slices} == {"length"} and analysis.worst_texts
    assert len(read_json_lines(run.test_openings)) == openings
    assert evaluate_new("a", source, model="last").folder.name == "later-2"


def test_the_test_split_as_new_data_gives_the_reported_scores(here: Path) -> None:
    run = Run("a")
    done = evaluate_new("a", write("again.jsonl", of_split(run, "test")))
    reported = run.read(run.scores, Scores)
    for name, score in reported.splits["test"].scores.items():
        again = done.scores.splits["new"].scores[name]
        assert again.value == pytest.approx(score.value, abs=1e-6), name
    for name in ("copy_source", "ngram", "nearest_neighbour"):
        theirs = reported.baselines[name]["test"].scores
        for metric in ("chrf", *(["loss"] if "loss" in theirs else [])):
            again = done.scores.baselines[name]["new"].scores[metric]
            assert again.value == pytest.approx(theirs[metric].value), (name, metric)
    assert any("are in this run's test split" in note for note in done.notes)
    assert read_json_lines(run.test_openings)[-1]["by"] == "evaluate --data"


def test_documents_that_taught_are_told_and_not_in_the_headline(here: Path) -> None:
    run = Run("a")
    taught = [(question.upper(), answer) for question, answer in of_split(run, "train")[:10]]
    other_answer = (of_split(run, "train")[20][0], "neither of them")
    done = evaluate_new("a", write("mixed.jsonl", [*unseen(20), *taught, other_answer]))
    splits = done.scores.splits
    assert splits["new"].scores["bleu"].n == 21 and splits["all"].scores["loss"].n == 31
    notes = "\n".join(done.notes)
    assert "warning: 10 of 31 documents are in this run's train split" in notes
    assert "warning: 1 of the new documents ask what taught the model with another answer" in notes
    made = Run(done.folder)
    assert [len(read_table(made.predictions(name))["id"]) for name in ("new", "all")] == [21, 31]
    assert json.loads(made.data.read_text("utf-8"))["known_from"] == {"train": 10, "validation": 0, "test": 0}


def test_plain_text_and_a_sample(here: Path) -> None:
    rows = [{"text": f"{question}. {answer}. " * 6} for question, answer in unseen(16)]
    taught = [{"text": f"{question}. {answer}. " * 6} for question, answer in of_split(Run("plain"), "train")[:4]]
    Path("more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *taught]), encoding="utf-8")
    done = evaluate_new("plain", "more.jsonl")
    for split, documents in (("new", 16), ("all", 20)):
        scores = done.scores.splits[split].scores
        assert (scores["loss"].n, scores["chrf"].n) == (documents, 6)
        table = read_table(Run(done.folder).predictions(split))
        assert sum(text is not None for text in table["prediction"]) == 6
    assert done.scores.baseline_tests["ngram"].documents == 16
    assert any("texts were written for a sample of 6 of 16 documents" in note for note in done.notes)


def test_cleaning_is_the_runs_and_what_is_dropped_is_told(here: Path) -> None:
    pairs = unseen(20)
    done = evaluate_new("a", write("rough.jsonl", [*pairs, pairs[0], ("a question", " ")]))
    assert done.scores.splits["new"].scores["loss"].n == 20
    notes = "\n".join(done.notes)
    assert "repeats an earlier row" in notes and "empty texts dropped" in notes


def test_without_the_runs_own_data_there_are_no_baselines(here: Path) -> None:
    write("pairs.jsonl", questions(80))
    done = evaluate_new("a", write("later.jsonl", unseen(12)))
    assert done.scores.baselines == {} and done.scores.beats_baselines is None
    assert "no baselines: the data that the run was trained on has changed since" in done.notes


def test_the_model_before_fine_tuning_is_not_fitted_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_texts, "NEEDS_A_MODEL", ("ngram",))
    done = evaluate_new("a", write("later.jsonl", unseen(12)))
    assert "ngram is not fitted again for new data" in done.notes
    assert set(done.scores.baselines) == {"copy_source", "nearest_neighbour"}
    assert done.scores.beats_baselines is not True


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"frage": "x", "answer": "y"}\n', "Name the column as the run's recipe does."),
        ("", "later.jsonl"),
        ('{"question": "x", "answer": ["y"]}\n', "'answer' is a list"),
    ],
)
def test_faulty_data_is_refused_and_nothing_is_written(
    here: Path, content: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("later.jsonl").write_text(content, encoding="utf-8")
    assert main(["evaluate", "a", "--data", "later.jsonl", "--quiet"]) == 2
    assert says in capsys.readouterr().err and not Path("a/evaluations").exists()


def test_data_that_is_all_known_is_refused(here: Path) -> None:
    with pytest.raises(DataError, match="are in this run's train or validation split"):
        evaluate_new("a", write("known.jsonl", of_split(Run("a"), "train")), progress=SILENT)


# ---- gates


def test_the_verb_prints_scores_before_a_gate_decides(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "a", "--data", write("later.jsonl", unseen(20)), "--quiet"]
    assert main([*command, "--gate", "loss<=100", "--gate", "bleu>=99.5", "--gate", "length_ratio<=50"]) == 1
    shown = capsys.readouterr()
    assert "20 documents that taught this run nothing" in shown.out and "nearest_neighbour" in shown.out
    assert "Gate loss<=100 holds (" in shown.out and "tpr" not in shown.out
    assert shown.err.strip().startswith("error: --gate 'bleu>=99.5': bleu is ") and "is not >= 99.5" in shown.err
    assert main([*command, "--json", "--gate", "loss<=100", "--gate-on", "interval"]) == 0
    told = json.loads(capsys.readouterr().out)
    (gate,) = told["gates"]
    assert gate["passed"] and gate["held"] == told["splits"]["new"]["scores"]["loss"]["high"]
    assert main(["evaluate", "a", "--split", "validation", "--gate", "perplexity<=1", "--quiet"]) == 1
    assert "validation split of a" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("f1_macro>=0.8", "no score is called 'f1_macro'. Known: 'loss', 'perplexity'"),
        ("blue>=20", "Did you mean 'bleu'?"),
        ("bleu<=20", "bleu is better when higher: only worse scores hold this. Write 'bleu>=20'."),
        ("loss>1.5", "loss is better when lower: only worse scores hold this. Write 'loss<1.5'."),
        ("bleu>=101", "bleu is between 0 and 100, found 101"),
        ("rouge_l>=20", "rouge_l is between 0 and 1, found 20"),
        ("perplexity<=-1", "perplexity is never below 0"),
        ("bleu", "Write it like 'bleu>=20'."),
    ],
)
def test_a_faulty_gate_costs_no_opening(rule: str, says: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    openings = len(read_json_lines(Run("a").test_openings))
    assert main(["evaluate", "a", "--gate", rule, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert says.replace("'loss', 'perplexity'", "loss, perplexity") in error or says in error
    assert len(read_json_lines(Run("a").test_openings)) == openings


def test_every_score_of_a_text_can_be_a_gate() -> None:
    metrics = [*LOSS_METRICS, *TEXT_METRICS]
    for name, metric in (LOSS_METRICS | TEXT_METRICS).items():
        rule = f"{name}{'>=' if metric.greater_is_better else '<='}{min(metric.highest, 2.0) / 2:g}"
        assert judge_gates([parse_gate(rule, metrics=metrics)], {}, on="value")[0].passed is False
    assert (
        parse_gate("length_ratio<=1.5", metrics=metrics).bound == parse_gate("length_ratio>=1.5", metrics=metrics).bound
    )
