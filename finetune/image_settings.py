"""What a saved image model says of itself (finetune.json): how images enter it, and what can be asked of it.

The learner writes these settings, and the predictor and the verbs read them back, without loading the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from finetune.errors import ModelError, RecipeError, did_you_mean, listed
from finetune.recipe_image import ImageKind
from finetune.runs import MODEL_SETTINGS

LABELS_IN_A_MESSAGE = 12


class SavedImages(BaseModel):
    """How an image becomes what the model reads, and what goes with it; the keys of the recipe's section `image`."""

    model_config = ConfigDict(extra="ignore")

    size: int
    channels: Literal["grey", "colour"]
    resize: Literal["crop", "pad", "stretch"] = "crop"
    condition: Literal["none", "label", "caption"] = "none"
    captions: list[str] = []
    label_words: dict[str, str] = {}
    text_encoder: str = ""

    @property
    def channel_count(self) -> int:
        return 1 if self.channels == "grey" else 3

    def caption(self, label: str) -> str:
        """What the first template says of a label."""
        return self.captions[0].replace("{label}", self.label_words.get(label, label))


class ImageSettings(BaseModel):
    """finetune.json of an image model; `labels` are the names of its classes, empty where it knows none.

    `rules` are those of the adversarial game it was trained by, for a training that goes on from it.
    """

    model_config = ConfigDict(extra="ignore")

    format_version: int = 1
    task: Literal["image-generation"] = "image-generation"
    kind: ImageKind
    image: SavedImages
    labels: list[str] = []
    rules: dict[str, Any] = {}

    @property
    def askable(self) -> list[str]:
        """Labels that can be asked for by name: those of a label model, or of one whose templates make captions."""
        by_label = self.image.condition == "label" or (self.image.condition == "caption" and self.image.captions)
        return self.labels if by_label else []


def read_image_settings(folder: Path) -> ImageSettings:
    """Raises ModelError where there are none, or not those of an image model."""
    path = folder / MODEL_SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings.get("task") != "image-generation":
            what = f"is a model for {settings.get('task')}, and draws no images"
            raise ModelError(str(folder), what, "Name a run of image-generation.")
        return ImageSettings.model_validate(settings)
    except FileNotFoundError:
        raise ModelError(str(folder), f"has no {MODEL_SETTINGS}", "Name a run folder, or its best/ or last/.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(str(path), f"cannot be read ({type(error).__name__})") from None


def check_asked(
    settings: ImageSettings,
    *,
    labels: Sequence[str],
    prompts: Sequence[str],
    name: str,
    prompt_option: str = "--prompt",
) -> None:
    """Whether a model can be asked for these labels or texts; `name` is what the user called it. Raises RecipeError."""
    condition = settings.image.condition
    if labels and prompts:
        raise RecipeError(
            "command line", f"--label and {prompt_option} both say what to draw", "Leave one of them out."
        )
    if labels and not settings.askable:
        if condition == "caption":
            raise RecipeError(
                "--label", f"{name} was trained on captions of its own", f"Write {prompt_option} instead."
            )
        raise RecipeError("--label", f"{name} is unconditional: nothing can be asked of it", "Leave it out.")
    for label in labels:
        if label not in settings.labels:
            found = f"Its labels: {listed(settings.labels, most=LABELS_IN_A_MESSAGE)}."
            raise RecipeError(
                "--label", f"{name} knows no label '{label}'", did_you_mean(label, settings.labels) or found
            )
    if prompts and condition != "caption":
        kind = "draws by label" if condition == "label" else "is unconditional"
        do = f"Write --label; its labels: {listed(settings.labels, most=LABELS_IN_A_MESSAGE)}."
        do = do if condition == "label" else "Leave it out."
        raise RecipeError(prompt_option, f"{name} {kind}, and reads no text", do)
    if any(not prompt.strip() for prompt in prompts):
        raise RecipeError(prompt_option, "is empty", "Say what to draw.")
