"""Predictions for new texts from a run folder or a model folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from pydantic import BaseModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finetune.cleaning_steps import CleaningStep
from finetune.data.cleaning import clean_text
from finetune.data.labels import LabelMap
from finetune.data.own_functions import own_function_folders
from finetune.data.windows import Ints, cut_windows, passages
from finetune.errors import DataError, ModelError, listed
from finetune.hub_models import find_saved_model
from finetune.models import load_classifier
from finetune.recipe_windows import Windows
from finetune.run_files import Calibration
from finetune.runs import MODEL_SETTINGS, Run
from finetune.tasks.base import Floats, Task
from finetune.tasks.text_classification import TextClassification
from finetune.training.inference import DocumentPredictions, predict_documents

MOST_ROWS_SHOWN = 200  # of a file in which many rows have no text


def _unheard(documents: int) -> None:
    """Nobody follows the progress."""


@dataclass(frozen=True)
class Prediction:
    """One document: the label (or labels), the probability of every label, and the number of windows it became.

    Where there are several, `passage` is the cleaned text of the one that is surest of the most probable label.
    `tokens_cut` were not read, because the model's windows are truncated or limited.
    """

    label: str | list[str]
    probabilities: dict[str, float]
    windows: int
    passage: str | None
    tokens_cut: int


@dataclass(frozen=True)
class RowPredictions(DocumentPredictions):
    """With `passages` (documents, 2): where the deciding window begins and ends, in characters of the cleaned text.

    `tokens` (documents,) counts those of the whole text, `tokens_cut` (documents,) those that no window holds.
    """

    passages: Ints
    tokens: Ints
    tokens_cut: Ints


class Predictor:
    """A finished model with its label names, windows and cleaning; predicts documents of any length.

    >>> Predictor.load("runs/python-docs-1").predict(["Open a socket and listen."])[0].label
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, task: Task, windows: Windows,
        cleaning: Sequence[CleaningStep], labels: LabelMap, text_column: str = "text",
        function_folders: Sequence[Path] = (), calibration: Calibration | None = None,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.task = model, tokenizer, task
        self.windows, self.cleaning, self.labels = windows, cleaning, labels
        self.text_column, self.function_folders = text_column, function_folders
        self.calibration = calibration
        # (labels,): from which probability on each of several labels is predicted; None is 0.5 for all.
        self.thresholds = None if calibration is None else _threshold_array(calibration, labels)

    @classmethod
    def load(cls, folder: str | Path, *, use_cpu: bool = False) -> Predictor:
        """From a run folder (its best/), from best/, last/ or a copy of them, or `hub:USER/NAME`. Raises ModelError."""
        path = find_saved_model(folder)
        model, tokenizer = load_classifier(path)
        settings = _read_settings(path)
        names = {int(index): str(name) for index, name in (model.config.id2label or {}).items()}
        labels = LabelMap.from_names([names[index] for index in sorted(names)], multi_label=settings.multi_label)
        foreign = [name for name in settings.thresholds if name not in labels.names]
        if foreign:
            raise ModelError(
                str(path / MODEL_SETTINGS), f"has thresholds of labels that the model has not: {listed(foreign)}"
            )
        if torch.cuda.is_available() and not use_cpu:
            model.to("cuda")  # type: ignore[arg-type]
        return cls(
            model,
            tokenizer,
            task=TextClassification(labels=labels, aggregate=settings.windows.aggregate),
            windows=settings.windows,
            cleaning=settings.cleaning,
            labels=labels,
            text_column=settings.text_column,
            function_folders=function_folders(path),
            calibration=settings.calibration,
        )

    def predict(
        self,
        texts: Sequence[str],
        *,
        origins: Sequence[str] | None = None,
        on_documents: Callable[[int], None] = _unheard,
    ) -> list[Prediction]:
        """One prediction a text, in their order. Raises one DataError naming every text that is missing or empty."""
        if not texts:
            return []
        origins = origins or [f"text {number}" for number in range(1, len(texts) + 1)]
        cleaned = self._clean(texts, origins)
        rows = datasets.Dataset.from_dict({"text": cleaned, "origin": list(origins)})
        found = self.predict_rows(rows, on_documents=on_documents)
        return [
            Prediction(
                label=label,
                probabilities=dict(zip(self.labels.names, found.probabilities[row].tolist(), strict=True)),
                windows=int(found.windows[row]),
                passage=cleaned[row][slice(*found.passages[row])] if found.windows[row] > 1 else None,
                tokens_cut=int(found.tokens_cut[row]),
            )
            for row, label in enumerate(self.task.decide(found.probabilities, thresholds=self.thresholds))
        ]

    def predict_rows(
        self,
        rows: datasets.Dataset,
        *,
        labels: Sequence[Any] | None = None,
        on_documents: Callable[[int], None] = _unheard,
    ) -> RowPredictions:
        """Predict cleaned rows with the columns text and origin; `labels` (encoded) adds the loss.

        Where the weights hold a temperature, `uncalibrated` has the probabilities without it.
        """
        cut, _ = cut_windows(rows, self.tokenizer, settings=self.windows)
        found = predict_documents(
            self.model,
            cut["windows"],
            task=self.task,
            pad_id=int(self.tokenizer.pad_token_id or 0),
            labels=labels,
            temperature=self.calibration.temperature if self.calibration and self.calibration.folded else 1.0,
            on_documents=on_documents,
        )
        counts = cut.select_columns(["tokens", "tokens_kept"]).with_format("numpy")[:]
        tokens = np.asarray(counts["tokens"], dtype=np.int64)
        return RowPredictions(
            **vars(found),
            passages=passages(cut, found.deciding),
            tokens=tokens,
            tokens_cut=tokens - counts["tokens_kept"],
        )

    def _clean(self, texts: Sequence[Any], origins: Sequence[str]) -> list[str]:
        cleaned = [
            clean_text(text, self.cleaning, folders=self.function_folders) if isinstance(text, str) else ""
            for text in texts
        ]
        empty = [origin for origin, text in zip(origins, cleaned, strict=True) if not text.strip()]
        if empty:
            where = f" in {len(empty):,} places: {listed(empty, most=MOST_ROWS_SHOWN)}" if len(empty) > 1 else ""
            raise DataError(empty[0], f"text is empty{where}", "A document without text has no label: leave it out.")
        return cleaned


