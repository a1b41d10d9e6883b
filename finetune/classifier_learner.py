"""A classifier's learner: the model, tokenizer and windows that one recipe and its prepared data make.

Everything that can be refused about a model is refused here, before any run folder exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.calibrating import calibrate
from finetune.data.lengths import LengthAudit
from finetune.data.prepare import Prepared
from finetune.data.windows import ROWS_AT_A_TIME, WindowCounts, cut_windows
from finetune.errors import ModelError
from finetune.hub_models import find_model
from finetune.learner import origin_of, refuse_arithmetic, save_with_settings
from finetune.model_folder import ModelFolder
from finetune.models import build_classifier, largest_window_tokens, load_tokenizer
from finetune.progress import Progress
from finetune.recipe import ClassifierRecipe, classifier_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Calibration
from finetune.runs import Json, Run
from finetune.scorer import validation_scorer
from finetune.scratch_tokenizers import train_tokenizer
from finetune.tasks.base import Task
from finetune.tasks.text_classification import TextClassification, balanced_weights
from finetune.training.batches import DocumentTable
from finetune.training.classifying import ClassifierLesson

MOST_UNKNOWN_SHARE = 0.05


@dataclass(frozen=True)
class ClassifierLearner:
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
        return origin_of(self.folder)

    @property
    def lengths(self) -> dict[str, LengthAudit]:
        """How long the documents of each split are in tokens of this model."""
        return {split: counts.lengths for split, counts in self.counts.items()}

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    def windows_report(self) -> Json:
        return {split: counts.to_json() for split, counts in self.counts.items()}

    def lesson(self, loaded: LoadedRecipe, prepared: Prepared, run: Run) -> ClassifierLesson:
        return ClassifierLesson(
            task=self.task,
            pad_id=self.pad_id,
            examples=DocumentTable(self.windows["train"], prepared.encoded["train"]),
            validation=DocumentTable(self.windows["validation"], prepared.encoded["validation"]),
            validation_windows=window_lists(self.windows["validation"]),
            score_validation=validation_scorer(prepared),
        )

    def calibration(self, loaded: LoadedRecipe, prepared: Prepared, *, progress: Progress) -> Calibration | None:
        if not classifier_recipe(loaded.recipe).evaluation.calibrate:
            return None
        windows = window_lists(self.windows["validation"])
        passes = 2 if prepared.labels.multi_label else 1
        with progress.bar(total=passes * len(windows), desc="calibrating", unit="document", leave=False) as bar:
            return calibrate(
                self.model,
                task=self.task,
                windows=windows,
                labels=prepared.encoded["validation"],
                pad_id=self.pad_id,
                label_names=prepared.labels.names,
                multi_label=prepared.labels.multi_label,
                on_documents=bar.update,
            )

    def save(self, model: PreTrainedModel, folder: Path, calibration: Calibration | None = None) -> None:
        settings = dict(self.settings)
        if calibration is not None:
            settings["calibration"] = calibration.model_dump(include={"temperature", "folded", "thresholds"})
        save_with_settings(model, self.tokenizer, folder, settings=settings)


def build_classifier_learner(loaded: LoadedRecipe, prepared: Prepared, *, progress: Progress) -> ClassifierLearner:
    """Find or build the model, then cut windows with its tokenizer. Raises ModelError, RecipeError, DataError."""
    recipe = classifier_recipe(loaded.recipe)
    refuse_arithmetic(loaded)
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
    return ClassifierLearner(
        task, model, tokenizer, windows, counts, folder, notes, _model_settings(recipe), fresh_model=lambda: build()[0]
    )


def window_lists(windows: datasets.Dataset) -> Sequence[list[list[int]]]:
    """A lazily read column of windows, indexable and sliceable like a list."""
    return windows["windows"]  # type: ignore[no-any-return]


def _find_tokenizer(
    loaded: LoadedRecipe, train_texts: Sequence[str]
) -> tuple[ModelFolder | None, PreTrainedTokenizerFast]:
    section = classifier_recipe(loaded.recipe).model
    if section.from_scratch is not None:
        return None, train_tokenizer(train_texts, section.from_scratch)
    assert section.name is not None  # the recipe sees to it
    folder = find_model(section.name, base=loaded.base, revision=section.revision)
    return folder, load_tokenizer(folder)


def _model_settings(recipe: ClassifierRecipe) -> Json:
    return {
        "format_version": 1,
        "task": recipe.task,
        "multi_label": recipe.data.multi_label,
        "cleaning": [step.model_dump(mode="json") for step in recipe.cleaning],
        "windows": recipe.windows.model_dump(mode="json"),
        "text_column": recipe.data.columns.text,
    }


def _cut_notes(recipe: ClassifierRecipe, split: str, counts: WindowCounts) -> list[str]:
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
    wanted, allowed = classifier_recipe(loaded.recipe).windows, largest_window_tokens(model.config, tokenizer)
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
