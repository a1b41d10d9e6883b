"""The lesson of a VAE, for the Trainer: batches of images, a loss that is a mean over images, settings in its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from finetune.image.training_images import TrainingImages
from finetune.recipe_image import ImageTraining
from finetune.recipe_training import Training
from finetune.training.batches import Draw
from finetune.training.checkpoints import Checkpoint
from finetune.training.lessons import Turn
from finetune.training.plan import FitResult, Plan
from finetune.training.trainer import fit


@dataclass(frozen=True)
class Draws:
    """Image numbers for the sampler of documents: every image as often as an epoch has passes."""

    images: int
    passes: int

    def __len__(self) -> int:
        return self.images * self.passes

    def __getitem__(self, draw: Draw) -> Draw:
        number, role = draw
        return number % self.images, role


@dataclass(frozen=True)
class VaeStep:
    """One process's part of a step: numbers of its images, `weight` 0 for a stand-in, and the step's images in all."""

    numbers: NDArray[np.int64]
    weight: float
    images: int


@dataclass(frozen=True)
class VaeLesson:
    """See training/lessons.py; `tokens` are images here. Scores of `evaluate` hold `loss`, the validation loss."""

    images: TrainingImages
    passes: int
    judge: Callable[[PreTrainedModel, Turn], Mapping[str, float | None]]
    micro_batches: str = "whole"
    fill_rate: None = None
    counters: dict[str, float] = field(default_factory=dict)

    @property
    def examples(self) -> Draws:
        return Draws(len(self.images), self.passes)

    def collate(self, rows: list[Draw]) -> VaeStep:
        mine = [number for number, role in rows if role != "other"]
        weight = 0.0 if any(role == "stand-in" for _, role in rows) else 1.0
        return VaeStep(np.array(mine, dtype=np.int64), weight, len(rows))

    def tokens(self, step: VaeStep) -> int:
        return len(step.numbers)

    def normaliser(self, step: VaeStep) -> float:
        return float(step.images)

    def groups(self, step: VaeStep, *, budget_tokens: int, pass_cost_tokens: int, whole: bool) -> list[None]:
        return [None]  # images of one size: there is no padding to save

    def padded_tokens(self, step: VaeStep, group: None) -> int:
        return len(step.numbers)

    def loss(self, model: torch.nn.Module, step: VaeStep, group: None) -> torch.Tensor:
        """The summed loss in nats. The trainer has keyed the global generator, which changes and latents come from."""
        device, chance = next(model.parameters()).device, torch.default_generator
        pixels, asked = self.images.batch(step.numbers, device=device, generator=chance)
        # A likelihood of pixels knows none outside 0..1.
        loss = model(self.images.augment(pixels, chance).clamp(0, 1), asked).loss
        return torch.as_tensor(loss * len(step.numbers) * step.weight)

    def evaluate(self, model: PreTrainedModel, turn: Turn) -> Mapping[str, float | None]:
        return self.judge(model, turn)


def fit_vae(
    model: PreTrainedModel, plan: Plan[VaeLesson, ImageTraining], *, resume: Checkpoint | None = None
) -> FitResult:
    """As training/trainer.py fits, with the settings of images."""
    fitted = fit(model, replace(plan, settings=trainer_settings(plan.settings)), resume=resume)  # type: ignore[arg-type]
    return replace(fitted, padding_share=None, tokens=0, micro_batches=None)


def trainer_settings(settings: ImageTraining) -> Training:
    """The same training in the words of the Trainer, which has neither Adam beside AdamW nor momentum of its own."""
    schedule = settings.lr_scheduler_type
    extra: dict[str, Any] = {}
    if settings.optim == "sgd":
        extra["optim_args"] = f"momentum={settings.momentum}"
    for name in ("adam_beta1", "adam_beta2"):
        if (beta := getattr(settings, name)) is not None:
            extra[name] = beta
    same = (
        *("num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "warmup_steps"),
        *("max_grad_norm", "metric_for_best_model", "load_best_model_at_end", "early_stopping_patience"),
        *("save_total_limit", "logging_steps", "bf16", "fp16", "use_cpu"),
    )
    return Training.model_validate(
        {name: getattr(settings, name) for name in same}
        | {
            "optim": "sgd" if settings.optim == "sgd" else "adamw_torch",  # which is Adam without weight decay
            "weight_decay": settings.weight_decay,
            "lr_scheduler_type": "constant_with_warmup"
            if schedule == "constant" and settings.warmup_steps
            else schedule,
            "extra": extra,
        }
    )
