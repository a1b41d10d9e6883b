"""One table file -> its rows, each with its line.

The stock readers guess: `NA` becomes nothing, `0456` becomes 456, a trailing comma shifts the columns. Here text
is decoded strictly, a value stays as it stands, what was detected is noted, and what is wrong has its line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from finetune.errors import Collector, DataError, did_you_mean, listed

FORMATS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
           ".parquet": "parquet", ".arrow": "arrow"}  # fmt: skip
ACCEPTED = "Accepted: .csv, .tsv, .json, .jsonl, .ndjson (each also as .gz), .parquet, .arrow."
SIGNATURES = {b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"%PDF": "a PDF",
              b"PK\x03\x04": "a zip archive or an Excel workbook", b"\x1f\x8b": "a gzip archive",
              b"\xd0\xcf\x11\xe0": "an old Excel or Word file", b"SQLite format 3": "an SQLite database",
              b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file"}  # fmt: skip
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
                    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
CHUNK_CHARACTERS = 1 << 20
MOST_PROBLEMS_KEPT = 1000  # a file with more is not worth reading to its end
# Genuine GB18030 is mostly GB2312 characters (simplified 1.0, traditional poems .71); Big5 read as GB18030 has .35
# and Latin-1 at most .5, so below this share a file that happens to decode is refused instead of garbled.
LEAST_COMMON_SHARE = 0.6

Record = Mapping[str, object]


@dataclass
class TableFile:
    """A file to read, what messages call it, and what reading it brings to light."""

    path: Path
    name: str
    problems: Collector
    notes: list[str] = field(default_factory=list)
    encoding: str = "utf-8"
    sha256: str = ""
    bytes: int = 0

    @property
    def zipped(self) -> bool:
        return self.path.suffix.lower() == ".gz"

    @property
    def is_hopeless(self) -> bool:
        return len(self.problems.problems) >= MOST_PROBLEMS_KEPT

    def at(self, position: int) -> str:
        return f"{self.name}:{position}"

    def note(self, text: str) -> None:
        self.notes.append(f"{self.name}: {text}")

    def refuse(self, what: str, do: str = "", *, position: int | None = None) -> NoReturn:
        """Nothing more can be read from this file."""
        raise DataError(self.at(position) if position else self.name, what, do)

    def open(self) -> BinaryIO:
        return cast(BinaryIO, gzip.open(self.path)) if self.zipped else self.path.open("rb")

    def text(self) -> io.TextIOWrapper:
        # newline="" leaves line ends inside quotes alone, and still ends a line at \n, \r\n or a lone \r.
        return io.TextIOWrapper(self.open(), encoding=self.encoding, errors="strict", newline="")


def read_rows(file: TableFile, *, roles: Mapping[str, str], encoding: str | None) -> Iterator[tuple[int, Record]]:
    """The rows of a file as (position, values by column), in order.

    `position` is the 1-based physical line where the row starts (csv, tsv, jsonl) or the 1-based row number (json,
    parquet, arrow). `roles` maps a role ("text") to the column that must be there ("review"). Problems of single
    rows go to `file.problems`; a file that cannot be read at all raises DataError.
    """
    kind = format_of(file.path)
    if kind is None:
        file.refuse(f"unknown format '{file.path.suffix}'", ACCEPTED)
    try:
        file.bytes = file.path.stat().st_size
        with file.path.open("rb") as stream:
            file.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if kind in ("parquet", "arrow"):
            yield from _arrow_rows(file, kind=kind, roles=roles)
            return
        _check_signature(file)
        file.encoding = _detect_encoding(file, asked=encoding)
        if kind in ("csv", "tsv"):
            yield from _csv_rows(file, default="," if kind == "csv" else "\t", roles=roles)
        else:
            values = _json_lines(file) if kind == "jsonl" else _json_list(file)
            yield from _with_columns(values, file, roles=roles)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        file.refuse(f"is damaged or incomplete ({error})", "Make or fetch the archive again.")
    except PermissionError:
        file.refuse(f"cannot read {file.name}: permission denied")
    except OSError as error:
        file.refuse(f"cannot be read ({error.strerror or error})")


def format_of(path: Path) -> str | None:
    """csv, tsv, json, jsonl, parquet or arrow by the name's end; None for any other."""
    name = path.name.lower()
    kind = FORMATS.get(Path(name.removesuffix(".gz")).suffix)
    return None if name.endswith(".gz") and kind in ("parquet", "arrow") else kind


