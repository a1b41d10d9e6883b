"""The metrics work as `evaluate` metrics, without the network, and equal scikit-learn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from finetune.errors import RecipeError
from finetune.metrics import METRICS, load, metric_class
from finetune.scores.classification import METRIC_NAMES

few = settings(max_examples=15, deadline=None)
NAMES = ("a", "b", "c", "d")
LABELS = list(range(len(NAMES)))
REFERENCES = np.array([0, 1, 2, 1, 0, 2])
PREDICTIONS = np.array([0, 2, 2, 1, 0, 1])
PROBABILITIES = np.array([[0.7, 0.1, 0.2, 0.0]] * 6)

some_labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=25)


@few
@given(some_labels)
def test_averages_equal_scikit_learn_with_absent_classes(pairs: list[tuple[int, int]]) -> None:
    references, predictions = (list(side) for side in zip(*pairs, strict=True))
    for name, function in {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}.items():
        result = load(name, label_names=NAMES).compute(predictions=predictions, references=references)
        for average in ("macro", "micro", "weighted"):
            expected = function(references, predictions, labels=LABELS, average=average, zero_division=0)
            assert result[f"{name}_{average}"] == pytest.approx(expected, abs=1e-12, rel=0)
        by_class = function(references, predictions, labels=LABELS, average=None, zero_division=np.nan)
        assert result[f"{name}_per_class"] == [None if np.isnan(value) else pytest.approx(value) for value in by_class]


@few
@given(some_labels)
def test_counts_equal_scikit_learn_with_absent_classes(pairs: list[tuple[int, int]]) -> None:
    references, predictions = (list(side) for side in zip(*pairs, strict=True))

    def computed(name: str) -> dict[str, Any]:
        result: dict[str, Any] = load(name, label_names=NAMES).compute(predictions=predictions, references=references)
        return result

    accuracy = sk.accuracy_score(references, predictions)
    assert computed("accuracy") == {"accuracy": pytest.approx(accuracy, abs=1e-12, rel=0)}
    confusion = computed("confusion_matrix")
    assert confusion["confusion_matrix"] == sk.confusion_matrix(references, predictions, labels=LABELS).tolist()
    counts = sk.multilabel_confusion_matrix(references, predictions, labels=LABELS).tolist()
    found = [[[row["tn"], row["fp"]], [row["fn"], row["tp"]]] for row in confusion["confusion_per_class"]]
    assert found == counts
    matthews = computed("matthews_correlation")
    if len(set(references)) > 1 and len(set(predictions)) > 1:
        expected = sk.matthews_corrcoef(references, predictions)
        assert matthews == {"matthews": pytest.approx(expected, abs=1e-12, rel=0)}
    else:
        assert matthews["matthews"] is None and "one class only" in matthews["matthews_note"]


@few
@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.integers(2, 4))
def test_probability_metrics_equal_scikit_learn(seed: int, n: int, present: int) -> None:
    generator = np.random.default_rng(seed)
    references, probabilities = generator.integers(0, present, size=n), generator.dirichlet(np.ones(4), size=n)
    given_inputs = {"references": references, "probabilities": probabilities}
    loss = load("log_loss", label_names=NAMES).compute(**given_inputs)
    assert loss == {"log_loss": pytest.approx(sk.log_loss(references, probabilities, labels=LABELS), abs=1e-12)}
    area = load("roc_auc", label_names=NAMES).compute(**given_inputs)
    if len(set(references)) == 4:
        expected = sk.roc_auc_score(references, probabilities, multi_class="ovr", labels=LABELS)
        assert area == {"roc_auc": pytest.approx(expected, abs=1e-12, rel=0)}
    else:
        assert area["roc_auc"] is None and "no document" in area["roc_auc_note"]


def test_all_are_evaluate_metrics_by_their_name() -> None:
    for name in METRICS:
        metric = load(name, label_names=NAMES)
        assert isinstance(metric, evaluate.Metric) and metric.name == name
        assert metric_class(name) is type(metric)


def test_they_combine_and_take_batches_and_single_documents() -> None:
    names = ("accuracy", "f1", "recall", "matthews_correlation")
    whole = evaluate.combine([load(name, label_names=NAMES) for name in names])
    expected = whole.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert {"accuracy", "f1_macro", "recall_weighted", "matthews"} <= set(expected)
    parts = evaluate.combine([load(name, label_names=NAMES) for name in names])
    for start in (0, 2):
        parts.add_batch(predictions=PREDICTIONS[start : start + 2], references=REFERENCES[start : start + 2])
    parts.add(prediction=int(PREDICTIONS[4]), reference=int(REFERENCES[4]))
    parts.add(prediction=PREDICTIONS[5], reference=REFERENCES[5])
    assert parts.compute() == expected


def test_labels_and_probabilities_combine_batch_by_batch() -> None:
    both = evaluate.combine([load(name, label_names=NAMES) for name in ("accuracy", "log_loss", "roc_auc")])
    both.add_batch(predictions=PREDICTIONS, references=REFERENCES, probabilities=PROBABILITIES)
    result = both.compute()
    assert result["accuracy"] == pytest.approx(4 / 6) and result["log_loss"] > 0 and result["roc_auc"] is None
    at_once = {"predictions": PREDICTIONS, "references": REFERENCES, "probabilities": PROBABILITIES}
    assert both.compute(**at_once) == result


def test_a_metric_can_be_used_again() -> None:
    metric = load("accuracy", label_names=NAMES)
    assert metric.compute(predictions=[0, 1], references=[0, 1]) == {"accuracy": 1.0}
    assert metric.compute(predictions=[0, 1], references=[1, 0]) == {"accuracy": 0.0}


def test_multi_label_documents() -> None:
    references, predictions = np.array([[1, 0, 1], [0, 1, 0]]), np.array([[1, 0, 0], [0, 1, 0]])
    metric = load("f1", label_names=("x", "y", "z"), multi_label=True)
    result = metric.compute(predictions=predictions.tolist(), references=references)
    assert result["f1_micro"] == pytest.approx(sk.f1_score(references, predictions, average="micro"))
    assert result["f1_per_class"] == [1.0, 1.0, 0.0]
    accuracy = load("accuracy", label_names=("x", "y", "z"), multi_label=True)
    assert accuracy.compute(predictions=predictions, references=references) == {"accuracy": 0.5}


def test_the_report_has_every_score() -> None:
    report = load("classification_report", label_names=NAMES)
    result = report.compute(references=REFERENCES, probabilities=PROBABILITIES)
    assert tuple(result["values"]) == METRIC_NAMES and result["n"] == 6
    assert [row["label"] for row in result["per_class"]] == list(NAMES)


@pytest.mark.parametrize("no_labels", [[0.9, 1.9], np.array([0.0, 1.0]), np.float32([0, 1]), ["0", "1"], [0, None]])
def test_what_is_no_integer_is_refused_and_never_cut(no_labels: Any) -> None:
    with pytest.raises(ValueError, match="predictions must be integers"):
        load("accuracy", label_names=NAMES).compute(predictions=no_labels, references=[0, 1])
    with pytest.raises(ValueError, match="references must be integers"):
        load("accuracy", label_names=NAMES).compute(predictions=[0, 1], references=no_labels)
    with pytest.raises(ValueError, match="prediction must be integers"):
        load("accuracy", label_names=NAMES).add(prediction=no_labels[1], reference=0)


def test_floats_in_a_later_batch_are_refused_too() -> None:
    metric = load("accuracy", label_names=NAMES)
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    with pytest.raises(ValueError, match="must be integers"):
        metric.add_batch(predictions=[0.5, 1.5], references=[0, 1])


def test_an_option_of_the_hub_metrics_is_not_ignored() -> None:
    with pytest.raises(ValueError, match="compute knows no average"):
        load("f1", label_names=NAMES).compute(predictions=[0], references=[0], average="macro")


def test_a_class_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="predictions must be 0 to 3, found 4"):
        load("f1", label_names=NAMES).compute(predictions=[4], references=[0])


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(RecipeError, match=r"no metric 'acuracy'\. Found: accuracy.*Did you mean 'accuracy'\?"):
        load("acuracy", label_names=NAMES)


def test_nothing_is_written_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    load("accuracy", label_names=NAMES).compute(predictions=[0], references=[0])
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_there_without_importing_evaluate() -> None:
    program = "import sys, finetune.metrics; sys.exit('evaluate' in sys.modules or 'torch' in sys.modules)"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", program], cwd=root, timeout=60).returncode == 0
