"""A long plain text as consecutive passages, and documents divided by their place in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from finetune.data.row_streams import batches, progress_bars, selected
from finetune.data.sentences import breaks
from finetune.data.store import cache_folder, code_version, fingerprint
from finetune.errors import DataError
from finetune.runs import disk_faults

ROWS_AT_A_TIME = 64
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
WORD = re.compile(r"\S")

Span = tuple[int, int]


def cut_passages(rows: Dataset, *, characters: int) -> Dataset:
    """The same texts in passages of at most about `characters` characters, in order; joined they are the texts again.

    A passage ends after a blank line in its last quarter, else after a line, a sentence, a blank, else anywhere; one
    that would hold nothing but blanks stays with its neighbour. `rows` has id, text, group and origin; passage n of a
    text has the id `ID#n`, the origin `ORIGIN, characters 1-1000` (both counted from 1, both inside), the text's group
    or else its id as group, and every other column repeated. A text of one passage stays as it is.
    """
    if not len(rows):
        return rows
    features = rows.features.copy()
    features["group"] = datasets.Value("string")  # null where no row had one
    name = fingerprint(rows._fingerprint, code_version("passages.py", "sentences.py"), characters)
    path = cache_folder() / f"passages-{name}.arrow" if rows.cache_files else None
    with progress_bars(False), disk_faults(cache_folder()):
        passages = rows.with_format("arrow").map(
            lambda table: _cut(table, characters=characters),
            batched=True,
            batch_size=ROWS_AT_A_TIME,
            features=features,
            cache_file_name=None if path is None else str(path),
            load_from_cache_file=True,
            new_fingerprint=name,
        )
    return passages.with_format(None)


def contiguous_splits(rows: Dataset, shares: Mapping[str, float]) -> dict[str, Dataset]:
    """The first documents, the next and the last: each split has about its share of all characters, in file order.

    `shares` are in the order of the splits and are divided by their sum. A document goes where its middle lies.
    Raises DataError where a split is left without a document.
    """
    lengths = [pc.utf8_length(batch).to_numpy() for batch in batches(rows, "text")]
    characters = np.concatenate([np.zeros(0, np.int64), *lengths]).astype(np.int64)
    middles = np.cumsum(characters) - characters / 2
    ends = np.cumsum(list(shares.values())) / sum(shares.values()) * characters.sum()
    bounds = [0, *np.searchsorted(middles, ends[:-1]).tolist(), len(rows)]
    spans = dict(zip(shares, pairwise(bounds), strict=True))
    for split, (first, last) in spans.items():
        if first == last:
            raise DataError(
                "data.split",
                f"{split} gets none of the {len(rows):,} documents when they are divided in file order",
                "Cut them into passages with data.passage_characters, or change the shares.",
            )
    return {split: selected(rows, np.arange(first, last)) for split, (first, last) in spans.items()}


def passage_spans(text: str, *, characters: int) -> list[Span]:
    """Characters [start, end) of the passages of a text, without gaps or overlap; [(0, 0)] for an empty one."""
    ends: list[int] = []
    # A passage is counted from its first word, so that it is never blanks alone.
    while (begins := WORD.search(text, ends[-1] if ends else 0)) and len(text) - begins.start() > characters:
        end = _end_of(text, first=begins.start() + -(-3 * characters // 4), last=begins.start() + characters)
        if not WORD.search(text, end):
            break
        ends.append(end)
    return list(zip([0, *ends], [*ends, len(text)], strict=True))


def _end_of(text: str, *, first: int, last: int) -> int:
    """The best place for an end in [first, last]."""
    piece = text[first:last]
    kinds: tuple[Iterator[int], ...] = (
        (found.end() for found in BLANK_LINE.finditer(piece)),
        (found.end() for found in re.finditer("\n", piece)),
        (found.resume for found in breaks(piece) if found.stop < len(piece)),  # what follows must be seen
        (found.end() for found in re.finditer(r"\s", piece)),
    )
    places = (max(places, default=None) for places in kinds)
    return next((first + place for place in places if place is not None), last)


def _cut(table: pa.Table, *, characters: int) -> pa.Table:
    numbers: list[int] = []
    changed: dict[str, list[str | None]] = {name: [] for name in ("id", "text", "group", "origin")}
    known = zip(*(table[name].to_pylist() for name in changed), strict=True)
    for number, (id, text, group, origin) in enumerate(known):
        spans = passage_spans(text or "", characters=characters)
        for passage, (start, end) in enumerate(spans, start=1):
            whole = len(spans) == 1
            numbers.append(number)
            changed["id"].append(id if whole else f"{id}#{passage}")
            changed["text"].append(text if whole else text[start:end])
            changed["group"].append(group if whole or group is not None else id)
            changed["origin"].append(origin if whole else f"{origin}, characters {start + 1}-{end}")
    repeated = table.take(pa.array(numbers))
    for name, column in changed.items():
        repeated = repeated.set_column(repeated.column_names.index(name), name, pa.array(column, type=pa.string()))
    return repeated
