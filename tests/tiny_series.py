"""A table of made-up reviews and a recipe of a tiny model: what a cross-validation or seeds train in a second or two.

recipe = write_recipe(tmp_path)
cross_validate([load_recipe(recipe)], folds=3, ...)
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune import experiment

WORDS = {"good": ["fine", "lovely", "clean", "warm"], "bad": ["dirty", "cold", "rude", "broken"]}
RECIPE: dict[str, Any] = {
    "task": "text-classification",
    "model": {
        "from_scratch": {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "vocab_size": 100,
        }
    },
    "data": {"source": "reviews.csv", "columns": {"group": "author"}},
    "windows": {"max_tokens": 16, "stride": 4},
    "training": {"num_train_epochs": 4, "per_device_train_batch_size": 8, "use_cpu": True, "learning_rate": 2e-2},
    "evaluation": {"baselines": ["majority", "naive_bayes"], "bootstrap": 0},
}  # fmt: skip


def write_reviews(path: Path, *, rows: int = 90) -> None:
    """Two labels in turn, three reviews of each author; every text is different."""
    chance = random.Random(5)
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label", "author"])
        for row in range(rows):
            label, other = (("good", "bad"), ("bad", "good"))[row % 2]
            words = [chance.choice(WORDS[label if chance.random() < 0.8 else other]) for _ in range(6)]
            writer.writerow([f"{row} {' '.join(words)}", label, f"author {row // 3}"])


def write_recipe(folder: Path, name: str = "small", *, rows: int = 90, **sections: Any) -> Path:
    """`folder`/NAME.yaml beside its reviews; `sections` replace those of RECIPE."""
    if not (folder / "reviews.csv").exists():
        write_reviews(folder / "reviews.csv", rows=rows)
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(RECIPE | sections), encoding="utf-8")
    return path


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever trains now, fails."""

    def refuse(*words: Any, **settings: Any) -> None:
        raise AssertionError("nothing is to be trained here")

    monkeypatch.setattr(experiment, "train", refuse)
    monkeypatch.setattr(experiment, "resume", refuse)
