"""One table (csv, tsv, Parquet, Arrow) -> its rows, each with its line; and what every format shares.

The stock readers guess: `NA` becomes nothing, `0456` becomes 456, a trailing comma shifts the columns. Here text
is decoded strictly, a value stays as it stands, what was detected is noted, and what is wrong has its line.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.encodings import MOST_PROBLEMS_KEPT, TableFile
from finetune.data.store import BYTES_PER_BATCH, ROWS_PER_BATCH
from finetune.errors import Collector, did_you_mean, listed

FORMATS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".xml": "xml",
           ".parquet": "parquet", ".arrow": "arrow", ".h5": "hdf5", ".hdf5": "hdf5"}  # fmt: skip
TEXT_FORMATS = ("csv", "tsv", "json", "jsonl", "xml")  # decoded here; these may also be gzipped
ACCEPTED = (
    "Accepted: .csv, .tsv, .json, .jsonl, .ndjson, .xml (each also as .gz), .parquet, .arrow, .h5, .hdf5, "
    "or a folder with a sub-folder of .txt files for each class; plain text also as .txt."
)
SIGNATURES = {b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"%PDF": "a PDF",
              b"PK\x03\x04": "a zip archive or an Excel workbook", b"\x1f\x8b": "a gzip archive",
              b"\xd0\xcf\x11\xe0": "an old Excel or Word file", b"SQLite format 3": "an SQLite database",
              b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"\x89HDF": "an HDF5 file"}  # fmt: skip
KEYS_OF_ROLES = {"numeric": "data.numeric", "slice": "evaluation.slices"}  # of the others: data.columns.ROLE

Record = Mapping[str, object]
Positioned = Iterator[tuple[int, Record]]


def format_of(path: Path) -> str | None:
    """csv, tsv, json, jsonl, xml, parquet, arrow or hdf5 by the name's end; None for any other."""
    name = path.name.lower()
    kind = FORMATS.get(Path(name.removesuffix(".gz")).suffix)
    return None if name.endswith(".gz") and kind not in TEXT_FORMATS else kind


def check_signature(file: TableFile) -> None:
    """Refuses an empty text file, and one whose first bytes are those of an image, an archive or a database."""
    with file.path.open("rb") as stream:
        head = stream.read(16)
    if not head:
        file.refuse("the file is empty")
    looks = next((what for start, what in SIGNATURES.items() if head.startswith(start)), None)
    if file.zipped and looks != "a gzip archive":
        file.refuse("is not a gzip archive", f"Name it {file.path.stem}.")
    if looks and not file.zipped:
        remedy = f"Name it {file.path.name}.gz." if looks == "a gzip archive" else ACCEPTED
        file.refuse(f"looks like {looks}, not a table", remedy)


def check_columns(found: Sequence[str], *, name: str, roles: Mapping[str, str], problems: Collector) -> bool:
    """Whether every column of `roles` is in `found` once; each that is not becomes a problem.

    A role is a key of data.columns, or `numeric` or `slice` and the column.
    """
    wrong = {role: column for role, column in roles.items() if found.count(column) != 1}
    for role, column in wrong.items():
        key = KEYS_OF_ROLES.get(role.partition(" ")[0], f"data.columns.{role}")
        if column in found:
            problems.add(name, f"column '{column}' appears twice", "Rename or remove one of them.")
            continue
        shown = listed(f"'{each}'" for each in found if each) or "none"
        # The wanted names that were found already are no suggestion for the one that is missing.
        hint = did_you_mean(column, [each for each in found if each and each not in roles.values()])
        remedy = hint or f"Is the header missing? Else name the column in {key}."
        problems.add(key, f"no column '{column}' in {name}. Columns found: {shown}", remedy)
    return not wrong


