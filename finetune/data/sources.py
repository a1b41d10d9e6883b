"""Files, folders, built-in corpora and Hub datasets -> examples with standard columns and a stable id.

Everything after this file sees the same five columns, all of them text, wherever the rows came from; every problem of
every file is shown together. The examples go to the cache as they are read, under a name made of all that decides
them, and are mapped from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune.data.encodings import TableFile
from finetune.data.examples import (
    COLUMNS,
    MOST_CHARACTERS,
    SLICE_PREFIX,
    WRITTEN_COLUMNS,
    ColumnMap,
    Reading,
    examples,
)
from finetune.data.parts import Corpora, Part, Parts, Search, Source, find_parts
from finetune.data.store import (
    cache_folder,
    code_version,
    fingerprint,
    keep_folder,
    open_rows,
    read_batches,
    replacing,
    unfinished_folder,
    write_batches,
)
from finetune.data.text_folders import measure_folder
from finetune.data.written_examples import KEYS
from finetune.errors import MOST_PROBLEMS_SHOWN, Collector, DataError
from finetune.progress import SILENT, Progress

if TYPE_CHECKING:
    import datasets  # imported late: it takes seconds

__all__ = ["COLUMNS", "MOST_CHARACTERS", "SLICE_PREFIX", "ColumnMap", "Loaded", "Source", "SourceFile", "load_examples"]

READING_CODE = ("store.py", "chats.py", "written_examples.py", "encodings.py", "tables.py", "trees.py",
                "text_folders.py", "hub_datasets.py", "parts.py", "examples.py", "sources.py")  # fmt: skip
TOLD = "told.json"  # what reading brought to light, beside the rows
ID_DIGEST_BYTES = 16


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
    stamps: Mapping[str, Callable[[], str]] = {},
    most_characters: int | None = MOST_CHARACTERS,
    numeric: Sequence[str] = (),
    slices: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Loaded:
    """Read a source into datasets with the columns id, text, label, group, origin, one for each of `numeric`, and
    `slice:NAME` for each of `slices`.

    The first five are strings; text, label and group may be null; with `multi_label`, label is a list of strings (a
    text is split at `|`). `id` is the id column, or as `origin`, which is `NAME:LINE` (csv, jsonl, xml), `NAME:ROW`
    or `FOLDER/CLASS/FILE.txt`. `numeric` columns are float64, `slices` text of any single value, null where blank.
    Rows of a form of text to write (`columns.form`) also have `target`; written_examples.py says what it holds.
    A text of more than `most_characters` is refused (None: of any length); one above 1,000,000 is warned of.
    `limit` keeps a uniform sample of that many rows of each split, drawn with `seed`, in their order.
    With `labelled=False` (text to predict) only text, id and `numeric` are read; label and group are null.
    Relative paths start at `base`.

    Memory holds a few megabytes of rows at a time, but for a json list, which is read as a whole. Unchanged files
    under unchanged settings and code come from the cache, and so does a corpus with an unchanged stamp in `stamps`
    (by its name); another corpus or a Hub dataset is read again each time.

    Raises DataError with all problems of all files, or EnvironmentFault when the Hub or the cache fails.
    """
    _check_names(columns, numeric=numeric, slices=slices)
    reading = Reading(columns, labelled, multi_label, encoding, most_characters, tuple(numeric), tuple(slices))
    search = Search(base=base, corpora=corpora, plain_text=columns.form == "text", stamps=stamps)
    parts = find_parts(source, search=search)
    files = {split: [_measured(part, reading=reading) for part in each] for split, each in parts.items()}
    folder = _kept(files, reading=reading) or _read(parts, files, reading=reading, progress=progress)
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    notes, splits = [*search.notes, *told["notes"]], {}
    for split in parts:
        rows = splits[split] = open_rows(_rows_file(folder, split), fingerprint=fingerprint(folder.name, split))
        if limit is not None and limit < len(rows):
            notes.append(f"{split}: {limit} of {len(rows)} rows sampled")
            splits[split] = _sampled(folder, split, schema=reading.schema, rows=len(rows), limit=limit, seed=seed)
    sources = [SourceFile(**each) for each in told["files"]]
    return Loaded(splits=splits, files=sources, notes=notes, warnings=[*search.warnings, *told["warnings"]])


Files = dict[str, list[TableFile]]


def _check_names(columns: ColumnMap, *, numeric: Sequence[str], slices: Sequence[str]) -> None:
    taken = {*COLUMNS, *WRITTEN_COLUMNS, *(SLICE_PREFIX + name for name in slices)}
    for name in (each for each in numeric if each in taken):
        raise DataError("data.numeric", f"'{name}' is the name of a column that every example has", "Rename it.")
    for name in (each for each in slices if each in (columns.text, columns.target)):
        what = f"'{name}' is the column of the text, and hardly two documents share one"
        raise DataError("evaluation.slices", what, "Name another column.")
    if columns.text == columns.target and columns.form is not None:
        read, written = KEYS[columns.form]
        what = f"'{columns.text}' is the {read} too, so there is nothing to learn"
        raise DataError(f"data.columns.{written}", what, "Name another column.")


def _measured(part: Part, *, reading: Reading) -> TableFile:
    """The part as a file with its digest; without one if it cannot be read: reading it will say why."""
    file = TableFile(path=part.path or Path(), name=part.name, problems=Collector(DataError))
    try:
        if part.path and part.path.is_dir():
            measure_folder(file)
        elif part.path:
            file.measure()
        elif part.stamp:
            file.made_of = part.stamp()
    except OSError:
        file.sha256 = ""
    return file


def _kept(files: Files, *, reading: Reading) -> Path | None:
    """The folder of the cache that holds the examples of these very bytes. What has no digest yet is in none."""
    if not all(file.made_of or file.sha256 for each in files.values() for file in each):
        return None
    folder = cache_folder() / _name(files, reading=reading)
    return folder if _is_whole(folder) else None


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / TOLD).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _read(parts: Parts, files: Files, *, reading: Reading, progress: Progress) -> Path:
    """Reads everything into a new folder of the cache. Raises DataError with all problems of all files."""
    problems, ids = Collector(DataError), _Ids()
    with unfinished_folder() as folder:
        for split in parts:
            pairs = zip(parts[split], files[split], strict=True)
            batches = _batches(pairs, reading=reading, problems=problems, progress=progress)
            # Ids that come from the file's name and the row cannot repeat.
            batches = ids.watched(batches) if reading.columns.id else batches
            write_batches(_rows_file(folder, split), batches, schema=reading.schema)
        ids.check([_rows_file(folder, split) for split in parts], problems=problems)
        problems.raise_if_any()
        read = [file for each in files.values() for file in each]
        told = {
            "files": [asdict(SourceFile(f.name, f.sha256, f.bytes, f.rows, f.encoding)) for f in read],
            "notes": [note for file in read for note in file.notes],
            "warnings": [warning for file in read for warning in file.warnings],
            "sizes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        }
        with replacing(folder / TOLD) as unfinished:
            unfinished.write_text(json.dumps(told), encoding="utf-8")
        return keep_folder(folder, _name(files, reading=reading), is_whole=_is_whole)


def _batches(
    pairs: Iterable[tuple[Part, TableFile]], *, reading: Reading, problems: Collector, progress: Progress
) -> Iterator[pa.RecordBatch]:
    """The examples of the parts of a split; the problems of one are kept, and reading goes on with the next."""

    bar = partial(progress.bar, unit="row", leave=False)

    for part, file in pairs:
        file.problems = problems
        try:
            yield from examples(file, rows=part.rows, reading=reading, bar=None if part.rows else bar)
            if file.has_changed():  # else the cache would keep rows under the wrong digest
                file.refuse("was changed while it was read", "Start again.")
        except DataError as error:
            problems.problems.extend(error.problems)


def _name(files: Files, *, reading: Reading) -> str:
    content = [(split, file.name, file.made_of or file.sha256) for split, each in files.items() for file in each]
    return "rows-" + fingerprint(code_version(*READING_CODE), reading, content)


def _rows_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.arrow"


def _sampled(folder: Path, split: str, *, schema: pa.Schema, rows: int, limit: int, seed: int) -> datasets.Dataset:
    """`limit` rows, uniformly, in their order, in a file of their own."""
    path = folder / f"{split}-{limit}-{seed}.arrow"
    if not path.exists():
        chosen = np.sort(np.random.default_rng(seed).choice(rows, size=limit, replace=False))
        with replacing(path) as unfinished:
            write_batches(unfinished, _taken(read_batches(_rows_file(folder, split)), chosen), schema=schema)
    return open_rows(path, fingerprint=fingerprint(folder.name, split, limit, seed))


def _taken(batches: Iterable[pa.RecordBatch], chosen: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        first, last = np.searchsorted(chosen, [start, start + batch.num_rows])
        yield batch.take(pa.array(chosen[first:last] - start))
        start += batch.num_rows


class _Ids:
    """Whether a given id repeats, over all splits: 16 bytes a row instead of a dictionary of every id."""

    def __init__(self) -> None:
        self._digests = bytearray()

    def watched(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for given, origin in zip(batch.column("id").to_pylist(), batch.column("origin").to_pylist(), strict=True):
                # A missing id is a problem already; it is no repetition of another that is missing.
                told = f"id {given}" if given is not None else f"origin {origin}"
                self._digests += hashlib.blake2b(told.encode(), digest_size=ID_DIGEST_BYTES).digest()
            yield batch

    def check(self, paths: Sequence[Path], *, problems: Collector) -> None:
        """Adds a problem for each of the first repeated ids, with both places, and the number of all."""
        if not self._digests:
            return
        halves = np.frombuffer(self._digests, dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal ids the first row comes first
        repeats = np.flatnonzero((halves[order[1:]] == halves[order[:-1]]).all(axis=1)) + 1
        shown = repeats[np.argsort(order[repeats])][:MOST_PROBLEMS_SHOWN]
        for place in shown:
            again = order[place]
            first = order[np.flatnonzero((halves[order] == halves[again]).all(axis=1))[0]]
            given, where = _id_and_origin(paths, int(again))
            what = f"id '{given}' is already in {_id_and_origin(paths, int(first))[1]}"
            remedy = "Ids are unique over all splits; without data.columns.id, rows are numbered by file."
            problems.add(where, what, remedy)
        if len(repeats) > len(shown):
            problems.add("data.columns.id", f"{len(repeats):,} rows repeat an id")


def _id_and_origin(paths: Iterable[Path], row: int) -> tuple[str, str]:
    for path in paths:
        for batch in read_batches(path):
            if row < batch.num_rows:
                return str(batch.column("id")[row]), str(batch.column("origin")[row])
            row -= batch.num_rows
    raise IndexError(row)
