"""One image, whatever its file holds -> a square of whole numbers 0 to 255, and what had to be changed for it.

Every image is decoded before anything is trained, so that a broken file is found at the beginning and not in the
middle of an epoch.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from finetune.errors import listed

# Nothing else is tried: some of Pillow's other formats start programs or read further files.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP",
           ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM"}  # fmt: skip
SMALLEST_SIDE = 4
MOST_PIXELS = 50_000_000
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
LARGEST_SIXTEEN_BIT = 65_535
# Keeps edges and averages what it shrinks, as the measurement of generated images wants it (Parmar et al. 2022).
FILTER = Image.Resampling.BICUBIC
EXIF_ORIENTATION = 0x0112

Resize = Literal["crop", "pad", "stretch"]
Pixels = NDArray[np.uint8]

RESIZING = {
    "crop": "the largest square in the middle is cut out",
    "pad": "black borders make it square",
    "stretch": "it is stretched to a square",
}


class Unreadable(Exception):
    """One image cannot be used; `what` and `do` say it in the house's words."""

    def __init__(self, what: str, do: str = "") -> None:
        super().__init__(what)
        self.what, self.do = what, do


@dataclass
class Changes:
    """What was done to images to make them alike, counted, and the smallest and largest that came, (width, height)."""

    counts: Counter[str] = field(default_factory=Counter)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None

    def notes(self) -> list[str]:
        return [f"{count:,} image{'s' if count > 1 else ''} {what}" for what, count in sorted(self.counts.items())]

    def saw(self, size: tuple[int, int]) -> None:
        area = size[0] * size[1]
        if self.smallest is None or area < self.smallest[0] * self.smallest[1]:
            self.smallest = size
        if self.largest is None or area > self.largest[0] * self.largest[1]:
            self.largest = size


@dataclass(frozen=True)
class Shape:
    """What images become: a square of `size` pixels with 1 channel (grey) or 3 (red, green, blue)."""

    size: int
    channels: int
    resize: Resize = "crop"
    most_pixels: int = MOST_PIXELS

    def in_words(self) -> str:
        """For the report: the colour, the size, the filter."""
        colour = "grey (ITU-R 601 luma)" if self.channels == 1 else "red, green and blue"
        return (
            f"{self.size}x{self.size} pixels, {colour}. Of an image that is not square {RESIZING[self.resize]}; any "
            "other size is resampled by Pillow's antialiased bicubic filter, the right one is left as it is"
        )


def decoded(content: bytes | Pixels, *, shape: Shape, changes: Changes) -> Pixels:
    """The image as uint8 of shape (channels, size, size). Raises Unreadable; what was changed is counted.

    `content` is the bytes of a file, or pixels of shape (height, width) or (height, width, 3).
    """
    if isinstance(content, np.ndarray):
        _check_size((content.shape[1], content.shape[0]), shape.most_pixels)
        if content.shape == (shape.size, shape.size) and shape.channels == 1:
            changes.saw((shape.size, shape.size))
            return content[None]
        image = Image.fromarray(content)
    else:
        image = _opened(content, most_pixels=shape.most_pixels, changes=changes)
    changes.saw(image.size)
    image = _with_channels(image, shape.channels, changes)
    if image.size != (shape.size, shape.size):
        image = _resized(image, shape, changes)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if shape.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _opened(content: bytes, *, most_pixels: int, changes: Changes) -> Image.Image:
    if not content:
        raise Unreadable("the file is empty", "Fetch it again, or remove it.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused or repaired here
            image: Image.Image = Image.open(io.BytesIO(content), formats=sorted(set(FORMATS.values())))
            _check_size(image.size, most_pixels)
            if getattr(image, "n_frames", 1) > 1:
                changes.counts["with several frames or pages: the first is taken"] += 1
            image.load()
            if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
                changes.counts["turned upright as their EXIF says"] += 1
                image = ImageOps.exif_transpose(image)
            return image
    except UnidentifiedImageError:
        what = "is no image that can be read" + _looks_like(content)
        raise Unreadable(what, f"Accepted: {listed(sorted(set(FORMATS.values())))}.") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"has more than {most_pixels:,} pixels", "Make it smaller.") from None
    except Unreadable:
        raise
    except Exception as error:  # decoders of damaged files raise whatever comes to them
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise Unreadable(f"is damaged or incomplete ({reason})", "Fetch it again, or remove it.") from None


def _looks_like(content: bytes) -> str:
    head = content[:64]
    return " (it holds text)" if head.isascii() and head.decode("ascii").isprintable() else ""


def _check_size(size: tuple[int, int], most_pixels: int) -> None:
    width, height = size
    if min(size) < SMALLEST_SIDE:
        what = f"is {width}x{height} pixels, and an image has at least {SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise Unreadable(what, "Remove it.")
    if width * height > most_pixels:
        what = f"is {width:,}x{height:,}, more than {most_pixels:,} pixels"
        raise Unreadable(what, "Make it smaller, or raise data.most_pixels.")


def _with_channels(image: Image.Image, channels: int, changes: Changes) -> Image.Image:
    """The image in mode L or RGB; any other mode is counted under its name."""
    wanted = "L" if channels == 1 else "RGB"
    if image.mode == wanted and "transparency" not in image.info:
        return image
    to = "grey" if channels == 1 else "colour"
    if image.mode in SIXTEEN_BIT:
        changes.counts[f"of 16 bits a pixel read as 8-bit {to}"] += 1
        return _eight_bit(image).convert(wanted)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        changes.counts[f"with transparency ({image.mode}) put on white and read as {to}"] += 1
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque).convert("RGB").convert(wanted)
    if image.mode == "F":
        raise Unreadable("has fractional pixel values, whose range is not known", "Save it as an 8-bit PNG.")
    changes.counts[f"of mode {image.mode} read as {to}"] += 1
    # A palette has no luma of its own: its colours are looked up first.
    return (image.convert("RGB") if image.mode in ("P", "CMYK") else image).convert(wanted)


def _eight_bit(image: Image.Image) -> Image.Image:
    """0 to 65,535 as 0 to 255, rounded; Pillow's own conversion would clip instead of scaling."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > LARGEST_SIXTEEN_BIT:
        raise Unreadable(f"has pixel values from {values.min():,} to {values.max():,}", "Save it as an 8-bit PNG.")
    return Image.fromarray(((values * 255 + LARGEST_SIXTEEN_BIT // 2) // LARGEST_SIXTEEN_BIT).astype(np.uint8))


def _resized(image: Image.Image, shape: Shape, changes: Changes) -> Image.Image:
    side = (shape.size, shape.size)
    width, height = image.size
    if min(width, height) < shape.size:
        changes.counts["smaller than asked, enlarged"] += 1
    else:
        changes.counts["larger than asked, shrunk"] += 1
    if width == height or shape.resize == "stretch":
        return image.resize(side, FILTER)
    if shape.resize == "pad":
        return ImageOps.pad(image, side, method=FILTER, color="black")
    square = min(width, height)
    left, top = (width - square) / 2, (height - square) / 2
    return image.resize(side, FILTER, box=(left, top, left + square, top + square))