class _Settings(BaseModel):
    """finetune.json: what a saved model says of itself. Keys of other readers are left alone."""

    windows: Windows
    cleaning: list[CleaningStep]
    multi_label: bool
    text_column: str
    calibration: Calibration | None = None

    @property
    def thresholds(self) -> dict[str, float]:
        return self.calibration.thresholds if self.calibration is not None else {}


def _read_settings(folder: Path) -> _Settings:
    path = folder / MODEL_SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        # A model that says nothing of boundaries is older than they are.
        return _Settings.model_validate({**settings, "windows": {"boundary": "token"} | settings["windows"]})
    except FileNotFoundError:
        raise ModelError(str(folder), f"has no {MODEL_SETTINGS}", "Name a run folder, or its best/ or last/.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(str(path), f"cannot be read ({type(error).__name__})") from None


def _threshold_array(calibration: Calibration, labels: LabelMap) -> Floats | None:
    """Single labels need none: the most probable class is predicted."""
    if not labels.multi_label or not calibration.thresholds:
        return None
    return np.array([calibration.thresholds.get(name, 0.5) for name in labels.names])


def function_folders(model: Path) -> list[Path]:
    """Where cleaning functions of the user's own are looked for: the run the model is of, and the current folder."""
    run = Run(model.absolute().parent)
    return [*(own_function_folders(run.folder) if run.info.exists() else []), Path.cwd()]
