"""Numeric columns, scaled by what the training split says: validation and test take no part in the fit.

For the files that `prepare` writes; a text classifier does not read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from finetune.data.row_streams import Setting, batches, mapped
from finetune.data.store import code_version
from finetune.errors import DataError
from finetune.recipe_data import Scaling


@dataclass(frozen=True)
class Fitted:
    """What the training split says about one column: `n` numbers and `missing` without one.

    `standardize` gives (x - mean) / std with the deviation of the population, as scikit-learn's StandardScaler does;
    `min_max` gives (x - minimum) / (maximum - minimum), from 0 to 1 on the training split. A constant column becomes
    0.0 throughout.
    """

    scaling: Scaling
    n: int
    missing: int
    mean: float
    std: float
    minimum: float
    maximum: float

    @property
    def is_constant(self) -> bool:
        return self.minimum == self.maximum

    @property
    def shift_and_scale(self) -> tuple[float, float]:
        """A value x becomes (x - shift) / scale."""
        if self.scaling == "standardize":
            return self.mean, self.std
        return self.minimum, self.maximum - self.minimum

    def to_json(self) -> dict[str, object]:
        """For data.json, with a note for a constant column."""
        note = {"note": f"constant in train ({self.mean:g}): 0.0 throughout"} if self.is_constant else {}
        return asdict(self) | note


def fit_scaling(train: Dataset, scaling: Mapping[str, Scaling]) -> dict[str, Fitted]:
    """Mean, deviation and range of each named column of the training split, by column.

    The columns are float64; null and not-a-number count as missing. Raises DataError for a column without any number,
    with an infinite one, or with numbers too large to square.
    """
    return {column: _fit(train, column, kind) for column, kind in scaling.items()}


def apply_scaling(rows: Dataset, fitted: Mapping[str, Fitted]) -> Dataset:
    """The rows with every fitted column scaled; a missing value stays null. Other splits may leave the range 0 to 1."""
    if not fitted:
        return rows
    settings = {column: each.to_json() for column, each in fitted.items()}
    return mapped(
        rows,
        partial(_scaled, fitted=dict(fitted)),
        name="scaling",
        version=["scaling", settings, code_version("numbers.py")],
        reads=list(fitted),
        features=rows.features,
        setting=Setting(examples=0, num_proc=1, cached=True),
    )


def _fit(train: Dataset, column: str, scaling: Scaling) -> Fitted:
    n, total, minimum, maximum = 0, 0.0, math.inf, -math.inf
    for batch in _numbers(train, column):
        n, total = n + len(batch), total + math.fsum(batch)
        minimum = min(minimum, float(batch.min(initial=math.inf)))
        maximum = max(maximum, float(batch.max(initial=-math.inf)))
    where = f"data.numeric.{column}"
    if not n:
        raise DataError(where, f"no row of train has a number. Found: {len(train)} rows", "Leave the column out.")
    if not math.isfinite(total + (maximum - minimum)):
        found = f"Found: {minimum:g} to {maximum:g}"
        raise DataError(where, f"the numbers are too large to be scaled. {found}", "Correct or remove them.")
    mean = minimum if minimum == maximum else total / n
    # A second pass, in units of the largest distance: no digits are lost to a large mean, and no square overflows.
    furthest = max(maximum - mean, mean - minimum) or 1.0
    squares = sum(float((((batch - mean) / furthest) ** 2).sum()) for batch in _numbers(train, column))
    std = furthest * math.sqrt(squares / n) if minimum != maximum else 0.0
    return Fitted(scaling, n, len(train) - n, mean, std, minimum, maximum)


def _numbers(rows: Dataset, column: str) -> Iterator[NDArray[np.float64]]:
    """The numbers of a column in batches, without the missing ones."""
    for batch in batches(rows, column):
        numbers = pc.drop_null(batch).to_numpy().astype(np.float64)
        yield numbers[~np.isnan(numbers)]


def _scaled(*columns: list[float | None], fitted: Mapping[str, Fitted]) -> dict[str, list[float | None]]:
    return {
        name: [None if x is None or math.isnan(x) else _value(x, each) for x in column]
        for (name, each), column in zip(fitted.items(), columns, strict=True)
    }


def _value(x: float, fitted: Fitted) -> float:
    shift, scale = fitted.shift_and_scale
    return 0.0 if fitted.is_constant else (x - shift) / scale
