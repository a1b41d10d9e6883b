"""The lesson of a writer: sequences of tokens, a loss that is a mean over learnt tokens, texts judged after each epoch.

Examples of a step are drawn as plain shuffling draws them; only inside the step are they packed into blocks, or sorted
by length, so that the gradient is that of the plain batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from finetune.training.batches import Draw, Role
from finetune.training.lessons import Turn
from finetune.training.next_token import GenerationSettings
from finetune.training.packed import Batch
from finetune.training.streamed import StreamedTable
from finetune.training.text_inference import (
    Example,
    Share,
    TextModel,
    TextPredictions,
    TokenPair,
    TokenSequence,
    predict_texts,
)
from finetune.training.token_losses import losses_as_forward, token_losses

Row = tuple[Example | None, int, Role]
Judge = Callable[[TextPredictions, Turn], Mapping[str, float | None]]


class SequenceTable:
    """What training reads: example i as token ids with their marks, or as a pair. Rows come from Arrow one at a time.

    `learnt` (n,) counts the tokens that each example teaches.
    """

    def __init__(self, rows: datasets.Dataset, learnt: npt.NDArray[np.int64]) -> None:
        self._rows, self.learnt = rows, learnt

    def __len__(self) -> int:
        return len(self.learnt)

    def __getitem__(self, draw: Draw) -> Row:
        number, role = draw
        if role == "other":
            return None, int(self.learnt[number]), role
        row = self._rows[number]
        example = TokenPair(row["source"], row["ids"]) if "source" in row else TokenSequence(row["ids"], row["learn"])
        return example, int(self.learnt[number]), role

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens (n,) that the model reads of each example."""
        columns = [name for name in ("source", "ids") if name in self._rows.column_names]
        rows = self._rows.select_columns(columns)
        return np.array([sum(len(row[name]) for name in columns) for row in rows], dtype=np.int64)


@dataclass(frozen=True)
class TextStep:
    """One process's part of one optimizer step: its examples, and the learnt tokens of all processes together.

    `weight` is 0 for a process that only stands in, so that it still joins the gradient exchange.
    """

    examples: list[Example]
    normaliser: float
    weight: float


@dataclass(frozen=True)
class WriterLesson:
    """See lessons.py. `judge` turns what the model makes of the validation documents into named scores.

    `written` are the numbers of the validation documents that a text is written for.
    """

    model: TextModel
    examples: SequenceTable | StreamedTable
    label_smoothing: float
    validation: datasets.Dataset
    written: Sequence[int]
    settings: GenerationSettings
    judge: Judge
    counters: dict[str, float] = field(default_factory=lambda: {"filled_tokens": 0, "block_tokens": 0})

    @property
    def micro_batches(self) -> str:
        return "packed" if self.model.packed else "by length"

    @property
    def fill_rate(self) -> float | None:
        room = self.counters["block_tokens"]
        return self.counters["filled_tokens"] / room if room else None

    def collate(self, rows: list[Row]) -> TextStep:
        return TextStep(
            examples=[example for example, _, _ in rows if example is not None],
            normaliser=float(sum(learnt for _, learnt, role in rows if role != "stand-in")),
            weight=0.0 if any(role == "stand-in" for _, _, role in rows) else 1.0,
        )

    def tokens(self, step: TextStep) -> int:
        return sum(map(tokens_of, step.examples)) if step.weight else 0

    def normaliser(self, step: TextStep) -> float:
        return step.normaliser

    def groups(self, step: TextStep, *, budget_tokens: int, pass_cost_tokens: int, whole: bool) -> list[Batch]:
        bins = self.model.bins(step.examples)
        if bins is not None:
            self.counters["filled_tokens"] += self.tokens(step)
            self.counters["block_tokens"] += len(bins) * self.model.block_tokens
        if whole:  # one pass, however much padding
            budget_tokens = pass_cost_tokens = max(map(tokens_of, step.examples)) * len(step.examples) ** 2
        return list(
            self.model.batches(step.examples, bins, budget_tokens=budget_tokens, pass_cost_tokens=pass_cost_tokens)
        )

    def padded_tokens(self, step: TextStep, group: Batch) -> int:
        return group.padded_tokens

    def loss(self, model: torch.nn.Module, step: TextStep, group: Batch) -> torch.Tensor:
        def losses(batch: Batch) -> torch.Tensor:
            return token_losses(self.model.network, batch, head=self.model.head, label_smoothing=self.label_smoothing)

        with losses_as_forward(self.model.network, losses):
            total: torch.Tensor = model(group.to(self.model.network.device)).sum() * step.weight
        return total

    def evaluate(self, model: PreTrainedModel, turn: Turn) -> Mapping[str, float | None]:
        share = Share(turn.process, turn.processes)
        documents = len(share.of(range(len(self.validation)))) + len(share.of(self.written))
        with turn.counting(documents, "evaluating") as on_documents:
            predicted = predict_texts(
                self.model, self.validation, settings=self.settings, written=self.written, share=share,
                on_documents=on_documents,
            )  # fmt: skip
        assert predicted.nats is not None
        if not np.isfinite(predicted.nats).all():
            return {"loss": math.nan}  # the trainer stops there; no score is made of such numbers
        return self.judge(predicted, turn)


def tokens_of(example: Example) -> int:
    """Tokens that the model reads of an example, those of a source and of its target together."""
    return len(example.ids) + (len(example.source) if isinstance(example, TokenPair) else 0)
