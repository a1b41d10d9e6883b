"""The fit verdict: every state on made-up histories, noise that is no finding, and real fits forced into each state."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_fits import Documents, tiny_bert, tiny_documents, tiny_plan

from finetune.recipe_file import check_recipe
from finetune.run_files import FitVerdict
from finetune.runs import read_json_lines
from finetune.scores.classification import score_classification
from finetune.scores.fit_course import FitSettings, fit_settings
from finetune.scores.fit_verdict import judge_fit
from finetune.training.inference import DocumentPredictions
from finetune.training.trainer import fit
from finetune.yaml_text import read_yaml

History = list[dict[str, Any]]
CHANCE = math.log(2)
PLAIN = FitSettings(
    num_train_epochs=5, learning_rate=5e-5, weight_decay=0.01, training_documents=1600, from_scratch=False,
    has_augmentation=False, stopped_early=False, validation_documents=2000, chance_loss=CHANCE,
)  # fmt: skip
SCRATCH = replace(PLAIN, from_scratch=True, learning_rate=1e-3, dropout=0.1)


def made(
    training: Sequence[float | None],
    validation: Sequence[float | None],
    scores: Sequence[float | None] | None = None,
    *,
    rows: int = 5,
    matthews: float | None = 0.6,
) -> History:
    """Epochs of 50 steps. Training loss goes straight from value to value, one more of them than epochs, in `rows`
    logged rows an epoch; each epoch ends with an evaluation."""
    history: History = []
    for epoch, (before, after) in enumerate(itertools.pairwise(training)):
        for row in range(1, rows + 1):
            part = row / rows
            loss = None if before is None or after is None else before + (after - before) * part
            history.append({"step": round((epoch + part) * 50), "epoch": epoch + part, "loss": loss})
        if epoch < len(validation):
            score = 0.8 if scores is None else scores[epoch]
            history.append(
                {"step": (epoch + 1) * 50, "epoch": epoch + 1.0, "eval_loss": validation[epoch],
                 "eval_f1_macro": score, "eval_matthews": matthews}
            )  # fmt: skip
    return history


def judged(history: History, settings: FitSettings = PLAIN, **named: Any) -> FitVerdict:
    chosen: dict[str, Any] = {
        "metric": "f1_macro",
        "greater_is_better": True,
        "best_epoch": 1.0,
        "majority_score": 0.34,
    }
    return judge_fit(history, settings=settings, **(chosen | named))


def overrides(verdict: FitVerdict) -> list[str]:
    return [each.override for each in verdict.suggestions]


GOOD = made([0.69, 0.45, 0.35, 0.31, 0.30, 0.30], [0.44, 0.37, 0.345, 0.34, 0.34], [0.8, 0.84, 0.85, 0.85, 0.85])
OVERFITTING = made([0.69, 0.4, 0.2, 0.1, 0.05, 0.02], [0.42, 0.38, 0.45, 0.55, 0.7], [0.82, 0.84, 0.83, 0.82, 0.82])
OVERCONFIDENT = made([0.69, 0.4, 0.2, 0.1, 0.05, 0.02], [0.42, 0.38, 0.45, 0.55, 0.7], [0.8, 0.82, 0.84, 0.86, 0.87])
LEARNING = made([0.69, 0.65, 0.6, 0.54, 0.47, 0.4], [0.66, 0.62, 0.57, 0.51, 0.45], [0.5, 0.6, 0.65, 0.7, 0.74])
NOTHING = made([0.70, 0.695, 0.694, 0.693, 0.693, 0.693], [0.693] * 5, [0.34] * 5, matthews=None)
SPIKES = made([0.69, 0.4, 1.2, 0.3, 1.4, 0.35], [0.45, 0.5, 0.44, 0.5, 0.45])
DIVERGED = made([0.69, 0.4, 0.3, 2.5, 3.0, 3.1], [0.45, 0.40, 2.2, 2.9, 3.0])
SWINGING = made([0.69, 0.5, 0.45, 0.42, 0.41, 0.40], [0.5, 0.8, 0.48, 0.9, 0.47])
NOT_FINITE = made([0.69, 0.5, None, None, None, None], [0.5, 0.5])
ONE_EPOCH = made([0.69, 0.3], [0.35])
SHORT = [row for row in made([0.69, 0.69, 0.69], [0.69], rows=1) if row["step"] < 100]
OF_STATE = {
    "good_fit": [GOOD],
    "overfitting": [OVERFITTING, OVERCONFIDENT],
    "still_learning": [LEARNING, ONE_EPOCH],
    "nothing_learned": [NOTHING],
    "unstable": [SPIKES, DIVERGED, SWINGING, NOT_FINITE],
    "too_short": [SHORT, [], [{"step": 1, "epoch": 0.1, "loss": 0.7}], [{"train_runtime": 3.0}]],
}


@pytest.mark.parametrize(("state", "history"), [(state, each) for state, all in OF_STATE.items() for each in all])
def test_each_state_of_made_up_histories(state: str, history: History) -> None:
    verdict = judged(history)
    assert verdict.state == state, verdict
    assert FitVerdict.model_validate_json(verdict.model_dump_json()) == verdict
    assert all(math.isfinite(number) for number in verdict.evidence.values())


def test_overfitting_names_its_epoch_the_gap_and_its_growth() -> None:
    verdict = judged(OVERFITTING)
    assert verdict.since_epoch == 3
    numbers = verdict.evidence
    assert (numbers["validation_loss_best"], numbers["validation_loss_best_epoch"]) == (0.38, 2)
    assert numbers["validation_loss_last"] == 0.7 and numbers["overconfident"] == 0
    low, last = [each for each in OVERFITTING if each.get("eval_loss") in (0.38, 0.7)]
    means = [np.mean([r["loss"] for r in OVERFITTING if "loss" in r and e - 1 < r["epoch"] <= e]) for e in (2, 5)]
    growth = (last["eval_loss"] - means[1]) - (low["eval_loss"] - means[0])
    assert numbers["gap_growth"] == pytest.approx(growth, abs=1e-6)
    assert "training.num_train_epochs=2" in overrides(verdict)


def test_a_loss_that_rises_while_the_score_improves_is_overconfidence() -> None:
    verdict = judged(OVERCONFIDENT)
    assert verdict.evidence["overconfident"] == 1 and verdict.evidence["metric_best_epoch"] == 5
    assert "training.label_smoothing_factor=0.1" in overrides(verdict)
    # Fewer epochs would cost score.
    assert not any("num_train_epochs" in each for each in overrides(verdict))
    later = made([0.69, 0.4, 0.2, 0.1, 0.05, 0.02], [0.42, 0.38, 0.45, 0.55, 0.7], [0.8, 0.82, 0.87, 0.86, 0.85])
    assert "training.num_train_epochs=3" in overrides(judged(later))
    by_loss = judged(OVERCONFIDENT, metric="loss", greater_is_better=False, majority_score=None)
    assert by_loss.evidence["overconfident"] == 0


@pytest.mark.parametrize(("history", "epoch"), [(SPIKES, 1.8), (DIVERGED, 2.4), (SWINGING, 2.0)])
def test_instability_names_where_it_began(history: History, epoch: float) -> None:
    verdict = judged(history)
    assert verdict.since_epoch == pytest.approx(epoch, abs=0.5)
    assert overrides(verdict)[0] == "training.learning_rate=1.7e-05"


def test_one_spike_that_is_over_is_no_instability() -> None:
    history = made([0.69, 1.2, 0.4, 0.33, 0.31, 0.3], [0.45, 0.37, 0.345, 0.34, 0.34])
    assert judged(history).state == "good_fit" and judged(history).evidence["training_spikes"] == 1


def test_memorising_what_cannot_be_learned_is_overfitting_and_a_score_of_guesses_is_nothing() -> None:
    training = [0.69, 0.6, 0.4, 0.2, 0.1, 0.05]
    guesses: dict[str, Any] = {
        "scores": [0.5] * 5,
        "matthews": 0.01,
    }  # macro F1 of guesses is far above that of the majority answer
    assert judged(made(training, [0.70, 0.75, 0.9, 1.2, 1.5], **guesses)).state == "overfitting"
    assert judged(made(training, [0.70, 0.70, 0.70, 0.70, 0.70], **guesses)).state == "nothing_learned"
    assert judged(made(training, [0.70, 0.75, 0.9, 1.2, 1.5], scores=[0.34] * 5)).state == "nothing_learned"


def test_a_loss_that_falls_before_the_first_right_answer_is_learning() -> None:
    history = made([0.694, 0.69, 0.67], [0.6907, 0.6544], [0.345, 0.345], matthews=None)
    assert judged(history).state == "still_learning"


def test_a_ranking_far_from_chance_is_learning_even_where_the_answers_never_change() -> None:
    for area, state in ((0.72, "good_fit"), (0.515, "nothing_learned")):
        history = made([0.70, 0.695, 0.694, 0.693, 0.693, 0.693], [0.693] * 5, [0.34] * 5, matthews=None)
        history = [row | ({"eval_roc_auc": area} if "eval_loss" in row else {}) for row in history]
        assert judged(history, metric="roc_auc", majority_score=0.5).state == state


def test_without_baseline_and_chance_the_loss_alone_must_fall() -> None:
    plain = replace(PLAIN, chance_loss=None, validation_documents=None)
    assert judged(NOTHING, plain, majority_score=None).state == "nothing_learned"
    assert judged(GOOD, plain, majority_score=None).state == "good_fit"


def test_rows_repeated_after_a_resume_count_once() -> None:
    stale = [row | {key: 9.0 for key in ("loss", "eval_loss") if key in row} for row in OVERFITTING[6:20]]
    resumed = [*OVERFITTING[:12], *stale, *OVERFITTING[6:]]
    assert judged(resumed) == judged(OVERFITTING)


def test_missing_values_are_left_out() -> None:
    holes = [row | ({"loss": math.nan} if row["step"] == 30 else {}) for row in GOOD]
    holes = [row | ({"eval_f1_macro": None} if row["step"] == 100 else {}) for row in holes]
    assert judged(holes).state == "good_fit"


def test_early_stopping_while_learning_asks_for_patience() -> None:
    stopped = replace(PLAIN, stopped_early=True, early_stopping_patience=1)
    assert overrides(judged(LEARNING, stopped))[0] == "training.early_stopping_patience=3"
    assert overrides(judged(LEARNING, replace(PLAIN, max_steps=250)))[0] == "training.max_steps=500"


def test_a_loss_near_zero_may_double() -> None:
    history = made([0.69, 0.1, 0.01, 0.005, 0.002], [0.05, 0.004, 0.008, 0.012], [0.99, 1.0, 1.0, 1.0])
    assert judged(history).state == "good_fit"


def test_a_majority_that_is_nearly_always_right_leaves_little_to_gain() -> None:
    history = made([0.1, 0.03, 0.02, 0.02], [0.03, 0.02, 0.02], [0.995, 0.999, 0.999])
    rare = replace(PLAIN, chance_loss=0.05)
    assert judged(history, rare, metric="f1_macro", majority_score=0.99).state == "good_fit"
    assert judged(history, rare, metric="f1_macro", majority_score=0.9989).state == "nothing_learned"


def test_few_validation_documents_move_a_loss_by_chance() -> None:
    history = made([0.69, 0.4, 0.3, 0.25], [0.40, 0.36, 0.40])
    assert judged(history).state == "overfitting"
    assert judged(history, replace(PLAIN, validation_documents=50)).state == "good_fit"


def test_one_long_epoch_that_taught_nothing_is_told() -> None:
    assert judged(made([0.69, 0.69], [0.69], [0.34], rows=25)).state == "nothing_learned"
    assert judged(made([0.69, 0.69], [0.69], [0.34], rows=4)).state == "too_short"
    assert judged(made([0.69, 0.69], [0.6], [0.7], rows=25)).state == "too_short"


@given(
    noise=st.lists(st.floats(-0.02, 0.02), min_size=12, max_size=12),
    training_noise=st.lists(st.floats(-0.1, 0.1), min_size=13, max_size=13),
    epochs=st.integers(2, 12),
    documents=st.sampled_from([None, 40, 5000]),
)
def test_small_noise_on_a_good_fit_is_never_overfitting_or_instability(
    noise: list[float], training_noise: list[float], epochs: int, documents: int | None
) -> None:
    falling = [0.3 + 0.39 * math.exp(-1.5 * epoch) for epoch in range(epochs + 1)]
    training = [loss * (1 + wobble) for loss, wobble in zip(falling, training_noise, strict=False)]
    validation = [loss * (1 + wobble) for loss, wobble in zip(falling[1:], noise, strict=False)]
    verdict = judged(made(training, validation), replace(PLAIN, validation_documents=documents))
    assert verdict.state in ("good_fit", "still_learning")
    assert verdict.state == "good_fit" or epochs <= 3


@given(
    losses=st.lists(st.none() | st.floats(0, 50) | st.just(math.nan), max_size=10),
    validation=st.lists(st.none() | st.floats(0, 50), max_size=8),
    majority=st.none() | st.floats(0, 1),
)
def test_any_history_gets_a_verdict_that_can_be_written(
    losses: list[float | None], validation: list[float | None], majority: float | None
) -> None:
    verdict = judged(made(losses, validation, [0.5] * 10), majority_score=majority)
    json.dumps(verdict.model_dump(), allow_nan=False)


RECIPES = {
    "loaded": "task: text-classification\ndata: {source: a.csv, limit: 500}\n",
    "scratch": "task: text-classification\nmodel: {from_scratch: {vocab_size: 100}}\ndata: {source: a.csv}\n",
    "steps": "task: text-classification\ndata: {source: a.csv}\ntraining: {max_steps: 250, warmup_steps: 0, "
    "early_stopping_patience: 1, max_grad_norm: 0, learning_rate: 1.0e-2}\n",
    "no best": "task: text-classification\ndata: {source: a.csv}\n"
    "training: {load_best_model_at_end: false, learning_rate: 1.0e-7}\n",
    "done": "task: text-classification\nmodel: {name: m, attention_dropout: 0.4}\ndata: {source: a.csv}\n"
    "augmentation: {swap: 0.1}\ntraining: {weight_decay: 0.2, warmup_steps: 30, label_smoothing_factor: 0.1, "
    "class_weights: balanced, num_train_epochs: 1}\n",
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_suggestion_can_be_pasted(name: str, tmp_path: Path) -> None:
    text = read_yaml(RECIPES[name], name="r.yaml")
    recipe = check_recipe(text, base=tmp_path, name="r").recipe
    for stopped in (False, True):
        settings = fit_settings(
            recipe,
            training_documents=90,
            validation_documents=2000,
            label_shares=[0.9, 0.1],
            chance_loss=CHANCE,
            stopped_early=stopped,
        )
        for histories in OF_STATE.values():
            for history in histories:
                given = overrides(judged(history, settings))
                assert len({each.partition("=")[0] for each in given}) == len(given)
                for override in given:
                    changed = check_recipe(text, [override], base=tmp_path, name="r").recipe
                    assert changed != recipe, override
                check_recipe(text, given, base=tmp_path, name="r")


# ---- real fits, forced into each state


def fitted(folder: Path, train: Documents, validation: Documents, **settings: Any) -> FitVerdict:
    def score(predictions: DocumentPredictions) -> dict[str, float | None]:
        names = ["a", "b", "c"]
        return score_classification(np.asarray(validation[1]), predictions.probabilities, label_names=names).values

    result = fit(tiny_bert(3), tiny_plan(folder, train=train, validation=validation, score=score, **settings))
    always = np.tile(np.eye(3)[np.bincount(train[1]).argmax()], (len(validation[1]), 1))
    majority = score_classification(np.asarray(validation[1]), always, label_names=["a", "b", "c"]).values["f1_macro"]
    chosen = FitSettings(
        num_train_epochs=settings["num_train_epochs"], learning_rate=settings["learning_rate"], weight_decay=0.0,
        training_documents=len(train[1]), from_scratch=True, has_augmentation=False, stopped_early=False,
        validation_documents=len(validation[1]), documents_per_step=12, chance_loss=math.log(3),
    )  # fmt: skip
    return judge_fit(
        read_json_lines(folder / "history.jsonl"), metric="f1_macro", greater_is_better=True,
        best_epoch=result.best_epoch, majority_score=majority, settings=chosen,
    )  # fmt: skip


def with_random_labels(documents: Documents, *, share: float, seed: int = 5) -> Documents:
    chance = np.random.default_rng(seed)
    return documents[0], [int(chance.integers(3)) if chance.random() < share else label for label in documents[1]]


def single_windows(count: int, *, seed: int = 0) -> Documents:
    return tiny_documents(count, most_windows=1, seed=seed)


def test_a_real_good_fit_and_the_same_stopped_too_soon(tmp_path: Path) -> None:
    data: dict[str, Any] = {"train": single_windows(150), "validation": single_windows(100, seed=1)}
    chosen: dict[str, Any] = {"learning_rate": 2e-2, "per_device_train_batch_size": 25}
    long = fitted(tmp_path / "long", **data, num_train_epochs=12, **chosen)
    assert long.state == "good_fit" and not long.suggestions
    short = fitted(tmp_path / "short", **data, num_train_epochs=5, **chosen)
    assert short.state == "still_learning" and overrides(short)[0] == "training.num_train_epochs=10"


def test_a_real_overfit(tmp_path: Path) -> None:
    train, validation = single_windows(60), with_random_labels(single_windows(300, seed=1), share=1.0)
    chosen: dict[str, Any] = {"learning_rate": 2e-2, "per_device_train_batch_size": 30}
    verdict = fitted(tmp_path, train, validation, num_train_epochs=15, **chosen)
    assert verdict.state == "overfitting" and verdict.since_epoch is not None and 2 <= verdict.since_epoch <= 12
    assert verdict.evidence["gap_growth"] > 1 and verdict.evidence["overconfident"] == 0
    assert verdict.evidence["training_loss_last"] < 0.5 < verdict.evidence["validation_loss_last"]
    assert any(each.startswith("training.num_train_epochs=") for each in overrides(verdict))


def test_real_instability(tmp_path: Path) -> None:
    data: dict[str, Any] = {"train": single_windows(120), "validation": single_windows(60, seed=1)}
    chosen: dict[str, Any] = {"learning_rate": 1.0, "lr_scheduler_type": "constant", "per_device_train_batch_size": 25}
    verdict = fitted(tmp_path, **data, num_train_epochs=5, **chosen)
    assert verdict.state == "unstable" and overrides(verdict)[0] == "training.learning_rate=0.003"


def test_nothing_is_learned_by_steps_that_are_too_small_or_from_random_labels(tmp_path: Path) -> None:
    train, validation = single_windows(120), single_windows(100, seed=1)
    slow = fitted(tmp_path / "slow", train, validation, num_train_epochs=2, learning_rate=1e-6)
    assert slow.state == "nothing_learned" and overrides(slow)[0] == "training.learning_rate=0.00055"
    random = with_random_labels(train, share=1.0), with_random_labels(validation, share=1.0, seed=6)
    assert fitted(tmp_path / "random", *random, num_train_epochs=2, learning_rate=1e-3).state == "nothing_learned"


def test_a_real_fit_of_one_evaluation_is_too_short(tmp_path: Path) -> None:
    train, validation = single_windows(60), single_windows(30, seed=1)
    assert fitted(tmp_path, train, validation, num_train_epochs=1, learning_rate=5e-3).state == "too_short"
