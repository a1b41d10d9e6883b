"""A writer's learner from a handful of rows, as `train` builds it, in a second.

learner = tiny_learner(tmp_path, PAIRS)
learner = tiny_learner(tmp_path, PAIRS, model_folder=tiny_writer_folder(tmp_path / "gpt2"))
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from finetune.data.prepare import Prepared, prepare
from finetune.progress import SILENT
from finetune.recipe_file import LoadedRecipe, load_recipe
from finetune.writer_learner import WriterLearner, build_writer_learner

ANIMALS = ("lion", "bear", "fish", "wolf", "dog", "cat")
Rows = Sequence[dict[str, Any]]

# Every other pair of two animals: the target follows from the source, and each source is there once.
ROWS: Rows = [
    {
        "source": f"the {one} sees the {other}",
        "target": f"der {one.upper()} mag den {other.upper()}",
        "messages": [
            {"role": "user", "content": f"{one} and {other}?"},
            {"role": "assistant", "content": f"{one.upper()} {other.upper()}"},
        ],
        "author": one,
    }
    for one, other in itertools.product(ANIMALS, ANIMALS)
]
SMALL = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 32, "max_position_embeddings": 128}  # fmt: skip
TEXT: dict[str, Any] = {
    "task": "text-generation",
    "model": {"from_scratch": {"architecture": "gpt2", **SMALL}},
    "data": {"columns": {"text": "target"}},
    "windows": {"max_tokens": 12, "stride": 4},
    "generation": {"max_new_tokens": 6, "prompt_tokens": 4},
}
PAIRS: dict[str, Any] = {
    "task": "text-generation",
    "model": {"from_scratch": {"architecture": "gpt2", **SMALL}},
    "data": {"columns": {"prompt": "source", "completion": "target"}},
    "windows": {"max_tokens": 64},
    "generation": {"max_new_tokens": 8},
}
CHATS: dict[str, Any] = {
    "task": "text-generation",
    "model": {"from_scratch": {"architecture": "llama", **SMALL}},
    "data": {"columns": {"messages": "messages"}},
    "windows": {"max_tokens": 64},
    "generation": {"max_new_tokens": 8},
}
SEQ2SEQ: dict[str, Any] = {
    "task": "seq2seq",
    "model": {"from_scratch": {"architecture": "t5", **SMALL}},
    "windows": {"max_tokens": 64, "max_target_tokens": 64},
    "generation": {"max_new_tokens": 8},
}


def tiny_recipe(
    folder: Path, recipe: Mapping[str, Any], *, rows: Rows = ROWS, model_folder: Path | None = None, **sections: Any
) -> LoadedRecipe:
    """The recipe over `rows` in a file of `folder`; `sections` go into its own, key by key."""
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    chosen: dict[str, Any] = {
        "data": {"source": "rows.jsonl", "near_duplicates": None},
        "evaluation": {"baselines": [], "bootstrap": 50},
        "training": {"use_cpu": True},
    }
    for name, section in [*recipe.items(), *sections.items()]:
        chosen[name] = chosen.get(name, {}) | section if isinstance(section, dict) else section
    if model_folder is not None:
        chosen["model"] = {"name": str(model_folder)}
    YAML().dump(chosen, folder / "recipe.yaml")
    return load_recipe(folder / "recipe.yaml")


def tiny_learner(folder: Path, recipe: Mapping[str, Any], **named: Any) -> WriterLearner:
    """What `train` would train; see `tiny_recipe`."""
    return prepared_learner(tiny_recipe(folder, recipe, **named))[1]


def prepared_learner(loaded: LoadedRecipe) -> tuple[Prepared, WriterLearner]:
    prepared = prepare(loaded, progress=SILENT)
    return prepared, build_writer_learner(loaded, prepared, progress=SILENT)
