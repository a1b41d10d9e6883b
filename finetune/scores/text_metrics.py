"""What is counted of each document of generated text, the scores these counts add up to, and their intervals.

Every score but distinct-n is a function of sums over documents, so one row of numbers for each document is all that a
score, its interval and its paired test need. Numbers in, numbers out: texts become rows in generation.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from finetune.scores.bootstrap import Interval, bootstrap
from finetune.scores.intervals import LEAST_EFFECTIVE_GROUPS, independent_units, summed_units, wilson

# The columns of a document's row. First what is averaged over documents.
MEANS = ("rouge_1", "rouge_2", "rouge_l", "exact_match", "repetition", "cut_share", "empty_share")
SHARES_OF_DOCUMENTS = ("exact_match", "cut_share", "empty_share")
DOCUMENTS = len(MEANS)  # 1 for each document
ORDERS = 4
# Lengths of prediction and reference, then matches and n-grams of the prediction by order.
BLEU_COLUMNS = tuple(range(DOCUMENTS + 1, DOCUMENTS + 3 + 2 * ORDERS))
CHARACTER_ORDERS = 6
# For each order: n-grams of the prediction, of the reference, and matches.
CHRF_COLUMNS = tuple(range(BLEU_COLUMNS[-1] + 1, BLEU_COLUMNS[-1] + 1 + 3 * CHARACTER_ORDERS))
COLUMNS = CHRF_COLUMNS[-1] + 1
CHRF_BETA = 2


@dataclass(frozen=True)
class TextStatistics:
    """What is counted of n predictions.

    rows: (n, COLUMNS) numbers that add up; the column of cut_share is NaN where it is not known.
    distinct: distinct_1 and distinct_2 of all predictions together, which are no sum over documents.
    """

    rows: np.ndarray
    distinct: Mapping[str, float | None]


@dataclass(frozen=True)
class LossStatistics:
    """Of n documents, (n,) each: the nats of their learnt tokens, and how many learnt tokens and characters."""

    nats: np.ndarray
    tokens: np.ndarray
    characters: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """(n, 3) numbers that add up. Raises ValueError for unequal lengths and for nats that are not finite."""
        rows = np.column_stack([self.nats, self.tokens, self.characters]).astype(np.float64)
        if not np.isfinite(rows).all():
            raise ValueError("nats, tokens and characters must be finite numbers")
        return rows


@dataclass(frozen=True)
class TextMetric:
    """One metric: its direction and range, and the score that the sums of some columns of a row make."""

    description: str
    columns: tuple[int, ...] = ()
    score: Callable[[np.ndarray], np.ndarray] | None = None  # (..., len(columns)) sums -> (...), NaN where undefined
    greater_is_better: bool = True
    highest: float = 1.0

    @property
    def adds_up(self) -> bool:
        """Whether it has an interval and a paired test."""
        return self.score is not None

    def of(self, sums: np.ndarray) -> np.ndarray:
        """(..., columns of a whole row) -> (...) scores."""
        if self.score is None:
            raise ValueError("this metric is no function of sums over documents")
        return self.score(sums[..., list(self.columns)])


def bleu_of_sums(sums: np.ndarray, *, effective_order: bool = False) -> np.ndarray:
    """(..., 10) sums of BLEU_COLUMNS -> (...) BLEU in 0..100, 0 for no match: sacrebleu's formula, smooth:exp.

    Papineni et al., 2002; the k-th order without a match counts 1 / 2^k matches (Chen and Cherry, 2014, method 3).
    effective_order: only the orders that the predictions are long enough for, as sacrebleu's sentence_bleu.
    """
    lengths, matches, ngrams = np.split(sums.astype(np.float64), [2, 2 + ORDERS], axis=-1)
    some = ngrams > 0
    smoothed = np.where(matches > 0, matches, 0.5 ** np.cumsum(some & (matches == 0), axis=-1))
    logs = np.where(some, np.log(smoothed / np.maximum(ngrams, 1)), 0.0 if effective_order else -np.inf)
    orders = some.sum(axis=-1).clip(1) if effective_order else ORDERS
    brevity = np.exp(np.minimum(0.0, 1 - lengths[..., 1] / np.maximum(lengths[..., 0], 1)))
    score = 100 * brevity * np.exp(logs.sum(axis=-1) / orders)
    return np.where((matches > 0).any(axis=-1), np.minimum(score, 100.0), 0.0)


def sentence_bleu(rows: np.ndarray) -> np.ndarray:
    """(n, COLUMNS) -> (n,) BLEU of each document by itself, 0..100."""
    return bleu_of_sums(rows[:, BLEU_COLUMNS], effective_order=True)


def chrf_of_sums(sums: np.ndarray) -> np.ndarray:
    """(..., 18) sums of CHRF_COLUMNS -> (...) chrF2 in 0..100: sacrebleu's formula, to the last digit.

    Popović, 2015: F with recall counting twice as much, of precision and recall averaged over the orders of which both
    sides have n-grams; 0 where there is none.
    """
    predicted, referenced, matched = np.moveaxis(sums.reshape(*sums.shape[:-1], CHARACTER_ORDERS, 3), -1, 0)
    counted = (predicted > 0) & (referenced > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    # cumsum adds one order after the other, as sacrebleu does; sum may not.
    precision, recall = (
        np.cumsum(np.where(counted, matched / np.maximum(whole, 1), 0.0), axis=-1)[..., -1] / orders
        for whole in (predicted, referenced)
    )
    weighted = (1 + CHRF_BETA**2) * precision * recall
    whole = CHRF_BETA**2 * precision + recall
    score: np.ndarray = 100 * np.where(whole > 0, weighted / np.where(whole > 0, whole, 1.0), 0.0)
    return score.clip(0.0, 100.0)


def text_intervals(
    statistics: TextStatistics, *, groups: np.ndarray | None = None, resamples: int = 1000, seed: int
) -> dict[str, Interval]:
    """95 % intervals of the scores that add up; none for distinct-n, which depends on how many texts there are.

    groups: (n,) or None; documents of one group are drawn together. Shares of documents (exact_match, cut_share,
    empty_share) have Wilson's interval without groups, and at 0 and 1 for as many trials as there are effective
    groups; all else has the bootstrap, and no entry where all resamples are the same. Empty below ten effective
    groups (or documents).
    """
    metrics = {name: metric for name, metric in TEXT_METRICS.items() if metric.adds_up}
    found = _intervals(statistics.rows, metrics, groups=groups, resamples=resamples, seed=seed)
    independent = independent_units(len(statistics.rows), groups)
    if independent < LEAST_EFFECTIVE_GROUPS:
        return {}
    for name in SHARES_OF_DOCUMENTS:
        share = float(statistics.rows[:, MEANS.index(name)].mean())
        if share in (0.0, 1.0) or (groups is None and math.isfinite(share)):
            # At 0 and 1 the effective groups are no whole number; rounded down they promise least.
            trials = math.floor(independent)
            found[name] = wilson(round(share * trials), trials)
    return {name: found[name] for name in TEXT_METRICS if name in found}


def loss_intervals(
    losses: LossStatistics, *, groups: np.ndarray | None = None, resamples: int = 1000, seed: int
) -> dict[str, Interval]:
    """95 % intervals of loss, perplexity and nats_per_character: the bootstrap of ratios of sums over documents.

    The interval of perplexity is exp of that of the loss. groups, and what has no entry: as in `text_intervals`.
    """
    metrics = {name: metric for name, metric in LOSS_METRICS.items() if metric.adds_up}
    found = _intervals(losses.rows, metrics, groups=groups, resamples=resamples, seed=seed)
    if "loss" in found:
        low, high = (perplexity(end) for end in found["loss"])
        if low is not None and high is not None:
            found["perplexity"] = (low, high)
    return {name: found[name] for name in LOSS_METRICS if name in found}


def perplexity(loss: float) -> float | None:
    """exp of nats per token; None where that is no number a computer can hold."""
    try:
        return math.exp(loss)
    except OverflowError:
        return None


def _intervals(
    rows: np.ndarray, metrics: Mapping[str, TextMetric], *, groups: np.ndarray | None, resamples: int, seed: int
) -> dict[str, Interval]:
    """All metrics from the same draws of documents or groups."""
    if groups is not None and len(groups) != len(rows):
        raise ValueError("there must be one group for each document")
    independent = independent_units(len(rows), groups)
    if not resamples or independent < LEAST_EFFECTIVE_GROUPS:
        return {}

    def statistics(sums: np.ndarray) -> np.ndarray:
        return np.stack([metric.of(sums) for metric in metrics.values()], axis=-1)

    units = summed_units(rows, groups)
    found = bootstrap(units, statistics, resamples=resamples, seed=seed, independent=independent)
    return {name: interval for name, interval in zip(metrics, found, strict=True) if interval is not None}


def _ratio(sums: np.ndarray) -> np.ndarray:
    part, whole = sums[..., 0], sums[..., 1]
    undefined = np.full(part.shape, np.nan)
    np.divide(part, whole, out=undefined, where=whole > 0)
    return undefined


def _mean(name: str, description: str, *, greater_is_better: bool = True) -> TextMetric:
    columns = (MEANS.index(name), DOCUMENTS)
    return TextMetric(description, columns=columns, score=_ratio, greater_is_better=greater_is_better)


TEXT_METRICS: dict[str, TextMetric] = {
    "bleu": TextMetric("Corpus BLEU, as sacrebleu.", columns=BLEU_COLUMNS, score=bleu_of_sums, highest=100.0),
    "chrf": TextMetric("Corpus chrF2, as sacrebleu.", columns=CHRF_COLUMNS, score=chrf_of_sums, highest=100.0),
    "rouge_1": _mean("rouge_1", "F1 of words, mean over documents."),
    "rouge_2": _mean("rouge_2", "F1 of pairs of words, mean over documents."),
    "rouge_l": _mean("rouge_l", "F1 of the longest common subsequence of words, mean over documents."),
    "exact_match": _mean("exact_match", "Share of predictions equal to the reference but for outer white space."),
    "distinct_1": TextMetric("Distinct words / words, of all predictions together."),
    "distinct_2": TextMetric("Distinct pairs of words / pairs of words, of all predictions together."),
    # It has no direction: 1 is best. It describes, and never chooses.
    "length_ratio": TextMetric(
        "Words of the predictions / words of the references.", columns=BLEU_COLUMNS[:2], score=_ratio, highest=math.inf
    ),
    "repetition": _mean(
        "repetition", "Share of words in a 4-gram that the prediction repeats, mean over documents.",
        greater_is_better=False,
    ),
    "cut_share": _mean("cut_share", "Share of predictions cut off by the length limit.", greater_is_better=False),
    "empty_share": _mean("empty_share", "Share of predictions without text.", greater_is_better=False),
}  # fmt: skip

# Of the rows of LossStatistics.
LOSS_METRICS: dict[str, TextMetric] = {
    "loss": TextMetric(
        "Nats per learnt token.", columns=(0, 1), score=_ratio, greater_is_better=False, highest=math.inf
    ),
    "perplexity": TextMetric("exp of the loss.", greater_is_better=False, highest=math.inf),
    "nats_per_character": TextMetric(
        "Nats per character of the learnt text.",
        columns=(0, 2),
        score=_ratio,
        greater_is_better=False,
        highest=math.inf,
    ),
}
