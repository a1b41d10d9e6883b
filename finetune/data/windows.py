"""Token windows out of documents, and window predictions back into documents.

A document longer than `max_tokens` becomes overlapping windows, cut by the model's own fast tokenizer with its
special tokens in each. The document stays the unit: its windows are trained together and predicted together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow

from finetune.errors import Collector, DataError

ROWS_AT_A_TIME = 256
WINDOWS_TYPE = pyarrow.list_(pyarrow.list_(pyarrow.int32()))


class WindowSettings(Protocol):
    """The `windows` section of a recipe."""

    @property
    def max_tokens(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def max_per_document(self) -> int | None: ...
    @property
    def truncate(self) -> bool: ...


@dataclass(frozen=True)
class WindowCounts:
    """What cutting did, in documents, windows and tokens.

    A document's tokens are those of the whole text, the overlap of windows counted once and the special tokens once.
    """

    documents: int
    windows: int
    tokens: int
    longest_document_tokens: int
    documents_over_one_window: int
    documents_cut: int
    tokens_cut: int

    def to_json(self) -> dict[str, int]:
        return dict(self.__dict__)


def cut_windows(
    documents: datasets.Dataset,
    tokenizer: Any,
    *,
    settings: WindowSettings,
    on_documents: Callable[[int], None] = lambda count: None,
) -> tuple[datasets.Dataset, WindowCounts]:
    """A dataset with the one column `windows`: for document i its lists of token ids, each at most `max_tokens` long.

    `documents` has the columns text and origin. Windows come in the order of the text; `truncate` keeps the first,
    `max_per_document` the first so many, and both are counted in documents and tokens. `on_documents` hears how many
    were cut since it last heard. Raises DataError naming every document of which the tokenizer leaves nothing.
    """
    keep = 1 if settings.truncate else settings.max_per_document
    specials = tokenizer.num_special_tokens_to_add()
    chunks, tokens, tokens_kept, windows_whole = [], [], [], []
    for batch in documents.select_columns(["text"]).iter(batch_size=ROWS_AT_A_TIME):
        whole = _windows_of(batch["text"], tokenizer, settings=settings)
        kept = [rows[:keep] for rows in whole]
        chunks.append(pyarrow.array(kept, type=WINDOWS_TYPE))
        tokens += [_distinct_tokens(rows, settings.stride, specials) for rows in whole]
        tokens_kept += [_distinct_tokens(rows, settings.stride, specials) for rows in kept]
        windows_whole += [len(rows) for rows in whole]
        on_documents(len(whole))
    _refuse_empty(documents, [row for row, count in enumerate(tokens) if count <= specials])
    windows_kept = windows_whole if keep is None else np.minimum(windows_whole, keep)
    counts = WindowCounts(
        documents=len(documents),
        windows=int(np.sum(windows_kept)),
        tokens=sum(tokens_kept),
        longest_document_tokens=max(tokens, default=0),
        documents_over_one_window=sum(count > 1 for count in windows_whole),
        documents_cut=sum(kept < count for kept, count in zip(tokens_kept, tokens, strict=True)),
        tokens_cut=sum(tokens) - sum(tokens_kept),
    )
    return datasets.Dataset(pyarrow.table({"windows": pyarrow.chunked_array(chunks, type=WINDOWS_TYPE)})), counts


def merge_windows(
    probabilities: npt.NDArray[np.float64], owner: Sequence[int] | npt.NDArray[np.int64], *, documents: int, how: str
) -> npt.NDArray[np.float64]:
    """Window probabilities (windows, classes) with their document numbers -> (documents, classes).

    `mean` averages; `max` takes the highest probability of each class (for single labels the caller renormalises).
    """
    owner = np.asarray(owner, dtype=np.int64)
    merged: npt.NDArray[np.float64]
    if how == "max":
        merged = np.full((documents, probabilities.shape[1]), -np.inf)
        np.maximum.at(merged, owner, probabilities)
        return merged
    merged = np.zeros((documents, probabilities.shape[1]))
    np.add.at(merged, owner, probabilities)
    return merged / np.bincount(owner, minlength=documents)[:, None]


Aggregate = Literal["mean", "max"]


def _windows_of(texts: Sequence[str], tokenizer: Any, *, settings: WindowSettings) -> list[list[list[int]]]:
    encoded = tokenizer(
        texts,
        truncation=True,
        max_length=settings.max_tokens,
        stride=settings.stride,
        return_overflowing_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    windows: list[list[list[int]]] = [[] for _ in texts]
    for document, ids in zip(encoded["overflow_to_sample_mapping"], encoded["input_ids"], strict=True):
        windows[document].append(ids)
    # Such a tokenizer cuts from the end of the text backwards.
    return [rows[::-1] for rows in windows] if tokenizer.truncation_side == "left" else windows


def _distinct_tokens(windows: list[list[int]], stride: int, specials: int) -> int:
    """Tokens of a document counted once: neighbouring windows share `stride` tokens besides their special ones."""
    return sum(len(window) - specials for window in windows) - stride * (len(windows) - 1) + specials


def _refuse_empty(documents: datasets.Dataset, rows: Sequence[int]) -> None:
    problems = Collector(DataError)
    for row in rows:
        problems.add(
            str(documents[row]["origin"]), "the tokenizer leaves nothing of this text", "Remove it, or give it words."
        )
    problems.raise_if_any()
