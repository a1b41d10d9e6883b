"""What a task is: the few things that differ between learning to classify and learning to write.

The trainer, the predictor and the experiment speak to a Task and never ask which one it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]


class Task(Protocol):
    """Columns, targets, losses and scores of one kind of learning. Shapes: d documents, w windows, c classes."""

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]

    def encode(self, label: Any) -> Any:
        """A label of the data file -> what `targets` takes."""

    def targets(self, encoded: Sequence[Any]) -> torch.Tensor:
        """Encoded labels of d documents -> targets (d, ...)."""

    def document_weights(self, targets: torch.Tensor) -> torch.Tensor:
        """(d,) shares of each document in the mean; the step's loss is divided by their sum."""

    def training_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits (w, c) and targets of the windows' documents (w, ...) -> weighted, smoothed losses (w,)."""

    def evaluation_losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The same without weights and smoothing: the loss that is reported."""

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (w, c) -> probabilities (w, c)."""

    def merge(self, logits: Floats, owner: npt.NDArray[np.int64], *, documents: int) -> Floats:
        """Window logits (w, c) of documents `owner` (w,) -> document probabilities (d, c)."""

    def log_losses(self, probabilities: Floats, targets: torch.Tensor) -> Floats:
        """What document probabilities (d, c) lose against the targets of the documents (d, ...), in nats (d,)."""

    def decide(self, probabilities: Floats, *, thresholds: Floats | None = None) -> list[Any]:
        """Document probabilities (d, c) -> predictions in the words of the data file.

        Where a document may have several labels, each is predicted from its own of `thresholds` (c,) on, or from 0.5.
        """


def probabilities_of(task: Task, logits: Floats) -> Floats:
    """`task.probabilities` for an array, in double precision."""
    return task.probabilities(torch.from_numpy(logits)).numpy()