def with_columns(values: Iterable[tuple[int, object]], file: TableFile, *, roles: Mapping[str, str]) -> Positioned:
    """Objects that have every column. A column that no row has is one problem, not one for each row."""
    keys: dict[str, None] = {}
    missing: dict[str, list[tuple[int, list[str]]]] = {column: [] for column in roles.values()}
    rows, before = 0, len(file.problems.problems)
    for position, value in values:
        rows += 1
        if not isinstance(value, dict):
            file.problems.add(file.at(position), f"is {kind_of(value)}, not an object with columns")
            continue
        absent = [column for column in missing if column not in value]
        if len(keys) < 100:
            keys.update(dict.fromkeys(value))
        for column in absent:
            missing[column].append((position, list(value)))
        if not absent:
            yield position, value
        if any(len(places) > MOST_PROBLEMS_KEPT for places in missing.values()):
            break
    if not rows and len(file.problems.problems) == before:
        file.refuse("the file is empty")
    nowhere = {role: column for role, column in roles.items() if rows and len(missing[column]) == rows}
    check_columns(list(keys), name=file.name, roles=nowhere, problems=file.problems)
    for column in (each for each in missing if each not in nowhere.values()):
        for position, names in missing[column]:
            shown = listed(f"'{name}'" for name in names) or "no keys"
            file.problems.add(file.at(position), f"no '{column}' (has {shown})", did_you_mean(column, names))


