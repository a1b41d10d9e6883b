"""A first recipe for learning to write: from prompts and completions, chats, plain text, or sources and targets.

As in starter.py every line says why it stands there. The model is a small one with new weights, so that the recipe runs
anywhere as it is; the comment above it names a pretrained one, which usually writes far better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from finetune.data.guess import Guess, is_named_like_a_group
from finetune.data.guess_forms import FormGuess, TextsFacts, WritingTask
from finetune.data.written_examples import KEYS
from finetune.errors import DataError
from finetune.progress import write
from finetune.recipe_data import Form
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
NEW_TEXT_SIZES = (16, 32, 64, 128, 256)
PASSAGES = 100  # of a single text, so that every split has some
MOST_PASSAGE_CHARACTERS = 1200
FEWEST_CHARACTERS = 20_000  # a shorter text teaches next to nothing
FEWEST_WORDS_OF_A_LANGUAGE = 5
FEW_EXAMPLES = 10_000  # below, a pretrained model writes far better than a new one
MOST_WRITTEN = 500  # texts an evaluation writes after every epoch
EPOCHS_FOR_DOCUMENTS = ((2_000, 10), (20_000, 5), (100_000, 3))
ASKED = {"pairs": "From {text} to {target}", "seq2seq": "From {text} to {target}",
         "chat": "What does the assistant say in {text}?", "text": "How do these texts go on?"}  # fmt: skip


@dataclass(frozen=True)
class WriterChoices:
    """What the recipe will be about: `text` is the column that is read, `target` the one that is written, if any."""

    task: WritingTask
    form: Form
    text: str
    target: str | None = None
    group: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Lengths:
    """Characters of 95 of 100 examples: what is read (or the whole text), and what is written after it."""

    read: int
    written: int
    languages: Mapping[str, float]

    @property
    def read_tokens(self) -> int:
        return tokens_of(self.read, self.languages)

    @property
    def written_tokens(self) -> int:
        return tokens_of(self.written, self.languages) if self.written else 0


def ask_columns(
    guess: Guess, form: FormGuess, flags: Mapping[str, str | None], stdin: TextIO, stderr: TextIO, *, yes: bool = False
) -> WriterChoices:
    """The columns of a form: the flag (`text`, `label` for what is written, `group`), else an answer, else the guess.

    Raises DataError for a column that is not there, or is in use already.
    """
    asking = stdin.isatty() and not yes
    read, written = KEYS[form.form]
    group = next((name for name in guess.groups if is_named_like_a_group(name)), None)
    wanted = [
        (read, "text", form.text),
        *([(written, "label", form.target)] if written else []),
        ("group", "group", group),
    ]
    taken: dict[str, str | None] = {}
    for role, flag, guessed in wanted:
        default = None if guessed in taken.values() else guessed
        named = flags.get(flag)
        if named is None and asking:
            taken[role] = _answer(guess, role, default, [*taken.values()], stdin=stdin, stderr=stderr)
        else:
            taken[role] = _checked(guess, role, named or default, [*taken.values()])
    text, target = taken[read], taken.get(written or "")
    assert text is not None
    unused = [name for name in guess.ids if name not in taken.values()]
    choices = WriterChoices(form.task, form.form, text, target, taken["group"], unused[0] if unused else None)
    if not asking:
        write(stderr, _taken(guess, form, choices))
    return choices


def write_writer_recipe(guess: Guess, path: Path, *, choices: WriterChoices) -> str:
    """The text of a commented recipe that stands at `path`, for examples in a table."""
    read, target = guess.column(choices.text), guess.column(choices.target) if choices.target else None
    # Of a few words nobody can tell the language.
    spoken = target if target is not None and target.median_words >= FEWEST_WORDS_OF_A_LANGUAGE else read
    languages = frequent_languages(spoken.languages)
    lengths = Lengths(read.p95_characters, target.p95_characters if target else 0, languages)
    rows = guess.rows if guess.is_whole else 10 * guess.rows
    return "\n".join(
        [
            _head(choices, guess.path, path, _rows(guess), _cautions(guess, choices)),
            f"task: {choices.task}\n",
            _model(choices, lengths, examples=rows),
            _data(guess, choices, path),
            _rest(choices, lengths, documents=rows),
        ]
    )


def write_texts_recipe(facts: TextsFacts, path: Path) -> tuple[WriterChoices, str]:
    """The same for a text file or a folder of them."""
    choices = WriterChoices("text-generation", "text", "text")
    languages = frequent_languages(facts.languages)
    cut = facts.documents < PASSAGES // 10 and not facts.splits
    passage = max(100, min(MOST_PASSAGE_CHARACTERS, facts.characters // PASSAGES // 100 * 100))
    documents = max(facts.documents, facts.characters // passage) if cut else facts.documents
    lengths = Lengths(passage if cut else facts.p95_characters, 0, languages)
    files = f"{facts.documents:,} text{'s' if facts.documents > 1 else ''} of {facts.characters:,} characters"
    little = "so little text teaches a model next to nothing: find more, or start from a pretrained one"
    cautions = [little] if facts.characters < FEWEST_CHARACTERS else []
    lines = ["data:", source_line(facts.path, path), "  columns: {text: text}  # plain text, as it stands"]
    if cut:
        lines += [
            f"  passage_characters: {passage}  # cut at blank lines, line ends or sentences into about {documents:,} "
            "passages, each a document",
            "  split: {train: 0.70, validation: 0.15, test: 0.15, contiguous: true}  # the beginning, what follows, "
            "the end",
        ]
    elif facts.splits:
        lines.append(f"  # The folder brings its own splits: {', '.join(facts.splits)}.")
    else:
        lines.append(f"  {_split(documents)}")
    text = [
        _head(choices, facts.path, path, files, cautions),
        "task: text-generation\n",
        _model(choices, lengths, examples=documents),
        "\n".join([*lines, ""]),
        _rest(choices, lengths, documents=documents),
    ]
    return choices, "\n".join(text)


def _answer(
    guess: Guess, role: str, default: str | None, taken: list[str | None], *, stdin: TextIO, stderr: TextIO
) -> str | None:
    """Ask until the answer is a column; Enter, or the end of the input, takes the guess."""
    offered, more = default or (NONE if role == "group" else ""), f" ({NONE} for none)" if role == "group" else ""
    while True:
        stderr.write(f"{role} column{more}{f' [{shown(offered)}]' if offered else ''}: ")
        stderr.flush()
        line = stdin.readline()
        try:
            return _checked(guess, role, line.strip() or default, taken)
        except DataError as error:
            if not line:
                raise
            write(stderr, str(error))


def _checked(guess: Guess, role: str, name: str | None, taken: list[str | None]) -> str | None:
    if role == "group" and name in (None, NONE):
        return None
    if name is None:
        flag = "--text" if role in ("text", "prompt", "source", "messages") else "--label"
        raise DataError(guess.path.name, f"the {role} column is not named", f"Name it with {flag} COLUMN.")
    if name in taken:
        raise DataError(guess.path.name, f"column '{name}' is already in use", "Name another column.")
    return guess.column(name).name


def _taken(guess: Guess, form: FormGuess, choices: WriterChoices) -> str:
    read, written = KEYS[choices.form]
    columns = f"{read} is {shown(choices.text)}" + (f", {written} is {shown(choices.target or '')}" if written else "")
    group = f"group is {shown(choices.group)}" if choices.group else "no group"
    flags = "--text, --label and --group" if written else "--text and --group"
    return (
        f"{guess.path.name}: {_rows(guess)}; {choices.task}, because {form.why}; {columns}, {group}. "
        f"Other columns are named with {flags}, another task with --task."
    )


def _rows(guess: Guess) -> str:
    return f"{guess.rows:,} rows" if guess.is_whole else f"more than {guess.rows:,} rows (only these were seen)"


def _cautions(guess: Guess, choices: WriterChoices) -> list[str]:
    """What will disturb a training on these columns, each as a sentence."""
    found = []
    for name in filter(None, (choices.text, choices.target)):
        if missing := guess.rows - guess.column(name).filled:
            found.append(
                f"{missing:,} of {guess.rows:,} rows without {shown(name)}: drop_empty removes them, up to 5 in 100"
            )
    names = {column.name.lower(): column for column in guess.columns if column.kind == "text"}
    if choices.form == "pairs" and choices.text.lower() == "instruction" and "input" in names:
        found.append(f"column {shown(names['input'].name)} is not read: put it behind the instruction in one column")
    return found


def _head(choices: WriterChoices, data: Path, recipe: Path, size: str, cautions: list[str]) -> str:
    asked = ASKED[choices.form].format(text=shown(choices.text), target=shown(choices.target or ""))
    return as_comment(
        [
            f"{asked}   finetune train {shown(recipe.name)}",
            "",
            f"Written by finetune init after a look at {shown(data.name)}: {size}. Every line is a proposal;",
            "finetune check says whether they fit together.",
            *(f"Look at this first: {each}." for each in cautions),
        ]
    )


def _model(choices: WriterChoices, lengths: Lengths, *, examples: int) -> str:
    """New weights, and above them the pretrained model to put in their place."""
    name, rate, why = _pretrained(choices, lengths.languages)
    tokenizer = "characters" if UNSPACED & {*lengths.languages} else "bytes"
    architecture = "t5" if choices.task == "seq2seq" else "gpt2"
    why_not = "above all after so few examples" if examples < FEW_EXAMPLES else "though slower"
    heading = as_comment(
        [
            "A small model with new weights: it needs no download and shows that all fits together, but it knows no",
            f"language yet. A pretrained one writes far better, {why_not}: replace this section by",
            f"  model: {{name: {name}}}  # {why}",
            f"and write learning_rate: {rate} below.",
        ]
    )
    return (
        f"{heading}model:\n"
        f"  from_scratch: {{architecture: {architecture}, tokenizer: {tokenizer}, vocab_size: 4000, hidden_size: 192,\n"
        "    num_hidden_layers: 4, num_attention_heads: 4, intermediate_size: 768, "
        f"max_position_embeddings: {_positions(choices, lengths)}}}\n"
    )


def _positions(choices: WriterChoices, lengths: Lengths) -> int:
    """Room for the longest window, and for a prompt with what is written after it."""
    tokens = window_for(_window_tokens(choices, lengths))[0] + _new_tokens(choices, lengths)[0]
    return next(size for size in (128, 256, 512, 1024) if size >= tokens)


def _pretrained(choices: WriterChoices, languages: Mapping[str, float]) -> tuple[str, str, str]:
    """Its name, its usual learning rate, and what it knows."""
    told = f"; these texts are {told_languages(languages)}" if languages else ""
    if choices.task == "seq2seq":
        if {*languages} <= {"en", "de", "fr", "ro"}:
            return "google-t5/t5-small", "3.0e-4", f"English, German, French, Romanian{told}"
        return "google/mt5-small", "5.0e-4", f"101 languages{told}"
    if choices.form == "chat":
        return "Qwen/Qwen2.5-0.5B-Instruct", "2.0e-5", f"has learnt to answer, in many languages{told}"
    if list(languages) == ["en"]:
        return "openai-community/gpt2", "5.0e-5", f"English, 124 million parameters{told}"
    return "Qwen/Qwen2.5-0.5B", "2.0e-5", f"many languages, 494 million parameters{told}"


def _data(guess: Guess, choices: WriterChoices, path: Path) -> str:
    read, written = KEYS[choices.form]
    lines = ["data:", source_line(guess.path, path), "  columns:"]
    for key, name in ((read, choices.text), (written, choices.target)):
        if key is None or name is None:
            continue
        column = guess.column(name)
        lines.append(
            f"    {key}: {scalar(name)}  # {column.distinct:,} different, half of them up to "
            f"{column.median_characters:,} characters, 95 of 100 up to {column.p95_characters:,}"
        )
    if choices.group:
        count = guess.column(choices.group).distinct
        why = f"{count:,} different values: rows of one value stay in one split, or the score flatters"
        lines.append(f"    group: {scalar(choices.group)}  # {why}")
    if choices.id:
        lines.append(f"    id: {scalar(choices.id)}  # different in every row; names rows in predictions and reports")
    return "\n".join([*lines, f"  {_split(guess.rows, more='' if guess.is_whole else ' of the first rows')}", ""])


def _split(documents: int, *, more: str = "") -> str:
    parts = " / ".join(f"{round(share * documents):,}" for share in (0.70, 0.15, 0.15))
    return f"split: {{train: 0.70, validation: 0.15, test: 0.15}}  # about {parts} documents{more}, duplicates together"


def _window_tokens(choices: WriterChoices, lengths: Lengths) -> int:
    return lengths.read_tokens + (0 if choices.task == "seq2seq" else lengths.written_tokens)


def _new_tokens(choices: WriterChoices, lengths: Lengths) -> tuple[int, str]:
    """How much may be written, and why."""
    if choices.form == "text":
        return 64, "tokens written after the first 32 of a document, to be looked at and scored"
    # Of a chat only its whole length is known.
    tokens = lengths.written_tokens or min(lengths.read_tokens, NEW_TEXT_SIZES[-1])
    size = next((size for size in NEW_TEXT_SIZES if size >= 1.2 * tokens), NEW_TEXT_SIZES[-1])
    what = "whole chats" if choices.form == "chat" else KEYS[choices.form][1] + "s"  # type: ignore[operator]
    return size, f"95 of 100 {what} have up to about {tokens:,} tokens; a longer text is cut off, and counted"


def _rest(choices: WriterChoices, lengths: Lengths, *, documents: int) -> str:
    """From cleaning to seed."""
    tokens = _window_tokens(choices, lengths)
    size, fits = window_for(tokens)
    longer = "the longer ones become windows" if choices.form == "text" else "the longer ones are cut, and counted"
    windows = f"95 of 100 examples have up to about {tokens:,} tokens: {'most fit whole' if fits else longer}"
    new, why = _new_tokens(choices, lengths)
    target = f", max_target_tokens: {max(new, NEW_TEXT_SIZES[1])}" if choices.task == "seq2seq" else ""
    epochs = next((epochs for most, epochs in EPOCHS_FOR_DOCUMENTS if documents < most), 2)
    written = round(0.15 * documents)
    sample = f"evaluation: {{sample: {MOST_WRITTEN}}}  # of {written:,} documents; the loss is of all of them\n"
    lines = [
        "cleaning: [drop_empty, drop_duplicates]  # in this order, each counted; all else is learnt as it stands\n",
        f"windows: {{max_tokens: {size}{target}}}  # {windows}\n",
        f"generation: {{max_new_tokens: {new}}}  # {why}\n",
        "training:",
        f"  num_train_epochs: {epochs}  # for new weights; a pretrained model needs 1 to 3",
        "  learning_rate: 1.0e-3  # usual for new weights of this size; far too high for a pretrained model",
        f"  per_device_train_batch_size: {16 if documents < 5_000 else 32}  # examples a step, cut to fit the memory",
        "  metric_for_best_model: loss  # nats per token; bleu, chrf or rouge_l where texts have one right answer",
        "  early_stopping_patience: 2  # stop after two epochs without a better score\n",
        *([sample] if written > MOST_WRITTEN else []),
        "seed: 13  # of the split, the order and new weights: the same recipe gives the same numbers\n",
    ]
    return "\n".join(lines)
