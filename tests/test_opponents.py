"""Baselines of several labels decide by thresholds of their own, so that a model's thresholds alone beat nobody."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.data.labels import LabelMap
from finetune.opponents import opponent_thresholds
from finetune.scores.baselines import BASELINES, Inputs, Labelled
from finetune.scores.classification import predicted_labels, score_predictions

LABELS = LabelMap(("a", "b", "c"), multi_label=True)


def unlearnable(rows: int, *, seed: int, share: float = 0.25) -> Labelled:
    """Texts that say nothing of their labels."""
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(["one", "two", "three", "four"], size=6)) for _ in range(rows)]
    return Labelled(Inputs(texts), (random.random((rows, 3)) < share).astype(np.int64))


@pytest.mark.parametrize("name", ["majority", "naive_bayes", "tfidf_logistic"])
def test_a_rare_label_is_predicted_as_readily_as_by_a_model_with_thresholds(name: str) -> None:
    train, validation, test = unlearnable(600, seed=1), unlearnable(300, seed=2), unlearnable(300, seed=3)
    fitted = BASELINES[name](train, validation, classes=3, multi_label=True)
    thresholds = opponent_thresholds(fitted, validation, LABELS, metric="f1_macro")
    assert thresholds is not None and (thresholds < 0.5).all()
    said = fitted.predict_probabilities(test.inputs)

    def f1(thresholds: np.ndarray | None) -> float:
        predicted = predicted_labels(said, multi_label=True, thresholds=thresholds)
        scored = score_predictions(test.labels, predicted, label_names=LABELS.names, multi_label=True)
        return scored.values["f1_macro"] or 0.0

    # Who gives every document every label has 2 p / (1 + p), and that is what one who knows nothing can have.
    assert f1(None) < 0.15 and f1(thresholds) == pytest.approx(2 * 0.25 / 1.25, abs=0.06)


def test_thresholds_that_cost_the_selection_metric_are_left_out() -> None:
    train, validation = unlearnable(600, seed=1), unlearnable(300, seed=2)
    fitted = BASELINES["majority"](train, validation, classes=3, multi_label=True)
    # No label at all is right for most documents; every label is right for hardly one.
    for metric in ("accuracy", "error_rate"):
        assert opponent_thresholds(fitted, validation, LABELS, metric=metric) is None


def test_single_labels_and_models_without_thresholds_have_none() -> None:
    train, validation = unlearnable(60, seed=1), unlearnable(60, seed=2)
    fitted = BASELINES["majority"](train, validation, classes=3, multi_label=True)
    assert opponent_thresholds(fitted, validation, LABELS, metric=None) is None
    one = LabelMap(LABELS.names)
    assert opponent_thresholds(fitted, validation, one, metric="f1_macro") is None
