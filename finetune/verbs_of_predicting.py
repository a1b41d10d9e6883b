"""`finetune predict`: labels for new texts, written texts for prompts, scores and reconstructions of images.

As in verbs.py, heavy imports wait until nothing more can be refused without them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from finetune.errors import InputError, RecipeError
from finetune.generation_options import OPTIONS, as_options, check_changes
from finetune.progress import write
from finetune.recipe_file import load_recipe
from finetune.verbs import fetch_model, progress_of

IMAGES = "image-generation"
WRITERS = ("text-generation", "seq2seq")
SHOWN_CHARACTERS = 60


def predict(arguments: argparse.Namespace) -> int:
    file_options = arguments.output or arguments.column or arguments.encoding or arguments.force
    if not arguments.input and file_options:
        what = "--output, --column, --encoding and --force go with --input"
        raise RecipeError("command line", what, "Leave them out.")
    fetch_model(arguments)
    task = _task(Path(arguments.run_folder).expanduser())
    changes = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    if task == IMAGES:
        return _look(arguments, changes)
    if arguments.label or arguments.caption:
        option, of = "--label" if arguments.label else "--caption", f"is for {task or 'another task'}"
        raise RecipeError(option, f"says what images show, and {arguments.run_folder} {of}", "Leave it out.")
    if task in WRITERS or (arguments.prompt and not task):
        if arguments.text:
            raise RecipeError("--text", f"{arguments.run_folder} is for {task}, and labels no text", "Write --prompt.")
        try:
            return _write(arguments, changes)
        except InputError as error:
            raise as_options(error) from error
    if arguments.prompt:
        raise RecipeError("--prompt", f"{arguments.run_folder} is for {task}, and writes no text", "Write --text.")
    if changes:
        what = f"is about texts to be written, and {arguments.run_folder} is for {task or 'another task'}"
        raise RecipeError(OPTIONS[next(iter(changes))], what, "Leave it out.")
    return _label(arguments)


def _task(target: Path) -> str:
    """What the model does, before anything heavy is imported; empty where it does not say.

    Raises CheckpointError for what is no model, and RecipeError for a faulty recipe.
    """
    if target.is_file() and target.suffix.lower() in (".yaml", ".yml"):
        return load_recipe(target).recipe.task
    from finetune.saved_models import saved_model, saved_task

    return saved_task(saved_model(target))


def _look(arguments: argparse.Namespace, changes: dict[str, object]) -> int:
    """Scores, latents and reconstructions of given images."""
    from finetune.image_requests import check_looking

    target = Path(arguments.run_folder).expanduser()
    if target.is_file():
        raise RecipeError(str(target), "is a recipe, whose model has learnt nothing", "Train it, and name the run.")
    texts = {"--text": arguments.text, "--prompt": arguments.prompt, "--column": arguments.column,
             "--encoding": arguments.encoding}  # fmt: skip
    for option in [name for name, value in texts.items() if value] + [OPTIONS[name] for name in changes]:
        do = "Draw with finetune sample, or name images with --input."
        raise RecipeError(option, f"is about texts, and {target} is for {IMAGES}", do)
    output = Path(arguments.output).expanduser() if arguments.output else None
    check_looking(
        target, label=arguments.label, caption=arguments.caption, output=output, force=arguments.force
    )  # fmt: skip
    from finetune.image_prediction_files import predict_images

    path = Path(arguments.input).expanduser()
    asked = {"label": arguments.label, "caption": arguments.caption}
    written = predict_images(target, path, output=output, **asked, progress=progress_of(arguments))
    return _show(written, arguments)


def _label(arguments: argparse.Namespace) -> int:
    from finetune.prediction_files import predict_file, predict_texts

    progress = progress_of(arguments)
    if arguments.text:
        rows = predict_texts(arguments.run_folder, arguments.text, progress=progress)
        for row in rows:
            write(sys.stdout, json.dumps(row, ensure_ascii=False) if arguments.json else _prediction_line(row))
        return 0
    written = predict_file(
        arguments.run_folder,
        Path(arguments.input),
        output=Path(arguments.output) if arguments.output else None,
        text_column=arguments.column,
        encoding=arguments.encoding,
        force=arguments.force,
        progress=progress,
    )
    return _show(written, arguments)


def _write(arguments: argparse.Namespace, changes: dict[str, object]) -> int:
    check_changes(changes)
    from finetune.writing_files import Writer, write_for_file, write_for_prompts

    progress = progress_of(arguments)
    writer = Writer(arguments.run_folder, changes=changes)
    if arguments.prompt:
        prompts = [as_typed(prompt) for prompt in arguments.prompt]
        shown = None if arguments.json else _Shown(prompts)
        rows = write_for_prompts(writer, prompts, on_text=shown, progress=progress)
        return 0 if shown is not None else _show(rows, arguments)
    written = write_for_file(
        writer,
        Path(arguments.input),
        output=Path(arguments.output) if arguments.output else None,
        column=arguments.column,
        encoding=arguments.encoding,
        force=arguments.force,
        progress=progress,
    )
    return _show(written, arguments)


def as_typed(word: str) -> str:
    """An argument of the command line, which Python cuts into bytes where it takes the terminal for an ASCII one."""
    return word.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _show(written: Path | list[dict[str, Any]], arguments: argparse.Namespace) -> int:
    """The rows as JSON, or where they are."""
    if isinstance(written, Path):
        progress_of(arguments).say(f"predictions are in {written}")
    else:
        for row in written:
            write(sys.stdout, json.dumps(row, ensure_ascii=False))
    return 0


class _Shown:
    """Texts on stdout as they are written; where there are several, each below its prompt."""

    def __init__(self, prompts: list[str]) -> None:
        self._prompts, self._begun = prompts, 0

    def __call__(self, number: int, text: str) -> None:
        if number == self._begun:
            self._begun += 1
            if len(self._prompts) > 1:
                line = " ".join(self._prompts[number].split())
                shortened = line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"
                write(sys.stdout, ("\n" if number else "") + f"[{number + 1}] {shortened}")
        write(sys.stdout, text or "\n", end="")


def _prediction_line(row: dict[str, Any]) -> str:
    label = row["label"] if isinstance(row["label"], str) else ", ".join(row["label"]) or "(none)"
    best = max(row["probabilities"].items(), key=lambda item: float(item[1]))
    decided = f"\t(of {row['windows']} windows, this decided: {row['passage']})" if "passage" in row else ""
    return f"{label}\t{best[1]:.3f}\t{row['text']}{decided}"
