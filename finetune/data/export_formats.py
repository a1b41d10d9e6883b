"""The formats of exported splits: how each writes rows, reads them again, and what of a row it can hold.

To add one, write these three functions and enter them in EXPORTS.
"""

from __future__ import annotations

import csv
import json
import math
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.errors import DataError
from finetune.recipe_data import ExportFormat

NULL_MASKS = "null_mask"  # the group of an hdf5 file that says which cells are empty

Row = dict[str, Any]
Batches = Iterable[list[Row]]


@dataclass(frozen=True)
class Export:
    """How a format writes and reads rows, what it can hold of one, and which packages it needs.

    `holds` turns a row into what will come back, and raises DataError for a value that would not.
    """

    write: Callable[[Path, pa.Schema, Batches], None]
    read: Callable[[Path], Iterator[Row]]
    holds: Callable[[Row], Row]
    packages: tuple[str, ...] = ()


def _same(row: Row) -> Row:
    return row


def _write_parquet(path: Path, schema: pa.Schema, batches: Batches) -> None:
    with pq.ParquetWriter(path, schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _read_parquet(path: Path) -> Iterator[Row]:
    # By default the whole file is read ahead, and what was read stays in memory until it is closed.
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=1000):
            yield from batch.to_pylist()


def _write_arrow(path: Path, schema: pa.Schema, batches: Batches) -> None:
    """The stream layout, which the datasets library writes and reads under this name."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _read_arrow(path: Path) -> Iterator[Row]:
    with pa.OSFile(str(path), "rb") as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield from batch.to_pylist()


def _write_csv(path: Path, schema: pa.Schema, batches: Batches) -> None:
    """Every cell in quotes: a lone carriage return inside a text survives, and no reader needs to guess."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, schema.names, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        for batch in batches:
            writer.writerows(batch)


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the library's 131,072 characters
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream, strict=True)


def _csv_row(row: Row) -> Row:
    """Cells: nothing is the empty text, a number has as many digits as it needs to come back, labels are joined."""
    return {name: "" if _is_null(value) else str(_joined(value, row=row)) for name, value in row.items()}


def _write_json_lines(path: Path, schema: pa.Schema, batches: Batches) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for batch in batches:
            stream.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in batch)


def _read_json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        yield from map(json.loads, stream)


def _write_json(path: Path, schema: pa.Schema, batches: Batches) -> None:
    """One list with a row on each line, so that it can be read back without holding all of it."""
    before = "[\n"
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for batch in batches:
            for row in batch:
                stream.write(before + json.dumps(row, ensure_ascii=False, allow_nan=False))
                before = ",\n"
        stream.write("\n]\n" if before == ",\n" else "[]\n")


def _read_json(path: Path) -> Iterator[Row]:
    """Only the layout of `_write_json`: brackets and rows each have their own line."""
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            if (text := line.rstrip("\n").removesuffix(",")) not in ("[", "]", "[]"):
                yield json.loads(text)


def _json_row(row: Row) -> Row:
    for name, value in row.items():
        if isinstance(value, float) and math.isinf(value):
            _refuse(row, f"'{name}' is infinite, and JSON has no such number", "Choose parquet, or remove the row.")
    return {name: None if _is_null(value) else value for name, value in row.items()}


def _write_hdf5(path: Path, schema: pa.Schema, batches: Batches) -> None:
    """One dataset for each column, texts as UTF-8 of variable length; `null_mask/COLUMN` is true where it is null."""
    import h5py

    for name in schema.names:
        if "/" in name or name in (".", NULL_MASKS):
            what = f"a column of hdf5 cannot be called '{name}'"
            raise DataError("data.numeric", what, "Rename it, or choose another format.")
    kinds = {pa.int64(): np.int64, pa.float64(): np.float64}
    empty: dict[pa.DataType, Any] = {pa.int64(): 0, pa.float64(): math.nan}
    growing: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": True}
    rows = 0
    with (
        path.open("w+b", buffering=0) as raw,
        (disk := _LateErrors(raw)),
        h5py.File(disk, "w", track_order=True) as file,
    ):
        for field in schema:
            file.create_dataset(field.name, dtype=kinds.get(field.type, h5py.string_dtype("utf-8")), **growing)
            file.create_dataset(f"{NULL_MASKS}/{field.name}", dtype=bool, **growing)
        for batch in batches:
            for field in schema:
                values = [row[field.name] for row in batch]
                filled = [empty.get(field.type, "") if value is None else value for value in values]
                _append(file[field.name], filled, at=rows)
                _append(file[f"{NULL_MASKS}/{field.name}"], [value is None for value in values], at=rows)
            rows += len(batch)
            disk.raise_first()


