"""Rows as streams: read in batches, mapped with a cache that cannot be stale, selected by a mask.

A column of a million texts never becomes one Python list; what is kept for each row is a number or a bit.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from finetune.data.store import BYTES_PER_BATCH, arrow_tables, cache_folder, fingerprint
from finetune.errors import EnvironmentFault
from finetune.recipe_data import Form

MOST_ROWS_AT_ONCE = 1000

Splits = dict[str, Dataset]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """How a step runs: examples to show, processes, whether the cache may answer, and the form of text to write."""

    examples: int
    num_proc: int
    cached: bool
    form: Form | None = None


def mapped(
    rows: Dataset, function: Callable[..., Any], *, name: str, version: Sequence[object], reads: Sequence[str],
    features: datasets.Features, setting: Setting,
) -> Dataset:  # fmt: skip
    """`rows.map` in batches over the columns `reads`, with exactly the columns `features` afterwards.

    Rows on disk are written to the cache under a name made of their fingerprint, `version` (whatever decides the
    result) and the columns, and are taken from there the next time; rows in memory stay in memory. Without
    `setting.cached` no earlier result can answer, and the file goes when the process ends. Raises EnvironmentFault.
    """
    made_of = fingerprint(rows._fingerprint, *version, list(features.items()))
    if not setting.cached:
        made_of = fingerprint(made_of, secrets.token_hex())
    if not len(rows):  # datasets gives back an empty table as it is, without new columns
        return Dataset(features.arrow_schema.empty_table(), fingerprint=made_of)
    at_once = _rows_at_once(rows)
    processes = min(setting.num_proc, -(-len(rows) // at_once))
    try:
        return rows.map(
            function,
            batched=True,
            batch_size=at_once,
            input_columns=list(reads),
            remove_columns=[column for column in rows.column_names if column not in features] or None,
            features=features,
            cache_file_name=_cache_file(made_of, cached=setting.cached) if rows.cache_files else None,
            load_from_cache_file=setting.cached,
            num_proc=processes if processes > 1 else None,
            new_fingerprint=made_of,
            desc=name,
        )
    except OSError as error:
        what = f"rows cannot be written ({error.strerror or error})"
        remedy = "Free some space, or name another folder in HF_DATASETS_CACHE."
        raise EnvironmentFault(str(cache_folder()), what, remedy) from error


def batches(rows: Dataset, column: str) -> Iterator[pa.ChunkedArray]:
    """A column as Arrow arrays, a batch at a time."""
    alone = rows.select_columns([column])
    for batch in arrow_tables(alone, [column], rows_at_once=_rows_at_once(alone)):
        yield batch[column]


def values(rows: Dataset, column: str) -> Iterator[Any]:
    """A column as Python values, of which one batch is in memory."""
    for batch in batches(rows, column):
        yield from batch.to_pylist()


def mask_of(rows: Dataset, column: str, is_meant: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> Mask:
    """Which rows are meant, shape (rows,), by an Arrow function of the column."""
    return np.concatenate([np.zeros(0, np.bool_), *(is_meant(batch).to_numpy() for batch in batches(rows, column))])


def selected(rows: Dataset, numbers: NDArray[np.int64]) -> Dataset:
    """The rows of these numbers, in this order; the fingerprint says which they are, so it needs no version."""
    made_of = fingerprint(rows._fingerprint, hashlib.sha256(numbers.tobytes()).hexdigest())
    return rows.select(numbers, new_fingerprint=made_of)


def without(splits: Splits, masks: Mapping[str, Mask]) -> Splits:
    """The rows that are not in the masks."""
    return {
        split: selected(rows, np.flatnonzero(~masks[split])) if masks[split].any() else rows
        for split, rows in splits.items()
    }


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """datasets' own bars on or off, and afterwards as they were."""
    were_hidden = datasets.are_progress_bars_disabled()
    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
    try:
        yield
    finally:
        (datasets.disable_progress_bars if were_hidden else datasets.enable_progress_bars)()


def _rows_at_once(rows: Dataset) -> int:
    """Fewer than usual when rows are long: a batch takes a few megabytes."""
    bytes_of_a_row = int(rows.data.nbytes) // max(1, len(rows.data))
    return max(1, min(MOST_ROWS_AT_ONCE, BYTES_PER_BATCH // max(1, bytes_of_a_row)))


def _cache_file(made_of: str, *, cached: bool) -> str:
    folder = cache_folder() if cached else Path(_folder_until_exit(cache_folder()).name)
    return str(folder / f"rows-{made_of}.arrow")


@cache
def _folder_until_exit(parent: Path) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="once-", dir=parent)