def check_columns(found: Sequence[str], *, name: str, roles: Mapping[str, str], problems: Collector) -> bool:
    """Whether every column of `roles` is in `found` once; each that is not becomes a problem."""
    wrong = {role: column for role, column in roles.items() if found.count(column) != 1}
    for role, column in wrong.items():
        if column in found:
            problems.add(name, f"column '{column}' appears twice", "Rename or remove one of them.")
            continue
        shown = listed(f"'{each}'" for each in found if each) or "none"
        # The wanted names that were found already are no suggestion for the one that is missing.
        hint = did_you_mean(column, [each for each in found if each and each not in roles.values()])
        remedy = hint or f"Is the header missing? Else name the column in data.columns.{role}."
        problems.add(f"data.columns.{role}", f"no column '{column}' in {name}. Columns found: {shown}", remedy)
    return not wrong


def _check_signature(file: TableFile) -> None:
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


def _detect_encoding(file: TableFile, *, asked: str | None) -> str:
    """The codec that reads the file strictly: a byte order mark, UTF-8, then GB18030. Refuses anything else."""
    with file.open() as stream:
        head = stream.read(4)
    marked = next((codec for mark, codec in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    codec = marked or "utf-8"
    failure, plain = _first_failure(file, codec=codec)
    if asked is not None:
        return _asked_encoding(file, asked=asked, valid=codec, is_valid=failure is None, plain=plain)
    if failure is None:
        if not codec.startswith("utf-8"):
            file.note(f"read as {codec.upper()}")
        return codec
    if marked is None and _is_gb18030(file):
        file.note("read as GB18030")
        return "gb18030"
    line, column, byte = failure
    what = f"byte 0x{byte:02X} at column {column} is not {marked.upper() if marked else 'UTF-8 (nor GB18030)'}"
    file.refuse(what, "Convert the file to UTF-8, or set its encoding, for example encoding: latin-1.", position=line)


def _asked_encoding(file: TableFile, *, asked: str, valid: str, is_valid: bool, plain: bool) -> str:
    try:
        info = codecs.lookup(asked)
        "".encode(asked)
    except (LookupError, UnicodeError, ValueError):
        remedy = "Write utf-8, gb18030 or latin-1."
        raise DataError("data.encoding", f"'{asked}' is not a text encoding", remedy) from None
    same = info.name in (valid, codecs.lookup(valid).name, valid.removesuffix("-sig"))
    if is_valid and not plain and not same:
        # Any bytes are some Chinese or Latin-1 text: only this check tells mojibake from what was meant.
        what = f"the file is valid {valid.removesuffix('-sig').upper()}, but data.encoding is {asked}"
        file.refuse(what, "Remove the encoding.")
    codec = valid if same else asked
    if failure := _first_failure(file, codec=codec)[0]:
        line, column, byte = failure
        file.refuse(f"byte 0x{byte:02X} at column {column} is not {asked}", "Correct the encoding.", position=line)
    if info.name != "utf-8":
        file.note(f"read as {asked}")
    return codec


def _first_failure(file: TableFile, *, codec: str) -> tuple[tuple[int, int, int] | None, bool]:
    """(line, column, byte) of the first byte that does not decode, or None; and whether all was plain ASCII."""
    decoder = codecs.getincrementaldecoder(codec)("strict")
    line, tail, plain = 1, "", True
    with file.open() as stream:
        while True:
            chunk = stream.read(CHUNK_CHARACTERS)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                *ended, tail = re.split("\r\n|\r|\n", tail + error.object[: error.start].decode(codec, "ignore"))
                return (line + len(ended), len(tail) + 1, error.object[error.start]), False
            plain = plain and text.isascii()
            *ended, tail = re.split("\r\n|\n|\r(?!$)", tail + text)
            line += len(ended)
            if not chunk:
                return None, plain


def _is_gb18030(file: TableFile) -> bool:
    common = wide = 0
    try:
        with io.TextIOWrapper(file.open(), encoding="gb18030", errors="strict") as stream:
            while chunk := stream.read(CHUNK_CHARACTERS):
                characters = re.sub("[\x00-\x7f]+", "", chunk)
                wide += len(characters)
                common += len(characters.encode("gb2312", "ignore")) // 2
    except UnicodeDecodeError:
        return False
    return common >= LEAST_COMMON_SHARE * wide


def _remembered(stream: Iterable[str], row: list[str]) -> Iterator[str]:
    """The lines of a stream, kept in `row`: an open quote is looked for among the lines of its row."""
    for line in stream:
        row.append(line)
        yield line


def _csv_rows(file: TableFile, *, default: str, roles: Mapping[str, str]) -> Iterator[tuple[int, Record]]:
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


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(record := dict(pairs)) != len(pairs):
        raise ValueError("a key appears twice")
    return record


def _parse(text: str) -> object:
    """JSON, with NaN as null: writers put it where a cell was empty."""
    return json.loads(text, object_pairs_hook=_pairs, parse_constant=lambda _: None)


def _json_lines(file: TableFile) -> Iterator[tuple[int, object]]:
    with file.text() as stream:
        for number, line in enumerate(stream, start=1):
            if not (text := line.strip("\ufeff \t\r\n")):
                continue
            if text == "[" or (number == 1 and text.startswith("[{")):
                file.refuse("holds one JSON list, not a JSON object on each line", "Name it .json.", position=number)
            try:
                value = _parse(text)
            except (ValueError, RecursionError) as error:
                reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                file.problems.add(file.at(number), f"not valid JSON ({reason})", "Write one JSON object on each line.")
                if file.is_hopeless:
                    return
            else:
                yield number, value


def _json_list(file: TableFile) -> Iterator[tuple[int, object]]:
    """The rows of a list of objects, or of {"data": [...]}. The whole file is in memory: JSON has no lines."""
    with file.text() as stream:
        text = stream.read().lstrip("\ufeff")
    if not text.strip():
        file.refuse("the file is empty")
    try:
        value = _parse(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            file.note("read as JSON lines")
            return (yield from _json_lines(file))
        file.refuse(f"not valid JSON ({error.msg} at column {error.colno})", position=error.lineno)
    except (ValueError, RecursionError) as error:
        file.refuse(f"not valid JSON ({error})")
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        file.refuse(f"holds {kind_of(value)}, not a list", 'Write a list of objects, or {"data": [...]}.')
    if not rows:
        file.refuse("the list has no rows")
    yield from enumerate(rows, start=1)


def _with_columns(
    values: Iterable[tuple[int, object]], file: TableFile, *, roles: Mapping[str, str]
) -> Iterator[tuple[int, Record]]:
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


def _arrow_rows(file: TableFile, *, kind: str, roles: Mapping[str, str]) -> Iterator[tuple[int, Record]]:
    if not file.bytes:
        file.refuse("the file is empty")
    position = 0
    try:
        schema, batches = _arrow_batches(file.path, kind=kind)
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


def _arrow_batches(path: Path, *, kind: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Parquet, and both Arrow layouts: the file with its footer, and the stream that the datasets library writes."""
    if kind == "parquet":
        return (table := pq.ParquetFile(path)).schema_arrow, table.iter_batches(batch_size=10_000)
    source = pa.memory_map(str(path))
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        return reader.schema, (reader.get_batch(index) for index in range(reader.num_record_batches))
    source.seek(0)
    return (stream := pa.ipc.open_stream(source)).schema, iter(stream)


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names behind a column of class numbers, which the datasets library keeps in the schema; else none."""
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        return [str(name) for name in feature["names"]] if feature["_type"] == "ClassLabel" else []
    except (KeyError, TypeError, ValueError):
        return []


def named(values: list[object], *, names: list[str]) -> list[object]:
    """Class numbers as their names; a number without a name stays a number and is refused with its row later."""
    if not names:
        return values
    return [names[each] if isinstance(each, int) and 0 <= each < len(names) else each for each in values]
