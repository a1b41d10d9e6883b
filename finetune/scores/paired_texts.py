"""Is one model's generated text better than another's on the same documents, or may the difference be chance?

The test is that of paired.py: whole documents, or groups of them, change sides at random (for BLEU: Riezler and
Maxwell, 2005), and the interval is the paired bootstrap (Koehn, 2004). Both work on the rows that the scores add up.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from finetune.run_files import PairedTest
from finetune.scores.bootstrap import Units
from finetune.scores.intervals import summed_units
from finetune.scores.paired import ROUNDING, TESTED_INSTEAD, compare_units
from finetune.scores.text_metrics import (
    BLEU_COLUMNS,
    CHRF_COLUMNS,
    LOSS_METRICS,
    TEXT_METRICS,
    LossStatistics,
    TextMetric,
    TextStatistics,
    sentence_bleu,
)


def paired_text_test(
    first: TextStatistics,
    second: TextStatistics,
    *,
    metric: str,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int,
) -> PairedTest:
    """The difference first - second in `metric`, its 95 % interval, and how likely chance alone makes it as large.

    first, second: of predictions for the same n references. metric: any of TEXT_METRICS; chrf is tested and named for
    distinct_1, distinct_2 and length_ratio. groups: (n,) or None; documents of one group are drawn and swapped
    together. Interval and p as in `paired_test`; p_mcnemar is None. only_first_right counts the documents on which
    first alone has the better score by itself (for bleu: sacrebleu's sentence BLEU).
    Raises ValueError for statistics of other references or another tokeniser, for an unknown metric, for cut_share
    where it is not known, and for groups of another length.
    """
    tested = TESTED_INSTEAD.get(metric, metric)
    if not np.array_equal(_of_references(first), _of_references(second)):
        raise ValueError("the two must be of the same documents, counted by the same tokeniser")
    by_itself = tuple(
        sentence_bleu(each.rows) if tested == "bleu" else _defined(TEXT_METRICS, tested).of(each.rows)
        for each in (first, second)
    )
    return _compared(TEXT_METRICS, tested, first.rows, second.rows, by_itself, groups, resamples=resamples, seed=seed)


def paired_loss_test(
    first: LossStatistics,
    second: LossStatistics,
    *,
    metric: str = "loss",
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int,
) -> PairedTest:
    """The same for two models' losses on the same n documents; metric: any of LOSS_METRICS.

    loss is tested and named for perplexity, which is exp of it. Two tokenisers cut a text into tokens of their own, and
    nats per token do not compare: where the numbers of tokens differ, nats_per_character is tested and named.
    Raises ValueError for documents of other characters, an unknown metric, and groups of another length.
    """
    tested = TESTED_INSTEAD.get(metric, metric)
    if not np.array_equal(first.characters, second.characters):
        raise ValueError("the two must be of the same documents")
    if tested == "loss" and not np.array_equal(first.tokens, second.tokens):
        tested = "nats_per_character"
    rows = (first.rows, second.rows)
    by_itself = tuple(_defined(LOSS_METRICS, tested).of(each) for each in rows)
    return _compared(LOSS_METRICS, tested, *rows, by_itself, groups, resamples=resamples, seed=seed)


def _compared(
    metrics: Mapping[str, TextMetric],
    name: str,
    first: np.ndarray,
    second: np.ndarray,
    by_itself: tuple[np.ndarray, ...],
    groups: np.ndarray | None,
    *,
    resamples: int,
    seed: int,
) -> PairedTest:
    """first, second: (n, columns of a whole row); by_itself: the score of each document for both, (n,) each."""
    metric = _defined(metrics, name)
    if len(first) == 0 or (groups is not None and len(groups) != len(first)):
        raise ValueError("there must be documents, and as many groups as documents where there are groups")
    sides = [rows[:, list(metric.columns)] for rows in (first, second)]
    if not np.isfinite(sides).all():
        raise ValueError(f"'{name}' is not known for these documents")

    def units(mirrored: bool) -> Units:
        return summed_units(np.hstack(sides[::-1] if mirrored else sides), groups)

    assert metric.score is not None
    score = metric.score
    ahead = by_itself[0] - by_itself[1] if metric.greater_is_better else by_itself[1] - by_itself[0]
    return compare_units(
        units,
        lambda totals: np.nan_to_num(score(totals)),
        metric=name,
        documents=len(first),
        groups=groups,
        only_one_right=(int((ahead > ROUNDING).sum()), int((ahead < -ROUNDING).sum())),
        resamples=resamples,
        seed=seed,
    )


def _defined(metrics: Mapping[str, TextMetric], name: str) -> TextMetric:
    if name not in metrics or not metrics[name].adds_up:
        raise ValueError(f"'{name}' cannot be tested")
    return metrics[name]


def _of_references(statistics: TextStatistics) -> np.ndarray:
    """What depends on the references alone: their lengths in words and in character n-grams."""
    return statistics.rows[:, [BLEU_COLUMNS[1], *CHRF_COLUMNS[1::3]]]