def kind_of(value: object) -> str:
    """A value's type in the user's words: `a number`, `a list`."""
    if isinstance(value, bool):
        return "true/false"
    names = {int: "a number", float: "a number", str: "text", list: "a list", dict: "an object", bytes: "binary data"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def csv_rows(file: TableFile, *, default: str, roles: Mapping[str, str]) -> Positioned:
    """The rows of a csv file by the physical line where each starts. `default` separates fields unless another does.

    A row has every column, whatever `roles` asks for.
    """
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the library's 131,072 characters
    separator = _detect_separator(file, default=default, wanted=list(roles.values()))
    header: list[str] | None = None
    odd: list[tuple[int, int]] = []  # (line, fields) of the rows that do not have the header's width
    rows = blank = 0
    with file.text() as stream:
        lines: list[str] = []
        reader = csv.reader(_remembered(stream, lines), delimiter=separator, strict=True)
        while len(odd) < MOST_PROBLEMS_KEPT:
            start = reader.line_num + 1
            lines.clear()
            try:
                fields = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                _report_widths(file, odd, header=header or [], rows=rows)
                _refuse_quote(file, str(error), start=start, lines=lines, separator=separator)
            if not fields:
                blank += 1
            elif header is None:
                header = [name.lstrip("\ufeff").strip() for name in fields]
                if unnamed := [number for number, name in enumerate(header, start=1) if not name]:
                    file.note(f"column {listed(unnamed)} has no name and is ignored")
                if not check_columns(header, name=file.name, roles=roles, problems=file.problems):
                    return
            else:
                rows += 1
                if len(fields) != len(header):
                    odd.append((start, len(fields)))
                    continue
                yield start, dict(zip(header, fields, strict=True))
    if header is None or not rows:
        file.refuse("the file has a header but no rows" if header else "the file is empty")
    _report_widths(file, odd, header=header, rows=rows)
    if blank:
        file.note(f"{blank} blank lines skipped")


def _remembered(stream: Iterable[str], row: list[str]) -> Iterator[str]:
    """The lines of a stream, kept in `row`: an open quote is looked for among the lines of its row."""
    for line in stream:
        row.append(line)
        yield line


def _detect_separator(file: TableFile, *, default: str, wanted: list[str]) -> str:
    with file.text() as stream:
        first = next((line for line in stream if line.strip()), "").lstrip("\ufeff")
    names = {each: [name.strip(' "\r\n') for name in first.split(each)] for each in (default, ",", "\t", ";", "|")}
    best = max(names, key=lambda each: (sum(column in names[each] for column in wanted), len(names[each])))
    if len(names[default]) > 1 or all(column in names[default] for column in wanted) or len(names[best]) < 2:
        return default
    file.note("fields are separated by " + {"\t": "a tab", ",": "a comma"}.get(best, f"'{best}'"))
    return best


def _report_widths(file: TableFile, odd: list[tuple[int, int]], *, header: list[str], rows: int) -> None:
    if len(odd) == rows and odd and all(fields == len(header) + 1 for _, fields in odd) and rows > 1:
        line, fields = odd[0]
        what = f"the rows have one field more than the header (line {line}: {fields} fields, header has {len(header)})"
        file.problems.add(file.name, what, "Remove the separator at their end, or name the column in the header.")
        return
    for line, fields in odd:
        what = f"{fields} field{'s' if fields > 1 else ''}, header has {len(header)}"
        empty = f": column '{header[fields]}' is empty" if fields < len(header) else ""
        remedy = "Fill it in, or remove the row." if empty else "Quote text that contains commas."
        file.problems.add(file.at(line), what + empty, remedy)


def _refuse_quote(file: TableFile, reason: str, *, start: int, lines: list[str], separator: str) -> NoReturn:
    """The line where the last quote of a broken row opens is the one to look at, wherever reading stopped."""
    opened, inside, previous = start, False, separator
    for number, line in enumerate(lines, start=start):
        for character in line:
            if character == '"' and (inside or previous in (separator, "\n", "\r")):
                inside = not inside
                opened = number if inside else opened
            previous = character
    closes = f"closes in line {start + len(lines) - 1} in the middle of a field"
    what = f"a quote opens here and {'never closes' if 'unexpected end' in reason else closes}"
    file.refuse(what, 'Close it where the field ends; a quote inside a text is written twice ("").', position=opened)


def arrow_rows(file: TableFile, *, kind: str, roles: Mapping[str, str]) -> Positioned:
    """The rows of a Parquet or Arrow file by their number. Fields of a struct are columns: `review.body`.

    Without `roles` a row has every column.
    """
    if not file.bytes:
        file.refuse("the file is empty")
    position = 0
    try:
        schema, batches = _arrow_batches(file.path, kind=kind, wanted=list(roles.values()))
        roles = roles or {name: name for name in schema.names}
        if not check_columns(schema.names, name=file.name, roles=roles, problems=file.problems):
            return
        names = {column: class_names(schema, column) for column in roles.values()}
        for batch in batches:
            columns = [named(batch.column(column).to_pylist(), names=names[column]) for column in names]
            for row in zip(*columns, strict=True):
                position += 1
                yield position, dict(zip(names, row, strict=True))
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        file.refuse(f"is damaged or incomplete ({reason})", "Write or fetch the file again.")
    if not position:
        file.refuse("the file has columns but no rows")


def _arrow_batches(path: Path, *, kind: str, wanted: list[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Parquet, and both Arrow layouts: the file with its footer, and the stream that the datasets library writes."""
    if kind == "parquet":
        # Buffered, because a column of a row group is otherwise read whole, and it may be the whole file.
        table = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        rows, size = table.metadata.num_rows, _bytes_of(table.metadata)
        # Asked for by name, fields of structs included: columns that nobody asked for are never decoded.
        batches = table.iter_batches(batch_size=_rows_at_once(rows, size), columns=wanted or None)
        return _flat(table.schema_arrow.empty_table()).schema, map(_flat, batches)
    source = pa.memory_map(str(path))
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        schema, batches = reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        source.seek(0)
        batches = pa.ipc.open_stream(source)
        schema = batches.schema
    return _flat(schema.empty_table()).schema, (_flat(part) for batch in batches for part in _slices(batch))


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    step = _rows_at_once(batch.num_rows, batch.nbytes)
    return (batch.slice(start, step) for start in range(0, batch.num_rows, step))


def _rows_at_once(rows: int, size: int) -> int:
    return max(1, min(ROWS_PER_BATCH, rows * BYTES_PER_BATCH // max(size, 1)))


def _bytes_of(metadata: pq.FileMetaData) -> int:
    return sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))


def _flat(table: pa.Table | pa.RecordBatch) -> pa.Table:
    """Every field of a struct as a column of its own, at any depth."""
    flat = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    while any(pa.types.is_struct(column.type) for column in flat.schema):
        flat = flat.flatten()
    return flat


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names behind a column of class numbers, or of lists of them, which the datasets library keeps in the schema.

    None for any other column.
    """
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        feature = feature.get("feature", feature)  # of a list: what it holds
        return [str(name) for name in feature["names"]] if feature["_type"] == "ClassLabel" else []
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


def named(values: list[object], *, names: list[str]) -> list[object]:
    """Class numbers, also in lists, as their names; a number without one stays, and is refused with its row later."""

    def name(value: object) -> object:
        if isinstance(value, list):
            return [name(each) for each in value]
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else value

    return [name(each) for each in values] if names else values
