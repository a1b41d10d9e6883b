"""What the scores of several folds say about their mean: the corrected resampled t of Nadeau and Bengio.

Nadeau and Bengio, Inference for the Generalization Error, Machine Learning 52 (2003), 239-281, section 4. The folds
share most of their training documents, so their scores are no independent draws and s^2 / J is too small. The
correction adds n_test / n_train times s^2. It assumes random resampling with one correlation for every two scores,
which cross-validation only resembles: a heuristic, without a promise of coverage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NO_SPREAD = 1e-12  # scores are at most about one: what is below this is rounding


def corrected_interval(
    values: Sequence[float], *, train_documents: Sequence[int], test_documents: Sequence[int]
) -> tuple[float, float]:
    """mean ± t(J - 1, .975) sqrt((1 / J + n_test / n_train) s^2) of J >= 2 scores, one for each fold and repeat.

    train_documents: how many each was really trained on, without the part that chose the epoch; test_documents: how
    many were held out; both (J,). Their ratio is that of the sums. Equal values have an interval without width: folds
    that agree say nothing of their spread. Raises ValueError for fewer than two values or unequal lengths.
    """
    mean, error, freedom = _mean_and_error(values, train_documents=train_documents, test_documents=test_documents)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return mean - reach, mean + reach


def corrected_paired_test(
    differences: Sequence[float], *, train_documents: Sequence[int], test_documents: Sequence[int]
) -> tuple[float, float, float, float]:
    """(difference, low, high, p) of J >= 2 differences on the same folds: their mean, interval and two-sided p.

    As `corrected_interval`; p is that of t = mean / error with J - 1 degrees of freedom. Where all differences are
    zero p is 1. Where all are the same other number they say nothing of their spread, and t has no bound: then p is
    that of the sign test, 2 / 2^J for J differences of one sign.
    """
    mean, error, freedom = _mean_and_error(differences, train_documents=train_documents, test_documents=test_documents)
    low, high = corrected_interval(differences, train_documents=train_documents, test_documents=test_documents)
    if error == 0:
        return mean, low, high, 1.0 if abs(mean) < NO_SPREAD else 0.5**freedom
    return mean, low, high, float(2 * stats.t.sf(abs(mean) / error, freedom))


def _mean_and_error(
    values: Sequence[float], *, train_documents: Sequence[int], test_documents: Sequence[int]
) -> tuple[float, float, int]:
    """The mean, its corrected standard error, and the degrees of freedom."""
    scores = np.asarray(values, dtype=np.float64)
    count = len(scores)
    if count < 2 or len(train_documents) != count or len(test_documents) != count:
        raise ValueError(
            f"{count} values, {len(train_documents)} training and {len(test_documents)} test sizes: at least two "
            "values are needed, and one size of each kind for every value"
        )
    if not np.isfinite(scores).all() or min(train_documents) <= 0 or min(test_documents) < 0:
        raise ValueError("values must be finite, training sizes positive and test sizes not negative")
    variance = 0.0 if np.ptp(scores) < NO_SPREAD else float(scores.var(ddof=1))
    ratio = sum(test_documents) / sum(train_documents)
    return float(scores.mean()), float(np.sqrt((1 / count + ratio) * variance)), count - 1
