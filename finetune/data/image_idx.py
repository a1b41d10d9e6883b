"""idx files, as MNIST and its kin come: a file of images, and beside it a file of labels found by its name.

The format: two zero bytes, a type (8 is an unsigned byte), the number of dimensions, each dimension as a big-endian
32-bit integer, then the values row by row (LeCun, Cortes, Burges: the MNIST database).
"""

from __future__ import annotations

import gzip
import hashlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np

from finetune.data.image_entries import Entry, ImageSource
from finetune.data.image_pixels import Pixels
from finetune.errors import DataError

IDX_NAME = re.compile(r"(?P<start>.*?)(?P<kind>images|labels)(?P<middle>.*?)idx(?P<dimensions>\d)(?P<end>.*)", re.I)
UNSIGNED_BYTE = 8
MOST_VALUES = 64 << 30
COLOURS = 3
MARKS_OF_SPLITS = {"train": "train", "t10k": "test", "test": "test", "val": "validation"}


def is_idx(path: Path) -> bool:
    """Whether a file is named like images of the format: `train-images-idx3-ubyte`, also with .gz."""
    found = IDX_NAME.fullmatch(path.name)
    return bool(found) and cast(re.Match[str], found)["kind"].lower() == "images"


def idx_split(path: Path) -> str | None:
    """The split that such a name tells: train, t10k (test), test, val."""
    start = path.name.lower()
    return next((split for mark, split in MARKS_OF_SPLITS.items() if start.startswith(mark)), None)


def idx_source(path: Path, *, labelled: bool, most_pixels: int) -> ImageSource:
    """The images of one file with the labels beside it. Raises DataError where either is damaged or they differ."""
    count, shape = _header(path)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != COLOURS):
        what = f"holds arrays of shape {' x '.join(map(str, (count, *shape)))}, not grey or colour images"
        raise DataError(path.name, what, "Name the file of images.")
    if not count:
        raise DataError(path.name, "the file has no image")
    if shape[0] * shape[1] > most_pixels:
        what = f"images of {shape[1]:,}x{shape[0]:,} have more than {most_pixels:,} pixels"
        raise DataError(path.name, what, "Raise data.most_pixels.")
    beside = _labels_beside(path) if labelled else None
    labels = _labels(beside, count=count, images=path.name) if beside else None
    notes = () if labels or not labelled else (f"{path.name}: no file of labels beside it, so its images have none",)
    entries = [Entry(str(row + 1), label=labels[row] if labels else None) for row in range(count)]
    digest, size = _digest(path, beside)

    def contents(numbers: Sequence[int]) -> Iterator[bytes | Pixels | DataError]:
        yield from _images(path, numbers, count=count, shape=shape)

    return ImageSource(path.name, digest, size, entries, contents, separator=":", notes=notes)


def _header(path: Path) -> tuple[int, tuple[int, ...]]:
    """Images (or labels) in the file, and the shape of one."""
    with _open(path) as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0":
            raise DataError(path.name, "is no idx file: it does not begin with two zero bytes", "Fetch it again.")
        if head[2] != UNSIGNED_BYTE:
            raise DataError(path.name, f"holds values of type 0x{head[2]:02x}, not unsigned bytes", "Convert it.")
        sizes = stream.read(4 * head[3])
        if not head[3] or len(sizes) < 4 * head[3]:
            raise _cut_off(path)
    count, *shape = struct.unpack(f">{head[3]}I", sizes)
    values = int(np.prod([count, *shape], dtype=object))
    if values > MOST_VALUES or 0 in shape:
        raise DataError(path.name, f"announces {values:,} values, which no file of images has", "Fetch it again.")
    return count, tuple(shape)


def _images(
    path: Path, numbers: Sequence[int], *, count: int, shape: tuple[int, ...]
) -> Iterator[bytes | Pixels | DataError]:
    """The images of these ascending numbers; the file is read to its end, which must be where its header says."""
    size, wanted = int(np.prod(shape)), iter(numbers)
    number = next(wanted, None)
    with _open(path) as stream:
        stream.read(4 + 4 * (len(shape) + 1))
        for row in range(count):
            content = stream.read(size)
            if len(content) < size:
                raise _cut_off(path, f"image {row + 1:,} of {count:,} is not whole")
            if row == number:
                yield np.frombuffer(content, dtype=np.uint8).reshape(shape)
                number = next(wanted, None)
        if stream.read(1):
            raise DataError(path.name, f"goes on after its {count:,} images", "Fetch it again.")


def _labels_beside(path: Path) -> Path | None:
    """`train-images-idx3-ubyte.gz` -> `train-labels-idx1-ubyte.gz`, zipped or not, as far as it is there."""
    found = cast(re.Match[str], IDX_NAME.fullmatch(path.name))
    word = "Labels" if found["kind"].istitle() else found["kind"].lower().replace("images", "labels")
    name = f"{found['start']}{word}{found['middle']}idx1{found['end']}"
    plain = name.removesuffix(".gz")
    return next((path.with_name(each) for each in (name, plain, f"{plain}.gz") if path.with_name(each).is_file()), None)


def _labels(path: Path, *, count: int, images: str) -> list[str]:
    found, shape = _header(path)
    if shape:
        raise DataError(path.name, "is beside a file of images and holds no labels", "Move or rename it.")
    if found != count:
        raise DataError(path.name, f"has {found:,} labels, and {images} has {count:,} images", "Fetch both again.")
    with _open(path) as stream:
        values = stream.read(8 + count + 1)[8:]
    if len(values) != count:
        raise _cut_off(path) if len(values) < count else DataError(path.name, f"goes on after its {count:,} labels")
    return [str(value) for value in values]


def _digest(*paths: Path | None) -> tuple[str, int]:
    """sha256 of the files one after the other, and their bytes."""
    digest, size = hashlib.sha256(), 0
    for path in paths:
        if path is not None:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
                    size += len(chunk)
    return digest.hexdigest(), size


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb") as stream:
            yield stream
    except PermissionError:
        raise DataError(path.name, "cannot be read: permission denied") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _cut_off(path, str(error)) from None


def _cut_off(path: Path, why: str = "it ends too soon") -> DataError:
    return DataError(path.name, f"is damaged or incomplete ({why})", "Fetch it again.")
