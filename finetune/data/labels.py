"""Labels -> class numbers, in one order that is the same in every file, split and run.

Sources hand labels over as text. Whether they are words, integers or true/false is seen here, the order is fixed
once, and everything that would train silently on nonsense (-1, -100, one class, a label no training row has) is
refused with its rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.data.row_streams import Setting, mapped, values
from finetune.data.store import arrow_tables, code_version
from finetune.errors import Collector, DataError, did_you_mean, listed

if TYPE_CHECKING:
    import datasets

INTEGER = re.compile(r"[+-]?[0-9]+")
WHOLE_FLOAT = re.compile(r"[+-]?[0-9]+\.0+")
BOOLEANS = ("false", "true")
IGNORED_BY_THE_LOSS = -100
# A label column with more names than this, and a new name every second row, is text or an id (BANKING77 has 77).
MOST_RARE_LABELS = 50
MOST_ROWS_SHOWN = 12
# The rarest class this many times smaller than the largest: accuracy then says next to nothing.
UNEVEN = 100
ROWS_AT_ONCE = 10_000
SPLITS_THAT_TEACH = ("train", "all")


@dataclass
class Seen:
    """How often something stands in one file, and the first lines; all of them would be a column in memory."""

    rows: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        self.rows += other.rows
        self.lines = (self.lines + other.lines)[:MOST_ROWS_SHOWN]

    def add_row(self, line: str) -> None:
        self.rows += 1
        if len(self.lines) < MOST_ROWS_SHOWN:
            self.lines.append(line)

    def __str__(self) -> str:
        return f"{_count(self.rows)}: {self.places}"

    @property
    def places(self) -> str:
        more = f" and {self.rows - len(self.lines)} more" if self.rows > len(self.lines) else ""
        return f"line{'s' if self.rows > 1 else ''} {', '.join(self.lines)}{more}"


Places = dict[str, Seen]  # file -> rows
Labels = dict[str, Places]


@dataclass(frozen=True)
class LabelMap:
    """The label names in the order of their class numbers."""

    names: tuple[str, ...]
    multi_label: bool = False

    @classmethod
    def from_names(cls, names: Iterable[str], *, multi_label: bool = False) -> LabelMap:
        """From the names a model's config holds, in their order."""
        return cls(names=tuple(names), multi_label=multi_label)

    def encode(self, label: object) -> int | list[int]:
        """The class number of a label; for multi-label the sorted class numbers, of a list or of a text `a|b`.

        Raises DataError for a label that is not known, and for none where one is needed.
        """
        if not self.multi_label:
            return self._number(label)
        parts = label.split("|") if isinstance(label, str) else label if isinstance(label, list | tuple) else [label]
        return sorted({self._number(part) for part in parts if label_text(part)})

    def _number(self, label: object) -> int:
        text = label_text(label)
        if set(self.names) == set(BOOLEANS) and text.lower() in BOOLEANS:
            text = text.lower()
        if text in self.names:
            return self.names.index(text)
        if not text:
            raise DataError("label", "the row has no label")
        raise DataError("label", f"'{text}' is not known. Found: {listed(self.names)}", did_you_mean(text, self.names))


def read_labels(
    splits: Mapping[str, datasets.Dataset], *, multi_label: bool, expected: Sequence[str] | None = None
) -> tuple[LabelMap, list[str]]:
    """The label map of all splits, and warnings.

    Datasets have the columns label and origin of `load_examples`. The order is numeric if every label is an integer,
    false before true for booleans, else by text; `expected` fixes it instead and makes any other label an error.
    Without a `train` or `all` split (an evaluation), labels need not all occur.

    Raises DataError with all problems found, each naming its rows.
    """
    problems = Collector(DataError)
    found: dict[str, Labels] = {}
    sizes: dict[str, int] = {}
    for split, dataset in splits.items():
        found[split], missing = _collected(dataset, multi_label=multi_label)
        sizes[split] = len(dataset)
        _check_missing(missing, labels=found[split], problems=problems)
    if are_booleans(_merged(found.values())):
        found = {split: _lowered(labels) for split, labels in found.items()}
    labels = _merged(found.values())
    _check_numbers(labels, problems=problems)
    problems.raise_if_any()
    if not labels:
        raise DataError("data.columns.label", "no usable label: no row has one")
    names = _names(expected or ())
    _check_expected(labels, names=names, teaches=any(split in SPLITS_THAT_TEACH for split in splits), problems=problems)
    _check_train(found, sizes=sizes, multi_label=multi_label, expected=expected, problems=problems)
    problems.raise_if_any()
    return LabelMap(names=names or _ordered(labels), multi_label=multi_label), _warnings(
        labels, multi_label=multi_label
    )


