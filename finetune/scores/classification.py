"""Classification scores of documents: arrays in, numbers out.

Everything countable is a sum over documents. `outcome_rows` writes one sparse row for each distinct pair of
reference and prediction; added up over the documents, the rows become the totals from which `scores_of_totals`
computes every score. The bootstrap of intervals.py reweights the same rows, so a score and its interval share one
formula.

A class that was never predicted has no precision; a class without documents has no recall. Such a value is None for
the class and counts as 0 in macro and weighted averages (scikit-learn's zero_division=0), with a note that names the
class. An average without any defined term is None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from sklearn.metrics import roc_auc_score

from finetune.errors import listed

COUNTED_NAMES = (
    "accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_micro",
    "recall_micro",
    "f1_micro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "matthews",
)
METRIC_NAMES = (*COUNTED_NAMES, "roc_auc", "log_loss", "error_rate")
GREATER_IS_BETTER: dict[str, bool] = {name: name not in ("log_loss", "error_rate") for name in METRIC_NAMES}

# Probabilities may miss their sum by the rounding of half precision; logits miss it by far more.
SUM_TOLERANCE = 0.01
RANGE_TOLERANCE = 1e-6

PerClass = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Scores:
    """The scores of n documents.

    values: metric -> number, or None where it is undefined.
    notes: metric -> why it is None, or what a reader of the number must know.
    per_class: one dict a class: label, support, precision, recall, f1, tp, fp, tn, fn, tpr, fpr, tnr, fnr, or None.
    confusion: documents by reference (rows) and prediction (columns); empty for multi-label.
    """

    values: dict[str, float | None]
    notes: dict[str, str]
    per_class: list[PerClass]
    confusion: list[list[int]]
    n: int


def score_classification(
    references: np.ndarray,
    probabilities: np.ndarray,
    *,
    label_names: Sequence[str],
    multi_label: bool = False,
    thresholds: np.ndarray | None = None,
) -> Scores:
    """All of METRIC_NAMES for n documents and C classes.

    references: (n,) class numbers, or (n, C) of 0 and 1 when multi_label.
    probabilities: (n, C), rows summing to 1 unless multi_label. The prediction is the most probable class (the first
    of equals), or every class of at least 0.5, or of at least its own of `thresholds` (C,).
    accuracy is the share of documents that are right in every class; roc_auc the mean over classes of one against
    the rest (two classes: the second is the positive one); matthews Gorodkin's coefficient, for multi-label over all
    decisions; log_loss in nats, for multi-label the mean over documents and classes.
    Raises ValueError for probabilities that are not finite or none at all, for labels out of range, and for n = 0.
    """
    probabilities = checked_probabilities(probabilities, classes=len(label_names), multi_label=multi_label)
    predictions = predicted_labels(probabilities, multi_label=multi_label, thresholds=thresholds)
    scores = score_predictions(references, predictions, label_names=label_names, multi_label=multi_label)
    truth = _indicators(np.asarray(references), classes=len(label_names), multi_label=multi_label).toarray() > 0
    values, notes = dict(scores.values), dict(scores.notes)
    for name, (value, note) in {
        "roc_auc": _roc_auc(truth, probabilities, label_names=label_names, multi_label=multi_label),
        "log_loss": _log_loss(truth, probabilities, multi_label=multi_label),
    }.items():
        values[name] = value
        if note:
            notes[name] = note
    return replace(scores, values={name: values[name] for name in METRIC_NAMES}, notes=notes)


def score_predictions(
    references: np.ndarray, predictions: np.ndarray, *, label_names: Sequence[str], multi_label: bool = False
) -> Scores:
    """The scores that need no probabilities: COUNTED_NAMES and error_rate.

    references, predictions: both (n,) class numbers, or both (n, C) of 0 and 1 when multi_label.
    Raises ValueError for labels out of range, arrays that do not fit each other, and n = 0.
    """
    classes = len(label_names)
    references = checked_labels(references, classes=classes, multi_label=multi_label, name="references")
    predictions = checked_labels(predictions, classes=classes, multi_label=multi_label, name="predictions")
    if len(references) == 0 or len(references) != len(predictions):
        raise ValueError(f"{len(references)} references and {len(predictions)} predictions cannot be scored")
    rows, row_of_document = outcome_rows(references, predictions, classes=classes, multi_label=multi_label)
    totals = np.bincount(row_of_document, minlength=rows.shape[0]) @ rows
    values = {name: _number(value) for name, value in scores_of_totals(totals, multi_label=multi_label).items()}
    values["error_rate"] = 1.0 - (values["accuracy"] or 0.0)
    confusion: list[list[int]] = []
    if not multi_label:
        cells = np.bincount(references * classes + predictions, minlength=classes * classes)
        confusion = cells.reshape(classes, classes).tolist()
    return Scores(
        values=values,
        notes=_notes(values, totals, label_names=label_names),
        per_class=_per_class(totals, label_names=label_names),
        confusion=confusion,
        n=len(references),
    )


def predicted_labels(
    probabilities: np.ndarray, *, multi_label: bool = False, thresholds: np.ndarray | None = None
) -> np.ndarray:
    """(n, C) probabilities -> (n,) most probable classes, or (n, C) of 0 and 1 when multi_label.

    A label of several is predicted from 0.5 on, or from its own of `thresholds` (C,); they mean nothing to a single
    label.
    """
    if multi_label:
        return (probabilities >= (0.5 if thresholds is None else thresholds)).astype(np.int64)
    most_probable: np.ndarray = probabilities.argmax(axis=1)
    return most_probable


def outcome_rows(
    references: np.ndarray, predictions: np.ndarray, *, classes: int, multi_label: bool
) -> tuple[sparse.csr_array, np.ndarray]:
    """One row of counts for each distinct pair of reference and prediction, and for each document the number of its
    row.

    A row has 3C + 2 columns: per class whether it was hit, predicted, and true; then whether the whole document is
    right, and 1 for the document. Rows are sparse: a single-label row has at most five entries, however many classes
    there are.
    """
    if multi_label:
        pairs, row_of_document = np.unique(np.hstack([references, predictions]), axis=0, return_inverse=True)
        distinct_references, distinct_predictions = pairs[:, :classes], pairs[:, classes:]
    else:
        codes, row_of_document = np.unique(references * classes + predictions, return_inverse=True)
        distinct_references, distinct_predictions = np.divmod(codes, classes)
    true = _indicators(distinct_references, classes=classes, multi_label=multi_label)
    predicted = _indicators(distinct_predictions, classes=classes, multi_label=multi_label)
    hit = true.multiply(predicted)
    # Right in every class: as many hits as there are true and as there are predicted classes.
    hits, trues, guesses = (np.asarray(matrix.sum(axis=1)) for matrix in (hit, true, predicted))
    right = ((hits == trues) & (hits == guesses)).astype(np.int64)
    rows = sparse.hstack([hit, predicted, true, np.column_stack([right, np.ones_like(right)])], format="csr")
    return sparse.csr_array(rows), row_of_document.reshape(-1)


def scores_of_totals(totals: np.ndarray, *, multi_label: bool) -> dict[str, np.ndarray]:
    """COUNTED_NAMES of added-up outcome rows: (..., 3C + 2) -> name -> (...), NaN where undefined.

    Leading axes are independent totals, such as resamples.
    """
    hit, predicted, true = np.split(totals[..., :-2].astype(np.float64), 3, axis=-1)
    right, documents = totals[..., -2], totals[..., -1]
    numerators = {"precision": hit, "recall": hit, "f1": 2 * hit}
    denominators = {"precision": predicted, "recall": true, "f1": predicted + true}
    values = {"accuracy": _ratio(right, documents)}
    for name, numerator in numerators.items():
        by_class = _ratio(numerator, denominators[name])
        defined = np.isfinite(by_class).any(axis=-1)
        by_class = np.nan_to_num(by_class)
        weighted = _ratio((by_class * true).sum(axis=-1), true.sum(axis=-1))
        values[f"{name}_macro"] = np.where(defined, by_class.mean(axis=-1), np.nan)
        values[f"{name}_micro"] = _ratio(numerator.sum(axis=-1), denominators[name].sum(axis=-1))
        values[f"{name}_weighted"] = np.where(defined, weighted, np.nan)
    values["matthews"] = _matthews(
        hit, predicted, true, documents=documents.astype(np.float64), multi_label=multi_label
    )
    return {name: values[name] for name in COUNTED_NAMES}


def checked_labels(labels: np.ndarray, *, classes: int, multi_label: bool, name: str) -> np.ndarray:
    """The labels as int64 of the expected shape; ValueError for another shape, a fraction, or a class out of
    range.
    """
    labels = np.asarray(labels)
    expected = f"(documents, {classes})" if multi_label else "(documents,)"
    if labels.ndim != (2 if multi_label else 1) or (multi_label and labels.shape[1] != classes):
        raise ValueError(f"{name} have shape {labels.shape}, expected {expected}")
    # Multi-label references often come as the floats that the loss needs; 0.0 and 1.0 lose nothing as integers.
    if labels.dtype.kind not in ("biuf" if multi_label else "biu"):
        raise ValueError(f"{name} must be whole numbers, found {labels.dtype}")
    highest = 1 if multi_label else classes - 1
    allowed = (labels == 0) | (labels == 1) if multi_label else (labels >= 0) & (labels <= highest)
    if not allowed.all():
        raise ValueError(f"{name} must be 0 to {highest}, found {labels[~allowed].flat[0]}")
    return labels.astype(np.int64)


def checked_probabilities(probabilities: np.ndarray, *, classes: int, multi_label: bool) -> np.ndarray:
    """The probabilities as float64 (n, C) within 0..1; ValueError for anything that is not probabilities."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or probabilities.shape[1] != classes:
        raise ValueError(f"probabilities have shape {probabilities.shape}, expected (documents, {classes})")
    if not np.isfinite(probabilities).all():
        broken = int(np.flatnonzero(~np.isfinite(probabilities).all(axis=1))[0])
        raise ValueError(f"probabilities of document {broken} are not finite: {probabilities[broken].tolist()}")
    if (probabilities < -RANGE_TOLERANCE).any() or (probabilities > 1 + RANGE_TOLERANCE).any():
        raise ValueError("probabilities must be between 0 and 1; are these logits?")
    if not multi_label and (np.abs(probabilities.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise ValueError("the probabilities of a document must add up to 1; is this multi-label?")
    return probabilities.clip(0.0, 1.0)


def _indicators(labels: np.ndarray, *, classes: int, multi_label: bool) -> sparse.csr_array:
    """(n,) class numbers or (n, C) of 0 and 1 -> sparse (n, C) of 0 and 1."""
    if multi_label:
        return sparse.csr_array(labels.astype(np.int64))
    ones = np.ones(len(labels), dtype=np.int64)
    return sparse.csr_array((ones, (np.arange(len(labels)), labels)), shape=(len(labels), classes))


def _matthews(
    hit: np.ndarray, predicted: np.ndarray, true: np.ndarray, *, documents: np.ndarray, multi_label: bool
) -> np.ndarray:
    """Gorodkin (2004), Comparing two K-category assignments by a K-category correlation coefficient."""
    right = hit.sum(axis=-1)
    if multi_label:
        # Every (document, class) is one yes-or-no decision: a problem of two classes.
        yes, guesses = true.sum(axis=-1), predicted.sum(axis=-1)
        documents = documents * true.shape[-1]
        right = documents - yes - guesses + 2 * right
        true = np.stack([yes, documents - yes], axis=-1)
        predicted = np.stack([guesses, documents - guesses], axis=-1)
    covariance = right * documents - (true * predicted).sum(axis=-1)
    spread = (documents**2 - (predicted**2).sum(axis=-1)) * (documents**2 - (true**2).sum(axis=-1))
    return _ratio(covariance, np.sqrt(spread))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Numerator / denominator, NaN where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) > 0)
    return undefined


