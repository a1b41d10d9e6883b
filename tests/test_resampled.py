"""The corrected resampled t: without correction it is the ordinary t-test, and the correction only widens it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from finetune.scores.resampled import corrected_interval, corrected_paired_test

some_scores = st.lists(st.floats(-1, 1), min_size=2, max_size=30)


@given(some_scores)
def test_without_correction_it_is_scipys_t_test(values: list[float]) -> None:
    if np.ptp(values) < 1e-9:
        return
    sizes = {"train_documents": [100] * len(values), "test_documents": [0] * len(values)}
    oracle = stats.ttest_1samp(values, 0.0)
    interval = oracle.confidence_interval(0.95)
    difference, low, high, p = corrected_paired_test(values, **sizes)
    assert difference == pytest.approx(np.mean(values), abs=1e-12)
    assert (low, high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert p == pytest.approx(oracle.pvalue, rel=1e-6, abs=1e-12)
    assert corrected_interval(values, **sizes) == (low, high)


@given(some_scores, st.integers(1, 500), st.integers(1, 500))
def test_the_correction_widens_by_the_documented_factor(values: list[float], train: int, test: int) -> None:
    count = len(values)
    plain = corrected_interval(values, train_documents=[train] * count, test_documents=[0] * count)
    wide = corrected_interval(values, train_documents=[train] * count, test_documents=[test] * count)
    factor = math.sqrt((1 / count + test / train) * count)
    assert wide[1] - wide[0] == pytest.approx(factor * (plain[1] - plain[0]), rel=1e-9, abs=1e-12)
    assert sum(wide) == pytest.approx(sum(plain), abs=1e-9)


def test_a_worked_example() -> None:
    # Five folds of 100 documents, 20 held out, 68 learnt from: mean .82, s^2 = .00025.
    values = [0.80, 0.81, 0.82, 0.83, 0.84]
    low, high = corrected_interval(values, train_documents=[68] * 5, test_documents=[20] * 5)
    reach = 2.7764451 * math.sqrt((1 / 5 + 20 / 68) * 0.00025)
    assert (low, high) == pytest.approx((0.82 - reach, 0.82 + reach), abs=1e-7)
    difference, _, _, p = corrected_paired_test([-0.02, 0.0, -0.01, -0.03, -0.01], train_documents=[68] * 5,
                                                test_documents=[20] * 5)  # fmt: skip
    t = 0.014 / math.sqrt((1 / 5 + 20 / 68) * 0.00013)
    assert difference == pytest.approx(-0.014) and p == pytest.approx(2 * stats.t.sf(t, 4))


def test_no_spread() -> None:
    sizes = {"train_documents": [80] * 3, "test_documents": [20] * 3}
    assert corrected_paired_test([0.0, 0.0, 0.0], **sizes) == (0.0, 0.0, 0.0, 1.0)
    difference, low, high, p = corrected_paired_test([0.1 + 0.2, 0.3, 0.3], **sizes)  # equal but for rounding
    assert (difference, low, high) == pytest.approx((0.3, 0.3, 0.3))
    assert p == stats.binomtest(3, 3).pvalue == 0.25  # three folds that agree are no proof


@pytest.mark.parametrize(
    ("values", "train", "test"),
    [([0.5], [8], [2]), ([0.5, 0.6], [8], [2, 2]), ([0.5, math.nan], [8, 8], [2, 2]), ([0.5, 0.6], [0, 8], [2, 2])],
)
def test_what_cannot_be_tested_is_refused(values: list[float], train: list[int], test: list[int]) -> None:
    with pytest.raises(ValueError, match="values"):
        corrected_interval(values, train_documents=train, test_documents=test)
