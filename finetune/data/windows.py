"""Token windows out of documents, and window predictions back into documents.

A document longer than `max_tokens` becomes overlapping windows, cut by the model's own fast tokenizer with its
special tokens in each. The document stays the unit: its windows are trained together and predicted together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import datasets
import numpy as np
import numpy.typing as npt

from finetune.errors import DataError

ROWS_AT_A_TIME = 256


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
    """What cutting did, in documents, windows and tokens (special tokens included)."""

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
    documents: datasets.Dataset, tokenizer: Any, *, settings: WindowSettings, progress: bool = False
) -> tuple[datasets.Dataset, WindowCounts]:
    """Add a column `windows` (list of lists of token ids, each at most `max_tokens` long).

    `truncate` keeps the first window; `max_per_document` keeps the first so many. Both are counted in documents
    and tokens. Raises DataError for a document of which the tokenizer leaves nothing.
    """
    keep = 1 if settings.truncate else settings.max_per_document

    def cut(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            batch["text"],
            truncation=True,
            max_length=settings.max_tokens,
            stride=settings.stride,
            return_overflowing_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        owner = encoded["overflow_to_sample_mapping"]
        windows: list[list[list[int]]] = [[] for _ in batch["text"]]
        for index, ids in zip(owner, encoded["input_ids"], strict=True):
            windows[index].append(ids)
        specials = tokenizer.num_special_tokens_to_add()
        return {
            "windows": [rows[:keep] for rows in windows],
            "tokens": [_distinct_tokens(rows, settings.stride, specials) for rows in windows],
            "tokens_kept": [_distinct_tokens(rows[:keep], settings.stride, specials) for rows in windows],
            "windows_whole": [len(rows) for rows in windows],
        }

    table = documents.map(
        cut,
        batched=True,
        batch_size=ROWS_AT_A_TIME,
        keep_in_memory=True,
        load_from_cache_file=False,
        new_fingerprint=None,
        desc="cutting windows" if progress else None,
    )
    tokens, kept = np.asarray(table["tokens"]), np.asarray(table["tokens_kept"])
    _refuse_empty(table, kept)
    whole = np.asarray(table["windows_whole"])
    counts = WindowCounts(
        documents=len(table),
        windows=sum(len(windows) for windows in table["windows"]),
        tokens=int(kept.sum()),
        longest_document_tokens=int(tokens.max(initial=0)),
        documents_over_one_window=int((whole > 1).sum()),
        documents_cut=int((kept < tokens).sum()),
        tokens_cut=int((tokens - kept).sum()),
    )
    return table.remove_columns(["tokens", "tokens_kept", "windows_whole"]), counts


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


def _distinct_tokens(windows: list[list[int]], stride: int, specials: int) -> int:
    """Tokens of a document counted once: neighbouring windows share `stride` tokens besides their special ones."""
    if not windows:
        return 0
    return sum(len(window) - specials for window in windows) - stride * (len(windows) - 1) + specials


def _refuse_empty(table: datasets.Dataset, tokens: npt.NDArray[Any]) -> None:
    lengths = np.asarray([len(windows[0]) if windows else 0 for windows in table["windows"]])
    empty = np.flatnonzero((lengths == 0) | (tokens <= 0))
    if empty.size:
        raise DataError(
            str(table[int(empty[0])]["origin"]), "the tokenizer leaves nothing of this text", "Add drop_empty to cleaning."
        )
