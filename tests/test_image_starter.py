"""`finetune init` on images: what it finds, what it writes, and that the recipe it writes fits its data."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.cli import main
from finetune.image_starter import ImageChoices, holds_images, write_image_recipe
from finetune.recipe import image_recipe
from finetune.recipe_file import load_recipe


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paint(folder: str, *, classes: tuple[str, ...] = ("oak", "no"), side: int = 20, coloured: bool = True) -> Path:
    """Six images of noise a class, saved as RGB whether they are coloured or not."""
    random = np.random.default_rng(0)
    for name in classes:
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        for number in range(6):
            grey = random.integers(0, 256, (side, side + 3, 1), dtype=np.uint8).repeat(3, axis=2)
            grey[..., 0] //= 1 + coloured
            Image.fromarray(grey).save(Path(folder, name, f"{number}.png"))
    return Path(folder)


def init(*words: str) -> int:
    return main(["init", *words, "--quiet"])


def test_the_recipe_fits_its_data(capsys: pytest.CaptureFixture[str]) -> None:
    folder = paint("trees")
    (folder / "notes.txt").write_text("beside the images", encoding="utf-8")
    assert main(["init", "trees", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recipe"] == "trees.yaml" and (told["images"], told["labels"]) == (12, ["no", "oak"])
    recipe = image_recipe(load_recipe("trees.yaml").recipe)
    assert recipe.data.source == "trees" and recipe.model.vae is not None
    assert (recipe.image.size, recipe.image.channels, recipe.image.condition) == (16, "colour", "label")
    assert main(["check", "trees.yaml", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "images: 8 train, 2 validation, 2 test; 16 x 16 pixels, colour",
        "draws: a vae, asked by label",
        "labels: no, oak",
    ]


def test_grey_pictures_saved_in_colour_are_grey_and_folders_of_one_class_ask_for_nothing() -> None:
    paint("one", classes=("",), side=300, coloured=False)
    assert init("one") == 0
    recipe = image_recipe(load_recipe("one.yaml").recipe)
    assert (recipe.image.size, recipe.image.channels, recipe.image.condition) == (64, "grey", "none")


def test_archives_and_the_digits_are_images_too() -> None:
    with zipfile.ZipFile("trees.zip", "w") as archive:
        for path in paint("trees").rglob("*.png"):
            archive.write(path)
    assert init("trees.zip") == init("builtin:digits") == 0
    assert image_recipe(load_recipe("trees.yaml").recipe).data.source == "trees.zip"
    digits = image_recipe(load_recipe("digits.yaml").recipe)
    assert (digits.data.source, digits.image.size, digits.image.channels) == ("builtin:digits", 8, "grey")


def test_texts_and_tables_with_a_picture_among_them_are_no_images() -> None:
    Path("texts/good").mkdir(parents=True)
    for number in range(3):
        Path(f"texts/good/{number}.txt").write_text("fine", encoding="utf-8")
    paint("texts", classes=("",))
    for number in range(5):
        Path(f"texts/{number}.png").unlink()
    assert not holds_images(Path("texts"))
    paint("tables", classes=("",))
    Path("tables/rows.csv").write_text("text,label\na,b\n", encoding="utf-8")
    assert not holds_images(Path("tables")) and not holds_images(Path("nowhere"))
    Path("tables/rows.csv").rename("tables/metadata.csv")
    assert holds_images(Path("tables"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trees", "--task", "seq2seq"], "--task: trees holds images, and seq2seq is about texts"),
        (["trees", "--label", "kind"], "--label: names a column, and trees holds images"),
        (["lines.csv", "--task", "image-generation"], "--task: lines.csv holds no images"),
        (["nowhere", "--task", "image-generation"], "nowhere: no such file or folder"),
        (["broken"], "broken: none of the images looked at can be read"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    paint("trees")
    Path("lines.csv").write_text("text,label\na,b\n", encoding="utf-8")
    Path("broken").mkdir()
    Path("broken/1.png").write_text("no image", encoding="utf-8")
    assert init(*words) == 2
    assert said in capsys.readouterr().err
    assert not list(Path().glob("*.yaml"))


def test_a_folder_of_images_is_trained_by_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    paint("trees")
    assert main(["train", "trees"]) == 2
    assert "trees: is a folder of images, which needs a recipe. Write its recipe first: finetune init trees" in (
        capsys.readouterr().err
    )


def test_names_that_yaml_would_read_otherwise_stay_names(tmp_path: Path) -> None:
    strange = ImageChoices(5, ["no", "a: b\n#"], (4, 9), (300, 200), 8, "grey")
    (tmp_path / "r.yaml").write_text(
        write_image_recipe(tmp_path / "x\ny: 'z", tmp_path / "r.yaml", strange), encoding="utf-8"
    )
    recipe = image_recipe(load_recipe(tmp_path / "r.yaml").recipe)
    assert recipe.data.source == "x\ny: 'z" and recipe.training.passes_per_epoch == 20
