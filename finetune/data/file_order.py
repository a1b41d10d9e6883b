"""Plain division by position: the first documents train, the next validate, the last test."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from datasets import Dataset

from finetune.data.blocks import column_numbers
from finetune.data.passages import contiguous_splits
from finetune.data.row_streams import Setting, mapped
from finetune.data.store import code_version


def in_file_order(rows: Dataset, shares: Mapping[str, float], *, own_groups: bool) -> dict[str, Dataset]:
    """The splits in the order of `shares`, each with about its share of the characters.

    Without `own_groups` a group is the document that passages were cut from, and one that a border cuts is none any
    more: that it lies on both sides is what was asked for. Groups of the user's own are left for the leak report.
    Raises DataError where a split is left without a document.
    """
    splits = contiguous_splits(rows, shares)
    if own_groups:
        return splits
    groups = column_numbers(splits.values(), "group")
    split = np.repeat(np.arange(len(splits)), [len(part) for part in splits.values()])
    number, held = np.unique(np.unique(np.stack([groups, split]), axis=1)[0], return_counts=True)
    both_sides = number[(held > 1) & (number >= 0)]
    cut = {str(rows[int(np.flatnonzero(groups == each)[0])]["group"]) for each in both_sides}
    return {name: _without_groups(part, cut) if cut else part for name, part in splits.items()}


def _without_groups(rows: Dataset, cut: set[str]) -> Dataset:
    return mapped(
        rows,
        partial(_cleared, cut=cut),
        name="groups that a border cuts",
        version=["cleared", sorted(cut), code_version("file_order.py")],
        reads=["group"],
        features=rows.features,
        setting=Setting(examples=0, num_proc=1, cached=True),
    )


def _cleared(groups: list[str | None], *, cut: set[str]) -> dict[str, list[str | None]]:
    return {"group": [None if group in cut else group for group in groups]}
