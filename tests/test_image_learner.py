"""What an image learner makes of a recipe: what is asked for, the grid of every epoch, the rules of the game."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from finetune.data.image_prepare import PreparedImages, prepare_images
from finetune.errors import RecipeError
from finetune.image_learner import ImageLearner, Shown, asking_of, build_image_learner, few_images
from finetune.image_predictor import ImagePredictor
from finetune.learner import settings_identity
from finetune.progress import SILENT
from finetune.recipe_file import LoadedRecipe, load_recipe, relocate

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def recipe(folder: Path, **sections: Any) -> LoadedRecipe:
    chosen: dict[str, Any] = {
        "task": "image-generation",
        "model": {"gan": {"width": 4, "latent_size": 4}},
        "data": {"source": "builtin:digits", "limit": 100, "split": {"stratify": False}},
        "image": {"size": 8},
        "training": {"use_cpu": True},
        "evaluation": {"features": "pixels"},
    }
    for name, values in sections.items():
        chosen[name] = chosen[name] | values
    YAML().dump(chosen, folder / "recipe.yaml")
    return load_recipe(folder / "recipe.yaml")


def learner_of(loaded: LoadedRecipe) -> tuple[PreparedImages, ImageLearner]:
    prepared = prepare_images(loaded, progress=SILENT)
    return prepared, build_image_learner(loaded, prepared, progress=SILENT)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Embeddings of three numbers by the length of a text, and what was embedded, call by call."""
    calls: list[list[str]] = []

    def embed(texts: Sequence[str], *, encoder_name: str, base: Path) -> np.ndarray:
        calls.append(list(texts))
        return np.array([[len(text), ord(text[0]), 1] for text in texts], dtype=np.float32)

    monkeypatch.setattr("finetune.image_learner.embed_texts", embed)
    return calls


def test_every_template_makes_a_caption_of_every_label_and_is_embedded_once(
    tmp_path: Path, embedded: list[list[str]]
) -> None:
    words = dict(zip(map(str, range(10)), DIGITS, strict=True))
    captions = {"condition": "caption", "captions": ["a {label}", "the digit {label}"], "label_words": words}
    loaded = recipe(tmp_path, image=captions)
    prepared = prepare_images(loaded, progress=SILENT)
    asking = asking_of(loaded, prepared)
    assert asking is not None and asking.texts is not None
    labels = prepared.splits["train"].labels
    assert labels is not None
    assert embedded == [[f"{way} {word}" for word in DIGITS for way in ("a", "the digit")]]
    numbers = np.arange(5)
    first = [f"a {DIGITS[labels[number]]}" for number in numbers]
    assert asking.of(numbers)[:, 0].tolist() == [len(text) for text in first]
    many = np.zeros(400, dtype=np.int64)
    drawn = asking.of(many, generator=torch.Generator().manual_seed(0))
    names = {f"a {DIGITS[labels[0]]}", f"the digit {DIGITS[labels[0]]}"}
    assert {int(row[0]) for row in drawn} == {len(name) for name in names}
    assert 120 < int((drawn[:, 0] == len(min(names, key=len))).sum()) < 280  # both ways, about as often
    assert torch.equal(drawn, asking.of(many, generator=torch.Generator().manual_seed(0)))


def test_captions_of_the_data_are_embedded_once_each(tmp_path: Path, embedded: list[list[str]]) -> None:
    loaded = recipe(tmp_path, image={"condition": "caption", "captions": ["a {label}"]})
    prepared = prepare_images(loaded, progress=SILENT)
    table = prepared.splits["train"]
    own = [("a crane", "two doves")[number % 2] for number in range(len(table))]
    prepared.splits["train"] = type(table)(table.pixels, table.labels, own, table.ids, table.groups)
    asking = asking_of(loaded, prepared)
    assert asking is not None and embedded == [["a crane", "two doves"]]
    assert asking.of(np.arange(3))[:, 0].tolist() == [7.0, 9.0, 7.0]


def test_labels_are_asked_for_by_number_and_nothing_by_nothing(tmp_path: Path) -> None:
    loaded = recipe(tmp_path, image={"condition": "label"})
    prepared = prepare_images(loaded, progress=SILENT)
    asking = asking_of(loaded, prepared)
    assert asking is not None
    labels = prepared.splits["train"].labels
    assert labels is not None
    assert asking.of(np.arange(9)).tolist() == labels[:9].tolist()
    assert asking_of(recipe(tmp_path), prepared) is None


def test_the_grid_shows_every_label_and_real_images_of_the_same(tmp_path: Path) -> None:
    prepared, learner = learner_of(recipe(tmp_path, image={"condition": "label"}))
    predictor = ImagePredictor(learner.model, learner.settings, base=tmp_path, use_cpu=True)
    shown = Shown.of(predictor, learner.scorer, count=30, seed=1)
    assert shown.classes is not None and shown.classes.tolist() == list(range(10)) * 3
    train = prepared.splits["train"]
    assert train.labels is not None
    for image, number in zip(shown.real, shown.classes, strict=True):
        assert any(np.array_equal(image, real) for real in train.pixels[train.labels == number])
    # Ten labels in nineteen images: not two of each, so nothing is said of the spread within a label.
    assert Shown.of(predictor, learner.scorer, count=19, seed=1).classes is None


def test_sizes_that_only_a_drawing_has_are_refused(tmp_path: Path) -> None:
    loaded = recipe(tmp_path, model={"gan": None, "style": {"width": 4}}, image={"size": 512})
    with pytest.raises(RecipeError, match="512 pixels; training takes up to 256"):
        build_image_learner(loaded, None, progress=SILENT)  # type: ignore[arg-type]


def test_fewer_images_than_a_step_are_a_warning() -> None:
    assert few_images(64, 64) == []
    assert few_images(10, 64) == ["warning: 10 training images are fewer than a step of 64: they repeat within it"]


def test_an_encoder_beside_the_recipe_is_found_from_the_run_and_is_the_same_setting(
    tmp_path: Path, embedded: list[list[str]]
) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "runs").mkdir()
    loaded = recipe(tmp_path, image={"condition": "caption", "captions": ["a {label}"], "text_encoder": "encoder"})
    moved = relocate(loaded, folder=tmp_path / "runs")
    assert moved.image.text_encoder == "../encoder"  # type: ignore[attr-defined]
    assert settings_identity(moved) == settings_identity(loaded.recipe)
    other = recipe(tmp_path, image={"condition": "caption", "captions": ["a {label}"], "text_encoder": "runs"})
    assert settings_identity(other.recipe) != settings_identity(loaded.recipe)
    _, learner = learner_of(loaded)
    learner.save(learner.model, tmp_path / "model")
    told = json.loads((tmp_path / "model" / "finetune.json").read_text(encoding="utf-8"))
    assert told["image"]["text_encoder"] == str(tmp_path / "encoder")
    assert told["rules"]["loss"] == "non_saturating"
