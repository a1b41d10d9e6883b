"""Prompts in, written texts out: from the command line, from files and from stdin. Rows keep the order of the input."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from finetune.data.encodings import TableFile, detect_encoding
from finetune.data.sources import ColumnMap
from finetune.data.tables import check_signature
from finetune.data.text_folders import is_text
from finetune.data.written_examples import KEYS
from finetune.errors import Collector, DataError, RecipeError
from finetune.generation_options import Changes, changed_generation
from finetune.prediction_files import Row, check_output, option_words, read_texts, write_columns
from finetune.progress import SILENT, Progress
from finetune.recipe_file import LoadedRecipe, load_recipe
from finetune.runs import disk_faults, write_json_lines
from finetune.saved_models import saved_model
from finetune.text_predictor import TextPredictor, WrittenText, checked_prompts, recipe_of_writer
from finetune.writer_settings import WriterSettings, read_writer_settings, settings_of_recipe

STDIN = Path("-")
COLUMNS = ("id", "prompt", "text", "tokens", "cut", "prompt_tokens_cut")


class Writer:
    """A run folder, a model folder, or a recipe whose model is asked untrained; loaded when all else is known to fit.

    Raises RecipeError where the changes do not go with its settings.
    """

    def __init__(self, target: str | Path, *, changes: Changes) -> None:
        self._target: Path | LoadedRecipe = Path(target).expanduser()
        if self._target.is_file():
            self._target = load_recipe(self._target)
        self._changes = changes
        self.settings = self._read_settings()
        self.generation = changed_generation(self.settings.generation, changes)

    def write(
        self,
        prompts: Sequence[str],
        origins: Sequence[str],
        *,
        on_text: Callable[[int, str], None] | None = None,
        progress: Progress,
    ) -> list[WrittenText]:
        """What TextPredictor writes; what was cut off is told."""
        checked_prompts(prompts, origins, form=self.settings.form)
        if isinstance(self._target, LoadedRecipe):
            predictor = TextPredictor.untrained(self._target)
        else:
            predictor = TextPredictor.load(self._target)
        seen = progress if on_text is None else SILENT
        with seen.bar(total=len(prompts), desc="writing", unit="text") as bar:
            written = predictor.write(
                prompts, changes=self._changes, origins=origins, on_documents=bar.update, on_text=on_text
            )
        self._tell_cuts(written, progress)
        return written

    def _read_settings(self) -> WriterSettings:
        if isinstance(self._target, LoadedRecipe):
            return settings_of_recipe(recipe_of_writer(self._target), ())
        return read_writer_settings(saved_model(self._target))

    def _tell_cuts(self, written: Sequence[WrittenText], progress: Progress) -> None:
        limit = f"{self.generation.max_new_tokens:,}"
        unread = [one.prompt_tokens_cut for one in written if one.prompt_tokens_cut]
        if unread:
            is_source = self.settings.form == "seq2seq"
            place = f"{sum(unread):,} tokens at the {'end' if is_source else 'beginning'} of {len(unread):,} of"
            most = f"{self.settings.windows.max_tokens:,} at most" if is_source else f"no more beside {limit} new ones"
            progress.warn(f"{place} {len(written):,} prompts were cut off: the model reads {most}")
        if cut := sum(one.cut for one in written):
            progress.say(
                f"{cut:,} of {len(written):,} texts were cut off after {limit} tokens, or by the model's context"
            )


def write_for_prompts(
    writer: Writer, prompts: Sequence[str], *, on_text: Callable[[int, str], None] | None = None, progress: Progress
) -> list[Row]:
    """Prompts from the command line -> rows of prompt, text, tokens, cut and prompt_tokens_cut."""
    origins = [f"--prompt {number}" for number in range(1, len(prompts) + 1)]
    written = writer.write(prompts, origins, on_text=on_text, progress=progress)
    return [{"prompt": prompt, **asdict(one)} for prompt, one in zip(prompts, written, strict=True)]


def write_for_file(
    writer: Writer,
    path: Path,
    *,
    output: Path | None,
    column: str | None,
    force: bool,
    encoding: str | None = None,
    progress: Progress,
) -> Path | list[Row]:
    """A text for every row of a file, or every line of a .txt file or of stdin (`-`); writes `output`, or returns rows.

    Refuses to replace a file without `force`.
    """
    check_output(output, force=force)
    ids, prompts = _read(path, writer.settings, column=column, encoding=encoding, progress=progress)
    written = writer.write(prompts, ids, progress=progress)
    rows: list[Row] = [
        {"id": id_, "prompt": prompt, **asdict(one)} for id_, prompt, one in zip(ids, prompts, written, strict=True)
    ]
    if output is None or output.suffix == ".jsonl":
        rows = [{**row, "prompt": _as_given(row["prompt"], writer.settings)} for row in rows]
    if output is None:
        return rows
    with disk_faults(output):
        if output.suffix == ".jsonl":
            write_json_lines(output, rows)
        else:
            write_columns(output, {name: [row[name] for row in rows] for name in COLUMNS})
    return output


def _read(
    path: Path, settings: WriterSettings, *, column: str | None, encoding: str | None, progress: Progress
) -> tuple[list[str], list[str]]:
    """The ids of the prompts, which say where each of them is, and the prompts; a chat as the JSON of its messages."""
    key = KEYS[settings.form][0]
    if path == STDIN or is_text(path):
        if column is not None:
            raise RecipeError("--column", "goes with a table; here every line is a prompt", "Leave it out.")
        with option_words():
            return _lines_of_stdin(encoding, progress) if path == STDIN else _lines(path, path.name, encoding, progress)
    columns = ColumnMap(text=column or settings.columns[key] or key, form=settings.form)
    table = read_texts(path, columns, encoding=encoding, progress=progress)
    return table["id"][:], [text or "" for text in table["text"]]


def _lines_of_stdin(encoding: str | None, progress: Progress) -> tuple[list[str], list[str]]:
    with tempfile.NamedTemporaryFile(suffix=".txt") as kept:
        kept.write(sys.stdin.buffer.read())
        kept.flush()
        return _lines(Path(kept.name), "stdin", encoding, progress)


def _lines(path: Path, name: str, encoding: str | None, progress: Progress) -> tuple[list[str], list[str]]:
    """The lines by `NAME:LINE`. Raises DataError for what is no text."""
    file = TableFile(path=path, name=name, problems=Collector(DataError))
    try:
        check_signature(file)
        file.encoding = detect_encoding(file, asked=encoding)
        with file.path.open(encoding=file.encoding) as stream:
            lines = stream.read().removesuffix("\n").split("\n")
    except OSError as error:
        file.refuse(f"cannot be read ({error.strerror or error})")
    for note in file.notes:
        progress.say(note)
    return [file.at(number) for number in range(1, len(lines) + 1)], lines


def _as_given(prompt: str, settings: WriterSettings) -> object:
    """A chat read from a file is shown as its messages."""
    return json.loads(prompt) if settings.form == "chat" and prompt.startswith("[") else prompt
