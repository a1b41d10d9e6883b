"""Is one set of predictions better than another on the same documents, or may the difference be chance?

The p-value is that of approximate randomisation (Noreen, 1989; Yeh, 2000, More accurate tests for the statistical
significance of result differences): were the two equally good, it would not matter which of them said what, so the
sides of each document, or of each whole group, are swapped at random and the difference is computed again. Units in
which swapping changes nothing are left out, and few units are swapped in every possible way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.special import bdtr

from finetune.run_files import PairedTest
from finetune.scores.bootstrap import Interval, Units, bootstrap
from finetune.scores.classification import (
    COUNTED_NAMES,
    GREATER_IS_BETTER,
    checked_labels,
    checked_probabilities,
    outcome_rows,
    scores_of_totals,
)
from finetune.scores.images import IMAGE_METRICS
from finetune.scores.intervals import LEAST_EFFECTIVE_GROUPS, independent_units
from finetune.scores.text_metrics import LOSS_METRICS, TEXT_METRICS

SIGNIFICANT = 0.05
LOG_LOSSES = ("log_loss", "loss")
# The direction of every metric, by name; `loss` is that of classifiers, of writers and of image models.
DIRECTIONS: dict[str, bool] = {
    **IMAGE_METRICS,
    **GREATER_IS_BETTER,
    **{name: metric.greater_is_better for name, metric in (TEXT_METRICS | LOSS_METRICS).items()},
}
# What is no sum over documents (a ranking or a vocabulary of them all), has no direction, or says the same as another;
# and what is tested instead.
TESTED_INSTEAD = {
    "roc_auc": "f1_macro",
    "distinct_1": "chrf",
    "distinct_2": "chrf",
    "length_ratio": "chrf",
    "perplexity": "loss",
}
# However few the resamples: by 19 randomisations p is never below .05.
LEAST_RANDOMISATIONS = 1000
MOST_UNITS_ENUMERATED = 12
SWAPS_PER_BLOCK = 2_000_000
# Equal differences may differ by the rounding of their sums.
ROUNDING = 1e-12

ScoreOfTotals = Callable[[np.ndarray], np.ndarray]  # (..., K) totals -> (...) scores


@dataclass(frozen=True)
class Judged:
    """Predictions of n documents: (n,) class numbers or (n, C) of 0 and 1, and probabilities (n, C) where known."""

    predictions: np.ndarray
    probabilities: np.ndarray | None = None


def paired_test(
    references: np.ndarray,
    first: Judged,
    second: Judged,
    *,
    classes: int,
    metric: str,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int,
    multi_label: bool = False,
) -> PairedTest:
    """The difference first - second in `metric`, its 95 % interval, and how likely chance alone makes it as large.

    references: (n,) class numbers, or (n, C) of 0 and 1 when multi_label. groups: (n,) or None; documents of one
    group are drawn and swapped together. metric: any of METRIC_NAMES, or loss, which is the log loss here; f1_macro
    is tested and named for roc_auc. A score that is undefined counts as 0, as in scikit-learn.
    `resamples` are drawn for the interval (none for 0, and below ten effective groups) and as many randomisations, but
    at least 1,000, made for p: (1 + hits) / (1 + randomisations), or exact where at most 12 units differ. Exchanging
    first and second changes the sign of the difference and nothing else.
    Raises ValueError for labels out of range, arrays of unequal length, an unknown metric, and a log loss without
    probabilities.
    """
    metric = TESTED_INSTEAD.get(metric, metric)
    references = checked_labels(references, classes=classes, multi_label=multi_label, name="references")
    one, other = (_checked(judged, references, classes=classes, multi_label=multi_label) for judged in (first, second))
    if len(references) == 0 or (groups is not None and len(groups) != len(references)):
        raise ValueError("there must be documents, and as many groups as documents where there are groups")

    def units(mirrored: bool) -> Units:
        sides = (other, one) if mirrored else (one, other)
        return _units(references, *sides, metric=metric, classes=classes, groups=groups, multi_label=multi_label)

    only_one_right = _only_one_right(references, one.predictions, other.predictions)
    return compare_units(
        units,
        _score(metric, multi_label=multi_label),
        metric=metric,
        documents=len(references),
        groups=groups,
        only_one_right=only_one_right,
        p_mcnemar=mcnemar(*only_one_right) if groups is None else None,
        resamples=resamples,
        seed=seed,
    )


def compare_units(
    units_of: Callable[[bool], Units],
    score: ScoreOfTotals,
    *,
    metric: str,
    documents: int,
    groups: np.ndarray | None,
    only_one_right: tuple[int, int],
    p_mcnemar: float | None = None,
    resamples: int,
    seed: int,
) -> PairedTest:
    """The test behind every pair, whatever its score is a function of; interval and p as in `paired_test`.

    units_of(mirrored): rows whose left half is added up for first and whose right half for second, or mirrored the
    other way round. score: (..., K) totals of one half -> (...). only_one_right: documents on which only first is
    right, or better, and on which only second is.
    """
    drawn, side = _larger_to_the_left(units_of, score)
    larger, other = (float(value) for value in _both(_totals(drawn), score))
    first, second = (other, larger) if side < 0 else (larger, other)
    independent = independent_units(documents, groups)
    low, high = _interval(drawn, score, independent=independent, resamples=resamples, seed=seed) or (None, None)
    if low is not None and high is not None and side < 1:
        # A pair that is its own mirror image (0) has an interval that is, too.
        low, high = (-high, -low) if side < 0 else (min(low, -high), max(high, -low))
    test = PairedTest(
        metric=metric,
        first=first,
        second=second,
        difference=first - second,
        low=low,
        high=high,
        p=_randomisation_p(drawn, score, randomisations=max(resamples, LEAST_RANDOMISATIONS), seed=seed),
        p_mcnemar=p_mcnemar,
        only_first_right=only_one_right[0],
        only_second_right=only_one_right[1],
        documents=documents,
        groups=None if groups is None else len(np.unique(groups)),
        better=False,
    )
    return test.model_copy(update={"better": is_better(test)})


def is_better(test: PairedTest) -> bool:
    """First is ahead in the metric's own direction, and p (after correction, where there is one) is below .05."""
    ahead = test.difference > 0 if greater_is_better(test.metric) else test.difference < 0
    return ahead and (test.p if test.p_holm is None else test.p_holm) < SIGNIFICANT


