"""An image model's learner: the model, the training images and what is asked for, of one recipe and its prepared data.

Everything that can be refused about a model is refused here, before any run folder exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from transformers import PreTrainedModel

from finetune.data.image_prepare import PreparedImages
from finetune.errors import RecipeError
from finetune.hub_models import find_model
from finetune.image.alarms import diversity
from finetune.image.augment import Augment
from finetune.image.captions import caption_of, embed_texts
from finetune.image.drawer import Drawer
from finetune.image.loop import GameLesson, play
from finetune.image.networks import build_image_model
from finetune.image.training_images import Asking, TrainingImages
from finetune.image.vae_lesson import VaeLesson, fit_vae
from finetune.image_conditions import drawing
from finetune.image_grid import save_grid
from finetune.image_predictor import Asked, ImagePredictor
from finetune.image_scorer import ImageScorer, check_image_metric, image_scorer
from finetune.image_settings import ImageSettings, SavedImages, read_image_settings
from finetune.learner import origin_of, refuse_arithmetic, save_image_model
from finetune.model_folder import ModelFolder
from finetune.progress import Progress
from finetune.recipe import LARGEST_TRAINED_IMAGE, image_recipe
from finetune.recipe_file import LoadedRecipe
from finetune.recipe_image import Adversary, Gan, ImageKind, Style
from finetune.run_files import Calibration, ImageSamples
from finetune.runs import Json, Run, disk_faults, write_json
from finetune.training.checkpoints import Checkpoint
from finetune.training.lessons import Turn
from finetune.training.plan import FitResult, Plan


@dataclass(frozen=True)
class ImageLearner:
    """`rules` are those of the game, None for a VAE; `settings` become finetune.json."""

    model: Drawer
    folder: ModelFolder | None
    images: TrainingImages
    rules: Adversary | None
    scorer: ImageScorer
    settings: ImageSettings
    notes: list[str]

    @property
    def origin(self) -> str:
        return origin_of(self.folder)

    def data_lines(self) -> list[str]:
        counts = ", ".join(f"{len(table):,} {split}" for split, table in self.scorer.prepared.splits.items())
        image = self.settings.image
        asked = {"none": "for nothing", "label": "by label", "caption": "by text"}[image.condition]
        return [
            f"images: {counts}; {image.size} x {image.size} pixels, {image.channels}",
            f"draws: a {self.settings.kind}, asked {asked}",
        ]

    def data_report(self) -> Json:
        return {}

    def lesson(self, loaded: LoadedRecipe, prepared: PreparedImages, run: Run) -> VaeLesson | GameLesson:
        recipe = image_recipe(loaded.recipe)
        use_cpu, seed = recipe.training.use_cpu, recipe.seed
        predictor = ImagePredictor(self.model, self.settings, base=loaded.base, use_cpu=use_cpu)
        shown = Shown.of(predictor, self.scorer, count=recipe.evaluation.shown, seed=seed)

        def judge(model: PreTrainedModel, turn: Turn) -> Mapping[str, float | None]:
            return agreed(turn, lambda: self._judged(model, predictor, shown, turn, run))

        if self.rules is None:
            return VaeLesson(self.images, recipe.training.passes_per_epoch, judge)
        return GameLesson(self.images, self.rules, judge)

    def _judged(
        self, model: PreTrainedModel, predictor: ImagePredictor, shown: Shown, turn: Turn, run: Run
    ) -> dict[str, float | None]:
        """Scores of the validation images, after the grid of this epoch is written."""
        model.train(False)
        turn.check()
        drawn = predictor.draw(len(shown.real), seed=shown.seed, asked=shown.asked)
        keep_grid(run, drawn, shown, turn)
        turn.check()
        scores = self.scorer.evaluate(drawing(predictor), "validation", model=model)
        turn.check()
        return scores if self.rules is None else scores | {"diversity": diversity(drawn, shown.real, shown.classes)}

    def calibration(self, loaded: LoadedRecipe, prepared: PreparedImages, *, progress: Progress) -> Calibration | None:
        return None  # there are no probabilities to calibrate

    def save(self, model: PreTrainedModel, folder: Path, calibration: Calibration | None = None) -> None:
        # The rules are of use to whoever goes on from this model.
        rules = {} if self.rules is None else {"rules": self.rules.model_dump(mode="json")}
        save_image_model(model, folder, settings=self.settings.model_dump(mode="json") | rules)


def build_image_learner(loaded: LoadedRecipe, prepared: PreparedImages, *, progress: Progress) -> ImageLearner:
    """Find or build the model, and embed what it is asked for. Raises ModelError, RecipeError, DataError."""
    recipe = image_recipe(loaded.recipe)
    refuse_arithmetic(loaded)
    if recipe.image.size > LARGEST_TRAINED_IMAGE:
        what = f"{recipe.image.size} pixels; training takes up to {LARGEST_TRAINED_IMAGE}"
        raise RecipeError(loaded.where("image", "size"), what, f"Write image.size: {LARGEST_TRAINED_IMAGE}.")
    section, names = recipe.model, prepared.labels.names
    folder = find_model(section.name, base=loaded.base, revision=section.revision) if section.name else None
    asking = asking_of(loaded, prepared)
    embedded = asking.texts.shape[1] if asking is not None and asking.texts is not None else 0
    model = build_image_model(
        section, images=recipe.image, labels=names, condition_size=embedded, seed=recipe.seed, base=loaded.base
    )
    kind = kind_of(model)
    scorer = image_scorer(loaded, prepared)
    check_image_metric(loaded, scorer, model)
    image = SavedImages.model_validate(recipe.image.model_dump())
    if (loaded.base / image.text_encoder).exists():  # else it is a Hub name, which works from everywhere
        image = image.model_copy(update={"text_encoder": str((loaded.base / image.text_encoder).resolve())})
    images = TrainingImages(prepared.splits["train"].pixels, Augment(recipe.image.augment), asking)
    rules = None if kind == "vae" else section.gan or section.style or saved_rules(kind, folder)
    return ImageLearner(
        model=model,
        folder=folder,
        images=images,
        rules=rules,
        scorer=scorer,
        settings=ImageSettings(kind=kind, image=image, labels=list(names)),
        notes=few_images(len(images), recipe.training.per_device_train_batch_size),
    )


def fit_images(model: Drawer, plan: Plan[Any, Any], *, resume: Checkpoint | None = None) -> FitResult:
    """A VAE through the Trainer, the others by the open loop; raises as those do."""
    fit = play if isinstance(plan.lesson, GameLesson) else fit_vae
    return fit(model, plan, resume=resume)


def asking_of(loaded: LoadedRecipe, prepared: PreparedImages) -> Asking | None:
    """What each training image is asked by: nothing, its class, its caption, or captions made of its label."""
    image, table, names = image_recipe(loaded.recipe).image, prepared.splits["train"], prepared.labels.names
    if image.condition == "none":
        return None
    if image.condition == "label":
        assert table.labels is not None  # the preparation sees to it
        return Asking(table.labels[:, None])
    if table.captions is not None:
        words, rows = np.unique(np.array(table.captions, dtype=object), return_inverse=True)
        texts, choices = [str(word) for word in words], rows.reshape(-1, 1).astype(np.int64)
    else:
        assert table.labels is not None
        texts = [caption_of(each, name, words=image.label_words) for name in names for each in image.captions]
        several = len(image.captions)
        choices = table.labels[:, None] * several + np.arange(several)
    embedded = embed_texts(texts, encoder_name=image.text_encoder, base=loaded.base)
    return Asking(choices, torch.from_numpy(embedded))


def saved_rules(kind: ImageKind, folder: ModelFolder | None) -> Adversary:
    """How a finished model was trained, as its finetune.json says, or the defaults of its kind."""
    kept = read_image_settings(folder.path).rules if folder is not None else {}
    return Gan.model_validate(kept) if kind == "gan" else Style.model_validate(kept)


def kind_of(model: Drawer) -> ImageKind:
    kinds: dict[str, ImageKind] = {"finetune_vae": "vae", "finetune_gan": "gan", "finetune_style": "style"}
    return kinds[model.config.model_type]


def few_images(images: int, a_step: int) -> list[str]:
    if images >= a_step:
        return []
    return [f"warning: {images:,} training images are fewer than a step of {a_step}: they repeat within it"]


@dataclass(frozen=True)
class Shown:
    """The grid of every epoch: latents of `seed`, what is asked for, and as many real images (N, C, S, S) beside it.

    Those show the same where what is asked for are labels, whose numbers are then `classes` (N,).
    """

    seed: int
    asked: Asked
    real: NDArray[np.uint8]
    classes: NDArray[np.int64] | None

    @classmethod
    def of(cls, predictor: ImagePredictor, scorer: ImageScorer, *, count: int, seed: int) -> Shown:
        settings, table = predictor.settings, scorer.prepared.splits["train"]
        names = len(settings.askable)
        if table.labels is not None and 0 < 2 * names <= count:
            classes = np.arange(count) % names
            found = [np.flatnonzero(table.labels == number) for number in range(names)]
            rows = [found[number][place // names % len(found[number])] for place, number in enumerate(classes)]
            return cls(seed, predictor.asked(), table.pixels[rows], classes)
        captions = scorer.conditions("validation").texts
        asked = Asked(texts=captions[:count]) if captions is not None and not names else predictor.asked()
        return cls(seed, asked, table.pixels[np.arange(count) * len(table) // count], None)


def keep_grid(run: Run, drawn: NDArray[np.uint8], shown: Shown, turn: Turn) -> None:
    """samples/EPOCH/: what is drawn from the same latents after every epoch."""
    folder, asked = run.samples / f"{turn.epoch:g}", [shown.asked.of(place) for place in range(len(drawn))]
    words = [word for word in asked if word is not None]
    by_text = shown.asked.texts is not None
    with disk_faults(run.folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_grid(folder / "grid.png", drawn)
        told = ImageSamples(
            epoch=turn.epoch,
            step=turn.step,
            count=len(drawn),
            labels=[] if by_text else words,
            prompts=words if by_text else [],
        )
        write_json(folder / "images.json", told)


def agreed(turn: Turn, judge: Callable[[], dict[str, float | None]]) -> Mapping[str, float | None]:
    """What the first process found, on all of them: two devices might differ in a last digit, and so in the best."""
    if turn.processes == 1:
        return judge()
    told = [judge() if turn.process == 0 else None]
    broadcast_object_list(told)
    assert told[0] is not None
    return told[0]
