"""Changes of images in plain tensor operations: of training images, and inside the adversarial game of both kinds.

As part of the game (Zhao et al. 2020, Karras et al. 2020) gradients flow through the changes, and R1 differentiates
twice. `grid_sample` has no second derivative; here an image is moved by gathering pixels with bilinear weights, which
is linear in the pixels, and so every derivative exists.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from finetune.recipe_image import ImageAugmentation


class Augment:
    """Augment(settings)(pixels, generator) -> pixels of the same shape (N, C, S, S), each image changed in its own way.

    All numbers come from `generator`, of the CPU. Geometry is one movement: mirror, turn and scale about the middle,
    then shift by whole pixels; what comes in from outside is 0. Brightness and contrast may leave 0..1: clamp where
    that matters. With all settings at 0 the pixels come back as they are.
    """

    def __init__(self, settings: ImageAugmentation) -> None:
        self.settings = settings
        self._moves = settings.flip or settings.translate > 0 or settings.rotate > 0 or settings.scale > 0

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        if self._moves:
            pixels = self._move(pixels, generator)
        if self.settings.cutout > 0:
            pixels = self._cut_out(pixels, generator)
        if self.settings.colour > 0:
            pixels = self._recolour(pixels, generator)
        return pixels

    def _move(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Each pixel of the result is looked up where it came from: the inverse of the movement."""
        settings, count, size = self.settings, len(pixels), pixels.shape[-1]
        mirror = 1 - 2.0 * (_uniform(count, generator) < 0.5) if settings.flip else torch.ones(count)
        angle = math.radians(settings.rotate) * _symmetric(count, generator)
        shrink = (1 + settings.scale) ** _symmetric(count, generator)
        most = round(settings.translate * size)
        shift = torch.randint(-most, most + 1, (2, count), generator=generator)
        places = torch.arange(size) - (size - 1) / 2
        row, column = (places - shift[0, :, None])[:, :, None], (places - shift[1, :, None])[:, None, :]
        cosine, sine = ((turn(angle) / shrink)[:, None, None] for turn in (torch.cos, torch.sin))
        rows = cosine * row + sine * column + (size - 1) / 2
        columns = mirror[:, None, None] * (cosine * column - sine * row) + (size - 1) / 2
        whole = settings.rotate == 0 and settings.scale == 0
        return _look_up(pixels, rows.to(pixels.device), columns.to(pixels.device), whole=whole)

    def _cut_out(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """A square of 0, whose middle is anywhere in the image (DeVries and Taylor 2017)."""
        count, size = len(pixels), pixels.shape[-1]
        side = max(1, round(self.settings.cutout * size))
        first = torch.randint(size, (2, count, 1), generator=generator) - side // 2
        places = torch.arange(size)
        row, column = ((places >= start) & (places < start + side) for start in first)
        hole = (row[:, :, None] & column[:, None, :]).unsqueeze(1).to(pixels.device)
        return pixels.masked_fill(hole, 0.0)

    def _recolour(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Brightness added, saturation about the grey of each pixel, contrast about the mean of the image."""
        most, count = self.settings.colour, len(pixels)
        brighter, stronger, fuller = (
            (most * _symmetric(count, generator)).view(-1, 1, 1, 1).to(pixels) for _ in range(3)
        )
        grey = pixels.mean(dim=1, keepdim=True)
        pixels = grey + (1 + fuller) * (pixels - grey)
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        return mean + (1 + stronger) * (pixels - mean) + brighter


def _look_up(pixels: Tensor, rows: Tensor, columns: Tensor, *, whole: bool) -> Tensor:
    """The pixels at places (N, S, S) between pixels, bilinear; 0 outside. Whole places are looked up once."""
    top, left = rows.floor(), columns.floor()
    if whole:
        return _gather(pixels, top, left)
    down, right = (rows - top).unsqueeze(1).to(pixels), (columns - left).unsqueeze(1).to(pixels)
    upper = (1 - right) * _gather(pixels, top, left) + right * _gather(pixels, top, left + 1)
    lower = (1 - right) * _gather(pixels, top + 1, left) + right * _gather(pixels, top + 1, left + 1)
    return (1 - down) * upper + down * lower


def _gather(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """pixels[n, :, rows[n], columns[n]] with 0 outside the image; rows and columns (N, S, S) are whole."""
    count, channels, size, _ = pixels.shape
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    index = (rows * size + columns).masked_fill(~inside, 0).long().view(count, 1, -1).expand(-1, channels, -1)
    found = pixels.flatten(2).gather(2, index).view(pixels.shape)
    return found * inside.unsqueeze(1).to(pixels.dtype)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator)


def _symmetric(count: int, generator: torch.Generator) -> Tensor:
    """Even between -1 and 1."""
    return 2 * _uniform(count, generator) - 1
