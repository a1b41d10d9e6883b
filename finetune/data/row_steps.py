"""Cleaning steps that look at whole rows: they drop some, or fill in what is missing.

Which rows go is a numpy mask, found by streaming Arrow batches; a column of texts never becomes a Python list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import datasets
import numpy as np
import py3langid
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from finetune.cleaning_steps import CleaningStep
from finetune.data.duplicates import exact_families
from finetune.data.labels import are_booleans
from finetune.data.row_streams import Mask, Setting, Splits, mapped, mask_of, values, without
from finetune.data.store import code_version
from finetune.data.text_steps import visible
from finetune.errors import DataError, did_you_mean, listed

MOST_EMPTY_SHARE = 0.05
CONFLICTS_SHOWN = 5
# A language is told by its letters: 20 Latin ones, or 7 Chinese characters, which take three bytes each.
FEWEST_LETTER_BYTES = 20
CHARACTERS_READ_FOR_LANGUAGE = 1000
UNDECIDED = "?"


@dataclass(frozen=True)
class Outcome:
    """The splits after a step, how many rows it rewrote, and what to tell."""

    splits: Splits
    changed: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


RowStep = Callable[[Splits, CleaningStep, Setting], Outcome]


def fill_missing(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """A missing text, or one of nothing but white space, which is how a table writes it, becomes the step's value."""
    missing = {split: empty_texts(rows) for split, rows in splits.items()}
    filled = {
        split: mapped(
            rows,
            partial(_filled, value=str(step.argument)),
            name=f"fill_missing ({split})",
            version=["fill_missing", step.argument, code_version("row_steps.py")],
            reads=["text"],
            features=rows.features,
            setting=setting,
        )
        if missing[split].any()
        else rows
        for split, rows in splits.items()
    }
    examples = [
        {"origin": origin, "before": "", "after": visible(str(step.argument))}
        for origin in _origins(splits, missing, most=setting.examples)
    ]
    return Outcome(filled, changed=_count(missing), examples=examples)


