"""What a task teaches: the contract between the trainer, which knows no task, and lessons, which know no Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from finetune.progress import Progress


@dataclass(frozen=True)
class Turn:
    """One evaluation, as one of several processes makes it. `check` raises when the training was asked to stop.

    `writes`: this is the process that leaves files behind, also where each evaluates everything.
    """

    process: int
    processes: int
    step: int
    epoch: float
    progress: Progress
    check: Callable[[], None]
    writes: bool = True

    @contextmanager
    def counting(self, documents: int, what: str) -> Iterator[Callable[[int], None]]:
        """A function that hears how many documents are done, shows it, and raises when it is time to stop."""
        bar = self.progress.bar(total=documents, desc=what, unit="document", leave=False)

        def count(done: int) -> None:
            bar.update(done)
            self.check()

        try:
            yield count
        finally:
            bar.close()


class Lesson(Protocol):
    """The training examples of a task, the loss of one step of them, and the scores of the validation split.

    A step is what `collate` made of the examples of one optimizer step: those of this process whole, those of the
    others as far as the normaliser needs them.
    """

    @property
    def micro_batches(self) -> str:
        """How a step is cut, for run.json: `by length` or `packed`."""

    @property
    def counters(self) -> dict[str, float]:
        """What the lesson counts over the whole training; a checkpoint holds it, and it is filled again on resume.

        Names that end in `_tokens` are summed over processes; the others are alike on each.
        """

    @property
    def fill_rate(self) -> float | None:
        """Share of the blocks' room that was filled with tokens so far; None where nothing is packed."""

    @property
    def examples(self) -> Any:
        """What is learnt from, with a length; indexed by (number, role), as DocumentSampler draws them."""

    def collate(self, rows: list[Any]) -> Any:
        """The examples of one optimizer step -> a step."""

    def tokens(self, step: Any) -> int:
        """Tokens of this process's part of the step, without padding; a part that only stands in has none."""

    def normaliser(self, step: Any) -> float:
        """What the step's summed loss is divided by, the same on every process."""

    def groups(self, step: Any, *, budget_tokens: int, pass_cost_tokens: int, whole: bool) -> list[Any]:
        """The micro-batches of this process's part; `whole` asks for one, because every process must make as many."""

    def padded_tokens(self, step: Any, group: Any) -> int:
        """Tokens of one micro-batch, padding included."""

    def loss(self, model: torch.nn.Module, step: Any, group: Any) -> torch.Tensor:
        """The summed, weighted loss of one micro-batch. `model` may be a wrapper for several processes."""

    def evaluate(self, model: PreTrainedModel, turn: Turn) -> Mapping[str, float | None]:
        """Scores of the validation documents, `loss` among them; None where one is undefined."""
