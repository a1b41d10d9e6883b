"""Cleaning: named steps over the rows of every split, each of which counts what it changed and what it dropped.

A step is idempotent, and so is a chain of them. Steps that rewrite one text are in text_steps.py, steps that drop or
fill rows in row_steps.py, and a user's own in own_functions.py; here they are run, counted and shown.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from finetune.cleaning_steps import CleaningStep
from finetune.data.examples import FEW_NUL_ROWS, MOST_NUL_SHARE
from finetune.data.own_functions import FunctionFailed, load_own_function, own_function_folders
from finetune.data.row_steps import ROW_STEPS
from finetune.data.row_streams import Setting, Splits, batches, mapped, progress_bars, values
from finetune.data.store import code_version, fingerprint
from finetune.data.text_steps import TEXT_STEPS, TextStep, visible
from finetune.data.written_examples import KEYS, in_messages
from finetune.data.written_rows import empty_part, empty_rows
from finetune.errors import DataError, RecipeError, listed
from finetune.recipe_data import Form

STEPS_THAT_REMOVE_NUL = ("fix_unicode", "strip_control")
MOST_ROUNDS = 10
MOST_STEPS_A_PASS = 60  # each has a bit of an int64
ROWS_TRIED_TWICE = 1000
BITS = "cleaning_bits"


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


def clean(
    splits: Mapping[str, Dataset], steps: Sequence[CleaningStep], *, base: Path,
    num_proc: int = 1, progress: bool = False, examples: int = 3, form: Form | None = None,
) -> tuple[Splits, list[StepReport]]:  # fmt: skip
    """The splits after these steps, in this order, and one report a step with up to `examples` examples.

    Every dataset has the columns id, text (text or null), label, group, origin; with a `form`, target too, and text
    steps go over both, in chats over the content of every message. `base` is the folder of the recipe,
    where the files of own functions are. Neighbouring text steps make one pass over the rows, which the cache
    remembers for rows on disk; an own function is called every time, because nobody knows what it reads, and what
    follows it goes by the texts it gave.
    `progress` shows datasets' own bars.

    Raises DataError for a split with nothing left, for more than 5 % empty texts, for NUL bytes in more than 0.1 % of
    the rows, and when an own function fails; RecipeError when it cannot be loaded, and for a step that `check_steps`
    refuses.
    """
    check_steps(steps, form)
    cleaned: Splits = dict(splits)
    reports: list[StepReport] = []
    with progress_bars(progress):
        for group in _passes(steps):
            cached = not any(step.is_own for step in group)
            setting = Setting(examples=examples, num_proc=num_proc, cached=cached, form=form)
            if group[0].name in ROW_STEPS:
                cleaned, report = _row_step(cleaned, group[0], setting)
                reports.append(report)
            else:
                cleaned, told = _text_pass(cleaned, group, setting, folders=own_function_folders(base))
                reports += told
    for split, rows in cleaned.items():
        if not len(rows):
            raise DataError(
                "cleaning",
                f"no row of {split} is left after {listed(map(_shown, steps))}. "
                f"Found: {len(splits[split])} rows before",
                "Look at the data, or leave out the step that dropped them.",
            )
    return cleaned, reports


def check_steps(steps: Sequence[CleaningStep], form: Form | None) -> None:
    """Raises RecipeError for steps that make no sense of text to write; `form` is None for labelled documents."""
    told = {
        "drop_conflicts": ("is about labels, and these rows have none", "Leave it out."),
        "fill_missing": ("would teach the text it puts in", "Use drop_empty, which leaves such rows out."),
    }
    for step in (each for each in steps if form is not None and each.name in told):
        what, do = told[step.name]
        raise RecipeError(f"cleaning.{step.name}", what, do)


def clean_text(
    text: str, steps: Sequence[CleaningStep], *, folders: Sequence[Path] = (), form: Form | None = None
) -> str:
    """One new text after the steps that rewrite texts; the steps that drop or fill rows have nothing to say about it.

    Of a chat, `text` is the JSON of its messages. `folders` are where the files of own functions are. Raises
    RecipeError and DataError as `clean` does.
    """
    try:
        for group in _passes([step for step in steps if step.name not in ROW_STEPS]):
            text, _ = _Pass.load(group, folders, chats=form == "chat").rewrite(text)
    except FunctionFailed as failure:
        raise failure.as_error() from failure
    return text


def check_texts(splits: Mapping[str, Dataset], form: Form | None = None) -> None:
    """Raises DataError, naming the origins, when a text or target is empty: for recipes without `drop_empty`."""
    empty = {split: np.flatnonzero(empty_rows(rows, form)) for split, rows in splits.items()}
    found = sum(map(len, empty.values()))
    if found:
        part = next(empty_part(splits[split][int(rows[0])], form) for split, rows in empty.items() if len(rows))
        origins = [str(splits[split][int(row)]["origin"]) for split, rows in empty.items() for row in rows[:5]]
        shown = listed(origins[:5]) + (f" and {found - 5} more" if found > 5 else "")
        raise DataError(
            origins[0],
            f"the {'chat' if part == KEYS['chat'][0] else part} is empty. Found: {found} such rows ({shown})",
            "Fill them in, or add drop_empty to cleaning.",
        )


@dataclass(frozen=True)
class _Rewriting:
    """Neighbouring text steps as one function over batches of rows, which other processes can receive.

    Step k sets bit k of a row it changed; the bit after the last says that one of its texts had a NUL byte.
    """

    passes: dict[str, _Pass]  # by column

    @classmethod
    def load(cls, steps: Sequence[CleaningStep], folders: Sequence[Path], *, form: Form | None) -> _Rewriting:
        """Raises RecipeError when an own function cannot be loaded."""
        passes = {"text": _Pass.load(steps, folders, chats=form == "chat")}
        if form is not None:
            passes["target"] = _Pass.load(steps, folders)
        return cls(passes)

    def __call__(self, *columns: list[Any]) -> dict[str, list[Any]]:
        *texts, origins = columns
        rewritten: dict[str, list[Any]] = {}
        bits = [0] * len(origins)
        for (name, function), column in zip(self.passes.items(), texts, strict=True):
            after, changed = function.over(column, origins)
            rewritten[name] = after
            bits = [one | other for one, other in zip(bits, changed, strict=True)]
        return {**rewritten, BITS: bits}

    def example(self, row: Mapping[str, Any], step: int) -> dict[str, str]:
        """What one step did to a row, worked out again from its texts before the pass."""
        for name, function in self.passes.items():
            before = str(row[name] or "")
            for changed_by, after in function.changes(before):
                if changed_by == step:
                    return {"origin": str(row["origin"]), **_around_change(before, after)}
                before = after
        # An own function can answer differently the second time.
        shown = {"before": visible(str(row["text"])), "after": "changed differently at a second call"}
        return {"origin": str(row["origin"]), **shown}


@dataclass(frozen=True)
class _Pass:
    """Neighbouring text steps over one column."""

    functions: tuple[TextStep, ...]
    rounds: int

    @classmethod
    def load(cls, steps: Sequence[CleaningStep], folders: Sequence[Path], *, chats: bool = False) -> _Pass:
        """Raises RecipeError when an own function cannot be loaded."""
        functions = [load_own_function(step.name, folders) if step.is_own else TEXT_STEPS[step.name] for step in steps]
        if chats:
            functions = [partial(in_messages, function) for function in functions]
        # One step can undo another's work (what is left of punctuation may be a tag), so a chain is repeated until
        # nothing changes. An own function is called once: nobody promised that it may be called again.
        return cls(tuple(functions), rounds=1 if any(step.is_own for step in steps) else MOST_ROUNDS)

    def over(self, texts: list[str | None], origins: list[str]) -> tuple[list[str | None], list[int]]:
        """The texts after all steps, and the bits of each."""
        after: list[str | None] = []
        bits = []
        for text, origin in zip(texts, origins, strict=True):
            bit = 0
            if text is not None:
                bit = ("\x00" in text) << len(self.functions)
                try:
                    text, changed_by = self.rewrite(text)
                except FunctionFailed as failure:
                    raise failure.of_row(str(origin)) from None
                bit |= changed_by
            after.append(text)
            bits.append(bit)
        return after, bits

    def rewrite(self, text: str) -> tuple[str, int]:
        """The text after all steps, and the bits of those that changed it. Raises FunctionFailed."""
        bits = 0
        for step, after in self.changes(text):
            text, bits = after, bits | 1 << step
        return text, bits

    def changes(self, text: str) -> Iterator[tuple[int, str]]:
        """Each step that changes the text, by its position, with the text after it."""
        for _ in range(self.rounds):
            before = text
            for step, function in enumerate(self.functions):
                after = function(text)
                if after != text:
                    text = after
                    yield step, text
            if text == before:
                return


def _text_pass(
    splits: Splits, steps: Sequence[CleaningStep], setting: Setting, *, folders: Sequence[Path]
) -> tuple[Splits, list[StepReport]]:
    function = _Rewriting.load(steps, folders, form=setting.form)
    try:
        rewritten = {split: _rewritten(rows, split, steps, function, setting) for split, rows in splits.items()}
        own = {k: step.name for k, step in enumerate(steps) if step.is_own}
        twice = {k: _twice(splits, function.passes["text"], k, name=name) for k, name in own.items()}
    except FunctionFailed as failure:
        raise failure.as_error() from failure
    bits = {split: _bits(rows) for split, rows in rewritten.items()}
    total = sum(map(len, splits.values()))
    reports = []
    for k, step in enumerate(steps):
        examples = [function.example(splits[split][row], k) for split, row in _first(bits, k, setting.examples)]
        notes = [note] if (note := twice.get(k)) else []
        if step.name in STEPS_THAT_REMOVE_NUL and not any(s.name in STEPS_THAT_REMOVE_NUL for s in steps[:k]):
            notes += _nul_notes(step, rows=_having(bits, len(steps)), total=total)
        reports.append(StepReport(_shown(step), _having(bits, k), 0, total, total, examples, notes))
    # Rows that nothing changed stay what they are, with their fingerprint and their file.
    cleaned = {
        split: rewritten[split].remove_columns(BITS, new_fingerprint=_made_of(rows, rewritten[split], setting))
        if bits[split].any()
        else rows
        for split, rows in splits.items()
    }
    return cleaned, reports


def _made_of(rows: Dataset, rewritten: Dataset, setting: Setting) -> str:
    """The fingerprint of the rewritten rows: by what made them, or, where nobody knows that, by their texts."""
    if setting.cached:
        return fingerprint(rewritten._fingerprint, "text")
    digest = hashlib.sha256()
    for column in (each for each in ("text", "target") if each in rewritten.column_names):
        for text in values(rewritten, column):
            digest.update(repr(text).encode("utf-8", "surrogatepass"))
    return fingerprint(rows._fingerprint, "text", digest.hexdigest())


def _rewritten(
    rows: Dataset, split: str, steps: Sequence[CleaningStep], function: _Rewriting, setting: Setting
) -> Dataset:
    """The rows with their new texts and the column of bits."""
    features = rows.features.copy()
    features[BITS] = datasets.Value("int64")
    return mapped(
        rows,
        function,
        name=f"{listed(map(_shown, steps))} ({split})",
        version=[[step.name for step in steps], setting.form, *_code_version()],
        reads=[*function.passes, "origin"],
        features=features,
        setting=setting,
    )


@cache
def _code_version() -> tuple[str, ...]:
    """What decides a text step's result beside the text: the code, and the libraries and tables it stands on."""
    libraries = (f"{name} {version(name)}" for name in ("ftfy", "OpenCC"))
    code = code_version("cleaning.py", "row_streams.py", "text_steps.py", "written_examples.py", "written_rows.py")
    return (code, *libraries, unicodedata.unidata_version)


