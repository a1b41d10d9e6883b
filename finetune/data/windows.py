"""Token windows out of documents, and window predictions back into documents.

A document longer than `max_tokens` becomes overlapping windows, each with the tokenizer's special tokens. A window
ends at a paragraph or sentence end where one lies in its last quarter. The document stays the unit: its windows are
trained together and predicted together.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow

from finetune.data.lengths import LengthAudit, audit_lengths
from finetune.data.row_streams import progress_bars
from finetune.data.sentences import token_breaks
from finetune.data.store import cache_folder, code_version, fingerprint
from finetune.errors import Collector, DataError, ModelError
from finetune.runs import disk_faults

ROWS_AT_A_TIME = 256
# A token with its offsets is about 150 bytes of Python objects while its document is being cut.
CHARACTERS_AT_A_TIME = 500_000
FEATURES = datasets.Features({
    "windows": datasets.List(datasets.List(datasets.Value("int32"))),
    "offsets": datasets.List(datasets.List(datasets.Value("int32"))),
    "tokens": datasets.Value("int32"),
    "tokens_kept": datasets.Value("int32"),
    "window_count": datasets.Value("int32"),
})  # fmt: skip
COUNTS = ["tokens", "tokens_kept", "window_count"]
PROBES = ("a", "1", ".", "的")

Aggregate = Literal["mean", "mean_logits", "max"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Range = tuple[int, int]
Row = tuple[list[list[int]], list[Range], int, int, int]  # the columns of FEATURES


class WindowSettings(Protocol):
    """The `windows` section of a recipe."""

    @property
    def max_tokens(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def boundary(self) -> Literal["sentence", "token"]: ...
    @property
    def max_per_document(self) -> int | None: ...
    @property
    def keep(self) -> Literal["head", "head_tail", "spread"]: ...
    @property
    def truncate(self) -> bool: ...


@dataclass(frozen=True)
class WindowCounts:
    """What cutting did, in documents, windows and tokens.

    A document's tokens are those of the whole text, the overlap of windows counted once and the special tokens once.
    `lengths` describes the documents as they are; the other counts say what was kept and what was cut.
    """

    documents: int
    windows: int
    tokens: int
    longest_document_tokens: int
    documents_over_one_window: int
    documents_cut: int
    tokens_cut: int
    lengths: LengthAudit

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cut_windows(
    documents: datasets.Dataset,
    tokenizer: Any,
    *,
    settings: WindowSettings,
    on_documents: Callable[[int], None] = lambda count: None,
) -> tuple[datasets.Dataset, WindowCounts]:
    """Row i has document i's `windows`, lists of at most `max_tokens` token ids, and their `offsets`; see FEATURES.

    `documents` has the columns text and origin. Offsets are [start, end) characters of the text. Windows come in the
    order of the text, and each begins `stride` tokens before the one before it ends. `truncate` keeps what the
    tokenizer's own truncation keeps, `max_per_document` the windows that `keep` chooses; both are counted.
    `on_documents` hears how many were cut since it last heard. Where `documents` lies on the disk, so does the result,
    and a second call with the same documents, tokenizer and settings finds it there.

    Raises DataError naming every document of which the tokenizer leaves nothing, and ModelError where `stride` leaves
    no room in a window.
    """
    cutter = _Cutter(tokenizer, settings)
    heard = 0

    def cut(batch: pyarrow.Table) -> pyarrow.Table:
        nonlocal heard
        table = cutter.cut(batch["text"].to_pylist())
        heard += len(table)
        on_documents(len(table))
        return table

    # What stays in memory is never looked up, so any new name will do; hashing a large tokenizer takes a second.
    on_disk = bool(documents.cache_files)
    name = fingerprint(documents._fingerprint, cutter.fingerprint) if on_disk else uuid4().hex
    windows = _mapped(documents, cut, name=name, path=cache_folder() / f"windows-{name}.arrow" if on_disk else None)
    if heard < len(documents):
        on_documents(len(documents) - heard)
    counts, tokens = _count(windows, window_tokens=settings.max_tokens)
    _refuse_empty(documents, np.flatnonzero(tokens <= cutter.specials).tolist())
    return windows, counts


def merge_windows(values: Floats, owner: Sequence[int] | Ints, *, documents: int, how: Aggregate) -> Floats:
    """Values of windows (windows, classes) with their document numbers -> (documents, classes).

    `mean` averages probabilities and `mean_logits` logits; the caller turns the latter into probabilities. `max` takes
    the highest probability of each class (for single labels the caller renormalises).
    """
    owner = np.asarray(owner, dtype=np.int64)
    if how == "max":
        merged = np.full((documents, values.shape[1]), -np.inf)
        np.maximum.at(merged, owner, values)
        return merged
    merged = np.zeros((documents, values.shape[1]))
    np.add.at(merged, owner, values)
    return merged / np.bincount(owner, minlength=documents)[:, None]


def deciding_windows(probabilities: Floats, owner: Ints, *, merged: Floats) -> Ints:
    """For each document the number of the window, from 0, that is surest of the document's most probable label.

    `probabilities` are those of windows (w, c), a document's beside each other in order; `merged` (d, c). The first
    of equals is taken.
    """
    sureness = probabilities[np.arange(len(owner)), merged.argmax(axis=1)[owner]]
    starts = np.searchsorted(owner, np.arange(len(merged)))
    order = np.lexsort((np.arange(len(owner)), -sureness, owner))
    return np.asarray(order[starts] - starts, dtype=np.int64)


def passages(windows: datasets.Dataset, chosen: Ints) -> Ints:
    """Character offsets [start, end) of window `chosen[i]` of document i -> (documents, 2)."""
    found, done = np.zeros((len(chosen), 2), dtype=np.int64), 0
    for batch in windows.select_columns(["offsets"]).with_format("arrow").iter(batch_size=ROWS_AT_A_TIME):
        offsets = batch["offsets"].combine_chunks()
        firsts = np.concatenate([[0], np.cumsum(offsets.value_lengths().to_numpy())[:-1]])
        pairs = offsets.flatten().flatten().to_numpy().reshape(-1, 2)
        found[done : done + len(firsts)] = pairs[firsts + chosen[done : done + len(firsts)]]
        done += len(firsts)
    return found


class _Cutter:
    """A tokenizer and settings, ready to cut texts."""

    def __init__(self, tokenizer: Any, settings: WindowSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.prefix, self.suffix = _special_tokens(tokenizer)
        self.specials = len(self.prefix) + len(self.suffix)
        self.room = settings.max_tokens - self.specials
        self.from_the_end = tokenizer.truncation_side == "left"
        if settings.stride >= self.room:
            raise ModelError(
                "windows.stride",
                f"{settings.stride:,} tokens, but a window of this tokenizer holds {self.room:,}",
                f"Write windows.stride: {max(self.room // 2, 0)}.",
            )

    @property
    def fingerprint(self) -> str:
        """Everything that decides which windows a text becomes."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for asked in ("truncation", "padding"):  # by the last caller; every call here says what it wants
            state.pop(asked, None)
        rules = hashlib.sha256(json.dumps(state, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
        chosen = self.settings
        parts = (chosen.max_tokens, chosen.stride, chosen.boundary, chosen.max_per_document, chosen.keep)
        tokens = (rules, self.from_the_end, self.tokenizer.split_special_tokens, version("tokenizers"))
        return fingerprint("windows", code_version("windows.py", "sentences.py"), *parts, chosen.truncate, *tokens)

    def cut(self, texts: Sequence[str]) -> pyarrow.Table:
        """One row a text, with the columns of FEATURES."""
        rows = [self._row(*tokenized) for some in _portions(texts) for tokenized in self._tokenize(some)]
        columns = zip(*rows, strict=True)
        arrays = [
            pyarrow.array(values, type=field.type) for values, field in zip(columns, FEATURES.arrow_schema, strict=True)
        ]
        return pyarrow.table(dict(zip(FEATURES, arrays, strict=True)))

    def _tokenize(self, texts: list[str]) -> Iterator[tuple[str, list[int], list[Range]]]:
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a text longer than the model is what windows are for
        )
        yield from zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)

    def _row(self, text: str, ids: list[int], offsets: list[Range]) -> Row:
        ranges = self._ranges(text, offsets)
        windows = [[*self.prefix, *ids[first:last], *self.suffix] for first, last in ranges]
        spans = [(offsets[first][0], offsets[last - 1][1]) if last else (0, 0) for first, last in ranges]
        return windows, spans, len(ids) + self.specials, _covered(ranges) + self.specials, len(windows)

    def _ranges(self, text: str, offsets: list[Range]) -> list[Range]:
        """The token numbers [first, last) of each window that is kept."""
        count, chosen = len(offsets), self.settings
        if count <= self.room:
            return [(0, count)]
        if chosen.truncate:
            return [(count - self.room, count) if self.from_the_end else (0, self.room)]
        good, better = ([], []) if chosen.boundary == "token" else token_breaks(text, offsets)
        if not self.from_the_end:
            ranges = token_ranges(count, room=self.room, stride=chosen.stride, good=good, better=better)
        else:  # the same, seen in a mirror: windows are cut from the end, and begin where a sentence begins
            good, better = [count - place for place in good[::-1]], [count - place for place in better[::-1]]
            mirrored = token_ranges(count, room=self.room, stride=chosen.stride, good=good, better=better)
            ranges = [(count - last, count - first) for first, last in mirrored[::-1]]
        return [ranges[number] for number in kept_windows(len(ranges), most=chosen.max_per_document, keep=chosen.keep)]


