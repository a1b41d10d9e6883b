"""Cleaning steps about rows that say the same: repetitions, and equal texts whose labels contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from finetune.cleaning_steps import CleaningStep
from finetune.data.duplicates import exact_families
from finetune.data.labels import are_booleans
from finetune.data.row_outcomes import Outcome, without_rows
from finetune.data.row_streams import Mask, Setting, Splits, values, without
from finetune.data.text_steps import visible
from finetune.data.written_examples import whole_text
from finetune.data.written_rows import whole_texts
from finetune.errors import DataError, listed
from finetune.recipe_data import Form

CONFLICTS_SHOWN = 5
_PRECEDENCE = {"train": 0, "validation": 1, "test": 2}


def drop_conflicts(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Equal texts (after folding) with different labels, over all splits: at least one of them is wrong.

    `majority` keeps the rows with the most frequent label, and none when two labels are equally frequent; `drop` keeps
    none; `refuse` raises DataError naming them. Rows without a label take no side and go with the rest.
    """
    rows = _AllRows(splits)
    family, labels = exact_families(rows.texts(None)), rows.labels()
    conflicts = _Conflicts(family, labels)
    if step.argument == "refuse" and len(conflicts.families):
        raise DataError(
            "cleaning.drop_conflicts",
            f"{len(conflicts.families)} texts occur with different labels. Found: {_shown(rows, conflicts)}",
            "Correct the labels, or choose drop_conflicts: majority.",
        )
    kept = conflicts.majority() if step.argument == "majority" else np.zeros(len(family), dtype=np.bool_)
    dropped = np.isin(family, conflicts.families) & ~kept
    ties = len(conflicts.families) - len(np.unique(family[kept]))

    def reason(row: Mapping[str, Any]) -> str:
        return f"label {_label_shown(row['label'])}, but the same text has other labels"

    outcome = without_rows(splits, rows.by_split(dropped), setting=setting, what="rows of texts with different labels",
                       reason=reason)  # fmt: skip
    notes = [f"{len(conflicts.families)} texts occur with different labels"] if len(conflicts.families) else []
    if step.argument == "majority" and ties:
        notes.append(f"{ties} of them have no most frequent label: all their rows were dropped")
    return Outcome(outcome.splits, examples=outcome.examples, notes=[*outcome.notes, *notes])


