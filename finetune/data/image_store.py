"""Every image of a recipe decoded once, to one file of the cache that is mapped and not loaded.

The file is named by the bytes of the sources and everything that decides a pixel, so one that exists is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finetune.data.blocks import Numbers
from finetune.data.image_entries import ImageSource
from finetune.data.image_files import Sources, pixels_of
from finetune.data.image_pixels import Changes, Pixels, Shape, Unreadable
from finetune.data.store import cache_folder, code_version, fingerprint, keep_folder, replacing, unfinished_folder
from finetune.errors import Collector, DataError, listed
from finetune.progress import Progress
from finetune.recipe_image import ImageData

CODE = ("image_pixels.py", "image_entries.py", "image_archives.py", "image_idx.py", "image_tables.py",
        "image_files.py", "image_store.py")  # fmt: skip
PIXELS, ROWS, TOLD = "pixels.uint8", "rows.parquet", "told.json"
BYTES_WORTH_A_FILE = 64 << 20  # a split of fewer is held in memory
SKIPPED_SHOWN = 5
# `text` is what leaks are looked up by: the id. `apart` is the origin with a colon between source and place, whatever
# the source; `number` is the row of the pixels.
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "text", "label", "caption", "group", "origin", "apart", "part")]
    + [("number", pa.int64())]
)


@dataclass(frozen=True)
class Decoded:
    """All images of all parts, one part below the other, and what decoding them brought to light."""

    folder: Path
    shape: Shape
    told: dict[str, Any]

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 of shape (N, C, S, S), mapped."""
        return _mapped(self.folder / PIXELS, self.shape)

    @cached_property
    def rows(self) -> pa.Table:
        """A row for each image, with the columns of SCHEMA."""
        return pq.read_table(self.folder / ROWS)

    @property
    def notes(self) -> list[str]:
        return list(self.told["notes"])

    @property
    def warnings(self) -> list[str]:
        return list(self.told["warnings"])

    def chosen(self, numbers: Numbers) -> Pixels:
        """The images of these numbers, shape (len(numbers), C, S, S): in memory, or mapped where they are many."""
        size = len(numbers) * self.shape.channels * self.shape.size**2
        if size < BYTES_WORTH_A_FILE:
            return np.asarray(self.pixels[numbers])
        path = self.folder / f"rows-{fingerprint(numbers.tobytes())}.uint8"
        if not path.exists():
            with replacing(path) as unfinished, open(unfinished, "wb") as file:
                for start in range(0, len(numbers), 1_000):
                    file.write(self.pixels[numbers[start : start + 1_000]].tobytes())
        return _mapped(path, self.shape)


def decode_images(parts: Sources, *, data: ImageData, shape: Shape, seed: int, progress: Progress) -> Decoded:
    """Decode what the sources list, a seeded sample of `data.limit` images of each part, or find it in the cache.

    Raises DataError with every image that cannot be used, unless `data.broken` skips them, and EnvironmentFault
    where the cache cannot be written.
    """
    made_of = [(split, each.name, each.sha256, len(each.entries)) for split, every in parts.items() for each in every]
    settings = (shape, data.columns, data.limit, seed if data.limit else None, data.broken)
    name = f"images-{fingerprint(code_version(*CODE), settings, made_of)}"
    folder = cache_folder() / name
    if not _is_whole(folder):
        with unfinished_folder() as unfinished:
            _Decoding(data, shape, seed, progress).run(parts, unfinished)
            folder = keep_folder(unfinished, name, is_whole=_is_whole)
    return Decoded(folder, shape, json.loads((folder / TOLD).read_text(encoding="utf-8")))


def part_rows(decoded: Decoded) -> dict[str, datasets.Dataset]:
    """The rows of each part as a dataset, in the order of the parts."""
    part = decoded.rows["part"].to_pylist()
    names = list(dict.fromkeys(part))
    starts = [part.index(name) for name in names] + [len(part)]
    return {
        name: datasets.Dataset(
            decoded.rows.slice(start, end - start), fingerprint=fingerprint(decoded.folder.name, name)
        )
        for name, start, end in zip(names, starts[:-1], starts[1:], strict=True)
    }


