"""What a fit is given and what it leaves behind: the contract between the experiment and whoever trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from transformers import PreTrainedModel

from finetune.progress import Progress
from finetune.recipe_training import AnyTraining, Training
from finetune.training.checkpoints import Identity
from finetune.training.lessons import Lesson
from finetune.training.stopping import StopRequest

OnEvaluation = Callable[[float, Mapping[str, float]], None]
LessonKind = TypeVar("LessonKind")
SettingsKind = TypeVar("SettingsKind", bound=AnyTraining)


class Pruned(Exception):
    """Raised by a listener to evaluations that has seen enough: the training ends there, and nothing is wrong."""


@dataclass(frozen=True)
class Plan(Generic[LessonKind, SettingsKind]):
    """Everything a fit needs. The test split is not among it, and never is.

    `on_evaluation` is told the epoch and the scores that are defined after each evaluation, by the writing process, and
    may raise Pruned.
    """

    lesson: LessonKind
    settings: SettingsKind
    seed: int
    greater_is_better: bool
    checkpoints: Path
    history: Path
    last: Path
    identity: Identity
    stop: StopRequest
    progress: Progress
    save_model: Callable[[PreTrainedModel, Path], None]
    on_evaluation: OnEvaluation | None = None


FitPlan = Plan[Lesson, Training]  # what the Trainer fits; the two sides of a game have a plan of their own


@dataclass(frozen=True)
class FitResult:
    """After a fit the model in memory is the best one; `last/` holds the last."""

    best_epoch: float | None
    best_step: int | None
    steps: int
    padding_share: float | None = None
    tokens: int = 0
    micro_batches: str | None = "by length"
    fill_rate: float | None = None
    optimizer_bytes: int | None = None
    peak_bytes: int | None = None
    notes: list[str] = field(default_factory=list)
