"""Files, folders, built-in corpora and Hub datasets -> examples with standard columns and a stable id.

Everything after this file sees the same five columns, all of them text, wherever the rows came from. A name that
could be a file is never looked up on the Hub, and every problem of every file is shown together.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from finetune.data.hub_datasets import dataset_rows, fetch_dataset
from finetune.data.tables import ACCEPTED, Record, TableFile, check_columns, format_of, kind_of, read_rows
from finetune.errors import Collector, DataError, did_you_mean, listed

if TYPE_CHECKING:
    import datasets  # imported late: it takes seconds, and a broken file is refused without it

Source = str | list[str] | dict[str, str | list[str]]
Corpora = Mapping[str, Callable[[], Iterable[Mapping[str, str]]]]
Rows = Callable[[], Iterable[Record]]

COLUMNS = ("id", "text", "label", "group", "origin")
SPLITS = ("train", "validation", "test")
HUB_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
              "dev": "validation", "test": "test"}  # fmt: skip
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILE_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}$")
ROWS_PER_BATCH = 10_000


@dataclass(frozen=True)
class ColumnMap:
    """Which column of the source plays which part."""

    text: str = "text"
    label: str = "label"
    group: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """What was read, by the name given, never an absolute path. Without a file, bytes are the rows as JSON lines."""

    name: str
    sha256: str
    bytes: int
    rows: int
    encoding: str


@dataclass(frozen=True)
class Loaded:
    """Examples by split: `all` for one unsplit source, else train, validation and test, as far as given."""

    splits: dict[str, datasets.Dataset]
    files: list[SourceFile]
    notes: list[str]
    warnings: list[str]


def load_examples(
    source: Source,
    *,
    columns: ColumnMap,
    base: Path,
    labelled: bool = True,
    multi_label: bool = False,
    encoding: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    corpora: Corpora = {},  # noqa: B006  (read only)
) -> Loaded:
    """Read a source into datasets with exactly the columns id, text, label, group and origin.

    All are strings; text, label and group may be null; with `multi_label`, label is a list of strings (a text is
    split at `|`). `id` is the id column, or `NAME:ROW`; `origin` is `NAME:LINE` (csv, jsonl) or `NAME:ROW`.
    `limit` keeps a uniform sample of that many rows of each split, drawn with `seed`, in their order.
    With `labelled=False` (text to predict) only text and id are read; label and group are null.
    Relative paths start at `base`.

    Raises DataError with all problems of all files, or EnvironmentFault when the Hub cannot be reached.
    """
    load = _Load(columns=columns, base=base, labelled=labelled, multi_label=multi_label, encoding=encoding)
    tables: dict[str, pa.Table] = {}
    for split, parts in _parts(source, load=load, corpora=corpora).items():
        batches = [batch for part in parts for batch in load.read(part)]
        tables[split] = pa.Table.from_batches(batches, schema=load.schema)
    load.problems.raise_if_any()
    import datasets

    splits = {}
    for split, table in tables.items():
        if limit is not None and limit < table.num_rows:
            load.notes.append(f"{split}: {limit} of {table.num_rows} rows sampled")
            table = _sampled(table, limit=limit, seed=seed)
        splits[split] = datasets.Dataset(table, fingerprint=load.fingerprint(split, limit, seed))
    return Loaded(splits=splits, files=load.files, notes=load.notes, warnings=load.warnings)


@dataclass(frozen=True)
class _Part:
    """One thing to read: a file (`path`), or `rows` that came from a corpus or the Hub."""

    name: str
    path: Path | None = None
    rows: Rows | None = None


@dataclass
class _Load:
    """What reading gathers, and the checks that look across rows and files."""

    columns: ColumnMap
    base: Path
    labelled: bool
    multi_label: bool
    encoding: str | None
    problems: Collector = field(default_factory=lambda: Collector(DataError))
    files: list[SourceFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    lists_refused: bool = False

    @cached_property
    def schema(self) -> pa.Schema:
        label = pa.list_(pa.string()) if self.multi_label else pa.string()
        return pa.schema([(name, label if name == "label" else pa.string()) for name in COLUMNS])

    @cached_property
    def roles(self) -> dict[str, str]:
        """The columns that must be there, by their part."""
        roles = ("text", "label", "group", "id") if self.labelled else ("text", "id")
        return {role: column for role in roles if (column := getattr(self.columns, role)) is not None}

    def fingerprint(self, split: str, limit: int | None, seed: int) -> str:
        """From the content, so that the datasets cache can never answer with rows of an older file."""
        told = (split, limit, seed, self.columns, self.labelled, self.multi_label, self.encoding, self.files)
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def read(self, part: _Part) -> list[pa.RecordBatch]:
        """The examples of one part in batches; its problems are kept, and reading goes on with the next part."""
        try:
            return list(self._batches(part))
        except DataError as error:
            self.problems.problems.extend(error.problems)
            return []

    def _batches(self, part: _Part) -> Iterator[pa.RecordBatch]:
        file = TableFile(path=part.path or Path(), name=part.name, problems=self.problems)
        given = _given_rows(part.rows, file=file, roles=self.roles) if part.rows else None
        examples = _Examples(self, name=part.name)
        for position, record in given or read_rows(file, roles=self.roles, encoding=self.encoding):
            examples.add(position, record)
            if file.is_hopeless:
                break
            if len(examples.columns["id"]) == ROWS_PER_BATCH:
                yield examples.batch()
        yield examples.batch()
        if examples.empty_label_cells:
            file.note(f"{examples.empty_label_cells} empty label cells read as no label at all")
        self.notes.extend(file.notes)
        self.files.append(SourceFile(part.name, file.sha256, file.bytes, examples.rows, file.encoding))


class _Examples:
    """Rows of one file on their way into Arrow: each value checked and turned into text."""

    def __init__(self, load: _Load, *, name: str) -> None:
        self._load, self._name, self._where = load, name, name
        self._label_kinds: list[str] = []
        self.rows = self.empty_label_cells = 0
        self.columns: dict[str, list[object]] = {name: [] for name in COLUMNS}

    def add(self, position: int, record: Record) -> None:
        columns, self._where = self._load.columns, f"{self._name}:{position}"
        self.rows += 1
        self.columns["id"].append(self._id(record) if columns.id else self._where)
        self.columns["text"].append(self._text(record.get(columns.text), columns.text))
        label, group = self._load.roles.get("label"), self._load.roles.get("group")
        self.columns["label"].append(self._label(record.get(label), label) if label else None)
        self.columns["group"].append(self._word(record.get(group), group) if group else None)
        self.columns["origin"].append(self._where)

    def batch(self) -> pa.RecordBatch:
        batch = pa.RecordBatch.from_pydict(self.columns, schema=self._load.schema)
        self.columns = {name: [] for name in self.columns}
        return batch

    def _problem(self, what: str, do: str) -> None:
        self._load.problems.add(self._where, what, do)

    def _id(self, record: Record) -> str | None:
        column = self._load.columns.id or ""
        value = self._word(record.get(column), column)
        if value is None:
            self._problem(f"'{column}' is empty", "Every row needs an id, or remove data.columns.id.")
        elif (first := self._load.ids.setdefault(value, self._where)) is not self._where:
            remedy = "Ids are unique over all splits; without data.columns.id, rows are numbered by file."
            self._problem(f"id '{value}' is already in {first}", remedy)
        return value

    def _label(self, value: object, column: str) -> str | list[str] | None:
        if not self._load.multi_label:
            return self._one_label(value, column)
        if value is None or value != value:  # not a number: how tables write an empty cell
            return None
        if isinstance(value, str):
            self.empty_label_cells += not value.strip()
        parts = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else [value]
        return [label for part in parts if (label := self._one_label(part, column)) is not None]

    def _one_label(self, value: object, column: str) -> str | None:
        if isinstance(value, list):
            if not self._load.lists_refused:  # once: every row says the same
                self._problem(f"'{column}' is a list", "Set data.multi_label: true, or give each row one label.")
            self._load.lists_refused = True
            return None
        text, kind = self._word(value, column), kind_of(value).replace("a number", "numbers")
        if text is not None and kind not in self._label_kinds:
            self._label_kinds.append(kind)
            if len(self._label_kinds) == 2:
                mixed, line = " and ".join(sorted(self._label_kinds, reverse=True)), self._where.rpartition(":")[2]
                self._problem(f"labels mix {mixed} (line {line})", "Write all of them the same way.")
        return text.strip() if text is not None else None

    def _word(self, value: object, column: str) -> str | None:
        """Text, a number or true/false as text; blank is absent."""
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float) and value == value:
            return str(value)
        text = self._text(value, column)
        return text if text and text.strip() else None

    def _text(self, value: object, column: str) -> str | None:
        if value is None or value != value:
            return None
        if not isinstance(value, str):
            self._problem(f"'{column}' is {kind_of(value)}", "Write it as text, in quotes.")
            return None
        try:
            value.encode()  # JSON can spell half of a character, which no file can store
        except UnicodeEncodeError as error:
            half = f"half of a character (\\u{ord(value[error.start]):04x}, a lone surrogate)"
            self._problem(f"'{column}' has {half} at character {error.start + 1}", "Write the whole character.")
            return None
        return value


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


def _sampled(table: pa.Table, *, limit: int, seed: int) -> pa.Table:
    """`limit` rows, uniformly, in their order; batch by batch, because one column may exceed 2 GB."""
    chosen = np.sort(np.random.default_rng(seed).choice(table.num_rows, size=limit, replace=False))
    batches, start = [], 0
    for batch in table.to_batches():
        inside = chosen[(chosen >= start) & (chosen < start + batch.num_rows)] - start
        batches.append(batch.take(pa.array(inside)))
        start += batch.num_rows
    return pa.Table.from_batches(batches, schema=table.schema)


def _parts(source: Source, *, load: _Load, corpora: Corpora) -> dict[str, list[_Part]]:
    """What to read for each split, in a fixed order. Raises DataError with all problems of the names."""
    given = source if isinstance(source, dict) else {"all": source}
    lists = {split: [names] if isinstance(names, str) else list(names or []) for split, names in given.items()}
    if list(lists) == ["all"] and len(lists["all"]) == 1 and _is_hub_id(lists["all"][0], base=load.base):
        return _hub_splits(lists["all"][0], load=load)
    parts: dict[str, list[_Part]] = {}
    owners: dict[object, tuple[str, _Part]] = {}  # file or corpus -> where it is read
    for split in (each for each in lists if each not in SPLITS and isinstance(source, dict)):
        remedy = did_you_mean(split, SPLITS) or "Name train, validation and test."
        load.problems.add("data.source", f"no split is called '{split}'", remedy)
    for split in (each for each in ("all", *SPLITS) if each in lists):
        found: list[_Part] = []
        for name in lists[split]:
            try:
                found += _parts_of(name, split=split, load=load, corpora=corpora)
            except DataError as error:
                load.problems.problems.extend(error.problems)
        if not lists[split]:
            load.problems.add("data.source", "nothing is named" + ("" if split == "all" else f" for {split}"))
        claimed = (_claimed(part, split=split, owners=owners, load=load) for part in found)
        parts[split] = [part for part in claimed if part]
    load.problems.raise_if_any()
    return parts


def _parts_of(name: str, *, split: str, load: _Load, corpora: Corpora) -> list[_Part]:
    if name.startswith("builtin:"):
        corpus = name.removeprefix("builtin:")
        if corpus in corpora:
            return [_Part(name, rows=corpora[corpus])]
        found = listed(corpora) or "none"
        raise DataError("data.source", f"no built-in corpus '{corpus}'. Found: {found}", did_you_mean(corpus, corpora))
    if _is_hub_id(name, base=load.base):
        splits = _hub_splits(name, load=load)
        if split in splits or "all" in splits:
            return splits.get(split) or splits["all"]
        raise DataError("data.source", f"{name} has no split '{split}'. Found: {listed(splits)}")
    if "://" in name:
        raise DataError("data.source", f"'{name}' is an address", "Download it and name the file.")
    path = load.base / Path(name).expanduser()
    if path.is_dir():
        return _folder(path, name=name, load=load)
    if path.is_file():
        return [_Part(_shown(path), path)]
    if path.exists():
        raise DataError(name, "is not a regular file")
    if glob.has_magic(name):
        return _matches(name, load=load)
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(name, "no such file", did_you_mean(path.name, beside) or "Check the name and the folder.")


def _folder(folder: Path, *, name: str, load: _Load) -> list[_Part]:
    """Every table below a folder, sorted, without hidden files."""
    label = _shown(folder)
    below = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [(f"{label}/{inner}", path) for inner, path in below if not re.search(r"(^|/)\.", inner)]
    stems = {path.name.split(".")[0].lower() for _, path in files}
    if len({HUB_SPLITS[stem] for stem in stems if stem in HUB_SPLITS}) > 1:
        remedy = "To keep the splits apart, name each under data.source.train, validation and test."
        load.warnings.append(f"{label}: files that are named like splits are read as one. {remedy}")
    return _tables(files, name=label, what="no table in this folder", load=load)


def _shown(path: Path) -> str:
    """What ids and messages call a file or folder: its last part, so that moving the recipe changes no id."""
    return path.resolve().name


def _matches(pattern: str, *, load: _Load) -> list[_Part]:
    found = sorted(glob.glob(os.path.expanduser(pattern), root_dir=load.base, recursive=True))
    files = [(_shown(load.base / each), load.base / each) for each in found if (load.base / each).is_file()]
    return _tables(files, name=pattern, what="no table matches", load=load)


def _tables(files: Sequence[tuple[str, Path]], *, name: str, what: str, load: _Load) -> list[_Part]:
    """Those files that are tables; how many are not is noted."""
    parts = [_Part(shown, path) for shown, path in files if format_of(path)]
    if not parts:
        raise DataError(name, f"{what}. Found: {listed(path.name for _, path in files) or 'no files'}", ACCEPTED)
    if len(parts) < len(files):
        load.notes.append(f"{name}: {len(files) - len(parts)} files that are no tables ignored")
    return parts


def _claimed(part: _Part, *, split: str, owners: dict[object, tuple[str, _Part]], load: _Load) -> _Part | None:
    """The part under a name of its own, which ids need; None for one that is read already."""
    key = part.path.resolve() if part.path else part.name
    if key in owners:
        other, first = owners[key]
        if other == split:
            load.warnings.append(f"{first.name}: named twice, read once")
        else:  # the same rows in two splits are a leak
            load.problems.add(first.name, f"is named for {other} and for {split}", "Give each split its own file.")
        return None
    taken, folders = {each.name for _, each in owners.values()}, 0
    while part.path and part.name in taken:
        folders += 1
        part = replace(part, name="/".join(part.path.resolve().parts[-1 - folders :]))
    owners[key] = (split, part)
    return part


def _is_hub_id(name: str, *, base: Path) -> bool:
    """owner/name, unless it is, or sits in, something on this disk, or ends like a file."""
    looks = HUB_ID.fullmatch(name) and not FILE_EXTENSION.search(name)
    return bool(looks) and not (base / name.split("/")[0]).exists()


def _hub_splits(name: str, *, load: _Load) -> dict[str, list[_Part]]:
    """The dataset's own splits where it has train and more, else all of it."""
    found = fetch_dataset(name)
    ours: dict[str, list[_Part]] = {}
    for theirs, rows in found.items():
        split = "all" if len(found) == 1 else HUB_SPLITS.get(theirs, "")
        if not split or split in ours:
            load.notes.append(f"{name}: split '{theirs}' is not used")
            continue
        ours[split] = [_Part(name if split == "all" else f"{name}/{theirs}", rows=partial(dataset_rows, rows))]
    if not ours:
        raise DataError("data.source", f"{name} has no split train, validation or test. Found: {listed(found)}")
    return ours
