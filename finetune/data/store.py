"""Where prepared rows, signatures and families are kept between runs: files under the datasets library's own cache.

Every file is named by a fingerprint of everything that made it, so one that exists is right, and a changed source,
setting or function has another name. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pyarrow as pa

from finetune.errors import EnvironmentFault

if TYPE_CHECKING:
    import datasets  # imported late: it takes seconds

FINGERPRINT_DIGITS = 16
# A batch is what is in memory at once: rows bound it for short texts, bytes for long ones.
ROWS_PER_BATCH = 10_000
BYTES_PER_BATCH = 4 << 20


def cache_folder() -> Path:
    """`finetune` below the datasets cache (HF_DATASETS_CACHE), created if need be. Raises EnvironmentFault."""
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE) / "finetune"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _refuse(folder, error)
    return folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name once it is whole and on the disk; removed on any failure."""
    descriptor, name = -1, ""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        yield Path(name)
        _flush(Path(name))
        os.replace(name, path)
        name = ""
    except OSError as error:
        _refuse(path.parent, error)
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


@contextmanager
def unfinished_folder() -> Iterator[Path]:
    """An empty folder of the cache to fill and hand to `keep_folder`; what was not kept is removed."""
    cache = cache_folder()
    try:
        folder = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=cache))
    except OSError as error:
        _refuse(cache, error)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep_folder(folder: Path, name: str, *, is_whole: Callable[[Path], bool]) -> Path:
    """Names a filled folder, all of it at once. Where another process was first, its folder is as good and stays."""
    kept = folder.parent / name
    try:
        for path in folder.iterdir():
            _flush(path)
        if kept.exists() and not is_whole(kept):
            shutil.rmtree(kept)
        if not kept.exists():
            folder.rename(kept)
    except OSError as error:
        if not is_whole(kept):
            _refuse(folder.parent, error)
    return kept


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> int:
    """Writes batches as they come, in the stream layout that the datasets library maps; returns the rows."""
    rows = 0
    try:
        sink = pa.OSFile(str(path), "wb")
    except OSError as error:
        _refuse(path.parent, error)
    with sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            try:  # around the writing alone: what `batches` raises is no fault of the cache
                writer.write_batch(batch)
            except OSError as error:
                _refuse(path.parent, error)
            rows += batch.num_rows
    return rows


def open_rows(path: Path, *, fingerprint: str) -> datasets.Dataset:
    """The rows of such a file, mapped and not loaded; what is mapped from them goes to files beside it."""
    import datasets
    from datasets.table import MemoryMappedTable

    return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=fingerprint)


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of such a file, one at a time."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        yield from stream


def arrow_tables(rows: datasets.Dataset, columns: Sequence[str], *, rows_at_once: int) -> Iterator[pa.Table]:
    """These columns as Arrow tables of up to `rows_at_once` rows.

    Of selected rows, datasets' own reading makes every row a chunk, which costs more than most work on it.
    """
    if rows._indices is None:
        yield from rows.select_columns(list(columns)).with_format("arrow").iter(batch_size=rows_at_once)
        return
    table = rows.data.table.select(list(columns))
    chunks = table.to_batches()
    starts = np.cumsum([0, *map(len, chunks)])
    selected = rows._indices.column(0)
    for start in range(0, len(rows), rows_at_once):
        numbers = selected.slice(start, rows_at_once).to_numpy().astype(np.int64)
        chunk_of = np.searchsorted(starts, numbers, side="right") - 1
        neighbours = np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(chunk_of)) + 1)
        taken = [chunks[chunk_of[run[0]]].take(pa.array(numbers[run] - starts[chunk_of[run[0]]])) for run in neighbours]
        yield pa.Table.from_batches(taken, schema=table.schema)


def fingerprint(*parts: object) -> str:
    """16 hexadecimal digits of the sha256 of the parts' reprs: a name for what they make."""
    return hashlib.sha256("\x1f".join(map(repr, parts)).encode("utf-8", "surrogatepass")).hexdigest()[
        :FINGERPRINT_DIGITS
    ]


def code_version(*files: str) -> str:
    """A fingerprint of the source of these files of this folder, and of the Python that runs them."""
    folder = Path(__file__).parent
    return fingerprint(sys.version_info[:2], *((name, (folder / name).read_bytes()) for name in files))


def _flush(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _refuse(folder: Path, error: OSError) -> NoReturn:
    what = f"the cache cannot be written ({error.strerror or error})"
    raise EnvironmentFault(
        str(folder), what, "Free some space, or name another folder in HF_DATASETS_CACHE."
    ) from error