def drop_duplicates(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Rows that repeat an earlier text (after folding) go; train keeps what validation and test repeat.

    Of what is to be written, both parts must repeat: a source with two targets teaches both.
    """
    rows = _AllRows(splits)
    family = exact_families(rows.texts(setting.form))
    repeats = family != np.arange(len(family))
    notes = []
    for position, split in enumerate(rows.order):
        of_split = repeats & (rows.owner == position)
        for kept_in in range(position + 1):
            count = int((of_split & (rows.owner[family] == kept_in)).sum())
            where = "an earlier row" if kept_in == position else f"a row of {rows.order[kept_in]}"
            told = f"1 row repeats {where} and was" if count == 1 else f"{count:,} rows repeat {where} and were"
            notes += [f"{split}: {told} removed"] if count else []
    examples = []
    for index in np.flatnonzero(repeats)[: setting.examples]:
        again, first = rows.row(index), rows.row(family[index])
        after = f"dropped: repeats {first['origin']}"
        again_text = whole_text(again["text"], again.get("target"), form=setting.form)
        examples.append({"origin": str(again["origin"]), "before": visible(again_text), "after": after})
    conflicts = _Conflicts(family, rows.labels())
    if len(conflicts.families):
        shown = listed([rows.row(row)["origin"] for row in conflicts.opponents()[:CONFLICTS_SHOWN, 1]])
        told = f"warning: {len(conflicts.families)} texts occur with different labels"
        notes.append(f"{told}; the first label was kept (see {shown})")
    return Outcome(without(splits, rows.by_split(repeats)), examples=examples, notes=notes)


def conflict_notes(rows: Dataset, exact: NDArray[np.int64]) -> list[str]:
    """A warning for equal texts with different labels that no step has settled; `exact` numbers the texts, (rows,)."""
    every = _AllRows({"all": rows})
    conflicts = _Conflicts(exact, every.labels())
    if not len(conflicts.families):
        return []
    told = f"warning: {len(conflicts.families)} texts occur with different labels, and all were kept"
    return [f"{told}: {_shown(every, conflicts)}. Add drop_conflicts to cleaning"]


class _AllRows:
    """The rows of all splits as one sequence, in the order in which splits keep a text: train, validation, test."""

    def __init__(self, splits: Splits) -> None:
        self.order = sorted(splits, key=lambda split: (_PRECEDENCE.get(split, len(_PRECEDENCE)), split))
        self._parts = [splits[split] for split in self.order]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self.owner = np.repeat(np.arange(len(self.order)), [len(rows) for rows in self._parts])

    def texts(self, form: Form | None) -> Iterator[str]:
        return (text for rows in self._parts for text in whole_texts(rows, form))

    def labels(self) -> NDArray[np.int64]:
        """A number for each different label or set of labels; -1 where there is none."""
        numbers: dict[str | tuple[str, ...], int] = {}

        def number(label: Any) -> int:
            if label is None:
                return -1
            key = tuple(sorted(each.strip() for each in label)) if isinstance(label, list) else label.strip()
            return numbers.setdefault(key, len(numbers))

        every = (number(label) for rows in self._parts for label in values(rows, "label"))
        found = np.fromiter(every, dtype=np.int64, count=int(self._starts[-1]))
        single = [key for key in numbers if isinstance(key, str)]
        if len(single) == len(numbers) and are_booleans(single):  # the label map takes `TRUE` for `true`
            found[found >= 0] = np.array([key.lower() == "true" for key in single])[found[found >= 0]]
        return found

    def row(self, index: Any) -> dict[str, Any]:
        return dict(self._parts[self.owner[index]][int(index - self._starts[self.owner[index]])])

    def by_split(self, mask: Mask) -> dict[str, Mask]:
        parts = np.split(mask, self._starts[1:-1])
        return dict(zip(self.order, parts, strict=True))


class _Conflicts:
    """Equal texts with different labels. `family` and `labels` have one number a row; -1 is no label."""

    def __init__(self, family: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        self._rows, self._labelled = len(family), np.flatnonzero(labels >= 0)
        self._family, self._label = family[self._labelled], labels[self._labelled]
        _, first, which = np.unique(self._family, return_index=True, return_inverse=True)
        self._first = first[which]  # for each labelled row, the first one of its family
        self._differing = np.flatnonzero(self._label != self._label[self._first])
        self.families = np.unique(self._family[self._differing])

    def opponents(self) -> NDArray[np.int64]:
        """Each family's first labelled row, and its first row with another label; shape (families, 2), in row order."""
        _, index = np.unique(self._family[self._differing], return_index=True)
        later = np.sort(self._differing[index])
        return self._labelled[np.stack([self._first[later], later], axis=1)]

    def majority(self) -> Mask:
        """Which rows of these families have the label that is alone the most frequent there; shape (rows,)."""
        inside = np.flatnonzero(np.isin(self._family, self.families))
        labels = int(self._label.max(initial=0)) + 1
        pairs, which, counts = np.unique(
            self._family[inside] * labels + self._label[inside], return_inverse=True, return_counts=True
        )
        family = pairs // labels
        most = np.zeros(self._rows, dtype=np.int64)
        np.maximum.at(most, family, counts)
        wins = counts == most[family]
        is_alone = np.bincount(family[wins], minlength=self._rows)[family] == 1
        kept = np.zeros(self._rows, dtype=np.bool_)
        kept[self._labelled[inside]] = (wins & is_alone)[which]
        return kept


def _shown(rows: _AllRows, conflicts: _Conflicts) -> str:
    """`a.csv:2 ('x') and a.csv:9 ('y')` for the first conflicts."""
    shown = []
    for pair in conflicts.opponents()[:CONFLICTS_SHOWN]:
        sides = map(rows.row, pair)
        shown.append(" and ".join(f"{row['origin']} ({_label_shown(row['label'])})" for row in sides))
    more = len(conflicts.families) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _label_shown(label: Any) -> str:
    return f"'{', '.join(label) if isinstance(label, list) else label}'" if label is not None else "missing"
