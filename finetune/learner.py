"""A learner: the model and examples that one recipe and its prepared data make, ready to be trained.

What every task's learner can do is told here; classifier_learner.py, writer_learner.py and image_learner.py build them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.adapter_base import Base
from finetune.adapters import save_adapter
from finetune.data.labels import LabelMap
from finetune.errors import RecipeError
from finetune.model_folder import ModelFolder
from finetune.pretrained import quantising_fault, quiet, save_model
from finetune.progress import Progress
from finetune.recipe import Recipe, TextRecipe
from finetune.recipe_file import LoadedRecipe
from finetune.recipe_training import Training
from finetune.replaced_folder import replaced_folder
from finetune.run_files import Calibration
from finetune.runs import MODEL_SETTINGS, Json, Run, disk_faults
from finetune.training.trainer import check_trackers


class PreparedData(Protocol):
    """What the experiment asks of prepared data, be they documents or images."""

    @property
    def labels(self) -> LabelMap: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def report(self) -> Json:
        """data.json, but for what the learner adds."""

    @property
    def warnings(self) -> list[str]: ...

    def split_table(self) -> Json:
        """Columns of splits.parquet."""


class Learner(Protocol):
    """What the experiment asks of a learner, whatever its task. `prepared` is the data it was built from."""

    @property
    def model(self) -> PreTrainedModel: ...

    @property
    def origin(self) -> str:
        """Where the weights come from, for run.json."""

    @property
    def notes(self) -> list[str]:
        """What the model and the cutting gave cause to say; warnings begin with the word."""

    def data_lines(self) -> list[str]:
        """What is said of the data, as the model sees them, before the training."""

    def data_report(self) -> Json:
        """What data.json says besides, such as windows or sequences by split."""

    def lesson(self, loaded: LoadedRecipe, prepared: Any, run: Run) -> Any:
        """What whoever fits the model needs; the test split is not part of it."""

    def calibration(self, loaded: LoadedRecipe, prepared: Any, *, progress: Progress) -> Calibration | None:
        """What is fitted on validation after the epoch is chosen, and folded into `model`; None where nothing is."""

    def save(self, model: PreTrainedModel, folder: Path, calibration: Calibration | None = None) -> None:
        """A complete model: weights, configuration, and how it is used (finetune.json)."""


def save_with_settings(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, *, settings: Json,
    base: Base | None = None,
) -> None:  # fmt: skip
    """A complete model in `folder`, with its settings in finetune.json; or an adapter, which names its `base` there."""
    if base is None:
        save_model(model, tokenizer, folder, extra_files={MODEL_SETTINGS: json.dumps(settings, indent=1)})
        return
    told = settings | {"adapter": {**settings["adapter"], "base": base.to_json(folder)}}
    save_adapter(model, tokenizer, folder, base=base, extra_files={MODEL_SETTINGS: json.dumps(told, indent=1)})


def base_of_adapter(recipe: TextRecipe, folder: ModelFolder | None) -> Base | None:
    """The model beside whose weights this recipe trains matrices; None where it trains none."""
    if not recipe.adapter.is_low_rank:
        return None
    assert folder is not None and recipe.model.name is not None  # the recipe sees to it
    return Base.of(folder, name=recipe.model.name)


def adapter_settings(recipe: TextRecipe) -> Json:
    """What finetune.json says of an adapter, but for its base."""
    return {"adapter": {"kind": recipe.adapter.kind}} if recipe.adapter.is_low_rank else {}


def save_image_model(model: PreTrainedModel, folder: Path, *, settings: Json) -> None:
    """The same of a model that reads no text."""
    with disk_faults(folder), replaced_folder(folder) as staging, quiet():
        model.save_pretrained(staging)
        (staging / MODEL_SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")


def origin_of(folder: ModelFolder | None) -> str:
    """Where the weights come from: a model folder tells, or none was loaded."""
    return folder.origin if folder is not None else "from scratch"


def refuse_arithmetic(loaded: LoadedRecipe) -> None:
    """Raises RecipeError for number formats that this machine has not, and for trackers that are not installed."""
    training = loaded.recipe.training
    if isinstance(training, Training):
        check_trackers(training.report_to, where=loaded.where("training", "report_to"))
    on_gpu = torch.cuda.is_available() and not training.use_cpu
    if training.fp16 and not on_gpu:
        raise RecipeError(loaded.where("training", "fp16"), "float16 training needs a GPU", "Leave it out on a CPU.")
    if training.bf16 and on_gpu and not torch.cuda.is_bf16_supported():
        raise RecipeError(loaded.where("training", "bf16"), "this GPU has no bfloat16", "Use training.fp16.")
    if isinstance(loaded.recipe, TextRecipe) and loaded.recipe.adapter.kind == "qlora":
        fault = "needs a GPU, and training.use_cpu leaves it alone" if training.use_cpu else quantising_fault()
        if fault:
            do = "Use lora, or install the extra `qlora` on a machine with CUDA: pip install 'finetune[qlora]'."
            raise RecipeError(loaded.where("adapter", "kind"), f"'qlora' {fault}", do)


def training_identity(loaded: LoadedRecipe, prepared: PreparedData, *, processes: int) -> dict[str, Any]:
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
        "report_to",
        "source",
        "encoding",
        "name",
        "text_encoder",
    }

    def flatten(section: Json, path: str) -> None:
        for key, value in section.items():
            if isinstance(value, dict) and key != "source":
                flatten(value, f"{path}{key}.")
            elif key not in untouched:
                identity[f"{path}{key}"] = value

    # What stands beside the scores, and what only a search reads, is free to change.
    plain = recipe.model_dump(mode="json", exclude={"evaluation", "report", "search"})
    flatten(plain, "")
    # A path may lead from elsewhere to the same folder.
    identity["model"] = (plain["model"]["name"] or "from scratch").rsplit("/", 1)[-1]
    if "image" in plain:
        identity["image.text_encoder"] = plain["image"]["text_encoder"].rsplit("/", 1)[-1]
    return identity
