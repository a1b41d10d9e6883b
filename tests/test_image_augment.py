"""Augmentation of images: it leaves alone what it is not asked to change, and is differentiable twice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from finetune.image.augment import Augment, _look_up
from finetune.recipe_image import ImageAugmentation

ALL: dict[str, Any] = {"flip": True, "translate": 0.2, "rotate": 25, "scale": 0.2, "cutout": 0.3, "colour": 0.4}


def images(count: int = 4, channels: int = 3, size: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def changed(pixels: torch.Tensor, seed: int = 0, **settings: Any) -> torch.Tensor:
    return Augment(ImageAugmentation(**settings))(pixels, torch.Generator().manual_seed(seed))


def test_nothing_asked_changes_nothing() -> None:
    pixels = images()
    assert changed(pixels) is pixels


@pytest.mark.parametrize("name", list(ALL))
def test_each_setting_changes_images_and_keeps_their_shape(name: str) -> None:
    pixels = images(16)
    result = changed(pixels, **{name: ALL[name]})
    assert result.shape == pixels.shape
    assert result.dtype == pixels.dtype
    assert not torch.equal(result, pixels)


def test_the_same_numbers_make_the_same_images() -> None:
    assert torch.equal(changed(images(), seed=3, **ALL), changed(images(), seed=3, **ALL))
    assert not torch.equal(changed(images(), seed=3, **ALL), changed(images(), seed=4, **ALL))


def test_a_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    pixels = images(200, channels=1)
    result = changed(pixels, flip=True)
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(pixels, result, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(pixels, result, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


@given(st.integers(8, 13), st.integers(1, 4), st.integers(0, 1000))
def test_a_shift_is_exact_and_brings_in_black(size: int, most: int, seed: int) -> None:
    pixels = images(6, channels=1, size=size, seed=seed) + 0.1
    result = changed(pixels, seed=seed, translate=min(most / size, 0.5))
    for before, after in zip(pixels[:, 0], result[:, 0], strict=True):
        shifts = [
            (down, right)
            for down in range(-most, most + 1)
            for right in range(-most, most + 1)
            if torch.equal(after, shifted(before, down, right))
        ]
        assert len(shifts) == 1


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    size = len(image)
    canvas = torch.zeros(3 * size, 3 * size, dtype=image.dtype)
    canvas[size + down : 2 * size + down, size + right : 2 * size + right] = image
    return canvas[size : 2 * size, size : 2 * size]


def test_places_between_pixels_are_looked_up_as_scipy_does() -> None:
    pixels, random = images(2, channels=1, size=8), np.random.default_rng(0)
    places = random.uniform(0, 7, size=(2, 2, 8, 8))
    ours = _look_up(pixels, torch.tensor(places[0]), torch.tensor(places[1]), whole=False)
    for number in range(2):
        theirs = ndimage.map_coordinates(pixels[number, 0].numpy(), places[:, number], order=1)
        np.testing.assert_allclose(ours[number, 0].numpy(), theirs, atol=1e-12)


def test_a_turn_keeps_the_middle_and_a_round_image() -> None:
    axis = torch.arange(33, dtype=torch.float64) - 16
    bump = torch.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 50).expand(8, 1, -1, -1)
    result = changed(bump, rotate=180)
    assert (result - bump).abs().max() < 0.01
    scaled = changed(bump, scale=0.3)
    assert torch.allclose(scaled[:, 0, 16, 16], bump[:, 0, 16, 16])
    # Enlarged or shrunk by s, the sum of the pixels is s² times as large.
    factors = (scaled.sum(dim=(1, 2, 3)) / bump.sum(dim=(1, 2, 3))).sqrt()
    assert factors.min() > 1 / 1.31
    assert factors.max() < 1.31
    assert factors.max() - factors.min() > 0.1


def test_a_turn_moves_a_point_along_its_circle() -> None:
    point = torch.zeros(12, 1, 31, 31, dtype=torch.float64)
    point[:, 0, 15, 25] = 1
    result = changed(point, rotate=90)[:, 0]
    place = torch.arange(31, dtype=torch.float64) - 15
    total = result.sum(dim=(1, 2))
    rows, columns = (result.sum(dim=2) @ place) / total, (result.sum(dim=1) @ place) / total
    assert torch.allclose((rows**2 + columns**2).sqrt(), torch.tensor(10.0, dtype=torch.float64), atol=0.3)
    angles = torch.atan2(rows, columns)
    assert angles.abs().max() <= math.pi / 2 + 0.05
    assert angles.max() - angles.min() > 1


def test_cutout_blanks_one_square_of_the_right_size() -> None:
    result = changed(torch.ones(300, 1, 10, 10), cutout=0.4)
    blank = (result == 0).sum(dim=(1, 2, 3))
    assert blank.max() == 16
    # A square whose middle is near the border is cut by it, to a quarter in a corner.
    assert blank.min() >= 4


def test_colour_of_a_grey_image_is_a_straight_line_of_its_pixels() -> None:
    pixels = images(5, channels=1)
    result = changed(pixels, colour=0.5)
    for before, after in zip(pixels.flatten(1), result.flatten(1), strict=True):
        slope, offset = np.polyfit(before.numpy(), after.numpy(), 1)
        np.testing.assert_allclose(after.numpy(), slope * before.numpy() + offset, atol=1e-10)
        assert 0.5 <= slope <= 1.5


def test_first_and_second_derivatives_exist_and_are_right() -> None:
    pixels = images(2, channels=3, size=5).requires_grad_()

    def squared(pixels: torch.Tensor) -> torch.Tensor:
        return changed(pixels, **ALL).square()

    assert torch.autograd.gradcheck(squared, (pixels,))
    (gradient,) = torch.autograd.grad(squared(pixels).sum(), pixels, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), pixels)
    assert torch.isfinite(second).all()
    assert second.abs().sum() > 0
    assert torch.autograd.gradgradcheck(squared, (pixels[:1].detach().requires_grad_(),))
