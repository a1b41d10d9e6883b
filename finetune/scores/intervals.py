"""How far a score of a finite test set may be from the truth: Wilson's interval and the bootstrap.

The bootstrap draws documents, or whole groups (author, file) where documents of a group resemble each other.
Documents with the same reference and the same prediction are interchangeable, so a resample is one multinomial draw
of counts over the distinct outcomes and never touches single documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from scipy import sparse

from finetune.scores.classification import checked_labels, outcome_rows, scores_of_totals

# Fewer units than this say too little about their own spread.
LEAST_EFFECTIVE_GROUPS = 10
# A score that is undefined in more resamples than this has no interval.
MOST_UNDEFINED_SHARE = 0.05
COUNTS_PER_BLOCK = 4_000_000


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
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
) -> dict[str, tuple[float, float]]:
    """Bias-corrected percentile intervals of the counted scores (Efron and Tibshirani, 1993, chapter 14).

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
    if len(references) != len(predictions) or (groups is not None and len(groups) != len(references)):
        raise ValueError("references, predictions and groups must have one entry for each document")
    independent = float(len(references)) if groups is None else effective_groups(groups)
    if independent < LEAST_EFFECTIVE_GROUPS:
        return {}
    units, repeats = _units(references, predictions, classes=classes, multi_label=multi_label, groups=groups)
    points = scores_of_totals(repeats @ units, multi_label=multi_label)
    blocks = [
        scores_of_totals(weights @ units, multi_label=multi_label)
        for weights in _resampled_repeats(repeats, resamples=resamples, seed=seed)
    ]
    intervals = {}
    for name, point in points.items():
        resampled = np.concatenate([block[name] for block in blocks])
        interval = _bias_corrected(resampled, point=float(point), confidence=confidence)
        if interval is None and name == "accuracy":
            interval = _wilson_of_share(float(point), independent, confidence=confidence)
        if interval is not None:
            lowest = -1.0 if name == "matthews" else 0.0
            intervals[name] = (max(lowest, interval[0]), min(1.0, interval[1]))
    return intervals


def effective_groups(groups: np.ndarray) -> float:
    """How many groups of equal size would vary as much: (sum n)^2 / sum n^2 over the sizes n (Kish, 1965). 0 for no
    documents.
    """
    if len(groups) == 0:
        return 0.0
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _units(
    references: np.ndarray, predictions: np.ndarray, *, classes: int, multi_label: bool, groups: np.ndarray | None
) -> tuple[sparse.csr_array, np.ndarray]:
    """Outcome rows of what is drawn (distinct outcomes, or groups), and how often each occurs."""
    rows, row_of_document = outcome_rows(references, predictions, classes=classes, multi_label=multi_label)
    if groups is None:
        return rows, np.bincount(row_of_document, minlength=rows.shape[0])
    names, group_of_document = np.unique(groups, return_inverse=True)
    documents = np.ones(len(row_of_document), dtype=np.int64)
    shape = (len(names), rows.shape[0])
    membership = sparse.csr_array((documents, (group_of_document.reshape(-1), row_of_document)), shape=shape)
    return sparse.csr_array(membership @ rows), np.ones(len(names), dtype=np.int64)


def _resampled_repeats(repeats: np.ndarray, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (resamples, units): how often each unit occurs in a draw, with replacement, of as many as there
    are.
    """
    generator = np.random.default_rng(seed)
    drawn = int(repeats.sum())
    block = max(1, COUNTS_PER_BLOCK // len(repeats))
    for start in range(0, resamples, block):
        yield generator.multinomial(drawn, repeats / drawn, size=min(block, resamples - start))


def _bias_corrected(resampled: np.ndarray, *, point: float, confidence: float) -> tuple[float, float] | None:
    """The percentile interval, shifted by how far the resamples lie to one side of the point; None when they say
    nothing.
    """
    defined = resampled[np.isfinite(resampled)]
    if not math.isfinite(point) or len(defined) < (1 - MOST_UNDEFINED_SHARE) * len(resampled):
        return None
    if np.ptp(defined) < 1e-12:
        return None
    equal = np.abs(defined - point) < 1e-12
    below = np.mean((defined < point) & ~equal) + np.mean(equal) / 2
    normal = NormalDist()
    # No resample on one side would be a shift without end; half a resample is the least that can be told.
    shift = normal.inv_cdf(float(np.clip(below, 0.5 / len(defined), 1 - 0.5 / len(defined))))
    reach = normal.inv_cdf((1 + confidence) / 2)
    low, high = np.quantile(defined, [normal.cdf(2 * shift - reach), normal.cdf(2 * shift + reach)])
    return min(float(low), point), max(float(high), point)


def _wilson_of_share(share: float, n: float, *, confidence: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = share + z**2 / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # At the ends rounding would leave 1e-17 instead of 0, or cut the share itself off.
    low = 0.0 if share == 0 else max(0.0, (centre - reach) / scale)
    high = 1.0 if share == 1 else min(1.0, (centre + reach) / scale)
    return low, high
