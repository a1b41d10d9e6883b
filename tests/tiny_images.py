"""Image models of a few thousand weights, as a recipe would build them, in milliseconds.

model = tiny_drawer("gan", size=8, condition="label")
pictures = model.draw(model.latents(4, seed=0), tiny_condition("label", 4))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune.image.drawer import Drawer
from finetune.image.networks import build_image_model
from finetune.recipe_image import ImageModel, Images

LABELS = ("bird", "fish", "cow")
CONDITION_SIZE = 6
KINDS = ("vae", "gan", "style")
CONDITIONS = ("none", "label", "caption")


def tiny_drawer(
    kind: str, *, size: int = 8, channels: int = 1, condition: str = "none", seed: int = 0, **settings: Any
) -> Drawer:
    """`settings` are those of the section model.KIND."""
    sizes = {"width": 4, "latent_size": 5} | settings
    return build_image_model(
        ImageModel.model_validate({kind: sizes}),
        images=Images.model_validate(
            {"size": size, "channels": "grey" if channels == 1 else "colour", "condition": condition}
        ),
        labels=LABELS if condition == "label" else (),
        condition_size=CONDITION_SIZE if condition == "caption" else 0,
        seed=seed,
    )


def tiny_condition(condition: str, count: int) -> Tensor | None:
    """What `count` images are asked for: every label in turn, or embeddings of length 1."""
    if condition == "label":
        return torch.arange(count) % len(LABELS)
    if condition == "caption":
        rows = torch.randn(count, CONDITION_SIZE, generator=torch.Generator().manual_seed(7))
        return torch.nn.functional.normalize(rows)
    return None
