"""What a cleaning step that looks at whole rows comes to: the splits without some rows, and what to tell of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.cleaning_steps import CleaningStep
from finetune.data.row_streams import Mask, Setting, Splits, without
from finetune.data.text_steps import visible
from finetune.data.written_rows import judged_column


@dataclass(frozen=True)
class Outcome:
    """The splits after a step, how many rows it rewrote, and what to tell."""

    splits: Splits
    changed: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


RowStep = Callable[[Splits, CleaningStep, Setting], Outcome]


def without_rows(
    splits: Splits, masks: Mapping[str, Mask], *, setting: Setting, what: str, reason: Callable[[Any], str]
) -> Outcome:
    """The rows that are not in the masks, with examples and a note a split of those that are."""
    shown = judged_column(setting.form)
    dropped = [(split, int(row)) for split, mask in masks.items() for row in np.flatnonzero(mask)[: setting.examples]]
    rows = [splits[split][row] for split, row in dropped[: setting.examples]]
    examples = [
        {"origin": str(row["origin"]), "before": visible(row[shown] or ""), "after": f"dropped: {reason(row)}"}
        for row in rows
    ]
    notes = [f"{split}: {int(mask.sum())} {what} dropped" for split, mask in masks.items() if mask.any()]
    return Outcome(without(splits, masks), examples=examples, notes=notes)


def count_of(masks: Mapping[str, Mask]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def origins_of(splits: Splits, masks: Mapping[str, Mask], *, most: int) -> list[str]:
    where = [(split, int(row)) for split, mask in masks.items() for row in np.flatnonzero(mask)[:most]]
    return [str(splits[split][row]["origin"]) for split, row in where[:most]]
