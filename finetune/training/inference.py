"""Document predictions from a model: the one forward path of evaluation, test and predict.

Logits are reduced batch by batch and never kept whole. Windows are sorted by length inside a chunk of documents and
put back in order, so row i of the result is document i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch
from transformers import PreTrainedModel

from finetune.data.windows import Ints, deciding_windows, merge_windows
from finetune.scores.calibration import TemperatureLosses
from finetune.tasks.base import Floats, Task, probabilities_of
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
    """probabilities (documents, classes) and, where labels were given, losses (documents,): means over windows.

    windows (documents,) are their numbers of windows, and deciding (documents,) the number, from 0, of the window that
    is surest of the document's most probable label. Of a model that holds a temperature, uncalibrated (documents,
    classes) are the probabilities without it.
    """

    probabilities: Floats
    losses: Floats | None
    windows: Ints
    deciding: Ints
    uncalibrated: Floats | None = field(default=None, kw_only=True)

    @property
    def loss(self) -> float | None:
        return None if self.losses is None else float(self.losses.mean())


def predict_documents(
    model: torch.nn.Module,
    windows: Sequence[list[list[int]]],
    *,
    task: Task,
    pad_id: int,
    budget_tokens: int | None = None,
    labels: Sequence[Any] | None = None,
    temperature: float = 1.0,
    on_documents: Callable[[int], None] = lambda count: None,
) -> DocumentPredictions:
    """Predict documents given as lists of windows, none of them without a window.

    `temperature` is what the logits have been divided by already; where it is not 1, `uncalibrated` is filled.
    `on_documents` hears how many documents each finished chunk had, and may raise.
    """
    chunks = _chunks(
        model, windows, labels, task=task, pad_id=pad_id, budget_tokens=budget_tokens, on_documents=on_documents
    )
    parts = [_predictions(chunk, task=task, temperature=temperature) for chunk in chunks]
    # The share of a process may be empty.
    return _joined(parts) if parts else _nothing(labelled=labels is not None, calibrated=temperature != 1.0)


def predictions_of_logits(
    logits: Floats, counts: Ints, *, task: Task, labels: Sequence[Any] | None = None, temperature: float = 1.0
) -> DocumentPredictions:
    """The same of logits (w, c) in hand, of documents that have so many windows each, `counts` (n,)."""
    targets = None if labels is None else task.targets(labels)
    chunk = _Chunk(logits, np.repeat(np.arange(len(counts)), counts), counts, targets)
    return _predictions(chunk, task=task, temperature=temperature)


def losses_by_temperature(
    model: torch.nn.Module,
    windows: Sequence[list[list[int]]],
    labels: Sequence[Any],
    *,
    task: Task,
    pad_id: int,
    budget_tokens: int | None = None,
    on_documents: Callable[[int], None] = lambda count: None,
) -> TemperatureLosses:
    """What the documents lose under each temperature of a grid: their log loss after the windows are merged."""
    losses = TemperatureLosses.none_yet()
    for chunk in _chunks(
        model, windows, labels, task=task, pad_id=pad_id, budget_tokens=budget_tokens, on_documents=on_documents
    ):
        assert chunk.targets is not None
        merged = (
            task.merge(chunk.logits / temperature, chunk.owner, documents=len(chunk.counts))
            for temperature in losses.temperatures
        )
        by_temperature = [task.log_losses(probabilities, chunk.targets) for probabilities in merged]
        losses = losses.plus(np.stack(by_temperature, axis=1))
    return losses


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
        self.whole, self._process, self._processes = whole, process, processes

    def __len__(self) -> int:
        return len(range(self._process, len(self.whole), self._processes))

    @overload
    def __getitem__(self, key: int) -> list[list[int]]: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[list[list[int]]]: ...
    def __getitem__(self, key: int | slice) -> list[list[int]] | Sequence[list[list[int]]]:
        documents = range(self._process, len(self.whole), self._processes)[key]
        if isinstance(documents, int):
            return self.whole[documents]
        return self.whole[documents.start : documents.stop : documents.step]


def gathered(part: DocumentPredictions, *, documents: int, processes: int) -> DocumentPredictions:
    """Every process's share back in order, on every process. A process may have had no document."""
    parts: list[Any] = [None] * processes
    torch.distributed.all_gather_object(parts, part)
    whole = _joined([part for part in parts if len(part.probabilities)])
    owners = [np.arange(process, documents, processes) for process in range(processes)]
    back = np.argsort(np.concatenate(owners))
    return DocumentPredictions(
        whole.probabilities[back],
        None if whole.losses is None else whole.losses[back],
        whole.windows[back],
        whole.deciding[back],
        uncalibrated=None if whole.uncalibrated is None else whole.uncalibrated[back],
    )


