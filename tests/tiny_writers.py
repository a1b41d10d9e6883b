"""Tiny data and recipes of text generation, of every form of examples, that train in a second or two.

The task can be learnt: an answer names the animals of its question in capitals.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

ANIMALS = ("cat", "dog", "horse", "bird", "fish", "mouse", "lion", "wolf")
VERBS = ("eats", "sees", "likes", "finds")
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "dropout": 0.1,
    "vocab_size": 280, "max_position_embeddings": 64,
}  # fmt: skip


def questions(rows: int = 90, seed: int = 3) -> list[tuple[str, str]]:
    """Questions that are all different, with their answers."""
    chance, found = random.Random(seed), dict[str, str]()
    while len(found) < rows:
        one, other = chance.sample(ANIMALS, 2)
        question = f"the {one} {chance.choice(VERBS)} the {other} {chance.randrange(40)}"
        found[question] = f"{one.upper()} and {other.upper()}"
    return list(found.items())


def write_examples(path: Path, form: str, *, rows: int = 90) -> dict[str, str]:
    """A jsonl file of the form, and its column mapping."""
    made: list[dict[str, Any]] = []
    for question, answer in questions(rows):
        made.append({
            "text": {"text": f"{question}. {answer}. " * 6},
            "pairs": {"question": question, "answer": answer},
            "chat": {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
            "seq2seq": {"question": question, "answer": answer},
        }[form])  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return {
        "text": {"text": "text"},
        "pairs": {"prompt": "question", "completion": "answer"},
        "chat": {"messages": "messages"},
        "seq2seq": {"source": "question", "target": "answer"},
    }[form]


def writer_recipe_values(folder: Path, form: str, *, architecture: str | None = None, **changes: Any) -> dict[str, Any]:
    """Values of a recipe beside its examples in `folder`; `changes` are sections, laid over those here."""
    columns = write_examples(folder / f"{form}.jsonl", form)
    values: dict[str, Any] = {
        "task": "seq2seq" if form == "seq2seq" else "text-generation",
        "model": {
            "from_scratch": {"architecture": architecture or ("t5" if form == "seq2seq" else "gpt2"), **SIZES}
        },
        "data": {"source": f"{form}.jsonl", "columns": columns, "near_duplicates": None},
        "windows": {"max_tokens": 48} | ({"max_target_tokens": 48} if form == "seq2seq" else {}),
        "generation": {"max_new_tokens": 12} | ({"prompt_tokens": 8} if form == "text" else {}),
        "training": {
            "num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "logging_steps": 1,
            "use_cpu": True,
        },
        "evaluation": {"baselines": [], "bootstrap": 100},
    }  # fmt: skip
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return values


def write_recipe(folder: Path, form: str, **changes: Any) -> str:
    """The same as a file; YAML reads JSON."""
    path = folder / f"{form}.yaml"
    path.write_text(json.dumps(writer_recipe_values(folder, form, **changes)), encoding="utf-8")
    return str(path)
