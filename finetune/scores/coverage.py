"""How often our 95 % intervals contained the truth in simulations, for test sets too small or too alike to promise it.

The table is what benchmarks/interval_coverage.py measured (benchmarks/results/interval_coverage.json; a test compares
the two). docs/evaluation.md shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

# From here on the simulated coverage is 93 to 97 %, and an interval is printed without a warning.
NOMINAL_DOCUMENTS = 1000
NOMINAL_LEAST_CLASS = 30
NOMINAL_GROUPS = 40
NOMINAL_CLASS_GROUPS = 25
NOMINAL_PREDICTED = 5

# Columns of the table, and the scores whose lowest coverage each one holds; the rates are those of the least class.
COLUMNS: dict[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "macro": ("precision_macro", "recall_macro", "f1_macro"),
    "weighted": ("precision_weighted", "recall_weighted", "f1_weighted"),
    "matthews": ("matthews",),
    "log_loss": ("log_loss",),
    "roc_auc": ("roc_auc",),
    "class_rates": ("precision", "recall", "f1", "fpr"),
}
COLUMN_OF_METRIC = {
    **{metric: column for column, metrics in COLUMNS.items() for metric in metrics},
    **dict.fromkeys(("error_rate", "precision_micro", "recall_micro", "f1_micro"), "accuracy"),
    "loss": "log_loss",
}
KEYS = ("documents", "least_class", "groups", "class_groups", "seldom")

Row = tuple[float | None, ...]


def simulated_coverage(
    metric: str,
    *,
    documents: int,
    least_class: int,
    effective_groups: float | None,
    class_groups: float | None = None,
    least_predicted: int | None = None,
) -> float | None:
    """None where the 95 % hold, else the share of simulated intervals that contained the truth.

    least_class: documents of the rarest class. effective_groups: of all documents, None without groups. class_groups:
    effective groups that the documents of a class come from, of the class with the fewest. least_predicted: how often
    the class is predicted that is predicted least. What is not known (None) is not asked for.
    Of the simulated conditions that are at most as favourable in everything, the nearest ones count, and the lowest
    coverage among them; where there is none, the lowest of all. Raises KeyError for a metric without a column.
    """
    column = len(KEYS) + list(COLUMNS).index(COLUMN_OF_METRIC[metric])
    if is_nominal(
        documents=documents,
        least_class=least_class,
        effective_groups=effective_groups,
        class_groups=class_groups,
        least_predicted=least_predicted,
    ):
        return None
    seldom = least_predicted is not None and least_predicted < NOMINAL_PREDICTED
    given = _favour((documents, least_class, effective_groups, class_groups, seldom))
    rows = [row for row in TABLE if (row[2] is None) == (effective_groups is None) and row[column] is not None]
    candidates = [row for row in rows if _at_most(_favour(row), given)]
    nearest = [
        row
        for row in candidates
        if not any(_favour(row) != _favour(other) and _at_most(_favour(row), _favour(other)) for other in candidates)
    ]
    return _lowest(row[column] for row in nearest or rows)


def is_nominal(
    *,
    documents: int,
    least_class: int,
    effective_groups: float | None,
    class_groups: float | None = None,
    least_predicted: int | None = None,
) -> bool:
    """Whether everything that is known is large enough for 95 % to mean 95 %."""
    return (
        documents >= NOMINAL_DOCUMENTS
        and least_class >= NOMINAL_LEAST_CLASS
        and (effective_groups is None or effective_groups >= NOMINAL_GROUPS)
        and (class_groups is None or class_groups >= NOMINAL_CLASS_GROUPS)
        and (least_predicted is None or least_predicted >= NOMINAL_PREDICTED)
    )


def _favour(row: Row) -> tuple[float, ...]:
    """The KEYS of a row as numbers of which more is better; what is None does not limit."""
    *sizes, seldom = row[: len(KEYS)]
    return (*(math.inf if size is None else float(size) for size in sizes), 0.0 if seldom else 1.0)


def _at_most(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(first <= second for first, second in zip(one, other, strict=True))


def _lowest(shares: Iterable[float | None]) -> float | None:
    return min((share for share in shares if share is not None), default=None)


# KEYS, then COLUMNS; printed by benchmarks/interval_coverage.py. `seldom`: the rarest class is predicted fewer than
# NOMINAL_PREDICTED times.
# fmt: off
TABLE: tuple[Row, ...] = (
    (30, 3, None, None, False, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9),
    (60, 5, 10, 5.0, False, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9),
)
# fmt: on
