"""Prepared splits -> files, one for each split, in the format that the next tool reads.

What was written is read back and compared, row by row, before the folder takes its name: a folder that exists is
whole and right. Rows go through in batches of bounded size, so that a million long texts need no more memory than a
thousand. A text is written as it is, also one that a spreadsheet would take for a formula (`=HYPERLINK(...)`): a
changed text would not be the text that was prepared, and the card says how to open such a file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa

from finetune.data.examples import SLICE_PREFIX
from finetune.data.export_formats import EXPORTS, Batches, Row
from finetune.data.store import arrow_tables
from finetune.errors import EnvironmentFault, RecipeError, listed
from finetune.progress import SILENT, Progress
from finetune.recipe_data import SPLITS, ExportFormat
from finetune.runs import OWN_FUNCTIONS, disk_faults, sync_file, sync_folder

if TYPE_CHECKING:
    import datasets

NOT_EXPORTED = ("origin",)  # where a row came from: for messages; the id stays
BESIDE_THE_SPLITS = ("README.md", "data.json", "recipe.yaml")
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
BYTES_PER_BATCH = 16_000_000
MOST_ROWS_PER_BATCH = 20_000


def export(
    splits: Mapping[str, datasets.Dataset],
    folder: str | Path,
    *,
    format: ExportFormat,
    beside: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> list[Path]:
    """Write `folder`/SPLIT.FORMAT for every split, and the texts `beside` (path -> content, UTF-8) next to them.

    Columns are those of the rows without `origin` and slices: id, text, label (a list when multi-label), group, numeric
    ones (of text to write those of `as_written`), and fold and family where they are there. Nulls stay null, except in
    csv: there a null, an empty text and an empty list of labels are the same empty cell. Labels of one row are joined
    by `|` in csv and hdf5. Numbers are 64-bit, in tfrecord 32-bit, which is all that format has. An existing folder is
    replaced with `force` if nothing but such files is in it. Returns the paths of the splits.

    Raises RecipeError or EnvironmentFault (package, permission, full disk) as `check_export`, DataError for a value
    that the format cannot hold, and RuntimeError when what was written does not read back equal.
    """
    folder = Path(folder).expanduser().resolve()
    check_export(folder, format=format, force=force)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with _output_faults(folder.parent):
        shutil.rmtree(unfinished, ignore_errors=True)  # of an export that was killed
        unfinished.mkdir(parents=True)
        try:
            for name, rows in splits.items():
                _write_split(rows, unfinished / f"{name}.{format}", format=format, progress=progress)
            for name, text in (beside or {}).items():
                (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / name).write_text(text, encoding="utf-8")
                sync_file(unfinished / name)
            sync_folder(unfinished)
            _take_name(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return [folder / f"{name}.{format}" for name in splits]


def check_export(folder: str | Path, *, format: ExportFormat, force: bool = False) -> None:
    """Before any work: the format's package is here, and `folder` is new, empty, or ours to replace.

    Raises EnvironmentFault for the package, RecipeError for the folder.
    """
    for package in EXPORTS[format].packages:
        if importlib.util.find_spec(package) is None:
            what, do = f"needs the package {package}, which is not installed", f"pip install 'finetune[{format}]'"
            raise EnvironmentFault(f"--format {format}", what, f"Install it: {do}")
    folder = Path(folder).expanduser().resolve()
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise RecipeError(str(place), "is a file", "Name a folder with --output.")
    found = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    if found and not force:
        raise RecipeError(str(folder), f"is not empty. Found: {listed(found)}", "Name another folder, or add --force.")
    if foreign := [name for name in found if not _is_ours(folder / name)]:
        what = f"holds what no export wrote: {listed(foreign)}"
        raise RecipeError(str(folder), what, "Name another folder: --force replaces only exported files.")
    if folder.is_dir() and os.path.ismount(folder):
        raise RecipeError(str(folder), "is a mount point and cannot be replaced", "Name a folder inside it.")


def read_back(path: Path, format: ExportFormat) -> Iterator[Row]:
    """The rows of an exported file as the format holds them: texts in csv, lists of values in tfrecord."""
    return EXPORTS[format].read(path)


def column_kinds(rows: datasets.Dataset) -> dict[str, str]:
    """The exported columns in their order, and whether each is `string`, `list` (of strings), `int64` or `float64`.

    A list of {role, content} is `messages`.
    """
    kinds = {pa.int64(): "int64", pa.float64(): "float64", pa.string(): "string", MESSAGES: "messages"}
    return {field.name: kinds.get(field.type, "list") for field in _schema(rows)}


def _write_split(rows: datasets.Dataset, path: Path, *, format: ExportFormat, progress: Progress) -> None:
    """Write, flush to the disk, read again, compare."""
    kind, schema = EXPORTS[format], _schema(rows)
    written, read = _Digest(), _Digest()
    with progress.bar(total=len(rows), desc=f"writing {path.name}", unit="row", leave=False) as bar:
        held = ([kind.holds(row) for row in batch] for batch in _batches(rows, schema))
        kind.write(path, schema, written.watch(held, bar=bar))
    sync_file(path)
    with progress.bar(total=len(rows), desc=f"reading {path.name} back", unit="row", leave=False) as bar:
        for row in read_back(path, format):
            read.add(row)
            bar.update()
    if read != written:
        what = f"{written.rows} rows were written and {read.rows} read back"
        raise RuntimeError(f"{path.name} does not read back as it was written ({what}): a fault of finetune's {format}")


def _batches(rows: datasets.Dataset, schema: pa.Schema) -> Iterator[list[Row]]:
    """Rows as dicts, about 16 MB at a time whatever their length."""
    bytes_per_row = rows.data.nbytes / max(1, rows.data.num_rows)
    size = min(MOST_ROWS_PER_BATCH, max(1, int(BYTES_PER_BATCH / max(1.0, bytes_per_row))))
    for table in arrow_tables(rows, schema.names, rows_at_once=size):
        yield table.cast(schema).to_pylist()


def _schema(rows: datasets.Dataset) -> pa.Schema:
    """Plain types whatever the dataset has: texts, lists of texts or of messages, 64-bit numbers."""

    def plain(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_integer(kind):
            return pa.int64()
        if pa.types.is_floating(kind):
            return pa.float64()
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if is_list and pa.types.is_struct(kind.value_type):
            return MESSAGES
        return pa.list_(pa.string()) if is_list else pa.string()

    fields = [field for field in rows.features.arrow_schema if not field.name.startswith(SLICE_PREFIX)]
    return pa.schema([(field.name, plain(field.type)) for field in fields if field.name not in NOT_EXPORTED])


@dataclass
class _Digest:
    """How many rows, and the sha256 of all of them in order."""

    rows: int = 0

    def __post_init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Digest) and (self.rows, self.hex) == (other.rows, other.hex)

    @property
    def hex(self) -> str:
        return self._sha256.hexdigest()

    def add(self, row: Row) -> None:
        self.rows += 1
        # By name: hdf5 and tfrecord keep no order of columns.
        self._sha256.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")

    def watch(self, batches: Batches, *, bar: Any) -> Iterator[list[Row]]:
        for batch in batches:
            for row in batch:
                self.add(row)
            yield batch
            bar.update(len(batch))


def _is_ours(item: Path) -> bool:
    """Whether an export may have written this; of a folder, whether it may have written all that is in it."""
    if item.is_dir():
        return item.name == OWN_FUNCTIONS and all(each.is_dir() or each.suffix == ".py" for each in item.rglob("*"))
    formats = "|".join(get_args(ExportFormat))
    return item.name in BESIDE_THE_SPLITS or bool(re.fullmatch(rf"({'|'.join(SPLITS)})\.({formats})", item.name))


def _take_name(unfinished: Path, folder: Path) -> None:
    """The finished folder becomes `folder`; one that was there goes away last, so that one of the two always exists."""
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        os.replace(folder, replaced)
    os.replace(unfinished, folder)
    sync_folder(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def _output_faults(folder: Path) -> Iterator[None]:
    try:
        with disk_faults(folder):
            yield
    except EnvironmentFault as fault:
        problem = fault.problems[0]
        raise EnvironmentFault(problem.where, problem.what, "Make room, or name another --output.") from fault
