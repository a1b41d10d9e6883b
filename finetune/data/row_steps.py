"""Cleaning steps that look at whole rows: they drop some, or fill in what is missing.

Those about rows that say the same are in repeats.py.

Which rows go is a numpy mask, found by streaming Arrow batches; a column of texts never becomes a Python list.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import datasets
import py3langid
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from finetune.cleaning_steps import CleaningStep
from finetune.data.repeats import drop_conflicts, drop_duplicates
from finetune.data.row_outcomes import Outcome, RowStep, count_of, origins_of, without_rows
from finetune.data.row_streams import Setting, Splits, mapped, mask_of, values
from finetune.data.store import code_version
from finetune.data.text_steps import visible
from finetune.data.written_examples import KEYS
from finetune.data.written_rows import empty_part, empty_rows, judged_column
from finetune.errors import DataError, did_you_mean, listed

MOST_EMPTY_SHARE = 0.05
# A language is told by its letters: 20 Latin ones, or 7 Chinese characters, which take three bytes each.
FEWEST_LETTER_BYTES = 20
CHARACTERS_READ_FOR_LANGUAGE = 1000
UNDECIDED = "?"


def fill_missing(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """A missing text, or one of nothing but white space, which is how a table writes it, becomes the step's value."""
    missing = {split: empty_rows(rows, setting.form) for split, rows in splits.items()}
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
        for origin in origins_of(splits, missing, most=setting.examples)
    ]
    return Outcome(filled, changed=count_of(missing), examples=examples)


def drop_missing(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Rows without a text (or with nothing but white space) or without a label, or what else is learnt, go."""
    masks = {split: empty_rows(rows, setting.form) for split, rows in splits.items()}
    if setting.form is not None:
        what = "rows without a text or a target"
        return without_rows(splits, masks, setting=setting, what=what, reason=partial(_lacks, setting=setting))
    masks = {split: mask | mask_of(splits[split], "label", pc.is_null) for split, mask in masks.items()}
    return without_rows(
        splits, masks, setting=setting, what="rows without a text or a label",
        reason=lambda row: "no label" if row["text"] and row["text"].strip() else "no text",
    )  # fmt: skip


def drop_empty(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Rows whose text or target is missing or white space go. Raises DataError when they are more than 5 % of all rows.

    A prompt may be empty.
    """
    masks = {split: empty_rows(rows, setting.form) for split, rows in splits.items()}
    found, total = count_of(masks), sum(map(len, splits.values()))
    if found > MOST_EMPTY_SHARE * total:
        raise DataError(
            "cleaning.drop_empty",
            f"{found} of {total} texts are empty, more than {MOST_EMPTY_SHARE:.0%}. "
            f"Found: {', '.join(origins_of(splits, masks, most=5))}{f' and {found - 5} more' if found > 5 else ''}",
            f"Is {_keys(setting)} the right column? Fill the texts in, or remove these rows from the file.",
        )
    reason = (lambda row: "empty") if setting.form is None else partial(_lacks, setting=setting)
    return without_rows(splits, masks, setting=setting, what="empty texts", reason=reason)


def drop_short(splits: Splits, step: CleaningStep, setting: Setting) -> Outcome:
    """Texts of fewer characters than the step's number go; a missing text is not short.

    Of what is to be written, this and the two steps below look at the target, where there is one.
    """
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
    outcome = without_rows(
        splits, masks, setting=setting, what=f"texts not in {' or '.join(wanted)}",
        reason=lambda row: f"language {language_of(str(row[judged_column(setting.form)]))}",
    )  # fmt: skip
    return Outcome(outcome.splits, examples=outcome.examples, notes=[*outcome.notes, *notes])


def language_of(text: str) -> str:
    """The two-letter code of the text's language (py3langid), or `?` when it has too few letters to tell."""
    read = text[:CHARACTERS_READ_FOR_LANGUAGE]
    if len("".join(_LETTERS.findall(read)).encode("utf-8", "surrogatepass")) < FEWEST_LETTER_BYTES:
        return UNDECIDED
    return str(_identifier().classify(read)[0])


def _outside_length(
    splits: Splits, setting: Setting, *, what: str, shortest: int = 0, longest: int | None = None
) -> Outcome:
    def is_outside(texts: pa.ChunkedArray) -> pa.ChunkedArray:
        length = pc.utf8_length(texts)
        outside = pc.less(length, shortest) if longest is None else pc.greater(length, longest)
        return pc.fill_null(outside, False)

    column = judged_column(setting.form)
    masks = {split: mask_of(rows, column, is_outside) for split, rows in splits.items()}
    return without_rows(splits, masks, setting=setting, what=what, reason=lambda row: f"{len(row[column])} characters")


def _keys(setting: Setting) -> str:
    """`data.columns.source or data.columns.target`."""
    keys = KEYS[setting.form] if setting.form is not None else ("text",)
    return " or ".join(f"data.columns.{key}" for key in keys if key)


def _lacks(row: Mapping[str, Any], *, setting: Setting) -> str:
    return f"no {empty_part(row, setting.form)}"


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
        reads=[judged_column(setting.form)],
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