def encoded_labels(rows: datasets.Dataset, labels: LabelMap) -> list[Any]:
    """The class number of every row, or its list of class numbers for multi-label; in their order."""
    known: dict[object, int | list[int]] = {}
    encoded = []
    for label in values(rows, "label"):
        key = tuple(label) if isinstance(label, list) else label
        if key not in known:
            known[key] = labels.encode(label)
        encoded.append(known[key])
    return encoded


def with_label_names(rows: datasets.Dataset, labels: LabelMap) -> datasets.Dataset:
    """The rows with every label written as the label map names it: `TRUE` as `true`, ` pos` as `pos`."""

    def named(label: Any) -> Any:
        number = labels.encode(label)
        return [labels.names[each] for each in number] if isinstance(number, list) else labels.names[number]

    distinct = {tuple(label) if isinstance(label, list) else label for label in values(rows, "label")}
    if all(named(label) == (list(label) if isinstance(label, tuple) else label) for label in distinct):
        return rows
    return mapped(
        rows,
        lambda written: {"label": [named(label) for label in written]},
        name="writing labels alike",
        version=[code_version("labels.py"), labels.names, labels.multi_label],
        reads=["label"],
        features=rows.features,
        setting=Setting(examples=0, num_proc=1, cached=True),
    )


def label_text(label: object) -> str:
    """A label as the text it is known by: trimmed; true/false and numbers as JSON writes them; none is empty."""
    if label is None:
        return ""
    if isinstance(label, bool):
        return BOOLEANS[label]
    return str(label).strip()


def _collected(dataset: datasets.Dataset, *, multi_label: bool) -> tuple[Labels, Places]:
    """The labels with their rows, and the rows without; read batch by batch."""
    labels: Labels = {}
    missing: Places = {}
    for table in arrow_tables(dataset, ["label", "origin"], rows_at_once=ROWS_AT_ONCE):
        for label, origin in zip(*(table[name].to_pylist() for name in ("label", "origin")), strict=True):
            file, _, line = origin.rpartition(":")
            texts = [label_text(each) for each in label or []] if multi_label else [label_text(label)]
            if label is None or (not multi_label and not texts[0]):
                missing.setdefault(file, Seen()).add_row(line)
                continue
            for text in dict.fromkeys(texts):
                if text:
                    labels.setdefault(text, {}).setdefault(file, Seen()).add_row(line)
    return labels, missing


def _check_missing(missing: Places, *, labels: Labels, problems: Collector) -> None:
    for file, seen in missing.items():
        if _are_whole_floats(labels):  # a blank cell turns a column of 0 and 1 into floats: one message for both
            what = f"labels are {'/'.join(_ordered(labels)[:2])}: a cell is empty at {seen.places}"
            problems.add(file, what, "Fill it in or remove the row, and write labels as whole numbers.")
        else:
            problems.add(file, f"{_count(seen.rows)} without label: {seen.places}", "Label them, or remove them.")


def _check_numbers(labels: Labels, *, problems: Collector) -> None:
    """Numbers that a loss would ignore, refuse late, or take for a regression target."""
    if labels and all(INTEGER.fullmatch(label) and int(label) == IGNORED_BY_THE_LOSS for label in labels):
        what = f"no usable label: every label is {IGNORED_BY_THE_LOSS}, which the loss ignores"
        problems.add("data.columns.label", what, "Name the column that holds the classes.")
        return
    if _are_whole_floats(labels) and not problems.problems:
        shown = "/".join(_ordered(labels)[:2])
        problems.add("data.columns.label", f"labels are {shown}, not whole numbers", "Write 0, not 0.0.")
    if labels and all(INTEGER.fullmatch(label) for label in labels):
        for label in (each for each in _ordered(labels) if int(each) < 0):
            for file, seen in labels[label].items():
                what = f"label {label} is negative ({seen})"
                problems.add(file, what, "Remove unlabelled rows, or number the classes from 0.")


def _names(expected: Sequence[str]) -> tuple[str, ...]:
    names = tuple(label_text(name) for name in expected)
    return tuple(name.lower() for name in names) if are_booleans(names) else names


