"""Document predictions from a model: the one forward path of evaluation, test and predict.

Logits are reduced batch by batch and never kept whole. Windows are sorted by length inside a chunk of documents and
put back in order, so row i of the result is document i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from transformers import PreTrainedModel

from finetune.data.windows import merge_windows
from finetune.tasks.base import Floats, Task
from finetune.training.batches import (
    MICRO_BATCH_TOKENS,
    PASS_COST_TOKENS,
    cut_micro_batches,
    of_device,
    pad_windows,
)

DOCUMENTS_AT_A_TIME = 128


@dataclass(frozen=True)
class DocumentPredictions:
    """probabilities (documents, classes) and, where labels were given, losses (documents,): means over windows."""

    probabilities: Floats
    losses: Floats | None

    @property
    def loss(self) -> float | None:
        return None if self.losses is None else float(self.losses.mean())


@torch.no_grad()
def predict_documents(
    model: torch.nn.Module,
    windows: Sequence[list[list[int]]],
    *,
    task: Task,
    pad_id: int,
    budget_tokens: int | None = None,
    labels: Sequence[Any] | None = None,
    on_documents: Callable[[int], None] = lambda count: None,
) -> DocumentPredictions:
    """Predict documents given as lists of windows, none of them without a window.

    `on_documents` hears how many documents each finished chunk had, and may raise.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.train(False)
    probabilities: list[Floats] = []
    losses: list[Floats] = []
    try:
        for start in range(0, len(windows), DOCUMENTS_AT_A_TIME):
            chunk = windows[start : start + DOCUMENTS_AT_A_TIME]
            some_labels = None if labels is None else labels[start : start + DOCUMENTS_AT_A_TIME]
            chunk_probabilities, chunk_losses = _predict_chunk(
                model, chunk, some_labels, task=task, pad_id=pad_id, budget_tokens=budget_tokens, device=device
            )
            probabilities.append(chunk_probabilities)
            losses.append(chunk_losses)
            on_documents(len(chunk))
    finally:
        model.train(was_training)
    if not probabilities:  # the share of a process may be empty
        return DocumentPredictions(probabilities=np.zeros((0, 0)), losses=None if labels is None else np.zeros(0))
    return DocumentPredictions(
        probabilities=np.concatenate(probabilities), losses=None if labels is None else np.concatenate(losses)
    )


@torch.no_grad()
def document_features(
    model: PreTrainedModel,
    windows: Sequence[list[list[int]]],
    *,
    pad_id: int,
    budget_tokens: int | None = None,
    on_documents: Callable[[int], None] = lambda count: None,
) -> Floats:
    """The encoder under a classifier as it stands: last hidden states, averaged over tokens, then windows.

    Returns (documents, hidden size).
    """
    model.train(False)
    encoder = model.base_model
    features: list[Floats] = []
    for start in range(0, len(windows), DOCUMENTS_AT_A_TIME):
        documents = windows[start : start + DOCUMENTS_AT_A_TIME]
        flat = [window for document in documents for window in document]
        owner = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
        values = np.zeros((len(flat), model.config.hidden_size))
        for group in _groups(flat, budget_tokens=budget_tokens, device=model.device):
            batch = {
                name: tensor.to(model.device)
                for name, tensor in pad_windows([flat[index] for index in group], pad_id=pad_id).items()
            }
            hidden = encoder(**batch)[0].float()
            mask = batch["attention_mask"].unsqueeze(-1)
            values[group] = ((hidden * mask).sum(1) / mask.sum(1)).double().cpu().numpy()
        features.append(merge_windows(values, owner, documents=len(documents), how="mean"))
        on_documents(len(documents))
    return np.concatenate(features)


class Share(Sequence[list[list[int]]]):
    """What one of several processes predicts of a lazily read column: process, process + processes, and so on."""

    def __init__(self, whole: Sequence[list[list[int]]], *, process: int, processes: int) -> None:
        self._whole, self._process, self._processes = whole, process, processes

    def __len__(self) -> int:
        return len(range(self._process, len(self._whole), self._processes))

    @overload
    def __getitem__(self, key: int) -> list[list[int]]: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[list[list[int]]]: ...
    def __getitem__(self, key: int | slice) -> list[list[int]] | Sequence[list[list[int]]]:
        documents = range(self._process, len(self._whole), self._processes)[key]
        if isinstance(documents, int):
            return self._whole[documents]
        return self._whole[documents.start : documents.stop : documents.step]


def gathered(part: DocumentPredictions, *, documents: int, processes: int) -> DocumentPredictions:
    """Every process's share back in order, on every process. A process may have had no document."""
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, (part.probabilities, part.losses))
    probabilities, losses = np.zeros((documents, parts[0][0].shape[1])), np.zeros(documents)
    for process, (some_probabilities, some_losses) in enumerate(parts):
        if len(some_losses):
            probabilities[process::processes], losses[process::processes] = some_probabilities, some_losses
    return DocumentPredictions(probabilities=probabilities, losses=losses)


def _groups(windows: Sequence[Sequence[int]], *, budget_tokens: int | None, device: torch.device) -> list[list[int]]:
    # Without gradients a pass keeps little, so it may be four times as large.
    return cut_micro_batches(
        [len(window) for window in windows],
        budget_tokens=budget_tokens or 4 * of_device(MICRO_BATCH_TOKENS, device),
        pass_cost_tokens=of_device(PASS_COST_TOKENS, device),
    )


def _predict_chunk(
    model: torch.nn.Module,
    documents: Sequence[list[list[int]]],
    labels: Sequence[Any] | None,
    *,
    task: Task,
    pad_id: int,
    budget_tokens: int | None,
    device: torch.device,
) -> tuple[Floats, Floats]:
    flat = [window for document in documents for window in document]
    owner = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    targets = None if labels is None else task.targets(labels)[torch.from_numpy(owner)]
    probabilities: Floats | None = None
    losses = np.zeros(len(flat))
    for group in _groups(flat, budget_tokens=budget_tokens, device=device):
        batch = pad_windows([flat[index] for index in group], pad_id=pad_id)
        logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits.float()
        values = task.probabilities(logits).double().cpu().numpy()
        if probabilities is None:
            probabilities = np.zeros((len(flat), values.shape[1]))
        probabilities[group] = values
        if targets is not None:
            losses[group] = task.evaluation_losses(logits, targets[group].to(device)).double().cpu().numpy()
    assert probabilities is not None
    merged = task.merge(probabilities, owner, documents=len(documents))
    return merged, np.bincount(owner, weights=losses, minlength=len(documents)) / np.bincount(owner)
