"""The scores as `evaluate` metrics that need no network: `load("f1", label_names=names)`, `load("bleu")`.

The Hub's metrics have to be downloaded, run downloaded code, cut floats to integers without a word, lose a class that
happens to be absent, and take a Chinese sentence for one word. These live in the process, keep their inputs in memory,
refuse what is no label, count every class in `label_names`, and choose BLEU's tokeniser by the language. They work
alone and in `evaluate.combine`, with `add`, `add_batch` and `compute`.
Importing this file is cheap; `evaluate` (seconds) is imported when the first metric is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from finetune.errors import RecipeError, did_you_mean, listed
from finetune.scores.bleu_tokenizers import bleu_tokenizer_for, check_bleu_tokenizer
from finetune.scores.classification import Scores, score_classification, score_predictions
from finetune.scores.generation import (
    bleu,
    bleu_rows,
    check_texts,
    chrf_rows,
    chrf_signature,
    exact_matches,
    rouge_f,
    signatures,
)
from finetune.scores.text_metrics import chrf_of_sums

if TYPE_CHECKING:
    import evaluate


@dataclass(frozen=True)
class Options:
    """What a metric was loaded with."""

    label_names: tuple[str, ...] = ()
    multi_label: bool = False
    tokenizer: str | None = None


@dataclass(frozen=True)
class Definition:
    """One metric of labels: the input it needs beside `references`, and what it reports of the scores, by result key.

    A score that is undefined is reported as None, with its reason under the key `<score>_note`.
    """

    description: str
    needs: Literal["predictions", "probabilities"]
    report: Callable[[Scores], dict[str, Any]]

    def features(self, options: Options) -> dict[str, Any]:
        from datasets import List, Value

        label = List(Value("int64")) if options.multi_label else Value("int64")
        return {self.needs: label if self.needs == "predictions" else List(Value("float64")), "references": label}

    def refuse(self, name: str, values: Any) -> None:
        """datasets would cut 1.9 to 1 and read "1" as 1; neither is a label."""
        kind = np.asarray(values).dtype
        if np.size(values) and kind.kind not in "biu":
            raise ValueError(f"{name} must be integers, found {kind}. Take the argmax of scores first.")

    def compute(self, references: Any, given: Any, options: Options) -> dict[str, Any]:
        score = score_predictions if self.needs == "predictions" else score_classification
        sides = np.asarray(references), np.asarray(given)
        return self.report(score(*sides, label_names=options.label_names, multi_label=options.multi_label))


@dataclass(frozen=True)
class TextDefinition:
    """One metric of generated text: what it reports, by result key, of n references and n predictions."""

    description: str
    report: Callable[[Sequence[str], Sequence[str], Options], dict[str, Any]]
    needs: ClassVar[str] = "predictions"

    def features(self, options: Options) -> dict[str, Any]:
        from datasets import Value

        return {"predictions": Value("string"), "references": Value("string")}

    def refuse(self, name: str, values: Any) -> None:
        """datasets would write 1 as "1", and a list of references as its printed form."""
        found = {"one text"} if isinstance(values, str) else {type(one).__name__ for one in values} - {"str", "str_"}
        if found:
            raise ValueError(f"{name} must be texts, one for each document, found {listed(sorted(found))}")

    def compute(self, references: Any, given: Any, options: Options) -> dict[str, Any]:
        texts, predictions = list(references), list(given)
        check_texts(texts, predictions)
        return self.report(texts, predictions, options)


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


def _report_bleu(references: Sequence[str], predictions: Sequence[str], options: Options) -> dict[str, Any]:
    tokenizer = options.tokenizer or bleu_tokenizer_for(references)
    sums = bleu_rows(references, predictions, bleu_tokenizer=tokenizer).sum(axis=0)
    return {"bleu": bleu(sums), "bleu_signature": signatures(tokenizer)["bleu"]}


def _report_chrf(references: Sequence[str], predictions: Sequence[str], options: Options) -> dict[str, Any]:
    sums = chrf_rows(references, predictions).sum(axis=0)
    return {"chrf": float(chrf_of_sums(sums)), "chrf_signature": chrf_signature()}


def _report_rouge(references: Sequence[str], predictions: Sequence[str], options: Options) -> dict[str, Any]:
    return {name: float(values.mean()) for name, values in rouge_f(references, predictions).items()}


def _report_exact(references: Sequence[str], predictions: Sequence[str], options: Options) -> dict[str, Any]:
    return {"exact_match": float(exact_matches(references, predictions).mean())}


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


GENERATION_METRICS: dict[str, TextDefinition] = {
    "bleu": TextDefinition("BLEU as sacrebleu computes it, and its signature.", _report_bleu),
    "chrf": TextDefinition("chrF2 as sacrebleu computes it, and its signature.", _report_chrf),
    "rouge": TextDefinition("ROUGE-1, ROUGE-2 and ROUGE-L, mean F1 over documents.", _report_rouge),
    "exact_match": TextDefinition("Share of predictions equal to the reference.", _report_exact),
}


def load(
    name: str, *, label_names: Sequence[str] | None = None, multi_label: bool = False, tokenizer: str | None = None
) -> evaluate.Metric:
    """A fresh metric: one of METRICS for documents of `len(label_names)` classes, or one of GENERATION_METRICS.

    `compute` takes `references`, (n,) class numbers or (n, C) of 0 and 1 when multi_label, and by the metric's
    `needs` `predictions` of the same shape or `probabilities` (n, C). It raises ValueError for labels that are not
    integers. Of texts it takes n `references` and n `predictions`, and refuses empty references.
    tokenizer: of bleu, one of BLEU_TOKENIZERS; left out, it is chosen by the script of the references.
    Raises RecipeError for an unknown name or tokeniser, EnvironmentFault for a tokeniser that is not there, ValueError
    for label_names left out, or given to a metric of texts.
    """
    if name not in METRICS and name not in GENERATION_METRICS:
        known = [*METRICS, *GENERATION_METRICS]
        remedy = did_you_mean(name, known) or "Choose one of these."
        raise RecipeError("metric", f"no metric '{name}'. Found: {listed(known, most=len(known))}", remedy)
    if (name in METRICS) != (label_names is not None) or (multi_label and name not in METRICS):
        raise ValueError(f"'{name}' {'needs' if name in METRICS else 'has no'} label_names")
    if tokenizer is not None:
        if name != "bleu":
            raise ValueError(f"'{name}' has no tokenizer; bleu has")
        check_bleu_tokenizer(tokenizer, where="tokenizer")
    return metric_class(name)(label_names=label_names or (), multi_label=multi_label, tokenizer=tokenizer)


@cache
def metric_class(name: str) -> type[evaluate.Metric]:
    """The `evaluate.Metric` subclass of an entry of either table; its constructor takes what `load` takes."""
    import evaluate
    from datasets import Features

    definition = METRICS.get(name) or GENERATION_METRICS[name]

    class InProcessMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
        def __init__(
            self, *, label_names: Sequence[str] = (), multi_label: bool = False, tokenizer: str | None = None
        ) -> None:
            # Before the base, whose constructor asks for _info().
            self._options = Options(tuple(label_names), multi_label, tokenizer)
            super().__init__(keep_in_memory=True)

        def _build_data_dir(self) -> str:
            # The base makes a folder in the user's cache even when everything stays in memory.
            return str(self._data_dir_root)

        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=definition.description,
                citation="",
                inputs_description=definition.description,
                features=Features(definition.features(self._options)),
            )

        def add_batch(self, **batch: Any) -> None:
            """Add documents: references, and predictions or probabilities."""
            for side in _judged(batch):
                definition.refuse(side, batch[side])
            super().add_batch(**batch)

        def add(self, **example: Any) -> None:
            """Add one document: reference, and prediction or probabilities."""
            for side in _judged(example):
                definition.refuse(side, [example[side]])
            super().add(**example)

        def _compute(self, **inputs: Any) -> dict[str, Any]:
            _refuse_options(inputs)
            return definition.compute(inputs["references"], inputs[definition.needs], self._options)

    InProcessMetric.__name__ = InProcessMetric.__qualname__ = "".join(part.title() for part in name.split("_"))
    return InProcessMetric


def _judged(inputs: dict[str, Any]) -> set[str]:
    """The inputs that a definition looks at before datasets does; probabilities are checked with the scores."""
    return inputs.keys() & {"predictions", "prediction", "references", "reference"}


def _refuse_options(inputs: dict[str, Any]) -> None:
    """In a combination every metric is handed the inputs of all; anything else would be an option ignored."""
    unknown = sorted(inputs.keys() - {"references", "predictions", "probabilities"})
    if unknown:
        raise ValueError(f"compute knows no {listed(unknown)}; all averages are reported together")
