"""Everything a fit needs, built in memory in milliseconds: documents of token ids, a BERT, a plan.

plan = tiny_plan(tmp_path, train=tiny_documents(20), validation=tiny_documents(8, seed=1))
result = fit(tiny_bert(3), plan)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from finetune.data.labels import LabelMap
from finetune.progress import SILENT
from finetune.recipe_training import ClassifierTraining
from finetune.tasks.text_classification import TextClassification
from finetune.training.batches import DocumentTable
from finetune.training.classifying import ClassifierLesson
from finetune.training.inference import DocumentPredictions
from finetune.training.plan import FitPlan
from finetune.training.stopping import StopRequest

VOCABULARY = 40
LONGEST_WINDOW = 24

Documents = tuple[list[list[list[int]]], list[Any]]  # windows of each document, and its encoded label


def classification(
    classes: int,
    *,
    multi_label: bool = False,
    class_weights: tuple[float, ...] | None = None,
    label_smoothing: float = 0.0,
    aggregate: Any = "mean",
) -> TextClassification:
    names = [f"label{number}" for number in range(classes)]
    return TextClassification(
        labels=LabelMap.from_names(names, multi_label=multi_label),
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        aggregate=aggregate,
    )


def tiny_documents(
    count: int, *, classes: int = 3, most_windows: int = 3, seed: int = 0, multi_label: bool = False
) -> Documents:
    """Windows of very different lengths; the label shows in the second token."""
    random = np.random.default_rng(seed)
    windows, labels = [], []
    for _ in range(count):
        label = int(random.integers(classes))
        lengths = random.integers(3, LONGEST_WINDOW, size=int(random.integers(1, most_windows + 1)))
        windows.append([[2, 5 + label, *random.integers(10, VOCABULARY, size=n - 2).tolist()] for n in lengths])
        labels.append(sorted({label, int(random.integers(classes))}) if multi_label else label)
    return windows, labels


def tiny_bert(classes: int = 3, *, dropout: float = 0.0, seed: int = 0) -> PreTrainedModel:
    """A one-layer BERT of 16 dimensions with large weights, so that its gradients are not all zero."""
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=LONGEST_WINDOW, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        num_labels=classes, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(seed)
    return BertForSequenceClassification(config)


def tiny_plan(
    folder: Path,
    *,
    train: Documents,
    validation: Documents,
    task: TextClassification | None = None,
    score: Callable[[DocumentPredictions], Mapping[str, float | None]] | None = None,
    greater_is_better: bool = True,
    save_model: Callable[[PreTrainedModel, Path], None] = lambda model, folder: None,
    **settings: Any,
) -> FitPlan:
    """A plan on the CPU that logs every step; `settings` are those of the recipe's section training."""
    chosen = {"use_cpu": True, "logging_steps": 1, "num_train_epochs": 1, "per_device_train_batch_size": 12}
    columns = {
        name: datasets.Dataset.from_dict({"windows": windows})
        for name, (windows, _) in (("train", train), ("validation", validation))
    }
    return FitPlan(
        lesson=ClassifierLesson(
            task=task or classification(3),
            pad_id=0,
            examples=DocumentTable(columns["train"], train[1]),
            validation=DocumentTable(columns["validation"], validation[1]),
            validation_windows=columns["validation"]["windows"],
            score_validation=score or accuracy_against(validation[1]),
        ),
        settings=ClassifierTraining.model_validate(chosen | settings),
        seed=13,
        greater_is_better=greater_is_better,
        checkpoints=folder / "checkpoints",
        history=folder / "history.jsonl",
        last=folder / "last",
        identity={"run": "tiny"},
        stop=StopRequest(where=str(folder), resume_hint=""),
        progress=SILENT,
        save_model=save_model,
    )


def accuracy_against(labels: Sequence[int]) -> Callable[[DocumentPredictions], Mapping[str, float | None]]:
    """The share of right documents, under the name that the recipe selects by default."""

    def score(predictions: DocumentPredictions) -> Mapping[str, float | None]:
        return {"f1_macro": float((predictions.probabilities.argmax(axis=1) == np.asarray(labels)).mean())}

    return score