def token_ranges(count: int, *, room: int, stride: int, good: Sequence[int], better: Sequence[int]) -> list[Range]:
    """Windows [first, last) over `count` tokens: at most `room` tokens each, `stride` of them shared with the next.

    A window ends at the latest place of `better` in its last quarter, else of `good`, else when it is full. Both are
    sorted; place p is before token p. It always moves on by at least half of `room - stride`.
    """
    least = max(-(-3 * room // 4), stride + -(-(room - stride) // 2))
    ranges: list[Range] = []
    first = 0
    while first + room < count:
        full = first + room
        last = _latest(better, first + least, full) or _latest(good, first + least, full) or full
        ranges.append((first, last))
        first = last - stride
    return [*ranges, (first, count)]


def kept_windows(count: int, *, most: int | None, keep: str) -> list[int]:
    """The numbers of the windows of a document that are kept, in order."""
    if most is None or count <= most:
        return list(range(count))
    if keep == "spread":  # the first and, from two on, the last among them
        return [round(number * (count - 1) / max(most - 1, 1)) for number in range(most)]
    tail = most // 2 if keep == "head_tail" else 0
    return [*range(most - tail), *range(count - tail, count)]


def _latest(places: Sequence[int], least: int, most: int) -> int | None:
    number = bisect_right(places, most)
    return places[number - 1] if number and places[number - 1] >= least else None


def _covered(ranges: Sequence[Range]) -> int:
    """Tokens in the windows, their overlap counted once."""
    starts = [0, *(last for _, last in ranges)]
    return sum(last - max(first, before) for (first, last), before in zip(ranges, starts, strict=False))


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text: `[CLS]` and `[SEP]`, nothing and `</s>`, or nothing at all."""
    for probe in PROBES:
        bare = tokenizer(probe, add_special_tokens=False)["input_ids"]
        whole = tokenizer(probe)["input_ids"]
        for before in range(len(whole) - len(bare) + 1) if bare else ():
            if whole[before : before + len(bare)] == bare:
                return whole[:before], whole[before + len(bare) :]
    raise ModelError("model", "its tokenizer has no token for any of " + ", ".join(PROBES), "Choose another model.")


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in lists of a limited number of characters, or of one text."""
    some: list[str] = []
    characters = 0
    for text in texts:
        if some and characters + len(text) > CHARACTERS_AT_A_TIME:
            yield some
            some, characters = [], 0
        some.append(text)
        characters += len(text)
    if some:
        yield some


def _mapped(
    documents: datasets.Dataset, cut: Callable[[pyarrow.Table], pyarrow.Table], *, name: str, path: Path | None
) -> datasets.Dataset:
    """`cut` over the texts in batches, into the file `path` or read from it where it exists; without one in memory."""
    if not len(documents):  # map would hand back the columns of the documents
        return datasets.Dataset(FEATURES.arrow_schema.empty_table())
    texts = documents.select_columns(["text"]).with_format("arrow")
    with progress_bars(False), disk_faults(path.parent) if path is not None else nullcontext():
        windows = texts.map(
            cut,
            batched=True,
            batch_size=ROWS_AT_A_TIME,
            remove_columns=["text"],
            features=FEATURES,
            cache_file_name=None if path is None else str(path),
            load_from_cache_file=True,
            new_fingerprint=name,
        )
    return windows.with_format(None)


def _count(windows: datasets.Dataset, *, window_tokens: int) -> tuple[WindowCounts, Ints]:
    """The counts, and the tokens of each whole document (d,)."""
    tokens, kept, numbers = (
        np.asarray(column, dtype=np.int64) for column in windows.select_columns(COUNTS).with_format("numpy")[:].values()
    )
    counts = WindowCounts(
        documents=len(tokens),
        windows=int(numbers.sum()),
        tokens=int(kept.sum()),
        longest_document_tokens=int(tokens.max(initial=0)),
        documents_over_one_window=int((tokens > window_tokens).sum()),
        documents_cut=int((kept < tokens).sum()),
        tokens_cut=int((tokens - kept).sum()),
        lengths=audit_lengths(tokens, numbers, window_tokens=window_tokens),
    )
    return counts, tokens


def _refuse_empty(documents: datasets.Dataset, rows: Sequence[int]) -> None:
    problems = Collector(DataError)
    for row in rows:
        problems.add(
            str(documents[row]["origin"]), "the tokenizer leaves nothing of this text", "Remove it, or give it words."
        )
    problems.raise_if_any()