class _LateErrors:
    """A file whose failed writes raise afterwards: raised inside HDF5, a full disk ends the process (h5py 3.16)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._first: OSError | None = None
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def write(self, data: bytes) -> int:
        self._try(self._write_all, memoryview(data))
        return len(data)

    def truncate(self, size: int) -> None:
        self._try(self._file.truncate, size)

    def flush(self) -> None:
        self._try(self._file.flush)

    def _write_all(self, data: memoryview) -> None:
        while data:  # a disk that fills up takes a part first
            data = data[self._file.write(data) :]

    def _try(self, action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self._first = self._first or error

    def raise_first(self) -> None:
        if self._first is not None:
            raise self._first

    def __enter__(self) -> _LateErrors:
        return self

    def __exit__(self, *_: object) -> None:
        self.raise_first()  # closing writes the rest


def _append(column: Any, values: list[Any], *, at: int) -> None:
    column.resize((at + len(values),))
    column[at:] = values


def _read_hdf5(path: Path) -> Iterator[Row]:
    import h5py

    with h5py.File(path, "r") as file:
        names = [name for name in file if name != NULL_MASKS]
        texts = {name for name in names if h5py.check_string_dtype(file[name].dtype)}
        for start in range(0, len(file[names[0]]), 1000):
            part = slice(start, start + 1000)
            columns = [file[name].asstr()[part] if name in texts else file[name][part].tolist() for name in names]
            masks = [file[f"{NULL_MASKS}/{name}"][part] for name in names]
            for values, empty in zip(zip(*columns, strict=True), zip(*masks, strict=True), strict=True):
                yield {name: None if null else value for name, value, null in zip(names, values, empty, strict=True)}


def _hdf5_row(row: Row) -> Row:
    held = {name: None if _is_null(value) else _joined(value, row=row) for name, value in row.items()}
    for name, value in held.items():
        if isinstance(value, str) and "\0" in value:
            _refuse(row, f"'{name}' has a NUL character, where a text of hdf5 ends", "Add fix_unicode to cleaning.")
    return held


def _write_tfrecord(path: Path, schema: pa.Schema, batches: Batches) -> None:
    """tf.train.Example records: texts as bytes lists, whole numbers as int64 and others as float lists."""
    from tfrecord import TFRecordWriter

    kinds = {str: "byte", int: "int", float: "float"}
    types = {field.name: {pa.int64(): int, pa.float64(): float}.get(field.type, str) for field in schema}
    writer = TFRecordWriter(str(path))
    try:
        for batch in batches:
            for row in batch:
                encoded = {name: [v.encode() if isinstance(v, str) else v for v in row[name]] for name in row}
                writer.write({name: (values, kinds[types[name]]) for name, values in encoded.items()})
    finally:
        writer.close()


def _read_tfrecord(path: Path) -> Iterator[Row]:
    from tfrecord import example_pb2

    for record in _tfrecords(path):
        features = example_pb2.Example.FromString(record).features.feature
        values = {name: getattr(features[name], features[name].WhichOneof("kind")).value for name in features}
        yield {name: [v.decode() if isinstance(v, bytes) else v for v in values[name]] for name in values}


def _tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a file, both checksums of each compared; the package's own reader passes over them."""
    from tfrecord import TFRecordWriter

    def checked(data: bytes, checksum: bytes) -> bytes:
        if TFRecordWriter.masked_crc(data) != checksum:
            raise RuntimeError(f"{path.name} is damaged: a checksum of a record is wrong")
        return data

    with path.open("rb") as file:
        while length := file.read(8):
            size = struct.unpack("<Q", checked(length, file.read(4)))[0]
            yield checked(file.read(size), file.read(4))


def _tfrecord_row(row: Row) -> Row:
    """Every feature is a list; a null is an absent feature."""

    def listed_values(value: Any) -> list[Any]:
        values = value if isinstance(value, list) else [value]
        return [float(np.float32(each)) if isinstance(each, float) else each for each in values]

    return {name: listed_values(row[name]) for name in row if not _is_null(row[name])}


def _is_null(value: object) -> bool:
    return value is None or value != value  # not a number is how a table of numbers writes nothing


def _joined(value: Any, *, row: Row) -> Any:
    """Several labels as one text."""
    if not isinstance(value, list):
        return value
    if strange := [label for label in value if "|" in label or not label]:
        _refuse(row, f"label '{strange[0]}' cannot be joined to others by '|'", "Choose parquet, jsonl or arrow.")
    return "|".join(value)


def _refuse(row: Row, what: str, do: str) -> NoReturn:
    raise DataError(f"row {row.get('id')}", what, do)


EXPORTS: dict[ExportFormat, Export] = {
    "parquet": Export(_write_parquet, _read_parquet, _same),
    "csv": Export(_write_csv, _read_csv, _csv_row),
    "json": Export(_write_json, _read_json, _json_row),
    "jsonl": Export(_write_json_lines, _read_json_lines, _json_row),
    "arrow": Export(_write_arrow, _read_arrow, _same),
    "hdf5": Export(_write_hdf5, _read_hdf5, _hdf5_row, packages=("h5py",)),
    "tfrecord": Export(_write_tfrecord, _read_tfrecord, _tfrecord_row, packages=("tfrecord",)),
}