def _joined(parts: Sequence[DocumentPredictions]) -> DocumentPredictions:
    losses = [part.losses for part in parts if part.losses is not None]
    uncalibrated = [part.uncalibrated for part in parts if part.uncalibrated is not None]
    return DocumentPredictions(
        probabilities=np.concatenate([part.probabilities for part in parts]),
        losses=np.concatenate(losses) if losses else None,
        windows=np.concatenate([part.windows for part in parts]),
        deciding=np.concatenate([part.deciding for part in parts]),
        uncalibrated=np.concatenate(uncalibrated) if uncalibrated else None,
    )


def _nothing(*, labelled: bool, calibrated: bool) -> DocumentPredictions:
    none, no_rows = np.zeros(0, dtype=np.int64), np.zeros((0, 0))
    return DocumentPredictions(
        no_rows,
        np.zeros(0) if labelled else None,
        windows=none,
        deciding=none,
        uncalibrated=no_rows if calibrated else None,
    )


def _groups(windows: Sequence[Sequence[int]], *, budget_tokens: int | None, device: torch.device) -> list[list[int]]:
    # Without gradients a pass keeps little, so it may be four times as large.
    return cut_micro_batches(
        [len(window) for window in windows],
        budget_tokens=budget_tokens or 4 * of_device(MICRO_BATCH_TOKENS, device),
        pass_cost_tokens=of_device(PASS_COST_TOKENS, device),
    )


@dataclass(frozen=True)
class _Chunk:
    """Logits of windows (w, c), the document of each (w,), and of the documents their windows (d,) and targets."""

    logits: Floats
    owner: Ints
    counts: Ints
    targets: torch.Tensor | None


@torch.no_grad()
def _chunks(
    model: torch.nn.Module,
    windows: Sequence[list[list[int]]],
    labels: Sequence[Any] | None,
    *,
    task: Task,
    pad_id: int,
    budget_tokens: int | None,
    on_documents: Callable[[int], None],
) -> Iterator[_Chunk]:
    was_training = model.training
    model.train(False)
    try:
        for start in range(0, len(windows), DOCUMENTS_AT_A_TIME):
            documents = windows[start : start + DOCUMENTS_AT_A_TIME]
            some = None if labels is None else task.targets(labels[start : start + DOCUMENTS_AT_A_TIME])
            counts = np.array([len(document) for document in documents])
            flat = [window for document in documents for window in document]
            logits = _window_logits(model, flat, pad_id=pad_id, budget_tokens=budget_tokens)
            yield _Chunk(logits, np.repeat(np.arange(len(documents)), counts), counts, some)
            on_documents(len(documents))
    finally:
        model.train(was_training)


def _window_logits(
    model: torch.nn.Module, windows: Sequence[list[int]], *, pad_id: int, budget_tokens: int | None
) -> Floats:
    """(windows, classes), in the order of `windows`."""
    device = next(model.parameters()).device
    logits: Floats | None = None
    for group in _groups(windows, budget_tokens=budget_tokens, device=device):
        batch = pad_windows([windows[index] for index in group], pad_id=pad_id)
        values = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits.float()
        if logits is None:
            logits = np.zeros((len(windows), values.shape[1]))
        logits[group] = values.double().cpu().numpy()
    assert logits is not None
    return logits


def _predictions(chunk: _Chunk, *, task: Task, temperature: float) -> DocumentPredictions:
    logits, owner, documents = chunk.logits, chunk.owner, len(chunk.counts)
    merged = task.merge(logits, owner, documents=documents)
    losses: Floats | None = None
    if chunk.targets is not None:
        by_window = task.evaluation_losses(torch.from_numpy(logits), chunk.targets[torch.from_numpy(owner)])
        losses = np.bincount(owner, weights=by_window.numpy(), minlength=documents) / chunk.counts
    return DocumentPredictions(
        probabilities=merged,
        losses=losses,
        windows=chunk.counts,
        deciding=deciding_windows(probabilities_of(task, logits), owner, merged=merged),
        uncalibrated=None if temperature == 1.0 else task.merge(logits * temperature, owner, documents=documents),
    )
