"""Looks at a table, a text file or a folder of texts and guesses what could be written from it, and in which form.

Like guess.py it finds a starting point for `finetune init` and no setting of a run: names of columns, and whether
their values look like it, and what was found is shown with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.data.examples import ColumnMap
from finetune.data.guess import ColumnFacts, Guess, is_label_name, languages_of, named_like
from finetune.data.row_streams import values
from finetune.data.sources import load_examples
from finetune.data.tables import format_of
from finetune.data.text_folders import holds_texts, is_text, split_folders
from finetune.errors import DataError, Problem, listed
from finetune.recipe_data import Form

WritingTask = Literal["text-generation", "seq2seq"]

SEQ2SEQ_PAIRS = (
    ("source", "target"), ("src", "tgt"), ("article", "summary"), ("article", "highlights"), ("document", "summary"),
    ("text", "summary"), ("dialogue", "summary"), ("body", "headline"), ("text", "translation"),
    ("original", "translation"), ("原文", "译文"), ("原文", "摘要"), ("正文", "摘要"),
)  # fmt: skip
PROMPT_PAIRS = (
    ("prompt", "completion"), ("prompt", "response"), ("prompt", "answer"), ("instruction", "output"),
    ("instruction", "response"), ("question", "answer"), ("query", "answer"), ("query", "response"),
    ("input", "output"), ("问题", "答案"), ("问题", "回答"), ("指令", "输出"),
)  # fmt: skip
# ISO 639-1 codes and names of languages that translations are found in.
LANGUAGE_NAMES = {
    *("en", "de", "fr", "es", "it", "pt", "nl", "ru", "zh", "ja", "ko", "ar", "tr", "pl", "cs", "ro", "fi", "sv", "hi"),
    *("english", "german", "french", "spanish", "italian", "portuguese", "dutch", "russian", "chinese", "japanese"),
    *("korean", "中文", "英文", "日文"),
}
SAMPLED_TEXTS = 200
SAMPLED_CHARACTERS = 400


@dataclass(frozen=True)
class FormGuess:
    """Which task and form of examples a table suggests: the column that is read, the one that is written, and why."""

    task: WritingTask
    form: Form
    text: str
    target: str | None
    why: str


@dataclass(frozen=True)
class TextsFacts:
    """A .txt file, or a folder of them. `documents` counts files; `splits` are named where the folder brings them."""

    path: Path
    documents: int
    characters: int
    median_characters: int
    p95_characters: int
    splits: tuple[str, ...]
    sample: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def languages(self) -> dict[str, float]:
        return languages_of(self.sample)


def guess_form(guess: Guess, *, task: WritingTask | None = None) -> FormGuess | None:
    """What could be learnt to be written from a table; None where its labels say more, or nothing fits.

    With a `task` labels do not count. Names decide: of chats, of pairs of columns; a table with one column of text
    and no label is plain text.
    """
    pair = _pair(guess, task) if task != "seq2seq" or _pair(guess, task) is not None else _two_texts(guess)
    chat = next((column for column in guess.columns if column.kind == "chat"), None)
    labelled = task is None and guess.label is not None and is_label_name(guess.label)
    if chat is not None and task != "seq2seq" and not labelled:
        return FormGuess("text-generation", "chat", chat.name, None, "its values are lists of {role, content}")
    if pair is not None and not (labelled and guess.label not in (pair.text, pair.target)):
        return pair
    if task is None and guess.label is not None:
        return None
    texts = _texts(guess)
    if task != "seq2seq" and guess.text is not None and (task is not None or len(texts) == 1):
        why = f"{guess.text} is the only column of text" if len(texts) == 1 else f"{guess.text} has most of the text"
        return FormGuess("text-generation", "text", guess.text, None, why)
    return None


def nothing_to_write(guess: Guess, task: WritingTask) -> Problem:
    """What to say where `guess_form` finds nothing for a task."""
    found = listed(f"{column.name} ({column.kind})" for column in guess.columns)
    if task == "seq2seq":
        what, do = "no two columns look like source and target", "Name them with --text COLUMN and --label COLUMN."
    else:
        what, do = "no column looks like text, prompts and completions, or chats", "Name it with --text COLUMN."
    return Problem(guess.path.name, f"{what}. Found: {found}", do)


def is_plain_text(path: Path, *, task: str | None) -> bool:
    """Whether this is a text file, or a folder of them that are no classes.

    Raises DataError for a folder of texts by class, unless the task is to write such texts.
    """
    if path.is_file():
        return is_text(path)
    if not path.is_dir() or not holds_texts(path) or _holds_tables(path):
        return False
    if task != "text-generation" and _has_classes(path):
        do = f"It needs no recipe: finetune train {path}. To learn to write such texts: --task text-generation."
        raise DataError(str(path), "is a folder of texts by class", do)
    return True


def look_at_texts(path: Path) -> TextsFacts:
    """Raises DataError for what training would refuse."""
    columns = ColumnMap(text="text", form="text")
    base = path.absolute().parent
    read = load_examples(path.absolute().name, columns=columns, base=base, most_characters=None)
    lengths = np.array([len(text or "") for rows in read.splits.values() for text in values(rows, "text")])
    first = (text for rows in read.splits.values() for text in values(rows, "text") if text)
    median, p95 = np.percentile(lengths, (50, 95), method="higher").tolist()
    splits = tuple(read.splits) if len(read.splits) > 1 else ()
    sample = tuple(text[:SAMPLED_CHARACTERS] for text in islice(first, SAMPLED_TEXTS))
    notes = (*read.notes, *read.warnings)
    return TextsFacts(path, len(lengths), int(lengths.sum()), int(median), int(p95), splits, sample, notes)


def _pair(guess: Guess, task: WritingTask | None) -> FormGuess | None:
    """Two columns whose names belong together."""
    texts = _texts(guess)
    kinds: list[tuple[WritingTask, tuple[tuple[str, str], ...]]] = [
        ("seq2seq", SEQ2SEQ_PAIRS), ("text-generation", PROMPT_PAIRS),
    ]  # fmt: skip
    for usual, pairs in kinds:
        for names in pairs:
            found = [next((one for one in texts if named_like(one.name, {name})), None) for name in names]
            if found[0] is not None and found[1] is not None and found[0] is not found[1]:
                return _as_pair(
                    found[0], found[1], task or usual, f"there are columns named like {' and '.join(names)}"
                )
    languages = [column for column in texts if column.name.lower() in LANGUAGE_NAMES]
    if len(languages) == 2:
        return _as_pair(languages[0], languages[1], task or "seq2seq", "two columns are named by languages")
    return None


def _two_texts(guess: Guess) -> FormGuess | None:
    texts = _texts(guess)
    if len(texts) != 2:
        return None
    return _as_pair(texts[0], texts[1], "seq2seq", "there are two columns of text, taken in their order")


def _as_pair(read: ColumnFacts, written: ColumnFacts, task: WritingTask, why: str) -> FormGuess:
    return FormGuess(task, "seq2seq" if task == "seq2seq" else "pairs", read.name, written.name, why)


def _texts(guess: Guess) -> list[ColumnFacts]:
    """Columns of words that say something else in many rows."""
    return [each for each in guess.columns if each.kind == "text" and each.distinct >= max(2, 0.2 * each.filled)]


def _holds_tables(folder: Path) -> bool:
    below: Iterable[Path] = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return any(format_of(path) for path in below)


def _has_classes(folder: Path) -> bool:
    """Whether the texts lie in sub-folders, several of them, that are no splits; or in such below every split."""
    if any(is_text(each) for each in folder.iterdir()):
        return False
    splits = split_folders(folder, name=folder.name, labelled=False)
    if splits:
        return all(_has_classes(each) for each in splits.values())
    return sum(holds_texts(each) for each in folder.iterdir() if each.is_dir()) > 1
