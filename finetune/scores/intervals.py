"""How far a score of a finite test set may be from the truth: Wilson's interval and the bootstrap.

The bootstrap draws documents, or whole groups (author, file) where documents of a group resemble each other.
Documents with the same reference and the same prediction are interchangeable, so without groups a resample of counted
scores is one draw of counts over the distinct outcomes. docs/evaluation.md tabulates how often these intervals
contained the truth in simulations.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse
from scipy.special import ndtri
from scipy.stats import rankdata

from finetune.scores.bootstrap import Interval as Interval
from finetune.scores.bootstrap import Units, bootstrap, log_odds_interval, spread_of
from finetune.scores.classification import (
    COUNTED_NAMES,
    checked_labels,
    checked_probabilities,
    outcome_rows,
    scores_of_totals,
)

# Fewer units than this say too little about their own spread.
LEAST_EFFECTIVE_GROUPS = 10
# The same number as accuracy where every document has one label.
ACCURACY_BY_OTHER_NAMES = ("precision_micro", "recall_micro", "f1_micro", "recall_weighted")
# With two, over 5 % of resamples would have none.
LEAST_UNITS_OF_A_CLASS = 3
# Chosen by simulation (benchmarks/interval_coverage.py): an area near 1 hangs on few, badly ranked documents.
UNSEEN_TAIL_OF_AREAS = 1.25
CLASS_SCORES = ("precision", "recall", "f1", "fpr")


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The score interval of a share (Wilson, 1927): (low, high) within 0..1.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} is not a share")
    return _wilson_of_share(successes / n, float(n), confidence=confidence)


def bootstrap_classification(
    references: np.ndarray,
    predictions: np.ndarray,
    *,
    classes: int,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int,
    multi_label: bool = False,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of the counted scores: Wilson's for the accuracy of documents without groups, else the bootstrap.

    references, predictions: (n,) class numbers, or (n, C) of 0 and 1 when multi_label. groups: (n,) or None;
    documents of one group are drawn together, and a group as often as any other.
    Returns score name -> (low, high), clamped to the score's range (matthews -1..1, others 0..1) and widened where
    needed to contain the score itself. Empty below ten effective groups. A score that is undefined in itself or in
    over 5 % of the resamples has no entry, nor has one that is the same in every resample, as when every document is
    right; accuracy then gets Wilson's interval for as many trials as there are effective groups.
    Raises ValueError for labels out of range or arrays of unequal length.
    """
    references = checked_labels(references, classes=classes, multi_label=multi_label, name="references")
    predictions = checked_labels(predictions, classes=classes, multi_label=multi_label, name="predictions")
    _check_lengths(references, predictions, groups, what="predictions")
    independent = independent_units(len(references), groups)
    if independent < LEAST_EFFECTIVE_GROUPS:
        return {}

    def statistics(totals: np.ndarray) -> np.ndarray:
        values = scores_of_totals(totals, multi_label=multi_label)
        return np.stack([values[name] for name in COUNTED_NAMES], axis=-1)

    units = _outcome_units(references, predictions, classes=classes, multi_label=multi_label, groups=groups)
    found = bootstrap(units, statistics, resamples=resamples, seed=seed, independent=independent, confidence=confidence)
    intervals = {
        name: _clamped(interval, least=-1.0 if name == "matthews" else 0.0)
        for name, interval in zip(COUNTED_NAMES, found, strict=True)
        if interval is not None
    }
    if groups is None or "accuracy" not in intervals:
        wrong = (references != predictions).reshape(len(references), -1).any(axis=1)
        intervals["accuracy"] = _wilson_of_share(1 - wrong.mean(), independent, confidence=confidence)
        if not multi_label and groups is None:
            intervals |= {name: intervals["accuracy"] for name in ACCURACY_BY_OTHER_NAMES}
    return {name: intervals[name] for name in COUNTED_NAMES if name in intervals}