def _number(value: np.ndarray | float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _roc_auc(
    truth: np.ndarray, probabilities: np.ndarray, *, label_names: Sequence[str], multi_label: bool
) -> tuple[float | None, str]:
    """The mean over classes of one against the rest, or None and the classes that make it undefined."""
    members = truth.sum(axis=0)
    one_sided = [
        f"'{name}' ({'no' if count == 0 else 'every'} document)"
        for name, count in zip(label_names, members, strict=True)
        if count in (0, len(truth))
    ]
    if one_sided:
        return None, f"undefined for a class that no document or every document has: {listed(one_sided)}"
    columns = [1] if not multi_label and len(label_names) == 2 else range(len(label_names))
    return float(np.mean([roc_auc_score(truth[:, column], probabilities[:, column]) for column in columns])), ""


def _log_loss(truth: np.ndarray, probabilities: np.ndarray, *, multi_label: bool) -> tuple[float, str]:
    """Cross-entropy in nats. As in scikit-learn, a probability of 0 counts as the smallest float step, with a note."""
    given_to_truth = np.where(truth, probabilities, 1.0 - probabilities) if multi_label else probabilities[truth]
    step = float(np.finfo(np.float64).eps)
    impossible = int((given_to_truth <= 0).sum())
    note = f"{impossible} true answers had probability 0, counted as {step:.1e}" if impossible else ""
    return float(-np.log(given_to_truth.clip(step, 1 - step)).mean()), note


def _notes(values: dict[str, float | None], totals: np.ndarray, *, label_names: Sequence[str]) -> dict[str, str]:
    """Why a value is None, and which classes count as 0 in an average."""
    _, predicted, true = np.split(totals[:-2], 3)
    never = {
        "precision": ("never predicted", predicted == 0),
        "recall": ("no document has it", true == 0),
        "f1": ("neither predicted nor in any document", (predicted == 0) & (true == 0)),
    }
    notes: dict[str, str] = {}
    for name, (reason, undefined) in never.items():
        for average in ("macro", "weighted"):
            # A class without documents has no weight, so it cannot lower a weighted average.
            matters = undefined if average == "macro" else undefined & (true > 0)
            if matters.any():
                zeros = [f"'{label}'" for label, zero in zip(label_names, matters, strict=True) if zero]
                notes[f"{name}_{average}"] = f"counted as 0 ({reason}): {listed(zeros)}"
        for average in ("macro", "micro", "weighted"):
            if values[f"{name}_{average}"] is None:
                notes[f"{name}_{average}"] = f"undefined: {reason}, for every class"
    if values["matthews"] is None:
        notes["matthews"] = "undefined: the references or the predictions have one class only"
    return notes


def _per_class(totals: np.ndarray, *, label_names: Sequence[str]) -> list[PerClass]:
    hit, predicted, true = np.split(totals[:-2], 3)
    n = int(totals[-1])
    rows: list[PerClass] = []
    for label, tp, guesses, support in zip(label_names, hit.tolist(), predicted.tolist(), true.tolist(), strict=True):
        fp, fn = guesses - tp, support - tp
        tn = n - tp - fp - fn
        row: PerClass = {"label": label, "support": support}
        row |= {
            "precision": _share(tp, guesses),
            "recall": _share(tp, support),
            "f1": _share(2 * tp, guesses + support),
        }
        row |= {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
        row |= {"tpr": _share(tp, support), "fpr": _share(fp, n - support)}
        row |= {"tnr": _share(tn, n - support), "fnr": _share(fn, support)}
        rows.append(row)
    return rows


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
