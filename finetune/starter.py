"""A first recipe for a table: what `finetune init` asks, and the commented recipe that it writes.

Every line of the recipe says why it stands there, in figures found in the table, so that changing it is a decision
and not a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from finetune.data.guess import (
    FEWEST_ROWS_OF_A_CLASS,
    ColumnFacts,
    Guess,
    cautions,
    is_named_like_a_group,
)
from finetune.errors import DataError, Problem, listed
from finetune.progress import write
from finetune.recipe import TaskName
from finetune.recipe_lines import (
    UNSPACED,
    as_comment,
    frequent_languages,
    scalar,
    shown,
    source_line,
    tokens_of,
    told_languages,
    window_for,
)

NONE = "-"  # the answer for no group
IMBALANCE = 2.0  # rows of the most frequent class for one of the rarest


@dataclass(frozen=True)
class Choices:
    """What the recipe will be about. `group` and `id` may be none."""

    task: TaskName
    text: str
    label: str
    group: str | None = None
    id: str | None = None


def ask(guess: Guess, flags: Mapping[str, str | None], stdin: TextIO, stderr: TextIO, *, yes: bool = False) -> Choices:
    """A choice for each column: the flag (`text`, `label`, `group`), else an answer, else the guess.

    Questions are asked where stdin is a terminal, unless `yes`; elsewhere the guesses are taken and said.
    Raises DataError when nothing fits and nobody says what to take, or a named column is not there.
    """
    asking = stdin.isatty() and not yes
    if asking:
        for line in (*describe(guess), *map(str, guess.problems)):
            write(stderr, line)
    elif left := [problem for problem, role in _problems(guess) if not flags.get(role)]:
        raise DataError.of(left)
    group = next((name for name in guess.groups if is_named_like_a_group(name)), None)
    answers: dict[str, str | None] = {}
    for role, guessed in (("text", guess.text), ("label", guess.label), ("group", group)):
        taken = [answer for answer in answers.values() if answer]
        default = None if guessed in taken else guessed
        named = flags.get(role)
        if named is None and asking:
            answers[role] = _answer(guess, role, default=default, taken=taken, stdin=stdin, stderr=stderr)
        else:
            answers[role] = _checked(guess, role, named or default, taken=taken)
    text, label = answers["text"], answers["label"]
    assert text is not None and label is not None
    unused = [name for name in guess.ids if name not in answers.values()]
    choices = Choices("text-classification", text, label, answers["group"], unused[0] if unused else None)
    if not asking:
        write(stderr, _taken(guess, choices))
    return choices


def describe(guess: Guess) -> list[str]:
    """The table in a few lines: rows, and for each column what it holds."""
    lines = [f"{guess.path.name}: {_rows(guess)}, {len(guess.columns)} columns", *guess.notes]
    for column in guess.columns:
        example = f", for example {shown(column.sample[0], 40)}" if column.sample else ""
        lines.append(f"  {shown(column.name)}: {column.kind}, {column.distinct:,} different values{example}")
    return lines


def write_recipe(guess: Guess, path: Path, *, choices: Choices) -> str:
    """The text of a commented recipe that stands at `path` (where its relative data source starts)."""
    text, label = guess.column(choices.text), guess.column(choices.label)
    parts = [
        _head(guess, path, text=text, label=label),
        f"task: {choices.task}\n",
        _model(text),
        _data(guess, path, choices=choices, text=text, label=label),
        "cleaning: [fix_unicode, normalize_whitespace, drop_empty, drop_duplicates]  # in this order, each counted\n",
        _windows(text),
        _training(guess, text=text, label=label),
        "seed: 13  # of the split, the order and new weights: the same recipe gives the same numbers\n",
    ]
    return "\n".join(parts)


def _problems(guess: Guess) -> list[tuple[Problem, str]]:
    """Each problem of the guess with the role, and flag, that would solve it."""
    missing = [role for role, found in (("text", guess.text), ("label", guess.label)) if found is None]
    return list(zip(guess.problems, missing, strict=True))


def _answer(
    guess: Guess, role: str, *, default: str | None, taken: list[str], stdin: TextIO, stderr: TextIO
) -> str | None:
    """Ask until the answer is a column; Enter, or the end of the input, takes the guess."""
    offered = default or (NONE if role == "group" else "")
    more = f" ({NONE} for none)" if role == "group" else ""
    while True:
        stderr.write(f"{role} column{more}{f' [{shown(offered)}]' if offered else ''}: ")
        stderr.flush()
        line = stdin.readline()
        try:
            return _checked(guess, role, line.strip() or default, taken=taken)
        except DataError as error:
            if not line:
                raise
            write(stderr, str(error))


def _checked(guess: Guess, role: str, name: str | None, *, taken: list[str]) -> str | None:
    """The column of this name, or none for no group. Raises DataError."""
    if role == "group" and name in (None, NONE):
        return None
    if name is None:
        if problem := next((problem for problem, missing in _problems(guess) if missing == role), None):
            raise DataError.of([problem])
        what = f"is not named, and the guess is taken already ({listed(taken)})"
        raise DataError(guess.path.name, f"the {role} column {what}", f"Name it with --{role} COLUMN.")
    if name in taken:
        raise DataError(f"--{role}", f"column '{name}' is already in use", "Name another column.")
    return guess.column(name).name


def _taken(guess: Guess, choices: Choices) -> str:
    columns = f"text is {shown(choices.text)}, label is {shown(choices.label)}"
    group = f"group is {shown(choices.group)}" if choices.group else "no group"
    name = guess.path.name
    return f"{name}: {_rows(guess)}; {columns}, {group}. Others are named with --text, --label and --group."


def _head(guess: Guess, path: Path, *, text: ColumnFacts, label: ColumnFacts) -> str:
    lines = [
        f"Which {shown(label.name)} does a {shown(text.name)} have?   finetune train {shown(path.name)}",
        "",
        f"Written by finetune init after a look at {shown(guess.path.name)}: {_rows(guess)}. Every line is a",
        "proposal; finetune check says whether they fit together.",
        *(f"Look at this first: {shown(each, 300)}." for each in cautions(guess, text=text.name, label=label.name)),
    ]
    return as_comment(lines)


def _model(text: ColumnFacts) -> str:
    """A pretrained model for the language, and the block that needs no download."""
    choice = _model_for(text)
    tokenizer = "characters" if UNSPACED & set(frequent_languages(text.languages)) else "wordpiece"
    return (
        f"model: {{name: {choice.name}}}  # {choice.why}\n"
        f"# {choice.instead}\n"
        "# Without any download, and usually worse: replace the line above by these, and learning_rate by 5.0e-4.\n"
        "# model:\n"
        f"#   from_scratch: {{tokenizer: {tokenizer}, vocab_size: 4000, hidden_size: 192, num_hidden_layers: 2,\n"
        "#     num_attention_heads: 4, intermediate_size: 768, max_position_embeddings: 512}\n"
    )


def _data(guess: Guess, path: Path, *, choices: Choices, text: ColumnFacts, label: ColumnFacts) -> str:
    lines = [
        "data:",
        source_line(guess.path, path),
        "  columns:",
        f"    text: {scalar(text.name)}  # {text.distinct:,} different texts, half of them up to "
        f"{text.median_characters:,} characters, 95 of 100 up to {text.p95_characters:,}",
        f"    label: {scalar(label.name)}  # {_classes(label)}",
    ]
    if choices.group:
        group = guess.column(choices.group)
        why = f"{group.distinct:,} different values: rows of one value stay in one split, or the score flatters"
        lines.append(f"    group: {scalar(group.name)}  # {why}")
    for name in [name for name in guess.groups if name != choices.group][:3]:
        why = f"{guess.column(name).distinct:,} different values: instead, if rows of one belong together"
        lines.append(f"    # group: {scalar(name)}  # {why}")
    if choices.id:
        lines.append(f"    id: {scalar(choices.id)}  # different in every row; names rows in predictions and reports")
    if label.kind == "list":
        lines.append("  multi_label: true  # a row has a list of labels")
    return "\n".join([*lines, f"  split: {_split(guess, label)}", ""])


def _split(guess: Guess, label: ColumnFacts) -> str:
    shares = "train: 0.70, validation: 0.15, test: 0.15"
    rarest = min(label.counts.values(), default=0)
    if label.counts and rarest < FEWEST_ROWS_OF_A_CLASS and guess.is_whole:
        return f"{{{shares}, stratify: false}}  # the rarest class has {rarest} rows: too few for every split"
    rows = [f"{round(share * guess.rows):,}" for share in (0.70, 0.15, 0.15)]
    more = "" if guess.is_whole else " of the first rows"
    return f"{{{shares}, stratify: true}}  # about {' / '.join(rows)} rows{more}, each with the same mix of labels"


def _windows(text: ColumnFacts) -> str:
    """The smallest window that holds most documents whole; a longer document becomes several."""
    tokens = tokens_of(text.p95_characters, frequent_languages(text.languages))
    size, whole = window_for(tokens)
    fits = "most fit whole" if whole else "the longer ones become overlapping windows"
    why = f"95 of 100 documents have up to about {tokens:,} tokens: {fits}"
    return f"windows: {{max_tokens: {size}, stride: {size // 4}}}  # {why}\n"


def _training(guess: Guess, *, text: ColumnFacts, label: ColumnFacts) -> str:
    rows = guess.rows if guess.is_whole else 10 * guess.rows
    epochs = next((epochs for most, epochs in EPOCHS_FOR_ROWS if rows < most), 1)
    batch = 8 if rows < 1_000 else 32
    counts = list(label.counts.values()) or [1]
    ratio = max(counts) / max(1, min(counts))
    weights = "balanced" if ratio >= IMBALANCE else "none"
    lines = [
        "training:",
        f"  num_train_epochs: {epochs}  # for {_rows(guess)}; more data needs fewer",
        f"  learning_rate: {_model_for(text).learning_rate}  # usual for a model of this size",
        f"  per_device_train_batch_size: {batch}  # documents a step; long steps are cut to fit the memory",
        f"  class_weights: {weights}  # the most frequent class has {ratio:.1f} times the rows of the rarest",
        "  metric_for_best_model: f1_macro  # every class counts the same, however rare",
        "  early_stopping_patience: 2  # stop after two epochs without a better score",
        "",
    ]
    return "\n".join(lines)


def _classes(label: ColumnFacts) -> str:
    if not label.counts:
        return f"{label.distinct:,} different values"
    (most, count), *_ = rows = list(label.counts.items())
    least, fewest = rows[-1]
    total = sum(label.counts.values())
    return (
        f"{label.distinct:,} classes; most frequent {shown(most, 30)} with {count / total:.1%}, "
        f"rarest {shown(least, 30)} with {fewest:,} rows"
    )


@dataclass(frozen=True)
class _ModelChoice:
    name: str
    learning_rate: str
    why: str
    instead: str


def _model_for(text: ColumnFacts) -> _ModelChoice:
    shares = frequent_languages(text.languages)
    told = told_languages(shares)
    if list(shares) == ["en"]:
        why = f"the texts are {told}; small and fast"
        instead = "Larger, slower, often better: google-bert/bert-base-uncased, with learning_rate 2.0e-5."
        return _ModelChoice("sentence-transformers/all-MiniLM-L6-v2", "1.0e-4", why, instead)
    if list(shares) == ["zh"]:
        instead = "As large, often better: hfl/chinese-roberta-wwm-ext."
        return _ModelChoice("google-bert/bert-base-chinese", "2.0e-5", f"the texts are {told}", instead)
    why = f"the texts are {told}: a model of many languages" if told else "no language was recognised"
    instead = "Larger, often better: FacebookAI/xlm-roberta-base, or a model for one language."
    return _ModelChoice("distilbert/distilbert-base-multilingual-cased", "3.0e-5", why, instead)


def _rows(guess: Guess) -> str:
    return f"{guess.rows:,} rows" if guess.is_whole else f"more than {guess.rows:,} rows (only these were seen)"


EPOCHS_FOR_ROWS = ((2_000, 5), (20_000, 3), (100_000, 2))  # fewer rows than this -> epochs
