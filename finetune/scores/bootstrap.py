"""The bootstrap behind every interval: what is drawn, how often, and what becomes of the resampled scores.

A score here is a function of totals: rows of numbers, one row for each unit (a document, a distinct outcome of
documents, or a group), added up. A resample is a weight for each unit, so its totals are one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, ndtr, ndtri, stdtrit

Interval = tuple[float, float]
# (..., K) totals -> (..., M) scores, NaN where undefined; leading axes are independent totals.
Statistics = Callable[[np.ndarray], np.ndarray]
# (units, K), a dense array or scipy's sparse one, which has no types.
Rows = Any

# A score that is undefined in more resamples than this has no interval.
MOST_UNDEFINED_SHARE = 0.05
# Numbers in one block of a computation, 8 bytes each; a few blocks live at the same time.
NUMBERS_PER_BLOCK = 2_000_000
# A binomial draw for each unit costs about as much as drawing this many documents one by one.
DRAWS_PER_BINOMIAL = 8
NO_DIFFERENCE = 1e-12
LEAST_FREEDOM = 4.0


@dataclass(frozen=True)
class Units:
    """What is drawn: rows (units, K), and how often each unit occurs, (units,) whole numbers."""

    rows: Rows
    repeats: np.ndarray


@dataclass(frozen=True)
class Spread:
    """(M,) each: standard error, acceleration, and how many standard errors an interval reaches to each side."""

    error: np.ndarray
    acceleration: np.ndarray
    reach: np.ndarray


def bootstrap(
    units: Units, statistics: Statistics, *, resamples: int, seed: int, independent: float, confidence: float = 0.95
) -> list[Interval | None]:
    """An interval for each of M scores: bias-corrected, accelerated percentiles (BCa: Efron, 1987), expanded.

    `independent` is the effective number of units, at least 2. Expanded: the normal quantile gives way to the wider
    reach of `spread_of` (after Hesterberg, 2015, What teachers should know about the bootstrap).
    An entry is None where the score is undefined in itself or in over 5 % of the resamples, or is the same in all of
    them. Every interval contains its score.
    """
    points = statistics(np.asarray(units.repeats @ units.rows))
    blocks = [
        statistics(np.asarray(weights @ units.rows))
        for weights in drawn_weights(units.repeats, resamples=resamples, seed=seed)
    ]
    resampled = np.concatenate(blocks)
    spread = jackknife(units, statistics, independent=independent, confidence=confidence)
    return [
        percentiles(
            resampled[:, column],
            point=float(points[column]),
            acceleration=float(spread.acceleration[column]),
            reach=float(spread.reach[column]),
        )
        for column in range(len(points))
    ]


def drawn_weights(repeats: np.ndarray, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (resamples, units): how often each unit occurs in a draw, with replacement, of as many as there are.

    What is drawn does not depend on the size of the blocks.
    """
    generator = np.random.default_rng(seed)
    drawn, units = int(repeats.sum()), len(repeats)
    block = max(1, NUMBERS_PER_BLOCK // units)
    unit_of_document = np.repeat(np.arange(units), repeats) if drawn > units else None
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if drawn > DRAWS_PER_BINOMIAL * units:
            yield generator.multinomial(drawn, repeats / drawn, size=size).astype(np.float64)
            continue
        weights = np.empty((size, units))
        for row in weights:
            chosen = generator.integers(0, drawn, size=drawn)
            row[:] = np.bincount(chosen if unit_of_document is None else unit_of_document[chosen], minlength=units)
        yield weights


def jackknife(units: Units, statistics: Statistics, *, independent: float, confidence: float = 0.95) -> Spread:
    """How M scores vary when one unit is left out (Efron and Tibshirani, 1993, chapters 11 and 14)."""
    totals = np.asarray(units.repeats @ units.rows)
    block = max(1, NUMBERS_PER_BLOCK // len(totals))

    def left_out() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(units.repeats), block):
            rows = units.rows[start : start + block]
            dense = rows if isinstance(rows, np.ndarray) else rows.toarray()
            yield statistics(totals - dense), units.repeats[start : start + block]

    return spread_of(left_out(), points=statistics(totals), independent=independent, confidence=confidence)


def spread_of(
    left_out: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    points: np.ndarray,
    independent: float,
    confidence: float = 0.95,
    unseen_tail: float = 1.0,
) -> Spread:
    """The spread of M scores from blocks of their values with one unit left out (block, M) and the units' repeats.

    The reach is Student's t times sqrt((d + 1) / d). Its degrees of freedom d say how well n units know their own
    variance: 2 n / (k - 1), where k is the kurtosis of what single units contribute, for that is what a sample
    variance varies by; n - 1 at most, LEAST_FREEDOM at least. Few units, unequal ones, and a score that hangs on a few
    documents (a rare class, rare mistakes) reach further. A sample understates its kurtosis; `unseen_tail` is a factor
    that makes up for it.
    """
    sums, drawn = np.zeros((4, len(points))), 0
    for values, repeats in left_out:
        # A score that needs the unit it lost has no value without it; such a unit tells nothing about spread.
        influence = np.where(np.isfinite(values), points - values, 0.0)
        sums += [repeats @ influence**power for power in (1, 2, 3, 4)]
        drawn += int(repeats.sum())
    mean = sums[0] / drawn
    squares = np.maximum(sums[1] - drawn * mean**2, NO_DIFFERENCE**2)
    cubes = sums[2] - 3 * mean * sums[1] + 2 * drawn * mean**3
    fourths = sums[3] - 4 * mean * sums[2] + 6 * mean**2 * sums[1] - 3 * drawn * mean**4
    kurtosis = np.maximum(unseen_tail * drawn * fourths / squares**2, 1 + 2 * independent / (independent - 1))
    freedom = np.maximum(2 * independent / (kurtosis - 1), min(LEAST_FREEDOM, independent - 1))
    reach = stdtrit(freedom, (1 + confidence) / 2) * np.sqrt((freedom + 1) / freedom)
    return Spread(error=np.sqrt(squares), acceleration=cubes / (6 * squares**1.5), reach=reach)


def percentiles(resampled: np.ndarray, *, point: float, acceleration: float, reach: float) -> Interval | None:
    """The percentiles of (resamples,) scores that lie `reach` standard normal deviations to each side of the point,
    shifted by how many resamples are below it and stretched by the acceleration; None when they say nothing.
    """
    defined = resampled[np.isfinite(resampled)]
    if not math.isfinite(point) or len(defined) < max(1.0, (1 - MOST_UNDEFINED_SHARE) * len(resampled)):
        return None
    if np.ptp(defined) < NO_DIFFERENCE:
        return None
    equal = np.abs(defined - point) < NO_DIFFERENCE
    below = np.mean((defined < point) & ~equal) + np.mean(equal) / 2
    # No resample on one side would be a shift without end; half a resample is the least that can be told.
    shift = ndtri(np.clip(below, 0.5 / len(defined), 1 - 0.5 / len(defined)))
    ends = shift + np.array([-reach, reach])
    # Far in the tail of a very skewed score the stretch has no end; there the last resample is the end.
    stretch = np.maximum(1 - acceleration * ends, 1e-3)
    low, high = np.quantile(defined, ndtr(shift + ends / stretch))
    return min(float(low), point), max(float(high), point)


def log_odds_interval(point: float, *, error: float, reach: float) -> Interval | None:
    """`reach` standard errors to each side of a score in 0..1, on the scale of log (p / (1 - p)), where scores near
    an end are less skewed; None at the ends and where nothing varies.
    """
    if not 0 < point < 1 or error < 2 * NO_DIFFERENCE:  # the error of spread_of is at least one
        return None
    centre, half = math.log(point / (1 - point)), reach * error / (point * (1 - point))
    low, high = expit(np.array([centre - half, centre + half]))
    return float(low), float(high)