def drop_missing(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Rows without a text (or with nothing but white space) or without a label go."""
    masks = {split: empty_texts(rows) | mask_of(rows, "label", pc.is_null) for split, rows in splits.items()}
    return _without(
        splits, masks, setting=setting, what="rows without a text or a label",
        reason=lambda row: "no label" if row["text"] and row["text"].strip() else "no text",
    )  # fmt: skip


def drop_empty(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Rows whose text is missing or white space go. Raises DataError when they are more than 5 % of all rows."""
    masks = {split: empty_texts(rows) for split, rows in splits.items()}
    found, total = _count(masks), sum(map(len, splits.values()))
    if found > MOST_EMPTY_SHARE * total:
        raise DataError(
            "cleaning.drop_empty",
            f"{found} of {total} texts are empty, more than {MOST_EMPTY_SHARE:.0%}. "
            f"Found: {', '.join(_origins(splits, masks, most=5))}{f' and {found - 5} more' if found > 5 else ''}",
            "Is data.columns.text the right column? Fill the texts in, or remove these rows from the file.",
        )
    return _without(splits, masks, setting=setting, what="empty texts", reason=lambda row: "empty")


def drop_short(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Texts of fewer characters than the step's number go; a missing text is not short."""
    return _outside_length(splits, setting, what=f"texts under {step.argument} characters", shortest=_whole(step))


def drop_long(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Texts of more characters than the step's number go."""
    return _outside_length(splits, setting, what=f"texts over {step.argument} characters", longest=_whole(step))


def keep_language(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Texts in another language than the step's go, as py3langid tells by the first 1,000 characters.

    A text whose letters take under 20 bytes (20 Latin letters, 7 Chinese characters) is too short to tell: it stays and
    is counted. Raises DataError for a code that py3langid does not know.
    """
    wanted = [step.argument] if isinstance(step.argument, str) else list(step.argument or [])  # type: ignore[arg-type]
    known = _identifier().labels
    for code in wanted:
        if code not in known:
            hint = did_you_mean(code, known) or f"Known: {listed(sorted(known), most=200)}."
            raise DataError("cleaning.keep_language", f"no language has the code '{code}'", hint)
    masks, notes = {}, []
    for split, rows in splits.items():
        counts: Counter[str] = Counter()
        languages = _languages(rows, split, setting)
        masks[split] = mask_of(languages, "language", partial(_is_other, wanted=pa.array([*wanted, UNDECIDED])))
        for language in values(languages, "language"):
            counts[language or ""] += 1
        if counts[UNDECIDED]:
            notes.append(f"{split}: {counts[UNDECIDED]} texts too short to tell their language were kept")
        others = [f"{code} {count}" for code, count in counts.most_common() if code not in ("", UNDECIDED, *wanted)]
        if others:
            notes.append(f"{split}: texts in other languages: {listed(others)}")
    outcome = _without(
        splits, masks, setting=setting, what=f"texts not in {' or '.join(wanted)}",
        reason=lambda row: f"language {language_of(str(row['text']))}",
    )  # fmt: skip
    return Outcome(outcome.splits, examples=outcome.examples, notes=[*outcome.notes, *notes])


def drop_conflicts(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Equal texts (after folding) with different labels, over all splits: at least one of them is wrong.

    `majority` keeps the rows with the most frequent label, and none when two labels are equally frequent; `drop` keeps
    none; `refuse` raises DataError naming them. Rows without a label take no side and go with the rest.
    """
    rows = _AllRows(splits)
    family, labels = exact_families(rows.texts()), rows.labels()
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

    outcome = _without(splits, rows.by_split(dropped), setting=setting, what="rows of texts with different labels",
                       reason=reason)  # fmt: skip
    notes = [f"{len(conflicts.families)} texts occur with different labels"] if len(conflicts.families) else []
    if step.argument == "majority" and ties:
        notes.append(f"{ties} of them have no most frequent label: all their rows were dropped")
    return Outcome(outcome.splits, examples=outcome.examples, notes=[*outcome.notes, *notes])


def drop_duplicates(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Rows that repeat an earlier text (after folding) go; train keeps what validation and test repeat."""
    rows = _AllRows(splits)
    family = exact_families(rows.texts())
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
        examples.append({"origin": str(again["origin"]), "before": visible(str(again["text"])), "after": after})
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


def empty_texts(rows: Dataset) -> Mask:
    """Which texts are missing or nothing but white space, shape (rows,)."""
    return np.fromiter((not (text and text.strip()) for text in values(rows, "text")), dtype=np.bool_, count=len(rows))


def language_of(text: str) -> str:
    """The two-letter code of the text's language (py3langid), or `?` when it has too few letters to tell."""
    read = text[:CHARACTERS_READ_FOR_LANGUAGE]
    if len("".join(_LETTERS.findall(read)).encode("utf-8", "surrogatepass")) < FEWEST_LETTER_BYTES:
        return UNDECIDED
    return str(_identifier().classify(read)[0])


def _without(
    splits: Splits, masks: Mapping[str, Mask], *, setting: Setting, what: str, reason: Callable[[Any], str]
) -> Outcome:
    """The rows that are not in the masks, with examples and a note a split of those that are."""
    dropped = [(split, int(row)) for split, mask in masks.items() for row in np.flatnonzero(mask)[: setting.examples]]
    rows = [splits[split][row] for split, row in dropped[: setting.examples]]
    examples = [
        {"origin": str(row["origin"]), "before": visible(row["text"] or ""), "after": f"dropped: {reason(row)}"}
        for row in rows
    ]
    notes = [f"{split}: {int(mask.sum())} {what} dropped" for split, mask in masks.items() if mask.any()]
    return Outcome(without(splits, masks), examples=examples, notes=notes)


def _outside_length(
    splits: Splits, setting: Setting, *, what: str, shortest: int = 0, longest: int | None = None
) -> Outcome:
    def is_outside(texts: pa.ChunkedArray) -> pa.ChunkedArray:
        length = pc.utf8_length(texts)
        outside = pc.less(length, shortest) if longest is None else pc.greater(length, longest)
        return pc.fill_null(outside, False)

    masks = {split: mask_of(rows, "text", is_outside) for split, rows in splits.items()}
    return _without(splits, masks, setting=setting, what=what, reason=lambda row: f"{len(row['text'])} characters")


def _whole(step: CleaningStep) -> int:
    return int(step.argument)  # type: ignore[arg-type]  # the recipe has checked it


def _filled(texts: list[str | None], *, value: str) -> dict[str, list[str]]:
    return {"text": [text if text and text.strip() else value for text in texts]}


def _languages(rows: Dataset, split: str, setting: Setting) -> Dataset:
    """One column, language: null for a missing text, `?` for one too short to tell."""
    return mapped(
        rows,
        _languages_of,
        name=f"keep_language ({split})",
        version=["language", py3langid.__version__, code_version("row_steps.py")],
        reads=["text"],
        features=datasets.Features({"language": datasets.Value("string")}),
        setting=setting,
    )


def _languages_of(texts: list[str | None]) -> dict[str, list[str | None]]:
    return {"language": [None if text is None else language_of(text) for text in texts]}


def _is_other(languages: pa.ChunkedArray, *, wanted: pa.Array) -> pa.ChunkedArray:
    return pc.invert(pc.or_(pc.is_in(languages, value_set=wanted), pc.is_null(languages)))


@cache
def _identifier() -> Any:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    # The others have no two-letter code to ask for, and one of them, Wu, takes plain Chinese texts for its own.
    identifier.set_languages([code for code in identifier.labels if len(code) == 2])
    return identifier


_LETTERS = re.compile(r"[^\W\d_]+")


class _AllRows:
    """The rows of all splits as one sequence, in the order in which splits keep a text: train, validation, test."""

    def __init__(self, splits: Splits) -> None:
        self.order = sorted(splits, key=lambda split: (_PRECEDENCE.get(split, len(_PRECEDENCE)), split))
        self._parts = [splits[split] for split in self.order]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        self.owner = np.repeat(np.arange(len(self.order)), [len(rows) for rows in self._parts])

    def texts(self) -> Iterator[str]:
        return (text or "" for rows in self._parts for text in values(rows, "text"))

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


def _count(masks: Mapping[str, Mask]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def _origins(splits: Splits, masks: Mapping[str, Mask], *, most: int) -> list[str]:
    where = [(split, int(row)) for split, mask in masks.items() for row in np.flatnonzero(mask)[:most]]
    return [str(splits[split][row]["origin"]) for split, row in where[:most]]


_PRECEDENCE = {"train": 0, "validation": 1, "test": 2}

ROW_STEPS: dict[str, RowStep] = {
    "fill_missing": fill_missing,
    "drop_missing": drop_missing,
    "drop_empty": drop_empty,
    "drop_short": drop_short,
    "drop_long": drop_long,
    "keep_language": keep_language,
    "drop_conflicts": drop_conflicts,
    "drop_duplicates": drop_duplicates,
}
