"""Rows of text to write, a column at a time: what they hold together, and which of them hold nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from finetune.data.row_streams import Mask, values
from finetune.data.written_examples import KEYS, chat_messages, whole_text
from finetune.recipe_data import Form


def whole_texts(rows: Dataset, form: Form | None) -> Iterator[str]:
    """`whole_text` of every row."""
    texts = values(rows, "text")
    if form in (None, "text"):
        return (text or "" for text in texts)
    return (whole_text(*pair, form=form) for pair in zip(texts, values(rows, "target"), strict=True))


def judged_column(form: Form | None) -> str:
    """The column whose length and language decide about a row: what the model learns to write, or reads."""
    return "text" if form in (None, "text") else "target"


def empty_rows(rows: Dataset, form: Form | None) -> Mask:
    """Which rows have nothing to learn from, shape (rows,): a text or a target is missing or white space.

    A prompt, and a chat before its answer, may be empty; a message inside may not, but the system's.
    """
    texts = values(rows, "text")
    if form in (None, "text"):
        found: Iterator[bool] = map(_is_blank, texts)
    else:
        pairs = zip(texts, values(rows, "target"), strict=True)
        found = (_is_blank(target) or _lacks_source(text, form=form) for text, target in pairs)
    return np.fromiter(found, dtype=np.bool_, count=len(rows))


def empty_part(row: Mapping[str, Any], form: Form | None) -> str:
    """What an empty row lacks, in the words of the recipe: `text`, `completion`, `source`, `target` or `messages`."""
    if form is None or form == "text":
        return "text"
    read, written = KEYS[form]
    return written if written is not None and _is_blank(row["target"]) else read


def _lacks_source(text: str | None, *, form: Form | None) -> bool:
    if form == "pairs":
        return False
    if form != "chat" or not text:
        return _is_blank(text)
    return any(_is_blank(message["content"]) and message["role"] != "system" for message in chat_messages(text))


def _is_blank(text: str | None) -> bool:
    return not (text and text.strip())
