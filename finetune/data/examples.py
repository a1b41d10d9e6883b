"""One source of rows -> examples in Arrow batches: read by its format, every value checked and turned into text.

Why `load_dataset` does not parse the files: its readers guess types and drop rows without a word (data/tables.py says
how), and cannot say in which line something is wrong. The datasets library holds the rows from here on: what this file
yields is written in its own layout and mapped, so that every later step is one of its operations.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import pyarrow as pa

from finetune.data.chats import ChatFault
from finetune.data.encodings import TableFile, detect_encoding
from finetune.data.store import BYTES_PER_BATCH, ROWS_PER_BATCH
from finetune.data.tables import (
    ACCEPTED,
    Record,
    arrow_rows,
    check_columns,
    check_signature,
    csv_rows,
    format_of,
    kind_of,
)
from finetune.data.text_folders import is_text, text_rows, whole_file
from finetune.data.trees import hdf5_rows, json_line_rows, json_rows, xml_rows
from finetune.data.written_examples import KEYS, chat_text, divided_chat
from finetune.errors import listed
from finetune.recipe_data import Form

Rows = Callable[[], Iterable[Record]]
Bar = Callable[..., Iterable[tuple[int | str, Record]]]

COLUMNS = ("id", "text", "label", "group", "origin")
WRITTEN_COLUMNS = ("id", "text", "target", "label", "group", "origin")
SLICE_PREFIX = "slice:"  # before the name of a column that test scores are cut by, so that it is no other column's
MOST_CHARACTERS = 1_000_000
MOST_NUL_SHARE = 0.001
FEW_NUL_ROWS = 3  # in a small file a share of rows says nothing
LONG_TEXTS_SHOWN = 3
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class ColumnMap:
    """Which column of the source plays which part.

    Rows of a `form` have no label, but a target: in a column of its own, or as the last of the messages in `text`.
    """

    text: str = "text"
    label: str = "label"
    group: str | None = None
    id: str | None = None
    target: str | None = None
    form: Form | None = None

    def by_key(self, *, labelled: bool) -> dict[str, str]:
        """The columns that must be there, by their key in data.columns; to predict, those that are read."""
        read, written = KEYS[self.form] if self.form is not None else ("text", "label")
        learnt = {written or "": self.target if self.form is not None else self.label, "group": self.group}
        named = {read: self.text, **(learnt if labelled else {}), "id": self.id}
        return {key: column for key, column in named.items() if column is not None}


@dataclass(frozen=True)
class Reading:
    """How a row becomes an example. Its repr is part of the name under which the examples are kept.

    Without `most_characters` a text may be of any length.
    """

    columns: ColumnMap
    labelled: bool = True
    multi_label: bool = False
    encoding: str | None = None
    most_characters: int | None = MOST_CHARACTERS
    numeric: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()

    @cached_property
    def roles(self) -> dict[str, str]:
        """The columns that must be there, by their part."""
        roles = self.columns.by_key(labelled=self.labelled)
        roles |= {f"numeric {column}": column for column in self.numeric}
        return roles | {f"slice {column}": column for column in self.slices if column not in roles.values()}

    @cached_property
    def schema(self) -> pa.Schema:
        label = pa.list_(pa.string()) if self.multi_label else pa.string()
        names = COLUMNS if self.columns.form is None else WRITTEN_COLUMNS
        words = [(name, label if name == "label" else pa.string()) for name in names]
        numbers = [(name, pa.float64()) for name in self.numeric]
        return pa.schema([*words, *numbers, *((SLICE_PREFIX + name, pa.string()) for name in self.slices)])


def examples(file: TableFile, *, rows: Rows | None, reading: Reading, bar: Bar | None) -> Iterator[pa.RecordBatch]:
    """The examples of one file, or of `rows` that came from elsewhere, in batches bounded in rows and bytes.

    `bar`, like tqdm, shows the rows passing. Afterwards `file` has their number, encoding, notes and
    warnings. Problems of single rows go to `file.problems`; a file that cannot be read at all raises DataError.
    """
    roles = reading.roles
    read: Iterator[tuple[int | str, Record]]
    if rows:
        read = _given_rows(rows, file=file, roles=roles)
    else:
        labelled = reading.labelled and reading.columns.form is None
        plain = reading.columns.form == "text"
        read = rows_of_file(file, roles=roles, asked=reading.encoding, labelled=labelled, plain_text=plain)
    made = _Examples(file, reading=reading)
    for position, record in bar(iterable=read, desc=f"reading {file.name}") if bar else read:
        made.add(position, record)
        if file.is_hopeless:
            break
        if made.is_full:
            yield made.batch()
    yield made.batch()
    made.finish()


def rows_of_file(
    file: TableFile,
    *,
    roles: Mapping[str, str],
    asked: str | None = None,
    labelled: bool = True,
    plain_text: bool = False,
) -> Iterator[tuple[int | str, Record]]:
    """The rows of a file by position: the physical line where a row starts (csv, json lines, xml), else its number.

    `roles` are the columns that must be there, by their part; a table without roles gives rows with every column.
    `asked` is the encoding that the recipe names. With `plain_text` a .txt file is one row.
    Raises DataError for a file that cannot be read.
    """
    try:
        if file.path.is_dir():
            yield from text_rows(file, roles=roles, asked=asked, labelled=labelled)
            return
        kind = format_of(file.path)
        if plain_text and is_text(file.path):
            yield from whole_file(file, roles=roles, asked=asked)
            return
        if kind is None:
            archive = "Unpack it; of archives only .gz is read." if file.path.suffix.lower() == ".zip" else ACCEPTED
            file.refuse(f"unknown format '{file.path.suffix}'", archive)
        if not file.sha256:
            file.measure()
        yield from _rows_by_format(file, kind=kind, roles=roles, asked=asked)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        file.refuse(f"is damaged or incomplete ({error})", "Make or fetch the archive again.")
    except PermissionError:
        file.refuse(f"cannot read {file.name}: permission denied")
    except OSError as error:
        file.refuse(f"cannot be read ({error.strerror or error})")


def _rows_by_format(
    file: TableFile, *, kind: str, roles: Mapping[str, str], asked: str | None
) -> Iterator[tuple[int, Record]]:
    if kind in ("parquet", "arrow"):
        return arrow_rows(file, kind=kind, roles=roles)
    if kind == "hdf5":
        return hdf5_rows(file, roles=roles)
    check_signature(file)
    if kind == "xml":
        return xml_rows(file, roles=roles, asked=asked)
    file.encoding = detect_encoding(file, asked=asked)
    if kind in ("csv", "tsv"):
        return csv_rows(file, default="," if kind == "csv" else "\t", roles=roles)
    return (json_line_rows if kind == "jsonl" else json_rows)(file, roles=roles)


def _given_rows(rows: Rows, *, file: TableFile, roles: Mapping[str, str]) -> Iterator[tuple[int, Record]]:
    """Rows of a corpus or of the Hub; their JSON lines stand for the bytes of a file."""
    position, digest = 0, hashlib.sha256()
    for position, record in enumerate(rows(), start=1):
        if position == 1 and not check_columns(list(record), name=file.name, roles=roles, problems=file.problems):
            return
        line = json.dumps([record.get(column) for column in roles.values()], default=str).encode() + b"\n"
        digest.update(line)
        file.bytes += len(line)
        yield position, record
    file.sha256 = digest.hexdigest()
    if not position:
        file.refuse("has no rows")


class _Examples:
    """Rows of one file on their way into Arrow: each value checked and turned into text."""

    def __init__(self, file: TableFile, *, reading: Reading) -> None:
        self._file, self._reading = file, reading
        self._position: int | str = 0
        self._where = file.name
        self._columns: dict[str, list[object]] = {name: [] for name in reading.schema.names}
        self._bytes = 0
        self._label_kinds: list[str] = []
        self._list_refused = self._has_nul = False
        self._empty_label_cells = self._blank_labels = self._rows_with_nul = 0
        self._long: list[str] = []

    def add(self, position: int | str, record: Record) -> None:
        columns, roles = self._reading.columns, self._reading.roles
        label, group = roles.get("label"), roles.get("group")
        self._position, self._has_nul = position, False
        self._where = self._file.at(position) if position else self._file.name
        text, target = self._chat(record) if columns.form == "chat" else self._texts(record)
        example: dict[str, object] = {
            "id": self._id(record, columns.id) if columns.id else self._where,
            "text": text,
            "target": target,
            "label": self._label(record.get(label), label) if label else None,
            "group": self._word(record.get(group), group) if group else None,
            "origin": self._where,
        }
        for column in self._reading.numeric:
            example[column] = self._number(record.get(column), column)
        for column in self._reading.slices:
            example[SLICE_PREFIX + column] = self._slice(record.get(column), column)
        for name, values in self._columns.items():
            values.append(example[name])
        self._file.rows += 1
        self._rows_with_nul += self._has_nul

    @property
    def is_full(self) -> bool:
        return self._bytes >= BYTES_PER_BATCH or len(self._columns["id"]) >= ROWS_PER_BATCH

    def batch(self) -> pa.RecordBatch:
        try:
            batch = pa.RecordBatch.from_pydict(self._columns, schema=self._reading.schema)
        except UnicodeEncodeError:  # values are checked one by one: only a file's name is left
            self._file.refuse("its name, or that of a text in it, is not UTF-8", "Rename it.")
        self._columns, self._bytes = {name: [] for name in self._columns}, 0
        return batch

    def finish(self) -> None:
        """What can be said only after the last row."""
        file, nul = self._file, self._rows_with_nul
        if nul > max(FEW_NUL_ROWS, MOST_NUL_SHARE * file.rows):
            what = f"NUL bytes in {nul:,} of {file.rows:,} rows: this looks like a binary file"
            file.refuse(what, "Export it as UTF-8 text again.")
        if nul:
            file.note(f"NUL bytes in {nul} row{'s' if nul > 1 else ''}")
        if self._empty_label_cells:
            file.note(f"{self._empty_label_cells} empty label cells read as no label at all")
        if self._blank_labels:
            file.note(f"{self._blank_labels} empty labels beside or instead of others left out")
        if self._long:
            file.warnings.append(f"{file.name}: {listed(self._long, most=LONG_TEXTS_SHOWN)}")

    def _problem(self, what: str, do: str) -> None:
        self._file.problems.add(self._where, what, do)

    def _id(self, record: Record, column: str) -> str | None:
        value = self._word(record.get(column), column)
        if value is None:
            self._problem(f"'{column}' is empty", "Every row needs an id, or remove data.columns.id.")
        return value

    def _texts(self, record: Record) -> tuple[str | None, str | None]:
        columns, target = self._reading.columns, None
        text = self._document(record.get(columns.text), columns.text)
        if columns.target is not None and self._reading.labelled:
            target = self._document(record.get(columns.target), columns.target)
        return (text or "") if columns.form == "pairs" else text, target

    def _chat(self, record: Record) -> tuple[str | None, str | None]:
        """The messages before the last one as JSON, and its content; both None where the cell is empty."""
        column = self._reading.columns.text
        value = record.get(column)
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            return None, None
        try:
            messages, target = divided_chat(value, answered=self._reading.labelled)
        except ChatFault as fault:
            self._problem(f"'{column}': {fault.what}", fault.do)
            return None, None
        for number, message in enumerate(messages):
            if self._document(message["content"], f"{column}[{number}].content") is None:
                return None, None
        return chat_text(messages), self._document(target, f"{column}[{len(messages)}].content")

    def _document(self, value: object, column: str) -> str | None:
        text, most = self._text(value, column), self._reading.most_characters
        length = len(text or "")
        if most is not None and length > most:
            what = f"'{column}' has {length:,} characters, more than data.most_characters ({most:,})"
            plain = self._reading.columns.form == "text"
            do = "Cut it with data.passage_characters" if plain else "Cut it into documents"
            self._problem(what, f"{do}, or raise the limit.")
            return None
        if most is not None and length > MOST_CHARACTERS:
            where = f"line {self._position}" if isinstance(self._position, int) else self._position or "the text"
            self._long.append(f"{where} has {length:,} characters")
        return text

    def _label(self, value: object, column: str) -> str | list[str] | None:
        if not self._reading.multi_label:
            return self._one_label(value, column)
        if value is None or value != value:  # not a number: how tables write an empty cell
            return None
        if isinstance(value, str) and not value.strip():
            self._empty_label_cells += 1
            return []
        parts = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else [value]
        labels = [label for part in parts if (label := self._one_label(part, column)) is not None]
        self._blank_labels += len(parts) - len(labels)
        return labels

    def _one_label(self, value: object, column: str) -> str | None:
        if isinstance(value, list):
            if not self._list_refused:  # once: every row says the same
                self._problem(f"'{column}' is a list", "Set data.multi_label: true, or give each row one label.")
            self._list_refused = True
            return None
        text, kind = self._word(value, column), kind_of(value).replace("a number", "numbers")
        if text is not None and kind not in self._label_kinds:
            self._label_kinds.append(kind)
            if len(self._label_kinds) == 2:
                mixed = " and ".join(sorted(self._label_kinds, reverse=True))
                self._problem(f"labels mix {mixed} (line {self._position})", "Write all of them the same way.")
        return text.strip() if text is not None else None

    def _number(self, value: object, column: str) -> float | None:
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            return None
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        if is_number or (isinstance(value, str) and NUMBER.fullmatch(value.strip())):
            try:
                if abs(number := float(value)) != float("inf"):  # type: ignore[arg-type]
                    return number
            except OverflowError:
                pass
        shown = f"'{value[:40]}'" if isinstance(value, str) else "infinite" if is_number else kind_of(value)
        self._problem(f"'{column}' is {shown}, not a number", "Write a number, or leave the cell empty.")
        return None

    def _word(self, value: object, column: str) -> str | None:
        """Text, a number or true/false as text; blank is absent."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float) and value == value:
            return str(value)
        text = self._text(value, column)
        return text if text and text.strip() else None

    def _slice(self, value: object, column: str) -> str | None:
        """A value to group documents by: as text, whatever single value it is (a date, a decimal number)."""
        is_single = not isinstance(value, list | dict | bytes | str | bool | int | float | None)
        return self._word(str(value) if is_single else value, column)

    def _text(self, value: object, column: str) -> str | None:
        if value is None or value != value:
            return None
        if not isinstance(value, str):
            self._problem(f"'{column}' is {kind_of(value)}", "Write it as text, in quotes.")
            return None
        try:
            self._bytes += len(value.encode())  # JSON can spell half of a character, which no file can store
        except UnicodeEncodeError as error:
            half = f"half of a character (\\u{ord(value[error.start]):04x}, a lone surrogate)"
            self._problem(f"'{column}' has {half} at character {error.start + 1}", "Write the whole character.")
            return None
        self._has_nul = self._has_nul or "\0" in value
        return value
