"""The scores equal scikit-learn, absent classes included, and what is undefined is null with a reason."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from finetune.scores.classification import GREATER_IS_BETTER, METRIC_NAMES, Scores, score_classification

quick = settings(max_examples=60, deadline=None)
AVERAGES = ("macro", "micro", "weighted")


def names(classes: int) -> list[str]:
    return [f"class {number}" for number in range(classes)]


@st.composite
def single_label(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """References that may miss classes, and probabilities that may never prefer some."""
    classes, n = draw(st.integers(2, 6)), draw(st.integers(1, 40))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    references = generator.integers(0, draw(st.integers(1, classes)), size=n)
    liked = generator.random(classes) * draw(st.sampled_from([1, 20]))
    probabilities = generator.dirichlet(0.2 + liked, size=n)
    return references, probabilities


@st.composite
def multi_label(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    classes, n = draw(st.integers(1, 5)), draw(st.integers(1, 30))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    references = (generator.random((n, classes)) < share).astype(int)
    return references, generator.random((n, classes)) ** draw(st.sampled_from([1, 3, 100]))


def expected_averages(references: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    expected = {"accuracy": sk.accuracy_score(references, predictions)}
    for average in AVERAGES:
        triple = sk.precision_recall_fscore_support(
            references, predictions, labels=list(range(classes)), average=average, zero_division=0
        )
        expected |= {
            f"{name}_{average}": value for name, value in zip(("precision", "recall", "f1"), triple, strict=False)
        }
    return expected


def assert_equal_where_defined(scores: Scores, expected: dict[str, float]) -> None:
    for name, value in expected.items():
        if scores.values[name] is None:
            # scikit-learn calls an undefined score 0.
            assert value == 0 and scores.notes[name].startswith("undefined")
        else:
            assert scores.values[name] == pytest.approx(value, abs=1e-12, rel=0), name


@quick
@given(single_label())
def test_single_label_equals_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    references, probabilities = case
    classes = probabilities.shape[1]
    predictions = probabilities.argmax(axis=1)
    scores = score_classification(references, probabilities, label_names=names(classes))
    assert tuple(scores.values) == METRIC_NAMES and scores.n == len(references)
    expected = expected_averages(references, predictions, classes)
    assert_equal_where_defined(scores, expected)
    assert all(scores.values[name] is not None for name in expected)
    assert scores.values["error_rate"] == pytest.approx(1 - expected["accuracy"], abs=1e-12)
    with warnings.catch_warnings():
        # A single reference warns; the renamed argument of log_loss is passed by position to suit both names.
        warnings.simplefilter("ignore")
        loss = sk.log_loss(references, probabilities, labels=list(range(classes)))
        matthews = sk.matthews_corrcoef(references, predictions)
    assert scores.values["log_loss"] == pytest.approx(loss, abs=1e-12, rel=1e-12)
    if len(set(references)) > 1 and len(set(predictions)) > 1:
        assert scores.values["matthews"] == pytest.approx(matthews, abs=1e-12, rel=0)
    else:
        assert scores.values["matthews"] is None and "one class only" in scores.notes["matthews"]
    if len(set(references)) == classes:
        given = probabilities[:, 1] if classes == 2 else probabilities
        area = sk.roc_auc_score(references, given, multi_class="ovr", labels=list(range(classes)))
        assert scores.values["roc_auc"] == pytest.approx(area, abs=1e-12, rel=0)
    else:
        assert scores.values["roc_auc"] is None and "no document" in scores.notes["roc_auc"]


@quick
@given(single_label())
def test_per_class_counts_equal_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    references, probabilities = case
    classes = probabilities.shape[1]
    predictions = probabilities.argmax(axis=1)
    scores = score_classification(references, probabilities, label_names=names(classes))
    labels = list(range(classes))
    assert scores.confusion == sk.confusion_matrix(references, predictions, labels=labels).tolist()
    counts = sk.multilabel_confusion_matrix(references, predictions, labels=labels)
    for row, ((tn, fp), (fn, tp)) in zip(scores.per_class, counts.tolist(), strict=True):
        assert (row["tn"], row["fp"], row["fn"], row["tp"]) == (tn, fp, fn, tp)
        assert row["support"] == tp + fn
        assert row["precision"] == (tp / (tp + fp) if tp + fp else None)
        assert row["recall"] == row["tpr"] == (tp / (tp + fn) if tp + fn else None)
        assert row["fnr"] == (fn / (tp + fn) if tp + fn else None)
        assert row["fpr"] == (fp / (fp + tn) if fp + tn else None)
        assert row["tnr"] == (tn / (fp + tn) if fp + tn else None)
        assert row["f1"] == (2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None)


@quick
@given(multi_label())
def test_multi_label_equals_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    references, probabilities = case
    classes = probabilities.shape[1]
    predictions = (probabilities >= 0.5).astype(int)
    scores = score_classification(references, probabilities, label_names=names(classes), multi_label=True)
    assert scores.confusion == []
    if classes > 1:  # scikit-learn takes a single column for single-label
        assert_equal_where_defined(scores, expected_averages(references, predictions, classes))
    decisions = references.ravel(), predictions.ravel()
    if all(len(set(side)) > 1 for side in decisions):
        assert scores.values["matthews"] == pytest.approx(sk.matthews_corrcoef(*decisions), abs=1e-12, rel=0)
    else:
        assert scores.values["matthews"] is None
    losses = [sk.log_loss(references[:, k], probabilities[:, k], labels=[0, 1]) for k in range(classes)]
    assert scores.values["log_loss"] == pytest.approx(np.mean(losses), abs=1e-12, rel=1e-12)
    if all(0 < column.sum() < len(column) for column in references.T):
        area = np.mean([sk.roc_auc_score(references[:, k], probabilities[:, k]) for k in range(classes)])
        assert scores.values["roc_auc"] == pytest.approx(area, abs=1e-12, rel=0)
    else:
        assert scores.values["roc_auc"] is None


@quick
@given(st.one_of(single_label(), multi_label()))
def test_scores_are_strict_json_and_every_null_has_a_note(case: tuple[np.ndarray, np.ndarray]) -> None:
    references, probabilities = case
    several = references.ndim == 2
    scores = score_classification(
        references, probabilities, label_names=names(probabilities.shape[1]), multi_label=several
    )
    json.dumps(asdict(scores), allow_nan=False)
    assert {name for name, value in scores.values.items() if value is None} <= set(scores.notes)


def test_the_note_names_the_class_that_was_never_predicted() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    scores = score_classification(np.array([0, 1, 2]), probabilities, label_names=["bad", "fair", "good"])
    assert scores.per_class[2]["precision"] is None and scores.per_class[2]["recall"] == 0
    assert scores.values["precision_macro"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert scores.notes["precision_macro"] == "counted as 0 (never predicted): 'good'"
    assert scores.notes["precision_weighted"] == scores.notes["precision_macro"]
    assert "recall_macro" not in scores.notes
    assert scores.notes["log_loss"].startswith("1 true answers had probability 0")


def test_a_class_without_documents_and_predictions_has_no_f1() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    scores = score_classification(np.array([0, 1]), probabilities, label_names=["bad", "fair", "good"])
    assert scores.per_class[2]["f1"] is None and scores.values["f1_macro"] == pytest.approx(2 / 3)
    assert "'good'" in scores.notes["f1_macro"] and "f1_weighted" not in scores.notes
    assert (
        scores.notes["roc_auc"] == "undefined for a class that no document or every document has: 'good' (no document)"
    )


def test_an_empty_multi_label_answer_is_not_a_zero() -> None:
    scores = score_classification(np.zeros((3, 2)), np.zeros((3, 2)), label_names=["a", "b"], multi_label=True)
    undefined = {f"{name}_{average}" for name in ("precision", "recall", "f1") for average in AVERAGES}
    assert {name for name, value in scores.values.items() if value is None} == undefined | {"matthews", "roc_auc"}
    assert scores.values["accuracy"] == 1


@pytest.mark.parametrize(
    ("references", "probabilities", "message"),
    [
        ([0, 1], [[0.5, np.nan], [0.5, 0.5]], "document 0 are not finite"),
        ([0, 1], [[0.5, 0.5], [np.inf, 0.5]], "document 1 are not finite"),
        ([0, 1], [[3.0, -2.0], [0.5, 0.5]], "between 0 and 1"),
        ([0, 1], [[0.9, 0.9], [0.5, 0.5]], "add up to 1"),
        ([0, 1], [[1.0], [1.0]], "have shape"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "found 2"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "found -1"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], "whole numbers"),
        ([0], [[0.5, 0.5], [0.5, 0.5]], "cannot be scored"),
        ([], np.zeros((0, 2)), "whole numbers|cannot be scored"),
    ],
)
def test_what_is_no_label_or_probability_is_refused(references: object, probabilities: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_classification(np.array(references), np.array(probabilities), label_names=["no", "yes"])


def test_multi_label_references_may_be_the_floats_of_the_loss_but_no_fractions() -> None:
    probabilities = np.array([[0.9, 0.2], [0.1, 0.7]])
    scores = score_classification(np.eye(2), probabilities, label_names=["a", "b"], multi_label=True)
    assert scores.values["accuracy"] == 1
    with pytest.raises(ValueError, match=r"found 0\.5"):
        score_classification(np.eye(2) / 2, probabilities, label_names=["a", "b"], multi_label=True)


def test_the_direction_is_part_of_the_metric() -> None:
    assert tuple(GREATER_IS_BETTER) == METRIC_NAMES
    assert {name for name, greater in GREATER_IS_BETTER.items() if not greater} == {"log_loss", "error_rate"}
