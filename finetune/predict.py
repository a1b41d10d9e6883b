"""Predictions for new texts from a run folder or a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.data.cleaning import clean_text
from finetune.data.labels import LabelMap
from finetune.data.windows import cut_windows
from finetune.errors import CheckpointError, Collector, DataError, ModelError
from finetune.models import load_classifier
from finetune.recipe import Windows
from finetune.runs import MODEL_SETTINGS, find_run
from finetune.tasks.base import Task
from finetune.tasks.text_classification import TextClassification
from finetune.training.inference import DocumentPredictions, predict_documents


def _unheard(documents: int) -> None:
    """Nobody follows the progress."""


@dataclass(frozen=True)
class Prediction:
    """One document: the label (or labels), and the probability of every label."""

    label: str | list[str]
    probabilities: dict[str, float]


class Predictor:
    """A finished model with its label names, windows and cleaning; predicts documents of any length.

    >>> Predictor.load("runs/python-docs-1").predict(["Open a socket and listen."])[0].label
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, task: Task, windows: Windows,
        cleaning: Sequence[str], labels: LabelMap, text_column: str = "text",
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.task = model, tokenizer, task
        self.windows, self.cleaning, self.labels = windows, cleaning, labels
        self.text_column = text_column

    @classmethod
    def load(cls, folder: str | Path, *, use_cpu: bool = False) -> Predictor:
        """From a run folder (its best/), or from best/, last/ or a copy of them. Raises ModelError."""
        path = Path(folder).expanduser()
        if not (path / MODEL_SETTINGS).exists() and not (path / "config.json").exists():
            run = find_run(path)
            path = run.best
            if not path.is_dir():
                raise CheckpointError(str(run.folder), "has no best/", "Finish the training first: --resume.")
        model, tokenizer = load_classifier(path)
        try:
            settings = json.loads((path / MODEL_SETTINGS).read_text(encoding="utf-8"))
            windows = Windows.model_validate(settings["windows"])
        except FileNotFoundError:
            raise ModelError(
                str(path), f"has no {MODEL_SETTINGS}", "Name a run folder, or its best/ or last/."
            ) from None
        except (ValueError, KeyError) as error:
            raise ModelError(str(path / MODEL_SETTINGS), f"cannot be read ({type(error).__name__})") from None
        names = {int(index): str(name) for index, name in (model.config.id2label or {}).items()}
        labels = LabelMap.from_names([names[index] for index in sorted(names)], multi_label=settings["multi_label"])
        if torch.cuda.is_available() and not use_cpu:
            model.to("cuda")  # type: ignore[arg-type]
        return cls(
            model,
            tokenizer,
            task=TextClassification(labels=labels, aggregate=windows.aggregate),
            windows=windows,
            cleaning=settings["cleaning"],
            labels=labels,
            text_column=settings["text_column"],
        )

    def predict(
        self,
        texts: Sequence[str],
        *,
        origins: Sequence[str] | None = None,
        on_documents: Callable[[int], None] = _unheard,
    ) -> list[Prediction]:
        """One prediction a text, in their order. Raises DataError naming every text that is missing or empty."""
        if not texts:
            return []
        origins = origins or [f"text {number}" for number in range(1, len(texts) + 1)]
        rows = datasets.Dataset.from_dict({"text": self._clean(texts, origins), "origin": list(origins)})
        probabilities = self.predict_rows(rows, on_documents=on_documents).probabilities
        decided = self.task.decide(probabilities)
        return [
            Prediction(label=label, probabilities=dict(zip(self.labels.names, row.tolist(), strict=True)))
            for label, row in zip(decided, probabilities, strict=True)
        ]

    def predict_rows(
        self,
        rows: datasets.Dataset,
        *,
        labels: Sequence[Any] | None = None,
        on_documents: Callable[[int], None] = _unheard,
    ) -> DocumentPredictions:
        """Predict cleaned rows with the columns text and origin; `labels` (encoded) adds the loss."""
        cut, _ = cut_windows(rows, self.tokenizer, settings=self.windows)
        return predict_documents(
            self.model,
            cut["windows"],
            task=self.task,
            pad_id=int(self.tokenizer.pad_token_id or 0),
            labels=labels,
            on_documents=on_documents,
        )

    def _clean(self, texts: Sequence[Any], origins: Sequence[str]) -> list[str]:
        problems = Collector(DataError)
        cleaned = []
        for text, origin in zip(texts, origins, strict=True):
            if text is None or not isinstance(text, str):
                problems.add(origin, "text is missing")
                continue
            cleaned.append(clean_text(text, self.cleaning))
            if not cleaned[-1].strip():
                problems.add(origin, "text is empty")
        problems.raise_if_any()
        return cleaned