def bootstrap_probabilities(
    references: np.ndarray,
    probabilities: np.ndarray,
    *,
    classes: int,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int,
    multi_label: bool = False,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of log_loss (nats) and roc_auc, as classification.py defines them.

    references: (n,) class numbers, or (n, C) of 0 and 1 when multi_label. probabilities: (n, C). groups: (n,) or None.
    log_loss has the bootstrap. roc_auc has the jackknife over its placement values (DeLong, DeLong and
    Clarke-Pearson, 1988; over groups Obuchowski, 1997), on the scale of log odds: in simulations the bootstrap of an
    area near 1 with 30 positives covered less. Both are empty below ten effective groups; log_loss where it is the same
    in all resamples; roc_auc at 1 and 0, and where a class, or its complement, is in fewer than three documents (or
    groups).
    Raises ValueError for labels or probabilities out of range, and for arrays of unequal length.
    """
    references = checked_labels(references, classes=classes, multi_label=multi_label, name="references")
    probabilities = checked_probabilities(probabilities, classes=classes, multi_label=multi_label)
    _check_lengths(references, probabilities, groups, what="probabilities")
    independent = independent_units(len(references), groups)
    if independent < LEAST_EFFECTIVE_GROUPS:
        return {}
    truth = references > 0 if multi_label else references[:, None] == np.arange(classes)
    losses = -np.log(np.where(truth, probabilities, 1 - probabilities).clip(np.finfo(np.float64).eps, None))
    losses = losses.mean(axis=1) if multi_label else losses[truth]
    columns = [1] if not multi_label and classes == 2 else list(range(classes))
    found = {
        "log_loss": bootstrap_mean(losses, groups=groups, resamples=resamples, seed=seed, confidence=confidence),
        "roc_auc": _area_interval(
            truth[:, columns], probabilities[:, columns], groups, independent=independent, confidence=confidence
        ),
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def bootstrap_mean(
    values: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int,
    confidence: float = 0.95,
) -> Interval | None:
    """Bootstrap interval of the mean of (n,) finite numbers, one a document, such as its loss.

    None below ten effective groups, or where all resamples are the same. Raises ValueError for numbers that are not
    finite and for groups of another length.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("values must be one finite number for each document")
    _check_lengths(values, values, groups, what="values")
    independent = independent_units(len(values), groups)
    if independent < LEAST_EFFECTIVE_GROUPS:
        return None
    units = summed_units(np.column_stack([values, np.ones(len(values))]), groups)
    found = bootstrap(
        units,
        lambda totals: totals[..., :1] / totals[..., 1:],
        resamples=resamples,
        seed=seed,
        independent=independent,
        confidence=confidence,
    )
    return found[0]


def class_intervals(
    references: np.ndarray,
    predictions: np.ndarray,
    *,
    classes: int,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int,
    multi_label: bool = False,
    confidence: float = 0.95,
) -> list[dict[str, list[float]]]:
    """For each class the intervals [low, high] of precision, recall, f1 and fpr.

    Without groups the three rates have Wilson's interval for the documents they are a share of; f1, and all four where
    there are groups, the bootstrap. An entry is missing where the score is undefined; for f1 also where all resamples
    are the same, or over 5 % undefined; and where the documents that the rate is a share of come from fewer than ten
    effective groups. A rate that is the same in all resamples has Wilson's interval for as many trials as there are
    such groups. All are empty below ten effective groups.
    Raises ValueError as bootstrap_classification does.
    """
    references = checked_labels(references, classes=classes, multi_label=multi_label, name="references")
    predictions = checked_labels(predictions, classes=classes, multi_label=multi_label, name="predictions")
    _check_lengths(references, predictions, groups, what="predictions")
    independent = independent_units(len(references), groups)
    if independent < LEAST_EFFECTIVE_GROUPS:
        return [{} for _ in range(classes)]
    units = _outcome_units(references, predictions, classes=classes, multi_label=multi_label, groups=groups)
    names = ("f1",) if groups is None else CLASS_SCORES

    def statistics(totals: np.ndarray) -> np.ndarray:
        hits, trials = _class_shares(totals)
        return np.concatenate([_ratio(hits[name], trials[name]) for name in names], axis=-1)

    effective = _effective_trials(units, classes=classes, grouped=groups is not None)
    found = bootstrap(units, statistics, resamples=resamples, seed=seed, independent=independent, confidence=confidence)
    hits, trials = _class_shares(np.asarray(units.repeats @ units.rows))
    intervals: list[dict[str, list[float]]] = []
    for number in range(classes):
        entries: dict[str, list[float]] = {}
        for name in CLASS_SCORES:
            total, base = trials[name][number], effective[name][number]
            if total == 0 or (groups is not None and base < LEAST_EFFECTIVE_GROUPS):
                continue
            interval = found[names.index(name) * classes + number] if name in names else None
            if interval is None and name != "f1":
                interval = _wilson_of_share(hits[name][number] / total, base, confidence=confidence)
            if interval is not None:
                entries[name] = list(_clamped(interval))
        intervals.append(entries)
    return intervals


def effective_groups(groups: np.ndarray) -> float:
    """How many groups of equal size would vary as much: (sum n)^2 / sum n^2 over the sizes n (Kish, 1965). 0 for no
    documents.
    """
    if len(groups) == 0:
        return 0.0
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def least_class_groups(references: np.ndarray, groups: np.ndarray, *, classes: int, multi_label: bool = False) -> float:
    """From how many effective groups the documents of a class come, for the class with the fewest; classes without
    documents do not count.
    """
    columns = references.T > 0 if multi_label else (references == number for number in range(classes))
    return min((effective_groups(groups[members]) for members in columns if members.any()), default=0.0)


def independent_units(documents: int, groups: np.ndarray | None) -> float:
    """The effective number of what is drawn: documents, or groups."""
    return float(documents) if groups is None else effective_groups(groups)


def _check_lengths(references: np.ndarray, others: np.ndarray, groups: np.ndarray | None, *, what: str) -> None:
    if len(references) != len(others) or (groups is not None and len(groups) != len(references)):
        raise ValueError(f"references, {what} and groups must have one entry for each document")


def _outcome_units(
    references: np.ndarray, predictions: np.ndarray, *, classes: int, multi_label: bool, groups: np.ndarray | None
) -> Units:
    """Outcome rows of what is drawn: distinct outcomes of documents, or groups."""
    rows, row_of_document = outcome_rows(references, predictions, classes=classes, multi_label=multi_label)
    if groups is None:
        return Units(rows, np.bincount(row_of_document, minlength=rows.shape[0]))
    membership = _membership(groups, columns=row_of_document, shape=rows.shape[0])
    return Units(sparse.csr_array(membership @ rows), np.ones(membership.shape[0], dtype=np.int64))


def summed_units(rows: np.ndarray, groups: np.ndarray | None) -> Units:
    """(n, K) rows of documents -> rows of what is drawn: documents in an order of their own, or groups."""
    if groups is None:
        rows = rows[np.lexsort(rows.T)]
    else:
        membership = _membership(groups, columns=np.arange(len(rows)), shape=len(rows))
        rows = membership @ rows
    return Units(rows, np.ones(len(rows), dtype=np.int64))


def _membership(groups: np.ndarray, *, columns: np.ndarray, shape: int) -> sparse.csr_array:
    """(groups, shape): how many documents of each group have each column."""
    names, group_of_document = np.unique(groups, return_inverse=True)
    ones = np.ones(len(columns), dtype=np.int64)
    return sparse.csr_array((ones, (group_of_document.reshape(-1), columns)), shape=(len(names), shape))


def _class_shares(totals: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(..., 3C + 2) outcome totals -> CLASS_SCORES as parts and wholes, (..., C) each."""
    hit, predicted, true = np.split(totals[..., :-2].astype(np.float64), 3, axis=-1)
    documents = totals[..., -1:]
    parts = {"precision": hit, "recall": hit, "f1": 2 * hit, "fpr": predicted - hit}
    wholes = {"precision": predicted, "recall": true, "f1": predicted + true, "fpr": documents - true}
    return parts, wholes


def _effective_trials(units: Units, *, classes: int, grouped: bool) -> dict[str, np.ndarray]:
    """CLASS_SCORES -> (C,) how many documents each is a share of, or from how many effective groups they come."""
    wholes = _class_shares(np.asarray(units.repeats @ units.rows))[1]
    if not grouped:
        return wholes
    predicted, true = units.rows[:, classes : 2 * classes], units.rows[:, 2 * classes : 3 * classes]
    sizes = units.rows[:, [-1]].toarray().astype(np.float64).reshape(-1)
    squares = {
        "precision": predicted.power(2).sum(axis=0),
        "recall": true.power(2).sum(axis=0),
        "f1": (predicted + true).power(2).sum(axis=0),
        "fpr": (sizes**2).sum() - 2 * (sizes @ true) + true.power(2).sum(axis=0),
    }
    return {name: whole**2 / np.maximum(np.asarray(squares[name]), 1) for name, whole in wholes.items()}


def _area_interval(
    truth: np.ndarray, scores: np.ndarray, groups: np.ndarray | None, *, independent: float, confidence: float
) -> Interval | None:
    """(n, C) members and scores -> the interval of the mean area over classes."""
    left_out, areas = 0.0, []
    for column in range(truth.shape[1]):
        placed = _placements(truth[:, column], scores[:, column])
        rows = summed_units(placed, groups).rows if groups is not None else placed
        if ((rows[:, [0, 2]] > 0).sum(axis=0) < LEAST_UNITS_OF_A_CLASS).any():
            return None
        totals = rows.sum(axis=0)
        areas.append(totals[1] / totals[0])
        others = totals - rows
        # Of all documents both means are the area; a unit moves it by its members and by its others.
        left_out = left_out + _ratio(others[:, 1], others[:, 0]) + _ratio(others[:, 3], others[:, 2]) - areas[-1]
    area, values = float(np.mean(areas)), np.reshape(left_out, (-1, 1)) / len(areas)
    spread = spread_of(
        [(values, np.ones(len(values), dtype=np.int64))],
        points=np.array([area]),
        independent=independent,
        confidence=confidence,
        unseen_tail=UNSEEN_TAIL_OF_AREAS,
    )
    return log_odds_interval(area, error=float(spread.error[0]), reach=float(spread.reach[0]))


def _placements(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) truth and scores of one class -> (n, 4): member, its placement; other, its placement. A placement is the
    share of the other side that the document is ranked right against, equals counting half.
    """
    rows = np.zeros((len(truth), 4))
    rows[:, 0], rows[:, 2] = truth, ~truth
    members, others = int(truth.sum()), int((~truth).sum())
    if members and others:
        ranks = rankdata(scores)
        rows[truth, 1] = (ranks[truth] - rankdata(scores[truth])) / others
        rows[~truth, 3] = 1 - (ranks[~truth] - rankdata(scores[~truth])) / members
    return rows


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where there is nothing."""
    undefined = np.full(part.shape, np.nan)
    np.divide(part, whole, out=undefined, where=whole > 0)
    return undefined


def _clamped(interval: Interval, *, least: float = 0.0, most: float = 1.0) -> Interval:
    return max(least, interval[0]), min(most, interval[1])


def _wilson_of_share(share: float, n: float, *, confidence: float) -> Interval:
    z = float(ndtri((1 + confidence) / 2))
    centre = share + z**2 / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # At the ends rounding would leave 1e-17 instead of 0, or cut the share itself off.
    low = 0.0 if share == 0 else max(0.0, (centre - reach) / scale)
    high = 1.0 if share == 1 else min(1.0, (centre + reach) / scale)
    return low, high
