"""Runs of text generation, end to end: what the folder holds, packed as unpacked, and going on after a stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_writers import write_recipe

from finetune.cli import main
from finetune.run_files import RunInfo, Samples, Scores
from finetune.runs import Run, read_json_lines, read_table

FORMS = ("text", "pairs", "chat", "seq2seq")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A finished run of each form."""
    folder = tmp_path_factory.mktemp("writers")
    return {form: trained(folder, form) for form in FORMS}


def trained(folder: Path, form: str, name: str = "", **changes: Any) -> Run:
    run = folder / (name or form)
    assert main(["train", write_recipe(folder, form, **changes), "--run", str(run), "--quiet"]) == 0
    return Run(run)


def weights(run: Run, model: str = "best") -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(run.folder / model / "model.safetensors").items()}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_holds_scores_texts_and_samples(runs: dict[str, Run], form: str) -> None:
    run = runs[form]
    info, scores = run.read(run.info, RunInfo), run.read(run.scores, Scores)
    assert info.status == "complete" and (info.fill_rate is None) == (form == "seq2seq")
    test = scores.splits["test"]
    assert {"loss", "perplexity", "bleu", "chrf", "rouge_l", "exact_match", "cut_share", "empty_share"} <= set(
        test.scores
    )
    loss = test.scores["loss"]
    assert loss.value is not None and 0 < loss.value < 6 and loss.low is not None and loss.low <= loss.value
    assert test.scores["perplexity"].value == pytest.approx(math.exp(loss.value))
    assert "tok:13a" in test.signatures["bleu"] and not test.per_class and test.confusion is None
    table = read_table(run.predictions("test"))
    assert len(table["id"]) == loss.n and all(reference for reference in table["reference"])
    assert np.sum(table["nats"]) / np.sum(table["tokens"]) == pytest.approx(loss.value)
    for epoch in ("1", "2"):
        samples = run.read(run.samples / epoch / "texts.json", Samples)
        assert len(samples.texts) == 8 and samples.epoch == float(epoch)
    first, second = (run.read(run.samples / epoch / "texts.json", Samples).texts for epoch in ("1", "2"))
    assert [text.id for text in first] == [text.id for text in second]


@pytest.mark.parametrize("form", FORMS)
def test_the_history_has_every_score_of_the_epoch_and_the_best_model_gives_them_again(
    runs: dict[str, Run], form: str
) -> None:
    run = runs[form]
    scores = run.read(run.scores, Scores)
    rows = [row for row in read_json_lines(run.history) if "eval_loss" in row]
    best = next(row for row in rows if row["epoch"] == scores.best_epoch)
    for name, score in scores.splits["validation"].scores.items():
        if score.value is not None:
            assert best[f"eval_{name}"] == pytest.approx(score.value, rel=1e-4), name


@pytest.mark.parametrize("form", FORMS)
def test_evaluate_gives_the_scores_of_the_run(
    runs: dict[str, Run], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs[form]
    assert main(["evaluate", str(run.folder), "--split", "validation", "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    scores = run.read(run.scores, Scores).splits["validation"].scores
    assert told["scores"]["bleu"]["value"] == pytest.approx(scores["bleu"].value)
    assert told["scores"]["loss"]["low"] == pytest.approx(scores["loss"].low)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_packed_training_is_unpacked_training(tmp_path: Path, architecture: str) -> None:
    one_epoch = {"num_train_epochs": 1}
    still = {"from_scratch": {"architecture": architecture, "hidden_size": 32, "num_hidden_layers": 2,
                              "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 280,
                              "max_position_embeddings": 64, "dropout": 0.0}}  # fmt: skip
    found = {
        packing: trained(
            tmp_path, "pairs", packing, model=still, training=one_epoch,
            windows={"max_tokens": 48, "packing": packing},
        )
        for packing in ("best_fit", "none")
    }  # fmt: skip
    infos = {packing: run.read(run.info, RunInfo) for packing, run in found.items()}
    assert infos["best_fit"].micro_batches == "packed" and infos["none"].micro_batches == "by length"
    fill_rate = infos["best_fit"].fill_rate
    assert fill_rate is not None and fill_rate > 0.5 and infos["none"].fill_rate is None
    packed, plain = weights(found["best_fit"]), weights(found["none"])
    for name, tensor in packed.items():
        np.testing.assert_allclose(tensor, plain[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("form", ["text", "pairs", "seq2seq"])
@pytest.mark.parametrize("moment", ["training", "evaluation"])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, moment: str
) -> None:
    from finetune.training.writing import WriterLesson

    whole = trained(tmp_path, form, "whole")
    calls: list[int] = []
    method = "evaluate" if moment == "evaluation" else "loss"
    original = getattr(WriterLesson, method)

    def stopping(lesson: WriterLesson, *arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == (2 if moment == "evaluation" else 6):
            raise KeyboardInterrupt
        return original(lesson, *arguments, **named)

    monkeypatch.setattr(WriterLesson, method, stopping)
    recipe = write_recipe(tmp_path, form, training={"save_steps": 2})
    run = Run(tmp_path / "stopped")
    assert main(["train", recipe, "--run", str(run.folder), "--quiet"]) == 130
    monkeypatch.undo()
    assert main(["train", str(run.folder), "--resume", "--quiet"]) == 0
    for model in ("best", "last"):
        for name, tensor in weights(whole, model).items():
            assert np.array_equal(tensor, weights(run, model)[name]), (model, name)
    assert read_json_lines(run.history)[-1].keys() == read_json_lines(whole.history)[-1].keys()
    assert run.read(run.info, RunInfo).fill_rate == whole.read(whole.info, RunInfo).fill_rate


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "pairs", training={"learning_rate": 1e12})
    assert main(["train", recipe, "--run", str(tmp_path / "run"), "--quiet"]) == 6


def test_an_evaluation_writes_for_a_seeded_sample(tmp_path: Path) -> None:
    run = trained(tmp_path, "pairs", evaluation={"baselines": [], "sample": 5})
    table = read_table(run.predictions("test"))
    assert sum(text is not None for text in table["prediction"]) == 5
    scores = run.read(run.scores, Scores)
    assert scores.splits["test"].scores["bleu"].n == 5 and scores.splits["test"].scores["loss"].n == len(table["id"])
    assert any("sample of 5" in note for note in scores.notes)


def test_a_finished_run_is_said_to_be_complete(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(runs["pairs"].folder), "--resume"]) == 0
    assert "already complete" in capsys.readouterr().err


def test_check_tells_lengths_and_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", write_recipe(tmp_path, "chat")]) == 0
    told = capsys.readouterr().out
    assert "recipe, data and model fit together" in told and "labels:" not in told


def test_examples_for_the_untrained_model_are_not_put_before_the_trained_ones_prompts(tmp_path: Path) -> None:
    shots = [{"prompt": "the ox eats the owl 1", "completion": "OX and OWL"}]
    run = trained(tmp_path, "pairs", generation={"examples": shots}, training={"max_steps": 1})
    assert any("generation.examples" in note for note in run.read(run.info, RunInfo).notes)
    settings = json.loads((run.best / "finetune.json").read_text(encoding="utf-8"))
    assert settings["generation"]["examples"] == []