def _row_step(splits: Splits, step: CleaningStep, setting: Setting) -> tuple[Splits, StepReport]:
    outcome = ROW_STEPS[step.name](splits, step, setting)
    before, after = sum(map(len, splits.values())), sum(map(len, outcome.splits.values()))
    return outcome.splits, StepReport(
        _shown(step), outcome.changed, before - after, before, after, outcome.examples, outcome.notes
    )


def _nul_notes(step: CleaningStep, *, rows: int, total: int) -> list[str]:
    if rows > max(FEW_NUL_ROWS, MOST_NUL_SHARE * total):
        raise DataError(
            f"cleaning.{step.name}",
            f"NUL bytes in the text of {rows} of {total} rows: this looks like a binary file",
            "Export it as UTF-8 text again.",
        )
    return [f"NUL bytes removed from {rows} rows"] if rows else []


def _twice(splits: Splits, function: _Pass, step: int, *, name: str) -> str | None:
    """A warning when an own function changes again what it has changed, tried on the first rows."""
    own, before = function.functions[step], _Pass(function.functions[:step], rounds=1)
    texts = (text for rows in splits.values() for text in rows.select(range(min(len(rows), ROWS_TRIED_TWICE)))["text"])
    tried = differing = 0
    for text in islice(filter(None, texts), ROWS_TRIED_TWICE):
        once = own(before.rewrite(text)[0])
        try:
            differing += own(once) != once
        except FunctionFailed:
            differing += 1
        tried += 1
    if not differing:
        return None
    return f"warning: {name}: applied twice, it changes {differing} of the first {tried} texts again"