def _check_expected(labels: Labels, *, names: tuple[str, ...], teaches: bool, problems: Collector) -> None:
    for label in (each for each in _ordered(labels) if names and each not in names):
        remedy = did_you_mean(label, names) or "Add it to data.labels, or correct the rows."
        for file, seen in labels[label].items():
            problems.add(file, f"label '{label}' ({seen}) is not in data.labels. Found: {listed(names)}", remedy)
    absent = [name for name in names if name not in labels]
    if absent and teaches:
        what = f"the list has {len(names)} labels, the data has {len(names) - len(absent)} of them"
        problems.add("data.labels", f"{what}. No row has: {listed(absent)}", "Remove them, or add rows.")


def _check_train(
    found: Mapping[str, Labels],
    *,
    sizes: Mapping[str, int],
    multi_label: bool,
    expected: Sequence[str] | None,
    problems: Collector,
) -> None:
    """What only the split that teaches can show: too few classes, far too many, and labels it never has."""
    for teacher in (split for split in SPLITS_THAT_TEACH if split in found):
        labels, rows = found[teacher], sizes[teacher]
        if expected is None and len(labels) > MOST_RARE_LABELS and len(labels) * 2 > rows:
            what = f"label column looks like free text or an id: {len(labels)} distinct labels in {rows} rows"
            problems.add("data.columns.label", f"{what}. Found: {listed(labels, most=3)}", "Name another column.")
            return
        only = len(labels) == 1 and (not multi_label or _total(next(iter(labels.values()))) == rows)
        if only or not labels:
            what = f"only one class ('{next(iter(labels))}')" if only else "no usable label: no row has one"
            problems.add("data.columns.label", what, "There is nothing to tell apart: add rows of another class.")
        for others in found.values():
            for label in (each for each in _ordered(others) if each not in labels):
                for file, seen in others[label].items():
                    what = f"label '{label}' ({seen}) is not in {teacher}"
                    remedy = did_you_mean(label, labels) or f"Add rows of it to {teacher}, or remove these."
                    problems.add(file, what, remedy)


def _warnings(labels: Labels, *, multi_label: bool) -> list[str]:
    warnings = []
    variants: dict[str, list[str]] = {}
    for label in _ordered(labels):
        same = str(int(label)) if INTEGER.fullmatch(label) else label.casefold()
        variants.setdefault(same, []).append(label)
    for names in variants.values():
        if len(names) > 1:
            shown = ", ".join(f"'{name}' ({_count(_total(labels[name]))})" for name in names)
            warnings.append(f"labels {shown} differ only in the way they are written and are different classes")
    sizes = {label: _total(places) for label, places in labels.items()}
    largest, rarest = max(sizes, key=lambda each: sizes[each]), min(sizes, key=lambda each: sizes[each])
    if sizes[largest] >= UNEVEN * sizes[rarest]:
        shown = f"'{largest}' has {_count(sizes[largest])}, '{rarest}' {_count(sizes[rarest])}"
        warnings.append(f"labels are very uneven: {shown}. Read the macro-F1 and the majority baseline, not accuracy")
    joined = [label for label in labels if ";" in label]
    if multi_label and joined:
        warnings.append(f"label '{joined[0]}' has a ';' inside: several labels of a row are separated by '|'")
    return warnings


def _ordered(labels: Iterable[str]) -> tuple[str, ...]:
    names = list(labels)
    if all(INTEGER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))  # false sorts before true by itself


def are_booleans(labels: Iterable[str]) -> bool:
    """Whether true and false, in whatever case, are all there is: then their case says nothing."""
    names = {label.lower() for label in labels}
    return bool(names) and names <= set(BOOLEANS)


def _are_whole_floats(labels: Iterable[str]) -> bool:
    names = list(labels)
    return bool(names) and all(WHOLE_FLOAT.fullmatch(name) for name in names)


def _lowered(labels: Labels) -> Labels:
    return _merged({label.lower(): places} for label, places in labels.items())


def _merged(parts: Iterable[Labels]) -> Labels:
    merged: Labels = {}
    for labels in parts:
        for label, places in labels.items():
            for file, seen in places.items():
                merged.setdefault(label, {}).setdefault(file, Seen()).add(seen)
    return merged


def _total(places: Places) -> int:
    return sum(seen.rows for seen in places.values())


def _count(rows: int) -> str:
    return f"{rows} row{'s' if rows != 1 else ''}"
