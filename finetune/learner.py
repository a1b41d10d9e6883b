"""A learner: the task, model, tokenizer and windows that one recipe and its prepared data make.

Everything that can be refused about a model is refused here, before any run folder exists.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.data.lengths import LengthAudit
from finetune.data.prepare import Prepared
from finetune.data.windows import ROWS_AT_A_TIME, WindowCounts, cut_windows
from finetune.errors import ModelError, RecipeError
from finetune.model_folder import ModelFolder
from finetune.models import (
    build_classifier,
    find_model,
    largest_window_tokens,
    load_tokenizer,
    save_model,
    train_tokenizer,
)
from finetune.progress import Progress
from finetune.recipe import Recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Calibration
from finetune.runs import MODEL_SETTINGS, Json
from finetune.tasks.base import Task
from finetune.tasks.text_classification import TextClassification, balanced_weights

MOST_UNKNOWN_SHARE = 0.05


@dataclass(frozen=True)
class Learner:
    """`windows` has, for each split, one list of windows a document, in the order of the prepared rows."""

    task: Task
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    windows: dict[str, datasets.Dataset]
    counts: dict[str, WindowCounts]
    folder: ModelFolder | None
    notes: list[str]
    settings: Json
    fresh_model: Callable[[], PreTrainedModel]

    @property
    def origin(self) -> str:
        return self.folder.origin if self.folder is not None else "from scratch"

    @property
    def lengths(self) -> dict[str, LengthAudit]:
        """How long the documents of each split are in tokens of this model."""
        return {split: counts.lengths for split, counts in self.counts.items()}

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    def save(self, model: PreTrainedModel, folder: Path, calibration: Calibration | None = None) -> None:
        """A complete model: weights, configuration, tokenizer, how to cut and merge windows, how it is calibrated."""
        settings = dict(self.settings)
        if calibration is not None:
            settings["calibration"] = calibration.model_dump(include={"temperature", "folded", "thresholds"})
        text = json.dumps(settings, indent=1)
        save_model(model, self.tokenizer, folder, extra_files={MODEL_SETTINGS: text})


def build_learner(loaded: LoadedRecipe, prepared: Prepared, *, progress: Progress) -> Learner:
    """Find or build the model, then cut windows with its tokenizer. Raises ModelError, RecipeError, DataError."""
    recipe = loaded.recipe
    _refuse_arithmetic(loaded)
    folder, tokenizer = _find_tokenizer(loaded, prepared.splits["train"]["text"])

    def build() -> tuple[PreTrainedModel, list[str]]:
        return build_classifier(
            recipe.model,
            folder=folder,
            tokenizer=tokenizer,
            label_names=prepared.labels.names,
            multi_label=prepared.labels.multi_label,
            seed=recipe.seed,
        )

    model, notes = build()
    _refuse_windows(loaded, model, tokenizer)
    windows, counts = {}, {}
    for split, rows in prepared.splits.items():
        with progress.bar(total=len(rows), desc=f"cutting windows of {split}", unit="document") as bar:
            cut, counts[split] = cut_windows(rows, tokenizer, settings=recipe.windows, on_documents=bar.update)
        windows[split] = cut.select_columns(["windows"])  # training reads rows one at a time, and only these
        notes.extend(_cut_notes(recipe, split, counts[split]))
    notes.extend(_unknown_note(windows["train"], tokenizer))
    task = TextClassification(
        labels=prepared.labels,
        aggregate=recipe.windows.aggregate,
        class_weights=(
            balanced_weights(prepared.encoded["train"], prepared.labels)
            if recipe.training.class_weights == "balanced"
            else None
        ),
        label_smoothing=recipe.training.label_smoothing_factor,
    )
    return Learner(
        task, model, tokenizer, windows, counts, folder, notes, _model_settings(recipe), fresh_model=lambda: build()[0]
    )


def window_lists(windows: datasets.Dataset) -> Sequence[list[list[int]]]:
    """A lazily read column of windows, indexable and sliceable like a list."""
    return windows["windows"]  # type: ignore[no-any-return]


def _find_tokenizer(
    loaded: LoadedRecipe, train_texts: Sequence[str]
) -> tuple[ModelFolder | None, PreTrainedTokenizerFast]:
    section = loaded.recipe.model
    if section.from_scratch is not None:
        return None, train_tokenizer(train_texts, section.from_scratch)
    assert section.name is not None  # the recipe sees to it
    folder = find_model(section.name, base=loaded.base, revision=section.revision)
    return folder, load_tokenizer(folder)


def _model_settings(recipe: Recipe) -> Json:
    return {
        "format_version": 1,
        "task": recipe.task,
        "multi_label": recipe.data.multi_label,
        "cleaning": [step.model_dump(mode="json") for step in recipe.cleaning],
        "windows": recipe.windows.model_dump(mode="json"),
        "text_column": recipe.data.columns.text,
    }


def _cut_notes(recipe: Recipe, split: str, counts: WindowCounts) -> list[str]:
    if not counts.documents_cut:
        return []
    chosen = recipe.windows
    setting = "truncate" if chosen.truncate else f"max_per_document {chosen.max_per_document}"
    setting += f" ({chosen.keep})" if chosen.keep != "head" else ""
    documents = f"{counts.documents_cut:,} of {counts.documents:,} documents"
    return [f"{split}: windows.{setting} cuts {counts.tokens_cut:,} tokens from {documents}"]


def _unknown_note(windows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """A warning when the model cannot read much of the text, as an English one Chinese."""
    if tokenizer.unk_token_id is None:
        return []
    unknown = tokens = 0
    for batch in windows.with_format("arrow").iter(batch_size=ROWS_AT_A_TIME):
        ids = batch["windows"].combine_chunks().flatten().flatten().to_numpy()
        unknown, tokens = unknown + int((ids == tokenizer.unk_token_id).sum()), tokens + len(ids)
    if unknown <= MOST_UNKNOWN_SHARE * tokens:
        return []
    return [f"warning: {unknown / tokens:.0%} of the training tokens are unknown to this model's tokenizer"]


def _refuse_windows(loaded: LoadedRecipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    wanted, allowed = loaded.recipe.windows, largest_window_tokens(model.config, tokenizer)
    if wanted.max_tokens > allowed:
        raise ModelError(
            loaded.where("windows", "max_tokens"),
            f"{wanted.max_tokens:,} tokens, but the model allows {allowed:,}",
            f"Write windows.max_tokens: {allowed}.",
        )
    room = wanted.max_tokens - tokenizer.num_special_tokens_to_add()
    if wanted.stride >= room:
        raise ModelError(
            loaded.where("windows", "stride"),
            f"{wanted.stride:,} tokens, but a window of this tokenizer holds {room:,} besides its special tokens",
            f"Write windows.stride: {room // 2}.",
        )
    # Windows are given to the model as ids and mask; XLNet, for one, also wants the last token marked.
    if any(tokenizer("a", return_token_type_ids=True).get("token_type_ids", [])):
        raise ModelError(
            loaded.where("model", "name"),
            f"{model.config.model_type} needs token types in a single text, which is not supported",
            "Choose another model.",
        )


def _refuse_arithmetic(loaded: LoadedRecipe) -> None:
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
