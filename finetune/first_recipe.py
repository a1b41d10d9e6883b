"""What `finetune init` does with any data: looks, proposes a task, asks or takes the columns, writes the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TextIO, cast, get_args

from finetune.data.guess import Guess, guess_table
from finetune.data.guess_forms import (
    FormGuess,
    WritingTask,
    guess_form,
    is_plain_text,
    look_at_texts,
    nothing_to_write,
)
from finetune.errors import DataError, RecipeError, did_you_mean, listed
from finetune.image_starter import ImageChoices, first_image_recipe, holds_images
from finetune.progress import write
from finetune.recipe import TextTaskName
from finetune.starter import Choices, ask, describe, write_recipe
from finetune.writer_starter import WriterChoices, ask_columns, write_texts_recipe, write_writer_recipe


def first_recipe(
    data: Path, target: Path, flags: Mapping[str, str | None], stdin: TextIO, stderr: TextIO, *, yes: bool = False
) -> tuple[Choices | WriterChoices | ImageChoices, str]:
    """What the recipe at `target` will be about, and its text; of images nothing is asked.

    flags: `task`, `text` (the column that is read), `label` (the label, or the column that is written), `group`; each
    may be none. Raises RecipeError for an unknown task, DataError for data that fits none and columns not there.
    """
    if _of_images(data, flags.get("task")):
        return first_image_recipe(data, target, flags)
    task = _named_task(flags.get("task"))
    if is_plain_text(data, task=task):
        return _of_texts(data, target, flags, stderr, task=task)
    guess = guess_table(data)
    form = None if task == "text-classification" else _form(guess, flags, task=task)
    if form is None:
        choices = ask(guess, flags, stdin, stderr, yes=yes)
        return choices, write_recipe(guess, target, choices=choices)
    if stdin.isatty() and not yes:
        for line in (*describe(guess), f"Task: {form.task}, because {form.why}; another one with --task."):
            write(stderr, line)
    written = ask_columns(guess, form, flags, stdin, stderr, yes=yes)
    return written, write_writer_recipe(guess, target, choices=written)


def _of_images(data: Path, task: str | None) -> bool:
    """Whether a recipe for drawing is wanted. Raises RecipeError where data and --task do not go together."""
    if task == "image-generation" and not holds_images(data):
        if not data.exists():
            raise DataError(str(data), "no such file or folder", "Check the name and the folder.")
        what = f"{data} holds no images that init can read"
        raise RecipeError("--task", what, "Name a folder, an archive or an idx file of images.")
    if task not in (None, "image-generation") and holds_images(data):
        raise RecipeError("--task", f"{data} holds images, and {task} is about texts", "Leave it out.")
    return holds_images(data)


def _named_task(named: str | None) -> TextTaskName | None:
    known = get_args(TextTaskName)
    if named is not None and named not in known:
        do = did_you_mean(named, known) or f"Choose one of: {listed(known)}."
        raise RecipeError("--task", f"init writes no recipe for '{named}'", do)
    return cast(TextTaskName | None, named)


def _of_texts(
    data: Path, target: Path, flags: Mapping[str, str | None], stderr: TextIO, *, task: TextTaskName | None
) -> tuple[WriterChoices, str]:
    if task not in (None, "text-generation"):
        what = f"is plain text, of which {task} has no columns"
        raise DataError(str(data), what, "Name a table, or leave --task out.")
    for name in ("text", "label", "group"):
        if flags.get(name):
            raise DataError(f"--{name}", f"names a column, and {data.name} is plain text", "Leave it out.")
    facts = look_at_texts(data)
    choices, text = write_texts_recipe(facts, target)
    for note in facts.notes:
        write(stderr, note)
    documents = "1 text" if facts.documents == 1 else f"{facts.documents:,} texts"
    write(stderr, f"{data.name}: {documents} of {facts.characters:,} characters; text-generation from plain text.")
    return choices, text


def _form(guess: Guess, flags: Mapping[str, str | None], *, task: WritingTask | None) -> FormGuess | None:
    """What is to be written, by the flags or else by the guess; None where it is labels that are to be learnt.

    Raises DataError where a task of writing is named and nothing fits.
    """
    text, label = flags.get("text"), flags.get("label")
    form = guess_form(guess, task=task)
    if task is None:
        named = [name for name in (text, label) if name is not None]
        return form if form is None or {*named} <= {form.text, form.target} else None
    if label is not None and (text or form is not None):
        read = text or form.text  # type: ignore[union-attr]
        return FormGuess(task, "seq2seq" if task == "seq2seq" else "pairs", read, label, "so it was asked for")
    if text is not None and task == "text-generation" and (form is None or form.text != text):
        is_chat = guess.column(text).kind == "chat"
        return FormGuess(task, "chat" if is_chat else "text", text, None, "so it was asked for")
    if form is None:
        raise DataError.of([nothing_to_write(guess, task)])
    return form
