"""Small image models with the settings that a run writes beside them, made in milliseconds from initial weights.

folder = tiny_drawer(tmp_path / "best", kind="vae", condition="label")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from finetune.image.networks import build_image_model
from finetune.recipe_image import ImageModel, Images
from finetune.runs import MODEL_SETTINGS

LABELS = ("0", "1", "seven/7")
SIZES: dict[str, dict[str, object]] = {
    "vae": {"latent_size": 4, "width": 4},
    "gan": {"latent_size": 4, "width": 4},
    "style": {"latent_size": 8, "width": 4, "mapping_layers": 2},
}


def tiny_drawer(
    folder: Path, *, kind: str = "vae", condition: str = "none", labels: tuple[str, ...] = LABELS, **image: Any
) -> Path:
    """best/ of a run that has learnt nothing: 8x8 grey images, weights of seed 0 and far enough apart to be seen."""
    names = list(labels) if condition != "none" else []
    section = Images.model_validate({"size": 8, "condition": condition, **image})
    size = 384 if condition == "caption" else 0
    chosen = ImageModel.model_validate({kind: SIZES[kind]})
    model = build_image_model(chosen, images=section, labels=names, condition_size=size, seed=0)
    with torch.no_grad():  # initial weights draw nearly the same from every latent; these do not
        for parameter in model.parameters() if kind != "style" else []:
            parameter.mul_(3.0)
    model.save_pretrained(folder)
    settings = {
        "format_version": 1, "task": "image-generation", "kind": kind, "labels": names,
        "image": section.model_dump(mode="json", exclude={"augment"}),
    }  # fmt: skip
    (folder / MODEL_SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return folder
