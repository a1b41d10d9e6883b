"""The fit verdict of a writer: loss, perplexity and BLEU as metrics, suggestions that its recipe takes, a real fit."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_learners import PAIRS, ROWS, SEQ2SEQ, SMALL, TEXT, prepared_learner, tiny_learner, tiny_recipe
from tiny_models import tiny_writer_folder

from finetune.experiment import train
from finetune.recipe import writer_recipe
from finetune.recipe_file import check_recipe
from finetune.run_files import FitVerdict, Scores
from finetune.runs import Run, append_json_line
from finetune.scores.fit_course import FitSettings, fit_settings
from finetune.scores.fit_verdict import judge_fit
from finetune.text_fit import independent_losses, judge_writer, unigram_loss
from finetune.text_opponents import token_streams
from finetune.training.plan import FitResult
from finetune.yaml_text import read_yaml

History = list[dict[str, Any]]
CHANCE = 5.0
SCRATCH = FitSettings(
    num_train_epochs=5, learning_rate=1e-3, weight_decay=0.01, training_documents=1600, from_scratch=True,
    has_augmentation=False, stopped_early=False, validation_documents=4000, chance_loss=CHANCE, has_labels=False,
)  # fmt: skip
LOADED = replace(SCRATCH, from_scratch=False, learning_rate=5e-5, knows_before=True)


def made(training: Sequence[float], validation: Sequence[float], **scores: Sequence[float]) -> History:
    """Epochs of 50 steps with five logged rows each; training loss goes straight from value to value."""
    history: History = []
    for epoch, (before, after) in enumerate(itertools.pairwise(training)):
        for row in range(1, 6):
            loss = before + (after - before) * row / 5
            history.append({"step": round((epoch + row / 5) * 50), "epoch": epoch + row / 5, "loss": loss})
        told = {f"eval_{name}": values[epoch] for name, values in scores.items()}
        loss = validation[epoch]
        told |= {"eval_loss": loss, "eval_perplexity": math.exp(loss), "eval_nats_per_character": loss / 4}
        history.append({"step": (epoch + 1) * 50, "epoch": epoch + 1.0, **told})
    return history


def judged(history: History, settings: FitSettings = SCRATCH, *, metric: str = "loss") -> FitVerdict:
    return judge_fit(
        history, metric=metric, greater_is_better=metric in ("bleu", "chrf"), best_epoch=1.0, majority_score=None,
        settings=replace(settings, highest_score=100.0 if metric in ("bleu", "chrf") else 1.0),
    )  # fmt: skip


def overrides(verdict: FitVerdict) -> list[str]:
    return [each.override for each in verdict.suggestions]


GOOD = made([5.5, 3.0, 2.4, 2.2, 2.1, 2.1], [3.0, 2.5, 2.42, 2.41, 2.41], bleu=[8, 19, 22, 22.4, 22.3])
OVERFITTING = made([5.5, 3.0, 2.0, 1.2, 0.7, 0.4], [3.0, 2.6, 2.8, 3.3, 3.9], bleu=[9, 20, 19.8, 19.5, 19])
OVERCONFIDENT = made([5.5, 3.0, 2.0, 1.2, 0.7, 0.4], [3.0, 2.6, 2.8, 3.3, 3.9], bleu=[9, 20, 23, 25, 26])
LEARNING = made([5.5, 5.0, 4.6, 4.2, 3.9, 3.6], [5.0, 4.6, 4.2, 3.9, 3.6], bleu=[0.1, 0.4, 1, 2, 3])
NOTHING = made([5.1, 5.05, 5.02, 5.01, 5.0, 5.0], [5.05, 5.02, 5.01, 5.0, 5.0], bleu=[0, 0, 0, 0, 0])
DIVERGED = made([5.5, 3.0, 2.6, 8.0, 9.0, 9.1], [3.0, 2.7, 8.5, 9.0, 9.1], bleu=[8, 12, 0, 0, 0])
STATES = {
    "good_fit": GOOD,
    "overfitting": OVERFITTING,
    "still_learning": LEARNING,
    "nothing_learned": NOTHING,
    "unstable": DIVERGED,
    "too_short": made([5.5, 5.4], [5.3], bleu=[0.1]),
}


@pytest.mark.parametrize("metric", ["loss", "perplexity", "nats_per_character", "bleu"])
@pytest.mark.parametrize("state", STATES)
def test_each_state_by_each_kind_of_metric(state: str, metric: str) -> None:
    verdict = judged(STATES[state], metric=metric)
    if state == "too_short":
        assert verdict.state in ("too_short", "still_learning")
    else:
        assert verdict.state == state, verdict
    assert FitVerdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_scores_up_to_a_hundred_are_weighed_as_such() -> None:
    """Half a point of BLEU at the end is neither learning nor a better score; five points are."""
    flat = [3.0, 2.5, 2.42, 2.41, 2.41]
    training = [5.5, 3.0, 2.4, 2.2, 2.1, 2.1]
    assert judged(made(training, flat, bleu=[8, 19, 22, 22.0, 22.5]), metric="bleu").state == "good_fit"
    assert judged(made(training, flat, bleu=[8, 19, 22, 22.0, 27.5]), metric="bleu").state == "still_learning"
    confident = judged(OVERCONFIDENT, metric="bleu")
    assert confident.state == "overfitting" and confident.evidence["overconfident"] == 1
    assert "training.label_smoothing_factor=0.1" in overrides(confident)
    hardly = made([5.5, 3.0, 2.0, 1.2, 0.7, 0.4], [3.0, 2.6, 2.8, 3.3, 3.9], bleu=[9, 20, 20.3, 20.5, 20.4])
    assert judged(hardly, metric="bleu").evidence["overconfident"] == 0


def test_a_loaded_model_that_did_not_move_has_learned_nothing_however_good_it_was() -> None:
    still = made([3.01, 3.0, 3.0, 3.0], [3.0, 2.999, 2.999], bleu=[1, 1, 1])
    assert judged(still, LOADED).state == "nothing_learned"
    assert judged(still, SCRATCH).state == "good_fit"  # a new model has learned all that it knows
    # Its loss began far below that of guesses: what it learned is counted from its first evaluation.
    slowly = made([3.4, 3.1, 3.0, 2.9, 2.8], [3.0, 2.9, 2.8, 2.7])
    assert judged(slowly, LOADED).state == "still_learning"
    assert judged(NOTHING, LOADED).state == "nothing_learned"


def test_a_new_model_that_is_still_above_the_loss_of_guesses_is_not_thrown_about() -> None:
    """Before it learns anything, all of its thousands of tokens are equally likely."""
    assert judged(made([10.8, 10.2, 9.6, 9.0], [10.2, 9.6, 9.0])).state == "still_learning"
    assert judged(made([10.8, 10.8, 10.8, 10.8], [10.8, 10.8, 10.8])).state == "nothing_learned"
    assert judged(made([10.8, 30.0, 28.0, 26.0], [30.0, 28.0, 26.0])).state == "unstable"


# ---- what is suggested


RECIPES = {
    "loaded": "task: text-generation\nmodel: {name: m}\ndata: {source: a.txt, limit: 500}\n",
    "scratch": "task: text-generation\nmodel: {from_scratch: {vocab_size: 100}}\ndata: {source: a.txt}\n",
    "pairs": "task: text-generation\nmodel: {name: m}\ntraining: {metric_for_best_model: bleu, max_steps: 250, "
    "warmup_steps: 0, early_stopping_patience: 1, max_grad_norm: 0, learning_rate: 1.0e-2}\n"
    "data: {source: a.csv, columns: {prompt: p, completion: c}}\n",
    "seq2seq": "task: seq2seq\nmodel: {name: m}\ndata: {source: a.csv}\n",
    "seq2seq scratch": "task: seq2seq\nmodel: {from_scratch: {vocab_size: 100}}\ndata: {source: a.csv, limit: 9}\n"
    "training: {metric_for_best_model: perplexity, load_best_model_at_end: false, learning_rate: 1.0e-7}\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_suggestion_can_be_pasted(name: str, tmp_path: Path) -> None:
    text = read_yaml(RECIPES[name], name="r.yaml")
    recipe = check_recipe(text, base=tmp_path, name="r").recipe
    metric, given = recipe.training.metric_for_best_model, list[str]()
    for stopped, history in itertools.product((False, True), [*STATES.values(), OVERCONFIDENT]):
        settings = fit_settings(
            recipe, training_documents=90, validation_documents=4000, chance_loss=CHANCE, stopped_early=stopped
        )
        assert settings.highest_score == (100 if metric == "bleu" else settings.highest_score)
        suggested = overrides(
            judge_fit(
                history, metric=metric, greater_is_better=metric == "bleu", best_epoch=1.0, majority_score=None,
                settings=settings,
            )
        )  # fmt: skip
        for override in suggested:
            assert check_recipe(text, [override], base=tmp_path, name="r").recipe != recipe, override
        check_recipe(text, suggested, base=tmp_path, name="r")
        given += suggested
    assert given and not [each for each in given if each.startswith(("augmentation", "training.class_weights"))]


def test_attention_dropout_is_suggested_only_to_a_model_that_has_it() -> None:
    assert "model.attention_dropout=0.2" in overrides(judged(OVERFITTING, LOADED))
    without = replace(LOADED, has_attention_dropout=False)
    assert "model.attention_dropout=0.2" not in overrides(judged(OVERFITTING, without))


# ---- what a run is judged by


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_sequences_tell_a_loss_the_better_the_longer_they_are(sequences: int, length: int) -> None:
    worth = independent_losses(sequences, learnt_tokens=sequences * length)
    assert sequences * 0.5 <= worth + 1 and worth <= sequences * 12
    assert worth <= independent_losses(sequences, learnt_tokens=sequences * (length + 1))
    assert worth <= independent_losses(sequences + 1, learnt_tokens=(sequences + 1) * length)


def test_without_anything_learnt_sequences_count_as_they_are() -> None:
    assert independent_losses(7, learnt_tokens=0) == 7


def test_the_chance_loss_is_that_of_token_frequencies(tmp_path: Path) -> None:
    learner = tiny_learner(tmp_path, SEQ2SEQ)
    counted = [
        Counter(token for ids, learn in zip(*token_streams(learner, split), strict=True)
                for token, learnt in zip(ids, learn, strict=True) if learnt)
        for split in ("train", "validation")
    ]  # fmt: skip
    assert counted[1].total() == learner.counts["validation"].learnt_tokens
    train = counted[0].total()
    seen = {token: count for token, count in counted[1].items() if counted[0][token]}
    plain = -sum(count * math.log(counted[0][token] / train) for token, count in seen.items()) / sum(seen.values())
    assert unigram_loss(learner) == pytest.approx(plain, rel=0.1)


def test_the_history_of_a_run_is_judged(tmp_path: Path) -> None:
    loaded = tiny_recipe(
        tmp_path, PAIRS, model_folder=tiny_writer_folder(tmp_path / "gpt2"), training={"num_train_epochs": 5}
    )
    prepared, learner = prepared_learner(loaded)
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    for row in OVERFITTING:
        append_json_line(run.history, row)
    verdict = judge_writer(run, writer_recipe(loaded.recipe), prepared, learner, FitResult(2.0, 100, 250))
    assert verdict.state == "overfitting" and verdict.evidence["best_epoch"] == 2
    assert verdict.evidence["chance_loss"] == pytest.approx(unigram_loss(learner), abs=1e-6)
    assert overrides(verdict)[0] == "training.num_train_epochs=2"
    assert any(each.startswith("model.attention_dropout") for each in overrides(verdict)) == hasattr(
        learner.model.config, "attn_pdrop"
    )


def test_a_real_overfit(tmp_path: Path) -> None:
    """Targets drawn at random cannot be told from their prompts; a training long enough learns them by heart."""
    random = np.random.default_rng(3)
    rows = [row | {"target": "".join(random.choice(list("abcdefgh"), size=8))} for row in ROWS]
    scratch = SMALL | {"hidden_size": 64, "intermediate_size": 128, "dropout": 0.0}
    loaded = tiny_recipe(
        tmp_path, PAIRS, rows=rows, model={"from_scratch": {"architecture": "gpt2", **scratch}},
        training={"num_train_epochs": 48, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "logging_steps": 1,
                  "eval_strategy": "steps", "eval_steps": 24, "save_strategy": "steps", "save_steps": 24},
        data={"split": {"train": 0.4, "validation": 0.4, "test": 0.2}}, generation={"max_new_tokens": 2},
    )  # fmt: skip
    run = train(loaded, folder=tmp_path / "run", open_test=False)
    verdict = run.read(run.scores, Scores).fit
    assert verdict is not None and verdict.state == "overfitting", verdict
    assert verdict.evidence["training_loss_last"] < 1.5 < verdict.evidence["validation_loss_last"]
    check_recipe(loaded.text, overrides(verdict), base=loaded.base, name="again")


def test_plain_text_has_a_chance_loss_too(tmp_path: Path) -> None:
    assert 1.5 < unigram_loss(tiny_learner(tmp_path, TEXT)) < math.log(SMALL["vocab_size"])
