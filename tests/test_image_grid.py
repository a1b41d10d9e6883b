"""Images as PNG: what is read back is what was written, and every image of a grid is in its place."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.image_grid import GAP_PIXELS, GROUND, grid, png, save_grid, shown_scale


def _read(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def _pixels(count: int, *, channels: int = 1, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


@given(
    count=st.integers(1, 11),
    channels=st.sampled_from([1, 3]),
    columns=st.one_of(st.none(), st.integers(1, 12)),
    scale=st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_every_image_is_in_its_place(count: int, channels: int, columns: int | None, scale: int) -> None:
    pixels = _pixels(count, channels=channels, size=5)
    sheet = _read(grid(pixels, columns=columns, scale=scale))
    across = (sheet.shape[1] // scale + GAP_PIXELS) // (5 + GAP_PIXELS)
    assert sheet.ndim == (2 if channels == 1 else 3)
    if columns is not None:
        assert across == min(columns, count)
    for place in range(count):
        top, left = (place // across) * (5 + GAP_PIXELS), (place % across) * (5 + GAP_PIXELS)
        cut = sheet[top * scale : (top + 5) * scale : scale, left * scale : (left + 5) * scale : scale]
        assert np.array_equal(cut, pixels[place, 0] if channels == 1 else pixels[place].transpose(1, 2, 0))
    if across > 1:
        assert (sheet[:, 5 * scale : (5 + GAP_PIXELS) * scale] == GROUND).all()


def test_small_images_are_enlarged_by_whole_numbers() -> None:
    sheet = _read(grid(_pixels(4, size=8)))
    assert sheet.shape == (18 * 8, 18 * 8)
    assert np.array_equal(sheet[::8, ::8].repeat(8, axis=0).repeat(8, axis=1), sheet)
    assert shown_scale(28, across=28) == 2
    assert shown_scale(256, across=256) == 1
    assert shown_scale(8, across=1024) == 2, "a wide grid is not blown up"


@pytest.mark.parametrize("channels", [1, 3])
def test_one_image_is_read_back_as_it_was(channels: int) -> None:
    image = _pixels(1, channels=channels, size=9)[0]
    read = _read(png(image))
    assert np.array_equal(read, image[0] if channels == 1 else image.transpose(1, 2, 0))


def test_the_same_pixels_give_the_same_file(tmp_path: Path) -> None:
    save_grid(tmp_path / "inside" / "grid.png", _pixels(3))
    assert (tmp_path / "inside" / "grid.png").read_bytes() == grid(_pixels(3))
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((0, 1, 8, 8), np.uint8),
        np.zeros((2, 2, 8, 8), np.uint8),
        np.zeros((2, 1, 8, 8), np.float32),
        np.zeros((1, 8, 8), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="needs uint8 images"):
        grid(wrong)
