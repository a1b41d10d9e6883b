"""A training source that is larger than the disk: read row by row, cleaned a portion at a time, over and over.

Nothing of it is kept but a place to go on from. What needs all rows at once is not asked of them: a repeat is dropped
only where it stands in the same portion, and a row is compared with validation and test by its exact text alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from finetune.cleaning_steps import CleaningStep
from finetune.data.cleaning import clean
from finetune.data.duplicates import content_hash
from finetune.data.encodings import TableFile
from finetune.data.examples import Reading, examples
from finetune.data.parts import Part, Search, find_parts
from finetune.data.passages import cut_passages
from finetune.data.row_streams import selected
from finetune.data.sources import Loaded, SourceFile
from finetune.data.written_rows import whole_texts
from finetune.errors import Collector, DataError
from finetune.recipe_data import Form, Sources

NOT_READ_WHOLE = "streamed"  # in the place of a digest
LEFT_OUT = ("dropped by cleaning", "in validation or test")
PORTION_ROWS = 1000  # cleaned together: enough to make a pass worth its start, little enough to hold in memory


def open_stream(source: Sources, *, reading: Reading, search: Search) -> RowStream:
    """The training part of a source that is named by split; its files are found, and not yet read."""
    search.streaming = True
    return RowStream(find_parts(source, search=search)["train"], reading)


def without_train(source: Sources) -> Sources:
    """What of a source by split is read whole."""
    assert isinstance(source, dict)
    return {split: names for split, names in source.items() if split != "train"}


def with_first_rows(source: Loaded, stream: RowStream, *, rows: int) -> Loaded:
    """The parts that were read, with at least so many first rows of the stream for train, as far as it has them."""
    train = stream.first(rows)
    files = [SourceFile(part.name, NOT_READ_WHOLE, _bytes(part), 0, "") for part in stream.parts]
    note = f"train: streamed; its first {len(train):,} rows stand for it where all are asked for"
    return replace(source, splits={"train": train, **source.splits}, files=[*files, *source.files],
                   notes=[*source.notes, note])  # fmt: skip


def _bytes(part: Part) -> int:
    return part.path.stat().st_size if part.path is not None and part.path.is_file() else 0


@dataclass
class RowStream:
    """The rows of these parts in their order, from any place on, beginning again after the last.

    A place is the number of rows before it since the very first, so it may lie in a later pass. Whether a row can be
    read is found out when it is its turn.
    """

    parts: Sequence[Part]
    reading: Reading
    rows_of_pass: int | None = None  # known once the end was seen

    def portions(self, place: int) -> Iterator[tuple[int, list[pa.RecordBatch]]]:
        """(place after them, rows), without end; a portion ends after PORTION_ROWS of a pass, or with the pass.

        `place` is the beginning of a portion. Raises DataError with every problem of a file's rows that were read.
        """
        skip = place % self.rows_of_pass if self.rows_of_pass else place
        while True:
            seen, rows = 0, list[pa.RecordBatch]()
            for batch in self._pass():
                while batch.num_rows:
                    room = PORTION_ROWS - seen % PORTION_ROWS
                    part, batch = batch.slice(0, room), batch.slice(room)
                    rows, seen = [*rows, part] if seen >= skip else [], seen + part.num_rows
                    if seen % PORTION_ROWS == 0 and rows:
                        place += PORTION_ROWS
                        yield place, rows
                        rows = []
            if not seen:
                raise DataError("data.source.train", "has no rows", "Name a source with rows.")
            self.rows_of_pass = seen
            if rows:
                place += sum(each.num_rows for each in rows)
                yield place, rows
            skip = max(skip - seen, 0) % seen

    def _pass(self) -> Iterator[pa.RecordBatch]:
        for part in self.parts:
            yield from _rows_of(part, self.reading)

    def first(self, rows: int) -> datasets.Dataset:
        """At least so many of the first rows, as far as the first pass has them."""
        batches = list[pa.RecordBatch]()
        for place, portion in self.portions(0):
            if self.rows_of_pass is None or place <= self.rows_of_pass:
                batches += portion
            if place >= min(rows, self.rows_of_pass or rows):
                break
        return datasets.Dataset(pa.Table.from_batches(batches))


def _rows_of(part: Part, reading: Reading) -> Iterator[pa.RecordBatch]:
    file = TableFile(path=part.path or Path(), name=part.name, problems=Collector(DataError))
    for batch in examples(file, rows=part.rows, reading=reading, bar=None):
        file.problems.raise_if_any()
        yield batch
    file.problems.raise_if_any()


@dataclass(frozen=True)
class Portion:
    """Some documents, with the columns of data/prepare.py, the place after them, and rows left out, by reason."""

    place: int
    documents: datasets.Dataset
    dropped: dict[str, int]


@dataclass
class DocumentStream:
    """The same rows as cleaned documents, without those that validation or test holds word for word.

    `held_out` are the content hashes of validation and test. `characters` cuts plain texts into passages first.
    """

    rows: RowStream
    cleaning: Sequence[CleaningStep]
    base: Path
    form: Form | None
    held_out: frozenset[str]
    characters: int | None = None

    def portions(self, place: int) -> Iterator[Portion]:
        """What comes from `place` on, without end. Raises DataError for rows that cannot be read or cleaned."""
        for after, rows in self.rows.portions(place):
            yield self._portion(after, rows)

    def _portion(self, place: int, batches: Sequence[pa.RecordBatch]) -> Portion:
        rows = datasets.Dataset(pa.Table.from_batches(batches))
        if self.characters is not None:
            rows = cut_passages(rows, characters=self.characters)
        try:
            kept = clean({"train": rows}, self.cleaning, base=self.base, examples=0, form=self.form)[0]["train"]
        except DataError as error:
            if not error.problems[0].what.startswith("no row of train is left"):
                raise
            kept = selected(rows, np.empty(0, dtype=np.int64))
        hashes = [content_hash(text) for text in whole_texts(kept, self.form)]
        new = np.flatnonzero([each not in self.held_out for each in hashes])
        dropped = dict(zip(LEFT_OUT, (len(rows) - len(kept), len(kept) - len(new)), strict=True))
        return Portion(place, selected(kept, new) if len(new) < len(kept) else kept, dropped)
