"""Rows read from the store: whatever was selected, in whatever order, they are the rows that datasets would give."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.store import arrow_tables, open_rows, write_batches

SCHEMA = pa.schema([("text", pa.string()), ("label", pa.list_(pa.string())), ("origin", pa.string())])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """Forty rows in batches of different sizes, nulls and empty lists among them."""
    rows = [
        {"text": None if row % 7 == 3 else f"text {row}", "label": [str(row)] * (row % 3), "origin": f"a.csv:{row}"}
        for row in range(40)
    ]
    path: Path = tmp_path_factory.mktemp("store") / "rows.arrow"
    bounds = [0, 1, 12, 12, 33, 40]
    parts = pairwise(bounds)
    write_batches(path, (pa.RecordBatch.from_pylist(rows[a:b], schema=SCHEMA) for a, b in parts), schema=SCHEMA)
    return open_rows(path, fingerprint="forty rows")


@settings(deadline=None)
@given(
    selected=st.none() | st.lists(st.integers(0, 39), max_size=50) | st.sets(st.integers(0, 39)).map(sorted),
    rows_at_once=st.integers(1, 60),
)
def test_tables_hold_the_selected_rows_in_their_order(
    stored: datasets.Dataset, selected: list[int] | None, rows_at_once: int
) -> None:
    rows = stored if selected is None else stored.select(selected)
    tables = list(arrow_tables(rows, ["label", "text"], rows_at_once=rows_at_once))
    read = [row for table in tables for row in table.to_pylist()]
    assert read == [{"label": row["label"], "text": row["text"]} for row in rows]
    assert all(0 < len(table) <= rows_at_once for table in tables)


def test_selected_rows_do_not_come_one_to_a_chunk(stored: datasets.Dataset) -> None:
    rows = stored.select(np.arange(0, 40, 2))
    (table,) = arrow_tables(rows, ["text"], rows_at_once=100)
    assert table["text"].num_chunks == 4  # one of each batch that holds any
