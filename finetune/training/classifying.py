"""The lesson of a classifier: windows of documents, a loss that is a mean over documents, scores of documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from finetune.tasks.base import Task
from finetune.training.batches import DocumentTable, Row, Step, collate_step, cut_micro_batches, pad_windows
from finetune.training.inference import DocumentPredictions, Share, gathered, predict_documents
from finetune.training.lessons import Turn

ScoreDocuments = Callable[[DocumentPredictions], Mapping[str, float | None]]


@dataclass(frozen=True)
class ClassifierLesson:
    """See lessons.py. `score_validation` turns predictions of the validation documents into named scores."""

    task: Task
    pad_id: int
    examples: DocumentTable
    validation: DocumentTable
    validation_windows: Sequence[list[list[int]]]
    score_validation: ScoreDocuments
    micro_batches: str = "by length"
    fill_rate: None = None
    counters: dict[str, float] = field(default_factory=dict)

    def collate(self, rows: list[Row]) -> Step:
        return collate_step(self.task)(rows)

    def tokens(self, step: Step) -> int:
        return sum(len(window) for window, weight in zip(step.windows, step.weights.tolist(), strict=True) if weight)

    def normaliser(self, step: Step) -> float:
        return step.normaliser

    def groups(self, step: Step, *, budget_tokens: int, pass_cost_tokens: int, whole: bool) -> list[list[int]]:
        lengths = [len(window) for window in step.windows]
        if whole:
            return [list(range(len(lengths)))]
        return cut_micro_batches(lengths, budget_tokens=budget_tokens, pass_cost_tokens=pass_cost_tokens)

    def padded_tokens(self, step: Step, group: list[int]) -> int:
        return len(group) * max(len(step.windows[index]) for index in group)

    def loss(self, model: torch.nn.Module, step: Step, group: list[int]) -> torch.Tensor:
        device = next(model.parameters()).device
        batch = pad_windows([step.windows[index] for index in group], pad_id=self.pad_id)
        logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
        return self.summed_loss(logits, step, group)

    def summed_loss(self, logits: torch.Tensor, step: Step, group: list[int]) -> torch.Tensor:
        """The weighted losses of the windows of `group`, whose `logits` (w, c) are given, in one sum."""
        with torch.autocast(logits.device.type, enabled=False):
            losses = self.task.training_losses(logits.float(), step.targets[group].to(logits.device))
            return (losses * step.weights[group].to(logits.device)).sum()

    def evaluate(self, model: PreTrainedModel, turn: Turn) -> Mapping[str, float | None]:
        return validation_scores(self.predictions(model, turn), self.score_validation)

    def predictions(self, model: PreTrainedModel, turn: Turn) -> DocumentPredictions:
        """Of all validation documents, on every process."""
        mine = Share(self.validation_windows, process=turn.process, processes=turn.processes)
        with turn.counting(len(mine), "evaluating") as on_documents:
            part = predict_documents(
                model,
                mine,
                task=self.task,
                pad_id=self.pad_id,
                labels=self.validation.labels[turn.process :: turn.processes],
                on_documents=on_documents,
            )
        return part if turn.processes == 1 else gathered(part, documents=len(mine.whole), processes=turn.processes)


def validation_scores(predictions: DocumentPredictions, score: ScoreDocuments) -> Mapping[str, float | None]:
    """Named scores of the validation documents, `loss` among them."""
    if predictions.loss is not None and not math.isfinite(predictions.loss):
        return {"loss": predictions.loss}  # the trainer stops there; no score is made of such numbers
    return {"loss": predictions.loss, **score(predictions)}