def _bits(rows: Dataset) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(batch.to_numpy() for batch in batches(rows, BITS))])


def _having(bits: Mapping[str, NDArray[np.int64]], bit: int) -> int:
    return sum(int((each >> bit & 1).sum()) for each in bits.values())


def _first(bits: Mapping[str, NDArray[np.int64]], bit: int, most: int) -> list[tuple[str, int]]:
    """The first rows with the bit, as (split, row)."""
    every = chain.from_iterable(
        ((split, int(row)) for row in np.flatnonzero(each >> bit & 1)[:most]) for split, each in bits.items()
    )
    return list(islice(every, most))


def _around_change(before: str, after: str, context_characters: int = 20) -> dict[str, str]:
    """Both texts from shortly before their first difference, so that the example shows the change."""
    pairs = zip(before, after, strict=False)
    same = next((i for i, (old, new) in enumerate(pairs) if old != new), min(len(before), len(after)))
    start = max(0, same - context_characters)
    lead = "…" if start else ""
    return {"before": lead + visible(before[start:]), "after": lead + visible(after[start:])}


def _passes(steps: Sequence[CleaningStep]) -> Iterator[list[CleaningStep]]:
    """Neighbouring text steps together, every row step alone."""
    group: list[CleaningStep] = []
    for step in steps:
        if group and (step.name in ROW_STEPS or len(group) == MOST_STEPS_A_PASS):
            yield group
            group = []
        if step.name in ROW_STEPS:
            yield [step]
        else:
            group.append(step)
    if group:
        yield group


def _shown(step: CleaningStep) -> str:
    """`drop_short: 20`, as the recipe writes it."""
    argument = listed(step.argument) if isinstance(step.argument, list) else step.argument
    return step.name if argument is None else f"{step.name}: {argument}"


STEPS: dict[str, Callable[..., Any]] = {**TEXT_STEPS, **ROW_STEPS}
