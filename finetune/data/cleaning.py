"""Cleaning: named steps over the rows of every split, each of which counts what it changed and what it dropped.

A step is idempotent. To add one that rewrites texts, write a function from text to text and enter it in STEPS.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import datasets
import ftfy
import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher
from numpy.typing import NDArray

from finetune.data.duplicates import families
from finetune.errors import DataError, listed

CLEANING_VERSION = 1  # part of every fingerprint: raise it when a step's result changes
MOST_EMPTY_SHARE = 0.05
MOST_NUL_SHARE = 0.001
FEW_NUL_ROWS = 3  # in a small file a share of rows says nothing: up to this many are removed without an error
EXAMPLES_SHOWN = 3
CONFLICTS_SHOWN = 5
ROWS_AT_ONCE = 1000

Splits = dict[str, Dataset]


@dataclass(frozen=True)
class StepReport:
    """What one step did, over all splits. `examples` have `origin`, `before`, `after`, shortened and made visible."""

    name: str
    changed: int
    dropped: int
    rows_before: int
    rows_after: int
    examples: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Step = Callable[[str, Splits], tuple[Splits, StepReport]]


def clean(
    splits: Mapping[str, Dataset], steps: Sequence[str], *, progress: bool = False
) -> tuple[Splits, list[StepReport]]:
    """The splits after the steps of these names, in this order, and one report a step.

    Every dataset has the columns id, text (text or null), label, group, origin. A row that repeats an earlier one goes;
    splits are taken in the order train, validation, test, so that train keeps what test repeats. `progress` shows
    datasets' own bars. Raises DataError for a split with nothing left, for more than 5 % empty texts, and for NUL bytes
    in more than 0.1 % of the rows.
    """
    cleaned: Splits = dict(splits)
    reports = []
    with progress_bars(progress):
        for name in steps:
            cleaned, report = STEPS[name](name, cleaned)
            reports.append(report)
    for split, rows in cleaned.items():
        if not len(rows):
            raise DataError(
                "cleaning",
                f"no row of {split} is left after {listed(steps)}. Found: {len(splits[split])} rows before",
                "Look at the data, or leave out the step that dropped them.",
            )
    return cleaned, reports


def clean_text(text: str, steps: Sequence[str]) -> str:
    """One new text after the steps that rewrite texts; the steps that drop rows have nothing to say about it."""
    for name in steps:
        text = TEXT_FUNCTIONS.get(name, str)(text)
    return text


def check_texts(splits: Mapping[str, Dataset]) -> None:
    """Raises DataError, naming the origins, when a text is empty: for recipes that leave out `drop_empty`."""
    origins = [rows[int(row)]["origin"] for rows in splits.values() for row in np.flatnonzero(_empty(rows))]
    if origins:
        raise DataError(
            str(origins[0]),
            f"the text is empty. Found: {len(origins)} such rows ({listed(origins, most=5)})",
            "Fill them in, or add drop_empty to cleaning.",
        )


def fixed_unicode(text: str) -> str:
    """The text with mojibake repaired (ftfy), in NFKC, without NUL, control, bidirectional and zero-width characters.

    The joiners U+200C and U+200D stay where a script or an emoji needs them. Line ends become line feeds.
    """
    if text.isascii() and not _CONTROL_ASCII.search(text):
        return text  # nothing below can change it, and most English rows end here
    # One repair can uncover another: mojibake under a compatibility form, say. Repeating makes the step idempotent.
    for _ in range(MOST_REPAIRS):
        repaired = ftfy.fix_text(_LINE_BREAKS.sub("\n", text), config=_FTFY)
        repaired = _INVISIBLE.sub("", unicodedata.normalize("NFKC", repaired))
        if repaired == text:
            break
        text = repaired
    return text


def normalized_whitespace(text: str) -> str:
    """One space for every run inside a line, no space at line ends, at most one empty line, trimmed ends.

    Line breaks stay: paragraphs and list items carry meaning.
    """
    lines = (" ".join(line.split()) for line in text.splitlines())
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip()


def visible(text: str, most_characters: int = 160) -> str:
    """The text for a report: shortened, with every character that does not show written as its escape."""
    shown = text if len(text) <= most_characters else text[: most_characters - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


MOST_REPAIRS = 10
_CONTROL_ASCII = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_LINE_BREAKS = re.compile("\r\n|[\r\x0b\x0c\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0001-\U000e007f]"
    # Persian, the Indic scripts, Mongolian and joined emoji are spelt with joiners; anywhere else they only hide.
    "|(?<![\u0600-\u109f\u1780-\u18af\u2190-\u2bff\ufb50-\ufdff\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
)
# Entities, quotes and terminal colours may be what the text is about; only damage is repaired.
_FTFY = ftfy.TextFixerConfig(
    unescape_html=False, remove_terminal_escapes=False, uncurl_quotes=False, normalization="NFKC", explain=False
)


def _fix_unicode(name: str, splits: Splits) -> tuple[Splits, StepReport]:
    rows_with_nul = sum("\x00" in (text or "") for rows in splits.values() for text in _values(rows, "text"))
    total = sum(map(len, splits.values()))
    if rows_with_nul > max(FEW_NUL_ROWS, MOST_NUL_SHARE * total):
        raise DataError(
            "cleaning.fix_unicode",
            f"NUL bytes in the text of {rows_with_nul} of {total} rows: this looks like a binary file",
            "Export it as UTF-8 text again.",
        )
    notes = [f"NUL bytes removed from {rows_with_nul} rows"] if rows_with_nul else []
    return _rewrite(name, splits, fixed_unicode, notes)


def _normalize_whitespace(name: str, splits: Splits) -> tuple[Splits, StepReport]:
    return _rewrite(name, splits, normalized_whitespace, [])


def _drop_empty(name: str, splits: Splits) -> tuple[Splits, StepReport]:
    empty = {split: _empty(rows) for split, rows in splits.items()}
    found, total = sum(int(mask.sum()) for mask in empty.values()), sum(map(len, splits.values()))
    if found > MOST_EMPTY_SHARE * total:
        raise DataError(
            "cleaning.drop_empty",
            f"{found} of {total} texts are empty, more than {MOST_EMPTY_SHARE:.0%}. "
            f"Found: {listed(_origins(splits, empty), most=5)}",
            "Is data.columns.text the right column? Fill the texts in, or remove these rows from the file.",
        )
    examples = [{"origin": origin, "before": "", "after": "dropped"} for origin in _origins(splits, empty)]
    notes = [f"{split}: {int(mask.sum())} empty texts dropped" for split, mask in empty.items() if mask.any()]
    return _without(name, splits, empty, examples[:EXAMPLES_SHOWN], notes)


def _drop_duplicates(name: str, splits: Splits) -> tuple[Splits, StepReport]:
    order = sorted(splits, key=lambda split: (_PRECEDENCE.get(split, len(_PRECEDENCE)), split))
    owner = np.repeat(np.arange(len(order)), [len(splits[split]) for split in order])
    family = families(text or "" for split in order for text in _values(splits[split], "text"))
    repeats = family != np.arange(len(family))
    starts = np.cumsum([0, *(len(splits[split]) for split in order)])
    notes = []
    for position, split in enumerate(order):
        of_split = repeats & (owner == position)
        for kept_in in range(position + 1):
            count = int((of_split & (owner[family] == kept_in)).sum())
            where = "an earlier row" if kept_in == position else f"a row of {order[kept_in]}"
            notes += [f"{split}: {count} rows repeat {where} and were removed"] if count else []

    def row(index: int) -> dict[str, Any]:
        return dict(splits[order[owner[index]]][int(index - starts[owner[index]])])

    examples = []
    for index in np.flatnonzero(repeats)[:EXAMPLES_SHOWN]:
        again, first = row(int(index)), row(int(family[index]))
        after = f"dropped: repeats {first['origin']}"
        examples.append({"origin": str(again["origin"]), "before": visible(str(again["text"])), "after": after})
    notes += _label_conflicts([splits[split] for split in order], family)
    dropped = {split: repeats[starts[i] : starts[i + 1]] for i, split in enumerate(order)}
    return _without(name, splits, dropped, examples, notes)


def _label_conflicts(parts: Sequence[Dataset], family: NDArray[np.int64]) -> list[str]:
    """A note when equal texts carry different labels: then at least one of them is wrong."""
    first_label: dict[int, object] = {}
    conflicts: dict[int, str] = {}
    repeated = set(family[family != np.arange(len(family))].tolist())
    columns = (zip(_values(rows, "label"), _values(rows, "origin"), strict=True) for rows in parts)
    for number, (label, origin) in zip(family.tolist(), chain.from_iterable(columns), strict=True):
        if number not in repeated or label is None:
            continue
        key = tuple(sorted(label)) if isinstance(label, list) else label
        if first_label.setdefault(number, key) != key:
            conflicts.setdefault(number, str(origin))
    if not conflicts:
        return []
    shown = listed(conflicts.values(), most=CONFLICTS_SHOWN)
    return [f"warning: {len(conflicts)} texts occur with different labels; the first label was kept (see {shown})"]


def _rewrite(name: str, splits: Splits, function: Callable[[str], str], notes: list[str]) -> tuple[Splits, StepReport]:
    """Applies a function from text to text to every row; null texts stay null."""
    changed = 0
    examples: list[dict[str, str]] = []

    def rewritten(batch: dict[str, list[Any]]) -> dict[str, list[str | None]]:
        nonlocal changed
        after = [None if text is None else function(text) for text in batch["text"]]
        for old, new, origin in zip(batch["text"], after, batch["origin"], strict=True):
            if old != new:
                changed += 1
                if len(examples) < EXAMPLES_SHOWN:
                    examples.append({"origin": str(origin), **_around_change(old, new or "")})
        return {"text": after}

    cleaned = {
        split: rows.map(
            rewritten,
            batched=True,
            batch_size=ROWS_AT_ONCE,
            # A cached result outlives an edit of the code or of a file; the counts need every row to pass by anyway.
            load_from_cache_file=False,
            new_fingerprint=_fingerprint(rows, name),
            desc=f"{name} ({split})",
        )
        for split, rows in splits.items()
    }
    total = sum(map(len, splits.values()))
    return cleaned, StepReport(name, changed, 0, total, total, examples, notes)


def _without(
    name: str,
    splits: Splits,
    dropped: Mapping[str, NDArray[np.bool_]],
    examples: list[dict[str, str]],
    notes: list[str],
) -> tuple[Splits, StepReport]:
    cleaned = {
        split: rows.select(np.flatnonzero(~dropped[split]), new_fingerprint=_fingerprint(rows, name))
        if dropped[split].any()
        else rows
        for split, rows in splits.items()
    }
    before, after = sum(map(len, splits.values())), sum(map(len, cleaned.values()))
    return cleaned, StepReport(name, 0, before - after, before, after, examples, notes)


def _around_change(before: str, after: str, context_characters: int = 20) -> dict[str, str]:
    """Both texts from shortly before their first difference, so that the example shows the change."""
    pairs = zip(before, after, strict=False)
    same = next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(before), len(after)))
    start = max(0, same - context_characters)
    lead = "…" if start else ""
    return {"before": lead + visible(before[start:]), "after": lead + visible(after[start:])}


def _empty(rows: Dataset) -> NDArray[np.bool_]:
    return np.array([not (text and text.strip()) for text in _values(rows, "text")], dtype=np.bool_)


def _values(rows: Dataset, column: str) -> Iterator[Any]:
    """A column read in batches: a large one never becomes one Python list."""
    for batch in rows.select_columns([column]).iter(batch_size=ROWS_AT_ONCE):
        yield from batch[column]


def _origins(splits: Splits, masks: Mapping[str, NDArray[np.bool_]]) -> list[str]:
    return [str(splits[split][int(row)]["origin"]) for split, mask in masks.items() for row in np.flatnonzero(mask)]


def _fingerprint(rows: Dataset, name: str) -> str:
    return str(Hasher.hash([rows._fingerprint, name, CLEANING_VERSION, ftfy.__version__]))


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """datasets' own bars on or off, and afterwards as they were."""
    were_hidden = datasets.are_progress_bars_disabled()
    (datasets.enable_progress_bars if shown else datasets.disable_progress_bars)()
    try:
        yield
    finally:
        (datasets.disable_progress_bars if were_hidden else datasets.enable_progress_bars)()


_PRECEDENCE = {"train": 0, "validation": 1, "test": 2}

# The steps that rewrite one text, for prediction.
TEXT_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "fix_unicode": fixed_unicode,
    "normalize_whitespace": normalized_whitespace,
}

STEPS: dict[str, Step] = {
    "fix_unicode": _fix_unicode,
    "normalize_whitespace": _normalize_whitespace,
    "drop_empty": _drop_empty,
    "drop_duplicates": _drop_duplicates,
}
