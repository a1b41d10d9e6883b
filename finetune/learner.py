"""A learner: the model, tokenizer and examples that one recipe and its prepared data make, ready to be trained.

What every task's learner can do is told here; classifier_learner.py and writer_learner.py build them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.data.lengths import LengthAudit
from finetune.data.prepare import Prepared
from finetune.errors import RecipeError
from finetune.model_folder import ModelFolder
from finetune.pretrained import save_model
from finetune.progress import Progress
from finetune.recipe import Recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Calibration
from finetune.runs import MODEL_SETTINGS, Json, Run
from finetune.training.lessons import Lesson


class Learner(Protocol):
    """What the experiment asks of a learner, whatever its task."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def origin(self) -> str:
        """Where the weights come from, for run.json."""

    @property
    def notes(self) -> list[str]:
        """What the model and the cutting gave cause to say; warnings begin with the word."""

    @property
    def lengths(self) -> dict[str, LengthAudit]:
        """How long the documents of each split are in tokens of this model."""

    def windows_report(self) -> Json:
        """What data.json says of windows or sequences, by split."""

    def lesson(self, loaded: LoadedRecipe, prepared: Prepared, run: Run) -> Lesson:
        """What the trainer needs; the test split is not part of it."""

    def calibration(self, loaded: LoadedRecipe, prepared: Prepared, *, progress: Progress) -> Calibration | None:
        """What is fitted on validation after the epoch is chosen, and folded into `model`; None where nothing is."""

    def save(self, model: PreTrainedModel, folder: Path, calibration: Calibration | None = None) -> None:
        """A complete model: weights, configuration, tokenizer, and how it is used (finetune.json)."""


def save_with_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, settings: Json
) -> None:
    """A complete model in `folder`, with its settings in finetune.json."""
    save_model(model, tokenizer, folder, extra_files={MODEL_SETTINGS: json.dumps(settings, indent=1)})


def origin_of(folder: ModelFolder | None) -> str:
    """Where the weights come from: a model folder tells, or none was loaded."""
    return folder.origin if folder is not None else "from scratch"


def refuse_arithmetic(loaded: LoadedRecipe) -> None:
    """Raises RecipeError for number formats that this machine has not."""
    training = loaded.recipe.training
    on_gpu = torch.cuda.is_available() and not training.use_cpu
    if training.fp16 and not on_gpu:
        raise RecipeError(loaded.where("training", "fp16"), "float16 training needs a GPU", "Leave it out on a CPU.")
    if training.bf16 and on_gpu and not torch.cuda.is_bf16_supported():
        raise RecipeError(loaded.where("training", "bf16"), "this GPU has no bfloat16", "Use training.fp16.")


def training_identity(loaded: LoadedRecipe, prepared: Prepared, *, processes: int) -> dict[str, Any]:
    """What must be equal for a checkpoint to be continued: data, processes, settings that touch the weights."""
    return {"data": prepared.fingerprint[:16], "processes": processes, **settings_identity(loaded.recipe)}


def settings_identity(recipe: Recipe) -> dict[str, Any]:
    """The settings that touch the weights, flat: `training.learning_rate` and its like."""
    identity: dict[str, Any] = {}
    untouched = {
        "logging_steps",
        "most_characters",
        "num_proc",
        "save_total_limit",
        "save_steps",
        "source",
        "encoding",
        "name",
    }

    def flatten(section: Json, path: str) -> None:
        for key, value in section.items():
            if isinstance(value, dict) and key != "source":
                flatten(value, f"{path}{key}.")
            elif key not in untouched:
                identity[f"{path}{key}"] = value

    # What stands beside the scores, and what only a search reads, is free to change.
    flatten(recipe.model_dump(mode="json", exclude={"evaluation", "report", "search"}), "")
    identity["model"] = (recipe.model.name or "from scratch").rsplit("/", 1)[-1]
    return identity
