"""The judge of images and what distances are measured in."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from finetune.errors import EnvironmentFault, RecipeError
from finetune.image import features
from finetune.image.features import inception_features, judge_features, pixel_features
from finetune.image.judges import Judge, train_judge

DIGITS = load_digits()
PIXELS = np.round(DIGITS.images / 16 * 255).astype(np.uint8)[:, None]
LABELS = DIGITS.target.astype(np.int64)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return train_judge(PIXELS[:1200], LABELS[:1200], classes=10, seed=1, steps=150)


def test_a_judge_of_digits_is_right_on_digits_it_has_not_seen(judge: Judge) -> None:
    assert judge.is_right(PIXELS[1200:], LABELS[1200:]).mean() > 0.93
    assert judge.trained_on == 1200


def test_the_same_images_and_seed_make_the_same_judge_and_leave_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    one, other, third = (train_judge(PIXELS[:200], LABELS[:200], classes=10, seed=seed, steps=20) for seed in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(one.features(PIXELS[:50]), other.features(PIXELS[:50]))
    assert not np.array_equal(one.features(PIXELS[:50]), third.features(PIXELS[:50]))


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (33, 3), (200, 3)])
def test_a_judge_reads_every_size(size: int, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, channels, size, size), dtype=np.uint8)
    judge = train_judge(pixels, np.arange(6) % 2, classes=2, seed=0, steps=2)
    assert judge.features(pixels).shape == (6, 64)


def test_a_judge_needs_a_label_for_each_image() -> None:
    with pytest.raises(ValueError, match="found 3 and 2"):
        train_judge(PIXELS[:3], LABELS[:2], classes=10, seed=0)


def test_features_of_a_judge_have_mean_square_one_and_say_what_they_are(judge: Judge) -> None:
    made = judge_features(judge, PIXELS[:1200])
    assert np.square(made(PIXELS[:1200])).mean() == pytest.approx(1, rel=1e-4)
    assert "1,200 real images" in made.description
    assert made(PIXELS[:3]).shape == (3, made.size)


def test_pixel_features_are_the_pixels_and_say_when_they_were_averaged() -> None:
    made = pixel_features(channels=1, side=8)
    assert made(PIXELS[:2])[1] == pytest.approx(PIXELS[1].reshape(-1) / 255)
    large = pixel_features(channels=3, side=64)
    assert (large.size, large.description) == (3 * 32 * 32, "3,072 pixels, averaged down from 64x64")


# ---- Inception: the network and its weights are far away; what is refused is here


class Extractor(torch.nn.Module):
    """Stands in for torch-fidelity's: what it is given comes back as its first 2,048 numbers."""

    def __init__(self, name: str, layers: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        assert layers == ["2048"] and Path(feature_extractor_weights_path).is_file()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        assert pixels.dtype == torch.uint8 and pixels.shape[1] == 3
        return (pixels.flatten(1).repeat(1, 40)[:, :2048],)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = types.ModuleType("torch_fidelity")
    package.__version__ = "9.9"
    module: Any = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)


def test_inception_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(EnvironmentFault, match=r"torch-fidelity.*finetune\[fid\].*kernel_distance"):
        inception_features(None, base=Path(), where="evaluation.inception")


@pytest.mark.usefixtures("library")
def test_other_weights_than_those_of_2015_12_05_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"other weights")
    with pytest.raises(RecipeError, match=r"recipe.yaml:3: .*mine.pth has sha256 .*6726825d"):
        inception_features("mine.pth", base=tmp_path, where="recipe.yaml:3")
    with pytest.raises(RecipeError, match="no file"):
        inception_features("none.pth", base=tmp_path, where="recipe.yaml:3")


@pytest.mark.usefixtures("library")
def test_inception_is_shown_three_channels_and_named_with_weights_and_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pth").write_bytes(b"x")
    monkeypatch.setattr(features, "INCEPTION_SHA256", "2d711642")  # of the byte x
    made = inception_features("weights.pth", base=tmp_path, where="", use_cpu=True)
    found = made(PIXELS[:40])
    assert found.shape == (40, 2048)
    assert np.array_equal(found[7, :128], np.concatenate([PIXELS[7].reshape(-1)] * 2))
    assert all(word in made.description for word in ("Inception 2015-12-05", "torch-fidelity 9.9", "299x299"))


@pytest.mark.usefixtures("library")
def test_weights_that_cannot_be_downloaded_are_said_to_be_fetched_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(EnvironmentFault, match=r"Fetch https://.*6726825d.pth and name the file"):
        inception_features(None, base=tmp_path, where="evaluation.inception")
