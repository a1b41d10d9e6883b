"""A finished writer from a run folder or a model folder: its texts for new prompts, and its scores on documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.data.chats import ChatFault, Message
from finetune.data.cleaning import clean_text
from finetune.data.forms import Encoder, Row, SequenceSettings
from finetune.data.own_functions import own_function_folders
from finetune.data.sequences import encode_examples
from finetune.data.written_examples import asked_text, chat_text, divided_chat
from finetune.errors import Collector, DataError, RecipeError, listed
from finetune.few_shot import few_shot_answer, few_shot_prompt
from finetune.generation_options import Changes, changed_generation
from finetune.hub_models import find_model, find_saved_model
from finetune.predict import MOST_ROWS_SHOWN, function_folders
from finetune.recipe import Shot, TextGeneration, WriterRecipe
from finetune.recipe_data import Form
from finetune.recipe_file import LoadedRecipe
from finetune.recipe_windows import TextWindows
from finetune.training.generating import generate
from finetune.training.text_inference import TextModel, TextPredictions, decoded, predict_texts
from finetune.writer_settings import (
    WriterSettings,
    chat_template,
    end_ids,
    generation_settings,
    read_writer_settings,
    sequence_settings,
    settings_of_recipe,
)
from finetune.writers import WriterKind, build_writer, largest_context, load_writer, load_writer_tokenizer

Prompt = str | Sequence[Message]
PROMPTS_AT_A_TIME = 256
HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class WrittenText:
    """What was written for one prompt, in how many new tokens; `cut` where a limit ended it, and not the model.

    `prompt_tokens_cut` were not read: the first ones of a prompt, the last ones of a source.
    """

    text: str
    tokens: int
    cut: bool
    prompt_tokens_cut: int


class TextPredictor:
    """A finished writer with how it reads and writes.

    >>> TextPredictor.load("runs/poems-1").write(["Long ago"], changes={"temperature": 0.8})[0].text
    """

    def __init__(
        self, model: TextModel, settings: WriterSettings, *, function_folders: Sequence[Path] = ()
    ) -> None:  # fmt: skip
        self.model, self.settings, self.function_folders = model, settings, function_folders

    @classmethod
    def load(cls, folder: str | Path, *, use_cpu: bool = False) -> TextPredictor:
        """From a run folder (its best/), from best/, last/ or a copy of them, or `hub:USER/NAME`. Raises ModelError."""
        path = find_saved_model(folder)
        settings = read_writer_settings(path)
        network, tokenizer = load_writer(path)
        model = _text_model(network, tokenizer, settings, use_cpu=use_cpu)
        return cls(model, settings, function_folders=function_folders(path))

    @classmethod
    def untrained(cls, loaded: LoadedRecipe, *, use_cpu: bool = False) -> TextPredictor:
        """The model that a recipe starts from, before any training, used as the recipe says.

        Raises RecipeError where it starts from none, and ModelError.
        """
        recipe = recipe_of_writer(loaded)
        kind: WriterKind = "seq2seq" if recipe.form == "seq2seq" else "causal"
        if recipe.model.name is None:
            do = "Train it, and name the run."
            raise RecipeError(loaded.where("model", "from_scratch"), "the model is new and has learnt nothing", do)
        folder = find_model(recipe.model.name, base=loaded.base, revision=recipe.model.revision)
        tokenizer = load_writer_tokenizer(folder, kind=kind)
        network, _ = build_writer(recipe.model, folder=folder, tokenizer=tokenizer, kind=kind, seed=recipe.seed)
        template = chat_template(recipe.generation, tokenizer)
        settings = settings_of_recipe(recipe, end_ids(network, tokenizer, form=recipe.form, template=template))
        model = _text_model(network, tokenizer, settings, use_cpu=use_cpu)
        return cls(model, settings, function_folders=own_function_folders(loaded.base))

    @property
    def sequence_settings(self) -> SequenceSettings:
        """How documents become token sequences."""
        return self._sequences(self.settings)

    def predict_rows(
        self,
        rows: datasets.Dataset,
        *,
        written: Sequence[int] | None = None,
        on_documents: Callable[[int], None] = lambda count: None,
    ) -> TextPredictions:
        """Score prepared rows, and write for those in `written` (None: all), as an evaluation during training does."""
        encoded, _ = encode_examples(
            rows, self.model.tokenizer, form=self.settings.form, settings=self.sequence_settings, purpose="evaluate"
        )
        settings = generation_settings(self.settings.generation)
        return predict_texts(self.model, encoded, settings=settings, written=written, on_documents=on_documents)

    def write(
        self,
        prompts: Sequence[Prompt],
        *,
        changes: Changes = {},  # noqa: B006  (read only)
        origins: Sequence[str] | None = None,
        on_documents: Callable[[int], None] = lambda count: None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[WrittenText]:
        """One text a prompt, in their order: plain text is continued, a chat answered, a source rewritten.

        A chat is a list of messages that ends with the user's, or one message of the user's. The settings stored with
        the model hold, but for `changes`. `on_documents` hears how many texts have ended. `on_text` hears (number of
        the prompt, the next characters) as they are written, and no characters where a text ends; to that end one is
        written after the other.
        Raises one DataError naming every prompt that is empty or cannot be read, and RecipeError for the changes.
        """
        origins = origins or [f"prompt {number}" for number in range(1, len(prompts) + 1)]
        changed = {"generation": changed_generation(self.settings.generation, changes)}
        settings = self.settings.model_copy(update=changed)
        rows = self._encoded(self._cleaned(prompts, origins), settings, origins)
        if on_text is None:
            return self._written(rows, range(len(rows)), settings, on_documents)
        written: list[WrittenText] = []
        for number in range(len(rows)):
            stream = _Stream(self.model, _shots(settings), number, on_text)
            written += self._written(rows, [number], settings, on_documents, on_token=stream)
            stream.end(written[-1].text)
        return written

    def _written(
        self,
        rows: Sequence[Row],
        numbers: Sequence[int],
        settings: WriterSettings,
        on_documents: Callable[[int], None],
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[WrittenText]:
        """The texts for the rows of these numbers, which also are the keys of what is drawn, as in an evaluation."""
        made = generate(
            self.model.network,
            [rows[number].source or rows[number].prompt for number in numbers],
            settings=generation_settings(settings.generation),
            pad_id=self.model.pad_id,
            eos_ids=self.model.end_ids,
            keys=list(numbers),
            on_documents=on_documents,
            on_token=on_token,
        )
        written = []
        for number, one in zip(numbers, made, strict=True):
            text, has_ended = few_shot_answer(decoded(self.model, one.ids), _shots(settings))
            unread = rows[number].prompt_cut or rows[number].tokens_cut
            written.append(WrittenText(text, len(one.ids), one.cut and not has_ended, unread))
        return written

    def _cleaned(self, prompts: Sequence[Prompt], origins: Sequence[str]) -> list[str]:
        """The prompts as training would have them. Raises DataError for those of which nothing is left."""
        form, shots = self.settings.form, _shots(self.settings)
        texts = [
            clean_text(text, self.settings.cleaning, folders=self.function_folders, form=form)
            for text in checked_prompts(prompts, origins, form=form)
        ]
        _refuse_empty(texts, origins, form=form)
        return [few_shot_prompt(shots, text) for text in texts] if shots else texts

    def _encoded(self, texts: Sequence[str], settings: WriterSettings, origins: Sequence[str]) -> list[Row]:
        """What each text is written from. Raises DataError, and RecipeError where there is no room to read."""
        sequences = self._sequences(settings)
        encoder = Encoder(self.model.tokenizer, form=settings.form, settings=sequences, purpose="evaluate")
        rows: list[Row] = []
        for start in range(0, len(texts), PROMPTS_AT_A_TIME):
            rows += encoder.prompts(list(texts[start : start + PROMPTS_AT_A_TIME]))
        problems = Collector(DataError)
        for origin, row in zip(origins, rows, strict=True):
            if row.refused:
                problems.add(origin, row.refused)
        problems.raise_if_any()
        return rows

    def _sequences(self, settings: WriterSettings) -> SequenceSettings:
        context = largest_context(self.model.network.config, self.model.tokenizer)
        return sequence_settings(settings, self.model.tokenizer, context_tokens=context)


def recipe_of_writer(loaded: LoadedRecipe) -> WriterRecipe:
    """Raises RecipeError for a recipe whose model writes no text."""
    if not isinstance(loaded.recipe, WriterRecipe):
        what = f"a model for {loaded.recipe.task} writes no text"
        raise RecipeError(loaded.where("task"), what, "Name a recipe of text-generation or seq2seq.")
    return loaded.recipe


def checked_prompts(prompts: Sequence[Prompt], origins: Sequence[str], *, form: Form) -> list[str]:
    """The prompts as the column `text` of examples: of a chat the JSON of its messages.

    Raises DataError for all that are missing or empty, no text or no chat, or hold half of a character.
    """
    problems, texts = Collector(DataError), []
    for prompt, origin in zip(prompts, origins, strict=True):
        try:
            text = _text_of(prompt, form=form)
            text.encode()
        except ChatFault as fault:
            problems.add(origin, fault.what, fault.do)
        except UnicodeEncodeError as error:
            half = f"half of a character (\\u{ord(error.object[error.start]):04x}) at character {error.start + 1}"
            problems.add(origin, f"the prompt has {half}", "Write it in UTF-8.")
        else:
            texts.append(text)
    problems.raise_if_any()
    _refuse_empty(texts, origins, form=form)
    return texts


def _text_of(prompt: Prompt, *, form: Form) -> str:
    """Empty for what is missing. Raises ChatFault."""
    if not prompt or (isinstance(prompt, str) and form == "chat" and not prompt.strip()):
        return ""
    if form == "chat":
        return chat_text(divided_chat(prompt, answered=False)[0])
    if not isinstance(prompt, str):
        raise ChatFault("the prompt is no text", "Chats are for models that learnt from chats.")
    return prompt


def _refuse_empty(texts: Sequence[str], origins: Sequence[str], *, form: Form) -> None:
    """Plain text may be continued after a line break, too; nothing else begins with white space alone."""
    asked = [text if form == "text" else asked_text(text, form=form).strip() for text in texts]
    empty = [origin for origin, words in zip(origins, asked, strict=True) if not words]
    if empty:
        where = f" in {len(empty):,} places: {listed(empty, most=MOST_ROWS_SHOWN)}" if len(empty) > 1 else ""
        raise DataError(empty[0], f"the prompt is empty{where}", "Write what the model shall go on from.")


def _text_model(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, settings: WriterSettings, *, use_cpu: bool
) -> TextModel:
    if torch.cuda.is_available() and not use_cpu:
        network.to("cuda")  # type: ignore[arg-type]
    windows = settings.windows
    packing = isinstance(windows, TextWindows) and windows.packing == "best_fit"
    return TextModel.of(
        network, tokenizer, block_tokens=windows.max_tokens, packing=packing, end_ids=settings.end_ids
    )  # fmt: skip


def _shots(settings: WriterSettings) -> Sequence[Shot]:
    return settings.generation.examples if isinstance(settings.generation, TextGeneration) else []


class _Stream:
    """The tokens of one text as they come -> its characters, each as soon as no later token can change it."""

    def __init__(self, model: TextModel, shots: Sequence[Shot], number: int, tell: Callable[[int, str], None]) -> None:
        self._model, self._shots, self._number, self._tell = model, shots, number, tell
        self._ids: list[int] = []
        self._told = 0  # characters

    def __call__(self, document: int, token: int) -> None:
        self._ids.append(token)
        tokenizer = self._model.tokenizer
        # Some tokenizers decode a run of bytes as a whole: it is settled by the word after it.
        if token in tokenizer.all_special_ids or str(tokenizer.convert_ids_to_tokens(token)).startswith("<0x"):
            return
        text, _ = few_shot_answer(decoded(self._model, self._ids).rstrip(HALF_CHARACTER), self._shots)
        self._hear(text.rstrip("\n") if self._shots else text)  # of examples a blank line is the end

    def end(self, text: str) -> None:
        """The whole text, of which the rest is told, and that it has ended."""
        self._hear(text)
        self._tell(self._number, "")

    def _hear(self, text: str) -> None:
        if len(text) > self._told:
            self._tell(self._number, text[self._told :])
            self._told = len(text)
