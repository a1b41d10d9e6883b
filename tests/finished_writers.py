"""Finished writers of a few kilobytes, for tests: a tiny model over bytes with the finetune.json of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import tiny_bert_folder, tiny_writer_folder
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from finetune.data.chats import plain_template
from finetune.recipe import writer_recipe
from finetune.recipe_file import LoadedRecipe, check_recipe
from finetune.runs import MODEL_SETTINGS, write_json
from finetune.writer_settings import end_ids, settings_of_recipe
from finetune.yaml_text import YamlText

COLUMNS: dict[str, dict[str, str]] = {
    "text": {"text": "text"},
    "pairs": {"prompt": "question", "completion": "answer"},
    "chat": {"messages": "messages"},
    "seq2seq": {"source": "en", "target": "de"},
}
ARCHITECTURES: dict[str, Any] = {"text": "gpt2", "pairs": "gpt2", "chat": "llama", "seq2seq": "t5"}
MAX_TOKENS, NEW_TOKENS = 48, 12


def recipe_of(form: str, *, name: str = "model", base: Path = Path(), **generation: Any) -> LoadedRecipe:
    """A recipe for examples of that form, with these settings of its section generation."""
    windows = {"max_tokens": MAX_TOKENS} | {"text": {"stride": 8}, "seq2seq": {"max_target_tokens": 24}}.get(form, {})
    values: dict[str, object] = {
        "task": "seq2seq" if form == "seq2seq" else "text-generation",
        "model": {"name": name},
        "data": {"source": "data.jsonl", "columns": COLUMNS[form]},
        "windows": windows,
        "generation": {"max_new_tokens": NEW_TOKENS, **generation},
    }
    return check_recipe(YamlText(name="recipe.yaml", values=values), base=base, name="recipe")


def finished_writer(folder: Path, form: str, *, cleaning: list[str] | None = None, **generation: Any) -> Path:
    """A model folder as a run leaves it, with random weights."""
    tiny_writer_folder(folder, ARCHITECTURES[form])
    recipe = writer_recipe(recipe_of(form, **generation).recipe)
    if cleaning is not None:
        recipe = type(recipe).model_validate(recipe.model_dump() | {"cleaning": cleaning})
    auto: Any = AutoModelForSeq2SeqLM if form == "seq2seq" else AutoModelForCausalLM
    network, tokenizer = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ends = end_ids(network, tokenizer, form=recipe.form, template=plain_template(tokenizer))
    write_json(folder / MODEL_SETTINGS, settings_of_recipe(recipe, ends))
    return folder


def finished_classifier(folder: Path) -> Path:
    tiny_bert_folder(folder, num_labels=2)
    settings = {
        "task": "text-classification", "multi_label": False, "cleaning": [], "text_column": "text",
        "windows": {"max_tokens": 16, "stride": 2, "aggregate": "mean"},
    }  # fmt: skip
    (folder / MODEL_SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return folder
