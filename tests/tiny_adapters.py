"""Runs of adapters that train in a few seconds: a classifier's and a writer's, with their bases beside them.

run = classifier_run(tmp_path)      # recipe reviews.yaml, run folder run/, base folder base/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_series
import tiny_writers
from tiny_models import tiny_bert_folder, tiny_writer_folder

from finetune.experiment import train
from finetune.recipe_file import LoadedRecipe, load_recipe
from finetune.runs import Run


def classifier_recipe(folder: Path, **sections: Any) -> LoadedRecipe:
    """Reviews, a BERT that knows their words, and enough validation documents for a temperature."""
    words = [word for group in tiny_series.WORDS.values() for word in group]
    tiny_bert_folder(folder / "base", texts=[" ".join([*words, *map(str, range(400))])])
    changes: dict[str, Any] = {
        "model": {"name": "base"},
        "adapter": {"kind": "lora", "r": 4},
        "training": {**tiny_series.RECIPE["training"], "num_train_epochs": 2, "learning_rate": 1e-2},
        "evaluation": {"baselines": ["majority", "frozen_encoder"], "bootstrap": 0},
    }
    return load_recipe(tiny_series.write_recipe(folder, "reviews", rows=360, **(changes | sections)))


def classifier_run(folder: Path, **sections: Any) -> Run:
    return train(classifier_recipe(folder, **sections), folder=folder / "run")


def writer_recipe(folder: Path, form: str, **sections: Any) -> LoadedRecipe:
    tiny_writer_folder(folder / "base", "t5" if form == "seq2seq" else "gpt2")
    values = tiny_writers.writer_recipe_values(folder, form, evaluation={"baselines": ["zero_shot"], "bootstrap": 0})
    values |= {"model": {"name": "base"}, "adapter": {"kind": "lora", "r": 4}} | sections
    path = folder / "writer.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return load_recipe(path)


def writer_run(folder: Path, form: str, **sections: Any) -> Run:
    return train(writer_recipe(folder, form, **sections), folder=folder / "run")
