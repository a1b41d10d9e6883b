"""Comparisons of writers from made-up run folders: what is aligned, scored, tested, shown, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compare import made_up_run
from tiny_writers import questions

from finetune.cli import main
from finetune.comparison_screen import render_comparison
from finetune.errors import CheckpointError, FinetuneError, RecipeError
from finetune.run_files import RunInfo, Scores, SplitScores
from finetune.runs import Run, write_json, write_json_lines, write_table, write_text
from finetune.scores.generation import signatures, text_statistics
from finetune.scores.paired import TESTED_INSTEAD
from finetune.scores.paired_texts import paired_text_test
from finetune.selection.compare import METRICS, WHY_NOT_TESTED, Comparison, compare_runs
from finetune.selection.compared_texts import MOST_TEXTS_LISTED, WRITER_METRICS

COLUMNS = {
    "text": ("text-generation", "{text: text}"),
    "pairs": ("text-generation", "{prompt: question, completion: answer}"),
    "seq2seq": ("seq2seq", "{source: question, target: answer}"),
}
RECIPE = """
task: {task}
model: {{from_scratch: {{architecture: {architecture}, hidden_size: 32, num_attention_heads: 2}}}}
data: {{source: pairs.jsonl, columns: {columns}}}
evaluation: {{bootstrap: {bootstrap}}}
report: {{examples: {examples}}}
seed: 7
"""
DOCUMENTS = 40


def made_up_writer(
    folder: Path, *, right: float = 0.8, seed: int = 0, form: str = "pairs", documents: int = DOCUMENTS,
    groups: int | None = None, bootstrap: int = 100, metric: str = "loss", tokens: int = 5, nats: float = 4.0,
    written: int | None = None, signature: str = "13a", examples: int = 10, keep: slice = slice(None), **changes: Any,
) -> Path:  # fmt: skip
    """A finished writer's folder: of each answer's words as many are `right` as said, else another word."""
    chance, truth = np.random.default_rng([seed, 99]), _answers(documents)
    texts: list[str | None] = [
        " ".join(word if chance.random() < right else "nothing" for word in answer.split()) for answer in truth
    ]
    texts = [text if written is None or row < written else None for row, text in enumerate(texts)]
    table = {
        "id": [f"doc{row:04}" for row in range(documents)],
        "group": [None if groups is None else f"author {row % groups}" for row in range(documents)],
        "reference": [answer if text is not None else None for answer, text in zip(truth, texts, strict=True)],
        "prediction": texts,
        "cut": [False] * documents,
        "nats": (nats + chance.random(documents)).tolist(),
        "tokens": [tokens] * documents,
        "characters": [len(answer) for answer in truth],
    } | changes
    run, (task, columns) = Run(folder), COLUMNS[form]
    settings = {"task": task, "columns": columns, "bootstrap": bootstrap, "examples": examples}
    architecture = "t5" if form == "seq2seq" else "gpt2"
    write_text(run.recipe, RECIPE.format(architecture=architecture, **settings))
    info = RunInfo(
        status="complete", task=task, started="2026-01-01", versions={}, git_revision=None, platform="x", seed=7,
        data_fingerprint="same", model_origin="tiny",
    )  # fmt: skip
    write_json(run.info, info)
    splits = {"test": SplitScores(scores={}, signatures=signatures(signature))}
    write_json(
        run.scores,
        Scores(metric_for_best_model=metric, best_epoch=2.0, best_step=9, splits=splits, last={}, baselines={}),
    )
    write_table(
        run.splits,
        {"id": table["id"][keep], "content_hash": [f"hash{row}" for row in range(documents)][keep],
         "split": (["test"] * documents)[keep]},
    )  # fmt: skip
    write_table(run.predictions("test"), {name: column[keep] for name, column in table.items()})
    write_json_lines(run.test_openings, [{"by": "train"}])
    return folder


def _answers(documents: int) -> list[str]:
    return [f"{answer} are there, for {question}" for question, answer in questions(documents)]


def compared(*folders: Path, **settings: Any) -> Comparison:
    chosen: dict[str, Any] = {"metric": None, "intersection": False, "folder": folders[0].parent / "comparison"}
    return compare_runs(list(folders), **chosen | settings)[0]


def refused(*folders: Path, **settings: Any) -> str:
    with pytest.raises(FinetuneError) as caught:
        compared(*folders, **settings)
    assert caught.value.exit_code == 2
    assert not (folders[0].parent / "comparison").exists()
    return str(caught.value)


def both(folder: Path, **second: Any) -> tuple[Path, Path]:
    return made_up_writer(folder / "one"), made_up_writer(folder / "two", **{"right": 0.3, "seed": 1} | second)


def test_the_better_writer_is_named_and_texts_are_shown(tmp_path: Path) -> None:
    comparison = compared(*both(tmp_path), metric="bleu")
    [pair] = comparison.tests
    assert (pair.first, pair.second, pair.test.better, pair.test.metric) == ("one", "two", True, "bleu")
    assert pair.test.p_mcnemar is None and comparison.documents == DOCUMENTS
    [changed] = comparison.changed
    assert (changed.both_right, changed.both_wrong, changed.metric) == (None, None, "bleu")
    assert changed.only_first_right == pair.test.only_first_right
    assert changed.only_second_right == pair.test.only_second_right
    assert changed.equal == DOCUMENTS - changed.only_first_right - changed.only_second_right
    differences = [abs((each.first_score or 0) - (each.second_score or 0)) for each in changed.documents]
    assert differences == sorted(differences, reverse=True) and 0 < len(differences) <= MOST_TEXTS_LISTED
    for document in changed.documents:
        assert document.first_score is not None and document.second_score is not None
        assert (document.right == "first") == (document.first_score > document.second_score)
    screen = render_comparison(comparison, tmp_path)
    assert screen.startswith("one is better than two: test bleu ")
    for part in ("40 test documents", "nats_per_character", "each document by its own bleu", "reference: ", "nothing"):
        assert part in screen
    assert "McNemar" not in screen


def test_scores_and_test_are_those_of_the_stored_texts(tmp_path: Path) -> None:
    from finetune.runs import read_table

    folders = both(tmp_path)
    comparison = compared(*folders, metric="chrf")
    tables = [read_table(Run(folder).predictions("test")) for folder in folders]
    counted = [text_statistics(table["reference"], table["prediction"], bleu_tokenizer="13a") for table in tables]
    again = paired_text_test(*counted, metric="chrf", resamples=100, seed=7)
    assert comparison.tests[0].test == again
    for run, table in zip(comparison.runs, tables, strict=True):
        loss = run.scores["loss"]
        assert loss.value == pytest.approx(np.sum(table["nats"]) / np.sum(table["tokens"]))
        assert loss.low is not None and loss.high is not None and loss.low < loss.value < loss.high
        assert set(run.scores) == set(WRITER_METRICS)
    assert comparison.runs[0].scores["chrf"].value == again.first


def test_a_loss_is_better_when_lower(tmp_path: Path) -> None:
    for number, metric in enumerate((None, "perplexity", "nats_per_character")):
        folder = tmp_path / f"of-{number}"
        comparison = compared(*both(folder, nats=1.0), metric=metric)
        [pair] = comparison.tests
        assert (pair.first, pair.test.better) == ("two", True) and pair.test.difference < 0
        assert pair.test.metric == ("loss" if number < 2 else "nats_per_character")
        assert all(document.right == "first" for document in comparison.changed[0].documents)


def test_other_tokens_are_compared_by_the_character(tmp_path: Path) -> None:
    comparison = compared(*both(tmp_path, tokens=9, nats=2.0))
    [pair] = comparison.tests
    assert comparison.metric == "loss" and pair.test.metric == "nats_per_character" and pair.first == "two"
    assert any("cut text into other tokens" in note for note in comparison.notes)
    assert "nats_per_character" in render_comparison(comparison, tmp_path).splitlines()[0]


def test_losses_over_other_characters_do_not_compare(tmp_path: Path) -> None:
    folders = both(tmp_path, characters=[3] * DOCUMENTS)
    message = refused(*folders)
    assert "--metric loss: cannot be compared: one and two were scored on other characters of 40 of the" in message
    comparison = compared(*folders, metric="chrf")
    assert "loss" not in comparison.runs[0].scores and comparison.tests[0].test.metric == "chrf"
    assert any(note.startswith("losses are not compared") for note in comparison.notes)


def test_plain_texts_after_other_prompts_are_compared_by_loss_alone(tmp_path: Path) -> None:
    one = made_up_writer(tmp_path / "one", form="text")
    two = made_up_writer(tmp_path / "two", form="text", seed=1, reference=["another part"] * DOCUMENTS)
    comparison = compared(one, two)
    assert comparison.tests[0].test.metric == "loss" and "bleu" not in comparison.runs[0].scores
    assert any("continue other prompts" in note for note in comparison.notes)
    assert "wrote no text for the same documents" in refused_elsewhere(one, two, metric="bleu")
    other = made_up_writer(tmp_path / "other", form="text", reference=["x"] * DOCUMENTS, characters=[1] * DOCUMENTS)
    assert "cannot be compared: one and other continue other prompts" in refused_elsewhere(one, other)


def refused_elsewhere(*folders: Path, **settings: Any) -> str:
    with pytest.raises((CheckpointError, RecipeError)) as caught:
        compared(*folders, folder=folders[0].parent / "elsewhere", **settings)
    return str(caught.value)


def test_texts_of_samples_are_compared_where_both_wrote(tmp_path: Path) -> None:
    one, two = both(tmp_path, written=25)
    comparison = compared(one, two, metric="bleu")
    assert comparison.documents == DOCUMENTS and comparison.tests[0].test.documents == 25
    scores = comparison.runs[0].scores
    assert scores["bleu"].n == 25 and scores["loss"].n == DOCUMENTS
    assert any("texts are compared on the 25 of 40 documents" in note for note in comparison.notes)
    none = made_up_writer(tmp_path / "none", written=0, seed=4)
    by_loss = compared(one, none, folder=tmp_path / "by-loss")
    assert "bleu" not in by_loss.runs[0].scores and by_loss.tests[0].test.documents == DOCUMENTS
    assert "wrote no text for the same documents" in refused_elsewhere(one, none, metric="bleu")


def test_groups_are_swapped_whole(tmp_path: Path) -> None:
    one, two = (made_up_writer(tmp_path / name, seed=seed, groups=12) for seed, name in enumerate(("one", "two")))
    for number, metric in enumerate(("bleu", "loss")):
        comparison = compared(one, two, metric=metric, folder=tmp_path / f"out{number}")
        assert comparison.groups == comparison.tests[0].test.groups == 12
        assert all(document.group is not None for document in comparison.changed[0].documents)


def test_three_writers_are_corrected_by_holm(tmp_path: Path) -> None:
    shares = {"weak": 0.2, "strong": 0.95, "middle": 0.6}
    folders = [made_up_writer(tmp_path / name, right=share, seed=n) for n, (name, share) in enumerate(shares.items())]
    comparison = compared(*folders, metric="rouge_l")
    assert [(pair.first, pair.second) for pair in comparison.tests] == [
        ("strong", "middle"), ("strong", "weak"), ("middle", "weak"),
    ]  # fmt: skip
    assert all(pair.test.p_holm is not None and pair.test.p_holm >= pair.test.p for pair in comparison.tests)
    assert "p (Holm)" in render_comparison(comparison, tmp_path)


def test_an_encoder_decoder_stands_beside_a_decoder(tmp_path: Path) -> None:
    one, two = both(tmp_path, form="seq2seq", tokens=4)
    assert compared(one, two, metric="bleu").tests[0].test.better


def test_other_test_documents_are_refused_or_left_out(tmp_path: Path) -> None:
    one, two = both(tmp_path, keep=slice(10, None))
    assert "have different test documents: one 40, two 30, of which 30 are shared" in refused(one, two)
    comparison = compared(one, two, intersection=True, metric="chrf")
    assert comparison.documents == 30 and comparison.left_out == {"one": 10, "two": 0}


@pytest.mark.parametrize("metric", ["distinct_1", "distinct_2", "length_ratio", "perplexity"])
def test_what_is_not_tested_says_why(metric: str, tmp_path: Path) -> None:
    comparison = compared(*both(tmp_path), metric=metric)
    assert comparison.metric == metric and comparison.tests[0].test.metric == TESTED_INSTEAD[metric]
    assert f"{metric} {WHY_NOT_TESTED[metric]}; tested is {TESTED_INSTEAD[metric]}" in comparison.notes
    assert not any("ranks all documents" in note for note in comparison.notes)


def test_every_metric_that_is_not_tested_has_its_reason() -> None:
    assert WHY_NOT_TESTED.keys() == TESTED_INSTEAD.keys() & set(METRICS) == TESTED_INSTEAD.keys()


def test_a_report_without_texts_makes_a_comparison_without_texts(tmp_path: Path) -> None:
    documents = compared(*both(tmp_path, examples=0), metric="bleu").changed[0].documents
    assert documents and {each.reference for each in documents} | {each.first for each in documents} == {""}
    assert documents[0].first_score is not None


def test_the_first_runs_tokeniser_counts_for_all(tmp_path: Path) -> None:
    comparison = compared(*both(tmp_path, signature="char"), metric="bleu")
    assert any("different tokenisers (one 13a, two char); here all have that of one" in n for n in comparison.notes)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"reference": ["other words"] * DOCUMENTS}, "have different references for 40 of the same documents: doc0000"),
        ({"nats": [float("nan")] * DOCUMENTS}, "does not fit the other files of its run (nats are not finite)"),
        ({"id": [f"row{row}" for row in range(DOCUMENTS)]}, "have different test documents"),
    ],
)
def test_what_cannot_be_compared_is_refused(second: dict[str, Any], says: str, tmp_path: Path) -> None:
    folders = both(tmp_path, **second)
    if "id" in second:  # another content, too
        run = Run(folders[1])
        write_table(run.splits, {"id": second["id"], "content_hash": [f"h{row}" for row in range(20)] + [
            f"hash{row}" for row in range(20)], "split": ["test"] * DOCUMENTS})  # fmt: skip
    assert says in refused(*folders)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    one, two = both(tmp_path)
    Run(two).predictions("test").write_bytes(b"PAR1 and nothing more")
    assert "test.parquet: cannot be read" in refused(one, two)
    write_table(Run(two).predictions("test"), {"id": ["doc0000"], "prediction": ["a text"]})
    assert "test.parquet: cannot be read" in refused(one, two)


def test_a_writer_and_a_classifier_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer, classifier = made_up_writer(tmp_path / "writer"), made_up_run(tmp_path / "classifier")
    for folders in ((writer, classifier), (classifier, writer)):
        assert "have different tasks" in refused(*folders)
    output = tmp_path / "out"
    assert main(["compare", str(writer), str(classifier), "--output", str(output)]) == 2
    assert "text-generation and text-classification" in capsys.readouterr().err and not output.exists()


def test_a_metric_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    one, two = both(tmp_path)
    message = refused(one, two, metric="f1_macro")
    assert "'f1_macro' is not a score of these runs" in message and "bleu" in message and "accuracy" not in message
    labelled = [made_up_run(tmp_path / name, seed=seed) for seed, name in enumerate(("three", "four"))]
    assert "'bleu' is not a score of these runs" in refused(*labelled, metric="bleu")
    assert "Did you mean 'rouge_l'?" in refused(one, two, metric="rouge_ll")


def test_the_verb_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = both(tmp_path)
    output = tmp_path / "out"
    assert main(["compare", str(one), str(two), "--metric", "bleu", "--output", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tests"][0]["test"]["metric"] == "bleu" and (output / "report.html").is_file()
