"""How often our 95 % intervals contained the truth in simulations, for test sets too small or too alike to promise it.

The table is what benchmarks/interval_coverage.py measured (benchmarks/results/interval_coverage.json; a test compares
the two). docs/evaluation.md shows it.
"""

from __future__ import annotations

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
    coverage among them; where there is none, the lowest of all of that kind (with or without groups, seldom predicted
    or not). Raises KeyError for a metric without a column.
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
    # A class of few documents is predicted seldom by good models too; its conditions were simulated with both.
    rare = least_class < NOMINAL_LEAST_CLASS
    seldom = not rare and least_predicted is not None and least_predicted < NOMINAL_PREDICTED
    grouped = effective_groups is not None
    # A score that seldom had an interval where a class is seldom predicted was not simulated there.
    covered = _covered(column, grouped=grouped, seldom=seldom) or _covered(column, grouped=grouped, seldom=False)
    # Below the smallest size that was simulated, the smallest one answers.
    smallest = [min(sizes) for sizes in zip(*(favour for favour, _ in covered), strict=True)]
    asked = tuple(map(max, _favour((documents, least_class, effective_groups, class_groups)), smallest))
    candidates = [(favour, share) for favour, share in covered if _at_most(favour, asked)]
    nearest = [
        share
        for favour, share in candidates
        if not any(favour != other and _at_most(favour, other) for other, _ in candidates)
    ]
    return min(nearest or [share for _, share in covered])


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


def _covered(column: int, *, grouped: bool, seldom: bool) -> list[tuple[tuple[float, ...], float]]:
    """How favourable each condition of a kind is, and its coverage."""
    return [
        (_favour(row), share)
        for row in TABLE
        if (row[2] is not None, bool(row[4])) == (grouped, seldom) and (share := row[column]) is not None
    ]


def _favour(row: Row) -> tuple[float, ...]:
    """The sizes of a row as numbers of which more is better, up to where they promise 95 %; None does not limit.

    Where there are groups the number of documents is left out: with more documents in the same groups an interval
    hangs on the groups all the more, so fewer documents are not the less favourable condition.
    """
    documents, least_class, groups, class_groups = row[:4]
    sizes = (documents if groups is None else None, least_class, groups, class_groups)
    enough = (NOMINAL_DOCUMENTS, NOMINAL_LEAST_CLASS, NOMINAL_GROUPS, NOMINAL_CLASS_GROUPS)
    limits = zip(sizes, enough, strict=True)
    return tuple(float(most if size is None else min(size, most)) for size, most in limits)