@dataclass
class _Decoding:
    data: ImageData
    shape: Shape
    seed: int
    progress: Progress

    def run(self, parts: Sources, folder: Path) -> None:
        """Fills the folder: pixels, rows, and what is told of them."""
        self.changes, self.problems, self.rows = Changes(), Collector(DataError), list[dict[str, object]]()
        files, notes = [], []
        with replacing(folder / PIXELS) as unfinished, open(unfinished, "wb") as file:
            for part, sources in parts.items():
                total = sum(len(source.entries) for source in sources)
                chosen = self._sampled(total)
                if len(chosen) < total:
                    notes.append(f"{part}: {len(chosen):,} of {total:,} images sampled")
                start = 0
                for source in sources:
                    first, last = np.searchsorted(chosen, [start, start + len(source.entries)])
                    before = len(self.rows)
                    self._read(source, (chosen[first:last] - start).tolist(), part=part, file=file)
                    files.append(_told_of(source, len(self.rows) - before))
                    start += len(source.entries)
        warnings = self._broken()
        _check_ids(self.rows)
        pq.write_table(pa.Table.from_pylist(self.rows, schema=SCHEMA), folder / ROWS)
        told = {
            "files": files,
            "notes": [*notes, *self.changes.notes()],
            "warnings": warnings,
            "changes": dict(self.changes.counts),
            "skipped": len(self.problems.problems),
            "smallest": self.changes.smallest,
            "largest": self.changes.largest,
            "sizes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        }
        with replacing(folder / TOLD) as unfinished:
            unfinished.write_text(json.dumps(told), encoding="utf-8")

    def _sampled(self, total: int) -> Numbers:
        if self.data.limit is None or self.data.limit >= total:
            return np.arange(total)
        return np.sort(np.random.default_rng(self.seed).choice(total, size=self.data.limit, replace=False))

    def _read(self, source: ImageSource, numbers: Sequence[int], *, part: str, file: IO[bytes]) -> None:
        bar = self.progress.bar(total=len(numbers), desc=f"reading {source.name}", unit="image", leave=False)
        with bar:
            for number, content in zip(numbers, self._contents(source, numbers), strict=False):
                origin = source.origin(number)
                bar.update(1)
                try:
                    file.write(pixels_of(content, shape=self.shape, changes=self.changes).tobytes())
                except Unreadable as error:
                    self.problems.add(origin, error.what, error.do)
                    continue
                entry = source.entries[number]
                told = {key: getattr(entry, key) for key in ("label", "caption", "group")}
                names = {"id": entry.id or origin, "text": entry.id or origin, "origin": origin}
                apart = f"{source.name}:{entry.place}"
                self.rows.append({**told, **names, "apart": apart, "part": part, "number": len(self.rows)})

    def _contents(self, source: ImageSource, numbers: Sequence[int]) -> Iterator[Any]:
        """As the source gives them; what ends a whole archive or file is a problem that skipping does not help."""
        try:
            yield from source.contents(numbers)
        except DataError as error:
            raise DataError.of([*self.problems.problems, *error.problems]) from None

    def _broken(self) -> list[str]:
        """Raises DataError for images that cannot be used, or says how many were left out."""
        broken = self.problems.problems
        if self.data.broken == "refuse":
            self.problems.raise_if_any()
        if not self.rows:
            self.problems.raise_if_any()
            raise DataError("data.source", "no image is left")
        if not broken:
            return []
        total = len(broken) + len(self.rows)
        shown = listed((problem.where for problem in broken), most=SKIPPED_SHOWN)
        return [f"{len(broken):,} of {total:,} images cannot be used and were skipped: {shown}"]


def _check_ids(rows: Sequence[dict[str, object]]) -> None:
    seen: dict[object, object] = {}
    problems = Collector(DataError)
    for row in rows:
        if row["id"] in seen:
            what = f"id '{row['id']}' is already that of {seen[row['id']]}"
            problems.add(str(row["origin"]), what, "Ids are unique; without data.columns.id, rows are numbered.")
        seen.setdefault(row["id"], row["origin"])
    problems.raise_if_any()


def _told_of(source: ImageSource, rows: int) -> dict[str, Any]:
    return {"name": source.name, "sha256": source.sha256, "bytes": source.size_bytes, "rows": rows, "encoding": ""}


def _mapped(path: Path, shape: Shape) -> Pixels:
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, shape.channels, shape.size, shape.size)


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / TOLD).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False
