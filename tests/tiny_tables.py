"""How the tests of reading call it: load a source, list its rows, or catch its message; and tables as bytes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data.sources import ColumnMap, Loaded, load_examples
from finetune.errors import DataError


def load(base: Path, source: object = "d.csv", **options: object) -> Loaded:
    columns = options.pop("columns", ColumnMap())
    return load_examples(source, columns=columns, base=base, **options)  # type: ignore[arg-type]


def rows(loaded: Loaded, split: str = "all") -> list[tuple[object, ...]]:
    table = loaded.splits[split]
    return list(zip(*(table[name] for name in ("id", "text", "label", "group", "origin")), strict=True))


def message(base: Path, source: object = "d.csv", **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load(base, source, **options)
    return str(caught.value)


def check_read(base: Path, name: str, content: bytes, expected: list[tuple[object, ...]], note: str) -> None:
    """The file gives these (text, label, origin), ids that can be looked up, and a note where one is expected."""
    (base / name).write_bytes(content)
    loaded = load(base, name)
    assert [(text, label, origin) for _, text, label, _, origin in rows(loaded)] == expected
    assert [row[0] for row in rows(loaded)] == [origin for _, _, origin in expected]
    assert note in " ".join(loaded.notes)
    assert bool(loaded.notes) == bool(note)


def check_refused(base: Path, name: str, content: bytes, expected: list[str]) -> None:
    """The file is refused with all of these words, and without a path of this machine."""
    (base / name).write_bytes(content)
    told = message(base, name)
    for part in expected:
        assert part in told
    assert str(base) not in told


def parquet(columns: dict[str, object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()