def _at_most(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(first <= second for first, second in zip(one, other, strict=True))


# KEYS, then COLUMNS; printed by benchmarks/interval_coverage.py. `seldom`: the rarest class is predicted fewer than
# NOMINAL_PREDICTED times.
# fmt: off
TABLE: tuple[Row, ...] = (
    (30, 15, None, None, False, 0.96, 0.98, 0.94, 0.978, 0.862, 0.979, 0.948),
    (30, 3, None, None, False, 0.944, 0.839, 0.944, None, 0.78, None, 0.932),
    (30, 6, None, None, False, 0.96, 0.956, 0.953, 0.98, 0.852, 0.986, 0.94),
    (60, 30, None, None, False, 0.96, 0.973, 0.96, 0.969, 0.91, 0.979, 0.95),
    (60, 5, None, None, False, 0.964, 0.865, 0.964, 1.0, 0.854, 0.991, 0.934),
    (60, 12, None, None, False, 0.972, 0.974, 0.959, 0.98, 0.904, 0.985, 0.938),
    (60, 6, None, None, False, 0.954, 0.982, 0.934, 0.969, 0.922, None, 0.942),
    (100, 50, None, None, False, 0.956, 0.962, 0.956, 0.966, 0.958, 0.982, 0.946),
    (100, 10, None, None, False, 0.948, 0.862, 0.948, 0.991, 0.918, 0.985, 0.94),
    (100, 5, None, None, False, 0.946, 0.835, 0.946, None, 0.874, 0.995, 0.916),
    (100, 10, None, None, False, 0.958, 0.972, 0.924, 0.96, 0.94, 0.979, 0.906),
    (100, 5, None, None, False, 0.966, 0.958, 0.938, 0.966, 0.946, None, 0.952),
    (200, 100, None, None, False, 0.954, 0.956, 0.954, 0.96, 0.946, 0.974, 0.942),
    (200, 30, None, None, False, 0.946, 0.948, 0.946, 0.972, 0.954, 0.982, 0.942),
    (200, 10, None, None, False, 0.932, 0.886, 0.932, 0.995, 0.898, 0.966, 0.946),
    (200, 5, None, None, False, 0.932, 0.928, 0.932, 0.948, 0.96, 0.961, 0.928),
    (200, 20, None, None, False, 0.938, 0.944, 0.928, 0.944, 0.96, 0.97, 0.94),
    (200, 10, None, None, False, 0.96, 0.978, 0.94, 0.964, 0.936, 0.962, 0.934),
    (500, 250, None, None, False, 0.966, 0.964, 0.966, 0.966, 0.962, 0.966, 0.952),
    (500, 30, None, None, False, 0.948, 0.968, 0.948, 0.976, 0.958, 0.936, 0.95),
    (500, 10, None, None, False, 0.954, 0.86, 0.954, 0.978, 0.928, 0.967, 0.959),
    (500, 100, None, None, False, 0.954, 0.958, 0.954, 0.962, 0.948, 0.966, 0.938),
    (500, 5, None, None, False, 0.95, 0.946, 0.95, 0.952, 0.956, 0.934, 0.94),
    (500, 25, None, None, False, 0.952, 0.958, 0.944, 0.958, 0.95, 0.958, 0.928),
    (1000, 500, None, None, False, 0.968, 0.964, 0.964, 0.966, 0.956, 0.964, 0.95),
    (1000, 30, None, None, False, 0.972, 0.96, 0.968, 0.968, 0.972, 0.932, 0.938),
    (1000, 10, None, None, False, 0.96, 0.762, 0.96, 0.971, 0.938, 0.907, 0.952),
    (1000, 200, None, None, False, 0.948, 0.942, 0.948, 0.948, 0.966, 0.962, 0.942),
    (1000, 5, None, None, False, 0.934, 0.784, 0.934, 0.94, 0.95, 0.918, 0.95),
    (1000, 30, None, None, False, 0.954, 0.96, 0.954, 0.95, 0.944, 0.952, 0.942),
    (1000, 50, None, None, False, 0.946, 0.946, 0.932, 0.948, 0.948, 0.956, 0.954),
    (3000, 60, None, None, False, 0.952, 0.962, 0.952, 0.966, 0.956, 0.944, 0.948),
    (3000, 10, None, None, False, 0.948, 0.822, 0.944, 0.946, 0.948, 0.924, 0.948),
    (3000, 300, None, None, False, 0.934, 0.938, 0.93, 0.934, 0.936, 0.942, 0.934),
    (1000, 500, 10, 10.0, False, 0.906, 0.904, 0.89, 0.906, 0.888, 0.924, None),
    (1000, 500, 15, 14.5, False, 0.932, 0.92, 0.918, 0.932, 0.922, 0.926, 0.92),
    (1000, 500, 20, 19.1, False, 0.942, 0.934, 0.936, 0.934, 0.922, 0.928, 0.928),
    (1000, 500, 30, 27.9, False, 0.948, 0.946, 0.946, 0.944, 0.946, 0.958, 0.936),
    (1000, 500, 40, 36.8, False, 0.958, 0.952, 0.946, 0.952, 0.95, 0.956, 0.952),
    (1000, 500, 80, 70.9, False, 0.956, 0.954, 0.952, 0.954, 0.942, 0.956, 0.95),
    (1000, 500, 200, 159.5, False, 0.956, 0.954, 0.956, 0.958, 0.944, 0.954, 0.946),
    (1000, 30, 10, 6.5, False, 0.908, 0.902, 0.898, 0.968, 0.884, 0.922, 0.99),
    (1000, 30, 20, 9.3, False, 0.918, 0.916, 0.918, 0.974, 0.908, 0.946, 1.0),
    (1000, 30, 40, 12.3, False, 0.958, 0.946, 0.95, 0.968, 0.948, 0.952, 0.989),
    (1000, 30, 200, 22.8, False, 0.98, 0.956, 0.974, 0.974, 0.968, 0.93, 0.97),
    (1000, 200, 10, 8.9, False, 0.93, 0.934, 0.91, 0.928, 0.928, 0.94, 0.93),
    (1000, 200, 20, 16.2, False, 0.942, 0.942, 0.928, 0.946, 0.958, 0.954, 0.95),
    (1000, 200, 40, 29.6, False, 0.95, 0.944, 0.93, 0.948, 0.948, 0.962, 0.944),
    (1000, 200, 80, 52.6, False, 0.958, 0.956, 0.954, 0.956, 0.962, 0.968, 0.958),
    (1000, 30, 10, 6.5, False, 0.956, 0.942, 0.916, 0.958, 0.958, 0.958, 0.976),
    (1000, 30, 15, 7.9, False, 0.944, 0.934, 0.904, 0.944, 0.926, 0.936, 0.98),
    (1000, 30, 20, 9.1, False, 0.948, 0.942, 0.944, 0.948, 0.948, 0.972, 0.982),
    (1000, 30, 30, 10.8, False, 0.954, 0.95, 0.948, 0.954, 0.962, 0.968, 0.978),
    (1000, 30, 40, 12.4, False, 0.964, 0.948, 0.958, 0.964, 0.968, 0.962, 0.981),
    (1000, 30, 80, 16.9, False, 0.958, 0.956, 0.954, 0.958, 0.956, 0.962, 0.983),
    (1000, 100, 40, 22.7, False, 0.96, 0.96, 0.954, 0.96, 0.96, 0.968, 0.962),
    (1000, 100, 80, 37.5, False, 0.958, 0.952, 0.954, 0.958, 0.958, 0.972, 0.974),
    (1000, 50, 20, 10.9, False, 0.97, 0.958, 0.946, 0.968, 0.962, 0.966, 0.97),
    (1000, 50, 40, 16.5, False, 0.976, 0.958, 0.95, 0.976, 0.976, 0.966, 0.974),
    (1000, 50, 200, 35.5, False, 0.952, 0.954, 0.95, 0.952, 0.964, 0.976, 0.972),
    (100, 50, 10, 9.2, False, 0.948, 0.929, 0.925, 0.933, 0.916, 0.986, None),
    (100, 50, 20, 16.3, False, 0.968, 0.964, 0.96, 0.97, 0.96, 0.992, 0.972),
    (100, 50, 40, 27.3, False, 0.958, 0.954, 0.946, 0.954, 0.95, 0.98, 0.96),
    (100, 10, 10, 5.0, False, 0.976, 0.86, 0.963, 0.964, 0.88, 0.984, 0.995),
    (100, 10, 20, 6.6, False, 0.984, 0.908, 0.967, 0.987, 0.902, 0.984, 0.992),
    (100, 10, 40, 8.5, False, 0.976, 0.872, 0.967, 0.989, 0.906, 0.991, 0.996),
    (1000, 30, 10, 3.0, False, 0.652, 0.9, 0.551, 0.952, 0.614, 0.943, 0.984),
    (1000, 30, 20, 3.1, False, 0.766, 0.93, 0.71, 0.944, 0.72, 0.95, 1.0),
    (1000, 30, 40, 3.3, False, 0.876, 0.95, 0.842, 0.968, 0.82, 0.92, 0.998),
    (1000, 125, 10, 3.6, False, 0.94, 0.824, 0.86, 0.948, 0.932, 0.954, None),
    (1000, 125, 20, 4.7, False, 0.936, 0.92, 0.912, 0.944, 0.944, 0.956, 0.936),
    (1000, 125, 40, 8.3, False, 0.924, 0.924, 0.908, 0.924, 0.924, 0.958, 0.962),
    (1000, 30, None, None, True, 0.968, 0.568, 0.822, None, 0.976, 0.96, 0.964),
    (1000, 30, 40, 12.4, True, 0.926, 0.534, 0.914, None, 0.942, 0.968, 1.0),
)
# fmt: on
