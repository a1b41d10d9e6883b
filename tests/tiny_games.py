"""Small images, and everything a training of them needs, built in memory in milliseconds.

play(tiny_player("gan"), tiny_game(tmp_path, "gan"))
fit_vae(tiny_player("vae"), tiny_vae_plan(tmp_path))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from finetune.image.augment import Augment
from finetune.image.drawer import Drawer
from finetune.image.loop import GameLesson, GamePlan
from finetune.image.networks import build_image_model
from finetune.image.training_images import Asking, TrainingImages
from finetune.image.vae_lesson import VaeLesson
from finetune.progress import SILENT
from finetune.recipe_image import Gan, ImageAugmentation, ImageModel, Images, ImageTraining, Style
from finetune.training.lessons import Turn
from finetune.training.plan import Plan
from finetune.training.stopping import StopRequest

SIZE = 8
CLASSES = 2
WORDS = ["upright", "level"]
RULES = {"gan": Gan(latent_size=4, width=4), "style": Style(latent_size=4, width=4, mapping_layers=1)}


def tiny_pixels(count: int, *, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bars, (N, 1, 8, 8): upright in class 0 and level in class 1, each at a place and of a grey of its own."""
    chance = np.random.default_rng(seed)
    pixels, labels = np.zeros((count, 1, SIZE, SIZE), dtype=np.uint8), np.arange(count) % CLASSES
    for image, label in zip(pixels, labels, strict=True):
        place, grey = chance.integers(1, SIZE - 2), chance.integers(120, 256)
        image[0][(slice(None), slice(place, place + 2)) if label == 0 else slice(place, place + 2)] = grey
    return pixels, labels


def tiny_images(count: int = 24, *, condition: str = "label", **augment: Any) -> TrainingImages:
    pixels, labels = tiny_pixels(count)
    asking = Asking(labels[:, None]) if condition == "label" else None
    return TrainingImages(pixels, Augment(ImageAugmentation(**augment)), asking)


def tiny_player(kind: str, *, condition: str = "label", seed: int = 3, **settings: Any) -> Drawer:
    """A model that draws 8x8 images; `settings` are those of the section model.KIND."""
    chosen = {"latent_size": 4, "width": 4} | ({"mapping_layers": 1} if kind == "style" else {}) | settings
    images = Images.model_validate({"size": SIZE, "channels": "grey", "condition": condition})
    return build_image_model(ImageModel.model_validate({kind: chosen}), images=images, labels=WORDS, seed=seed)


def tiny_settings(**settings: Any) -> ImageTraining:
    chosen = {"use_cpu": True, "logging_steps": 1, "num_train_epochs": 2, "per_device_train_batch_size": 8}
    return ImageTraining.model_validate({"metric_for_best_model": "kernel_distance"} | chosen | settings)


def spread_of_drawn(model: PreTrainedModel, turn: Turn) -> Mapping[str, float | None]:
    """A stand-in for scores: numbers that follow from the weights alone."""
    assert isinstance(model, Drawer)
    with torch.no_grad():
        drawn = model.draw(model.latents(6, seed=0), torch.arange(6) % CLASSES)
    return {"kernel_distance": float(drawn.std()), "loss": float(drawn.mean())}


def tiny_game(
    folder: Path, kind: str, *, rules: Mapping[str, Any] | None = None, evaluate: Any = spread_of_drawn,
    lesson: Any = None, **settings: Any,
) -> GamePlan:  # fmt: skip
    """`settings` are those of the recipe's section training, `rules` those of the model's."""
    images = tiny_images(translate=0.125)
    game = lesson or GameLesson(images, RULES[kind].model_copy(update=dict(rules or {})), evaluate)
    return Plan(
        lesson=game,
        settings=tiny_settings(**settings),
        seed=5,
        greater_is_better=False,
        checkpoints=folder / "checkpoints",
        history=folder / "history.jsonl",
        last=folder / "last",
        identity={"run": "tiny"},
        stop=StopRequest(where=str(folder), resume_hint=""),
        progress=SILENT,
        save_model=lambda model, folder: model.save_pretrained(folder),
    )


def tiny_vae_plan(
    folder: Path, *, passes: int = 1, evaluate: Any = spread_of_drawn, **settings: Any
) -> Plan[VaeLesson, ImageTraining]:
    lesson = VaeLesson(tiny_images(translate=0.125), passes, evaluate)
    return tiny_game(folder, "vae", lesson=lesson, passes_per_epoch=passes, **settings)  # type: ignore[return-value]
