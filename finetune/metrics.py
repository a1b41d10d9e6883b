"""The scores as `evaluate` metrics that need no network: `metrics.load("f1", label_names=names)`.

The Hub's metrics have to be downloaded, run downloaded code, cut floats to integers without a word and lose a class
that happens to be absent. These live in the process, keep their inputs in memory, refuse what is no label, and count
every class in `label_names`. They work alone and in `evaluate.combine`, with `add`, `add_batch` and `compute`.
Importing this file is cheap; `evaluate` (seconds) is imported when the first metric is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from finetune.errors import RecipeError, did_you_mean, listed
from finetune.scores.classification import Scores, score_classification, score_predictions

if TYPE_CHECKING:
    import evaluate


@dataclass(frozen=True)
class Definition:
    """One metric: the input it needs beside `references`, and what it reports of the scores, by result key.

    A score that is undefined is reported as None, with its reason under the key `<score>_note`.
    """

    description: str
    needs: Literal["predictions", "probabilities"]
    report: Callable[[Scores], dict[str, Any]]


def _report(*names: str, per_class: Sequence[str] = ()) -> Callable[[Scores], dict[str, Any]]:
    """A report of scores by name, and of lists over the classes under `<name>_per_class`."""

    def report(scores: Scores) -> dict[str, Any]:
        result: dict[str, Any] = {name: scores.values[name] for name in names}
        result |= {f"{name}_note": scores.notes[name] for name in names if scores.values[name] is None}
        result |= {f"{name}_per_class": [row[name] for row in scores.per_class] for name in per_class}
        return result

    return report


def _report_averages(name: str) -> Callable[[Scores], dict[str, Any]]:
    return _report(f"{name}_macro", f"{name}_micro", f"{name}_weighted", per_class=(name,))


def _report_confusion(scores: Scores) -> dict[str, Any]:
    names = ("label", "support", "tp", "fp", "tn", "fn", "tpr", "fpr", "tnr", "fnr")
    per_class = [{name: row[name] for name in names} for row in scores.per_class]
    return {"confusion_matrix": scores.confusion, "confusion_per_class": per_class}


METRICS: dict[str, Definition] = {
    "accuracy": Definition("Share of documents that are right in every class.", "predictions", _report("accuracy")),
    "precision": Definition(
        "True among predicted, per class and averaged.", "predictions", _report_averages("precision")
    ),
    "recall": Definition("Found among true, per class and averaged.", "predictions", _report_averages("recall")),
    "f1": Definition("Harmonic mean of precision and recall.", "predictions", _report_averages("f1")),
    "confusion_matrix": Definition(
        "References (rows) by predictions (columns); TP, FP, TN, FN and their rates per class.",
        "predictions",
        _report_confusion,
    ),
    "matthews_correlation": Definition("Gorodkin's multi-class correlation.", "predictions", _report("matthews")),
    "roc_auc": Definition("Area under the ROC curve, one against the rest.", "probabilities", _report("roc_auc")),
    "log_loss": Definition("Cross-entropy in nats.", "probabilities", _report("log_loss")),
    "classification_report": Definition("Every score, with notes and per class.", "probabilities", asdict),
}


def load(name: str, *, label_names: Sequence[str], multi_label: bool = False) -> evaluate.Metric:
    """A fresh metric for documents of `len(label_names)` classes.

    `compute` takes `references`, (n,) class numbers or (n, C) of 0 and 1 when multi_label, and by the metric's
    `needs` `predictions` of the same shape or `probabilities` (n, C). It raises ValueError for labels that are not
    integers.
    Raises RecipeError for a name that is not in METRICS.
    """
    if name not in METRICS:
        remedy = did_you_mean(name, METRICS) or "Choose one of these."
        raise RecipeError("metric", f"no metric '{name}'. Found: {listed(METRICS)}", remedy)
    return metric_class(name)(label_names=label_names, multi_label=multi_label)


@cache
def metric_class(name: str) -> type[evaluate.Metric]:
    """The `evaluate.Metric` subclass of one entry of METRICS. Its constructor takes label_names and multi_label."""
    import evaluate

    definition = METRICS[name]

    class InProcessMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
        def __init__(self, *, label_names: Sequence[str], multi_label: bool = False) -> None:
            # Before the base, whose constructor asks for _info().
            self._label_names = tuple(label_names)
            self._multi_label = multi_label
            super().__init__(keep_in_memory=True)

        def _build_data_dir(self) -> str:
            # The base makes a folder in the user's cache even when everything stays in memory.
            return str(self._data_dir_root)

        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=definition.description,
                citation="",
                inputs_description=definition.description,
                features=_features(definition.needs, multi_label=self._multi_label),
            )

        def add_batch(self, **batch: Any) -> None:
            """Add documents: references, and predictions or probabilities."""
            _refuse_no_labels(batch)
            super().add_batch(**batch)

        def add(self, **example: Any) -> None:
            """Add one document: reference, and prediction or probabilities."""
            _refuse_no_labels(example)
            super().add(**example)

        def _compute(self, **inputs: Any) -> dict[str, Any]:
            _refuse_options(inputs)
            score = score_predictions if definition.needs == "predictions" else score_classification
            references, given = np.asarray(inputs["references"]), np.asarray(inputs[definition.needs])
            return definition.report(
                score(references, given, label_names=self._label_names, multi_label=self._multi_label)
            )

    InProcessMetric.__name__ = InProcessMetric.__qualname__ = "".join(part.title() for part in name.split("_"))
    return InProcessMetric


def _features(needs: str, *, multi_label: bool) -> Any:
    from datasets import Features, List, Value

    label = List(Value("int64")) if multi_label else Value("int64")
    return Features({needs: label if needs == "predictions" else List(Value("float64")), "references": label})


def _refuse_options(inputs: dict[str, Any]) -> None:
    """In a combination every metric is handed the inputs of all; anything else would be an option ignored."""
    unknown = sorted(inputs.keys() - {"references", "predictions", "probabilities"})
    if unknown:
        raise ValueError(f"compute knows no {listed(unknown)}; all averages are reported together")


def _refuse_no_labels(inputs: dict[str, Any]) -> None:
    """datasets would cut 1.9 to 1 and read "1" as 1; neither is a label."""
    for name in inputs.keys() & {"predictions", "prediction", "references", "reference"}:
        kind = np.asarray(inputs[name]).dtype
        if np.size(inputs[name]) and kind.kind not in "biu":
            raise ValueError(f"{name} must be integers, found {kind}. Take the argmax of scores first.")
