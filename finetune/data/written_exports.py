"""Rows of text to write under the names that the recipe gives their columns, so that it prepares them again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import datasets
from datasets import Dataset

from finetune.data.examples import ColumnMap
from finetune.data.row_streams import Setting, mapped, progress_bars
from finetune.data.store import code_version
from finetune.data.written_examples import KEYS, chat_messages, chat_text
from finetune.recipe_data import ExportFormat

OTHER_COLUMNS = ("id", "group", "origin", "family", "fold")
HOLD_LISTS: tuple[ExportFormat, ...] = ("parquet", "arrow", "json", "jsonl")  # the others have cells of text


def as_written(splits: Mapping[str, Dataset], columns: ColumnMap, *, format: ExportFormat) -> dict[str, Dataset]:
    """The splits with columns as the source had them: prompt and completion, messages, and so on, and no label.

    Messages are a list of {role, content}, or the JSON of one where a format holds no lists. A name that another
    column of the files has (`id`, `group` ...) gives way to the key: `text`, `prompt`, `source`.
    """
    assert columns.form is not None
    read, written = KEYS[columns.form]
    names = {"text": read if columns.text in OTHER_COLUMNS else columns.text}
    if written is not None and columns.target is not None:
        names["target"] = written if columns.target in OTHER_COLUMNS else columns.target
    renamed = {}
    with progress_bars(False):
        for split, rows in splits.items():
            if columns.form == "chat":
                rows = _with_messages(rows, lists=format in HOLD_LISTS)
            dropped = ["label", *(["target"] if "target" not in names else [])]
            renamed[split] = rows.remove_columns(dropped).rename_columns(names)
    return renamed


def _with_messages(rows: Dataset, *, lists: bool) -> Dataset:
    """The whole chat in the column `text`."""
    features = rows.features.copy()
    if lists:
        features["text"] = datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")})
    return mapped(
        rows,
        partial(_joined, lists=lists),
        name="joining messages",
        version=["messages", lists, code_version("written_exports.py", "written_examples.py")],
        reads=["text", "target"],
        features=features,
        setting=Setting(examples=0, num_proc=1, cached=True),
    )


def _joined(texts: list[str], targets: list[str], *, lists: bool) -> dict[str, list[object]]:
    chats = [chat_messages(*pair) for pair in zip(texts, targets, strict=True)]
    return {"text": [messages if lists else chat_text(messages) for messages in chats]}
