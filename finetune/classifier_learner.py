"""A classifier's learner: the model, tokenizer and windows that one recipe and its prepared data make.

Everything that can be refused about a model is refused here, before any run folder exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.adapter_base import Base
from finetune.adapters import rate_note
from finetune.calibrating import calibrate
from finetune.data.lengths import length_lines
from finetune.data.prepare import Prepared
from finetune.data.store import fingerprint
from finetune.data.windows import ROWS_AT_A_TIME, WindowCounts, cut_windows
from finetune.errors import ModelError
from finetune.hub_models import find_model
from finetune.learner import adapter_settings, base_of_adapter, origin_of, refuse_arithmetic, save_with_settings
from finetune.model_folder import ModelFolder, weights_sha256
from finetune.models import build_classifier, largest_window_tokens, load_tokenizer
from finetune.processes import is_writer
from finetune.progress import SILENT, Progress
from finetune.recipe import ClassifierRecipe, classifier_recipe
from finetune.recipe_adapter import WHOLE, Adapter
from finetune.recipe_file import LoadedRecipe
from finetune.run_files import Calibration
from finetune.runs import Json, Run
from finetune.scorer import validation_scorer
from finetune.scratch_tokenizers import train_tokenizer
from finetune.tasks.base import Task
from finetune.tasks.text_classification import TextClassification, balanced_weights
from finetune.training.batches import DocumentTable
from finetune.training.classifying import ClassifierLesson
from finetune.training.company import company
from finetune.training.frozen import (
    Features,
    FeatureTable,
    FrozenHead,
    FrozenLesson,
    encoder_features,
    find_frozen_head,
)

MOST_UNKNOWN_SHARE = 0.05
PROBED_DOCUMENTS = 8


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
    base: Base | None = None  # of an adapter
    head: FrozenHead | None = None  # of a frozen encoder
    progress: Progress = SILENT

    @property
    def origin(self) -> str:
        return origin_of(self.folder)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    def data_lines(self) -> list[str]:
        return length_lines({split: counts.lengths for split, counts in self.counts.items()})

    def data_report(self) -> Json:
        return {"windows": {split: counts.to_json() for split, counts in self.counts.items()}}

    def lesson(self, loaded: LoadedRecipe, prepared: Prepared, run: Run) -> ClassifierLesson | FrozenLesson:
        plain = ClassifierLesson(
            task=self.task,
            pad_id=self.pad_id,
            examples=DocumentTable(self.windows["train"], prepared.encoded["train"]),
            validation=DocumentTable(self.windows["validation"], prepared.encoded["validation"]),
            validation_windows=window_lists(self.windows["validation"]),
            score_validation=validation_scorer(prepared),
        )
        if self.head is None:
            return plain
        if torch.cuda.is_available() and not loaded.recipe.training.use_cpu:
            self.model.to("cuda")  # type: ignore[arg-type]
        table = FeatureTable(self._features("train", self.head), prepared.encoded["train"])
        return FrozenLesson(plain, self.head, table, self._features("validation", self.head))

    def _features(self, split: str, head: FrozenHead) -> Features:
        """What the head reads of the windows of a split, computed once."""
        assert self.folder is not None  # a frozen encoder was loaded
        windows, path = self.windows[split], self.folder.path
        encoder = fingerprint(weights_sha256(path), (path / "config.json").read_bytes())
        if not is_writer():
            company().agreed(f"features of {split}", "")  # the writer computes them, the others read its file
        with self.progress.bar(total=len(windows), desc=f"frozen encoder reads {split}", unit="document") as bar:
            found = encoder_features(head, windows, encoder=encoder, on_documents=bar.update)
        if is_writer():
            company().agreed(f"features of {split}", "there")
        return found

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
        save_with_settings(model, self.tokenizer, folder, settings=settings, base=self.base)


def build_classifier_learner(loaded: LoadedRecipe, prepared: Prepared, *, progress: Progress) -> ClassifierLearner:
    """Find or build the model, then cut windows with its tokenizer. Raises ModelError, RecipeError, DataError."""
    recipe = classifier_recipe(loaded.recipe)
    refuse_arithmetic(loaded)
    folder, tokenizer = _find_tokenizer(loaded, prepared.splits["train"]["text"])

    def build(adapter: Adapter = WHOLE) -> tuple[PreTrainedModel, list[str]]:
        return build_classifier(
            recipe.model,
            folder=folder,
            tokenizer=tokenizer,
            label_names=prepared.labels.names,
            multi_label=prepared.labels.multi_label,
            seed=recipe.seed,
            adapter=adapter,
        )

    model, notes = build(recipe.adapter)
    notes += rate_note(recipe.adapter, recipe.training.learning_rate)
    _refuse_windows(loaded, model, tokenizer)
    windows, counts = {}, {}
    for split, rows in prepared.splits.items():
        with progress.bar(total=len(rows), desc=f"cutting windows of {split}", unit="document") as bar:
            cut, counts[split] = cut_windows(rows, tokenizer, settings=recipe.windows, on_documents=bar.update)
        windows[split] = cut.select_columns(["windows"])  # training reads rows one at a time, and only these
        notes.extend(_cut_notes(recipe, split, counts[split]))
    notes.extend(_unknown_note(windows["train"], tokenizer))
    head = None
    if recipe.adapter.kind == "frozen":
        head = _frozen_head(model, windows["train"], tokenizer)
        if head is None:
            notes.append(f"what the head of {type(model).__name__} reads is not found: the encoder runs in every epoch")
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
        task, model, tokenizer, windows, counts, folder, notes, _model_settings(recipe), lambda: build()[0],
        base=base_of_adapter(recipe, folder), head=head, progress=progress,
    )  # fmt: skip


def _frozen_head(
    model: PreTrainedModel, windows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast
) -> FrozenHead | None:
    probe = [window for document in window_lists(windows)[:PROBED_DOCUMENTS] for window in document]
    return find_frozen_head(model, probe, pad_id=int(tokenizer.pad_token_id or 0))


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
        **adapter_settings(recipe),
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