def greater_is_better(metric: str) -> bool:
    """The direction is part of a metric's definition, never a setting."""
    return DIRECTIONS[metric]


def compared_metric(metric: str, *, generated: bool = False) -> str:
    """What a baseline can be compared by: a classifier's has no training loss, and log loss says the same of its
    probabilities. `generated`: of text, where `loss` is what every baseline that has one is scored by.
    """
    return "log_loss" if metric == "loss" and not generated else metric


def mcnemar(only_first_right: int, only_second_right: int) -> float:
    """The exact two-sided test (McNemar, 1947): which of two is right where only one is, as tosses of a coin."""
    tosses = only_first_right + only_second_right
    return min(1.0, 2 * float(bdtr(min(only_first_right, only_second_right), tosses, 0.5)))


def holm(ps: list[float]) -> list[float]:
    """p-values corrected for their number, in their order, step by step from the smallest (Holm, 1979)."""
    order = np.argsort(ps, kind="stable")
    stepped = np.maximum.accumulate(np.asarray(ps, dtype=np.float64)[order] * np.arange(len(ps), 0, -1))
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]


def _checked(judged: Judged, references: np.ndarray, *, classes: int, multi_label: bool) -> Judged:
    predictions = checked_labels(judged.predictions, classes=classes, multi_label=multi_label, name="predictions")
    rows = {len(predictions), len(references)} | (
        {len(judged.probabilities)} if judged.probabilities is not None else set()
    )
    if len(rows) > 1:
        raise ValueError("references, predictions and probabilities must have one entry for each document")
    return replace(judged, predictions=predictions)


def _score(metric: str, *, multi_label: bool) -> ScoreOfTotals:
    if metric in LOG_LOSSES:
        return lambda totals: totals[..., 0] / totals[..., 1]
    if metric == "error_rate":
        return lambda totals: 1.0 - scores_of_totals(totals, multi_label=multi_label)["accuracy"]
    if metric in COUNTED_NAMES:
        return lambda totals: np.nan_to_num(scores_of_totals(totals, multi_label=multi_label)[metric])
    raise ValueError(f"'{metric}' cannot be tested")


def _units(
    references: np.ndarray,
    first: Judged,
    second: Judged,
    *,
    metric: str,
    classes: int,
    groups: np.ndarray | None,
    multi_label: bool,
) -> Units:
    """What is drawn and swapped. The left half of a row is added up for first, the right half for second.

    Counted scores: documents with the same reference and the same two predictions are interchangeable, so a unit is
    a distinct outcome, however many documents have it. Log loss: a unit is a document. With groups: a group.
    """
    if metric in LOG_LOSSES:
        losses = [
            _log_losses(references, judged, classes=classes, multi_label=multi_label) for judged in (first, second)
        ]
        # In one order, whatever the order of the documents.
        order = np.lexsort(losses) if groups is None else np.arange(len(references))
        ones = np.ones(len(references))
        rows = np.column_stack([losses[0][order], ones, losses[1][order], ones])
        unit_of_document, repeats = np.arange(len(rows)), np.ones(len(rows), dtype=np.int64)
    else:
        (left, left_row), (right, right_row) = (
            outcome_rows(references, judged.predictions, classes=classes, multi_label=multi_label)
            for judged in (first, second)
        )
        codes, unit_of_document, repeats = np.unique(
            left_row * right.shape[0] + right_row, return_inverse=True, return_counts=True
        )
        left_of_unit, right_of_unit = np.divmod(codes, right.shape[0])
        rows = sparse.csr_array(sparse.hstack([left[left_of_unit], right[right_of_unit]], format="csr"))
    if groups is None:
        return Units(rows, repeats)
    names, group_of_document = np.unique(groups, return_inverse=True)
    documents = np.ones(len(references), dtype=np.int64)
    shape = (len(names), rows.shape[0])
    membership = sparse.csr_array((documents, (group_of_document.reshape(-1), unit_of_document)), shape=shape)
    return Units(membership @ rows, np.ones(len(names), dtype=np.int64))


