"""What a saved writer says of itself (finetune.json), and what its sequences and texts are made by.

The learner writes these settings, and the predictor reads them back, so that a model is used as it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.cleaning_steps import CleaningStep
from finetune.data.chats import end_of_turn, plain_template
from finetune.data.forms import SequenceSettings
from finetune.errors import ModelError
from finetune.pretrained import NO_LIMIT_TOKENS
from finetune.recipe import Generation, TextGeneration, WriterRecipe
from finetune.recipe_data import Form
from finetune.recipe_windows import PairWindows, TextWindows
from finetune.runs import MODEL_SETTINGS
from finetune.training.next_token import GenerationSettings


class WriterSettings(BaseModel):
    """finetune.json: what a saved writer says of itself. Keys of other readers are left alone."""

    model_config = ConfigDict(extra="ignore")

    task: str
    form: Form
    cleaning: list[CleaningStep]
    columns: dict[str, str | None]
    windows: TextWindows | PairWindows
    generation: TextGeneration | Generation
    end_ids: list[int]


def read_writer_settings(folder: Path) -> WriterSettings:
    """Raises ModelError where there are none, or not those of a writer."""
    path = folder / MODEL_SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if "form" not in settings:
            what = f"is a model for {settings.get('task')}, and writes no text"
            raise ModelError(str(folder), what, "Name a run of text-generation or seq2seq.")
        return WriterSettings.model_validate(settings)
    except FileNotFoundError:
        raise ModelError(str(folder), f"has no {MODEL_SETTINGS}", "Name a run folder, or its best/ or last/.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(str(path), f"cannot be read ({type(error).__name__})") from None


def settings_of_recipe(recipe: WriterRecipe, end_ids: Iterable[int]) -> WriterSettings:
    """What finetune.json of this recipe's models will say."""
    seed = recipe.seed if recipe.generation.seed is None else recipe.generation.seed
    return WriterSettings(
        task=recipe.task,
        form=recipe.form,
        cleaning=recipe.cleaning,
        columns=recipe.data.model_dump()["columns"],
        windows=recipe.windows,
        generation=recipe.generation.model_copy(update={"seed": seed}),
        end_ids=sorted(end_ids),
    )


def sequence_settings(
    settings: WriterSettings, tokenizer: PreTrainedTokenizerFast, *, context_tokens: int
) -> SequenceSettings:
    """The lengths for data/sequences.py; `context_tokens` is the most that the model reads at once."""
    windows, generation = settings.windows, settings.generation
    limits = SequenceSettings(
        max_tokens=windows.max_tokens,
        too_long=windows.too_long,
        max_new_tokens=generation.max_new_tokens,
        context_tokens=context_tokens if context_tokens < NO_LIMIT_TOKENS else None,
    )
    if isinstance(windows, PairWindows):
        return replace(limits, max_target_tokens=windows.max_target_tokens)
    return replace(
        limits,
        stride=windows.max_tokens // 4 if windows.stride is None else windows.stride,
        prompt_tokens=generation.prompt_tokens if isinstance(generation, TextGeneration) else 1,
        completions_only=windows.completions_only,
        template=chat_template(generation, tokenizer),
    )


def chat_template(generation: Generation, tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Jinja, or None for the model's own."""
    plain = isinstance(generation, TextGeneration) and generation.chat_template == "plain"
    return plain_template(tokenizer) if plain else None


def generation_settings(generation: Generation, *, seed: int = 0) -> GenerationSettings:
    """The section `generation` for training/generating.py; `seed` is the recipe's, for a section without one."""
    names = {field.name for field in fields(GenerationSettings)} - {"seed"}
    chosen = {name: getattr(generation, name) for name in names}
    return GenerationSettings(**chosen, seed=seed if generation.seed is None else generation.seed)


def end_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, form: Form, template: str | None
) -> frozenset[int]:
    """The tokens that end a text: the tokenizer's, those the model itself names, and the end of a chat's turn."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    if form == "chat":
        ends.add(end_of_turn(tokenizer, template=template))
    return frozenset(int(each) for each in ends if each is not None)
