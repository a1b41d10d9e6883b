"""Images as PNG files: one by one, and as a grid of many."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.runs import disk_faults, sync_file, sync_folder

GAP_PIXELS = 2  # between the images of a grid, before it is enlarged
GROUND = 128  # grey between them: neither the black ground of digits nor the white one of drawings
LEAST_SHOWN_PIXELS = 64  # smaller images are enlarged by whole numbers, so that every pixel stays a square
MOST_PIXELS_ACROSS = 2048  # of a grid, beyond which nothing is enlarged

Pixels = NDArray[np.uint8]


def grid(pixels: Pixels, *, columns: int | None = None, scale: int | None = None) -> bytes:
    """Images of shape (N, 1 or 3, S, S) side by side, row by row, as the bytes of a PNG.

    `columns` None makes the grid about square; `scale` None enlarges small images by a whole number.
    Raises ValueError for no image, or another shape.
    """
    _check(pixels)
    count, _, height, width = pixels.shape
    across = min(columns or math.ceil(math.sqrt(count)), count)
    down = math.ceil(count / across)
    shape = (down * (height + GAP_PIXELS) - GAP_PIXELS, across * (width + GAP_PIXELS) - GAP_PIXELS)
    sheet = np.full((*shape, pixels.shape[1]), GROUND, dtype=np.uint8)
    for place, image in enumerate(pixels):
        top, left = (place // across) * (height + GAP_PIXELS), (place % across) * (width + GAP_PIXELS)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return _png(sheet, scale or shown_scale(width, across=shape[1]))


def save_grid(path: Path, pixels: Pixels, *, columns: int | None = None, scale: int | None = None) -> None:
    """The grid as a file, written atomically."""
    write_bytes(path, grid(pixels, columns=columns, scale=scale))


def png(pixels: Pixels, *, scale: int = 1) -> bytes:
    """One image of shape (1 or 3, H, W) as the bytes of a PNG; as it is, so that it can be read back."""
    _check(pixels[None])
    return _png(pixels.transpose(1, 2, 0), scale)


def reduced(content: bytes, *, most_pixels: int) -> bytes:
    """The same PNG, averaged down to `most_pixels` across where it is wider."""
    image = Image.open(io.BytesIO(content))
    if image.width <= most_pixels:
        return content
    height = max(1, round(image.height * most_pixels / image.width))
    kept = io.BytesIO()
    image.resize((most_pixels, height), Image.Resampling.LANCZOS).save(kept, format="PNG")
    return kept.getvalue()


def shown_scale(size: int, *, across: int) -> int:
    """The whole number that brings images of `size` pixels to a size one can see, in a grid `across` pixels wide."""
    return max(1, min(LEAST_SHOWN_PIXELS // size, MOST_PIXELS_ACROSS // across))


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically, as every other file of a run."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)


def _check(pixels: Pixels) -> None:
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.dtype != np.uint8 or not pixels.size:
        raise ValueError(f"needs uint8 images (N, 1 or 3, S, S), found {pixels.dtype} of shape {pixels.shape}")


def _png(sheet: Pixels, scale: int) -> bytes:
    """(H, W, C) as a PNG, every pixel as a square of `scale` pixels; the same bytes for the same pixels."""
    enlarged = np.ascontiguousarray(sheet.repeat(scale, axis=0).repeat(scale, axis=1))
    image = Image.fromarray(enlarged[:, :, 0] if enlarged.shape[2] == 1 else enlarged)
    kept = io.BytesIO()
    image.save(kept, format="PNG", optimize=False)
    return kept.getvalue()