def _log_losses(references: np.ndarray, judged: Judged, *, classes: int, multi_label: bool) -> np.ndarray:
    """(n,) nats, for multi-label the mean over classes; a probability of 0 counts as in score_classification."""
    if judged.probabilities is None:
        raise ValueError("a log loss needs probabilities")
    probabilities = checked_probabilities(judged.probabilities, classes=classes, multi_label=multi_label)
    if multi_label:
        given_to_truth = np.where(references > 0, probabilities, 1.0 - probabilities)
    else:
        given_to_truth = probabilities[np.arange(len(references)), references][:, None]
    step = float(np.finfo(np.float64).eps)
    losses: np.ndarray = -np.log(given_to_truth.clip(step, 1 - step)).mean(axis=1)
    return losses


def _larger_to_the_left(units_of: Callable[[bool], Units], score: ScoreOfTotals) -> tuple[Units, int]:
    """(units, side), so that the same chance meets the same units whichever comes first. side: 1 as given, -1 mirrored,
    0 where both are the same.
    """
    units = units_of(False)
    difference = float(_difference(_totals(units), score))
    if difference > ROUNDING:
        return units, 1
    mirror = units_of(True)
    if difference < -ROUNDING:
        return mirror, -1
    keys = _bytes(units), _bytes(mirror)
    return (units, int(keys[0] > keys[1])) if keys[0] >= keys[1] else (mirror, -1)


def _bytes(units: Units) -> bytes:
    rows = units.rows if isinstance(units.rows, np.ndarray) else units.rows.toarray()
    return bytes(rows.tobytes() + units.repeats.tobytes())


def _totals(units: Units) -> np.ndarray:
    return np.asarray(units.repeats @ units.rows)


def _both(totals: np.ndarray, score: ScoreOfTotals) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.split(totals, 2, axis=-1)
    return score(first), score(second)


def _difference(totals: np.ndarray, score: ScoreOfTotals) -> np.ndarray:
    first, second = _both(totals, score)
    return np.asarray(first - second)


def _interval(units: Units, score: ScoreOfTotals, *, independent: float, resamples: int, seed: int) -> Interval | None:
    if not resamples or independent < LEAST_EFFECTIVE_GROUPS:
        return None

    def statistics(totals: np.ndarray) -> np.ndarray:
        return _difference(totals, score)[..., None]

    return bootstrap(units, statistics, resamples=resamples, seed=seed, independent=independent)[0]


def _randomisation_p(units: Units, score: ScoreOfTotals, *, randomisations: int, seed: int) -> float:
    totals = _totals(units)
    observed = abs(_difference(totals, score)) - ROUNDING
    half = totals.shape[-1] // 2
    changes = sparse.csr_array(units.rows[:, half:] - units.rows[:, :half])
    changes.eliminate_zeros()
    differing = np.flatnonzero(np.diff(changes.indptr))
    changes, repeats = changes[differing], units.repeats[differing]
    hits = 0
    exact = int(repeats.sum()) <= MOST_UNITS_ENUMERATED
    if exact:
        changes = changes[np.repeat(np.arange(len(repeats)), repeats)]
        blocks = iter([_every_swap(int(repeats.sum()))])
    else:
        blocks = _random_swaps(repeats, randomisations=randomisations, seed=seed)
    for swaps in blocks:
        moved = swaps @ changes
        swapped = totals + np.concatenate([moved, -moved], axis=-1)
        hits += int((np.abs(_difference(swapped, score)) >= observed).sum())
    return hits / 2 ** int(repeats.sum()) if exact else (1 + hits) / (1 + randomisations)


def _every_swap(units: int) -> np.ndarray:
    """(2 ** units, units) of 0 and 1."""
    return (np.arange(2**units)[:, None] >> np.arange(units)) & 1


def _random_swaps(repeats: np.ndarray, *, randomisations: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (randomisations, units): how many of a unit's occurrences are swapped, each by the toss of a coin."""
    generator = np.random.default_rng(seed)
    block = max(1, SWAPS_PER_BLOCK // len(repeats))
    for start in range(0, randomisations, block):
        shape = (min(block, randomisations - start), len(repeats))
        if repeats.max() == 1:
            yield generator.integers(0, 2, size=shape, dtype=np.int8).astype(np.int64)
        else:
            yield generator.binomial(repeats, 0.5, size=shape)


def _only_one_right(references: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    first_right, second_right = (
        (predictions == references).reshape(len(references), -1).all(axis=1) for predictions in (first, second)
    )
    return int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
