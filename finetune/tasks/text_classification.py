"""Text classification: one label a document, or several.

The loss equals torch.nn.functional.cross_entropy with the same class weights and label smoothing when every
document is one window; with several windows it is the mean over documents of the mean over their windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from finetune.data.labels import LabelMap
from finetune.data.windows import Aggregate, merge_windows
from finetune.scores.calibration import log_losses
from finetune.scores.classification import predicted_labels
from finetune.tasks.base import Floats, probabilities_of


@dataclass(frozen=True)
class TextClassification:
    """See tasks/base.py for shapes. `class_weights` (c,) are those of `balanced_weights`, or None."""

    name: ClassVar[str] = "text-classification"
    columns: ClassVar[tuple[str, ...]] = ("text", "label")

    labels: LabelMap
    aggregate: Aggregate = "mean"
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    @property
    def multi_label(self) -> bool:
        return self.labels.multi_label

    def encode(self, label: Any) -> Any:
        return self.labels.encode(label)

    def targets(self, encoded: Sequence[Any]) -> torch.Tensor:
        if not self.multi_label:
            return torch.tensor(encoded, dtype=torch.long)
        marks = torch.zeros(len(encoded), len(self.labels.names))
        for row, present in enumerate(encoded):
            marks[row, present] = 1.0
        return marks

    def document_weights(self, targets: torch.Tensor) -> torch.Tensor:
        if self.multi_label or self.class_weights is None:
            return torch.ones(len(targets))
        return torch.tensor(self.class_weights)[targets]

    def training_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        if self.multi_label:
            smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights, reduction="none").mean(1)
        return F.cross_entropy(logits, targets, weight=weights, label_smoothing=self.label_smoothing, reduction="none")

    def evaluation_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.multi_label:
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        return F.cross_entropy(logits, targets, reduction="none")

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    def merge(self, logits: Floats, owner: npt.NDArray[np.int64], *, documents: int) -> Floats:
        if self.aggregate == "mean_logits":
            merged = merge_windows(logits, owner, documents=documents, how=self.aggregate)
            return probabilities_of(self, merged)
        merged = merge_windows(probabilities_of(self, logits), owner, documents=documents, how=self.aggregate)
        return merged if self.multi_label else merged / merged.sum(axis=1, keepdims=True)

    def log_losses(self, probabilities: Floats, targets: torch.Tensor) -> Floats:
        return log_losses(targets.numpy(), probabilities, multi_label=self.multi_label)

    def decide(self, probabilities: Floats, *, thresholds: Floats | None = None) -> list[Any]:
        names = self.labels.names
        chosen = predicted_labels(probabilities, multi_label=self.multi_label, thresholds=thresholds)
        if self.multi_label:
            return [[names[i] for i in np.flatnonzero(row)] for row in chosen]
        return [names[i] for i in chosen]


def balanced_weights(encoded: Sequence[Any], labels: LabelMap) -> tuple[float, ...]:
    """Single label: documents / (classes * count), scikit-learn's "balanced". Several: negatives / positives."""
    classes = len(labels.names)
    if labels.multi_label:
        positives = np.bincount([i for row in encoded for i in row], minlength=classes)
        return tuple(((len(encoded) - positives) / np.maximum(positives, 1)).tolist())
    counts = np.bincount(np.asarray(encoded), minlength=classes)
    return tuple((len(encoded) / (classes * np.maximum(counts, 1))).tolist())
